"""The built-in HotPotQA pages and questions: true to their tables, answerable, well split."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from importlib.resources import files

import pytest
from harness_agents.nearest import overlap
from harness_envs.hotpotqa import builtin
from harness_envs.hotpotqa.builtin_bridges import mentions
from harness_envs.hotpotqa.builtin_facts import (
    KINDS,
    REFERENCES,
    entities,
    of_kind,
    referring,
    year,
)
from harness_envs.hotpotqa.builtin_pages import written
from harness_envs.hotpotqa.env import HotPotQAEnv
from harness_envs.hotpotqa.reading import page_text, sentences
from harness_envs.hotpotqa.records import Question

#: sha256 over pages and questions. Another digest means other tasks: set builtin's VERSION one
#: higher before writing it here.
GOLDEN_VERSION = "1"
GOLDEN = {"pages": "fab57c5807f1beff", "questions": "fe1c6f5eaaf2b759"}
#: Columns that must name an entity of this table.
STRICT = {
    ("works", "creator"): "people",
    ("works", "based"): "works",
    ("cities", "country"): "countries",
    ("people", "country"): "countries",
    ("mountains", "country"): "countries",
    ("mountains", "climber"): "people",
    ("lakes", "country"): "countries",
    ("islands", "country"): "countries",
    ("elements", "discoverer"): "people",
    ("buildings", "architect"): "people",
    ("battles", "country"): "countries",
    ("battles", "victor"): "people",
    ("battles", "loser"): "people",
    ("inventions", "inventor"): "people",
    ("moons", "parent"): "moons",
    ("moons", "discoverer"): "people",
}
SPLITS: dict[str, list[Question]] = defaultdict(list)
for _question in builtin.questions():
    SPLITS[_question.split].append(_question)


def digests() -> dict[str, str]:
    found = {}
    for name, records in (("pages", builtin.pages()), ("questions", builtin.questions())):
        text = "\n".join(map(repr, records))
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


# Facts ----------------------------------------------------------------------------------------


def test_there_are_many_entities_of_every_kind_under_titles_of_their_own() -> None:
    rows = 0
    for kind in KINDS:
        text = (files("harness_envs.hotpotqa") / "facts" / f"{kind}.tsv").read_text("utf-8")
        rows += len(text.splitlines()) - 1
        assert len(of_kind(kind)) >= 15
    assert rows == len(entities()) >= 1600
    titles = Counter(title.casefold() for title in entities())
    aliases = Counter(a.casefold() for page in builtin.pages() for a in page.aliases)
    assert max(titles.values()) == max(aliases.values()) == 1
    assert not titles.keys() & aliases.keys()


def test_cells_are_clean() -> None:
    for entity in entities().values():
        for column, cell in entity.row.items():
            assert cell == " ".join(cell.split()), (entity.title, column)
            # A full stop and a space would end a sentence.
            assert column == "aliases" or ". " not in cell + " ", (entity.title, column)


def test_what_is_referred_to_exists() -> None:
    assert STRICT.keys() <= set(REFERENCES)
    for (kind, column), target in STRICT.items():
        for entity in of_kind(kind):
            named = entity.row[column]
            assert not named or entities()[named].kind == target, (entity.title, column)
    for entity in of_kind("works"):
        place = entity.row["place"]
        if entity.row["form"] == "painting" and place:
            assert entities()[place].kind == "institutions", entity.title


def test_years_are_plausible() -> None:
    for person in of_kind("people"):
        born, died = year(person, "born"), year(person, "died")
        assert 1200 < died <= 2025
        if born:
            assert 15 < died - born < 106, person.title
        first = born + 6 if born else 0
        for work in referring("works", "creator", person.title):
            assert not year(work) or first < year(work), work.title
        made = [
            *referring("elements", "discoverer", person.title),
            *referring("moons", "discoverer", person.title),
            *referring("inventions", "inventor", person.title),
            *referring("battles", "victor", person.title),
            *referring("mountains", "climber", person.title),
        ]
        for thing in made:
            if year(thing) and thing.row.get("climber", person.title) == person.title:
                assert first + 8 < year(thing) <= died, (person.title, thing.title)
        if person.row["prize"]:
            won = int(person.row["prize"].rpartition(" ")[2])
            assert max(1901, born + 25) <= won <= died, person.title
    for entity in entities().values():
        for column in ("year", "founded"):
            if entity.row.get(column):
                assert 1000 < year(entity, column) < 2025, entity.title


def test_a_work_comes_after_the_one_it_is_based_on() -> None:
    for work in of_kind("works"):
        if work.row["based"]:
            source = entities()[work.row["based"]]
            assert not (year(source) and year(work)) or year(source) < year(work), work.title


def test_elements_stand_in_the_order_of_their_numbers() -> None:
    numbers = [int(e.row["number"]) for e in of_kind("elements")]
    symbols = [e.row["symbol"] for e in of_kind("elements")]
    assert len(set(numbers)) == len(numbers)
    assert len(set(symbols)) == len(symbols)
    assert numbers[:20] == list(range(1, 21))


# Pages ----------------------------------------------------------------------------------------


def test_pages_are_short_and_read_as_they_were_written() -> None:
    lengths = []
    for page in builtin.pages():
        entry = written()[page.title]
        shown = sentences(page_text(page.paragraphs)[0])
        assert [s.rstrip(".") for s in shown] == [s.rstrip(".") for s in entry.sentences]
        assert 4 <= len(shown) <= 8, page.title
        lengths.append(len(page.paragraphs[0].split()))
        assert all(s[0].isupper() or s[0].isdigit() for s in entry.sentences), page.title
        assert not re.search(r"\{|\}|  | ,|\(\)", page.paragraphs[0]), page.title
        assert len(set(entry.sentences)) == len(entry.sentences), page.title
    assert 50 < sum(lengths) / len(lengths) < 80
    assert max(lengths) < 110


def test_facts_are_told_where_the_page_says() -> None:
    for entry in written().values():
        for fact, index in entry.where.items():
            if fact in entry.entity.row and fact not in ("note", "prize", "climber"):
                value = entry.entity.row[fact].rstrip("*").partition(" (")[0]
                assert value in entry.sentences[index], (entry.entity.title, fact)


def test_search_is_not_trivial() -> None:
    """Several pages share a name, and many are known by another one too."""
    names = Counter(e.name for e in entities().values())
    assert sum(n > 1 for n in names.values()) >= 20
    assert sum(len(page.aliases) for page in builtin.pages()) > 100
    hidden = [i for entry in written().values() for i in entry.where.values() if i >= 5]
    assert len(hidden) > 500


# Questions ------------------------------------------------------------------------------------


def test_there_are_enough_of_both_types_in_every_split() -> None:
    assert {s: len(q) for s, q in SPLITS.items() if s != "train"} == {"dev": 200, "valid": 300}
    assert 2500 <= len(SPLITS["train"]) <= 4500
    for split, questions in SPLITS.items():
        types = Counter(q.type for q in questions)
        assert 0.6 < types["bridge"] / len(questions) < 0.8, split
        assert {q.level for q in questions} == {"easy", "medium", "hard"}
        assert [q.id for q in questions] == [f"{split}/b{i}" for i in range(len(questions))]
    assert len({q.question for q in builtin.questions()}) == len(builtin.questions())


def test_wordings_are_many() -> None:
    shapes = set()
    for question in builtin.questions():
        names = sorted({written()[t].entity.name for t, _ in question.supporting}, key=len)
        text = question.question
        for name in reversed(names):
            text = text.replace(name, "X")
        shapes.add(text)
    assert len(shapes) > 300


def test_pairs_of_dev_and_valid_occur_in_no_other_split() -> None:
    pairs = {s: {q.group for q in questions} for s, questions in SPLITS.items()}
    assert not pairs["train"] & (pairs["dev"] | pairs["valid"])
    assert not pairs["dev"] & pairs["valid"]
    for question in builtin.questions():
        titles = {title for title, _ in question.supporting}
        assert len(titles) == 2
        assert question.group == " + ".join(sorted(titles))


def test_some_entities_are_asked_about_in_valid_alone() -> None:
    known = {t for q in SPLITS["train"] for t, _ in q.supporting}
    new = [q for q in SPLITS["valid"] if any(t not in known for t, _ in q.supporting)]
    assert 0.25 < len(new) / len(SPLITS["valid"]) < 0.7


def test_bridges_need_both_pages() -> None:
    for question in builtin.questions():
        if question.type != "bridge":
            continue
        (first, told), (second, answered) = question.supporting
        pages = written()
        assert pages[second].entity.name in pages[first].sentences[told]
        assert mentions(pages[second].sentences[answered], question.answer), question.id
        assert not mentions(pages[first].text, question.answer), question.id
        assert not mentions(question.question, question.answer), question.id
        assert pages[first].entity.name in question.question, question.id
        assert not mentions(question.question, pages[second].entity.name), question.id


def _numbers(question: Question) -> list[int]:
    """The one number that each supporting sentence gives for what is compared."""
    found = []
    for title, index in question.supporting:
        text = written()[title].sentences[index].replace(written()[title].entity.name, "")
        spans = re.findall(r"\d+", text)
        if len(spans) == 2:  # "(1809-1852)"
            spans = spans[1:] if " die" in question.question else spans[:1]
        assert len(spans) == 1, (title, text)
        found.append(int(spans[0]))
    return found


LARGER = re.compile(r"\b(later|higher|longer|deeper|more recent)\b")
SMALLER = re.compile(r"\b(first|earlier|lower|shorter|older)\b")


def test_comparisons_are_right() -> None:
    """Recomputed from the sentences that support them."""
    answers = Counter()
    for question in builtin.questions():
        if question.type != "comparison":
            continue
        pages = [written()[title] for title, _ in question.supporting]
        told = [p.sentences[i] for p, (_, i) in zip(pages, question.supporting, strict=True)]
        if question.answer in ("yes", "no"):
            answers[question.answer] += 1
            continue
        names = [p.entity.name for p in pages]
        if question.answer not in names:  # what both share
            assert all(question.answer in text for text in told), question.id
            continue
        larger, smaller = LARGER.search(question.question), SMALLER.search(question.question)
        assert bool(larger) != bool(smaller), question.question
        values = _numbers(question)
        assert values[0] != values[1]
        right = (max if larger else min)(values)
        assert question.answer == names[values.index(right)], question.question
    assert abs(answers["yes"] - answers["no"]) < 0.1 * answers.total()
    assert answers.total() < 0.12 * len(builtin.questions())


def test_yes_and_no_follow_from_the_facts() -> None:
    for draft in builtin.drafts():
        if draft.answer in ("yes", "no"):
            values = {entities()[title].row[column] for title, column in draft.facts}
            assert (len(values) == 1) == (draft.answer == "yes"), draft.text


def test_a_question_has_one_answer() -> None:
    """The same description with the same ask never has two answers."""
    answers = defaultdict(set)
    for draft in builtin.drafts():
        answers[draft.text].add(draft.answer)
    assert all(len(found) == 1 for found in answers.values())
    by_facts = defaultdict(set)
    for question in builtin.questions():
        if question.type == "bridge":
            by_facts[question.question].add(question.answer)
    assert all(len(found) == 1 for found in by_facts.values())


# Play and hardness ----------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["dev", "valid"])
def test_the_supporting_pages_lead_to_the_answer(split: str) -> None:
    env = HotPotQAEnv(reveal=True)
    ids = env.task_ids(split)
    assert list(ids) == [q.id for q in SPLITS[split]]
    for task_id in ids:
        _, info = env.reset(options={"task_id": task_id})
        for action in info["solution"]:
            observation, _, done, _, info = env.step(action)
            assert "Could not find" not in observation, (task_id, action)
        assert done
        assert info["success"], task_id


def test_the_nearest_training_question_rarely_has_the_answer() -> None:
    def words(text: str) -> frozenset[str]:
        return frozenset(text.lower().replace(",", " ").split())

    known = [(words(q.question), q.answer) for q in SPLITS["train"]]
    hits = 0
    for question in SPLITS["valid"]:
        wanted = words(question.question)
        near = max(known, key=lambda entry: overlap(wanted, entry[0]))
        hits += near[1] == question.answer
    assert hits / len(SPLITS["valid"]) <= 0.3


def test_no_answer_is_right_too_often() -> None:
    usual = Counter(q.answer for q in SPLITS["valid"]).most_common(1)[0][1]
    assert usual / len(SPLITS["valid"]) <= 0.1


# Always the same ------------------------------------------------------------------------------


def test_pages_and_questions_are_those_of_this_version() -> None:
    assert builtin.VERSION == GOLDEN_VERSION
    assert digests() == GOLDEN


def test_another_process_makes_the_same() -> None:
    program = (
        "import hashlib, json, random\n"
        "from harness_envs.hotpotqa import builtin\n"
        "before = random.getstate()\n"
        "found = [builtin.pages(), builtin.questions()]\n"
        "assert random.getstate() == before, 'the global generator was used'\n"
        "texts = ['\\n'.join(map(repr, records)) for records in found]\n"
        "print(json.dumps([hashlib.sha256(t.encode()).hexdigest()[:16] for t in texts]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": str(random.Random(5).randrange(1000))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == list(digests().values())

"""The HotPotQA expert, its slips and its prompts: plays by what it reads, and says so."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from harness_agents.errors import WithErrors
from harness_agents.expert import ExpertPolicy
from harness_agents.expert.hotpotqa import best, decide
from harness_agents.expert.hotpotqa_facts import learn
from harness_agents.expert.hotpotqa_notes import (
    PageNotes,
    fold,
    read_action,
    sentences_of,
    take_notes,
)
from harness_agents.expert.hotpotqa_open import guess, names_in
from harness_agents.expert.hotpotqa_question import Name, Quest, read_question
from harness_agents.expert.hotpotqa_slips import slips
from harness_agents.react import read_prompts
from harness_envs.hotpotqa import builtin
from harness_envs.hotpotqa.env import HotPotQAEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from played import played, share

from harness import registry
from harness.policy import Policy
from harness.transcript import parse
from harness.types import Decision, Episode, Step

VALID = "hotpotqa/builtin-valid"
RATE = 0.15


def play(policy: Policy, tasks: str = VALID, **how: Any) -> list[Episode]:
    return played(policy, tasks, **how)


def act(step: Step) -> str:
    return step.decision.action or ""


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return play(ExpertPolicy())


@pytest.fixture(scope="module")
def slipping() -> list[Episode]:
    return play(WithErrors(ExpertPolicy(), RATE))


def taught(episodes: Sequence[Episode]) -> list[Step]:
    return [s for e in episodes for s in e.steps if not s.decision.injected]


# Play -----------------------------------------------------------------------------------------


def test_expert_answers_the_built_in_questions(episodes: list[Episode]) -> None:
    assert share(episodes) >= 0.98
    assert not any(s.invalid for e in episodes for s in e.steps)
    lengths = Counter(len(e.steps) for e in episodes)
    assert sum(n for steps, n in lengths.items() if steps <= 7) >= 0.98 * len(episodes)
    assert sum(s * n for s, n in lengths.items()) / lengths.total() < 4.5


def test_expert_recovers_from_slips(slipping: list[Episode]) -> None:
    assert share(slipping) >= 0.94


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 299), st.integers(0, 2**32), st.integers(1, 6))
def test_expert_goes_on_from_any_state(index: int, seed: int, length: int) -> None:
    """After any slips in a row it still finds the answer."""
    env = HotPotQAEnv()
    task = registry.task_set("hotpotqa", VALID).tasks[index].id
    observation, info = env.reset(options={"task_id": task})
    rng, policy = random.Random(seed), ExpertPolicy()
    question = info["instruction"]
    steps: list[Step] = []
    for _ in range(length):
        right = policy.act(question, steps, observation).action or ""
        found = slips(right, question, steps, observation, rng)
        options = sorted({a for actions in found.values() for a in actions if a != right})
        action = rng.choice(options)
        steps.append(Step(observation, Decision("", action)))
        observation, _, done, _, info = env.step(action)
        assert not done, action
    for _ in range(14):
        decision = policy.act(question, steps, observation)
        steps.append(Step(observation, decision))
        observation, _, done, _, info = env.step(decision.action or "")
        if done:
            break
    assert info["success"], (question, [act(s) for s in steps])


@pytest.mark.data
def test_expert_plays_the_real_questions(data: Path) -> None:
    """It answers each within the budget, in the form the environment wants."""
    found = play(ExpertPolicy(), "hotpotqa/dev-context", every=3, data=str(data / "hotpotqa"))
    assert all(e.outcome == "done" for e in found)
    assert not any(s.invalid for e in found for s in e.steps)
    assert sum(e.measures["f1"] for e in found) / len(found) > 0.1


def test_expert_is_a_function_of_what_it_is_given(episodes: list[Episode]) -> None:
    for episode in episodes[::20]:
        info = {"task_id": episode.task.id}
        for k, step in enumerate(episode.steps):
            args = (episode.instruction, list(episode.steps[:k]), step.observation, info)
            assert ExpertPolicy().act(*args) == ExpertPolicy().act(*args)
            assert ExpertPolicy().act(*args).action == act(step)


def test_expert_reads_and_does_not_know() -> None:
    """Other pages, other answers: what the page says is believed."""
    question = "Where was the author of the novel Dead Souls born?"
    history: list[Step] = []
    observation = f"Question: {question}"
    pages = (
        "Dead Souls is a novel by Ada Example. It is long.",
        "Ada Example was a Dutch novelist. She was born in Utrecht in 1801.",
    )
    for page, action in zip(pages, ("search[Dead Souls]", "search[Ada Example]"), strict=True):
        decision = ExpertPolicy().act(question, history, observation)
        assert decision.action == action
        history.append(Step(observation, decision))
        observation = page
    assert ExpertPolicy().act(question, history, observation).action == "finish[Utrecht]"


@settings(max_examples=200, deadline=None)
@given(
    st.text(min_size=1, max_size=80),
    st.lists(
        st.tuples(
            st.sampled_from(["search[{}]", "lookup[{}]", "finish[{}]", "think[{}]", "{}"]),
            st.text(max_size=20),
            st.text(max_size=120),
        ),
        max_size=5,
    ),
)
def test_expert_has_an_answer_to_anything(question: str, turns: list[tuple[str, str, str]]) -> None:
    observation, history = f"Question: {question}", []
    for form, text, shown in turns:
        history.append(Step(observation, Decision("", form.format(text))))
        observation = shown
    if history:
        history[0] = Step(f"Question: {question}", history[0].decision)
    decision = ExpertPolicy().act(question, history, observation)
    assert read_action(decision.action).verb in ("search", "lookup", "finish")
    assert "\n" not in decision.reasoning


# Words ----------------------------------------------------------------------------------------


def test_reasoning_is_one_compact_line(slipping: list[Episode]) -> None:
    words = []
    for step in taught(slipping):
        reasoning = step.decision.reasoning
        assert "\n" not in reasoning
        assert "  " not in reasoning
        assert reasoning[0].isupper() or reasoning[0].isdigit()
        assert reasoning.endswith(".")
        assert "{" not in reasoning
        words.append(len(reasoning.split()))
    assert 12 <= sum(words) / len(words) <= 25
    assert max(words) <= 60


def test_reasoning_names_what_the_action_is_about(episodes: list[Episode]) -> None:
    for step in taught(episodes):
        assert read_action(act(step)).text in step.decision.reasoning


def test_it_says_only_what_it_read(slipping: list[Episode]) -> None:
    """Years and names in a line were in the question or on a page before."""
    for episode in slipping:
        seen = episode.instruction
        for step in episode.steps:
            seen += " " + step.observation
            if not step.decision.injected:
                for year in re.findall(r"\d{3,4}", step.decision.reasoning):
                    assert year in seen
            seen += " " + act(step)


def test_wording_varies_and_the_way_does_not(episodes: list[Episode]) -> None:
    one, other = episodes[::10], play(ExpertPolicy(seed=1), every=10)
    assert [[act(s) for s in e.steps] for e in one] == [[act(s) for s in e.steps] for e in other]
    told = [[s.decision.reasoning for s in e.steps] for e in one]
    assert told != [[s.decision.reasoning for s in e.steps] for e in other]
    assert told == [[s.decision.reasoning for s in e.steps] for e in play(ExpertPolicy(), every=10)]


def test_there_are_many_wordings(episodes: list[Episode]) -> None:
    shapes = set()
    for step in taught(episodes):
        line = re.sub(r"\b[A-ZÀ-ÞŁŚŠ][\w'’.-]*|\d+", "X", step.decision.reasoning)
        shapes.add(re.sub(r"X(?:[ ,]X)+", "X", line))
    assert len(shapes) > 300


# Slips ----------------------------------------------------------------------------------------


def test_slips_come_at_their_rate_in_many_kinds(slipping: list[Episode]) -> None:
    steps = [s for e in slipping for s in e.steps]
    injected = [s for s in steps if s.decision.injected]
    assert abs(len(injected) / len(steps) - RATE) < 4 * (RATE * 0.85 / len(steps)) ** 0.5
    verbs = Counter(read_action(act(s)).verb for s in injected)
    assert set(verbs) == {"", "search", "lookup"}
    assert min(verbs.values()) >= 10


def test_a_slip_is_another_action_and_ends_nothing(slipping: list[Episode]) -> None:
    expert = ExpertPolicy()
    for episode in slipping:
        for k, step in enumerate(episode.steps):
            right = expert.act(episode.instruction, episode.steps[:k], step.observation).action
            assert (act(step) != right) == step.decision.injected
            if step.decision.injected:
                assert read_action(act(step)).verb != "finish"
                assert act(step) in step.decision.reasoning


def test_slips_of_a_question_without_names() -> None:
    found = slips("finish[]", "where?", [], "Question: where?", random.Random(0))
    assert found["misspelt"] == []
    assert found["whole_question"] == ["search[where?]"]


# Parts ----------------------------------------------------------------------------------------


def test_every_built_in_question_is_understood() -> None:
    for question in builtin.questions():
        quest = read_question(question.question)
        assert quest.kind == {"bridge": "bridge", "comparison": "compare"}[question.type]


@pytest.mark.parametrize(
    ("question", "quest"),
    [
        (
            "In which country does the city where Aida was first performed lie?",
            Quest("bridge", (Name("Aida"),), ("premiere", "country")),
        ),
        (
            "Who wrote the play on which the opera Otello is based?",
            Quest("bridge", (Name("Otello", "opera"),), ("based:play", "creator:written")),
        ),
        (
            "Which opera is older, Crime and Punishment or War and Peace?",
            Quest(
                "compare",
                (Name("Crime and Punishment", "opera"), Name("War and Peace", "opera")),
                ("date",),
                "smaller",
            ),
        ),
        (
            "Are both Crime and Punishment and War and Peace novels?",
            Quest(
                "compare",
                (Name("Crime and Punishment"), Name("War and Peace")),
                ("form",),
                "is:novel",
            ),
        ),
        ("Where was Ada Lovelace born?", Quest("bridge", (Name("Ada Lovelace"),), ("birthplace",))),
        ("What is love?", Quest("open", ())),
    ],
)
def test_questions_are_read(question: str, quest: Quest) -> None:
    assert read_question(question) == quest


@pytest.mark.parametrize(
    ("want", "text", "value"),
    [
        ("born", "Ada Example (12 May 1812 – 3 June 1870) was a poet.", "1812"),
        ("died", "Ada Example (12 May 1812 – 3 June 1870) was a poet.", "1870"),
        ("birthplace", "She was born in Milan, Ohio, United States in 1847.", "Milan, Ohio"),
        ("birth_country", "She was born in Milan, Ohio, United States in 1847.", "United States"),
        ("creator:written", "It is a tale about a bet made by Bob. It was written by Ann.", "Ann"),
        ("creator:painted", "It is a painting painted by Édouard Manet.", "Édouard Manet"),
        ("nationality", "He was a New Zealand physicist.", "New Zealand"),
        ("river", "Another city lies on the same river. Its river is the Han River.", "Han River"),
        ("date", "The novel A by B dates from the same year. It first appeared in 1884.", "1884"),
        ("height", "It is 4,808 metres high.", "4808"),
        ("born", "The poet Max was born in the same year as Ann 2.", None),
    ],
)
def test_sentences_tell_facts(want: str, text: str, value: str | None) -> None:
    found = learn(want, PageNotes("x", tuple(sentences_of(text))))
    assert (found.value if found else None) == value


def test_among_similar_titles_the_one_of_the_right_kind_is_taken() -> None:
    titles = ["Don Juan (poem)", "Don Juan (tone poem)", "Don"]
    assert best(Name("Don Juan", "tone poem"), titles, "the tone poem Don Juan") == titles[1]
    assert best(Name("Don Juan", "poem"), titles, "the poem Don Juan") == titles[0]
    assert best(Name("Bosnia"), ["Boston", "Bosnia and Herzegovina"], "Do Bosnia and Herzegovina "
                "and Belgium have the same currency?") == "Bosnia and Herzegovina"  # fmt: skip


def test_a_namesake_of_another_kind_is_left() -> None:
    question = "Who directed the film Spartacus?"
    quest = Quest("bridge", (Name("Spartacus", "film"),), ("creator:directed",))
    ballet = "Spartacus is a ballet by Aram Khachaturian."
    step = Step(f"Question: {question}", Decision("", "search[Spartacus]"))
    plan = decide(quest, take_notes(question, [step], ballet))
    assert plan.action == "search[Spartacus (film)]"


def test_notes_follow_lookups() -> None:
    question = "x"
    shown = "A one. A two. A three. A four. A five."
    turns = [
        ("search[A]", shown),
        ("lookup[b]", "(Result 1 / 2) He was b."),
        ("lookup[c]", "No more results.\n"),
        ("lookup[b]", "(Result 1 / 2) He was b."),
        ("lookup[e]", "(Result 1 / 3) He was b."),
        ("lookup[b]", "(Result 2 / 2) They b."),
        ("Search[Z]", "Could not find Z. Similar: ['A', \"B's\"]."),
        ("nonsense", "Invalid action: nonsense"),
    ]
    history: list[Step] = []
    observation = "Question: x"
    for action, text in turns:
        history.append(Step(observation, Decision("", action)))
        observation = text
    notes = take_notes(question, history, observation)
    page = notes.page("a")
    assert page is notes.current
    assert page is not None
    assert page.found == ["He was b", "They b"]
    assert page.exhausted("b")
    assert page.exhausted("c")
    assert not page.exhausted("d")
    assert "e" not in page.lookups  # another keyword followed: it would start over
    assert notes.misses == {"z": ("A", "B's")}
    assert notes.event == "invalid"


def test_open_questions_are_answered_by_kind() -> None:
    question = "In which year did the band Blue Example release the album Grey Days?"
    assert names_in('What is "Grey Days" by Blue Example?') == ["Grey Days", "Blue Example"]
    page = "Grey Days is an album by Blue Example. The band released the album in 1997 in Oslo."
    step = Step(f"Question: {question}", Decision("", "search[Grey Days]"))
    notes = take_notes(question, [step], page)
    assert guess(notes, names_in(question)) == "1997"
    assert fold("  Grey_DAYS ") == "grey days"


# Prompts --------------------------------------------------------------------------------------


def test_the_shown_examples_are_real_play() -> None:
    """Replayed, the exemplars show what the prompt shows, and win; none is a dev or valid task."""
    text = read_prompts("few-shot")["hotpotqa"]
    assert read_prompts("zero-shot")["hotpotqa"].endswith("Task: {instruction}\n")
    shown = re.findall(r"^Task: (?!\{)(.+)\n((?:.+\n)+)", text, flags=re.MULTILINE)
    assert len(shown) == 3
    known = {q.question: q for q in builtin.questions()}
    env = HotPotQAEnv()
    for question, body in shown:
        assert known[question].split == "train"
        observation, _ = env.reset(options={"task_id": known[question].id})
        turns = re.split(r"^Observation: ", body, flags=re.MULTILINE)[1:]
        assert len(turns) >= 3
        for turn in turns:
            seen, reasoning, action = re.split(r"\n(?:Reasoning|Action): ", turn.strip("\n"))
            assert seen == observation
            decision = parse(turn[turn.index("Reasoning:") :])
            assert (decision.reasoning, decision.action) == (reasoning, action)
            observation, _, _, _, info = env.step(action)
        assert info["success"], question

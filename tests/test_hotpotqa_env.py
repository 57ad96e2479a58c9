"""``HotPotQAEnv``: actions and what they show, bad input, task sets, groups, options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from harness_envs.hotpotqa import HotPotQAEnv
from harness_envs.hotpotqa.data import open_data
from harness_envs.hotpotqa.make_sets import react_500, with_gold
from harness_envs.hotpotqa.reading import Lookup, opening, page_text, sentences, unescaped
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import registry
from harness.errors import ConfigError, DataError, EnvError

PAGES: list[dict[str, Any]] = [
    {"title": "Nile", "paragraphs": [
        "The Nile is a river. It flows north! It is long",
        "Two words",
        "Philip K. Dick never saw it. One. Two. Three.",
    ]},
    {"title": "Amazon", "text": ["The Amazon is a river.", " It is wide."]},
    {"title": "Empty", "paragraphs": []},
    {"title": "Lone", "paragraphs": ["Alone"]},
    {"title": "Few", "paragraphs": ["Two words", "Now three words."]},
    {"title": "Mercury", "text": ["Mercury may refer to:", " a planet or a god."]},
    {"title": "Mercury (planet)", "text": "Mercury is the first planet."},
    {"title": "Signs", "text": r"It costs $5.00 (or more) [sic] a+b* ^x| {2} \d \u00e9 C:\new."},
    {"title": "Œuvre d'été — 東京", "text": "Une œuvre très ÉTRANGE. 東京は都市。 İstanbul too."},
    {"title": "Long", "text": "x" * 999_990 + ". The end is here."},
]  # fmt: skip
QUESTIONS: list[dict[str, Any]] = [
    {"_id": "a" * 24, "question": "Which river is longest?", "answer": "the Nile",
     "type": "comparison", "supporting_facts": [["Nile", 0], ["Amazon", 0], ["Nile", 1]]},
    {"_id": "b" * 24, "question": "What array?", "answer": "a[0] = [1]",
     "type": "bridge", "supporting_facts": [["Signs", 0]]},
    {"_id": "c" * 24, "question": "Where?", "answer": "東京",
     "type": "bridge", "supporting_facts": [["Œuvre d'été — 東京", 1]]},
    {"_id": "d" * 24, "question": "Unknown?", "answer": "x", "supporting_facts": [["Absent", 0]]},
    {"_id": "e" * 24, "question": "Untold?", "answer": "y"},
]  # fmt: skip
RIVER, ARRAY, TOKYO, ABSENT, UNTOLD = (f"dev/{letter * 24}" for letter in "abcde")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hotpotqa")
    for name, records in (("pages.jsonl", PAGES), ("dev_mine.jsonl", QUESTIONS)):
        text = "".join(json.dumps(record) + "\n" for record in records)
        (path / name).write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def env(folder: Path) -> HotPotQAEnv:
    made = HotPotQAEnv(data=folder, reveal=True)
    made.reset(options={"task_id": RIVER})
    return made


def show(env: HotPotQAEnv, action: str) -> str:
    return env.step(action)[0]


def test_relative_files_are_those_that_were_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = {"a": "Nile", "b": "Amazon"}
    for place, title in titles.items():
        (tmp_path / place / "questions").mkdir(parents=True)
        facts = {"supporting_facts": [[title, 0]]}
        line = json.dumps({"_id": place * 24, "question": "Which?", "answer": title, **facts})
        (tmp_path / place / "questions" / "dev.jsonl").write_text(line)
        pages = "".join(json.dumps(page) + "\n" for page in PAGES if page["title"] == title)
        (tmp_path / place / "pages.jsonl").write_text(pages)
    for place in titles:
        monkeypatch.chdir(tmp_path / place)
        env = HotPotQAEnv(data="questions", corpus="pages.jsonl")
        assert list(env.task_ids("dev")) == [f"dev/{place * 24}"]


def test_gymnasiums_checker_is_content(folder: Path) -> None:
    check_env(HotPotQAEnv(data=folder), skip_render_check=True)


def test_registered_with_a_step_budget(folder: Path) -> None:
    made = harness.make("hotpotqa", data=str(folder))
    assert made.spec is not None
    assert (made.spec.id, made.spec.max_episode_steps) == ("harness/HotPotQA-v0", 10)
    vector = gymnasium.vector.SyncVectorEnv([lambda: HotPotQAEnv(data=folder)] * 2)
    observations, _ = vector.reset(seed=[1, 2])
    assert all(text.startswith("Question: ") for text in observations)
    vector.close()
    made.close()


def test_an_episode(env: HotPotQAEnv) -> None:
    shown, info = env.reset(options={"task_id": RIVER})
    assert shown == "Question: Which river is longest?"
    assert info["instruction"] == "Which river is longest?"
    assert info["task_type"] == "comparison"
    assert info["solution"] == ["search[Nile]", "search[Amazon]", "finish[the Nile]"]
    assert show(env, "lookup[river]") == "No more results.\n"
    assert show(env, "search[nile]") == (
        "The Nile is a river. It flows north! It is long. Philip K. Dick never saw it. One."
    )
    assert show(env, "lookup[IT]") == "(Result 1 / 2) It flows north! It is long."
    assert show(env, "lookup[IT]") == "(Result 2 / 2) Dick never saw it."
    assert show(env, "lookup[IT]") == "No more results.\n"
    assert show(env, "lookup[it]") == "(Result 1 / 2) It flows north! It is long."
    assert show(env, "search[The Nil]") == "Could not find The Nil. Similar: ['Nile']."
    assert show(env, "lookup[it]") == "(Result 2 / 2) Dick never saw it."  # the page stays
    assert show(env, "search[Nile]").startswith("The Nile is")
    assert show(env, "lookup[it]") == "(Result 1 / 2) It flows north! It is long."  # begins anew
    assert show(env, "think[hm]") == "Nice thought."
    shown, reward, done, truncated, info = env.step("finish[Nile!]")
    assert (shown, reward, done, truncated) == ("Episode finished, reward = 1\n", 1.0, True, False)
    assert (info["success"], info["score"], info["answer"]) == (True, 1.0, "Nile!")
    assert info["measures"] == {"em": 1.0, "f1": 1.0, "contains": 1.0}
    again = env.step("finish[Amazon]")
    assert again == (shown, reward, done, truncated, info)


def test_a_wrong_answer_still_overlaps(env: HotPotQAEnv) -> None:
    shown, reward, done, _, info = env.step("finish[the Nile, in Africa]")
    assert (shown, reward, done) == ("Episode finished, reward = 0\n", 0.0, True)
    assert (info["success"], info["score"]) == (False, 0.5)
    assert info["measures"] == {"em": 0.0, "f1": 0.5, "contains": 1.0}


def test_a_page_of_meanings_is_searched_in_brackets(env: HotPotQAEnv) -> None:
    assert show(env, "search[Mercury]") == (
        "Could not find [Mercury]. Similar: ['Mercury (planet)']."
    )
    assert show(env, "search[Mercury (planet)]") == "Mercury is the first planet.."


@pytest.mark.parametrize(
    "action",
    ["", "   ", "Nile", "search Nile", "search [Nile]", "SEARCH[Nile]", "Search[Nile]", "finish",
     "search[Nile", "search[Nile].", "click[Nile]", "finish(the Nile)", "\x00"],
)  # fmt: skip
def test_what_is_no_action_is_said_to_be_none(env: HotPotQAEnv, action: str) -> None:
    shown, reward, done, _, info = env.step(action)
    assert shown == f"Invalid action: {action.strip()}"
    assert (reward, done, info["invalid_action"], info["success"]) == (0.0, False, True, False)


def test_a_capital_may_be_allowed(folder: Path) -> None:
    env = HotPotQAEnv(data=folder, aliases=True)
    env.reset(options={"task_id": RIVER})
    shown, _, _, _, info = env.step("Search[Amazon]")
    assert shown.startswith("The Amazon is")
    assert info["executed"] == "search[Amazon]"
    shown, _, _, _, info = env.step("SEARCH[Amazon]")
    assert (shown, info["invalid_action"]) == ("Invalid action: sEARCH[Amazon]", True)
    for action in (" Search[Amazon]", "\tSearch[Amazon]", " Finish[the nile]"):
        shown, _, done, _, info = env.step(action)
        assert (shown, done) == (f"Invalid action: {action.strip()}", False)
        assert info["invalid_action"]
    assert env.step("Search[Amazon] ")[4]["executed"] == "search[Amazon]"
    _, reward, _, _, info = env.step(" finish[the nile]")
    assert (reward, "executed" in info) == (1.0, False)


def test_the_built_in_questions_need_nothing() -> None:
    env = HotPotQAEnv(reveal=True)
    shown, info = env.reset(seed=3)
    assert info["task_id"].startswith("valid/b")
    assert shown == f"Question: {info['instruction']}"
    for action in info["solution"]:
        _, reward, done, _, info = env.step(action)
    assert (reward, done, info["success"]) == (1.0, True, True)
    with pytest.raises(DataError, match="none of the built-in questions"):
        env.reset(options={"task_id": "dev/3687"})
    with pytest.raises(ConfigError, match="Unknown HotPotQA task"):
        env.reset(options={"task_id": "valid/b99999"})
    train = {env.group(task_id) for task_id in env.task_ids("train")}
    for split in ("dev", "valid"):
        assert not train & {env.group(task_id) for task_id in env.task_ids(split)}


# Bad input -----------------------------------------------------------------------------------


def test_empty_and_tiny_pages_show_nothing(env: HotPotQAEnv) -> None:
    for title in ("Empty", "Lone"):
        assert show(env, f"search[{title}]") == ""
        assert show(env, "lookup[Alone]") == "No more results.\n"
        assert show(env, "lookup[]") == "No more results.\n"
    assert show(env, "search[Few]") == "Now three words.."


def test_a_page_of_a_million_characters(env: HotPotQAEnv) -> None:
    assert len(show(env, "search[Long]")) == 1_000_009
    assert show(env, "lookup[END]") == "(Result 1 / 1) The end is here.."


@pytest.mark.parametrize(
    "keyword",
    ["$5.00", "(or more)", "[sic]", "a+b*", "^x|", "{2}", r"\d", r"\u00e9", "C:\\new", "*"],
)
def test_keywords_are_plain_text(env: HotPotQAEnv, keyword: str) -> None:
    show(env, "search[signs]")
    assert show(env, f"lookup[{keyword}]").startswith("(Result 1 / 1) It costs $5.00 (or more)")
    assert show(env, "lookup[.*]") == "No more results.\n"
    assert show(env, "lookup[(]").startswith("(Result 1 / 1)")


def test_unicode_titles_and_answers(env: HotPotQAEnv) -> None:
    env.reset(options={"task_id": TOKYO})
    shown = "Une œuvre très ÉTRANGE. 東京は都市。 İstanbul too.."
    for asked in ("Œuvre d'été — 東京", "œuvre d’ete - 東京", "ŒUVRE_D'ÉTÉ_–_東京"):
        assert show(env, f"search[{asked}]") == shown
    assert show(env, "lookup[étrange]") == "(Result 1 / 1) Une œuvre très ÉTRANGE."
    assert show(env, "search[東]").startswith("Could not find 東. Similar: ")
    assert env.step("finish[東京]")[1] == 1.0


def test_brackets_inside_an_answer(env: HotPotQAEnv) -> None:
    env.reset(options={"task_id": ARRAY})
    _, reward, done, _, info = env.step("finish[a[0] = [1]]")
    assert (reward, done, info["answer"]) == (1.0, True, "a[0] = [1]")
    env.reset(options={"task_id": ARRAY})
    _, reward, done, _, info = env.step("finish[]")
    assert (reward, done, info["answer"]) == (0.0, True, "")
    assert info["measures"] == {"em": 0.0, "f1": 0.0, "contains": 0.0}


def test_a_question_without_its_pages_is_no_task(env: HotPotQAEnv, folder: Path) -> None:
    assert list(env.task_ids("dev")) == [RIVER, ARRAY, TOKYO]
    for task_id, why in ((ABSENT, "'Absent', which supports the answer"), (UNTOLD, "no pages")):
        with pytest.raises(DataError, match=why):
            env.reset(options={"task_id": task_id})
        with pytest.raises(DataError, match="backend=wikipedia"):
            env.content_hash(task_id)
    live = HotPotQAEnv(data=folder, backend="wikipedia")
    assert list(live.task_ids("dev")) == [RIVER, ARRAY, TOKYO, ABSENT, UNTOLD]
    assert live.content_hash(RIVER) == env.content_hash(RIVER)
    live.close()
    # Pages that somebody named may hold what a question needs.
    named = HotPotQAEnv(data=folder, corpus=folder / "pages.jsonl")
    assert list(named.task_ids("dev")) == [RIVER, ARRAY, TOKYO, UNTOLD]


def test_a_question_without_an_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dev.jsonl").write_text(json.dumps({"question": "Why?"}) + "\n")
    with pytest.raises(DataError, match=r"dev\.jsonl: record 1 has no 'answer'"):
        HotPotQAEnv(data=tmp_path).reset()


def test_other_pages_than_the_task_sets_are_refused(folder: Path, tmp_path: Path) -> None:
    fingerprint = HotPotQAEnv(data=folder).corpus("dev").fingerprint
    other = tmp_path / "pages.jsonl"
    other.write_text((folder / "pages.jsonl").read_text().replace("north", "south"))
    HotPotQAEnv(data=folder, corpus_hash=fingerprint).reset()
    with pytest.raises(DataError, match="--option corpus_hash="):
        HotPotQAEnv(data=folder, corpus_hash=fingerprint, corpus=other).reset()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backend": "wiki"}, "Did you mean 'wikipedia'"),
        ({"cache": "x"}, "say backend='wikipedia'"),
        ({"site": "http://x"}, "say backend='wikipedia'"),
        ({"backend": "wikipedia", "corpus": "x"}, "say backend='corpus'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        HotPotQAEnv(**options)


def test_official_data_by_environment_variable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOTPOTQA_DATA", str(folder))
    assert len(HotPotQAEnv(data="official").task_ids("dev")) == 3
    monkeypatch.delenv("HOTPOTQA_DATA")
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    with pytest.raises(DataError, match="HOTPOTQA_DATA"):
        HotPotQAEnv(data="official").reset()


def test_before_reset_there_is_nothing(folder: Path) -> None:
    env = HotPotQAEnv(data=folder)
    for call in (env.solution, lambda: env.step("think[x]"), lambda: env.play("think[x]")):
        with pytest.raises(EnvError):
            call()


# Reading -------------------------------------------------------------------------------------


@given(st.text(st.sampled_from("ab. \n\\x")), st.text(st.sampled_from("ab. \\"), max_size=3))
def test_lookups_show_every_sentence_with_the_keyword_once(text: str, keyword: str) -> None:
    wanted = [s for s in sentences(text) if keyword.lower() in s.lower()]
    lookup = Lookup()
    for number, sentence in enumerate(wanted, 1):
        assert lookup.find(keyword, text) == f"(Result {number} / {len(wanted)}) {sentence}"
    assert lookup.find(keyword, text) == lookup.find(keyword, text) == "No more results.\n"
    assert opening(text) == " ".join(sentences(text)[:5])
    assert all(s.endswith(".") and "\n" not in s for s in sentences(text))


@given(st.text())
def test_text_without_escapes_is_left_alone(text: str) -> None:
    if "\\" not in text:
        assert unescaped(text) == text
    assert page_text([text]) == ((f"{text}\n" if text.count(" ") > 1 else ""), True)


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        (r"a\nb", "a\nb"),
        (r"\x41", "A"),
        (r"\d \( é", r"\d \( é"),
        (r"\\", "\\"),
        (r"\303\251", "é"),
    ],
)
def test_escapes_are_decoded(text: str, becomes: str) -> None:
    assert unescaped(text) == becomes


@pytest.mark.parametrize("text", ["\\", r"\x4", r"\u2013", r"\351", r"\777", r"\N{no such}"])
def test_escapes_that_the_original_trips_over(text: str) -> None:
    with pytest.raises(UnicodeError):
        unescaped(text)
    assert page_text(["one two three", f"four five {text}", "six seven eight"], escapes=True) == (
        "one two three\n",
        False,
    )


# Task sets -----------------------------------------------------------------------------------


def test_the_official_sets_are_known_without_their_data() -> None:
    react = registry.task_set("hotpotqa", "react-500")
    assert [task.id for task in react.tasks] == [f"dev/{index}" for index in react_500()]
    assert [task.id for task in react.tasks[:3]] == ["dev/3687", "dev/6238", "dev/5388"]
    assert react.options == {"backend": "wikipedia", "aliases": False}
    context = registry.task_set("hotpotqa", "dev-context")
    assert len(context.tasks) == 217
    assert HotPotQAEnv.group(context.tasks[0].id) == context.tasks[0].id


@pytest.mark.data
def test_the_official_sets_match_their_data(data: Path) -> None:
    folder = data / "hotpotqa"
    for name in ("dev-context", "react-500"):
        found = registry.task_set("hotpotqa", name)
        env = HotPotQAEnv(data=folder, **found.options)
        assert [env.content_hash(task.id) for task in found.tasks] == list(found.content)
        env.close()
    dev = open_data(str(folder)).tasks("dev")
    questions = {
        dev[task.id].question for task in registry.task_set("hotpotqa", "dev-context").tasks
    }
    assert questions == with_gold(folder)


@pytest.mark.data
def test_react_500_needs_wikipedia_or_the_full_contexts(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be played on the local pages"):
        harness.evaluate(
            "oracle", "hotpotqa", tasks="react-500",
            env_options={"data": str(data / "hotpotqa"), "backend": "corpus"},
            out=tmp_path,
        )  # fmt: skip


@pytest.mark.data
def test_the_oracle_wins_on_real_questions(data: Path) -> None:
    env = HotPotQAEnv(data=data / "hotpotqa", reveal=True)
    tasks = registry.task_set("hotpotqa", "dev-context").tasks
    for task in tasks:
        _, info = env.reset(options={"task_id": task.id})
        for action in info["solution"]:
            shown, _, done, _, info = env.step(action)
            assert not shown.startswith("Could not find")
        assert done
        assert info["success"]

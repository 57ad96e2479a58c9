"""Imports: decisions written in each foreign form come back."""

from __future__ import annotations

import json
import re

import pytest
from harness_distillation.imports.grammar import ENVS, SOURCES, Kind, cut, grammar, prompted
from harness_distillation.imports.logs import instruction_of
from harness_distillation.imports.run import Limits, read
from harness_distillation.imports.steps import size
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.transcript import parse, reply
from harness.types import Outcome

ROOM = "You are in the middle of a room. Looking quickly around you, you see a bed 1."

# Generated episodes -----------------------------------------------------------------------

sign = st.sampled_from(list("abcxyzXYZ 019.,:;!?'\"()<>-_#é☃[]{}\\/"))
line = st.text(sign, max_size=30).map(lambda t: ("w" + t).strip())
#: A thought of one to three lines.
thought = st.lists(line, min_size=1, max_size=3).map("\n".join)
argument = st.text(sign, min_size=1, max_size=20).map(lambda t: ("q" + t).strip())
#: Observations that print what looks like a decision.
bait = st.sampled_from(["Action: click[Buy Now]", "Thought: buy it", "Answer: 42", "Reasoning: no"])
page = st.lists(st.one_of(line, bait), max_size=2).map(lambda rest: "\n".join(["seen", *rest]))
plain_page = st.lists(line, min_size=1, max_size=3).map("\n".join)


@st.composite
def episodes(draw, actions, pages):
    """[(thought, action, observation)]"""
    return draw(st.lists(st.tuples(thought, actions, pages), min_size=1, max_size=5))


hotpot = st.tuples(st.sampled_from(["search", "lookup", "finish"]), argument).map(
    lambda pair: f"{pair[0]}[{pair[1]}]"
)
household = st.tuples(st.sampled_from(["go to", "take", "open"]), argument).map(" ".join)


def imported(tmp_path_factory, name: str, text: str, source: str, env: str):
    path = tmp_path_factory.mktemp("log") / name
    path.write_text(text, encoding="utf-8")
    found = read(source, [path], env, limits=Limits(matched=1.0, empty=0.0))
    for episode in found.episodes:
        for step in episode.steps:
            assert parse(reply(step.decision)) == step.decision
    return found


def taken(episode) -> list[tuple[str, str | None, str | None]]:
    """The decisions of an episode, each with the observation that followed it."""
    after = [*(s.observation for s in episode.steps[1:]), episode.final_observation]
    pairs = zip(episode.steps, after, strict=True)
    return [(s.decision.reasoning, s.decision.action, shown) for s, shown in pairs]


def numbered(played, labels=("Thought", "Action", "Observation"), capital=True) -> str:
    lines = []
    for n, (thought_, action, shown) in enumerate(played, 1):
        verb = action[0].upper() + action[1:] if capital else action
        for label, text in zip(labels, (thought_, verb, shown), strict=True):
            lines.append(f"{label} {n}: {text}")
    return "\n".join(lines)


@settings(max_examples=25, deadline=None)
@given(st.lists(episodes(hotpot, page), min_size=1, max_size=3))
def test_numbered_transcripts(tmp_path_factory, several):
    text = "\n\n".join(f"Question: what is {i}?\n{numbered(p)}" for i, p in enumerate(several))
    found = imported(tmp_path_factory, "log.txt", text, "react", "hotpotqa")
    assert [taken(e) for e in found.episodes] == several
    assert [e.instruction for e in found.episodes] == [f"what is {i}?" for i in range(len(several))]
    assert found.episodes[0].steps[0].observation == "Question: what is 0?"
    tally = found.report.tally
    assert tally.matched == tally.written == sum(size(r + a) for p in several for r, a, _ in p)
    shown = [o for p in several for *_, o in p]
    assert tally.labels_inside == sum(
        bool(re.match(r"(Action|Thought|Answer|Reasoning):", x))
        for o in shown
        for x in o.split("\n")
    )


@settings(max_examples=25, deadline=None)
@given(episodes(household, plain_page))
def test_prompt_transcripts(tmp_path_factory, played):
    """ReAct's ALFWorld: a thought is an action and the room answers OK."""
    lines = [ROOM, "Your task is to: put a mug in desk."]
    for thought_, action, shown in played:
        lines += [f"> think: {thought_}", "OK.", f"> {action}", shown]
    found = imported(tmp_path_factory, "log.txt", "\n".join(lines), "react", "alfworld")
    (episode,) = found.episodes
    assert taken(episode) == played
    assert episode.instruction == "put a mug in desk."
    assert episode.steps[0].observation == "\n".join(lines[:2])


@settings(max_examples=25, deadline=None)
@given(episodes(hotpot, plain_page))
def test_fireact(tmp_path_factory, played):
    output = "".join(f"Thought: {r}\nAction: {a}\nObservation: {o}\n" for r, a, o in played)
    rows = [{"instruction": "who?", "input": "", "output": output}]
    found = imported(tmp_path_factory, "log.json", json.dumps(rows), "fireact", "hotpotqa")
    assert [taken(e) for e in found.episodes] == [played]


@settings(max_examples=25, deadline=None)
@given(episodes(hotpot, page))
def test_knowagent_hotpotqa(tmp_path_factory, played):
    lines, path = [], "Start"
    for n, (thought_, action, shown) in enumerate(played, 1):
        said = action.replace("search[", "Retrieve[")
        lines += [f"ActionPath {n}: {path}", f"Thought {n}: {thought_}"]
        lines += [f"Action {n}: {said[0].upper() + said[1:]}", f"Observation {n}: {shown}"]
        path += f"->{said}"
    given_ = "Examples:\nQuestion: another?\nThought 1: a\nAction 1: Finish[b]\n\nQuestion: who?\n"
    rows = json.dumps({"input": given_, "output": "\n".join(lines)})
    found = imported(tmp_path_factory, "log.jsonl", rows, "knowagent", "hotpotqa")
    (episode,) = found.episodes
    assert taken(episode) == played
    assert episode.instruction == "who?"
    assert found.report.tally.left_out > 0
    assert found.report.tally.translated == sum(a.startswith("search") for _, a, _ in played)


@settings(max_examples=25, deadline=None)
@given(episodes(household, plain_page))
def test_knowagent_alfworld(tmp_path_factory, played):
    lines = ["> ActionPath: Start"]
    for thought_, action, shown in played:
        lines += [f"> Think: {thought_}", f"> {action}", shown, f"> ActionPath: Start->{action}"]
    given_ = f"{ROOM}\nYour task is to: cool a pan.\n> go to bed 1\n\nHere is the task.\n {ROOM}\n"
    rows = [{"input": f"{given_}Your task is to: heat an egg.\n", "output": "\n".join(lines)}]
    found = imported(tmp_path_factory, "log.json", json.dumps(rows), "knowagent", "alfworld")
    (episode,) = found.episodes
    assert taken(episode) == played
    assert episode.instruction == "heat an egg."
    assert episode.outcome is Outcome.UNTOLD
    assert not episode.success


@settings(max_examples=25, deadline=None)
@given(st.lists(episodes(hotpot, page), min_size=1, max_size=3))
def test_reflexion(tmp_path_factory, several):
    parts = []
    for trial, played in enumerate(several, 1):
        parts.append(f"\n{'#' * 40}\nBEGIN TRIAL {trial}\nTrial summary: Correct: 1\n{'#' * 39}")
        parts.append("------------- BEGIN CORRECT AGENTS -------------\n")
        parts.append(f"Question: who?\n{numbered(played)}\nCorrect answer: nobody\n")
    found = imported(tmp_path_factory, "log.txt", "\n".join(parts), "reflexion", "hotpotqa")
    assert [taken(e) for e in found.episodes] == several
    assert [e.attempt for e in found.episodes] == list(range(len(several)))
    assert len({e.task.id for e in found.episodes}) == 1


@settings(max_examples=25, deadline=None)
@given(episodes(household, page), st.booleans())
def test_conversations(tmp_path_factory, played, below):
    turns = [
        {"from": "human", "value": "Interact with a household. Answer in Thought: and Action:."},
        {"from": "gpt", "value": "OK"},
        {"from": "human", "value": f"{ROOM}\nYour task is to: heat an egg."},
    ]
    for thought_, action, shown in played:
        gap = "\n" if below else " "
        said = f"THOUGHT:{gap}{thought_}\n\nACTION:{gap}{action}"
        turns.append({"from": "gpt", "value": said})
        turns.append({"from": "human", "value": f"Observation: {shown}"})
    rows = json.dumps([{"id": "a", "conversations": turns}])
    found = imported(tmp_path_factory, "log.json", rows, "sharegpt", "alfworld")
    (episode,) = found.episodes
    assert taken(episode) == played
    assert found.report.tally.left_out == 2


@settings(max_examples=25, deadline=None)
@given(episodes(st.just("click[a b]"), page))
def test_typed_records(tmp_path_factory, played):
    steps = []
    for thought_, action, shown in played:
        steps.append({"action": f"think[{thought_}]", "observation": "OK."})
        steps.append({"action": action, "observation": shown})
    row = {"instruction": "a mug", "steps": steps, "reward": 0.75, "success": False}
    found = imported(tmp_path_factory, "log.jsonl", json.dumps(row), "react", "webshop")
    (episode,) = found.episodes
    assert taken(episode) == played
    assert episode.score == 0.75
    assert "a mug" in episode.steps[0].observation


def test_a_typed_success_without_a_reward_is_a_whole_one(tmp_path):
    steps = [{"action": "click[buy now]", "observation": "ok"}]
    path = tmp_path / "log.jsonl"
    for told, score in (({"success": True}, 1.0), ({"success": True, "reward": 0.5}, 0.5)):
        path.write_text(json.dumps({"instruction": "a mug", "steps": steps, **told}))
        (episode,) = read("react", [path], "webshop").episodes
        assert (episode.success, episode.score, episode.steps[-1].reward) == (True, score, score)


# Grammars ---------------------------------------------------------------------------------


def spans(text: str, env: str = "hotpotqa", source: str = "react"):
    return [(s.kind, s.text) for s in cut(text, grammar(source, env))[1]]


@pytest.mark.parametrize("number", ["", " 2"])
@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Reasoning", Kind.THOUGHT), ("Thought", Kind.THOUGHT), ("Think", Kind.THOUGHT),
        ("Action", Kind.ACTION), ("Act", Kind.ACTION),
        ("Observation", Kind.OBSERVATION), ("Obs", Kind.OBSERVATION),
    ],
)  # fmt: skip
def test_every_label_opens_a_span_of_its_kind(word, kind, env, number):
    assert spans(f"{word}{number}: a b", env) == [(kind, "a b")]
    assert spans(f"{word.upper()}{number}: a b", env, "sharegpt") == [(kind, "a b")]
    # In a log too, after a label that opens the log whichever it is.
    before = "Action" if kind is Kind.OBSERVATION else "Observation"
    assert spans(f"{before}{number and ' 1'}: x\n{word}{number}: a b", env)[1:] == [(kind, "a b")]


@pytest.mark.parametrize(
    "labels",
    [("Reasoning", "Action", "Observation"), ("Think", "Act", "Obs"), ("Thought", "Act", "Obs")],
)
def test_logs_under_other_labels(tmp_path_factory, labels):
    played = [
        ("I look\nit up", "search[a]", "seen"),
        ("so it is", "finish[b]", "Answer is CORRECT"),
    ]
    whole = numbered(played, labels)
    plain_ = re.sub(r"^(\w+) \d:", r"\1:", whole, flags=re.M)
    for text in (whole, plain_):
        text = f"Question: who?\n{text}\n"
        (episode,) = imported(tmp_path_factory, "log.txt", text, "react", "hotpotqa").episodes
        assert taken(episode) == played


def test_an_empty_action_stays_empty():
    assert spans("Thought: a\nAction:\nObservation: b") == [
        (Kind.THOUGHT, "a"), (Kind.ACTION, ""), (Kind.OBSERVATION, "b"),
    ]  # fmt: skip
    assert spans("Action:   \nThought: b")[:1] == [(Kind.ACTION, "")]


def test_what_follows_an_action_line_is_stray_but_an_argument_is_not():
    assert spans("Action 1: search[a]\nand more\nObservation 1: b") == [
        (Kind.ACTION, "search[a]"), (Kind.STRAY, "and more"), (Kind.OBSERVATION, "b"),
    ]  # fmt: skip
    assert spans("Action 1: finish[a\nb]\nObservation 1: c")[0] == (Kind.ACTION, "finish[a\nb]")


def test_labels_in_a_page_are_the_page_s():
    text = "Thought: a\nAction: b\nObservation: c\nAction: click[Buy]\nThought: d\nAction: e"
    assert [t for k, t in spans(text) if k is Kind.ACTION] == ["b", "e"]
    text = "Thought 1: a\nAction 1: b\nObservation 1: c\nAction 2: x\nThought 9: y\nThought 2: d"
    assert [t for k, t in spans(text) if k is Kind.OBSERVATION] == ["c\nAction 2: x\nThought 9: y"]


def test_answers_belong_to_questions_alone():
    assert spans("Thought: a\nAnswer: Paris")[-1] == (Kind.ANSWER, "Paris")
    assert spans("Thought: a\nFinal Answer: Paris")[-1] == (Kind.ANSWER, "Paris")
    assert spans("Thought: a\nAnswer: Paris", "webshop") == [(Kind.THOUGHT, "a\nAnswer: Paris")]


def test_an_answer_becomes_a_finish(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text("Question: q?\nThought: a\nAnswer: Paris [France]\n")
    (episode,) = read("react", [path], "hotpotqa").episodes
    assert episode.steps[0].decision.action == "finish[Paris [France]]"
    path.write_text("Question: q?\nThought: a\nAnswer: Finish[Paris]\n")
    (episode,) = read("react", [path], "hotpotqa").episodes
    assert episode.steps[0].decision.action == "finish[Paris]"


COVERED = {
    "fireact": ("hotpotqa",), "reflexion": ("hotpotqa",), "knowagent": ("hotpotqa", "alfworld"),
}  # fmt: skip


def test_grammars_have_versions_and_limits_of_their_own():
    for source in SOURCES:
        for env in ENVS:
            if env in COVERED.get(source, ENVS):
                assert re.fullmatch(rf"{source}/{env} \d+", grammar(source, env).name)
            else:
                with pytest.raises(ConfigError, match=f"{source} has logs of .*, not of {env}"):
                    grammar(source, env)
    with pytest.raises(ConfigError, match="Did you mean 'fireact'"):
        grammar("firact", "hotpotqa")


def test_a_thought_that_looks_like_labels_survives_its_own_rendering(tmp_path):
    steps = [{"action": "think[one\nAction: two\nReasoning: three]", "observation": "OK."},
             {"action": "click[a]", "observation": "b"}]  # fmt: skip
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"instruction": "x", "steps": steps}))
    (episode,) = read("react", [path], "webshop").episodes
    (step,) = episode.steps
    assert step.decision.reasoning == "one Action: two Reasoning: three"
    assert parse(reply(step.decision)) == step.decision


@pytest.mark.parametrize(
    ("env", "opening", "instruction"),
    [
        ("webshop", "WebShop [SEP] Instruction: [SEP] a mug, blue [SEP] Search", "a mug, blue"),
        ("webshop", 'Observation:\n"WebShop [SEP] Instruction: [SEP] a mug [SEP] Search"', "a mug"),
        ("webshop", "Webshop \nInstruction:  \na mug \n[Search]  \n", "a mug"),
        ("webshop", "Instruction: a mug\n[Search]", "a mug"),
        ("alfworld", f"Instruction: x\n{ROOM}\n\nYour task is to: heat an egg.\n", "heat an egg."),
        ("hotpotqa", "Question: an example\nAnswer: b\n\nQuestion: who?", "who?"),
        ("hotpotqa", "12 Question: who?", "who?"),
        ("hotpotqa", "Question:\nThought 1: x", None),
    ],
)
def test_openings_state_their_task(env, opening, instruction):
    assert instruction_of(env, opening) == instruction


def test_a_made_up_observation_is_nobody_s(tmp_path):
    turns = [
        {"role": "user", "content": f"{ROOM}\nYour task is to: heat an egg."},
        {"role": "assistant", "content": "Action: look\nObservation: I win.\nAction: stop"},
        {"role": "user", "content": "A bed."},
    ]
    path = tmp_path / "log.json"
    path.write_text(json.dumps([{"messages": turns}]))
    found = read("sharegpt", [path], "alfworld", limits=Limits(matched=0.1))
    (episode,) = found.episodes
    assert taken(episode) == [("", "look", "A bed.")]
    assert found.report.tally.written - found.report.tally.matched == size("I win.stop")


@pytest.mark.parametrize(
    ("last", "success", "score"),
    [
        ("Episode finished, reward = True", True, 1.0),
        ("Episode finished, reward = 0", False, 0.0),
        ("Episode finished, reward = 0.5.", False, 0.5),
        ("Answer is INCORRECT", False, 0.0),
        ("Your score (min 0.0, max 1.0): 0.75", False, 0.75),
        ("Thank you for shopping with us!\nYour score (min 0.0, max 1.0): 1.0", True, 1.0),
        ("Your score (min 0.0, max 1.0): 1.", True, 1.0),
    ],
)
def test_outcomes_are_what_the_log_tells(tmp_path, last, success, score):
    path = tmp_path / "log.txt"
    path.write_text(f"Question: q?\nThought 1: a\nAction 1: Finish[b]\nObservation 1: {last}\n")
    (episode,) = read("react", [path], "hotpotqa").episodes
    assert (episode.success, episode.score, episode.outcome) == (success, score, Outcome.DONE)
    assert episode.steps[-1].reward == score
    path.write_text("Question: q?\nThought 1: a\nAction 1: Search[b]\nObservation 1: b\n")
    (episode,) = read("react", [path], "hotpotqa").episodes
    assert (episode.success, episode.outcome) == (False, Outcome.UNTOLD)
    (episode,) = read("react", [path], "hotpotqa", all_won=True).episodes
    assert (episode.success, episode.score, episode.outcome) == (True, 1.0, Outcome.DONE)


def test_nothing_happens_is_invalid(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(f"{ROOM}\nYour task is to: x.\n> fly\nNothing happens.\n> look\nA bed.\n")
    (episode,) = read("react", [path], "alfworld").episodes
    assert [s.invalid for s in episode.steps] == [True, False]


def test_the_prompted_form_is_the_same_source_s():
    assert prompted(grammar("knowagent", "alfworld")).name == "knowagent/alfworld 1"

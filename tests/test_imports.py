"""Imports: decisions written in each foreign form come back, and what does not fit is refused."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from harness_distillation import traces
from harness_distillation.imports.files import read_text
from harness_distillation.imports.grammar import ENVS, SOURCES, Kind, cut, grammar, prompted
from harness_distillation.imports.logs import instruction_of, read_logs
from harness_distillation.imports.run import KIND, REPORT, Limits, import_files, read
from harness_distillation.imports.steps import play, size
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import ConfigError, DataError, HarnessError, TraceError
from harness.runs import Run
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
    assert episode.outcome is Outcome.TRUNCATED
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
        ("Answer is INCORRECT", False, 0.0),
        ("Your score (min 0.0, max 1.0): 0.75", False, 0.75),
        ("Thank you for shopping with us!\nYour score (min 0.0, max 1.0): 1.0", True, 1.0),
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
    assert (episode.success, episode.outcome) == (False, Outcome.TRUNCATED)
    (episode,) = read("react", [path], "hotpotqa", all_won=True).episodes
    assert (episode.success, episode.score, episode.outcome) == (True, 1.0, Outcome.DONE)


def test_nothing_happens_is_invalid(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(f"{ROOM}\nYour task is to: x.\n> fly\nNothing happens.\n> look\nA bed.\n")
    (episode,) = read("react", [path], "alfworld").episodes
    assert [s.invalid for s in episode.steps] == [True, False]


# Failures ---------------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "Question: q?\nThought 1: think hard\nAction 1: Search[b]\nObservation 1: c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD * 3 + GOOD.replace("Observation", "and so on and so on\nObservation"),
         r"log.txt: the grammar 'react/hotpotqa 1' does not fit: 8\d.*under 98.00%"),
        (GOOD * 3 + GOOD.replace("Search[b]", ""), r"25.00% without an action is over 1.00%"),
        ("To be, or not to be", "no episode found"),
        ("", "no episode found"),
        (GOOD.replace("Question: q?", "Question:"), "no episode found"),
    ],
)  # fmt: skip
def test_a_log_that_does_not_fit_is_refused(tmp_path, text, message):
    path = write(tmp_path / "log.txt", text)
    with pytest.raises(TraceError, match=message) as error:
        import_files("react", [path], "hotpotqa", out=tmp_path / "out")
    assert "log.txt" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_refusal_names_the_worst_record_and_the_counts(tmp_path):
    bad = GOOD.replace("Observation", "no place for this\nObservation")
    path = write(tmp_path / "log.txt", GOOD + bad)
    with pytest.raises(TraceError) as error:
        read("react", [path], "hotpotqa")
    text = str(error.value)
    assert "record 2 (line 5): no place for 'no place for this'" in text
    assert "2 episodes, 2 decisions, 0 of them without an action, 36 of 50 written" in text
    assert read("react", [path], "hotpotqa", limits=Limits(matched=0.7)).report.n == 2


@pytest.mark.parametrize(
    ("source", "row", "message"),
    [
        ("fireact", '[{"instruction": "q"}]', r"record 1: no field 'output' of type str"),
        ("fireact", '[{"instruction": "q", "output": 3}]', "no field 'output'"),
        ("fireact", '{"instruction": "q"', "not JSON"),
        ("fireact", "[3]", "record 1: not an object but int"),
        ("fireact", "[]", "no decision found"),
        ("knowagent", '[{"input": "x", "output": "y"}]', "states no task"),
        ("react", '{"instruction": "q", "steps": [{"action": 1}]}', "step 1: no field 'action'"),
        ("sharegpt", '[{"conversations": ["x"]}]', "turn 1: not an object"),
        ("sharegpt", '[{"conversations": []}]', "nothing is said before"),
        ("fireact", '{"instruction": "\\ud800", "output": "x"}', "not JSON"),
    ],
)
def test_bad_records_are_named(tmp_path, source, row, message):
    path = write(tmp_path / "log.json", row)
    with pytest.raises(TraceError, match=message) as error:
        read(source, [path], "hotpotqa")
    assert "log.json" in str(error.value)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none.txt: cannot be read"):
        read("react", [tmp_path / "none.txt"], "hotpotqa")
    (tmp_path / "a.txt").write_bytes(b"Question: \xff?")
    with pytest.raises(TraceError, match="byte 10 is not UTF-8"):
        read("react", [tmp_path / "a.txt"], "hotpotqa")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        read("react", [tmp_path / "a.txt.gz"], "hotpotqa")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(line, bait, st.just(GOOD), st.just("Question: x?")), max_size=8))
def test_any_text_is_imported_whole_or_refused(tmp_path_factory, lines):
    """Nothing the model wrote is lost without being counted."""
    text = "\n".join(lines)
    path = tmp_path_factory.mktemp("any") / "log.txt"
    path.write_text(text, encoding="utf-8")
    try:
        logs = list(read_logs(path, grammar("react", "hotpotqa")))
    except HarnessError:
        return
    for log in logs:
        tally = play(log, grammar("react", "hotpotqa")).tally
        kept = [s for s in log.spans if s.kind not in (Kind.OBSERVATION, Kind.META)]
        assert tally.written + tally.left_out <= sum(size(s.text) for s in kept)
        assert tally.matched <= tally.written


# Runs -------------------------------------------------------------------------------------


def test_a_run_that_the_rest_takes(tmp_path, monkeypatch):
    log = write(tmp_path / "log.txt", GOOD + GOOD.replace("c\n", "Answer is CORRECT\n"))
    runner = CliRunner()
    out = str(tmp_path / "out")
    done = runner.invoke(
        app, ["import", "react", str(log), "--env", "hotpotqa", "--out", out, "--agent", "gpt-4"]
    )
    assert done.exit_code == 0, done.output
    path = done.stdout.strip().splitlines()[-1]
    assert "2 episodes, 2 decisions" in done.stderr
    assert "count as contaminated" in done.stderr
    run = Run(Path(path))
    assert (run.meta.kind, run.meta.status, run.meta.agent.name) == (KIND, "complete", "gpt-4")
    assert run.meta.parents == (traces.file_sha256(log),)
    report = msgspec.json.decode((run.path / REPORT).read_bytes())
    assert report["grammar"] == "react/hotpotqa 1"
    assert report["tally"]["matched"] == report["tally"]["written"]
    assert [e.key for e in run.episodes()] == [
        (run.meta.task_set.tasks[0].id, 0, n) for n in (0, 1)
    ]
    assert run.summary.success == 0.5
    for command in (["score", path], ["view", path], ["list", "runs", "--out", out]):
        again = runner.invoke(app, command)
        assert again.exit_code == 0, again.output
    dry = runner.invoke(app, ["import", "react", str(log), "-e", "hotpotqa", "--dry-run"])
    assert "2 episodes" in dry.stdout
    found = traces.load([path], successes_only=True)
    assert (len(found.episodes), found.dropped) == (1, {"lost": 1})


def test_tasks_may_have_uneven_numbers_of_attempts(tmp_path):
    log = write(tmp_path / "log.txt", GOOD + GOOD + GOOD.replace("q?", "r?"))
    run, report = import_files("react", [log], "hotpotqa", out=tmp_path / "out")
    assert (report.n, run.meta.n_episodes, len(run.metrics)) == (3, 3, 3)
    assert run.summary.n == 3


def test_tasks_are_known_by_their_question(tmp_path):
    import harness

    env = harness.make("hotpotqa")
    _, info = env.reset(seed=3)
    log = write(tmp_path / "log.txt", GOOD.replace("q?", info["instruction"]) + GOOD)
    found = read("react", [log], "hotpotqa", data="builtin")
    assert found.episodes[0].task.id == info["task_id"]
    assert found.episodes[1].task.id.startswith("imported/")
    assert found.report.known_tasks == 1
    assert not read("react", [log], "hotpotqa").report.known_tasks
    with pytest.raises(ConfigError, match="not known by their text"):
        read("react", [log], "webshop", data="builtin")


@pytest.mark.models
def test_an_imported_run_trains(tmp_path):
    pytest.importorskip("torch")
    from distill_traces import recipe
    from harness_distillation import cli

    lines = [
        f"Question: what is {i}?\nThought 1: I look up {i}.\nAction 1: Search[{i}]\n"
        f"Observation 1: {i} is a number.\nThought 2: It is a number.\nAction 2: Finish[a number]\n"
        "Observation 2: Answer is CORRECT\n"
        for i in range(40)
    ]
    log = write(tmp_path / "log.txt", "\n".join(lines))
    run, _ = import_files("react", [log], "hotpotqa", out=tmp_path / "results")
    path = recipe(tmp_path, steps=2)
    out = tmp_path / "student"
    assert cli.main([str(path), "--data", str(run.path), "--out", str(out), "--quiet"]) == 0
    assert (out / "model.safetensors").is_file()
    assert len((out / "training" / "log.jsonl").read_bytes().splitlines()) == 2
    assert cli.main(["inspect", str(out), "--show", "0"]) == 0


# Real logs --------------------------------------------------------------------------------

REAL = {
    # file: source, environment, episodes, decisions, known tasks, won, lost
    "fireact/hotpotqa.json.gz": ("fireact", "hotpotqa", 500, 1385, 49, 500, 0),
    "knowagent/HotpotQA_data_knowagent.json.gz": ("knowagent", "hotpotqa", 132, 437, 132, 132, 0),
    "knowagent/ALFWorld_data_knowagent.json.gz": ("knowagent", "alfworld", 134, 1367, 0, 0, 0),
    "reflexion/100_questions_5_trials.txt.gz": ("reflexion", "hotpotqa", 512, 1867, 512, 170, 294),
    "webshop_react/react_webshop_500.jsonl.gz": ("react", "webshop", 500, 2361, 0, 179, 281),
}


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_logs(data, name):
    source, env, n, steps, known, won, lost = REAL[name]
    path = data / "trajectories" / name
    found = read(source, [path], env, data=str(data / "hotpotqa") if env == "hotpotqa" else None)
    report, tally = found.report, found.report.tally
    assert (report.n, tally.steps, report.known_tasks) == (n, steps, known)
    assert (report.won, report.lost) == (won, lost)
    assert tally.matched_share == 1.0
    assert tally.empty_share < 0.006
    written = independent(path, source, env)
    made = Counter(
        re.sub(r"\s+", "", text)
        for e in found.episodes
        for s in e.steps
        for text in (s.decision.reasoning, s.decision.action or "")
        if text
    )
    assert made == written


def independent(path: Path, source: str, env: str) -> Counter[str]:
    """Thoughts and actions of a file, read line by line, without white space."""
    texts: list[str] = []
    text = read_text(path)
    if env == "webshop":
        waiting = ""
        for row in map(json.loads, text.splitlines()):
            for step in row["steps"]:
                action = step["action"]
                if action.startswith("think["):
                    waiting += action.removeprefix("think[").removesuffix("]")
                else:
                    texts += [waiting, action]
                    waiting = ""
            texts, waiting = [*texts, waiting], ""
    elif env == "alfworld":
        for row in json.loads(text):
            waiting = ""
            for said in row["output"].splitlines():
                if said.startswith("> Think:"):
                    waiting += said.removeprefix("> Think:")
                elif said.startswith("> ") and not said.startswith("> ActionPath:"):
                    texts += [waiting, said.removeprefix("> ")]
                    waiting = ""
            texts.append(waiting)
    else:
        whole = text if source == "reflexion" else "\n".join(r["output"] for r in json.loads(text))
        for said in whole.splitlines():
            if found := re.match(r"Thought(?: \d+)?: (.*)", said):
                texts.append(found[1])
            elif found := re.match(r"Action(?: \d+)?: (\w)(.*)", said):
                action = found[1].lower() + found[2]
                texts.append(re.sub(r"^retrieve\[", "search[", action))
    return Counter(t for t in (re.sub(r"\s+", "", x) for x in texts) if t)


@pytest.mark.data
def test_real_prompts_of_react(data, tmp_path):
    """The published examples: ALFWorld with ``>`` lines, HotPotQA numbered."""
    prompts = json.loads((data / "react" / "alfworld_3prompts.json").read_text())
    chosen = [text for name, text in prompts.items() if name.startswith("react_")]
    path = write(tmp_path / "log.txt", "\n".join(chosen))
    found = read("react", [path], "alfworld")
    assert found.report.n == len(chosen) == 18
    thoughts = sum(text.count("> think:") for text in chosen)
    lines = sum(len(re.findall(r"^>", text, re.M)) for text in chosen)
    assert found.report.tally.steps == lines - thoughts
    said = " ".join(s.decision.reasoning for e in found.episodes for s in e.steps)
    assert "OK." not in said
    assert not any(s.observation == "OK." for e in found.episodes for s in e.steps)
    assert found.report.tally.empty == 0
    naive = json.loads((data / "react" / "prompts_naive.json").read_text())["webthink_simple6"]
    path = write(tmp_path / "naive.txt", naive)
    found = read("react", [path], "hotpotqa")
    assert found.report.n == naive.count("Question:") == 6
    assert found.report.tally.matched_share == 1.0
    assert found.report.tally.steps == len(re.findall(r"^Action \d+:", naive, re.M))


def test_the_prompted_form_is_the_same_source_s():
    assert prompted(grammar("knowagent", "alfworld")).name == "knowagent/alfworld 1"

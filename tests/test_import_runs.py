"""Imports: what does not fit is refused, runs of them are like any other, real logs come whole."""

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
from harness_distillation.imports.grammar import Kind, grammar
from harness_distillation.imports.logs import read_logs
from harness_distillation.imports.run import KIND, REPORT, Limits, import_files, read
from harness_distillation.imports.steps import play, size
from hypothesis import given, settings
from hypothesis import strategies as st
from test_imports import bait, line
from typer.testing import CliRunner

from harness.cli import app
from harness.comparison import compare
from harness.errors import ConfigError, DataError, HarnessError, TraceError
from harness.rows import UNTOLD
from harness.runs import Run

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


def test_a_log_without_a_decision_is_counted(tmp_path):
    """A model that says nothing of the kind; the episodes beside it are not lost."""
    told = [("human", "Instruction: [SEP] buy a mug"), ("gpt", "Action: click[Buy Now]")]
    silent = [told[0], ("gpt", "I am sorry, I cannot help with that.")]
    rows = [{"conversations": [{"from": a, "value": b} for a, b in turns]}
            for turns in (told, silent, told)]  # fmt: skip
    path = write(tmp_path / "log.json", json.dumps(rows))
    with pytest.raises(TraceError, match=r"33.33% of episodes without a decision is") as error:
        read("sharegpt", [path], "webshop")
    assert "record 2: no decision in it" in str(error.value)
    found = read("sharegpt", [path], "webshop", limits=Limits(empty=0.4))
    assert [len(e.steps) for e in found.episodes] == [1, 0, 1]
    assert found.report.tally.undecided == 1


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
    whole = gzip.compress("".join(map(str, range(999))).encode())
    flipped = whole[:200] + b"\xff" * 6 + whole[206:]
    for damaged in (whole[:-9], flipped):
        (tmp_path / "a.txt.gz").write_bytes(damaged)
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
    s = run.summary
    assert (s.n, s.untold, s.success, s.steps) == (1, 1, 1.0, 1.0)
    with pytest.raises(ConfigError, match="of 1 episodes the imported log does not tell"):
        compare(run, run)
    told = [runner.invoke(app, [what, path]).stdout for what in ("score", "view")]
    assert told[0].count("of 1 further episodes no log tells how they ended") == 1
    assert "untold" in told[1]
    for command in (["score", path], ["view", path], ["list", "runs", "--out", out]):
        again = runner.invoke(app, command)
        assert again.exit_code == 0, again.output
    dry = runner.invoke(app, ["import", "react", str(log), "-e", "hotpotqa", "--dry-run"])
    assert "2 episodes" in dry.stdout
    found = traces.load([path], successes_only=True)
    assert (len(found.episodes), found.dropped) == (1, {UNTOLD: 1})
    mixed = log.read_text() + GOOD.replace("c\n", "Answer is INCORRECT\n")
    for all_won, told in ((False, (1, 1, 1)), (True, (2, 1, 0))):
        report = read(
            "react", [write(tmp_path / "m.txt", mixed)], "hotpotqa", all_won=all_won
        ).report
        assert (report.won, report.lost, report.untold) == told
    untold, _ = import_files(
        "react", [write(tmp_path / "u.txt", GOOD)], "hotpotqa", out=tmp_path / "u"
    )
    with pytest.raises(DataError, match=r"(?s)1 of an outcome.*--all-won.*successes_only = false"):
        traces.load([str(untold.path)])


def test_tasks_may_have_uneven_numbers_of_attempts(tmp_path):
    log = write(tmp_path / "log.txt", GOOD + GOOD + GOOD.replace("q?", "r?"))
    run, report = import_files("react", [log], "hotpotqa", out=tmp_path / "out")
    assert (report.n, run.meta.n_episodes, len(run.metrics)) == (3, 3, 3)
    assert run.summary.untold == 3


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
    "webshop_react/react_webshop_500.jsonl.gz": ("react", "webshop", 500, 2361, 0, 179, 321),
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

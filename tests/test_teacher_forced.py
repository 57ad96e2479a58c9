"""Asking real agents at every step of a recorded reference."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from harness_agents.scripted import ScriptedPolicy

import harness
from harness import answers, cot, registry
from harness import teacher_forced as forced
from harness.config import AgentConfig
from harness.errors import ConfigError, TraceError
from harness.loop import sampling_seed
from harness.policy import ContextOverflow
from harness.protocol import Protocol
from harness.types import Decision

TASKS = "alfworld/builtin-dev[:14]"


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The expert's run, whose steps are partly slips."""
    out = tmp_path_factory.mktemp("results")
    return harness.evaluate(
        "expert", "alfworld", tasks=TASKS, out=out, kind="collect", error_rate=0.2, attempts=2
    )


def own(reference):
    """The reference's own steps, as (episode, number)."""
    tasks = [t.id for t in reference.meta.task_set.tasks]
    episodes = cot.chosen(reference.episodes(), tasks).values()
    return [
        (e, i) for e in episodes for i, s in enumerate(e.steps) if not s.decision.injected
    ]  # fmt: skip


def said(reference, script, out, **options):
    """What an agent that answers by a script gets."""
    config = AgentConfig("says", "scripted")
    return forced.ask(config, reference, out, policy=ScriptedPolicy(script), **options)


def test_the_reference_agrees_with_itself(reference, tmp_path):
    found = forced.ask("expert", reference, tmp_path, workers=3)
    assert found.steps == len(own(reference)) > 50
    assert (found.f1.value, found.agreement.value) == (1.0, 1.0)
    assert (found.errors, found.missing, found.no_action, found.overflows) == (0, 0, 0, 0)
    assert 0.2 < found.floor.value < 0.9
    assert found.floor.low < found.floor.value < found.floor.high
    assert sum(f1.n for f1, _ in found.types.values()) == found.f1.n == found.steps
    head, lines = answers.read(Path(found.record))
    assert (head.agent.name, head.reference) == ("expert", reference.meta.run_id)
    assert len(lines) == found.steps


def test_other_wordings_of_the_expert_agree_in_action_and_not_in_words(reference, tmp_path):
    other = AgentConfig("expert-7", "expert", options={"seed": 7})
    found = forced.ask(other, reference, tmp_path)
    assert found.agreement.value == 1.0
    assert found.floor.value < found.f1.value < 1.0
    assert found.f1.low < found.f1.value < found.f1.high
    assert found.f1.clusters >= 10


def test_an_agent_without_thoughts_has_f1_0_and_its_actions_are_judged(reference, tmp_path):
    traces = harness.evaluate("oracle", "alfworld", tasks=TASKS, out=tmp_path)
    nearest = AgentConfig("nearest", "nearest", options={"traces": str(traces.path)})
    found = forced.ask(nearest, reference, tmp_path, most=5)
    assert found.episodes == 5
    assert found.f1.value == 0.0
    assert found.f1.low is None
    assert 0.0 < found.agreement.value < 1.0
    assert found.missing == 0


def test_the_agent_sees_the_references_history_and_nothing_of_the_environment(reference, tmp_path):
    seen = []

    def script(instruction, history, observation, info):
        seen.append((instruction, tuple(history), observation, info))
        return "look"

    found = said(reference, script, tmp_path, workers=1)
    steps = own(reference)
    assert found.steps == len(seen) == len(steps)
    for (instruction, history, observation, info), (episode, number) in zip(
        seen, steps, strict=True
    ):
        assert (instruction, history) == (episode.instruction, episode.steps[:number])
        assert observation == episode.steps[number].observation
        assert info["task_id"] == episode.task.id
        assert info["sampling_seed"] == sampling_seed(episode.task, episode.attempt, number)
        assert "admissible_actions" not in set(info)
        assert "solution" not in info


def test_one_step_by_hand():
    teacher = Decision("take the mug", "take mug 1")
    assert answers.compare(Decision("take a mug", "Take  mug 1"), teacher) == (
        pytest.approx(2 / 3, abs=1e-6), True,
    )  # fmt: skip
    assert answers.compare(Decision("take the mug", None), teacher) == (1.0, False)
    assert answers.compare(None, teacher) == (0.0, False)
    assert answers.compare(Decision("x", "look"), Decision("", "look")) == (None, True)
    assert answers.compare(Decision("x", "look"), Decision("x", None)) == (1.0, None)
    thinks = Protocol(9, think="OK.")
    thought = Decision("", "think: take the mug")
    assert answers.compare(thought, thought, thinks) == (1.0, True)
    assert answers.compare(Decision("", None), thought, thinks) == (0.0, False)


def test_faults_stand_beside_and_are_asked_again(reference, tmp_path):
    def breaks(instruction, history, observation, info):
        if len(history) == 2:
            raise RuntimeError("the model is gone")
        return "Reasoning: so\nAction: look"

    steps = own(reference)
    third = sum(number == 2 for _, number in steps)
    found = said(reference, breaks, tmp_path)
    assert (found.errors, found.steps, found.missing) == (third, len(steps) - third, 0)
    assert found.fault.kind == "AgentError/RuntimeError"
    assert found.f1.n == found.steps
    asked = []

    def mended(instruction, history, observation, info):
        asked.append(len(history))
        return "Reasoning: so\nAction: look"

    found = said(reference, mended, tmp_path)
    assert (asked, found.errors, found.steps) == ([2] * third, 0, len(steps))
    assert found.fault is None


def test_a_window_too_small_says_nothing_which_counts(reference, tmp_path):
    def small(instruction, history, observation, info):
        if history:
            raise ContextOverflow
        return "Reasoning: first I need a mug\nAction: look"

    found = said(reference, small, tmp_path)
    later = sum(number > 0 for _, number in own(reference))
    assert (found.overflows, found.errors, found.f1.n) == (later, 0, found.steps)
    assert 0 < found.f1.value < 0.2


def test_a_record_that_was_cut_goes_on_where_it_was(reference, tmp_path):
    whole = forced.ask("expert", reference, tmp_path)
    record = Path(whole.record)
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[:20]) + lines[20][:30])
    partly = answers.report(record, reference)
    assert (partly.steps, partly.missing) == (19, whole.steps - 19)
    told = []
    again = forced.ask("expert", reference, tmp_path, on_step=lambda *at: told.append(at))
    assert told[0] == (20, whole.steps)
    assert len(told) == whole.steps - 19
    assert msgspec.structs.replace(again, record="") == msgspec.structs.replace(whole, record="")


def test_an_agent_that_looks_up_what_a_record_lacks_is_refused_and_leaves_nothing(
    reference, tmp_path
):
    with pytest.raises(ConfigError, match=r"'random' needs info\['admissible_actions'\], which a"):
        forced.ask("random", reference, tmp_path, workers=2)
    assert not list(tmp_path.rglob("*.jsonl"))

    def tolerant(instruction, history, observation, info):
        return (info.get("admissible_actions") or ["look"])[0]

    with pytest.raises(ConfigError, match="'admissible_actions'"):  # else it were another agent
        said(reference, tolerant, tmp_path, most=1)
    with pytest.raises(ConfigError, match="'admissible_actions'"):
        said(reference, lambda i, h, o, info: info["admissible_actions"][0]
             if "admissible_actions" in info else "look", tmp_path, most=1)  # fmt: skip
    assert said(reference, lambda i, h, o, info: info.get("own", "look"), tmp_path, most=1)


def test_what_does_not_belong_together_is_refused(reference, tmp_path):
    found = said(reference, ["look"], tmp_path, most=2)
    other = AgentConfig("says", "scripted", options={"replies": ["go"]})
    with pytest.raises(ConfigError, match="recorded with another agent"):
        forced.ask(other, reference, tmp_path)
    oracle = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:2]", out=tmp_path)
    with pytest.raises(TraceError, match="is not"):
        answers.report(Path(found.record), oracle)
    with pytest.raises(ConfigError, match="the solution, which a record does not hold"):
        forced.ask("oracle", reference, tmp_path)
    lost = harness.evaluate("random", "alfworld", tasks="builtin-dev[:1]", out=tmp_path,
                            max_steps=1)  # fmt: skip
    with pytest.raises(ConfigError, match="no won episode"):
        forced.ask("expert", lost, tmp_path)
    with open(found.record, "ab") as file:
        file.write(b"{}\n")
    with pytest.raises(TraceError, match="not a line of a teacher-forced record"):
        answers.report(Path(found.record), reference)


def test_a_reference_without_thoughts_gives_no_f1(tmp_path):
    oracle = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:12]", out=tmp_path)
    found = forced.ask("expert", oracle, tmp_path)
    assert (found.f1.value, found.f1.n, found.floor.value) == (None, 0, None)
    assert found.agreement.n == found.steps > 0


@pytest.mark.models
def test_a_model_is_asked_and_only_once(reference, tmp_path):
    found = forced.ask("ours-tiny", reference, tmp_path, most=2)
    assert found.errors == 0
    assert 0.3 < found.f1.value < 1.0
    head, lines = answers.read(Path(found.record))
    assert head.policy["weights_sha256"]
    assert all(a.decision.completion.ids for a in lines.values())
    before = Path(found.record).read_bytes()
    assert forced.ask("ours-tiny", reference, tmp_path, most=2) == found
    assert Path(found.record).read_bytes() == before
    held = AgentConfig(
        "held", "react", options={**harness_options("ours-tiny"), "decode": "admissible"}
    )
    with pytest.raises(ConfigError, match="the admissible actions, which a record does not hold"):
        forced.ask(held, reference, tmp_path)


def harness_options(name):
    return registry.agent_config(name).options


def test_the_command_reports_and_survives_a_kill(reference, tmp_path):
    words = [sys.executable, "-m", "harness", "teacher-forced", str(reference.path), "--out",
             str(tmp_path), "--agent"]  # fmt: skip
    slow = tmp_path / "slow.py"
    slow.write_text(
        "import time\nfrom harness import teacher_forced\nfrom harness.config import AgentConfig\n"
        "from harness.runs import open_run\nfrom harness_agents.scripted import ScriptedPolicy\n"
        "import sys\nfrom pathlib import Path\n"
        "def script(*_):\n    time.sleep(0.05)\n    return 'look'\n"
        "teacher_forced.ask(AgentConfig('scripted', 'scripted'), open_run(sys.argv[1]), "
        "Path(sys.argv[2]), workers=2, policy=ScriptedPolicy(script))\n"
    )
    process = subprocess.Popen([sys.executable, str(slow), str(reference.path), str(tmp_path)])
    record = forced.record_path(tmp_path, AgentConfig("scripted", "scripted"), reference)
    while not record.exists() or record.read_bytes().count(b"\n") < 8:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    there = len(answers.read(record)[1])
    total = len(own(reference))
    assert 0 < there < total
    found = subprocess.run([*words, "scripted", "--json"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert (report["steps"], report["missing"], report["f1"]["value"]) == (total, 0, 0.0)
    assert len(record.read_bytes().splitlines()) == total + 1
    shown = subprocess.run([*words, "expert"], capture_output=True, text=True)
    assert "100.0 %" in shown.stdout
    assert "F1 by chance" in shown.stdout
    assert Path(shown.stdout.splitlines()[-1]).exists()
    wrong = subprocess.run(words[:-1], capture_output=True, text=True)
    assert (wrong.returncode, "needs --agent" in wrong.stderr) == (2, True)

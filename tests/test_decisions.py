"""Runs without the environment's words, and whole again: byte for byte, or refused."""

from __future__ import annotations

import json
import lzma

import msgspec
import pytest
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.decisions import DECISIONS
from harness.recorder import EPISODES
from harness.runs import complete
from harness.types import Fault, Outcome

RUNS = {
    "slips": ("expert", "alfworld", {"tasks": "builtin-dev[:4]", "error_rate": 0.3}),
    "attempts": ("expert", "webshop", {"tasks": "builtin-dev[:3]", "attempts": 2}),
    "last answers": ("random", "hotpotqa", {"tasks": "builtin-dev[:4]"}),
    "loops": ("random", "alfworld", {"tasks": "builtin-dev[:3]", "max_steps": 6}),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    agent, env, more = RUNS[request.param]
    out = tmp_path_factory.mktemp("runs")
    return harness.evaluate(agent, env, out=out, kind="collect", **more)


def cli(*args, code=0):
    found = CliRunner().invoke(app, [str(a) for a in args])
    assert found.exit_code == code, (found.output, found.exception)
    return found


def sent(run, to):
    folder = cli("export", run.path, "--to", to, "--decisions").stdout.strip()
    return harness.load(folder)


def test_episodes_come_back_byte_for_byte(run, tmp_path):
    there = sent(run, tmp_path)
    assert not (there.path / EPISODES).exists()
    with lzma.open(there.path / DECISIONS, "rt", encoding="utf-8") as file:
        bare = file.read()
    said = {e.instruction for e in run.episodes()}
    said |= {w for e in run.episodes() for s in e.steps for w in s.observation.splitlines()}
    said |= {w for e in run.episodes() for w in e.final_observation.splitlines()}
    said = {w for w in said if len(w) > 30}
    told = {t for e in run.episodes() for s in e.steps for t in (s.decision.reasoning,)}
    assert said
    assert not [w for w in said if w in bare and not any(w in t for t in told)]
    found = cli("restore", there.path).stdout.strip()
    assert found == str(there.path / EPISODES)
    assert (there.path / EPISODES).read_bytes() == (run.path / EPISODES).read_bytes()
    cli("verify", there.path)


def changed(there, change):
    path = there.path / DECISIONS
    with lzma.open(path) as file:
        lines = [json.loads(x) for x in file]
    change(lines)
    with lzma.open(path, "wb") as file:
        file.writelines(msgspec.json.encode(x) + b"\n" for x in lines)


def other_action(lines):
    lines[1]["episode"]["steps"][0]["decision"]["action"] = "look"


def other_reasoning(lines):
    lines[1]["episode"]["steps"][0]["decision"]["reasoning"] = "I know better."


def one_less(lines):
    del lines[0]


def one_twice(lines):
    lines[1] = lines[0]


@pytest.mark.parametrize("change", [other_action, other_reasoning, one_less, one_twice])
def test_what_was_edited_is_refused_and_nothing_written(run, tmp_path, change):
    there = sent(run, tmp_path)
    changed(there, change)
    found = CliRunner().invoke(app, ["restore", str(there.path)])
    assert type(found.exception).__name__ == "TraceError", found.output
    assert {p.name for p in there.path.iterdir()} == {"run.json", "metrics.jsonl", DECISIONS}


def test_a_damaged_file_is_told(run, tmp_path):
    there = sent(run, tmp_path)
    path = there.path / DECISIONS
    path.write_bytes(path.read_bytes()[:-40])
    found = CliRunner().invoke(app, ["restore", str(there.path)])
    assert "damaged" in str(found.exception)
    assert not (there.path / EPISODES).exists()


def test_broken_episodes_come_back_too(tmp_path):
    """One that broke after some steps, one before its first."""
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:3]", out=tmp_path / "a")
    episodes = list(run.episodes())
    fault = Fault("EnvError", "the game went away after: You are in the middle of a room")
    broke = {"outcome": Outcome.ERROR, "success": False, "score": 0.0, "error": fault}
    late = episodes[0]
    late = msgspec.structs.replace(
        late, steps=late.steps[:2], final_observation=late.steps[2].observation, **broke
    )
    early = msgspec.structs.replace(
        episodes[1], steps=(), final_observation=None, instruction="", **broke
    )
    body = b"".join(msgspec.json.encode(e) + b"\n" for e in (late, early, episodes[2]))
    (run.path / EPISODES).write_bytes(body)
    complete(run.path)  # as if they had broken while it was played
    cli("score", run.path)
    there = sent(harness.load(run.path), tmp_path / "b")
    with lzma.open(there.path / DECISIONS) as file:
        assert b"middle of a room" not in file.read()
    cli("restore", there.path)
    # What a message said is not kept.
    lost = msgspec.json.encode(fault.message), b'""'
    assert (there.path / EPISODES).read_bytes() == body.replace(*lost)


def test_export_with_decisions_makes_no_dataset(run, tmp_path):
    args = ["export", str(run.path), "--to", str(tmp_path / "d"), "--as", "spans", "--decisions"]
    assert "--decisions" in str(CliRunner().invoke(app, args).exception)


def test_what_came_as_decisions_can_be_passed_on(run, tmp_path):
    once = sent(run, tmp_path / "a")
    twice = sent(once, tmp_path / "b")
    assert (twice.path / DECISIONS).read_bytes() == (once.path / DECISIONS).read_bytes()
    cli("restore", twice.path)
    assert (twice.path / EPISODES).read_bytes() == (run.path / EPISODES).read_bytes()


def refused(*args):
    found = CliRunner().invoke(app, [str(a) for a in args])
    assert found.exit_code
    return f"{type(found.exception).__name__}: {found.exception}"


def test_there_is_nothing_to_restore_or_to_export(run, tmp_path):
    assert "has its episodes" in refused("restore", run.path)
    there = sent(run, tmp_path / "a")
    (there.path / DECISIONS).unlink()
    assert f"holds no {DECISIONS}" in refused("restore", there.path)
    told = refused("export", there.path, "--to", tmp_path / "b", "--decisions")
    assert f"holds no {EPISODES}" in told
    assert not [*(tmp_path / "b").rglob("run.json")]


@pytest.mark.data
def test_data_may_lie_elsewhere(data, tmp_path):
    """A run on a folder of one's own is restored, and verified, from where that folder is now."""
    questions, moved = tmp_path / "questions", tmp_path / "moved"
    questions.symlink_to(data / "hotpotqa")
    run = harness.evaluate(
        "random", "hotpotqa", tasks="dev-context[:2]", out=tmp_path / "runs",
        env_options={"data": str(questions)},
    )  # fmt: skip
    there = sent(run, tmp_path / "there")
    questions.rename(moved)
    assert "questions" in refused("restore", there.path)
    cli("restore", there.path, "--data", moved)
    assert (there.path / EPISODES).read_bytes() == (run.path / EPISODES).read_bytes()
    assert "questions" in refused("verify", there.path)
    found = cli("verify", there.path, "--data", moved).stdout
    assert found.startswith("2 of 2 episodes are equal")
    assert "moved" not in (there.path / "run.json").read_text()  # a look changes no record
    assert "Unknown option" in refused("verify", there.path, "--option", f"daat={moved}")
    (there.path / EPISODES).unlink()
    assert "Unknown option" in refused("restore", there.path, "--option", f"daat={moved}")

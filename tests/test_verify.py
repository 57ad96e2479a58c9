"""A run played again from its record: equal, or the first difference is told."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import CountEnv, Counter
from typer.testing import CliRunner

import harness
from harness.cli import app
from harness.loop import play_episode
from harness.protocol import Protocol
from harness.recorder import EPISODES
from harness.runs import write_meta, write_metrics
from harness.types import Decision, Task
from harness.verify import Recorded, first_difference, verify


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    return harness.evaluate(
        "expert", "alfworld", tasks="builtin-dev[:5]", out=out, error_rate=0.3, kind="collect"
    )


def tampered(run, folder, change):
    folder.mkdir()
    (folder / "run.json").write_bytes((run.path / "run.json").read_bytes())
    episodes = [change(i, e) for i, e in enumerate(run.episodes())]
    body = b"".join(msgspec.json.encode(e) + b"\n" for e in episodes)
    (folder / EPISODES).write_bytes(body)
    write_metrics(folder, list(run.metrics))
    return harness.load(folder)


def test_a_run_is_equal_to_itself(run):
    found = list(verify(run))
    assert len(found) == 5
    assert all(difference is None for _, difference in found)
    result = CliRunner().invoke(app, ["verify", str(run.path)])
    assert (result.exit_code, "5 of 5" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    ("change", "step", "field"),
    [
        (lambda s: msgspec.structs.replace(s, observation=s.observation + " "), 2, "observation"),
        (lambda s: msgspec.structs.replace(s, reward=1.0), 2, "reward"),
        (lambda s: msgspec.structs.replace(s, invalid=not s.invalid), 2, "invalid"),
        (
            lambda s: msgspec.structs.replace(s, decision=Decision("", "dance")),
            2,
            "invalid",
        ),
    ],
)
def test_the_first_difference_is_told(run, tmp_path, change, step, field):
    def edit(i, episode):
        if i != 3:
            return episode
        steps = list(episode.steps)
        steps[1] = change(steps[1])
        return msgspec.structs.replace(episode, steps=tuple(steps))

    other = tampered(run, tmp_path / "t", edit)
    found = [d for _, d in verify(other) if d is not None]
    assert [(d.step, d.field) for d in found] == [(step, field)]
    result = CliRunner().invoke(app, ["verify", str(other.path)])
    assert (result.exit_code, "4 of 5" in result.stdout) == (1, True)


def test_a_claimed_win_is_found_out(run, tmp_path):
    def edit(i, episode):
        return msgspec.structs.replace(episode, steps=episode.steps[:-1]) if i == 0 else episode

    found = [d for _, d in verify(tampered(run, tmp_path / "t", edit)) if d is not None]
    assert found[0].field == "error"
    assert "the record ends here" in found[0].found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 9), st.sampled_from([None, "1", "9"]))
def test_every_protocol_is_played_again_alike(target, budget, last):
    protocol = Protocol(budget, think="OK.", last_action=last)
    task = Task("count", "valid", f"valid/{target}")
    episode = play_episode(Counter(), CountEnv(), task, agent="a", protocol=protocol)
    again = play_episode(Recorded(episode), CountEnv(), task, agent="b", protocol=protocol)
    assert first_difference(episode, again) is None

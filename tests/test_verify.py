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
from harness.errors import TraceError
from harness.loop import play_episode
from harness.metrics import measure
from harness.policy import ContextOverflow
from harness.protocol import Protocol
from harness.recorder import EPISODES
from harness.runs import write_meta, write_metrics
from harness.types import Decision, Fault, Outcome, Task
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


def test_an_episode_that_filled_its_window_is_played_again(tmp_path):
    """Played for real: an agent whose window is full after three steps."""
    task = Task("count", "valid", "valid/6")

    class Full(Counter):
        def act(self, instruction, history, observation):
            if len(history) == 3:
                raise ContextOverflow
            return super().act(instruction, history, observation)

    episode = play_episode(Full(), CountEnv(), task, agent="a", protocol=Protocol(9))
    assert (episode.outcome, len(episode.steps)) == (Outcome.CONTEXT, 3)
    again = play_episode(Recorded(episode), CountEnv(), task, agent="a", protocol=Protocol(9))
    assert first_difference(episode, again) is None
    claimed = msgspec.structs.replace(episode, success=True)
    assert first_difference(claimed, again).field == "success"


def test_an_action_that_the_protocol_took_is_no_decision_of_the_agent():
    task, rules = Task("count", "valid", "valid/6"), Protocol(2, last_action="9")
    episode = play_episode(Counter(), CountEnv(), task, agent="a", protocol=rules)
    own = msgspec.structs.replace(episode.steps[-1], forced=False)
    claimed = msgspec.structs.replace(episode, steps=(*episode.steps[:-1], own))
    again = play_episode(Recorded(claimed), CountEnv(), task, agent="a", protocol=rules)
    found = first_difference(claimed, again)
    assert (found.step, found.field, found.recorded) == (3, "forced", False)


def copied(run, folder, episodes=None, rows=None, **meta):
    write_meta(folder, msgspec.structs.replace(run.meta, **meta))
    kept = list(run.episodes()) if episodes is None else episodes
    (folder / EPISODES).write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in kept))
    write_metrics(folder, list(run.metrics) if rows is None else rows)
    return harness.load(folder)


def test_edited_metrics_are_found_out(run, tmp_path):
    rows = [msgspec.structs.replace(r, success=not r.success) for r in run.metrics]
    found = [d for _, d in verify(copied(run, tmp_path / "a", rows=rows)) if d is not None]
    assert [d.field for d in found] == ["metrics, success"] * 5
    rows = [msgspec.structs.replace(r, reasoning_words=0) for r in run.metrics]
    found = [d for _, d in verify(copied(run, tmp_path / "b", rows=rows)) if d is not None]
    assert {d.field for d in found} == {"metrics, reasoning_words"}
    rows = [msgspec.structs.replace(r, seconds=9.0, cot_overlap=0.5) for r in run.metrics]
    assert all(d is None for _, d in verify(copied(run, tmp_path / "c", rows=rows)))
    rows = [*run.metrics, msgspec.structs.replace(run.metrics[0], seed=9)]
    found = [d for _, d in verify(copied(run, tmp_path / "d", rows=rows)) if d is not None]
    assert [(d.seed, d.field, d.found) for d in found] == [(9, "metrics", None)]


def test_edited_measures_of_an_environment_are_found_out(tmp_path):
    run = harness.evaluate("oracle", "hotpotqa", tasks="builtin-dev[:2]", out=tmp_path)
    rows = [msgspec.structs.replace(r, extra={**r.extra, "f1": 0.5}) for r in run.metrics]
    found = [d for _, d in verify(copied(run, tmp_path / "a", rows=rows)) if d is not None]
    assert [(d.field, d.recorded) for d in found] == [("metrics, f1", 0.5)] * 2


def test_an_episode_of_another_split_is_found_out(run, tmp_path):
    def edit(_, episode):
        task = msgspec.structs.replace(episode.task, split="valid")
        return msgspec.structs.replace(episode, task=task)

    found = [d for _, d in verify(tampered(run, tmp_path / "t", edit)) if d is not None]
    assert [d.field for d in found] == ["task"] * 5


def test_episodes_left_out_are_found_out(run, tmp_path):
    kept, rows = list(run.episodes())[:2], list(run.metrics)
    other = copied(run, tmp_path / "a", kept, [r for r in rows if r.key in {e.key for e in kept}])
    found = [d for _, d in verify(other) if d is not None]
    assert [(d.field, d.recorded) for d in found] == [("record", None)] * 3
    result = CliRunner().invoke(app, ["verify", str(other.path)])
    assert (result.exit_code, "2 of 5" in result.stdout) == (1, True)
    stopped = copied(run, tmp_path / "b", kept, rows[:0], status="running")
    assert {d.field for _, d in verify(stopped) if d is not None} == {"metrics"}


def test_one_win_under_other_names_is_found_out(run, tmp_path):
    won = next(e for e in run.episodes() if e.success)
    repeated = [msgspec.structs.replace(won, attempt=i) for i in range(5)]
    found = [d for _, d in verify(copied(run, tmp_path / "a", repeated)) if d is not None]
    assert sum(d.recorded == "not of this run" for d in found) == 4
    doubled = [*run.episodes(), won]
    found = [d for _, d in verify(copied(run, tmp_path / "b", doubled)) if d is not None]
    assert [d.recorded for d in found] == ["a second time"]


def test_a_changed_description_is_refused(run, tmp_path):
    task_set = run.meta.task_set
    easier = msgspec.structs.replace(
        task_set, protocol=msgspec.structs.replace(task_set.protocol, max_steps=500)
    )
    with pytest.raises(TraceError, match="changed after the run"):
        list(verify(copied(run, tmp_path / "a", task_set=easier)))
    with pytest.raises(TraceError, match="version 0"):
        list(verify(copied(run, tmp_path / "b", env_version="0")))
    (tmp_path / "b" / EPISODES).unlink()
    with pytest.raises(TraceError, match="--episodes"):
        list(verify(harness.load(tmp_path / "b")))


def test_episodes_that_broke_are_counted_not_passed(run, tmp_path):
    broken = next(iter(run.episodes()))
    broken = msgspec.structs.replace(
        broken, outcome=Outcome.ERROR, error=Fault("EnvError", "x"), success=False, score=0.0
    )
    others = [e for e in run.episodes() if e.key != broken.key]
    rows = [r for r in run.metrics if r.key != broken.key] + [measure(broken)]
    other = copied(run, tmp_path / "a", [broken, *others], rows)
    assert all(d is None for _, d in verify(other))
    assert "1 episodes broke" in CliRunner().invoke(app, ["verify", str(other.path)]).stdout

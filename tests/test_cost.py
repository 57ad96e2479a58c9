"""What a run cost: sums, rates, what is not known, and where it is kept."""

from __future__ import annotations

import msgspec
import pytest

import harness
from harness.config import AgentConfig
from harness.cost import Cost, cost_of, told, total
from harness.errors import ConfigError
from harness.metrics import measure
from harness.protocol import Protocol
from harness.recorder import EPISODES, ERRORS
from harness.runs import RunMeta, read_meta, write_meta
from harness.tasksets import TaskSet
from harness.types import Completion, Decision, Episode, Fault, Outcome, Step, Task

HERE = Completion("", 100, 7, 3, 80, tuple(range(12)), 20, seconds=0.5, waited=0.25)
SERVED = Completion("", 100, 7, 3, None, seconds=0.5, sampled_tokens=11)
UNTOLD = Completion("", None, None, None)


def episode(*completions):
    steps = tuple(Step("o", Decision("r", "a", c), env_seconds=0.125) for c in completions)
    return Episode(Task("e", "v", "v/1"), "a", "do", steps, "end", True, 1.0, Outcome.DONE)


def test_costs_add_up_and_go_at_their_rates():
    cut = msgspec.structs.replace(HERE, stop="length")
    cost = total([cost_of(episode(HERE, cut)), cost_of(episode(HERE)), Cost(wall_seconds=6.0)])
    assert cost == Cost(
        episodes=2, prompt_tokens=300, cached_tokens=240, reread_tokens=60, sampled_tokens=36,
        reasoning_tokens=21, action_tokens=9, replies=3, cut=1, model_seconds=1.5,
        waiting_seconds=0.75, env_seconds=0.375, wall_seconds=6.0, tokens_per_second=6.0,
        episodes_per_minute=20.0,
    )  # fmt: skip
    assert total([cost, Cost(wall_seconds=6.0)]).tokens_per_second == 3.0
    assert "20.0 a minute" in told(cost)
    assert "80 % of them cached" in told(cost)


def test_what_a_server_does_not_tell_is_unknown_never_nothing():
    assert cost_of(episode(SERVED)).sampled_tokens == 11
    assert cost_of(episode(SERVED)).cached_tokens is None
    cost = total([cost_of(episode(HERE)), cost_of(episode(UNTOLD)), Cost(wall_seconds=1.0)])
    assert (cost.prompt_tokens, cost.sampled_tokens, cost.tokens_per_second) == (None, None, None)
    assert cost.episodes_per_minute == 120.0
    row = measure(episode(HERE, UNTOLD))
    assert (row.sampled_tokens, row.cached_tokens) == (None, None)


def test_a_row_of_metrics_holds_an_episodes_cost():
    row = measure(episode(HERE, HERE))
    assert (row.sampled_tokens, row.cached_tokens, row.reread_tokens) == (24, 160, 40)
    assert (row.model_seconds, row.waiting_seconds, row.env_seconds) == (1.0, 0.5, 0.25)
    assert measure(episode()).model_seconds is None


def test_a_run_keeps_its_cost_also_when_it_is_stopped_and_resumed(tmp_path):
    class Enough(Exception):
        pass

    def stop(episode, total):
        raise Enough

    with pytest.raises(Enough):
        harness.evaluate(
            "expert", "alfworld", tasks="builtin-dev[:5]", out=tmp_path, on_episode=stop
        )
    (file,) = tmp_path.glob("alfworld/expert/*/run.json")
    before = read_meta(file.parent)
    assert (before.status, before.cost.episodes) == ("running", 1)
    after = harness.resume(file.parent).meta
    assert (after.status, after.cost.episodes) == ("complete", 5)
    assert after.cost.wall_seconds > before.cost.wall_seconds > 0
    assert after.cost.episodes_per_minute == pytest.approx(300 / after.cost.wall_seconds, abs=0.01)
    assert after.cost.sampled_tokens == 0


def test_what_a_killed_session_played_is_counted_and_its_time_is_not_known(tmp_path):
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:5]", out=tmp_path)
    again = harness.resume(run.path).meta
    assert again.cost == run.meta.cost  # nothing was played
    file = run.path / EPISODES
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    killed = {"status": "running", "cost": None, "episodes_hash": None}
    write_meta(run.path, msgspec.structs.replace(run.meta, **killed))
    cost = harness.resume(run.path).meta.cost
    assert (cost.episodes, cost.wall_seconds, cost.episodes_per_minute) == (5, None, None)
    assert cost.env_seconds > 0
    assert told(cost) == "5 episodes"
    assert harness.resume(run.path).meta.cost == cost


def test_episodes_set_aside_and_played_again_are_counted(tmp_path):
    """Two broke; a session that played one of them again was killed, another played the rest."""
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:5]", out=tmp_path)
    file = run.path / EPISODES
    first, second, *rest = run.episodes()
    fault = {"outcome": Outcome.ERROR, "error": Fault("EnvError", "gone"), "success": False}
    broke = [msgspec.structs.replace(e, score=0.0, **fault) for e in (first, second)]
    write(file.with_name(ERRORS), broke)
    write(file, [*rest, first])
    killed = {"status": "running", "episodes_hash": None}
    write_meta(run.path, msgspec.structs.replace(run.meta, **killed))
    cost = harness.resume(run.path).meta.cost
    assert (cost.episodes, cost.wall_seconds) == (7, None)
    write(file, [])
    write(file.with_name(ERRORS), [first, second, *rest])
    write_meta(run.path, msgspec.structs.replace(run.meta, **killed))
    cost = harness.resume(run.path).meta.cost
    assert cost.episodes == 10
    assert cost.wall_seconds > run.meta.cost.wall_seconds


def write(file, episodes):
    file.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))


def test_runs_written_before_costs_were_kept_are_read(tmp_path):
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:1]", out=tmp_path)
    raw = msgspec.to_builtins(run.meta)
    del raw["cost"]
    for key in ("max_tokens", "repeat_limit"):
        del raw["task_set"]["protocol"][key]
    old = msgspec.convert(raw, RunMeta)
    assert old.cost is None
    assert old.task_set.hash == old.task_set_hash


def test_limits_belong_to_the_task_set_and_leave_other_hashes_alone(tmp_path):
    tasks = [Task("e", "v", "v/1")]
    plain = TaskSet.make("e/v", "e", tasks, max_steps=9, content={"v/1": "0"})
    limited = plain.varied(max_tokens=500, repeat_limit=3)
    assert limited.name == "e/v+500tokens+3repeats"
    assert limited.protocol == Protocol(9, max_tokens=500, repeat_limit=3)
    assert len({plain.hash, limited.hash, plain.varied(max_tokens=500).hash}) == 3
    assert plain.varied(max_tokens=None) == plain
    for wrong in ({"max_tokens": 0}, {"repeat_limit": 0}):
        with pytest.raises(ConfigError, match="at least 1, not 0"):
            Protocol(9, **wrong)
    run = harness.evaluate(
        AgentConfig("wrong", "scripted", options={"replies": ["fly"]}),
        "alfworld", tasks="builtin-dev[:2]", out=tmp_path, repeat_limit=2,
    )  # fmt: skip
    assert [(e.outcome, len(e.steps)) for e in run.episodes()] == [(Outcome.TRUNCATED, 2)] * 2
    assert run.meta.task_set.name.endswith("+2repeats")

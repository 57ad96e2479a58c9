"""The agents without a language model that know nothing of an environment: oracle, random, replay,
nearest, scripted; on real games."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness_agents.nearest import NearestPolicy
from harness_agents.oracle import OraclePolicy
from harness_agents.random import RandomPolicy
from harness_agents.replay import ReplayPolicy
from harness_agents.scripted import ScriptedPolicy
from played import played, share, told

import harness
from harness import registry, testing
from harness.errors import AgentError, ConfigError
from harness.metrics import summarise
from harness.policy import Policy
from harness.types import Decision, Episode, Outcome, Step, Task

VALID = "alfworld/builtin-valid"


def play(policy: Policy, tasks: str = VALID, *, max_steps: int = 40, **how: Any) -> list[Episode]:
    return played(policy, tasks, max_steps=max_steps, **how)


@pytest.mark.parametrize("name", ["random", "oracle", "expert", "scripted"])
def test_contract(name: str) -> None:
    for what, check in testing.agent_checks(name, "alfworld"):
        try:
            check()
        except Exception as error:  # pragma: no cover
            raise AssertionError(f"{name}: {what}") from error


def test_oracle_wins_every_built_in_game() -> None:
    assert share(play(OraclePolicy())) == 1


@pytest.mark.data
def test_oracle_wins_every_real_game(data: Path) -> None:
    episodes = play(OraclePolicy(), "alfworld/seen-140", max_steps=80, data=str(data / "alfworld"))
    assert share(episodes) == 1


def test_oracle_without_a_solution_says_so() -> None:
    with pytest.raises(AgentError, match="reveal=True"):
        OraclePolicy().act("", [], "", {"task_id": "t"})
    with pytest.raises(AgentError, match="disagree"):
        OraclePolicy().act("", [], "", {"task_id": "t", "solution": []})


def test_random_hardly_ever_wins() -> None:
    assert share(play(RandomPolicy())) <= 0.05


def test_random_depends_on_seed_and_step_only() -> None:
    info = {"admissible_actions": [str(i) for i in range(100)], "sampling_seed": 5}
    draws = {RandomPolicy(s).act("", [], "", info).action for s in range(20)}
    assert len(draws) > 10
    assert RandomPolicy().act("", [], "a", info) == RandomPolicy().act("", [], "b", info)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    run = harness.evaluate("expert", "alfworld", tasks="alfworld/builtin-train[:300]", out=out)
    return run.path


def test_replay_plays_a_run_again(recorded: Path) -> None:
    first = {e.key: e for e in harness.load(recorded).episodes()}
    for episode in play(ReplayPolicy(str(recorded)), "alfworld/builtin-train[:300]", every=30):
        assert told([episode]) == told([first[episode.key]])
        assert episode.success == first[episode.key].success


def test_replay_tells_attempts_apart(tmp_path: Path) -> None:
    run = harness.evaluate(
        "random", "alfworld", tasks="builtin-dev[:1]", attempts=3, max_steps=5, out=tmp_path
    )
    policy = ReplayPolicy(str(run.path))
    for episode in run.episodes():
        info = {"task_id": episode.task.id, "seed": episode.task.seed, "attempt": episode.attempt}
        for k, step in enumerate(episode.steps):
            assert policy.act("", episode.steps[:k], "", info) == step.decision


def test_replay_names_what_it_lacks(recorded: Path, tmp_path: Path) -> None:
    policy = ReplayPolicy(str(recorded))
    with pytest.raises(AgentError, match="no episode of task 'x'"):
        policy.act("", [], "", {"task_id": "x"})
    with pytest.raises(ConfigError, match="no recorded episodes"):
        ReplayPolicy(str(tmp_path))
    with pytest.raises(ConfigError, match="traces = "):
        NearestPolicy()


def test_nearest_wins_what_it_has_seen_and_little_else(recorded: Path) -> None:
    policy = NearestPolicy(str(recorded))
    assert share(play(policy, "alfworld/builtin-train[:300]", every=3)) >= 0.95
    assert share(play(policy)) <= 0.30


@pytest.mark.campaign
def test_nearest_of_all_training_episodes_wins_little(tmp_path: Path) -> None:
    run = harness.evaluate("expert", "alfworld", tasks="alfworld/builtin-train", out=tmp_path)
    assert summarise(list(run.metrics)).n == len(
        registry.task_set("alfworld", "alfworld/builtin-train").tasks
    )
    assert share(play(NearestPolicy(str(run.path)))) <= 0.30


def test_nearest_plays_what_was_won_where_it_began_alike(tmp_path: Path) -> None:
    def episode(number: int, place: str, won: bool) -> Episode:
        steps = [Step(s, Decision("", f"{s} {number}")) for s in (f"a {place} room", "a red room")]
        task = Task("alfworld", "train", f"train/{number}")
        return Episode(task, "a", "find it", tuple(steps), "", won, float(won), Outcome.DONE)

    rows = ((0, "red", False), (1, "blue", True), (2, "red", True))
    lines = [msgspec.json.encode(episode(*one)) + b"\n" for one in rows]
    (tmp_path / "episodes.jsonl").write_bytes(b"".join(lines))
    policy = NearestPolicy(str(tmp_path))
    assert policy.act("find it", [], "a red room", {}).action == "a red room 2"
    begun = [Step("a blue room", Decision("", "go"))]
    assert policy.act("find it", begun, "a red room", {}).action == "a red room 1"


def test_nearest_needs_something_that_was_won(tmp_path: Path) -> None:
    run = harness.evaluate("random", "alfworld", tasks="builtin-dev[:2]", max_steps=1, out=tmp_path)
    with pytest.raises(ConfigError, match=r"no episode in .* was won"):
        NearestPolicy(str(run.path))


def test_a_file_is_no_other_agent_under_a_registered_name(tmp_path: Path) -> None:
    """Its runs would stand in tables as that agent's."""
    file = tmp_path / "expert.toml"
    file.write_text('policy = "random"')
    with pytest.raises(ConfigError, match=r"'expert' is a registered agent .* Rename the file"):
        registry.agent_config(str(file))
    file.write_text('policy = "expert"')
    assert registry.agent_config(str(file)).policy == "expert"
    mine = file.rename(tmp_path / "mine.toml")
    mine.write_text('name = "other"\npolicy = "expert"')
    with pytest.raises(ConfigError, match=r"name is its file's, 'mine', but name = 'other'"):
        registry.agent_config(str(mine))


def test_nearest_says_nothing_when_its_episode_is_over(recorded: Path) -> None:
    policy = NearestPolicy(str(recorded))
    episodes = play(policy, every=10)
    assert {e.outcome for e in episodes if not e.success} <= {Outcome.FORMAT, Outcome.TRUNCATED}


def test_scripted_says_its_lines() -> None:
    policy = ScriptedPolicy(["look", "Reasoning: I see it.\nAction: take it", "Action:"])
    said = [policy.act("", [Step("", Decision("", None))] * k, "", {}) for k in range(5)]
    assert said[0] == Decision("", "look")
    assert said[1] == Decision("I see it.", "take it")
    assert said[2:] == [Decision("", None)] * 3


def test_scripted_by_a_callable_may_do_anything() -> None:
    lengths = ScriptedPolicy(lambda i, h, o, _: f"{i} {len(h)} {o}")
    assert lengths.act("a", [], "b", {}).action == "a 0 b"
    assert ScriptedPolicy(lambda *_: None).act("", [], "", {}) is None
    with pytest.raises(ConfigError, match="replies"):
        ScriptedPolicy([])

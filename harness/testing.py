"""The contract of an environment and of an agent, as checks anybody can run.

    for label, check in harness.testing.environment_checks("mine"):
        check()            # AssertionError says what does not hold

``harness check env mine`` prints them; a test parametrised over them holds a new environment or
agent to the same contract as the built-in ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from harness import registry
from harness.api import make
from harness.env import Environment
from harness.loop import play_episode
from harness.planning import BUILTIN
from harness.policy import Policy, call
from harness.protocol import Protocol
from harness.transcript import join, parse, render_decision
from harness.types import Decision, Outcome, Step, Task

Check = tuple[str, Callable[[], None]]

#: Info keys that every consumer relies on, with their types.
INFO = {
    "instruction": str,
    "task_id": str,
    "task_type": str,
    "admissible_actions": list,
    "success": bool,
    "score": float,
    "invalid_action": bool,
}

NONSENSE = (
    "",
    " ",
    "qwertz 7",
    "Action: look",
    "look\nlook",
    "\x00\x1b[31m",
    "\ud800",
    "x" * 100_000,
)


def environment_checks(name: str, **keywords: Any) -> list[Check]:
    """The contract of an environment, as (what must hold, call that checks it)."""
    cls = registry.env_class(name)

    def fresh() -> Environment:
        return cls(**keywords)

    return [
        ("passes Gymnasium's checker", lambda: _gymnasium(name, keywords)),
        ("info has every key, of its type", lambda: _info(fresh())),
        ("lists admissible actions, if it says so", lambda: _lists(fresh())),
        ("same seed, same episode", lambda: _repeats(fresh(), fresh())),
        ("a task is reached by id and by index", lambda: _addressed(fresh())),
        ("unknown options and tasks are refused", lambda: _refuses(fresh())),
        ("nonsense is a result, not an error", lambda: _survives(fresh())),
        ("the step budget truncates", lambda: _truncates(name, keywords)),
        ("vector environments work", lambda: _vectors(name, keywords)),
        ("its default task set matches its data", lambda: _task_set(name, fresh(), keywords)),
        ("its solution wins, where it offers one", lambda: _solved(name, keywords)),
    ]


def agent_checks(name: str, env: str | None = None) -> list[Check]:
    """The contract of an agent, played in one environment (default: every registered one)."""
    envs = [env] if env else sorted(registry.names("envs"))
    config = registry.agent_config(name)
    policy = registry.build_policy(config)
    reveal = bool(getattr(policy, "privileged", False))
    checks: list[Check] = []
    for each in envs:
        make_env = partial(registry.env_class(each), **({"reveal": True} if reveal else {}))
        checks += [
            (f"{each}: decides a first step", partial(_on, _decides, policy, make_env)),
            (f"{each}: is stateless", partial(_on, _stateless, policy, make_env)),
            (f"{each}: ends an episode", partial(_on, _ends, policy, make_env)),
        ]
    return checks


def _gymnasium(name: str, keywords: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make(name, **keywords)
        check_env(env.unwrapped, skip_render_check=True)
        env.close()


def _info(env: Environment) -> None:
    observation, info = env.reset(seed=0)
    assert isinstance(observation, str), "the observation is not a string"
    _has_keys(info)
    observation, reward, terminated, truncated, info = env.step("qwertz 7")
    assert isinstance(observation, str), "the observation is not a string"
    assert (type(reward), type(terminated), truncated) == (float, bool, False)
    _has_keys(info)
    env.close()


def _has_keys(info: dict[str, Any]) -> None:
    for key, type_ in INFO.items():
        assert key in info, f"info lacks '{key}'"
        assert isinstance(info[key], type_), f"info['{key}'] is {info[key]!r}, not {type_.__name__}"
    assert 0.0 <= info["score"] <= 1.0, f"score {info['score']} is not in [0, 1]"


def _lists(env: Environment) -> None:
    if env.lists_actions is None:
        return
    listed = any(info["admissible_actions"] for *_, info in _trace(env))
    said = f"lists_actions = {env.lists_actions}"
    assert listed == env.lists_actions, (
        f"{said}, but its info {'names' if listed else 'never names'} admissible actions"
    )


def _trace(env: Environment) -> list[Any]:
    """An episode of the first admissible actions (nonsense where the list is empty)."""
    trace: list[Any] = [env.reset(seed=7)]
    for number in range(5):
        actions = trace[-1][-1]["admissible_actions"] or ["qwertz 7"]
        trace.append(env.step(actions[number % len(actions)]))
    env.close()
    return trace


def _repeats(one: Environment, other: Environment) -> None:
    first, second = _trace(one), _trace(other)
    assert first == second, "two environments with one seed went apart"


def _addressed(env: Environment) -> None:
    ids = list(env.task_ids(env.default_split))
    assert ids, f"split '{env.default_split}' has no tasks"
    assert len(set(ids)) == len(ids), "task ids repeat"
    by_id = env.reset(options={"task_id": ids[-1]})
    by_index = env.reset(options={"split": env.default_split, "index": len(ids) - 1})
    assert by_id == by_index, "task id and index reach different tasks"
    assert by_id[1]["task_id"] == ids[-1]
    env.close()


def _refuses(env: Environment) -> None:
    from harness.errors import HarnessError

    refused: tuple[dict[Any, Any], ...] = (
        {"task": "x"},
        {"task_id": "no/such/task"},
        {"split": "no such split"},
        {"index": 0.5},
        {"index": True},
        {0: "x"},
    )
    for options in refused:
        try:
            env.reset(options=options)
        except HarnessError:
            continue
        raise AssertionError(f"reset(options={options}) was accepted")
    env.close()


def _survives(env: Environment) -> None:
    env.reset(seed=0)
    for action in NONSENSE:
        observation, _, _, _, info = env.step(action)
        assert isinstance(observation, str)
        _has_keys(info)
    env.close()


def _truncates(name: str, keywords: dict[str, Any]) -> None:
    env = make(name, **keywords)
    env.reset(seed=0)
    budget = env.spec.max_episode_steps if env.spec else None
    assert budget, "registered without a step budget"
    for number in range(1, budget + 1):
        _, _, terminated, truncated, _ = env.step("qwertz 7")
        if terminated:
            return
        assert truncated == (number == budget), f"truncated is {truncated} at step {number}"
    env.close()


def _vectors(name: str, keywords: dict[str, Any]) -> None:
    env = make(name, **keywords)
    alone, _ = env.reset(seed=1)
    env.close()
    for kind in (gymnasium.vector.SyncVectorEnv, gymnasium.vector.AsyncVectorEnv):
        makers = [lambda: make(name, **keywords) for _ in range(2)]
        vector = kind(makers)
        try:
            observations, _ = vector.reset(seed=[1, 2])
            assert len(observations) == 2
            assert observations[0] == alone, "a vector environment shows another observation"
            observations, rewards, *_ = vector.step(("qwertz 7", "qwertz 7"))
            assert len(observations) == len(rewards) == 2
        finally:
            vector.close()


def _task_set(name: str, env: Environment, keywords: dict[str, Any]) -> None:
    """The default set's content is known; that of other data must at least keep."""
    if _own(keywords):
        found = registry.task_set(name)
        known = [(t.id, content) for t, content in zip(found.tasks, found.content, strict=True)]
    else:
        known = [(id_, env.content_hash(id_)) for id_ in env.task_ids(env.default_split)[:20]]
    for task_id, content in known:
        assert env.content_hash(task_id) == content, f"task '{task_id}' has another content hash"
    env.close()


def _own(keywords: dict[str, Any]) -> bool:
    """Whether the tasks come with the environment, as those of its default set do."""
    return bool(keywords.get("data", BUILTIN) == BUILTIN)


def _solved(name: str, keywords: dict[str, Any]) -> None:
    cls = registry.env_class(name)
    if cls.solution is Environment.solution:
        return
    env = cls(reveal=True, **keywords)
    ids = [task.id for task in registry.task_set(name).tasks[:20]] if _own(keywords) else []
    for task_id in ids or env.task_ids(env.default_split)[:20]:
        _, info = env.reset(options={"task_id": task_id})
        for action in info["solution"]:
            _, _, terminated, _, info = env.step(action)
        assert info["success"], f"the solution of '{task_id}' does not win"
        assert terminated, f"'{task_id}' is won and goes on"
    env.close()


def _start(env: Environment) -> tuple[str, str, dict[str, Any]]:
    observation, info = env.reset(seed=3)
    extras = {"env": env.name, "sampling_seed": 1, "attempt": 0, "seed": 3}
    return info["instruction"], observation, {**info, **extras}


def _ask(policy: Policy, *asked: Any) -> Decision:
    decision = call(policy, *asked)
    assert isinstance(decision, Decision), (
        f"act returned {type(decision).__name__}, not a harness.Decision"
    )
    return decision


def _decides(policy: Policy, env: Environment) -> None:
    instruction, observation, info = _start(env)
    decision = _ask(policy, instruction, (), observation, info)
    if decision.completion is None:
        again = parse(join(render_decision(decision)))
        assert (again.reasoning, again.action) == (decision.reasoning, decision.action), (
            "its text, read again, is another decision"
        )


def _stateless(policy: Policy, env: Environment) -> None:
    instruction, observation, info = _start(env)
    first = _ask(policy, instruction, (), observation, info)
    step = Step(observation, first)
    _ask(policy, instruction, (step,), observation, info)
    again = _ask(policy, instruction, (), observation, info)
    assert (first.reasoning, first.action) == (again.reasoning, again.action), (
        "asked the same twice, it answers differently"
    )


def _ends(policy: Policy, env: Environment) -> None:
    task = Task(env.name, env.default_split, env.task_ids(env.default_split)[0])
    episode = play_episode(policy, env, task, agent="checked", protocol=Protocol(5))
    assert episode.outcome is not Outcome.ERROR, f"it broke: {episode.error}"


def _on(
    check: Callable[[Policy, Environment], None],
    policy: Policy,
    make_env: Callable[[], Environment],
) -> None:
    env = make_env()
    try:
        check(policy, env)
    finally:
        env.close()

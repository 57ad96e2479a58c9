"""The Python API: ``make``, ``evaluate``, ``load``. The command is a thin layer over these."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium

from harness import registry
from harness.config import AgentConfig
from harness.errors import ConfigError
from harness.execution import OnEpisode, execute, score
from harness.planning import DECODING, check_listed, plan
from harness.policy import Policy
from harness.runner import Limits
from harness.runs import RESULTS, Run, open_run, run_folder
from harness.tasksets import TaskSet

if TYPE_CHECKING:
    from harness.comparison import Comparison

__all__ = ["RESULTS", "Side", "compare", "evaluate", "load", "make", "plan", "resume", "score"]

#: What ``compare`` takes: a run or its folder, or several, one a training seed.
Side = Run | str | Path | Sequence[Run | str | Path]


def make(name: str, **keywords: Any) -> gymnasium.Env[str, str]:
    """``gymnasium.make`` by registry name: ``make("alfworld")``; ``keywords`` are the environment's
    and Gymnasium's own. Raises ConfigError for one that neither takes."""
    own = {"reveal", *inspect.signature(gymnasium.make).parameters}
    options = {key: value for key, value in keywords.items() if key not in own}
    registry.check_env_options(registry.env_class(name), name, options)
    return gymnasium.make(registry.gym_id(name), **keywords)


def load(path: str | Path) -> Run:
    """Open a recorded run."""
    return open_run(path)


def compare(a: Side, b: Side, **options: Any) -> Comparison:
    """Who is better on the same tasks (``harness.comparison.compare``, whose options these are).
    A side is a run or its folder, or several of them, its training seeds."""
    from harness.comparison import compare as compare_runs  # brings scipy

    return compare_runs(_side(a), _side(b), **options)


def _side(side: Side) -> list[Run]:
    several = [side] if isinstance(side, Run | str | Path) else side
    if not isinstance(several, Sequence) or not several:
        raise ConfigError(f"A side is a run, its folder, or several of them, not {side!r:.60}.")
    return [one if isinstance(one, Run) else open_run(one) for one in several]


def evaluate(
    agent: str | AgentConfig | Policy,
    env: str,
    *,
    tasks: str | TaskSet | None = None,
    out: str | Path = RESULTS,
    limits: Limits | None = None,
    on_episode: OnEpisode | None = None,
    policy: Policy | None = None,
    name: str | None = None,
    **options: Any,
) -> Run:
    """Play an agent through a task set, record and measure it.

    ``agent`` is a name, a config, or a policy itself: any object with ``act``, which the caller
    keeps open. The run of an object is called by ``name``, else by the object's ``name``, else by
    its class's. ``policy`` is such an object beside the name it plays under, or beside a config
    whose policy it stands for. run.json says that an object played (``policy["object"]``), and a
    registered agent's name is refused.

    ``options`` are those of ``plan``. Returns the finished run; its folder is new under ``out``.
    """
    config, policy = _player(agent, policy, name)
    if policy is not None:
        for key in DECODING:
            if options.get(key) is not None:
                raise ConfigError(
                    f"'{key}' is of an agent's config; a policy that is given has its own."
                )
        check_listed(config.name, getattr(policy, "describe", dict)(), env)
        if config.role == registry.OBJECT:
            options["workers"] = options.get("workers") or int(getattr(policy, "workers", 4))
    meta = plan(config, env, tasks=tasks, **options)
    folder = run_folder(Path(out), env, meta.agent.name, meta.run_id)
    return execute(meta, folder, Path(out), limits, on_episode, policy)


def _player(
    agent: str | AgentConfig | Policy, policy: Policy | None, name: str | None
) -> tuple[AgentConfig, Policy | None]:
    """Who plays: a config, and the object that stands for its policy (None: it makes its own)."""
    if isinstance(agent, str | AgentConfig):
        if name is not None:
            raise ConfigError("'name' names a policy that is an object; an agent has its own name.")
        if policy is None:
            return (registry.agent_config(agent) if isinstance(agent, str) else agent), None
        _check_object(policy)
        if isinstance(agent, str) or registry.agent_configs().get(agent.name) == agent:
            named = agent if isinstance(agent, str) else agent.name
            return registry.given_config(policy, named), policy
        return agent, policy
    if policy is not None:
        raise ConfigError("Two policies are given: the agent is an object, and so is 'policy'.")
    _check_object(agent)
    return registry.given_config(agent, name), agent


def _check_object(policy: Any) -> None:
    if isinstance(policy, type):
        raise ConfigError(
            f"{policy.__qualname__} is a class: give an object of it, {policy.__qualname__}(...)."
        )
    if not callable(getattr(policy, "act", None)):
        raise ConfigError(
            f"An agent is a name, an AgentConfig, or an object with act(instruction, history, "
            f"observation); {type(policy).__name__} {policy!r:.60} is none."
        )


def resume(
    path: str | Path,
    *,
    limits: Limits | None = None,
    on_episode: OnEpisode | None = None,
    retry_errors: bool = False,
    policy: Policy | None = None,
) -> Run:
    """Play what a stopped run still lacks. With ``retry_errors``, episodes that broke are played
    again; their records move to ``episodes.errors.jsonl`` in the run folder. A run that an object
    played goes on with one of the same class, ``policy`` (the caller keeps it open).

    Raises ConfigError, and changes nothing, where the agent's weights, prompt, decoding or whatever
    else decides a reply are not those that the recorded episodes were played with.
    """
    run = open_run(path)
    if policy is not None:
        _check_object(policy)
    out = results_folder(run)
    return execute(run.meta, run.path, out, limits, on_episode, policy, retry_errors)


def results_folder(run: Run) -> Path:
    """The folder that a run's ``<env>/<agent>/<run id>/`` stands in, however the run was named.
    Raises ConfigError for a run that stands elsewhere: what is kept beside runs has no place."""
    # Not resolved: a run that is linked into a results folder belongs to it.
    folder = Path(os.path.abspath(run.path))
    env = run.meta.task_set.env
    if len(folder.parts) < 4 or folder.parents[1].name != env:
        raise ConfigError(
            f"{run.path} is in no results folder: it would stand in RESULTS/{env}/AGENT/"
            f"{folder.name}. Copy it to such a place, which reference traces are kept beside."
        )
    return folder.parents[2]

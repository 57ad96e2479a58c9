"""``plan``: all that a run depends on, resolved and refused before anything is played."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from harness import official, registry
from harness.config import AgentConfig
from harness.env import Environment
from harness.errors import ConfigError
from harness.jobs import check_data
from harness.protocol import Preset
from harness.runs import RunMeta, new_run_id, provenance
from harness.tasksets import TaskSet, is_builtin

#: Keyword ``data`` of an environment that plays what comes with it.
BUILTIN = "builtin"
#: Options of a language model that a run may change.
DECODING = ("decode", "temperature")
#: Options of an agent that mean nothing without admissible actions, by the value that asks for it.
HELD = {"decode": "admissible", "show_actions": True}


def plan(
    agent: str | AgentConfig,
    env: str,
    *,
    tasks: str | TaskSet | None = None,
    kind: str = "run",
    env_options: dict[str, Any] | None = None,
    protocol: str | None = None,
    max_steps: int | None = None,
    max_tokens: int | None = None,
    repeat_limit: int | None = None,
    seeds: Sequence[int] = (0,),
    attempts: int = 1,
    reference: str | None = None,
    workers: int | None = None,
    decode: str | None = None,
    temperature: float | None = None,
    error_rate: float = 0.0,
    errors_from: str | None = None,
    parents: Sequence[str] = (),
) -> RunMeta:
    """Resolve everything a run depends on, and refuse what cannot be, before anything is played.

    ``protocol`` names rules of play that the environment knows from its literature, with the tasks
    that go with them where ``env_options`` name real data and ``tasks`` is None; ``max_steps``,
    ``max_tokens`` and ``repeat_limit`` (see ``Protocol``) change limits of it, and so the task set.
    ``decode`` ("admissible": only actions that the environment admits) and ``temperature`` (0:
    greedily) play a language model in another way than its config, as an agent of its own name.
    ``env_options`` are constructor keywords of the environment; those a task set names as
    deciding a score make another task set, the rest (``data``, ``engine``) say where and how.
    """
    config = registry.agent_config(agent) if isinstance(agent, str) else agent
    config = _asked(config, {"decode": decode, "temperature": temperature})
    cls = registry.env_class(env)
    check_listed(config.name, config.options, env)
    real = (env_options or {}).get("data", BUILTIN) != BUILTIN
    if protocol is not None and tasks is None and real:
        tasks = _its_tasks(registry.preset(cls, env, protocol), env, protocol)
    task_set = tasks if isinstance(tasks, TaskSet) else registry.task_set(env, tasks)
    if real and is_builtin(task_set.name):
        real_sets = [name for name in registry.task_set_names(env) if not is_builtin(name)]
        raise ConfigError(
            f"'{task_set.name}' is of tasks that come with {env}, not of the data that --data "
            f"names. Leave --data out, or say with --tasks which of its tasks to play: "
            f"{', '.join(real_sets)}, or the file of a frozen set."
        )
    task_set.check()
    if task_set.env != env:
        raise ConfigError(f"Task set '{task_set.name}' is of '{task_set.env}', not '{env}'.")
    if isinstance(seeds, int):
        raise ConfigError(f"seeds lists them, each an episode of every task: seeds=range({seeds}).")
    if attempts < 1 or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("A run needs at least one attempt and one seed, no seed twice.")
    if not 0.0 <= error_rate < 1.0:
        raise ConfigError(f"--error-rate is a probability below 1, not {error_rate:g}.")
    if errors_from is not None and not error_rate:
        raise ConfigError("--errors-from says who slips: it goes with --error-rate above 0.")
    registry.check_env_options(cls, env, env_options or {})
    scoring = {k: v for k, v in (env_options or {}).items() if k in cls.scoring_options}
    if protocol is not None:
        task_set = registry.under(task_set, protocol)
    plain = {k: v for k, v in (env_options or {}).items() if k not in scoring}
    drawn = {key: scoring[key] for key in cls.task_options if key in scoring}
    if any(value != task_set.options.get(key) for key, value in drawn.items()):
        # Other tasks under the same ids: the environment tells what they are made of, once its
        # data are known to be those of the set.
        if all(task_set.content):
            check_data(partial(cls, **{**task_set.options, **plain}), task_set)
        task_set = msgspec.structs.replace(task_set, content=("",) * len(task_set.tasks))
    task_set = task_set.varied(
        max_steps=max_steps, max_tokens=max_tokens, repeat_limit=repeat_limit, options=scoring
    )
    for key in cls.places:
        place = plain.get(key)
        if isinstance(place, str | Path) and os.path.exists(os.path.expanduser(place)):
            plain[key] = official.absolute(place)  # the run may go on from another folder
    task_set = _told(task_set, cls, plain)
    meta = RunMeta(
        run_id="",
        kind=kind,
        agent=config,
        task_set=task_set,
        task_set_hash=task_set.hash,
        env_version=cls.version,
        env_options=plain,
        seeds=tuple(seeds),
        attempts=attempts,
        # Traces to learn from are not compared with anything unless asked.
        reference=reference or (task_set.reference if kind == "run" else None),
        policy={},
        workers=workers or registry.default_workers(config),
        error_rate=error_rate,
        errors_from=errors_from,
        parents=tuple(parents),
    )
    return msgspec.structs.replace(meta, run_id=new_run_id(meta), **provenance())


def _asked(config: AgentConfig, options: dict[str, Any]) -> AgentConfig:
    """The agent that decodes as asked (None: as its config says), under a name of its own."""
    for key, value in options.items():
        if value is None:
            continue
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise ConfigError(f"--{key} is 0 or more, and finite, not {value}.")
        if not registry.takes(config, key):
            raise ConfigError(
                f"--{key} is for agents that a language model plays; '{config.name}' (policy "
                f"'{config.policy}') is none."
            )
        if value == registry.option(config, key):
            continue
        name = f"{config.name}+{value if isinstance(value, str) else f't{value!r}'}"
        config = msgspec.structs.replace(config, name=name, options={**config.options, key: value})
    return config


def check_listed(agent: str, options: Mapping[str, Any], env: str) -> None:
    """Refuse an agent whose options mean nothing where an environment lists no admissible
    actions."""
    held = [f"{key} = {value!r}" for key, value in HELD.items() if options.get(key) == value]
    if held and registry.env_class(env).lists_actions is False:
        raise ConfigError(
            f"Agent '{agent}' ({', '.join(held)}) needs admissible actions, and {env} lists none: "
            "its actions are free text. Take the option out, or another environment."
        )


def _told(task_set: TaskSet, cls: type[Environment], options: dict[str, Any]) -> TaskSet:
    """The set with the content that a named one leaves empty, asked of the environment."""
    if all(task_set.content):
        return task_set
    env = cls(**{**task_set.options, **options})
    try:
        told = zip(task_set.tasks, task_set.content, strict=True)
        content = tuple(known or env.content_hash(task.id) for task, known in told)
    finally:
        env.close()
    return msgspec.structs.replace(task_set, content=content)


def _its_tasks(preset: Preset, env: str, name: str) -> str:
    """The task set that goes with a preset."""
    if preset.tasks is None:
        raise ConfigError(
            f"Protocol '{name}' of '{env}' has no task set here ({preset.plays}): say which tasks "
            f"to play under it with --tasks. See `harness list tasks` and `list protocols {name}`."
        )
    return preset.tasks

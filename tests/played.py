"""Episodes of agents without a language model, for the tests of what they promise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import registry
from harness.loop import play_episode
from harness.policy import Policy
from harness.protocol import Protocol
from harness.types import Decision, Episode


def played(
    policy: Policy, tasks: str, *, every: int = 1, max_steps: int | None = None, **options: Any
) -> list[Episode]:
    """Episodes on a task set (``env/name``) by its rules, or within ``max_steps``; a fault fails
    the test."""
    name = tasks.partition("/")[0]
    found = registry.task_set(name, tasks)
    if getattr(policy, "privileged", False):
        options["reveal"] = True
    env = registry.env_class(name)(**options)
    protocol = found.protocol if max_steps is None else Protocol(max_steps)
    episodes = [
        play_episode(policy, env, task, agent="a", protocol=protocol)
        for task in found.tasks[::every]
    ]
    faults = [e.error for e in episodes if e.error is not None]
    assert not faults, faults[0]
    return episodes


def share(episodes: Sequence[Episode]) -> float:
    """Of them that were won."""
    return sum(e.success for e in episodes) / len(episodes)


def told(episodes: Sequence[Episode]) -> list[list[Decision]]:
    """What was decided, step by step."""
    return [[s.decision for s in e.steps] for e in episodes]

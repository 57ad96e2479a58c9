"""``verify``: plays a run's recorded decisions again and compares all that the environment said.

    recorded episode -> its decisions, one by one -> the same loop, a fresh environment -> equal?

A published run is checked with one command: same data, same observations, same outcome.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from harness import api
from harness.errors import AgentError
from harness.loop import play_episode
from harness.runs import Run
from harness.types import Decision, Episode, Outcome, Step


class Difference(msgspec.Struct, frozen=True):
    """The first thing that an episode played again shows otherwise."""

    task_id: str
    seed: int
    attempt: int
    #: Number of the step, from 1; None: the episode's end.
    step: int | None
    field: str
    recorded: Any
    found: Any


class Recorded:
    """A policy that decides as an episode recorded."""

    def __init__(self, episode: Episode) -> None:
        self.decisions = [s.decision for s in episode.steps if not s.forced]

    def act(self, instruction: str, history: Sequence[Step], observation: str) -> Decision:
        if len(history) >= len(self.decisions):
            raise AgentError("the record ends here, but the episode goes on")
        return self.decisions[len(history)]


def verify(run: Run) -> Iterator[tuple[Episode, Difference | None]]:
    """Yield each recorded episode with its first difference (None: equal in everything).

    Episodes that broke have no outcome to reproduce and are left out. Raises DataError when the
    data here are not those of the run's task set.
    """
    meta = run.meta
    make_env = api.env_maker(meta, reveal=False)
    api.check_data(make_env, meta.task_set)
    env = make_env()
    try:
        for episode in run.episodes():
            if episode.outcome is Outcome.ERROR:
                continue
            again = play_episode(
                Recorded(episode), env, episode.task, agent=episode.agent,
                protocol=meta.task_set.protocol, attempt=episode.attempt,
            )  # fmt: skip
            yield episode, first_difference(episode, again)
    finally:
        env.close()


def first_difference(recorded: Episode, found: Episode) -> Difference | None:
    """The first difference of two episodes of one task; times and the agent's name do not count."""
    task, seed, attempt = recorded.key

    def differ(step: int | None, field: str, ours: Any, theirs: Any) -> Difference:
        return Difference(task, seed, attempt, step, field, ours, theirs)

    if recorded.instruction != found.instruction:
        return differ(None, "instruction", recorded.instruction, found.instruction)
    for number, (a, b) in enumerate(zip(recorded.steps, found.steps, strict=False), 1):
        for field in ("observation", "reward", "invalid", "executed", "forced"):
            ours, theirs = getattr(a, field), getattr(b, field)
            if ours != theirs:
                return differ(number, field, ours, theirs)
    if found.error is not None:
        return differ(len(found.steps) + 1, "error", None, found.error.message)
    if len(recorded.steps) != len(found.steps):
        return differ(None, "steps", len(recorded.steps), len(found.steps))
    for field in ("final_observation", "outcome", "success", "score", "measures", "task_type"):
        ours, theirs = getattr(recorded, field), getattr(found, field)
        if ours != theirs:
            return differ(None, field, ours, theirs)
    return None

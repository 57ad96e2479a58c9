"""``verify``: plays a run's recorded decisions again and compares all that the environment said.

    recorded episode -> its decisions, one by one -> the same loop, a fresh environment -> equal?

A published run is checked with one command: same data, every episode there once, same
observations, same outcome, and metrics that say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from harness import jobs, registry
from harness.errors import AgentError, ConfigError, TraceError
from harness.loop import play_episode
from harness.metrics import EpisodeMetrics, measure
from harness.policy import ContextOverflow
from harness.runs import METRICS, Run, RunMeta, check_description, read_metrics
from harness.types import Decision, Episode, Outcome, Step

#: What a metrics row holds beside the play: times, what the model's cache did (older rows lack it),
#: and what takes another trace or package.
_NOT_PLAYED = frozenset({
    "seconds", "policy_seconds", "env_seconds", "model_seconds", "waiting_seconds",
    "sampled_tokens", "cached_tokens", "reread_tokens", "extra",
    "cot_overlap", "cot_precision", "cot_f1", "cot_floor", "cot_floor_f1", "cot_ceiling",
    "cot_ceiling_f1",
})  # fmt: skip
#: What rows of older versions do not tell.
_NEWER = frozenset({"format_errors", "loops"})

Key = tuple[str, int, int]


class Difference(msgspec.Struct, frozen=True):
    """The first thing that an episode played again shows otherwise, or what a run lacks."""

    task_id: str
    seed: int
    attempt: int
    #: Number of the step, from 1; None: the episode as a whole.
    step: int | None
    field: str
    recorded: Any
    found: Any


class Recorded:
    """A policy that decides as an episode recorded, and gives up where its window was full."""

    def __init__(self, episode: Episode) -> None:
        self.decisions = [s.decision for s in episode.steps if not s.forced]
        self.overflows = episode.outcome is Outcome.CONTEXT

    def act(self, instruction: str, history: Sequence[Step], observation: str) -> Decision:
        if len(history) < len(self.decisions):
            return self.decisions[len(history)]
        if self.overflows:
            raise ContextOverflow
        raise AgentError("the record ends here, but the episode goes on")


def verify(
    run: Run, env_options: dict[str, Any] | None = None
) -> Iterator[tuple[Episode | None, Difference | None]]:
    """Yield each recorded episode with its first difference (None: equal in everything), then
    each episode that the run should hold and does not, as a difference alone.

    An episode that broke has no outcome to reproduce: only its metrics are compared. A run that
    was stopped may lack episodes and metrics. ``env_options`` replace the run's: where the data
    are here. Raises ConfigError for an imported run, TraceError for a description that contradicts
    itself, and DataError when the data here are not those of the run's task set.
    """
    check_meta(run)
    meta = played_here(run.meta, env_options or {})
    make_env = jobs.env_maker(meta, reveal=False)
    jobs.check_data(make_env, meta.task_set)
    complete = meta.status == "complete"
    tasks = {j.key: j.task for j in jobs.all_jobs(meta)}
    due: dict[Key, bool] = dict.fromkeys(tasks, True)
    rows = _rows(run) if complete or (run.path / METRICS).exists() else None
    env = make_env()
    try:
        for episode in run.episodes():
            row = rows.pop(episode.key, None) if rows is not None else None
            if not due.get(episode.key):
                held = "a second time" if episode.key in due else "not of this run"
                yield episode, _whole(episode.key, "record", held, None)
                continue
            due[episode.key] = False
            if episode.task != tasks[episode.key]:
                yield episode, _whole(episode.key, "task", episode.task, tasks[episode.key])
                continue
            again = episode
            if episode.outcome is not Outcome.ERROR:
                again = play_episode(
                    Recorded(episode), env, episode.task, agent=episode.agent,
                    protocol=meta.task_set.protocol, attempt=episode.attempt,
                )  # fmt: skip
            difference = first_difference(episode, again)
            if difference is None and rows is not None:
                difference = _metrics_difference(row, again, meta)
            yield episode, difference
    finally:
        env.close()
    if complete:
        for key in (key for key, missing in due.items() if missing):
            yield None, _whole(key, "record", None, "an episode of this run")
    for key, row in (rows or {}).items():
        if not due.get(key):
            yield None, _whole(key, "metrics", msgspec.to_builtins(row), None)


def check_meta(run: Run) -> None:
    """Refuse a description that contradicts itself, or another version of the environment."""
    run.check_recorded()
    if run.meta.kind == "import":
        raise ConfigError(f"{run.path} was imported, not played here: nothing can be played again.")
    check_description(run)
    check_version(run)


def played_here(meta: RunMeta, env_options: dict[str, Any]) -> RunMeta:
    """The description of a run whose data lie elsewhere now: ``env_options`` in place of its own.

    Raises ConfigError for one that the environment does not have.
    """
    name = meta.task_set.env
    registry.check_env_options(registry.env_class(name), name, env_options)
    return msgspec.structs.replace(meta, env_options={**meta.env_options, **env_options})


def check_version(run: Run) -> None:
    """Refuse a run of another version of its environment than is here."""
    meta = run.meta
    here = registry.env_class(meta.task_set.env).version
    if meta.env_version != here:
        raise TraceError(
            f"{run.path} was played in version {meta.env_version} of '{meta.task_set.env}'; "
            f"version {here} is installed. Verify it with that of the run."
        )


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
    if found.error is not None and recorded.error is None:
        return differ(len(found.steps) + 1, "error", None, found.error.message)
    if len(recorded.steps) != len(found.steps):
        return differ(None, "steps", len(recorded.steps), len(found.steps))
    for field in ("final_observation", "outcome", "success", "score", "measures", "task_type"):
        ours, theirs = getattr(recorded, field), getattr(found, field)
        if ours != theirs:
            return differ(None, field, ours, theirs)
    return None


def _rows(run: Run) -> dict[Key, EpisodeMetrics]:
    rows = read_metrics(run.path / METRICS)
    found = {row.key: row for row in rows}
    if len(found) < len(rows):
        raise TraceError(f"{run.path / METRICS}: some episode has two rows.")
    return found


def _metrics_difference(
    row: EpisodeMetrics | None, episode: Episode, meta: RunMeta
) -> Difference | None:
    if row is None:
        return _whole(episode.key, "metrics", None, "a row of this episode")
    right = measure(episode, protocol=meta.task_set.protocol)
    for field in EpisodeMetrics.__struct_fields__:
        ours, theirs = getattr(row, field), getattr(right, field)
        if field in _NOT_PLAYED or (ours is None and field in _NEWER):
            continue
        if ours != theirs:
            return _whole(episode.key, f"metrics, {field}", ours, theirs)
    for name, theirs in right.extra.items():
        if row.extra.get(name) != theirs:
            return _whole(episode.key, f"metrics, {name}", row.extra.get(name), theirs)
    return None


def _whole(key: Key, field: str, recorded: Any, found: Any) -> Difference:
    return Difference(*key, None, field, recorded, found)

"""A planned run is played, recorded and measured, here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from harness import registry, remote
from harness.cost import Cost, cost_of, total
from harness.cot import Reference
from harness.cot import references as cot_references
from harness.env import Environment
from harness.errors import ConfigError, DataError, TraceError, unknown
from harness.metrics import EpisodeMetrics, measure
from harness.overlap import TrainedOn, overlap
from harness.planning import plan
from harness.policy import Policy, differences
from harness.recorder import EPISODES, Recorder, read_episodes
from harness.runner import Job, Limits, play_all
from harness.runs import (
    META,
    RESULTS,
    Run,
    RunMeta,
    check_description,
    complete,
    open_run,
    read_meta,
    write_meta,
    write_metrics,
)
from harness.tasksets import TaskSet
from harness.types import Episode, Outcome

#: Called with each finished episode and the number of episodes in the run.
OnEpisode = Callable[[Episode, int], None]


def execute(
    meta: RunMeta,
    folder: Path,
    out: Path,
    limits: Limits | None,
    on_episode: OnEpisode | None,
    policy: Policy | None,
    retry_errors: bool = False,
) -> Run:
    """Play in ``folder`` what a planned run still lacks, and measure it against references that are
    kept in ``out``. ``policy`` None: the agent's own, closed in the end.

    Raises ConfigError or DataError, before anything is played, for what scoring would break on,
    data that are not the task set's, and another policy than that of the episodes there.
    """
    _check_scoring(meta, out)
    own = policy is None
    if policy is None:
        if meta.agent.role == registry.OBJECT:
            raise ConfigError(f"{folder}: {_needs_object(meta.agent.policy)}")
        policy = registry.build_policy(meta.agent)
    playing = policy
    try:
        if meta.error_rate:
            playing = registry.with_errors(policy, meta.error_rate, meta.errors_from)
        described = _described(playing, None if own else registry.class_of(policy))
        make_env = env_maker(meta, getattr(policy, "privileged", False))
        check_data(make_env, meta.task_set)
        _check_policy(folder, described, retry_errors)
        if (folder / META).is_file():
            Run(folder).check_episodes()
        if retry_errors:
            _set_errors_aside(folder)
        with Recorder(folder) as recorder:
            learned: TrainedOn | None = getattr(policy, "trained_on", None)
            met = learned and overlap(learned, meta.task_set.env, meta.task_set.tasks)
            meta = msgspec.structs.replace(
                meta, policy=described, overlap=met, status="running", episodes_hash=None
            )
            write_meta(folder, meta)
            jobs = [j for j in all_jobs(meta) if _key(j) not in recorder.keys]
            costs = [(meta.cost if recorder.keys else None) or Cost()]
            began = time.perf_counter()
            try:
                for episode in play_all(
                    jobs,
                    playing,
                    make_env,
                    agent=meta.agent.name,
                    protocol=meta.task_set.protocol,
                    workers=meta.workers,
                    limits=limits,
                ):
                    recorder.write(episode)
                    costs.append(cost_of(episode))
                    if on_episode is not None:
                        on_episode(episode, meta.n_episodes)
            finally:
                costs.append(Cost(wall_seconds=time.perf_counter() - began))
                meta = msgspec.structs.replace(meta, cost=total(costs))
                write_meta(folder, meta)
    finally:
        if playing is not policy:
            _close(playing)
        if own:
            _close(policy)
    score(folder, out)
    return complete(folder)


def _close(policy: Policy) -> None:
    getattr(policy, "close", lambda: None)()


def all_jobs(meta: RunMeta) -> list[Job]:
    """Every episode of a run: tasks x seeds x attempts."""
    return [
        Job(msgspec.structs.replace(task, seed=seed), attempt)
        for task in meta.task_set.tasks
        for seed in meta.seeds
        for attempt in range(meta.attempts)
    ]


def env_maker(meta: RunMeta, reveal: bool) -> Callable[[], Environment]:
    """A constructor of the run's environment; in a process of its own where it must be."""
    cls = registry.env_class(meta.task_set.env)
    keywords = {**meta.task_set.options, **meta.env_options}
    if reveal:
        keywords["reveal"] = True
    if cls.shareable:
        return lambda: cls(**keywords)
    return lambda: remote.RemoteEnvironment(meta.task_set.env, keywords)


def check_data(make_env: Callable[[], Environment], task_set: TaskSet) -> None:
    """Refuse data whose tasks are not the task set's: another version would score another thing."""
    env = make_env()
    try:
        for task, expected in zip(task_set.tasks, task_set.content, strict=True):
            found = env.content_hash(task.id)
            if found != expected:
                raise DataError(
                    f"Task '{task.id}' is not the one that task set '{task_set.name}' means: its "
                    f"data hash to {found}, the set says {expected}.\n"
                    f"  Get the matching data with `harness fetch {task_set.env}`."
                )
    finally:
        env.close()


def score(
    path: str | Path,
    out: str | Path = RESULTS,
    *,
    reference: str | None = None,
    ceiling: str | None = None,
) -> list[EpisodeMetrics]:
    """Rebuild metrics.jsonl from the episodes; no new play but, once, the reference traces'.

    Another ``reference`` or ``ceiling`` (a run of the reference's agent, whose episodes of other
    seeds or attempts tell how well the agent matches itself) than the run's becomes the run's: rows
    say what they were measured with. Raises TraceError for a description that was changed, for an
    episode that is not of the run, and for one that is recorded twice; ConfigError for a ceiling of
    another agent, or with no further sampling of any reference.
    """
    folder = Path(path)
    run = Run(folder)
    check_description(run)
    meta = run.meta
    if reference not in (None, meta.reference):
        meta = msgspec.structs.replace(meta, reference=reference, ceiling=ceiling)
    elif ceiling is not None:
        meta = msgspec.structs.replace(meta, ceiling=ceiling)
    found = references(meta, Path(out))
    others = _further_metrics()
    rows = []
    seen = set()
    for episode in read_episodes(folder / EPISODES):
        if episode.key in seen or not run.holds(episode.key):
            why = "recorded twice" if episode.key in seen else "not of this run"
            raise TraceError(
                f"{folder / EPISODES}: the episode {episode.key} is {why}. "
                f"`harness verify {folder}` tells all such episodes; remove their lines."
            )
        seen.add(episode.key)
        against = found.get(episode.task.id)
        other = against.episode if against else None
        extra = {name: metric(episode, other) for name, metric in others.items()}
        rows.append(measure(episode, against, extra, meta.task_set.protocol))
    if (reference, ceiling) != (None, None):
        write_meta(folder, meta)
    write_metrics(folder, rows)
    return rows


def references(meta: RunMeta, out: Path) -> dict[str, Reference]:
    """What each task's episodes are measured against (``harness.cot.references``)."""
    run = reference_run(meta, out, meta.reference)
    if run is None:
        return {}
    again = run if meta.ceiling is None else open_run(meta.ceiling)
    if again.meta.agent.name != run.meta.agent.name:
        raise ConfigError(
            f"{again.path} is a run of '{again.meta.agent.name}', but the reference is of "
            f"'{run.meta.agent.name}': a ceiling tells how well the reference's agent matches "
            "itself. Name another run of it with --ceiling."
        )
    tasks = [task.id for task in meta.task_set.tasks]
    group = registry.env_class(meta.task_set.env).group
    found = cot_references(run.episodes, again.episodes, tasks, group, meta.task_set.protocol)
    if meta.ceiling is not None and not any(r.second for r in found.values()):
        raise ConfigError(
            f"{again.path} holds no further sampling of a reference: its episodes are of other "
            "tasks, or of the reference's own seeds and attempts. Record one with "
            f"`harness run --agent {again.meta.agent.name} --attempts 2`."
        )
    return found


def reference_run(meta: RunMeta, out: Path, reference: str | None) -> Run | None:
    """The run of reference traces: a recorded one, or an agent's, played twice a task once per task
    set and kept beside the runs (the second attempt is the ceiling). Only won episodes serve as
    reference."""
    if reference is None or meta.kind == "reference":
        return None
    if reference not in registry.agent_configs():
        try:
            return open_run(reference)
        except ConfigError as error:
            known = registry.agent_configs()
            raise ConfigError(unknown("reference", reference, known, _OTHER_REFERENCE)) from error
    folder = reference_folder(meta, out, reference)
    if not _is_played(folder):
        options = {**meta.task_set.options, **meta.env_options}
        base = plan(reference, meta.task_set.env, tasks=meta.task_set, kind="reference",
                    env_options=options, attempts=2, workers=1)  # fmt: skip
        base = msgspec.structs.replace(base, run_id=folder.name, reference=None)
        execute(base, folder, out, None, None, None)
    return Run(folder)


_OTHER_REFERENCE = (
    "A reference is a run folder or an agent. A recorded run takes another one by "
    "`harness score RUN --reference REFERENCE`, and goes on with `harness run --resume RUN`."
)


def _is_played(folder: Path) -> bool:
    return (folder / EPISODES).exists() and read_meta(folder).status == "complete"


def _check_scoring(meta: RunMeta, out: Path) -> None:
    """Refuse beforehand what scoring would break on, when all is played."""
    _further_metrics()
    reference = meta.reference
    if reference is None or meta.kind == "reference":
        return
    config = registry.agent_configs().get(reference)
    if config is None:
        reference_run(meta, out, reference)  # a recorded one: it is opened
    elif not _is_played(reference_folder(meta, out, reference)):
        why = registry.missing(config)
        if why is not None:
            raise ConfigError(
                f"The reference '{reference}' cannot be played: {why}\n  {_OTHER_REFERENCE}"
            )


def _further_metrics() -> dict[str, Any]:
    return {name: registry.load("metrics", name, "metric") for name in registry.names("metrics")}


def reference_folder(meta: RunMeta, out: Path, reference: str) -> Path:
    return out / meta.task_set.env / reference / f"reference-{meta.task_set_hash}"


def _key(job: Job) -> tuple[str, int, int]:
    return (job.task.id, job.task.seed, job.attempt)


def _described(playing: Policy, given: str | None) -> dict[str, Any]:
    """What a policy says of itself, and the class of an object that was ``given``."""
    said: dict[str, Any] = getattr(playing, "describe", dict)()
    try:
        msgspec.json.encode(said)
        return {**said} if given is None else {"object": given, **said}
    except TypeError as error:
        raise ConfigError(
            f"{type(playing).__name__}.describe() is for run.json: a dict of what JSON can hold "
            f"({error})."
        ) from error


def _needs_object(played: str) -> str:
    return (
        f"it was played by an object of {played}, which no config can make again. "
        "Pass one: harness.resume(RUN, policy=...)."
    )


def _check_policy(folder: Path, described: dict[str, Any], retry_errors: bool) -> None:
    """Refuse a policy that is not the one of the episodes that are there and stay."""
    file = folder / EPISODES
    episodes = read_episodes(file) if file.is_file() else iter(())
    if not any(e.outcome is not Outcome.ERROR or not retry_errors for e in episodes):
        return
    meta = read_meta(folder)
    was, now = meta.policy.get("object"), described.get("object")
    if was is not None and now is None:
        raise ConfigError(f"{folder}: {_needs_object(was)}")
    if was != now:
        raise ConfigError(
            f"{folder}: its episodes were played by {was or 'the policy of its own config'}, not "
            f"by {now}: one run holds one policy's episodes. Begin a new run."
        )
    # Compared as written: tuples come back as lists.
    if differ := differences(meta.policy, msgspec.json.decode(msgspec.json.encode(described))):
        again = f"delete {folder}" if meta.kind == "reference" else "begin a new run"
        raise ConfigError(
            f"{folder}: its episodes were played by another policy than agent '{meta.agent.name}' "
            f"is now: {', '.join(differ)}.\n"
            f"  Put back what it was begun with, or {again}: one run holds one policy's episodes."
        )


def _set_errors_aside(folder: Path) -> None:
    """Move error records out of episodes.jsonl: nothing is lost, and they are played again."""
    file = folder / EPISODES
    encode = msgspec.json.Encoder().encode
    kept: list[bytes] = []
    broken: list[bytes] = []
    for episode in read_episodes(file) if file.exists() else ():
        (broken if episode.outcome is Outcome.ERROR else kept).append(encode(episode) + b"\n")
    if not broken:
        return
    with open(folder / "episodes.errors.jsonl", "ab") as aside:
        aside.write(b"".join(broken))
    temporary = file.with_suffix(".tmp")
    temporary.write_bytes(b"".join(kept))
    temporary.replace(file)

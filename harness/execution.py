"""A planned run is played, recorded and measured, here and nowhere else."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from harness import registry, remote
from harness.cost import Cost, cost_of, total
from harness.cot import Reference, fingerprint
from harness.cot import references as cot_references
from harness.env import Environment
from harness.errors import ConfigError, DataError, EpisodeError, TraceError, unknown
from harness.metrics import EpisodeMetrics, measure
from harness.overlap import TrainedOn, overlap
from harness.planning import plan
from harness.policy import Policy, differences
from harness.recorder import EPISODES, ERRORS, Recorder, open_to_append, read_episodes
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
#: A run whose first so many episodes all broke is stopped: what is the matter is not the tasks.
HOPELESS = 10


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
    meta = _scorable(meta, out, folder)
    own = policy is None
    if policy is None:
        if meta.agent.role == registry.OBJECT:
            raise ConfigError(f"{folder}: {_needs_object(meta.agent.policy)}")
        policy = registry.build_policy(meta.agent)
    playing = policy
    with ExitStack() as held:
        try:
            if meta.error_rate:
                playing = registry.with_errors(policy, meta.error_rate, meta.errors_from)
            described = _described(playing, None if own else registry.class_of(policy))
            make_env = env_maker(meta, getattr(playing, "privileged", False))
            _check_version(folder, meta)
            check_data(make_env, meta.task_set)
            _check_policy(folder, described, retry_errors)
            if (folder / META).is_file():
                Run(folder).check_episodes()
            # Reference traces are shared: two runs may need them at once.
            shared = meta.kind == "reference" and not retry_errors
            recorder = held.enter_context(Recorder(folder, wait=shared))
            if shared and _is_played(folder):
                return Run(folder)
            # Before errors are set aside: a run that is killed in between is one to go on with.
            spent = _spent(meta, folder)
            meta = msgspec.structs.replace(
                meta, status="running", episodes_hash=None, cost=spent if spent.episodes else None
            )
            write_meta(folder, meta)
            if retry_errors:
                recorder.set_errors_aside()
            learned: TrainedOn | None = getattr(policy, "trained_on", None)
            met = learned and overlap(learned, meta.task_set.env, meta.task_set.tasks)
            meta = msgspec.structs.replace(meta, policy=described, overlap=met)
            write_meta(folder, meta)
            _play(meta, playing, make_env, recorder, limits, on_episode)
        finally:
            if playing is not policy:
                _close(playing)
            if own:
                _close(policy)
        _score(folder, out, None, None)
        return complete(folder)


def _play(
    meta: RunMeta,
    policy: Policy,
    make_env: Callable[[], Environment],
    recorder: Recorder,
    limits: Limits | None,
    on_episode: OnEpisode | None,
) -> None:
    """Play and record what is not recorded; in the end, however it comes, note what it cost."""
    jobs = [j for j in all_jobs(meta) if _key(j) not in recorder.keys]
    # How many broke, while none did not. A reference is played for others, whatever it comes to.
    broken = 0 if meta.kind != "reference" else None
    costs = [meta.cost or Cost()]
    began = time.perf_counter()

    def note_cost() -> None:
        wall = time.perf_counter() - began if jobs else 0.0
        spent = total([*costs, Cost(wall_seconds=wall)])
        write_meta(recorder.path.parent, msgspec.structs.replace(meta, cost=spent))

    try:
        for episode in play_all(
            jobs,
            policy,
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
            broken = broken + 1 if broken is not None and episode.error is not None else None
            if broken == HOPELESS and broken < len(jobs):
                assert episode.error is not None
                raise EpisodeError(
                    f"The first {broken} episodes all broke, so the run was stopped; the last:\n"
                    f"  {episode.error.message}\n  They are recorded. Once that is mended, go on "
                    f"with `harness run --resume {recorder.path.parent} --retry-errors`."
                )
    except BaseException:
        with suppress(OSError):  # of a full disk, say: what broke first tells what to do
            note_cost()
        raise
    note_cost()


def _spent(meta: RunMeta, folder: Path) -> Cost:
    """What the episodes in a folder cost, those too that were set aside: as noted, or, where a
    session was killed before it could note it, by the episodes alone. How long that took on the
    wall clock is not known."""
    files = [file for file in (folder / EPISODES, folder / ERRORS) if file.is_file()]
    played = sum(1 for file in files for _ in read_episodes(file))
    noted = (meta.cost if played else None) or Cost()
    if noted.episodes >= played:
        return noted
    found = total([cost_of(episode) for file in files for episode in read_episodes(file)])
    return msgspec.structs.replace(found, wall_seconds=None)


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


def _check_version(folder: Path, meta: RunMeta) -> None:
    """Refuse to go on in another version of the environment: one score of two things."""
    here = registry.env_class(meta.task_set.env).version
    if meta.env_version != here:
        raise ConfigError(
            f"{folder} was begun in version {meta.env_version} of '{meta.task_set.env}', {here} is "
            "installed. Go on in that version, or play all of it anew as a run of its own."
        )


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
    say what they were measured with. Raises TraceError, and writes nothing, for a description or
    episodes that were changed, a run that came without its episodes or has lost some, an episode
    that is not of the run, and one that is recorded twice; ConfigError for a run that is being
    written, and a ceiling of another agent, or with no further sampling of any reference.
    """
    folder = Path(path)
    Run(folder).check_whole()  # before it is opened, which cuts a torn last line
    with open_to_append(folder / EPISODES):
        return _score(folder, Path(out), reference, ceiling)


def _score(
    folder: Path, out: Path, reference: str | None, ceiling: str | None
) -> list[EpisodeMetrics]:
    """``score``, for who holds the run's lock."""
    run = Run(folder)
    check_description(run)
    asked = reference or run.meta.reference
    meta = _scorable(msgspec.structs.replace(run.meta, reference=asked), out, folder)
    was, now = (_place(told, folder) for told in (run.meta.reference, meta.reference))
    if ceiling is not None:
        ceiling = _noted(open_run(ceiling).path, folder)
    if ceiling is not None or (reference is not None and not _same(was, now)):
        meta = msgspec.structs.replace(meta, ceiling=ceiling)
    found = references(meta, out, folder)
    said = fingerprint(found) if found else None
    meta = msgspec.structs.replace(meta, reference_hash=said)
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
        trace = against.episode if against else None
        extra = {name: _value(name, metric, episode, trace) for name, metric in others.items()}
        rows.append(measure(episode, against, extra, meta.task_set.protocol))
    write_meta(folder, meta)
    write_metrics(folder, rows)
    return rows


def _value(name: str, metric: Any, episode: Episode, trace: Episode | None) -> float | None:
    """What a metric of another package says of an episode; not a finite number: None."""
    try:
        said = metric(episode, trace)
        if isinstance(said, str | bytes):
            raise TypeError(f"a number or None is expected, not {said!r:.40}")
        value = None if said is None else float(said)
    except Exception as error:
        raise ConfigError(
            f"The metric '{name}' ({registry.names('metrics')[name].value}) fails on the episode "
            f"{episode.key}: {type(error).__name__}: {error}\n  The episodes are recorded: mend or "
            "uninstall it, then go on with `harness run --resume RUN`."
        ) from error
    return value if value is not None and math.isfinite(value) else None


def _same(one: str | None, other: str | None) -> bool:
    """Whether two references are one, by its agent's name or by its folder."""
    if one is None or other is None:
        return one is other
    return one == other or Path(one).resolve() == Path(other).resolve()


def references(meta: RunMeta, out: Path, folder: Path) -> dict[str, Reference]:
    """What each task's episodes are measured against (``harness.cot.references``)."""
    run = reference_run(meta, out, _place(meta.reference, folder))
    if run is None:
        return {}
    ceiling = _place(meta.ceiling, folder)
    again = run if ceiling is None else open_run(ceiling)
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
            run = open_run(reference)
        except ConfigError as error:
            known = registry.agent_configs()
            raise ConfigError(unknown("reference", reference, known, _OTHER_REFERENCE)) from error
        run.check_recorded()
        return run
    folder = reference_folder(meta, out, reference)
    if not _is_played(folder):
        _check_playable(meta, reference)
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
    """A kill between the two files leaves one that is not."""
    if not (folder / META).is_file() or not (folder / EPISODES).is_file():
        return False
    return read_meta(folder).status == "complete" and not _is_published(folder)


def _check_playable(meta: RunMeta, reference: str) -> None:
    """Refuse an agent whose traces, of the version of the run's environment, cannot be had here."""
    env = meta.task_set.env
    why, here = registry.missing(registry.agent_configs()[reference]), registry.env_class(env)
    if meta.env_version != here.version:
        why = f"the run is of version {meta.env_version} of '{env}', {here.version} is installed."
    if why is not None:
        raise ConfigError(
            f"The reference '{reference}' cannot be played: {why}\n  {_OTHER_REFERENCE}"
        )


def _place(reference: str | None, folder: Path) -> str | None:
    """Where the reference is that run.json in ``folder`` tells: a relative path is as seen from a
    folder above, so that both may move together, and only then from this process's own."""
    if reference is None or reference in registry.agent_configs():
        return reference
    above = () if Path(reference).is_absolute() else folder.resolve().parents
    return str(next((f for f in (up / reference for up in above) if f.is_dir()), reference))


def _noted(path: Path, folder: Path) -> str:
    """How run.json in ``folder`` tells a reference that was named here (see ``_place``)."""
    here, full = Path.cwd(), path.resolve()
    if full.is_relative_to(here) and folder.resolve().is_relative_to(here):
        noted = str(full.relative_to(here))
        if _place(noted, folder) == str(full):
            return noted
    return str(full)


def _scorable(meta: RunMeta, out: Path, folder: Path) -> RunMeta:
    """The description with a recorded reference by its own folder: an agent's newest run may become
    another. Refuses beforehand what scoring would break on."""
    _further_metrics()
    reference = meta.reference
    if reference is None or meta.kind == "reference":
        return meta
    if reference in registry.agent_configs():
        if not _is_played(reference_folder(meta, out, reference)):
            _check_playable(meta, reference)
        return meta
    if (folder / META).is_file() and read_meta(folder).reference == reference:
        reference_run(meta, out, _place(reference, folder))
        return meta
    run = reference_run(meta, out, reference)
    if run is None:
        return meta
    return msgspec.structs.replace(meta, reference=_noted(run.path, folder))


def _further_metrics() -> dict[str, Any]:
    return {name: registry.load("metrics", name, "metric") for name in registry.names("metrics")}


def reference_folder(meta: RunMeta, out: Path, reference: str) -> Path:
    """Where an agent's traces of a run's tasks are: in the version of its environment. Those of
    another version keep the place that they have."""
    folder = out / meta.task_set.env / reference / f"reference-{meta.task_set_hash}"
    if (folder / META).is_file() and read_meta(folder).env_version != meta.env_version:
        return folder.with_name(f"{folder.name}-{meta.env_version}")
    return folder


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
    """Refuse a policy that is not the one of the episodes that are there and stay, or of those that
    a complete run came without: its weights must tell."""
    file = folder / EPISODES
    episodes = read_episodes(file) if file.is_file() else iter(())
    published = _is_published(folder)
    stay = any(e.outcome is not Outcome.ERROR or not retry_errors for e in episodes)
    if not (stay or published):
        return
    meta = read_meta(folder)
    again = f"delete {folder}" if meta.kind == "reference" else "begin a new run"
    if published and "weights_sha256" not in meta.policy.keys() & described.keys():
        raise ConfigError(
            f"{folder} is complete and came without its episodes: others played in their place "
            "would not be those that were scored.\n  Make them from its decisions (`harness "
            f"restore`), or {again}."
        )
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
        raise ConfigError(
            f"{folder}: its episodes were played by another policy than agent '{meta.agent.name}' "
            f"is now: {', '.join(differ)}.\n"
            f"  Put back what it was begun with, or {again}: one run holds one policy's episodes."
        )


def _is_published(folder: Path) -> bool:
    """Whether a run is complete and its episodes are not here."""
    file = folder / EPISODES
    recorded = file.is_file() and file.stat().st_size > 0
    return not recorded and (folder / META).is_file() and read_meta(folder).status == "complete"

"""A planned run is played, recorded and measured, here and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import msgspec

from harness import references, registry, scoring
from harness.cost import Cost, cost_of, total
from harness.env import Environment
from harness.errors import ConfigError, EpisodeError
from harness.jobs import all_jobs, check_data, env_maker
from harness.metrics import EpisodeMetrics
from harness.overlap import TrainedOn, overlap
from harness.planning import plan
from harness.policy import Policy, differences
from harness.recorder import EPISODES, ERRORS, Recorder, open_to_append, read_episodes
from harness.runner import Limits, play_all
from harness.runs import (
    META,
    RESULTS,
    Run,
    RunMeta,
    complete,
    read_meta,
    write_meta,
)
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
    scoring.further_metrics()  # of which one may not load
    meta = references.settle(meta, out, folder)
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
            if shared and references.is_played(folder):
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
        _score(folder, out)
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
    jobs = [j for j in all_jobs(meta) if j.key not in recorder.keys]
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


def _check_version(folder: Path, meta: RunMeta) -> None:
    """Refuse to go on in another version of the environment: one score of two things."""
    here = registry.env_class(meta.task_set.env).version
    if meta.env_version != here:
        raise ConfigError(
            f"{folder} was begun in version {meta.env_version} of '{meta.task_set.env}', {here} is "
            "installed. Go on in that version, or play all of it anew as a run of its own."
        )


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
    folder: Path, out: Path, reference: str | None = None, ceiling: str | None = None
) -> list[EpisodeMetrics]:
    """``score``, for who holds the run's lock."""
    meta = scoring.asked(folder, out, reference, ceiling)
    play_reference(meta, out)
    return scoring.write(folder, meta, out)


def play_reference(meta: RunMeta, out: Path) -> None:
    """Have the agent that a run is measured against play its traces, once per task set: twice a
    task, and the second attempt is the ceiling."""
    folder = references.unplayed(meta, out)
    if folder is None:
        return
    assert meta.reference is not None
    options = {**meta.task_set.options, **meta.env_options}
    base = plan(meta.reference, meta.task_set.env, tasks=meta.task_set, kind="reference",
                env_options=options, attempts=2, workers=1)  # fmt: skip
    base = msgspec.structs.replace(base, run_id=folder.name, reference=None)
    execute(base, folder, out, None, None, None)


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
    published = references.is_published(folder)
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

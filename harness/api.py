"""The Python API: ``make``, ``evaluate``, ``load``. The command is a thin layer over these."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import msgspec

from harness import registry, remote
from harness.config import AgentConfig
from harness.cost import Cost, cost_of, total
from harness.cot import Reference
from harness.cot import references as cot_references
from harness.env import Environment
from harness.errors import ConfigError, DataError, TraceError, unknown
from harness.metrics import EpisodeMetrics, measure
from harness.overlap import TrainedOn, overlap
from harness.policy import Policy, differences
from harness.protocol import Preset
from harness.recorder import EPISODES, Recorder, read_episodes
from harness.runner import Job, Limits, play_all
from harness.runs import (
    Run,
    RunMeta,
    check_description,
    new_run_id,
    open_run,
    provenance,
    read_meta,
    run_folder,
    utc_now,
    write_meta,
    write_metrics,
)
from harness.tasksets import TaskSet, is_builtin
from harness.types import Episode, Outcome

if TYPE_CHECKING:
    from harness.comparison import Comparison

RESULTS = Path("results")
#: Keyword ``data`` of an environment that plays what comes with it.
BUILTIN = "builtin"

#: What ``compare`` takes: a run or its folder, or several, one a training seed.
Side = Run | str | Path | Sequence[Run | str | Path]

#: Called with each finished episode and the number of episodes in the run.
OnEpisode = Callable[[Episode, int], None]


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
    error_rate: float = 0.0,
    errors_from: str | None = None,
    parents: Sequence[str] = (),
) -> RunMeta:
    """Resolve everything a run depends on, and refuse what cannot be, before anything is played.

    ``protocol`` names rules of play that the environment knows from its literature, with the tasks
    that go with them where ``env_options`` name real data and ``tasks`` is None; ``max_steps``,
    ``max_tokens`` and ``repeat_limit`` (see ``Protocol``) change limits of it, and so the task set.
    ``decode`` plays a language model in another way than its config ("admissible": only actions
    that the environment admits), as an agent of its own name.
    ``env_options`` are constructor keywords of the environment; those a task set names as
    deciding a score make another task set, the rest (``data``, ``engine``) say where and how.
    """
    config = registry.agent_config(agent) if isinstance(agent, str) else agent
    if decode not in (None, config.options.get("decode", "free")):
        # Another agent, under a name of its own.
        config = msgspec.structs.replace(
            config, name=f"{config.name}+{decode}", options={**config.options, "decode": decode}
        )
    cls = registry.env_class(env)
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
    if task_set.env != env:
        raise ConfigError(f"Task set '{task_set.name}' is of '{task_set.env}', not '{env}'.")
    if attempts < 1 or not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError("A run needs at least one attempt and one seed, no seed twice.")
    if not 0.0 <= error_rate < 1.0:
        raise ConfigError(f"--error-rate is a probability below 1, not {error_rate:g}.")
    registry.check_env_options(cls, env, env_options or {})
    scoring = {k: v for k, v in (env_options or {}).items() if k in cls.scoring_options}
    if protocol is not None:
        task_set = registry.under(task_set, protocol)
    task_set = task_set.varied(
        max_steps=max_steps, max_tokens=max_tokens, repeat_limit=repeat_limit, options=scoring
    )
    plain = {k: v for k, v in (env_options or {}).items() if k not in scoring}
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


def _its_tasks(preset: Preset, env: str, name: str) -> str:
    """The task set that goes with a preset."""
    if preset.tasks is None:
        raise ConfigError(
            f"Protocol '{name}' of '{env}' has no task set here ({preset.plays}): say which tasks "
            f"to play under it with --tasks. See `harness list tasks` and `list protocols {name}`."
        )
    return preset.tasks


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
        if options.get("decode") is not None:
            raise ConfigError(
                "'decode' is of an agent's config; a policy that is given has its own."
            )
        if config.role == registry.OBJECT:
            options["workers"] = options.get("workers") or int(getattr(policy, "workers", 4))
    meta = plan(config, env, tasks=tasks, **options)
    folder = run_folder(Path(out), env, meta.agent.name, meta.run_id)
    return _execute(meta, folder, Path(out), limits, on_episode, policy)


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
    return _execute(run.meta, run.path, out, limits, on_episode, policy, retry_errors)


def results_folder(run: Run) -> Path:
    """The folder that a run's ``<env>/<agent>/<run id>/`` stands in, however the run was named."""
    return run.path.resolve().parent.parent.parent


def _execute(
    meta: RunMeta,
    folder: Path,
    out: Path,
    limits: Limits | None,
    on_episode: OnEpisode | None,
    policy: Policy | None,
    retry_errors: bool = False,
) -> Run:
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
        if retry_errors:
            _set_errors_aside(folder)
        with Recorder(folder) as recorder:
            learned: TrainedOn | None = getattr(policy, "trained_on", None)
            met = learned and overlap(learned, meta.task_set.env, meta.task_set.tasks)
            meta = msgspec.structs.replace(meta, policy=described, overlap=met, status="running")
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
        for ours in (*([playing] if playing is not policy else []), *([policy] if own else [])):
            getattr(ours, "close", lambda: None)()
    score(folder, out)
    meta = msgspec.structs.replace(read_meta(folder), status="complete", finished=utc_now())
    write_meta(folder, meta)
    return Run(folder)


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
        _execute(base, folder, out, None, None, None)
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

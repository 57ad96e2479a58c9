"""Which runs and task sets the arguments of commands mean: folders and files, or names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness import registry
from harness.errors import ConfigError, unknown
from harness.leaderboard import unlike
from harness.runs import META, OnDamage, Run, find_runs, open_run
from harness.tasksets import SUFFIX, Frozen, named, split_slice, thaw

#: Hash of a task set, and version of its environment (``RunMeta.measure``).
_Measure = tuple[str, str]


def find_side(
    text: str,
    out: Path,
    env: str | None = None,
    tasks: str | None = None,
    on_damage: OnDamage | None = None,
) -> list[Run]:
    """``find_sides`` of one argument."""
    return find_sides([text], out, env, tasks, on_damage)[0]


def find_sides(
    texts: Sequence[str],
    out: Path,
    env: str | None = None,
    tasks: str | None = None,
    on_damage: OnDamage | None = None,
    *,
    task: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[list[Run]]:
    """Runs that each argument names: folders, or an agent whose newest complete run (of ``tasks``)
    counts; several joined by commas are replicates. Where agents have runs of several task sets,
    the one set counts that all arguments have runs of (and that holds ``task``), in one version of
    its environment: the newest.

    Damaged runs beside an agent's are told to ``on_damage`` and passed over (None: raised).
    ``tell`` gets a line for each agent whose newest run was chosen from several.
    Raises ConfigError where no set, or more than one, is shared.
    """
    fits = chooser(env, tasks)
    asked = tasks if tasks is not None else env
    recorded: list[Run] = []
    sides = [[name.strip() for name in text.split(",") if name.strip()] for text in texts]
    for text, names in zip(texts, sides, strict=True):
        if not names:
            raise ConfigError(f"'{text}' names no run: give a run folder or an agent.")
    if not all(_holds_runs(name) for names in sides for name in names):
        recorded = find_runs(out, on_damage)
        check_env(env, recorded)
        recorded = [run for run in recorded if fits(run)]
    found = {n: _by_set(n, out, recorded, fits, asked) for names in sides for n in names}
    if all(len(runs) == 1 for runs in found.values()):
        chosen = {name: next(iter(runs.values())) for name, runs in found.items()}
        _tell(tell, chosen, recorded)
        return [[chosen[name] for name in names] for names in sides]
    shared = set.intersection(*(set(runs) for runs in found.values()))
    if task is not None:
        holding = {key for key in shared if task in next(iter(found.values()))[key].tasks}
        shared = holding or shared
    first = next(iter(found.values()))
    newest = {key[0]: key for key in sorted(shared, key=lambda key: first[key].meta.started)}
    shared = set(newest.values())
    if len(shared) != 1:
        raise ConfigError(_which(found, shared))
    (only,) = shared
    chosen = {name: runs[only] for name, runs in found.items()}
    _tell(tell, chosen, recorded)
    return [[chosen[name] for name in names] for names in sides]


def _tell(
    tell: Callable[[str], None] | None, chosen: Mapping[str, Run], recorded: Sequence[Run]
) -> None:
    """Which agents' newest runs were chosen from several, and whether one policy played them."""
    if tell is None:
        return
    for name, run in chosen.items():
        if _holds_runs(name):
            continue
        measure = run.meta.measure
        alike = [r for r in recorded if _counts(r, name) and r.meta.measure == measure]
        if len(alike) > 1:
            said = unlike(alike)
            several = f" ({said})" if said else ""
            tell(
                f"{name}: the newest of {len(alike)} complete runs{several}, {run.path}. Other "
                "runs, or training seeds as A,B, are named by their folders."
            )


def _which(found: Mapping[str, Mapping[_Measure, Run]], shared: set[_Measure]) -> str:
    """Why it is not clear which runs are meant, and what would make it so."""

    def sets(runs: Mapping[_Measure, Run], keys: Iterable[_Measure]) -> str:
        told = (f"{runs[k].meta.task_set.name} ({k[0]}, version {k[1]})" for k in keys)
        return ", ".join(sorted(told))

    if not shared:
        told = "; ".join(f"'{name}' of {sets(runs, runs)}" for name, runs in found.items())
        return f"No task set is shared by complete runs: {told}. Run both on one task set."
    names = " and ".join(f"'{name}'" for name in found)
    have = "have" if len(found) > 1 else "has"
    return (
        f"{names} {have} runs of several task sets: {sets(next(iter(found.values())), shared)}. "
        "Say which with --tasks or --env, or name the run's folder."
    )


def _holds_runs(name: str) -> bool:
    """Whether a name is a folder of runs: one that only happens to be called as an agent is not."""
    return Path(name).is_dir() and next(Path(name).glob(f"**/{META}"), None) is not None


def _by_set(
    name: str,
    out: Path,
    recorded: Sequence[Run],
    fits: Callable[[Run], bool],
    asked: str | None,
) -> dict[_Measure, Run]:
    """The run of a folder, or an agent's newest complete run of each task set in each version of
    its environment; ``recorded`` are in order of age."""
    if _holds_runs(name):
        run = open_run(name)
        if not fits(run):
            raise ConfigError(f"{run.path} is a run on '{run.meta.task_set.name}', not '{asked}'.")
        return {run.meta.measure: run}
    found = {run.meta.measure: run for run in recorded if _counts(run, name)}
    if not found:
        raise ConfigError(_absent(name, out, recorded, asked))
    return found


def _counts(run: Run, name: str) -> bool:
    """Whether a run is one that an agent's name may stand for."""
    meta = run.meta
    return (meta.agent.name, meta.kind, meta.status) == (name, "run", "complete")


def _absent(name: str, out: Path, recorded: Sequence[Run], asked: str | None) -> str:
    """What is there in place of an agent's complete runs, and how to get some."""
    where = f" of '{asked}'" if asked else ""
    text = f"No complete run of agent '{name}'{where} in {out}, and no folder of runs so called."
    own = [run for run in recorded if run.meta.agent.name == name]
    if others := [run for run in own if run.meta.kind in ("collect", "import")]:
        shown = "".join(f"\n  {run.path} ({run.meta.kind})" for run in others[-3:])
        return f"{text} Others are meant by their folders:{shown}"
    stopped = [run for run in own if run.meta.kind == "run" and run.meta.status != "complete"]
    if stopped:
        shown = "".join(f"\n  harness run --resume {run.path}" for run in stopped[-3:])
        return f"{text} Go on with what was stopped, or look at it by its folder:{shown}"
    make = "Make one with `harness run --agent {} --env ENV`; see `harness list runs`."
    if own or name in registry.agent_configs() or Path(name).is_file():
        return f"{text} {make.format(name)}"
    known = {run.meta.agent.name for run in recorded} | registry.agent_configs().keys()
    return f"{text}\n  {unknown('agent', name, known, make.format('AGENT'))}"


def check_env(env: str | None, recorded: Iterable[Run]) -> None:
    """Raise ConfigError for an environment that is neither registered nor recorded."""
    known = {*registry.names("envs"), *(run.meta.task_set.env for run in recorded)}
    if env is not None and env not in known:
        raise ConfigError(unknown("environment", env, known))


def chooser(env: str | None, tasks: str | None) -> Callable[[Run], bool]:
    """Tells whether a run is of an environment and on the task set asked for: any (None), one of a
    name or a part of it (``tasksets.named``), or the one frozen in a file, known by its hash.

    Raises ConfigError for a file that is not there, TraceError for one that was changed.
    """

    def ours(run: Run) -> bool:
        return env in (None, run.meta.task_set.env)

    if tasks is None:
        return ours
    base, part = split_slice(tasks)
    if not base.endswith(SUFFIX):
        return lambda run: ours(run) and named(tasks, run.meta.task_set)
    frozen = thaw(Path(base)).part(part)
    wanted = (frozen.hash, frozen.env_version)
    return lambda run: ours(run) and run.meta.measure == wanted


def find_set(text: str, env: str | None = None) -> Frozen:
    """A task set that an argument names: one of the environments', a part of it, a file of a frozen
    one, or a run's folder (the set it was played on); ``+NAME`` behind it: under that protocol."""
    base, part = split_slice(text)
    if Path(base).is_dir():
        run = open_run(base)
        meta = run.meta
        frozen = Frozen(meta.task_set_hash, meta.env_version, meta.task_set)
        return _of(env, frozen.checked(run.path), text).part(part)
    if base.endswith(SUFFIX):
        return _of(env, thaw(Path(base)), text).part(part)
    envs = [env] if env is not None else sorted(registry.names("envs"))
    rest, plus, protocol = text.rpartition("+")
    if plus and any(protocol in registry.env_class(e).protocols for e in envs):
        plain = find_set(rest, env)
        found = registry.under(plain.task_set, protocol)
        return Frozen(found.hash, plain.env_version, found)
    sets = {name: e for e in envs for name in registry.task_set_names(e)}
    fitting = [name for name in sets if base in (name, name.partition("/")[2])]
    if not fitting:
        raise ConfigError(unknown("task set", base, sets, "Or a run's folder, or a frozen *.json."))
    if len(fitting) > 1:
        raise ConfigError(f"'{base}' is {' and '.join(fitting)}: give the whole name, or --env.")
    found = registry.task_set(sets[fitting[0]], text)
    return Frozen(found.hash, registry.env_class(found.env).version, found)


def _of(env: str | None, found: Frozen, text: str) -> Frozen:
    """A set that must be of an environment."""
    if env not in (None, found.task_set.env):
        raise ConfigError(f"'{text}' is a task set of '{found.task_set.env}', not '{env}'.")
    return found


def labels(runs: Sequence[Run]) -> list[str]:
    """Names to tell runs apart by: their agents, and the run's id where an agent has several."""
    names = [run.meta.agent.name for run in runs]
    return [
        f"{name} ({run.path.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]

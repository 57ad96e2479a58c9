"""Which runs the arguments of ``compare`` and ``view`` mean: folders, or agents by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigError
from harness.runs import OnDamage, Run, find_runs, open_run
from harness.tasksets import named


def find_side(
    text: str,
    out: Path,
    env: str | None = None,
    tasks: str | None = None,
    on_damage: OnDamage | None = None,
) -> list[Run]:
    """Runs that an argument names: folders, or an agent whose newest complete run (of ``tasks``)
    counts; several joined by commas are replicates.

    Damaged runs beside an agent's are told to ``on_damage`` and passed over (None: raised).
    """
    found = [_find(p.strip(), out, env, tasks, on_damage) for p in text.split(",") if p.strip()]
    if not found:
        raise ConfigError(f"'{text}' names no run: give a run folder or an agent.")
    return found


def _find(
    name: str, out: Path, env: str | None, tasks: str | None, on_damage: OnDamage | None
) -> Run:
    if Path(name).is_dir():
        run = open_run(name)
        if not _fits(run, env, tasks):
            asked = tasks if tasks is not None else env
            raise ConfigError(f"{run.path} is a run on '{run.meta.task_set.name}', not '{asked}'.")
        return run
    fitting = [
        run
        for run in find_runs(out, on_damage)
        if run.meta.agent.name == name
        and run.meta.kind == "run"
        and run.meta.status == "complete"
        and _fits(run, env, tasks)
    ]
    if not fitting:
        where = f" of '{tasks}'" if tasks else ""
        raise ConfigError(
            f"No complete run of agent '{name}'{where} in {out}, and no folder of that name. "
            f"Make one with `harness run --agent {name} --env ENV`; see `harness list runs`."
        )
    sets = {(run.meta.task_set.name, run.meta.task_set_hash) for run in fitting}
    if len(sets) > 1:
        raise ConfigError(
            f"'{name}' has runs of several task sets ({', '.join(sorted(n for n, _ in sets))}): "
            "say which with --tasks, or name the run's folder."
        )
    return max(fitting, key=lambda run: run.meta.started)


def _fits(run: Run, env: str | None, tasks: str | None) -> bool:
    task_set = run.meta.task_set
    return env in (None, task_set.env) and (tasks is None or named(tasks, task_set))


def labels(runs: Sequence[Run]) -> list[str]:
    """Names to tell runs apart by: their agents, and the run's id where an agent has several."""
    names = [run.meta.agent.name for run in runs]
    return [
        f"{name} ({run.path.resolve().name})" if names.count(name) > 1 else name
        for name, run in zip(names, runs, strict=True)
    ]

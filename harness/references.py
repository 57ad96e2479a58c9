"""Where reference traces are, and what each task's episodes are measured against."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import cot, registry
from harness.errors import ConfigError, unknown
from harness.recorder import EPISODES
from harness.runs import META, Run, RunMeta, open_run, read_meta


def by_task(meta: RunMeta, out: Path, folder: Path) -> dict[str, cot.Reference]:
    """What each task's episodes are measured against (``cot.references``), of traces that are
    there. Raises ConfigError for a ceiling that is none."""
    run = _reference_run(meta, out, folder)
    if run is None:
        return {}
    ceiling = place(meta.ceiling, folder)
    again = run if ceiling is None else open_run(ceiling)
    if again.meta.agent.name != run.meta.agent.name:
        raise ConfigError(
            f"{again.path} is a run of '{again.meta.agent.name}', but the reference is of "
            f"'{run.meta.agent.name}': a ceiling tells how well the reference's agent matches "
            "itself. Name another run of it with --ceiling."
        )
    tasks = [task.id for task in meta.task_set.tasks]
    group = registry.env_class(meta.task_set.env).group
    found = cot.references(run.episodes, again.episodes, tasks, group, meta.task_set.protocol)
    if meta.ceiling is not None and not any(r.second for r in found.values()):
        raise ConfigError(
            f"{again.path} holds no further sampling of a reference: its episodes are of other "
            "tasks, or of the reference's own seeds and attempts. Record one with "
            f"`harness run --agent {again.meta.agent.name} --env {meta.task_set.env} --attempts 2`."
        )
    return found


def _reference_run(meta: RunMeta, out: Path, folder: Path) -> Run | None:
    """The run of reference traces: what an agent played (``execution.play_reference``), kept beside
    the runs, or a recorded one. Only won episodes serve as reference."""
    reference = place(meta.reference, folder)
    if reference is None or meta.kind == "reference":
        return None
    if reference in registry.agent_configs():
        return Run(reference_folder(meta, out, reference))
    return _recorded(reference)


def _recorded(reference: str) -> Run:
    try:
        run = open_run(reference)
    except ConfigError as error:
        known = registry.agent_configs()
        raise ConfigError(unknown("reference", reference, known, _OTHER_REFERENCE)) from error
    run.check_recorded()
    return run


_OTHER_REFERENCE = (
    "A reference is a run folder or an agent. A recorded run takes another one by "
    "`harness score RUN --reference REFERENCE`, and goes on with `harness run --resume RUN`."
)


def reference_folder(meta: RunMeta, out: Path, reference: str) -> Path:
    """Where an agent's traces of a run's tasks are: in the version of its environment. Those of
    another version keep the place that they have."""
    folder = out / meta.task_set.env / reference / f"reference-{meta.task_set_hash}"
    if (folder / META).is_file() and read_meta(folder).env_version != meta.env_version:
        return folder.with_name(f"{folder.name}-{meta.env_version}")
    return folder


def is_played(folder: Path) -> bool:
    """A kill between the two files leaves one that is not."""
    if not (folder / META).is_file() or not (folder / EPISODES).is_file():
        return False
    return read_meta(folder).status == "complete" and not is_published(folder)


def is_published(folder: Path) -> bool:
    """Whether a run is complete and its episodes are not here."""
    file = folder / EPISODES
    recorded = file.is_file() and file.stat().st_size > 0
    return not recorded and (folder / META).is_file() and read_meta(folder).status == "complete"


def unplayed(meta: RunMeta, out: Path) -> Path | None:
    """The folder for the traces of the agent that a run is measured against, where they are still
    to be played. Refuses an agent that cannot play the version of the run's environment here."""
    reference = meta.reference
    if meta.kind == "reference" or reference not in registry.agent_configs():
        return None
    folder = reference_folder(meta, out, reference)
    if is_played(folder):
        return None
    env = meta.task_set.env
    why, here = registry.missing(registry.agent_configs()[reference]), registry.env_class(env)
    if meta.env_version != here.version:
        why = f"the run is of version {meta.env_version} of '{env}', {here.version} is installed."
    if why is not None:
        raise ConfigError(
            f"The reference '{reference}' cannot be played: {why}\n  {_OTHER_REFERENCE}"
        )
    return folder


def settle(meta: RunMeta, out: Path, folder: Path) -> RunMeta:
    """The description with a recorded reference by its own folder: an agent's newest run may become
    another. Refuses beforehand what scoring would break on."""
    unplayed(meta, out)
    reference = meta.reference
    if meta.kind == "reference" or reference is None or reference in registry.agent_configs():
        return meta
    if (folder / META).is_file() and read_meta(folder).reference == reference:
        _recorded(str(place(reference, folder)))
        return meta
    return msgspec.structs.replace(meta, reference=noted(_recorded(reference).path, folder))


def same(one: str | None, other: str | None) -> bool:
    """Whether two references are one, by its agent's name or by its folder."""
    if one is None or other is None:
        return one is other
    return one == other or Path(one).resolve() == Path(other).resolve()


def place(reference: str | None, folder: Path) -> str | None:
    """Where the reference is that run.json in ``folder`` tells: a relative path is as seen from a
    folder above, so that both may move together, and only then from this process's own."""
    if reference is None or reference in registry.agent_configs():
        return reference
    above = () if Path(reference).is_absolute() else folder.resolve().parents
    return str(next((f for f in (up / reference for up in above) if f.is_dir()), reference))


def noted(path: Path, folder: Path) -> str:
    """How run.json in ``folder`` tells a reference that was named here (see ``place``)."""
    here, full = Path.cwd(), path.resolve()
    if full.is_relative_to(here) and folder.resolve().is_relative_to(here):
        short = str(full.relative_to(here))
        if place(short, folder) == str(full):
            return short
    return str(full)

"""What of a campaign is enough to report it and to go on with it elsewhere: ``--export FOLDER``.

FOLDER/plan.json, cells/*.json     as they are
FOLDER/results/                    the finished cells' runs without episodes (``harness.export``)
FOLDER/models/                     weights that unfinished cells start from or learn from
FOLDER/shared/traces/              traces that they are trained on, as decisions

Caches, students and their episodes stay behind. Of traces, and of a teacher's runs that students'
reasoning is measured against, the decisions are kept (``harness.decisions``), from which the
campaign makes the episodes again when it goes on. Paths of this machine are left out, but for those
of the user's own recipes, which have to be where they were; given weights are known by name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from harness import api
from harness.decisions import DECISIONS
from harness.export import export as export_run
from harness.recorder import EPISODES
from harness.runs import META, Run, read_meta
from harness_distillation.recipe_faults import references
from harness_distillation.reproduce.plan import TRACES, Plan, begun, done, settle, write


def export(plan: Plan, out: Path, to: Path) -> int:
    """Copy what is finished of the campaign in ``out`` and is not in ``to`` yet; how many cells
    that are. Raises ConfigError where ``to`` holds results of another plan, or a run is being
    played again."""
    (to / "cells").mkdir(parents=True, exist_ok=True)
    settle(plan.grid, to)
    write(plan, to)
    records = {p.cell.name: done(out, p) for p in plan.cells}
    finished = {name: record for name, record in records.items() if record is not None}
    given = {p.cell.name for p in plan.cells if p.cell.given is not None}
    waiting = [p.cell for p in plan.cells if p.cell.name not in finished and not p.cell.given]
    teachers = {cell.teacher for cell in waiting}
    for name, record in finished.items():
        for run in record.runs.values():
            found = api.load(out / run)
            found.check_complete()
            _export(found, to / run, to / "results", name in teachers)
        _copy(out / "cells" / f"{name}.json", to / "cells" / f"{name}.json")
    for planned in plan.cells:  # what has begun fixes the plan there too
        if planned.cell.name not in finished and begun(out, planned):
            (to / "cells" / f"{planned.cell.name}.log").touch()
    for file in out.glob(f"{TRACES}/*/*/*/*/{META}") if waiting else ():
        place = file.parent.relative_to(out)
        if read_meta(file.parent).status == "complete":
            _export(api.load(file.parent), to / place, to / place.parents[2], True)
    wanted = {n for cell in waiting for n in (*references(cell.recipe), cell.teacher)}
    for name in (set(finished) & wanted) - given:
        for file in (out / "models" / name).iterdir():
            if file.is_file():
                _copy(file, to / "models" / name / file.name)
    return len(finished)


def _export(run: Run, copy: Path, to: Path, decisions: bool) -> None:
    """Make ``copy`` below ``to`` one of ``run``, unless it is; with decisions, if it has any."""
    decisions = decisions and any((run.path / name).is_file() for name in (EPISODES, DECISIONS))
    aside = copy.with_name(f".{copy.name}.before")
    if copy.exists():
        same = read_meta(copy).metrics_hash == run.meta.metrics_hash
        if same and (not decisions or (copy / DECISIONS).is_file()):
            return
        copy.rename(aside)  # played again since, or asked for with its decisions now
    try:
        export_run(run, to, without_words=decisions)
    except BaseException:
        if aside.exists():
            aside.rename(copy)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _copy(file: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    draft = to.with_name(f".{to.name}.draft")
    shutil.copyfile(file, draft)
    draft.replace(to)

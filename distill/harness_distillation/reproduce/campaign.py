"""Runs what is left of a plan, one cell a process, one thread a process.

The state is in files: a killed campaign goes on where it was, started again by the same command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from harness import api, execution
from harness.decisions import needs_restoring, restore
from harness.errors import ConfigError, HarnessError
from harness.recorder import EPISODES
from harness.registry import names
from harness.runs import read_meta
from harness_distillation.locks import owned
from harness_distillation.parents import link
from harness_distillation.recipe_faults import references
from harness_distillation.reproduce.beforehand import tried
from harness_distillation.reproduce.estimates import cost
from harness_distillation.reproduce.expansion import Cell, Stage
from harness_distillation.reproduce.plan import (
    TRACES,
    Plan,
    Planned,
    done,
    folder_of,
    gone,
    wanted,
    weights_of,
    write,
)

#: Seconds between looks at the running cells.
TICK = 0.5
#: Lines of a failed cell's log that its error shows.
TAIL = 6


class CellFailed(HarnessError):
    """A cell of a campaign broke; the others went on."""


def run(
    plan: Plan, out: Path, jobs: int, say: Callable[[str], None], last: Stage = "trial"
) -> None:
    """Finish the cells of ``plan`` in ``out`` up to the stage ``last``, ``jobs`` at a time.

    Raises CellFailed at the end, when all that does not depend on a failed cell is done, and
    ConfigError when the campaign is already being run.
    """
    (out / "cells").mkdir(parents=True, exist_ok=True)
    with owned(out) as lock, _children() as children:
        write(plan, out)
        _link(plan, out)
        _restore(out, say)
        _references(plan, out)
        waiting = to_do(plan, out, last)
        finished = {p.cell.name for p in plan.cells} - {p.cell.name for p in waiting}
        given = {p.cell.name for p in plan.cells if p.cell.given is not None}
        failed: dict[str, int] = {}
        while True:
            ready = [p for p in waiting if finished.issuperset(_before(p.cell, given))]
            for planned in ready[: jobs - len(children)]:
                waiting.remove(planned)
                children[planned.cell.name] = _start(planned, out, lock)
                say(f"{planned.cell.name}: started")
            if not children:
                break
            time.sleep(TICK)
            for name, child in list(children.items()):
                status = child.poll()
                if status is None:
                    continue
                del children[name]
                if status:
                    failed[name] = status
                else:
                    finished.add(name)
                say(f"{name}: {'FAILED' if status else 'done'}, {_left(plan, out, jobs)}")
    if failed:
        raise CellFailed(_told(out, failed, [p.cell.name for p in waiting]))


def to_do(plan: Plan, out: Path, last: Stage) -> list[Planned]:
    """What is not finished, and what is to be played again: teachers of whose episodes some were
    lost (students' reasoning is measured against them), and the tuning that students wait for where
    episodes of it broke.

    Raises ConfigError where the weights that a student needs are not those of its finished parent.
    """
    records = {p.cell.name: done(out, p) for p in plan.cells}
    todo = {p.cell.name for p in wanted(plan, last) if records[p.cell.name] is None}
    students = [p.cell for p in plan.cells if p.cell.name in todo]
    teachers = {cell.teacher for cell in students if cell.teacher is not None}
    trained = [cell for cell in students if cell.given is None]
    for name in teachers.union(*(references(cell.recipe) for cell in trained)):
        record, model = records[name], out / "models" / name
        if record is not None and tuple(weights_of(model)) != record.weights:
            raise ConfigError(
                f"{model} has not the weights that '{name}' was finished with (sha256 "
                f"{', '.join(w[:16] for w in record.weights)}): students of one comparison would "
                "have different origins.\n"
                "  Put those weights there, or begin another campaign with another --out."
            )
    for name in teachers:
        record = records[name]
        runs = record.runs.values() if record is not None else ()
        if not all(_recorded(out / run) for run in runs):
            todo.add(name)
    waiting = {name for p in plan.cells if records[p.cell.name] is None for name in p.cell.tuned_by}
    for p in wanted(plan, last):
        name, record = p.cell.name, records[p.cell.name]
        if name in waiting and record and any(t.broke for t in tried(plan, out, [name])):
            if tuple(weights_of(out / "models" / name)) != record.weights:
                raise ConfigError(
                    f"Episodes of {name} broke, and the weights that could play them again are not "
                    f"in {out / 'models' / name}.\n  Put them there, or delete "
                    f"{out / 'cells' / name}.json to have it trained again."
                )
            todo.add(name)
    return [p for p in plan.cells if p.cell.name in todo]


def _recorded(run: Path) -> bool:
    """Whether all its episodes are there: playing again what was left behind may have been cut."""
    return (run / EPISODES).is_file() and read_meta(run).status == "complete"


def _before(cell: Cell, given: set[str]) -> set[str]:
    """What must be finished before a cell: of given models only the play that it is measured by."""
    return set(cell.parents) - (given - {cell.teacher})


def _start(planned: Planned, out: Path, lock: int) -> subprocess.Popen[bytes]:
    name = planned.cell.name
    safe = ["-P"] if sys.flags.safe_path else []
    with (out / "cells" / f"{name}.log").open("ab") as log:
        # The lock is held as long as any cell lives, so that no second campaign meets it.
        return subprocess.Popen(
            [sys.executable, *safe, "-m", "harness_distillation.reproduce.cell", str(out), name],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(), pass_fds=(lock,),
        )  # fmt: skip


def _environment() -> dict[str, str]:
    """One thread a process; paths of data as they are seen from anywhere."""
    found = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    for name in ["HARNESS_DATA", *(f"{env.upper()}_DATA" for env in names("envs"))]:
        if found.get(name):
            found[name] = str(Path(found[name]).absolute())
    paths = [p for p in found.get("PYTHONPATH", "").split(os.pathsep) if p]
    if paths:
        found["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in paths)
    return found


def _left(plan: Plan, out: Path, jobs: int) -> str:
    """How far a campaign is, with the remaining time as planned, corrected by what is done."""
    planned = took = left = 0.0
    finished = 0
    for p in plan.cells:
        expected = 3600 * cost(plan.grid, p.cell).hours
        found = done(out, p)
        if found is None:
            left += expected
            continue
        finished += 1
        planned += expected
        took += found.train_seconds + found.play_seconds
    pace = took / planned if planned and took else 1.0
    return (
        f"{finished} of {len(plan.cells)} cells done, about {left * pace / jobs / 60:.0f} min left"
    )


def _link(plan: Plan, out: Path) -> None:
    """Given weights under the name that recipes know them by. Raises ConfigError where they are not
    here and something is left to do."""
    finished = all(done(out, p) is not None for p in plan.cells)
    for p in plan.cells:
        place = out / "models" / p.cell.name
        if p.cell.given is None or place.exists() or finished:
            continue
        folder = folder_of(p.cell.given)
        if not weights_of(folder):
            raise gone(p.cell.given)
        link(place, folder)


def _restore(out: Path, say: Callable[[str], None]) -> None:
    """Make the episodes of what came here as decisions alone (``portable``)."""
    for root in ("results/*/*/*", f"{TRACES}/*/*/*/*"):
        for folder in sorted(out.glob(root)):
            if needs_restoring(folder):
                say(f"restoring the episodes of {folder.relative_to(out)}")
                try:
                    restore(api.load(folder))
                except HarnessError as error:
                    raise ConfigError(
                        f"{error}\n  Or delete {folder}: it is recorded or played again."
                    ) from error


def _references(plan: Plan, out: Path) -> None:
    """Play the reference traces that several cells would otherwise make at once."""
    played = {e.name: e for p in plan.cells for e in p.cell.evaluations if p.cell.teacher is None}
    for e in played.values():
        meta = api.plan("random", e.env, tasks=e.task_set(), env_options=e.env_options)
        execution.play_reference(meta, out / "results")


@contextmanager
def _children() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Processes by cell; none outlives the campaign, however it ends (but ``kill -9``)."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        yield children
    finally:
        signal.signal(signal.SIGTERM, before)
        for child in children.values():
            child.terminate()
        for child in children.values():
            child.wait()


def _told(out: Path, failed: dict[str, int], dropped: list[str]) -> str:
    lines = []
    for name, status in failed.items():
        log = out / "cells" / f"{name}.log"
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
        lines += [f"Cell '{name}' ended with status {status}; the end of {log}:"]
        lines += [f"  {line}" for line in tail]
    if dropped:
        lines.append(f"Not begun, for want of it: {', '.join(dropped)}.")
    return "\n".join([*lines, "  The same command tries again what is not finished."])

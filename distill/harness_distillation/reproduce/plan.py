"""A campaign's plan: its cells with the hash of all they depend on, written before anything runs.

OUT/plan.json            the grid and its cells; a campaign that differs is refused
OUT/models/CELL/         each model, with its training
OUT/shared/              traces and teachers' distributions that cells have in common
OUT/results/             every run, as ``harness run`` records them
OUT/cells/CELL.json      what a finished cell came to (CELL.log: what it said)

``portable`` copies what is enough to report a campaign and to go on with it elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from harness_agents import checkpoints

from harness.errors import ConfigError, unknown
from harness.runs import utc_now
from harness_distillation.recipe import recipe_hash
from harness_distillation.reproduce.expansion import Cell, Stage, cells
from harness_distillation.reproduce.grid import PARENT, Column, Grid
from harness_distillation.traces import episodes_file, file_sha256

PLAN = "plan.json"
#: Below a campaign's folder: recordings that its models are trained on.
TRACES = "shared/traces"
#: Lies beside a checkpoint's weights: the optimizer's state.
TRAINER = "trainer.safetensors"


class Planned(msgspec.Struct, frozen=True):
    """A cell and the hash of its recipe, traces, parents and task sets."""

    cell: Cell
    key: str


class Plan(msgspec.Struct, frozen=True):
    """plan.json."""

    grid: Grid
    cells: tuple[Planned, ...]
    written: str


class Done(msgspec.Struct, frozen=True):
    """cells/NAME.json: a finished cell. Runs by evaluation, relative to the campaign's folder."""

    key: str
    #: Of the recipe as it was trained, a tuned learning rate included.
    recipe_hash: str | None
    #: By ``Grid.columns``.
    runs: dict[str, str]
    #: N_r : N_a of its training tokens; None for weights that were given.
    reason_to_act: float | None
    #: Of the process that finished it.
    train_seconds: float
    play_seconds: float
    #: ``trial_hash`` under which it was done.
    trial: str
    #: The learning rate it trained with; None for weights that were given.
    lr: float | None
    #: sha256 of its weights.
    weights: tuple[str, ...]
    #: Hash of the episodes it was trained on; None where there were none, or weights were given.
    traces: str | None


def make(
    grid: Grid, given: dict[str, str], out: Path | None = None, before: Mapping[str, str] = {}
) -> Plan:
    """The plan of a grid; ``given`` are finished models by name (``Cell.given``). Those that the
    campaign in ``out`` has already are taken from there.

    ``before``: keys by name as they were planned. Given models whose weights are not here keep
    theirs, so that what is finished can be reported without them; where they are not among them
    ConfigError is raised.
    """
    found = cells(grid, given)
    keys: dict[str, str] = {}
    for cell in found:
        weights: list[str] = []
        if cell.given is not None:
            own = [] if out is None else weights_of(out / "models" / cell.name)
            weights = own or weights_of(folder_of(cell.given))
            if not weights and cell.name in before:
                keys[cell.name] = before[cell.name]
                continue
            if not weights:
                raise gone(cell.given)
        keys[cell.name] = _key(cell, [keys[p] for p in cell.parents], weights)
    return Plan(grid, tuple(Planned(c, keys[c.name]) for c in found), utc_now())


def settle(grid: Grid, out: Path) -> Plan:
    """The plan of the campaign in ``out``: the one written there, else a new one.

    Until the first student of the trial begins (parents, pilot and tuning may be done) a plan may
    be rewritten. From then on ConfigError is raised where what was planned and what is asked for
    differ: trial, comparisons, recipes, task sets or given weights. A plan that bends to what was
    seen is none.
    """
    path = out / PLAN
    if not path.is_file():
        now = make(grid, at_hand(grid), out)
        _refuse_other_trials(now, out)
        return now
    before = read(out)
    keys = {p.cell.name: p.key for p in before.cells}
    given = {p.cell.name: p.cell.given for p in before.cells if p.cell.given is not None}
    now = make(grid, given, out, {name: keys[name] for name in given})
    _refuse_other_trials(now, out)
    if not any(begun(out, p) for p in before.cells):
        return now
    if trial_hash(before.grid) != trial_hash(grid):
        raise ConfigError(
            _changed(path, "the trial (endpoint, seeds, margin, tuning ...) or its comparisons")
        )
    ours = {p.cell.name: p.key for p in now.cells}
    if differ := [name for name in {**keys, **ours} if ours.get(name) != keys.get(name)]:
        raise ConfigError(_changed(path, f"recipe, traces, parents or task sets of {_few(differ)}"))
    return before


def read(out: Path) -> Plan:
    """The plan written in ``out``; ConfigError where it is damaged."""
    found: Plan = _decoded(out / PLAN, Plan, "Plan a campaign of its own with another --out.")
    return found


def trial_hash(grid: Grid) -> str:
    """16 hex digits over what decides, and what is compared."""
    trial = msgspec.to_builtins(grid.trial)
    if grid.trial.first_seed == 1:  # so that hashes stay
        del trial["first_seed"]
    body = msgspec.json.encode((trial, grid.comparisons), order="sorted")
    return hashlib.sha256(body).hexdigest()[:16]


def begun(out: Path, planned: Planned) -> bool:
    """Whether a student of the trial was ever started."""
    return planned.cell.stage == "trial" and any(
        (out / "cells" / f"{planned.cell.name}.{end}").exists() for end in ("log", "json")
    )


def _refuse_other_trials(plan: Plan, out: Path) -> None:
    """Results under another trial stay under it, whatever became of plan.json or the recipes."""
    now = trial_hash(plan.grid)
    for planned in plan.cells:
        found = _record(out, planned) if planned.cell.stage == "trial" else None
        if found is not None and found.trial != now:
            raise ConfigError(
                f"{out / 'cells' / planned.cell.name}.json was done under another trial "
                f"({found.trial}) than the one asked for ({now}): endpoint, seeds, margin, tuning "
                "or comparisons were changed after the results.\n"
                "  Go back to the trial as it was, or plan another campaign with another --out."
            )


def write(plan: Plan, out: Path) -> None:
    """Write plan.json, unless it says the same already."""
    path = out / PLAN
    if path.is_file():
        before = read(out)
        if msgspec.structs.replace(before, written=plan.written) == plan:
            return
    draft = path.with_name(f".{PLAN}.draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n")
    draft.replace(path)


def wanted(plan: Plan, last: Stage) -> list[Planned]:
    """The cells of all stages up to ``last`` and what they need, in the plan's order."""
    order = ("pilot", "tuning", "trial")
    stages = order[: 1 + order.index(last)]
    by_name = {p.cell.name: p for p in plan.cells}
    names: set[str] = set()
    waiting = [p.cell.name for p in plan.cells if p.cell.stage in stages]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            waiting += by_name[name].cell.parents
    return [p for p in plan.cells if p.cell.name in names]


def at_hand(grid: Grid) -> dict[str, str]:
    """Parents of a grid whose finished weights stand in the models folder, or ship
    (``Cell.given``: no paths, so that a plan can be read elsewhere)."""
    root = checkpoints.models_folder()
    own = {p.name for p in grid.parents}
    names = [c.name for c in cells(grid) if c.arm == PARENT and c.name not in own]
    found = {n: f"package:{n}" for n in names if n in checkpoints.shipped()}
    return found | {n: f"models:{n}" for n in names if any((root / n).glob("*.safetensors"))}


def done(out: Path, planned: Planned) -> Done | None:
    """What a cell came to; None when it is not finished."""
    found = _record(out, planned)
    return found if found is not None and found.key == planned.key else None


def _record(out: Path, planned: Planned) -> Done | None:
    path = out / "cells" / f"{planned.cell.name}.json"
    remedy = "Delete it to have that cell done again, or plan a campaign with another --out."
    return _decoded(path, Done, remedy) if path.is_file() else None


def _decoded(path: Path, type_: type[Any], remedy: str) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): it is damaged, or of another release.\n  {remedy}"
        ) from None


def _key(cell: Cell, parents: Sequence[str], weights: Sequence[str]) -> str:
    recorded = [file_sha256(episodes_file(run)) for run in cell.recipe.data.runs]
    body = msgspec.json.encode(
        (
            recipe_hash(cell.recipe), [what.plain() for what in cell.recipe.data.collect],
            recorded, parents, weights,
            [(e.task_set().hash, e.env_options) for e in cell.evaluations],
        ),
        order="sorted",
    )  # fmt: skip
    return hashlib.sha256(body).hexdigest()[:16]


def folder_of(given: str) -> Path:
    """Where given weights are (``Cell.given``)."""
    kind, _, name = given.partition(":")
    if kind == "models":
        return checkpoints.models_folder() / name
    if kind != "package":
        return Path(given)
    found = checkpoints.shipped()
    if name not in found:
        raise ConfigError(unknown("model shipped with the package", name, found))
    return found[name]


def gone(given: str) -> ConfigError:
    """What to raise where given weights are not."""
    return ConfigError(
        f"{given}: no weights (*.safetensors) there any more, looked in {folder_of(given)}.\n"
        "  'models:' is $HARNESS_MODELS, else ./models."
    )


def weights_of(model: Path) -> list[str]:
    """sha256 of a model's weights (none: it has no weights), the optimizer's state left out."""
    return [file_sha256(p) for p in sorted(model.glob("*.safetensors")) if p.name != TRAINER]


def _changed(path: Path, what: str) -> str:
    return (
        f"{path} was written for something else: {what} differ.\n"
        "  Go on with what was planned, or plan a campaign of its own with another --out."
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def columns(grid: Grid, cell: Cell) -> list[Column]:
    """What a cell plays: a student of the trial also as it was at fixed steps."""
    if cell.stage != "trial":
        return [Column(e.name, e, None) for e in cell.evaluations]
    return [
        Column(name, e, steps)
        for name, e, steps in grid.columns
        if e in cell.evaluations and (steps is None or e.fixed is None or cell.arm in e.fixed)
    ]

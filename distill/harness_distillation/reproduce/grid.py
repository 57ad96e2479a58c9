"""Grids: one TOML file says which arms, seeds and task sets a table is made of.

    table = "table3"
    scale = "tiny"
    teacher = "teacher-tiny"     its runs are the table's first row and the CoT reference
    comparisons = [["ours", "token"]]
    [trial]          what is decided by, written down before anything runs
    [[rows]]         an arm: which recipe, how many seeds
    [[evaluations]]  what every student plays; the endpoint among them
    [change.TABLE]   laid over every student's recipe

``base = "table3-smoke"`` starts from another grid, of which tables are overridden key by key, and
whose parents stay beside its own.

What is to be done for it, cell by cell, is in ``expansion``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from harness.config import convert
from harness.errors import ConfigError, unknown
from harness_distillation import recipe as recipes
from harness_distillation.reproduce import trial as trials
from harness_distillation.reproduce.trial import Evaluation, Trial

#: Arm of the models that are trained for others to learn from.
PARENT = "teacher"
_ARM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arm of the table, or its part in some environments."""

    arm: str
    recipe: str
    #: Environments it is played in; empty: all.
    envs: tuple[str, ...] = ()
    seeds: int | None = None
    #: Tables laid over the recipe, after the grid's own.
    change: dict[str, Any] = {}
    #: Whose episodes CoT match is measured against, when not the grid's teacher's.
    teacher: str | None = None
    #: Its row in the paper's table.
    paper: str | None = None
    #: Parameters, for estimates by arithmetic.
    parameters: float | None = None


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model ``models/NAME`` that is not trained by the shipped recipe NAME as it stands."""

    name: str
    #: A recipe, or a parent listed before, whose recipe and changes it starts from.
    recipe: str
    change: dict[str, Any] = {}
    parameters: float | None = None


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured speed of one process: tokens/s trained on, episodes/s played."""

    train: float
    play: float


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An accelerator: peak FLOP/s and the share of it that training reaches, bytes of memory and
    bytes/s read of it, episodes decoded together; tokens that a model samples in an episode."""

    name: str
    flops: float
    mfu: float
    memory: float
    bandwidth: float
    batch: int
    episode_tokens: int


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table to reproduce at one scale (module docstring)."""

    table: Literal["table3", "table4", "table5"]
    scale: str
    trial: Trial
    rows: tuple[Row, ...]
    evaluations: tuple[Evaluation, ...]
    #: Each list: the first arm against every later one, p-values adjusted together.
    comparisons: tuple[tuple[str, ...], ...]
    description: str = ""
    teacher: str | None = None
    parents: tuple[Parent, ...] = ()
    change: dict[str, Any] = {}
    rates: Rates | None = None
    device: Device | None = None
    #: Only planned unless asked for by name (``--run``).
    plan_only: bool = False

    @property
    def name(self) -> str:
        return f"{self.table}-{self.scale}"

    @property
    def teachers(self) -> tuple[str, ...]:
        """Teachers whose own play is a row of the table."""
        named = [self.teacher, *(row.teacher for row in self.rows)]
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def columns(self) -> tuple[Column, ...]:
        """What a student's runs are: every evaluation at the end, then at fixed steps."""
        steps = self.trial.fixed_steps
        ends = [Column(e.name, e, None) for e in self.evaluations]
        if steps is not None:
            fixed = [e for e in self.evaluations if e.fixed is None or e.fixed]
            ends += [Column(f"{e.name} at {steps} steps", e, steps) for e in fixed]
        return tuple(ends)


class Column(NamedTuple):
    """An evaluation of students as they ended, or as they were after so many steps."""

    name: str
    evaluation: Evaluation
    steps: int | None


def load(name: str, scale: str | None) -> Grid:
    """The grid of a table at a scale (None: smoke), or a .toml file's, which says its scale."""
    if Path(name).suffix != ".toml":
        scales: dict[str, list[str]] = {}
        for table, _, one in (stem.partition("-") for stem in _shipped()):
            scales.setdefault(table, []).append(one)
        if name not in scales:
            raise ConfigError(unknown("table", name, scales, "Or name a grid's .toml file."))
        scale = scale or "smoke"
        if scale not in scales[name]:
            raise ConfigError(unknown(f"scale of {name}", scale, scales[name]))
        name = f"{name}-{scale}"
    elif scale is not None:
        raise ConfigError(f"{name} says its own scale: leave --scale {scale} out.")
    path = _find(name, Path())
    grid = convert(recipes.read(path, _find, _laid_over), Grid, str(path))
    for wrong, message in _faults(grid):
        if wrong:
            raise ConfigError(f"{path}: {message}")
    return grid


def _shipped() -> dict[str, Path]:
    return {p.stem: p for p in sorted((Path(__file__).parents[1] / "grids").glob("*.toml"))}


def _find(name: str, beside: Path) -> Path:
    """The file of a grid: a .toml path (relative to ``beside``), or one that ships."""
    path = Path(name)
    if path.suffix == ".toml":
        return beside / path
    known = _shipped()
    if name not in known:
        raise ConfigError(unknown("grid", name, known))
    return known[name]


def _laid_over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = recipes.laid_over(base, own)
    merged["parents"] = [*base.get("parents", ()), *own.get("parents", ())]
    return merged


def _faults(grid: Grid) -> list[tuple[bool, str]]:
    names = [e.name for e in grid.evaluations]
    arms = {r.arm for r in grid.rows}
    compared = {arm for group in grid.comparisons for arm in group}
    playing = {arm for e in grid.evaluations for arm in (*e.arms, *(e.fixed or ()))}
    cells = ["-".join([r.arm, *r.envs]) for r in grid.rows]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    most = trials.PILOT_SEEDS - grid.trial.first_seed
    odd = sorted(arm for arm in arms if not _ARM.fullmatch(arm))
    return [
        *trials.faults(grid.trial, names, arms),
        (
            bool(twice),
            f"two evaluations are called {', '.join(twice)}: what is played on one task set under "
            "two budgets belongs in two grids.",
        ),
        (
            bool(odd),
            f"an arm's name is a folder's: letters, digits, '.', '_' and '-', not {odd}.",
        ),
        (
            len(set(cells)) < len(cells),
            "two rows make the same cells (an arm and its environments, joined by '-').",
        ),
        (
            any(r.seeds is not None and not 1 <= r.seeds <= most for r in grid.rows),
            f"a row has 1 to {most} seeds.",
        ),
        (PARENT in arms, f"'{PARENT}' is the name of the teacher's row: call the arm otherwise."),
        (
            bool(arms & set(grid.teachers)),
            f"'{', '.join(sorted(arms & set(grid.teachers)))}' is a teacher's row: call the arm "
            "otherwise.",
        ),
        (
            not compared <= arms,
            f"compared, but no row: {', '.join(sorted(compared - arms))}.",
        ),
        (
            not playing <= arms,
            f"plays, but is no row: {', '.join(sorted(playing - arms))}.",
        ),
        (
            (grid.rates is None) == (grid.device is None),
            "estimates need either [rates] or [device].",
        ),
    ]

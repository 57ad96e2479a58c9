"""Grids: one TOML file says which arms, seeds and task sets a table is made of.

    table = "table3"
    scale = "tiny"
    teacher = "teacher-tiny"     its runs are the table's first row and the CoT reference
    comparisons = [["ours", "token"]]
    [trial]          what is decided by, written down before anything runs
    [[rows]]         an arm: which recipe, how many seeds
    [[evaluations]]  what every student plays; the endpoint among them
    [change.TABLE]   laid over every student's recipe

A row and a seed are a cell: a recipe trained, then played. ``models/NAME`` in a recipe is another
cell, its parent, trained by the recipe or ``[[parents]]`` entry of that name.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import registry
from harness.config import convert, load_toml
from harness.errors import ConfigError, unknown
from harness.tasksets import TaskSet
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Recipe

#: What a recipe's path of another model begins with.
MODELS = "models/"
#: Arm of the models that are trained for others to learn from.
PARENT = "teacher"


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The preregistration: fixed when a campaign is planned, refused when changed afterwards."""

    #: The evaluation ("env/tasks") whose success decides.
    endpoint: str
    #: Training seeds 1 .. seeds of every row that does not say otherwise.
    seeds: int
    #: Points of success that count as equivalent.
    margin: float = 3.0
    #: What each arm may be tuned on, and how much.
    tuning: str = ""
    #: False: the numbers prove that everything runs, and nothing else.
    verdict: bool = True


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An arm of the table, or its part in some environments."""

    arm: str
    recipe: str
    #: Environments it is played in; empty: all.
    envs: tuple[str, ...] = ()
    seeds: int | None = None
    #: Tables laid over the recipe, after the grid's own.
    change: dict[str, Any] = {}
    #: Its row in the paper's table.
    paper: str | None = None
    #: Parameters, for estimates by arithmetic.
    parameters: float | None = None


class Parent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model ``models/NAME`` that is not trained by the shipped recipe NAME as it stands."""

    name: str
    recipe: str
    change: dict[str, Any] = {}
    parameters: float | None = None


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task set that is played: by all, by the first ``seeds`` alone, or by some arms."""

    env: str
    tasks: str
    env_options: dict[str, Any] = {}
    max_steps: int | None = None
    seeds: int | None = None
    arms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.env}/{self.tasks}"

    def task_set(self) -> TaskSet:
        """The set as it is scored."""
        found = _task_set(self.env, self.tasks)
        scoring = registry.env_class(self.env).scoring_options
        options = {k: v for k, v in self.env_options.items() if k in scoring}
        return found.varied(max_steps=self.max_steps, options=options)


@cache
def _task_set(env: str, tasks: str) -> TaskSet:
    return registry.task_set(env, tasks)


class Rates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured speed of one process: tokens/s trained on, episodes/s played."""

    train: float
    play: float


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An accelerator: peak FLOP/s and the share of it that training reaches, bytes/s of memory,
    episodes decoded together; tokens that a model samples in an episode."""

    name: str
    flops: float
    mfu: float
    bandwidth: float
    batch: int
    episode_tokens: int


class Grid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table to reproduce at one scale (module docstring)."""

    table: Literal["table3", "table5"]
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


class Cell(msgspec.Struct, frozen=True):
    """One thing to do: train a model by a resolved recipe, then play what is asked of it."""

    name: str
    arm: str
    seed: int
    recipe: Recipe
    parents: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    #: A folder with finished weights that is taken instead of training.
    given: str | None = None
    parameters: float | None = None


def load(name: str, scale: str) -> Grid:
    """The grid of a table at a scale, or a .toml file's."""
    path = Path(name)
    if path.suffix != ".toml":
        found = {p.stem: p for p in sorted((Path(__file__).parents[1] / "grids").glob("*.toml"))}
        if f"{name}-{scale}" not in found:
            raise ConfigError(unknown("grid", f"{name}-{scale}", found))
        path = found[f"{name}-{scale}"]
    grid = convert(load_toml(path, dict[str, Any]), Grid, str(path))
    for wrong, message in _faults(grid):
        if wrong:
            raise ConfigError(f"{path}: {message}")
    return grid


def _faults(grid: Grid) -> list[tuple[bool, str]]:
    names = [e.name for e in grid.evaluations]
    arms = {r.arm for r in grid.rows}
    compared = {arm for group in grid.comparisons for arm in group}
    cells = [(r.arm, r.envs) for r in grid.rows]
    return [
        (
            grid.trial.endpoint not in names,
            f"the endpoint '{grid.trial.endpoint}' is no evaluation: {', '.join(names)}.",
        ),
        (grid.trial.seeds < 1, "a trial needs a seed."),
        (len(set(cells)) < len(cells), "an arm has two rows in the same environments."),
        (PARENT in arms, f"'{PARENT}' is the name of the teacher's row: call the arm otherwise."),
        (
            not compared <= arms,
            f"compared, but no row: {', '.join(sorted(compared - arms))}.",
        ),
        (
            (grid.rates is None) == (grid.device is None),
            "estimates need either [rates] or [device].",
        ),
    ]


def cells(grid: Grid, given: dict[str, str] | None = None) -> list[Cell]:
    """Every cell, parents first, then seed by seed so that a stopped campaign has whole pairs.

    ``given`` are finished models by name (folders), which need no training and no parents.
    """
    given = given or {}
    found: dict[str, Cell] = {}
    students = []
    for seed in range(1, 1 + max(r.seeds or grid.trial.seeds for r in grid.rows)):
        for row in grid.rows:
            if seed > (row.seeds or grid.trial.seeds):
                continue
            recipe = recipes.load(row.recipe, grid.change, row.change, {"seed": seed})
            plays = tuple(
                e
                for e in grid.evaluations
                if (not row.envs or e.env in row.envs)
                and (not e.arms or row.arm in e.arms)
                and (e.seeds is None or seed <= e.seeds)
            )
            name = "-".join([row.arm, *row.envs, f"s{seed}"])
            needs = _with_parents(grid, recipe, given, found)
            if grid.teacher and plays:
                _add_parent(grid, grid.teacher, given, found)
                needs = tuple(dict.fromkeys([*needs, grid.teacher]))
            students.append(
                Cell(name, row.arm, seed, _runnable(recipe), needs, plays, None, row.parameters)
            )
    return [*found.values(), *students]


def _with_parents(
    grid: Grid, recipe: Recipe, given: dict[str, str], found: dict[str, Cell]
) -> tuple[str, ...]:
    names = references(recipe)
    for name in names:
        _add_parent(grid, name, given, found)
    return names


def _add_parent(grid: Grid, name: str, given: dict[str, str], found: dict[str, Cell]) -> None:
    if name in found:
        return
    own = {p.name: p for p in grid.parents}
    if name in own:
        entry = own[name]
    elif name in recipes.shipped():
        entry = Parent(name, name)
    else:
        raise ConfigError(
            f"Grid {grid.name}: '{MODELS}{name}' is neither in [[parents]] nor a recipe's name."
        )
    recipe = recipes.load(entry.recipe, entry.change)
    needs = () if name in given else _with_parents(grid, recipe, given, found)
    # A teacher is one model, whatever set it is played on by however many students.
    plays = grid.evaluations if name == grid.teacher else ()
    found[name] = Cell(
        name, PARENT, recipe.seed, _runnable(recipe), needs, plays, given.get(name),
        entry.parameters,
    )  # fmt: skip


def _runnable(recipe: Recipe) -> Recipe:
    """One thread, no time limit, runs by their whole paths: none of it decides a student."""
    optim = msgspec.structs.replace(recipe.optim, threads=1, max_minutes=None)
    runs = tuple(str(Path(run).absolute()) for run in recipe.data.runs)
    data = msgspec.structs.replace(recipe.data, runs=runs)
    return msgspec.structs.replace(recipe, optim=optim, data=data)


def references(recipe: Recipe) -> tuple[str, ...]:
    """Names of the models that a recipe needs finished (``models/NAME``), without repeats."""
    texts = [recipe.student.start, recipe.tokenizer.start, recipe.tokenizer.extend]
    texts += [recipe.teacher.checkpoint if recipe.teacher is not None else None]
    for what in recipe.data.collect:
        texts += [what.agent, what.errors_from]
    names = [t.removeprefix(MODELS) for t in texts if t is not None and t.startswith(MODELS)]
    return tuple(dict.fromkeys(names))

"""From a grid to its cells: all that is to be done, in the order it is done in.

A row and a seed are a cell: a recipe trained, then played. ``models/NAME`` in a recipe is another
cell, its parent, trained by the recipe or ``[[parents]]`` entry of that name. The trial's pilot and
tuning (``trial``) are cells too, done before its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from harness import registry
from harness.errors import ConfigError
from harness_distillation import recipe as recipes
from harness_distillation import traces
from harness_distillation.recipe import Evaluate, Recipe, is_frozen
from harness_distillation.recipe_faults import MODELS, references
from harness_distillation.reproduce import trial as trials
from harness_distillation.reproduce.grid import PARENT, Grid, Row
from harness_distillation.reproduce.trial import Evaluation

#: Begins the name of a model that is no path: the campaign's own, or one that is found anywhere.
_ELSEWHERE = (MODELS, "hub:", "module:", "package:")

Stage = Literal["parent", "pilot", "tuning", "trial"]


class Cell(msgspec.Struct, frozen=True):
    """One thing to do: train a model by a resolved recipe, then play what is asked of it."""

    name: str
    arm: str
    seed: int
    recipe: Recipe
    parents: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()
    #: Finished weights that are taken instead of training: ``package:NAME``, ``models:NAME`` (of
    #: ``$HARNESS_MODELS``, else ./models) or a folder.
    given: str | None = None
    parameters: float | None = None
    stage: Stage = "trial"
    #: The tuning cells of its arm, one of whose learning rates it trains with.
    tuned_by: tuple[str, ...] = ()
    #: The cell whose runs are the reference of its CoT match.
    teacher: str | None = None


def cells(grid: Grid, given: dict[str, str] | None = None) -> list[Cell]:
    """Every cell: parents and pilot, then comparison by comparison its arms' tuning and students,
    seed by seed: a stopped campaign has whole pairs, and its first comparison is decided first.

    ``given`` are finished models by name, which need no training and no parents. Raises
    ConfigError for parents that cannot be, where something is chosen on tasks that it is measured
    on, and for paths that lead nowhere from the campaign's folder.
    """
    given = given or {}
    found: dict[str, Cell] = {}
    pilot = [c for row in grid.rows for c in _pilot(grid, row, given, found)]
    students: list[Cell] = []
    for rows in _by_comparison(grid):
        tuning = {(row.arm, row.envs): _tuning(grid, row, given, found) for row in rows}
        students += [c for of_row in tuning.values() for c in of_row]
        students += [
            _student(grid, row, seed, tuning[row.arm, row.envs], given, found)
            for number in range(max(r.seeds or grid.trial.seeds for r in rows))
            for seed in [grid.trial.first_seed + number]
            for row in rows
            if number < (row.seeds or grid.trial.seeds)
        ]
    every = [*found.values(), *pilot, *students]
    _apart(grid, every)
    _whole_paths(grid, every)
    return every


def _by_comparison(grid: Grid) -> list[list[Row]]:
    """The rows that each comparison adds to those before it; last, those that none names."""
    left = list(grid.rows)
    blocks = []
    for arms in (*grid.comparisons, tuple(r.arm for r in grid.rows)):
        blocks.append([r for r in left if r.arm in arms])
        left = [r for r in left if r.arm not in arms]
    return [block for block in blocks if block]


def _student(
    grid: Grid,
    row: Row,
    seed: int,
    tuning: list[Cell],
    given: dict[str, str],
    found: dict[str, Cell],
) -> Cell:
    plays = tuple(
        e
        for e in grid.evaluations
        if _played_in(row, e)
        and (not e.arms or row.arm in e.arms)
        and (e.seeds is None or seed < grid.trial.first_seed + e.seeds)
    )
    recipe = _kept(grid, row, recipes.load(row.recipe, grid.change, row.change))
    needs = [*_with_parents(grid, recipe, given, found)]
    teacher = row.teacher or grid.teacher
    if teacher and plays:
        _add_parent(grid, teacher, given, found)
        needs.append(teacher)
    tuned_by = tuple(c.name for c in tuning)
    return Cell(
        name="-".join([row.arm, *row.envs, f"s{seed}"]),
        arm=row.arm,
        seed=seed,
        recipe=_runnable(recipe, seed),
        parents=tuple(dict.fromkeys([*needs, *tuned_by])),
        evaluations=plays,
        parameters=row.parameters,
        tuned_by=tuned_by,
        teacher=teacher,
    )


def _pilot(grid: Grid, row: Row, given: dict[str, str], found: dict[str, Cell]) -> list[Cell]:
    pilot, dev = grid.trial.pilot, grid.trial.dev
    if pilot is None or dev is None or row.arm != pilot.arm or not _played_in(row, dev):
        return []
    recipe = _shorter(recipes.load(row.recipe, grid.change, row.change), pilot.steps)
    needs = _with_parents(grid, recipe, given, found)
    return [
        Cell(
            name=f"pilot-{row.arm}-s{seed}",
            arm=row.arm,
            seed=seed,
            recipe=_runnable(recipe, seed),
            parents=needs,
            evaluations=(dev,),
            parameters=row.parameters,
            stage="pilot",
        )
        for seed in range(trials.PILOT_SEEDS + 1, trials.PILOT_SEEDS + 1 + pilot.seeds)
    ]


def _tuning(grid: Grid, row: Row, given: dict[str, str], found: dict[str, Cell]) -> list[Cell]:
    tuning, dev = grid.trial.tuning, grid.trial.dev
    if tuning is None or dev is None:
        return []
    if not _played_in(row, dev):
        raise ConfigError(
            f"Grid {grid.name}: '{row.arm}' is not played in {dev.env}, so it cannot be tuned on "
            f"{dev.name}; an arm without its share of tuning is not compared fairly."
        )
    tried = []
    for rate in tuning.lr:
        lr = {"optim": {"lr": rate}}
        recipe = _shorter(recipes.load(row.recipe, grid.change, row.change, lr), tuning.steps)
        tried.append(
            Cell(
                name="-".join(["tune", row.arm, *row.envs, f"lr{rate:g}"]),
                arm=row.arm,
                seed=trials.TUNING_SEED,
                recipe=_runnable(recipe, trials.TUNING_SEED),
                parents=_with_parents(grid, recipe, given, found),
                evaluations=(dev,),
                parameters=row.parameters,
                stage="tuning",
            )
        )
    return tried


def _played_in(row: Row, what: Evaluation) -> bool:
    return not row.envs or what.env in row.envs


def _shorter(recipe: Recipe, steps: int | None) -> Recipe:
    if steps is None:
        return recipe
    optim = msgspec.structs.replace(recipe.optim, steps=steps)
    return msgspec.structs.replace(recipe, optim=optim, dev=None)


def _kept(grid: Grid, row: Row, recipe: Recipe) -> Recipe:
    """A trial's recipe: it keeps its checkpoint of ``fixed_steps`` on the way to convergence."""
    fixed, optim = grid.trial.fixed_steps, recipe.optim
    if fixed is None:
        return recipe
    if recipe.dev is None or not recipe.dev.patience or not 0 < fixed < optim.steps:
        raise ConfigError(
            f"Grid {grid.name}, row '{row.arm}': fixed_steps = {fixed} is a checkpoint on the way "
            "to convergence: it needs [dev] with patience in the recipe, and fewer than its "
            f"{optim.steps} steps."
        )
    optim = msgspec.structs.replace(optim, keep=tuple(sorted({*optim.keep, fixed})))
    return msgspec.structs.replace(recipe, optim=optim)


def _apart(grid: Grid, every: list[Cell]) -> None:
    """Refuse sets to choose on that share groups of tasks with sets to measure on."""
    chosen_on: dict[str, Evaluate | Evaluation] = {
        d.task_set: d for c in every if (d := c.recipe.dev) is not None
    }
    if grid.trial.dev is not None:
        chosen_on[grid.trial.dev.name] = grid.trial.dev
    for name, what in sorted(chosen_on.items(), key=lambda item: item[0]):
        keys = traces.excluded_keys(what.tasks, what.env)
        for e in grid.evaluations:
            if shared := keys & traces.excluded_keys(e.tasks, e.env):
                raise ConfigError(
                    f"Grid {grid.name}: {len(shared)} groups of tasks are in both '{name}', which "
                    f"is chosen on, and '{e.name}', which is measured (first: {min(shared)})."
                )


def _whole_paths(grid: Grid, every: list[Cell]) -> None:
    """Refuse files that are named from the folder of whoever plans: cells run in the campaign's."""
    named = [(c.name, text) for c in every if c.given is None for text in _files(c.recipe)]
    plays = (*grid.evaluations, *([grid.trial.dev] if grid.trial.dev is not None else ()))
    named += [("evaluations", e.tasks) for e in plays if is_frozen(e.tasks)]
    for where, text in named:
        if not Path(text).is_absolute():
            raise ConfigError(
                f"Grid {grid.name}, {where}: '{text}' is a path from this folder, and cells run in "
                f"the campaign's own.\n  Write the whole path, {Path(text).absolute()} (a model "
                f"may be one of the grid's [[parents]] instead, {MODELS}NAME)."
            )


def _files(recipe: Recipe) -> list[str]:
    """What a recipe names by a path of the user's own."""
    student, tokenizer = recipe.student, recipe.tokenizer
    models = [student.start, tokenizer.start, tokenizer.extend]
    models += [recipe.teacher.checkpoint] if recipe.teacher is not None else []
    agents = [name for what in recipe.data.collect for name in (what.agent, what.errors_from)]
    known = registry.agent_configs()
    # A name that is no path is refused where it is played, with those that are known.
    models += [a for a in agents if a is not None and a not in known and Path(a).exists()]
    tasks = [what.tasks for what in recipe.data.collect]
    tasks += [what.tasks for what in (recipe.dev, recipe.on_policy) if what is not None]
    found = [m for m in models if m is not None and not m.startswith(_ELSEWHERE)]
    return found + [t for t in tasks if t is not None and is_frozen(t)]


def _with_parents(
    grid: Grid,
    recipe: Recipe,
    given: dict[str, str],
    found: dict[str, Cell],
    below: tuple[str, ...] = (),
) -> tuple[str, ...]:
    names = references(recipe)
    for name in names:
        _add_parent(grid, name, given, found, below)
    return names


def _add_parent(
    grid: Grid,
    name: str,
    given: dict[str, str],
    found: dict[str, Cell],
    below: tuple[str, ...] = (),
) -> None:
    if name in found:
        return
    if name in below:
        raise ConfigError(
            f"Grid {grid.name}: models that need each other: {' -> '.join([*below, name])}."
        )
    recipe, parameters = _parent(grid, name)
    needs = () if name in given else _with_parents(grid, recipe, given, found, (*below, name))
    # A teacher is one model, whatever set it is played on by however many students.
    plays = grid.evaluations if name in grid.teachers else ()
    found[name] = Cell(
        name=name,
        arm=PARENT,
        seed=recipe.seed,
        recipe=_runnable(recipe, recipe.seed),
        parents=needs,
        evaluations=plays,
        given=given.get(name),
        parameters=parameters,
        stage="parent",
    )


def _parent(grid: Grid, name: str) -> tuple[Recipe, float | None]:
    """A parent's recipe, and its parameters where they are known."""
    found: dict[str, tuple[str, tuple[dict[str, Any], ...], float | None]] = {}
    for p in grid.parents:
        recipe, changes, _ = found.get(p.recipe, (p.recipe, (), None))
        found[p.name] = (recipe, (*changes, p.change), p.parameters)
    if name not in found and name not in recipes.shipped():
        raise ConfigError(
            f"Grid {grid.name}: '{MODELS}{name}' is neither in [[parents]] nor a recipe's name."
        )
    recipe, changes, parameters = found.get(name, (name, (), None))
    return recipes.load(recipe, *changes), parameters


def _runnable(recipe: Recipe, seed: int) -> Recipe:
    """With its seed; one thread, no time limit, runs by their whole paths, no task sets of its own
    to play (the grid has them): none of that decides a student."""
    optim = msgspec.structs.replace(recipe.optim, threads=1, max_minutes=None)
    runs = tuple(str(Path(run).absolute()) for run in recipe.data.runs)
    data = msgspec.structs.replace(recipe.data, runs=runs)
    return msgspec.structs.replace(recipe, seed=seed, optim=optim, data=data, evaluate=())

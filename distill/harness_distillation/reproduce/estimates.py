"""What a plan will take: hours from measured rates or by arithmetic, memory, both by cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from harness import registry
from harness.errors import ConfigError
from harness_distillation.recipe import Collect
from harness_distillation.recipe_faults import MODELS
from harness_distillation.reproduce.expansion import Cell
from harness_distillation.reproduce.grid import Device, Grid, Rates
from harness_distillation.reproduce.plan import Plan, Planned, columns, done
from harness_distillation.reproduce.trial import Evaluation

Table = list[list[str]]
#: Accelerators with more memory than one that does not hold a training, in bytes.
LARGER = (("H200", 141e9), ("B200", 180e9), ("B300", 288e9))


class Cost(msgspec.Struct, frozen=True):
    """Estimated seconds of one process (or one device)."""

    train: float
    play: float

    @property
    def hours(self) -> float:
        return (self.train + self.play) / 3600


def cost(grid: Grid, cell: Cell) -> Cost:
    """Seconds that a cell trains and plays, from the grid's rates or device: at most, where play on
    a dev set may end the training earlier. That play is counted as play."""
    recipe, optim = cell.recipe, cell.recipe.optim
    steps = 0 if cell.given is not None else optim.steps
    episodes = sum(len(e.task_set().tasks) for _, e, _ in columns(grid, cell))
    if steps and recipe.dev is not None:
        times = -(-steps // recipe.dev.every)
        episodes += times * len(Evaluation(recipe.dev.env, recipe.dev.tasks).task_set().tasks)
    tokens = steps * optim.rows * optim.row_tokens
    return Cost(_train(grid, cell, tokens), _play(grid, cell.parameters, episodes, cell.name))


def collecting(grid: Grid, found: Sequence[Cell]) -> list[tuple[Collect, int, float]]:
    """Every recording that models make, once: (what, episodes, seconds)."""
    parameters = {c.name: c.parameters for c in found}
    wanted: dict[bytes, Collect] = {}
    for cell in found:
        for what in cell.recipe.data.collect if cell.given is None else ():
            if what.agent.startswith(MODELS):
                wanted.setdefault(msgspec.json.encode(what), what)
    lines = []
    for what in wanted.values():
        name = what.agent.removeprefix(MODELS)
        tasks = registry.task_set(what.env, what.tasks).tasks
        episodes = len(tasks) * what.seeds * what.attempts
        lines.append((what, episodes, _play(grid, parameters.get(name), episodes, name)))
    return lines


def memory(grid: Grid, cell: Cell) -> float | None:
    """Least bytes that a cell's training holds on each device: weights, gradients and the
    optimizer's moments (AdamW two, Muon one) in fp32. Activations and a live teacher come on top.

    None where nothing is trained, or no device is asked for.
    """
    if cell.given is not None or grid.device is None:
        return None
    moments = 2 if cell.recipe.optim.optimizer == "adamw" else 1
    return 4 * (2 + moments) * _parameters(grid, cell.parameters, cell.name)


def too_large(plan: Plan) -> list[str]:
    """A sentence about the trainings that the plan's device cannot hold, and what could."""
    device = plan.grid.device
    needs: dict[float, list[str]] = {}
    for cell in (p.cell for p in plan.cells):
        need = memory(plan.grid, cell)
        if device is not None and need is not None and need > device.memory:
            needs.setdefault(need, []).append(cell.name if cell.stage == "parent" else cell.arm)
    if device is None or not needs:
        return []
    told = (
        f"{', '.join(dict.fromkeys(names))} ({_gb(need)} and activations; {_holds(need)})"
        for need, names in sorted(needs.items())
    )
    return [
        f"Too large for one {device.name} ({_gb(device.memory)}), and several do not help, as each "
        f"would hold all of it: {'; '.join(told)}."
    ]


def _holds(need: float) -> str:
    for name, there in LARGER:
        if there > need:
            return f"one {name} has {_gb(there)}"
    return "more than one device has"


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def _train(grid: Grid, cell: Cell, tokens: int) -> float:
    if isinstance(grid.rates, Rates):
        return tokens / grid.rates.train
    assert grid.device is not None
    n = _parameters(grid, cell.parameters, cell.name)
    return 6 * n * tokens / (grid.device.flops * grid.device.mfu)


def _play(grid: Grid, parameters: float | None, episodes: int, name: str) -> float:
    if isinstance(grid.rates, Rates):
        return episodes / grid.rates.play
    device = grid.device
    assert device is not None
    n = _parameters(grid, parameters, name)
    return episodes * device.episode_tokens * 2 * n / (device.bandwidth * device.batch)


def _parameters(grid: Grid, parameters: float | None, name: str) -> float:
    if parameters is None:
        raise ConfigError(f"Grid {grid.name}: '{name}' needs 'parameters' for an estimate.")
    return parameters


def arithmetic(grid: Grid) -> str:
    """How the estimates come about, in a sentence."""
    if isinstance(grid.rates, Rates):
        return (
            f"Estimated from measured rates of one process: {grid.rates.train:,.0f} tokens/s "
            f"trained on, {grid.rates.play:g} episodes/s played."
        )
    d = grid.device
    assert isinstance(d, Device)
    return (
        f"Estimated for one {d.name}: training 6 x parameters x tokens at {100 * d.mfu:.0f} % of "
        f"{d.flops / 1e12:.0f} TFLOP/s; play {d.episode_tokens} sampled tokens an episode, "
        f"{d.batch} episodes at once, each pass reading 2 bytes a parameter at "
        f"{d.bandwidth / 1e12:g} TB/s. The teacher's one pass over the traces is not counted. GB: "
        "the least that training holds, weights, gradients and the optimizer's moments in fp32 "
        "(AdamW: 16 bytes a parameter); activations come on top."
    )


# What is told --------------------------------------------------------------------------------


def sentences(plan: Plan, out: Path) -> list[str]:
    """Traces, the whole of it, and what does not fit."""
    grid, cells = plan.grid, [p.cell for p in plan.cells]
    traces = collecting(grid, cells)
    finished = [p.cell for p in plan.cells if done(out, p) is not None]
    total = sum(cost(grid, c).hours for c in cells) + sum(s for *_, s in traces) / 3600
    unit = "GPU-hours" if grid.device is not None else "hours of one process"
    spent = f", {sum(cost(grid, c).hours for c in finished):,.1f} of them done" if finished else ""
    return [
        *(
            f"Traces, recorded once for all: {episodes} episodes of {what.agent} in "
            f"{what.env}/{what.tasks}, {seconds / 3600:.2f} h"
            for what, episodes, seconds in traces
        ),
        f"In all about {total:,.1f} {unit}{spent}. {arithmetic(grid)}",
        *too_large(plan),
        f"{len(finished)} of {len(cells)} cells are done in {out}",
    ]


def cells_table(plan: Plan, out: Path) -> Table:
    """The cells, those of one row that differ by seed or learning rate together: tokens and memory
    of one, hours of all."""
    grid = plan.grid
    rows = [["cells", "recipe", "tokens", *(["GB"] if grid.device else []), "hours", "done"]]
    for group in _groups(plan):
        cell = group[0].cell
        need = memory(grid, cell)
        optim = cell.recipe.optim
        tokens = f"{optim.steps * optim.rows * optim.row_tokens / 1e6:,.2f}M"
        finished = sum(done(out, p) is not None for p in group)
        rows.append(
            [
                _names(group),
                cell.given or cell.recipe.name,
                tokens if cell.given is None else "-",
                *(["-" if need is None else f"{need / 1e9:,.1f}"] if grid.device else []),
                f"{sum(cost(grid, p.cell).hours for p in group):,.2f}",
                f"{finished} of {len(group)}",
            ]
        )
    return rows


def _groups(plan: Plan) -> list[list[Planned]]:
    found: dict[tuple[str, str], list[Planned]] = {}
    for planned in plan.cells:
        cell = planned.cell
        alike = cell.name if cell.stage == "parent" else cell.name.removesuffix(_own(cell))
        found.setdefault((cell.stage, alike), []).append(planned)
    return list(found.values())


def _own(cell: Cell) -> str:
    """How a cell's name ends, in which it differs from the others of its row."""
    return f"lr{cell.recipe.optim.lr:g}" if cell.stage == "tuning" else f"s{cell.seed}"


def _names(group: list[Planned]) -> str:
    first, last = group[0].cell, group[-1].cell
    return first.name if len(group) == 1 else f"{first.name} .. {_own(last)}"

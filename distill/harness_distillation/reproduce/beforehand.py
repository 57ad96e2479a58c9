"""What is settled before a trial's first student: the learning rate of each arm, from the tuning
cells, and how far training seeds spread, from the pilot. All of it is told as sentences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from harness import api, paired, registry
from harness.errors import ConfigError
from harness.paired import Spread, detectable, planned_error
from harness.runs import Run
from harness.types import Outcome
from harness_distillation.recipe import Data, Recipe
from harness_distillation.recipe_faults import MODELS
from harness_distillation.reproduce.expansion import Cell
from harness_distillation.reproduce.grid import Grid
from harness_distillation.reproduce.plan import Plan, done
from harness_distillation.reproduce.trial import Evaluation

#: Tasks and paired seeds that a pilot is read for.
TASKS = 1000
SEEDS = (3, 5, 10)


class Tried(NamedTuple):
    """A learning rate and the episodes it won of those on the dev set, and how many broke."""

    lr: float
    won: int
    n: int
    broke: int
    run: Path


def tried(plan: Plan, out: Path, names: Sequence[str]) -> list[Tried]:
    """What the finished ones of these tuning cells came to, in their order."""
    by_name = {p.cell.name: p for p in plan.cells}
    found = []
    for name in names:
        planned = by_name[name]
        record = done(out, planned)
        if record is None:
            continue
        run = _run(out, record.runs, planned.cell)
        s = run.summary
        rate = planned.cell.recipe.optim.lr
        found.append(Tried(rate, s.successes, s.n + s.errors, s.errors, run.path))
    return found


def best(found: Sequence[Tried]) -> Tried:
    """What won most, the earlier of equals."""
    return max(found, key=lambda t: t.won / t.n)


def tuned(plan: Plan, out: Path, cell: Cell) -> Recipe:
    """A cell's recipe with the learning rate that its arm's tuning chose.

    Raises ConfigError while that is not finished, and where episodes of it broke: a fault chooses
    no learning rate.
    """
    if not cell.tuned_by:
        return cell.recipe
    found = tried(plan, out, cell.tuned_by)
    if len(found) < len(cell.tuned_by):
        raise ConfigError(f"'{cell.name}' waits for its tuning: {', '.join(cell.tuned_by)}.")
    if broken := [t for t in found if t.broke]:
        raise ConfigError(
            f"'{cell.name}' waits for its tuning: {broken[0].broke} of {broken[0].n} episodes of "
            f"{broken[0].run} broke.\n"
            "  Mend what broke them, then give the same command: they alone are played again."
        )
    optim = msgspec.structs.replace(cell.recipe.optim, lr=best(found).lr)
    return msgspec.structs.replace(cell.recipe, optim=optim)


def tuning_table(plan: Plan, out: Path) -> list[list[str]] | None:
    """Every arm's rates with what they won on the dev set, the chosen one marked; None without
    tuning, or before any is done."""
    tuning, dev = plan.grid.trial.tuning, plan.grid.trial.dev
    if tuning is None or dev is None:
        return None
    rows = [["Method", *(f"lr {lr:g}" for lr in tuning.lr), "chosen"]]
    names = {tuple(p.cell.tuned_by): p.cell for p in plan.cells if p.cell.tuned_by}
    for cells, student in names.items():
        found = {t.lr: t for t in tried(plan, out, cells)}
        if not found:
            continue
        shown = [_won(found[lr]) if lr in found else "-" for lr in tuning.lr]
        whole = len(found) == len(tuning.lr) and not any(t.broke for t in found.values())
        chosen = _chosen(list(found.values())) if whole else "-"
        rows.append([student.name.rpartition("-s")[0], *shown, chosen])
    return rows if len(rows) > 1 else None


def _won(tried: Tried) -> str:
    broke = f", {tried.broke} broke" if tried.broke else ""
    return f"{tried.won} of {tried.n}{broke}"


def _chosen(found: Sequence[Tried]) -> str:
    """The rate that won, and whether a better one may lie beyond those tried."""
    rate, rates = best(found).lr, [t.lr for t in found]
    edge = {max(rates): "the highest tried", min(rates): "the lowest tried"}.get(rate)
    return f"{rate:g}" + (f" ({edge})" if edge else "")


def pilot(plan: Plan, out: Path) -> tuple[int, Spread | None]:
    """Finished seeds of the pilot, and their spread (None: too few, or nothing varies)."""
    runs = {}
    for planned in plan.cells:
        record = done(out, planned) if planned.cell.stage == "pilot" else None
        if record is not None:
            runs[planned.cell.seed] = _run(out, record.runs, planned.cell)
    return len(runs), _spread(runs)


def _run(out: Path, runs: dict[str, str], cell: Cell) -> Run:
    (evaluation,) = cell.evaluations
    return api.load(out / runs[evaluation.name])


def _spread(runs: dict[int, Run]) -> Spread | None:
    if not runs:
        return None
    group = registry.env_class(next(iter(runs.values())).meta.task_set.env).group
    rows = [
        (seed, row.task_id, float(bool(row.success)))
        for seed, run in runs.items()
        for row in run.metrics
        if row.outcome is not Outcome.ERROR
    ]
    seed = np.array([s for s, *_ in rows], dtype=np.int64)
    task = np.unique([t for _, t, _ in rows], return_inverse=True)[1].astype(np.int64)
    cluster = np.unique([group(t) for _, t, _ in rows], return_inverse=True)[1].astype(np.int64)
    won = np.array([w for *_, w in rows], dtype=np.float64)
    return paired.spread(won, cluster, seed, paired.weights(seed, task))


def smallest(seeds_sd: float, rest_sd: float, seeds: int) -> float:
    """Smallest true difference of two arms that ``seeds`` paired trainings show with 80 % power,
    when each run's mean has these standard deviations, arms' seeds are independent and tasks are
    as hard for one arm as for the other."""
    return detectable(_error(seeds_sd, rest_sd, seeds), seeds - 1)


def alike(seeds_sd: float, rest_sd: float, seeds: int, margin: float) -> float:
    """How likely two arms of no difference are told equivalent within ``margin`` (TOST at 5 %), by
    a design as ``smallest`` has it: the 90 % interval, as wide as the seeds happen to spread, must
    lie within."""
    from scipy.special import gammaincinv, ndtr, stdtrit

    error, df = _error(seeds_sd, rest_sd, seeds), seeds - 1
    places = (np.arange(2_000) + 0.5) / 2_000
    seen = error * np.sqrt(2 * gammaincinv(df / 2, places) / df)
    room = (margin - stdtrit(df, 0.95) * seen) / error
    return float(np.maximum(0.0, 2 * ndtr(room) - 1).mean())


def _error(seeds_sd: float, rest_sd: float, seeds: int) -> float:
    return math.sqrt(2 * (seeds_sd**2 + rest_sd**2) / seeds)


def preregistration(plan: Plan, out: Path) -> list[str]:
    """What decides, if anything, as sentences, with what pilot and tuning have come to."""
    grid, trial = plan.grid, plan.grid.trial
    endpoint = next(e for e in grid.evaluations if e.name == trial.endpoint)
    n = len(endpoint.task_set().tasks)
    if not trial.verdict:
        return [*_tuning(grid), *_pilot(plan, out)]
    lines = [
        f"Endpoint: success on {trial.endpoint} (n = {n}, "
        f"{endpoint.task_set().protocol.max_steps} steps), {_paired(grid)}, "
        f"alpha {trial.alpha:g}, adjusted by Holm over the arms of a comparison"
        f"{_families(grid)}. Equivalence within {trial.margin:g} points (TOST, not adjusted).",
        f"Played once by every finished student{_whose(grid)}: "
        f"{', '.join(_played(e, grid.trial.first_seed) for e in grid.evaluations)}.",
        "A comparison is decided when all its arms' seeds are done, and not before.",
    ]
    if trial.fixed_steps is not None:
        lines.append(
            "The endpoint is taken at the end of training: the learning rate has fallen to its "
            "end, and the student is the checkpoint that won most on the dev set"
            f"{_looks(plan)}. Whether more steps would win more is no part of the trial. Beside it "
            f"students as they were after {trial.fixed_steps} steps of that training."
        )
    lines += [*_tuning(grid), *_episodes(plan)]
    known = _pilot(plan, out)
    if not known:
        lines.append(
            f"One pair of runs on {n} tasks shows differences from "
            f"{100 * detectable(planned_error(n)):.1f} points on (80 % power, near 50 % success); "
            "the spread between training seeds comes on top."
        )
    return lines + known


def _looks(plan: Plan) -> str:
    """After how many steps students are played on the dev set, and how many tokens they are trained
    on (padding too), where all are alike."""
    recipes = {
        (c.recipe.dev.every, c.recipe.optim.steps, c.recipe.optim.rows * c.recipe.optim.row_tokens)
        for c in (p.cell for p in plan.cells)
        if c.stage == "trial" and c.recipe.dev is not None
    }
    if len(recipes) != 1:
        return ""
    ((every, steps, tokens),) = recipes
    played = ", ".join(f"{n:,}" for n in _plays(every, steps))
    return f" (played after {played} steps of {tokens:,} tokens)"


def _plays(every: int, steps: int) -> list[int]:
    return sorted({*range(every, steps, every), steps})


def _paired(grid: Grid) -> str:
    """How many training seeds each comparison pairs."""
    most = grid.trial.seeds
    compared = {name for group in grid.comparisons for name in group}
    fewer = {row.arm: row.seeds for row in grid.rows if row.arm in compared and row.seeds}
    told = ", ".join(f"{arm} {seeds}" for arm, seeds in fewer.items() if seeds < most)
    first = grid.trial.first_seed
    named = f", {first} and following" if first > 1 else ""
    return f"{most} paired training seeds{named}" + (f" ({told})" if told else "")


def _families(grid: Grid) -> str:
    """How many are adjusted together, where there are several comparisons."""
    sizes = [len(group) - 1 for group in grid.comparisons]
    if len(sizes) < 2:
        return ""
    return f" ({', '.join(map(str, sizes))}; not over all {sum(sizes)} together)"


def _whose(grid: Grid) -> str:
    return " of its environment" if any(row.envs for row in grid.rows) else ""


def _played(what: Evaluation, first: int) -> str:
    """An evaluation, and by whom where not by all."""
    by = [", ".join(what.arms)] if what.arms else []
    by += [f"seeds {first} to {first + what.seeds - 1}"] if what.seeds is not None else []
    return what.name + (f" ({'; '.join(by)})" if by else "")


def _episodes(plan: Plan) -> list[str]:
    """Whose episodes the arms are trained on, where that is not the same for all of them."""
    arms: dict[str, list[str]] = {}
    said: dict[bytes, str] = {}
    for planned in plan.cells:
        if planned.cell.stage == "trial":
            data = planned.cell.recipe.data
            key = msgspec.json.encode(data)
            if key not in said:
                said[key] = _recorded(data)
            arms.setdefault(said[key], []).append(planned.cell.arm)
    if len(arms) < 2:
        return []
    told = (f"{', '.join(dict.fromkeys(names))}: {what}" for what, names in arms.items())
    return [f"Arms are trained on other episodes. {'. '.join(told)}."]


def _recorded(data: Data) -> str:
    counts: dict[str, int] = {}
    for what in data.collect:
        tasks = len(registry.task_set(what.env, what.tasks).tasks)
        counts[what.agent] = counts.get(what.agent, 0) + tasks * what.seeds * what.attempts
    told = [f"{n:,} of {agent.removeprefix(MODELS)}" for agent, n in counts.items()]
    whole = " and ".join([*told, *map(str, data.runs)])
    return f"those won of {whole}" if data.successes_only else whole


def _tuning(grid: Grid) -> list[str]:
    tuning, dev = grid.trial.tuning, grid.trial.dev
    if tuning is None or dev is None:
        return ["Tuning: none; every arm trains as its recipe says."]
    rates = ", ".join(f"{lr:g}" for lr in tuning.lr)
    long = "" if tuning.steps is None else f" of {tuning.steps} steps"
    return [
        f"Tuning: {len(tuning.lr)} trainings{long} of every arm, learning rates {rates}, the best "
        f"on {dev.name} (n = {len(dev.task_set().tasks)}) is the arm's. Nothing else is tuned."
    ]


def _pilot(plan: Plan, out: Path) -> list[str]:
    wanted, dev = plan.grid.trial.pilot, plan.grid.trial.dev
    if wanted is None or dev is None:
        return []
    have, found = pilot(plan, out)
    if have < wanted.seeds:
        return [
            f"Pilot: {wanted.seeds} seeds of {wanted.arm} on {dev.name}, {have} done; it tells the "
            "spread between seeds (--stage pilot)."
        ]
    if found is None:
        return [f"Pilot: {have} seeds of {wanted.arm} ended alike on {dev.name}: no spread to see."]
    tasks = len(dev.task_set().tasks)
    trained = next(p.cell.recipe.optim for p in plan.cells if p.cell.stage == "pilot")
    rest = found.rest * math.sqrt(tasks / TASKS)

    def shown(sd: float) -> str:
        points = [100 * smallest(sd, rest, k) for k in SEEDS]
        return " / ".join(f"{p:.1f}" if p < 100 else "over 100" for p in points)

    margin = plan.grid.trial.margin
    told = [f"{100 * alike(found.seeds, rest, k, margin / 100):.0f}" for k in SEEDS]
    return [
        f"Pilot: {have} seeds of {wanted.arm}, {trained.steps} steps at learning rate "
        f"{trained.lr:g}, on {dev.name} (n = {tasks}): success {100 * found.mean:.1f} %, standard "
        f"deviation between seeds {100 * found.seeds:.1f} points (95 % interval "
        f"{100 * found.low:.1f} to {100 * found.high:.1f}).",
        f"So {' / '.join(map(str, SEEDS))} paired seeds on {TASKS:,} tasks show differences from "
        f"{shown(found.seeds)} points on (80 % power, before p is adjusted); with the spread at "
        f"the upper end of its interval, {shown(found.high)}. Two arms without any difference are "
        f"told equivalent within {margin:g} points in {' / '.join(told)} % of such trials.",
    ]

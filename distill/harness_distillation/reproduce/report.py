"""The table of a campaign in the paper's form, its comparisons, and the paper's numbers apart.

Success of an arm is a mean over training seeds and tasks: with several seeds its interval comes
from the crossed variance of both (``harness.paired``), with one it is Wilson's at the effective n.
The effective n is how many independent episodes would know the mean as well.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from harness import api, comparison, comparison_text, paired, registry
from harness.metrics import EpisodeMetrics
from harness.runs import Run, RunMeta
from harness.types import Outcome
from harness_distillation.recipe import Objective
from harness_distillation.reproduce.grid import PARENT, Column
from harness_distillation.reproduce.plan import Plan, done

Table = list[list[str]]
_Value = Callable[[EpisodeMetrics], float | None]


class Mean(NamedTuple):
    """A mean over seeds and tasks with its 95 % interval (None: the episodes cannot tell it)."""

    value: float
    low: float | None
    high: float | None
    n: int
    effective: float


class Arm(NamedTuple):
    """What is there of one row of the table: its finished cells' runs, by column and seed."""

    name: str
    teaches: bool
    objective: Objective
    reason_to_act: float | None
    runs: dict[str, dict[int, Run]]


class Quantity(NamedTuple):
    """One of the paper's quantities, or reasoning an episode beside reasoning a step."""

    heading: str
    #: Its name in the paper's tables.
    key: str
    #: Of an episode; None: it has none. Never negative.
    value: _Value
    scale: float
    digits: int
    #: What no episode of a run can exceed, nor then any interval of a mean.
    most: Callable[[RunMeta], float] = lambda meta: math.inf


QUANTITIES = (
    Quantity(
        "Task success, %", "success", lambda r: float(bool(r.success)), 100.0, 1, lambda meta: 1.0
    ),
    Quantity(
        "Reasoning length, tokens a step", "reasoning_length",
        lambda r: None if r.reasoning_tokens is None or not r.n_steps
        else r.reasoning_tokens / r.n_steps,
        1.0, 1,
    ),
    # The teacher's own traces are the reference, so its own row has none.
    Quantity(
        "CoT match with the teacher's won episodes, %", "cot_match",
        lambda r: r.cot_overlap, 100.0, 1, lambda meta: 1.0,
    ),
    Quantity(
        "Episode latency, steps (lost episodes too)", "steps", lambda r: float(r.n_steps), 1.0, 1,
        lambda meta: float(meta.task_set.protocol.max_steps),
    ),
    Quantity(
        "Reasoning length, tokens an episode (the paper's eq. 9)", "reasoning_an_episode",
        lambda r: None if r.reasoning_tokens is None else float(r.reasoning_tokens), 1.0, 0,
    ),
)  # fmt: skip


def arms(plan: Plan, out: Path) -> list[Arm]:
    """Rows in the grid's order, teachers first; an arm's environments share a row. Pilot and tuning
    are no part of it."""
    found: dict[str, Arm] = {}
    for planned in plan.cells:
        cell, record = planned.cell, done(out, planned)
        if cell.stage != "trial" and cell.name not in plan.grid.teachers:
            continue
        name = cell.arm if cell.stage == "trial" else cell.name
        arm = found.setdefault(name, Arm(name, cell.arm == PARENT, cell.recipe.objective, None, {}))
        if record is None:
            continue
        for column, path in record.runs.items():
            arm.runs.setdefault(column, {})[cell.seed] = api.load(out / path)
        if arm.reason_to_act is None:
            found[name] = arm._replace(reason_to_act=record.reason_to_act)
    return list(found.values())


def tables(plan: Plan, found: Sequence[Arm]) -> list[tuple[str, Table]]:
    """(title, rows with headings): the paper's quantities in the form of its table, then what they
    rest on. Arms that have begun; tables that say something."""
    shown = plan.grid.columns
    found = [arm for arm in found if arm.runs]
    if plan.grid.table == "table5":
        parts = [(_title(c), _ablation(found, c)) for c in shown]
    else:
        parts = [(q.heading, _by_column(found, shown, partial(_number, q))) for q in QUANTITIES]
    parts += [
        (
            "Beside CoT match: precision / F1 / F1 with the trace of another task, %",
            _by_column(found, shown, _match),
        ),
        (
            "What the means rest on: N_r : N_a of the training tokens, training seeds, episodes "
            "(effective n)",
            _by_column(found, shown, _episodes, ("N_r : N_a", "seeds"), _training(plan)),
        ),
        (
            "Episodes that broke (in no mean) / were truncated / invalid actions an episode",
            _by_column(found, shown, _faults),
        ),
    ]
    return [(title, rows) for title, rows in parts if _says_something(rows)]


def _says_something(rows: Table) -> bool:
    return any(cell not in ("", "-") for row in rows[1:] for cell in row[1:])


def _by_column(
    found: Sequence[Arm],
    shown: Sequence[Column],
    cell: Callable[[Arm, Column], str],
    heads: Sequence[str] = (),
    facts: Callable[[Arm], list[str]] = lambda arm: [],
) -> Table:
    """A row an arm: ``facts`` under ``heads``, then a cell for each task set."""
    rows = [["Method", *heads, *(c.name for c in shown)]]
    return rows + [[arm.name, *facts(arm), *(cell(arm, c) for c in shown)] for arm in found]


def _ablation(found: Sequence[Arm], what: Column) -> Table:
    """Table 5's form: which spans are supervised, success, CoT match and steps."""
    head = ["Method", "Reason", "Action", "Segm", "Succ, %", "CoT, %", "Steps"]
    told = [q for q in QUANTITIES if q.key in ("success", "cot_match", "steps")]
    rows = ([a.name, *_marks(a), *(_number(q, a, what) for q in told)] for a in found)
    return [head, *rows]


def _number(quantity: Quantity, arm: Arm, what: Column) -> str:
    """A row's mean of a quantity on a task set, with its interval."""
    return _cell(_of(arm, quantity, what), quantity.scale, quantity.digits)


def _of(arm: Arm, quantity: Quantity, what: Column) -> Mean | None:
    """A row's mean of a quantity on a task set."""
    if quantity.key == "cot_match" and arm.teaches:
        return None
    runs = arm.runs.get(what.name, {})
    most = min((quantity.most(run.meta) for run in runs.values()), default=math.inf)
    return mean(runs, quantity.value, share=quantity.key == "success", most=most)


def _marks(arm: Arm) -> list[str]:
    """Whether reasoning and actions are supervised and told apart, as Table 5 shows it."""
    o = arm.objective
    if arm.teaches:
        return ["", "", ""]
    marks = ["yes" if weight else "no" for weight in (o.lambda_reason, o.lambda_act)]
    if o.masks != "spans":
        return [*marks, f"~ ({'random' if o.masks == 'random_span' else 'shuffled'})"]
    return [*marks, "no" if o.normalizer in ("token", "sum") else "yes"]


def _training(plan: Plan) -> Callable[[Arm], list[str]]:
    """N_r : N_a of an arm, and its seeds that were played on the endpoint."""

    def told(arm: Arm) -> list[str]:
        ratio = "-" if arm.reason_to_act is None else f"{arm.reason_to_act:.2f}"
        return [ratio, str(len(arm.runs.get(plan.grid.trial.endpoint, {})))]

    return told


def _episodes(arm: Arm, what: Column) -> str:
    whole = _of(arm, QUANTITIES[0], what)
    return "-" if whole is None else f"{whole.n} ({whole.effective:.0f})"


def _match(arm: Arm, what: Column) -> str:
    """What tells a match from rambling and from chance (``harness.cot``)."""
    runs = arm.runs.get(what.name, {})
    values: tuple[_Value, ...] = (
        lambda r: r.cot_precision, lambda r: r.cot_f1, lambda r: r.cot_floor_f1,
    )  # fmt: skip
    means = [None if arm.teaches else mean(runs, value) for value in values]
    if not any(means):
        return "-"
    return " / ".join("-" if m is None else f"{100 * m.value:.1f}" for m in means)


def _faults(arm: Arm, what: Column) -> str:
    rows = [row for run in arm.runs.get(what.name, {}).values() for row in run.metrics]
    played = [row for row in rows if row.outcome is not Outcome.ERROR]
    if not rows:
        return "-"
    truncated = sum(row.outcome is Outcome.TRUNCATED for row in played)
    invalid = f"{np.mean([row.invalid_actions for row in played]):.2f}" if played else "-"
    return f"{len(rows) - len(played)} / {truncated} / {invalid}"


def mean(
    runs: dict[int, Run], value: _Value, share: bool = False, most: float = math.inf
) -> Mean | None:
    """Mean of a quantity (0 at least, ``most`` at most) over the episodes of all seeds' runs that
    have it; broken ones have none. ``share``: it is 0 or 1, as success is.

    None without such an episode.
    """
    rows = [
        (seed, row, v)
        for seed, run in runs.items()
        for row in run.metrics
        if row.outcome is not Outcome.ERROR and (v := value(row)) is not None
    ]
    if not rows:
        return None
    env = next(iter(runs.values())).meta.task_set.env
    group = registry.env_class(env).group
    values = np.array([v for _, _, v in rows], dtype=np.float64)
    replicate = _codes([str(seed) for seed, _, _ in rows])
    cluster = _codes([group(row.task_id) for _, row, _ in rows])
    weight = paired.weights(replicate, _codes([row.task_id for _, row, _ in rows]))
    if share:
        of = paired.share(values, cluster, replicate, weight)
        return Mean(of.value, of.low, of.high, len(rows), of.worth)
    centre = float(np.average(values, weights=weight))
    found = paired.crossed(values, cluster, replicate, weight)
    if found is None:
        n = paired.effective(values, cluster, weight)
        found = paired.means(values, cluster, replicate, weight)
        if found is None:
            return Mean(centre, None, None, len(rows), n)
        return Mean(centre, max(0.0, found.low), min(most, found.high), len(rows), n)
    spread = float(np.average((values - centre) ** 2, weights=weight))
    effective = min(float(len(rows)), max(1.0, spread / found.error**2))
    return Mean(centre, max(0.0, found.low), min(most, found.high), len(rows), effective)


def _codes(labels: Sequence[str]) -> paired.Ints:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)


def _cell(found: Mean | None, scale: float, digits: int) -> str:
    if found is None:
        return "-"
    text = f"{scale * found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def _title(what: Column) -> str:
    task_set = what.evaluation.task_set()
    return f"{what.name} ({task_set.protocol.max_steps} steps a game, task set {task_set.hash})"


def origins(plan: Plan, out: Path) -> list[str]:
    """What was the same for all students and is not: episodes of the same data that differ, as
    where a campaign went on on another machine and its teacher played a little differently."""
    traces: dict[bytes, dict[str | None, list[str]]] = {}
    for planned in plan.cells:
        cell, record = planned.cell, done(out, planned)
        if record is not None and cell.stage == "trial":
            same = traces.setdefault(msgspec.json.encode(cell.recipe.data), {})
            same.setdefault(record.traces, []).append(cell.name)
    return [
        "Trained on different episodes of the same tasks: "
        + " / ".join(", ".join(names) for names in by_hash.values())
        + "."
        for by_hash in traces.values()
        if len(by_hash) > 1
    ]


# Comparisons ---------------------------------------------------------------------------------


#: What is told beside success, as comparisons name it.
_EFFECTS = (
    "steps, both solved", "reasoning tokens a step", "reasoning tokens an episode",
    "CoT overlap", "CoT F1", "CoT F1 above chance",
    # Who acts on what is not there has not learned to read the page, and compares as little.
    "invalid actions",
)  # fmt: skip


def verdicts(plan: Plan, out: Path, found: Sequence[Arm]) -> list[list[str]]:
    """What may be concluded, as sentences, part by part: nothing of a smoke run, and of a
    comparison nothing before all that was planned for its arms is done."""
    if not plan.grid.trial.verdict:
        return [["No verdict: this scale proves that everything runs, and nothing else."]]
    parts: list[list[str]] = []
    for group in plan.grid.comparisons:
        first, *others = group
        cells = [p for p in plan.cells if p.cell.stage == "trial" and p.cell.arm in group]
        finished = sum(done(out, p) is not None for p in cells)
        if finished == len(cells):
            parts += compared(plan, found, group)
        else:
            parts.append([
                f"{first} against {', '.join(others)}: no verdict before all {len(cells)} cells "
                f"are done ({finished} are). A trial is not stopped by a look at it."
            ])  # fmt: skip
    return parts


def compared(plan: Plan, found: Sequence[Arm], group: Sequence[str]) -> list[list[str]]:
    """Sentences of one comparison in every column its arms share, the endpoint first. Each arm is
    compared over all seeds that it and the first have."""
    by_name = {arm.name: arm for arm in found}
    order = sorted(plan.grid.columns, key=lambda c: c.name != plan.grid.trial.endpoint)
    parts = []
    for what in order:
        decides = what.name == plan.grid.trial.endpoint
        first, *others = (by_name[name].runs.get(what.name, {}) for name in group)
        shared = [sorted(first.keys() & other.keys()) for other in others]
        if not all(shared):
            continue
        found_here = [
            comparison.compare(
                [first[seed] for seed in seeds], [other[seed] for seed in seeds],
                margin=plan.grid.trial.margin / 100,
            )
            for other, seeds in zip(others, shared, strict=True)
        ]  # fmt: skip
        for one in comparison.adjusted(found_here):
            ties = one.pairs - one.only_a - one.only_b
            parts.append(
                [
                    f"{'Endpoint' if decides else 'Beside the endpoint'}, {what.name}:",
                    *comparison_text.sentences(one),
                    *(_also(one) if decides else ()),
                    f"Verdict: {_verdict(one)}. Pairs that ended alike: {ties} of {one.pairs}.",
                ]
            )
    return parts


def _also(one: comparison.Comparison) -> list[str]:
    """Effects on the paper's other quantities; CoT match in percent."""
    lines = []
    for part in one.others:
        if part.name in _EFFECTS and part.low is not None:
            name, _, _, *shown = comparison_text.cells(part)
            a, b, difference, interval = shown
            lines.append(
                f"{name[0].upper()}{name[1:]}: {a} against {b}, difference {difference}, 95 % "
                f"interval {interval}."
            )
    return lines


def _verdict(one: comparison.Comparison) -> str:
    return {"a": f"{one.a} is better", "b": f"{one.b} is better"}.get(one.verdict, one.verdict)


# The paper -----------------------------------------------------------------------------------


#: The paper's headings.
_PAPERS = {
    "success": "Succ", "reasoning_length": "Len", "cot_match": "CoT", "steps": "Lat",
    "alfworld": "ALF", "webshop": "Web", "hotpotqa": "Hot",
}  # fmt: skip


def paper(plan: Plan) -> tuple[str, Table]:
    """The paper's own numbers for the rows that have them: (title, rows with headings)."""
    numbers = _paper_rows(plan.grid.table)
    wanted = [row.paper for row in plan.grid.rows if row.paper is not None]
    key = "arm" if plan.grid.table == "table5" else "agent"
    envs = list(dict.fromkeys(row["env"] for row in numbers))
    quantities = [q for q in QUANTITIES if q.key in numbers[0]]
    heads = [f"{_PAPERS[q[1]]} {_PAPERS[e]}" for q in quantities for e in envs]
    rows = [["In the paper", *heads]]
    for name in dict.fromkeys(row[key] for row in numbers):
        if name not in wanted and not name.startswith("teacher"):
            continue
        of = {row["env"]: row for row in numbers if row[key] == name}
        label = next(iter(of.values()))["in the paper"]
        rows.append([label, *(of[e][q.key] if e in of else "-" for q in quantities for e in envs)])
    number = plan.grid.table.removeprefix("table")
    title = (
        f"Reference: the paper's Table {number} (Succ: success, %; Len: reasoning tokens; CoT: "
        "match, %; Lat: steps). One seed, no interval, other tasks and models: beside our numbers, "
        "never among them."
    )
    return title, rows


def _paper_rows(table: str) -> list[dict[str, str]]:
    text = (files("harness_distillation") / "paper" / f"{table}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))

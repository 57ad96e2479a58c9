"""``compare``: who is better on the same tasks, by how much, and how sure.

    runs of A, runs of B -> pairs by (task, seed, attempt) -> difference, interval, test, verdict

Only runs of one task set meet: same tasks, data, budget and rules. An episode that broke enters no
pair; what the difference would be had it counted as lost is told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from harness import paired, registry
from harness.errors import ConfigError
from harness.metrics import EpisodeMetrics
from harness.runs import Run, find_runs, open_run
from harness.types import Outcome

#: Differences in success that nobody should care about, unless asked otherwise.
MARGIN = 0.03


class Part(msgspec.Struct, frozen=True):
    """One quantity, or one task type: means of both sides over their pairs, and the difference."""

    name: str
    n: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None


class Comparison(msgspec.Struct, frozen=True):
    """A minus B over paired episodes. Shares are 0 to 1; intervals are 95 % bootstrap intervals.

    ``p`` is the exact McNemar test with one replicate, the paired t-test over replicates with
    more; ``p_holm`` is adjusted for all comparisons made at once. ``detectable`` is the smallest
    true difference in success this design shows in four of five repetitions.
    """

    a: str
    b: str
    task_set: str
    task_set_hash: str
    pairs: int
    clusters: int
    replicates: int
    success: Part
    only_a: int
    only_b: int
    p: float | None
    p_holm: float | None
    detectable: float
    margin: float
    equivalent: bool
    errors_a: int
    errors_b: int
    #: The difference with broken episodes counted as lost.
    errors_lost: float
    by_type: tuple[Part, ...]
    others: tuple[Part, ...]

    @property
    def verdict(self) -> str:
        """``a`` or ``b`` (better), ``equivalent`` (within the margin), ``tied`` (undecided)."""
        low, high = self.success.low, self.success.high
        if low is not None and low > 0:
            return "a"
        if high is not None and high < 0:
            return "b"
        return "equivalent" if self.equivalent else "tied"


_Value = Callable[[EpisodeMetrics], float | None]


def _won(row: EpisodeMetrics) -> float:
    return float(bool(row.success))


def _per_step(count: Callable[[EpisodeMetrics], int | None]) -> _Value:
    def value(row: EpisodeMetrics) -> float | None:
        total = count(row)
        return None if total is None or not row.n_steps else total / row.n_steps

    return value


#: Name, value, and whether only tasks that both solved count.
_OTHERS: tuple[tuple[str, _Value, bool], ...] = (
    ("score", lambda r: None if r.score is None else 100 * r.score, False),
    ("steps", lambda r: r.n_steps, False),
    ("steps, both solved", lambda r: r.n_steps, True),
    ("invalid actions", lambda r: r.invalid_actions, False),
    ("reasoning words a step", _per_step(lambda r: r.reasoning_words), False),
    ("reasoning tokens a step", _per_step(lambda r: r.reasoning_tokens), False),
    ("CoT overlap", lambda r: r.cot_overlap, False),
)


def compare(
    a: Run | Sequence[Run], b: Run | Sequence[Run], *, margin: float = MARGIN, draws: int = 10_000
) -> Comparison:
    """Compare two agents on one task set.

    A side of several runs holds replicates (one a training seed), paired in order with the other
    side's; a side of one run meets each of the other's. Raises ConfigError for different task
    sets, for runs with slips, and where the sides share no episode.
    """
    left, right = _side(a), _side(b)
    if len(left) == 1:
        left = left * len(right)
    if len(right) == 1:
        right = right * len(left)
    if len(left) != len(right):
        raise ConfigError(
            f"{len(left)} runs of '{_name(left)}' cannot be paired with {len(right)} of "
            f"'{_name(right)}': give equally many, or one."
        )
    _same_protocol([*left, *right])
    pairs: list[_Pair] = []
    broken_a = broken_b = 0
    for number, (one, other) in enumerate(zip(left, right, strict=True)):
        found, lost_a, lost_b = _pairs(one, other, number)
        pairs += found
        broken_a, broken_b = broken_a + lost_a, broken_b + lost_b
    whole = [p for p in pairs if not p.broken]
    if not whole:
        raise ConfigError(
            f"'{_name(left)}' and '{_name(right)}' have no episode of the same task, seed and "
            "attempt that both finished without a fault."
        )
    won_a = np.array([_won(p.a) for p in whole])
    won_b = np.array([_won(p.b) for p in whole])
    cluster, replicate = _codes([p.cluster for p in whole]), _codes([p.replicate for p in whole])
    estimate = paired.shares(won_a, won_b, cluster, replicate, draws=draws)
    only_a, only_b = int((won_a > won_b).sum()), int((won_b > won_a).sum())
    replicates = len(set(replicate.tolist()))
    p = (
        paired.mcnemar(only_a, only_b)
        if replicates == 1
        else paired.seed_test(won_a - won_b, replicate)
    )
    success = Part(
        "success", len(whole), float(won_a.mean()), float(won_b.mean()),
        estimate.difference, estimate.low, estimate.high,
    )  # fmt: skip
    types = sorted({p.a.task_type for p in whole if p.a.task_type})
    return Comparison(
        a=_name(left),
        b=_name(right),
        task_set=left[0].meta.task_set.name,
        task_set_hash=left[0].meta.task_set_hash,
        pairs=len(whole),
        clusters=len(set(cluster.tolist())),
        replicates=replicates,
        success=success,
        only_a=only_a,
        only_b=only_b,
        p=p,
        p_holm=p,
        detectable=paired.detectable(estimate.error),
        margin=margin,
        equivalent=-margin < estimate.low_90 and estimate.high_90 < margin,
        errors_a=broken_a,
        errors_b=broken_b,
        errors_lost=float(np.mean([_won(p.a) - _won(p.b) for p in pairs])),
        by_type=tuple(
            _part(t, [p for p in whole if p.a.task_type == t], _won, draws)
            for t in types
        ),
        others=tuple(
            _part(name, [p for p in whole if not solved or (p.a.success and p.b.success)], value,
                  draws)
            for name, value, solved in _OTHERS
        ),
    )  # fmt: skip


def compare_all(
    sides: Sequence[Run | Sequence[Run]], *, margin: float = MARGIN, draws: int = 10_000
) -> list[Comparison]:
    """Every later side against the first, p-values adjusted together by Holm."""
    found = [compare(sides[0], side, margin=margin, draws=draws) for side in sides[1:]]
    known = [c.p for c in found if c.p is not None]
    adjusted = iter(paired.holm(known))
    return [c if c.p is None else msgspec.structs.replace(c, p_holm=next(adjusted)) for c in found]


def find_side(text: str, out: Path, env: str | None, tasks: str | None) -> list[Run]:
    """Runs that an argument of ``harness compare`` names: folders, or an agent whose newest
    complete run (of ``tasks``) counts; several joined by commas are replicates."""
    return [_find(part.strip(), out, env, tasks) for part in text.split(",") if part.strip()]


def _find(name: str, out: Path, env: str | None, tasks: str | None) -> Run:
    if Path(name).is_dir():
        return open_run(name)
    fitting = [
        run
        for run in find_runs(out)
        if run.meta.agent.name == name
        and run.meta.kind == "run"
        and run.meta.status == "complete"
        and env in (None, run.meta.task_set.env)
        and (tasks is None or tasks in (run.meta.task_set.name, run.meta.task_set.name[1 + len(
            run.meta.task_set.env):]))
    ]  # fmt: skip
    if not fitting:
        where = f" of '{tasks}'" if tasks else ""
        raise ConfigError(
            f"No complete run of agent '{name}'{where} in {out}, and no folder of that name. "
            f"Make one with `harness run --agent {name} --env ENV`; see `harness list runs`."
        )
    sets = {(run.meta.task_set.name, run.meta.task_set_hash) for run in fitting}
    if len(sets) > 1:
        raise ConfigError(
            f"'{name}' has runs of several task sets ({', '.join(sorted(n for n, _ in sets))}): "
            "say which with --tasks, or name the run's folder."
        )
    return max(fitting, key=lambda run: run.meta.started)


class _Pair(msgspec.Struct, frozen=True):
    a: EpisodeMetrics
    b: EpisodeMetrics
    cluster: str
    replicate: str

    @property
    def broken(self) -> bool:
        return Outcome.ERROR in (self.a.outcome, self.b.outcome)


def _side(side: Run | Sequence[Run]) -> list[Run]:
    runs = [side] if isinstance(side, Run) else list(side)
    if not runs:
        raise ConfigError("A side of a comparison needs at least one run.")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError(f"'{_name(runs)}': one run is named twice; it is no replicate of itself.")
    return runs


def _name(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(run.meta.agent.name for run in runs))
    return "+".join(names)


def _same_protocol(runs: Sequence[Run]) -> None:
    first = runs[0].meta
    for run in runs:
        meta = run.meta
        if meta.error_rate:
            raise ConfigError(f"{run.path}: slips were put into this run; it is no measurement.")
        if meta.status != "complete":
            raise ConfigError(f"{run.path} is not complete: `harness run --resume {run.path}`.")
        if meta.task_set_hash != first.task_set_hash:
            raise ConfigError(
                f"'{first.task_set.name}' ({first.task_set_hash}, budget "
                f"{first.task_set.protocol.max_steps}) and '{meta.task_set.name}' "
                f"({meta.task_set_hash}, budget {meta.task_set.protocol.max_steps}) score "
                "different things: tasks, data, budget or rules differ. Run both on one task set."
            )


def _pairs(a: Run, b: Run, number: int) -> tuple[list[_Pair], int, int]:
    group = registry.env_class(a.meta.task_set.env).group
    theirs = {(r.task_id, r.seed, r.attempt): r for r in b.metrics}
    found = [
        _Pair(row, theirs[key], group(row.task_id), f"{number}|{row.seed}|{row.attempt}")
        for row in a.metrics
        if (key := (row.task_id, row.seed, row.attempt)) in theirs
    ]
    broken_a = sum(p.a.outcome is Outcome.ERROR for p in found)
    broken_b = sum(p.b.outcome is Outcome.ERROR for p in found)
    return found, broken_a, broken_b


def _part(name: str, pairs: Sequence[_Pair], value: _Value, draws: int) -> Part:
    rows = [(value(p.a), value(p.b), p) for p in pairs]
    known = [(x, y, p) for x, y, p in rows if x is not None and y is not None]
    if not known:
        return Part(name, 0, None, None, None, None, None)
    a, b = (np.array([row[i] for row in known], dtype=np.float64) for i in (0, 1))
    cluster = _codes([p.cluster for *_, p in known])
    replicate = _codes([p.replicate for *_, p in known])
    draws = min(draws, 2000)
    if value is _won:
        estimate = paired.shares(a, b, cluster, replicate, draws=draws)
    else:
        estimate = paired.bootstrap(a - b, cluster, replicate, draws=draws)
    return Part(
        name, len(known), float(a.mean()), float(b.mean()),
        estimate.difference, estimate.low, estimate.high,
    )  # fmt: skip


def _codes(labels: Sequence[str]) -> paired.Ints:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)

"""``compare``: who is better on the same tasks, by how much, and how sure.

    runs of A, runs of B -> pairs by (task, seed, attempt) -> difference, interval, test, verdict

Only runs of one task set meet: same tasks, data, budget and rules. A run is a replicate (one
training seed); its evaluation seeds and attempts are repeats that are averaged within a task. An
episode that broke enters no pair; what the difference would be had it counted as lost is told
beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from harness import paired, registry
from harness.errors import ConfigError
from harness.metrics import EpisodeMetrics
from harness.overlap import Overlap, largest
from harness.policy import differences
from harness.retention import retention
from harness.runs import Run, check_description
from harness.types import Outcome

#: Differences in success that nobody should care about, unless asked otherwise.
MARGIN = 0.03
#: An adjusted p-value below this, and an interval without 0, make a verdict.
ALPHA = 0.05


class Part(msgspec.Struct, frozen=True):
    """One quantity, or one task type: means of both sides over their pairs, and the difference.

    ``units`` is what ``n`` pairs are worth: clusters of tasks. The interval is None where they
    cannot tell it.
    """

    name: str
    n: int
    units: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None


class Parting(msgspec.Struct, frozen=True):
    """A task that the sides did not win equally often: the difference of their shares."""

    task_id: str
    difference: float


class Retained(msgspec.Struct, frozen=True):
    """The student's success as a share of its teacher's, and its 95 % interval (``high`` is None
    where the teacher's success is not told from 0)."""

    student: str
    teacher: str
    share: float
    low: float
    high: float | None


class Comparison(msgspec.Struct, frozen=True):
    """A minus B over paired episodes. Shares are 0 to 1; intervals are 95 % intervals.

    ``test`` names the test of ``p``; ``p_holm`` is adjusted for all comparisons made at once,
    ``equivalent`` is not.
    ``detectable`` is the smallest true difference in success this design shows in four of five
    repetitions (at p < 0.05, not adjusted), None where it shows none. ``lost`` is success with
    broken episodes counted as lost.
    """

    a: str
    b: str
    task_set: str
    task_set_hash: str
    pairs: int
    tasks: int
    clusters: int
    #: Runs (training seeds) of each side, and pairs of runs.
    runs_a: int
    runs_b: int
    replicates: int
    success: Part
    only_a: int
    only_b: int
    test: str
    p: float
    p_holm: float
    detectable: float | None
    margin: float
    equivalent: bool
    #: Episodes without a partner: another seed or attempt was played.
    unmatched_a: int
    unmatched_b: int
    errors_a: int
    errors_b: int
    lost: Part
    p_lost: float
    p_lost_holm: float
    by_type: tuple[Part, ...]
    others: tuple[Part, ...]
    differing: tuple[Parting, ...]
    #: Where one side, and one only, has the role of a teacher that won something.
    retained: Retained | None = None
    #: What of the set each side's weights were trained on (of several runs, most).
    overlap_a: Overlap | None = None
    overlap_b: Overlap | None = None
    #: N_r : N_a of what each side learned from (of several runs, the mean), where it tells.
    reason_to_act_a: float | None = None
    reason_to_act_b: float | None = None
    #: How many comparisons ``p_holm`` is adjusted for.
    family: int = 1

    @property
    def verdict(self) -> str:
        """``a`` or ``b`` (better), ``equivalent`` (within the margin), ``tied`` (undecided)."""
        better = _better(self.success, self.p_holm)
        return better or ("equivalent" if self.equivalent else "tied")

    @property
    def worse(self) -> bool:
        """Whether A is clearly worse, as it stands or with broken episodes counted as lost."""
        return self.verdict == "b" or (
            self.errors_a > 0 and _better(self.lost, self.p_lost_holm) == "b"
        )


def _better(part: Part, p: float) -> str | None:
    if p < ALPHA and part.low is not None and part.low > 0:
        return "a"
    if p < ALPHA and part.high is not None and part.high < 0:
        return "b"
    return None


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
    ("replies without an action", lambda r: r.format_errors, False),
    ("loops", lambda r: r.loops, False),
    ("reasoning words a step", _per_step(lambda r: r.reasoning_words), False),
    ("reasoning tokens a step", _per_step(lambda r: r.reasoning_tokens), False),
    ("reasoning words an episode", lambda r: r.reasoning_words, False),
    ("reasoning tokens an episode", lambda r: r.reasoning_tokens, False),
)
#: CoT match: only where both sides were measured with one reference.
MATCH: tuple[tuple[str, _Value, bool], ...] = (
    ("CoT overlap", lambda r: r.cot_overlap, False),
    ("CoT overlap by chance", lambda r: r.cot_floor, False),
    ("CoT precision", lambda r: r.cot_precision, False),
    ("CoT F1", lambda r: r.cot_f1, False),
    ("CoT F1 by chance", lambda r: r.cot_floor_f1, False),
    (
        "CoT F1 above chance",
        lambda r: None if r.cot_f1 is None or r.cot_floor_f1 is None else r.cot_f1 - r.cot_floor_f1,
        False,
    ),
)


def compare(
    a: Run | Sequence[Run], b: Run | Sequence[Run], *, margin: float = MARGIN, draws: int = 10_000
) -> Comparison:
    """Compare two agents on one task set.

    A side of several runs holds replicates (one a training seed), paired in order with the other
    side's; a side of one run meets each of the other's. Raises ConfigError for different task
    sets, for runs with slips, and where the sides share no episode, or a run.
    """
    if not (math.isfinite(margin) and 0 < margin <= 1):
        raise ConfigError(
            f"A margin of equivalence lies between 0 and 100 points, not {100 * margin:g}."
        )
    left, right = _side(a), _side(b)
    for run in left:
        if run.path.resolve() in {other.path.resolve() for other in right}:
            raise ConfigError(
                f"{run.path} is on both sides: a run says nothing against itself. Name another run "
                "by its folder; see `harness list runs`."
            )
    name_a, name_b = _names(left, right)
    runs_a, runs_b = len(left), len(right)
    if 1 not in (runs_a, runs_b) and runs_a != runs_b:
        raise ConfigError(
            f"{runs_a} runs of '{name_a}' cannot be paired with {runs_b} of '{name_b}': give "
            "equally many, or one."
        )
    _same_protocol([*left, *right])
    replicates = max(runs_a, runs_b)
    matches = list(zip(left * (replicates // runs_a), right * (replicates // runs_b), strict=True))
    pairs = [p for number, (one, other) in enumerate(matches) for p in _pairs(one, other, number)]
    whole = [p for p in pairs if not p.broken]
    if not whole:
        raise ConfigError(
            f"'{name_a}' and '{name_b}' have no episode of the same task, seed and attempt that "
            "both finished without a fault."
        )
    estimate = _shares(whole, draws)
    lost = _shares(pairs, draws) if len(pairs) > len(whole) else estimate
    gains = [_won(p.a) - _won(p.b) for p in whole]
    others = (*_OTHERS, *MATCH) if _one_reference([*left, *right]) else _OTHERS
    types = sorted({p.a.task_type for p in whole if p.a.task_type})
    tasks = len({p.a.task_id for p in whole})
    clusters = len({p.cluster for p in whole})
    return Comparison(
        a=name_a,
        b=name_b,
        task_set=left[0].meta.task_set.name,
        task_set_hash=left[0].meta.task_set_hash,
        pairs=len(whole),
        tasks=tasks,
        clusters=clusters,
        runs_a=runs_a,
        runs_b=runs_b,
        replicates=replicates,
        success=_filled("success", whole, _won, estimate),
        only_a=sum(g > 0 for g in gains),
        only_b=sum(g < 0 for g in gains),
        test=(
            "t over training seeds and tasks"
            if math.isfinite(estimate.df)
            else "exact McNemar"
            if clusters == len(whole)
            else "sign flips of whole clusters"
        ),
        p=estimate.p,
        p_holm=estimate.p,
        detectable=_detectable(whole, estimate),
        margin=margin,
        equivalent=-margin < estimate.low_90 and estimate.high_90 < margin,
        unmatched_a=_unmatched([(one, other) for one, other in matches]),
        unmatched_b=_unmatched([(other, one) for one, other in matches]),
        errors_a=_errors(left),
        errors_b=_errors(right),
        lost=_filled("success", pairs, _won, lost),
        p_lost=lost.p,
        p_lost_holm=lost.p,
        by_type=tuple(_share(t, [p for p in whole if p.a.task_type == t], draws) for t in types),
        others=tuple(
            _mean(name, [p for p in whole if not solved or (p.a.success and p.b.success)], value)
            for name, value, solved in others
        ),
        differing=_differing(whole),
        retained=_retained(whole, (name_a, left), (name_b, right)),
        overlap_a=largest(run.meta.overlap for run in left),
        overlap_b=largest(run.meta.overlap for run in right),
        reason_to_act_a=_taught(left),
        reason_to_act_b=_taught(right),
    )


def _taught(runs: Sequence[Run]) -> float | None:
    found = [r for run in runs if (r := run.meta.policy.get("reason_to_act")) is not None]
    return sum(found) / len(found) if found else None


def compare_all(
    sides: Sequence[Run | Sequence[Run]], *, margin: float = MARGIN, draws: int = 10_000
) -> list[Comparison]:
    """Every later side against the first, ``adjusted``."""
    return adjusted([compare(sides[0], side, margin=margin, draws=draws) for side in sides[1:]])


def adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """The same comparisons, their p-values (and so who is better) adjusted together by Holm.
    Equivalence is not: each is a claim of its own, at 5 %."""
    p_holm = paired.holm([c.p for c in found])
    lost = paired.holm([c.p_lost for c in found])
    return [
        msgspec.structs.replace(c, p_holm=p, p_lost_holm=q, family=len(found))
        for c, p, q in zip(found, p_holm, lost, strict=True)
    ]


class _Pair(msgspec.Struct, frozen=True):
    a: EpisodeMetrics
    b: EpisodeMetrics
    cluster: str
    #: Number of the pair of runs.
    replicate: int

    @property
    def broken(self) -> bool:
        return Outcome.ERROR in (self.a.outcome, self.b.outcome)


def _side(side: Run | Sequence[Run]) -> list[Run]:
    runs = [side] if isinstance(side, Run) else list(side)
    if not runs:
        raise ConfigError("A side of a comparison needs at least one run.")
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError(
            f"'{_agents(runs)}': one run is named twice; it is no replicate of itself."
        )
    for number, run in enumerate(runs):
        if untold := sum(row.outcome is Outcome.UNTOLD for row in run.metrics):
            raise ConfigError(
                f"{run.path}: of {untold} episodes the imported log does not tell whether they "
                "were won.\n  If these were, import the log with --all-won."
            )
        for other in runs[:number]:
            _check_apart(run, other)
    return runs


def _check_apart(run: Run, other: Run) -> None:
    """Refuse copies of a run, and runs of the same weights, as training seeds."""
    one, two = run.meta, other.meta
    same = one.metrics_hash is not None and one.metrics_hash == two.metrics_hash  # seconds too
    why = "is a copy of" if same else None
    if "weights_sha256" in one.policy.keys() & two.policy.keys():
        alike = not differences(one.policy, two.policy)
        why = why or ("was played by the same weights as" if alike else None)
    if why is not None:
        raise ConfigError(
            f"{run.path} {why} {other.path}: it is no training seed of its own. Repeats of one "
            "agent are played in one run (--seeds, --attempts)."
        )


def _agents(runs: Sequence[Run]) -> str:
    return "+".join(dict.fromkeys(run.meta.agent.name for run in runs))


def _names(left: Sequence[Run], right: Sequence[Run]) -> tuple[str, str]:
    """The sides' agents; runs of one agent are told apart by their ids."""
    one, other = _agents(left), _agents(right)
    if one != other:
        return one, other
    return tuple(  # type: ignore[return-value]
        f"{one} ({runs[0].path.resolve().name}"
        + (f" and {len(runs) - 1} more)" if runs[1:] else ")")
        for runs in (left, right)
    )


def _same_protocol(runs: Sequence[Run]) -> None:
    first = runs[0].meta
    for run in runs:
        meta = run.meta
        if meta.error_rate:
            raise ConfigError(f"{run.path}: slips were put into this run; it is no measurement.")
        if meta.status != "complete":
            raise ConfigError(f"{run.path} is not complete: `harness run --resume {run.path}`.")
        check_description(run)
        if meta.task_set_hash != first.task_set_hash:
            raise ConfigError(
                f"'{first.task_set.name}' ({first.task_set_hash}, budget "
                f"{first.task_set.protocol.max_steps}) and '{meta.task_set.name}' "
                f"({meta.task_set_hash}, budget {meta.task_set.protocol.max_steps}) score "
                "different things: tasks, data, budget or rules differ. Run both on one task set.\n"
                f"  What differs: harness list tasks {runs[0].path} {run.path}"
            )
        if meta.env_version != first.env_version:
            raise ConfigError(
                f"{run.path} was played in version {meta.env_version} of '{meta.task_set.env}', "
                f"{runs[0].path} in version {first.env_version}: they score different things. Run "
                "both in one version."
            )


def _one_reference(runs: Sequence[Run]) -> bool:
    """Whether all were measured against the same traces: by what they say where all know it, else
    of one name, none saying another thing than those that know."""
    said = {run.meta.reference_hash for run in runs}
    names = {run.meta.reference for run in runs}
    return len(said) == 1 if None not in said else len(names) == 1 and len(said) < 3


def _pairs(a: Run, b: Run, number: int) -> list[_Pair]:
    group = registry.env_class(a.meta.task_set.env).group
    theirs = {row.key: row for row in b.metrics}
    return [
        _Pair(row, theirs[row.key], group(row.task_id), number)
        for row in a.metrics
        if row.key in theirs
    ]


def _unmatched(matches: Sequence[tuple[Run, Run]]) -> int:
    """Episodes of the distinct runs on the left that none of their partners played."""
    partners: dict[int, set[tuple[str, int, int]]] = {}
    runs = {id(one): one for one, _ in matches}
    for one, other in matches:
        partners.setdefault(id(one), set()).update(row.key for row in other.metrics)
    return sum(row.key not in partners[i] for i, run in runs.items() for row in run.metrics)


def _errors(runs: Sequence[Run]) -> int:
    return sum(row.outcome is Outcome.ERROR for run in runs for row in run.metrics)


def _differing(pairs: Sequence[_Pair]) -> tuple[Parting, ...]:
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for p in pairs:
        total[p.a.task_id] += int(_won(p.a) - _won(p.b))
        count[p.a.task_id] += 1
    found = [Parting(task, total[task] / count[task]) for task in count if total[task]]
    return tuple(sorted(found, key=lambda d: (-abs(d.difference), d.task_id)))


def _retained(
    pairs: Sequence[_Pair], a: tuple[str, list[Run]], b: tuple[str, list[Run]]
) -> Retained | None:
    teaches = [all(run.meta.agent.role == "teacher" for run in runs) for _, runs in (a, b)]
    if teaches[0] == teaches[1]:
        return None
    rows = [np.array([_won(r) for r in side]) for side in _rows(pairs)]
    if teaches[0]:
        (a, b), rows = (b, a), rows[::-1]
    at = _arrays(pairs)
    found = retention(rows[0], rows[1], at.cluster, at.replicate, at.weight)
    if found is None:
        return None
    return Retained(
        a[0], b[0], found.ratio, found.low, found.high if math.isfinite(found.high) else None
    )


class _Arrays(msgspec.Struct, frozen=True):
    cluster: paired.Ints
    replicate: paired.Ints
    weight: paired.Floats


def _arrays(pairs: Sequence[_Pair]) -> _Arrays:
    replicate = np.array([p.replicate for p in pairs], dtype=np.int64)
    weight = paired.weights(replicate, _codes([p.a.task_id for p in pairs]))
    return _Arrays(_codes([p.cluster for p in pairs]), replicate, weight)


def _detectable(pairs: Sequence[_Pair], estimate: paired.Estimate) -> float | None:
    if math.isfinite(estimate.df):
        found = paired.detectable(estimate.error, estimate.df)
        return found if found <= 1 else None
    gains = np.array([_won(p.a) - _won(p.b) for p in pairs])
    at = _arrays(pairs)
    return paired.shown_by_flips(gains, at.cluster, at.weight, estimate.error)


def _shares(pairs: Sequence[_Pair], draws: int) -> paired.Estimate:
    won_a, won_b = (np.array([_won(r) for r in side]) for side in _rows(pairs))
    at = _arrays(pairs)
    return paired.shares(won_a, won_b, at.cluster, at.replicate, at.weight, draws=draws)


def _rows(pairs: Sequence[_Pair]) -> tuple[list[EpisodeMetrics], list[EpisodeMetrics]]:
    return [p.a for p in pairs], [p.b for p in pairs]


def _share(name: str, pairs: Sequence[_Pair], draws: int) -> Part:
    few = len({p.cluster for p in pairs}) < paired.FEWEST
    return _filled(name, pairs, _won, None if few else _shares(pairs, min(draws, 2000)))


def _mean(name: str, pairs: Sequence[_Pair], value: _Value) -> Part:
    known = [p for p in pairs if value(p.a) is not None and value(p.b) is not None]
    if not known:
        return Part(name, 0, 0, None, None, None, None, None)
    a, b = (np.array([value(r) for r in side], dtype=np.float64) for side in _rows(known))
    at = _arrays(known)
    return _filled(name, known, value, paired.means(a - b, at.cluster, at.replicate, at.weight))


def _filled(
    name: str, pairs: Sequence[_Pair], value: _Value, found: paired.Estimate | None
) -> Part:
    weight = _arrays(pairs).weight
    a, b = (
        float(np.average(np.array([value(r) for r in side], dtype=np.float64), weights=weight))
        for side in _rows(pairs)
    )
    units = len({p.cluster for p in pairs})
    if found is None:
        return Part(name, len(pairs), units, a, b, a - b, None, None)
    return Part(name, len(pairs), units, a, b, found.difference, found.low, found.high)


def _codes(labels: Sequence[str]) -> paired.Ints:
    return np.unique(np.array(labels), return_inverse=True)[1].astype(np.int64)

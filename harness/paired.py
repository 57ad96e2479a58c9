"""Statistics of paired outcomes: two agents on the same tasks, some of them related, some repeated.

A row is one episode of each agent on one task. Clusters are tasks that stand or fall together (a
product, a folder); a replicate is a training seed. Evaluation seeds and attempts are repeats
inside a replicate: rows of one task share one weight. Everything here is arrays of numbers, one
entry a row; ``harness.comparison`` says what they mean.

With one replicate nothing is known of other training seeds, and clusters alone are drawn anew
(bootstrap, Newcombe, sign flips). With several, replicates and clusters are crossed random
effects: few replicates make a percentile bootstrap far too narrow, so that interval, p-value and
equivalence all come from variance components and Student's t, never narrower than of repeats where
the sides part in few clusters.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics import MANY, evenly, wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Fewer clusters than this give no interval to a task type, or to a quantity that is no share.
FEWEST = 10
#: A variance below this is rounding.
_NOTHING = 1e-20


class Estimate(NamedTuple):
    """A mean difference, its standard error and degrees of freedom, intervals, and p."""

    difference: float
    error: float
    df: float
    low: float
    high: float
    #: The 90 % interval, which a test of equivalence at 5 % looks at (TOST).
    low_90: float
    high_90: float
    p: float


class Share(NamedTuple):
    """One agent's success share, its 95 % interval, and how many independent episodes know it as
    well."""

    value: float
    low: float
    high: float
    worth: float


class Spread(NamedTuple):
    """How far training seeds of one agent spread, as standard deviations of a run's mean."""

    mean: float
    #: From seed to seed, were each played on endless tasks, and its 95 % interval.
    seeds: float
    low: float
    high: float
    #: Of the same seed, from one choice of as many tasks to another (beyond how hard they are).
    rest: float


def weights(replicate: Ints, task: Ints) -> Floats:
    """One over the number of rows of the same task and replicate."""
    row, column = (np.unique(labels, return_inverse=True)[1] for labels in (replicate, task))
    _, cell, count = np.unique(row * len(task) + column, return_inverse=True, return_counts=True)
    one_over: Floats = 1.0 / count[cell]
    return one_over


def shares(
    won_a: Floats,
    won_b: Floats,
    cluster: Ints,
    replicate: Ints,
    weight: Floats | None = None,
    *,
    draws: int = 10_000,
) -> Estimate:
    """The difference of two success shares (0/1 outcomes).

    Several replicates: ``crossed``; where the sides part in fewer than ``metrics.MANY`` clusters,
    on each side the wider of it and what follows, which takes replicates for repeats.
    One: on each side the wider of the cluster bootstrap and Newcombe's score interval, the latter
    with the effective number of pairs (the ``fewest`` where few clusters part) and Student's
    quantiles over them (Korn and Graubard, Survey Methodology 24, 1998): a bootstrap of
    outcomes that never differ has no width, and would call two agents equal after a handful of
    tasks. p is by sign flips.
    """
    weight = np.ones(len(won_a)) if weight is None else weight
    difference = won_a - won_b
    found = crossed(difference, cluster, replicate, weight)
    if found is not None and parted(won_a != won_b, cluster) >= MANY:
        return _within(found)
    repeats = _one_replicate(won_a, won_b, cluster, weight, draws)
    if found is None:
        return repeats
    # Where few clusters part, a spread over clusters is hardly seen, and nobody knows of the next.
    return _within(
        found._replace(
            error=max(found.error, repeats.error),
            low=min(found.low, repeats.low),
            high=max(found.high, repeats.high),
            low_90=min(found.low_90, repeats.low_90),
            high_90=max(found.high_90, repeats.high_90),
            p=max(found.p, repeats.p),
        )
    )


def share(won: Floats, cluster: Ints, replicate: Ints, weight: Floats) -> Share:
    """One agent's success share (0/1 outcomes): ``crossed`` over several replicates, Wilson's
    interval for as many episodes as these are worth over one, and the wider of both where ``few``
    clusters tell."""
    value = _mean(won, weight)
    n, unsure = effective(won, cluster, weight), few(won, cluster)
    if unsure:
        n = min(n, fewest(cluster, weight))
    low, high = wilson(n * value, n)
    found = crossed(won, cluster, replicate, weight)
    if found is None:
        return Share(value, low, high, n)
    variance = float(np.average((won - value) ** 2, weights=weight))
    worth = min(float(len(won)), max(1.0, variance / found.error**2))
    found = _within(found)
    if unsure:
        return Share(value, max(0.0, min(low, found.low)), max(high, found.high), min(worth, n))
    return Share(value, max(0.0, found.low), found.high, worth)


def few(won: Floats, cluster: Ints) -> bool:
    """Whether wins, or losses, lie in so few clusters that these cannot stand for others."""
    return min(parted(won == outcome, cluster) for outcome in (1.0, 0.0)) < MANY


def parted(rows: Any, cluster: Ints) -> float:
    """Clusters in which some of these rows lie; uneven ones count as fewer (``metrics.evenly``)."""
    _, g, held = np.unique(cluster, return_inverse=True, return_counts=True)
    return evenly(held[np.unique(g.reshape(-1)[np.asarray(rows, dtype=bool)])])


def _within(found: Estimate) -> Estimate:
    """Student's interval does not know that shares end."""
    return found._replace(
        low=max(found.low, -1.0), high=min(found.high, 1.0),
        low_90=max(found.low_90, -1.0), high_90=min(found.high_90, 1.0),
    )  # fmt: skip


def _one_replicate(
    won_a: Floats, won_b: Floats, cluster: Ints, weight: Floats, draws: int
) -> Estimate:
    difference = won_a - won_b
    drawn = bootstrap(difference, cluster, weight, draws=draws)
    n = effective(difference, cluster, weight)
    # Tasks that parted nobody, and their repeats, tell of no other cluster.
    if parted(won_a != won_b, cluster) < MANY:
        n = min(n, fewest(cluster, weight))
    wide, narrow = _quantiles(max(1.0, fewest(cluster, weight) - 1))
    score = {z: newcombe(won_a, won_b, n, z, weight) for z in (wide, narrow)}
    return drawn._replace(
        error=max(drawn.error, (score[wide][1] - score[wide][0]) / (2 * wide)),
        low=min(drawn.low, score[wide][0]),
        high=max(drawn.high, score[wide][1]),
        low_90=min(drawn.low_90, score[narrow][0]),
        high_90=max(drawn.high_90, score[narrow][1]),
        p=flips(difference, cluster, weight),
    )


def means(
    difference: Floats,
    cluster: Ints,
    replicate: Ints,
    weight: Floats | None = None,
    *,
    draws: int = 2_000,
) -> Estimate | None:
    """The mean difference of a quantity that is no share; None where the rows cannot tell how far
    to trust it: fewer than ``FEWEST`` clusters, or no spread.

    One replicate: on each side the wider of the cluster bootstrap and Student's interval.
    """
    weight = np.ones(len(difference)) if weight is None else weight
    if len(np.unique(cluster)) < FEWEST:
        return None
    if len(np.unique(replicate)) > 1:
        return crossed(difference, cluster, replicate, weight)
    table, *_ = _contributions(difference, cluster, replicate, weight)
    spread = _spread(table.sum(0))
    if spread < _NOTHING:
        return None
    student = _student(_mean(difference, weight), spread, max(1.0, fewest(cluster, weight) - 1))
    drawn = bootstrap(difference, cluster, weight, draws=draws)
    return student._replace(
        low=min(student.low, drawn.low),
        high=max(student.high, drawn.high),
        low_90=min(student.low_90, drawn.low_90),
        high_90=max(student.high_90, drawn.high_90),
    )


def crossed(difference: Floats, cluster: Ints, replicate: Ints, weight: Floats) -> Estimate | None:
    """A mean difference over crossed replicates (R) and clusters (G); None for fewer than two of
    either, or where nothing varies.

    The variance of the mean is s2(replicates)/R + s2(clusters)/G - s2(rest)/(RG), the two-way
    random-effects decomposition, never less than either of the first two. Student's t has degrees
    of freedom between R - 1 and G - 1 (of G clusters as even ones), harmonically by the replicates'
    share of the variance: Satterthwaite's, who squares the shares, are too many where few
    replicates happen to lie close together. Two replicates have one, whatever the tasks say.
    """
    table, by_replicate, by_cluster = _contributions(difference, cluster, replicate, weight)
    r, g = table.shape
    if r < 2 or g < 2:
        return None
    rows, columns = table.sum(1), table.sum(0)
    seeds, tasks = _spread(rows), _spread(columns)
    rest = table - np.outer(rows, by_cluster) - np.outer(by_replicate, columns)
    both = float((rest**2).sum()) * r * g / ((r - 1) * (g - 1))
    variance = max(seeds + tasks - both, seeds, tasks)
    if variance < _NOTHING:
        return None
    share = seeds / variance
    even = max(1.0, evenly(by_cluster) - 1)
    df = 1.0 if r == 2 else 1 / (share / (r - 1) + (1 - share) / even)
    return _student(_mean(difference, weight), variance, df)


def spread(values: Floats, cluster: Ints, replicate: Ints, weight: Floats) -> Spread | None:
    """The spread of replicates (seeds) that met the same clusters of tasks; None for fewer than two
    of either, or where nothing varies.

    Components of the two-way random-effects decomposition that ``crossed`` uses, the interval after
    Williams (Biometrika 49, 1962).
    """
    from scipy.special import fdtri, gammaincinv

    table, by_replicate, by_cluster = _contributions(values, cluster, replicate, weight)
    r, g = table.shape
    if r < 2 or g < 2:
        return None
    rows, columns = table.sum(1), table.sum(0)
    rest = table - np.outer(rows, by_cluster) - np.outer(by_replicate, columns)
    df, df_rest = r - 1.0, (r - 1.0) * (g - 1.0)
    one = r * _spread(rows)
    noise = float((rest**2).sum()) * r * r * g / df_rest
    if max(one, noise) < _NOTHING:
        return None

    def bound(q: float) -> float:
        left = one - noise * float(fdtri(df, df_rest, q))
        return math.sqrt(max(0.0, df * left / (2 * float(gammaincinv(df / 2, q)))))

    seeds = math.sqrt(max(0.0, one - noise))
    return Spread(_mean(values, weight), seeds, bound(0.975), bound(0.025), math.sqrt(noise))


def _contributions(
    difference: Floats, cluster: Ints, replicate: Ints, weight: Floats
) -> tuple[Floats, Floats, Floats]:
    """What each replicate and cluster adds to the mean's error [R, G], and their shares of all
    weight [R], [G]."""
    r_names, r = np.unique(replicate, return_inverse=True)
    g_names, g = np.unique(cluster, return_inverse=True)
    table, held = np.zeros((2, len(r_names), len(g_names)))
    total = weight.sum()
    np.add.at(table, (r, g), weight * (difference - _mean(difference, weight)) / total)
    np.add.at(held, (r, g), weight / total)
    return table, held.sum(1), held.sum(0)


def _spread(parts: Floats) -> float:
    """Variance of a sum of independent contributions whose mean is 0."""
    n = len(parts)
    return float((parts**2).sum()) * n / (n - 1) if n > 1 else 0.0


def _mean(values: Floats, weight: Floats) -> float:
    return float(np.average(values, weights=weight))


def _quantiles(df: float) -> tuple[float, float]:
    """Of Student's distribution, two-sided: for 95 % and for 90 %."""
    from scipy.special import stdtrit

    return float(stdtrit(df, 0.975)), float(stdtrit(df, 0.95))


def _student(difference: float, variance: float, df: float) -> Estimate:
    from scipy.special import stdtr

    error = math.sqrt(variance)
    wide, narrow = (error * t for t in _quantiles(df))
    return Estimate(
        difference, error, df,
        difference - wide, difference + wide, difference - narrow, difference + narrow,
        min(1.0, 2 * float(stdtr(df, -abs(difference) / error))),
    )  # fmt: skip


def bootstrap(
    difference: Floats,
    cluster: Ints,
    weight: Floats | None = None,
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Cluster bootstrap of a mean difference: clusters are drawn anew, with replacement. It says
    nothing of another training seed, and is no test: p is NaN."""
    weight = np.ones(len(difference)) if weight is None else weight
    names, g = np.unique(cluster, return_inverse=True)
    groups = len(names)
    total, held = np.zeros(groups), np.zeros(groups)
    np.add.at(total, g, weight * difference)
    np.add.at(held, g, weight)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size)
        means.append((drawn @ total) / (drawn @ held))
    values = np.concatenate(means)
    low, low_90, high_90, high = np.percentile(values, [2.5, 5.0, 95.0, 97.5])
    return Estimate(
        _mean(difference, weight), float(values.std(ddof=1)), math.inf,
        float(low), float(high), float(low_90), float(high_90), math.nan,
    )  # fmt: skip


def effective(difference: Floats, cluster: Ints, weight: Floats) -> float:
    """How many independent pairs would know the mean difference as well as these rows: their
    variance over the variance of the mean, at most all rows; ``fewest`` where nothing varies."""
    n = len(difference)
    share = weight / weight.sum()
    mean = float((share * difference).sum())
    single = float((share * (difference - mean) ** 2).sum()) * n / max(1, n - 1)
    table, *_ = _contributions(difference, cluster, np.zeros(n, dtype=np.int64), weight)
    whole = _spread(table.sum(0))
    if whole < _NOTHING or single < _NOTHING:
        return fewest(cluster, weight)
    return min(max(single / whole, 1.0), float(n))


def fewest(cluster: Ints, weight: Floats) -> float:
    """How many independent pairs the rows are worth where those of one cluster all come out alike:
    as many as there are clusters if these weigh alike, the fewer the more uneven they are."""
    names, g = np.unique(cluster, return_inverse=True)
    return evenly(np.bincount(g.reshape(-1), weights=weight, minlength=len(names)))


def newcombe(
    won_a: Floats, won_b: Floats, n: float, z: float, weight: Floats | None = None
) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a paired difference of shares (Statistics in Medicine
    17, 1998, method 10), as if the shares seen came from ``n`` pairs."""
    weight = np.ones(len(won_a)) if weight is None else weight
    p, q = _mean(won_a, weight), _mean(won_b, weight)
    phi = correlation(won_a, won_b, n, weight)
    (low_p, high_p), (low_q, high_q) = wilson(n * p, n, z), wilson(n * q, n, z)

    def side(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    return p - q - side(p - low_p, high_q - q), p - q + side(high_p - p, q - low_q)


def correlation(won_a: Floats, won_b: Floats, n: float, weight: Floats) -> float:
    """Phi of two paired outcomes as if seen in ``n`` pairs, a positive one corrected for continuity
    as Newcombe does; 0 where an outcome never varies."""
    p, q = _mean(won_a, weight), _mean(won_b, weight)
    both = n * _mean(won_a * won_b, weight)
    neither = n * _mean((1 - won_a) * (1 - won_b), weight)
    crossed = both * neither - (n * p - both) * (n * q - both)
    spread = math.sqrt(max(0.0, p * (1 - p) * q * (1 - q))) * n * n
    if crossed > 0:
        crossed = max(crossed - n / 2, 0.0)
    return crossed / spread if spread else 0.0


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: p of a split this uneven among the discordant pairs."""
    from scipy.stats import binomtest

    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def flips(
    difference: Floats, cluster: Ints, weight: Floats, *, draws: int = 20_000, seed: int = 0
) -> float:
    """Two-sided sign-flip test: were the agents alike, each cluster could as well have come out
    the other way round. Where clusters weigh alike this is exact, and McNemar's test; otherwise
    ``draws`` flips are drawn."""
    names, g = np.unique(cluster, return_inverse=True)
    sums = np.zeros(len(names))
    np.add.at(sums, g, weight * difference)
    sums = sums[np.abs(sums) > 1e-12]
    if not len(sums):
        return 1.0
    if np.ptp(np.abs(sums)) < 1e-9:
        return mcnemar(int((sums > 0).sum()), int((sums < 0).sum()))
    rng = np.random.default_rng(seed)
    seen, beyond = abs(float(sums.sum())) - 1e-9, 0
    for start in range(0, draws, 2_000):
        signs = rng.integers(0, 2, (min(2_000, draws - start), len(sums)), dtype=np.int8)
        beyond += int((np.abs((2.0 * signs - 1.0) @ sums) >= seen).sum())
    return (beyond + 1) / (draws + 1)


def detectable(error: float, df: float = math.inf) -> float:
    """Smallest true difference that a design with this standard error shows with 80 % power, by the
    noncentral t distribution: with two or three seeds the error is itself hardly known."""
    from scipy.special import nctdtrinc, stdtrit

    df = min(df, 1e9)
    return float(nctdtrinc(df, 0.2, stdtrit(df, 0.975))) * error


def shown_by_flips(difference: Floats, cluster: Ints, weight: Floats, error: float) -> float | None:
    """``detectable`` of one replicate, whose test is ``flips``: were the sides alike, but their
    outcomes to part as often as they did. A spread around the difference seen would promise the
    more, the larger that is. None where no difference at all is shown, as with five clusters."""
    names, g = np.unique(cluster, return_inverse=True)
    sums = np.zeros(len(names))
    np.add.at(sums, g, weight * difference)
    parted = math.sqrt(float((sums**2).sum())) / float(weight.sum())
    # No fewer clusters than so many, all of them one way, make p < 0.05.
    least = next(k for k in range(1, 64) if 2.0 ** (1 - k) < 0.05) / len(names)
    if least > 1:
        return None
    return min(1.0, max(detectable(max(parted, error)), least))


def planned_error(n: int, share: float = 0.5, correlation: float = 0.5) -> float:
    """Standard error of a paired difference of two success rates near ``share`` over n tasks,
    before anything is played; ``correlation`` is that of two agents on one task. Seeds and
    attempts of evaluation repeat tasks and add none."""
    return math.sqrt(2 * share * (1 - share) * (1 - correlation) / n)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted

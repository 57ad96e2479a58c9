"""Statistics of paired outcomes: two agents on the same tasks, some of them related, some repeated.

A pair is one task under one replicate (a training seed, an evaluation seed, an attempt); clusters
are tasks that stand or fall together (a product, a folder). Everything here is arrays of numbers;
``harness.compare`` says what they mean.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics import wilson

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Z95, _Z90 = 1.959963984540054, 1.6448536269514722
#: z(97.5 %) + z(80 %): how many standard errors a difference must measure to be seen 4 times in 5.
_POWER_80 = _Z95 + 0.8416212335729143


class Estimate(NamedTuple):
    """A mean difference, its bootstrap standard error and percentile intervals."""

    difference: float
    error: float
    low: float
    high: float
    #: The 90 % interval, which a test of equivalence at 5 % looks at (TOST).
    low_90: float
    high_90: float


def bootstrap(
    differences: Floats, cluster: Ints, replicate: Ints, *, draws: int = 10_000, seed: int = 0
) -> Estimate:
    """Crossed bootstrap of a mean difference (n pairs): clusters and replicates are drawn anew,
    independently, with replacement, and a pair counts as often as both of its were drawn.

    With one replicate this is the cluster bootstrap: it says nothing of another training seed.
    """
    groups, g = np.unique(cluster, return_inverse=True)
    repeats, r = np.unique(replicate, return_inverse=True)
    shape = (len(repeats), len(groups))
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (r, g), differences)
    np.add.at(count, (r, g), 1.0)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    for start in range(0, draws, 500):
        size = min(500, draws - start)
        by_group = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size)
        by_repeat = rng.multinomial(len(repeats), np.full(len(repeats), 1 / len(repeats)), size)
        weighed = ((by_repeat @ total) * by_group).sum(1)
        weight = ((by_repeat @ count) * by_group).sum(1)
        means.append(weighed[weight > 0] / weight[weight > 0])
    drawn = np.concatenate(means)
    low, low_90, high_90, high = np.percentile(drawn, [2.5, 5.0, 95.0, 97.5])
    return Estimate(
        float(differences.mean()), float(drawn.std(ddof=1)),
        float(low), float(high), float(low_90), float(high_90),
    )  # fmt: skip


def shares(
    won_a: Floats, won_b: Floats, cluster: Ints, replicate: Ints, *, draws: int = 10_000
) -> Estimate:
    """The difference of two success shares (0/1 outcomes of n pairs).

    On each side the wider of the crossed bootstrap and Newcombe's score interval, the latter with
    as many pairs as there are clusters: a bootstrap of outcomes that never differ has no width,
    and would call two agents equal after a handful of tasks.
    """
    drawn = bootstrap(won_a - won_b, cluster, replicate, draws=draws)
    n = len(np.unique(cluster))
    score = {z: newcombe(won_a, won_b, n, z) for z in (_Z95, _Z90)}
    return Estimate(
        drawn.difference,
        max(drawn.error, (score[_Z95][1] - score[_Z95][0]) / (2 * _Z95)),
        min(drawn.low, score[_Z95][0]),
        max(drawn.high, score[_Z95][1]),
        min(drawn.low_90, score[_Z90][0]),
        max(drawn.high_90, score[_Z90][1]),
    )


def newcombe(won_a: Floats, won_b: Floats, n: int, z: float) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a paired difference of shares (Statistics in Medicine
    17, 1998, method 10), as if the shares seen came from ``n`` pairs."""
    p, q = float(won_a.mean()), float(won_b.mean())
    both = n * float((won_a * won_b).mean())
    neither = n * float(((1 - won_a) * (1 - won_b)).mean())
    crossed = both * neither - (n * p - both) * (n * q - both)
    spread = math.sqrt(max(0.0, p * (1 - p) * q * (1 - q))) * n * n
    if crossed > 0:
        crossed = max(crossed - n / 2, 0.0)
    phi = crossed / spread if spread else 0.0
    (low_p, high_p), (low_q, high_q) = wilson(n * p, n, z), wilson(n * q, n, z)

    def side(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))

    return p - q - side(p - low_p, high_q - q), p - q + side(high_p - p, q - low_q)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar test: p of a split this uneven among the discordant pairs."""
    from scipy.stats import binomtest

    if only_a + only_b == 0:
        return 1.0
    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue)


def seed_test(differences: Floats, replicate: Ints) -> float | None:
    """Paired t-test over replicates' mean differences; None for fewer than two, or no spread."""
    from scipy.stats import ttest_1samp

    means = np.array([differences[replicate == r].mean() for r in np.unique(replicate)])
    if len(means) < 2 or np.ptp(means) == 0:
        return None
    return float(ttest_1samp(means, 0.0).pvalue)


def detectable(error: float) -> float:
    """Smallest true difference that a design with this standard error shows with 80 % power."""
    return _POWER_80 * error


def planned_error(n: int, share: float = 0.5, correlation: float = 0.5) -> float:
    """Standard error of a paired difference of two success rates near ``share`` over n tasks,
    before anything is played; ``correlation`` is that of two agents on one task."""
    return math.sqrt(2 * share * (1 - share) * (1 - correlation) / n)


def holm(p_values: list[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted

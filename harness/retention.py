"""Retention: a student's success as a share of its teacher's on the same tasks, with its interval.

Arrays as in ``harness.paired``: one entry a row (an episode of each on one task), clusters of
tasks, replicates (training seeds).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from harness import paired
from harness.metrics import wilson

_Z95 = 1.959963984540054
#: No ratio above this is told from an endless one.
_MOST = 1e6


class Ratio(NamedTuple):
    """A ratio of two success shares and its 95 % interval; ``high`` is infinite where the teacher's
    success is not told from 0."""

    ratio: float
    low: float
    high: float


def retention(
    student: paired.Floats,
    teacher: paired.Floats,
    cluster: paired.Ints,
    replicate: paired.Ints,
    weight: paired.Floats | None = None,
) -> Ratio | None:
    """Mean of the student's outcomes (0/1) over the teacher's; None where the teacher won nothing.

    One replicate: MOVER-R (Donner and Zou, Statistical Methods in Medical Research 21, 2012,
    eq. 9) on Wilson's limits, paired as Newcombe pairs differences. Several: Fieller's set, all
    ratios r at which student - r teacher is not told from 0 over crossed replicates and clusters;
    where the student won, or lost, in fewer than ``metrics.MANY`` clusters, the wider of both. In
    so few, one replicate counts as ``paired.fewest`` pairs at most.
    """
    weight = np.ones(len(student)) if weight is None else weight
    p, q = float(np.average(student, weights=weight)), float(np.average(teacher, weights=weight))
    if not q:
        return None
    several = len(np.unique(replicate)) > 1 and len(np.unique(cluster)) > 1
    low, high = _mover(student, teacher, cluster, weight, p / q)
    if several:
        of_seeds = _fieller(student, teacher, cluster, replicate, weight, p / q)
        both = min(low, of_seeds[0]), max(high, of_seeds[1])
        low, high = both if paired.few(student, cluster) else of_seeds
    return Ratio(p / q, low, high)


def _mover(
    student: paired.Floats, teacher: paired.Floats, cluster: paired.Ints,
    weight: paired.Floats, ratio: float,
) -> tuple[float, float]:  # fmt: skip
    n = paired.effective(student - ratio * teacher, cluster, weight)
    if paired.few(student, cluster):
        n = min(n, paired.fewest(cluster, weight))
    p, q = float(np.average(student, weights=weight)), float(np.average(teacher, weights=weight))
    phi = paired.correlation(student, teacher, n, weight)
    (low_p, high_p), (low_q, high_q) = wilson(n * p, n, _Z95), wilson(n * q, n, _Z95)

    def root(middle: float, of_p: float, of_q: float) -> float:
        return math.sqrt(max(0.0, middle**2 - of_p * (2 * p - of_p) * of_q * (2 * q - of_q)))

    least = p * q - phi * (p - low_p) * (high_q - q)
    most = p * q - phi * (high_p - p) * (q - low_q)
    below = least + root(least, low_p, high_q)
    # The lower root with its numerator made rational: high_q may be 2q, the common form's pole.
    low = low_p * (2 * p - low_p) / below if below > 0 else 0.0
    return low, (most + root(most, high_p, low_q)) / (low_q * (2 * q - low_q))


def _fieller(
    student: paired.Floats, teacher: paired.Floats, cluster: paired.Ints,
    replicate: paired.Ints, weight: paired.Floats, ratio: float,
) -> tuple[float, float]:  # fmt: skip
    from scipy.optimize import brentq

    def outside(r: float) -> float:
        """Above 0 where ``r`` is told from the ratio: how far the interval is from 0."""
        found = paired.crossed(student - r * teacher, cluster, replicate, weight)
        if found is None:  # nothing varies
            return abs(r - ratio) - 1e-12
        return max(found.low, -found.high)

    low = brentq(outside, 0.0, ratio) if ratio and outside(0.0) > 0 else 0.0
    far = max(2 * ratio, 1.0)
    while outside(far) <= 0:
        far *= 2
        if far > _MOST:
            return float(low), math.inf
    return float(low), float(brentq(outside, ratio, far))

"""How often every statistic is wrong, by simulation: intervals miss the truth, tests reject what is
true, and equivalence is claimed where there is none, at most as often as they say.

A world has clusters of tasks, of uneven size, that both agents find alike easy, clusters that suit
one agent, training seeds that turned out better or worse, and chance. Wilson's interval and its
repeats are in test_metrics.py, ratios of plots in test_figures.py. Each test runs some hundred
worlds; the campaign runs ten times as many.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from harness import paired
from harness.retention import retention

#: Standard deviations in logits: of clusters, of tasks in them, of what suits one agent.
CLUSTER, TASK, TASTE = 1.0, 0.5, 0.7
WORLDS = 300
FEW = pytest.param(WORLDS, id="few")
MANY = pytest.param(10 * WORLDS, id="many", marks=pytest.mark.campaign)
worlds_ = pytest.mark.parametrize("worlds", [FEW, MANY])


class Design(NamedTuple):
    """Training seeds, clusters, tasks of the largest cluster, spread of the seeds in logits;
    whether few clusters hold most tasks, as in WebShop's catalogue, clusters' own spread, how easy
    all are, and by how much A is better where it is."""

    seeds: int
    clusters: int
    largest: int
    spread: float = 0.0
    tail: bool = False
    between: float = CLUSTER
    ease: float = 0.0
    better: float = 0.7


#: Wins are rare, and lie in few products.
RARE = {"clusters": 146, "largest": 46, "tail": True, "between": 3.0, "ease": -7.0, "better": 2.5}
DESIGNS = [
    Design(1, 140, 1), Design(1, 40, 5), Design(1, 12, 1),
    Design(2, 60, 3, 0.3), Design(3, 60, 3, 0.3), Design(3, 140, 1, 0.3), Design(5, 60, 3, 0.3),
    Design(5, 60, 1, 0.0), Design(1, **RARE), Design(3, spread=0.3, **RARE),
]  # fmt: skip
designs_ = pytest.mark.parametrize("design", DESIGNS, ids=lambda d: "-".join(map(str, d[:4])))


def at_most(share: float, worlds: int) -> float:
    """Largest share of worlds that a true ``share`` gives in 999 of 1,000 simulations."""
    return float(binom.ppf(0.999, worlds, share)) / worlds


def layout(design: Design) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cluster, replicate and task of each row."""
    place = np.arange(design.clusters)
    size = (
        np.ceil(design.largest / (1 + place) ** 0.8) if design.tail else 1 + place % design.largest
    )
    of_task = np.repeat(place, size.astype(int))
    tasks = len(of_task)
    rows = np.repeat(np.arange(design.seeds), tasks)
    return np.tile(of_task, design.seeds), rows, np.tile(np.arange(tasks), design.seeds)


def logits(rng: np.random.Generator, design: Design, better: float) -> tuple[np.ndarray, ...]:
    """Of both agents, one entry a row; A is ``better``."""
    cluster, replicate, task = layout(design)
    ease = design.ease + design.between * rng.normal(size=design.clusters)[cluster]
    ease += TASK * rng.normal(size=task.max() + 1)[task]
    return tuple(
        ease
        + shift
        + TASTE * rng.normal(size=design.clusters)[cluster]
        + design.spread * rng.normal(size=design.seeds)[replicate]
        for shift in (better, 0.0)
    )


def success(shift: float, design: Design) -> float:
    """Share of wins over all tasks and seeds, by quadrature."""
    x, weight = np.polynomial.hermite_e.hermegauss(61)
    wide = math.sqrt(design.between**2 + TASK**2 + TASTE**2 + design.spread**2)
    return float((weight / (1 + np.exp(-(design.ease + shift + wide * x)))).sum() / weight.sum())


class Rates(NamedTuple):
    """Shares of worlds: the interval misses, p is below 5 %, equivalence within the true difference
    is claimed; and the mean of the detectable differences."""

    missed: float
    rejected: float
    equal: float
    detectable: float


@lru_cache
def rates(design: Design, better: float, worlds: int, seed: int = 0) -> Rates:
    rng = np.random.default_rng(seed)
    truth = success(better, design) - success(0.0, design)
    cluster, replicate, _ = layout(design)
    found = []
    for _ in range(worlds):
        won = [
            (rng.random(len(cluster)) < 1 / (1 + np.exp(-x))).astype(float)
            for x in logits(rng, design, better)
        ]
        found.append(paired.shares(*won, cluster, replicate, draws=300))
    return Rates(
        float(np.mean([not e.low <= truth <= e.high for e in found])),
        float(np.mean([e.p < 0.05 for e in found])),
        float(np.mean([-truth < e.low_90 and e.high_90 < truth for e in found])),
        float(np.mean([paired.detectable(e.error, e.df) for e in found])),
    )


# Differences of success ---------------------------------------------------------------------------


@worlds_
@designs_
@pytest.mark.parametrize("better", [False, True])
def test_intervals_of_differences_cover(design, better, worlds):
    """Bootstrap of clusters and Newcombe's interval (one seed), variance components (several)."""
    assert rates(design, better * design.better, worlds).missed <= at_most(0.05, worlds)


@worlds_
@designs_
def test_agents_that_are_alike_are_told_apart_at_most_once_in_twenty(design, worlds):
    """p of McNemar, of flips of uneven clusters, and of t over seeds and tasks."""
    assert rates(design, 0.0, worlds).rejected <= at_most(0.05, worlds)


@worlds_
@designs_
def test_equivalence_is_claimed_of_unlike_agents_at_most_once_in_twenty(design, worlds):
    """TOST, the true difference being the margin itself."""
    assert rates(design, design.better, worlds).equal <= at_most(0.05, worlds)


@worlds_
@designs_
@pytest.mark.parametrize("worse", [-2.5, -0.7, 0.0])
def test_intervals_of_retention_cover(design, worse, worlds):
    """MOVER-R (one seed), Fieller's set over seeds and tasks (several)."""
    rng = np.random.default_rng(0)
    truth = success(worse, design) / success(0.5, design)
    cluster, replicate, _ = layout(design)
    missed = told = 0
    for _ in range(worlds):
        won = [
            (rng.random(len(cluster)) < 1 / (1 + np.exp(-x - shift))).astype(float)
            for x, shift in zip(logits(rng, design, 0.0), (worse, 0.5), strict=True)
        ]
        found = retention(*won, cluster, replicate)
        if found is not None:
            told += 1
            missed += not found.low <= truth <= found.high
    assert told > 0.95 * worlds
    assert missed / told <= at_most(0.05, told)


def test_equivalence_can_be_shown():
    wide = Design(1, 1500, 1)
    rng = np.random.default_rng(0)
    cluster, replicate, _ = layout(wide)
    shown = 0
    for _ in range(20):
        won = [(rng.random(1500) < 1 / (1 + np.exp(-x))).astype(float)
               for x in logits(rng, wide, 0.0)]  # fmt: skip
        e = paired.shares(*won, cluster, replicate, draws=200)
        shown += max(-e.low_90, e.high_90) < 0.06
    assert shown >= 18


def test_mcnemar_rejects_at_most_as_often_as_it_says():
    """Exact: all splits of up to 80 discordant pairs."""
    for n in range(1, 81):
        chance = binom.pmf(np.arange(n + 1), n, 0.5)
        p = np.array([paired.mcnemar(k, n - k) for k in range(n + 1)])
        for alpha in (0.01, 0.05, 0.2):
            assert chance[p <= alpha].sum() <= alpha + 1e-12


@worlds_
def test_any_of_several_alike_agents_is_called_different_at_most_once_in_twenty(worlds):
    """Holm over four comparisons with the same first agent, which are therefore correlated."""
    rng = np.random.default_rng(2)
    alone = together = 0
    cluster, replicate = np.arange(80), np.zeros(80, dtype=np.int64)
    for _ in range(worlds):
        ease = rng.normal(size=80)
        first, *others = (rng.random((5, 80)) < 1 / (1 + np.exp(-ease))).astype(float)
        p = [paired.shares(first, other, cluster, replicate, draws=2).p for other in others]
        alone += min(p) < 0.05
        together += min(paired.holm(p)) < 0.05
    assert together / worlds <= at_most(0.05, worlds)
    assert alone > together


@pytest.mark.parametrize("design", [Design(1, 140, 1), Design(5, 60, 3, 0.3)])
def test_the_smallest_detectable_difference_is_found_four_times_in_five(design):
    size = rates(design, 0.0, WORLDS).detectable
    better = brentq(lambda x: success(x, design) - success(0.0, design) - size, 0.0, 6.0)
    assert 0.7 <= rates(design, float(better), WORLDS, seed=1).rejected <= 0.95


def test_the_error_that_a_plan_promises_is_the_runs():
    """140 tasks near 50 %, outcomes with correlation 0.5 (of the normals below 0.707)."""
    rng = np.random.default_rng(3)
    ease, *own = rng.normal(size=(3, 4000, 140))
    a, b = ((0.70710678**0.5 * ease + 0.29289322**0.5 * x > 0) for x in own)
    seen = (a.mean(1) - b.mean(1)).std()
    assert paired.planned_error(140) == pytest.approx(float(seen), rel=0.04)


# Other quantities ---------------------------------------------------------------------------------


@lru_cache
def missed_means(design: Design, worlds: int) -> float:
    """Share of worlds whose interval of a difference of, say, steps misses it: skewed noise."""
    rng = np.random.default_rng(4)
    cluster, replicate, _ = layout(design)
    missed = 0
    for _ in range(worlds):
        a, b = logits(rng, design, 0.7)
        noise = rng.exponential(size=(2, len(cluster)))
        found = paired.means(a + noise[0] - b - noise[1], cluster, replicate, draws=300)
        assert found is not None
        missed += not found.low <= 0.7 <= found.high
    return missed / worlds


@worlds_
@designs_
def test_intervals_of_other_quantities_cover(design, worlds):
    assert missed_means(design, worlds) <= at_most(0.05, worlds)


@worlds_
@designs_
def test_the_interval_of_one_agents_success_covers(design, worlds):
    """As `harness reproduce` reports arms."""
    rng = np.random.default_rng(5)
    cluster, replicate, _ = layout(design)
    missed = 0
    for _ in range(worlds):
        a, _ = logits(rng, design, 0.7)
        won = (rng.random(len(cluster)) < 1 / (1 + np.exp(-a))).astype(float)
        found = paired.share(won, cluster, replicate, np.ones(len(won)))
        missed += not found.low <= success(0.7, design) <= found.high
    assert missed / worlds <= at_most(0.05, worlds)

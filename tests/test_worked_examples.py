"""Statistics against what others published or computed.

- rliable (Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice",
  2021; version 1.2.0 of its package): runs x tasks of scores, bootstrapped.
- Miller, "Adding Error Bars to Evals", 2024 (arXiv:2411.00640v1): equations and tables by number.
  Its tables 1, 2 and 5 are of fictional models, table 4 is of real ones.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness import paired
from harness.metrics import wilson, worth

# rliable ------------------------------------------------------------------------------------------
# Five training seeds (rows) on 26 tasks. The intervals are those of rliable's
# `get_interval_estimates({"x": scores}, lambda s: np.array([aggregate_mean(s)]), reps=20_000)`
# under numpy 2.4 after `np.random.seed(0)`, unless another call is named beside them.


def scores(*rows: str) -> np.ndarray:
    return np.array([[float(sign) for sign in row] for row in rows])


A = scores(
    "10101101111110111111011000", "11101110101111001101001000", "11110001111001111011001100",
    "00110101011111111111101100", "01110111101111011001001101",
)  # fmt: skip
B = scores(
    "11010011101110000011000000", "11111000101001010001001100", "00100011101110111000000001",
    "01110011101101111101101101", "00110011100001001101000000",
)  # fmt: skip
SEEDS, TASKS = A.shape
REPLICATE, CLUSTER = np.repeat(np.arange(SEEDS), TASKS), np.tile(np.arange(TASKS), SEEDS)
DIFFERENCE = (A - B).ravel()


def test_the_difference_is_rliables_probability_of_improvement():
    """probability_of_improvement(A, B) is 0.5885, 95 % interval 0.542 to 0.642: of outcomes won or
    lost it is (1 + difference) / 2."""
    found = paired.shares(A.ravel(), B.ravel(), CLUSTER, REPLICATE)
    assert (1 + found.difference) / 2 == pytest.approx(0.58846154)
    assert (1 + found.low) / 2 < 0.542
    assert (1 + found.high) / 2 > 0.642


def test_the_bootstrap_over_tasks_is_rliables():
    """Tasks as the rows that are drawn: scores=(A - B).mean(0)[:, None]. Mean 0.1769, 95 % interval
    0.0769 to 0.2769, 90 % 0.0923 to 0.2615; standard error 0.0513 and 0.0517 by two seeds."""
    found = paired.bootstrap(DIFFERENCE, CLUSTER, draws=20_000)
    assert found.difference == pytest.approx(0.17692308)
    grid = 1 / 130  # means of 130 outcomes
    assert (found.low, found.high) == pytest.approx((0.0769, 0.2769), abs=0.6 * grid)
    assert (found.low_90, found.high_90) == pytest.approx((0.0923, 0.2615), abs=0.6 * grid)
    assert found.error == pytest.approx(0.0515, abs=0.0008)


def test_intervals_over_seeds_and_tasks_hold_those_of_these_tasks_alone():
    """rliable's stratified bootstrap draws runs anew within each task and keeps the tasks: of A - B
    0.0846 to 0.2692, of A 0.577 to 0.715, of B 0.400 to 0.538. Ours speak of other tasks too, and
    are wider. With task_bootstrap=True rliable's is 0.0385 to 0.3154."""
    found = paired.shares(A.ravel(), B.ravel(), CLUSTER, REPLICATE)
    assert found.low < 0.0846
    assert found.high > 0.2692
    assert (found.low, found.high) == pytest.approx((0.0385, 0.3154), abs=0.05)
    ids = [str(task) for task in range(TASKS)]
    for matrix, low, high in ((A, 0.577, 0.715), (B, 0.400, 0.538)):
        won = dict(zip(ids, matrix.sum(0).astype(int).tolist(), strict=True))
        units = worth(dict.fromkeys(ids, SEEDS), won)
        ours = wilson(units * matrix.mean(), units)
        assert TASKS <= units <= A.size
        assert ours[0] < low < high < ours[1]


def test_what_rliables_interquartile_mean_would_add():
    """aggregate_iqm is 0.7879 of A and 0.4394 of B: of outcomes won or lost it follows from the
    share of wins, and orders agents as that does. No table shows it."""
    cut = A.size // 4
    for matrix, iqm in ((A, 0.78787879), (B, 0.43939394)):
        assert (matrix.mean() * A.size - cut) / (A.size - 2 * cut) == pytest.approx(iqm)


# Adding Error Bars to Evals -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "share", "told", "ours"),
    [
        (5000, 0.655, 0.7, 0.7), (5000, 0.630, 0.7, 0.7), (2500, 0.753, 0.9, 0.9),
        # Equation 2 gives outcomes won or lost less than table 2 says of these.
        (2500, 0.780, 0.9, 0.8), (164, 0.836, 3.2, 2.9), (164, 0.867, 3.0, 2.7),
    ],
)  # fmt: skip
def test_standard_errors_of_one_score(n, share, told, ours):
    """Table 2 and equations 2 and 3: score +- 1.96 standard errors, in points. Wilson's interval
    has their width there, and another place near 0 and 1."""
    low, high = wilson(n * share, n)
    error = 100 * (high - low) / 2 / 1.96
    assert error == pytest.approx(100 * math.sqrt(share * (1 - share) / n), rel=0.03)
    assert round(error, 1) == ours
    assert ours <= told


def outcomes(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_a, only_b, neither])
    return a, np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_a, only_b, neither])


def test_a_paired_difference_that_is_significant():
    """Table 5, MATH: 65.5 and 63.0 % of 5,000 with correlation 0.50 differ by 2.5 points, standard
    error 0.7, from 1.2 to 3.8 (equation 7); unpaired it would be 0.95 (equation 5)."""
    a, b = outcomes(2637, 638, 513, 1212)
    assert (a.mean(), b.mean()) == (0.655, 0.63)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.5, abs=0.001)
    found = paired.shares(a, b, np.arange(5000), np.zeros(5000, dtype=np.int64), draws=1000)
    told = [100 * x for x in (found.difference, found.error, found.low, found.high)]
    assert told == pytest.approx([2.5, 0.7, 1.2, 3.8], abs=0.07)
    assert found.p < 0.001


def test_a_paired_difference_that_is_not():
    """Table 5, HumanEval: -3.1 points, correlation 0.64, not significant. The paper's standard
    error of 2.1 is less than these shares and this correlation give outcomes won or lost: 2.35 by
    equation 7. Ours is the wider of two intervals, and so a little more."""
    a, b = outcomes(132, 5, 10, 17)
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(0.64, abs=0.006)
    n = len(a)
    by_equation = math.sqrt(float((a - b).var(ddof=1)) / n)
    assert by_equation == pytest.approx(0.0235, abs=0.0001)
    found = paired.shares(a, b, np.arange(n), np.zeros(n, dtype=np.int64))
    assert found.difference == pytest.approx(-5 / 164)
    assert by_equation < found.error < 0.026
    assert found.low < -0.072
    assert found.high > 0.01
    assert found.p == pytest.approx(paired.mcnemar(5, 10))


def clustered(n: int, clusters: int, naive: float, ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes in clusters (beta-binomial) of the standard error and the ratio that are wanted."""
    rng = np.random.default_rng(0)
    size = np.full(clusters, n // clusters)
    size[: n % clusters] += 1
    share = (1 + math.sqrt(1 - 4 * naive**2 * n)) / 2
    alike = (ratio**2 - 1) / ((size**2).sum() / n - 1)
    k = 1 / alike - 1
    ease = rng.beta(share * k, (1 - share) * k, clusters)
    cluster = np.repeat(np.arange(clusters), size)
    return (rng.random(n) < ease[cluster]).astype(float), cluster


@pytest.mark.parametrize(
    ("n", "clusters", "naive", "told"),
    [(9622, 588, 0.0044, 0.0134), (3498, 1045, 0.0046, 0.0051), (2500, 250, 0.0086, 0.0162)],
)
def test_clustered_standard_errors(n, clusters, naive, told):
    """Tables 3 and 4, DROP (outcomes in place of its F1), RACE-H and MGSM. Ours
    is equation 4 with the factor G/(G - 1) of G clusters in place of n/(n - 1)."""
    values, cluster = clustered(n, clusters, naive, told / naive)
    found = paired.means(values, cluster, np.zeros(n, dtype=np.int64), draws=200)
    left = values - values.mean()
    single = values.var(ddof=1) / n
    sums = np.bincount(cluster, left)
    crossed = ((sums**2).sum() - (left**2).sum()) / n**2
    equation_4 = math.sqrt(single + crossed)
    assert found.error**2 == pytest.approx((equation_4**2 - single / n) * clusters / (clusters - 1))
    assert math.sqrt(single) == pytest.approx(naive, rel=0.1)
    assert found.error == pytest.approx(told, rel=0.12)
    assert paired.effective(values, cluster, np.ones(n)) == pytest.approx(
        n * (naive / told) ** 2, rel=0.25
    )


@pytest.mark.parametrize("repeats", [2, 4, 6])
def test_what_repeats_of_a_question_are_worth(repeats):
    """Section 3.1: of questions as easy as uniform draws, K answers each leave (1 + 2/K) / 3 of the
    variance. Pooled as K times the questions they would leave 1/K."""
    rng = np.random.default_rng(1)
    ids = [str(i) for i in range(20_000)]
    won = rng.binomial(repeats, rng.random(len(ids)))
    units = worth(dict.fromkeys(ids, repeats), dict(zip(ids, won.tolist(), strict=True)))
    assert len(ids) / units == pytest.approx((1 + 2 / repeats) / 3, rel=0.02)


def test_questions_that_a_difference_takes():
    """Section 5, equation 9: 969 questions show 3 points with 80 % power where the difference of
    the scores has variance 1/9 and answers are certain."""
    assert paired.detectable(math.sqrt(1 / 9 / 969)) == pytest.approx(0.03, abs=5e-6)
    needed = (paired.detectable(1.0) / 0.03) ** 2 / 9
    assert round(needed) == 969


@pytest.mark.parametrize(("repeats", "told"), [(1, 13.2), (10, 7.5)])
def test_smallest_difference_of_a_design(repeats, told):
    """Section 5, equation 10: 198 questions, variances 1/9 (of the difference) and 1/6 (of an
    answer, K a question). It gives 13.27 and 7.57 points, which the paper cuts."""
    error = math.sqrt((1 / 9 + 2 / 6 / repeats) / 198)
    found = 100 * paired.detectable(error)
    assert math.floor(10 * found) / 10 == told
    if repeats == 1:  # outcomes of variance 1/4 whose difference has 4/9: correlation 1/9
        assert paired.planned_error(198, 0.5, 1 / 9) == pytest.approx(error)

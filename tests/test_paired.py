"""Statistics of pairs: known values, and by simulation how often they are wrong and right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import paired


def test_mcnemar_against_the_binomial_sum():
    assert paired.mcnemar(2, 8) == pytest.approx(2 * 56 / 1024)
    assert paired.mcnemar(0, 0) == 1.0
    assert paired.mcnemar(5, 5) == 1.0


def test_holm_against_a_worked_example():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=2, max_size=40))
def test_the_bootstrap_holds_the_mean_and_negates(values):
    d = np.array(values)
    cluster = np.arange(len(d))
    one = paired.bootstrap(d, cluster, draws=200)
    other = paired.bootstrap(-d, cluster, draws=200)
    assert one.difference == pytest.approx(d.mean())
    assert one.low == pytest.approx(-other.high)
    assert one.low <= one.low_90 <= one.high_90 <= one.high


def test_the_intervals_cover_the_truth_as_often_as_they_say():
    """400 worlds: two agents of 60 % and 50 %, correlated, 150 tasks in clusters of 3."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        ease = np.repeat(rng.normal(size=50), 3) * 0.8 + rng.normal(size=150) * 0.6
        a = ease + rng.normal(size=150) * 0.7 < 0.31
        b = ease + rng.normal(size=150) * 0.7 < 0.0
        truth = 0.6002 - 0.5  # Phi(0.31 / sqrt(1 + 0.49)) and Phi(0)
        cluster = np.repeat(np.arange(50), 3)
        found = paired.shares(
            a.astype(float), b.astype(float), cluster, np.zeros(150, dtype=np.int64), draws=400
        )
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 400 <= 1.0


def test_newcombe_against_the_papers_example():
    """Newcombe 1998, table II, method 10: 36, 12, 2, 0 of 50 pairs give 0.0569 to 0.3404."""
    won_a = np.array([1.0] * 36 + [1.0] * 12 + [0.0] * 2)
    won_b = np.array([1.0] * 36 + [0.0] * 12 + [1.0] * 2)
    low, high = paired.newcombe(won_a, won_b, 50, 1.959963984540054)
    assert (low, high) == (pytest.approx(0.0569, abs=2e-4), pytest.approx(0.3404, abs=2e-4))


def test_a_positive_correlation_is_corrected_for_continuity():
    """20 pairs both won, 5 and 3 one alone, 12 neither: 20 * 12 - 5 * 3, less half of the pairs."""
    won_a = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 5, 3, 12])
    won_b = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 5, 3, 12])
    found = paired.correlation(won_a, won_b, 40, np.ones(40))
    assert found == pytest.approx((225 - 20) / (25 * 15 * 23 * 17) ** 0.5)
    assert paired.correlation(won_a[::10], won_b[::10], 4, np.ones(4)) == 0  # 2 * 1, less 4 / 2


def test_few_tasks_have_students_quantiles():
    """Both sides won each of six tasks: Wilson's limit is 6 / (6 + t^2), t of 5 degrees."""
    won, one = np.ones(6), np.zeros(6, dtype=np.int64)
    found = paired.shares(won, won, np.arange(6), one, draws=100)
    t, t_90 = 2.570582, 2.015048
    assert found.low == -found.high == pytest.approx(-(t**2) / (6 + t**2), abs=1e-5)
    assert found.low_90 == -found.high_90 == pytest.approx(-(t_90**2) / (6 + t_90**2), abs=1e-5)


def test_a_few_tasks_won_by_every_seed_are_tested_as_so_few():
    task, seed = np.tile(np.arange(12), 3), np.repeat(np.arange(3), 12)
    found = paired.shares((task < 3).astype(float), np.zeros(36), task, seed, draws=200)
    assert found.p == pytest.approx(2 * 0.5**3)
    # One cluster of eight rows and two of one are hardly more than one.
    assert paired.parted(np.ones(10), np.repeat([0, 1, 2], [8, 1, 1])) == pytest.approx(100 / 66)


def test_replicates_that_disagree_widen_the_interval():
    rng = np.random.default_rng(2)
    tasks, seeds = 200, 6
    cluster, replicate = np.tile(np.arange(tasks), seeds), np.repeat(np.arange(seeds), tasks)
    same = rng.normal(0.05, 0.5, tasks * seeds)
    spread = same + np.repeat(rng.normal(0, 0.15, seeds), tasks)
    weight = np.ones(tasks * seeds)
    narrow = paired.crossed(same, cluster, replicate, weight)
    wide = paired.crossed(spread, cluster, replicate, weight)
    assert wide.error > 2 * narrow.error


def test_no_interval_of_shares_leaves_what_shares_can_be():
    won = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    cluster, replicate = np.tile(np.arange(3), 2), np.repeat(np.arange(2), 3)
    found = paired.shares(won, 0 * won, cluster, replicate)
    assert (found.high, found.high_90) == (1.0, 1.0)
    assert -1.0 <= found.low <= found.low_90 < found.difference


@pytest.mark.parametrize(("tasks", "seeds", "share"), [(40, 5, 0.05), (30, 5, 0.07), (12, 5, 0.1)])
def test_a_taste_for_few_tasks_is_neither_missed_nor_called_equal(tasks, seeds, share):
    """One side alone wins a few tasks, whatever the seed; elsewhere the sides hardly ever part."""
    rng = np.random.default_rng(2)
    task, replicate = np.tile(np.arange(tasks), seeds), np.repeat(np.arange(seeds), tasks)
    missed = equal = 0
    for _ in range(200):
        theirs = rng.random(tasks) < share
        a = np.where(theirs[task], 1.0, rng.random(tasks * seeds) < 0.5)
        b = np.where(theirs[task], 0.0, a)
        rare = rng.random(tasks * seeds) < 0.005
        b = np.where(rare, 1 - b, b)
        truth = share * 0.995 - share * 0.005
        found = paired.shares(a, b, task, replicate, draws=100)
        missed += not found.low <= truth <= found.high
        equal += found.low_90 > -0.03 and found.high_90 < 0.03
    assert missed <= 20
    assert equal == 0


def test_the_detectable_difference_is_detected_four_times_in_five():
    rng = np.random.default_rng(3)
    n, error = 400, 0.5 / 20
    size = paired.detectable(error)
    hits = sum(abs(rng.normal(size, 0.5, n).mean()) > 1.96 * error for _ in range(2000))
    assert hits / 2000 == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("tasks", [40, 150])
def test_what_sign_flips_show_is_shown_four_times_in_five(tasks):
    """Half of the tasks part the sides. The test is exact, so rather less often."""
    rng = np.random.default_rng(6)
    cluster, weight = np.arange(tasks), np.ones(tasks)

    def played(better: float):
        x = rng.random(tasks)
        return (x < 0.25 + better / 2).astype(float) - (x > 0.75 + better / 2)

    sizes = [paired.shown_by_flips(played(0.0), cluster, weight, 0.0) for _ in range(100)]
    size = float(np.mean(sizes))
    # It is a design's, whichever side is ahead.
    ahead = np.mean([paired.shown_by_flips(played(0.4), cluster, weight, 0.0) for _ in range(100)])
    assert ahead == pytest.approx(size, rel=0.05)
    hits = np.mean([paired.flips(played(size), cluster, weight) < 0.05 for _ in range(1000)])
    assert 0.7 < hits < 0.9


def test_a_handful_of_tasks_shows_nothing():
    for tasks, expected in ((2, None), (5, None), (6, 1.0)):
        won = np.ones(tasks)
        assert paired.shown_by_flips(won, np.arange(tasks), won, 0.0) == expected
    same = np.zeros(100)
    assert paired.shown_by_flips(same, np.arange(100), np.ones(100), 0.0) == pytest.approx(0.06)


def test_flips_are_mcnemars_test_where_clusters_weigh_alike():
    d = np.array([1.0] * 8 + [-1.0] * 2 + [0.0] * 30)
    found = paired.flips(d, np.arange(40), np.ones(40))
    assert found == pytest.approx(paired.mcnemar(8, 2))
    # Three identical repeats of every task are no more evidence than one.
    assert paired.flips(np.tile(d, 3), np.tile(np.arange(40), 3), np.full(120, 1 / 3)) == found


def test_flips_of_unlike_clusters_against_their_enumeration():
    sums = np.array([3.0, 2.0, -1.0, 2.0, 1.0])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    exact = (np.abs(signs @ sums) >= abs(sums.sum())).mean()
    assert paired.flips(sums, np.arange(5), np.ones(5)) == pytest.approx(exact, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(2, 12), st.integers(0, 999))
def test_crossed_errors_are_those_of_the_two_way_analysis(seeds, tasks, seed):
    """Against the textbook's mean squares on a full table."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(seeds, tasks)) + rng.normal(size=(seeds, 1))
    row, column, mean = x.mean(1), x.mean(0), x.mean()
    rest = x - row[:, None] - column[None] + mean
    by_seed, by_task = row.var(ddof=1) / seeds, column.var(ddof=1) / tasks
    both = (rest**2).sum() / ((seeds - 1) * (tasks - 1) * seeds * tasks)
    found = paired.crossed(
        x.ravel(), np.tile(np.arange(tasks), seeds), np.repeat(np.arange(seeds), tasks),
        np.ones(seeds * tasks),
    )  # fmt: skip
    expected = max(by_seed + by_task - both, by_seed, by_task)
    assert found.error**2 == pytest.approx(expected)
    share = by_seed / expected
    harmonic = 1 / (share / (seeds - 1) + (1 - share) / (tasks - 1))
    assert found.df == pytest.approx(1.0 if seeds == 2 else harmonic)


def test_repeats_inside_a_task_are_no_replicates_and_no_new_tasks():
    d = np.random.default_rng(4).choice([-1.0, 0.0, 1.0], 60)
    cluster, replicate = np.arange(60), np.zeros(60, dtype=np.int64)
    weight = paired.weights(np.tile(replicate, 3), np.tile(cluster, 3))
    assert weight.tolist() == [1 / 3] * 180
    won = (d + 1) / 2
    once = paired.shares(np.floor(won + 0.5), np.zeros(60), cluster, replicate, draws=500)
    thrice = paired.shares(
        np.tile(np.floor(won + 0.5), 3), np.zeros(180), np.tile(cluster, 3),
        np.tile(replicate, 3), weight, draws=500,
    )  # fmt: skip
    assert thrice.error == pytest.approx(once.error, rel=0.02)
    assert thrice.p == once.p


def test_replicates_that_all_agree_still_have_an_interval_and_a_p():
    won, cluster, replicate = np.ones(15), np.tile(np.arange(5), 3), np.repeat(np.arange(3), 5)
    same = paired.shares(won, won, cluster, replicate, draws=200)
    assert (same.difference, same.p) == (0.0, 1.0)
    assert same.low_90 < -0.1
    apart = paired.shares(won, 0 * won, cluster, replicate, draws=200)
    assert apart.p == pytest.approx(2 * 0.5**5)


def played(rng, seeds, tasks, spread=0.0, better=0.0):
    """Outcomes of two agents whose success depends on the task, on their training seed (standard
    deviation ``spread``, in logits) and on chance; A is ``better`` by so many logits."""

    def outcomes(shift):
        logit = ease + rng.normal(0, spread, (seeds, 1)) + shift
        return (rng.random((seeds, tasks)) < 1 / (1 + np.exp(-logit))).astype(float).ravel()

    ease = rng.normal(size=(1, tasks))
    return (
        outcomes(better), outcomes(0.0),
        np.tile(np.arange(tasks), seeds), np.repeat(np.arange(seeds), tasks),
    )  # fmt: skip


def verdicts(worlds, *args, seed=0, **kwargs):
    """Share of worlds in which an agent is called better: interval without 0, and p below 5 %."""
    rng = np.random.default_rng(seed)
    found = [paired.shares(*played(rng, *args, **kwargs), draws=200) for _ in range(worlds)]
    return sum((e.low > 0 or e.high < 0) and e.p < 0.05 for e in found) / worlds


@pytest.mark.parametrize(
    ("seeds", "tasks", "spread"),
    [(1, 140, 0.0), (2, 600, 0.3), (3, 600, 0.3), (3, 600, 0.15), (5, 600, 0.3), (10, 140, 0.15)],
)
def test_equal_agents_are_told_apart_at_most_once_in_twenty(seeds, tasks, spread):
    """400 worlds; with a true rate of 5 %, 99.9 % of such counts stay below 8.8 %."""
    assert verdicts(400, seeds, tasks, spread) <= 0.088


def test_more_training_seeds_show_smaller_differences():
    """About 6 points on 140 tasks, with little spread between seeds."""
    one, three, ten = (verdicts(150, n, 140, 0.05, better=0.3) for n in (1, 3, 10))
    assert one < 0.35
    assert three > 0.08
    assert ten > 0.8


def test_errors_promise_what_a_design_shows():
    """The detectable difference falls with training seeds; that of one design is found by it."""
    rng = np.random.default_rng(7)
    sizes = [
        np.mean([
            paired.detectable(e.error, e.df)
            for e in (paired.shares(*played(rng, n, 140, 0.05), draws=200) for _ in range(40))
        ])
        for n in (3, 10)
    ]  # fmt: skip
    assert sizes[1] < 0.6 * sizes[0]
    assert 0.04 < sizes[1] < 0.09


def test_evaluation_seeds_of_near_deterministic_agents_make_no_verdict():
    """140 tasks, each won or lost by nature, played three times: 300 worlds without difference."""
    rng = np.random.default_rng(5)
    cluster = np.tile(np.arange(140), 3)
    replicate = np.zeros(420, dtype=np.int64)
    weight = paired.weights(replicate, cluster)
    wrong = 0
    for _ in range(300):
        a, b = (
            (np.tile(rng.random(140) < 0.5, 3) ^ (rng.random(420) < 0.02)).astype(float)
            for _ in range(2)
        )
        found = paired.shares(a, b, cluster, replicate, weight, draws=200)
        wrong += (found.low > 0 or found.high < 0) and found.p < 0.05
    assert wrong / 300 <= 0.09


def test_intervals_of_clusters_are_not_those_of_single_tasks():
    """60 clusters of 5 tasks that stand and fall together are worth 60, not 300, and not fewer."""
    rng = np.random.default_rng(6)
    cluster = np.repeat(np.arange(60), 5)
    alike = np.repeat(rng.integers(-1, 2, 60), 5).astype(float)
    mixed = rng.integers(-1, 2, 300).astype(float)
    assert paired.effective(alike, cluster, np.ones(300)) == pytest.approx(60, rel=0.05)
    assert paired.effective(mixed, cluster, np.ones(300)) > 200


def test_quantities_of_few_clusters_or_without_spread_have_no_interval():
    zeros = np.zeros(30, dtype=np.int64)
    d = np.random.default_rng(8).normal(size=30)
    assert paired.means(d, np.arange(30), zeros) is not None
    assert paired.means(d, np.arange(30) % 9, zeros) is None
    assert paired.means(np.ones(30), np.arange(30), zeros) is None


def test_intervals_of_a_skewed_quantity_on_few_tasks_cover():
    rng = np.random.default_rng(9)
    wrong = 0
    for _ in range(400):
        d = rng.exponential(1, 12) - rng.exponential(1, 12)
        found = paired.means(d, np.arange(12), np.zeros(12, dtype=np.int64), draws=200)
        wrong += found.low > 0 or found.high < 0
    assert wrong / 400 <= 0.085

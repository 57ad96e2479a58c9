"""Means over seeds and tasks with their intervals, and what a pilot's spread promises."""

from __future__ import annotations

import numpy as np
import pytest
from harness_distillation.reproduce import beforehand, report

import harness
from harness import paired
from harness.metrics import wilson


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, harness.Run]:
    """Three runs of one task set whose outcomes differ by seed: slips spoil some episodes."""
    out = tmp_path_factory.mktemp("runs")
    return {
        seed: harness.evaluate(
            "expert", "alfworld", tasks="builtin-dev[:30]", out=out / str(seed), max_steps=9,
            seeds=(seed,), error_rate=0.3,
        )
        for seed in (1, 2, 3)
    }  # fmt: skip


def test_one_seed_has_wilsons_interval_at_the_effective_n(runs):
    won = report.QUANTITIES[0][2]
    found = report.mean({1: runs[1]}, won)
    assert found.value == runs[1].summary.success
    assert found.n == 30
    assert 1 <= found.effective <= 30
    expected = wilson(found.effective * found.value, found.effective)
    assert (found.low, found.high) == pytest.approx(expected)


def test_several_seeds_have_the_crossed_interval(runs):
    won = report.QUANTITIES[0][2]
    found = report.mean(runs, won)
    each = [run.summary.success for run in runs.values()]
    assert found.value == pytest.approx(np.mean(each))
    assert found.n == 90
    assert 0 <= found.low < found.value < found.high <= 1
    # The spread of three seeds' means alone already asks for this much.
    spread = np.std(each, ddof=1) / np.sqrt(3)
    assert found.high - found.low > 2 * 1.9 * spread
    assert found.effective < 90
    assert report.mean({}, won) is None
    steps = report.mean(runs, report.QUANTITIES[3][2])
    assert steps.value == pytest.approx(np.mean([run.summary.steps for run in runs.values()]))
    assert report.mean(runs, report.QUANTITIES[1][2]) is None  # no model, no tokens


def test_the_spread_of_seeds_is_found_again():
    """Worlds with a known spread: its estimate is right on average, its interval covers it."""
    rng = np.random.default_rng(0)
    seeds, tasks, sd = 5, 200, 0.06
    replicate, task = np.divmod(np.arange(seeds * tasks), tasks)
    squares, covered, worlds = [], 0, 300
    for _ in range(worlds):
        hard = rng.normal(0, 0.15, tasks)
        chance = 0.5 + rng.normal(0, sd, seeds)[:, None] + hard
        won = (rng.random((seeds, tasks)) < np.clip(chance, 0, 1)).astype(float).ravel()
        found = paired.spread(won, task, replicate, np.ones(len(won)))
        squares.append(found.seeds**2)
        covered += found.low <= sd <= found.high
        assert found.low <= found.seeds <= found.high
        assert 0.02 < found.rest < 0.05  # a run of 200 tasks, near 50 %: 3.4 points
    assert np.mean(squares) == pytest.approx(sd**2, rel=0.15)
    assert 0.92 <= covered / worlds <= 0.98


def test_a_design_that_detects_does_so_in_four_of_five_worlds():
    rng = np.random.default_rng(1)
    sd, rest, seeds = 0.03, 0.015, 5
    gap = beforehand.smallest(sd, rest, seeds)
    noise = np.sqrt(2 * (sd**2 + rest**2))
    drawn = gap + rng.normal(0, noise, (4000, seeds))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(seeds))
    assert np.mean(t > 2.776) == pytest.approx(0.8, abs=0.06)

"""Comparisons: pairing, statistics against known values and by simulation, what is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import harness
from harness import paired
from harness.cli import app
from harness.comparison import compare_all, find_side
from harness.comparison_text import markdown, sentences
from harness.errors import ConfigError
from harness.runs import Run, read_metrics, write_meta, write_metrics
from harness.types import Outcome

TASKS = "builtin-dev[:60]"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Real runs: the expert, one that errs half of the time, random."""
    out = tmp_path_factory.mktemp("runs")
    return out, {
        name: harness.evaluate(name, "alfworld", tasks=TASKS, out=out)
        for name in ("expert", "random")
    }


def edited(run: Run, folder, change, **meta) -> Run:
    """A copy of a run with other rows, as another agent's."""
    write_meta(folder, msgspec.structs.replace(run.meta, **meta))
    write_metrics(folder, [change(i, row) for i, row in enumerate(run.metrics)])
    return Run(folder)


def losing(share):
    """Rows of which every task whose number is in ``share`` is lost."""
    return lambda i, row: msgspec.structs.replace(row, success=i not in share)


def test_the_better_agent_is_told_and_how_sure(played):
    _, runs = played
    found = harness.compare(runs["expert"], runs["random"], draws=2000)
    assert found.verdict == "a"
    assert found.success.difference == pytest.approx(
        runs["expert"].summary.success - runs["random"].summary.success
    )
    assert found.success.low <= found.success.difference <= found.success.high
    assert (found.pairs, found.replicates, found.only_b) == (60, 1, 0)
    assert found.p < 1e-9
    assert sum(p.n for p in found.by_type) == 60
    assert "expert is better" in " ".join(sentences(found))


def test_exchanging_the_sides_changes_the_sign_and_nothing_else(played):
    _, runs = played
    one = harness.compare(runs["expert"], runs["random"], draws=500)
    other = harness.compare(runs["random"], runs["expert"], draws=500)
    assert one.success.difference == -other.success.difference
    assert one.success.low == pytest.approx(-other.success.high)
    assert (one.only_a, one.only_b, one.p) == (other.only_b, other.only_a, other.p)
    assert (one.verdict, other.verdict) == ("a", "b")


def test_an_agent_ties_with_its_twin_and_is_equal_only_as_far_as_the_tasks_reach(played, tmp_path):
    _, runs = played
    twin = edited(runs["expert"], tmp_path / "twin", lambda _, row: row)
    found = harness.compare(runs["expert"], twin, draws=500)
    assert (found.success.difference, found.p, found.verdict) == (0.0, 1.0, "tied")
    assert harness.compare(runs["expert"], twin, draws=500, margin=0.1).verdict == "equivalent"
    assert 0.03 < found.detectable < 0.15


def test_a_small_difference_on_few_tasks_is_tied_and_not_equivalent(played, tmp_path):
    _, runs = played
    worse = edited(runs["expert"], tmp_path / "worse", losing({3, 30}))
    found = harness.compare(runs["expert"], worse, draws=2000)
    assert found.verdict == "tied"
    assert (found.only_a, found.only_b) == (2, 0)
    assert "not the same as equal" in " ".join(sentences(found))


def test_broken_episodes_enter_no_pair_and_are_told(played, tmp_path):
    _, runs = played

    def breaking(i, row):
        if i >= 10:
            return row
        return msgspec.structs.replace(row, outcome=Outcome.ERROR, success=None, score=None)

    broken = edited(runs["expert"], tmp_path / "broken", breaking)
    found = harness.compare(broken, runs["expert"], draws=500)
    assert (found.pairs, found.errors_a, found.errors_b) == (50, 10, 0)
    assert found.success.difference == 0.0
    assert found.errors_lost == pytest.approx(-10 / 60)
    assert "Counted as lost" in " ".join(sentences(found))


def test_replicates_are_paired_and_tested_over_seeds(played, tmp_path):
    _, runs = played
    ours = [edited(runs["expert"], tmp_path / f"a{s}", losing({s, s + 1})) for s in range(3)]
    theirs = [
        edited(runs["expert"], tmp_path / f"b{s}", losing(set(range(s, s + 12 + 2 * s))))
        for s in range(3)
    ]
    found = harness.compare(ours, theirs, draws=2000)
    assert (found.replicates, found.pairs) == (3, 180)
    assert found.p == pytest.approx(paired.seed_test(
        np.repeat([10 / 60, 12 / 60, 14 / 60], 60), np.repeat([0, 1, 2], 60)
    ))  # fmt: skip
    assert found.verdict == "a"
    single = harness.compare(ours, theirs[:1], draws=500)
    assert single.replicates == 3
    with pytest.raises(ConfigError, match="equally many"):
        harness.compare(ours, theirs[:2])
    with pytest.raises(ConfigError, match="named twice"):
        harness.compare([ours[0], ours[0]], theirs[:2])


def test_runs_that_score_different_things_do_not_meet(played, tmp_path):
    out, runs = played
    other = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:20]", out=tmp_path)
    with pytest.raises(ConfigError, match="score different things"):
        harness.compare(runs["expert"], other)
    slipped = edited(runs["expert"], tmp_path / "s", lambda _, row: row, error_rate=0.1)
    with pytest.raises(ConfigError, match="slips"):
        harness.compare(runs["expert"], slipped)
    stopped = edited(runs["expert"], tmp_path / "t", lambda _, row: row, status="running")
    with pytest.raises(ConfigError, match="--resume"):
        harness.compare(runs["expert"], stopped)
    with pytest.raises(ConfigError, match="no folder of that name"):
        find_side("expart", out, None, None)


def test_several_agents_are_adjusted_together(played, tmp_path):
    _, runs = played
    sides = [runs["expert"]] + [
        edited(runs["expert"], tmp_path / str(k), losing(set(range(k)))) for k in (5, 7, 9)
    ]
    found = compare_all(sides, draws=500)
    assert [c.p_holm for c in found] == paired.holm([c.p for c in found])
    assert all(c.p_holm >= c.p for c in found)


def test_the_command_prints_tables_and_fails_where_asked(played):
    out, _ = played
    call = CliRunner().invoke
    good = call(app, ["compare", "expert", "random", "--out", str(out), "--fail-if-worse"])
    assert good.exit_code == 0
    assert "expert is better" in good.stdout
    bad = call(app, ["compare", "random", "expert", "--out", str(out), "--fail-if-worse"])
    assert bad.exit_code == 1
    as_json = call(app, ["compare", "expert", "random", "--out", str(out), "--json"])
    assert json.loads(as_json.stdout)[0]["only_b"] == 0
    as_text = call(app, ["compare", "expert", "random", "--out", str(out), "--markdown"])
    assert "| success | 60 |" in as_text.stdout


def test_markdown_and_sentences_agree_with_the_rows(played):
    _, runs = played
    found = harness.compare(runs["expert"], runs["random"], draws=500)
    assert all(line in markdown([found]) for line in sentences(found))
    assert read_metrics(runs["expert"].path / "metrics.jsonl") == runs["expert"].metrics


# Statistics ---------------------------------------------------------------------------------


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
    cluster, replicate = np.arange(len(d)), np.zeros(len(d), dtype=np.int64)
    one = paired.bootstrap(d, cluster, replicate, draws=200)
    other = paired.bootstrap(-d, cluster, replicate, draws=200)
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


def test_replicates_that_disagree_widen_the_interval():
    rng = np.random.default_rng(2)
    tasks, seeds = 200, 6
    cluster, replicate = np.tile(np.arange(tasks), seeds), np.repeat(np.arange(seeds), tasks)
    same = rng.normal(0.05, 0.5, tasks * seeds)
    spread = same + np.repeat(rng.normal(0, 0.15, seeds), tasks)
    narrow = paired.bootstrap(same, cluster, replicate, draws=2000)
    wide = paired.bootstrap(spread, cluster, replicate, draws=2000)
    assert wide.error > 2 * narrow.error


def test_the_detectable_difference_is_detected_four_times_in_five():
    rng = np.random.default_rng(3)
    n, error = 400, 0.5 / 20
    size = paired.detectable(error)
    hits = sum(abs(rng.normal(size, 0.5, n).mean()) > 1.96 * error for _ in range(2000))
    assert hits / 2000 == pytest.approx(0.8, abs=0.03)

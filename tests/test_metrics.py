"""Metrics against their definitions, Wilson against published values and by simulation."""

from __future__ import annotations

import hashlib
import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import paired
from harness.cot import Reference, match, words
from harness.errors import TraceError
from harness.metrics import EpisodeMetrics, Tally, measure, summarise, wilson, worth
from harness.protocol import Protocol
from harness.runs import metrics_parts, read_metrics
from harness.types import Completion, Decision, Episode, Fault, Outcome, Step, Task


def episode(*thoughts: str, outcome=Outcome.DONE, success=True, injected=(), completion=None):
    steps = tuple(
        Step("obs", Decision(t, "look", completion, injected=i in injected))
        for i, t in enumerate(thoughts)
    )
    return Episode(
        Task("e", "v", "v/1"), "a", "do", steps, "end", success, float(success), outcome,
        error=Fault("EnvError", "x") if outcome is Outcome.ERROR else None,
    )  # fmt: skip


def test_a_broken_episode_enters_no_mean():
    rows = [measure(episode("a b")), measure(episode("a", outcome=Outcome.ERROR, success=False))]
    summary = summarise(rows)
    assert (summary.n, summary.errors, summary.successes, summary.success) == (1, 1, 1, 1.0)
    assert rows[1].success is None
    assert rows[1].score is None


def test_an_untold_end_is_no_loss():
    rows = [measure(episode("a b")), measure(episode("a", outcome=Outcome.UNTOLD, success=False))]
    summary = summarise(rows)
    assert (summary.n, summary.untold, summary.errors, summary.success) == (1, 1, 0, 1.0)
    assert (summary.reasoning_words, summary.steps, summary.worth) == (1.5, 1.0, 1.0)
    assert rows[1].success is None
    assert rows[1].score is None
    silent = summarise(rows[1:])
    assert (silent.n, silent.success, silent.score, silent.steps) == (0, None, None, 1.0)


def test_nothing_scored_leaves_cells_empty():
    for rows in ([], [measure(episode("a", outcome=Outcome.ERROR))]):
        summary = summarise(rows)
        assert (summary.n, summary.success, summary.steps) == (0, None, None)
        assert (summary.success_low, summary.success_high) == (0.0, 1.0)


def test_tokens_are_the_models_and_absent_without_one():
    completion = Completion("x", prompt_tokens=10, reasoning_tokens=3, action_tokens=2)
    row = measure(episode("a b", "c", completion=completion))
    assert (row.reasoning_tokens, row.action_tokens, row.prompt_tokens) == (6, 4, 20)
    assert measure(episode("a")).reasoning_tokens is None


def test_rows_survive_json():
    teacher = Reference(episode("a"), episode("b"), episode("a c"))
    row = measure(episode("a b"), teacher, {"mine": 1.5})
    assert None not in (row.cot_f1, row.cot_floor, row.cot_ceiling_f1, row.loops)
    assert msgspec.json.decode(msgspec.json.encode(row), type=type(row)) == row


def test_words_are_fixed():
    assert words("I see mug 1, a pan!") == ("i", "see", "mug", "1", ",", "a", "pan", "!")


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_newcombe(k, n, low, high):
    assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_covers():
    rng = random.Random(5)
    for p, n in ((0.05, 140), (0.5, 60), (0.95, 274)):
        hits = 0
        for _ in range(2000):
            low, high = wilson(sum(rng.random() < p for _ in range(n)), n)
            hits += low <= p <= high
        assert 0.925 < hits / 2000 < 0.975


def test_repeats_are_worth_as_much_as_chance_decides_them():
    tasks = [str(i) for i in range(40)]
    thrice = dict.fromkeys(tasks, 3)
    assert worth(dict.fromkeys(tasks, 1), dict.fromkeys(tasks[:9], 1)) == 40
    # Won always or never: three repeats tell what one tells.
    assert worth(thrice, dict.fromkeys(tasks[:9], 3)) == 40
    assert worth(thrice, {}) == worth(thrice, thrice) == 40
    # Every task won once in three: no task differs from another.
    assert worth(thrice, dict.fromkeys(tasks, 1)) == 120
    # Against the estimator that comparisons use.
    rng = np.random.default_rng(4)
    won = rng.random((40, 3)) < rng.uniform(0.2, 0.8, (40, 1))
    found = worth(thrice, dict(zip(tasks, won.sum(1).tolist(), strict=True)))
    values, cluster = won.ravel().astype(float), np.repeat(np.arange(40), 3)
    assert found == pytest.approx(paired.effective(values, cluster, np.ones(120)))
    # One task that was played often, others whose episodes broke.
    uneven = {"a": 8, "b": 1, "c": 1}
    assert worth(uneven, uneven) == pytest.approx(100 / 66)


def test_how_far_chance_decides_is_read_off_twenty_groups_won_in_and_no_fewer():
    tasks = [str(i) for i in range(60)]
    thrice = dict.fromkeys(tasks, 3)
    assert worth(thrice, dict.fromkeys(tasks[:19], 1)) == 60
    assert worth(thrice, dict.fromkeys(tasks[:20], 1)) == 180


@pytest.mark.parametrize("spread", [0.0, 1.5, 8.0])
@pytest.mark.parametrize("tasks", [30, 140])
def test_the_interval_of_repeated_tasks_covers(tasks, spread):
    """500 worlds of four seeds a task, whose ease varies by ``spread`` logits; 99.9 % of counts at
    a true 95 % lie between 91.8 and 97.8 %."""
    rng = np.random.default_rng(12)
    ids = [str(i) for i in range(tasks)]
    truth = _success(spread)
    covered = alone = 0
    for _ in range(500):
        ease = 1 / (1 + np.exp(-(0.8 + spread * rng.normal(size=tasks))))
        won = rng.binomial(4, ease)
        counts = dict(zip(ids, won.tolist(), strict=True))
        units, share = worth(dict.fromkeys(ids, 4), counts), won.mean() / 4
        low, high = wilson(units * share, units)
        covered += low <= truth <= high
        low, high = wilson(won.sum(), 4 * tasks)
        alone += low <= truth <= high
    assert 0.918 <= covered / 500 <= 0.978
    if spread == 8.0:  # episodes counted as if each were a task of its own
        assert alone / 500 < 0.75


def _success(spread: float) -> float:
    """Success over all tasks: the mean of a logistic of a normal variable, by quadrature."""
    x, weight = np.polynomial.hermite_e.hermegauss(101)
    return float((weight / (1 + np.exp(-(0.8 + spread * x)))).sum() / weight.sum())


def test_a_thought_that_the_protocol_answers_is_reasoning_and_no_action():
    completion = Completion("x", prompt_tokens=10, reasoning_tokens=1, action_tokens=5)
    steps = (
        Step("o", Decision("so", "think: I need a mug", completion)),
        Step("o", Decision("", "go to desk 1", completion)),
    )
    thinking = msgspec.structs.replace(episode("x"), steps=steps)
    row = measure(thinking, protocol=Protocol(9, think="OK."))
    assert (row.reasoning_words, row.action_words) == (7, 4)
    assert (row.reasoning_tokens, row.action_tokens) == (7, 5)
    plain = measure(thinking, protocol=Protocol(9))
    assert (plain.reasoning_words, plain.action_words) == (1, 10)
    teacher = msgspec.structs.replace(
        episode("x"), steps=(Step("o", Decision("", "think: a mug")),)
    )
    assert match(thinking, teacher, Protocol(9, think="OK.")).recall == 1.0


def test_what_the_environment_measured_stands_beside_the_metrics():
    measured = msgspec.structs.replace(episode("a"), measures={"f1": 0.5})
    assert measure(measured, extra={"own": 1.0}).extra == {"f1": 0.5, "own": 1.0}
    broken = msgspec.structs.replace(measured, outcome=Outcome.ERROR)
    assert measure(broken).extra == {}


count = st.one_of(st.none(), st.integers(0, 500))
share = st.one_of(st.none(), st.floats(0, 1))
rows_ = st.lists(
    st.builds(
        EpisodeMetrics, st.text(), st.integers(0, 9), st.integers(0, 9),
        st.sampled_from(["t", "u"]), st.sampled_from(Outcome), st.booleans(), share,
        st.integers(0, 40), st.integers(0, 9),
        st.integers(0, 999), st.integers(0, 99), count, count, count, share, st.floats(0, 9),
        st.just(0.0), st.just(0.0), cot_f1=share, cot_floor=share, cot_ceiling=share, loops=count,
        format_errors=count,
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None)
@given(rows_, st.integers(1, 7))
def test_a_summary_is_the_rows_means_in_whatever_parts_they_come(rows, size):
    tally = Tally()
    for i in range(0, len(rows), size):
        tally.add(rows[i : i + size])
    found = tally.summary()
    whole = [r for r in rows if r.outcome != Outcome.ERROR]
    scored = [r for r in whole if r.outcome != Outcome.UNTOLD]
    known = [r for r in whole if r.reasoning_tokens is not None]

    def ratio(total, n):
        return pytest.approx(total / n) if n else None

    assert (found.n, found.errors) == (len(scored), len(rows) - len(whole))
    assert found.untold == len(whole) - len(scored)
    assert found.truncated == sum(r.outcome == Outcome.TRUNCATED for r in rows)
    assert found.successes == sum(r.success for r in scored)
    assert found.success == ratio(found.successes, found.n)
    assert found.score == ratio(100 * sum(r.score or 0 for r in scored), found.n)
    assert found.steps == ratio(sum(r.n_steps for r in whole), len(whole))
    assert found.reasoning_tokens_per_step == ratio(
        sum(r.reasoning_tokens for r in known), sum(r.n_steps for r in known)
    )
    overlaps = [r.cot_overlap for r in whole if r.cot_overlap is not None]
    assert found.cot_overlap == ratio(sum(overlaps), len(overlaps))
    assert found.cot_overlap_n == len(overlaps)
    assert found.reasoning_tokens == ratio(sum(r.reasoning_tokens for r in known), len(known))
    assert found.reasoning_words == ratio(sum(r.reasoning_words for r in whole), len(whole))
    for field in ("cot_f1", "cot_floor", "cot_ceiling", "loops", "format_errors"):
        values = [v for r in whole if (v := getattr(r, field)) is not None]
        assert getattr(found, field) == ratio(sum(values), len(values))
    tasks = len({r.task_id for r in scored})
    if found.n == tasks:
        expected = wilson(found.successes, found.n)
        assert (found.success_low, found.success_high) == pytest.approx(expected)
    else:
        assert found.success_low <= found.success <= found.success_high
    assert {name: told[:2] for name, told in found.types.items()} == {
        t: (len(own), sum(r.success for r in own))
        for t in {r.task_type for r in scored}
        for own in [[r for r in scored if r.task_type == t]]
    }


def test_intervals_cover_where_tasks_belong_together():
    """200 worlds of 40 products with 8 goals each, of which some are easy: 95 % intervals that take
    the goals for independent miss far more often than 1 time in 20."""
    rng = np.random.default_rng(0)
    row = measure(episode("so"))
    covered = np.zeros(2, dtype=int)
    for _ in range(200):
        easy = np.repeat(rng.beta(0.5, 0.5, 40), 8)
        won = rng.random(320) < easy
        rows = [
            msgspec.structs.replace(row, task_id=f"p{i // 8}-{i % 8}", success=bool(w))
            for i, w in enumerate(won)
        ]
        for k, found in enumerate((
            summarise(rows, lambda task: task.split("-")[0]), summarise(rows),
        )):  # fmt: skip
            covered[k] += found.success_low <= 0.5 <= found.success_high
        assert summarise(rows).worth == 320
    assert covered[0] >= 182
    assert covered[1] < 160


def test_repeats_of_a_task_are_no_new_tasks_of_its_type():
    row = measure(episode("so"))
    alike = [
        msgspec.structs.replace(row, task_id=f"t{k}", seed=seed, task_type="x", success=k % 2 == 0)
        for k in range(4)
        for seed in range(8)
    ]
    assert summarise(alike).types == {"x": (32, 16, 4.0)}


def test_replies_without_an_action_and_loops_are_counted():
    def step(observation, action):
        return Step(observation, Decision("", action), invalid=action is None)

    steps = [step("a", "go"), step("b", "go"), step("b", None), step("b", None), step("a", "go"),
             step("b", "go"), step("a", "look")]  # fmt: skip
    row = measure(msgspec.structs.replace(episode("x"), steps=tuple(steps)))
    assert (row.format_errors, row.loops, row.invalid_actions) == (2, 2, 2)


def test_rows_of_an_older_version_are_read_and_what_they_lack_is_none(tmp_path):
    teacher = Reference(episode("a"), episode("b"), episode("a c"))
    row = msgspec.to_builtins(measure(episode("a b"), teacher))
    for name in ("cot_precision", "cot_f1", "cot_floor", "cot_floor_f1", "cot_ceiling",
                 "cot_ceiling_f1", "format_errors", "loops"):  # fmt: skip
        del row[name]
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(msgspec.json.encode(row) + b"\n")
    (old,) = read_metrics(file)
    assert (old.cot_overlap, old.cot_f1, old.cot_ceiling, old.loops) == (1.0, None, None, None)
    summary = summarise([old])
    assert (summary.cot_overlap, summary.reasoning_words) == (1.0, 2.0)
    assert (summary.cot_f1, summary.cot_floor, summary.loops, summary.cot_floor_n) == (
        None, None, None, 0,
    )  # fmt: skip


@pytest.mark.parametrize("size", [1, 200, 333, 1 << 22])
def test_blocks_of_any_size_hold_all_rows_and_the_files_hash(tmp_path, size):
    rows = [measure(episode(" ".join("a" * n))) for n in range(1, 40)]
    body = b"".join(msgspec.json.encode(row) + b"\n" for row in rows)
    file, digest = tmp_path / "metrics.jsonl", hashlib.sha256()
    file.write_bytes(body)
    found = [row for part in metrics_parts(file, size, digest) for row in part]
    assert found == rows
    assert digest.hexdigest() == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("place", [0, 4999, 5000, 7000])
def test_a_damaged_row_is_named_wherever_it_stands(tmp_path, place):
    line = msgspec.json.encode(measure(episode("a")))
    for damage, rest in ((b"{", b"}"), (b"", None), (line[:40], line[40:])):
        lines = [line] * 7001
        lines[place : place + 1] = [damage] if rest is None else [damage, rest]
        file = tmp_path / "metrics.jsonl"
        file.write_bytes(b"\n".join(lines) + b"\n")
        with pytest.raises(TraceError, match=rf"metrics.jsonl:{place + 1}: not a metrics row"):
            read_metrics(file)

"""Ablations, token weights, packing, order."""

from __future__ import annotations

import math
from itertools import islice, pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import EPISODES, HEADER
from harness_distillation import (
    curriculum,
    dataset,
    supervision,
    tokenizer,
)
from harness_distillation import (
    recipe as recipes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.transcript import Kind

pytestmark = pytest.mark.models


def spans_of(labels):
    """(class, length) of the runs of reason and act, in order."""
    edges = np.flatnonzero(np.diff(labels, prepend=-1))
    lengths = np.diff(np.append(edges, len(labels)))
    return [
        (int(labels[a]), int(n)) for a, n in zip(edges, lengths, strict=True) if labels[a] in (1, 2)
    ]


@pytest.fixture(scope="module")
def prompts(samples, encoder):
    heads = [len(encoder.encode(HEADER.replace("{instruction}", e.instruction))) for e in EPISODES]
    return np.array(heads)[samples.episode]


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_random_spans_keep_number_lengths_and_densities(samples, prompts, seed):
    classes = tokenizer.class_of("span")
    chosen = range(1, len(samples.lengths))
    moved = supervision.random_spans(samples, classes, prompts, chosen, seed)
    again = supervision.random_spans(samples, classes, prompts, chosen, seed)
    assert np.array_equal(moved.kinds, again.kinds)
    assert np.array_equal(moved.taught, samples.taught)
    assert np.array_equal(moved.kinds[samples.part(0)], samples.kinds[samples.part(0)])
    elsewhere = 0
    for s in chosen:
        part = samples.part(s)
        before, after = classes[samples.kinds[part]], classes[moved.kinds[part]]
        assert not after[: prompts[s]].any()
        assert sorted(spans_of(after)) == sorted(spans_of(before))
        for kind in Kind:
            assert np.sum(moved.kinds[part] == kind) == np.sum(samples.kinds[part] == kind)
        elsewhere += int(np.sum((after > 0) & (before == 0)))
    assert elsewhere > 0.2 * samples.taught[-1]


def test_random_spans_leave_a_format_of_its_own_in_place(samples, prompts):
    classes = tokenizer.class_of("shared")
    chosen = range(len(samples.lengths))
    moved = supervision.random_spans(samples, classes, prompts, chosen, 0)
    before, after = classes[samples.kinds], classes[moved.kinds]
    assert np.array_equal(before == tokenizer.FORMAT, after == tokenizer.FORMAT)
    assert np.bincount(before, minlength=4).tolist() == np.bincount(after, minlength=4).tolist()
    assert not np.array_equal(before, after)
    assert moved.hash != samples.hash  # the same tokens under other labels are other samples
    # As many spans of the same lengths, where the format's tokens inside of them are passed over.
    pieces = 0
    for s in chosen:
        one, other = (labels[samples.part(s)] for labels in (before, after))
        assert sorted(spans_of(one)) == sorted(spans_of(other[other != tokenizer.FORMAT]))
        pieces += len(spans_of(other)) - len(spans_of(one))
    assert pieces > 0


def test_random_spans_are_drawn_from_all_of_an_episode_in_any_order(samples, prompts):
    """Uniform places are in the middle on average; the order is another one nearly always."""
    classes = tokenizer.class_of("span")
    chosen = range(len(samples.lengths))
    moved = supervision.random_spans(samples, classes, prompts, chosen, 0)
    places, reordered = [], 0
    for s in chosen:
        before, after = (classes[of.kinds[samples.part(s)]] for of in (samples, moved))
        places.append((np.flatnonzero(after) - prompts[s]).mean() / (len(after) - prompts[s]))
        reordered += [n for _, n in spans_of(after)] != [n for _, n in spans_of(before)]
    assert np.mean(places) == pytest.approx(0.5, abs=0.05)
    assert reordered > 0.8 * len(chosen)


def test_ablations_differ_by_seed(samples, prompts):
    """Else the seeds of a trial would share one draw, and their spread leave it out."""
    classes = tokenizer.class_of("span")
    chosen = range(len(samples.lengths))
    moved = [supervision.random_spans(samples, classes, prompts, chosen, n) for n in (0, 1)]
    mixed = [supervision.shuffle_labels(samples, classes, chosen, n) for n in (0, 1)]
    for one, other in (moved, mixed):
        assert not np.array_equal(one.kinds, other.kinds)


@pytest.mark.parametrize("format", ["span", "shared", "none"])
def test_shuffled_labels_keep_the_supervised_tokens(samples, format):
    classes = tokenizer.class_of(format)
    shuffled = supervision.shuffle_labels(samples, classes, range(len(samples.lengths)), 0)
    before, after = classes[samples.kinds], classes[shuffled.kinds]
    assert np.array_equal(before > 0, after > 0)
    assert np.array_equal(before == 3, after == 3)
    assert np.array_equal(samples.taught, shuffled.taught)
    assert np.mean(before[before > 0] != after[before > 0]) > 0.1
    for s in range(len(samples.lengths)):
        part = samples.part(s)
        for c in (1, 2):
            assert np.sum(before[part] == c) == np.sum(after[part] == c)


def test_shares_are_one_over_the_size_of_the_unit(encoder):
    """An episode cut into windows is still one episode; a span is one class in one decision."""
    cut, _ = dataset.encode(EPISODES, encoder, HEADER, 120, 32)
    assert len(cut.lengths) > len(set(cut.episode.tolist()))
    classes = tokenizer.class_of("span")
    labels = classes[cut.kinds][cut.kinds > 0]
    ones = {"reason": 1.0, "act": 1.0, "format": 1.0, "observation": 0.0}
    assert supervision.shares(cut, classes, "class", ones) is None
    span = supervision.shares(cut, classes, "span", ones).numpy()
    runs = [r for s in range(len(cut.lengths)) for r in spans_of(classes[cut.kinds[cut.part(s)]])]
    assert span.sum() == pytest.approx(len(runs), abs=1e-9)
    wanted = [1 / n for _, n in runs for _ in range(n)]
    assert np.allclose(span, wanted, atol=1e-12)
    episodes = supervision.shares(cut, classes, "episode", ones).numpy()
    assert episodes.sum() == pytest.approx(len(set(cut.episode.tolist())), abs=1e-9)
    only = supervision.shares(cut, classes, "episode", {**ones, "reason": 0.0}).numpy()
    assert only[labels == 2].sum() == pytest.approx(len(set(cut.episode.tolist())), abs=1e-9)


# Packing and order ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=1, max_size=200), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_packing_loses_and_repeats_nothing(lengths, seed):
    sizes = np.array(lengths)
    rows = list(dataset.pack(sizes, iter(range(len(lengths))), 128, seed))
    assert sorted(s for row in rows for s in row) == list(range(len(lengths)))
    assert all(int(sizes[row].sum()) <= 128 for row in rows)


def test_rows_packed_together_come_in_an_order_of_the_seed():
    """Not in the order that they filled up in, where the first have the least room left."""
    sizes = np.random.default_rng(0).integers(30, 100, 12)
    one, other = (list(dataset.pack(sizes, iter(range(12)), 128, seed)) for seed in (0, 1))
    assert len(one) > 5
    assert sorted(one) == sorted(other)
    assert one != other


@pytest.mark.parametrize(("row_tokens", "least"), [(2048, 0.96), (4096, 0.98), (8192, 0.985)])
def test_rows_are_full(row_tokens, least):
    lengths = np.random.default_rng(0).integers(200, 1100, 3000)
    order = curriculum.order(np.arange(3000), lengths, "random", 0)
    rows = list(islice(dataset.pack(lengths, order, row_tokens, 0), 300))
    fill = sum(int(lengths[row].sum()) for row in rows) / (300 * row_tokens)
    assert fill >= least


def test_a_row_holds_short_and_long_alike():
    """Samples of two environments, of unlike length: no row is of one of them alone."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.integers(300, 500, 3000), rng.integers(1500, 2500, 600)])
    order = curriculum.order(np.arange(3600), lengths, "random", 0)
    rows = list(islice(dataset.pack(lengths, order, 8192, 0), 200))
    shares = [sum(int(lengths[s]) for s in row if s >= 3000) / lengths[row].sum() for row in rows]
    assert np.mean([0.0 < share < 1.0 for share in shares]) > 0.95


def test_row_labels_weigh_the_logit_before(samples, tok):
    row = dataset.make_row(samples, [3, 1, 4], tokenizer.class_of("span"), 2048, tok.pad_token_id)
    flat = row.ids[0]
    assert torch.equal(flat[row.at + 1], row.targets)
    assert row.tokens == int(samples.lengths[[3, 1, 4]].sum())
    assert row.bounds[-1] == 2048
    for a, b in pairwise(row.bounds.tolist()):  # each document, and padding, as if it were alone
        assert row.positions[0, a:b].tolist() == list(range(b - a))
    starts = set(row.bounds.tolist())
    assert not any(int(t) + 1 in starts for t in row.at)
    taught = [np.arange(samples.taught[s], samples.taught[s + 1]) for s in (3, 1, 4)]
    assert row.cached.tolist() == np.concatenate(taught).tolist()
    none = dataset.make_row(samples, [3], tokenizer.class_of("none"), 2048, tok.pad_token_id)
    part = samples.part(3)
    kinds = samples.kinds[part][samples.kinds[part] > 0]
    wanted = np.arange(samples.taught[3], samples.taught[4])[kinds <= 2]
    assert none.cached.tolist() == wanted.tolist()


@pytest.mark.parametrize("schedule", ["random", "sorted", "reverse", "pacing"])
def test_order_is_a_pure_function_of_seed_and_step(samples, schedule):
    objective = recipes.Objective(curriculum=schedule)
    chosen = np.arange(len(samples.lengths))

    def make(seed=0):
        return curriculum.Sampler(
            samples, chosen, objective, seed, rows=2, row_tokens=1024, steps=40
        )

    one = make()
    forward = [one.rows(i) for i in range(30)]
    other = make()
    assert [other.rows(i) for i in (7, 29, 3, 4)] == [forward[i] for i in (7, 29, 3, 4)]
    if schedule in ("random", "pacing"):
        assert [make(1).rows(0)] != [forward[0]]


def test_pacing_starts_with_the_easiest(samples):
    objective = recipes.Objective(curriculum="pacing")
    score = curriculum.difficulty(samples, objective)
    chosen = np.arange(len(score))
    stream = curriculum.order(chosen, samples.lengths, "pacing", 0, score=score, total_tokens=10**6)
    first = list(islice(stream, 20))
    rank = np.argsort(np.argsort(score, kind="stable"))
    assert max(rank[s] for s in first) < 0.35 * len(score)
    assert curriculum.competence(0.0, 0.2, 0.5) == pytest.approx(0.2)
    assert curriculum.competence(0.5, 0.2, 0.5) == 1.0
    ranked = list(
        islice(curriculum.order(chosen, samples.lengths, "sorted", 0, score=score), len(score))
    )
    assert sorted(ranked) == chosen.tolist()
    assert np.all(np.diff(score[ranked]) >= 0)


def test_pacing_draws_from_a_share_that_grows_with_the_tokens_drawn(samples):
    """Never from beyond it, and at last from nearly all."""
    score = curriculum.difficulty(samples, recipes.Objective())
    n = len(score)
    rank = np.argsort(np.argsort(score, kind="stable"))
    total = 40 * int(samples.lengths.sum())
    stream = curriculum.order(
        np.arange(n), samples.lengths, "pacing", 0, score=score, total_tokens=total, start=0.1,
        end=1.0,
    )  # fmt: skip
    drawn, hardest = 0, []
    while (share := curriculum.competence(drawn / total, 0.1, 1.0)) < 1.0:
        s = next(stream)
        assert rank[s] < math.ceil(share * n)
        hardest.append(rank[s])
        drawn += int(samples.lengths[s])
    assert max(hardest[-n:]) >= 0.9 * n


def test_a_sampler_paces_as_its_recipe_says(samples):
    """From hardly any, and where pacing ends at once from all."""
    chosen = np.arange(len(samples.lengths))

    def read(end: float) -> set[int]:
        objective = recipes.Objective(curriculum="pacing", pacing_start=1e-6, pacing_end=end)
        sampler = curriculum.Sampler(
            samples, chosen, objective, 0, rows=1, row_tokens=1024, steps=40_000
        )
        return {s for step in range(4) for row in sampler.rows(step) for s in row}

    assert len(read(1.0)) <= 4
    assert len(read(0.0)) > 8


def test_every_epoch_has_an_order_of_its_own():
    stream = curriculum.order(np.arange(50), np.ones(50), "random", 0)
    one, two = (list(islice(stream, 50)) for _ in range(2))
    assert sorted(one) == sorted(two) == list(range(50))
    assert one != two


@pytest.mark.parametrize(
    ("progress", "start", "end", "share"),
    [
        (0.0, 0.2, 0.5, 0.2),
        (0.125, 0.2, 0.5, 0.28**0.5),
        (0.25, 0.2, 0.5, 0.52**0.5),
        (0.4, 0.2, 0.5, 0.808**0.5),
        (0.5, 0.2, 0.5, 1.0),
        (0.9, 0.2, 0.5, 1.0),
        (0.25, 0.6, 1.0, 0.52**0.5),
        (0.75, 0.5, 1.0, 0.8125**0.5),
        (0.3, 1.0, 0.5, 1.0),
        (0.0, 0.2, 0.0, 1.0),
    ],
)
def test_competence_grows_as_a_square_root(progress, start, end, share):
    """min(1, sqrt(t (1 - c0^2) / tau + c0^2)), worked out by hand."""
    assert curriculum.competence(progress, start, end) == pytest.approx(share, abs=1e-12)


def test_reverse_gives_the_hardest_first(samples):
    """The opposite of sorted, epoch by epoch."""
    score = curriculum.difficulty(samples, recipes.Objective())
    chosen = np.arange(1, len(score), 2)

    def first(schedule, count):
        stream = curriculum.order(chosen, samples.lengths, schedule, 0, score=score)
        return list(islice(stream, count))

    down = first("reverse", len(chosen))
    assert np.all(np.diff(score[down]) <= 0)
    assert score[down[0]] > score[down[-1]]
    assert down == first("sorted", len(chosen))[::-1]
    assert first("reverse", 2 * len(chosen)) == down * 2

"""Traces, tokenizer, labels, windows, packing, order, teacher cache, recipes."""

from __future__ import annotations

import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from harness_distillation import (
    curriculum,
    dataset,
    models,
    shards,
    supervision,
    teacher_cache,
    tokenizer,
    traces,
)
from harness_distillation import (
    recipe as recipes,
)
from harness_distillation.locks import alone
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError, DataError, TraceError
from harness.rows import group
from harness.transcript import Kind, join, render, window_start

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"
EPISODES = [episode(i, sampled=i % 3 == 0) for i in range(60)]


@pytest.fixture(scope="module")
def tok():
    return tokenizer.train(EPISODES, HEADER, 400)


@pytest.fixture(scope="module")
def encoder(tok):
    return tokenizer.SegmentEncoder(tok)


@pytest.fixture(scope="module")
def samples(encoder):
    return dataset.encode(EPISODES, encoder, HEADER, 512, 32)[0]


# Traces ---------------------------------------------------------------------------------------


def test_traces_keep_what_teaches_and_count_the_rest(tmp_path):
    won = episode(1)
    lost = msgspec.structs.replace(episode(2), success=False)
    again = msgspec.structs.replace(won, seconds=9.0, attempt=1)
    path = tmp_path / "run" / "episodes.jsonl"
    path.parent.mkdir()
    lines = [msgspec.json.encode(e) + b"\n" for e in (won, lost, again, episode(3))]
    path.write_bytes(b"".join(lines) + b'{"torn')
    found = traces.load([str(path.parent)])
    assert {e.task.id for e in found.episodes} == {won.task.id, episode(3).task.id}
    assert found.dropped == {"lost": 1, "repeated": 1}
    assert traces.load([str(path)]).hash == found.hash
    path.write_bytes(b"".join(reversed(lines)))  # as when other episodes had ended first
    assert traces.load([str(path)]).hash == found.hash
    assert traces.load([str(path)], limit=1).hash != found.hash
    assert len(traces.load([str(path)], successes_only=False).episodes) == 3


def test_bad_traces_are_named(tmp_path):
    with pytest.raises(DataError, match="no recorded episodes"):
        traces.load([str(tmp_path)])
    with pytest.raises(ConfigError, match="No runs"):
        traces.load([])
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="No episode to learn from"):
        traces.load([str(path)])
    path.write_bytes(b'{"task": 3}\n' + msgspec.json.encode(episode(1)) + b"\n")
    with pytest.raises(TraceError, match=r"episodes.jsonl:1"):
        traces.load([str(path)])
    foreign = msgspec.structs.replace(episode(1).task, env="alfwold")
    lines = [episode(2), msgspec.structs.replace(episode(1), task=foreign)]
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in lines))
    told = rf"{path}, task {foreign.id}: .*'alfwold'.* 'alfworld'"
    with pytest.raises(DataError, match=told):
        traces.load([str(path)])


def test_leak_guard_works_by_group():
    held = registry.task_set("alfworld", "builtin-valid[:3]").tasks[1]
    sibling = held.id.rsplit("/", 1)[0] + "/" + held.id.rsplit("/", 1)[1][:9] + "99999"
    own = [("alfworld", e.task.id) for e in EPISODES]
    traces.guard(own, ["alfworld/builtin-valid"])
    for leak in (held.id, sibling):
        with pytest.raises(DataError, match=r"1 training groups belong to 'alfworld/builtin"):
            traces.guard([*own, ("alfworld", leak)], ["alfworld/builtin-valid"])
    with pytest.raises(DataError, match="belong to"):
        traces.guard(own, [f"alfworld:{EPISODES[0].task.id}"])


def test_heldout_keeps_groups_whole_and_is_stable():
    learn, held = traces.split_heldout(EPISODES, 0.3, 0)
    groups = [group("alfworld", e.task.id) for e in EPISODES]
    assert {groups[i] for i in learn}.isdisjoint(groups[i] for i in held)
    assert sorted(learn + held) == list(range(60))
    assert held
    fewer = traces.split_heldout(EPISODES[:30], 0.3, 0)[1]
    assert fewer == [i for i in held if i < 30]


# Tokenizer and labels -------------------------------------------------------------------------

TEXTS = [
    "",
    " ",
    "go to desk 12",
    "x\ty\n\nz",
    "é 漢字 🙂",
    "Action: 1234567",
    "\x00\x7f",
    "<|eos|",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_round_trips(tok, text):
    assert tok.decode(tok.encode(text, add_special_tokens=False)) == text


def test_an_extended_tokenizer_keeps_its_entries_and_reads_new_words_whole(tok, tmp_path):
    words = [f"Lavender soap {i} [SEP] B09XY" for i in range(40)]
    shop = [
        msgspec.structs.replace(
            episode(i), steps=tuple(msgspec.structs.replace(s, observation=w) for s in e.steps)
        )
        for (i, e), w in zip(enumerate(EPISODES), words, strict=False)
    ]
    more = tokenizer.extend(tok, shop, HEADER, 600)
    old, new = tok.get_vocab(), more.get_vocab()
    assert {entry: new[entry] for entry in old} == old
    assert len(tok) < len(more) <= 600
    assert sorted(new.values()) == list(range(len(more)))
    assert more.tokenize(" Lavender soap 7") == ["ĠLavender", "Ġsoap", "Ġ7"]
    for text in (*TEXTS, words[3]):
        ids = more.encode(text, add_special_tokens=False)
        assert more.decode(ids) == text
        assert len(ids) <= len(tok.encode(text, add_special_tokens=False))
    more.save_pretrained(tmp_path)
    assert tokenizer.fingerprint(tokenizer.load(tmp_path)) == tokenizer.fingerprint(more)
    again = tokenizer.extend(tok, shop, HEADER, 600)
    assert again.backend_tokenizer.to_str() == more.backend_tokenizer.to_str()
    assert tokenizer.extend(tok, shop, HEADER, 100).get_vocab() == old


def test_merges_learned_here_are_those_of_the_library():
    """From bytes alone: as many entries, and the texts as short (ties may be broken otherwise)."""
    theirs = tokenizer.train(EPISODES, HEADER, 420)
    ours = tokenizer.extend(tokenizer.train(EPISODES, HEADER, 258), EPISODES, HEADER, 420)
    assert len(ours) == len(theirs)
    texts = list(tokenizer.texts(EPISODES, HEADER))
    lengths = [sum(len(t.tokenize(text)) for text in texts) for t in (ours, theirs)]
    assert abs(lengths[0] - lengths[1]) <= 0.002 * lengths[1]


def test_a_missing_tokenizer_is_named_and_nobody_asks_the_hub_for_it():
    with pytest.raises(DataError, match="models/nowhere: no such folder"):
        tokenizer.load("models/nowhere")


def test_tokenizer_loads_with_transformers(tok, tmp_path):
    tok.save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    assert tokenizer.fingerprint(again) == tokenizer.fingerprint(tok)
    assert again.eos_token_id is not None
    assert again.pad_token_id is not None
    assert again.tokenize(" 1 2") == ["Ġ1", "Ġ2"]
    for text in TEXTS:
        assert again.encode(text, add_special_tokens=False) == tok.encode(
            text, add_special_tokens=False
        )


def test_labels_decode_to_their_spans(encoder, tok):
    for e in EPISODES:
        segments = [s for block in render("Task: x\n", e.steps) for s in block]
        encoded = encoder.segments(segments)
        assert len(encoded.ids) == len(encoded.kinds)
        for kind in Kind:
            got = tok.decode(encoded.ids[encoded.kinds == kind].tolist())
            assert got == join([s for s in segments if s.kind is kind])


def test_what_is_played_is_a_prefix_of_what_is_trained(encoder):
    for e in EPISODES:
        whole = encoder.segments([s for b in render("Task: x\n", e.steps) for s in b]).ids
        for k in range(len(e.steps)):
            blocks = render("Task: x\n", e.steps[:k], e.steps[k].observation)
            prompt = encoder.segments([s for b in blocks for s in b]).ids
            assert prompt.tolist() == whole[: len(prompt)].tolist()


def test_injected_steps_and_observations_are_never_taught(samples, tok):
    for s, number in enumerate(samples.episode):
        part = samples.part(s)
        taught = samples.ids[part][samples.kinds[part] == Kind.ACT]
        wanted = "".join(
            " " + step.decision.action
            for step in EPISODES[number].steps
            if not step.decision.injected
        )
        assert tok.decode(taught.tolist()) == wanted


def test_terminators_are_taught(samples, tok):
    """The newline that ends an action is its last target: what play stops at."""
    ends = 0
    for s in range(len(samples.lengths)):
        part = samples.part(s)
        kinds, ids = samples.kinds[part], samples.ids[part]
        for t in np.flatnonzero(kinds == Kind.ACT):
            if t + 1 < len(kinds) and kinds[t + 1] != Kind.ACT:
                assert kinds[t + 1] == Kind.ACT_FORMAT
                assert tok.decode([int(ids[t + 1])]) == "\n"
                ends += 1
    steps = [s for e in EPISODES for s in e.steps if not s.decision.injected]
    assert ends == len(steps)


def test_every_turn_is_taught_not_only_the_last(samples):
    labels = tokenizer.class_of("span")[samples.kinds]
    for s, number in enumerate(samples.episode):
        part = labels[samples.part(s)]
        runs = int(np.sum((part[1:] == 2) & (part[:-1] != 2)))
        assert runs == sum(not step.decision.injected for step in EPISODES[number].steps)


def test_formats():
    kinds = np.arange(5)
    assert tokenizer.class_of("span")[kinds].tolist() == [0, 1, 2, 1, 2]
    assert tokenizer.class_of("shared")[kinds].tolist() == [0, 1, 2, 3, 3]
    assert tokenizer.class_of("none")[kinds].tolist() == [0, 1, 2, 0, 0]


def test_whole_text_difference_sees_straddling(encoder):
    assert 0.0 <= tokenizer.whole_text_difference(encoder, EPISODES, HEADER) < 0.2


# Windows --------------------------------------------------------------------------------------


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 15)), min_size=1, max_size=30),
    st.integers(30, 150),
)
@settings(max_examples=300, deadline=None)
def test_every_decision_is_taught_once_after_what_play_reads(head, steps, limit):
    seen = [observation for observation, _ in steps]
    blocks = [observation + decision for observation, decision in steps]
    taught = []
    for start, first, last in dataset.windows(head, blocks, seen, limit):
        for k in range(first, last):
            played = window_start(head, [*blocks[:k], seen[k]], limit)
            if start is None:
                assert played > k
            else:
                assert played == start
                assert head + sum(blocks[start:k]) + seen[k] <= limit
            taught.append(k)
    assert taught == list(range(len(steps)))


def test_long_episodes_are_cut_and_taught_once(encoder):
    long = [episode(900 + i, steps=40) for i in range(4)]
    whole, _ = dataset.encode(long, encoder, HEADER, 100_000, 32)
    cut, skipped = dataset.encode(long, encoder, HEADER, 300, 40)
    assert skipped == (0, 0)
    assert len(cut.lengths) > len(whole.lengths) == 4
    assert int(cut.lengths.max()) <= 300
    assert cut.taught[-1] == whole.taught[-1]
    for kind in (Kind.REASON, Kind.ACT):
        assert cut.ids[cut.kinds == kind].tolist() == whole.ids[whole.kinds == kind].tolist()


def test_a_window_too_small_for_anything_is_refused(encoder):
    with pytest.raises(DataError, match="No decision can be taught"):
        dataset.encode(EPISODES, encoder, HEADER, 40, 32)


def test_a_sequence_a_decision(encoder, samples):
    single, skipped = dataset.encode(EPISODES, encoder, HEADER, 512, 32, per_step=True)
    assert skipped == (0, 0)
    decisions = sum(not s.decision.injected for e in EPISODES for s in e.steps)
    assert len(single.lengths) == decisions
    assert single.taught[-1] == samples.taught[-1]
    for kind in (Kind.REASON, Kind.ACT):
        assert (
            single.ids[single.kinds == kind].tolist() == samples.ids[samples.kinds == kind].tolist()
        )
    whole = samples.ids[samples.part(0)]
    for s in np.flatnonzero(single.episode == 0):
        mine = single.ids[single.part(s)]
        assert mine.tolist() == whole[: len(mine)].tolist()
        assert not single.kinds[single.part(s)][: np.argmax(single.kinds[single.part(s)] > 0)].any()


def test_truncation_cuts_the_end_and_counts_it(encoder, samples):
    cut, skipped = dataset.encode(EPISODES, encoder, HEADER, 512, 32, truncate=80)
    assert int(cut.lengths.max()) == 80
    assert skipped.too_long > 0
    assert cut.taught[-1] < samples.taught[-1]
    for s, number in enumerate(cut.episode):
        whole = samples.part(int(np.flatnonzero(samples.episode == number)[0]))
        n = int(cut.lengths[s])
        assert cut.ids[cut.part(s)].tolist() == samples.ids[whole][:n].tolist()
        assert cut.kinds[cut.part(s)].tolist() == samples.kinds[whole][:n].tolist()
        assert n in (80, whole.stop - whole.start)


def test_observations_are_taught_once_on_demand(encoder, samples, tok):
    for window in (512, 200):
        seen, _ = dataset.encode(EPISODES, encoder, HEADER, window, 32, observations=True)
        labels = tokenizer.class_of("span")[seen.kinds]
        for number, e in enumerate(EPISODES):
            ids = [
                i
                for s in np.flatnonzero(seen.episode == number)
                for i in seen.ids[seen.part(s)][labels[seen.part(s)] == tokenizer.OBSERVATION]
            ]
            wanted = "".join(f"Observation: {step.observation}\n" for step in e.steps)
            assert tok.decode(ids) == wanted
    whole, _ = dataset.encode(EPISODES, encoder, HEADER, 512, 32, observations=True)
    for kind in list(Kind)[1:]:
        assert np.array_equal(whole.kinds == kind, samples.kinds == kind)


# Ablations and token weights ------------------------------------------------------------------


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
    # As many spans of the same lengths, where the format's tokens inside of them are passed over.
    pieces = 0
    for s in chosen:
        one, other = (labels[samples.part(s)] for labels in (before, after))
        assert sorted(spans_of(one)) == sorted(spans_of(other[other != tokenizer.FORMAT]))
        pieces += len(spans_of(other)) - len(spans_of(one))
    assert pieces > 0


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


# Teacher cache --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tok):
    torch.set_num_threads(1)
    model = models.build(recipes.Student(layers=1, hidden=32, heads=2, window=512), tok, 5)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10)
    return model


def key(samples, tok, teacher, k=64):
    return teacher_cache.Key(
        samples.hash, tokenizer.fingerprint(tok), "t", models.weights_hash(teacher), k
    )


def test_cache_holds_the_teachers_distributions(samples, tok, teacher, tmp_path):
    k = key(samples, tok, teacher)
    built = teacher_cache.build(
        tmp_path,
        teacher,
        samples,
        k,
        pad=tok.pad_token_id,
        entries=len(tok),
        row_tokens=1024,
        precision="fp32",
    )
    cache = teacher_cache.load(tmp_path, k, min_mass=0.0)
    assert len(cache.tail) == samples.taught[-1]
    assert cache.ids.dtype == np.uint16
    for a, b in zip(built, cache, strict=True):
        assert np.array_equal(a, b)
    teacher.set_attn_implementation("sdpa")
    for s in (0, 17, len(samples.lengths) - 1):
        part = samples.part(s)
        ids = torch.from_numpy(samples.ids[part].astype(np.int64))
        with torch.no_grad():
            logits = teacher(input_ids=ids[None], use_cache=False).logits[0]
        log_p = logits[:, : len(tok)].log_softmax(-1)
        at = np.flatnonzero(samples.kinds[part])
        rows = np.arange(samples.taught[s], samples.taught[s + 1])
        log_p = log_p[at - 1]
        want = log_p.gather(-1, ids[at][:, None])[:, 0].numpy()
        assert np.allclose(cache.target[rows], want, atol=2e-4)
        entropy = -(log_p.exp() * log_p).sum(-1).numpy()
        assert np.allclose(cache.entropy[rows], entropy, atol=2e-4)
        mass = log_p.exp().topk(64, -1).values.sum(-1).numpy()
        assert np.allclose(-np.expm1(cache.tail[rows]), mass, atol=1e-4)


@pytest.mark.parametrize(
    ("vocab", "dtype"), [(65_536, np.uint16), (65_537, np.int32), (70_000, np.int32)]
)
def test_cached_ids_are_those_of_large_vocabularies(vocab, dtype):
    """16 bits hold ids below 65,536; above that they would be other tokens'."""
    wanted = [[vocab - 1, 3, vocab - 2], [7, vocab - 3, 0]]
    logits = torch.zeros(2, vocab)
    for row, ids in zip(logits, wanted, strict=True):
        row[ids] = torch.tensor([30.0, 29.0, 28.0])
    cache = teacher_cache.distribution(logits, torch.tensor([vocab - 1, 7]), 3)
    assert cache.ids.dtype == dtype
    assert cache.ids.tolist() == wanted
    assert cache.pick(torch.tensor([1, 0])).ids.tolist() == wanted[::-1]


def test_a_cached_token_takes_about_260_bytes():
    """Of a top 64: ids of 16 bits and log-probabilities in fp16, the rest in fp32."""
    logits = torch.randn(5, 2048, generator=torch.Generator().manual_seed(0))
    cache = teacher_cache.distribution(logits, torch.zeros(5, dtype=torch.int64), 64)
    assert [a.dtype for a in cache] == [np.uint16, np.float16, *[np.float32] * 3]
    assert sum(a.nbytes for a in cache) == 5 * (2 * 64 + 2 * 64 + 3 * 4)


def test_a_teacher_of_70_000_entries_is_cached_as_it_speaks(tmp_path):
    class Many:
        eos_token_id, pad_token_id = 0, 1

        def __len__(self):
            return 70_000

    torch.set_num_threads(1)
    big = models.build(recipes.Student(layers=1, hidden=8, heads=2, window=64), Many(), 3)
    ids = np.random.default_rng(0).integers(0, 70_000, 24, dtype=np.int32)
    kinds = np.array(([Kind.CONTEXT] * 4 + [Kind.REASON] * 4) * 3, dtype=np.int8)
    few = dataset.Samples.make(ids, kinds, np.array([0, 8, 24]), np.array([0, 1], dtype=np.int32))
    named = teacher_cache.Key(few.hash, "t", "t", models.weights_hash(big), 64)
    teacher_cache.build(tmp_path, big, few, named, pad=1, entries=70_000)
    cache = teacher_cache.load(tmp_path, named, min_mass=0.0)
    assert (cache.ids.dtype, cache.logp.dtype) == (np.int32, np.float16)
    big.set_attn_implementation("sdpa")
    with torch.no_grad():
        rows = [big(input_ids=torch.from_numpy(ids[few.part(s)].astype(np.int64))[None]).logits[0]
                for s in range(2)]  # fmt: skip
    log_p = torch.cat(rows)[np.flatnonzero(kinds) - 1].log_softmax(-1)
    top = log_p.topk(64, -1)
    assert cache.ids.max() > 65_535
    for mine, theirs in zip(cache.ids.tolist(), top.indices.tolist(), strict=True):
        # Equals but for sums in another order, which may swap who is last.
        assert len(set(mine) & set(theirs)) >= 63
    at = log_p.gather(-1, torch.from_numpy(cache.ids.astype(np.int64)))
    assert np.allclose(cache.logp.astype(np.float32), at.numpy(), atol=0.01)


def test_cache_of_anything_else_is_refused(samples, tok, teacher, tmp_path):
    k = key(samples, tok, teacher, 4)
    teacher_cache.build(
        tmp_path, teacher, samples, k, pad=tok.pad_token_id, entries=len(tok), precision="fp32"
    )
    for field in ("samples", "tokenizer", "template", "teacher"):
        other = msgspec.structs.replace(k, **{field: "0" * 16})
        with pytest.raises(shards.CacheMismatch, match=f"another {field}"):
            teacher_cache.load(tmp_path, other, min_mass=0.0)
    with pytest.raises(teacher_cache.LowMass, match="under 95%"):
        teacher_cache.load(tmp_path, k)
    shard = tmp_path / "shard-00000.npz"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match="damaged"):
        teacher_cache.load(tmp_path, k, min_mass=0.0)


def test_a_killed_cache_goes_on(samples, tok, teacher, tmp_path):
    k = key(samples, tok, teacher)
    how = {"pad": tok.pad_token_id, "entries": len(tok), "precision": "fp32", "shard": 20}
    whole = teacher_cache.build(tmp_path, teacher, samples, k, **how)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.npz").unlink()
    kept = (tmp_path / "shard-00000.npz").stat().st_mtime_ns
    again = teacher_cache.build(tmp_path, teacher, samples, k, **how)
    assert (tmp_path / "shard-00000.npz").stat().st_mtime_ns == kept
    for a, b in zip(whole, again, strict=True):
        assert np.array_equal(a, b)


def test_processes_divide_a_cache(samples, tok, teacher, tmp_path, capfd):
    """What another one is computing comes last, is waited for, and is not computed again."""
    k = key(samples, tok, teacher)
    how = {"pad": tok.pad_token_id, "entries": len(tok), "shard": 20}
    whole = teacher_cache.build(tmp_path / "a", teacher, samples, k, **how)
    theirs = (tmp_path / "a" / "shard-00000.npz").read_bytes()
    here = tmp_path / "b"
    first, second = here / "shard-00000.npz", here / "shard-00001.npz"
    with ThreadPoolExecutor() as pool:
        with alone(first):
            shutil.copyfile(tmp_path / "a" / "key.json", here / "key.json")
            built = pool.submit(teacher_cache.build, here, teacher, samples, k, **how)
            deadline = time.monotonic() + 60
            while not second.is_file():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not first.is_file()
            told = (
                f"waiting for {first}, which process {os.getpid()} on {socket.gethostname()} makes"
            )
            while told not in (said := capfd.readouterr().err):
                assert not said
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert not built.done()
            first.write_bytes(theirs)
            written = first.stat().st_mtime_ns
        found = built.result(60)
    assert first.stat().st_mtime_ns == written
    assert capfd.readouterr().err == ""  # said once, and only of what was waited for
    for a, b in zip(whole, found, strict=True):
        assert np.array_equal(a, b)


# Recipes --------------------------------------------------------------------------------------


def shipped():
    return sorted((Path(recipes.__file__).parent / "recipes").glob("*.toml"))


#: Sets that results are reported on or tuned on, by environment.
EVALUATED = {
    "alfworld": {
        "builtin-dev",
        "builtin-valid",
        "seen-140",
        "unseen-134",
        "holdout-1000",
        "dev-200",
    },
    "webshop": {"builtin-dev", "builtin-valid", "small-500"},
    "hotpotqa": {"builtin-dev", "builtin-valid", "dev-context", "react-500"},
}


@pytest.mark.parametrize("path", shipped(), ids=lambda p: p.stem)
def test_shipped_recipes_load(path):
    found = recipes.load(path.stem)
    assert found.name == path.stem
    assert found.description
    assert found.objective.divergence is not None
    for collected in found.data.collect:
        kept_out = {f"{collected.env}/{name}" for name in EVALUATED[collected.env]}
        assert kept_out <= set(found.data.exclude)
        assert registry.task_set(collected.env, collected.tasks).name not in found.data.exclude


def test_shipped_recipes_are_all_different():
    loaded = [recipes.load(path.stem) for path in shipped()]
    assert len({r.description for r in loaded}) == len(loaded)
    told = [msgspec.structs.replace(r, name="", description="") for r in loaded]
    assert len({msgspec.json.encode(r) for r in told}) == len(loaded)


SIZES = ("120m", "340m", "760m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "llama-7b")


@pytest.mark.parametrize("size", SIZES)
def test_every_student_of_tables_3_and_4_has_the_papers_settings(size):
    for suffix, steps in (("", 20_000), ("-webshop", 10_000), ("-hotpotqa", 10_000)):
        ours, token = (recipes.load(f"{arm}-{size}{suffix}") for arm in ("ours", "token"))
        assert (ours.objective.name, token.objective.name) == ("sad", "kd")
        for one in (ours, token):
            assert one.optim == ours.optim
            assert one.optim.steps == steps
            assert (one.optim.lr, one.optim.clip) == (2e-5, 1.0)
            assert one.optim.rows * one.optim.row_tokens == 64 * 512
            assert (one.student, one.data, one.teacher) == (ours.student, ours.data, ours.teacher)
            assert {c.env for c in one.data.collect} == {suffix.removeprefix("-") or "alfworld"}
            assert one.teacher.checkpoint.removeprefix("models/") in {p.stem for p in shipped()}


ARMS = {
    "sft-tiny", "seqkd-tiny", "sad-ce-tiny", "kd-all-tiny", "flat-curriculum-tiny",
    "class-random-tiny", "lambda-0.5-tiny", "lambda-2.5-tiny", "lambda-5-tiny",
    "table5-ours-tiny", "table5-only-reason-tiny", "table5-only-act-tiny",
    "table5-no-segmentation-tiny", "table5-random-span-tiny", "table5-label-shuffle-tiny",
}  # fmt: skip


#: Every number of the flat objective and of ours, written out: what a recipe's name, base or
#: default changes unseen is another experiment under the same name.
FLAT = {
    "name": "kd", "divergence": "forward_kl", "normalizer": "token", "curriculum": "random",
    "lambda_reason": 1.0, "lambda_act": 1.0, "lambda_format": 1.0, "obs_weight": 0.0,
    "format": "span", "masks": "spans", "temperature": 1.0, "jsd_beta": 0.5, "skew_alpha": 0.1,
    "alm_tau": 100.0, "alpha": 1 / 3, "beta": 1 / 3, "gamma": 1 / 3, "pacing_start": 0.2,
    "pacing_end": 0.5, "contrastive": 0.0, "contrastive_beta": 1.0,
}  # fmt: skip
OURS = {**FLAT, "name": "sad", "normalizer": "class", "curriculum": "pacing"}
TEXT = {**FLAT, "divergence": "ce"}
SHARED = {**OURS, "format": "shared"}
OBJECTIVES = {
    "ours-tiny": OURS,
    "token-tiny": FLAT,
    "class-random-tiny": {**OURS, "curriculum": "random"},
    "flat-curriculum-tiny": {**FLAT, "curriculum": "pacing"},
    "lambda-0.5-tiny": {**FLAT, "lambda_act": 0.5},
    "lambda-2.5-tiny": {**FLAT, "lambda_act": 2.5},
    "lambda-5-tiny": {**FLAT, "lambda_act": 5.0},
    "kd-all-tiny": {**FLAT, "name": "kd_all", "obs_weight": 1.0},
    "gkd-tiny": {**FLAT, "name": "gkd", "divergence": "jsd"},
    "minillm-tiny": {**FLAT, "name": "minillm", "divergence": "reverse_kl"},
    "sft-tiny": {**TEXT, "name": "sft"},
    "seqkd-tiny": {**TEXT, "name": "seqkd"},
    "sad-ce-tiny": {**TEXT, "name": "sad_ce", "normalizer": "class"},
    "sft-smollm2": {**TEXT, "name": "sft"},
    "seqkd-smollm2": {**TEXT, "name": "seqkd"},
    "sad-ce-smollm2": {**TEXT, "name": "sad_ce", "normalizer": "class"},
    "table5-ours-tiny": SHARED,
    "table5-only-reason-tiny": {**SHARED, "name": "only_reason", "lambda_act": 0.0},
    "table5-only-act-tiny": {**SHARED, "name": "only_act", "lambda_reason": 0.0},
    "table5-random-span-tiny": {**SHARED, "name": "random_span", "masks": "random_span"},
    "table5-label-shuffle-tiny": {**SHARED, "name": "label_shuffle", "masks": "label_shuffle"},
    "table5-no-segmentation-tiny": {**FLAT, "format": "shared"},
    "student-tiny-start": {
        **TEXT, "name": "sft", "lambda_reason": 0.0, "lambda_act": 0.0, "obs_weight": 1.0,
    },
    "teacher-tiny-start": {**TEXT, "name": "sft", "obs_weight": 1.0},
    "teacher-tiny": {**TEXT, "name": "sft", "obs_weight": 0.1},
    **{f"teacher-{size}": {**TEXT, "name": "sft"} for size in ("1.5b", "llama-13b", "opt-13b")},
    **{f"{arm}-{size}{env}": objective for arm, objective in (("ours", OURS), ("token", FLAT))
       for size in SIZES for env in ("", "-webshop", "-hotpotqa")},
}  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in shipped()])
def test_a_shipped_recipes_objective_is_the_one_that_its_name_says(name):
    assert msgspec.to_builtins(recipes.load(name).objective) == OBJECTIVES[name]


@pytest.mark.parametrize("name", sorted(ARMS))
def test_arms_share_start_size_and_optimizer(name):
    one, ours = recipes.load(name), recipes.load("ours-tiny")
    assert (one.student, one.optim, one.seed, one.max_new_tokens) == (
        ours.student, ours.optim, ours.seed, ours.max_new_tokens
    )  # fmt: skip
    assert msgspec.structs.replace(one.data, collect=()) == msgspec.structs.replace(
        ours.data, collect=()
    )
    if name != "sft-tiny":
        assert one.data.collect == ours.data.collect


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nlearning_rate = 1", r"\[optim\].*Unknown key 'learning_rate'"),
        ("[optim]\nstep = 1", "Did you mean 'steps'"),
        ("[objektive]\nname = 'sft'", "Did you mean 'objective'"),
        ("[objective]\nname = 'kd'", r"Add \[teacher\] checkpoint"),
        ("[objective]\nname = 'sda'", "Invalid enum value"),
        ("[data]\nheader = 'Task'", "instruction"),
        ("[optim]\nrow_tokens = 100", "under the window"),
        ("[optim]\nmicro_rows = 4", "does not divide rows"),
        ("[student]\nstart_layers = [0]", "layers of a start"),
        ("base = 'ours-tiny'\n[student]\nhidden = 256", "has its sizes, so that hidden would"),
        ("[data]\npaper_truncate = 4096", "paper_truncate"),
        ("[objective]\ntemperature = 2.0", "cross-entropy with the text"),
        ("[objective]\nlambda_reason = 0\nlambda_act = 0\nlambda_format = 0", "not all 0"),
        ("[objective]\njsd_beta = 1.0", "jsd_beta"),
        ("[objective]\nname = 'sft'\ndivergence = 'jsd'", r"Add \[teacher\]"),
        ("base = 3", "base is the name"),
        ("[tokenizer]\nstart = 'a'\nextend = 'b'", "give one of them"),
        ("x = [", "not valid TOML"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        recipes.load(str(path))


def test_a_start_over_a_base_from_scratch_takes_its_sizes_away(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("base = 'student-tiny-start'\n[student]\nstart = 'models/x'\n")
    assert recipes.load(str(path)).student == recipes.Student(start="models/x", window=3072)
    with pytest.raises(ConfigError, match="so that hidden would change nothing"):
        recipes.load("student-tiny-start", {"student": {"start": "x"}}, {"student": {"hidden": 9}})


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="teacher-tiny"):
        recipes.load("teacher-tyni")


def resolved(**objective):
    raw = {"name": "x", "objective": objective, "teacher": {"checkpoint": "t"}}
    return recipes.resolve(recipes.decode(raw, "x")).objective


def test_objectives_imply_their_parts():
    def of(name):
        o = resolved(name=name)
        return o.divergence, o.normalizer, o.curriculum

    assert of("sft") == of("seqkd") == ("ce", "token", "random")
    assert of("kd") == of("kd_all") == ("forward_kl", "token", "random")
    assert of("sad") == ("forward_kl", "class", "pacing")
    assert of("sad_ce") == ("ce", "class", "random")


def test_ablations_differ_in_what_their_names_say():
    def differs(name, base="sad"):
        one, other = (msgspec.to_builtins(resolved(name=n)) for n in (name, base))
        return {k: v for k, v in one.items() if v != other[k] and k != "name"}

    assert differs("only_reason") == {"lambda_act": 0.0, "format": "shared"}
    assert differs("only_act") == {"lambda_reason": 0.0, "format": "shared"}
    assert differs("random_span") == {"masks": "random_span", "format": "shared"}
    assert differs("label_shuffle") == {"masks": "label_shuffle"}
    assert differs("kd_all", "kd") == {"obs_weight": 1.0}
    assert resolved(name="ours") == resolved(name="sad")
    assert resolved(name="token") == resolved(name="no_segmentation") == resolved(name="kd")


def test_a_resolved_objective_states_every_number():
    for name in ("sft", "kd_all", "sad", "only_act", "random_span"):
        values = msgspec.to_builtins(resolved(name=name))
        assert None not in values.values()
        assert resolved(**values) == resolved(name=name)
    assert resolved(name="only_act", lambda_reason=0.5, format="span").lambda_reason == 0.5
    with pytest.raises(ConfigError, match="not resolved"):
        recipes.lambdas(recipes.Objective())


#: Students and teachers trained before later keys existed: their checkpoints name these hashes.
NAMES_IN_USE = {
    "ours-tiny": "14c4c1ab89b350f9",
    "token-tiny": "8079905d25bf0b1c",
    "teacher-tiny": "5fc15c4bfeab01d0",
    "teacher-tiny-start": "dc829d24b6f9d2f3",
    "student-tiny-start": "0d0dae551b2f9663",
}


@pytest.mark.parametrize("name", NAMES_IN_USE)
def test_new_keys_rename_no_trained_model(name):
    assert recipes.recipe_hash(recipes.load(name)) == NAMES_IN_USE[name]


def test_every_key_that_decides_a_student_is_in_its_hash(tmp_path):
    base = recipes.load("ours-tiny")
    replace = msgspec.structs.replace
    hashes = {recipes.recipe_hash(base)}
    changes = {
        "student": {"start_layers": (0,)},
        "tokenizer": {"extend": "models/teacher-tiny"},
        "data": {"samples": "step", "paper_truncate": 512},
        "objective": {
            "obs_weight": 0.1, "masks": "random_span", "jsd_beta": 0.1, "skew_alpha": 0.2,
            "contrastive": 0.3, "contrastive_beta": 2.0, "divergence": "jsd", "lambda_act": 2.0,
        },
        "optim": {"micro_rows": 2, "optimizer": "adamw"},
    }  # fmt: skip
    for table, keys in changes.items():
        for key, value in keys.items():
            part = replace(getattr(base, table), **{key: value})
            hashes.add(recipes.recipe_hash(replace(base, **{table: part})))
    for every in (100, 200):
        dev = recipes.Dev(env="alfworld", tasks="builtin-dev", every=every)
        hashes.add(recipes.recipe_hash(replace(base, dev=dev)))
    assert len(hashes) == 3 + sum(len(keys) for keys in changes.values())


def test_a_recipe_builds_on_another(tmp_path):
    (tmp_path / "own.toml").write_text(
        "base = 'ours-tiny'\ndescription = 'mine'\n[objective]\ncurriculum = 'random'\n"
    )
    (tmp_path / "next.toml").write_text("base = 'own.toml'\n[optim]\nsteps = 7\n")
    base, own, last = (
        recipes.load(x)
        for x in ("ours-tiny", *(str(tmp_path / f"{n}.toml") for n in ("own", "next")))
    )
    assert (own.name, own.description, last.name) == ("own", "mine", "next")
    assert (own.objective.name, own.objective.curriculum) == ("sad", "random")
    assert own.student == base.student
    assert own.data.collect == base.data.collect
    assert msgspec.structs.replace(last.optim, steps=base.optim.steps) == base.optim
    (tmp_path / "own.toml").write_text("base = 'next.toml'\n")
    with pytest.raises(ConfigError, match="each other's base"):
        recipes.load(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("base = 'ours-tyni'\n")
    with pytest.raises(ConfigError, match="ours-tiny"):
        recipes.load(str(tmp_path / "own.toml"))


def test_recipe_hash_is_about_the_student_only(tmp_path):
    one = recipes.load(str(recipe(tmp_path)))
    replace = msgspec.structs.replace
    moved = replace(one, data=replace(one.data, runs=(str(record(tmp_path / "e.jsonl", 1)),)))
    assert recipes.recipe_hash(moved) == recipes.recipe_hash(one)
    assert recipes.recipe_hash(replace(one, seed=1)) != recipes.recipe_hash(one)


def test_imported_tasks_of_unknown_id_count_as_contaminated():
    unknown = [("hotpotqa", "imported/a")]
    with pytest.raises(DataError, match="may hold tasks of 'hotpotqa/builtin-dev'"):
        traces.guard(unknown, ["hotpotqa/builtin-dev"])
    with pytest.raises(DataError, match="may hold"):
        traces.guard(unknown, ["hotpotqa:dev/1"])
    traces.guard(unknown, ["webshop/builtin-dev"])
    assert len({group("webshop", f"imported/{i}") for i in "ab"}) == 2

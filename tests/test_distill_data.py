"""Traces, tokenizer, labels, windows, packing, order, teacher cache, recipes."""

from __future__ import annotations

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
    teacher_cache,
    tokenizer,
    traces,
)
from harness_distillation import (
    recipe as recipes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.errors import ConfigError, DataError, TraceError
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
    assert [e.task.id for e in found.episodes] == [won.task.id, episode(3).task.id]
    assert found.dropped == {"lost": 1, "repeated": 1}
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
    group = [traces.group("alfworld", e.task.id) for e in EPISODES]
    assert {group[i] for i in learn}.isdisjoint(group[i] for i in held)
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


# Packing and order ----------------------------------------------------------------------------


@given(st.lists(st.integers(1, 100), min_size=1, max_size=200), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_packing_loses_and_repeats_nothing(lengths, seed):
    sizes = np.array(lengths)
    rows = list(dataset.pack(sizes, iter(range(len(lengths))), 128, seed))
    assert sorted(s for row in rows for s in row) == list(range(len(lengths)))
    assert all(int(sizes[row].sum()) <= 128 for row in rows)


@pytest.mark.parametrize("row_tokens", [2048, 8192])
def test_rows_are_full(row_tokens):
    lengths = np.random.default_rng(0).integers(200, 1100, 3000)
    order = curriculum.order(np.arange(3000), lengths, "random", 0)
    rows = list(islice(dataset.pack(lengths, order, row_tokens, 0), 300))
    fill = sum(int(lengths[row].sum()) for row in rows) / (300 * row_tokens)
    assert fill >= 0.97


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
        tmp_path, teacher, samples, k, pad=tok.pad_token_id, row_tokens=1024, bf16=False
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
            log_p = teacher(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        at = np.flatnonzero(samples.kinds[part])
        rows = np.arange(samples.taught[s], samples.taught[s + 1])
        log_p = log_p[at - 1]
        want = log_p.gather(-1, ids[at][:, None])[:, 0].numpy()
        assert np.allclose(cache.target[rows], want, atol=2e-4)
        entropy = -(log_p.exp() * log_p).sum(-1).numpy()
        assert np.allclose(cache.entropy[rows], entropy, atol=2e-4)
        mass = log_p.exp().topk(64, -1).values.sum(-1).numpy()
        assert np.allclose(-np.expm1(cache.tail[rows]), mass, atol=1e-4)


def test_cache_of_anything_else_is_refused(samples, tok, teacher, tmp_path):
    k = key(samples, tok, teacher, 4)
    teacher_cache.build(tmp_path, teacher, samples, k, pad=tok.pad_token_id, bf16=False)
    for field in ("samples", "tokenizer", "template", "teacher"):
        other = msgspec.structs.replace(k, **{field: "0" * 16})
        with pytest.raises(teacher_cache.CacheMismatch, match=f"another {field}"):
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
    how = {"pad": tok.pad_token_id, "bf16": False, "shard": 20}
    whole = teacher_cache.build(tmp_path, teacher, samples, k, **how)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "shard-00001.npz").unlink()
    kept = (tmp_path / "shard-00000.npz").stat().st_mtime_ns
    again = teacher_cache.build(tmp_path, teacher, samples, k, **how)
    assert (tmp_path / "shard-00000.npz").stat().st_mtime_ns == kept
    for a, b in zip(whole, again, strict=True):
        assert np.array_equal(a, b)


# Recipes --------------------------------------------------------------------------------------


def shipped():
    return sorted((Path(recipes.__file__).parent / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", shipped(), ids=lambda p: p.stem)
def test_shipped_recipes_load(path):
    found = recipes.load(path.stem)
    assert found.name == path.stem
    assert found.description
    assert found.objective.divergence is not None
    assert "alfworld/holdout-1000" in found.data.exclude


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
        ("x = [", "not valid TOML"),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        recipes.load(str(path))


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="teacher-tiny"):
        recipes.load("teacher-tyni")


def test_objectives_imply_their_parts():
    def of(name):
        raw = {"name": "x", "objective": {"name": name}, "teacher": {"checkpoint": "t"}}
        o = recipes.resolve(recipes.decode(raw, "x")).objective
        return o.divergence, o.normalizer, o.curriculum

    assert of("sft") == of("seqkd") == ("ce", "token", "random")
    assert of("kd") == ("forward_kl", "token", "random")
    assert of("sad") == ("forward_kl", "class", "pacing")
    assert of("sad_ce") == ("ce", "class", "random")


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
    assert len({traces.group("webshop", f"imported/{i}") for i in "ab"}) == 2

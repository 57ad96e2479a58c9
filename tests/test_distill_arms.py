"""Arms trained end to end on a small household: what must be equal is, what must differ does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import recipe, record
from distill_training import STEPS, column, log, of, paired, train
from harness_distillation import checkpoint, cli, models, teacher_cache, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import Samples, make_row
from harness_distillation.train import micro_batches

from harness.errors import ConfigError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 60)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    return train(tmp_path_factory.mktemp("teacher"), run, steps=30, name="teacher")


def test_the_heldout_loss_is_a_mean_over_the_targets_of_heldout_episodes(teacher):
    """Each by itself, from the logits of all its tokens: no row that trains, no padding."""
    told = log(teacher)[-1]["heldout"]
    model = models.load(checkpoint.latest(teacher / "training" / "checkpoints")).float().eval()
    model.set_attn_implementation("sdpa")
    data = teacher / "training" / "data"
    samples = Samples.load(data / "samples.npz")
    heldout = msgspec.json.decode((data / "manifest.json").read_bytes())["heldout"]
    chosen = np.flatnonzero(np.isin(samples.episode, heldout))
    assert 0 < len(chosen) < len(samples.lengths)
    losses: dict[int, list[float]] = {1: [], 2: []}
    for s in chosen:
        ids = torch.from_numpy(samples.ids[samples.part(s)].astype(np.int64))
        labels = tokenizer.class_of("span")[samples.kinds[samples.part(s)]]
        with torch.no_grad():
            log_p = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        for t in np.flatnonzero(labels):
            losses[int(labels[t])].append(-float(log_p[t - 1, ids[t]]))
    assert told == pytest.approx(
        {"reason": np.mean(losses[1]), "act": np.mean(losses[2])}, rel=1e-4
    )


@pytest.mark.parametrize("normalizer", ["sum", "class"])
def test_shuffled_labels_under_sum_are_ours(tmp_path, run, teacher, normalizer):
    """DISTILL.md, point 1: with sums and equal weights, labels inside r and a decide nothing."""
    same = f"normalizer = '{normalizer}'"
    ours = train(tmp_path, run, of(teacher, f"name = 'ours'\n{same}"), name="ours")
    mixed = train(tmp_path, run, of(teacher, f"name = 'label_shuffle'\n{same}"), name="mixed")
    assert column(ours, "n_reason") == column(mixed, "n_reason")
    assert column(ours, "reason") != pytest.approx(column(mixed, "reason"), rel=1e-4)
    equal = column(ours, "loss") == pytest.approx(column(mixed, "loss"), rel=1e-5)
    assert equal == (normalizer == "sum")
    a, b = (models.load(out).state_dict() for out in (ours, mixed))
    gap = max(float((a[k] - b[k]).abs().max()) for k in a)
    assert (gap < 1e-4) == (normalizer == "sum")
    assert log(ours)[-1]["heldout"].keys() == log(mixed)[-1]["heldout"].keys()


def test_flat_ignores_where_the_format_belongs(tmp_path, run, teacher):
    """Under flat weights ``no_segmentation`` is ``token`` whether or not the format is shared."""
    spans = train(tmp_path, run, of(teacher, "name = 'token'"), name="a")
    shared = train(
        tmp_path, run, of(teacher, "name = 'no_segmentation'\nformat = 'shared'"), name="b"
    )
    assert column(spans, "loss") == pytest.approx(column(shared, "loss"), rel=1e-5)
    # N_r : N_a is of the classes that the loss has.
    kinds = msgspec.json.decode((shared / "training" / "data" / "manifest.json").read_bytes())[
        "kinds"
    ]
    told = [msgspec.json.decode((out / "harness.json").read_bytes()) for out in (spans, shared)]
    with_format = [kinds[name] + kinds[f"{name}_format"] for name in ("reason", "act")]
    assert told[0]["reason_to_act"] == pytest.approx(with_format[0] / with_format[1])
    assert told[1]["reason_to_act"] == pytest.approx(kinds["reason"] / kinds["act"])
    assert "n_format" in log(shared)[0]


def test_only_one_class_leaves_the_other_alone(tmp_path, run, teacher):
    for name, silent in (("only_reason", "act"), ("only_act", "reason")):
        out = train(tmp_path, run, of(teacher, f"name = '{name}'"), name=name)
        line = log(out)[0]
        other = "act" if silent == "reason" else "reason"
        assert line["loss"] == pytest.approx(line[other] + line["format"], rel=1e-6)
        assert line[f"n_{silent}"] > 0


def test_random_spans_are_cached_and_trained_where_they_lie(tmp_path, run, teacher):
    same = "format = 'shared'\ncurriculum = 'random'"
    ours = train(tmp_path, run, of(teacher, f"name = 'sad'\n{same}"), name="ours")
    out = train(tmp_path, run, of(teacher, f"name = 'random_span'\n{same}"))
    for column_ in ("n_reason", "n_act", "n_format", "tokens"):
        assert column(out, column_) == column(ours, column_)
    assert column(out, "reason")[0] != pytest.approx(column(ours, "reason")[0], rel=1e-3)
    a, b = (Samples.load(x / "training" / "data" / "samples.npz") for x in (ours, out))
    manifest = msgspec.json.decode((out / "training" / "data" / "manifest.json").read_bytes())
    held = np.isin(a.episode, manifest["heldout"])
    for s in range(len(a.lengths)):
        assert np.array_equal(a.kinds[a.part(s)], b.kinds[b.part(s)]) == bool(held[s])


def test_observations_need_a_teacher_that_learned_them(tmp_path, run, teacher):
    with pytest.raises(ConfigError, match="not trained on observations"):
        train(tmp_path, run, of(teacher, "name = 'kd_all'"))
    knowing = train(
        tmp_path, run, "[objective]\nname = 'sft'\nobs_weight = 1.0\n", steps=10, name="knowing"
    )
    assert models.knows_observations(str(knowing))
    out = train(tmp_path, run, of(knowing, "name = 'kd_all'"), name="all")
    line = log(out)[0]
    n = {c: line[f"n_{c}"] for c in ("reason", "act", "observation")}
    assert n["observation"] > n["act"]
    flat = sum(line[c] * n[c] for c in n) / sum(n.values())
    assert line["loss"] == pytest.approx(flat, rel=1e-9)


@pytest.mark.parametrize("divergence", ["ce_soft", "reverse_kl", "jsd", "skew_kl"])
def test_every_divergence_trains_and_cached_equals_live(tmp_path, run, teacher, divergence):
    losses = []
    for signal in ("cache", "live"):
        more = of(teacher, f"name = 'kd'\ndivergence = '{divergence}'", signal) + "top_k = 400\n"
        losses.append(column(train(tmp_path, run, more, name=signal), "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize("signal", ["cache", "live"])
def test_temperature_reaches_the_loss(tmp_path, run, teacher, signal):
    losses = []
    for t in (1.0, 2.0):
        more = of(teacher, f"name = 'kd'\ntemperature = {t}", signal) + "top_k = 400\n"
        losses.append(column(train(tmp_path, run, more, steps=1, name=f"t{t}"), "loss")[0])
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_cached_distributions_belong_to_their_tokens(tmp_path, run, teacher):
    """In whatever order samples come: what a row compares with is the teacher on those tokens."""
    out = train(tmp_path, run, of(teacher, "name = 'sad'"), steps=1)
    place = out / "training"
    samples = Samples.load(place / "data" / "samples.npz")
    key = msgspec.json.decode((place / "cache" / "manifest.json").read_bytes())["key"]
    cache = teacher_cache.load(
        place / "cache", msgspec.convert(key, teacher_cache.Key), min_mass=0.0
    )
    model = models.load(teacher)
    body, head = models.body_and_head(model)
    models.check_isolation(model)
    chosen = np.arange(len(samples.lengths))
    for schedule in ("random", "sorted", "reverse", "pacing"):
        sampler = Sampler(
            samples, chosen, recipes.Objective(curriculum=schedule), 3,
            rows=1, row_tokens=1024, steps=9, entropy=cache.entropy,
        )  # fmt: skip
        row = make_row(samples, sampler.rows(2)[0], tokenizer.class_of("none"), 1024, 0)
        with torch.no_grad():
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
            entries = len(tokenizer.load(teacher))
            log_p = head(hidden[0, row.at])[:, :entries].log_softmax(-1)
        picked = cache.pick(row.cached)
        assert float((log_p.gather(-1, picked.ids) - picked.logp).abs().max()) < 0.02
        mine = log_p.gather(-1, row.targets[:, None])[:, 0]
        assert float((mine - torch.from_numpy(cache.target[row.cached])).abs().max()) < 1e-4


@pytest.mark.parametrize("normalizer", ["class", "episode", "span"])
def test_micro_batches_change_nothing(tmp_path, run, teacher, normalizer):
    more = of(teacher, f"name = 'sad'\nnormalizer = '{normalizer}'")
    whole = train(tmp_path, run, more, name="a", optim="micro_rows = 2")
    split = train(tmp_path, run, more, name="b", optim="micro_rows = 1")
    for name in ("loss", "grad_norm"):
        assert column(whole, name) == pytest.approx(column(split, name), rel=1e-5)
    for name in ("tokens", "n_reason", "n_act"):
        assert column(whole, name) == column(split, name)


def test_ranks_share_out_every_row_once():
    from harness_distillation.ranks import Ranks

    rows = [[i, 10 + i] for i in range(8)]
    for size in (1, 2, 4):
        parts = [micro_batches(rows, 2, Ranks(r, size)) for r in range(size)]
        assert sorted(s for part in parts for micro in part for s in micro) == sorted(
            s for row in rows for s in row
        )
        assert {len(part) for part in parts} == {4 // size}


def test_two_ranks_take_one_processes_steps(tmp_path, teacher):
    """Under torchrun with gloo: same losses, gradients and weights, one log, one checkpoint."""
    more = of(teacher, "name = 'sad'\nnormalizer = 'episode'\ncontrastive = 0.3")
    mixed = paired(tmp_path / "mixed" / "episodes.jsonl", 60)
    one = train(tmp_path, mixed, more, name="one")
    two = tmp_path / "two"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        "-m", "harness", "distill", str(tmp_path / "tiny.toml"), "--data", str(mixed),
        "--out", str(two), "--quiet",
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [line["step"] for line in log(two)] == [line["step"] for line in log(one)]
    for name in ("loss", "grad_norm", "reason", "act", "contrastive", "margin"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-6, abs=1e-7)
    for name in ("tokens", "n_reason", "n_act", "n_pairs"):
        assert column(two, name) == column(one, name)
    a, b = (models.load(out).state_dict() for out in (one, two))
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    assert len(checkpoint.complete(two / "training" / "checkpoints")) == 2


@pytest.mark.parametrize(("arm", "weight"), [
    ("label_shuffle", 0.0), ("random_span", 0.0), ("ours", 0.3),
])  # fmt: skip
def test_arms_resume_exactly(tmp_path, teacher, arm, weight):
    """Stopped after every step and gone on from the checkpoint: the same losses, bit for bit."""
    mixed = paired(tmp_path / "mixed" / "episodes.jsonl", 60)
    more = of(teacher, f"name = '{arm}'\nnormalizer = 'episode'\ncontrastive = {weight}")
    whole = train(tmp_path, mixed, more, name="whole")
    for _ in range(STEPS):
        broken = train(tmp_path, mixed, more, name="broken", optim="max_minutes = 0")
    for name in ("step", "loss", "reason", "act", "grad_norm", "tokens"):
        assert column(broken, name) == column(whole, name)
    if weight:
        assert column(broken, "contrastive") == column(whole, "contrastive")


def test_equal_vocabulary_sizes_do_not_make_one_tokenizer(tmp_path, run, teacher):
    other = tmp_path / "other"
    shutil.copytree(teacher, other, ignore=shutil.ignore_patterns("training"))
    path = other / "tokenizer.json"
    raw = msgspec.json.decode(path.read_bytes())
    vocab = raw["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_bytes(msgspec.json.encode(raw))
    assert len(tokenizer.load(other)) == len(tokenizer.load(teacher))
    more = of(teacher, "name = 'kd'") + f"[tokenizer]\nstart = '{other}'\n"
    path = recipe(tmp_path, more, steps=1)
    path.write_text(path.read_text().replace("[tokenizer]\nvocab = 400\n", ""))
    with pytest.raises(ConfigError, match="another tokenizer"):
        cli.main([str(path), "--data", str(run), "--out", str(tmp_path / "out"), "--quiet"])


def test_more_ranks_than_rows_are_refused(tmp_path, run):
    from harness_distillation.ranks import Ranks
    from harness_distillation.train import Corpus
    from harness_distillation.train import train as loop

    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(ConfigError, match="cannot be shared out to 3 ranks"):
        loop(
            recipes.load(str(recipe(tmp_path))), "h", Corpus(None, nothing, nothing, "h"), None,
            tmp_path, {}, ranks=Ranks(0, 3),
        )  # fmt: skip


@pytest.mark.parametrize("data", ["samples = 'step'", "paper_truncate = 128"])
def test_other_samples_train(tmp_path, run, teacher, data):
    path = recipe(tmp_path, of(teacher, "name = 'sad'"), steps=2)
    path.write_text(path.read_text().replace("[data]", f"[data]\n{data}"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    samples = Samples.load(out / "training" / "data" / "samples.npz")
    if "step" in data:
        assert len(samples.lengths) > 2 * len(set(samples.episode.tolist()))
    else:
        assert int(samples.lengths.max()) <= 128

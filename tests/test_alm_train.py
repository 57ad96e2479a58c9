"""A teacher teaches a student of another vocabulary, end to end, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import recipe, record
from distill_training import STEPS, log, train
from harness_distillation import checkpoint, chunks, cli, dataset, models, shards, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.alm import binary_divergence

from harness.errors import ConfigError, DataError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 60)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    return train(tmp_path_factory.mktemp("teacher"), run, steps=60, name="teacher")


def of(teacher, name="sad", more="", divergence="alm"):
    return (
        f"[objective]\nname = '{name}'\ndivergence = '{divergence}'\n{more}\n"
        f"[teacher]\ncheckpoint = '{teacher}'\n"
    )


@pytest.mark.parametrize("name", ["kd", "sad"])
def test_a_teacher_of_another_vocabulary_teaches(tmp_path, run, teacher, name):
    """Held-out chunks come nearer to the teacher's likelihoods, and the text to the student's."""
    out = train(tmp_path, run, of(teacher, name), steps=40, vocab=300)
    lines = log(out)
    tok, other = tokenizer.load(out), tokenizer.load(teacher)
    assert tokenizer.fingerprint(tok) != tokenizer.fingerprint(other)
    assert len(tok) == 300 < len(other)
    n = {c: lines[0][f"n_{c}"] for c in ("reason", "act")}
    d = {c: lines[0][c] for c in n}
    flat = sum(d[c] * n[c] for c in n) / sum(n.values())
    assert lines[0]["loss"] == pytest.approx(flat if name == "kd" else sum(d.values()), rel=1e-9)

    data = out / "training" / "data"
    prepared = msgspec.json.decode((data / "manifest.json").read_bytes())
    mine, theirs = (dataset.Samples.load(data / f"{x}.npz") for x in ("samples", "teacher"))
    cut = chunks.align(mine, theirs, tok, other)
    assert prepared["chunks"] == len(set(cut.mine.tolist())) < int(mine.taught[-1])
    assert n["reason"] + n["act"] < int(mine.taught[-1])
    held = np.flatnonzero(np.isin(mine.episode, prepared["heldout"]))
    fresh = models.build(recipes.load(str(tmp_path / "tiny.toml")).student, tok, 0)
    of_teacher = nats(models.load(teacher), theirs, cut.theirs, held)
    before, after = (nats(x, mine, cut.mine, held) for x in (fresh, models.load(out)))
    distance = [float(binary_divergence(of_teacher, x, 100.0).mean()) for x in (before, after)]
    assert distance[1] < 0.5 * distance[0]
    assert float(after.sum()) > 0.7 * float(before.sum())
    assert lines[-1]["heldout"]["act"] < lines[9]["heldout"]["act"]


@torch.no_grad()
def nats(model, samples, chunk, chosen):
    """log p of the chunks of sequences read alone, fp64, in their order."""
    found = []
    model.set_attn_implementation("sdpa")
    for s in chosen.tolist():
        ids = torch.from_numpy(samples.ids[samples.part(s)].astype(np.int64))
        log_p = model(input_ids=ids[None], use_cache=False).logits[0].double().log_softmax(-1)
        at = torch.from_numpy(np.flatnonzero(samples.kinds[samples.part(s)]))
        here = torch.from_numpy(chunk[samples.taught[s] : samples.taught[s + 1]])
        of_target = log_p[at - 1].gather(-1, ids[at][:, None])[:, 0]
        sums = torch.zeros(int(here[-1] - here[0]) + 1, dtype=torch.float64)
        found.append(sums.index_add(0, here - here[0], of_target))
    return torch.cat(found)


@pytest.mark.parametrize("normalizer", ["class", "episode"])
def test_micro_batches_change_nothing(tmp_path, run, teacher, normalizer):
    more = of(teacher, "sad", f"normalizer = '{normalizer}'")
    whole = train(tmp_path, run, more, name="a", optim="micro_rows = 2", vocab=300, steps=2)
    split = train(tmp_path, run, more, name="b", optim="micro_rows = 1", vocab=300, steps=2)
    for a, b in zip(log(whole), log(split), strict=True):
        assert [a["n_reason"], a["n_act"]] == [b["n_reason"], b["n_act"]]
        for name in ("loss", "grad_norm", "reason", "act"):
            assert a[name] == pytest.approx(b[name], rel=1e-5)


def test_stopped_ones_go_on_exactly(tmp_path, run, teacher):
    """Stopped after every step and gone on from the checkpoint: the same, bit for bit."""
    more = of(teacher, "sad", "normalizer = 'span'\nformat = 'shared'")
    for _ in range(STEPS):
        broken = train(tmp_path, run, more, name="broken", optim="max_minutes = 0", vocab=300)
    whole = train(tmp_path, run, more, name="whole", vocab=300)
    assert log(broken) == log(whole)
    assert models.weights_hash(models.load(broken)) == models.weights_hash(models.load(whole))


def test_another_teacher_is_refused(tmp_path, run, teacher):
    """Likelihoods of other weights, and of other words of the teacher's tokenizer."""
    model, tok = models.load(teacher), tokenizer.load(teacher)
    mine = tmp_path / "teacher"
    checkpoint.write_model(mine, model, tok, {})
    out = train(tmp_path, run, of(mine), vocab=300, steps=1)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    checkpoint.write_model(mine, model, tok, {})
    args = [str(tmp_path / "tiny.toml"), "--data", str(run), "--out", str(out), "--quiet"]
    with pytest.raises(DataError, match="comes from another teacher"):
        cli.main(args)
    shutil.rmtree(out / "training" / "checkpoints")  # what is left is the cache
    with pytest.raises(shards.CacheMismatch, match="another teacher"):
        cli.main(args)


def test_other_divergences_name_what_can_be_done(tmp_path, run, teacher):
    start = train(tmp_path, run, vocab=300, steps=1, name="start")
    more = of(teacher, "kd", divergence="forward_kl") + f"[tokenizer]\nstart = '{start}'\n"
    path = recipe(tmp_path, more, steps=1)
    path.write_text(path.read_text().replace("[tokenizer]\nvocab = 400\n", ""))
    with pytest.raises(ConfigError, match=r'"alm"\).*seqkd or sad_ce'):
        cli.main([str(path), "--data", str(run), "--out", str(tmp_path / "x"), "--quiet"])


@pytest.mark.parametrize(
    "change",
    [
        {"teacher": {"signal": "live"}},
        {"objective": {"name": "random_span"}},
        {"objective": {"temperature": 2.0}},
        {"data": {"paper_truncate": 100}},
    ],
)
def test_what_chunks_cannot_be_is_refused(change):
    base = {"name": "x", "objective": {"divergence": "alm"}, "teacher": {"checkpoint": "t"}}
    raw = {k: {**base.get(k, {}), **change.get(k, {})} for k in {**base, **change} if k != "name"}
    with pytest.raises(ConfigError, match="chunks of whole spans"):
        recipes.resolve(recipes.decode({"name": "x", **raw}, "x"))
    with pytest.raises(ConfigError, match=r"alm_tau = 0.0 is not in \(0, inf\)"):
        recipes.resolve(recipes.decode({"name": "x", "objective": {"alm_tau": 0.0}}, "x"))

"""The teacher cache: what it holds, for whom, how it is filled."""

from __future__ import annotations

import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from harness_distillation import (
    dataset,
    models,
    shards,
    teacher_cache,
    tokenizer,
)
from harness_distillation import (
    recipe as recipes,
)
from harness_distillation.locks import alone

from harness.errors import DataError
from harness.transcript import Kind

pytestmark = pytest.mark.models


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
    noted = msgspec.structs.replace(k, config="1" * 16)
    assert teacher_cache.load(tmp_path, noted, min_mass=0.0)  # made before configs were noted
    path = tmp_path / "manifest.json"
    path.write_bytes(
        path.read_bytes().replace(b'"top_k"', b'"config": "%s", "top_k"' % (b"1" * 16))
    )
    k = noted
    for field in ("samples", "tokenizer", "template", "teacher", "config", "temperature"):
        other = msgspec.structs.replace(k, **{field: 2.0 if field == "temperature" else "0" * 16})
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


def test_the_same_weights_under_another_config_are_another_teacher(tok):
    """What a config says, not how it says it: defaults, names and library versions do not count."""

    def hashed(**told) -> str:
        model = models.build(recipes.Student(layers=1, hidden=32, heads=2, window=64), tok, 5)
        for name, value in told.items():
            setattr(model.config, name, value)
        return models.config_hash(model)

    same = hashed()
    assert hashed(use_cache=False, transformers_version="0", dtype="bfloat16") == same
    for told in ({"rms_norm_eps": 1e-3}, {"rope_parameters": {"rope_theta": 5e5}}):
        assert hashed(**told) != same


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


def test_a_killed_cache_of_another_teacher_is_begun_anew(samples, tok, teacher, tmp_path):
    """Its shards have the same names and shapes, and would pass for this one's."""
    how = {"pad": tok.pad_token_id, "entries": len(tok), "shard": 20}
    teacher_cache.build(tmp_path / "a", teacher, samples, key(samples, tok, teacher), **how)
    (tmp_path / "a" / "manifest.json").unlink()
    (tmp_path / "a" / "shard-00002.npz").unlink()
    second = models.build(recipes.Student(layers=1, hidden=32, heads=2, window=512), tok, 6)
    k = key(samples, tok, second)
    found, alone = (
        teacher_cache.build(tmp_path / name, second, samples, k, **how) for name in ("a", "b")
    )
    for a, b in zip(found, alone, strict=True):
        assert np.array_equal(a, b)
    assert teacher_cache.load(tmp_path / "a", k, min_mass=0.0)


def test_logits_stand_beside_their_tokens_however_many_exist_at_once(samples, tok, teacher):
    """A row of more than that many positions is read in parts."""
    every = range(len(samples.lengths))
    length = int(samples.lengths.sum())
    assert samples.taught[-1] > shards.CHUNK
    parts = list(
        shards.taught_logits(teacher, samples, every, tok.pad_token_id, len(tok), length, "fp32")
    )
    assert len(parts) > 1
    assert all(len(logits) == len(ids) <= shards.CHUNK for logits, ids in parts)
    found = torch.cat([ids for _, ids in parts]).tolist()
    assert found == samples.ids[samples.kinds > 0].tolist()


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

"""What a training survives: a second process, a full disk, a loss that is no number."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from distill_training import Training, files, log
from harness_distillation import (
    checkpoint,
    gate,
    models,
    stages,
    teacher_cache,
    tokenizer,
)
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import Samples
from harness_distillation.locks import alone, owned
from harness_distillation.machine import random_state_kept
from harness_distillation.recipe import Dev
from harness_distillation.train import Corpus, Diverged, train
from harness_distillation.training_log import truncate

from harness.errors import ConfigError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 40)


# A second process ------------------------------------------------------------------------------


def test_a_second_process_is_refused_before_anything_is_deleted(tmp_path, run):
    training = Training(tmp_path, run, steps=3)
    before = files(training.step())
    with owned(training.out / "training"):
        for args in (["--fresh"], ["--stage", "prepare"], ["--fresh", "--stage", "prepare"], []):
            with pytest.raises(ConfigError, match="in use by another process"):
                training.go(*args)
    assert files(training.out) == before
    assert len(log(training.go("--fresh"))) == 3


def test_a_folder_is_owned_from_the_first_stage_on(tmp_path):
    """While it waits for traces that another process records, nobody else gets in."""
    more = "[[data.collect]]\nagent = 'expert'\nenv = 'alfworld'\ntasks = 'builtin-train[{}]'\n"
    loaded = recipes.load(str(recipe(tmp_path, more.format(":1") + more.format("1:2"))))
    first, second = (
        hashlib.sha256(msgspec.json.encode(what.plain())).hexdigest()[:12]
        for what in loaded.data.collect
    )
    training = tmp_path / "out" / "training"
    with ThreadPoolExecutor() as pool:
        with alone(training / "traces" / second):
            waits = pool.submit(stages.distill, loaded, tmp_path / "out", until="collect")
            deadline = time.monotonic() + 60
            while not (training / "traces" / f".{first}.lock").is_file():
                assert time.monotonic() < deadline
                time.sleep(0.01)
            with pytest.raises(ConfigError, match="in use by another process"), owned(training):
                pass
            assert not waits.done()
        assert waits.result(60) is None
    with owned(training):
        pass


# A full disk -----------------------------------------------------------------------------------


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow over ``size`` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("what", ["model.safetensors", "trainer.safetensors"])
def test_a_full_disk_keeps_the_last_checkpoint_and_training_goes_on(tmp_path, run, what):
    training = Training(tmp_path / "broken", run, steps=4)
    root = training.step() / "training" / "checkpoints"
    before = files(root)
    assert {name.partition("/")[0] for name in before} == {"step-0000001"}
    with (
        file_limit(len(before[f"step-0000001/{what}"]) - 1),
        pytest.raises(checkpoint.DiskFull, match="No room left to write in") as error,
    ):
        training.go()
    told = str(error.value)
    assert str(training.out / "training") in told
    assert f"Last good checkpoint: {root / 'step-0000001'}." in told
    assert "give the same command again" in told
    assert files(root) == before  # no half-written draft takes up room either
    checkpoint.verify(root / "step-0000001")
    whole = Training(tmp_path / "whole", run, steps=4).go()
    assert log(training.go()) == log(whole)
    a, b = (models.weights_hash(models.load(out)) for out in (training.out, whole))
    assert a == b


@pytest.mark.parametrize(
    "name", ["log.jsonl", "model.safetensors", "data/tokenizer/tokenizer.json"]
)
def test_a_full_disk_is_told_wherever_it_is_met(tmp_path, run, name):
    """In the log, in the finished student, and by a library whose errors are no OSError."""
    training = Training(tmp_path, run, steps=2)
    sizes = {n: len(body) for n, body in files(training.go() / "training").items()}
    sizes["model.safetensors"] = (training.out / "model.safetensors").stat().st_size
    if name == "model.safetensors":
        (training.out / name).unlink()
        args = []
    else:
        args = ["--fresh"]
    with (
        file_limit(sizes[name] - 1),
        pytest.raises(checkpoint.DiskFull, match="Make room and give the same command again"),
    ):
        training.go(*args)
    assert len(log(training.go())) == 2
    assert (training.out / "model.safetensors").is_file()


def test_a_play_that_was_noted_is_not_lost_to_a_full_disk(tmp_path):
    """What was won decides which checkpoint is the student: the file is rewritten in one move, and
    only where a line of it goes."""
    path = tmp_path / gate.LOG
    lines = [b'{"step":%d,"won":1,"n":3}\n' % step for step in (1, 2, 3)]
    path.write_bytes(b"".join(lines))
    dev = Dev(env="alfworld", tasks="builtin-dev", every=1)
    with file_limit(1):
        assert len(gate.Gate(dev, tmp_path, 3).played) == 3
        with pytest.raises(OSError, match="File too large"):
            gate.Gate(dev, tmp_path, 2)
    assert path.read_bytes() == b"".join(lines)
    assert [p.step for p in gate.Gate(dev, tmp_path, 2).played] == [1, 2]
    assert len(path.read_bytes().splitlines()) == 2


def test_a_log_line_that_finds_no_room_stops_training_before_its_checkpoint(tmp_path, run):
    training = Training(tmp_path, run, steps=3)
    path = training.go("--stage", "prepare") / "training" / "log.jsonl"
    path.write_bytes(b'{"step": 0, "pad": "%s"}\n' % (b"x" * 4_000_000))  # the largest file by far
    with file_limit(path.stat().st_size + 50), pytest.raises(checkpoint.DiskFull):
        training.go()
    assert checkpoint.latest(path.parent / "checkpoints") is None
    assert [line["step"] for line in log(training.go())] == [0, 1, 2, 3]


def test_what_is_no_line_of_a_log_is_dropped(tmp_path):
    """A torn line with the next one behind it."""
    path = tmp_path / "log.jsonl"
    lines = [b'{"step": 1}\n', b'{"step": 2, "lo{"step": 3}\n', b'{"step": 4}\n', b'{"step": 5}\n']
    path.write_bytes(b"".join(lines))
    truncate(path, 4)
    assert path.read_bytes() == lines[0] + lines[2]


def test_other_errors_stay_what_they_are(tmp_path):
    for error in (ValueError("File too large"), PermissionError(13, "no"), Exception("os error")):
        with pytest.raises(type(error)) as found, checkpoint.room(tmp_path):
            raise error
        assert found.value is error


# Random numbers --------------------------------------------------------------------------------


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_random_numbers_go_on_where_the_checkpoint_was_taken(tmp_path, device):
    """What dropout draws after a resume is what it would have drawn."""
    tok = tokenizer.train([episode(i) for i in range(5)], "Task: {instruction}\n", 300)
    model = models.build(recipes.Student(layers=1, hidden=16, heads=2, window=64), tok, 0)
    optimizer = torch.optim.AdamW(model.parameters())
    with random_state_kept():
        torch.manual_seed(11)
        torch.rand(3, device=device)
        saved = checkpoint.save(
            tmp_path, model, tok, optimizer, checkpoint.State(1, 0.0, 0, "r", "s"), {}
        )
        expected = torch.rand(9, device=device)
        torch.manual_seed(12)
        assert not torch.equal(torch.rand(9, device=device), expected)
        checkpoint.restore(saved, optimizer)
        assert torch.equal(torch.rand(9, device=device), expected)


def test_a_checkpoint_of_an_accelerator_goes_on_without_one(tmp_path):
    """Its random state is no moment of the optimizer, and that of the CPU is taken all the same."""
    from safetensors.torch import load_file, save_file

    layer = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(2)).sum().backward()
    optimizer.step()
    tok = tokenizer.train([episode(i) for i in range(5)], "Task: {instruction}\n", 300)
    model = models.build(recipes.Student(layers=1, hidden=16, heads=2, window=64), tok, 0)
    with random_state_kept():
        torch.manual_seed(11)
        saved = checkpoint.save(
            tmp_path, model, tok, optimizer, checkpoint.State(1, 0.0, 0, "r", "s"), {}
        )
        expected = torch.rand(9)
        kept = load_file(saved / "trainer.safetensors")
        # As CUDA keeps it: 16 bytes, a seed and an offset.
        kept["cuda_rng"] = torch.tensor([7, *[0] * 15], dtype=torch.uint8)
        save_file(kept, saved / "trainer.safetensors")
        fresh = torch.optim.AdamW(layer.parameters())
        checkpoint.restore(saved, fresh)
        assert torch.equal(torch.rand(9), expected)
        if torch.cuda.is_available():
            assert torch.cuda.get_rng_state().tolist() == kept["cuda_rng"].tolist()
    mine, theirs = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    assert set(mine) == set(theirs) == {0, 1}
    for index, values in mine.items():
        assert set(theirs[index]) == set(values)
        assert all(torch.equal(theirs[index][name], value) for name, value in values.items())


# No number -------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_its_samples_and_keeps_the_last_good_step(tmp_path, run):
    """A teacher's cache that is broken at one sample: training ends at the step that reads it."""
    path = recipe(tmp_path, "[teacher]\ncheckpoint = 'x'\n[objective]\nname = 'kd'\n", steps=12)
    loaded = recipes.load(str(path))
    prepared = Training(tmp_path, run).go("--stage", "prepare") / "training" / "data"
    tok, samples = tokenizer.load(prepared / "tokenizer"), Samples.load(prepared / "samples.npz")
    every = np.arange(len(samples.lengths))
    corpus = Corpus(samples, every, every[:0], samples.hash)
    n, k, vocab = int(samples.taught[-1]), 4, len(tok)
    generator = torch.Generator().manual_seed(0)
    targets = torch.zeros(n, dtype=torch.int64)
    cache = teacher_cache.distribution(torch.randn(n, vocab, generator=generator), targets, k)

    optim = loaded.optim
    sampler = Sampler(samples, every, loaded.objective, loaded.seed, rows=optim.rows,
                      row_tokens=optim.row_tokens, steps=optim.steps)  # fmt: skip
    read = [sampler.rows(step) for step in range(optim.steps)]
    seen = [s for rows in read[:3] for row in rows for s in row]
    bad, mates = next((s, row) for row in read[3] for s in row if s not in seen)
    cache.logp[samples.taught[bad] : samples.taught[bad + 1]] = np.nan

    def go(folder: Path, recipe_: recipes.Recipe) -> Path:
        train(recipe_, "h", corpus, tok, folder, {}, cache=cache, quiet=True)
        return folder

    with pytest.raises(Diverged) as error:
        go(tmp_path / "bad", loaded)
    told = str(error.value)
    assert told.startswith("Step 4: the loss of reason, act is not a number")
    kept = tmp_path / "bad" / "checkpoints" / "step-0000003"
    assert f"Last good checkpoint: {kept}." in told
    assert checkpoint.latest(kept.parent) == kept
    named = [line.split(":")[0].split()[1] for line in told.splitlines() if "    sample" in line]
    assert sorted(map(int, named)) == sorted(set(mates))  # those of its row, no others
    assert f"sample {bad}: Task: put a" in told

    stop = msgspec.structs.replace(optim, max_minutes=0.0)
    for _ in range(3):
        good = go(tmp_path / "good", msgspec.structs.replace(loaded, optim=stop))
    a, b = (models.load(x / "checkpoints" / kept.name) for x in (tmp_path / "bad", good))
    assert models.weights_hash(a) == models.weights_hash(b)
    assert all(bool(torch.isfinite(p).all()) for p in a.parameters())


def test_weights_that_are_no_numbers_are_never_a_checkpoint(tmp_path, run):
    """The step that breaks them has a loss and a gradient like any other."""
    training = Training(tmp_path, run, steps=9)
    path = Path(training.args[0])
    training.step()
    path.write_text(path.read_text().replace("lr = 5e-3", "lr = 3e38\nweight_decay = 100"))
    with pytest.raises(Diverged, match="Step 1: weights are no numbers") as error:
        training.go("--fresh")
    assert "Last good checkpoint: none yet" in str(error.value)
    assert not list((training.out / "training" / "checkpoints").glob("step-*"))

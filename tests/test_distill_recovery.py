"""What a training survives, and what it refuses to go on with: a second process, a full disk, a
loss that is no number, traces and starts that were changed meanwhile."""

from __future__ import annotations

import hashlib
import resource
import shutil
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
from harness_distillation import (
    checkpoint,
    cli,
    gate,
    models,
    stages,
    teacher_cache,
    tokenizer,
    traces,
)
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import Samples
from harness_distillation.locks import alone, owned
from harness_distillation.machine import random_state_kept
from harness_distillation.prepare import manifest_of
from harness_distillation.recipe import Dev
from harness_distillation.train import Corpus, Diverged, train
from harness_distillation.training_log import truncate

import harness
from harness.errors import ConfigError, DataError, TraceError
from harness.recorder import EPISODES
from harness.rows import draw, group
from harness.types import Episode

pytestmark = pytest.mark.models
TIMING = {"seconds", "tokens_per_s", "mfu"}


def log(out: Path) -> list[dict]:
    lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [{k: v for k, v in msgspec.json.decode(x).items() if k not in TIMING} for x in lines]


def notes(folder: Path) -> dict:
    return checkpoint.read_notes(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    every = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in every}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 40)


class Training:
    """A tiny recipe of ``steps``, its command line, and its folder."""

    def __init__(self, folder: Path, data: Path, more: str = "", **how) -> None:
        folder.mkdir(exist_ok=True)
        self.out = folder / "out"
        self.args = [str(recipe(folder, more, **how)), "--data", str(data), "--out", str(self.out)]

    def go(self, *args: str) -> Path:
        assert cli.main([*self.args, "--quiet", *args]) == 0
        return self.out

    def step(self) -> Path:
        """A step of it, or one more."""
        return self.go("--max-minutes", "0")


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


# One label missing -----------------------------------------------------------------------------


def silent(path: Path, count: int = 30) -> Path:
    """Episodes without any reasoning."""

    def without(e: Episode) -> Episode:
        bare = [
            msgspec.structs.replace(s, decision=msgspec.structs.replace(s.decision, reasoning=""))
            for s in e.steps
        ]
        return msgspec.structs.replace(e, steps=tuple(bare))

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"".join(msgspec.json.encode(without(episode(i))) + b"\n" for i in range(count))
    )
    return path


def test_a_mean_over_a_class_that_the_traces_lack_is_refused(tmp_path):
    data = silent(tmp_path / "run" / "episodes.jsonl")
    text = "[objective]\nname = '{}'\n{}\n"
    for name, more in (("sad_ce", ""), ("sft", "normalizer = 'span'")):
        training = Training(tmp_path / name, data, text.format(name, more), steps=2)
        with pytest.raises(DataError, match=f"(?s)'{name}'.*reason tokens.*lambda_reason = 0"):
            training.go()
        assert not (training.out / "training" / "checkpoints").exists()
    asked = Training(tmp_path / "asked", data, text.format("sad_ce", "lambda_reason = 0"), steps=2)
    flat = Training(tmp_path / "flat", data, text.format("sft", ""), steps=2)
    one, two = log(asked.go()), log(flat.go())
    assert [line["loss"] for line in one] == [line["act"] for line in one]
    assert [line["act"] for line in two] == pytest.approx([line["act"] for line in one], rel=1e-5)
    assert not any("n_reason" in line for line in (*one, *two))


def test_a_window_that_only_held_out_episodes_fit_is_refused(tmp_path):
    """Nothing would be left to train on."""

    def told(i: int) -> Episode:
        e = episode(i)
        if draw(group(e.task.env, e.task.id), 0) < 0.1:  # held out
            return e
        long = [msgspec.structs.replace(s, observation="a mug, " * 400) for s in e.steps]
        return msgspec.structs.replace(e, steps=tuple(long))

    every = [told(i) for i in range(60)]
    data = tmp_path / "episodes.jsonl"
    data.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in every))
    training = [e for e in every if "a mug, a mug" in e.steps[0].observation]
    assert 0 < len(training) < 60
    decisions = sum(len(e.steps) for e in training)
    with pytest.raises(DataError) as error:
        Training(tmp_path / "a", data, steps=2).go("--stage", "prepare")
    assert str(error.value).startswith(
        f"No decision of the {len(training)} episodes that train fits a window of 512 tokens; of "
        f"all, {decisions} come after an observation that overflows it and 0 are too long for it."
    )


def test_decisions_that_a_window_leaves_out_are_told(tmp_path, capfd):
    """Those of episodes that stay, beside the episodes that do not."""
    e = episode(100, steps=5)
    steps = list(e.steps)
    steps[4] = msgspec.structs.replace(steps[4], observation="a mug, " * 400)
    said = msgspec.structs.replace(steps[3].decision, reasoning="I look. " * 400, injected=False)
    steps[3] = msgspec.structs.replace(steps[3], decision=said)
    lost = msgspec.structs.replace(episode(101), success=False)
    every = [*map(episode, range(30)), msgspec.structs.replace(e, steps=tuple(steps)), lost]
    data = tmp_path / "episodes.jsonl"
    data.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in every))
    training = Training(tmp_path / "a", data, steps=1)
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    told = capfd.readouterr().err
    assert "left out 1 lost, 1 decisions after an observation that overflows the window, " in told
    assert "1 decisions too long for it\n" in told


# What is refused leaves what was there -------------------------------------------------------


@pytest.mark.parametrize("stage", ["prepare", "cache", "train"])
@pytest.mark.parametrize("kept", ["all", "no checkpoints", "a step"])
def test_another_recipe_is_refused_before_anything_is_written(tmp_path, run, stage, kept):
    training = Training(tmp_path, run, steps=2)
    _ = training.step() if kept == "a step" else training.go()
    if kept == "no checkpoints":
        shutil.rmtree(training.out / "training" / "checkpoints")
    before = files(training.out)
    text = Path(training.args[0]).read_text()
    other = tmp_path / "other.toml"
    other.write_text(text.replace("lr = 5e-3", "lr = 1e-3").replace("vocab = 400", "vocab = 300"))
    asked = [str(other), *training.args[1:], "--quiet"]
    with pytest.raises(DataError, match="was trained with another recipe"):
        cli.main([*asked, "--stage", stage])
    assert files(training.out) == before
    training.go()
    assert cli.main([*asked, "--fresh"]) == 0
    assert len(log(training.out)) == 2


def test_other_traces_are_refused_before_anything_is_written(tmp_path, run):
    training = Training(tmp_path, run, steps=2)
    before = files(training.go())
    other = record(tmp_path / "other" / "episodes.jsonl", 40, first=300)
    for stage in ("prepare", "train"):
        with pytest.raises(DataError, match="was trained with another set of samples"):
            training.go("--data", str(other), "--stage", stage)
        assert files(training.out) == before


# Prepared samples that are damaged -----------------------------------------------------------


def edited(path: Path) -> None:
    """Other tokens in a file that loads."""
    samples = Samples.load(path)
    samples.ids[:50] = samples.ids[50:100]
    samples.save(path)


def moved(path: Path) -> None:
    """The same sequences said to be of other episodes: another hash of the file alone."""
    samples = Samples.load(path)
    samples._replace(episode=samples.episode[::-1].copy()).save(path)


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "empty": ("samples.npz", lambda path: path.write_bytes(b"")),
    "torn": ("samples.npz", torn),
    "text": ("samples.npz", lambda path: path.write_text("no samples")),
    "gone": ("samples.npz", Path.unlink),
    "edited": ("samples.npz", edited),
    "moved": ("samples.npz", moved),
    "manifest": ("manifest.json", torn),
    "tokenizer": ("tokenizer/tokenizer.json", torn),
    "pairs": ("pairs.npz", torn),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Episodes of won and lost tasks, and what training on them logs."""
    folder = tmp_path_factory.mktemp("untouched")
    data = paired(folder / "run" / "episodes.jsonl")
    return data, log(Training(folder, data, CONTRASTIVE, steps=2).go())


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_samples_are_made_again_in_a_line(tmp_path, untouched, how, capfd):
    data, wanted = untouched
    training = Training(tmp_path, data, CONTRASTIVE, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    before = files(place)
    name, damage = DAMAGE[how]
    damage(place / name)
    capfd.readouterr()
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    told = capfd.readouterr().err.splitlines()
    assert sum(f"{place / name} is " in line and "prepared again" in line for line in told) == 1
    assert files(place) == before
    assert "prepared already" not in "".join(told)
    # In the middle of a training too, which then goes on as if nothing had been.
    training.step()
    damage(place / name)
    assert log(training.go()) == wanted
    assert files(place) == before


def test_samples_that_cannot_be_made_again_alike_are_refused(tmp_path, run):
    """The traces are others by now: what is left of the samples stays for who can repair it."""
    data = tmp_path / "run" / "episodes.jsonl"
    record(data, 40)
    training = Training(tmp_path, data, steps=3)
    torn(training.step() / "training" / "data" / "samples.npz")
    before = files(training.out)
    record(data, 39)
    with pytest.raises(DataError, match="was trained with another set of samples"):
        training.go()
    assert files(training.out) == before
    record(data, 40)
    assert len(log(training.go())) == 3


def test_samples_prepared_before_files_were_hashed_go_on(tmp_path, run, capfd):
    training = Training(tmp_path, run, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    manifest = msgspec.json.decode((place / "manifest.json").read_bytes())
    assert set(manifest["files"]) == set(files(place)) - {"manifest.json"}
    del manifest["files"]
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    before = files(place)
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    assert "prepared already" in capfd.readouterr().err
    assert files(place) == before
    edited(place / "samples.npz")
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    assert "samples or tokenizer differ from its manifest: prepared" in capfd.readouterr().err
    assert Samples.load(place / "samples.npz").hash == manifest["samples"]


@pytest.mark.parametrize("how", ["empty", "torn", "gone", "manifest"])
def test_inspect_names_what_is_damaged(tmp_path, run, how):
    training = Training(tmp_path, run, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    name, damage = DAMAGE[how]
    damage(place / name)
    with pytest.raises(DataError, match=rf"(?s){place / name} is .*damaged.*made? again|makes it"):
        cli.main(["inspect", str(training.out)])


def test_manifests_of_checkpoints_and_caches_that_are_torn_are_named(tmp_path, run):
    training = Training(tmp_path, run, steps=3)
    last = checkpoint.latest(training.step() / "training" / "checkpoints")
    torn(last / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*\n  Delete .*step-0000001"):
        training.go()
    more = f"[objective]\nname = 'kd'\n[teacher]\ncheckpoint = '{last}'\nmin_mass = 0.0\n"
    student = Training(tmp_path / "student", run, more, steps=2)
    cache = student.go("--stage", "cache") / "training" / "cache" / "manifest.json"
    torn(cache)
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*Delete the folder"):
        student.go()


# What changed between a stop and a resume ------------------------------------------------------


def test_a_trace_edited_between_stop_and_resume_is_refused(tmp_path):
    data = record(tmp_path / "run" / "episodes.jsonl", 40)
    whole = Training(tmp_path / "whole", data, steps=3).go()
    training = Training(tmp_path / "broken", data, steps=3)
    training.step()
    kept = data.read_bytes()
    first, rest = kept.split(b"\n", 1)
    edited = first.replace(b"I need a", b"I want a")
    assert edited != first
    data.write_bytes(edited + b"\n" + rest)
    with pytest.raises(DataError, match="was trained with another set of samples"):
        training.go()
    data.write_bytes(kept)
    assert log(training.go()) == log(whole)


@pytest.mark.parametrize("way", ["folder", "file"])
def test_a_run_edited_after_it_was_recorded_is_refused(tmp_path, way):
    run = harness.evaluate("random", "alfworld", tasks="builtin-train[:2]", out=tmp_path / "runs")
    file = run.path / EPISODES
    kept = file.read_bytes()
    file.write_bytes(kept.replace(b'"success":false', b'"success":true', 1))
    assert file.read_bytes() != kept
    with pytest.raises(TraceError, match=r"changed after it was recorded(?s:.*)harness verify"):
        traces.load([str(run.path if way == "folder" else file)])
    with pytest.raises(TraceError, match="changed after it was recorded"):
        harness.resume(run.path)  # would take the edit over
    file.write_bytes(kept)
    assert traces.load([str(run.path)], successes_only=False).sources[0].episodes == 2
    aside = tmp_path / "chosen.jsonl"  # chosen by hand, as a file that claims no run
    aside.write_bytes(kept.splitlines(keepends=True)[0])
    assert len(traces.load([str(aside)], successes_only=False).episodes) == 1


def paired(path: Path, lost: int = 1000) -> Path:
    """Every third task is also lost, by an episode drawn from ``lost`` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(30):
        won = episode(i)
        lines.append(msgspec.json.encode(won) + b"\n")
        if i % 3 == 0:
            other = episode(lost + i)
            failed = {"task": won.task, "success": False, "score": 0.0, "attempt": 1}
            lines.append(msgspec.json.encode(msgspec.structs.replace(other, **failed)) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


CONTRASTIVE = "[objective]\nname = 'sft'\ncontrastive = 0.3\n"


def test_pairs_hold_no_task_that_is_held_out(tmp_path):
    """Nor of those whose won episode is over the limit, so that it is in no sample."""
    data = paired(tmp_path / "run" / "episodes.jsonl")
    training = Training(tmp_path / "a", data, CONTRASTIVE, steps=1)
    path = Path(training.args[0])
    path.write_text(path.read_text().replace("heldout = 0.1", "heldout = 0.6\nlimit = 12"))
    prepared = manifest_of(training.go("--stage", "prepare") / "training" / "data")
    of = [episode(i).task for i in range(0, 30, 3)]
    learned = [t for t in of if draw(group(t.env, t.id), 0) >= 0.6]
    assert 0 < prepared.pairs == len(learned) < len(of)


def test_lost_episodes_changed_between_stop_and_resume_are_refused(tmp_path):
    data = paired(tmp_path / "run" / "episodes.jsonl")
    training = Training(tmp_path / "a", data, CONTRASTIVE, steps=3)
    place = training.step() / "training"
    samples, pairs = (Samples.load(place / "data" / f"{n}.npz").hash for n in ("samples", "pairs"))
    last = checkpoint.latest(place / "checkpoints")
    assert notes(last)["parents"]["pairs"] == pairs
    assert checkpoint.read_state(last).samples_hash not in (samples, pairs)
    paired(data, lost=2000)
    with pytest.raises(DataError, match="another set of samples"):
        training.go()
    assert Samples.load(place / "data" / "samples.npz").hash == samples  # what is won is the same
    plain = Training(tmp_path / "plain", data, steps=1).go()
    last = checkpoint.latest(plain / "training" / "checkpoints")
    assert checkpoint.read_state(last).samples_hash == notes(plain)["parents"]["samples"]
    assert "pairs" not in notes(plain)["parents"]


def test_arms_prove_their_start_and_a_changed_one_is_refused_where_it_is_used(tmp_path):
    data = paired(tmp_path / "run" / "episodes.jsonl")
    start = Training(tmp_path / "start", data, steps=2).go()
    begun = models.weights_hash(models.load(start))
    assert notes(start)["parents"]["start"] != begun  # its own is its first weights
    same = {"steps": 3, "student": f"start = '{start}'"}
    plain = Training(tmp_path / "plain", data, **same)
    contrastive = Training(tmp_path / "contrastive", data, CONTRASTIVE, **same)
    for one in (plain, contrastive):
        one.step()
        last = checkpoint.latest(one.out / "training" / "checkpoints")
        assert notes(last)["parents"]["start"] == begun

    changed = models.load(start)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    checkpoint.write_model(start, changed, tokenizer.load(start), notes(start))
    with pytest.raises(DataError, match=f"comes from other weights.*{begun}, now"):
        contrastive.go()
    with pytest.raises(DataError, match="another recipe"):
        contrastive.go("--seed", "5")
    # Without that term only the first step needs the start: what is told is where it came from.
    assert notes(plain.go())["parents"]["start"] == begun


def change(model: Path) -> None:
    """Other weights, as of another training."""
    changed = models.load(model)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    checkpoint.write_model(model, changed, tokenizer.load(model), notes(model))


def note(folder: Path, **told) -> None:
    """Write what is told into a checkpoint's harness.json, as if it had been made so."""
    checkpoint.write_model(
        folder, models.load(folder), tokenizer.load(folder), {**notes(folder), **told}
    )
    manifest = folder / checkpoint.MANIFEST
    hashes = msgspec.json.decode(manifest.read_bytes())
    hashes = {name: checkpoint.file_sha256(folder / name) for name in hashes}
    manifest.write_bytes(msgspec.json.encode(hashes))


@pytest.mark.parametrize("signal", ["live", "cache"])
def test_a_teacher_changed_between_stop_and_resume_is_refused(tmp_path, run, signal):
    teacher = Training(tmp_path / "teacher", run, steps=2).go()
    more = f"[objective]\nname = 'kd'\n[teacher]\ncheckpoint = '{teacher}'\n" + (
        f"signal = '{signal}'\nmin_mass = 0\n"
    )
    whole = log(Training(tmp_path / "whole", run, more, steps=3).go())
    training = Training(tmp_path / "broken", run, more, steps=3)
    place = training.step() / "training"
    kept = (teacher / "model.safetensors").read_bytes()
    then = models.weights_hash(models.load(teacher))
    change(teacher)
    now = models.weights_hash(models.load(teacher))
    # A cache that students share is another one for another teacher.
    shutil.rmtree(place / "cache", ignore_errors=True)
    with pytest.raises(DataError, match=rf"(?s)another teacher.*\({then}, now {now}\).*--fresh"):
        training.go()
    if signal == "live":  # one that was begun before its teacher was noted goes on
        last = checkpoint.latest(place / "checkpoints")
        parents = {k: v for k, v in notes(last)["parents"].items() if k != "teacher"}
        note(last, parents=parents)
        assert len(log(training.step())) == 2
        assert notes(checkpoint.latest(place / "checkpoints"))["parents"]["teacher"] == now
        return
    (teacher / "model.safetensors").write_bytes(kept)
    assert log(training.go()) == whole


def test_a_finished_student_asked_for_again_keeps_its_notes(tmp_path, run):
    """Machine and packages are of who trained it, not of who looks again."""
    training = Training(tmp_path, run, steps=1)
    out = training.go()
    then = {"machine": {"device": "cuda", "precision": "bf16"}, "packages": {"torch": "2.0.0"}}
    note(checkpoint.latest(out / "training" / "checkpoints"), **then)
    checkpoint.write_model(out, models.load(out), tokenizer.load(out), {**notes(out), **then})
    before = files(out)
    training.go()
    after = files(out)
    assert after == before
    assert {k: notes(out)[k] for k in then} == then


def test_dropout_is_refused_on_a_cpu_before_anything_is_made(tmp_path, run):
    path = recipe(tmp_path, student="layers = 2\nhidden = 32\nheads = 2\ndropout = 0.1")
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"dropout = 0.1: on a CPU"):
        cli.main([str(path), "--data", str(run), "--out", str(out), "--device", "cpu", "--quiet"])
    assert not out.exists()

"""What a training refuses to begin or to go on with: a label that is missing, traces, starts and
teachers that were changed meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from distill_training import CONTRASTIVE, Training, files, log, notes, paired
from harness_distillation import (
    checkpoint,
    cli,
    models,
    tokenizer,
    traces,
)
from harness_distillation.dataset import Samples
from harness_distillation.prepare import manifest_of

import harness
from harness.errors import ConfigError, DataError, TraceError
from harness.recorder import EPISODES
from harness.rows import draw, group
from harness.types import Episode

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 40)


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


def test_traces_without_a_token_of_what_is_weighed_are_refused(tmp_path):
    """A mean over all classes has no class to miss: the loss would be 0, and training finish."""
    data = silent(tmp_path / "run" / "episodes.jsonl")
    text = "[objective]\nname = 'sft'\nlambda_act = 0\n"
    training = Training(tmp_path / "none", data, text, steps=2)
    with pytest.raises(DataError, match=r"weighs reason with format = \"span\".* nothing would"):
        training.go()
    assert not (training.out / "training" / "checkpoints").exists()


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
    with pytest.raises(DataError, match="was trained with another recipe") as caught:
        cli.main([*asked, "--stage", stage])
    assert files(training.out) == before
    assert [line.strip() for line in str(caught.value).split("\n")[1:-1]] == [
        "[optim] lr = 0.001, before 0.005", "[tokenizer] vocab = 300, before 400",
    ]  # fmt: skip
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

"""MiniLLM: what the student is asked, and the training in its own environment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from harness_distillation import checkpoint, cli, minillm, models, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.dataset import encode
from harness_distillation.locks import owned

from harness.errors import ConfigError, DataError
from harness.transcript import join, render

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"
MINILLM = """
[teacher]
checkpoint = "{teacher}"
signal = "live"
[objective]
name = "minillm"
"""


def test_prompts_are_what_stands_before_each_decision():
    """They are what play would ask: the transcript up to the newest observation."""
    episodes = [episode(i) for i in range(12)]
    tok = tokenizer.train(episodes, HEADER, 400)
    samples, _ = encode(episodes, tokenizer.SegmentEncoder(tok), HEADER, 512, 24)
    every = np.arange(len(samples.lengths))
    expected = []
    for one in episodes:
        header = HEADER.replace("{instruction}", one.instruction)
        for i, step in enumerate(one.steps):
            if not step.decision.injected:
                blocks = render(header, one.steps[:i], step.observation)
                expected.append(join([s for block in blocks for s in block]))
    asked = minillm.prompts(samples, every, len(expected), seed=1)
    assert sorted(tok.decode(ids) for ids in asked) == sorted(expected)
    twice = minillm.prompts(samples, every, 2 * len(expected), seed=1)
    assert twice[: len(expected)] == asked
    assert sorted(twice[len(expected) :]) == sorted(asked)
    assert twice[len(expected) :] != asked
    few = minillm.prompts(samples, every[samples.episode == 3], 1, seed=1)
    header = HEADER.replace("{instruction}", episodes[3].instruction)
    assert tok.decode(few[0]).startswith(header)


@pytest.mark.parametrize(
    "change",
    [
        'signal = "live"\n->signal = "cache"\n',
        "[objective]->[optim]\noptimizer = 'muon'\n[objective]",
        'name = "minillm"->name = "minillm"\nlambda_act = 2.0',
        'name = "minillm"->name = "minillm"\nmasks = "label_shuffle"',
        "[objective]->[dev]\nenv = 'alfworld'\ntasks = 'builtin-dev'\n[objective]",
    ],
)
def test_what_trl_does_not_do_is_refused(tmp_path, change):
    before, after = change.split("->")
    more = MINILLM.format(teacher="models/x").replace(before, after)
    path = recipe(tmp_path, "")
    text = path.read_text()
    if "[optim]" in more:  # one table each
        more = more.replace("[optim]\noptimizer = 'muon'\n", "")
        text = text.replace("[optim]", "[optim]\noptimizer = 'muon'")
    path.write_text(text + more)
    with pytest.raises(ConfigError, match="is trained by TRL"):
        recipes.load(str(path))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("objective", "normalizer", '"class"'),
        ("objective", "curriculum", '"pacing"'),
        ("objective", "format", '"shared"'),
        ("objective", "lambda_format", "0.5"),
        ("data", "samples", '"step"'),
    ],
)
def test_what_trl_is_not_told_of_is_refused_by_name(tmp_path, table, key, value):
    """It would be part of the recipe's hash and do nothing."""
    path = recipe(tmp_path, MINILLM.format(teacher="models/x"))
    recipes.load(str(path))
    path.write_text(path.read_text().replace(f"[{table}]", f"[{table}]\n{key} = {value}"))
    with pytest.raises(ConfigError, match=rf"TRL, to which \[{table}\] {key} = {value} would say"):
        recipes.load(str(path))


def test_values_that_the_objective_implies_may_be_said(tmp_path):
    said = 'normalizer = "token"\ncurriculum = "random"\nformat = "span"\nlambda_format = 1.0'
    path = recipe(tmp_path, MINILLM.format(teacher="models/x") + said)
    recipes.load(str(path))
    assert recipes.load("minillm-tiny").objective.name == "minillm"


def test_an_environment_of_other_releases_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HARNESS_MINILLM", str(tmp_path))
    with pytest.raises(ConfigError, match="is not there"):
        minillm.environment(quiet=True)
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setenv("HARNESS_MINILLM", str(tmp_path / "bare"))
    with pytest.raises(ConfigError, match=r"has not what objective 'minillm' runs on: trl=="):
        minillm.environment(quiet=True)


@pytest.mark.campaign
def test_an_environment_that_cannot_be_made_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv("HARNESS_MINILLM", raising=False)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"(?s)cannot be made in .*No matching distribution"):
        minillm.environment(quiet=True)
    assert not [p for p in (tmp_path / "distill-harness").iterdir() if p.is_dir()]


@pytest.fixture
def teacher(tmp_path) -> Path:
    """A teacher of seconds."""
    path = recipe(tmp_path, "", steps=20)
    out = tmp_path / "teacher"
    data = ("--data", str(record(tmp_path / "episodes.jsonl", 40)))
    assert cli.main([str(path), "--out", str(out), "--quiet", *data]) == 0
    return out


def test_a_job_is_the_same_one_elsewhere_and_for_as_long_as_one_likes():
    job = {"steps": 3, "lr": 1e-3, "threads": 1, "bf16": True, "use_cpu": True, "max_minutes": None}
    places = ("student", "teacher", "prompts", "out", "log")
    job |= {name: f"/here/{name}" for name in places}
    there = {**job, "threads": 8, "bf16": False, "use_cpu": False, "max_minutes": 5.0}
    there |= {name: f"/there/{name}" for name in places}
    one, two, other = (
        minillm._elsewhere(msgspec.json.encode(x)) for x in (job, there, {**job, "lr": 1e-4})
    )
    assert one == two != other


def test_the_log_is_cut_back_to_trls_last_whole_checkpoint(tmp_path):
    """As a kill leaves it: steps behind the checkpoint, a checkpoint half written, a torn line."""
    log, out = tmp_path / "minillm.jsonl", tmp_path / "minillm" / "out"
    lines = [b'{"step": %d, "loss": Infinity}\n' % step for step in range(1, 26)]
    log.write_bytes(b"".join(lines) + b'{"step": 26, "lo')
    for step in (10, 20, 24):
        (out / f"checkpoint-{step}").mkdir(parents=True)
    for step in (10, 20):
        (out / f"checkpoint-{step}" / "trainer_state.json").touch()
    minillm.cut_log(tmp_path)
    assert log.read_bytes() == b"".join(lines[:20])
    shutil.rmtree(out)
    minillm.cut_log(tmp_path)
    assert log.read_bytes() == b""


def minillm_command(tmp_path: Path, teacher: Path, steps: int) -> list[str]:
    path = recipe(tmp_path, MINILLM.format(teacher=teacher), steps=steps)
    text = path.read_text().replace('name = "tiny"', 'name = "tiny"\nmax_new_tokens = 24', 1)
    path.write_text(text)
    data = str(tmp_path / "episodes.jsonl")
    return [str(path), "--out", str(tmp_path / "out"), "--quiet", "--data", data]


def test_a_teacher_whose_embedding_has_other_rows_is_refused(tmp_path, teacher):
    """TRL compares all logits, padding too: by shape they could not be."""
    padded = tmp_path / "padded"
    model, tok = models.load(teacher), tokenizer.load(teacher)
    rows = model.config.vocab_size
    model.resize_token_embeddings(rows + 64, mean_resizing=False)
    checkpoint.write_model(padded, model, tok, {})
    command = minillm_command(tmp_path, padded, 3)
    with pytest.raises(ConfigError, match=rf"student has {rows} .* {padded} {rows + 64} \(padding"):
        cli.main(command)
    assert not (tmp_path / "out" / "training" / "start").exists()  # another recipe may follow


@pytest.mark.campaign
def test_trl_trains_and_its_student_comes_back(tmp_path, teacher):
    """Installs the environment (once), trains, and goes on where it was."""
    out = tmp_path / "out"
    command = minillm_command(tmp_path, teacher, 3)
    assert cli.main([*command, "--max-minutes", "0"]) == 0
    assert not (out / "model.safetensors").exists()
    torn = out / "training" / "minillm" / "out" / "checkpoint-2"
    torn.mkdir()  # as a killed writer leaves one
    with (out / "training" / "minillm.jsonl").open("a") as log:  # and a step behind it
        log.write('{"step": 2, "loss": 1.0}\n')
    assert cli.main([*command, "--threads", "2"]) == 0
    lines = (out / "training" / "minillm.jsonl").read_bytes().splitlines()
    steps = [line for line in map(msgspec.json.decode, lines) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(np.isfinite(line["loss"]) for line in steps)
    begun, trained = (models.load(out / f) for f in ("training/start", "."))
    moved = [
        not torch.equal(a, b)
        for a, b in zip(begun.state_dict().values(), trained.state_dict().values(), strict=True)
    ]
    assert any(moved)
    notes = msgspec.json.decode((out / "harness.json").read_bytes())
    assert notes["recipe"]["objective"]["divergence"] == "reverse_kl"
    before = (out / "model.safetensors").read_bytes()
    told = (out / "harness.json").read_bytes()
    assert cli.main(command) == 0  # finished: TRL is not asked again
    assert (out / "model.safetensors").read_bytes() == before
    assert (out / "harness.json").read_bytes() == told
    with pytest.raises(DataError, match="was trained with another recipe"):
        cli.main([*command, "--seed", "5"])


@pytest.mark.campaign
def test_trl_ends_with_who_started_it_and_holds_the_folder_until_then(tmp_path, teacher):
    command = minillm_command(tmp_path, teacher, 500)
    training = tmp_path / "out" / "training"
    parent = subprocess.Popen([sys.executable, "-m", "harness", "distill", *command])
    deadline = time.monotonic() + 300
    while not (training / "minillm.jsonl").is_file():
        assert parent.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    (child,) = map(int, children)
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    with pytest.raises(ConfigError, match="or by one that it started"):
        cli.main(command)
    os.kill(child, signal.SIGCONT)
    while True:
        assert time.monotonic() < deadline
        try:
            with owned(training):
                break
        except ConfigError:
            time.sleep(0.05)
    steps = len((training / "minillm.jsonl").read_bytes().splitlines())
    assert steps < 500

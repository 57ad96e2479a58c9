"""Two gloo ranks against one process: the same gradients, whatever the normaliser and however few
the pairs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from harness_distillation import checkpoint, models, ranks, stages, train
from harness_distillation import recipe as recipes
from ranks_worker import MOST, SHAPES, gradients
from safetensors.torch import load_file

from harness.recorder import EPISODES

pytestmark = pytest.mark.models
NORMALIZERS = ("sum", "token", "class", "span", "episode")
SFT = "[objective]\nname = 'sft'\n"
#: No gradient is cut short, so that the optimizer's first moment is 1 - beta of it.
ONE_STEP = "precision = 'fp32'\nclip = 1e9\nbetas = [0.5, 0.95]\n"


def one_pair(path: Path) -> Path:
    """A task won and lost, and tasks won only; the pair is longer than half a row."""
    won = episode(0, steps=9)
    lost = msgspec.structs.replace(
        episode(1000, steps=9), task=won.task, success=False, score=0.0, attempt=1
    )
    path.parent.mkdir(parents=True)
    told = [won, lost, *(episode(i) for i in range(1, 12))]
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in told))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Folders one/NAME and two/NAME of students after a step, in one process and in two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    run = record(folder / "run" / EPISODES, 24)
    pair = one_pair(folder / "pair" / EPISODES)
    start = folder / "start"
    path = recipe(folder, steps=5)
    stages.distill(recipes.load(str(path), data(run)), start, quiet=True)
    wanted = {
        name: f"[objective]\nname = 'sad'\nnormalizer = '{name}'\nlambda_act = 2.5\n"
        f"[teacher]\ncheckpoint = '{start}'\nmin_mass = 0.1\n"
        for name in NORMALIZERS
    }
    wanted["pair"] = "[objective]\nname = 'sft'\ncontrastive = 0.3\n"
    pairs = []
    for name, more in wanted.items():
        path = recipe(folder, more, steps=1).rename(folder / f"{name}.toml")
        text = path.read_text().replace("[optim]", f"[optim]\n{ONE_STEP}")
        runs = f"runs = ['{pair if name == 'pair' else run}']"
        path.write_text(text.replace("[data]", f"[data]\n{runs}"))
        stages.distill(recipes.load(str(path)), folder / "one" / name, quiet=True)
        pairs.append(f"{folder / 'two' / name}={path}")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        str(Path(__file__).with_name("ranks_worker.py")), str(folder), *pairs,
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def data(run: Path) -> dict[str, dict[str, list[str]]]:
    return {"data": {"runs": [str(run)]}}


def gradient(out: Path) -> torch.Tensor:
    """Of a student after its first step: AdamW's first moment is half of it."""
    last = checkpoint.latest(out / "training" / "checkpoints")
    assert last is not None
    kept = load_file(last / "trainer.safetensors")
    moments = [kept[name].flatten() for name in sorted(kept) if name.endswith("exp_avg")]
    assert len(moments) == len(list(models.load(last).parameters()))
    return torch.cat(moments) * 2


def line(out: Path) -> dict:
    return msgspec.json.decode((out / "training" / "log.jsonl").read_bytes().splitlines()[0])


@pytest.mark.parametrize("name", [*NORMALIZERS, "pair"])
def test_two_ranks_give_one_processs_gradient(trained, name):
    one, two = (trained / n / name for n in ("one", "two"))
    wanted, got = gradient(one), gradient(two)
    assert float(wanted.norm()) == pytest.approx(line(one)["grad_norm"], rel=1e-4)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-6
    assert line(two)["loss"] == pytest.approx(line(one)["loss"], rel=1e-6)


def test_a_rank_without_pairs_adds_nothing(trained):
    """One pair a step: the second rank has none, and the term still counts once."""
    one, two = (line(trained / n / "pair") for n in ("one", "two"))
    assert one["n_pairs"] == two["n_pairs"] == 1
    assert two["contrastive"] == pytest.approx(one["contrastive"], rel=1e-6)


def first_gradient(folder: Path, run: Path, name: str, change: dict, more: str = "") -> Path:
    """A student of ``run`` after its first step, in one process."""
    path = recipe(folder, more, steps=1)
    path.write_text(path.read_text().replace("[optim]", f"[optim]\n{ONE_STEP}"))
    stages.distill(recipes.load(str(path), data(run), change), folder / name, quiet=True)
    return folder / name


def test_a_gradient_over_clip_is_cut_to_it(trained, tmp_path):
    """What the optimizer was given, which is not what is logged: the norm before."""
    out = first_gradient(tmp_path, trained / "run" / EPISODES, "out", {"optim": {"clip": 1e-3}})
    assert float(gradient(out).norm()) == pytest.approx(1e-3, rel=1e-3)
    assert line(out)["grad_norm"] > 0.1


def test_the_contrastive_term_weighs_in_the_gradient_what_it_weighs_in_the_loss(trained, tmp_path):
    """It is linear in the weight, and no smaller than what is compared."""
    run = trained / "pair" / EPISODES
    none, half, whole = (
        gradient(first_gradient(tmp_path, run, str(w), {"objective": {"contrastive": w}}, SFT))
        for w in (0.0, 0.3, 0.6)
    )
    assert float((half - none).norm()) > 0.01 * float(none.norm())
    assert float((whole - none - 2 * (half - none)).norm() / (whole - none).norm()) < 1e-4
    term = line(tmp_path / "0.3")["contrastive"]
    assert line(tmp_path / "0.3")["loss"] - line(tmp_path / "0.0")["loss"] == pytest.approx(
        0.3 * term, rel=1e-4
    )


def test_a_loss_that_is_no_number_names_the_samples_of_the_rank_that_had_it(trained):
    """Whichever rank's error is read."""
    first, second = ((trained / f"broken-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    wanted, told = first.split("\n", 1)
    assert told.startswith("Step 1: the loss of reason, act is not a number")
    assert re.findall(r"    sample (\d+):", told) == wanted.split()[: train.NAMED]


def test_gradients_are_summed_in_buckets_of_bounded_size(trained):
    wanted = [
        (a.grad if b.grad is None else a.grad + b.grad)
        for a, b in zip(gradients(0), gradients(1), strict=True)
    ]
    for rank in (0, 1):
        found = torch.load(trained / f"summed-{rank}.pt", weights_only=True)
        for got, sum_ in zip(found, wanted, strict=True):
            assert torch.equal(got, sum_)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads have no names to read")
def test_no_thread_of_the_group_outlives_it(trained):
    """One that meets the interpreter's end aborts a process that did all its work."""
    for rank in (0, 1):
        joined, left = json.loads((trained / f"threads-{rank}.json").read_text())
        assert joined
        assert left == []


def test_buckets_keep_order_and_size():
    tensors = [torch.zeros(shape) for shape in SHAPES]
    found = list(ranks.buckets(tensors, MOST))
    assert [id(t) for bucket in found for t in bucket] == [id(t) for t in tensors]
    assert [sum(t.nbytes for t in bucket) for bucket in found] == [2860, 1164, 8000, 4000, 28]
    assert list(ranks.buckets([], MOST)) == []


def test_one_process_changes_no_gradient():
    held = gradients(1)
    before = [None if p.grad is None else p.grad.clone() for p in held]
    ranks.Ranks().sum_gradients(held)
    for p, was in zip(held, before, strict=True):
        assert (p.grad is None and was is None) or torch.equal(p.grad, was)

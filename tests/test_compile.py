"""A compiled student: one program whatever documents a row holds, and never silently none."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from distill_traces import recipe, record  # noqa: E402
from harness_distillation import checkpoint, cli, models, stages, tokenizer  # noqa: E402
from harness_distillation import recipe as recipes  # noqa: E402
from harness_distillation.curriculum import Sampler  # noqa: E402
from harness_distillation.dataset import Samples  # noqa: E402
from harness_distillation.ranks import Ranks  # noqa: E402
from harness_distillation.recipe import Objective, Optim, Recipe, Student  # noqa: E402

from harness.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.models
SIZES = "layers = 1\nhidden = 32\nheads = 2"


def documents(out: Path, steps: int) -> set[int]:
    """How many episodes the rows of these steps hold."""
    data = out / "training" / "data"
    samples = Samples.load(data / "samples.npz")
    heldout = msgspec.json.decode((data / "manifest.json").read_bytes())["heldout"]
    learn = np.flatnonzero(~np.isin(samples.episode, heldout))
    sampler = Sampler(samples, learn, Objective(), 0, rows=2, row_tokens=1024, steps=steps)
    return {len(row) for step in range(steps) for row in sampler.rows(step)}


def test_rows_of_any_number_of_documents_compile_once(tmp_path):
    """The losses of a training that is not compiled, from one graph."""
    from torch._dynamo.utils import counters

    run = record(tmp_path / "run" / "episodes.jsonl", 60)
    losses = []
    for compiled in ("false", "true"):
        path = recipe(tmp_path, steps=12, student=SIZES)
        more = f"[optim]\nprecision = 'fp32'\ncompile = {compiled}\n"
        path.write_text(path.read_text().replace("[optim]", more))
        out = tmp_path / compiled
        counters.clear()
        assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
        lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
        losses.append([msgspec.json.decode(line)["loss"] for line in lines])
    assert len(documents(out, 12)) > 2
    assert counters["stats"]["unique_graphs"] == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def body(arch: str, attention: str) -> object:
    tok = tokenizer.train([], "Task: {instruction}\n", 300)
    model = models.build(Student(arch=arch, layers=1, hidden=32, heads=2, window=64), tok, 0)
    models.isolate_documents(model, torch.device("cpu"))
    model.set_attn_implementation(attention)
    return models.body_and_head(model)[0]


def test_without_a_compiler_it_is_said_at_once():
    from torch._inductor import config

    told = pytest.raises(ConfigError, match=r"needs a C\+\+ compiler, and no-such-compiler is not")
    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), told:
        models.compile_body(body("llama", "documents"))


def test_a_model_whose_rows_change_shape_is_refused():
    with pytest.raises(ConfigError, match="OPTModel gets one document a row here"):
        models.compile_body(body("opt", "sdpa"))


def test_it_is_refused_before_anything_is_made(tmp_path):
    """On an accelerator, of a size and of a start; a training on the CPU goes on."""
    tok = tokenizer.train([], "Task: {instruction}\n", 300)
    for arch in ("opt", "llama"):
        student = Student(arch=arch, layers=1, hidden=32, heads=2, window=64)
        start = tmp_path / arch
        checkpoint.write_model(start, models.build(student, tok, 0), tok, {})
        for one in (student, Student(start=str(start))):
            wanted = Recipe("x", student=one, optim=Optim(compile=True))
            stages._refuse(wanted, Ranks(), torch.device("cpu"))
            with pytest.raises(ConfigError, match="compile") if arch == "opt" else nullcontext():
                stages._refuse(wanted, Ranks(), torch.device("cuda"))


@pytest.mark.parametrize("name", recipes.shipped())
def test_no_recipe_that_ships_compiles_opt(name):
    student = recipes.load(name).student
    opt = student.arch == "opt" or "facebook/opt" in (student.start or "")
    assert opt == ("opt-" in name)
    assert not (opt and recipes.load(name).optim.compile)

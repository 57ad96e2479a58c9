"""A compiled student: one program whatever documents a row holds, and never silently none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from distill_traces import recipe, record  # noqa: E402
from harness_distillation import cli, models, tokenizer  # noqa: E402
from harness_distillation.curriculum import Sampler  # noqa: E402
from harness_distillation.dataset import Samples  # noqa: E402
from harness_distillation.recipe import Objective, Student  # noqa: E402

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

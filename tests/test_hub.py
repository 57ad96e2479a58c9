"""What of a repository is downloaded, and that pickled weights are loaded. No network."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from harness_distillation import models, tokenizer  # noqa: E402
from harness_distillation.hub import PATTERNS, PICKLED, patterns  # noqa: E402
from harness_distillation.recipe import Student  # noqa: E402

pytestmark = pytest.mark.models
REST = ["config.json", "tokenizer.json", "merges.txt", "README.md"]


@pytest.mark.parametrize(
    ("files", "more"),
    [
        (["model.safetensors"], ()),
        (["model-00001-of-00002.safetensors", "model.safetensors.index.json"], ()),
        (["model.q8_0.gguf"], ()),
        (["model.safetensors", "pytorch_model.bin"], ()),
        (["pytorch_model.bin", "tf_model.h5"], PICKLED),
        (["pytorch_model-00001-of-00003.bin", "pytorch_model.bin.index.json"], PICKLED),
        ([], PICKLED),
        (["model.safetensors.index.json"], PICKLED),
    ],
)
def test_pickled_weights_come_only_where_there_are_no_others(files, more):
    """Decided by what the first download brought: never both."""
    assert patterns(iter([*REST, *files])) == PATTERNS + more


def test_pickled_weights_are_loaded(tmp_path):
    tok = tokenizer.train([], "Task: {instruction}\n", 300)
    model = models.build(Student(arch="opt", layers=1, hidden=32, heads=2, window=64), tok, 0)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    found = models.load(tmp_path).state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())

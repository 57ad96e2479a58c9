"""What training runs on: a named device, a precision that is fast there, memory for time."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import recipe, record
from harness_distillation import cli, machine, models
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Recipe
from torch.nn.modules.module import register_module_forward_pre_hook

from harness.errors import ConfigError

pytestmark = pytest.mark.models


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs /proc/cpuinfo")
def test_auto_is_bf16_where_the_processor_multiplies_it():
    """The system's own list of instructions says the same."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    native = bool(flags & {"amx_bf16", "avx512_bf16", "bf16"})
    assert machine.precision_of("auto", machine.CPU) == ("bf16" if native else "fp32")
    assert machine.precision_of("bf16", machine.CPU) == "bf16"
    assert machine.precision_of("fp32", machine.CPU) == "fp32"


def test_autocast_is_what_the_precision_says():
    a = torch.ones(2, 2)
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        with machine.autocast(precision, machine.CPU):
            assert (a @ a).dtype == dtype


@pytest.mark.parametrize("name", ["tpu", "xla", "cuda:64"])
def test_a_device_that_is_not_there_is_refused(tmp_path, name):
    path = recipe(tmp_path)
    with pytest.raises(ConfigError, match="cpu"):
        cli.main([str(path), "--out", str(tmp_path / "out"), "--device", name])
    assert not (tmp_path / "out").exists()


def test_a_recipe_is_the_same_on_every_machine():
    """Its hash knows what it insists on, and no choice of the machine or of memory."""

    def of(**optim):
        whole = msgspec.convert({"name": "a", "optim": optim}, Recipe)
        return recipes.recipe_hash(recipes.resolve(whole))

    assert of() == of(precision="auto") == of(recompute=True)
    assert of() != of(precision="fp32")


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
def test_random_numbers_go_on_as_if_none_had_been_drawn(device):
    torch.manual_seed(3)
    torch.rand(5, device=device)
    expected = torch.rand(5, device=device)
    torch.manual_seed(3)
    torch.rand(5, device=device)
    with machine.random_state_kept():
        torch.manual_seed(9)
        torch.rand(7, device=device)
    assert torch.equal(torch.rand(5, device=device), expected)


def test_layers_made_again_give_the_same_student(tmp_path):
    """The same weights, for twice the passes through every layer."""
    from transformers.models.llama.modeling_llama import LlamaAttention

    run = record(tmp_path / "run" / "episodes.jsonl", 30)
    made, passes = [], []
    for number, more in enumerate(("", "recompute = true\n")):
        path = recipe(tmp_path, steps=6)
        text = path.read_text().replace("[optim]", f"[optim]\nprecision = 'fp32'\n{more}")
        path.write_text(text)
        out = tmp_path / f"out{number}"
        args = [str(path), "--data", str(run), "--out", str(out), "--quiet", "--device", "cpu"]
        calls = []
        hook = register_module_forward_pre_hook(
            lambda module, _, calls=calls: (
                calls.append(1)
                if isinstance(module, LlamaAttention) and torch.is_grad_enabled()
                else None
            )
        )
        cli.main(args)
        hook.remove()
        passes.append(len(calls))
        notes = msgspec.json.decode((out / "harness.json").read_bytes())
        assert notes["machine"] == {"device": "cpu", "precision": "fp32"}
        made.append(models.weights_hash(models.load(out)))
    assert made[0] == made[1]
    assert passes[1] == 2 * passes[0] == 2 * 6 * 2 * 2  # steps, rows, layers

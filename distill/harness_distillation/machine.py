"""What a training runs on: its device, and the precision that is fast there.

Neither decides what a student is meant to be, so a recipe's hash names no device, and "auto" like
"bf16"; both are noted in harness.json, of the machine that ended the training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from harness.errors import ConfigError

Precision = Literal["bf16", "fp32"]
CPU = torch.device("cpu")
#: Instructions by which a CPU multiplies bf16 itself, as ``torch.cpu.get_capabilities`` names them.
#: Without them PyTorch's bf16 products were 10 to 40 times slower than fp32.
BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16")


def device_of(name: str | None = None) -> torch.device:
    """The device of this process: ``name``, else an accelerator's where there is one. Under
    torchrun each process of a machine has one of its own.

    Raises ConfigError for a device that this machine has not.
    """
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(name or ("cuda" if cuda else "cpu"))
    except RuntimeError:
        raise ConfigError(f"--device {name}: no name of a device. Try 'cpu' or 'cuda'.") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name}: training runs on 'cpu' or 'cuda'.")
    if device.type == "cpu":
        return device
    if device.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"--device {name}: each rank has a device of its own; say 'cuda'.")
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if not cuda or index >= torch.cuda.device_count():
        have = torch.cuda.device_count() if cuda else "none"
        raise ConfigError(f"Device {device.type}:{index} is not there ({have} found). Use 'cpu'.")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def precision_of(wanted: str, device: torch.device) -> Precision:
    """``wanted``, and for "auto" bf16 where the device multiplies it natively, else fp32."""
    if wanted == "auto":
        return "bf16" if multiplies_bf16(device) else "fp32"
    assert wanted in ("bf16", "fp32")
    return "bf16" if wanted == "bf16" else "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for products in bf16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    tell = getattr(torch.cpu, "get_capabilities", dict)  # older releases have no such list
    found: dict[str, bool] = tell()
    return any(found.get(name) for name in BF16_INSTRUCTIONS)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """bf16 matrix products over fp32 master weights, or plain fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Random numbers go on after the block as if it had drawn none: the CPU's, and those of this
    process's accelerator where there is one."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def peak(precision: Precision, device: torch.device) -> float:
    """FLOP/s that a product of large square matrices reaches here, with the threads of now: the
    best of three. What MFU is a share of."""
    size = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):  # the first one warms up
        _wait(device)
        begun = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

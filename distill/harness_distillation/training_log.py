"""training/log.jsonl: one line an optimizer step, of steps that were taken once."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from harness_distillation.checkpoint import State
from harness_distillation.tokenizer import CLASSES

LOG = "log.jsonl"


def log_line(
    state: State,
    sums: torch.Tensor,
    loss: float,
    counts: torch.Tensor,
    rate: float,
    norm: float,
    speed: float,
    mfu: float,
) -> dict[str, Any]:
    """A log line: the loss as optimised, and per class the mean divergence and how many targets
    (chunks, where those are matched).

    ``speed`` in tokens/s; ``mfu``: the share of the machine's peak that 6 operations a parameter
    and token make of it (attention not counted).
    """
    line: dict[str, Any] = {"step": state.step, "loss": loss}
    for i, name in enumerate(CLASSES, 1):
        if counts[i]:
            line[name] = float(sums[i] / counts[i])
            line[f"n_{name}"] = int(counts[i])
    line |= {"lr": rate, "grad_norm": norm, "tokens": state.tokens}
    line |= {"tokens_per_s": round(speed), "mfu": round(mfu, 4)}
    return line | {"seconds": round(state.seconds, 1)}


def truncate(path: Path, step: int) -> None:
    """Drop log lines of steps that will be taken again, and what is no whole line: one that was
    torn when it was written, or torn and joined to the next."""
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [x for x in lines if x.endswith(b"\n") and _step(x) <= step]
    draft = path.with_suffix(".draft")
    draft.write_bytes(b"".join(kept))
    os.replace(draft, path)


def _step(line: bytes) -> float:
    """A line's step; infinity where it is none."""
    try:
        # TRL's may hold Infinity, which is no JSON to msgspec.
        return int(json.loads(line)["step"])
    except ValueError:
        return math.inf

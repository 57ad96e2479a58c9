"""Tiny trainings by their command line, and what they leave."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import episode, recipe
from harness_distillation import checkpoint, cli

#: Of ``train``, unless told.
STEPS = 4
TIMING = {"seconds", "tokens_per_s", "mfu"}


def log(out: Path) -> list[dict]:
    lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [{k: v for k, v in msgspec.json.decode(x).items() if k not in TIMING} for x in lines]


def column(out: Path, name: str) -> list[float]:
    return [line[name] for line in log(out)]


def notes(folder: Path) -> dict:
    return checkpoint.read_notes(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    every = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in every}


def train(
    folder: Path,
    run: Path,
    more: str = "",
    *,
    steps: int = STEPS,
    name: str = "out",
    optim: str = "",
    vocab: int = 400,
) -> Path:
    """Train by the tiny recipe in fp32, ``more`` tables appended; the student's folder."""
    path = recipe(folder, more, steps=steps)
    text = path.read_text().replace("[optim]", f"[optim]\nprecision = 'fp32'\n{optim}")
    path.write_text(text.replace("vocab = 400", f"vocab = {vocab}"))
    out = folder / name
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    return out


def of(teacher: Path, objective: str, signal: str = "cache") -> str:
    return (
        f"[objective]\n{objective}\n[teacher]\ncheckpoint = '{teacher}'\n"
        f"signal = '{signal}'\nmin_mass = 0.3\n"
    )


class Training:
    """A tiny recipe of ``steps``, its command line, and its folder."""

    def __init__(self, folder: Path, data: Path, more: str = "", **how) -> None:
        folder.mkdir(exist_ok=True)
        self.out = folder / "out"
        self.args = [str(recipe(folder, more, **how)), "--data", str(data), "--out", str(self.out)]

    def go(self, *args: str) -> Path:
        assert cli.main([*self.args, "--quiet", *args]) == 0
        return self.out

    def step(self) -> Path:
        """A step of it, or one more."""
        return self.go("--max-minutes", "0")


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def paired(path: Path, count: int = 30, *, lost: int = 1000) -> Path:
    """``count`` won episodes; every third task is also lost, by one drawn from ``lost`` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        won = episode(i)
        lines.append(msgspec.json.encode(won) + b"\n")
        if i % 3 == 0:
            other = episode(lost + i)
            failed = {"task": won.task, "success": False, "score": 0.0, "attempt": 1}
            lines.append(msgspec.json.encode(msgspec.structs.replace(other, **failed)) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


CONTRASTIVE = "[objective]\nname = 'sft'\ncontrastive = 0.3\n"

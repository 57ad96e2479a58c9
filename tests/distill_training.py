"""A tiny training by its command line, for the tests of what a training survives."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import episode, recipe
from harness_distillation import checkpoint, cli

TIMING = {"seconds", "tokens_per_s", "mfu"}


def log(out: Path) -> list[dict]:
    lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [{k: v for k, v in msgspec.json.decode(x).items() if k not in TIMING} for x in lines]


def notes(folder: Path) -> dict:
    return checkpoint.read_notes(folder)


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the lock."""
    every = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock")
    return {str(p.relative_to(folder)): p.read_bytes() for p in every}


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


def paired(path: Path, lost: int = 1000) -> Path:
    """Every third task is also lost, by an episode drawn from ``lost`` on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(30):
        won = episode(i)
        lines.append(msgspec.json.encode(won) + b"\n")
        if i % 3 == 0:
            other = episode(lost + i)
            failed = {"task": won.task, "success": False, "score": 0.0, "attempt": 1}
            lines.append(msgspec.json.encode(msgspec.structs.replace(other, **failed)) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


CONTRASTIVE = "[objective]\nname = 'sft'\ncontrastive = 0.3\n"

"""One rank of several under torchrun: trains each recipe named, then sums gradients of its own.

torchrun --nproc-per-node 2 tests/ranks_worker.py FOLDER OUT=RECIPE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from harness_distillation import ranks, recipe, stages

#: Bytes of a bucket, and shapes of gradients: several fill it together, two are larger than it.
MOST = 4000
SHAPES = [(3, 5), (700,), (290,), (1,), (2000,), (40, 25), (7,)]


def gradients(rank: int) -> list[torch.nn.Parameter]:
    """Parameters with gradients drawn for a rank; one has none on the second, one lies across."""
    g = torch.Generator().manual_seed(rank)
    held = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for i, p in enumerate(held):
        drawn = torch.randn(p.shape, generator=g)
        if i == 5:
            drawn = torch.randn(p.shape[::-1], generator=g).T
        p.grad = None if (i, rank) == (2, 1) else drawn
    return held


def main(folder: str, *given: str) -> None:
    us = ranks.current()
    torch.set_num_threads(1)
    for pair in given:
        out, path = pair.split("=")
        stages.distill(recipe.load(path), Path(out), quiet=True)
    held = gradients(us.rank)
    us.sum_gradients(held, MOST)
    torch.save([p.grad for p in held], Path(folder) / f"summed-{us.rank}.pt")
    ranks.leave()


if __name__ == "__main__":
    main(*sys.argv[1:])

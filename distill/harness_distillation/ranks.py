"""Data-parallel ranks: sums over them, so that any number of ranks takes one process's step.

Every normaliser counts the whole optimizer step, so gradients are SUMMED over ranks, not averaged,
and the counts they are divided by are summed first. One process needs none of it.

    torchrun --nproc-per-node 2 -m harness distill RECIPE
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

#: How long a rank waits for the others.
WAIT = timedelta(days=7)


class Ranks(NamedTuple):
    """This process among all that take one step together."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all share: logs, checkpoints, caches."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over ranks, the same on all."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is so on some rank."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))))

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over ranks; one that is missing counts as 0."""
        if self.size == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in held]
        whole = self.sum(torch.cat([g.reshape(-1) for g in grads]))
        pieces = torch.split(whole, [g.numel() for g in grads])
        for p, piece in zip(held, pieces, strict=True):
            p.grad = piece.view_as(p)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 runs the block while the others wait, then they do."""
        if not self.first:
            self.sum(torch.zeros(1))
        try:
            yield
        finally:
            if self.first:
                self.sum(torch.zeros(1))


def leave() -> None:
    """Part from the other ranks."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def current() -> Ranks:
    """The ranks of this process: torchrun's, joined on the first call, or one alone."""
    if not dist.is_available():
        return Ranks()
    if not dist.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks()
        # Counts are summed on the CPU, gradients where they are.
        # The first one may collect traces for hours while the others wait.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=WAIT)
    return Ranks(dist.get_rank(), dist.get_world_size())

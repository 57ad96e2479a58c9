"""Data-parallel ranks: sums over them, so that any number of ranks takes one process's step.

Every normaliser counts the whole optimizer step, so gradients are SUMMED over ranks, not averaged,
and the counts they are divided by are summed first. One process needs none of it.

    torchrun --nproc-per-node 2 -m harness distill RECIPE
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import torch
import torch.distributed as dist

#: How long a rank waits for the others.
WAIT = timedelta(days=7)
#: Most bytes of gradients that are copied to be summed together; a larger one is summed in place.
BUCKET = 32 << 20


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

    def union(self, numbers: Sequence[int], below: int) -> list[int]:
        """The numbers in 0 .. ``below`` - 1 that some rank gives, in order, the same on all."""
        met = torch.zeros(below, dtype=torch.int64)
        met[list(numbers)] = 1
        found: list[int] = self.sum(met).nonzero().flatten().tolist()
        return found

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter], most: int = BUCKET) -> None:
        """Make every gradient its sum over ranks, in place, ``most`` bytes of them together; one
        that is missing counts as 0."""
        if self.size == 1:
            return
        held = [p for p in parameters if p.requires_grad]
        for p in held:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in buckets([p.grad for p in held if p.grad is not None], most):
            flat = [g.reshape(-1) for g in bucket]  # views, where they are contiguous
            whole = torch.cat(flat) if len(flat) > 1 else flat[0]
            dist.all_reduce(whole)
            pieces = torch.split(whole, [g.numel() for g in bucket])
            for g, piece in zip(bucket, pieces, strict=True):
                g.copy_(piece.view_as(g))

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


def buckets(tensors: Iterable[torch.Tensor], most: int) -> Iterator[list[torch.Tensor]]:
    """Tensors in their order, as many together as ``most`` bytes hold, and one at least."""
    bucket: list[torch.Tensor] = []
    used = 0
    for t in tensors:
        if bucket and used + t.nbytes > most:
            yield bucket
            bucket, used = [], 0
        bucket.append(t)
        used += t.nbytes
    if bucket:
        yield bucket


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
        # Imported after it, functions there have the group as their default: its threads would
        # live past `leave` and abort the process if one meets the interpreter's end.
        import torch.distributed.nn

        # Counts are summed on the CPU, gradients where they are.
        # The first one may collect traces for hours while the others wait.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=WAIT)
    return Ranks(dist.get_rank(), dist.get_world_size())

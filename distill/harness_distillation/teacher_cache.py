"""The teacher's next-token distributions, computed once and kept on disk.

Per taught token (every token of a kind other than CONTEXT, in the order of the samples): the ids
and log-probabilities of the top k and the log of what remains, at the loss's temperature; the exact
entropy and the exact log-probability of the token itself, at temperature 1. About 260 bytes a token
at k = 64.

The key names the samples, the tokenizer, and the teacher by its weights and config; a cache whose
key differs is refused (``shards``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from harness.errors import HarnessError
from harness_distillation import models, shards
from harness_distillation.dataset import Samples
from harness_distillation.losses import Target
from harness_distillation.machine import Precision
from harness_distillation.shards import SHARD


class LowMass(HarnessError):
    """The cached top k holds too little of the teacher's probability."""


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cache was computed from. ``samples`` covers texts, cuts and labels; ``template`` is
    the header and window they were rendered with; ``config`` is ``models.config_hash``."""

    samples: str
    tokenizer: str
    template: str
    teacher: str
    top_k: int
    precision: str = ""
    temperature: float = 1.0
    config: str = ""


class Manifest(shards.Manifest, frozen=True, kw_only=True):
    key: Key
    tokens: int
    mean_mass: float
    mean_entropy: float


class Cache(NamedTuple):
    """Arrays over N taught tokens: ``ids`` uint16 or int32 [N, k], ``logp`` fp16 [N, k], ``tail``
    fp32 [N] (log), ``entropy`` fp32 [N], ``target`` fp32 [N] (log-probability of the token)."""

    ids: np.ndarray
    logp: np.ndarray
    tail: np.ndarray
    entropy: np.ndarray
    target: np.ndarray

    @property
    def mean_mass(self) -> float:
        """Mean probability inside the top k."""
        return float(np.mean(-np.expm1(self.tail.astype(np.float64))))

    def pick(self, at: torch.Tensor) -> Target:
        """The distributions at places ``at`` int64 [S]."""
        i = at.numpy()
        return Target(
            torch.from_numpy(self.ids[i].astype(np.int64)),
            torch.from_numpy(self.logp[i].astype(np.float32)),
            torch.from_numpy(self.tail[i]),
        )


def build(
    folder: Path,
    teacher: Any,
    samples: Samples,
    key: Key,
    *,
    pad: int,
    entries: int,
    row_tokens: int = 8192,
    precision: Precision = "fp32",
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> Cache:
    """Compute what is missing and return the whole cache (``shards.build``), over the tokenizer's
    ``entries``."""
    models.check_reach(teacher, int(samples.lengths.max()))
    teacher.eval()
    models.check_isolation(teacher)

    def compute(part: range) -> shards.Arrays:
        pieces = [
            distribution(logits, targets, key.top_k, key.temperature)
            for logits, targets in shards.taught_logits(
                teacher, samples, part, pad, entries, row_tokens, precision
            )
        ] or [distribution_of_none(key.top_k)]
        return Cache(*(np.concatenate(x) for x in zip(*pieces, strict=True)))._asdict()

    def manifest(arrays: shards.Arrays, files: dict[str, str]) -> Manifest:
        cache = Cache(**arrays)
        return Manifest(
            key=key, tokens=len(cache.tail), mean_mass=cache.mean_mass,
            mean_entropy=float(cache.entropy.mean()), shards=files,
        )  # fmt: skip

    total = len(samples.lengths)
    return Cache(
        **shards.build(folder, key, total, compute, manifest, shard=shard, progress=progress)
    )


def load(folder: Path, key: Key, *, min_mass: float = 0.95) -> Cache:
    """A finished cache, whole and computed from exactly ``key`` (``shards.check``). Raises LowMass
    where its top k hold less than ``min_mass``."""
    manifest = shards.check(folder, key, Manifest)
    if manifest.mean_mass < min_mass:
        raise LowMass(
            f"{folder}: the top {key.top_k} hold {manifest.mean_mass:.1%} of the teacher's "
            f"probability, under {min_mass:.0%}.\n"
            "  Raise [teacher] top_k and start with --fresh, or lower min_mass to accept it."
        )
    return Cache(**shards.join(folder, list(manifest.shards)))


def distribution(
    logits: torch.Tensor, targets: torch.Tensor, k: int, temperature: float = 1.0
) -> Cache:
    """Cache entries of logits [S, V]; exact entropy and target log-probability, in fp32."""
    log_p = torch.log_softmax(logits.float(), -1)
    vocab = log_p.shape[-1]
    k = min(k, vocab)
    soft = log_p if temperature == 1.0 else torch.log_softmax(logits.float() / temperature, -1)
    top = soft.topk(k, -1)
    rest = soft.scatter(-1, top.indices, -torch.inf)
    tail = torch.logsumexp(rest, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return Cache(
        top.indices.cpu().numpy().astype(np.uint16 if vocab <= 65536 else np.int32),
        top.values.cpu().numpy().astype(np.float16),
        tail.cpu().numpy(),
        entropy.cpu().numpy(),
        log_p.gather(-1, targets[:, None])[:, 0].cpu().numpy(),
    )


def distribution_of_none(k: int) -> Cache:
    """Entries of no tokens at all."""
    return distribution(torch.zeros(0, k), torch.zeros(0, dtype=torch.int64), k)

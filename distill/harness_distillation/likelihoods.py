"""What a teacher with another tokenizer says of each chunk of the text, kept on disk.

Per chunk (``chunks``) the log of the teacher's likelihood, the sum over its tokens: 4 bytes. Per
sequence the teacher's mean exact entropy a taught token, for the curriculum. The teacher reads its
own tokens of the same blocks, cut where the student's tokens fill the window.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from harness_distillation import models, shards
from harness_distillation.chunks import Chunks, begins
from harness_distillation.dataset import Samples
from harness_distillation.losses import FLOOR
from harness_distillation.machine import Precision
from harness_distillation.shards import SHARD


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """What likelihoods were computed from. ``samples`` and ``tokenizer`` are the student's,
    ``teacher_samples`` and ``teacher_tokenizer`` the teacher's; ``template`` is the header and
    window they were rendered with, ``config`` is ``models.config_hash``."""

    samples: str
    tokenizer: str
    template: str
    teacher: str
    teacher_samples: str
    teacher_tokenizer: str
    precision: str = ""
    config: str = ""


class Manifest(shards.Manifest, frozen=True, kw_only=True):
    key: Key
    chunks: int
    mean_log_p: float


class Matched(NamedTuple):
    """U chunks of a row to match: ``chunk`` int64 [S], the one (0 .. U - 1) of each of S
    supervised targets, and ``log_p`` fp32 [U], the teacher's of each chunk."""

    chunk: torch.Tensor
    log_p: torch.Tensor

    def to(self, device: torch.device) -> Matched:
        return Matched(*(part.to(device, non_blocking=True) for part in self))


class Likelihoods(NamedTuple):
    """Of the student's N taught tokens: ``chunk`` int64 [N], ``first`` bool [N] (whether it begins
    that chunk) and ``entropy`` fp32 [N] (the teacher's mean over its sequence); ``log_p`` fp32 [C]
    of the chunks."""

    chunk: np.ndarray
    first: np.ndarray
    entropy: np.ndarray
    log_p: np.ndarray

    def begins(self, at: torch.Tensor) -> torch.Tensor:
        """Which of the tokens at places ``at`` int64 [S] begin a chunk, bool [S]."""
        return torch.from_numpy(self.first[at.numpy()])

    def chunks(self, at: torch.Tensor) -> torch.Tensor:
        """The chunks at places ``at``, where whole chunks stand one after another, int64 [U]. One
        counts twice where its sequence stands there twice."""
        return torch.from_numpy(self.chunk[at.numpy()])[self.begins(at)]

    def pick(self, at: torch.Tensor) -> Matched:
        """What to match of the tokens at places ``at``."""
        of_teacher = self.log_p[self.chunks(at).numpy()]
        return Matched(self.begins(at).cumsum(0) - 1, torch.from_numpy(of_teacher))


def build(
    folder: Path,
    teacher: Any,
    samples: Samples,
    chunks: Chunks,
    key: Key,
    *,
    pad: int,
    entries: int,
    row_tokens: int = 8192,
    precision: Precision = "fp32",
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Compute what is missing of the likelihoods in ``folder`` (``shards.build``).

    ``samples``, ``pad`` and ``entries`` are of the teacher's own tokenizer. Raises ConfigError when
    a sequence is longer than the teacher can read.
    """
    models.check_reach(teacher, int(samples.lengths.max()))
    teacher.eval()
    models.check_isolation(teacher)
    owner = np.repeat(np.arange(len(samples.lengths)), np.diff(samples.taught))

    def compute(part: range) -> shards.Arrays:
        log_p, entropy = [np.zeros(0)], [np.zeros(0)]
        for logits, targets in shards.taught_logits(
            teacher, samples, part, pad, entries, row_tokens, precision
        ):
            log_q = torch.log_softmax(logits, -1)
            of_target = log_q.gather(-1, targets[:, None])[:, 0].clamp(min=FLOOR)
            log_p.append(of_target.double().cpu().numpy())
            entropy.append(-(log_q.exp() * log_q).sum(-1).double().cpu().numpy())
        here = slice(int(samples.taught[part.start]), int(samples.taught[part.stop]))
        chunk, sequence = chunks.theirs[here], owner[here] - part.start
        n = np.bincount(sequence, minlength=len(part))
        total = np.bincount(sequence, np.concatenate(entropy), minlength=len(part))
        summed = np.bincount(chunk - chunk[:1], np.concatenate(log_p))
        return {"log_p": summed.astype(np.float32), "entropy": (total / n).astype(np.float32)}

    def manifest(arrays: shards.Arrays, files: dict[str, str]) -> Manifest:
        log_p = arrays["log_p"]
        return Manifest(key=key, chunks=len(log_p), mean_log_p=float(log_p.mean()), shards=files)

    total = len(samples.lengths)
    shards.build(folder, key, total, compute, manifest, shard=shard, progress=progress)


def load(folder: Path, key: Key, samples: Samples, chunks: Chunks) -> Likelihoods:
    """Finished likelihoods, whole and computed from exactly ``key`` (``shards.check``), for the
    student's ``samples``."""
    manifest = shards.check(folder, key, Manifest)
    arrays = shards.join(folder, list(manifest.shards))
    entropy = np.repeat(arrays["entropy"], np.diff(samples.taught))
    return Likelihoods(chunks.mine, begins(chunks.mine), entropy, arrays["log_p"])

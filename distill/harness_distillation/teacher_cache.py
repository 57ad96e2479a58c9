"""The teacher's next-token distributions, computed once and kept on disk.

Per taught token (every token of a kind other than CONTEXT, in the order of the samples): the ids
and log-probabilities of the top k, the log of what remains, the exact entropy and the exact
log-probability of the token itself, all at temperature 1. About 260 bytes a token at k = 64.

The key names the samples, the tokenizer and the teacher's weights; a cache whose key differs is
refused. Shards are written one by one and the manifest last, so a killed run goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from harness.errors import DataError, HarnessError
from harness_distillation import models
from harness_distillation.checkpoint import file_sha256
from harness_distillation.dataset import Samples, make_row
from harness_distillation.locks import alone
from harness_distillation.losses import Target
from harness_distillation.machine import Precision, autocast

#: Sequences a shard holds.
SHARD = 512
#: Positions whose logits exist at once.
CHUNK = 4096
MANIFEST = "manifest.json"


class CacheMismatch(DataError):
    """A teacher cache that was computed from something else."""


class LowMass(HarnessError):
    """The cached top k holds too little of the teacher's probability."""


class Key(msgspec.Struct, frozen=True):
    """What a cache was computed from. ``samples`` covers texts, cuts and labels; ``template`` is
    the header and window they were rendered with."""

    samples: str
    tokenizer: str
    template: str
    teacher: str
    top_k: int
    precision: str = ""


class Manifest(msgspec.Struct, frozen=True):
    key: Key
    tokens: int
    mean_mass: float
    mean_entropy: float
    shards: dict[str, str]


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
    """Compute what is missing and return the whole cache, over the tokenizer's ``entries``: logits
    beyond them (an embedding's padding) are of no token.

    An older cache in ``folder`` with another key is replaced (its builder must be gone); shards of
    a killed run with the same key are kept. Processes that build the same cache divide its shards.
    ``progress(done, total)`` counts sequences.
    """
    begun = folder / "key.json"
    with alone(begun_by := folder.with_name(f"{folder.name}-key")):
        if not begun.is_file() or begun.read_bytes() != msgspec.json.encode(key):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            begun.write_bytes(msgspec.json.encode(key))
    total = len(samples.offsets) - 1
    teacher.eval()
    models.check_isolation(teacher)
    shards = {
        f"shard-{first // shard:05d}.npz": range(first, min(first + shard, total))
        for first in range(0, total, shard)
    }
    for wait in (False, True):  # what another one is computing comes last
        for name, part in shards.items():
            with suppress(BlockingIOError), alone(folder / name, wait):
                if (folder / name).is_file():
                    continue
                found = _shard(
                    teacher, samples, part, key.top_k, pad, entries, row_tokens, precision
                )
                draft = folder / f".{name}.draft"
                with draft.open("wb") as file:
                    np.savez(file, **found._asdict())
                draft.rename(folder / name)
                if progress is not None:
                    done = sum(len(p) for n, p in shards.items() if (folder / n).is_file())
                    progress(done, total)
    with alone(begun_by):
        return _finish(folder, list(shards), key)


def _finish(folder: Path, names: list[str], key: Key) -> Cache:
    """The whole cache of these shards, and its manifest."""
    cache = _join(folder, names)
    manifest = Manifest(
        key,
        len(cache.tail),
        cache.mean_mass,
        float(cache.entropy.mean()),
        {name: file_sha256(folder / name) for name in names},
    )
    draft = folder / f".{MANIFEST}.draft"
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2))
    draft.rename(folder / MANIFEST)
    return cache


def load(folder: Path, key: Key, *, min_mass: float = 0.95) -> Cache:
    """A finished cache, whole and computed from exactly ``key``.

    Raises DataError (absent, damaged), CacheMismatch (another key, naming what differs) or LowMass.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no finished teacher cache there.")
    manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    for field in Key.__struct_fields__:
        have, want = getattr(manifest.key, field), getattr(key, field)
        if have != want:
            raise CacheMismatch(
                f"{folder}: computed with another {field} ({have}, needed {want}).\n"
                "  Delete the folder, or run the recipe with --fresh, to compute it again."
            )
    for name, sha256 in manifest.shards.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DataError(f"{folder / name} is missing or damaged. Delete the folder.")
    if manifest.mean_mass < min_mass:
        raise LowMass(
            f"{folder}: the top {key.top_k} hold {manifest.mean_mass:.1%} of the teacher's "
            f"probability, under {min_mass:.0%}.\n"
            "  Raise [teacher] top_k, or lower min_mass to accept it."
        )
    return _join(folder, list(manifest.shards))


@torch.no_grad()
def _shard(
    teacher: Any,
    samples: Samples,
    part: range,
    k: int,
    pad: int,
    entries: int,
    row_tokens: int,
    precision: Precision,
) -> Cache:
    body, head = models.body_and_head(teacher)
    device = models.device_of(teacher)
    every_kind = np.array([0, 1, 1, 1, 1, 1], dtype=np.int8)
    pieces = []
    for chosen in _rows(samples, part, row_tokens):
        length = sum(int(samples.lengths[s]) for s in chosen)
        row = make_row(samples, chosen, every_kind, length, pad).to(device)
        with autocast(precision, device):
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
        for first in range(0, len(row.at), CHUNK):
            at, targets = row.at[first : first + CHUNK], row.targets[first : first + CHUNK]
            logits = head(hidden[0, at].float())[:, :entries]
            pieces.append(distribution(logits, targets, k))
    if not pieces:
        return distribution_of_none(k)
    return Cache(*(np.concatenate(x) for x in zip(*pieces, strict=True)))


def distribution(logits: torch.Tensor, targets: torch.Tensor, k: int) -> Cache:
    """Cache entries of logits [S, V]; exact entropy and target log-probability, in fp32."""
    log_p = torch.log_softmax(logits.float(), -1)
    vocab = log_p.shape[-1]
    k = min(k, vocab)
    top = log_p.topk(k, -1)
    rest = log_p.scatter(-1, top.indices, -torch.inf)
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


def _rows(samples: Samples, part: range, row_tokens: int) -> list[list[int]]:
    rows: list[list[int]] = [[]]
    used = 0
    for s in part:
        need = int(samples.lengths[s])
        if rows[-1] and used + need > row_tokens:
            rows.append([])
            used = 0
        rows[-1].append(s)
        used += need
    return rows


def _join(folder: Path, names: list[str]) -> Cache:
    parts = []
    for name in names:
        with np.load(folder / name, allow_pickle=False) as f:
            parts.append([f[field] for field in Cache._fields])
    return Cache(*(np.concatenate(x) for x in zip(*parts, strict=True)))

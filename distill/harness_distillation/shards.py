"""What a teacher says of samples, computed once, in shards, and kept on disk under a key.

Shards are written one by one and the manifest last, so a killed run goes on. What was computed
under another key is refused.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch

from harness.errors import DataError
from harness_distillation import models
from harness_distillation.checkpoint import file_sha256
from harness_distillation.dataset import Samples, make_row
from harness_distillation.locks import alone
from harness_distillation.machine import Precision, autocast

#: Sequences a shard holds.
SHARD = 512
#: Positions whose logits exist at once.
CHUNK = 4096
MANIFEST = "manifest.json"

Arrays = dict[str, np.ndarray]


class CacheMismatch(DataError):
    """A teacher cache that was computed from something else."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """manifest.json of a finished cache: what it was computed from, and its files by hash."""

    key: Any
    shards: dict[str, str]


M = TypeVar("M", bound=Manifest)


def build(
    folder: Path,
    key: msgspec.Struct,
    total: int,
    compute: Callable[[range], Arrays],
    manifest: Callable[[Arrays, dict[str, str]], Manifest],
    *,
    shard: int = SHARD,
    progress: Callable[[int, int], None] | None = None,
) -> Arrays:
    """Compute what is missing of ``total`` sequences and return the whole.

    An older cache in ``folder`` with another key is replaced (its builder must be gone); shards of
    a killed run with the same key are kept. Processes that build the same cache divide its shards.
    ``compute`` gives the arrays of a range of sequences, ``manifest`` that of all arrays and
    shards; ``progress(done, total)`` counts sequences.
    """
    begun = folder / "key.json"
    with alone(begun_by := folder.with_name(f"{folder.name}-key")):
        if not begun.is_file() or begun.read_bytes() != msgspec.json.encode(key):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            begun.write_bytes(msgspec.json.encode(key))
    shards = {
        f"shard-{first // shard:05d}.npz": range(first, min(first + shard, total))
        for first in range(0, total, shard)
    }
    for wait in (False, True):  # what another one is computing comes last
        for name, part in shards.items():
            with suppress(BlockingIOError), alone(folder / name, wait):
                if (folder / name).is_file():
                    continue
                draft = folder / f".{name}.draft"
                found = compute(part)
                with draft.open("wb") as file:
                    np.savez(file, **found)  # type: ignore[arg-type]
                draft.rename(folder / name)
                if progress is not None:
                    done = sum(len(p) for n, p in shards.items() if (folder / n).is_file())
                    progress(done, total)
    with alone(begun_by):
        whole = join(folder, list(shards))
        finished = manifest(whole, {name: file_sha256(folder / name) for name in shards})
        draft = folder / f".{MANIFEST}.draft"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(finished), indent=2))
        draft.rename(folder / MANIFEST)
    return whole


def check(folder: Path, key: msgspec.Struct, kind: type[M]) -> M:
    """The manifest of a finished cache, whole and computed from exactly ``key``.

    Raises DataError (absent, damaged) or CacheMismatch (another key, naming what differs).
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no finished teacher cache there.")
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.DecodeError as error:
        raise DataError(f"{path} is damaged: {error}. Delete the folder.") from None
    for field in key.__struct_fields__:
        have, want = getattr(manifest.key, field), getattr(key, field)
        unnoted = field == "config" and not have  # made before it was in the key
        if have != want and not unnoted:
            raise CacheMismatch(
                f"{folder}: computed with another {field} ({have}, needed {want}).\n"
                "  Delete the folder, or run the recipe with --fresh, to compute it again."
            )
    for name, sha256 in manifest.shards.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise DataError(f"{folder / name} is missing or damaged. Delete the folder.")
    return manifest


def join(folder: Path, names: list[str]) -> Arrays:
    """The arrays of these shards, one after another."""
    parts: list[Arrays] = []
    for name in names:
        with np.load(folder / name, allow_pickle=False) as f:
            parts.append(dict(f))
    return {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}


@torch.no_grad()
def taught_logits(
    teacher: Any, samples: Samples, part: range, pad: int, entries: int, row_tokens: int,
    precision: Precision,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:  # fmt: skip
    """The teacher's logits [n, ``entries``] at the taught tokens of sequences ``part``, in their
    order, at most CHUNK at once, and those tokens int64 [n]. What an embedding has beyond the
    tokenizer's entries is of no token."""
    body, head = models.body_and_head(teacher)
    device = models.device_of(teacher)
    every_kind = np.array([0, 1, 1, 1, 1, 1], dtype=np.int8)
    for chosen in _rows(samples, part, row_tokens):
        length = sum(int(samples.lengths[s]) for s in chosen)
        row = make_row(samples, chosen, every_kind, length, pad).to(device)
        with autocast(precision, device):
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
        for first in range(0, len(row.at), CHUNK):
            at = row.at[first : first + CHUNK]
            yield head(hidden[0, at].float())[:, :entries], row.targets[first : first + CHUNK]


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

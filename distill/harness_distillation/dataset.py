"""From episodes to rows of tokens: whole episodes, cut only where play would cut, packed.

    episodes -> encode -> Samples (one token sequence a window) -> Sampler -> rows -> Row tensors

The order of rows is a pure function of (seed, step): nothing but the step need be remembered to
resume exactly.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from harness.errors import DataError
from harness.transcript import Kind, render, window_start
from harness.types import Episode
from harness_distillation.tokenizer import OBSERVED, SegmentEncoder

#: Rows packed together: more fill better, fewer keep a curriculum's order better.
PACK_ROWS = 8
#: A row filled less is taken apart again and packed with what comes next.
MIN_FILL = 0.97
#: Longest document of padding.
PADDING = 256


class Samples(NamedTuple):
    """Token sequences, one after another.

    ``ids`` int32 [N] and ``kinds`` int8 [N] (segment kinds, or OBSERVED; what another window
    teaches already is CONTEXT); ``offsets`` int64 [S + 1] cut them into S sequences; ``episode``
    int32 [S].
    ``taught`` int64 [S + 1] counts the tokens with a kind other than CONTEXT before each sequence:
    the coordinates of the teacher cache.
    """

    ids: np.ndarray
    kinds: np.ndarray
    offsets: np.ndarray
    episode: np.ndarray
    taught: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def hash(self) -> str:
        """16 hex digits over ids, kinds and cuts."""
        digest = hashlib.sha256()
        for array in (self.ids, self.kinds, self.offsets):
            digest.update(array.tobytes())
        return digest.hexdigest()[:16]

    def part(self, s: int) -> slice:
        return slice(int(self.offsets[s]), int(self.offsets[s + 1]))

    def save(self, path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, ids=self.ids, kinds=self.kinds, offsets=self.offsets,
                     episode=self.episode)  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Raises DataError for a file that is missing or damaged."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as f:
                return cls.make(f["ids"], f["kinds"], f["offsets"], f["episode"])
        except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is missing or damaged: {error}\n"
                f"  The recipe makes it again from its traces where {path.parent} is deleted."
            ) from None

    @classmethod
    def make(
        cls, ids: np.ndarray, kinds: np.ndarray, offsets: np.ndarray, episode: np.ndarray
    ) -> Samples:
        before = np.concatenate([[0], np.cumsum(kinds != Kind.CONTEXT)])
        return cls(ids, kinds, offsets, episode, before[offsets])


class Skipped(NamedTuple):
    """Decisions that cannot be taught: the agent could not have made them at this window, or they
    end after a sequence does."""

    overflow: int
    too_long: int


def encode(
    episodes: Sequence[Episode],
    encoder: SegmentEncoder,
    header: str,
    window: int,
    max_new_tokens: int,
    *,
    per_step: bool = False,
    truncate: int | None = None,
    observations: bool = False,
    sampled: bool = False,
) -> tuple[Samples, Skipped]:
    """Tokenise episodes and cut the long ones where play would cut them.

    Every decision is taught once, after exactly the context the agent would have read when it made
    it: ``transcript.window_start`` with the limit ``window - max_new_tokens``. Decisions with one
    start share a sequence, or with ``per_step`` each has its own. ``Skipped`` counts decisions
    after an observation that does not fit (play would have ended) and those longer than a sequence.
    ``truncate`` cuts whole episodes after so many tokens instead. With ``observations`` their
    tokens are targets too (OBSERVED), once each. With ``sampled`` a reply keeps the ids that a
    model sampled (of the encoder's tokenizer), however its text would be tokenised.
    """
    (samples,), skipped = _encode(
        episodes, (encoder,), header, window, max_new_tokens, per_step, truncate, observations,
        sampled,
    )  # fmt: skip
    return samples, skipped


def encode_both(
    episodes: Sequence[Episode],
    encoder: SegmentEncoder,
    other: SegmentEncoder,
    header: str,
    window: int,
    max_new_tokens: int,
    *,
    per_step: bool = False,
    observations: bool = False,
) -> tuple[Samples, Samples, Skipped]:
    """``encode``, and the same sequences of the same blocks in the tokens of ``other``: the first
    one's lengths decide where a window begins."""
    (samples, others), skipped = _encode(
        episodes, (encoder, other), header, window, max_new_tokens, per_step, None, observations,
        False,
    )  # fmt: skip
    return samples, others, skipped


def _encode(
    episodes: Sequence[Episode],
    encoders: Sequence[SegmentEncoder],
    header: str,
    window: int,
    max_new_tokens: int,
    per_step: bool,
    truncate: int | None,
    observations: bool,
    sampled: bool,
) -> tuple[list[Samples], Skipped]:
    """Samples of every encoder, cut by the first one's lengths."""
    ids: list[list[np.ndarray]] = [[] for _ in encoders]
    kinds: list[list[np.ndarray]] = [[] for _ in encoders]
    owners: list[int] = []
    overflow = too_long = 0
    for number, episode in enumerate(episodes):
        blocks = render(header.replace("{instruction}", episode.instruction), episode.steps)
        spelled = [[encoder.segments(block) for block in blocks] for encoder in encoders]
        encoded = spelled[0]
        if sampled:
            for i, step in enumerate(episode.steps, 1):
                encoded[i] = encoders[0].as_sampled(blocks[i], step.decision.completion, encoded[i])
        seen = [
            [len(encoder.encode(block[0].text)) for block in blocks[1:]] for encoder in encoders
        ]
        if observations:
            for whole, lengths in zip(spelled, seen, strict=True):
                for e, n in zip(whole[1:], lengths, strict=True):
                    e.kinds[:n] = OBSERVED
        size = [len(e.ids) for e in encoded]
        limit = window - max_new_tokens if truncate is None else sum(size)
        cuts = windows(size[0], size[1:], seen[0], limit)
        for start, first, last in _single(cuts) if per_step else cuts:
            if start is None:
                overflow += last - first
                continue
            read = [0, *range(1 + start, 1 + last)]
            if truncate is None:
                while sum(size[i] for i in read) > window and len(read) > 1:
                    read.pop()
                    too_long += 1
            else:
                ends = np.cumsum([size[i] for i in read])
                too_long += int(np.sum(ends[1 + first - start :] > truncate))
            labels = [
                np.concatenate(
                    [whole[i].kinds if i > first else np.zeros_like(whole[i].kinds) for i in read]
                )[:truncate]
                for whole in spelled
            ]
            if not labels[0].any():
                continue
            for n, whole in enumerate(spelled):
                ids[n].append(np.concatenate([whole[i].ids for i in read])[:truncate])
                kinds[n].append(labels[n])
            owners.append(number)
    if not owners:
        raise DataError(
            f"No decision can be taught at window {window}: every observation is longer, "
            "or every decision was injected."
        )
    owner = np.array(owners, dtype=np.int32)
    found = [
        Samples.make(
            np.concatenate(i),
            np.concatenate(k),
            np.cumsum([0, *map(len, i)]).astype(np.int64),
            owner,
        )
        for i, k in zip(ids, kinds, strict=True)
    ]
    return found, Skipped(overflow, too_long)


def windows(
    head: int, blocks: Sequence[int], seen: Sequence[int], limit: int
) -> Iterator[tuple[int | None, int, int]]:
    """(start, first, last): decisions first..last-1 are taught after header + blocks[start:].

    ``blocks`` are whole step blocks in tokens, ``seen`` their observations alone (what is there
    when the decision is made). ``start`` is None where play would end for lack of room.
    """
    n = len(blocks)
    if head + sum(blocks) <= limit:
        yield 0, 0, n
        return
    starts: list[int | None] = []
    for k in range(n):
        start = window_start(head, [*blocks[:k], seen[k]], limit)
        starts.append(start if start <= k else None)
    first = 0
    for k in range(1, n + 1):
        if k == n or starts[k] != starts[first]:
            yield starts[first], first, k
            first = k


def _single(cuts: Iterable[tuple[int | None, int, int]]) -> Iterator[tuple[int | None, int, int]]:
    """Every decision by itself."""
    for start, first, last in cuts:
        yield from ((start, k, k + 1) for k in range(first, last))


class Row(NamedTuple):
    """One packed row, ready for the model: documents back to back, padding as the last one.

    ``ids, positions`` int64 [1, T]; ``bounds`` int64 [D + 1]; ``at`` int64 [S]: the positions
    whose hidden state predicts a supervised target; ``targets`` int64 [S] and ``labels`` int64 [S]
    of those; ``cached`` int64 [S]: their places in the teacher cache; ``tokens``: without padding.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    bounds: torch.Tensor
    at: torch.Tensor
    targets: torch.Tensor
    labels: torch.Tensor
    cached: torch.Tensor
    tokens: int

    def to(self, device: torch.device) -> Row:
        """What the model and its loss read, on ``device``; ``bounds`` and ``cached`` stay."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=True)
            for name in ("ids", "positions", "at", "targets", "labels")
        }
        return self._replace(**moved)


def make_row(
    samples: Samples, chosen: Sequence[int], classes: np.ndarray, length: int, pad: int,
    padding: int = PADDING,
) -> Row:  # fmt: skip
    """Pack the sequences ``chosen`` into one row of ``length`` tokens.

    ``classes`` int8 [6] maps segment kinds to loss classes (0: unsupervised). ``padding``:
    longest document of ``pad``, less than PADDING for a model with fewer positions.
    """
    ids = np.full(length, pad, dtype=np.int64)
    kinds = np.zeros(length, dtype=np.int8)
    positions = np.zeros(length, dtype=np.int64)
    bounds = [0]
    cached = []
    for s in chosen:
        part = samples.part(s)
        a, b = bounds[-1], bounds[-1] + part.stop - part.start
        ids[a:b], kinds[a:b] = samples.ids[part], samples.kinds[part]
        positions[a:b] = np.arange(b - a)
        cached.append(np.arange(samples.taught[s], samples.taught[s + 1]))
        bounds.append(b)
    tokens = bounds[-1]
    # Padding is cut in documents too, so that it has no position that a model has not.
    while bounds[-1] < length:
        a = bounds[-1]
        b = min(length, a + padding)
        positions[a:b] = np.arange(b - a)
        bounds.append(b)
    labels = classes[kinds]
    at = np.flatnonzero(labels)
    place = np.concatenate(cached)[labels[kinds != Kind.CONTEXT] > 0]
    return Row(
        torch.from_numpy(ids)[None],
        torch.from_numpy(positions)[None],
        torch.tensor(bounds, dtype=torch.int64),
        torch.from_numpy(at - 1),
        torch.from_numpy(ids[at]),
        torch.from_numpy(labels[at].astype(np.int64)),
        torch.from_numpy(place.astype(np.int64)),
        tokens,
    )


def pack(
    lengths: np.ndarray, order: Iterator[int], row_tokens: int, seed: int
) -> Iterator[list[int]]:
    """Rows of sample indices, filled to at least MIN_FILL wherever the lengths allow.

    Best fit over PACK_ROWS rows' worth of the order; a row that stays emptier is taken apart and
    joins the next lot, so no sample is lost, repeated or favoured for its length. Samples are
    placed as they come: longest first would fill a little better, but make rows of like lengths,
    which in a corpus of several environments is a step of one of them. An order that ends gives
    its remaining samples in rows as full as they get.
    """
    waiting: list[int] = []
    lot = 0
    ended = False
    while not ended or waiting:
        total = sum(int(lengths[s]) for s in waiting)
        while not ended and total < PACK_ROWS * row_tokens:
            s = next(order, None)
            ended = s is None
            if s is not None:
                waiting.append(s)
                total += int(lengths[s])
        places, rooms = _best_fit([int(lengths[s]) for s in waiting], row_tokens)
        full = [
            i for i, room in enumerate(rooms) if ended or row_tokens - room >= MIN_FILL * row_tokens
        ]
        if rooms and not full:
            full = [int(np.argmin(rooms))]
        rows = [[waiting[at] for at in places[i]] for i in full]
        used = {at for i in full for at in places[i]}
        waiting = [s for at, s in enumerate(waiting) if at not in used]
        for i in np.random.default_rng([seed, 2, lot]).permutation(len(rows)):
            yield rows[i]
        lot += 1


def _best_fit(lengths: Sequence[int], room: int) -> tuple[list[list[int]], list[int]]:
    """Places in ``lengths`` row by row, each in the fullest row with room, and the room that each
    row has left."""
    rows: list[list[int]] = []
    rooms: list[int] = []
    for at, length in enumerate(lengths):
        fits = [i for i, left in enumerate(rooms) if left >= length]
        if fits:
            best = min(fits, key=lambda i: rooms[i])
            rows[best].append(at)
            rooms[best] -= lengths[at]
        else:
            rows.append([at])
            rooms.append(room - lengths[at])
    return rows, rooms

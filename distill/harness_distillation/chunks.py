"""Where two tokenizations of one text meet: chunks, the units of likelihood matching.

A chunk is what both tokenizers spell between two neighbouring places where both have a boundary:
as short as it can be, one token or more on either side. Segments are tokenised alone, so both have
a boundary at a segment's ends: a chunk lies inside one segment, and so in one sequence and row, and
all its tokens have one label. Places are counted in bytes, since a byte-level token may end inside
a character.

    mine    | I|  need| a| mug|.|         chunks: | I need| a| mug|.|
    theirs  | I need| a| m|ug|.|
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.errors import ConfigError
from harness.transcript import Kind
from harness_distillation.dataset import Samples

_PRINTED = [*range(33, 127), *range(161, 173), *range(174, 256)]
#: The byte that each character of a byte-level vocabulary stands for (GPT-2's alphabet): printed
#: ones for themselves, the others by characters from 256 on.
BYTES = {chr(b): b for b in _PRINTED} | {
    chr(256 + n): b for n, b in enumerate(sorted(set(range(256)) - set(_PRINTED)))
}


class Chunks(NamedTuple):
    """C chunks, in the order of the text.

    ``mine`` int64 [N] and ``theirs`` int64 [N']: the chunk 0 .. C - 1 of every taught token of the
    student's samples and of the teacher's.
    """

    mine: np.ndarray
    theirs: np.ndarray


def align(mine: Samples, theirs: Samples, tokenizer: Any, other: Any) -> Chunks:
    """The chunks of the same sequences in two tokenizers (``dataset.encode_both``).

    Raises ConfigError where a tokenizer does not spell the text byte for byte.
    """
    text, ends = spell(tokenizer, mine.ids)
    read, others = spell(other, theirs.ids)
    same = np.array_equal(ends[mine.offsets[1:] - 1], others[theirs.offsets[1:] - 1])
    if text != read or not same:
        raise ConfigError(
            "The teacher's tokenizer and the student's do not spell the same text (one of them "
            "normalises it): likelihoods cannot be matched.\n"
            "  Train on the teacher's text instead (objective seqkd or sad_ce)."
        )
    meet = np.intersect1d(ends, others)
    return Chunks(_number(mine, meet, ends), _number(theirs, meet, others))


def spell(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> tuple[bytes, np.ndarray]:
    """What token ids spell, and the byte behind each of them, int64 [n].

    Raises ConfigError for a tokenizer that is not byte-level.
    """
    used, place = np.unique(np.asarray(ids), return_inverse=True)
    added = tokenizer.added_tokens_decoder
    pieces: list[bytes] = []
    for i, piece in zip(used.tolist(), tokenizer.convert_ids_to_tokens(used.tolist()), strict=True):
        if i in added:
            pieces.append(added[i].content.encode())
        elif set(piece) <= BYTES.keys():
            pieces.append(bytes(BYTES[c] for c in piece))
        else:
            raise ConfigError(
                f"{type(tokenizer).__name__}: token {i} ({piece!r}) is not spelled in bytes, and "
                "likelihoods are matched between byte-level tokenizers alone.\n"
                "  Train on the teacher's text instead (objective seqkd or sad_ce)."
            )
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    return b"".join(pieces[i] for i in place.tolist()), np.cumsum(lengths[place])


def first_tokens(samples: Samples, chunk: np.ndarray) -> Samples:
    """The samples with the first token alone of every taught chunk: what normalisers count.

    ``chunk`` int64 [taught tokens] are the chunks of ``samples``.
    """
    keep = samples.kinds == Kind.CONTEXT
    keep[~keep] = begins(chunk)
    offsets = np.concatenate([[0], np.cumsum(keep)])[samples.offsets]
    return Samples.make(samples.ids[keep], samples.kinds[keep], offsets, samples.episode)


def begins(chunk: np.ndarray) -> np.ndarray:
    """Which of N tokens in the order of the text begin a chunk, bool [N]."""
    new: np.ndarray = np.diff(chunk, prepend=-1) != 0
    return new


def _number(samples: Samples, meet: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The chunk of every taught token, numbered without gaps."""
    chunk = np.searchsorted(meet, ends)[samples.kinds != Kind.CONTEXT]
    return np.cumsum(begins(chunk)) - 1

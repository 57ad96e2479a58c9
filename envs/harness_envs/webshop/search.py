"""The shop's search engine: Lucene's BM25 over an own inverted index in NumPy arrays.

No search library at hand scores with Lucene's quantised document lengths and free k1 and b, so
postings and scoring are written out here, in Lucene 9's single precision. Order of equal scores:
asin ascending, as Anserini (the original's search) breaks ties.

Sources: ``org.apache.lucene.search.similarities.BM25Similarity``, ``util.SmallFloat``, Anserini's
``BagOfWordsQueryGenerator`` (a word repeated in the query counts as often).
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness_envs.webshop.analysis import terms
from harness_envs.webshop.site import TooManyTerms

Array = npt.NDArray[Any]

K1, B = 0.9, 0.4
#: Lucene refuses queries of more distinct terms (``IndexSearcher.maxClauseCount``).
MAX_TERMS = 1024
#: Of the files on disk and the terms in them; another number is another index.
FORMAT = 3
_ARRAYS = ("offsets", "docs", "codes", "letters", "starts", "asins")
#: Documents per block while an index is built.
BLOCK = 20_000


def to_byte4(length: int) -> int:
    """``SmallFloat.intToByte4``: a length as one byte, exact up to 40, then 4 significant bits."""
    return length if length < _EXACT else _EXACT + _to_int4(length - _EXACT)


def from_byte4(byte: int) -> int:
    """``SmallFloat.byte4ToInt``."""
    return byte if byte < _EXACT else _EXACT + _from_int4(byte - _EXACT)


def _to_int4(value: int) -> int:
    bits = value.bit_length()
    if bits < 4:
        return value
    shift = bits - 4
    return ((value >> shift) & 7) | ((shift + 1) << 3)


def _from_int4(value: int) -> int:
    bits, shift = value & 7, (value >> 3) - 1
    return bits if shift < 0 else (bits | 8) << shift


_EXACT = 255 - _to_int4(2**31 - 1)


class Index:
    """Postings of a catalogue. Documents are numbered by asin, so that number breaks ties.

    ``offsets``: term -> its first posting; ``docs`` and ``codes``: a posting's document and its
    ``frequency * 256 + length byte`` (frequencies above 255 count as 255, where BM25 is flat);
    ``letters`` and ``starts``: the terms' UTF-8 bytes, sorted; ``asins``: document -> asin.
    """

    def __init__(self, average_length: float, **arrays: Array) -> None:
        self.offsets, self.docs, self.codes = (arrays[name] for name in _ARRAYS[:3])
        self.letters, self.starts, self.asins = (arrays[name] for name in _ARRAYS[3:])
        self.average_length = average_length
        lengths = np.array([from_byte4(byte) for byte in range(256)], dtype=np.float32)
        k1, b, one = np.float32(K1), np.float32(B), np.float32(1)
        norms = one / (k1 * ((one - b) + b * lengths / np.float32(average_length)))
        frequencies = np.arange(256, dtype=np.float32)[:, None]
        #: posting code -> 1 + frequency * norm, the denominator of Lucene's formula.
        self._denominators = (one + frequencies * norms[None, :]).ravel()
        self._cached = lru_cache(maxsize=1024)(self._hits)

    def __len__(self) -> int:
        return len(self.asins)

    @property
    def nbytes(self) -> int:
        return sum(int(getattr(self, name).nbytes) for name in _ARRAYS)

    def search(self, query: str, k: int) -> list[str]:
        """asins of the ``k`` best documents, best first. TooManyTerms for over 1,024 of them."""
        return [asin for asin, _ in self.hits(query, k)]

    def hits(self, query: str, k: int) -> list[tuple[str, float]]:
        """The ``k`` best documents with their BM25 scores (single precision)."""
        counted = Counter(terms(query))
        if len(counted) > MAX_TERMS:
            raise TooManyTerms(f"a query of {len(counted)} distinct terms (at most {MAX_TERMS})")
        return list(self._cached(tuple(sorted(counted.items())), k))

    def _hits(self, counted: tuple[tuple[str, int], ...], k: int) -> tuple[tuple[str, float], ...]:
        weighted: list[tuple[float, int, int]] = []  # (weight, first posting, end)
        for term, count in counted:
            start, end = self._postings(term)
            if end > start:
                weighted.append((self._idf(end - start) * count, start, end))
        if not weighted:
            return ()
        best, scores = self._top(sorted(weighted, reverse=True), k)
        return tuple(
            (bytes(self.asins[doc]).decode(), float(score))
            for doc, score in zip(best, scores, strict=True)
        )

    def _idf(self, df: int) -> float:
        return float(np.float32(math.log(1 + (len(self) - df + 0.5) / (df + 0.5))))

    def _contributions(self, weight: float, codes: Array) -> Array:
        w = np.float32(weight)
        if len(codes) < len(self._denominators):
            return w - w / self._denominators[codes]
        contributions: Array = (w - w / self._denominators)[codes]
        return contributions

    def _top(self, weighted: Sequence[tuple[float, int, int]], k: int) -> tuple[Array, Array]:
        """Documents and scores of the ``k`` best; terms come heaviest (rarest) first.

        A term adds less than its weight. Once the terms left cannot lift an unseen document over
        the ``k``-th best seen, only documents still in reach are looked up in their postings.
        """
        scores = np.zeros(len(self), dtype=np.float64)
        left = sum(weight for weight, _, _ in weighted)
        bound = 0.0
        reach: Array | None = None
        for weight, start, end in weighted:
            docs, codes = self.docs[start:end], self.codes[start:end]
            if reach is None and left < bound:
                reach = np.flatnonzero(scores >= bound - left)
            if reach is None:
                scores[docs] += self._contributions(weight, codes)
                if len(docs) >= k:
                    bound = max(bound, float(np.partition(scores[docs], -k)[-k]))
            else:
                at = np.minimum(np.searchsorted(docs, reach), len(docs) - 1)
                held = docs[at] == reach
                scores[reach[held]] += self._contributions(weight, codes[at[held]])
                reach = reach[scores[reach] >= bound - left + weight]
            left -= weight
        found = np.flatnonzero(scores >= max(bound * (1 - 1e-6), np.nextafter(0, 1)))
        single = scores[found].astype(np.float32)
        order = np.lexsort((found, -single))[:k]
        return found[order], single[order]

    def _postings(self, term: str) -> tuple[int, int]:
        """Where a term's postings lie; an empty range for an unknown one."""
        wanted = term.encode("utf-8", "surrogatepass")
        low, high = 0, len(self.starts) - 1
        while low < high:
            middle = (low + high) // 2
            if self._term(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self.starts) - 1 or self._term(low) != wanted:
            return 0, 0
        return int(self.offsets[low]), int(self.offsets[low + 1])

    def _term(self, number: int) -> bytes:
        return self.letters[self.starts[number] : self.starts[number + 1]].tobytes()

    def save(self, folder: Path) -> None:
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name))
        about = {"format": FORMAT, "average_length": self.average_length}
        (folder / "index.json").write_text(json.dumps(about))

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Open a saved index; its arrays stay on disk and are mapped into memory."""
        about = json.loads((folder / "index.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return cls(about["average_length"], **arrays)


# Building ---------------------------------------------------------------------------------


def build(
    documents: Iterable[tuple[str, str]], folder: Path | None = None, block: int = BLOCK
) -> Index:
    """Index (asin, text) pairs, which come sorted by asin.

    With ``folder`` intermediate and final arrays are written there and mapped; an existing index in
    it is opened instead. A folder appears whole or not at all. ``block``: documents held at once.
    """
    if folder is None:
        return _build(documents, None, block)
    if not (folder / "index.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))
        try:
            _build(documents, part, block).save(part)
            for leftover in part.glob("part-*"):
                leftover.unlink()
            _move(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Index.load(folder)


def _move(part: Path, folder: Path) -> None:
    try:
        os.replace(part, folder)
    except OSError:
        if not (folder / "index.json").is_file():  # else another process was faster
            raise


class _Block:
    """Postings of some documents, sorted by (term number as met, document)."""

    def __init__(self, term: list[int], doc: list[int], code: list[int]) -> None:
        numbers = np.array(term, dtype=np.int32)
        order = np.argsort(numbers, kind="stable")
        self.terms = numbers[order]
        self.docs = np.array(doc, dtype=np.int32)[order]
        self.codes = np.array(code, dtype=np.uint16)[order]

    def keep(self, path: Path) -> None:
        """Move the arrays to disk."""
        for name in ("terms", "docs", "codes"):
            file = path.with_name(f"{path.name}-{name}.npy")
            np.save(file, getattr(self, name))
            setattr(self, name, np.load(file, mmap_mode="r"))


def _build(documents: Iterable[tuple[str, str]], folder: Path | None, block: int) -> Index:
    vocabulary: dict[str, int] = {}
    asins: list[str] = []
    blocks: list[_Block] = []
    total = 0
    for group in _grouped(documents, block):
        term: list[int] = []
        doc: list[int] = []
        code: list[int] = []
        for asin, text in group:
            counted = Counter(terms(text))
            length = counted.total()
            total += length
            byte = to_byte4(length)
            for word, frequency in counted.items():
                term.append(vocabulary.setdefault(word, len(vocabulary)))
                doc.append(len(asins))
                code.append(min(frequency, 255) << 8 | byte)
            asins.append(asin)
        blocks.append(_Block(term, doc, code))
        if folder is not None:
            blocks[-1].keep(folder / f"part-{len(blocks)}")
    return _merge(vocabulary, asins, blocks, max(total, 1) / max(len(asins), 1), folder)


def _grouped(documents: Iterable[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    rest = iter(documents)
    while group := list(itertools.islice(rest, size)):
        yield group


def _merge(
    vocabulary: dict[str, int],
    asins: list[str],
    blocks: list[_Block],
    average_length: float,
    folder: Path | None,
) -> Index:
    size = len(vocabulary)
    encoded = [term.encode("utf-8", "surrogatepass") for term in vocabulary]
    order = sorted(range(size), key=encoded.__getitem__)
    place = np.empty(size, dtype=np.int32)  # term as met -> term as sorted
    place[order] = np.arange(size, dtype=np.int32)
    counts = np.zeros(size, dtype=np.int64)
    for block in blocks:
        counts += np.bincount(place[block.terms], minlength=size)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    docs = _array("docs", int(offsets[-1]), np.int32, folder)
    codes = _array("codes", int(offsets[-1]), np.uint16, folder)
    cursor = offsets[:-1].copy()
    for block in blocks:
        first = np.flatnonzero(np.diff(block.terms, prepend=-1))
        lengths = np.diff(first, append=len(block.terms))
        numbers = place[block.terms[first]]
        within = np.arange(len(block.terms)) - np.repeat(first, lengths)
        target = np.repeat(cursor[numbers], lengths) + within
        docs[target], codes[target] = block.docs, block.codes
        cursor[numbers] += lengths
    ordered = [encoded[number] for number in order]
    starts = np.cumsum([0, *map(len, ordered)])
    return Index(
        average_length,
        offsets=offsets,
        docs=docs,
        codes=codes,
        letters=np.frombuffer(b"".join(ordered), dtype=np.uint8),
        starts=starts,
        asins=np.array([asin.encode() for asin in asins], dtype=np.bytes_),
    )


def _array(name: str, size: int, kind: Any, folder: Path | None) -> Array:
    if folder is None or size == 0:
        return np.empty(size, dtype=kind)
    file = folder / f"part-{name}.npy"
    mapped: Array = np.lib.format.open_memmap(file, mode="w+", dtype=kind, shape=(size,))
    return mapped

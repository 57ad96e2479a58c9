"""Pages on this machine, found by title: exactly, by redirect, or by how alike the titles are.

An index is a few flat arrays, held in memory or mapped from a folder, so that one of millions of
pages opens at once and costs little memory. Build one with::

    python -m harness_envs.hotpotqa.corpus SOURCE FOLDER
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import DataError
from harness_envs.hotpotqa.reading import SHOWN
from harness_envs.hotpotqa.records import Page, Redirect

#: Bumped whenever the files of an index change.
FORMAT = 1
INDEX_FILE = "index.json"

#: Character trigrams are hashed into this many buckets.
_BITS = 18
#: Postings read for one query at most, those of its rarest trigrams first.
_BUDGET = 50_000
#: Titles that are compared with all trigrams of the query.
_FINALISTS = 100
#: Names whose trigrams are computed at once while an index is built.
CHUNK = 100_000

_ARRAYS = ("names", "name_starts", "name_pages", "pages", "page_starts", "keys", "key_names",
           "starts", "postings", "norms")  # fmt: skip

_Numbers = NDArray[Any]

_SAME = str.maketrans({"_": " ", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": "-", "−": "-",
                       "‘": "'", "’": "'", "“": '"', "”": '"'})  # fmt: skip
_WORD = re.compile(r"[^\W_]+")


def fold(title: str) -> str:
    """What two titles share that differ in case, accents, dashes, quotes or blanks only.

    >>> fold("  Javier_GULLÓN ")
    'javier gullon'
    """
    text = title.translate(_SAME).casefold()
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(c for c in text if not unicodedata.combining(c)).translate(_SAME)
    return " ".join(text.split())


class Corpus:
    """A set of pages. Safe to share between threads: nothing changes after it is built.

    ``fingerprint`` is 16 hex digits over all pages in order: equal ones answer alike.
    """

    def __init__(self, arrays: dict[str, _Numbers], fingerprint: str) -> None:
        self._arrays = arrays
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self._arrays["page_starts"]) - 1

    @classmethod
    def build(cls, pages: Iterable[Page | Redirect]) -> Corpus:
        """An index in memory."""
        with tempfile.TemporaryDirectory() as folder:
            write_index(pages, Path(folder))
            return cls._load(Path(folder), mapped=False)

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """An index that ``write_index`` left in a folder; its files are mapped, not read.

        Raises:
            DataError: no index there, a damaged one, or one of another format.
        """
        return cls._load(folder, mapped=True)

    @classmethod
    def _load(cls, folder: Path, *, mapped: bool) -> Corpus:
        remedy = f"Build it again: python -m harness_envs.hotpotqa.corpus SOURCE {folder}"
        try:
            about = json.loads((folder / INDEX_FILE).read_bytes())
            if about["format"] != FORMAT:
                raise DataError(
                    f"{folder}: an index of format {about['format']}, this version reads {FORMAT}."
                    f"\n  {remedy}"
                )
            mode: Any = "r" if mapped else None
            # As plain arrays: NumPy's memmap class is slow to slice.
            arrays = {n: np.asarray(np.load(folder / f"{n}.npy", mmap_mode=mode)) for n in _ARRAYS}
            fingerprint = str(about["fingerprint"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{folder}: not an index of pages: {type(error).__name__}: {error}.\n  {remedy}"
            ) from None
        return cls(arrays, fingerprint)

    def find(self, entity: str) -> Page | None:
        """The page of this title, or that it redirects to; None without one.

        Like Wikipedia's "go": the title as written wins, then with a capital, then any title that
        is the same when folded; titles go before redirects.
        """
        name = self._name(entity)
        return None if name is None else self.page(int(self._arrays["name_pages"][name]))

    def page(self, number: int) -> Page:
        """The page at a place of the corpus; its redirects are not told."""
        text = self._text("pages", "page_starts", number)
        return Page(self._text("names", "name_starts", number), tuple(text.split("\n")))

    def titles(self) -> Iterator[str]:
        """Titles of all pages, in order."""
        return (self._text("names", "name_starts", i) for i in range(len(self)))

    def similar(self, entity: str, count: int = SHOWN) -> list[str]:
        """Titles most like ``entity``, best first, at most ``count``.

        Likeness is the cosine of the titles' character trigrams, weighed by how rare they are
        (words are padded, so their beginnings and ends count). A page that is reached by a
        redirect goes by its title; one of the very name asked for is not merely similar.
        """
        wanted = np.unique(_trigrams([fold(entity)])[1])
        candidates = self._candidates(wanted)
        if not len(candidates):
            return []
        names = [self._text("names", "name_starts", int(i)) for i in candidates]
        folded = [fold(name) for name in names]
        owner, bucket = _trigrams(folded)
        weight = self._weights(bucket) ** 2 * np.isin(bucket, wanted)
        scores = np.bincount(owner, weight, len(names)) / self._arrays["norms"][candidates]
        asked = fold(entity.strip("[] "))
        best: dict[str, tuple[float, int, str]] = {}
        for i, score in enumerate(scores.tolist()):
            page = int(self._arrays["name_pages"][candidates[i]])
            title = self._text("names", "name_starts", page)
            if asked in (folded[i], fold(title)):
                continue
            rank = (-round(score, 6), len(title), title)
            best[title] = min(rank, best.get(title, rank))
        return sorted(best, key=best.__getitem__)[:count]

    def _candidates(self, wanted: _Numbers) -> _Numbers:
        """Names that share the rarest of these trigrams, the likeliest ones."""
        starts, postings = self._arrays["starts"], self._arrays["postings"]
        begins, ends = starts[wanted], starts[wanted + 1]
        sizes = (ends - begins).astype(np.int64)
        order = [int(i) for i in np.argsort(sizes, kind="stable") if sizes[i]]
        parts: list[_Numbers] = []
        read = 0
        for i in order:
            if parts and read + sizes[i] > _BUDGET:
                break
            read += int(sizes[i])
            weight = np.uint64(self._weights(wanted[i : i + 1])[0] ** 2 * (1 << 16))
            having = postings[begins[i] : ends[i]].astype(np.uint64)
            parts.append((having << np.uint64(32)) | weight)
        if not parts:
            return np.empty(0, np.int64)
        # Sorted, the postings of one name stand together, each with its weight in the low half.
        packed = np.concatenate(parts)
        packed.sort()
        names = (packed >> np.uint64(32)).astype(np.int64)
        first = np.flatnonzero(np.diff(names, prepend=-1))
        sums = np.add.reduceat(packed & np.uint64(0xFFFFFFFF), first).astype(np.float64)
        names = names[first]
        scores = sums / self._arrays["norms"][names]
        if len(names) <= _FINALISTS:
            return names
        # All that tie with the last one stay: which of them come first is not chance.
        bar = np.partition(scores, len(scores) - _FINALISTS)[len(scores) - _FINALISTS]
        best: _Numbers = names[scores >= bar][: 4 * _FINALISTS]
        return best

    def _weights(self, buckets: _Numbers) -> _Numbers:
        return _rarity(self._arrays["starts"], len(self._arrays["name_pages"]), buckets)

    def _name(self, entity: str) -> int | None:
        """Place of the name that ``entity`` means."""
        folded = fold(entity)
        key = _key(folded)
        keys = self._arrays["keys"]
        start = int(np.searchsorted(keys, key))
        written = " ".join(entity.translate({ord("_"): " "}).split())
        capital = written[:1].upper() + written[1:]
        found: list[tuple[bool, bool, int]] = []
        while start < len(keys) and keys[start] == key:
            number = int(self._arrays["key_names"][start])
            name = self._text("names", "name_starts", number)
            if fold(name) == folded:
                found.append((name != written, name != capital, number))
            start += 1
        return min(found)[2] if found else None

    def _text(self, blob: str, starts: str, number: int) -> str:
        begin, end = self._arrays[starts][number : number + 2]
        return bytes(self._arrays[blob][begin:end]).decode("utf-8")


def write_index(pages: Iterable[Page | Redirect], folder: Path, *, chunk: int = CHUNK) -> None:
    """Build an index in a folder, in memory that does not grow with the text.

    A redirect may come before its page; one to a page that never comes is left out. ``chunk`` is
    how many names are worked on at once.

    Raises:
        DataError: no pages, or one without a title.
    """
    digest = hashlib.sha256()
    aliases: list[tuple[str, int]] = []
    redirects: list[Redirect] = []
    with _Blob(folder / "pages.bin") as texts, _Blob(folder / "names.bin") as names:
        count = 0
        for page in pages:
            if not page.title.strip():
                raise DataError(f"Page {count + 1} has no title.")
            if isinstance(page, Redirect):
                redirects.append(page)
                digest.update(f"{page.title}\0{page.target}\0".encode("utf-8", "replace"))
                continue
            paragraphs = "\n".join(" ".join(p.split("\n")) for p in page.paragraphs)
            texts.add(paragraphs)
            names.add(page.title)
            aliases += [(alias, count) for alias in page.aliases]
            for part in (page.title, paragraphs, *page.aliases):
                digest.update(part.encode("utf-8", "replace") + b"\0")
            count += 1
        aliases += _targets(redirects, names)
        for alias, _ in aliases:
            names.add(alias)
    if not count:
        raise DataError("A corpus needs at least one page.")
    texts.save(folder, "pages", "page_starts")
    names.save(folder, "names", "name_starts")
    targets = np.concatenate([np.arange(count), [page for _, page in aliases]]).astype(np.uint32)
    np.save(folder / "name_pages.npy", targets)
    _write_keys(folder, chunk)
    _write_trigrams(folder, chunk)
    about = {"format": FORMAT, "fingerprint": digest.hexdigest()[:16], "pages": count,
             "names": len(targets)}  # fmt: skip
    (folder / INDEX_FILE).write_text(json.dumps(about) + "\n", encoding="utf-8")


def _targets(redirects: Sequence[Redirect], titles: _Blob) -> list[tuple[str, int]]:
    """(title, number of the page it leads to) of the redirects whose page there is."""
    if not redirects:
        return []
    pages = {hash(title): number for number, title in enumerate(titles.texts())}
    found = ((r.title, pages.get(hash(r.target))) for r in redirects)
    return [(title, page) for title, page in found if page is not None]


class _Blob:
    """Texts end to end in a file, and where each one starts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._starts = array("Q", [0])
        self._file: IO[bytes] = path.open("wb")

    def __enter__(self) -> _Blob:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, text: str) -> None:
        self._starts.append(self._starts[-1] + self._file.write(text.encode("utf-8", "replace")))

    def texts(self) -> Iterator[str]:
        """What was added so far, in order."""
        self._file.flush()
        with self._path.open("rb") as file:
            for begin, end in pairwise(self._starts):
                yield file.read(end - begin).decode("utf-8")

    def save(self, folder: Path, blob: str, starts: str) -> None:
        raw: _Numbers = np.empty(0, np.uint8)
        if self._starts[-1]:
            raw = np.memmap(self._path, np.uint8, "r")
        np.save(folder / f"{blob}.npy", raw)
        np.save(folder / f"{starts}.npy", np.frombuffer(self._starts, np.uint64))
        del raw
        self._path.unlink()


def _folded_names(folder: Path, count: int) -> Iterator[list[str]]:
    """Folded names of an index that is being built, in chunks."""
    blob = np.load(folder / "names.npy", mmap_mode="r")
    starts = np.load(folder / "name_starts.npy").tolist()
    ends = pairwise(starts)
    while chunk := list(islice(ends, count)):
        first = chunk[0][0]
        raw = bytes(blob[first : chunk[-1][1]])
        yield [fold(raw[a - first : b - first].decode("utf-8")) for a, b in chunk]


def _key(folded: str) -> np.uint64:
    digest = hashlib.blake2b(folded.encode("utf-8", "replace"), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "big"))


def _write_keys(folder: Path, count: int) -> None:
    names = (name for chunk in _folded_names(folder, count) for name in chunk)
    keys = np.fromiter(map(_key, names), np.uint64)
    order = np.argsort(keys, kind="stable")
    np.save(folder / "keys.npy", keys[order])
    np.save(folder / "key_names.npy", order.astype(np.uint32))


def _write_trigrams(folder: Path, count: int) -> None:
    """Postings (names by trigram) in two passes: count, then place."""
    counts = np.zeros(1 << _BITS, np.int64)
    total = 0
    for chunk in _folded_names(folder, count):
        counts += np.bincount(_trigrams(chunk)[1], minlength=1 << _BITS)
        total += len(chunk)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)
    np.save(folder / "starts.npy", starts)
    file = folder / "postings.npy"
    postings = np.lib.format.open_memmap(file, "w+", np.uint32, (int(starts[-1]),))
    norms = np.empty(total, np.float32)
    free = starts[:-1].astype(np.int64)
    first = 0
    for chunk in _folded_names(folder, count):
        owner, bucket = _trigrams(chunk)
        weight = _rarity(starts, total, bucket) ** 2
        sums = np.bincount(owner, weight, len(chunk))
        norms[first : first + len(chunk)] = np.sqrt(np.maximum(sums, 1e-9))
        order = np.argsort(bucket, kind="stable")
        bucket = bucket[order]
        new = np.flatnonzero(np.diff(bucket, prepend=-1))
        sizes = np.diff(new, append=len(bucket))
        place = np.arange(len(bucket)) - np.repeat(new, sizes) + free[bucket]
        postings[place] = owner[order] + first
        free[bucket[new]] += sizes
        first += len(chunk)
    postings.flush()
    np.save(folder / "norms.npy", norms)


def _rarity(starts: _Numbers, names: int, buckets: _Numbers) -> _Numbers:
    """Weight of each trigram: the logarithm of how few names hold it."""
    having = (starts[buckets + 1] - starts[buckets]).astype(np.float64)
    rarity: _Numbers = np.log1p(names / np.maximum(having, 1.0))
    return rarity


def _trigrams(folded: Sequence[str]) -> tuple[_Numbers, _Numbers]:
    """Trigrams of folded names, each once a name: (which name, which bucket), by name."""
    lines = [f" {' '.join(_WORD.findall(name))} " for name in folded]
    raw = "\n".join(lines).encode("utf-32-le", "replace")
    codes = np.frombuffer(raw, np.uint32).astype(np.uint64)
    owner = np.repeat(np.arange(len(lines)), [len(line) + 1 for line in lines])[: len(codes)]
    one, two, three = codes[:-2], codes[1:-1], codes[2:]
    # Inside one name, and not across a blank: words are apart.
    kept = (one != 10) & (two != 10) & (three != 10) & (two != 32)
    mixed = (one * np.uint64(0x9E3779B1)) ^ (two * np.uint64(0x85EBCA77C2B2AE63))
    mixed = (mixed ^ (three * np.uint64(0xC2B2AE3D27D4EB4F))) * np.uint64(0x9E3779B97F4A7C15)
    bucket = (mixed >> np.uint64(64 - _BITS))[kept]
    both = np.unique((owner[: len(kept)][kept].astype(np.uint64) << np.uint64(_BITS)) | bucket)
    return (both >> np.uint64(_BITS)).astype(np.int64), (both & np.uint64((1 << _BITS) - 1)).astype(
        np.int64
    )


def ensure_index(pages: Iterable[Page | Redirect], folder: Path) -> None:
    """Build an index where there is none; a half-built one is never left under its name."""
    if (folder / INDEX_FILE).is_file():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_index(pages, building)
        try:
            building.rename(folder)
        except OSError:
            if not (folder / INDEX_FILE).is_file():  # else: another process was faster
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    from harness.errors import HarnessError
    from harness_envs.hotpotqa.pages import read_pages

    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        ensure_index(read_pages(Path(arguments[0])), Path(arguments[1]))
        print(f"{arguments[1]}: {len(Corpus.open(Path(arguments[1])))} pages")
    except HarnessError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

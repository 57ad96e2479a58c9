"""Reads pages from files: one a line, contexts of questions, or HotPotQA's dump of Wikipedia.

A line (or an element of a JSON list) is one of::

    {"title": .., "sentences": [..]}            sentences of one paragraph
    {"title": .., "paragraphs": [..]}           paragraphs
    {"title": .., "text": ..}                   text, sentences, or (the dump) both levels of lists
    {"title": .., "redirect": ..}               leads to the page of another title
    {"context": [[title, [sentence, ..]], ..]}  a question, for the pages of its context

A page may name further titles that lead to it under ``aliases``. Files are ``.jsonl`` or ``.json``,
plain or packed (``.gz``, ``.xz``, ``.bz2``), a folder of them, or a ``.tar.bz2`` of packed parts.
"""

from __future__ import annotations

import bz2
import gzip
import html
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from harness.errors import DataError
from harness_envs.hotpotqa.records import Page, Redirect

OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_KINDS = (".jsonl", ".json")
#: What can go wrong while a packed file is read.
READING = (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError)

_REMEDY = (
    "A record is a page ('title' and 'sentences', 'paragraphs' or 'text'), a redirect ('title' and "
    "'redirect') or a question with its 'context': mend it, or leave it out."
)


class _Record(msgspec.Struct):
    title: str = ""
    sentences: list[str] | None = None
    paragraphs: list[str] | None = None
    text: str | list[str | list[str]] | None = None
    redirect: str | None = None
    aliases: list[str] = []
    question: str | None = None
    context: list[tuple[str, list[str]]] = []


def is_data(path: Path) -> bool:
    """Whether a file is one of those that hold pages or questions, by its name."""
    return plain_name(path.name).endswith(_KINDS)


def plain_name(name: str) -> str:
    """A file's name without the suffix of its packing."""
    for suffix in OPENERS:
        name = name.removesuffix(suffix)
    return name


def read_pages(path: Path) -> Iterator[Page | Redirect]:
    """Pages and redirects of a file, folder or archive, in order; a title comes once.

    Raises:
        DataError: names the file and the record.
    """
    seen: set[int] = set()
    for item in _read(path):
        if isinstance(item, Page):
            # Contexts repeat pages by the thousand; hashes of titles fit in memory, pages may not.
            if hash(item.title) in seen:
                continue
            seen.add(hash(item.title))
        yield item


def _read(path: Path) -> Iterator[Page | Redirect]:
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and _holds_pages(p))
        if not files:
            raise DataError(f"{path}: no files of pages there (.jsonl, .json or packed ones).")
        for file in files:
            yield from _read(file)
        return
    try:
        if path.name.endswith((".tar.bz2", ".tar.gz", ".tar.xz", ".tar")):
            with tarfile.open(path, "r|*") as archive:
                for member in archive:
                    content = archive.extractfile(member)
                    if content is not None:
                        opener = OPENERS.get(Path(member.name).suffix)
                        part = opener(content) if opener else content
                        yield from _records(lines(part), f"{path}:{member.name}")
        else:
            yield from _records(records(path), str(path))
    except READING as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error


def _holds_pages(path: Path) -> bool:
    return is_data(path) or (path.name.startswith("wiki_") and path.suffix == ".bz2")


def records(path: Path) -> Iterator[bytes]:
    """The JSON records of a file: its lines, or the elements of its one list."""
    opener = OPENERS.get(path.suffix, open)
    with opener(path, "rb") as file:
        if not plain_name(path.name).endswith(".json"):
            yield from lines(file)
            return
        try:
            elements = msgspec.json.decode(file.read(), type=list[msgspec.Raw])
        except msgspec.MsgspecError as error:
            raise DataError(f"{path}: not a JSON list of records: {error}.") from None
        yield from map(bytes, elements)


def lines(file: IO[bytes]) -> Iterator[bytes]:
    return (line for line in file if line.strip())


def _records(raw: Iterable[bytes], where: str) -> Iterator[Page | Redirect]:
    decoder = msgspec.json.Decoder(_Record)
    for number, line in enumerate(raw, 1):
        try:
            record = decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(
                f"{where}: record {number} is not a page: {error}.\n  {_REMEDY}"
            ) from None
        if record.question is not None:
            for title, sentences in record.context:
                yield Page(html.unescape(title), joined([sentences]))
        elif not record.title.strip():
            raise DataError(f"{where}: record {number} has no 'title'.\n  {_REMEDY}")
        elif record.redirect is not None:
            yield Redirect(html.unescape(record.title), html.unescape(record.redirect))
        else:
            yield _page(record, f"{where}: record {number}")


def _page(record: _Record, where: str) -> Page:
    text = record.text
    if record.paragraphs is not None:
        parts = tuple(p.strip() for p in record.paragraphs)
    elif record.sentences is not None:
        parts = joined([record.sentences])
    elif isinstance(text, str):
        parts = tuple(p.strip() for p in text.split("\n") if p.strip())
    elif text is not None:
        nested = [[t] if isinstance(t, str) else t for t in text]
        flat = [s for part in nested for s in part]
        parts = joined([flat] if text and isinstance(text[0], str) else nested)
    else:
        raise DataError(
            f"{where} ('{record.title}') has no 'sentences', 'paragraphs' or 'text'.\n  {_REMEDY}"
        )
    return Page(html.unescape(record.title), parts, tuple(map(html.unescape, record.aliases)))


def joined(paragraphs: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Paragraphs from their sentences, one blank between two; empty ones are left out."""
    texts = (" ".join(s.strip() for s in sentences if s.strip()) for sentences in paragraphs)
    return tuple(text for text in texts if text)

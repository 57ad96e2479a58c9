"""Pages that a site answered, by address, in one file: kept, frozen, shipped with a run, replayed.

A *frozen* cache answers alone; the site is never asked::

    python -m harness_envs.hotpotqa.cache freeze CACHE FROZEN
"""

from __future__ import annotations

import fcntl
import gzip
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import msgspec

from harness.errors import DataError, EnvError

_OPENING = threading.Lock()


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of a cache: one page, or (first line of a frozen one) how many there are."""

    url: str = ""
    html: str = ""
    fetched: str = ""
    frozen: int = 0


class Cache:
    """A file of pages by address. Each line is a gzip member of its own, so that lines are added
    at the end, by many threads and processes, and ``zcat`` reads the file.

    A last line that is torn (the writer was killed) is dropped when the next page is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: How many pages a frozen cache says it holds; 0: it is not frozen.
        self.frozen = 0
        #: Address -> (start, length) of its line.
        self._lines: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()
        with self._lock:
            self._scan()
        if self.frozen and len(self) != self.frozen:
            raise DataError(
                f"{path}: of {self.frozen} pages only {len(self)} are left: the file is cut short."
            )

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, address: str) -> str | None:
        """The page that was kept for an address."""
        with self._lock:
            if address not in self._lines and not self.frozen:
                self._scan()
            place = self._lines.get(address)
        return None if place is None else self._line(*place).html

    def add(self, address: str, html: str) -> None:
        """Keep a page; the first one of an address stays.

        Raises:
            EnvError: the cache is frozen, or the file cannot be written.
        """
        if self.frozen:
            raise EnvError(f"{self.path} is frozen: no page is added to it.")
        fetched = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        packed = _packed(_Line(address, html, fetched))
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    self._scan()
                    if address in self._lines:
                        return
                    file.truncate(self._end)
                    file.write(packed)
                    file.flush()
            except OSError as error:
                raise EnvError(f"{self.path}: a page cannot be kept there: {error}.") from error
            self._lines[address] = (self._end, len(packed))
            self._end += len(packed)

    def addresses(self) -> list[str]:
        return sorted(self._lines)

    def line(self, address: str) -> bytes:
        """The packed line of an address."""
        start, length = self._lines[address]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def _line(self, start: int, length: int) -> _Line:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                return msgspec.json.decode(gzip.decompress(file.read(length)), type=_Line)
        except (OSError, EOFError, zlib.error, msgspec.MsgspecError) as error:
            raise EnvError(f"{self.path}: damaged at byte {start}: {error}.") from error

    def _scan(self) -> None:
        """Learn the lines that were added since the last look."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(self._end)
            while (length := self._next_line(file)) is not None:
                self._end += length
                file.seek(self._end)

    def _next_line(self, file: IO[bytes]) -> int | None:
        """Learn the line that starts here: its length, or None if there is none, or half of one."""
        unpack = zlib.decompressobj(wbits=31)
        text, read = b"", 0
        try:
            while not unpack.eof:
                part = file.read(1 << 14)
                if not part:
                    return None
                read += len(part)
                text += unpack.decompress(part)
            line = msgspec.json.decode(text, type=_Line)
        except (zlib.error, msgspec.MsgspecError) as error:
            raise DataError(
                f"{self.path}: damaged, or not a cache of pages, at byte {self._end}: {error}."
            ) from None
        length = read - len(unpack.unused_data)
        if line.frozen:
            self.frozen = line.frozen
        else:
            self._lines.setdefault(line.url, (self._end, length))
        return length


def _packed(line: _Line) -> bytes:
    return gzip.compress(msgspec.json.encode(line) + b"\n", mtime=0)


@cache
def _open(path: Path) -> Cache:
    return Cache(path)


def open_cache(path: Path) -> Cache:
    """The cache of a file (in a folder: ``wikipedia.jsonl.gz``), one a process."""
    path = path.expanduser().resolve()
    with _OPENING:
        return _open(path / "wikipedia.jsonl.gz" if path.is_dir() else path)


def freeze(source: Path, target: Path) -> int:
    """Write a frozen cache with the pages of another: the same pages always make the same file.

    Returns how many pages it holds.

    Raises:
        DataError: the source is absent, empty or damaged, or the target exists.
    """
    if target.exists():
        raise DataError(f"{target} exists; a frozen cache is never written over.")
    pages = Cache(source / "wikipedia.jsonl.gz" if source.is_dir() else source)
    if not len(pages):
        raise DataError(f"{source}: no cache of pages, or an empty one.")
    lines = [_packed(_Line(frozen=len(pages))), *map(pages.line, pages.addresses())]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(b"".join(lines))
    return len(pages)


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 3 or arguments[0] != "freeze":
        print(__doc__, file=sys.stderr)
        return 2
    try:
        count = freeze(Path(arguments[1]), Path(arguments[2]))
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{arguments[2]}: {count} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

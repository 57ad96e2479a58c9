"""Wikipedia as ReAct asks it: one request a search, politely, and kept, so that a run can replay.

The request is that of WikiEnv (wikienv.py): ``index.php?search=`` and the entity with ``+`` for
blanks, otherwise as written. What the site answers is kept in a cache file, a packed JSON line a
page. A *frozen* cache answers alone and never asks the site::

    python -m harness_envs.hotpotqa.wikipedia freeze CACHE FROZEN
"""

from __future__ import annotations

import fcntl
import gzip
import re
import sys
import threading
import time
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import IO

import msgspec
import requests

from harness.errors import DataError, EnvError
from harness_envs.hotpotqa.markup import parse
from harness_envs.hotpotqa.reading import Answer, Unsearchable

SITE = "https://en.wikipedia.org/w/index.php"
AGENT = "distill-harness/0.1 (evaluation of language agents on HotPotQA; python-requests)"
#: Seconds to wait for a connection, and for the next part of an answer.
TIMEOUT = (10.0, 30.0)
#: Seconds between two requests of this process to one site.
PAUSE = 0.2
#: Seconds before the first retry; doubled each time.
BACKOFF = 0.5

_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
#: What MediaWiki writes around articles and results, and what an article never holds.
_OWN = re.compile(r"mw-parser-output|mw-content-text|mw-search")
_CAPTCHA = re.compile(r"""(?:name|id|class)=["'](?:wpCaptcha|g-recaptcha|h-captcha)""")

_GATE = threading.Lock()
_LAST: dict[str, float] = {}


class Wikipedia:
    """Answers searches from a cache file and, unless it is frozen, from the site.

    ``cache``: file to read from and add to (None: none). ``patience``: seconds to go on retrying a
    search whose answer is lost, late, refused (429, 5xx) or broken off.
    """

    def __init__(
        self, *, cache: Path | None = None, site: str = SITE, patience: float = 60.0
    ) -> None:
        self._cache = open_cache(cache) if cache is not None else None
        self._site = site
        self._patience = patience
        self._session = requests.Session()
        self._session.headers["User-Agent"] = AGENT

    def address(self, entity: str) -> str:
        """What is requested for an entity; caches know pages by it."""
        return f"{self._site}?search={entity.replace(' ', '+')}"

    def search(self, entity: str) -> Answer:
        """What the site shows for a search. Lists come after all paragraphs, as WikiEnv has them.

        Raises:
            Unsearchable: the entity has no form that a request can carry.
            EnvError: the site cannot be reached, refuses, or answers with something that is not a
                page of Wikipedia; or the cache is frozen and has no such page.
        """
        address = self.address(entity)
        try:
            address.encode()
        except UnicodeEncodeError as error:
            raise Unsearchable(str(error)) from None
        html = self._cache.get(address) if self._cache is not None else None
        if html is None:
            if self._cache is not None and self._cache.frozen:
                raise EnvError(
                    f"The frozen cache {self._cache.path} has no page for {address}: the run it "
                    "was made with never asked for it. Play without frozen cache to ask the site."
                )
            html = self._ask(address)
            if self._cache is not None:
                self._cache.add(address, html)
        page = parse(html)
        return Answer(page.headings or None, (*page.paragraphs, *page.lists))

    def close(self) -> None:
        self._session.close()

    def _ask(self, address: str) -> str:
        """Fetch a page, retrying as long as patience lasts."""
        end = time.monotonic() + self._patience
        wait = BACKOFF
        while True:
            fault, asked_wait = "", 0.0
            self._be_polite()
            try:
                answer = self._session.get(address, timeout=TIMEOUT)
                fault, asked_wait = _fault(answer)
                if not fault:
                    return answer.text
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
                requests.exceptions.ContentDecodingError,
            ) as error:
                fault = f"{type(error).__name__}: {error}"
            except requests.RequestException as error:
                raise EnvError(f"Wikipedia: {address}: {type(error).__name__}: {error}") from error
            pause = max(wait, asked_wait)
            if time.monotonic() + pause > end:
                raise EnvError(
                    f"Wikipedia did not answer {address} within {self._patience:g} s of retries: "
                    f"{fault}\n  The episode is recorded as an error; play it again with: "
                    "harness run --resume RUN --retry-errors"
                )
            time.sleep(pause)
            wait *= 2

    def _be_polite(self) -> None:
        with _GATE:
            pause = _LAST.get(self._site, 0.0) + PAUSE - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            _LAST[self._site] = time.monotonic()


def _fault(answer: requests.Response) -> tuple[str, float]:
    """Why an answer may be worth another try and after how many seconds; ("", 0) for a page.

    Raises:
        Unsearchable: the site will not take such a request (it is too long, say).
        EnvError: asking again would not help.
    """
    status, where = answer.status_code, answer.url
    if status == 429 or status >= 500:
        return f"status {status} ({answer.reason})", _retry_after(answer)
    if status in (400, 414):
        raise Unsearchable(f"status {status} ({answer.reason})")
    if status != 200:
        raise EnvError(
            f"Wikipedia answered {where} with status {status} ({answer.reason}); ReAct would have "
            "read that page as an article."
        )
    if "charset" not in answer.headers.get("Content-Type", "").lower():
        answer.encoding = "utf-8"
    text = answer.text
    if "</html>" not in text[-2000:].lower():
        return f"the page breaks off after {len(text)} characters", 0.0
    title = _TITLE.search(text)
    if _CAPTCHA.search(text) or not _OWN.search(text):
        raise EnvError(
            f"Wikipedia answered {where} with a page that is not Wikipedia's own (a captcha, a "
            f"login page or a proxy's), titled '{title[1].strip()[:80] if title else ''}'. "
            "Wait or ask from another network, then play the episode again."
        )
    return "", 0.0


def _retry_after(answer: requests.Response) -> float:
    """Seconds that the site asks to wait (its other form, a date, is not used there)."""
    try:
        return max(0.0, float(answer.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0


class _Line(msgspec.Struct, omit_defaults=True):
    """A line of a cache: one page, or (first line of a frozen one) the mark."""

    url: str = ""
    html: str = ""
    fetched: str = ""
    frozen: bool = False


class Cache:
    """A file of pages by address. Each line is a gzip member of its own, so that lines are added
    at the end, by many threads and processes, and ``zcat`` reads the file.

    A last line that is torn (the writer was killed) is dropped when the next page is added.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frozen = False
        #: Address -> (start, length) of its line.
        self._lines: dict[str, tuple[int, int]] = {}
        self._end = 0
        self._lock = threading.Lock()
        with self._lock:
            self._scan()

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
        """Keep a page; the first one of an address stays."""
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
            self.frozen = True
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
    with _GATE:
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
    lines = [_packed(_Line(frozen=True)), *map(pages.line, pages.addresses())]
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

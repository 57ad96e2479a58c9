"""Wikipedia as ReAct asks it: one request a search, politely, and kept, so that a run can replay.

The request is that of WikiEnv (wikienv.py): ``index.php?search=`` and the entity with ``+`` for
blanks, otherwise as written.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import requests

from harness.errors import EnvError
from harness_envs.hotpotqa.cache import open_cache
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
            Unsearchable: the entity has no form that a request can carry, or the original could
                not read its page either.
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
        try:
            page = parse(html)
        except ValueError as error:
            raise Unsearchable(f"{address}: {error}") from error
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

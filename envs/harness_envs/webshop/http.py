"""A running WebShop server (``web_agent_site/app.py``) as a site: its pages, read over HTTP."""

from __future__ import annotations

import ast
import time
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import msgspec
import requests

from harness.errors import EnvError
from harness_envs.webshop import pages
from harness_envs.webshop.analysis import terms
from harness_envs.webshop.pages import Kind, Node, Page
from harness_envs.webshop.reward import Reward
from harness_envs.webshop.search import MAX_TERMS
from harness_envs.webshop.site import Receipt, TooManyTerms, Unanswerable, read_path

#: Seconds to connect, and between two parts of an answer.
TIMEOUT = (5.0, 30.0)
#: Pauses in seconds before a request is tried again.
PAUSES = (0.2, 1.0, 3.0)
#: What a server says to an address that no page has: the agent's words made it.
_NO_PAGE = (404, 414)

_HIDDEN = {"style", "script", "head", "title", "meta"}
_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source"}


class HttpSite:
    """The pages of one session of a server. ``session``: ``fixed_<i>`` is played with goal i.

    A request that fails is tried three more times, then EnvError names address and cause.
    """

    def __init__(
        self,
        url: str,
        session: str,
        *,
        timeout: tuple[float, float] = TIMEOUT,
        pauses: Sequence[float] = PAUSES,
    ) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._timeout = timeout
        self._pauses = pauses
        self._client = requests.Session()

    def start(self) -> Page:
        return self._get(f"{self._url}/{self._session}")

    def results(self, keywords: Sequence[str], page: int) -> Page:
        if keywords[0] == "<a>":
            raise Unanswerable("the text environment raises an error for this query")
        _check(keywords)
        return self._get(f"{self._at('search_results')}/{_part(keywords)}/{page}", typed=True)

    def item(
        self, asin: str, keywords: Sequence[str], page: int, options: Mapping[str, str]
    ) -> Page:
        place = f"{self._at('item_page')}/{asin}/{_part(keywords)}/{page}"
        return self._get(f"{place}/{_options(options)}")

    def sub_page(
        self, asin: str, keywords: Sequence[str], page: int, name: str, options: Mapping[str, str]
    ) -> Page:
        place = f"{self._at('item_sub_page')}/{asin}/{_part(keywords)}/{page}/{name}"
        return self._get(f"{place}/{_options(options)}")

    def done(self, asin: str, options: Mapping[str, str]) -> Receipt:
        address = f"{self._at('done')}/{asin}/{_options(options)}"
        return _receipt(address, self._get(address))

    def visit(self, path: str) -> Receipt:
        asked = read_path(path)
        if asked.page == "search_results":
            _check(asked.words)
        page = self._get(self._url + path, typed=True)
        return _receipt(path, page) if asked.page == "done" else Receipt(page)

    def close(self) -> None:
        self._client.close()

    def _at(self, page_name: str) -> str:
        return f"{self._url}/{page_name}/{self._session}"

    def _get(self, address: str, typed: bool = False) -> Page:
        """A page; ``typed``: its address holds words of the agent, which may make it none."""
        problem = ""
        for pause in (*self._pauses, None):
            try:
                answer = self._client.get(address, timeout=self._timeout)
            except requests.RequestException as error:
                problem = str(error)
            else:
                if answer.status_code == 200:
                    answer.encoding = "utf-8"
                    return read_html(answer.text)
                if typed and answer.status_code in _NO_PAGE:
                    raise Unanswerable(f"the server has no page at {address}")
                problem = f"status {answer.status_code}: {answer.text[:200]!r}"
                if answer.status_code < 500:
                    break
            if pause is not None:
                time.sleep(pause)
        raise EnvError(
            f"The WebShop server at {self._url} did not give {address}\n  {problem}\n"
            "  Is it running there (web_agent_site/app.py)? Name its address with url=..."
        )


def _check(words: Sequence[str]) -> None:
    """Unanswerable for a query that the server fails on."""
    if words[0] == "<c>" and len(words) < 2:
        raise Unanswerable("the server raises an error for this query")
    if len(set(terms(" ".join(words)))) > MAX_TERMS:
        raise TooManyTerms(f"a query of over {MAX_TERMS} distinct terms")


def _part(keywords: Sequence[str]) -> str:
    """Searched words in an address: a Python list literal.

    A ``search[..]`` that holds ``/``, quoted or not, is invalid over HTTP: the original's routes
    have no page for it. In process there is no such limit.
    """
    return quote(str(list(keywords)), safe="")


def _options(options: Mapping[str, str]) -> str:
    return quote(str(dict(options)), safe="{}':, ")


def _receipt(address: str, page: Page) -> Receipt:
    """What a page after buying tells."""
    texts = [node.text for node in page]
    try:
        reward = float(texts[texts.index(pages.SCORE) + 1])
    except (ValueError, IndexError):
        raise EnvError(f"{address}: the page after buying tells no score.") from None
    return Receipt(page, reward, _parts(reward, texts))


def _parts(reward: float, texts: list[str]) -> Reward | None:
    """The reward's parts, which the server prints as a Python dict; None where it does not."""
    try:
        found: Any = ast.literal_eval(texts[texts.index("Reward Details ") + 1])
        return msgspec.convert({"reward": reward, **found}, Reward)
    except (ValueError, IndexError, SyntaxError, TypeError, msgspec.ValidationError):
        return None


# Reading HTML -----------------------------------------------------------------------------


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.nodes: list[Node] = []
        self._open: list[tuple[str, str]] = []  # (tag, class)
        self._radio: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "input" and found.get("type") == "radio":
            self._radio = found
        if tag not in _VOID:
            self._open.append((tag, found.get("class", "")))

    def handle_endtag(self, tag: str) -> None:
        for place in range(len(self._open) - 1, -1, -1):
            if self._open[place][0] == tag:
                del self._open[place:]
                return

    def handle_data(self, data: str) -> None:
        tag, class_ = self._open[-1] if self._open else ("", "")
        if not tag or tag in _HIDDEN:
            return
        kind: Kind = "text"
        if tag == "button":
            kind = "button"
        elif tag == "label":
            kind = "option"
        elif class_ == "product-link":
            kind = "product"
        name = self._radio.get("name", "") if kind == "option" else ""
        self.nodes += pages.shown(data, kind, name)


def read_html(text: str) -> Page:
    """The visible strings of one of the server's pages."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return tuple(reader.nodes)

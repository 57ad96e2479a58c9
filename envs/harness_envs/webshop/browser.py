"""Shopping as ``WebAgentTextEnv`` lets agents do it: what a click does on which page.

Rules from ``web_agent_site/envs/web_agent_text_env.py`` of princeton-nlp/WebShop at 64fa2a5, with
its oddities: the page is known by words anywhere in its address, searched words included.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from harness_envs.webshop import pages
from harness_envs.webshop.pages import Node, Page
from harness_envs.webshop.reward import Reward
from harness_envs.webshop.site import Site, Unanswerable

BASE = "http://127.0.0.1:3000"
_ACTION = re.compile(r"(.+)\[(.+)\]")
_PAGE_NAMES = ("search_results", "item_page", "item_sub_page", "done")


class Turn(NamedTuple):
    """What an action led to. ``parts``: of a purchase's reward, where they are known."""

    reward: float = 0.0
    done: bool = False
    invalid: bool = False
    parts: Reward | None = None


INVALID = Turn(invalid=True)


class Browser:
    """One episode in the original's text environment. ``session`` names it in addresses."""

    def __init__(self, site: Site, session: str) -> None:
        self._site = site
        self._session = session
        self.url = ""
        self.keywords: list[str] | None = None
        self.page_number: int | None = None
        self.asin: str | None = None
        self.visited: set[str] = set()
        self.options: dict[str, str] = {}
        self.page: Page = ()
        self._clickables: dict[str, Node] = {}
        self._open()

    @property
    def clickables(self) -> list[str]:
        return list(self._clickables)

    @property
    def has_search_bar(self) -> bool:
        return "search" in self._clickables

    def observation(self, mode: pages.Mode) -> str:
        if mode == "text":
            return pages.text(self.page)
        return pages.text_rich(self.page, self.url, self.visited)

    def act(self, action: str) -> Turn:
        """Execute ``search[..]`` or ``click[..]``; anything else changes nothing."""
        parsed = _ACTION.match(action)
        if parsed is None:
            return INVALID
        name, argument = parsed[1], parsed[2].lower()
        try:
            if name == "search":
                self._search(argument.split(" "), 1)
                return Turn()
            if name == "click" and argument in self._clickables and argument != "search":
                return self._click(argument, self._clickables[argument])
        except Unanswerable:
            pass
        return INVALID

    def _open(self) -> None:
        self.keywords = self.page_number = self.asin = None
        self.visited, self.options = set(), {}
        self._show(self._site.start(), f"{BASE}/{self._session}")

    def _show(self, page: Page, url: str) -> None:
        self.page, self.url, self._clickables = page, url, pages.clickables(page)

    def _search(self, keywords: list[str], number: int) -> None:
        # Before the search, as there: one that fails leaves the old page, and no product under it.
        self.keywords, self.page_number, self.asin, self.options = keywords, number, None, {}
        page = self._site.results(keywords, number)
        self._show(page, f"{BASE}/search_results/{self._session}/{'+'.join(keywords)}/{number}")

    def _click(self, label: str, node: Node) -> Turn:
        where = next((name for name in _PAGE_NAMES if name in self.url), "")
        if label == pages.BUY.lower():
            return self._buy()
        if label == pages.BACK.lower():
            self._open()
        elif label == pages.NEXT.lower() and where == "search_results":
            self._turn_to(+1)
        elif label == pages.PREV.lower() and where == "search_results":
            self._turn_to(-1)
        elif label == pages.PREV.lower() and where == "item_page":
            self._turn_to(0)
        elif label in (name.lower() for name in pages.SUB_PAGES):
            self._sub_page(label.capitalize())
        else:
            self._item(label, node)
        return Turn()

    def _turn_to(self, step: int) -> None:
        assert self.keywords is not None
        assert self.page_number is not None
        self._search(self.keywords, self.page_number + step)

    def _item(self, label: str, node: Node) -> None:
        """Open a product, choose an option, or come back from a sub page."""
        if node.kind == "product":
            self.asin = label.upper()
            self.visited.add(self.asin)
        elif node.kind == "option":
            self.options = {**self.options, node.name.lower(): label}
        assert self.keywords is not None
        assert self.page_number is not None
        page = self._site.item(self._product(), self.keywords, self.page_number, self.options)
        self._show(page, f"{self._path('item_page')}/{json.dumps(self.options)}")

    def _sub_page(self, name: str) -> None:
        assert self.keywords is not None
        assert self.page_number is not None
        asin, options = self._product(), self.options
        page = self._site.sub_page(asin, self.keywords, self.page_number, name, options)
        self._show(page, f"{self._path('item_sub_page')}/{name}/{self.options}")

    def _product(self) -> str:
        if self.asin is None:
            raise Unanswerable("a search failed: the original has no product any more, and raises")
        return self.asin

    def _path(self, page_name: str) -> str:
        words = "+".join(self.keywords or ())
        return f"{BASE}/{page_name}/{self._session}/{self.asin}/{words}/{self.page_number}"

    def _buy(self) -> Turn:
        receipt = self._site.done(self._product(), self.options)
        self._show(receipt.page, f"{BASE}/done/{self._session}/{self.asin}/{self.options}")
        return Turn(receipt.reward, done=True, parts=receipt.parts)

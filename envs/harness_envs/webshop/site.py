"""Where pages come from. A site serves one episode's pages; who browses it keeps the state."""

from __future__ import annotations

import ast
import copy
import random
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from harness_envs.webshop import pages
from harness_envs.webshop.catalogue import Catalogue, Product
from harness_envs.webshop.goals import Goal
from harness_envs.webshop.pages import Page
from harness_envs.webshop.reward import Reward, Rules, reward


class Unanswerable(Exception):
    """A request that the original fails on, by its own rules: the agent's, not a fault."""


class Receipt(NamedTuple):
    """A page, and what it earned where it is the one after buying; ``parts`` only where the site
    tells them."""

    page: Page
    reward: float = 0.0
    parts: Reward | None = None


class Site(Protocol):
    """The pages of one episode. ``keywords``: the searched words."""

    def start(self) -> Page: ...

    def results(self, keywords: Sequence[str], page: int) -> Page: ...

    def item(
        self, asin: str, keywords: Sequence[str], page: int, options: Mapping[str, str]
    ) -> Page: ...

    def sub_page(
        self, asin: str, keywords: Sequence[str], page: int, name: str, options: Mapping[str, str]
    ) -> Page: ...

    def done(self, asin: str, options: Mapping[str, str]) -> Receipt: ...

    def visit(self, path: str) -> Receipt:
        """What a server answers to an address that text was put into as it is (``read_path``)."""
        ...

    def close(self) -> None: ...


class SearchEngine(Protocol):
    def search(self, query: str, k: int) -> list[str]:
        """The asins of the ``k`` best products, best first; TooManyTerms for huge queries."""
        ...


class TooManyTerms(Unanswerable):
    """A query of more distinct terms than the search engine takes."""


class Asked(NamedTuple):
    """What an address asks for: ``page`` is its name there, empty for the start page."""

    page: str = ""
    words: Sequence[str] = ()
    number: int = 1
    asin: str = ""
    sub_page: str = ""
    options: Mapping[str, str] = MappingProxyType({})


def read_path(path: str) -> Asked:
    """What a server makes of an address that a client put text into without quoting.

    On the way ``#`` and ``?`` cut the path, ``.`` and ``..`` are resolved, percent signs decoded,
    slashes in a row merged. Routes are those of ``web_agent_site/app.py`` of princeton-nlp/WebShop
    at 64fa2a5.

    Raises:
        Unanswerable: no page has this address, or the server fails on it, or dots in it lead to
            another page, session or product than the client meant.
    """
    import requests  # the client of the original; takes its time to load

    sent = requests.Request("GET", f"http://127.0.0.1{path}").prepare().path_url
    parts = re.sub("/{2,}", "/", unquote(urlsplit(sent).path)).split("/")[1:]
    meant = path.split("/")[1:]
    kept = 2 if meant[0] == "search_results" else 3  # where no text of the agent's is
    if parts[:kept] != meant[:kept]:
        raise Unanswerable(f"{path} leads elsewhere")
    try:
        match parts:
            case [_]:
                return Asked()
            case ["search_results", _, keywords, number]:
                return Asked(parts[0], _typed_words(keywords), int(number))
            case ["item_page", _, asin, _, _, options]:
                return Asked(parts[0], asin=asin, options=_typed_options(options))
            case ["item_sub_page", _, asin, _, _, name, options] if name in pages.SUB_PAGES:
                return Asked(parts[0], asin=asin, sub_page=name, options=_typed_options(options))
            case ["done", _, asin, options]:
                return Asked(parts[0], asin=asin, options=_typed_options(options))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Unanswerable(f"the server fails on {path}") from None
    raise Unanswerable(f"the server has no page at {path}")


def _typed_words(text: str) -> list[str]:
    """Keywords of an address: the text itself, or in brackets what Python reads there."""
    found = ast.literal_eval(text) if text.startswith("[") else [text]
    if isinstance(found, list) and found and all(isinstance(word, str) for word in found):
        return found
    raise ValueError(text)


def _typed_options(text: str) -> dict[str, str]:
    found = ast.literal_eval(text)
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    raise ValueError(text)


class LocalSite:
    """A shop in this process. ``rng`` answers the query ``<r>`` (random products)."""

    def __init__(
        self,
        catalogue: Catalogue,
        engine: SearchEngine,
        goal: Goal,
        prices: Mapping[str, float],
        *,
        rules: Rules = "faithful",
        show_attrs: bool = False,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._goal = goal
        self._prices = prices
        self._rules = rules
        self._show_attrs = show_attrs
        self.rng = random.Random(goal.index)

    def __deepcopy__(self, memo: dict[int, Any]) -> LocalSite:
        twin = copy.copy(self)  # products, prices and index never change
        twin.rng = copy.deepcopy(self.rng, memo)
        return twin

    def start(self) -> Page:
        return pages.start(self._goal.instruction)

    def results(self, keywords: Sequence[str], page: int) -> Page:
        return pages.results(self._goal.instruction, self._find(keywords), page)

    def item(
        self, asin: str, keywords: Sequence[str], page: int, options: Mapping[str, str]
    ) -> Page:
        product = self._catalogue.by_asin[asin]
        return pages.item(self._goal.instruction, product, self._show_attrs)

    def sub_page(
        self, asin: str, keywords: Sequence[str], page: int, name: str, options: Mapping[str, str]
    ) -> Page:
        return pages.sub_page(self._goal.instruction, self._catalogue.by_asin[asin], name)

    def done(self, asin: str, options: Mapping[str, str]) -> Receipt:
        goal, products = self._goal, self._catalogue.by_asin
        earned = reward(
            products[asin], options, self._prices[asin], goal, products[goal.asin], self._rules
        )
        return Receipt(pages.done(asin, options, earned.reward), earned.reward, earned)

    def visit(self, path: str) -> Receipt:
        asked = read_path(path)
        if asked.page == "":
            return Receipt(self.start())
        if asked.page == "search_results":
            if asked.words[0] == "<a>":  # which a server knows, and the text environment does not
                found = self._with_attribute(" ".join(asked.words[1:]).strip())
                return Receipt(pages.results(self._goal.instruction, found, asked.number))
            return Receipt(self.results(asked.words, asked.number))
        if asked.page == "item_page":
            return Receipt(self.item(asked.asin, (), 1, asked.options))
        if asked.page == "item_sub_page":
            return Receipt(self.sub_page(asked.asin, (), 1, asked.sub_page, asked.options))
        return self.done(asked.asin, asked.options)

    def close(self) -> None:
        """Nothing is held open."""

    def _with_attribute(self, attribute: str) -> list[Product]:
        return [p for p in self._catalogue.products if attribute in p.attributes]

    def _find(self, words: Sequence[str]) -> list[Product]:
        """Products for a query; four first words make it another kind of question."""
        products = self._catalogue.products
        rest = " ".join(words[1:]).strip()
        if words[0] == "<r>":
            return self.rng.sample(products, k=min(pages.RESULTS, len(products)))
        if words[0] == "<q>":
            return [product for product in products if product.query == rest]
        if words[0] == "<c>" and len(words) > 1:
            return [product for product in products if product.category == words[1].strip()]
        if words[0] in ("<a>", "<c>"):
            raise Unanswerable("the original raises an error for this query")
        found = self._engine.search(" ".join(words), pages.RESULTS)
        return [self._catalogue.by_asin[asin] for asin in found]

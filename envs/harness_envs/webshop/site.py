"""Where pages come from. A site serves one episode's pages; who browses it keeps the state."""

from __future__ import annotations

import ast
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from harness_envs.webshop import pages
from harness_envs.webshop.catalogue import Catalogue, Product
from harness_envs.webshop.goals import Goal
from harness_envs.webshop.pages import Page
from harness_envs.webshop.reward import Reward, Rules, reward


class Unanswerable(Exception):
    """A request that the original fails on, by its own rules: the agent's, not a fault."""


class Receipt(NamedTuple):
    """The page after buying, and what it earned; ``parts`` only where the site tells them."""

    page: Page
    reward: float
    parts: Reward | None


class Site(Protocol):
    """The pages of one episode. ``keywords``: the searched words, or the text as typed."""

    def start(self) -> Page: ...

    def results(self, keywords: Sequence[str] | str, page: int) -> Page: ...

    def item(
        self, asin: str, keywords: Sequence[str] | str, page: int, options: Mapping[str, str]
    ) -> Page: ...

    def sub_page(
        self,
        asin: str,
        keywords: Sequence[str] | str,
        page: int,
        name: str,
        options: Mapping[str, str],
    ) -> Page: ...

    def done(self, asin: str, options: Mapping[str, str]) -> Receipt: ...

    def close(self) -> None: ...


class SearchEngine(Protocol):
    def search(self, query: str, k: int) -> list[str]:
        """The asins of the ``k`` best products, best first; TooManyTerms for huge queries."""
        ...


class TooManyTerms(Unanswerable):
    """A query of more distinct terms than the search engine takes."""


def typed_words(text: str) -> list[str]:
    """What a server makes of text typed as keywords into an address: itself, or in brackets what
    Python reads there (``convert_web_app_string_to_var`` of the original)."""
    if not text.startswith("["):
        return [text]
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if isinstance(found, list) and found and all(isinstance(word, str) for word in found):
        return found
    raise Unanswerable("the server cannot read this list of words")


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

    def start(self) -> Page:
        return pages.start(self._goal.instruction)

    def results(self, keywords: Sequence[str] | str, page: int) -> Page:
        if isinstance(keywords, str) and (not keywords or any(m in keywords for m in "/?#")):
            raise Unanswerable("text as typed would be another address on a server")
        words = typed_words(keywords) if isinstance(keywords, str) else keywords
        return pages.results(self._goal.instruction, self._find(words), page)

    def item(
        self, asin: str, keywords: Sequence[str] | str, page: int, options: Mapping[str, str]
    ) -> Page:
        product = self._catalogue.by_asin[asin]
        return pages.item(self._goal.instruction, product, self._show_attrs)

    def sub_page(
        self,
        asin: str,
        keywords: Sequence[str] | str,
        page: int,
        name: str,
        options: Mapping[str, str],
    ) -> Page:
        return pages.sub_page(self._goal.instruction, self._catalogue.by_asin[asin], name)

    def done(self, asin: str, options: Mapping[str, str]) -> Receipt:
        goal, products = self._goal, self._catalogue.by_asin
        earned = reward(
            products[asin], options, self._prices[asin], goal, products[goal.asin], self._rules
        )
        return Receipt(pages.done(asin, options, earned.reward), earned.reward, earned)

    def close(self) -> None:
        """Nothing is held open."""

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

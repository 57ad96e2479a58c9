"""What a shopper knows after some steps: pages seen and clicks made become a belief."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.types import Step
from harness_agents.expert.webshop_pages import Listing, Page, is_asin, read_page

_ACTION = re.compile(r"(search|click)\[(.+)\]")
SUB_PAGES = ("description", "features", "reviews")


@dataclass(slots=True)
class Belief:
    """The shop as far as it was seen.

    ``event`` is what the last action did: start | results | turned | back | item | chose | read |
    returned | restarted | done | nothing.
    """

    page: Page
    event: str = "start"
    #: The last action's name and argument; empty strings where it was none.
    verb: str = ""
    argument: str = ""
    steps: int = 0
    query: str = ""
    #: Result pages seen for the present query: number -> products.
    results: dict[int, tuple[Listing, ...]] = field(default_factory=dict)
    number: int = 0
    #: Product whose pages are shown, if any.
    asin: str = ""
    #: Product that was last left for the results.
    left: str = ""
    listings: dict[str, Listing] = field(default_factory=dict)
    items: dict[str, Page] = field(default_factory=dict)
    #: asin -> sub page -> its text.
    read: dict[str, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    #: Values chosen for the product shown: option name -> value.
    chosen: dict[str, str] = field(default_factory=dict)
    #: Actions that did nothing on the page now shown.
    refused: set[str] = field(default_factory=set)

    def texts(self, asin: str) -> list[str]:
        """All that was read about a product."""
        title = self.items[asin].title if asin in self.items else self.listings[asin].title
        return [title, *(p for text in self.read.get(asin, {}).values() for p in text)]


def believe(history: Sequence[Step], observation: str) -> Belief:
    """Follow an episode up to the present observation. Any text is understood somehow."""
    texts = [step.observation for step in history] + [observation]
    belief = Belief(read_page(texts[0]))
    for step, shown in zip(history, texts[1:], strict=True):
        _follow(belief, _plain(step.decision.action or ""), read_page(shown))
    return belief


def shown(history: Sequence[Step], observation: str) -> str:
    """The newest observation that shows a page: what can be clicked now."""
    texts = (observation, *(step.observation for step in reversed(history)))
    return next((t for t in texts if read_page(t).kind not in ("other", "chosen")), observation)


def _plain(action: str) -> str:
    """A click as it is planned, where a page asks for its own spelling: small, but for asins."""
    found = _ACTION.fullmatch(action)
    if found is None or found[1] != "click" or is_asin(found[2]):
        return action
    return action.lower()


def _follow(b: Belief, action: str, page: Page) -> None:
    found = _ACTION.match(action)
    b.verb, b.argument = (found[1], found[2].lower()) if found else ("", "")
    b.steps += 1
    before, b.page = b.page, page if page.kind not in ("other", "chosen") else b.page
    same = page.kind == "chosen" or (page.kind in ("item", "sub") and page == before)
    if same and _chose(b, before):
        b.event = "chose"
        return
    if same or page == before or page.kind == "other":
        b.event = "nothing"
        b.refused.add(action)
        return
    b.refused = set()
    b.event = _EVENTS[page.kind](b, before, page)


def _chose(b: Belief, page: Page) -> bool:
    name = page.option_of(b.argument) if b.verb == "click" else None
    if name is None:
        return False
    b.chosen[name] = b.argument
    b.refused = set()
    return True


def _start(b: Belief, before: Page, page: Page) -> str:
    _forget(b)
    return "restarted"


def _results(b: Belief, before: Page, page: Page) -> str:
    if b.verb == "search":
        _forget(b)
        b.query = b.argument
    b.left, b.asin, b.chosen = b.asin, "", {}
    b.number = page.number
    b.results[page.number] = page.products
    for listing in page.products:
        b.listings.setdefault(listing.asin, listing)
    if b.verb == "search":
        return "results"
    return "turned" if before.kind == "results" else "back"


def _item(b: Belief, before: Page, page: Page) -> str:
    if before.kind == "sub" and b.asin:
        return "returned"
    b.asin, b.chosen = b.argument.upper(), {}
    b.items[b.asin] = page
    b.listings.setdefault(b.asin, Listing(b.asin, page.title, page.low, page.high))
    return "item"


def _sub(b: Belief, before: Page, page: Page) -> str:
    if b.asin and b.argument in SUB_PAGES:
        b.read.setdefault(b.asin, {})[b.argument] = page.text
    return "read"


def _done(b: Belief, before: Page, page: Page) -> str:
    return "done"


def _forget(b: Belief) -> None:
    b.query, b.results, b.number, b.asin, b.chosen = "", {}, 0, "", {}


_EVENTS = {
    "start": _start,
    "results": _results,
    "item": _item,
    "sub": _sub,
    "done": _done,
}

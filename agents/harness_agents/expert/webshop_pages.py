"""WebShop's pages, read as a person at the screen reads them; in all views, nothing else.

Strings come joined by " [SEP] " (mode ``text``), or one a line with buttons marked
(``text_rich``), as in ``web_agent_site/envs/web_agent_text_env.py`` of princeton-nlp/WebShop, or as
ReAct's notebook writes them: buttons in brackets, an option's values behind its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal, NamedTuple

Kind = Literal["start", "results", "item", "sub", "done", "chosen", "other"]

_RESULTS = re.compile(r"Page (\d+) \(Total results: (\d+)\)")
_PRICE = re.compile(r"\$(\d+(?:\.\d+)?)(?: to \$(\d+(?:\.\d+)?))?")
_ASIN = re.compile(r"[0-9A-Z]{10}")
_BUTTON = re.compile(r"\[(?:clicked )?button\] (.*?) \[(?:clicked )?button_\]")
#: ReAct's view: a button, or an option with its values.
_BRACKETED = re.compile(r"(?:([^\[\]]+) )?\[(.+)\]")
# Names that options go by; a page in text mode shows names and values alike.
_NAMES = frozenset(
    {
        "capacity",
        "color",
        "color name",
        "configuration",
        "design",
        "fit type",
        "flavor",
        "flavor name",
        "item package quantity",
        "item shape",
        "length",
        "material",
        "material type",
        "number of items",
        "pattern",
        "pattern name",
        "product packaging",
        "scent",
        "scent name",
        "shape",
        "size",
        "size name",
        "special size",
        "style",
        "style name",
        "team name",
        "unit count",
        "width",
    }
)


class Listing(NamedTuple):
    """A product among results. Prices in dollars; two differ where a range is shown."""

    asin: str
    title: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Page:
    """One observation, read. Fields that its kind does not have are empty. ``chosen``: ReAct's view
    says that an option was, and shows the page no more."""

    kind: Kind
    #: results: page number, number of hits, products in order.
    number: int = 0
    total: int = 0
    products: tuple[Listing, ...] = ()
    #: item: title, price, option name -> values.
    title: str = ""
    low: float = 0.0
    high: float = 0.0
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: sub page: its paragraphs.
    text: tuple[str, ...] = ()

    def option_of(self, value: str) -> str | None:
        """The name of the option that has this value (any case)."""
        return next((n for n, values in self.options if value.lower() in values), None)


@lru_cache(maxsize=8192)
def read_page(observation: str) -> Page:
    """Read one observation; text that is no page of the shop gives the kind "other"."""
    parts = _strings(observation)
    if parts[:1] == ["WebShop"]:
        return Page("start")
    if parts[:1] == ["Thank you for shopping with us!"]:
        return Page("done")
    if len(parts) == 1 and parts[0].startswith("You have clicked "):
        return Page("chosen")
    if "Back to Search" not in parts:
        return Page("other")
    body = parts[parts.index("Back to Search") + 1 :]
    if body and (found := _RESULTS.fullmatch(body[0])):
        return Page("results", int(found[1]), int(found[2]), _products(body[1:]))
    if body[:1] != ["< Prev"]:
        return Page("other")
    price = next((n for n, part in enumerate(body) if part.startswith("Price: ")), None)
    if price is None or "Buy Now" not in body[price:]:
        return Page("sub", text=tuple(body[1:]))
    low, high = read_price(body[price])
    options = _options(body[1 : price - 1])
    return Page("item", title=body[price - 1], low=low, high=high, options=options)


def spelt(action: str, observation: str) -> str:
    """An action with the page's own spelling of its button: ReAct's view takes no other."""
    if not action.startswith("click["):
        return action
    wanted = action.removeprefix("click[").removesuffix("]").lower()
    lines = map(_BRACKETED.fullmatch, map(str.strip, observation.split("\n")))
    shown = (button for line in lines if line for button in line[2].split("]["))
    return next((f"click[{button}]" for button in shown if button.lower() == wanted), action)


def is_asin(text: str) -> bool:
    """Whether a button is a product's."""
    return _ASIN.fullmatch(text) is not None


def read_price(text: str) -> tuple[float, float]:
    """``"$10.99 to $18.99"`` -> ``(10.99, 18.99)``; without a price ``(0.0, 0.0)``."""
    found = _PRICE.search(text)
    if found is None:
        return 0.0, 0.0
    low = float(found[1])
    return low, float(found[2] or low)


def _strings(observation: str) -> list[str]:
    # A sub page's text may have lines of its own, and a rich page has no separators.
    if " [SEP] " in observation or "\n" not in observation:
        return [part.strip() for part in observation.split(" [SEP] ")]
    lines = [line.strip() for line in observation.split("\n")]
    if _BUTTON.search(observation) is not None:
        lines = [_BUTTON.sub(r"\1", line).strip() for line in lines]
    else:
        lines = _unbracketed(lines)
    found = [line.removesuffix(":") if line == "Instruction:" else line for line in lines if line]
    return found[1:] if found and found[0].startswith("You have clicked ") else found


def _unbracketed(lines: list[str]) -> list[str]:
    """ReAct's view: a button a line, an option's values behind its name, and titles as they are."""
    found = []
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        bracketed = _BRACKETED.fullmatch(line)
        # A title may end in brackets too: it stands before the price, or behind an asin.
        if bracketed is None or after.startswith("Price: ") or _ASIN.fullmatch(before.strip("[]")):
            found.append(line)
            continue
        name, inside = bracketed.groups()
        found += [inside] if name is None else [name, *inside.split("][")]
    return found


def _products(parts: list[str]) -> tuple[Listing, ...]:
    starts = [n for n, part in enumerate(parts) if _ASIN.fullmatch(part)]
    found = []
    for start, stop in pairwise([*starts, len(parts)]):
        if stop - start >= 3:
            title = " ".join(parts[start + 1 : stop - 1])
            found.append(Listing(parts[start], title, *read_price(parts[stop - 1])))
    return tuple(found)


def _options(parts: list[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    found: list[tuple[str, list[str]]] = []
    for part in parts:
        # The first string names an option whatever it is; a name alone would have no values.
        if not found or part in _NAMES:
            found.append((part, []))
        else:
            found[-1][1].append(part)
    return tuple((name, tuple(values)) for name, values in found)

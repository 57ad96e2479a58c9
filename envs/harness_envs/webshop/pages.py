"""WebShop's pages as the texts a reader sees, and the two ways of writing them down.

The original renders HTML (``web_agent_site/templates``) and reads the visible strings back
(``web_agent_site/envs/web_agent_text_env.py``). Here a page is those strings from the start.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from harness_envs.webshop.catalogue import Product

Kind = Literal["text", "button", "product", "option"]
Mode = Literal["text", "text_rich"]
MODES: tuple[Mode, ...] = ("text", "text_rich")

#: Results of a search, and how many of them a page shows.
RESULTS = 50
PER_PAGE = 10

BUY, NEXT, PREV, BACK = "Buy Now", "Next >", "< Prev", "Back to Search"
SUB_PAGES = ("Description", "Features", "Reviews", "Attributes")
SCORE = "Your score (min 0.0, max 1.0)"

_SPACE = " \n\t\f\r"
#: What Jinja's ``tojson`` writes for characters that mean something in HTML.
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})


class Node(NamedTuple):
    """A visible string. ``name``: of an option value, the option's."""

    kind: Kind
    text: str
    name: str = ""


Page = tuple[Node, ...]


def shown(text: str, kind: Kind = "text", name: str = "") -> list[Node]:
    """A string as a reader of the HTML gets it: white space alone is one blank, or nothing."""
    if not text.strip(_SPACE):
        return [Node(kind, " ", name)] if text and "\n" not in text else []
    return [Node(kind, text, name)]


def _plain(*texts: str) -> Page:
    return tuple(node for text in texts for node in shown(text))


def _buttons(*texts: str) -> Page:
    return tuple(Node("button", text) for text in texts)


def start(instruction: str) -> Page:
    return _plain("WebShop", "Instruction: ", instruction) + _buttons("Search")


def results(instruction: str, found: Sequence[Product], page: int) -> Page:
    """Page ``page`` (from 1) of the products found. Past the end it is empty."""
    top = _plain("Instruction:", instruction) + _buttons(BACK)
    top += _plain(f"Page {page} (Total results: {len(found)})")
    nodes = [*top, *_buttons(*((PREV, NEXT) if page > 1 else (NEXT,)))]
    for product in found[(page - 1) * PER_PAGE : page * PER_PAGE]:
        nodes += [Node("product", product.asin), *shown(product.title), *shown(product.price_tag)]
    return tuple(nodes)


def item(instruction: str, product: Product, show_attrs: bool = False) -> Page:
    nodes = [*_plain("Instruction:", instruction), *_buttons(BACK, PREV)]
    for name, values in product.options.items():
        nodes += shown(name)
        nodes += [Node("option", value, name) for value in values]
    nodes += _plain(product.title, f"Price: {product.price_tag}", "Rating: N.A.")
    nodes += _buttons(*SUB_PAGES[: 4 if show_attrs else 3], BUY)
    return tuple(nodes)


def sub_page(instruction: str, product: Product, name: str) -> Page:
    """Description, Features, Reviews (always empty in the published data) or Attributes."""
    texts: Iterable[str] = ()
    if name == "Description":
        texts = [product.description]
    elif name == "Features":
        texts = [f" {bullet}" for bullet in product.bullets]
    elif name == "Attributes":
        attributes = [f" {attribute}" for attribute in product.attributes]
        texts = [*attributes, product.category, product.query, product.product_category]
    return _plain("Instruction:", instruction) + _buttons(BACK, PREV) + _plain(*texts)


def done(asin: str, options: Mapping[str, str], reward: float) -> Page:
    """The receipt, whose other fields the original leaves empty ("None")."""
    chosen = json.dumps(options, sort_keys=True).translate(_ESCAPED)
    return _plain(
        *("Thank you for shopping with us!", "Your code: ", "None"),
        " (Paste it in your MTurk interface.)",
        *("Purchased", "asin", asin, "options", chosen, "attrs", "None"),
        *("category", "None", "query", "None", "product category", "None"),
        *("Target", "asin", "options", "attrs", "price upper", "instuction text"),
        *("category", "product category", "query", "Goal ", "None"),
        *("Reward", SCORE, str(reward), "Reward Details ", "None"),
    )


# Reading a page ---------------------------------------------------------------------------


def clickables(page: Page) -> dict[str, Node]:
    """Text to click -> what it is: buttons, then products, then option values.

    Of two options with one value the later is clicked, at the place of the earlier.
    """
    found: dict[str, Node] = {}
    for kind in ("button", "product", "option"):
        for node in page:
            if node.kind == kind:
                found[node.text if kind == "option" else node.text.lower()] = node
    return found


def text(page: Page) -> str:
    return " [SEP] ".join(node.text.strip() for node in page if node.kind != "option" or node.text)


def text_rich(page: Page, url: str, visited: Collection[str]) -> str:
    """A string a line, with marks for what can be clicked and what was.

    An option counts as chosen if ``"value"`` stands in the address, as in the original, where
    values with quotes or beyond ASCII never do, and a searched word in quotes does.
    """
    lines: list[str] = []
    clicked: list[str] = []
    for kind, words, _ in page:
        if kind == "button":
            lines.append(f"[button] {words} [button_]\n")
        elif kind == "product":
            mark = "clicked button" if words in visited else "button"
            lines.append(f"\n[{mark}] {words} [{mark}_]\n")
        elif kind == "option" and f'"{words}"' in url:
            lines.append(f"  [clicked button] {words} [clicked button_]\n")
            clicked.append(f"You have clicked {words}.\n")
        elif kind == "option":
            lines.append(f"  [button] {words} [button_]\n" if words else "")
        else:
            lines.append(f"{words}\n")
    return "".join([*reversed(clicked), *lines])

"""A shop that needs no download: a generated catalogue in the form of WebShop's own files.

    >>> products, attributes, nouns = records()
    >>> len(products)
    1200
    >>> attributes[products[0]["asin"]]["instruction"]  # doctest: +SKIP
    'Find me oil free face creams with green tea for dry skin'

Each of sixty kinds of product comes in families of four that differ in little: one attribute, often
told on the features page only; the values of an option; or the price. So a title is not enough to
choose by. The same version makes the same catalogue anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any

from harness_envs.webshop.builtin_text import bullets, description, instruction, title, title_nouns
from harness_envs.webshop.builtin_words import DEPARTMENTS, OPTIONS, Department, Kind

__all__ = ["SPLITS", "VERSION", "records", "split_of"]

#: Part of every seed: another version is another catalogue.
VERSION = "1"
SPLITS = ("train", "dev", "valid")

_FAMILIES = 5
_FAMILY = 4
# What no product is at the same time.
_EXCLUSIVE = (
    {"slim fit", "loose fit"},
    {"short sleeve", "long sleeve"},
    {"dry skin", "oily skin"},
    {"fine hair", "curly hair"},
    {"dark cocoa", "real fruit"},
)
_SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
# In thousandths of the products; the rest is train.
_SHARES = {"valid": 75, "dev": 60}

Product = dict[str, Any]


@cache
def records() -> tuple[list[Product], dict[str, dict[str, Any]], dict[str, list[str]]]:
    """The catalogue: products as in ``items_shuffle*.json``, attributes and instructions as in
    ``items_ins_v2*.json``, nouns by title.

    Cached: callers must not change what they get.
    """
    products: list[Product] = []
    attributes: dict[str, dict[str, Any]] = {}
    for department in DEPARTMENTS:
        for kind in department.kinds:
            for number in range(_FAMILIES):
                for product, facts in _family(department, kind, number):
                    products.append(product)
                    attributes[product["asin"]] = facts
    Random(f"webshop|{VERSION}").shuffle(products)
    nouns = {p["name"]: title_nouns(p["name"]) for p in products}
    return products, attributes, nouns


def split_of(asin: str) -> str:
    """``train``, ``dev`` or ``valid``: a product and all its goals are in one split."""
    digest = hashlib.sha256(f"webshop|{VERSION}|{asin}".encode()).digest()
    place = int.from_bytes(digest[:4], "big") % 1000
    for split, share in _SHARES.items():
        if place < share:
            return split
        place -= share
    return "train"


def _family(
    department: Department, kind: Kind, number: int
) -> list[tuple[Product, dict[str, Any]]]:
    """Four products with two or three attributes in common.

    Each of the first three has one that the others lack. The last is like one of them but dearer,
    or without some value of its options; mostly nobody asks for it.
    """
    rng = Random(f"webshop|{VERSION}|{kind.query}|{number}")
    pool = rng.sample(kind.attributes, len(kind.attributes))
    core, own = _draw(pool, 3), []
    for attribute in pool:
        if attribute not in core and len(own) < _FAMILY - 1:
            own.append(attribute)
    base = rng.uniform(*kind.prices)
    values = _option_values(kind, rng)
    family = []
    for place in range(_FAMILY - 1):
        shared = core if rng.random() < 0.7 else rng.sample(core, 2)
        family.append((_compatible(shared, own[place]), own[place], base, _some(values, rng)))
    twin, sign, _, offered = rng.choice(family)
    if rng.random() < 0.5:
        family.append((twin, sign, base + rng.uniform(45, 80), offered))
    else:
        family.append((twin, sign, base, _others(kind, offered, rng)))
    sold = []
    for place, (has, mark, price, options) in enumerate(family):
        wanted = place < _FAMILY - 1 or rng.random() < 0.2
        sold.append(_product(department, kind, has, mark, price, options, wanted, rng))
    return sold


def _draw(pool: Sequence[str], count: int) -> list[str]:
    drawn: list[str] = []
    for attribute in pool:
        if len(drawn) < count and not any({attribute, d} in _EXCLUSIVE for d in drawn):
            drawn.append(attribute)
    return drawn


def _compatible(shared: Sequence[str], mark: str) -> list[str]:
    return [a for a in shared if {a, mark} not in _EXCLUSIVE] + [mark]


# Options ----------------------------------------------------------------------------------


def _option_values(kind: Kind, rng: Random) -> dict[str, tuple[str, ...]]:
    """The options of a family: all of its kind, one, or none."""
    options = list(OPTIONS[kind.sold])
    draw = rng.random()
    if draw < 0.08:
        return {}
    if draw < 0.52:
        options = [rng.choice(options)]
    return dict(options)


def _some(values: dict[str, tuple[str, ...]], rng: Random) -> dict[str, list[str]]:
    """Two to four values of each option, in the order of its kind."""
    most = 4 if len(values) == 1 else 3
    return {
        name: sorted(rng.sample(all_, min(len(all_), rng.randint(2, most))), key=all_.index)
        for name, all_ in values.items()
    }


def _others(kind: Kind, offered: dict[str, list[str]], rng: Random) -> dict[str, list[str]]:
    """The same options with other values of one of them."""
    if not offered:
        return {}
    name = rng.choice(sorted(offered))
    left = [v for v in dict(OPTIONS[kind.sold])[name] if v not in offered[name]]
    kept = rng.sample(offered[name], len(offered[name]) - 1)
    all_ = dict(OPTIONS[kind.sold])[name]
    mixed = sorted([*kept, rng.choice(left)] if left else kept, key=all_.index)
    return {**offered, name: mixed}


# One product ------------------------------------------------------------------------------


def _product(
    department: Department,
    kind: Kind,
    attributes: Sequence[str],
    mark: str,
    price: float,
    options: dict[str, list[str]],
    wanted: bool,
    rng: Random,
) -> tuple[Product, dict[str, Any]]:
    brand = rng.choice(department.brands)
    titled, listed = _placed(attributes, mark, rng)
    searched = [*titled, *listed[:1]]
    told = rng.sample(searched, min(len(searched), rng.randint(1, 2)))
    product = {
        "name": title(department, kind, brand, titled, rng),
        "full_description": description(department, kind, brand, told, rng),
        "pricing": _pricing(price * rng.uniform(0.9, 1.1), rng),
        "images": [],
        "product_category": f"{department.root} › {kind.category}",
        "average_rating": "",
        "small_description": bullets(
            department, listed, max(2 - len(listed), rng.randint(0, 1)), rng
        ),
        "customization_options": _customization(options, rng),
        "asin": "B0" + rng.choice("789") + "".join(rng.choices(_SIGNS, k=7)),
        "category": department.category,
        "query": kind.query,
        "page": rng.randint(1, 9),
    }
    facts: dict[str, Any] = {"attributes": list(attributes)}
    if wanted:
        others = [a for a in attributes if a != mark]
        count = rng.choices((1, 2, 3), (30, 50, 20))[0]
        asked = [*rng.sample(others, min(count, len(others))), mark]
        facts["instruction"] = instruction(kind, asked, rng)
        facts["instruction_attributes"] = asked
    return product, facts


def _placed(attributes: Sequence[str], mark: str, rng: Random) -> tuple[list[str], list[str]]:
    """Which attributes the title names, and the order of those that only the bullets do.

    The first bullet is searched, the later ones are not: what sets a product apart is there for a
    third of them.
    """
    others = rng.sample([a for a in attributes if a != mark], len(attributes) - 1)
    shown = rng.choice((1, 1, 2))
    draw = rng.random()
    if draw < 0.35:
        titled = rng.sample([mark, *others[: shown - 1]], shown)
        return titled, others[shown - 1 :]
    titled, listed = others[:shown], others[shown:]
    return titled, [mark, *listed] if draw < 0.65 else [*listed, mark]


def _pricing(price: float, rng: Random) -> str:
    """``$14.95``, or for a tenth of the products ``$14.95,$17.49``."""
    low = _cents(price, rng)
    if rng.random() < 0.1:
        return f"${low:.2f},${_cents(low * rng.uniform(1.08, 1.2), rng):.2f}"
    return f"${low:.2f}"


def _cents(price: float, rng: Random) -> float:
    return int(price) + rng.choice((0.0, 0.49, 0.5, 0.89, 0.95, 0.99, 0.99))


def _customization(options: dict[str, list[str]], rng: Random) -> Any:
    names = sorted(options) if rng.random() < 0.7 else sorted(options, reverse=True)
    return {
        name.title(): [
            {"is_selected": n == 0, "value": value, "price_string": "", "price": 0, "image": None}
            for n, value in enumerate(options[name])
        ]
        for name in names
    } or ""

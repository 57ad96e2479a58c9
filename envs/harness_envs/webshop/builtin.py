"""A shop that needs no download: a generated catalogue in the form of WebShop's own files.

    >>> products, attributes, nouns = records()
    >>> len(products)
    1440

Each of sixty kinds of product comes in families of four that differ in little: one attribute, often
told on the features page only; the values of an option; or the price. So a title is not enough to
choose by. The same version makes the same catalogue anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

from harness_envs.webshop.builtin_text import bullets, description, instruction, title, title_nouns
from harness_envs.webshop.builtin_words import Attribute, Department, Kind, shop

__all__ = ["SPLITS", "VERSION", "records", "split_of"]

#: Part of every seed: another version is another catalogue.
VERSION = "1"
SPLITS = ("train", "dev", "valid")

_FAMILIES = 6
# Siblings that are asked for; one more is not, or seldom.
_SIBLINGS = 3
# Asins are spelt from syllables: ten characters, and few tokens of a small vocabulary.
_SYLLABLES = [c + v for c in "BDFGKLMNPRSTVZ" for v in "AEIOU"]
# In thousandths of the products; the rest is train.
_SHARES = {"valid": 85, "dev": 60}

Product = dict[str, Any]
Values = dict[str, list[str]]


class _Sketch(NamedTuple):
    """What decides a product: ``mark`` is the attribute that its siblings lack."""

    attributes: list[Attribute]
    mark: Attribute
    price: float
    options: Values


@cache
def records() -> tuple[list[Product], dict[str, dict[str, Any]], dict[str, list[str]]]:
    """The catalogue: products as in ``items_shuffle*.json``, attributes and instructions as in
    ``items_ins_v2*.json``, nouns by title.

    Cached: callers must not change what they get.
    """
    products: list[Product] = []
    attributes: dict[str, dict[str, Any]] = {}
    for department in shop().departments:
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
    or with other values of an option; mostly nobody asks for it.
    """
    rng = Random(f"webshop|{VERSION}|{kind.query}|{number}")
    pool = rng.sample(kind.attributes, len(kind.attributes))
    core = _compatible(pool)[:3]
    marks = [a for a in pool if a not in core][:_SIBLINGS]
    price = rng.uniform(*kind.prices)
    values = _sold_in(kind, rng)
    family = []
    for mark in marks:
        shared = core if rng.random() < 0.7 else rng.sample(core, 2)
        family.append(_Sketch(_compatible([mark, *shared]), mark, price, _some(values, rng)))
    twin = rng.choice(family)
    if not values or rng.random() < 0.5:
        family.append(twin._replace(price=price + rng.uniform(45, 80)))
    else:
        family.append(twin._replace(options=_others(values, twin.options, rng)))
    return [
        _product(department, kind, sketch, n < _SIBLINGS or rng.random() < 0.2, rng)
        for n, sketch in enumerate(family)
    ]


def _compatible(attributes: Sequence[Attribute]) -> list[Attribute]:
    """Those that one product can have together; the first ones win."""
    kept: list[Attribute] = []
    for attribute in attributes:
        if not any({attribute.name, k.name} in shop().exclusive for k in kept):
            kept.append(attribute)
    return kept


# Options ----------------------------------------------------------------------------------


def _sold_in(kind: Kind, rng: Random) -> dict[str, tuple[str, ...]]:
    """The options of a family: all of its kind, one, or none."""
    draw = rng.random()
    if draw < 0.08:
        return {}
    if draw < 0.55:
        name = rng.choice(list(kind.options))
        return {name: kind.options[name]}
    return kind.options


def _some(values: dict[str, tuple[str, ...]], rng: Random) -> Values:
    """Two to four values of an only option, two or three of each otherwise, in the kind's order."""
    most = 4 if len(values) == 1 else 3
    return {
        name: _ordered(rng.sample(v, rng.randint(2, min(most, len(v)))), v)
        for name, v in values.items()
    }


def _others(values: dict[str, tuple[str, ...]], offered: Values, rng: Random) -> Values:
    """The same options, one of them with other values in part."""
    name = rng.choice(sorted(offered))
    left = [v for v in values[name] if v not in offered[name]]
    kept = rng.sample(offered[name], len(offered[name]) - 1)
    return {**offered, name: _ordered([*kept, *left[:1]], values[name])}


def _ordered(chosen: Sequence[str], values: Sequence[str]) -> list[str]:
    return sorted(chosen, key=values.index)


# One product ------------------------------------------------------------------------------


def _product(
    department: Department, kind: Kind, sketch: _Sketch, wanted: bool, rng: Random
) -> tuple[Product, dict[str, Any]]:
    brand = rng.choice(department.brands)
    titled, listed = _placed(sketch, rng)
    searched = [*titled, *listed[:1]]
    told = rng.sample(searched, min(len(searched), rng.randint(1, 2)))
    fillers = max(2 - len(listed), rng.randint(0, 1))
    product = {
        "name": title(department, kind, brand, titled, rng),
        "full_description": description(department, kind, brand, told, rng),
        "pricing": _pricing(sketch.price * rng.uniform(0.9, 1.1), rng),
        "images": [],
        "product_category": f"{department.root} › {kind.category}",
        "average_rating": "",
        "small_description": bullets(department, listed, fillers, rng),
        "customization_options": _customization(sketch.options, rng),
        "asin": _asin(rng),
        "category": department.category,
        "query": kind.query,
        "page": rng.randint(1, 9),
    }
    facts: dict[str, Any] = {"attributes": [a.name for a in sketch.attributes]}
    if wanted:
        others = [a for a in sketch.attributes if a != sketch.mark]
        count = rng.choices((1, 2, 3), (30, 50, 20))[0]
        asked = [*rng.sample(others, min(count, len(others))), sketch.mark]
        facts["instruction"] = instruction(kind, asked, rng)
        facts["instruction_attributes"] = [a.name for a in asked]
    return product, facts


def _placed(sketch: _Sketch, rng: Random) -> tuple[list[Attribute], list[Attribute]]:
    """Which attributes the title names, and the order of those that only the bullets do.

    The first bullet is searched and the later ones are not: for a quarter of the products, what
    sets it apart is found on its features page only.
    """
    others = [a for a in sketch.attributes if a != sketch.mark]
    rng.shuffle(others)
    shown = rng.choice((1, 1, 2))
    draw = rng.random()
    if draw < 0.35:
        titled = rng.sample([sketch.mark, *others[: shown - 1]], shown)
        return titled, others[shown - 1 :]
    titled, listed = others[:shown], others[shown:]
    return titled, [sketch.mark, *listed] if draw < 0.75 else [*listed, sketch.mark]


def _asin(rng: Random) -> str:
    """``B07KORAMI4``."""
    return f"B0{rng.choice('789')}{''.join(rng.choices(_SYLLABLES, k=3))}{rng.randrange(10)}"


def _pricing(price: float, rng: Random) -> str:
    """``$14.90``, or for a tenth of the products a range: ``$14.90,$17.50``."""
    low = _cents(price, rng)
    if rng.random() < 0.1:
        return f"${low:.2f},${_cents(low * rng.uniform(1.08, 1.2) + 1, rng):.2f}"
    return f"${low:.2f}"


def _cents(price: float, rng: Random) -> float:
    return int(price) + rng.choice((0.0, 0.5, 0.9, 0.9))


def _customization(options: Values, rng: Random) -> dict[str, Any] | str:
    """As the official files have it: name -> records of values; an empty string for none."""
    names = sorted(options, reverse=rng.random() < 0.3)
    return {
        name.title(): [
            {"is_selected": n == 0, "value": value, "price_string": "", "price": 0, "image": None}
            for n, value in enumerate(options[name])
        ]
        for name in names
    } or ""

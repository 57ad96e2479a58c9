"""Words of the built-in shop, read from ``builtin_shop.toml``: attributes, options, departments."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

#: How an attribute is said. adj: "a light weight X"; easy: "an X that is easy to clean";
#: with: "an X with green tea"; for: "an X for dry skin".
Role = Literal["adj", "easy", "with", "for"]


class Attribute(NamedTuple):
    """``name`` as WebShop writes attributes, without stop words; ``claim``: what a page adds."""

    name: str
    role: Role
    claim: str


class Kind(NamedTuple):
    """A kind of product. ``title`` names one; ``query`` is what shoppers type and the shop files
    it under; ``options``: name -> all values it is sold in; prices in dollars."""

    title: str
    query: str
    category: str
    options: dict[str, tuple[str, ...]]
    prices: tuple[float, float]
    attributes: tuple[Attribute, ...]


class Department(NamedTuple):
    """``category`` as the official files call it, ``root`` of the product categories; ``extras``
    end titles and ``fillers`` are sentences, that say nothing which an instruction asks for."""

    category: str
    root: str
    brands: tuple[str, ...]
    extras: tuple[str, ...]
    fillers: tuple[str, ...]
    kinds: tuple[Kind, ...]


class Shop(NamedTuple):
    """``exclusive``: attributes that no product has at the same time; ``not_nouns``: the words of
    titles that are no nouns."""

    departments: tuple[Department, ...]
    exclusive: tuple[frozenset[str], ...]
    not_nouns: frozenset[str]


@cache
def shop() -> Shop:
    """Everything the file says."""
    file = files("harness_envs.webshop") / "builtin_shop.toml"
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    attributes = {
        name: Attribute(name, role, claim)
        for role, claims in raw["attributes"].items()
        for name, claim in claims.items()
    }
    return Shop(
        tuple(_department(d, attributes, raw["options"]) for d in raw["departments"]),
        tuple(frozenset(names) for names in raw["exclusive"]),
        frozenset(raw["not_nouns"].split()),
    )


def _department(
    raw: dict[str, Any], attributes: dict[str, Attribute], options: dict[str, Any]
) -> Department:
    kinds = tuple(
        Kind(
            title=kind["title"],
            query=kind["query"],
            category=kind["category"],
            options={name: tuple(values) for name, values in options[kind["sold"]].items()},
            prices=(kind["prices"][0], kind["prices"][1]),
            attributes=tuple(attributes[name] for name in kind["attributes"]),
        )
        for kind in raw["kinds"]
    )
    texts = {key: tuple(raw[key]) for key in ("brands", "extras", "fillers")}
    return Department(raw["category"], raw["root"], kinds=kinds, **texts)

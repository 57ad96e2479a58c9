"""The products of a shop: records in WebShop's official form, checked and frozen.

A catalogue comes from the official files (``files``) or is generated (``builtin``); both go through
``Catalogue.from_records``, so a rule of the original holds for either.

Rules from princeton-nlp/WebShop ``web_agent_site/engine/engine.py`` (``load_products``) and
``web_agent_site/engine/goal.py``, at commit 64fa2a5.
"""

from __future__ import annotations

import hashlib
import random
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from harness.errors import DataError

#: What the recorded runs of the original were seeded with.
GOAL_SEED = 20261124
DEFAULT_PRICE = 100.0
REMEDY = "Get the files again with: harness fetch webshop"
_NOT_PRICE = re.compile(r"[^\d.]")


class HumanInstruction(msgspec.Struct, frozen=True):
    """What a person wrote for a product: the text, and what of it is scored."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


class Product(msgspec.Struct, frozen=True):
    """One product, as its pages show it and as the reward reads it."""

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    #: In dollars: one price, or the two ends of a range.
    pricing: tuple[float, ...]
    #: ``$14.95`` or ``$10.99 to $18.99``.
    price_tag: str
    #: Option name -> values, all lower case, in the shop's order.
    options: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    category: str
    #: ``Home & Kitchen › Furniture › ...``.
    product_category: str
    query: str
    #: The lower-cased tokens of the title that are nouns or proper nouns, repeats kept.
    nouns: tuple[str, ...]
    #: The generated instruction without options and price; None: no synthetic goal.
    instruction: str | None = None
    instruction_attributes: tuple[str, ...] = ()
    human: tuple[HumanInstruction, ...] = ()

    @property
    def document(self) -> str:
        """What the search engine indexes of it."""
        options = ", and ".join(f"{name}: {', '.join(v)}" for name, v in self.options.items())
        first = self.bullets[0] if self.bullets else ""
        return f"{self.title} {self.description} {first} {options}".lower()


class Record:
    """A raw record with its place, for errors that name file, line and field."""

    def __init__(self, body: Mapping[str, Any], where: str) -> None:
        if not isinstance(body, Mapping):
            raise DataError(f"{where}: is a {type(body).__name__}, expected an object.\n  {REMEDY}")
        self.body = body
        self.where = where

    @classmethod
    def at(cls, body: Mapping[str, Any] | Record, where: str) -> Record:
        """The record itself, or a raw one placed at ``where``."""
        return body if isinstance(body, Record) else cls(body, where)

    def fail(self, field: str, problem: str) -> DataError:
        return DataError(f"{self.where}: field '{field}' {problem}.\n  {REMEDY}")

    def get(self, field: str, *kinds: type, default: Any = ...) -> Any:
        """The field's value, of one of the types; absent without a default is an error."""
        value = self.body.get(field, default)
        if value is ...:
            raise self.fail(field, "is missing")
        if value is not default and not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise self.fail(field, f"is a {type(value).__name__}, expected {expected}")
        return value

    def strings(self, field: str, default: Any = ...) -> tuple[str, ...]:
        values = self.get(field, list, tuple, default=default)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.fail(f"{field}[{number}]", f"is a {type(value).__name__}, expected str")
        return tuple(values)


class Catalogue:
    """Products in their shop's order, with the prices drawn for ``goal_seed``."""

    def __init__(self, products: Sequence[Product]) -> None:
        self.products = tuple(products)
        self.by_asin = {product.asin: product for product in self.products}

    @classmethod
    def from_records(
        cls,
        products: Iterable[Mapping[str, Any] | Record],
        attributes: Mapping[str, Any],
        human: Mapping[str, Any] | None = None,
        *,
        nouns: Mapping[str, Sequence[str]],
    ) -> Catalogue:
        """Build from records of the official form.

        ``products``: as in ``items_shuffle.json``; ``attributes``: asin -> record of
        ``items_ins_v2.json``; ``human``: asin -> records of ``items_human_ins.json``; ``nouns``:
        title -> its nouns. Products with asin ``nan``, of over 10 characters, or met before are
        skipped, as in the original; an asin that is not in capitals, which the original cannot
        open, is refused. Raises DataError naming record and field.
        """
        found: dict[str, Product] = {}
        for number, raw in enumerate(products):
            record = Record.at(raw, f"products[{number}]")
            asin = record.get("asin", str)
            if asin == "nan" or len(asin) > 10 or asin in found:
                continue
            if asin != asin.upper():
                raise record.fail("asin", f"is '{asin}': products are opened in capitals")
            found[asin] = _product(record, asin, attributes, human or {}, nouns)
        if not found:
            raise DataError(f"A catalogue without any valid product.\n  {REMEDY}")
        return cls(list(found.values()))

    def prices(self, rng: random.Random) -> dict[str, float]:
        """asin -> price: of a range, a uniform draw. Advances ``rng`` once a range, in order."""
        return {
            p.asin: p.pricing[0] if len(p.pricing) == 1 else rng.uniform(*p.pricing)
            for p in self.products
        }

    @cached_property
    def digest(self) -> str:
        """16 hex digits over all products with their nouns: whose results a task belongs to."""
        found = hashlib.sha256()
        encoder = msgspec.json.Encoder()
        for product in self.products:
            found.update(encoder.encode(product))
        return found.hexdigest()[:16]


def _product(
    record: Record,
    asin: str,
    attributes: Mapping[str, Any],
    human: Mapping[str, Any],
    nouns: Mapping[str, Sequence[str]],
) -> Product:
    title = record.get("name", str)
    if title not in nouns:
        raise DataError(
            f"{record.where} (asin {asin}): the nouns of its title are not known: '{title[:60]}'.\n"
            "  Write them for the whole folder with: python -m harness_envs.webshop.nouns FOLDER"
        )
    bullets = record.get("small_description", list, str)
    pricing, tag = _pricing(record)
    extra = Record.at(attributes.get(asin, {}), f"attributes of asin {asin}")
    instruction = extra.get("instruction", str, default=None)
    scored = extra.strings("instruction_attributes") if instruction is not None else ()
    if instruction is not None and not scored:
        raise extra.fail("instruction_attributes", "is empty, but there is an instruction")
    return Product(
        asin=asin,
        title=title,
        description=record.get("full_description", str),
        bullets=record.strings("small_description") if isinstance(bullets, list) else (bullets,),
        pricing=pricing,
        price_tag=tag,
        options=_options(record),
        attributes=_interned(extra.strings("attributes", default=["DUMMY_ATTR"])),
        category=sys.intern(record.get("category", str)),
        product_category=sys.intern(record.get("product_category", str)),
        query=sys.intern(record.get("query", str).lower().strip()),
        nouns=_interned(nouns[title]),
        instruction=instruction,
        instruction_attributes=_interned(scored),
        human=_human(human.get(asin, []), asin),
    )


def _interned(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(sys.intern, values))


def _human(written: Any, asin: str) -> tuple[HumanInstruction, ...]:
    where = f"human instructions of asin {asin}"
    if not isinstance(written, list):
        raise DataError(f"{where}: is a {type(written).__name__}, expected a list.")
    records = [Record(raw, f"{where}: number {number}") for number, raw in enumerate(written)]
    return tuple(
        HumanInstruction(
            text=record.get("instruction", str),
            attributes=record.strings("instruction_attributes"),
            options=record.strings("instruction_options"),
        )
        for record in records
    )


def _pricing(record: Record) -> tuple[tuple[float, ...], str]:
    raw = record.get("pricing", str, type(None), default=None)
    if not raw:
        return (DEFAULT_PRICE,), f"${DEFAULT_PRICE}"
    try:
        values = tuple(float(_NOT_PRICE.sub("", part)) for part in raw.split("$")[1:])
    except ValueError:
        values = ()
    if not values:
        raise record.fail("pricing", f"is '{raw[:40]}', expected dollars like $5.99 or $5 to $7")
    if len(values) == 1:
        return values, f"${values[0]}"
    return values[:2], f"${values[0]} to ${values[1]}"


def _options(record: Record) -> dict[str, tuple[str, ...]]:
    raw = record.get("customization_options", dict, str, type(None), default=None)
    if not raw:
        return {}
    if isinstance(raw, str):
        raise record.fail("customization_options", "is a str, expected an object")
    found: dict[str, tuple[str, ...]] = {}
    for name, choices in raw.items():
        if choices is None:
            continue
        where = f"customization_options.{name}"
        if not isinstance(choices, list):
            raise record.fail(where, f"is a {type(choices).__name__}, expected list")
        values = []
        for number, choice in enumerate(choices):
            value = choice.get("value") if isinstance(choice, dict) else None
            if not isinstance(value, str):
                raise record.fail(f"{where}[{number}].value", "is not a string")
            values.append(value.strip().replace("/", " | ").lower())
        found[name.lower()] = tuple(values)
    return found

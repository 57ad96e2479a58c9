"""The facts behind the built-in pages: one table a kind, and what refers to what.

The tables in ``facts/`` were written for this project. A cell is empty where a fact is unknown, in
doubt, or has more than one answer: nothing is asked about it then. A year with a star is the one in
which a work was complete; "City, State" tells apart towns of one name.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple, TypeVar

#: Version of facts, page texts and questions: raise it whenever one of them changes.
VERSION = "1"

KINDS = (
    "people",
    "works",
    "countries",
    "cities",
    "rivers",
    "mountains",
    "lakes",
    "islands",
    "elements",
    "institutions",
    "buildings",
    "battles",
    "inventions",
    "moons",
)
#: Columns that name another entity, which has a page if its table has it: (kind, column).
REFERENCES = (
    ("people", "birthplace"),
    ("people", "country"),
    ("people", "deathplace"),
    ("works", "creator"),
    ("works", "place"),
    ("works", "based"),
    ("countries", "capital"),
    ("cities", "country"),
    ("cities", "river"),
    ("rivers", "source"),
    ("mountains", "country"),
    ("mountains", "climber"),
    ("lakes", "country"),
    ("islands", "country"),
    ("elements", "discoverer"),
    ("institutions", "city"),
    ("buildings", "architect"),
    ("buildings", "city"),
    ("battles", "country"),
    ("battles", "victor"),
    ("battles", "loser"),
    ("inventions", "inventor"),
    ("moons", "parent"),
    ("moons", "discoverer"),
)

Row = Mapping[str, str]
T = TypeVar("T")


class Entity(NamedTuple):
    """A thing with a page. ``name`` is its title without what tells it from its namesakes."""

    title: str
    kind: str
    row: Row

    @property
    def name(self) -> str:
        return self.title.partition(" (")[0]


@cache
def entities() -> Mapping[str, Entity]:
    """Every entity by its title, in the order of the tables."""
    found: dict[str, Entity] = {}
    for kind in KINDS:
        text = (files("harness_envs.hotpotqa") / "facts" / f"{kind}.tsv").read_text("utf-8")
        head, *lines = text.splitlines()
        columns = head.split("\t")
        for line in lines:
            row = dict(zip(columns, line.split("\t"), strict=True))
            title = row[columns[0]]
            found[title] = Entity(title, kind, row)
    return found


@cache
def of_kind(kind: str) -> tuple[Entity, ...]:
    """The entities of one table, in its order."""
    return tuple(e for e in entities().values() if e.kind == kind)


@cache
def _referring() -> Mapping[tuple[str, str, str], list[Entity]]:
    found: defaultdict[tuple[str, str, str], list[Entity]] = defaultdict(list)
    for kind, column in REFERENCES:
        for entity in of_kind(kind):
            if entity.row[column]:
                found[kind, column, entity.row[column]].append(entity)
    return found


def referring(kind: str, column: str, title: str) -> Sequence[Entity]:
    """Entities of ``kind`` whose ``column`` names ``title``, in the order of their table."""
    return _referring().get((kind, column, title), ())


def year(entity: Entity, column: str = "year") -> int:
    """A year as a number; 0 where it is not known."""
    return int(entity.row[column].rstrip("*") or 0)


def number(*key: object) -> int:
    """A number that follows from ``key`` alone, the same in every process."""
    text = "|".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def choose(options: Sequence[T], *key: object) -> T:
    """One of the options, by ``number``."""
    return options[number(*key) % len(options)]


def shuffled(options: Sequence[T], *key: object) -> list[T]:
    """The options in an order that follows from ``key`` and what they are."""
    return sorted(options, key=lambda option: number(*key, option))

"""Where things usually are: P(object class in a receptacle of a class), counted in train games.

The table ``alfworld_prior.json`` is written by ``fit_prior``; it holds, for each object class and
receptacle class, how many receptacles held such an object and how many stood in games that have
one somewhere.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources

#: Receptacle classes with a lid: looking into one takes two steps.
LIDDED = frozenset({"box", "cabinet", "drawer", "fridge", "microwave", "safe"})


def _table() -> bytes:
    return resources.files(__package__).joinpath("alfworld_prior.json").read_bytes()


@cache
def _counts() -> dict[str, dict[str, tuple[int, int]]]:
    table: dict[str, dict[str, tuple[int, int]]] = json.loads(_table())["counts"]
    return table


def fingerprint() -> str:
    """Hash of the table, 16 hex digits: another table explores in another order."""
    return hashlib.sha256(_table()).hexdigest()[:16]


@cache
def chance(thing: str, place: str) -> float:
    """P(a receptacle of class ``place`` holds an object of class ``thing``); 0 if never seen."""
    table = _counts()
    if thing in table:
        held, stood = table[thing].get(place, (0, 0))
        return held / stood if stood else 0.0
    # An object class train never had: as any object.
    rows = [row[place] for row in table.values() if place in row]
    return sum(h for h, _ in rows) / max(1, sum(s for _, s in rows))


@cache
def worth(thing: str, place: str) -> float:
    """Chance of finding ``thing`` per step spent on one receptacle of class ``place``."""
    return chance(thing, place) / (2 if place in LIDDED else 1)

"""Rooms of the built-in games: which receptacles stand where, and what usually lies in them.

A room is drawn once from its number and is the same in every game played in it; what lies in it
differs from game to game. Numbers follow ALFRED's convention (kitchens 1-30, living rooms
201-230, bedrooms 301-330, bathrooms 401-430); the rooms themselves are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

VERSION = "1"
FIRST = {"kitchen": 1, "living": 201, "bedroom": 301, "bathroom": 401}
PER_KIND = 30
UNSEEN_PER_KIND = 6  # the first six of each kind occur in valid_unseen only


class Point(NamedTuple):
    """Coordinates in hundredths of a metre; y is height."""

    x: int
    y: int
    z: int


class Receptacle(NamedTuple):
    cls: str
    point: Point
    place: int  # index into Room.places; several receptacles may share one


class Room(NamedTuple):
    kind: str
    number: int
    receptacles: tuple[Receptacle, ...]
    places: tuple[tuple[int, int, int, int], ...]  # grid x, grid z, heading 0-3, camera angle
    starts: tuple[int, ...]  # places that no receptacle has: where games begin
    classes: tuple[str, ...]  # receptacle classes, sorted


@cache
def room(number: int) -> Room:
    """The room of this number."""
    kind = kind_of(number)
    rng = Random(f"alfworld-builtin/{VERSION}/room/{number}")
    counts = {cls: choose(rng, options) for cls, options in _LAYOUTS[kind].items()}
    if kind == "bathroom" and not counts["Cabinet"]:
        counts["Drawer"] += 2
    groups = _group(rng, [cls for cls, count in counts.items() for _ in range(count)])

    half_x, half_z = 150 + between(rng, 0, 150), 150 + between(rng, 0, 150)
    receptacles: list[Receptacle] = []
    places: list[tuple[int, int, int, int]] = []
    taken: set[Point] = set()
    spots = len(groups) + 3  # with a start in every free third of the walk around the room
    free = sorted(between(rng, i * spots // 3, (i + 1) * spots // 3 - 1) for i in range(3))
    starts = []
    remaining = iter(groups)
    for spot in range(spots):
        x, z, heading = _on_wall(half_x, half_z, spot / spots)
        places.append((x * 3 // 100, z * 3 // 100, heading, choose(rng, (30, 45, 60))))
        if spot in free:
            starts.append(spot)
            continue
        for cls in next(remaining):
            low, high = _HEIGHTS.get(cls, (0, 10))
            point = _free(rng, taken, Point(x, between(rng, low, high), z), 12)
            receptacles.append(Receptacle(cls, point, spot))
    classes = tuple(cls for cls, count in counts.items() if count)  # the tables are sorted
    return Room(kind, number, tuple(receptacles), _distinct(places), tuple(starts), classes)


def kind_of(number: int) -> str:
    """``kitchen``, ``living``, ``bedroom`` or ``bathroom``."""
    return next(k for k, first in FIRST.items() if first <= number < first + PER_KIND)


def numbers(kind: str, *, unseen: bool) -> range:
    """Numbers of the rooms that belong to ``valid_unseen``, or to every other split."""
    first = FIRST[kind]
    border = first + UNSEEN_PER_KIND
    return range(first, border) if unseen else range(border, first + PER_KIND)


# Drawing uses random() alone: the one method whose sequence Python guarantees across versions.


def choose(rng: Random, options: Sequence[T]) -> T:
    """One of the options, each as likely."""
    return options[int(rng.random() * len(options))]


def between(rng: Random, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    return low + int(rng.random() * (high - low + 1))


def weighted(rng: Random, weights: Mapping[T, int]) -> T:
    """A key, as likely as its weight."""
    left = rng.random() * sum(weights.values())
    for key, weight in weights.items():
        left -= weight
        if left < 0:
            return key
    return key


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """The items in random order."""
    keyed = [(rng.random(), i) for i in range(len(items))]
    return [items[i] for _, i in sorted(keyed)]


def _group(rng: Random, classes: Sequence[str]) -> list[list[str]]:
    """Receptacles that are reached from the same place, in the order around the room."""
    groups: list[list[str]] = []
    for cls in classes:
        partners, chance = _SHARES.get(cls, ((), 0.0))
        near = [g for g in groups if len(g) == 1 and g[0] in partners]
        if near and rng.random() < chance:
            choose(rng, near).append(cls)
        else:
            groups.append([cls])
    return shuffled(rng, groups)


def _on_wall(half_x: int, half_z: int, part: float) -> tuple[int, int, int]:
    """x, z and the wall (0-3) after ``part`` of a walk around the room."""
    wall, along = divmod(part * 4, 1)
    across = along * 2 - 1
    x, z = ((across, 1.0), (1.0, -across), (-across, -1.0), (-1.0, across))[int(wall)]
    return round(x * half_x), round(z * half_z), int(wall)


def _free(rng: Random, taken: set[Point], near: Point, spread: int) -> Point:
    """A point not taken yet, up to ``spread`` from ``near`` in x and z; it is then taken."""
    while True:
        point = Point(
            near.x + between(rng, -spread, spread), near.y, near.z + between(rng, -spread, spread)
        )
        if point not in taken:
            taken.add(point)
            return point


def _distinct(places: Sequence[tuple[int, int, int, int]]) -> tuple[tuple[int, int, int, int], ...]:
    """Places moved along x until no two are the same."""
    seen: dict[tuple[int, int, int, int], None] = {}
    for x, z, heading, angle in places:
        while (x, z, heading, angle) in seen:
            x += 1
        seen[x, z, heading, angle] = None
    return tuple(seen)


# How many receptacles of each class a room has: one of these, each as likely.
_LAYOUTS: dict[str, dict[str, tuple[int, ...]]] = {
    "kitchen": {
        "Cabinet": (3, 4, 4, 5, 5, 6, 6, 7, 8),
        "CounterTop": (1, 2, 2, 3),
        "CoffeeMachine": (1,),
        "DiningTable": (0, 1, 1, 2),
        "Drawer": (2, 3, 3, 4, 5, 6),
        "Fridge": (1,),
        "GarbageCan": (1,),
        "Microwave": (1,),
        "Shelf": (0, 0, 1, 2, 3),
        "SideTable": (0, 0, 0, 1),
        "SinkBasin": (1,),
        "StoveBurner": (4,),
        "Toaster": (1,),
    },
    "living": {
        "ArmChair": (1, 1, 2),
        "Cabinet": (0, 0, 0, 2),
        "CoffeeTable": (1, 1, 2),
        "DiningTable": (0, 1, 1),
        "Dresser": (0, 0, 1),
        "Drawer": (1, 2, 3, 4, 4),
        "GarbageCan": (1,),
        "Ottoman": (0, 0, 0, 1),
        "Safe": (0, 0, 0, 0, 0, 1),
        "Shelf": (0, 0, 1, 2, 3),
        "SideTable": (1, 1, 2, 2),
        "Sofa": (1, 1, 2),
        "TVStand": (0, 1, 1),
    },
    "bedroom": {
        "ArmChair": (0, 0, 0, 1, 1),
        "Bed": (1, 1, 1, 2),
        "Cabinet": (0, 0, 0, 2),
        "Desk": (1, 1, 2),
        "DiningTable": (0, 0, 0, 1),
        "Dresser": (0, 1, 1),
        "Drawer": (2, 3, 3, 4, 5, 6),
        "GarbageCan": (1,),
        "LaundryHamper": (0, 0, 0, 1),
        "Safe": (0, 0, 0, 1),
        "Shelf": (0, 1, 2, 3, 4),
        "SideTable": (0, 1, 1, 2),
    },
    "bathroom": {
        "BathtubBasin": (0, 1, 1),
        "Cabinet": (0, 2, 2, 3, 4),
        "Cart": (0, 0, 0, 0, 1),
        "CounterTop": (1, 1, 1, 2),
        "Drawer": (0, 0, 1, 2, 3),
        "GarbageCan": (1,),
        "HandTowelHolder": (1, 1, 2),
        "Shelf": (0, 0, 1, 2),
        "SideTable": (0, 0, 0, 1),
        "SinkBasin": (1, 1, 2),
        "Toilet": (1,),
        "ToiletPaperHanger": (1,),
        "TowelHolder": (1, 1, 2),
    },
}

# Class -> classes it may share a place with, and how often it does.
_SHARES: dict[str, tuple[tuple[str, ...], float]] = {
    "Cabinet": (("Cabinet",), 0.2),
    "CoffeeMachine": (("CounterTop",), 0.25),
    "Drawer": (("Drawer", "Dresser"), 0.2),
    "Shelf": (("Shelf",), 0.15),
    "StoveBurner": (("StoveBurner",), 0.8),
    "Toaster": (("CounterTop",), 0.25),
}

# Class -> lowest and highest y.
_HEIGHTS: dict[str, tuple[int, int]] = {
    "Cabinet": (30, 210),
    "CoffeeMachine": (90, 95),
    "CounterTop": (85, 100),
    "Desk": (0, 70),
    "DiningTable": (0, 70),
    "Drawer": (15, 95),
    "HandTowelHolder": (120, 165),
    "Microwave": (90, 160),
    "Safe": (5, 125),
    "Shelf": (20, 170),
    "SinkBasin": (70, 95),
    "StoveBurner": (90, 95),
    "Toaster": (90, 95),
    "ToiletPaperHanger": (60, 100),
    "TowelHolder": (110, 160),
}

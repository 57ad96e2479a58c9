"""Household games that need no download: the six ALFWorld task types in rooms of our own.

    >>> len(ids("valid_unseen"))
    134
    >>> game(ids("train")[0]).task
    'put a cool potato in countertop.'

Games are in the official form, so ALFWorld's own engine plays them too. Everything follows from
the task id: the same id is the same game, in any process. ``valid_unseen`` is played in rooms that
no other split has; ``dev`` and ``valid_seen`` in train's rooms, with other things in other places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from harness.errors import ConfigError, unknown
from harness_envs.alfworld.builtin_facts import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    HEATABLE,
    LAMP,
    OPENABLE,
)
from harness_envs.alfworld.builtin_objects import (
    HABITS,
    LAMP_PLACES,
    LAMP_SHARE,
    LOOSE,
    SCENERY,
    Habit,
)
from harness_envs.alfworld.builtin_pddl import Item, display_names, goal, problem, thing_id
from harness_envs.alfworld.builtin_rooms import (
    VERSION,
    Point,
    Room,
    between,
    choose,
    numbers,
    room,
    shuffled,
    weighted,
)
from harness_envs.alfworld.game import Game

__all__ = ["SPLITS", "VERSION", "game", "ids"]

SPLITS = ("train", "dev", "valid_seen", "valid_unseen")

# Games of each type, split by split. The valid splits have the official numbers, train and dev the
# proportions of the official 3,553 train games (308, 790, 650, 533, 459, 813).
_COUNTS = {
    "look_at_obj_in_light": {"train": 208, "dev": 17, "valid_seen": 13, "valid_unseen": 18},
    "pick_and_place_simple": {"train": 534, "dev": 44, "valid_seen": 35, "valid_unseen": 24},
    "pick_clean_then_place_in_recep": {
        "train": 439,
        "dev": 37,
        "valid_seen": 27,
        "valid_unseen": 31,
    },
    "pick_cool_then_place_in_recep": {
        "train": 360,
        "dev": 30,
        "valid_seen": 25,
        "valid_unseen": 21,
    },
    "pick_heat_then_place_in_recep": {
        "train": 310,
        "dev": 26,
        "valid_seen": 16,
        "valid_unseen": 23,
    },
    "pick_two_obj_and_place": {"train": 549, "dev": 46, "valid_seen": 24, "valid_unseen": 17},
}

# Per cent of a type's games in each kind of room, after the official train games.
_KINDS: dict[str, dict[str, int]] = {
    "look_at_obj_in_light": {"bedroom": 83, "living": 17},
    "pick_and_place_simple": {"bathroom": 33, "bedroom": 30, "living": 27, "kitchen": 10},
    "pick_clean_then_place_in_recep": {"kitchen": 77, "bathroom": 23},
    "pick_cool_then_place_in_recep": {"kitchen": 100},
    "pick_heat_then_place_in_recep": {"kitchen": 100},
    "pick_two_obj_and_place": {"bedroom": 30, "bathroom": 29, "living": 26, "kitchen": 15},
}

# Task type -> the command's verb, the receptacle class that serves it, the classes it works on.
_TREATMENTS = {
    "pick_clean_then_place_in_recep": ("clean", "SinkBasin", CLEANABLE),
    "pick_heat_then_place_in_recep": ("heat", "Microwave", HEATABLE),
    "pick_cool_then_place_in_recep": ("cool", "Fridge", COOLABLE),
}

# Wordings of the official games (templates of alfworld/gen/goal_library.py).
_WORDINGS = {
    "look_at_obj_in_light": ("look at {o} under the {r}.", "examine the {o} with the {r}."),
    "pick_and_place_simple": ("put a {o} in {r}.", "put some {o} on {r}."),
    "pick_clean_then_place_in_recep": (
        "put a clean {o} in {r}.",
        "clean some {o} and put it in {r}.",
    ),
    "pick_cool_then_place_in_recep": ("put a cool {o} in {r}.", "cool some {o} and put it in {r}."),
    "pick_heat_then_place_in_recep": ("put a hot {o} in {r}.", "heat some {o} and put it in {r}."),
    "pick_two_obj_and_place": ("put two {o} in {r}.", "find two {o} and put them in {r}."),
}

# Nobody is asked to bring something here.
_NEVER_TARGETS = frozenset(
    {"BathtubBasin", "HandTowelHolder", "LaundryHamper", "SinkBasin", "TowelHolder"}
)


class _Spec(NamedTuple):
    task_type: str
    obj: str
    target: str  # receptacle class, or the lamp's
    number: int  # the room's


def ids(split: str) -> Sequence[str]:
    """Task ids of a split, in its order: ``<split>/<type>-<Object>-None-<Target>-<room>/<trial>``.

    Raises:
        ConfigError: no such split.
    """
    return tuple(_specs(split))


def game(task_id: str) -> Game:
    """The game of this id.

    Raises:
        ConfigError: no such game in this version of the generator.
    """
    split, _, rest = task_id.partition("/")
    specs = _specs(split)
    if task_id not in specs:
        raise ConfigError(unknown(f"built-in task (generator version {VERSION})", task_id, specs))
    spec = specs[task_id]
    place = room(spec.number)
    rng = Random(f"alfworld-builtin/{VERSION}/game/{task_id}")
    items = _furnish(rng, place, spec)
    start = choose(rng, place.starts)
    wording = choose(rng, _WORDINGS[spec.task_type])
    return Game(
        id=task_id,
        task=wording.format(o=spec.obj.lower(), r=spec.target.lower()),
        pddl_problem=problem(
            rest.partition("/")[2],
            place,
            items,
            start,
            goal(spec.task_type, spec.obj, spec.target),
        ),
        walkthrough=tuple(_walkthrough(place, items, start, spec)),
        task_type=spec.task_type,
        grammar="move",
        solvable=True,
    )


@cache
def _specs(split: str) -> dict[str, _Spec]:
    """What is played in each game of a split; needs no game to be built."""
    if split not in SPLITS:
        raise ConfigError(unknown("built-in split", split, SPLITS))
    rng = Random(f"alfworld-builtin/{VERSION}/split/{split}")
    types = [t for t, counts in _COUNTS.items() for _ in range(counts[split])]
    specs = {}
    for index, task_type in enumerate(shuffled(rng, types)):
        kind = weighted(rng, _KINDS[task_type])
        rooms = numbers(kind, unseen=split == "valid_unseen")
        pairs: Mapping[str, Sequence[str]] = {}
        while not pairs:  # few rooms lack a receptacle that the type needs
            number = choose(rng, rooms)
            pairs = _pairs(task_type, number)
        obj = choose(rng, tuple(pairs))
        spec = _Spec(task_type, obj, choose(rng, pairs[obj]), number)
        folder = f"{task_type}-{obj}-None-{spec.target}-{number}"
        specs[f"{split}/{folder}/trial_B{VERSION}_{index:05d}"] = spec
    return specs


@cache
def _pairs(task_type: str, number: int) -> dict[str, tuple[str, ...]]:
    """Object class -> classes it can be brought to, of the tasks that make sense in a room."""
    place = room(number)
    habits = HABITS[place.kind]
    if task_type == "look_at_obj_in_light":
        lit = any(cls in LAMP_PLACES for cls in place.classes)
        return {o: (LAMP,) for o in habits if lit and _homes(place, habits[o])}
    _, station, treatable = _TREATMENTS.get(task_type, ("", "", frozenset(habits)))
    possible = [cls for cls in place.classes if cls not in _NEVER_TARGETS and cls != station]
    pairs = {}
    for obj, habit in habits.items():
        if obj not in treatable or (task_type == "pick_two_obj_and_place" and habit.most < 2):
            continue
        homes = _homes(place, habit)
        elsewhere = len(homes) > 1
        targets = tuple(
            cls
            for cls in possible
            if obj in CAN_CONTAIN[cls] and (elsewhere or (homes and cls not in homes))
        )
        if targets:
            pairs[obj] = targets
    return pairs


def _homes(place: Room, habit: Habit) -> dict[str, int]:
    """Receptacle classes of the room where a thing may start, with their weights."""
    present = place.classes
    return {cls: weight for cls, weight in habit.places.items() if cls in present}


def _furnish(rng: Random, place: Room, spec: _Spec) -> list[Item]:
    """Everything that lies or stands in the room when the game starts; the goal does not hold."""
    by_class: dict[str, list[int]] = {}
    for i, receptacle in enumerate(place.receptacles):
        by_class.setdefault(receptacle.cls, []).append(i)
    taken = {receptacle.point for receptacle in place.receptacles}
    items: list[Item] = []

    def put(cls: str, homes: Mapping[str, int]) -> None:
        inside = choose(rng, by_class[weighted(rng, homes)])
        point, spot = place.receptacles[inside].point, place.receptacles[inside].place
        items.append(Item(cls, _new_id(rng, taken, cls, point), inside, spot, cls != LAMP))

    for cls, habit in HABITS[place.kind].items():
        homes = _homes(place, habit)
        wanted = cls == spec.obj
        if not homes or not (wanted or rng.random() < habit.share):
            continue
        count = between(rng, 1, habit.most)
        if not wanted:
            for _ in range(count):
                put(cls, homes)
            continue
        away = {home: weight for home, weight in homes.items() if home != spec.target}
        if spec.task_type == "pick_two_obj_and_place":
            count = max(count, 2)
            one_there = spec.target in homes and count > 2 and rng.random() < 0.25
            for n in range(count):
                put(cls, {spec.target: 1} if one_there and n == 0 else away)
        else:
            # A treated thing may start where it ends: it still has to be treated.
            fixed = spec.task_type in _TREATMENTS or spec.task_type == "look_at_obj_in_light"
            for _ in range(count):
                put(cls, homes if fixed else away)

    lamp_homes = {cls: weight for cls, weight in LAMP_PLACES.items() if cls in by_class}
    if lamp_homes and (spec.target == LAMP or rng.random() < LAMP_SHARE[place.kind]):
        for _ in range(between(rng, 1, 2)):
            put(LAMP, lamp_homes)
    for cls, most in SCENERY[place.kind].items():
        for _ in range(between(rng, 1, most)):
            spot = int(rng.random() * len(place.places))
            near = Point(
                place.places[spot][0] * 33, between(rng, 0, 150), place.places[spot][1] * 33
            )
            items.append(Item(cls, _new_id(rng, taken, cls, near), None, spot, cls in LOOSE))
    return items


def _new_id(rng: Random, taken: set[Point], cls: str, near: Point) -> str:
    """An id at a point near this one that nothing else has."""
    while True:
        point = Point(
            near.x + between(rng, -25, 25),
            near.y + between(rng, 0, 12),
            near.z + between(rng, -25, 25),
        )
        if point not in taken:
            taken.add(point)
            return thing_id(cls, point)


def _walkthrough(place: Room, items: Sequence[Item], start: int, spec: _Spec) -> list[str]:
    """Commands that win, by someone who knows where everything is."""
    receptacle_ids = [thing_id(r.cls, r.point) for r in place.receptacles]
    names = display_names([*receptacle_ids, *(item.id for item in items)])
    commands: list[str] = []
    at = start
    opened: set[int] = set()

    def visit(inside: int, *, reach_in: bool) -> str:
        nonlocal at
        name, (cls, _, spot) = names[receptacle_ids[inside]], place.receptacles[inside]
        if at != spot:
            commands.append(f"go to {name}")
            at = spot
        if reach_in and cls in OPENABLE and inside not in opened:
            commands.append(f"open {name}")
            opened.add(inside)
        return name

    def take(item: Item) -> str:
        assert item.inside is not None
        source = visit(item.inside, reach_in=True)
        commands.append(f"take {names[item.id]} from {source}")
        return names[item.id]

    def is_closed(item: Item) -> bool:
        return item.inside is not None and place.receptacles[item.inside].cls in OPENABLE

    wanted = sorted((item for item in items if item.cls == spec.obj), key=is_closed)
    if spec.task_type == "look_at_obj_in_light":
        take(wanted[0])
        lamp = next(item for item in items if item.cls == LAMP)
        assert lamp.inside is not None
        visit(lamp.inside, reach_in=False)
        return [*commands, f"use {names[lamp.id]}"]

    targets = [i for i, r in enumerate(place.receptacles) if r.cls == spec.target]
    target, needed = targets[0], 1
    if spec.task_type == "pick_two_obj_and_place":
        there = [item.inside for item in wanted if item.inside in targets]
        target = next((i for i in there if i is not None), target)
        needed = 2 - len(there)
        wanted = [item for item in wanted if item.inside not in targets]
    for item in wanted[:needed]:
        held = take(item)
        if spec.task_type in _TREATMENTS:
            verb, station, _ = _TREATMENTS[spec.task_type]
            i = next(i for i, r in enumerate(place.receptacles) if r.cls == station)
            tool = visit(i, reach_in=False)
            commands.append(f"{verb} {held} with {tool}")
        goal_name = visit(target, reach_in=True)
        commands.append(f"move {held} to {goal_name}")
    return commands

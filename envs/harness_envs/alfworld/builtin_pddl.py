"""Problem texts in the form of the official ``game.tw-pddl`` files, and the names players see.

Form and goal formulas: the official games (release json_2.1.2_tw-pddl) and
``alfworld/gen/goal_library.py``; naming: ALFWorld's ``Demangler``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from harness_envs.alfworld.builtin_facts import (
    CAN_CONTAIN,
    CLEANABLE,
    COOLABLE,
    HEATABLE,
    LAMP,
    OPENABLE,
    RECEPTACLE_OBJECTS,
    SLICEABLE,
)
from harness_envs.alfworld.builtin_rooms import Point, Room

# Basins are parts of another thing: their id starts with its name.
_WHOLE = {"SinkBasin": "Sink", "BathtubBasin": "Bathtub"}


class Item(NamedTuple):
    """An object: ``inside`` is the index of its receptacle, or None for scenery."""

    cls: str
    id: str
    inside: int | None
    place: int
    pickupable: bool


def thing_id(cls: str, point: Point) -> str:
    """``Mug|-01.57|+00.88|+00.83``, mangled."""
    whole = _WHOLE.get(cls)
    end = f"_bar_{cls}" if whole else ""
    return f"{whole or cls}_bar_" + "_bar_".join(_coordinate(c) for c in point) + end


def place_id(place: Iterable[int]) -> str:
    """``loc|-4|9|3|60``, mangled."""
    return "loc_bar_" + "_bar_".join(f"_minus_{-n}" if n < 0 else str(n) for n in place)


def display_names(ids: Iterable[str]) -> dict[str, str]:
    """Names in observations and commands: the first sorted id has its class's largest number."""
    names: dict[str, str] = {}
    left: dict[str, int] = {}
    ordered = sorted(ids)
    classes = [_shown_class(id) for id in ordered]
    for cls in classes:
        left[cls] = left.get(cls, 0) + 1
    for id, cls in zip(ordered, classes, strict=True):
        names[id] = f"{cls} {left[cls]}"
        left[cls] -= 1
    return names


def problem(name: str, room: Room, items: Sequence[Item], start: int, goal: str) -> str:
    """The problem text: ``name`` as in ``plan_<trial>``, ``start`` the agent's place."""
    receptacles = [(r.cls, thing_id(r.cls, r.point), r.place) for r in room.receptacles]
    places = [place_id(place) for place in room.places]
    otypes = sorted({item.cls for item in items})
    rtypes = room.classes
    carried = [item for item in items if item.pickupable]

    declared = [f"{o} - object" for o in otypes]
    declared += [f"{o}Type - otype" for o in otypes] + [f"{r}Type - rtype" for r in rtypes]
    declared += [f"{item.id} - object" for item in items]
    declared += [f"{id} - receptacle" for _, id, _ in receptacles]
    declared += [f"{place} - location" for place in places]

    facts = [f"receptacleType {id} {cls}Type" for cls, id, _ in receptacles]
    facts += [f"objectType {item.id} {item.cls}Type" for item in items]
    facts += [f"canContain {r}Type {o}Type" for r in rtypes for o in otypes if o in CAN_CONTAIN[r]]
    facts += [f"pickupable {item.id}" for item in carried]
    facts += [f"isReceptacleObject {i.id}" for i in carried if i.cls in RECEPTACLE_OBJECTS]
    facts += [f"openable {id}" for cls, id, _ in receptacles if cls in OPENABLE]
    facts += [f"atLocation agent1 {places[start]}"]
    facts += [f"cleanable {item.id}" for item in carried if item.cls in CLEANABLE]
    facts += [f"heatable {item.id}" for item in carried if item.cls in HEATABLE]
    facts += [f"coolable {item.id}" for item in carried if item.cls in COOLABLE]
    facts += [f"toggleable {item.id}" for item in items if item.cls == LAMP]
    facts += [f"sliceable {item.id}" for item in carried if item.cls in SLICEABLE]
    facts += [
        f"inReceptacle {item.id} {receptacles[item.inside][1]}"
        for item in items
        if item.inside is not None
    ]
    facts += [f"receptacleAtLocation {id} {places[place]}" for _, id, place in receptacles]
    facts += [f"objectAtLocation {item.id} {places[item.place]}" for item in items]

    indent = "\n        "
    return (
        f"\n(define (problem plan_{name})\n(:domain alfred)\n(:objects\nagent1 - agent{indent}"
        + indent.join(declared)
        + f"{indent})\n\n(:init{indent}"
        + indent.join(f"({fact})" for fact in facts)
        + f"{indent})\n\n{goal}\n)\n"
    )


def goal(task_type: str, obj: str, target: str) -> str:
    """The ``(:goal ...)`` of a task; ``target`` is a receptacle class, or the lamp's."""
    if task_type == "look_at_obj_in_light":
        return (
            "(:goal (and\n"
            "    (exists (?ot - object ?r - receptacle ?a - agent ?l - location) (and\n"
            f"        (objectType ?ot {target}Type) (toggleable ?ot) (isToggled ?ot)\n"
            "        (receptacleAtLocation ?r ?l) (atLocation ?a ?l) (inReceptacle ?ot ?r)))\n"
            "    (exists (?o - object ?a - agent) (and\n"
            f"        (objectType ?o {obj}Type) (holds ?a ?o)))))"
        )
    if task_type == "pick_two_obj_and_place":
        return (
            "(:goal (and (exists (?r - receptacle) (exists (?o1 - object) (and\n"
            f"    (objectType ?o1 {obj}Type) (receptacleType ?r {target}Type)"
            " (inReceptacle ?o1 ?r)\n"
            "    (exists (?o2 - object) (and\n"
            f"        (not (= ?o1 ?o2)) (objectType ?o2 {obj}Type)\n"
            f"        (receptacleType ?r {target}Type) (inReceptacle ?o2 ?r))))))))"
        )
    state = {
        "pick_and_place_simple": "",
        "pick_clean_then_place_in_recep": "(cleanable ?o) (isClean ?o) ",
        "pick_heat_then_place_in_recep": "(heatable ?o) (isHot ?o) ",
        "pick_cool_then_place_in_recep": "(coolable ?o) (isCool ?o) ",
    }[task_type]
    return (
        "(:goal (and (exists (?r - receptacle) (exists (?o - object) (and\n"
        f"    {state}(objectType ?o {obj}Type) (receptacleType ?r {target}Type)"
        " (inReceptacle ?o ?r))))))"
    )


def _coordinate(hundredths: int) -> str:
    whole, part = divmod(abs(hundredths), 100)
    sign = "_minus_" if hundredths < 0 else "_plus_" if hundredths else ""
    return f"{sign}{whole:02d}_dot_{part:02d}"


def _shown_class(id: str) -> str:
    cls = id.split("_bar_", 1)[0].lower()
    return cls + "basin" if "Basin" in id else cls

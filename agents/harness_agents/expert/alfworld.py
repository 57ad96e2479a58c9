"""The ALFWorld expert: what to do next, given only the task and what was seen.

It looks through receptacles in the order of ``prior.worth`` (a class at a time, by ascending
number), takes the object, treats it, brings it. Every step is decided anew from the whole history,
so a slip, whoever made it, is just another state to go on from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from harness.errors import AgentError
from harness_agents.expert.alfworld_belief import Belief, kind_of, number_of
from harness_agents.expert.prior import chance, worth

_THING = r"(?:a |an |some |the )?(?P<thing>[a-z]+)"
_TO = r"(?:in/on|in|on|to) (?:a |an |some |the )?(?P<place>[a-z]+)"
_TASKS = (
    (re.compile(rf"(?:look at|examine) {_THING} (?:under|with) (?:the |a )?(?P<place>[a-z]+)"), ""),
    (re.compile(rf"(?:find|put) two (?P<thing>[a-z]+) (?:and put them )?{_TO}"), "two"),
    (re.compile(rf"(?P<how>clean|heat|cool) {_THING} and put it {_TO}"), "one"),
    (re.compile(rf"put (?:a |an |some )?(?P<how>clean|hot|cool) (?P<thing>[a-z]+) {_TO}"), "one"),
    (re.compile(rf"put {_THING} {_TO}"), "one"),
)
#: State an object must get -> (verb of the command, receptacle class where it works).
STATIONS = {
    "hot": ("heat", "microwave"),
    "cool": ("cool", "fridge"),
    "clean": ("clean", "sinkbasin"),
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A task, read: bring ``count`` of ``thing`` to ``place``, or hold it at the lit ``lamp``."""

    thing: str
    place: str = ""
    state: str = ""
    count: int = 1
    lamp: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """The next command and what the step is for, which the reasoning says.

    ``aim``: search | take | treat | bring | put | second_put | light | put_down | check.
    ``want`` is the class looked for; ``target`` the instance the step is about.
    """

    aim: str
    action: str
    target: str
    want: str = ""


@lru_cache(maxsize=4096)
def read_goal(instruction: str) -> Goal:
    """Read a task sentence of ALFWorld's goal templates; AgentError names one that is none."""
    text = instruction.rpartition("Your task is to:")[2].strip().rstrip(".").lower()
    for pattern, count in _TASKS:
        if found := pattern.fullmatch(text):
            if not count:
                return Goal(found["thing"], lamp=found["place"])
            how = found.groupdict().get("how") or ""
            state = "hot" if how == "heat" else how
            return Goal(found["thing"], found["place"], state, 2 if count == "two" else 1)
    raise AgentError(
        f"expert: not one of ALFWorld's six task types: '{text}'. "
        "The expert reads the goal templates of the games, not free instructions."
    )


def decide(goal: Goal, b: Belief) -> Plan:
    """The next step. Falls back to a look around when the same command was just refused."""
    plan = _decide(goal, b)
    if b.seen.event != "nothing" or plan.action != b.action:
        return plan
    look = f"examine {b.at}"
    return Plan("check", look if b.at and look != b.action else "look", b.at or "", goal.thing)


def _decide(goal: Goal, b: Belief) -> Plan:
    held = b.holding
    if held is None:
        return _fetch(goal, b)
    if kind_of(held) != goal.thing:
        return _put_down(goal, b, held)
    if goal.lamp:
        return _light(goal, b)
    if goal.state and goal.state not in b.states[held]:
        verb, kind = STATIONS[goal.state]
        stations = b.of_kind(kind)
        working = [p for p in stations if not b.refused[f"{verb} {held} with {p}"]]
        station = _nearest(b, working or stations, f"a {kind}")
        treat = _reach(b, station, inside=False) or f"{verb} {held} with {station}"
        return Plan("treat", treat, station)
    target = destination(goal, b)
    put = f"put {held} in/on {target}" if b.older else f"move {held} to {target}"
    step = _reach(b, target)
    return Plan("bring", step, target) if step else Plan("put", put, target)


def destination(goal: Goal, b: Belief) -> str:
    """Which receptacle of the goal's class: where one already lies, else here, else the lowest.

    With an empty hand not the one that is here: walking to the other one would change it back.
    """
    usable = [
        p
        for p in b.of_kind(goal.place)
        if not any(b.refused[f"{put} {p}"] for put in _puts(b.holding))
    ]
    if goal.count == 2:
        most = max((_lying(goal, b, p) for p in usable), default=0)
        usable = [p for p in usable if _lying(goal, b, p) == most]
        if usable and b.holding is None:
            return usable[0]
    return _nearest(b, usable or b.of_kind(goal.place), f"a {goal.place}")


def _puts(held: str | None) -> tuple[str, str]:
    return f"move {held} to", f"put {held} in/on"


def _lying(goal: Goal, b: Belief, place: str) -> int:
    return sum(kind_of(i) == goal.thing for i in b.contents.get(place, ()))


def _nearest(b: Belief, places: list[str], what: str) -> str:
    if not places:
        raise AgentError(f"expert: the task needs {what}, and the room shows none.")
    here = b.here()
    return next((p for p in places if p in here), places[0])


def _reach(b: Belief, place: str, inside: bool = True) -> str | None:
    """The command that brings the agent nearer to using ``place``; None: it can be used now."""
    if place not in b.here():
        return f"go to {place}"
    if not inside:
        return None
    if place not in b.lids:
        return f"examine {place}"
    return f"open {place}" if b.lids[place] == "closed" else None


def _fetch(goal: Goal, b: Belief) -> Plan:
    keep = destination(goal, b) if goal.count == 2 else None
    known = [
        (thing, place)
        for place, things in reversed(b.contents.items())
        if place != keep
        and not (goal.count == 1 and not goal.state and kind_of(place) == goal.place)
        for thing in things
        if kind_of(thing) == goal.thing and not b.refused[f"take {thing} from {place}"]
    ]
    if not known:
        return _search(goal, b, goal.thing)
    here = b.here()
    done = goal.state

    def effort(option: tuple[str, str]) -> tuple[bool, bool]:
        thing, place = option
        return (bool(done) and done not in b.states[thing], place not in here)

    thing, place = min(known, key=effort)
    step = _reach(b, place)
    return Plan("take", step or f"take {thing} from {place}", place if step else thing, goal.thing)


def unseen(goal: Goal, b: Belief, want: str) -> list[str]:
    """Receptacles still to be looked into for ``want``, the most promising first.

    A plain "put" task never looks in its own target: what lies there needs no bringing.
    """
    own = goal.place if goal.count == 1 and not goal.state else ""
    left = [
        p
        for p in b.places
        if p not in b.contents
        and kind_of(p) != own
        and not b.refused[f"examine {p}"]
        and not b.refused[f"open {p}"]
    ]
    return sorted(left, key=lambda p: (-worth(want, kind_of(p)), kind_of(p), number_of(p)))


def _search(goal: Goal, b: Belief, want: str) -> Plan:
    left = unseen(goal, b, want)
    here = b.here()
    shut = [p for p in left if p in here and b.lids.get(p) and chance(want, kind_of(p)) > 0]
    for place in [*shut, *left[:1]]:
        step = _reach(b, place)
        if step:
            return Plan("search", step, place, want)
    # Everything was seen and it is nowhere: look again, the longest unseen first.
    for place in [p for p in b.contents if p not in here] or list(b.places):
        return Plan("search", f"go to {place}", place, want)
    raise AgentError("expert: the room shows no receptacle to look into.")


def _light(goal: Goal, b: Belief) -> Plan:
    lamps = [
        (lamp, place)
        for place, things in b.contents.items()
        for lamp in things
        if kind_of(lamp) == goal.lamp and not b.refused[f"use {lamp}"]
    ]
    if not lamps:
        return _search(goal, b, goal.lamp)
    here = b.here()
    lamp, place = min(lamps, key=lambda option: (option[1] not in here, option[0] not in b.lit))
    step = _reach(b, place, inside=False)
    return Plan("light", step or f"use {lamp}", place if step else lamp)


def _put_down(goal: Goal, b: Belief, held: str) -> Plan:
    """Free the hand of something else: at once if it can lie here, else where it came from."""
    verbs = _puts(held)
    free = [p for p in b.places if not any(b.refused[f"{verb} {p}"] for verb in verbs)]
    origin = b.origin.get(held)

    def fits(place: str) -> bool:
        return place == origin or chance(kind_of(held), kind_of(place)) > 0

    usual = sorted(free, key=lambda p: -worth(kind_of(held), kind_of(p)))
    options = [
        *(p for p in free if p == origin and b.reachable(p)),
        *(p for p in usual if b.reachable(p) and fits(p)),
        *(p for p in free if p == origin),
        *(p for p in usual if fits(p)),
        *usual,
        *b.places,
    ]
    place = options[0]
    step = _reach(b, place)
    verb = verbs[1] if b.older else verbs[0]
    return Plan("put_down", step or f"{verb} {place}", place if step else held, goal.thing)

"""What a person at the screen knows in ALFWorld: observations and own commands become a belief.

Only text is read: no info dict, no hidden state. Both grammars are understood: "move X to Y" with
"You arrive at drawer 1." (0.4) and "put X in/on Y" with "You arrive at loc 12." (0.2, 0.3).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from harness.loop import NO_ACTION
from harness.types import Step

_NAME = r"[a-z]+ \d+"
_LIST = re.compile(rf"\ba ({_NAME})")
_SURFACE = re.compile(rf"On the ({_NAME}), you see (.*?)\.")
_INSIDE = re.compile(rf"The ({_NAME}) is open\. In it, you see (.*?)\.")
_CLOSED = re.compile(rf"The ({_NAME}) is closed\.")
_EVENTS = (
    ("take", re.compile(rf"You pick up the ({_NAME}) from the ({_NAME})\.")),
    ("put", re.compile(rf"You (?:move|put) the ({_NAME}) (?:to|in/on) the ({_NAME})\.")),
    ("hot", re.compile(rf"You heat the ({_NAME}) using the ({_NAME})\.")),
    ("clean", re.compile(rf"You clean the ({_NAME}) using the ({_NAME})\.")),
    ("cool", re.compile(rf"You cool the ({_NAME}) using the ({_NAME})\.")),
    ("lit", re.compile(rf"You turn on the ({_NAME})()\.")),
    ("shut", re.compile(rf"You close the ()({_NAME})\.")),
    ("carry", re.compile(rf"You are carrying: a ({_NAME})()\.")),
    ("empty", re.compile(r"You are not carrying anything()()\.")),
)
_DESCRIBED = re.compile(rf"This is a ([a-z ]+?) ({_NAME})\.")
_FACING = re.compile(r"You are facing the (.*?)\. Next to it")
_COMMANDS = (
    ("go", re.compile(rf"go to ({_NAME})()")),
    ("open", re.compile(rf"open ({_NAME})()")),
    ("close", re.compile(rf"close ({_NAME})()")),
    ("take", re.compile(rf"take ({_NAME}) from ({_NAME})")),
    ("put", re.compile(rf"(?:move|put) ({_NAME}) (?:to|in/on|in|on) ({_NAME})")),
    ("heat", re.compile(rf"heat ({_NAME}) with ({_NAME})")),
    ("clean", re.compile(rf"clean ({_NAME}) with ({_NAME})")),
    ("cool", re.compile(rf"cool ({_NAME}) with ({_NAME})")),
    ("use", re.compile(rf"use ({_NAME})()")),
    ("examine", re.compile(rf"examine ({_NAME})()")),
    ("look", re.compile(r"(?:look|inventory|help)()()")),
)


class Seen(NamedTuple):
    """One observation, read. ``event`` is what an action did, "view" if a receptacle is shown."""

    event: str
    thing: str = ""
    place: str = ""
    #: "surface" | "open" | "closed" of the shown receptacle, "" if none is shown.
    lid: str = ""
    items: tuple[str, ...] = ()
    #: "You arrive at loc 12.": the older grammar, whose verb is "put X in/on Y".
    older: bool = False


class Command(NamedTuple):
    """An action string, read; ``verb`` is "" where it is no known command."""

    verb: str
    first: str = ""
    second: str = ""


def kind_of(name: str) -> str:
    """``"drawer 3"`` -> ``"drawer"``."""
    return name.rpartition(" ")[0]


def number_of(name: str) -> int:
    """``"drawer 3"`` -> ``3``."""
    return int(name.rpartition(" ")[2])


@lru_cache(maxsize=65536)
def read_observation(text: str) -> Seen:
    """Read one observation; unknown text gives the event "other", never an error."""
    if text.startswith(("Nothing happens", NO_ACTION)):
        return Seen("nothing")
    if "Your task is to:" in text:
        room = text.partition("you see ")[2].partition("Your task is to:")[0]
        return Seen("intro", items=tuple(_LIST.findall(room)))
    older = text.startswith("You arrive at loc ")
    for lid, pattern in (("surface", _SURFACE), ("open", _INSIDE)):
        if shown := pattern.search(text):
            items = tuple(_LIST.findall(shown[2]))
            return Seen("view", place=shown[1], lid=lid, items=items, older=older)
    if shown := _CLOSED.search(text):
        return Seen("view", place=shown[1], lid="closed", older=older)
    for event, pattern in _EVENTS:
        if found := pattern.match(text):
            return Seen(event, found[1], found[2])
    if found := _FACING.match(text):
        return Seen("facing", items=tuple(re.findall(_NAME, found[1])))
    if found := _DESCRIBED.match(text):
        return Seen("described", found[2], found[1])
    return Seen("other")


@lru_cache(maxsize=65536)
def read_command(action: str | None) -> Command:
    """Read an action string the way the game does: stripped, exact."""
    for verb, pattern in _COMMANDS:
        if found := pattern.fullmatch((action or "").strip()):
            return Command(verb, found[1], found[2])
    return Command("")


_NO_COMMAND, _INTRO = Command(""), Seen("intro")


@dataclass(slots=True)
class Belief:
    """Everything known so far. Names are display names such as ``"drawer 3"``."""

    places: tuple[str, ...] = ()
    at: str | None = None
    holding: str | None = None
    older: bool = False
    #: What each looked-into receptacle holds, the latest look last.
    contents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: "surface" | "open" | "closed" by receptacle, once seen.
    lids: dict[str, str] = field(default_factory=dict)
    #: Receptacles known to stand at one place: going to one is going to all.
    shared: dict[str, set[str]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    states: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lit: set[str] = field(default_factory=set)
    #: Commands that did nothing for no visible reason, with how often.
    refused: Counter[str] = field(default_factory=Counter)
    #: The latest action, what it showed, and why it failed (see ``_reason``), "" if it did not.
    action: str | None = None
    command: Command = _NO_COMMAND
    seen: Seen = _INTRO
    reason: str = ""
    #: Places in the order of arrival.
    route: list[str] = field(default_factory=list)

    def here(self) -> set[str]:
        """Receptacles known to be at the agent's place."""
        return set() if self.at is None else self.shared.get(self.at, {self.at})

    def reachable(self, place: str) -> bool:
        """At hand and not closed."""
        return place in self.here() and self.lids.get(place) in ("surface", "open")

    def of_kind(self, kind: str) -> list[str]:
        """Receptacles of a class, by ascending number."""
        return sorted((p for p in self.places if kind_of(p) == kind), key=number_of)

    def observe(self, action: str | None, text: str) -> None:
        """Take in what ``action`` led to."""
        command, seen = read_command(action), read_observation(text)
        self.action, self.command, self.seen = action, command, seen
        self.reason = self._reason() if seen.event == "nothing" else ""
        self.older = self.older or seen.older
        event, thing, place = seen.event, seen.thing, seen.place
        if event == "view":
            self._view(seen, command)
        elif event == "take":
            self.holding = thing
            self.origin[thing] = place
            self._set(place, tuple(i for i in self.contents.get(place, ()) if i != thing))
        elif event == "put":
            self.holding = None
            self._set(place, (*self.contents.get(place, ()), thing))
        elif event in ("hot", "cool", "clean"):
            self.states[thing] -= {"hot", "cool"} if event != "clean" else set()
            self.states[thing].add(event)
        elif event == "lit":
            self.lit.add(thing)
        elif event == "shut":
            self.lids[place] = "closed"
        elif event == "carry":
            self.holding = thing
        elif event == "empty":
            self.holding = None
        elif event == "facing":
            self._share(set(seen.items))
        elif event == "described":
            words = set(place.replace("cold", "cool").split())
            self.states[thing] |= words & {"hot", "cool", "clean"}
        elif event == "nothing":
            self._learn_from_failure(command)

    def _view(self, seen: Seen, command: Command) -> None:
        place = seen.place
        if command.verb == "go":
            self.at = place
            self.route.append(place)
        self.lids[place] = seen.lid
        if seen.lid != "closed":
            self._set(place, seen.items)

    def _set(self, place: str, items: tuple[str, ...]) -> None:
        self.contents.pop(place, None)
        self.contents[place] = items

    def _share(self, group: set[str]) -> None:
        for place in list(group):
            group |= self.shared.get(place, set())
        for place in group:
            self.shared[place] = group
        if self.at is None and group:
            self.at = min(group)

    def _learn_from_failure(self, command: Command) -> None:
        if self.reason == "shared":
            # "go to" fails only for a receptacle at the agent's own place.
            self._share({command.first} | self.here())
            self.at = command.first
            self.route.append(command.first)
        elif self.reason == "refused":
            self.refused[self.action or ""] += 1

    def _reason(self) -> str:
        """Why the latest command did nothing, from what was known before it."""
        verb, first, second = self.command
        place = second or first
        if not verb:
            return "unknown"
        if verb == "go":
            if first not in self.places:
                return "no_place"
            return "already_here" if first in self.here() else "shared"
        if verb in ("use", "examine", "look"):
            return "refused" if first in self.here() or verb == "use" else "not_here"
        if place not in self.places:
            return "no_place"
        if verb == "take" and self.holding:
            return "have_it" if self.holding == first else "hands_full"
        if verb in ("put", "heat", "clean", "cool") and self.holding != first:
            return "not_held"
        if place not in self.here():
            return "not_here"
        lid = self.lids.get(place)
        if verb == "open" and lid == "open":
            return "already_open"
        if verb in ("take", "put") and lid is None:
            return "unseen"
        if verb in ("take", "put") and lid == "closed":
            return "closed"
        if verb == "take" and first not in self.contents.get(place, ()):
            return "not_there"
        return "refused"


def believe(history: Sequence[Step], observation: str) -> Belief:
    """The belief after a history and the newest observation."""
    texts = [step.observation for step in history] + [observation]
    belief = Belief(places=read_observation(texts[0]).items)
    for step, text in zip(history, texts[1:], strict=True):
        belief.observe(step.decision.action, text)
    return belief

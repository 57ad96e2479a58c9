"""What the ALFWorld expert says: one line that leads from what it saw to what it does.

    [what just happened]. [what is needed or held, where it may be], so I <action>.

The parts vary in wording, chosen by a number that the caller gives; what is said does not vary.
The line repeats what the next decision depends on (the class looked for, the object in hand, its
state, the last place looked into), because a small model reads its own recent lines best. Names
are written as the game writes them, and the action mostly word for word.
"""

from __future__ import annotations

from harness_agents.expert.alfworld import STATIONS, Goal, Plan, unseen
from harness_agents.expert.alfworld_belief import Belief, kind_of
from harness_agents.expert.prior import LIDDED, chance

_INSIDE = frozenset(LIDDED | {"bathtubbasin", "garbagecan", "laundryhamper", "sinkbasin"})
_SO = ("so I {}.", "so I {}.", "so now I {}.", "so next I {}.", "so I will {}.")
_THEN = ("I {}.", "Now I {}.", "Next I {}.", "I will {}.")
_FAILED = ("Nothing happened", "Nothing happened", "That did nothing", "That failed")
#: Why a command did nothing (``Belief.reason``). p: receptacle, o: object, held: what is in hand.
_REASONS = {
    "unknown": ("that is no valid command", "there is no such command"),
    "no_place": ("there is no {p} in this room", "this room has no {p}"),
    "already_here": ("I am already at {p}", "I am at {p} already"),
    "shared": ("so {p} must be right here", "so I must be at {p} already"),
    "not_here": ("because I am not at {p}", "I am not at {p}"),
    "have_it": ("I already hold {o}", "because I have {o} already"),
    "hands_full": ("because I already hold {held}", "my hand is full with {held}"),
    "not_held": ("because I do not hold {o}", "I am not holding {o}"),
    "already_open": ("{p} is already open", "because {p} is open already"),
    "unseen": ("I have not looked at {p} yet", "{p} may be closed"),
    "closed": ("because {p} is closed", "{p} is still closed"),
    "not_there": ("there is no {o} {on_p}", "because {o} is not {on_p}"),
    "refused": ("that does not work here", "that is not possible here"),
}


class Dice:
    """Deterministic choices from one number, a fresh part of it each time."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, *options: str) -> str:
        self.number, index = divmod(self.number, len(options))
        return options[index]


def a(kind: str) -> str:
    """``"apple"`` -> ``"an apple"``."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def on(place: str) -> str:
    """``"drawer 1"`` -> ``"in drawer 1"``, ``"the desk"`` -> ``"on the desk"``."""
    words = place.split()
    kind = words[-2] if words[-1].isdigit() else words[-1]
    return f"in {place}" if kind in _INSIDE else f"on {place}"


def say(goal: Goal, b: Belief, plan: Plan, number: int) -> str:
    """The reasoning line for a plan."""
    pick = Dice(number)
    news = _news(goal, b, plan, pick)
    why = _why(goal, b, plan, pick)
    act = _act(plan, pick)
    line = f"{why}, {pick(*_SO).format(act)}" if why else pick(*_THEN).format(act)
    return f"{news} {line}"


def _act(plan: Plan, pick: Dice) -> str:
    """The command as a clause: word for word, or for a search sometimes "try desk 1"."""
    if plan.aim == "search" and plan.action.startswith("go to "):
        place = plan.target
        return pick(plan.action, plan.action, plan.action, f"try {place}", f"check {place}")
    return plan.action


def _name(goal: Goal, b: Belief) -> str:
    """What is in hand, with the state it was given for the task: ``"the hot mug 1"``."""
    held = b.holding or "nothing"
    return f"the {goal.state} {held}" if goal.state and goal.state in b.states[held] else held


# What just happened -----------------------------------------------------------------------


def _news(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    event, place, thing = b.seen.event, b.seen.place, b.seen.thing
    if event == "intro":
        return _task(goal, pick)
    if event == "nothing":
        return _failure(b, pick)
    if event == "view":
        return _view(goal, b, plan, pick)
    if event == "take":
        if kind_of(thing) != goal.thing:
            return pick(f"I took {thing} by mistake.", f"Now I hold {thing}, which is wrong.")
        return pick(f"Now I hold {thing}.", f"I have {thing} now.", f"I hold {thing} now.")
    if event == "put":
        return _placed(goal, b, pick)
    if event in STATIONS:
        if goal.state == event and kind_of(thing) == goal.thing:
            return pick(f"Now {thing} is {event}.", f"The {thing} is {event} now.")
        return pick(f"Now {thing} is {event}, which was not asked.", f"I made {thing} {event}.")
    if event == "lit":
        return pick(f"The {thing} is on now.", f"Now {thing} is on.")
    if event == "shut":
        return pick(f"I closed {place}.", f"Now {place} is closed.")
    return pick("That told me nothing new.", "That did not help.", "I learned nothing new.")


def _task(goal: Goal, pick: Dice) -> str:
    thing, place = a(goal.thing), f"the {goal.place}"
    if goal.lamp:
        return pick(
            f"I need {thing} and then {a(goal.lamp)}.",
            f"First I need {thing}, then the {goal.lamp}.",
            f"I must find {thing} and use the {goal.lamp}.",
        )
    if goal.count == 2:
        return pick(
            f"I need {thing} and then a second one for {place}.",
            f"First I need one {goal.thing} for {place}, then another.",
            f"I must find {thing}, then a second {goal.thing}, for {place}.",
        )
    if goal.state:
        verb = STATIONS[goal.state][0]
        return pick(
            f"I need {thing} to {verb} for {place}.",
            f"I must find {thing}, {verb} it and put it {on(place)}.",
            f"First I need {thing}, then I {verb} it for {place}.",
        )
    return pick(
        f"I need {thing} for {place}.",
        f"I must find {thing} and put it {on(place)}.",
        f"The task wants {thing} {on(place)}.",
    )


def _failure(b: Belief, pick: Dice) -> str:
    _, first, second = b.command
    place = second or first
    reason = pick(*_REASONS[b.reason]).format(
        p=place, o=first, held=b.holding, on_p=on(place) if place else ""
    )
    return f"{pick(*_FAILED)}, {reason}."


def _view(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    place, held = b.seen.place, b.holding
    if b.seen.lid == "closed" and plan.action == f"open {place}":
        return _closed(place, pick)
    if plan.aim == "search":
        return _nothing_there(goal, b, plan, pick)
    if held is None:
        if plan.target in b.seen.items:
            found = f"{_finds(goal, b, plan)} {on(place)}"
            return pick(f"There is {found}.", f"I see {found}.", f"I found {found}.")
        return pick(f"I am at {place}, which does not help.", f"I do not need {place} now.")
    name = _name(goal, b)
    if plan.action.startswith("go to"):
        return pick(f"I am at {place}, but I hold {name}.", f"I went to {place} with {name}.")
    return pick(f"I am at {place} with {name}.", f"I hold {name} at {place}.")


def _finds(goal: Goal, b: Belief, plan: Plan) -> str:
    """The thing to take; with the other one where two are needed and both lie here."""
    more = [t for t in b.seen.items if kind_of(t) == goal.thing and t != plan.target]
    if goal.count == 2 and more and not _has_first(goal, b):
        return f"{plan.target} and {more[0]}"
    return plan.target


def _closed(place: str, pick: Dice) -> str:
    return pick(f"The {place} is closed.", f"I see that {place} is closed.")


def _nothing_there(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    """No luck at the receptacle just seen; says so too when it was the last of its class."""
    place, want = b.seen.place, plan.want
    if b.seen.lid == "closed":
        return _closed(place, pick)
    news = pick("There is no {}", "I see no {}", "No {}", "I find no {}").format(
        f"{want} {on(place)}"
    )
    kind = kind_of(place)
    if kind != kind_of(plan.target) and all(kind_of(p) != kind for p in unseen(goal, b, want)):
        return news + pick(f" and no {kind} is left.", f", and that was the last {kind}.")
    return news + "."


def _placed(goal: Goal, b: Belief, pick: Dice) -> str:
    place, thing = b.seen.place, b.seen.thing
    where = f"{goal.thing} is {on(place)}"
    if kind_of(thing) != goal.thing:
        return pick("My hand is free again.", f"I put {thing} away.")
    if kind_of(place) != goal.place:
        return pick(
            f"I put {thing} in the wrong place.", f"But {thing} does not belong {on(place)}."
        )
    if goal.count == 2:
        return pick(f"The first {where} now.", f"Now one {where}.", f"One {where} now.")
    return pick(
        f"I put {thing} down before it was {goal.state}.", f"But {thing} is not {goal.state}."
    )


# What it means for the next step ----------------------------------------------------------


def _why(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    if plan.aim == "search":
        return _search(goal, b, plan, pick)
    if plan.aim == "take":
        return _take(goal, b, plan, pick)
    if plan.aim == "put_down":
        return pick(
            f"I need {a(goal.thing)}, not {b.holding}", f"I must put {b.holding} down first"
        )
    if plan.aim == "check":
        return pick("I must see what is here", "I want to see what is here")
    # With something in hand: named here unless the news just named it.
    told = b.seen.event in ("take", *STATIONS) or (
        b.seen.event == "view" and not plan.action.startswith("open")
    )
    name = _name(goal, b)
    it = "it" if told else name
    if plan.aim == "treat":
        return _treat(goal, plan, pick, it)
    if plan.aim == "light":
        return ("I " if told else f"I hold {name} and ") + _light(goal, plan, pick)
    return _bring(goal, b, plan, pick, it)


def _treat(goal: Goal, plan: Plan, pick: Dice, it: str) -> str:
    verb, kind = STATIONS[goal.state]
    if plan.action.startswith(verb):
        return pick(f"I need {it} {goal.state}", f"I must {verb} {it} here")
    return pick(f"I must {verb} {it} first", f"I need {it} {goal.state}, and the {kind} can {verb}")


def _light(goal: Goal, plan: Plan, pick: Dice) -> str:
    if plan.action.startswith("use"):
        return pick(f"need the light of {plan.target}", f"see {plan.target} here")
    return pick(f"saw the {goal.lamp} {on(plan.target)}", f"need the {goal.lamp} {on(plan.target)}")


def _bring(goal: Goal, b: Belief, plan: Plan, pick: Dice, it: str) -> str:
    place = plan.target
    if plan.aim == "put":
        return pick(f"This is where {it} goes", f"The task wants {it} here")
    if plan.action.startswith("open"):
        return pick(f"I want to put {it} {on(place)}", f"I must put {it} {on(place)}")
    if _first_lies(goal, b, place):
        return pick(f"I must put {it} {on(place)} with the first", f"The first is {on(place)}")
    where = on(f"the {goal.place}")
    return pick(
        f"I must put {it} {where}", f"I need to put {it} {where}", f"The task wants {it} {where}"
    )


def _take(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    need = f"a second {goal.thing}" if _has_first(goal, b) else a(goal.thing)
    if plan.action.startswith("take"):
        return pick(f"I need {need}", f"The task needs {need}", f"I was looking for {need}")
    here = b.contents.get(plan.target, ())
    thing = next(t for t in here if kind_of(t) == goal.thing)
    return pick(
        f"I need {need} and saw {thing} {on(plan.target)}",
        f"I need {need}, {thing} is {on(plan.target)}",
    )


def _search(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    """What is looked for, and why the next place is the one to try."""
    want, place = plan.want, plan.target
    kind = kind_of(place)
    if plan.action.startswith("open"):
        if b.seen.event == "view" or b.reason == "closed":
            return pick(f"{a(want).capitalize()} may be inside", f"I want to find {a(want)}")
        return pick(f"There may be {a(want)} {on(place)}", f"I want to look {on(place)}")
    if plan.action.startswith("examine"):
        return pick(f"I want to see what is {on(place)}", f"There may be {a(want)} {on(place)}")
    if place in b.contents:
        return pick(f"I have found no {want} anywhere", f"I must have missed {a(want)}")
    need = _need(goal, b, want, pick)
    if b.seen.event == "view" and kind_of(b.seen.place) == kind:
        return need
    before = [p for p in b.of_kind(kind) if p in b.contents]
    if before:
        return need + pick(f" and {before[-1]} had none", f", {before[-1]} is done")
    odds = chance(want, kind)
    often = "is often" if odds >= 0.25 else "can be" if odds > 0 else "could even be"
    usual = f"{a(want)} {often} {on(a(kind))}"
    if b.seen.event in ("intro", "view") and not b.holding:
        return usual[0].upper() + usual[1:]
    return f"{need}, {usual}"


def _need(goal: Goal, b: Belief, want: str, pick: Dice) -> str:
    if b.holding:
        if b.seen.event == "take":
            return pick(f"Now I need {a(want)}", f"I also need {a(want)}")
        return pick(f"I hold {b.holding} and need {a(want)}", f"With {b.holding} I need {a(want)}")
    if _has_first(goal, b):
        return pick(f"I still need a second {want}", f"I need one more {want}")
    use = f" for the {goal.place}" if goal.place else ""
    use = f" to {STATIONS[goal.state][0]}" if goal.state else use
    return pick(f"I still need {a(want)}{use}", f"I still need {a(want)}", f"I need {a(want)}{use}")


def _first_lies(goal: Goal, b: Belief, place: str) -> bool:
    """Whether the first of two lies at ``place``."""
    return goal.count == 2 and any(kind_of(t) == goal.thing for t in b.contents.get(place, ()))


def _has_first(goal: Goal, b: Belief) -> bool:
    """Whether the first of two lies where both belong."""
    return any(_first_lies(goal, b, p) for p in b.of_kind(goal.place))

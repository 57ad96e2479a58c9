"""What the ALFWorld expert says: one line that leads from what it saw to what it does.

    [what just happened] [what is needed, what is held] [where it may be], so I <action>.

The parts vary in wording, chosen by a hash that the caller gives; what is said does not vary. The
line repeats what the next decision depends on (the class looked for, the object in hand, its
state, the last place looked into), because a small model reads its own recent lines best. Names
are written as the game writes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness_agents.expert.alfworld import STATIONS, Goal, Plan, unseen
from harness_agents.expert.alfworld_belief import Belief, kind_of
from harness_agents.expert.prior import chance

_INSIDE = frozenset(
    "bathtubbasin box cabinet drawer fridge garbagecan laundryhamper microwave safe sinkbasin".split()
)
_SO = ("so I {}.", "so I {}.", "so now I {}.", "so next I {}.", "so I will {}.")
_THEN = ("I {}.", "I {}.", "Now I {}.", "Next I {}.", "I will {}.")
_FAILED = ("Nothing happened", "Nothing happened", "That did nothing", "That failed")
_WHY = {
    "unknown": ("that is no valid command", "there is no such command"),
    "no_place": ("there is no {p} in this room", "this room has no {p}"),
    "already_here": ("I am already at {p}", "I am at {p} already"),
    "shared": ("so {p} must be right here", "so I must be at {p} already"),
    "not_here": ("because I am not at {p}", "I am not at {p}"),
    "have_it": ("I already hold {o}", "because I have {o} already"),
    "hands_full": ("because I already hold {held}", "my hand is full with {held}"),
    "not_held": ("because I do not hold {o}", "I am not holding {o}"),
    "already_open": ("{p} is already open", "because {p} is open already"),
    "closed": ("because {p} is closed", "{p} is still closed"),
    "not_there": ("there is no {o} {on_p}", "because {o} is not {on_p}"),
    "refused": ("that does not work here", "that is not possible here"),
}


class Dice:
    """Deterministic choices from one number, a fresh part of it each time."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, options: Sequence[str]) -> str:
        self.number, index = divmod(self.number, len(options))
        return options[index]


def a(kind: str) -> str:
    """``"apple"`` -> ``"an apple"``."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def on(place: str) -> str:
    """``"drawer 1"`` -> ``"in drawer 1"``, ``"desk 1"`` -> ``"on desk 1"``."""
    words = place.split()
    kind = words[-2] if words[-1].isdigit() else words[-1]
    return f"in {place}" if kind in _INSIDE else f"on {place}"


def say(goal: Goal, b: Belief, plan: Plan, number: int) -> str:
    """The reasoning line for a plan."""
    pick = Dice(number)
    news = _news(goal, b, plan, pick)
    why = _why(goal, b, plan, pick)
    act = _act(plan, pick)
    if why:
        line = f"{why}, {pick(_SO).format(act)}"
    else:
        line = pick(_THEN).format(act)
    return f"{news} {line}".strip()


def _act(plan: Plan, pick: Dice) -> str:
    """The command in the sentence: word for word, or for a search sometimes in other words."""
    verb, _, rest = plan.action.partition(" ")
    if plan.aim == "search" and verb == "go":
        place = rest.removeprefix("to ")
        return pick((plan.action, plan.action, plan.action, f"try {place}", f"check {place}"))
    return plan.action


def _news(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    """What the newest observation showed, as far as it matters."""
    event, place, thing = b.seen.event, b.seen.place, b.seen.thing
    if event == "intro":
        return _task(goal, pick)
    if event == "nothing":
        return _failure(b, pick)
    if event == "view":
        return _view(goal, b, plan, pick)
    if event == "take":
        if kind_of(thing) != goal.thing:
            return pick((f"I took {thing} by mistake.", f"I hold {thing}, which is wrong."))
        return pick((f"Now I hold {thing}.", f"I have {thing} now.", f"I hold {thing} now."))
    if event == "put":
        return _placed(goal, b, pick)
    if event in STATIONS:
        if goal.state == event and kind_of(thing) == goal.thing:
            return pick((f"Now {thing} is {event}.", f"The {thing} is {event} now."))
        return pick((f"Now {thing} is {event}, which is not needed.", f"I made {thing} {event}."))
    if event == "lit":
        return pick((f"The {thing} is on now.", f"Now {thing} is on."))
    if event == "shut":
        return pick((f"I closed {place}.", f"Now {place} is closed."))
    return pick(("That told me nothing new.", "That did not help.", "I learned nothing new."))


def _task(goal: Goal, pick: Dice) -> str:
    thing = a(goal.thing)
    if goal.lamp:
        return pick(
            (
                f"I need {thing} and then {a(goal.lamp)}.",
                f"First I need {thing}, then the {goal.lamp}.",
                f"I must find {thing} and use the {goal.lamp}.",
            )
        )
    if goal.count == 2:
        return pick(
            (
                f"I need {thing} and then a second one for the {goal.place}.",
                f"First I need one {goal.thing} for the {goal.place}, then another.",
                f"I must find {thing}, then a second {goal.thing}, for the {goal.place}.",
            )
        )
    if goal.state:
        verb = STATIONS[goal.state][0]
        return pick(
            (
                f"I need {thing} to {verb} for the {goal.place}.",
                f"I must find {thing}, {verb} it and put it {on('the ' + goal.place)}.",
                f"First I need {thing}, then I {verb} it for the {goal.place}.",
            )
        )
    return pick(
        (
            f"I need {thing} for the {goal.place}.",
            f"I must find {thing} and put it {on('the ' + goal.place)}.",
            f"The {goal.place} needs {thing}.",
        )
    )


def _failure(b: Belief, pick: Dice) -> str:
    _, first, second = b.command
    place = second or first
    slots = {"p": place, "o": first, "held": b.holding or "something"}
    if b.reason in ("not_there",):
        slots["on_p"] = on(place)
    why = pick(_WHY[b.reason]).format(**slots)
    return f"{pick(_FAILED)}, {why}."


def _view(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    place = b.seen.place
    closed = b.seen.lid == "closed"
    held = b.holding
    if plan.aim == "search":
        if closed:
            return pick((f"The {place} is closed.", f"I see that {place} is closed."))
        want = plan.want
        none = pick(
            (
                f"There is no {want} {on(place)}",
                f"I see no {want} {on(place)}",
                f"No {want} {on(place)}",
                f"I find no {want} {on(place)}",
            )
        )
        kind = kind_of(place)
        if kind != kind_of(plan.target) and not any(
            kind_of(p) == kind for p in unseen(goal, b, want)
        ):
            return none + pick((f" and no {kind} is left.", f", and that was the last {kind}."))
        return none + "."
    if plan.aim == "take":
        if plan.target in b.seen.items:
            return pick(
                (
                    f"There is {plan.target} {on(place)}.",
                    f"I see {plan.target} {on(place)}.",
                    f"I found {plan.target} {on(place)}.",
                )
            )
        if closed and place == plan.target:
            return pick((f"The {place} is closed.", f"I see that {place} is closed."))
        return pick((f"I am at {place}, which does not help.", f"I do not need {place} now."))
    if place == plan.target or place in b.here() and plan.action.startswith(("heat", "clean", "cool", "use")):
        if closed and plan.action.startswith("open"):
            return pick((f"The {place} is closed.", f"I see that {place} is closed."))
        return pick((f"I am at {place} with {held}.", f"I hold {held} at {place}."))
    if plan.aim == "put_down" or place in b.here() and plan.aim in ("light", "put"):
        return pick((f"I am at {place} with {held}.", f"I hold {held} at {place}."))
    return pick((f"I am at {place}, but I hold {held}.", f"I went to {place} with {held}."))


def _placed(goal: Goal, b: Belief, pick: Dice) -> str:
    place, thing = b.seen.place, b.seen.thing
    if kind_of(thing) != goal.thing:
        return pick(("My hand is free again.", f"I put {thing} away."))
    if goal.count == 2 and kind_of(place) == goal.place:
        return pick(
            (
                f"The first {goal.thing} is {on(place)} now.",
                f"Now one {goal.thing} is {on(place)}.",
                f"One {goal.thing} is {on(place)} now.",
            )
        )
    return pick((f"But {on(place)} is not where {thing} belongs.", f"I put {thing} in the wrong place."))


def _why(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    """What is needed, what is in hand, and why the next step serves it."""
    held, aim, event = b.holding, plan.aim, b.seen.event
    if aim == "search":
        return _search(goal, b, plan, pick)
    if aim == "take":
        return _take(goal, b, plan, pick)
    if aim == "treat":
        verb = STATIONS[goal.state][0]
        if plan.action.startswith(verb):
            return pick((f"It must be {goal.state}", f"I need {held} {goal.state}"))
        place = plan.target
        return pick(
            (
                f"I must {verb} it {_with(place)}",
                f"It must be {goal.state} first",
                f"I need to {verb} {held} first",
            )
        )
    if aim in ("bring", "put"):
        return _bring(goal, b, plan, pick)
    if aim == "light":
        where = next((p for p, things in b.contents.items() if any(kind_of(t) == goal.lamp for t in things)), "")
        if plan.action.startswith("use"):
            return pick((f"The {plan.target} is here", f"I need light from {plan.target}"))
        return pick((f"The {goal.lamp} is {on(where)}", f"I saw the {goal.lamp} {on(where)}"))
    if aim == "put_down":
        return pick((f"I need {a(goal.thing)}, not {held}", f"I must put {held} down first"))
    if event == "nothing" and plan.action.startswith("examine"):
        return pick(("I must see what is here", "I want to see what is here"))
    return ""


def _with(place: str) -> str:
    return f"with {place}"


def _bring(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    held, place = b.holding, plan.target
    name = f"the {goal.state} {held}" if goal.state else held
    if plan.aim == "put":
        return pick((f"The task wants {a(goal.thing)} here", f"This is where {name} goes")) 
    if goal.count == 2 and any(kind_of(i) == goal.thing for i in b.contents.get(place, ())):
        return pick((f"The first {goal.thing} is {on(place)}", f"It goes {on(place)} with the first one"))
    return pick(
        (
            f"It goes {on('the ' + goal.place)}",
            f"It belongs {on('the ' + goal.place)}",
            f"I need to put {name} {on('a ' + goal.place)}",
        )
    )


def _take(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    need = a(goal.thing)
    second = goal.count == 2 and any(
        kind_of(p) == goal.place and any(kind_of(t) == goal.thing for t in ts)
        for p, ts in b.contents.items()
    )
    if second:
        need = f"a second {goal.thing}"
    if plan.action.startswith("take"):
        return pick((f"I need {need}", f"The task needs {need}", f"I was looking for {need}"))
    thing = next((t for t in b.contents.get(plan.target, ()) if kind_of(t) == goal.thing), need)
    return pick(
        (
            f"I need {need} and saw {thing} {on(plan.target)}",
            f"I saw {thing} {on(plan.target)} and need {need}",
        )
    )


def _search(goal: Goal, b: Belief, plan: Plan, pick: Dice) -> str:
    want, place = plan.want, plan.target
    kind = kind_of(place)
    need = _need(goal, b, want, pick)
    if plan.action.startswith("open"):
        return pick((f"{a(want).capitalize()} may be inside", f"I want to find {a(want)}", need))
    if plan.action.startswith("examine"):
        return pick((f"I want to see what is {on(place)}", need))
    before = [p for p in b.of_kind(kind) if p in b.contents]
    if place in b.contents:
        return pick(("I have looked everywhere, I must look again", "I must look again"))
    if b.seen.event == "view" and kind_of(b.seen.place) == kind:
        return need
    if before:
        last = before[-1]
        return need + pick((f" and {last} had none", f" and I have looked {on(last)}"))
    odds = chance(want, kind)
    often = "is often" if odds >= 0.25 else "can be" if odds > 0 else "could even be"
    rationale = f"{a(want)} {often} {on(a(kind))}"
    if b.seen.event in ("intro", "view"):
        return rationale[0].upper() + rationale[1:]
    return f"{need}; {rationale}"


def _need(goal: Goal, b: Belief, want: str, pick: Dice) -> str:
    if want == goal.lamp:
        return pick((f"I hold {b.holding} and need {a(want)}", f"I still need the {want} for {b.holding}"))
    second = goal.count == 2 and any(
        kind_of(p) == goal.place and any(kind_of(t) == goal.thing for t in ts)
        for p, ts in b.contents.items()
    )
    if second:
        return pick((f"I still need a second {want}", f"I need one more {want}"))
    purpose = ""
    if goal.state:
        purpose = f" to {STATIONS[goal.state][0]}"
    elif goal.place:
        purpose = f" for the {goal.place}"
    return pick(
        (f"I still need {a(want)}{purpose}", f"I still need {a(want)}", f"I need {a(want)}{purpose}")
    )

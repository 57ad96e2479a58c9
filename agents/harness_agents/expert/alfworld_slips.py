"""Slips in ALFWorld: what a language model does wrong there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from harness.types import Step
from harness_agents.expert.alfworld import STATIONS, read_goal
from harness_agents.expert.alfworld_belief import believe, kind_of, number_of

_NAME = re.compile(r"[a-z]+ \d+")


def slips(
    action: str, instruction: str, history: Sequence[Step], observation: str, rng: Random
) -> dict[str, list[str]]:
    """Wrong actions in a household by kind, drawn from what is known in the room."""
    goal, b = read_goal(instruction), believe(history, observation)
    here = sorted(b.here())
    spot = b.at or rng.choice(b.places)
    lying = [(t, p) for p in here if b.reachable(p) for t in b.contents.get(p, ())]
    put = "put {} in/on {}" if b.older else "move {} to {}"
    numbers = [
        action.replace(name, f"{kind_of(name)} {n}")
        for name in _NAME.findall(action)
        for n in (number_of(name) - 1, number_of(name) + 1, number_of(name) + 2)
        if n > 0
    ]
    verb, _, rest = action.partition(" ")
    found = {
        "wrong_number": numbers,
        "elsewhere": [f"go to {p}" for p in b.places if p not in here],
        "elsewhere_again": [f"go to {p}" for p in b.contents if p not in here],
        "absent": [f"take {goal.thing} {n} from {spot}" for n in (1, 2)],
        "malformed": [
            *_garbled(verb, rest),
            f"find {goal.thing}",
        ],
        "idle": ["look", "inventory", *([f"examine {b.at}"] if b.at else [])],
        "other": [],
    }
    if b.holding is None:
        found["other_thing"] = [f"take {t} from {p}" for t, p in lying if kind_of(t) != goal.thing]
    else:
        found["put_too_early"] = [put.format(b.holding, spot)]
        if goal.state and goal.state not in b.states[b.holding]:
            found["untreated"] = [f"go to {p}" for p in b.of_kind(goal.place)]
        found["wrong_treatment"] = [
            f"{treat} {b.holding} with {p}"
            for treat, kind in STATIONS.values()
            for p in b.of_kind(kind)
        ]
    if verb == "open":
        target = put.format(b.holding, rest) if b.holding else f"take {goal.thing} 1 from {rest}"
        found["unopened"] = [target]
    found["shut"] = [f"close {p}" for p in here if b.lids.get(p) == "open"]
    return found


def _garbled(verb: str, rest: str) -> list[str]:
    """Commands that a reader understands and the game does not."""
    if verb == "go":
        place = rest.removeprefix("to ")
        return [f"go {place}", f"search {place}", f"go to the {place}", f"go to {kind_of(place)}"]
    return [f"{verb} the {rest}", f"{verb} {rest.partition(' ')[0]}"]

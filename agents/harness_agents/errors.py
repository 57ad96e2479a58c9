"""``WithErrors``: lets a policy slip now and then, so that students see how to recover.

A slip is shown to the student and never taught (``Decision.injected``); what is taught is the next
decision, which finds itself in a state that a flawless player never meets. Slips are of the kinds
that language models make: the wrong number, the wrong place, the same again, a thing that is not
there, a command that is none, a step left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from harness.errors import ConfigError
from harness.policy import Policy, call
from harness.types import Decision, Info, Step
from harness_agents.expert.alfworld import STATIONS, read_goal
from harness_agents.expert.alfworld_belief import Belief, believe, kind_of, number_of
from harness_agents.expert.alfworld_player import plays as is_alfworld

_NAME = re.compile(r"[a-z]+ \d+")


class WithErrors:
    """``policy``, but with probability ``rate`` a step is a slip.

    With ``errors_from`` a slip is that policy's decision, where it differs from ``policy``'s;
    otherwise one made up from what is on the screen. Deterministic in ``seed``, task, attempt and
    step.
    """

    def __init__(
        self, policy: Policy, rate: float, seed: int = 0, errors_from: Policy | None = None
    ) -> None:
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"An error rate is a probability below 1, not {rate:g}.")
        self.policy, self.rate, self.seed, self.errors_from = policy, rate, seed, errors_from
        parts = [p for p in (policy, errors_from) if p is not None]
        self.privileged = any(getattr(p, "privileged", False) for p in parts)

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        base = call(self.policy, instruction, history, observation, info)
        stream = info.get("sampling_seed", info.get("task_id", instruction))
        rng = Random(f"slip|{self.seed}|{stream}|{len(history)}")
        if rng.random() >= self.rate or base.action is None:
            return base
        if self.errors_from is not None:
            other = call(self.errors_from, instruction, history, observation, info)
            if other.action == base.action:
                return base
            return Decision(other.reasoning, other.action, other.completion, injected=True)
        options = slips(base.action, instruction, history, observation, info, rng)
        options = {kind: actions for kind, actions in options.items() if actions}
        action = rng.choice(options[rng.choice(sorted(options))])
        return Decision(misled(base, action), action, injected=True)

    def close(self) -> None:
        for policy in (self.policy, self.errors_from):
            getattr(policy, "close", lambda: None)()


def misled(base: Decision, action: str) -> str:
    """The base's reasoning, led to another action."""
    if not base.reasoning:
        return ""
    if base.action and base.action in base.reasoning:
        head, _, tail = base.reasoning.rpartition(base.action)
        return head + action + tail
    head, comma, _ = base.reasoning.rpartition(", so")
    if comma:
        return f"{head}, so I {action}."
    sentences = base.reasoning.split(". ")
    return ". ".join([*sentences[:-1], f"I {action}."])


def slips(
    action: str,
    instruction: str,
    history: Sequence[Step],
    observation: str,
    info: Info,
    rng: Random,
) -> dict[str, list[str]]:
    """Wrong actions by kind of slip, none of them ``action``; at least one."""
    verb, _, rest = action.partition(" ")
    found = {
        "repeated": [history[-1].decision.action or ""] if history else [],
        "malformed": [rest, f"{verb} the {rest}", f"{verb}: {rest}", verb]
        if rest
        else [f"{verb}?"],
        "other": list(info.get("admissible_actions", ())),
    }
    first = history[0].observation if history else observation
    if is_alfworld(first):
        belief = believe(history, observation)
        found |= household_slips(action, instruction, belief, rng)
    return {
        kind: [a for a in actions if a.strip() and a != action] for kind, actions in found.items()
    }


def household_slips(action: str, instruction: str, b: Belief, rng: Random) -> dict[str, list[str]]:
    """Slips in ALFWorld, drawn from what is known in the room."""
    goal = read_goal(instruction)
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

"""``WithErrors``: lets a policy slip now and then, so that students see how to recover.

A slip is shown to the student and never taught (``Decision.injected``); what is taught is the next
decision, which finds itself in a state that a flawless player never meets. Slips are of the kinds
that language models make: the wrong number, the wrong place, the same again, a thing that is not
there, a command that is none, a step left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from harness.errors import ConfigError
from harness.policy import Policy, call
from harness.types import Decision, Info, Step
from harness_agents.expert import expert_for


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

    def describe(self) -> dict[str, Any]:
        """What decides, for run.json: the policy, and whose slips are put in."""
        said: dict[str, Any] = getattr(self.policy, "describe", dict)()
        if self.errors_from is None:
            return said
        return {**said, "errors_from": getattr(self.errors_from, "describe", dict)()}

    def close(self) -> None:
        """Close ``errors_from``; ``policy`` is its maker's."""
        getattr(self.errors_from, "close", lambda: None)()


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
    if expert := expert_for(first):
        found |= expert.slips(action, instruction, history, observation, rng)
    return {
        kind: [a for a in actions if a.strip() and a != action] for kind, actions in found.items()
    }

"""``ExpertPolicy``: plays by rules, from what an agent sees, and says why in each step.

One expert an environment; the first observation tells which.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from harness.errors import AgentError
from harness.types import Decision, Info, Step
from harness_agents.expert import (
    alfworld_player,
    alfworld_slips,
    hotpotqa_player,
    hotpotqa_slips,
    prior,
    webshop_player,
    webshop_slips,
)

#: (instruction, history, observation, number that picks the wording) -> decision.
Act = Callable[[str, Sequence[Step], str, int], Decision]
#: (right action, instruction, history, observation, random numbers) -> wrong actions by kind.
Slips = Callable[[str, str, Sequence[Step], str, Random], dict[str, list[str]]]


class Expert(NamedTuple):
    """A player of one environment; ``plays`` looks at the first observation of an episode."""

    name: str
    plays: Callable[[str], bool]
    act: Act
    slips: Slips


EXPERTS = (
    Expert("alfworld", alfworld_player.plays, alfworld_player.act, alfworld_slips.slips),
    Expert("webshop", webshop_player.plays, webshop_player.act, webshop_slips.slips),
    Expert("hotpotqa", hotpotqa_player.plays, hotpotqa_player.act, hotpotqa_slips.slips),
)


def expert_for(first_observation: str) -> Expert | None:
    """The expert of the environment whose episodes begin like this."""
    return next((e for e in EXPERTS if e.plays(first_observation)), None)


class ExpertPolicy:
    """Written rules: explores with a prior learned from train games, reasons in templates.

    ``seed`` changes wordings only, never actions. Deterministic: the same task, seed, attempt and
    step give the same words.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info | None = None
    ) -> Decision:
        first = history[0].observation if history else observation
        expert = expert_for(first)
        if expert is None:
            raise AgentError(
                "expert: knows no such environment; it plays "
                + ", ".join(e.name for e in EXPERTS)
                + f". The episode began: {first[:80]!r}"
            )
        return expert.act(
            instruction, history, observation, self._number(instruction, len(history), info or {})
        )

    def describe(self) -> dict[str, str]:
        """Saved with a run: which table of priors the exploration followed."""
        return {"prior": prior.fingerprint()}

    def _number(self, instruction: str, step: int, info: Info) -> int:
        """What picks the wording: task (or instruction), attempt, step and the policy's seed."""
        task = info.get("task_id", instruction)
        key = f"{self.seed}|{task}|{step}|{info.get('sampling_seed')}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=12).digest(), "big")

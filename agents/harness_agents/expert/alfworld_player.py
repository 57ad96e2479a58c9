"""The ALFWorld expert as a player: text in, decision out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.types import Decision, Step
from harness_agents.expert.alfworld import decide, read_goal
from harness_agents.expert.alfworld_belief import believe
from harness_agents.expert.alfworld_words import say


def plays(first_observation: str) -> bool:
    """Whether an episode that begins like this is one of ALFWorld."""
    return "Welcome to TextWorld, ALFRED" in first_observation


def act(instruction: str, history: Sequence[Step], observation: str, number: int) -> Decision:
    """Decide one step; ``number`` picks the wording of the reasoning."""
    goal = read_goal(instruction)
    belief = believe(history, observation)
    plan = decide(goal, belief)
    return Decision(reasoning=say(goal, belief, plan, number), action=plan.action)

"""The HotPotQA expert as a player: text in, decision out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.types import Decision, Step
from harness_agents.expert.hotpotqa import decide
from harness_agents.expert.hotpotqa_notes import take_notes
from harness_agents.expert.hotpotqa_question import read_question
from harness_agents.expert.hotpotqa_words import say


def plays(first_observation: str) -> bool:
    """Whether an episode that begins like this is a question of HotPotQA."""
    return first_observation.startswith("Question: ")


def act(instruction: str, history: Sequence[Step], observation: str, number: int) -> Decision:
    """Decide one step; ``number`` picks the wording of the reasoning."""
    quest = read_question(instruction)
    notes = take_notes(instruction, history, observation)
    plan = decide(quest, notes)
    return Decision(reasoning=say(quest, notes, plan, number), action=plan.action)

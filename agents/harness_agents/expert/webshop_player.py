"""The WebShop expert as a player: text in, decision out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.types import Decision, Step
from harness_agents.expert.webshop import decide
from harness_agents.expert.webshop_belief import believe
from harness_agents.expert.webshop_request import read_request
from harness_agents.expert.webshop_words import say


def plays(first_observation: str) -> bool:
    """Whether an episode that begins like this is one of WebShop."""
    return first_observation.startswith("WebShop") and first_observation.rstrip().endswith(
        ("Search", "Search [button_]")
    )


def act(instruction: str, history: Sequence[Step], observation: str, number: int) -> Decision:
    """Decide one step; ``number`` picks the wording of the reasoning."""
    request = read_request(instruction)
    belief = believe(history, observation)
    plan = decide(request, belief)
    return Decision(reasoning=say(request, belief, plan, number), action=plan.action)

"""The WebShop expert as a player: text in, decision out."""

from __future__ import annotations

from collections.abc import Sequence

from harness.types import Decision, Step
from harness_agents.expert.webshop import decide
from harness_agents.expert.webshop_belief import believe, shown
from harness_agents.expert.webshop_pages import spelt
from harness_agents.expert.webshop_request import read_request
from harness_agents.expert.webshop_words import say


def plays(first_observation: str) -> bool:
    """Whether an episode that begins like this is one of WebShop."""
    text = first_observation.strip()
    return text.startswith("WebShop") and text.endswith(("Search", "Search [button_]", "[Search]"))


def act(instruction: str, history: Sequence[Step], observation: str, number: int) -> Decision:
    """Decide one step; ``number`` picks the wording of the reasoning."""
    request = read_request(instruction)
    belief = believe(history, observation)
    plan = decide(request, belief)
    action = spelt(plan.action, shown(history, observation))
    return Decision(reasoning=say(request, belief, plan, number), action=action)

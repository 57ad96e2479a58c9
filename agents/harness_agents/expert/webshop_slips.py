"""Slips in WebShop: what a language model does wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.types import Step
from harness_agents.expert.webshop import BUY, NEXT, PREV, RESTART
from harness_agents.expert.webshop_belief import Belief, believe, shown
from harness_agents.expert.webshop_pages import spelt
from harness_agents.expert.webshop_request import Request, read_request


def slips(
    action: str, instruction: str, history: Sequence[Step], observation: str, rng: Random
) -> dict[str, list[str]]:
    """Wrong actions in the shop by kind, drawn from what is on the page."""
    request, b = read_request(instruction), believe(history, observation)
    page = shown(history, observation)
    name, _, rest = action.partition("[")
    target = rest.removesuffix("]")
    found = {
        "malformed": [f"{name} {target}", f"{target}", f"{name}({target})", f"buy[{target}]"],
        "absent": [_absent(b, request), f"click[{request.thing or 'product'}]"],
        "other": [],
    }
    if b.page.kind == "start":
        found |= {"vague": _vague(request), "buy_at_start": [BUY]}
    elif b.page.kind == "results":
        found |= _among_results(b, request, target)
    elif b.page.kind == "item":
        found |= _at_item(b, request)
    elif b.page.kind == "sub":
        found |= {"buy_unseen": [BUY], "start_over": [RESTART], "reread": ["click[features]"]}
    return {kind: [spelt(slip, page) for slip in drawn] for kind, drawn in found.items()}


def _vague(request: Request) -> list[str]:
    """Searches that leave out what matters, or ask for the price."""
    words = request.words.split()
    cap = f" under {request.cap:g} dollars" if request.cap else ""
    parts = [request.thing, " ".join(words[:2]), " ".join(words[-2:]), f"{request.thing}{cap}"]
    return [f"search[{part.strip()}]" for part in parts if part.strip()]


def _absent(b: Belief, request: Request) -> str:
    """A click on what is not on this page."""
    if b.page.kind == "results":
        value = request.options[0][1] if request.options else "features"
        return f"click[{value}]"
    return f"click[{next(iter(b.listings), 'search')}]"


def _among_results(b: Belief, request: Request, target: str) -> dict[str, list[str]]:
    cap = request.cap if request.cap is not None else float("inf")
    others = [p for p in b.page.products if p.asin != target]
    return {
        "wrong_product": [f"click[{p.asin}]" for p in others],
        "price_ignored": [f"click[{p.asin}]" for p in others if p.low > cap],
        "seen_before": [f"click[{p.asin}]" for p in others if p.asin in b.items],
        "page_on": [NEXT],
        "page_back": [PREV] if b.page.number > 1 else [],
        "buy_too_early": [BUY],
        "start_over": [RESTART],
        "same_search": [f"search[{b.query}]"] if b.query else [],
    }


def _at_item(b: Belief, request: Request) -> dict[str, list[str]]:
    wanted = {value for _, value in request.options}
    values = [value for _, values in b.page.options for value in values]
    return {
        "wrong_option": [f"click[{value}]" for value in values if value not in wanted],
        "chosen_again": [f"click[{value}]" for value in b.chosen.values()],
        "skipped_options": [BUY] if not wanted.issubset(b.chosen.values()) else [],
        "too_early_back": [PREV],
        "idle": ["click[description]", "click[reviews]"],
        "read_again": ["click[features]"] if b.read.get(b.asin) else [],
        "start_over": [RESTART],
    }

"""What playing costs: tokens, seconds and how fast they go, kept in run.json and on the bar."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from harness.types import Completion, Episode, Step


class Cost(msgspec.Struct, frozen=True):
    """Tokens and seconds of episodes that were played, and of the whole on the wall clock.

    Tokens are the agent's; None where some server did not tell. Seconds of the model, of waiting
    for it (in a queue, in tries that failed, in pauses) and of the environment are sums over
    episodes, which play side by side: together they exceed ``wall_seconds``.
    """

    episodes: int = 0
    prompt_tokens: int | None = 0
    cached_tokens: int | None = 0
    #: Prompt tokens read again because the window moved.
    reread_tokens: int | None = 0
    #: All that was sampled, format tokens too.
    sampled_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    action_tokens: int | None = 0
    #: Replies of a model, and those of them that ended at their cap of tokens.
    replies: int = 0
    cut: int = 0
    model_seconds: float = 0.0
    waiting_seconds: float = 0.0
    env_seconds: float = 0.0
    #: None where a session was killed: its episodes are counted, its time is not known.
    wall_seconds: float | None = 0.0
    #: Sampled tokens a second, and episodes a minute, of the wall clock.
    tokens_per_second: float | None = None
    episodes_per_minute: float | None = None


_COUNTS = ("prompt_tokens", "cached_tokens", "reread_tokens", "sampled_tokens",
           "reasoning_tokens", "action_tokens")  # fmt: skip
_SECONDS = ("model_seconds", "waiting_seconds", "env_seconds")


def cost_of(episode: Episode) -> Cost:
    """The cost of one episode; its time on the wall clock is the run's to tell."""
    asked = completions(episode.steps)
    return Cost(
        episodes=1,
        prompt_tokens=_sum(c.prompt_tokens for c in asked),
        cached_tokens=_sum(c.cached_tokens for c in asked),
        reread_tokens=_sum(c.reread_tokens for c in asked),
        sampled_tokens=sampled(episode.steps),
        reasoning_tokens=_sum(c.reasoning_tokens for c in asked),
        action_tokens=_sum(c.action_tokens for c in asked),
        replies=len(asked),
        cut=sum(c.stop == "length" for c in asked),
        model_seconds=sum(c.seconds for c in asked),
        waiting_seconds=sum(c.waited for c in asked),
        env_seconds=sum(s.env_seconds for s in episode.steps),
    )


def total(costs: Sequence[Cost]) -> Cost:
    """The sum of costs, with its rates where there is a time on the wall clock."""
    sums: dict[str, Any] = {field: _sum(getattr(c, field) for c in costs) for field in _COUNTS}
    sums |= {field: round(sum(getattr(c, field) for c in costs), 6) for field in _SECONDS}
    walls = [c.wall_seconds for c in costs]
    known = [wall for wall in walls if wall is not None]
    sums["wall_seconds"] = round(sum(known), 6) if len(known) == len(walls) else None
    sums |= {field: sum(getattr(c, field) for c in costs) for field in ("replies", "cut")}
    found = Cost(episodes=sum(c.episodes for c in costs), **sums)
    if not found.wall_seconds:
        return found
    tokens = found.sampled_tokens
    return msgspec.structs.replace(
        found,
        tokens_per_second=None if tokens is None else round(tokens / found.wall_seconds, 2),
        episodes_per_minute=round(60 * found.episodes / found.wall_seconds, 2),
    )


def told(cost: Cost) -> str:
    """A cost in a line."""
    text = f"{cost.episodes} episodes"
    if cost.wall_seconds is not None:
        text += f" in {cost.wall_seconds:.0f} s"
    if cost.episodes_per_minute is not None:
        text += f", {cost.episodes_per_minute:.1f} a minute"
    if cost.sampled_tokens:
        text += f"; {cost.sampled_tokens} tokens sampled"
    if cost.tokens_per_second:
        text += f", {cost.tokens_per_second:.0f} a second"
    if cost.prompt_tokens:
        text += f"; {cost.prompt_tokens} prompt tokens"
        if cost.cached_tokens is not None:
            text += f", {100 * cost.cached_tokens / cost.prompt_tokens:.0f} % of them cached"
    return text


def completions(steps: Iterable[Step]) -> list[Completion]:
    """What a model was asked for in these steps."""
    return [s.decision.completion for s in steps if s.decision.completion is not None]


def sampled(steps: Iterable[Step]) -> int | None:
    """Tokens sampled in these steps; None where a server does not tell."""
    return _sum(c.sampled for c in completions(steps))


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum; None where a part is unknown."""
    found = list(counts)
    known = [c for c in found if c is not None]
    return sum(known) if len(known) == len(found) else None

"""``Protocol``: the rules of play that belong to an evaluation, not to an environment.

ReAct's paper gives HotPotQA seven steps and then answers for the agent with an empty ``finish[]``;
in ALFWorld and WebShop it lets the agent ``think: ...`` at the price of a step. Such rules decide
a score, so a task set carries them and its hash covers them. An environment offers those of its
literature by name (``Environment.protocols``); ``harness run --protocol react`` takes one.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from harness.errors import ConfigError

_THOUGHT = re.compile(r"\Athink\s*[:\[]", re.IGNORECASE)


class Protocol(msgspec.Struct, frozen=True):
    """How an episode is conducted. ``max_steps`` counts replies, also those without an action."""

    max_steps: int
    #: So many replies in a row without an action end an episode (outcome ``format``).
    format_limit: int = 3
    #: No reply is asked for once an episode has sampled so many tokens (outcome ``truncated``).
    max_tokens: int | None = None
    #: So many identical invalid actions in a row end an episode (outcome ``truncated``).
    repeat_limit: int | None = None
    #: Answer to an action ``think: ...`` or ``think[...]``, which costs a step and never reaches
    #: the environment. None: such an action is the environment's to judge.
    think: str | None = None
    #: Executed for the agent when its steps are used up; the step is recorded as ``forced``.
    last_action: str | None = None
    #: Environment keywords that go with it; they become the task set's.
    options: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.max_steps < 1:
            raise ConfigError(f"A step budget is at least 1, not {self.max_steps}.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"A token budget is at least 1, not {self.max_tokens}.")
        if self.repeat_limit is not None and self.repeat_limit < 1:
            raise ConfigError(f"A limit of repetitions is at least 1, not {self.repeat_limit}.")

    def is_thought(self, action: str) -> bool:
        """Whether an action is one that the protocol answers itself."""
        return self.think is not None and bool(_THOUGHT.match(action))

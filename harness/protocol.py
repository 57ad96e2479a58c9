"""``Protocol``: the rules of play that belong to an evaluation, not to an environment.

ReAct's paper gives HotPotQA seven steps and then answers for the agent with an empty ``finish[]``;
in ALFWorld and WebShop it lets the agent ``think: ...`` at the price of a step. Such rules decide
a score, so a task set carries them and its hash covers them. An environment offers those of its
literature by name, as presets (``Environment.protocols``); ``harness run --protocol react`` takes
one.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from harness.errors import ConfigError

_THOUGHT = re.compile(r"\Athink\s*[:\[]", re.IGNORECASE)


class Repetition(msgspec.Struct, frozen=True):
    """When an episode that goes in circles is ended (outcome ``truncated``): its last ``limit``
    replies with an action, valid or not, are alike, and there were ``least`` of them at least."""

    limit: int
    #: What is alike: the whole reply with its reasoning, or the action alone.
    of: Literal["reply", "action"] = "reply"
    least: int = 1

    def __post_init__(self) -> None:
        if self.limit < 2 or self.least < 1:
            raise ConfigError(
                f"A repetition is of at least 2 replies and counts from reply 1 on, not of "
                f"{self.limit} from {self.least} on."
            )


class Protocol(msgspec.Struct, frozen=True):
    """How an episode is conducted. ``max_steps`` counts replies, also those without an action."""

    max_steps: int
    #: So many replies in a row without an action end an episode (outcome ``format``; None: never).
    format_limit: int | None = 3
    #: No reply is asked for once an episode has sampled so many tokens (outcome ``truncated``).
    max_tokens: int | None = None
    #: So many identical invalid actions in a row end an episode (outcome ``truncated``).
    repeat_limit: int | None = None
    #: Pattern that an action begins with: a reply with any other names none.
    actions: str | None = None
    #: What else ends an episode that repeats itself.
    repetition: Repetition | None = None
    #: An action that is answered with the admissible ones, at the price of a step.
    help_action: str | None = None
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
        if self.format_limit is not None and self.format_limit < 1:
            raise ConfigError(f"A format limit is at least 1, not {self.format_limit}.")
        if self.actions is not None:
            try:
                re.compile(self.actions)
            except re.error as error:
                raise ConfigError(f"No pattern of actions: '{self.actions}' ({error}).") from None
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"A token budget is at least 1, not {self.max_tokens}.")
        if self.repeat_limit is not None and self.repeat_limit < 1:
            raise ConfigError(f"A limit of repetitions is at least 1, not {self.repeat_limit}.")

    def is_action(self, action: str | None) -> bool:
        """Whether a reply named an action that the protocol reads as one."""
        return action is not None and (self.actions is None or bool(re.match(self.actions, action)))

    def is_thought(self, action: str) -> bool:
        """Whether an action is one that the protocol answers itself."""
        return self.think is not None and bool(_THOUGHT.match(action))


class Preset(msgspec.Struct, frozen=True):
    """Rules of play of a published evaluation, and what there is to know about them.

    Only ``protocol`` decides a score; the texts tell the original's facts, for people.
    """

    protocol: Protocol
    #: Task set that its tasks are (None: their data are not public, or not this project's).
    tasks: str | None = None
    #: Which tasks the original plays.
    plays: str = ""
    #: What a reply looks like, and which actions there are.
    grammar: str = ""
    #: What becomes of a reply without an action, and of an action that cannot be executed.
    invalid: str = ""
    #: What the original reports.
    scoring: str = ""
    #: What of it a run here does not reproduce.
    differs: str = ""
    #: Where the facts are from.
    source: str = ""

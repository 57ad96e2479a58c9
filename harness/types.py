"""The facts of an episode: frozen records that the loop writes and every metric reads.

    Task -> env.reset -> Policy.act -> Decision -> env.step -> Step ... -> Episode

All are ``msgspec.Struct``: immutable, compared by value, and encoded to one JSON line.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

#: Version of the record format; written into every run.json.
SCHEMA = 1


class Outcome(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The environment terminated it (won or lost)."""
    TRUNCATED = "truncated"
    """The protocol ended it: its steps or tokens were used up, or it repeated itself."""
    FORMAT = "format"
    """The agent gave several replies in a row that name no action."""
    CONTEXT = "context"
    """The newest observation no longer fits the model's window."""
    ERROR = "error"
    """A fault of environment, model or code: counted beside the score, never in it."""
    UNTOLD = "untold"
    """Imported from a log that does not tell how it ended: in no score either."""

    @property
    def scored(self) -> bool:
        """Whether success and score of the episode say something."""
        return self not in (Outcome.ERROR, Outcome.UNTOLD)


class Task(msgspec.Struct, frozen=True):
    """One thing to do. ``id`` is unique in ``env``; ``seed`` feeds the environment and sampling."""

    env: str
    split: str
    id: str
    seed: int = 0


class Completion(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a model sampled, exactly, with its cost. Counts are tokens of the model's tokenizer;
    None where a server does not tell."""

    text: str
    prompt_tokens: int | None = 0
    reasoning_tokens: int | None = 0
    action_tokens: int | None = 0
    #: Prompt tokens whose keys and values were stored and not computed again.
    cached_tokens: int | None = None
    #: Sampled ids, format tokens included; empty where a server does not tell.
    ids: tuple[int, ...] = ()
    #: Prompt tokens read again because the window moved.
    reread_tokens: int | None = 0
    #: A thinking model's thought, which its own later prompts do not show.
    hidden: str = ""
    #: "stop" (the action line ended) | "eos" | "length" (token cap).
    stop: str = "stop"
    #: Seconds of the model, and before it: in a queue, in tries that failed, in pauses.
    seconds: float = 0.0
    waited: float = 0.0
    #: Number of sampled tokens, where a server tells it and not their ids.
    sampled_tokens: int | None = None

    @property
    def sampled(self) -> int | None:
        """Tokens sampled, format tokens included; None where they are not told."""
        return len(self.ids) or self.sampled_tokens


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy's answer to one observation. ``action`` is None when the reply named none."""

    reasoning: str
    action: str | None
    completion: Completion | None = None
    #: Not the policy's own (a slip of ``collect --error-rate``, a protocol's last action): shown to
    #: students, never taught.
    injected: bool = False


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn: what the agent saw, what it decided, what that earned."""

    observation: str
    decision: Decision
    reward: float = 0.0
    #: The environment could not act on the action (or there was none).
    invalid: bool = False
    #: The string that was executed, where a translation made it differ from ``decision.action``.
    executed: str | None = None
    #: The protocol acted for the agent (a last answer when the steps are used up).
    forced: bool = False
    policy_seconds: float = 0.0
    env_seconds: float = 0.0


class Fault(msgspec.Struct, frozen=True):
    """What broke an episode: which side, which error, what it said."""

    kind: str
    message: str


class Episode(msgspec.Struct, frozen=True, omit_defaults=True):
    """One finished episode. Unless ``outcome.scored``, ``success`` and ``score`` say nothing."""

    task: Task
    agent: str
    instruction: str
    steps: tuple[Step, ...]
    #: What the environment showed after the last step (None: it failed before).
    final_observation: str | None
    success: bool
    score: float
    outcome: Outcome
    attempt: int = 0
    task_type: str = ""
    seconds: float = 0.0
    error: Fault | None = None
    #: Further numbers of the environment about the whole episode (an answer's F1, ...).
    measures: dict[str, float] = {}

    @property
    def key(self) -> tuple[str, int, int]:
        """What a record is known by in its run: (task id, seed, attempt)."""
        return (self.task.id, self.task.seed, self.attempt)


Info = dict[str, Any]

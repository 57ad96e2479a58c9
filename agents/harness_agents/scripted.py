"""``ScriptedPolicy``: the public fake: says what it is told to, for tests of everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.errors import ConfigError
from harness.transcript import parse
from harness.types import Decision, Info, Step

#: (instruction, history, observation, info) -> reply text, or the Decision itself. It may sleep,
#: raise, or return something that is no decision: whatever a test wants an agent to do.
Script = Callable[[str, Sequence[Step], str, Info], Any]


class ScriptedPolicy:
    """Says a given list of replies in order, the last one again and again.

    Or whatever a callable ``replies`` returns. A reply is a model's text with ``Reasoning:`` and
    ``Action:`` lines, or a bare action. Like any policy it is stateless: the reply depends on the
    length of the history.

    >>> ScriptedPolicy(["look", "Reasoning: I see it.\\nAction: take it"]).act("", [], "", {})
    Decision(reasoning='', action='look')
    """

    def __init__(self, replies: Sequence[str] | Script = ("look",)) -> None:
        if isinstance(replies, str) or (not callable(replies) and not replies):
            raise ConfigError("scripted: 'replies' is a list of at least one reply, or a callable.")
        self.replies = replies

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        if callable(self.replies):
            reply = self.replies(instruction, history, observation, info)
        else:
            reply = self.replies[min(len(history), len(self.replies) - 1)]
        if not isinstance(reply, str):
            return reply  # type: ignore[no-any-return]  # a Decision, or a fault put in on purpose
        found = parse(reply)
        if found.action is not None or "Action:" in reply or "Reasoning:" in reply:
            return found
        return Decision(reasoning="", action=reply or None)

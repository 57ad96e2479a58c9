"""One text format for prompts, replies and training: labelled segments that join to the text.

A transcript is a list of segments. Joined, they are what the model reads; tokenised one by one
and joined as ids, they are the prompt in play AND the training sequence, so the prompt of step k
is a prefix of the training ids and a token's label is its segment's, by construction.

    Task: put a mug in desk.        CONTEXT
    Observation: You are in ...     CONTEXT
    Reasoning: I need a mug.        REASON_FORMAT "Reasoning:", REASON " I need a mug.",
                                    REASON_FORMAT newline
    Action: go to desk 1            ACT_FORMAT "Action:", ACT " go to desk 1", ACT_FORMAT newline
    Observation: On the desk ...    CONTEXT

Observations are CONTEXT whatever they say: a page that prints "Action:" is never an action.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import NamedTuple

from harness.errors import ConfigError
from harness.types import Completion, Decision, Step


class Kind(IntEnum):
    """What a segment is, and so what label its tokens carry (SAD, section 3.2 and appendix D)."""

    CONTEXT = 0
    REASON = 1
    ACT = 2
    REASON_FORMAT = 3
    ACT_FORMAT = 4


class Segment(NamedTuple):
    """A stretch of text of one kind, with its own leading space and newline."""

    kind: Kind
    text: str


#: The last segment of a reply whose action line ended.
ACTED = Segment(Kind.ACT_FORMAT, "\n")

# A label opens a line; blanks may stand around it, a newline may not (an empty "Action:" stays
# empty instead of capturing the next line). "Answer:" is the paper's Table 6 for HotPotQA.
_LABEL = re.compile(r"^[ \t]*(Reasoning|Action|Answer)[ \t]*:", re.MULTILINE)
_BEFORE_LABEL = re.compile(r"\s*\n(?=[ \t]*(?:Reasoning|Action|Answer)[ \t]*:)")
_FINISH = re.compile(r"finish\[.*\]\Z", re.IGNORECASE | re.DOTALL)


def split_reply(text: str) -> list[Segment]:
    """Cut a model's reply into labelled segments that join to the reply up to its action line.

    What stands before the first label is reasoning (a thought without its label). A thought runs
    to the next label, so several lines stay whole. The first action line ends the reply: what a
    model went on to write after it was never executed and is dropped.
    """
    segments: list[Segment] = []
    labels = list(_LABEL.finditer(text))
    head = text[: labels[0].start()] if labels else text
    segments += _span(Kind.REASON, head)
    for i, label in enumerate(labels):
        if label[1] == "Reasoning":
            segments.append(Segment(Kind.REASON_FORMAT, label[0]))
            end = labels[i + 1].start() if i + 1 < len(labels) else len(text)
            segments += _span(Kind.REASON, text[label.end() : end])
            continue
        line_end = text.find("\n", label.end())
        stop = len(text) if line_end < 0 else line_end
        segments.append(Segment(Kind.ACT_FORMAT, label[0]))
        if stop > label.end():
            segments.append(Segment(Kind.ACT, text[label.end() : stop]))
        if line_end >= 0:
            segments.append(Segment(Kind.ACT_FORMAT, "\n"))
        break
    return segments


def _span(kind: Kind, text: str) -> Iterator[Segment]:
    body = text.rstrip("\n")
    if body:
        yield Segment(kind, body)
    if len(body) < len(text):
        yield Segment(Kind.REASON_FORMAT, text[len(body) :])


def parse(text: str, completion: Completion | None = None) -> Decision:
    """Read a reply once: ``Reasoning:`` lines and the first ``Action:`` (or ``Answer:``) line.

    ``Answer: x`` is read as ``finish[x]``. The action is None when there is no such line or it
    is empty. Several ``Reasoning:`` lines become one thought; a reply without one has the model's
    hidden thought. Never raises: nonsense is a result.
    """
    segments = split_reply(text)
    reasoning = " ".join(s.text.strip() for s in segments if s.kind is Kind.REASON).strip()
    if not reasoning and completion is not None:
        reasoning = completion.hidden
    action = next((s.text.strip() for s in segments if s.kind is Kind.ACT), "")
    label = next((s.text for s in segments if s.kind is Kind.ACT_FORMAT), "")
    if action and "Answer" in label and not _FINISH.match(action):
        action = f"finish[{action}]"
    return Decision(reasoning=reasoning, action=action or None, completion=completion)


def unlabelled(reasoning: str) -> str:
    """A thought none of whose lines begins as a reply's does: such a line would be read as one."""
    return _BEFORE_LABEL.sub(" ", reasoning).strip()


def reply(decision: Decision) -> str:
    """The canonical text of a decision; ``parse(reply(d))`` has d's reasoning and action where the
    one is ``unlabelled``."""
    lines = []
    if decision.reasoning:
        lines.append(f"Reasoning: {decision.reasoning}\n")
    if decision.action is not None:
        lines.append(f"Action: {decision.action}\n")
    return "".join(lines)


def render_decision(decision: Decision) -> list[Segment]:
    """A decision as segments: as sampled where a model wrote it, canonical otherwise.

    Ends with a newline, so that what follows opens a line. An injected slip keeps its cuts (and so
    its tokens) but is all CONTEXT: seen by the student, never taught.
    """
    text = decision.completion.text if decision.completion is not None else reply(decision)
    segments = split_reply(text)
    if segments and not segments[-1].text.endswith("\n"):
        acted = segments[-1].kind in (Kind.ACT, Kind.ACT_FORMAT)
        segments.append(Segment(Kind.ACT_FORMAT if acted else Kind.REASON_FORMAT, "\n"))
    if decision.injected:
        return [Segment(Kind.CONTEXT, s.text) for s in segments]
    return segments


def check_header(header: str, where: str) -> None:
    """A prompt holds the task and ends its line, or the first observation would not open one."""
    if "{instruction}" not in header or not header.endswith("\n"):
        raise ConfigError(
            f"{where}: the prompt must contain '{{instruction}}' and end in a newline."
        )


def render_observation(observation: str) -> Segment:
    return Segment(Kind.CONTEXT, f"Observation: {observation}\n")


def render(
    header: str, steps: Sequence[Step], observation: str | None = None
) -> list[list[Segment]]:
    """A transcript as blocks: the header, then one block a step, then the newest observation.

    A step's block is its observation and its decision; blocks are what a full window drops.
    ``header`` is the prompt with the instruction filled in, ending in a newline.
    """
    blocks = [[Segment(Kind.CONTEXT, header)]]
    blocks += [[render_observation(s.observation), *render_decision(s.decision)] for s in steps]
    if observation is not None:
        blocks.append([render_observation(observation)])
    return blocks


def conversation(blocks: Sequence[Sequence[Segment]]) -> bytes:
    """What names the conversation that ``render``'s blocks are of: header and first observation,
    which stay the same from its first step on, hashed."""
    opening = join(blocks[0]) + (blocks[1][0].text if len(blocks) > 1 else "")
    return hashlib.sha256(opening.encode("utf-8", "surrogatepass")).digest()


def join(segments: Sequence[Segment]) -> str:
    """The text the segments stand for."""
    return "".join(s.text for s in segments)


def messages(header: Sequence[Segment], steps: Sequence[Sequence[Segment]]) -> list[dict[str, str]]:
    """The transcript as a chat: what the agent saw is the user's, its replies the assistant's.

    The header opens the first user message, so models without a system role do too.
    """
    found: list[dict[str, str]] = []
    pending = join(header)
    *before, newest = steps
    for block in before:
        pending += block[0].text
        decision = join(block[1:])
        if decision:
            found.append({"role": "user", "content": pending.rstrip("\n")})
            found.append({"role": "assistant", "content": decision.rstrip("\n")})
            pending = ""
    pending += join(newest)
    found.append({"role": "user", "content": pending.rstrip("\n")})
    return found


def window_start(head: int, blocks: Sequence[int], limit: int) -> int:
    """First block to keep so that ``head + sum(kept blocks) <= limit``.

    ``head`` and ``blocks`` are lengths in tokens, oldest block first, ``limit`` the window less
    what must stay free. Blocks arrive one by one; whenever the window is full the oldest are
    dropped until half of it is free, so that one re-read pays for many steps. A pure function of
    the lengths: play and training cut at the same places. Returns ``len(blocks)`` when even the
    newest block does not fit beside the header.
    """
    start, used = 0, head
    for i, length in enumerate(blocks):
        used += length
        if used <= limit:
            continue
        room = head + (limit - head) // 2
        while start < i and used > room:
            used -= blocks[start]
            start += 1
        if used > limit:
            start, used = i + 1, head
    return start


def count_tokens(segments: Sequence[Segment], length: Callable[[str], int], kind: Kind) -> int:
    """Tokens of all segments of one kind under a tokenizer's ``length``."""
    return sum(length(s.text) for s in segments if s.kind is kind)

"""From the files of a source to ``Log``s: one episode each, cut in spans.

Formats, by source: ``react`` text transcripts (labels with or without numbers, or ``>`` lines), or
JSON records of typed steps; ``fireact`` and ``knowagent`` JSON records of a question and an output;
``reflexion`` a text of trials; ``sharegpt`` JSON records of conversations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import TraceError
from harness_distillation.imports.files import field, is_records, read_records, read_text
from harness_distillation.imports.grammar import Grammar, Kind, Span, cut, is_prompted, prompted


class Log(msgspec.Struct, frozen=True):
    """One episode of a log. ``where`` names file and record."""

    where: str
    instruction: str
    #: What the agent saw first.
    opening: str
    spans: tuple[Span, ...]
    #: Reward and success where the log's maker tells them beside the episode.
    reward: float | None = None
    success: bool | None = None


def read_logs(path: Path, grammar: Grammar) -> Iterator[Log]:
    """The episodes of a file, in its order.

    Raises:
        TraceError: a file that cannot be read as its source's; names the record and the field.
        DataError: no such file.
    """
    source = grammar.source
    if source == "reflexion" or (source == "react" and not is_records(path)):
        yield from _texts(path, grammar)
        return
    for where, row in read_records(path):
        if source == "fireact":
            yield _fireact(where, row, grammar)
        elif source == "knowagent":
            yield _knowagent(where, row, grammar)
        elif source == "sharegpt":
            yield _conversation(where, row, grammar)
        else:
            yield _typed(where, row, grammar)


# Text -------------------------------------------------------------------------------------

_START = {
    "hotpotqa": re.compile(r"^(?:\d+[ \t]+)?Question:[ \t]*(?=\S)", re.M),
    "alfworld": re.compile(r"^[ \t]*(?=You are in the middle of a room\.)", re.M),
    "webshop": re.compile(r"^(?:WebShop[ \t]*\n+)?(?=Instruction:)", re.M | re.I),
}
_INSTRUCTION = {
    "hotpotqa": re.compile(r"^(?:\d+[ \t]+)?Question:[ \t]*(.*)$", re.M),
    "alfworld": re.compile(r"^[ \t]*Your task is to:[ \t]*(.*)$", re.M),
    "webshop": re.compile(
        r"Instruction:[ \t]*(?:\[SEP\][ \t]*|\n[ \t]*)?(.*?)[ \t]*(?:\[SEP\].*)?$", re.M
    ),
}


def instruction_of(env: str, opening: str) -> str | None:
    """The task that an opening states; the last one, where examples stand before it."""
    found = [m[1].strip() for m in _INSTRUCTION[env].finditer(opening)]
    return next((text for text in reversed(found) if text), None)


def _texts(path: Path, grammar: Grammar) -> Iterator[Log]:
    text = read_text(path)
    starts = _starts(text, grammar)
    if not starts:
        form = {"hotpotqa": "'Question: ...'", "webshop": "'Instruction: ...'"}
        wanted = form.get(grammar.env, "'You are in the middle of a room.'")
        raise TraceError(f"{path}: no episode found: none begins with {wanted}.")
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True), 1):
        where = f"{path}: record {number} (line {text.count(chr(10), 0, start) + 1})"
        yield _text(where, text[start:end].strip(), grammar)


def _text(where: str, text: str, grammar: Grammar) -> Log:
    head, spans = cut(text, _form(text, grammar))
    opening = head.strip()
    return Log(where, _instruction(where, opening, grammar), opening, tuple(spans))


def _form(text: str, grammar: Grammar) -> Grammar:
    if grammar.env == "alfworld" and is_prompted(text, grammar):
        return prompted(grammar)
    return grammar


def _starts(text: str, grammar: Grammar) -> list[int]:
    """Where episodes begin: at an opening that a first step follows before the next opening."""
    found = [m.start() for m in _START[grammar.env].finditer(text)]
    kept = []
    for start, following in zip(found, [*found[1:], len(text)], strict=False):
        part = text[start:following]
        mark = next(_form(part, grammar).label.finditer(part), None)
        if mark is not None and mark.groupdict().get("number", "") in ("", "0", "1", None):
            kept.append(start)
    return kept


def _instruction(where: str, opening: str, grammar: Grammar) -> str:
    found = instruction_of(grammar.env, opening)
    if found is None:
        raise TraceError(f"{where}: its opening states no task: {opening[:80]!r}.")
    return found


# Records ----------------------------------------------------------------------------------


def first_observation(env: str, instruction: str) -> str:
    """What an environment shows first, for logs that leave it out (not ALFWorld's: its room)."""
    if env == "hotpotqa":
        return f"Question: {instruction}"
    return f"WebShop\nInstruction:\n{instruction}\n[Search]"


def _output(text: str, grammar: Grammar) -> tuple[Span, ...]:
    """Spans of a text that is all the model's and the environment's."""
    head, spans = cut(text, _form(text, grammar))
    return (*([Span(Kind.STRAY, head.strip())] if head.strip() else []), *spans)


def _fireact(where: str, row: dict[str, Any], grammar: Grammar) -> Log:
    question = field(where, row, "instruction").strip()
    spans = _output(field(where, row, "output"), grammar)
    return Log(where, question, first_observation(grammar.env, question), spans)


def _knowagent(where: str, row: dict[str, Any], grammar: Grammar) -> Log:
    given = field(where, row, "input")
    spans = _output(field(where, row, "output"), grammar)
    if grammar.env == "hotpotqa":
        question = _instruction(where, given, grammar)
        return Log(where, question, first_observation(grammar.env, question), spans)
    # The last room; those before it are the prompt's examples.
    opening = given[max(0, given.rfind("You are in the middle of a room.")) :].strip()
    return Log(where, _instruction(where, opening, grammar), opening, spans)


def _typed(where: str, row: dict[str, Any], grammar: Grammar) -> Log:
    """A record of typed steps: instruction, steps of action and observation, reward, success."""
    instruction = field(where, row, "instruction").strip()
    spans: list[Span] = []
    for number, step in enumerate(field(where, row, "steps", list), 1):
        place = f"{where}: step {number}"
        if not isinstance(step, dict):
            raise TraceError(f"{place}: not an object but {type(step).__name__}.")
        spans.append(Span(Kind.ACTION, field(place, step, "action").strip()))
        spans.append(Span(Kind.OBSERVATION, field(place, step, "observation").strip()))
    opening = row.get("observation")
    if not isinstance(opening, str):
        if grammar.env == "alfworld":
            raise TraceError(f"{where}: no field 'observation': the room that the agent saw first.")
        opening = first_observation(grammar.env, instruction)
    reward, success = row.get("reward"), row.get("success")
    return Log(
        where, instruction, opening, tuple(spans),
        float(reward) if isinstance(reward, int | float) else None,
        success if isinstance(success, bool) else None,
    )  # fmt: skip


_MODEL = ("gpt", "assistant", "model", "chatgpt", "bing", "bard")


def _conversation(where: str, row: dict[str, Any], grammar: Grammar) -> Log:
    """A conversation: ``from``/``value`` or ``role``/``content`` turns.

    The model's turns before its first label (an "OK" to the instructions) are left out; the turn
    before that label opens the episode, later turns of others are observations.
    """
    key = "conversations" if "conversations" in row else "messages"
    opening, begun = "", False
    spans: list[Span] = []
    for number, turn in enumerate(field(where, row, key, list), 1):
        place = f"{where}: turn {number}"
        if not isinstance(turn, dict):
            raise TraceError(f"{place}: not an object but {type(turn).__name__}.")
        names = ("from", "value") if "from" in turn else ("role", "content")
        speaker, text = (field(place, turn, name) for name in names)
        if speaker.lower() not in _MODEL:
            if begun:
                spans.append(Span(Kind.OBSERVATION, _unlabelled(text)))
            elif speaker.lower() != "system" or not opening:
                opening = _unlabelled(text)
            continue
        head, found = cut(text, grammar)
        if not found and not begun:
            spans.append(Span(Kind.LEFT_OUT, text.strip()))
            continue
        begun = True
        if head.strip():
            # A thought without its label, as in a model's own replies.
            spans.append(Span(Kind.THOUGHT, head.strip()))
        acted = False
        for span in found:
            # One action a turn is executed; an observation that a model makes up is none.
            had = acted or span.kind is Kind.OBSERVATION
            spans.append(Span(Kind.STRAY, span.text) if had else span)
            acted = acted or span.kind in (Kind.ACTION, Kind.ANSWER)
    if not opening:
        raise TraceError(f"{where}: nothing is said before the model's first turn.")
    return Log(where, _instruction(where, opening, grammar), opening, tuple(spans))


def _unlabelled(text: str) -> str:
    return re.sub(r"\A\s*Observation[ \t]*:[ \t]*", "", text, flags=re.I).strip()

"""Rows that ``harness export --as`` wrote, as the episodes they came from; no grammar, no guess.

    messages | sharegpt | spans -> what was seen and what was said -> steps -> Episode

Reasoning, actions, observations, what was put in and how it ended come back; tokens, times and a
thinking model's hidden thoughts are in no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness import rows
from harness.errors import TraceError
from harness.loop import tidy
from harness.transcript import parse, reply
from harness.types import Completion, Decision, Episode, Step, Task
from harness_distillation.imports.files import field, read_records

SOURCE = "exported"
_OBSERVATION = "Observation: "


class _Turn(NamedTuple):
    seen: str
    said: str


def read_exported(path: Path) -> Iterator[tuple[str, Episode]]:
    """(place, episode) of every row of a file.

    Raises:
        TraceError: a row that is of none of the three forms or does not hold together; names file,
            line and field.
        DataError: no such file.
    """
    for where, record in read_records(path):
        turns = _turns(where, record)
        try:
            row = msgspec.convert(record, rows.Whole)
        except msgspec.ValidationError as error:
            raise TraceError(f"{where}: not a row of `harness export --as`: {error}.") from None
        if row.outcome.scored and None in (row.success, row.score):
            raise TraceError(f"{where}: outcome '{row.outcome}', but no success or no score.")
        if len(turns) != len(row.steps):
            raise TraceError(
                f"{where}: {len(turns)} replies in its text, but {len(row.steps)} in 'steps'."
            )
        yield where, _episode(row, turns)


def _turns(where: str, record: dict[str, Any]) -> list[_Turn]:
    if "spans" in record:
        return _of_spans(where, record)
    if "conversations" in record:
        return _of_chat(where, record, "conversations", ("from", "value"), "gpt")
    if "messages" in record:
        return _of_chat(where, record, "messages", ("role", "content"), "assistant")
    known = ", ".join(map(str, record)) or "none"
    raise TraceError(
        f"{where}: none of 'messages', 'conversations' and 'spans' is a field (its fields: "
        f"{known}).\n  Rows of prompt-completion are single decisions and cannot be imported; "
        "logs of others have sources of their own."
    )


def _of_chat(
    where: str, record: dict[str, Any], key: str, names: tuple[str, str], model: str
) -> list[_Turn]:
    said = field(where, record, key, list)
    if len(said) % 2:
        raise TraceError(f"{where}: '{key}' has {len(said)} turns; the last one has no reply.")
    turns = []
    for number in range(0, len(said), 2):
        texts = []
        for at, mine in ((number, False), (number + 1, True)):
            place, turn = f"{where}: {key}[{at}]", said[at]
            if not isinstance(turn, dict):
                raise TraceError(f"{place}: not an object but {type(turn).__name__}.")
            speaker, text = (field(place, turn, name) for name in names)
            if (speaker == model) is not mine:
                wanted = "the agent's reply" if mine else "what the agent saw"
                raise TraceError(f"{place}: said by '{speaker}', where {wanted} is due.")
            texts.append(text)
        if number == 0:
            texts[0] = texts[0][field(where, record, "prompt_chars", int) :]
        seen = _seen(f"{where}: {key}[{number}]", texts[0])
        turns.append(_Turn(seen, f"{texts[1]}\n"))
    return turns


def _of_spans(where: str, record: dict[str, Any]) -> list[_Turn]:
    """Spans in order, with nothing between them; one labelled context after the prompt is what the
    agent saw, and those up to the next are its reply."""
    text, spans = field(where, record, "text"), field(where, record, "spans", list)
    turns: list[_Turn] = []
    at = 0
    for number, span in enumerate(spans):
        place = f"{where}: spans[{number}]"
        if not isinstance(span, dict):
            raise TraceError(f"{place}: not an object but {type(span).__name__}.")
        start, end = field(place, span, "start", int), field(place, span, "end", int)
        if start != at or not start < end <= len(text):
            raise TraceError(f"{place}: {start} to {end}, where the text goes on at {at}.")
        at, piece = end, text[start:end]
        if number == 0:
            continue
        if span.get("label") == "context":
            turns.append(_Turn(_seen(place, piece).removesuffix("\n"), ""))
        elif not turns:
            raise TraceError(f"{place}: a reply before anything was seen.")
        else:
            turns[-1] = turns[-1]._replace(said=turns[-1].said + piece)
    if at != len(text):
        raise TraceError(f"{where}: the spans end at {at} of {len(text)} characters.")
    return turns


def _seen(place: str, text: str) -> str:
    if not text.startswith(_OBSERVATION):
        raise TraceError(f"{place}: no '{_OBSERVATION.strip()}' where the prompt ends.")
    return text[len(_OBSERVATION) :]


def _episode(row: rows.Whole, turns: list[_Turn]) -> Episode:
    return Episode(
        task=Task(row.env, row.task_split, row.task, row.seed),
        agent=row.agent,
        instruction=row.instruction,
        steps=tuple(
            Step(
                turn.seen, _decision(turn.said, step.injected), reward=step.reward,
                invalid=step.invalid, executed=step.executed, forced=step.forced,
            )
            for turn, step in zip(turns, row.steps, strict=True)
        ),
        final_observation=row.final_observation,
        success=row.success or False,
        score=row.score or 0.0,
        outcome=row.outcome,
        attempt=row.attempt,
        task_type=row.task_type,
    )  # fmt: skip


def _decision(said: str, injected: bool) -> Decision:
    """The decision that a text tells; the text is kept where it is not the canonical one."""
    told = tidy(parse(said))
    kept = None
    if reply(told) != said:
        kept = Completion(said, None, None, None, reread_tokens=None)
    return msgspec.structs.replace(told, completion=kept, injected=injected)

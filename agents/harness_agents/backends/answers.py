"""What the answer of an OpenAI-compatible server says: the reply, the hidden thought, the counts.

Servers differ in what they put where. Text may come as a list of parts; a thought in
``reasoning_content`` or before ``</think>`` in the text; an action as a native tool call; counts
may be missing (None then, never 0). What a model may have written is read leniently, whatever it
is; what only a server can have got wrong raises OddAnswer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from harness.transcript import ACTED, Kind, join, split_reply
from harness.types import Completion

#: Where a reply ends at the latest: a model that goes on writes its own observations.
STOP = "\nObservation:"
#: Refusals of a prompt for its length, as OpenAI, vLLM and SGLang, Anthropic, llama.cpp and
#: llama-cpp-python word them.
_TOO_LONG = re.compile(
    r"context_length_exceeded|maximum context length|prompt is too long"
    r"|exceed_context_size_error|exceeds the available context size|exceed context window of",
    re.IGNORECASE,
)
#: A refusal that names one of these is about the request's settings, unless it counts the prompt.
_SETTING = re.compile(r"max_(?:\w+_)?tokens|['\"`]stop['\"`]", re.IGNORECASE)
_COUNTED = re.compile(r"\d+ input tokens|\d+ in the (?:messages|prompt)", re.IGNORECASE)
_LIMIT = re.compile(r"maximum context length (?:is|of) (\d+)", re.IGNORECASE)


class OddAnswer(ValueError):
    """A field of an answer has a shape that no server of this interface should send."""


def too_long(refusal: str, reply_tokens: int) -> bool:
    """Whether a refusal says that the prompt is too long beside a reply of ``reply_tokens``.

    False for faults of the settings: a reply that would fill the window alone, stop strings, caps.
    """
    if not _TOO_LONG.search(refusal):
        return False
    if _SETTING.search(refusal) and not _COUNTED.search(refusal):
        return False
    limit = _LIMIT.search(refusal)
    return limit is None or reply_tokens < int(limit[1])


def read(choice: Mapping[str, Any], usage: Any, api: str) -> Completion:
    """The completion in an answer's first choice. Raises OddAnswer, naming the field."""
    hidden = ""
    if api == "chat":
        message = choice["message"]
        text = _text(message.get("content"), "content")
        for field in ("reasoning_content", "reasoning"):
            hidden = hidden or _text(message.get(field), field)
    else:
        message, text = {}, choice["text"]
    thought, said = uncover(text)
    said += _tool_call(message, said)  # what is thought of is no action
    hidden = "\n".join(t.strip() for t in (hidden, thought) if t.strip())
    # Some servers leave the stop string in the reply, and some know none.
    before, stopped, _ = said.partition(STOP)
    segments = split_reply(before + stopped[:1])
    cut = choice.get("finish_reason") == "length"
    total = _count(usage, "completion_tokens")
    reasoning = action = None
    if total is not None:
        # A server tells one count for the reply: it is shared out by characters, the hidden
        # thought's share too unless the server counts it apart.
        thinking = _count(_get(usage, "completion_tokens_details"), "reasoning_tokens")
        if thinking and thinking > total:  # counted beside the reply: surely where it is more
            total += thinking
        if not thinking:
            thinking = round(total * len(hidden) / max(1, len(hidden) + len(said)))
        visible = max(0, total - thinking) / max(1, len(said))
        shares = {k: sum(len(s.text) for s in segments if s.kind is k) for k in Kind}
        reasoning = thinking + round(visible * shares[Kind.REASON])
        action = round(visible * shares[Kind.ACT])
    return Completion(
        text=join(segments),
        prompt_tokens=_count(usage, "prompt_tokens"),
        reasoning_tokens=reasoning,
        action_tokens=action,
        cached_tokens=_count(_get(usage, "prompt_tokens_details"), "cached_tokens"),
        stop="length" if cut and segments[-1:] != [ACTED] else "stop",
        hidden=hidden,
        sampled_tokens=total,
    )


def uncover(text: str) -> tuple[str, str]:
    """(hidden thought, what is said). All before the last ``</think>`` is thought: templates open
    the tag themselves, so that the reply may lack it. So is what follows a tag never closed."""
    before, closed, after = text.rpartition("</think>")
    said, opened, rest = after.partition("<think>")
    if not closed and not opened:
        return "", text
    hidden = re.sub(r"</?think>", "", before) + rest
    return hidden, said.lstrip()


def _text(value: Any, field: str) -> str:
    """A text field: a string, nothing, or a list whose text parts are joined."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise OddAnswer(f"'{field}' is of type {type(value).__name__}")
    parts = [part.get("text") if isinstance(part, dict) else part for part in value]
    if not all(part is None or isinstance(part, str) for part in parts):
        raise OddAnswer(f"'{field}' has parts that are no text")
    return "".join(part for part in parts if part)


def _tool_call(message: Mapping[str, Any], text: str) -> str:
    """A native tool call as an action line, where the text has none.

    The argument ``action`` is the action itself; else it is ``name[arguments]``.
    """
    calls = message.get("tool_calls")
    if not calls or any(s.kind is Kind.ACT for s in split_reply(text)):
        return ""
    function = _get(calls[0], "function") if isinstance(calls, list) else None
    name, arguments = _get(function, "name"), _get(function, "arguments")
    if not isinstance(name, str):
        raise OddAnswer("'tool_calls' is no list of named functions")
    if isinstance(arguments, str):
        # Not msgspec's: half an emoji, as servers cut them, is no text to it.
        with suppress(ValueError, RecursionError):  # no JSON: the text is the argument
            arguments = json.loads(arguments or "null")
    if isinstance(arguments, dict) and "action" in arguments:
        action = _plain(arguments["action"])
    else:
        if isinstance(arguments, dict):
            arguments = list(arguments.values())
        elif not isinstance(arguments, list):
            arguments = [] if arguments is None else [arguments]
        action = f"{name}[{', '.join(map(_plain, arguments))}]"
    action = " ".join(action.split())
    return ("\n" if text and not text.endswith("\n") else "") + f"Action: {action}"


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _get(table: Any, key: str) -> Any:
    return table.get(key) if isinstance(table, dict) else None


def _count(table: Any, key: str) -> int | None:
    """A count of tokens; None where the server tells none, or no number."""
    value = _get(table, key)
    return value if type(value) is int and value >= 0 else None

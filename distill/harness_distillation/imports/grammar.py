"""Grammars that cut a log's text into spans, and the table of them by source and environment.

A label opens a line and its span runs to the next label, so that a thought of several lines stays
whole. Blanks may stand around a label and a newline may not: an empty ``Action:`` stays empty
instead of capturing the next line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from harness.errors import ConfigError, unknown

SOURCES = ("react", "fireact", "knowagent", "reflexion", "sharegpt")
ENVS = ("alfworld", "hotpotqa", "webshop")


class Kind(StrEnum):
    """What a stretch of a log is."""

    THOUGHT = "thought"
    ACTION = "action"
    ANSWER = "answer"
    """Becomes ``finish[...]``."""
    OBSERVATION = "observation"
    LEFT_OUT = "left out"
    """The model's, but neither reasoning nor action: the grammar names it and leaves it out."""
    STRAY = "stray"
    """The model's, and no rule of the grammar has a place for it."""
    META = "meta"
    """What the log's maker wrote between or after episodes."""


class Span(NamedTuple):
    """A stretch of one kind, without its label and the blanks around it."""

    kind: Kind
    text: str


class Grammar(NamedTuple):
    """How a source writes an environment's episodes; ``version`` counts what it makes of a log.

    ``label`` finds labels: group ``word`` (in lower case a key of ``kinds``; absent: a line of
    ``>``) and group ``number`` where a source counts its steps.
    """

    source: str
    env: str
    label: re.Pattern[str]
    kinds: dict[str, Kind]
    version: int = 1
    #: Actions under a name that the environment does not know, and its own name.
    verbs: dict[str, str] = {}
    #: An action may stand on the line after its label (in a chat's turn, which bounds it).
    below: bool = False

    @property
    def name(self) -> str:
        return f"{self.source}/{self.env} {self.version}"


_THOUGHT, _ACTION, _OBSERVATION = Kind.THOUGHT, Kind.ACTION, Kind.OBSERVATION
_WORDS = {
    "reasoning": _THOUGHT, "thought": _THOUGHT, "think": _THOUGHT,
    "action": _ACTION, "act": _ACTION,
    "observation": _OBSERVATION, "obs": _OBSERVATION,
}  # fmt: skip
#: SAD, Table 6: HotPotQA's action span is the line of the (final) answer.
_ANSWERS = {"answer": Kind.ANSWER, "final answer": Kind.ANSWER}
_PATH = {"actionpath": Kind.LEFT_OUT}
#: KnowAgent's `Retrieve` is ReAct's `search`: a page by its title. Its `Search` asks a web search.
_RETRIEVE = {"retrieve": "search"}
#: What ReAct's and Reflexion's programs print around episodes.
_FOOTER = (
    r"(?P<meta>Correct answer:|#{10,}[ \t]*$|BEGIN TRIAL|Trial summary:"
    r"|-{5,}[ \t]*(?:BEGIN .*)?$|\{'steps':|\d+ r [01] rs)"
)
_PROMPT = re.compile(r"^>[ \t]*(?:(?P<word>think|actionpath)[ \t]*:[ \t]*)?", re.M | re.I)


def _labels(
    kinds: dict[str, Kind], *, footer: bool = False, any_case: bool = False
) -> re.Pattern[str]:
    words = sorted(kinds, key=len, reverse=True)
    if not any_case:
        forms = (w.title().replace("Actionpath", "ActionPath") for w in words)
        words = [form for w in forms for form in dict.fromkeys((w, w.capitalize()))]
    label = rf"[ \t]*(?P<word>{'|'.join(words)})[ \t]*(?P<number>\d*)[ \t]*:[ \t]*"
    tail = rf"|{_FOOTER}" if footer else ""
    return re.compile(rf"^(?:{label}{tail})", re.M | (re.I if any_case else 0))


def grammar(source: str, env: str) -> Grammar:
    """The grammar of a source's logs of an environment.

    Raises:
        ConfigError: no such source or environment, or a source that has no logs of it.
    """
    if source not in SOURCES:
        raise ConfigError(unknown("source", source, SOURCES))
    if env not in ENVS:
        raise ConfigError(unknown("environment", env, ENVS))
    only = {
        "fireact": ("hotpotqa",),
        "reflexion": ("hotpotqa",),
        "knowagent": ("hotpotqa", "alfworld"),
    }
    if env not in only.get(source, ENVS):
        raise ConfigError(f"{source} has logs of {' and '.join(only[source])}, not of {env}.")
    words = dict(_WORDS)
    if env == "hotpotqa":
        words |= _ANSWERS
    if source == "knowagent":
        words |= _PATH
        verbs = _RETRIEVE if env == "hotpotqa" else {}
        return Grammar(source, env, _labels(words), words, verbs=verbs)
    if source == "sharegpt":
        return Grammar(source, env, _labels(words, any_case=True), words, below=True)
    return Grammar(source, env, _labels(words, footer=source != "fireact"), words)


def prompted(grammar: Grammar) -> Grammar:
    """The same source's form with ``> think: ...`` and ``> action`` lines (ReAct's ALFWorld)."""
    return grammar._replace(label=_PROMPT, kinds={"think": _THOUGHT, **_PATH})


def is_prompted(text: str, grammar: Grammar) -> bool:
    """Whether a log's decisions stand on lines that begin with ``>``."""
    prompt, label = re.search(r"^>[ \t]*\S", text, re.M), grammar.label.search(text)
    return prompt is not None and (label is None or prompt.start() < label.start())


def cut(text: str, grammar: Grammar) -> tuple[str, list[Span]]:
    """What stands before the first label, and the spans after it.

    A label that cannot be the next one belongs to the span it stands in: a page that prints
    "Action:" is an observation.
    """
    marks = _in_order(list(grammar.label.finditer(text)), grammar)
    if not marks:
        return text, []
    spans: list[Span] = []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        block = text[mark.end() : following.start() if following else len(text)]
        spans += _block(_kind(mark, grammar), block, grammar)
    return text[: marks[0].start()], spans


#: The order of labels inside one numbered step.
_RANK = {Kind.LEFT_OUT: 0, Kind.THOUGHT: 1, Kind.ACTION: 2, Kind.ANSWER: 2, Kind.OBSERVATION: 3}


def _kind(mark: re.Match[str], grammar: Grammar) -> Kind:
    if mark.groupdict().get("meta"):
        return Kind.META
    word = mark["word"]
    return Kind.ACTION if word is None else grammar.kinds[word.lower()]


def _number(mark: re.Match[str]) -> int | None:
    number = mark.groupdict().get("number")
    return int(number) if number else None


def _in_order(marks: Sequence[re.Match[str]], grammar: Grammar) -> list[re.Match[str]]:
    """The marks that can follow one another; the others are text of the span they stand in.

    Where steps are numbered, labels are too (but for an answer after a thought), and their numbers
    go up by one. An action straight after an observation is one when an observation answers it.
    """
    if grammar.label is _PROMPT or not marks:
        return list(marks)
    acts = (Kind.ACTION, Kind.ANSWER)
    kinds = [_kind(mark, grammar) for mark in marks]
    counts = _number(marks[0]) is not None
    kept: list[re.Match[str]] = []
    before: Kind | None = None
    at = (0, 0)
    for i, (mark, kind) in enumerate(zip(marks, kinds, strict=True)):
        number = _number(mark)
        if counts and kind is not Kind.META:
            if number is None and (kind is not Kind.ANSWER or before is Kind.OBSERVATION):
                continue
            if number is not None and not _follows(kind, number, at, first=not kept):
                continue
        answered = i + 1 == len(marks) or kinds[i + 1] in (Kind.OBSERVATION, Kind.META)
        if kind in acts and before is Kind.OBSERVATION and not answered:
            continue
        if number is not None:
            at = (number, _RANK[kind])
        kept.append(mark)
        before = kind
    return kept


def _follows(kind: Kind, number: int, at: tuple[int, int], *, first: bool) -> bool:
    last, rank = at
    again = kind is Kind.THOUGHT
    return first or number == last + 1 or (number == last and _RANK[kind] >= rank + (not again))


def _block(kind: Kind, block: str, grammar: Grammar) -> list[Span]:
    """The spans of one label's block."""
    on_prompt = grammar.label is _PROMPT
    if kind in (Kind.META, Kind.OBSERVATION):
        return [Span(kind, block.strip())]
    if kind is Kind.THOUGHT:
        text = block.strip()
        if not on_prompt:
            return [Span(kind, text)]
        thought, said = _heard(text)
        return [Span(kind, thought), *(Span(Kind.OBSERVATION, answer) for answer in said)]
    if grammar.below and kind is not Kind.LEFT_OUT:
        block = block.lstrip()
    line = _first_line(block)
    rest = block[len(line) :].strip()
    spans = [Span(kind, line.strip())]
    if kind is Kind.ACTION and on_prompt:
        spans.append(Span(Kind.OBSERVATION, rest))
    elif rest:
        spans.append(Span(Kind.STRAY, rest))
    return spans


def _first_line(block: str) -> str:
    """A block's first line; to the closing bracket where an argument runs over several."""
    end = block.find("\n")
    line = block if end < 0 else block[:end]
    if end >= 0 and re.match(r"\s*\w+\[[^\]]*\Z", line):
        closing = block.find("]", end)
        if closing >= 0:
            return block[: closing + 1]
    return line


#: What environments say to a thought that was given them as an action.
HEARD = ("OK.", "Nothing happens.")


def _heard(text: str) -> tuple[str, list[str]]:
    """A thought, and what the environment said after it."""
    lines = text.split("\n")
    at = next((i for i, line in enumerate(lines) if i and line.strip() in HEARD), len(lines))
    rest = "\n".join(lines[at + 1 :]).strip()
    said = [line.strip() for line in lines[at : at + 1]]
    return "\n".join(lines[:at]).strip(), said + ([rest] if rest else [])

"""What a reader of HotPotQA has seen so far: pages, lookups, titles that were not found.

Only text is read: the question, own actions, and what they showed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.loop import NO_ACTION
from harness.types import Step

#: Sentences that a search shows; a page that shows fewer has no more.
SHOWN = 5
_ACTION = re.compile(r"\A([a-zA-Z]+)\[(.*)\]\Z", re.DOTALL)
_VERBS = ("search", "lookup", "finish", "think")
_MISS = re.compile(r"\ACould not find (.*)\. Similar: (\[.*\])\.\s*\Z", re.DOTALL)
_RESULT = re.compile(r"\A\(Result (\d+) / (\d+)\) (.*)", re.DOTALL)


class Act(NamedTuple):
    """An action, read; ``verb`` is "" where it is none."""

    verb: str
    text: str = ""


def read_action(action: str | None) -> Act:
    """``"search[Dead Souls]"`` -> ``Act("search", "Dead Souls")``."""
    found = _ACTION.match((action or "").strip())
    if found is None:
        return Act("")
    verb = found[1][:1].lower() + found[1][1:]
    return Act(verb, found[2]) if verb in _VERBS else Act("")


def fold(title: str) -> str:
    """What titles are compared by."""
    return " ".join(title.casefold().replace("_", " ").split())


def sentences_of(text: str) -> list[str]:
    """Sentences as the environment cuts them, without their full stops."""
    return [part.strip().rstrip(".") for part in re.split(r"\. |\n", text) if part.strip(" .")]


_NO_ACT = Act("")


@dataclass(slots=True)
class PageNotes:
    """What is known of one page: ``opening`` as shown, ``found`` by lookups, in that order."""

    title: str
    opening: tuple[str, ...]
    found: list[str] = field(default_factory=list)
    #: Keyword -> (results seen, results in all) of the lookups since the page was turned to.
    lookups: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def known(self) -> tuple[str, ...]:
        return (*self.opening, *self.found)

    @property
    def whole(self) -> bool:
        """Whether the opening is all there is."""
        return len(self.opening) < SHOWN

    def exhausted(self, keyword: str) -> bool:
        seen, total = self.lookups.get(keyword, (0, 1))
        return seen >= total


@dataclass(slots=True)
class Notes:
    """Everything read so far. Pages and misses go by folded title."""

    question: str
    pages: dict[str, PageNotes] = field(default_factory=dict)
    misses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    current: PageNotes | None = None
    #: The latest action and what it led to: question | page | miss | result | no_more | thought |
    #: invalid | other; ``text`` is the sentence, title or name it is about.
    action: Act = _NO_ACT
    event: str = "question"
    text: str = ""
    steps: int = 0

    def page(self, title: str) -> PageNotes | None:
        return self.pages.get(fold(title))

    def observe(self, action: str | None, text: str) -> None:
        """Take in what an action led to."""
        self.steps += 1
        act = self.action = read_action(action)
        self.text = act.text
        if text.startswith(("Invalid action:", NO_ACTION)) or not act.verb:
            self.event, self.text = "invalid", (action or "").strip()
        elif act.verb == "search":
            self._searched(act.text, text)
        elif act.verb == "lookup":
            self._looked_up(act.text, text)
        else:
            self.event = "thought" if act.verb == "think" else "other"

    def _searched(self, title: str, text: str) -> None:
        if missed := _MISS.match(text):
            self.event = "miss"
            self.misses[fold(title)] = _titles(missed[2])
            return
        self.event = "page"
        page = PageNotes(title, tuple(sentences_of(text)))
        before = self.pages.get(fold(title))
        if before is not None:
            page.found = before.found
        self.pages[fold(title)] = self.current = page

    def _looked_up(self, keyword: str, text: str) -> None:
        result = _RESULT.match(text)
        if result is None:
            self.event = "no_more"
            if self.current is not None:
                self.current.lookups[keyword] = (1, 1)
            return
        self.event = "result"
        self.text = result[3].strip().rstrip(".")
        if self.current is not None:
            # Another keyword in between starts the earlier one over.
            self.current.lookups = {
                k: v for k, v in self.current.lookups.items() if v[0] >= v[1] or k == keyword
            }
            self.current.lookups[keyword] = (int(result[1]), int(result[2]))
            if self.text not in self.current.known:
                self.current.found.append(self.text)


def _titles(text: str) -> tuple[str, ...]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return ()
    return tuple(str(title) for title in found)


def take_notes(question: str, history: Sequence[Step], observation: str) -> Notes:
    """The notes after a history and the newest observation."""
    notes = Notes(question)
    texts = [step.observation for step in history] + [observation]
    for step, text in zip(history, texts[1:], strict=True):
        notes.observe(step.decision.action, text)
    return notes

"""The HotPotQA expert: the next search, lookup or answer, given the question and what was read.

It knows no facts: it names the titles in the question, reads their pages, follows what it found to
the next page, compares. Every step is decided anew from the whole history, so a slip, whoever made
it, is just another state to go on from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness_agents.expert.hotpotqa_facts import Found, keywords, learn
from harness_agents.expert.hotpotqa_notes import Notes, PageNotes, fold
from harness_agents.expert.hotpotqa_open import answer_open
from harness_agents.expert.hotpotqa_question import Name, Quest

#: Searches for one name, the name itself included, before it is given up.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Learned:
    """A fact that was wanted and read."""

    name: str
    want: str
    value: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The next action and what it is for, which the reasoning says.

    ``aim``: search | similar | namesake | again | lookup | more | finish | guess. ``name`` is what
    the step is about, ``want`` what it is to tell; ``learned`` what is known by now.
    """

    aim: str
    action: str
    name: str
    want: str = ""
    keyword: str = ""
    learned: tuple[Learned, ...] = ()
    answer: str = ""


class _Stuck(Exception):
    """What the rules want cannot be read anywhere."""


def decide(quest: Quest, notes: Notes) -> Plan:
    """The next step."""
    if quest.kind != "open":
        try:
            return _bridge(quest, notes) if quest.kind == "bridge" else _compare(quest, notes)
        except _Stuck:
            pass
    step = answer_open(quest, notes)
    verb = {"search": "search", "finish": "guess"}[step.verb]
    answer = step.text if step.verb == "finish" else ""
    return Plan(verb, f"{step.verb}[{step.text}]", step.text, "open", answer=answer)


def _bridge(quest: Quest, notes: Notes) -> Plan:
    name = quest.names[0]
    learned: list[Learned] = []
    for want in quest.wants:
        got = _read(name, want, notes, tuple(learned))
        if isinstance(got, Plan):
            return got
        learned.append(Learned(name.text, want, got.value))
        name = Name(got.value, got.hint)
    answer = learned[-1].value
    return Plan("finish", f"finish[{answer}]", name.text, learned=tuple(learned), answer=answer)


def _compare(quest: Quest, notes: Notes) -> Plan:
    want = quest.wants[0]
    learned: list[Learned] = []
    for name in quest.names:
        got = _read(name, want, notes, tuple(learned))
        if isinstance(got, Plan):
            return got
        learned.append(Learned(name.text, want, got.value))
    answer = _verdict(quest, [item.value for item in learned])
    return Plan("finish", f"finish[{answer}]", "", want, learned=tuple(learned), answer=answer)


def _verdict(quest: Quest, values: list[str]) -> str:
    if quest.choice == "same":
        return "yes" if fold(values[0]) == fold(values[1]) else "no"
    if quest.choice.startswith("is:"):
        word = quest.choice[3:]
        return "yes" if all(word in value.split() or word == value for value in values) else "no"
    if quest.choice == "shared":
        return values[0]
    try:
        first, second = (float(value) for value in values)
    except ValueError:
        raise _Stuck from None
    if quest.choice == "smaller":
        return quest.names[0].text if first <= second else quest.names[1].text
    return quest.names[0].text if first >= second else quest.names[1].text


def _read(name: Name, want: str, notes: Notes, learned: tuple[Learned, ...]) -> Found | Plan:
    """The fact, or the step that brings it nearer."""
    title = name.text
    for _ in range(TRIES):
        page = notes.page(title)
        if page is not None:
            namesake = f"{name.text} ({name.hint})"
            if _other_kind(page, name) and fold(namesake) not in notes.misses:
                if fold(title) == fold(namesake):
                    return _look(page, want, notes, learned)
                title = namesake
                continue
            return _look(page, want, notes, learned)
        similar = notes.misses.get(fold(title))
        if similar is None:
            aim = "search" if title == name.text else "similar"
            if notes.page(name.text) is not None:
                aim = "namesake"
            return Plan(aim, f"search[{title}]", title, want, learned=learned)
        left = [t for t in similar if fold(t) not in notes.misses]
        if not left:
            break
        title = best(name, left, notes.question)
    raise _Stuck


def _other_kind(page: PageNotes, name: Name) -> bool:
    """Whether the page is of a namesake: the film was meant, and it is about a ballet."""
    form = learn("form", page)
    if form is None or not name.hint:
        return False
    return not set(name.hint.split()) & set(form.value.split())


def _look(page: PageNotes, want: str, notes: Notes, learned: tuple[Learned, ...]) -> Found | Plan:
    if found := learn(want, page):
        return found
    words = [] if page.whole else [w for w in keywords(want, page) if not page.exhausted(w)]
    if not words:
        raise _Stuck
    if notes.current is not page:
        return Plan("again", f"search[{page.title}]", page.title, want, learned=learned)
    more = "more" if words[0] in page.lookups else "lookup"
    action = f"lookup[{words[0]}]"
    return Plan(more, action, page.title, want, words[0], learned)


def best(name: Name, titles: list[str], question: str) -> str:
    """Which of similar titles is meant: the same name, of the kind that the question speaks of."""
    words = set(re.findall(r"\w+", f"{question} {name.hint}".casefold()))

    def merit(title: str) -> tuple[int, bool, bool, float]:
        bare, _, kind = title.partition(" (")
        told = set(re.findall(r"\w+", kind.casefold()))
        hinted = set(name.hint.casefold().split())
        same = fold(bare) == fold(name.text)
        return (
            len(told) if same and told <= (hinted or words) else 0,
            same,
            fold(bare) in fold(question),
            len(set(fold(bare).split()) & set(fold(name.text).split())) / len(bare.split()),
        )

    return max(titles, key=merit)

"""Bridge questions: the second entity is described by the first ("the author of Dead Souls"), and
what is asked stands on the second's page alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_facts import Entity, choose, entities, of_kind, shuffled
from harness_envs.hotpotqa.builtin_pages import written
from harness_envs.hotpotqa.builtin_words import PLURAL, described, in_country, making, the


class Draft(NamedTuple):
    """A question before it has a split; ``facts`` are (title, column) in reading order."""

    text: str
    answer: str
    type: str
    facts: tuple[tuple[str, str], ...]

    @property
    def pair(self) -> tuple[str, ...]:
        return tuple(sorted({title for title, _ in self.facts}))


# Bridges ----------------------------------------------------------------------------------


class Ask(NamedTuple):
    """What is asked of the second entity: ``column`` of its row, in these words."""

    column: str
    templates: tuple[str, ...]
    #: The answer from the cell; "" where nothing is to be asked.
    answer: Callable[[str], str] = str


def _plain(cell: str) -> str:
    """A nationality with a single answer."""
    return "" if "-" in cell else cell


def _prize_year(cell: str) -> str:
    return cell.rpartition(" ")[2]


def _prize_field(cell: str) -> str:
    return "" if cell.startswith("Peace") else cell.rpartition(" ")[0]


def _exact(cell: str) -> str:
    return "" if cell.endswith("*") else cell


_PERSON = (
    Ask(
        "born",
        (
            "In which year was {X} born?",
            "When was {X} born?",
            "What is the year of birth of {X}?",
            "{X} was born in what year?",
        ),
    ),
    Ask(
        "died",
        (
            "In which year did {X} die?",
            "When did {X} die?",
            "What is the year of death of {X}?",
            "{X} died in what year?",
        ),
    ),
    Ask(
        "birthplace",
        (
            "Where was {X} born?",
            "In which place was {X} born?",
            "What is the birthplace of {X}?",
            "{X} was born in which town or city?",
        ),
    ),
    Ask(
        "deathplace",
        (
            "Where did {X} die?",
            "In which place did {X} die?",
            "{X} died in which town or city?",
        ),
    ),
    Ask("country", ("In which country was {X} born?", "{X} was born in which country?")),
    Ask(
        "nationality",
        (
            "What was the nationality of {X}?",
            "What nationality was {X}?",
            "Which nationality did {X} have?",
        ),
        _plain,
    ),
    Ask(
        "prize",
        (
            "For which year did {X} win the Nobel Prize?",
            "The Nobel Prize for which year went to {X}?",
        ),
        _prize_year,
    ),
    Ask(
        "prize",
        (
            "In which field did {X} win the Nobel Prize?",
            "{X} won the Nobel Prize in which field?",
        ),
        _prize_field,
    ),
)
_JOB = Ask(
    "occupation",
    (
        "What was the profession of {X}?",
        "Which profession did {X} have?",
        "What did {X} do for a living?",
    ),
)
_TOWN = (
    Ask(
        "river",
        (
            "Which river flows through {X}?",
            "On which river does {X} lie?",
            "{X} lies on which river?",
        ),
    ),
    Ask(
        "country",
        ("In which country does {X} lie?", "In which country is {X}?", "{X} is in which country?"),
    ),
)
_RIVER = _TOWN[:1]
_LAND = (
    Ask("capital", ("What is the capital of {X}?", "Which city is the capital of {X}?")),
    Ask("currency", ("What is the currency of {X}?", "Which currency is used in {X}?")),
    Ask(
        "language",
        ("What is the main language of {X}?", "Which language do most people speak in {X}?"),
    ),
    Ask("continent", ("On which continent is {X}?", "{X} lies on which continent?")),
)
_HOUSE = (
    Ask("city", ("In which city is {X}?", "{X} is in which city?", "Where is {X}?")),
    Ask("founded", ("When was {X} founded?", "In which year was {X} founded?")),
)
_SOURCE = (
    Ask("creator", ("Who is the author of {X}?", "Who wrote {X}?", "{X} was written by whom?")),
    Ask("language", ("In which language was {X} written?", "What is the language of {X}?")),
    Ask("year", ("In which year did {X} appear?", "When did {X} first appear?"), _exact),
)


class Hop(NamedTuple):
    """How a first page leads to a second: the column that names it, and how that is put."""

    kind: str
    column: str
    phrases: Callable[[Entity], Sequence[str]]
    asks: Sequence[Ask]
    #: Questions about one pair at most.
    most: int = 2


def named(e: Entity) -> str:
    """How a question names an entity: with its kind where the name alone has other bearers."""
    if e.kind == "works":
        plain = "(" not in e.title and choose((True, False), "plain", e.title)
        return e.name if plain else described(e)
    if e.kind == "moons":
        return f"the {e.row['kind']} {e.name}"
    if e.kind == "elements":
        return f"the element {e.name}"
    return the(e)


def _by(e: Entity) -> Sequence[str]:
    """A work's maker."""
    work, verb = named(e), making(e)
    if verb == "painted":
        return (f"the painter of {work}", f"the artist who painted {work}")
    if verb == "made":
        return (f"the artist behind {work}", f"the artist who made {work}")
    if verb == "directed":
        return (f"the director of {work}", f"the person who directed {work}")
    if verb == "composed":
        return (f"the composer of {work}", f"the person who composed {work}")
    return (f"the author of {work}", f"the person who wrote {work}", f"the writer of {work}")


def _premiere(e: Entity) -> Sequence[str]:
    if making(e) not in ("written", "composed"):
        return ()
    be = "were" if e.title in PLURAL else "was"
    return (
        f"the city where {named(e)} {be} first performed",
        f"the city of the first performance of {named(e)}",
    )


def _museum(e: Entity) -> Sequence[str]:
    if making(e) not in ("painted", "made"):
        return ()
    form = e.row["form"]
    return (f"the museum that shows {described(e)}", f"the museum with the {form} {e.name}")


def _source(e: Entity) -> Sequence[str]:
    form = entities()[e.row["based"]].row["form"]
    return (
        f"the {form} on which {described(e)} is based",
        f"the {form} that inspired {described(e)}",
    )


def _finder(e: Entity) -> Sequence[str]:
    if e.row.get("shared"):
        return ()
    return (f"the discoverer of {named(e)}", f"the person who discovered {named(e)}")


def _architect(e: Entity) -> Sequence[str]:
    if entities()[e.row["architect"]].row["occupation"] == "engineer":
        return (f"the builder of {the(e)}", f"the engineer who built {the(e)}")
    return (f"the architect of {the(e)}", f"the person who designed {the(e)}")


def _inventor(e: Entity) -> Sequence[str]:
    return (f"the person who {e.row['verb']} {the(e)}", f"the person behind {the(e)}")


def _lies(e: Entity) -> Sequence[str]:
    return (f"the country in which {named(e)} lies", f"the country of {named(e)}")


HOPS = (
    Hop("works", "creator", _by, _PERSON),
    Hop("elements", "discoverer", _finder, _PERSON),
    Hop("moons", "discoverer", _finder, _PERSON),
    Hop("buildings", "architect", _architect, _PERSON),
    Hop("inventions", "inventor", _inventor, (*_PERSON, _JOB)),
    Hop(
        "battles",
        "victor",
        lambda e: (f"the winner of {the(e)}", f"the person who won {the(e)}"),
        _PERSON,
    ),
    Hop(
        "mountains",
        "climber",
        lambda e: (f"the person who was among the first on the top of {the(e)}",),
        _PERSON,
    ),
    Hop("works", "based", _source, _SOURCE),
    Hop("works", "place", _museum, _HOUSE),
    Hop("works", "place", _premiere, _TOWN, 1),
    Hop(
        "people",
        "birthplace",
        lambda e: (
            f"the birthplace of {e.name}",
            f"the city where {e.name} was born",
            f"the city in which {e.name} was born",
        ),
        _TOWN,
    ),
    Hop(
        "people",
        "deathplace",
        lambda e: (f"the city where {e.name} died", f"the city in which {e.name} died"),
        _TOWN,
        1,
    ),
    Hop(
        "institutions",
        "city",
        lambda e: (f"the city of {the(e)}", f"the city that is the home of {the(e)}"),
        _TOWN,
        1,
    ),
    Hop(
        "buildings",
        "city",
        lambda e: (f"the city of {the(e)}", f"the city where {the(e)} stands"),
        _TOWN,
        1,
    ),
    Hop(
        "countries",
        "capital",
        lambda e: (f"the capital of {in_country(e.title)}",),
        _RIVER,
    ),
    Hop("cities", "country", lambda e: (f"the country in which {e.name} lies",), _LAND, 1),
    Hop("mountains", "country", _lies, _LAND),
    Hop("lakes", "country", _lies, _LAND),
    Hop(
        "islands",
        "country",
        lambda e: (f"the country to which {e.name} belongs", f"the country that owns {e.name}"),
        _LAND,
    ),
    Hop("rivers", "source", lambda e: (f"the country in which {the(e)} rises",), _LAND),
    Hop("battles", "country", lambda e: (f"the country where {the(e)} was fought",), _LAND),
)


def bridges() -> Iterator[Draft]:
    """Every bridge question, pair by pair."""
    for hop in HOPS:
        for first in of_kind(hop.kind):
            second = entities().get(first.row[hop.column])
            if second is None or second.title == first.title:
                continue
            phrases = hop.phrases(first)
            if not phrases or (hop.asks is _HOUSE) != (second.kind == "institutions"):
                continue
            drafts = [_bridge(hop, ask, first, second, phrases) for ask in hop.asks]
            asked = [d for d in drafts if d is not None]
            yield from shuffled(asked, hop.column, first.title)[: hop.most]


def _bridge(
    hop: Hop, ask: Ask, first: Entity, second: Entity, phrases: Sequence[str]
) -> Draft | None:
    """A question, or None where there is no answer or the first page gives it away."""
    pages = written()
    answer = ask.answer(second.row[ask.column])
    if ask in _SOURCE and making(second) != "written" and ask.column != "year":
        return None
    if not answer or ask.column not in pages[second.title].where:
        return None
    assert hop.column in pages[first.title].where, (first.title, hop.column)
    key = (first.title, hop.column, ask.column)
    text = choose(ask.templates, *key).replace("{X}", choose(phrases, *key, "phrase"))
    text = text[0].upper() + text[1:]
    if mentions(pages[first.title].text, answer) or mentions(text, answer):
        return None
    if mentions(text, second.name):
        return None  # "the city of the University of Vienna" needs no first page
    facts = ((first.title, hop.column), (second.title, ask.column))
    return Draft(text, answer, "bridge", facts)


def mentions(text: str, answer: str) -> bool:
    """Whether the words of an answer occur in a text."""
    if answer.casefold() not in text.casefold():  # the usual case, at once
        return False
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None

"""Questions over the built-in facts: two pages each, one right answer each.

A bridge question describes its second entity by the first ("the author of Dead Souls") and asks
about the second, whose page alone tells. A comparison needs one fact of each of two pages.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_facts import (
    Entity,
    choose,
    entities,
    number,
    of_kind,
    shuffled,
    year,
)
from harness_envs.hotpotqa.builtin_pages import (
    PLURAL,
    described,
    in_country,
    making,
    the,
    written,
)


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
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None


# Comparisons ------------------------------------------------------------------------------


class Measure(NamedTuple):
    """A number that two of a kind are compared by. ``{A}``, ``{B}`` names, ``{kind}`` their class.

    The first templates ask for the smaller one, the second ones for the larger. ``alike``: the
    column in which the two must agree; ``margin``: how far apart, as a share of the larger.
    """

    kind: str
    column: str
    smaller: tuple[str, ...]
    larger: tuple[str, ...]
    most: int
    alike: str = ""
    margin: float = 0.0


_MEASURES = (
    Measure(
        "people",
        "born",
        (
            "Who was born first, {A} or {B}?",
            "Who was born earlier, {A} or {B}?",
            "Which {kind} was born first, {A} or {B}?",
            "Of {A} and {B}, who was born first?",
        ),
        ("Who was born later, {A} or {B}?", "Which {kind} was born later, {A} or {B}?"),
        190,
        "occupation",
    ),
    Measure(
        "people",
        "died",
        ("Who died first, {A} or {B}?", "Who died earlier, {A} or {B}?"),
        ("Who died later, {A} or {B}?", "Of {A} and {B}, who died later?"),
        90,
        "occupation",
    ),
    Measure(
        "works",
        "year",
        (
            "Which {kind} is older, {A} or {B}?",
            "Which {kind} appeared first, {A} or {B}?",
            "Which of the two appeared first, {A} or {B}?",
        ),
        ("Which {kind} is more recent, {A} or {B}?", "Which {kind} appeared later, {A} or {B}?"),
        190,
        "form",
    ),
    Measure(
        "mountains",
        "height",
        ("Which mountain is lower, {A} or {B}?",),
        ("Which mountain is higher, {A} or {B}?", "Which is higher, {A} or {B}?"),
        50,
        "",
        0.05,
    ),
    Measure(
        "rivers",
        "length",
        ("Which river is shorter, {A} or {B}?",),
        ("Which river is longer, {A} or {B}?", "Which is longer, {A} or {B}?"),
        50,
        "",
        0.15,
    ),
    Measure(
        "lakes",
        "depth",
        (),
        ("Which lake is deeper, {A} or {B}?", "Which is deeper, {A} or {B}?"),
        14,
        "",
        0.15,
    ),
    Measure(
        "elements",
        "number",
        ("Which element has the lower atomic number, {A} or {B}?",),
        ("Which element has the higher atomic number, {A} or {B}?",),
        60,
    ),
    Measure(
        "institutions",
        "founded",
        (
            "Which is older, {A} or {B}?",
            "Which {kind} was founded first, {A} or {B}?",
            "Which was founded earlier, {A} or {B}?",
        ),
        ("Which {kind} was founded later, {A} or {B}?",),
        70,
        "kind",
    ),
    Measure(
        "inventions",
        "year",
        ("Which dates from an earlier year, {A} or {B}?", "Which came first, {A} or {B}?"),
        ("Which dates from a later year, {A} or {B}?",),
        50,
        "verb",
    ),
    Measure(
        "battles",
        "year",
        ("Which was fought first, {A} or {B}?", "Which battle was earlier, {A} or {B}?"),
        ("Which was fought later, {A} or {B}?",),
        30,
    ),
    Measure(
        "moons",
        "year",
        ("Which was discovered first, the moon {A} or the moon {B}?",),
        ("Which was discovered later, the moon {A} or the moon {B}?",),
        30,
        "kind",
    ),
    Measure(
        "buildings",
        "year",
        ("Which was completed first, {A} or {B}?",),
        ("Which was completed later, {A} or {B}?",),
        24,
    ),
)


class Same(NamedTuple):
    """A yes-or-no question: do two of a kind agree in ``column``? ``{both}`` is their value."""

    kind: str
    column: str
    templates: tuple[str, ...]
    most: int
    alike: str = ""


_SAMES = (
    Same(
        "people",
        "nationality",
        (
            "Did {A} and {B} have the same nationality?",
            "Were {A} and {B} of the same nationality?",
        ),
        60,
        "occupation",
    ),
    Same(
        "people",
        "occupation",
        ("Did {A} and {B} have the same profession?", "Were both {A} and {B} {both}s?"),
        40,
    ),
    Same("people", "birthplace", ("Were {A} and {B} born in the same place?",), 30),
    Same(
        "works",
        "creator",
        ("Are {A} and {B} by the same person?", "Do {A} and {B} come from the same hand?"),
        40,
        "form",
    ),
    Same("works", "form", ("Are both {A} and {B} {both}s?",), 24),
    Same(
        "cities",
        "country",
        ("Are {A} and {B} in the same country?", "Do {A} and {B} lie in the same country?"),
        50,
    ),
    Same("institutions", "city", ("Are {A} and {B} in the same city?",), 24),
    Same("countries", "currency", ("Do {A} and {B} have the same currency?",), 24),
    Same("moons", "parent", ("Do the moons {A} and {B} belong to the same planet?",), 20),
    Same("elements", "group", ("Do {A} and {B} belong to the same group of elements?",), 24),
)
#: Two have this in common: which is it?
_SHARED = (
    Same(
        "people",
        "nationality",
        ("Which nationality did {A} and {B} share?", "What nationality were both {A} and {B}?"),
        50,
        "",
    ),
    Same(
        "people",
        "occupation",
        (
            "Which profession did {A} and {B} have in common?",
            "What profession did {A} and {B} share?",
        ),
        50,
    ),
)


def comparisons() -> Iterator[Draft]:
    """Comparison questions, as many of each sort as its spec says."""
    for measure in _MEASURES:
        yield from _compared(measure)
    for same in _SAMES:
        yield from _sames(same)
    for shared in _SHARED:
        # Not those that are asked whether they have it in common.
        pairs = _pairs(shared.kind, shared.column, shared.column)[60:]
        for one, other in pairs[: shared.most]:
            value = one.row[shared.column]
            if "-" not in value:
                yield _compare(shared.templates, one, other, shared.column, value)


def _pairs(kind: str, column: str, alike: str) -> list[tuple[Entity, Entity]]:
    """Pairs of a kind that know ``column`` and agree in ``alike``, in a fixed mixed order; each
    entity stands in few of the first ones."""
    pages = written()
    groups: defaultdict[str, list[Entity]] = defaultdict(list)
    for entity in of_kind(kind):
        if entity.row[column] and column in pages[entity.title].where:
            groups[entity.row[alike] if alike else ""].append(entity)
    found = []
    for value, members in groups.items():
        mixed = shuffled(members, kind, column, value)
        size = len(mixed)
        for step in range(1, min(size, 6)):
            found += [(step, mixed[i], mixed[(i + step) % size]) for i in range(size)]
    unique: dict[frozenset[str], tuple[int, Entity, Entity]] = {}
    for step, one, other in found:
        unique.setdefault(frozenset((one.title, other.title)), (step, one, other))
    ordered = sorted(
        unique.values(), key=lambda p: (p[0], number(kind, column, p[1].title, p[2].title))
    )
    return [(one, other) for _, one, other in ordered if one.name != other.name]


def _compared(m: Measure) -> Iterator[Draft]:
    made = 0
    for one, other in _pairs(m.kind, m.column, m.alike):
        values = year(one, m.column), year(other, m.column)
        starred = any(e.row[m.column].endswith("*") for e in (one, other))
        apart = abs(values[0] - values[1])
        if apart <= max(m.margin * max(values), 5 if starred else 0):
            continue
        key = (m.kind, m.column, one.title, other.title)
        asks_smaller = m.smaller and (not m.larger or choose((True, True, False), *key, "which"))
        smaller, larger = (one, other) if values[0] < values[1] else (other, one)
        right = smaller if asks_smaller else larger
        templates = m.smaller if asks_smaller else m.larger
        yield _compare(templates, one, other, m.column, right.name)
        made += 1
        if made == m.most:
            return


def _sames(s: Same) -> Iterator[Draft]:
    """Half of them pairs that agree, half pairs that do not."""
    half = s.most // 2
    agreeing = _pairs(s.kind, s.column, s.column)
    mixed = _pairs(s.kind, s.column, s.alike)
    apart = [p for p in mixed if p[0].row[s.column] != p[1].row[s.column]]
    for pairs, answer in ((agreeing, "yes"), (apart, "no")):
        kept = [p for p in pairs if not _doubtful(s, *p)]
        for one, other in kept[:half]:
            yield _compare(s.templates, one, other, s.column, answer)


#: Professions that one person may well have together.
_NEAR = (
    {"physicist", "mathematician", "astronomer", "philosopher", "chemist", "engineer", "inventor"},
    {"novelist", "poet", "playwright", "writer", "philosopher", "explorer", "mountaineer"},
    {"painter", "sculptor", "architect", "poet", "engineer"},
    {"physician", "biologist", "botanist", "naturalist", "geneticist", "chemist", "physicist"},
    {"general", "statesman", "king", "emperor", "admiral", "explorer", "nurse"},
)
#: Classes of works with a simple plural, whose members are of no other class.
_FORMS = frozenset({"novel", "opera", "play", "film", "painting", "poem", "ballet"})


def _doubtful(s: Same, one: Entity, other: Entity) -> bool:
    """Whether there are two ways to see it."""
    values = one.row[s.column], other.row[s.column]
    if s.column == "nationality":
        return any("-" in value for value in values)
    if s.column == "occupation":
        odd = {"businessman", "writer", "film director"} & set(values)
        near = any({*values} <= jobs for jobs in _NEAR)
        return bool(odd) or (values[0] != values[1] and near)
    if s.column == "form":
        return not {*values} <= _FORMS
    if s.column == "country":
        return any(v in ("England", "Scotland", "Northern Ireland", "Wales") for v in values)
    return False


def _compare(
    templates: Sequence[str], one: Entity, other: Entity, column: str, answer: str
) -> Draft:
    key = (one.title, other.title, column)
    if choose((True, False), *key, "order"):
        one, other = other, one
    kind = one.row.get("occupation") or one.row.get("form") or one.row.get("kind") or ""
    text = choose(templates, *key)
    bare = "{kind}" in text or "{both}" in text or "the moon" in text or one.kind == "elements"
    first, second = (_bare(one), _bare(other)) if bare else (_told(one), _told(other))
    text = text.replace("{A}", first).replace("{B}", second)
    text = text.replace("{kind}", kind).replace("{both}", kind)
    facts = ((one.title, column), (other.title, column))
    return Draft(text[0].upper() + text[1:], answer, "comparison", facts)


def _bare(e: Entity) -> str:
    return the(e)


def _told(e: Entity) -> str:
    """With its kind where the name alone has other bearers."""
    return described(e) if e.kind == "works" and "(" in e.title else the(e)


def drafts() -> list[Draft]:
    """Every question once; no two with the same words."""
    unique: dict[str, Draft] = {}
    for draft in (*bridges(), *comparisons()):
        unique.setdefault(draft.text, draft)
    return list(unique.values())

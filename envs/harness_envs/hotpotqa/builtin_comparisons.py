"""Comparison questions: a fact of each of two pages; which is larger, or whether they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_bridges import Draft
from harness_envs.hotpotqa.builtin_facts import Entity, choose, number, of_kind, shuffled, year
from harness_envs.hotpotqa.builtin_pages import written
from harness_envs.hotpotqa.builtin_words import described, the


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

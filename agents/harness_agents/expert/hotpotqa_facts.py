"""What sentences of an encyclopedia tell: from a page's sentences to one fact.

``WANTS`` has, for each thing that can be wanted, the patterns that state it and the words to look
up where it is not among the first sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from harness_agents.expert.hotpotqa_notes import PageNotes


class Want(NamedTuple):
    """Patterns in the order they are tried, and lookup words; both for sentences without stop."""

    patterns: tuple[re.Pattern[str], ...]
    keywords: tuple[str, ...] = ()


class Found(NamedTuple):
    """A fact: its value, the sentence it is from, and what kind of thing the value is."""

    value: str
    sentence: str
    hint: str = ""


def _want(*patterns: str, keywords: tuple[str, ...] = ()) -> Want:
    return Want(tuple(re.compile(p) for p in patterns), keywords)


_UP = "[A-ZÀ-ÖØ-ÞĀČŁŚŠŻŽ]"
_N = rf"((?:the )?{_UP}[^.,;()]*?)"
_PLACE = rf"((?:{_UP}|')[^.;()]*?)"
_YEAR = r"(\d{3,4})"
_MADE = (
    "written|composed|painted|made|directed|designed|built|invented|discovered|founded|formulated|"
    "created|solved|won|developed|produced"
)
MADE = frozenset(_MADE.split("|"))
WANTS = {
    "creator": _want(
        rf"(?:is|are) an? [a-z ]+ by {_N}$",
        rf"(?:{_MADE}) (?:in \d+ )?by {_N}(?: and others)?(?: in \d+)?$",
        rf"^{_N}(?: and others)? discovered it(?: in \d+)?$",
        rf"^The person who \w+ (?:it|them) was {_N}$",
        rf"to reach the top was {_N}$",
    ),
    "born": _want(
        rf"\b[Bb]orn\b[^.]*?\b{_YEAR}\b",
        rf"\({_YEAR}-\d+\)",
        rf"lived from {_YEAR} to",
        rf"\([^()]*?\b{_YEAR}\b[^()]*[–-][^()]*\d{{4}}",
        keywords=("born",),
    ),
    "died": _want(
        rf"\bdied\b[^.]*?\b{_YEAR}\b",
        rf"^In {_YEAR} .*\bdied\b",
        rf"\(\d+-{_YEAR}\)",
        rf"lived from \d+ to {_YEAR}",
        rf"\([^()]*\d{{4}}[^()]*[–-][^()]*?\b{_YEAR}\b",
        keywords=("died",),
    ),
    "birth": _want(
        rf"\b[Bb]orn (?:on [^,]*, )?(?:in \d{{3,4}} )?in {_PLACE}"
        rf"(?: in \d{{3,4}}.*|, [^,]* became .*| and .*)?$",
        keywords=("born",),
    ),
    "deathplace": _want(
        rf"\bdied (?:in \d{{3,4}} )?in {_PLACE}(?: in \d{{3,4}}.*)?$", keywords=("died",)
    ),
    "nationality": _want(
        r"\b(?:was|is) an? ((?:[A-Z][\w-]+)(?: [A-Z][\w-]+)?) [a-z]", keywords=("was a",)
    ),
    "job": _want(
        r"\b(?:was|is) an? (?:[A-Z][\w-]+ )*([a-z][a-z ]*?)(?: who\b.*| and\b.*|,.*)?$",
        keywords=("was a",),
    ),
    "form": _want(
        r"\b(?:is|are)(?: the title of)? an? ([a-z][a-z ]*?)(?: that | by | (?:MADE) |$)".replace(
            "MADE", _MADE
        ),
    ),
    "prize_year": _want(rf"Nobel (?:Peace )?Prize\b.*?\bfor {_YEAR}\b", keywords=("Nobel",)),
    "prize_field": _want(r"Nobel Prize in ([A-Z]\w+(?: or [A-Z]\w+)?) for \d", keywords=("Nobel",)),
    "river": _want(
        rf"\briver is the {_PLACE}$",
        rf"flows through it is the {_PLACE}$",
        rf"\bon the (?:river )?{_PLACE}(?: [Rr]iver)?$",
        keywords=("river",),
    ),
    "country": _want(
        r"\bis an? (?:[a-z]+ )+?in (?:the )?([A-Z][^,]*?)$",
        r"\bis an island that belongs to (?:the )?([A-Z][^,]*?)$",
    ),
    "country:source": _want(r"source (?:is )?in (?:the )?([A-Z].*?)$", keywords=("source",)),
    "country:today": _want(r"place lies in (?:the )?(.*?) today$", keywords=("today",)),
    "city": _want(r"\bis an? (?:[a-z]+ )+?in (?:the )?([A-Z].*?)$", keywords=("city",)),
    "continent": _want(r"\bis a country in ([A-Z].*?)$", keywords=("country in",)),
    "capital": _want(rf"\bcapital(?: of the country)? is {_PLACE}$", keywords=("capital",)),
    "currency": _want(
        r"\bcurrency is the (.+?)$", r"^The (.+?) is its currency$", keywords=("currency",)
    ),
    "language": _want(
        r"\blanguage is ([A-Z].*?)$",
        r"^([A-Z].*?) is the (?:main )?language\b",
        r"^The language of the [a-z ]+ is ([A-Z].*?)$",
        r"\btext is in ([A-Z]\w+)$",
        keywords=("language",),
    ),
    "based": _want(r"\bbased on the ((?:[a-z]+ )+\S.*?)$", keywords=("based",)),
    "museum": _want(
        r"shown in a museum, (?:the )?(.+?)$",
        r"museum that owns it is (?:the )?(.+?)$",
        keywords=("museum",),
    ),
    "premiere": _want(
        rf"first performed in {_PLACE}(?: in \d{{4}})?$",
        rf"first performance took place in {_PLACE} in \d{{4}}$",
        keywords=("first",),
    ),
    "date": _want(
        rf"\bfirst (?:published|performed|shown|appeared|complete|released)\b.*? in {_YEAR}$",
        rf"\bfirst performance took place in .*? in {_YEAR}$",
        rf"^In {_YEAR} .*\b(?:was|were) (?:first performed|discovered)\b",
        rf"\bcompleted (?:it )?in {_YEAR}$",
        rf"\bfounded (?:in|is) {_YEAR}$",
        rf"\bdates? from {_YEAR}$",
        rf"\bfought in {_YEAR}$",
        rf"\bdiscovered (?:it )?in {_YEAR}\b",
        r"\b(?:published|released|opened|established|founded|formed|premiered|built|launched|"
        r"created|began|aired)\b.*?\b(1\d{3}|20\d\d)\b",
    ),
    "height": _want(r"\b([\d,]+) met(?:re|er)s\b", r"\b([\d,]+) m\b", keywords=("metres",)),
    "depth": _want(r"\b([\d,]+) met(?:re|er)s\b", r"\b([\d,]+) m\b", keywords=("metres",)),
    "length": _want(
        r"\b([\d,]+) kilomet(?:re|er)s\b", r"\b([\d,]+) km\b", keywords=("kilometres",)
    ),
    "number": _want(r"\batomic number (?:is )?(\d+)", keywords=("atomic",)),
    "group": _want(r"\bgroup, it is an? (.+?)$", keywords=("group",)),
    "parent": _want(r"\bis a moon of ([A-Z]\w+)", keywords=("moon of",)),
}
#: By what the page is about, the word that a sentence with its year holds.
_DATED = tuple(
    (re.compile(rf"\b(?:{kinds})\b"), word)
    for kinds, word in (
        ("(?:university|opera house|orchestra|learned society|observatory) in", "founded"),
        ("moon|planet|chemical element", "discovered"),
        ("painting|sculpture|engraving|print|church|house|skyscraper|tower|bridge", "completed"),
        ("concert hall|entrance hall|monument|terminal|school|dome", "completed"),
        ("museum in", "founded"),
        ("novel|novella|story|stories|poems?|fairy tale|book|treatise|memoir|handbook", "first"),
        ("play|opera|operetta|ballet|musical|film|symphony|suite|concertos?|oratorio", "first"),
        ("tone poems?|concert piece|orchestral work|choral work|cantata|waltz|sonata", "first"),
    )
)
#: By what the page is about, how its maker made it.
_MADE_BY = tuple(
    (re.compile(rf"\b(?:{kinds})\b"), word)
    for kinds, word in (
        ("film", "directed"),
        ("painting", "painted"),
        ("sculpture|engraving|woodblock print", "made"),
        ("opera|operetta|ballet|symphony|suite|concertos?|oratorio|tone poems?", "composed"),
        ("novel|novella|story|stories|poems?|fairy tale|play", "written"),
    )
)
#: Sentences about something else than the page.
_ASIDE = re.compile(
    r"^(?:Another|Other|See also)\b"
    r"|\bsame (?:year|city|country|sea|river|century|discoverer|time)\b"
    r"|\bis another\b|\balso (?:found|remembered)\b"
)


def keywords(want: str, page: PageNotes) -> tuple[str, ...]:
    """Words to look up for a want, the likeliest first."""
    kind, _, detail = want.partition(":")
    lead = page.opening[0] if page.opening else ""
    if kind == "creator":
        if detail == "by":
            usual = [word for pattern, word in _MADE_BY if pattern.search(lead)]
            return (*usual[:1], detail)
        return (detail,)
    if kind in ("birthplace", "birth_country"):
        return ("born",)
    if kind == "date":
        usual = [word for pattern, word in _DATED if pattern.search(lead)]
        return tuple(dict.fromkeys([*usual, "date", "first", "completed", "founded"]))
    return _of(want).keywords


def learn(want: str, page: PageNotes) -> Found | None:
    """The fact, if what is known of the page tells it."""
    kind, _, detail = want.partition(":")
    if kind in ("birthplace", "birth_country"):
        return _birth(kind, page.known)
    # What a thing is stands in the first sentence of its page.
    known = page.opening[:1] if kind == "form" else page.known
    for pattern in _of(want).patterns:
        for sentence in known:
            if _ASIDE.search(sentence):
                continue
            if found := pattern.search(sentence):
                # "a bet made by Phileas Fogg" tells nothing of the novel's author.
                by = re.search(rf"\b({_MADE}) (?:in \d+ )?by\b", found[0])
                if kind == "creator" and detail in MADE and by and by[1] != detail:
                    continue
                value = next(group for group in found.groups() if group)
                return _tidy(kind, value, sentence)
    return None


def _of(want: str) -> Want:
    return WANTS[want] if want in WANTS else WANTS[want.partition(":")[0]]


def _birth(kind: str, known: Iterable[str]) -> Found | None:
    """Town and country are told in one: "in Hirzel, Switzerland"."""
    for sentence in known:
        found = None if _ASIDE.search(sentence) else WANTS["birth"].patterns[0].search(sentence)
        if found:
            parts = found[1].split(", ")
            value = parts[-1] if kind == "birth_country" else ", ".join(parts[:-1]) or parts[0]
            return Found(value.removeprefix("the "), sentence)
    return None


def _tidy(kind: str, value: str, sentence: str) -> Found:
    if kind == "based":
        form = re.match(r"(?:[a-z]+ )+", value)
        hint = form[0].strip() if form else ""
        return Found(value[len(form[0]) if form else 0 :], sentence, hint)
    if kind in ("height", "length", "depth"):
        return Found(value.replace(",", ""), sentence)
    return Found(value.removeprefix("the ").strip(), sentence)

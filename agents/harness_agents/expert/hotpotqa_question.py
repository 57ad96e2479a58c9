"""What a question asks: which pages to begin with, and what to learn from each.

    >>> read_question("Where was the author of the novel Dead Souls born?")
    Quest(kind='bridge', names=(Name(text='Dead Souls', hint='novel'),), wants=('creator:written', \
'birthplace'), choice='')

A want is a name of ``hotpotqa_facts.WANTS``, for some with a detail after a colon.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple


class Name(NamedTuple):
    """A title in a question, and the words that say what it is: ("Carmen", "opera")."""

    text: str
    hint: str = ""


class Quest(NamedTuple):
    """``kind``: bridge (``wants`` are followed from ``names[0]``, the last is the answer), compare
    (``wants[0]`` of both names, then ``choice``), or open (no rule knows it).

    ``choice``: smaller | larger (answer: a name), same (yes or no), is:<word> (yes if both have
    it), shared (what both have).
    """

    kind: str
    names: tuple[Name, ...]
    wants: tuple[str, ...] = ()
    choice: str = ""


def _rules(*pairs: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), want) for pattern, want in pairs]


_WHICH = "(?:which|what)"
_ASKS = _rules(
    (r"In (?:which|what) year was (.+) born", "born"),
    (r"When was (.+) born", "born"),
    (r"What is the year of birth of (.+)", "born"),
    (rf"(.+) was born in {_WHICH} year", "born"),
    (r"In (?:which|what) year did (.+) die", "died"),
    (r"When did (.+) die", "died"),
    (r"What is the year of death of (.+)", "died"),
    (rf"(.+) died in {_WHICH} year", "died"),
    (r"In (?:which|what) country was (.+) born", "birth_country"),
    (rf"(.+) was born in {_WHICH} country", "birth_country"),
    (r"Where was (.+) born", "birthplace"),
    (r"In (?:which|what) (?:place|town|city) was (.+) born", "birthplace"),
    (r"What is the (?:birthplace|place of birth) of (.+)", "birthplace"),
    (rf"(.+) was born in {_WHICH} (?:town or city|place|town|city)", "birthplace"),
    (r"Where did (.+) die", "deathplace"),
    (r"In (?:which|what) (?:place|town|city) did (.+) die", "deathplace"),
    (rf"(.+) died in {_WHICH} (?:town or city|place|town|city)", "deathplace"),
    (r"What (?:is|was) the nationality of (.+)", "nationality"),
    (r"What nationality (?:is|was) (.+)", "nationality"),
    (r"Which nationality did (.+) have", "nationality"),
    (r"For which year did (.+) win the Nobel Prize", "prize_year"),
    (r"The Nobel Prize for which year went to (.+)", "prize_year"),
    (r"In which field did (.+) win the Nobel Prize", "prize_field"),
    (r"(.+) won the Nobel Prize in which field", "prize_field"),
    (r"What (?:is|was) the (?:profession|occupation) of (.+)", "job"),
    (r"Which profession did (.+) have", "job"),
    (r"What did (.+) do for a living", "job"),
    (r"Which river flows through (.+)", "river"),
    (r"On which river does (.+) lie", "river"),
    (r"(.+) lies on which river", "river"),
    (r"In which country does (.+) lie", "country"),
    (r"In which country is (.+)", "country"),
    (rf"(.+) is in {_WHICH} country", "country"),
    (r"What is the capital of (.+)", "capital"),
    (r"Which city is the capital of (.+)", "capital"),
    (r"What is the currency of (.+)", "currency"),
    (r"Which currency is used in (.+)", "currency"),
    (r"What is the main language of (.+)", "language"),
    (r"Which language do most people speak in (.+)", "language"),
    (r"In which language was (.+) written", "language"),
    (r"What is the language of (.+)", "language"),
    (r"On which continent is (.+)", "continent"),
    (r"(.+) lies on which continent", "continent"),
    (r"In which city is (.+)", "city"),
    (rf"(.+) is in {_WHICH} city", "city"),
    (r"Where is (.+)", "city"),
    (r"When was (.+) founded", "date"),
    (r"In which year was (.+) founded", "date"),
    (r"In which year did (.+) appear", "date"),
    (r"When did (.+) first appear", "date"),
    (r"Who (?:is the author of|wrote) (.+)", "creator:written"),
    (r"(.+) was written by whom", "creator:written"),
)
_MAKERS = {
    "author": "written",
    "writer": "written",
    "composer": "composed",
    "painter": "painted",
    "director": "directed",
    "architect": "designed",
    "builder": "built",
    "discoverer": "discovered",
    "inventor": "invented",
    "founder": "founded",
    "winner": "won",
}
_PARTICIPLES = {"wrote": "written", "made": "made", "built": "built", "won": "won"}
_BRIDGES = _rules(
    (rf"the (?P<maker>{'|'.join(_MAKERS)}) of (?P<x>.+)", "creator"),
    (r"the artist behind (?P<x>.+)", "creator:made"),
    (r"the person behind (?P<x>.+)", "creator:by"),
    (r"the person who was among the first on the top of (?P<x>.+)", "creator:first"),
    (r"the (?:person|artist|engineer) who (?P<verb>[a-z]+) (?P<x>.+)", "creator"),
    (r"the (?P<form>[a-z ]+) on which (?P<x>.+) is based", "based"),
    (r"the (?P<form>[a-z ]+) that inspired (?P<x>.+)", "based"),
    (r"the museum (?:that shows|with) (?P<x>.+)", "museum"),
    (r"the city where (?P<x>.+) (?:was|were) first performed", "premiere"),
    (r"the city of the first performance of (?P<x>.+)", "premiere"),
    (r"the birthplace of (?P<x>.+)", "birthplace"),
    (r"the city (?:where|in which) (?P<x>.+) was born", "birthplace"),
    (r"the city (?:where|in which) (?P<x>.+) died", "deathplace"),
    (r"the city (?:of|that is the home of) (?P<x>.+)", "city"),
    (r"the city where (?P<x>.+) stands", "city"),
    (r"the capital of (?P<x>.+)", "capital"),
    (r"the country in which (?P<x>.+) rises", "country:source"),
    (r"the country where (?P<x>.+) was fought", "country:today"),
    (r"the country in which (?P<x>.+) lies", "country"),
    (r"the country (?:of|to which) (?P<x>.+?)(?: belongs)?", "country"),
    (r"the country that owns (?P<x>.+)", "country"),
)
_NAME = re.compile(r"(?:the )?(?P<hint>(?:[a-z]+ )*)(?P<name>\S.*)")
_OR = re.compile(r"(?P<ask>.+?), (?P<two>.+? or .+)")
_OF = re.compile(r"Of (?P<two>.+ and .+), (?P<ask>who .+)")
_LESS = re.compile(r"\b(?:first|earlier|older|shorter|lower|smaller|oldest)\b")
_MEASURES = (
    (re.compile(r"\b(?:born|older person|younger)\b"), "born"),
    (re.compile(r"\bdied\b"), "died"),
    (re.compile(r"\b(?:higher|lower|taller) atomic|atomic number"), "number"),
    (re.compile(r"\b(?:higher|lower|taller)\b"), "height"),
    (re.compile(r"\b(?:longer|shorter)\b"), "length"),
    (re.compile(r"\bdeeper\b"), "depth"),
    (re.compile(r"\bWho\b.*\b(?:older)\b"), "born"),
    (re.compile(r"\b(?:older|first|earlier|later|more recent|recently)\b"), "date"),
)
_BOTH = (
    (r"Did (?P<two>.+) have the same (?P<what>nationality|profession)", "same"),
    (r"(?:Were|Are) (?P<two>.+) of the same (?P<what>nationality)", "same"),
    (r"Were (?P<two>.+) born in the same (?P<what>place|city)", "same"),
    (r"Are (?P<two>.+) by the same (?P<what>person)", "same"),
    (r"Do (?P<two>.+) come from the same (?P<what>hand)", "same"),
    (r"(?:Are|Do) (?P<two>.+?)(?: lie)? in the same (?P<what>country|city)", "same"),
    (r"Do (?P<two>.+) have the same (?P<what>currency)", "same"),
    (r"Do the moons (?P<two>.+) belong to the same (?P<what>planet)", "same"),
    (r"Do (?P<two>.+) belong to the same (?P<what>group) of elements", "same"),
    (r"(?:Were|Are) both (?P<two>.+) (?P<what>[a-z]+ ?[a-z]*?)s", "is"),
    (r"Which (?P<what>nationality|profession) did (?P<two>.+) (?:share|have in common)", "shared"),
    (r"What (?P<what>nationality) were both (?P<two>.+)", "shared"),
    (r"What (?P<what>profession) did (?P<two>.+) share", "shared"),
)
_BOTH_RULES = [(re.compile(pattern), choice) for pattern, choice in _BOTH]
_WHATS = {
    "profession": "job",
    "place": "birthplace",
    "person": "creator:by",
    "hand": "creator:by",
    "planet": "parent",
}


@lru_cache(maxsize=8192)
def read_question(question: str) -> Quest:
    """Read a question; one that no rule fits is "open", with the names found in it."""
    text = " ".join(question.split()).removesuffix("?").strip()
    return _compare(text) or _bridge(text) or Quest("open", ())


def read_name(text: str) -> Name:
    """``"the opera Carmen"`` -> ``Name("Carmen", "opera")``."""
    found = _NAME.fullmatch(text.strip().strip('"'))
    if found is None:
        return Name(text.strip())
    return Name(found["name"], found["hint"].strip())


def _proper(name: Name) -> bool:
    return name.text[:1].isupper() or not name.text[:1].isalpha()


def _bridge(text: str) -> Quest | None:
    for pattern, want in _ASKS:
        if asked := pattern.fullmatch(text):
            about = asked[1][0].lower() + asked[1][1:] if asked[1].startswith("The ") else asked[1]
            for bridge, hop in _BRIDGES:
                if found := bridge.fullmatch(about):
                    name = read_name(found["x"])
                    if _proper(name):
                        return Quest("bridge", (name,), (_hop(hop, found), want))
            name = read_name(about)
            if _proper(name) and not re.search(r" (?:that|who|which|whose) ", name.text):
                return Quest("bridge", (name,), (want,))
    return None


def _hop(hop: str, found: re.Match[str]) -> str:
    groups = found.groupdict()
    if groups.get("maker"):
        return f"{hop}:{_MAKERS[groups['maker']]}"
    if groups.get("verb"):
        return f"{hop}:{_PARTICIPLES.get(groups['verb'], groups['verb'])}"
    if groups.get("form"):
        return f"{hop}:{groups['form']}"
    return hop


def _compare(text: str) -> Quest | None:
    for pattern, choice in _BOTH_RULES:
        if found := pattern.fullmatch(text):
            names = _two(found["two"], "and")
            if names is None:
                continue
            what = found["what"]
            if choice == "is":
                return Quest("compare", names, ("job" if text[0] == "W" else "form",), f"is:{what}")
            if text.startswith("Do the moons"):
                names = tuple(Name(name.text, "moon") for name in names)
            if "elements" in text:
                names = tuple(Name(name.text, "element") for name in names)
            return Quest("compare", names, (_WHATS.get(what, what),), choice)
    found = _OR.fullmatch(text) or _OF.fullmatch(text)
    if found is None:
        return None
    ask = found["ask"]
    names = _two(found["two"], "or" if found.re is _OR else "and")
    want = next((want for pattern, want in _MEASURES if pattern.search(ask)), None)
    if names is None or want is None:
        return None
    kind = re.fullmatch(r"Which (?P<kind>[a-z ]+?) (?:was|is|has|appeared|came) .+", ask)
    if kind and kind["kind"] not in ("of the two",):
        names = tuple(Name(n.text, n.hint or kind["kind"]) for n in names)
    return Quest("compare", names, (want,), "smaller" if _LESS.search(ask) else "larger")


def _two(text: str, word: str) -> tuple[Name, ...] | None:
    """Two names with ``word`` between; where it occurs more often, the middle one that fits."""
    parts = text.split(f" {word} ")
    middle = len(parts) / 2
    for cut in sorted(range(1, len(parts)), key=lambda i: (abs(i - middle), i)):
        names = read_name(f" {word} ".join(parts[:cut])), read_name(f" {word} ".join(parts[cut:]))
        if all(map(_proper, names)):
            return names
    return None

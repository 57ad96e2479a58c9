"""Questions that no rule reads: names from the question are searched, then the text that shares
most words with the question and is of the kind asked for is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from harness_agents.expert.hotpotqa_notes import Act, Notes, PageNotes, fold
from harness_agents.expert.hotpotqa_question import Quest

#: Searches before an answer is given.
SEARCHES = 5
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for by with from and or is are was were be been has have "
        "had do does did who whom whose which what when where why how that this these "
        "those it its he she his her they their as also than both same one two name many "
        "much into after before during about not there other more most between ",
    )
)
_LINKS = "of|the|and|de|von|van|in|on|for|du|la|le|&|at|to|del|di"
_SPAN = re.compile(rf"[A-Z0-9][\w'’.&/-]*(?:(?: (?:{_LINKS})){{0,2}} [A-Z0-9][\w'’.&/-]*)*")
_QUOTED = re.compile(r'"([^"]{2,})"')
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(rf"\b(?:(?:{_MONTHS}) \d{{1,2}}, \d{{4}}|\d{{1,2}} (?:{_MONTHS}) \d{{4}})\b")
_YEAR = re.compile(r"\b(?:1\d{3}|20\d\d)\b")
_NUMBER = re.compile(r"\b\d[\d,.]*\b(?: (?:million|billion|thousand))?")
_FIRST = (
    "The|In|On|At|Of|Which|What|Who|Whose|When|Where|Are|Is|Was|Were|Did|Do|Does|How|Between|Both|"
    "Has|Have|This|That|For|From|By|A|An|As|During|After|Before|He|She|It|His|Her|They|Its"
)
_LEADING = re.compile(rf"^(?:{_FIRST}) ")
#: Single words that say where something is from and are no titles.
_ADJECTIVE = re.compile(
    r"[A-Z][a-z]+(?:ican|ian|lian|ese|ish|ench|rman|alian|orean|exican)$|Dutch$"
)
_DATED = re.compile(rf"\b(?:{_MONTHS})\b|^\d")
_PERSON = re.compile(
    r"\b(?:who|whom|actor|actress|director|singer|author|writer|player|politician|musician|artist|"
    r"composer|president|man|woman|person|brother|sister|wife|husband|father|mother|son|daughter|"
    r"king|queen|poet|novelist|footballer|rapper|coach|founder|producer|comedian|songwriter|"
    r"guitarist|drummer|architect|scientist|model|star|character)\b"
)
_PLACE = re.compile(
    r"\b(?:where|city|country|state|county|town|location|place|island|continent|region|province|"
    r"neighborhood|borough|district|village|located|headquartered|based)\b"
)
_THING = re.compile(
    r"\b(?:University|College|School|League|Album|County|Band|City|Award|Awards|Company|Party|"
    r"Church|Street|Avenue|River|Island|Museum|Records|Championship|Cup|Series|Festival|War|"
    r"Battle|Association|Department|Institute|Club|Station|Airport|Park|House|United|National|"
    r"January|February|March|April|May|June|July|August|September|October|November|December)\b"
)


def words_of(text: str) -> set[str]:
    """Content words, by their first six letters: "composed" and "composer" are alike."""
    found = re.findall(r"[^\W_]+", text.casefold())
    return {word[:6] for word in found if word not in _STOP}


def _weight(words: set[str]) -> float:
    """What shared words count for: long ones and numbers are rarer."""
    return sum(1.5 if word.isdigit() else min(len(word), 6) / 6 for word in words)


def names_in(question: str) -> list[str]:
    """Titles that a question may speak of, the likeliest first: quoted ones, then long ones."""
    quoted = [q.strip(" ,.") for q in _QUOTED.findall(question)]
    rest = _QUOTED.sub(" , ", question)
    spans = []
    for part in re.split(r"[,?;:()]| and | or ", rest):
        for span in _SPAN.findall(part):
            bare = re.sub(r"['’]s?$", "", _LEADING.sub("", span).strip(" .-'"))
            if bare and _title_like(bare):
                spans.append(bare)
    spans.sort(key=lambda s: (-min(3, len(s.split())), question.find(s)))
    return list(dict.fromkeys([*quoted, *spans]))


def _title_like(text: str) -> bool:
    single = " " not in text
    return not (
        text in _FIRST.split("|")
        or re.fullmatch(r"[\d.,–-]+", text)
        or len(text) < 3
        or (single and _ADJECTIVE.match(text))
    )


class Scored(NamedTuple):
    score: float
    text: str


def answer_open(quest: Quest, notes: Notes) -> Act:
    """The next search, or the answer."""
    names = [n.text for n in quest.names] or names_in(notes.question)
    searched = len(notes.pages) + len(notes.misses)
    if searched < SEARCHES:
        for name in names[:3]:
            if title := _next_title(name, notes):
                return Act("search", title)
        for title in _leads(notes, names)[:1]:
            return Act("search", title)
    return Act("finish", guess(notes, names))


def _next_title(name: str, notes: Notes) -> str | None:
    if notes.page(name) is not None:
        return None
    similar = notes.misses.get(fold(name))
    if similar is None:
        return name
    # A title that holds the name, or is held by the question.
    asked = fold(notes.question)
    wanted = words_of(notes.question)
    fitting = [
        t for t in similar if fold(name) in fold(t) or _bare(t) in asked or words_of(t) <= wanted
    ]
    if any(notes.page(t) is not None for t in fitting):
        return None
    left = [t for t in fitting if fold(t) not in notes.misses]
    if not left:
        return None

    def merit(title: str) -> tuple[bool, float]:
        told = words_of(title)
        return _bare(title) in asked, _weight(told & wanted) - 0.5 * _weight(told - wanted)

    return max(left, key=merit)


def _bare(title: str) -> str:
    return fold(title.partition(" (")[0])


def _leads(notes: Notes, names: list[str]) -> list[str]:
    """Names on the pages read whose sentences speak of what is asked: what to read next."""
    wanted = words_of(notes.question)
    asked = fold(notes.question)
    scores: dict[str, float] = {}
    for page in notes.pages.values():
        about = words_of(page.title)
        for index, sentence in enumerate(page.known):
            shared = _weight((words_of(sentence) - about) & wanted)
            for span in (part for s in _SPAN.findall(sentence) for part in _parts(s)):
                name = _LEADING.sub("", span).strip(" .-'")
                known = notes.page(name) or fold(name) in notes.misses
                if known or not _title_like(name) or fold(name) in asked:
                    continue
                if fold(name) in fold(page.title) or fold(page.title) in fold(name):
                    continue
                many = 0.8 * (len(name.split()) > 1) - 0.4 * (len(name.split()) > 4)
                score = shared + many - 0.1 * index
                scores[name] = max(scores.get(name, -1.0), score)
    return sorted(scores, key=lambda n: (-scores[n], n))


def guess(notes: Notes, names: list[str]) -> str:
    """The likeliest answer in what was read."""
    question = notes.question
    lower = question.casefold()
    if re.match(r"(?:are|is|was|were|do|does|did|have|has|can)\b", lower) and " or " not in lower:
        return _yes_or_no(notes, names)
    if choice := _either(question, names):
        return _choose(choice, notes)
    if len(names) > 1 and _COMMON.search(lower) and (shared := _shared(notes, names)):
        return shared
    scored = sorted(_candidates(notes), key=lambda c: (-c.score, c.text))
    return scored[0].text if scored else (names[0] if names else "unknown")


def _either(question: str, names: list[str]) -> tuple[str, str] | None:
    """Two names that the question offers as answers."""
    for name in names:
        found = re.search(rf"{re.escape(name)}[\"']?,? or (?:the |The )?[\"']?(.+)", question)
        other = found and next((n for n in names if found[1].startswith(n)), None)
        if other:
            return name, other
    found = re.search(r"[,:] (?:the )?([^,]+?),? or (?:the )?([^,?]+)\??$", question)
    return (found[1].strip(' "'), found[2].strip(' "')) if found else None


_COMMON = re.compile(
    r"\bin common\b|\bshared?\b|\bmutual\b|\bboth\b|\bare (?:what|which)\b|\b(?:of )?which genre\b"
    r"|, are located in\b|\bconnect|\bhave the same\b"
)
_IS_A = re.compile(r"\b(?:is|was|are|were) (?:an?|the|one of the)\b(.*)")


def _shared(notes: Notes, names: list[str]) -> str | None:
    """The longest run of words that says of both what they are."""
    pages = [p for n in names if (p := notes.page(n) or _page_like(n, notes)) is not None]
    pages = list({id(p): p for p in pages}.values())[:2]
    told = [_IS_A.search(". ".join(p.known[:2])) for p in pages]
    if len(told) < 2 or not all(told):
        return None
    one, other = (re.findall(r"[\w'-]+", found[1]) for found in told if found)
    asked = words_of(notes.question)
    best: list[str] = []
    for start in range(len(one)):
        for size in range(min(3, len(one) - start), 0, -1):
            run = one[start : start + size]
            plain = [w for w in (run[0], run[-1]) if w.casefold() in _STOP or words_of(w) <= asked]
            if plain or any(_ADJECTIVE.match(w) for w in run) or len(run) <= len(best):
                continue
            if any(other[i : i + size] == run for i in range(len(other))):
                best = run
    return " ".join(best) or None


_EARLY = re.compile(r"\b(?:first|earlier|older|oldest|earliest|longest ago)\b")
_LATE = re.compile(r"\b(?:later|younger|youngest|recent|recently|latest|newer|last)\b")


def _choose(choice: tuple[str, str], notes: Notes) -> str:
    """Between two names: by years where the question compares them, else by shared words."""
    lower = notes.question.casefold()
    pages = [notes.page(c) or _page_like(c, notes) for c in choice]
    if _EARLY.search(lower) or _LATE.search(lower):
        years = [_first_year(p, born="born" in lower or "older" in lower) for p in pages]
        if all(years):
            pick = max if _LATE.search(lower) else min
            return choice[years.index(pick(years))]
    wanted = words_of(lower) - words_of(" ".join(choice))
    shares = [_weight(wanted & words_of(" ".join(p.known))) if p else 0 for p in pages]
    return choice[0] if shares[0] >= shares[1] else choice[1]


def _page_like(name: str, notes: Notes) -> PageNotes | None:
    near = [p for p in notes.pages.values() if fold(name) in fold(p.title)]
    return near[0] if near else None


def _first_year(page: PageNotes | None, born: bool) -> int:
    text = " ".join(page.known) if page else ""
    found = re.search(r"\bborn\b[^.]*?\b(\d{4})\b", text) if born else None
    found = found or _YEAR.search(text)
    return int(found[found.lastindex or 0]) if found else 0


def _yes_or_no(notes: Notes, names: list[str]) -> str:
    """Yes if what is asked of both is on both pages."""
    wanted = words_of(notes.question)
    for name in names:
        wanted -= words_of(name)
    pages = [p for n in names if (p := notes.page(n) or _page_like(n, notes)) is not None]
    pages = list({id(p): p for p in (pages or notes.pages.values())}.values())[:2]
    if re.search(r"\bsame (?:nationality|country)\b|\bfrom the same\b", notes.question):
        found = [re.search(r"\b(?:is|was) an? ([A-Z]\w+)", " ".join(p.known)) for p in pages]
        told = [f[1] for f in found if f]
        return "yes" if len(told) == 2 and told[0] == told[1] else "no"
    if not wanted or len(pages) < 2:
        return "yes"
    shares = [_weight(wanted & words_of(" ".join(p.known))) / _weight(wanted) for p in pages]
    return "yes" if min(shares) >= (0.9 if "same" in notes.question else 0.34) else "no"


def _candidates(notes: Notes) -> Iterator[Scored]:
    question = notes.question
    wanted = words_of(question)
    kind = _kind(question)
    asked = fold(question)
    pages = list(notes.pages.values())
    for place, page in enumerate(pages):
        about = words_of(page.title)
        title = page.title.partition(" (")[0]
        if kind in ("name", "person") and fold(title) not in asked:
            fits = kind == "name" or _is_person(title)
            told = words_of(" ".join(page.known)) & wanted
            yield Scored(0.75 * _weight(told) + 0.5 * fits - 0.5 * (not fits), title)
        for index, sentence in enumerate(page.known):
            base = _weight((words_of(sentence) | about) & wanted) - 0.08 * index + 0.25 * place
            for found, start in _of_kind(kind, sentence):
                text = _without(found, asked) if kind in ("name", "person", "place") else found
                if fold(text) in asked or _variant(text, page.title, wanted):
                    continue
                near = words_of(sentence[max(0, start - 45) : start + len(text) + 30])
                yield Scored(base + 0.5 * _weight(near & wanted) + _fit(kind, text), text)


def _without(text: str, asked: str) -> str:
    """``"Senator Barnaby Joyce"``, where a senator was asked for, is ``"Barnaby Joyce"``."""
    words = text.split()
    while len(words) > 2 and re.search(rf"\b{re.escape(fold(words[0]))}\b", asked):
        words = words[1:]
    return " ".join(words)


def _variant(text: str, title: str, wanted: set[str]) -> bool:
    """Whether a text is another form of a name that is known already."""
    words = words_of(text)
    if not words or words <= wanted:
        return True
    return 2 * len(words & words_of(title)) >= len(words) or (
        len(words) > 1 and len(words & wanted) > 1 and 2 * len(words & wanted) > len(words)
    )


def _is_person(text: str) -> bool:
    words = text.split()
    plain = all(w[:1].isupper() for w in words if w not in ("de", "von", "van", "la", "di"))
    return 2 <= len(words) <= 4 and plain and not _THING.search(text) and not re.search(r"\d", text)


def _fit(kind: str, text: str) -> float:
    if kind == "person":
        return 1.2 if _is_person(text) else -0.8
    if kind == "place":
        return -0.8 if re.search(r"\d", text) else 0.2
    if kind == "name":
        return 0.3 if " " in text else -0.1
    return 0.0


def _kind(question: str) -> str:
    lower = question.casefold()
    if re.search(r"\b(?:what|which) year\b|\bwhat (?:was|is) the year\b", lower):
        return "year"
    if re.search(r"\bwhen\b|\b(?:what|which) date\b|\bdate of birth\b|\bbirth ?date\b", lower):
        return "date"
    if re.search(r"\bhow (?:many|much|old|long|tall|high|far)\b|\bpopulation\b", lower):
        return "number"
    if re.search(r"\b(?:what|which) nationality\b|\bnationality of\b", lower):
        return "nationality"
    asks = re.findall(r"\b(?:what|which)((?: [a-z'-]+){1,4})", lower)
    first = re.match(r"(?:[a-z]+ )?(?:what|which)\b", lower)
    noun = asks[0 if first else -1] if asks else ""
    if re.search(r"\bwho(?:m|se)?\b", lower[:4]) or _PERSON.search(noun):
        return "person"
    if re.search(r"\bwhere\b", lower) or _PLACE.search(noun):
        return "place"
    if re.search(r"\bwho\b", lower) and not noun:
        return "person"
    return "name"


def _parts(span: str) -> Iterator[str]:
    """A run of capitalised words, and what its small words part."""
    if " and " not in span:
        yield span
    pieces = re.split(r" (?:of|and|in|for|on|at|to) (?:the )?", span)
    if len(pieces) > 1:
        yield from pieces


def _of_kind(kind: str, sentence: str) -> Iterator[tuple[str, int]]:
    """Texts of a kind, and where they start."""
    if kind == "year":
        patterns = [_YEAR]
    elif kind == "date":
        patterns = [_DATE] if _DATE.search(sentence) else [_YEAR]
    elif kind == "number":
        patterns = [_NUMBER]
    elif kind == "nationality":
        patterns = [re.compile(r"(?<=is an )[A-Z]\w+|(?<=s a )[A-Z]\w+|(?<=was an )[A-Z]\w+")]
    else:
        for found in _SPAN.finditer(sentence):
            for part in _parts(found[0]):
                text = _LEADING.sub("", part).strip(" .-'")
                if _title_like(text) and not _DATED.search(text):
                    yield text, found.start() + found[0].find(part)
        return
    for pattern in patterns:
        for found in pattern.finditer(sentence):
            yield found[0], found.start()

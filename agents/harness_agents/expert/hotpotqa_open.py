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


def words_of(text: str) -> set[str]:
    """Content words, by their first six letters: "composed" and "composer" are alike."""
    found = re.findall(r"[^\W_]+", text.casefold())
    return {word[:6] for word in found if word not in _STOP}


def names_in(question: str) -> list[str]:
    """Titles that a question may speak of, the likeliest first: quoted ones, then long ones."""
    quoted = [q.strip(" ,.") for q in _QUOTED.findall(question)]
    rest = _QUOTED.sub(" , ", question)
    spans = []
    for part in re.split(r"[,?;:()]", rest):
        for span in _SPAN.findall(part):
            bare = _LEADING.sub("", span).removesuffix("'s").removesuffix("’s").strip(" .")
            if bare and bare not in _FIRST.split("|") and not bare.isdigit():
                spans.append(bare)
    spans.sort(key=lambda s: (-len(s.split()), question.find(s)))
    return list(dict.fromkeys([*quoted, *spans]))


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
    fitting = [t for t in similar if fold(name) in fold(t) or fold(t) in fold(notes.question)]
    if any(notes.page(t) is not None for t in fitting):
        return None
    left = [t for t in fitting if fold(t) not in notes.misses]
    wanted = words_of(notes.question)
    return max(left, key=lambda t: len(words_of(t) & wanted)) if left else None


def _leads(notes: Notes, names: list[str]) -> list[str]:
    """Names on the pages read whose sentences speak of what is asked: what to read next."""
    wanted = words_of(notes.question)
    asked = {fold(name) for name in names}
    scores: dict[str, float] = {}
    for page in notes.pages.values():
        for sentence in page.known:
            shared = len(words_of(sentence) & wanted)
            for span in _SPAN.findall(sentence):
                name = _LEADING.sub("", span).strip(" .")
                known = fold(name) in asked or notes.page(name) or fold(name) in notes.misses
                if known or len(name) < 4 or name.isdigit() or fold(name) in fold(notes.question):
                    continue
                many = 0.5 * (len(name.split()) > 1)
                scores[name] = max(scores.get(name, 0.0), shared + many)
    return sorted(scores, key=lambda n: (-scores[n], n))


def guess(notes: Notes, names: list[str]) -> str:
    """The likeliest answer in what was read."""
    question = notes.question
    lower = question.casefold()
    if choice := _either(question):
        return _choose(choice, notes)
    if re.match(r"(?:are|is|was|were|do|does|did|have|has|can)\b", lower):
        return _yes_or_no(notes, names)
    scored = sorted(_candidates(notes), key=lambda c: (-c.score, c.text))
    return scored[0].text if scored else (names[0] if names else "unknown")


def _either(question: str) -> tuple[str, str] | None:
    found = re.search(r"[,:] (?:the )?([^,]+?),? or (?:the )?([^,?]+)\??$", question)
    found = found or re.search(r"\b([A-Z][^,]*?) or ([A-Z][^,?]*)\??$", question)
    if found is None:
        return None
    return found[1].strip(' "'), found[2].strip(' "')


def _choose(choice: tuple[str, str], notes: Notes) -> str:
    """Between two names: by years where the question compares them, else by shared words."""
    lower = notes.question.casefold()
    pages = [notes.page(c) or _page_like(c, notes) for c in choice]
    if re.search(r"\b(?:first|earlier|older|oldest|later|younger|recent|recently|latest)\b", lower):
        years = [_first_year(p, born="born" in lower or "older" in lower) for p in pages]
        if all(years):
            late = re.search(r"\b(?:later|younger|recent|recently|latest)\b", lower)
            pick = max if late else min
            return choice[years.index(pick(years))]
    wanted = words_of(lower) - words_of(" ".join(choice))
    shares = [len(wanted & words_of(" ".join(p.known))) if p else 0 for p in pages]
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
    pages = list(notes.pages.values())[:2]
    if re.search(r"\bsame (?:nationality|country)\b", notes.question):
        found = [re.search(r"\b(?:is|was) an? ([A-Z]\w+)", " ".join(p.known)) for p in pages]
        told = [f[1] for f in found if f]
        return "yes" if len(told) == 2 and told[0] == told[1] else "no"
    both = [wanted & words_of(" ".join(p.known)) for p in pages]
    return "yes" if len(both) == 2 and wanted and all(b == wanted for b in both) else "no"


def _candidates(notes: Notes) -> Iterator[Scored]:
    question = notes.question
    wanted = words_of(question)
    kind = _kind(question)
    asked = fold(question)
    pages = list(notes.pages.values())
    for place, page in enumerate(pages):
        if kind == "name" and fold(page.title) not in asked:
            lead = words_of(" ".join(page.known)) & wanted
            yield Scored(len(lead) * 0.8 + 0.5, page.title)
        for index, sentence in enumerate(page.known):
            shared = len((words_of(sentence) | words_of(page.title)) & wanted)
            for text in _of_kind(kind, sentence, question):
                if fold(text) in asked:
                    continue
                yield Scored(shared + 0.2 * place - 0.05 * index + 0.3 * (" " in text), text)


def _kind(question: str) -> str:
    lower = question.casefold()
    if re.search(r"\b(?:what|which) year\b|\bwhat (?:was|is) the year\b", lower):
        return "year"
    if re.search(r"\bwhen\b|\b(?:what|which) date\b|\bdate of birth\b", lower):
        return "date"
    if re.search(r"\bhow (?:many|much|old|long|tall|high|far)\b|\bpopulation\b", lower):
        return "number"
    if re.search(r"\bwhat nationality\b|\bnationality of\b", lower):
        return "nationality"
    return "name"


def _of_kind(kind: str, sentence: str, question: str) -> Iterator[str]:
    if kind == "year":
        yield from _YEAR.findall(sentence)
    elif kind == "date":
        yield from _DATE.findall(sentence) or _YEAR.findall(sentence)
    elif kind == "number":
        yield from _NUMBER.findall(sentence)
    elif kind == "nationality":
        yield from re.findall(r"\b(?:is|was) an? ([A-Z]\w+(?:-[A-Z]\w+)?)", sentence)
    else:
        for span in _SPAN.findall(sentence):
            text = _LEADING.sub("", span).strip(" .")
            if len(text) > 2 and not text.isdigit() and text not in _FIRST.split("|"):
                yield text

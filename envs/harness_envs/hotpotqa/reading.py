"""How an agent reads: what a search shows of a page, and how lookups walk through it.

The rules are those of ReAct's WikiEnv (wikienv.py): crude sentences, five of them after a search,
one a lookup. Its oddities are kept: abbreviations end a sentence, the last one of a paragraph gets
a second full stop, an empty keyword finds every sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: Sentences shown when a page is found, and titles when it is not.
SHOWN = 5
NO_MORE = "No more results.\n"
NOTHING_SAID = "Nice thought."


class Unsearchable(ValueError):
    """A search that no place of pages can be asked for, or whose page the original cannot read
    either: an invalid action, no fault of theirs."""


class Answer(NamedTuple):
    """What a place of pages answers to a search: a page, or titles instead of one."""

    #: None: a page was found.
    titles: Sequence[str] | None
    paragraphs: Sequence[str] = ()


def page_text(paragraphs: Iterable[str], *, escapes: bool = False) -> tuple[str, bool]:
    """The text of a page, a line a paragraph, and whether it is whole.

    Paragraphs of two words or fewer are dropped; words are what single spaces part, so a double
    space makes one more. With ``escapes`` (what comes from the web) each paragraph is
    ``unescaped``; one that cannot be ends the page there, as in the original, which raised.
    """
    text = ""
    for paragraph in paragraphs:
        if paragraph.count(" ") < 2:
            continue
        try:
            text += (unescaped(paragraph) if escapes else paragraph) + "\n"
        except UnicodeError:
            return text, False
    return text, True


def sentences(text: str) -> list[str]:
    """Sentences of a page: cut at newlines, then at full stops followed by a space."""
    found = []
    for line in text.split("\n"):
        found += [f"{part.strip()}." for part in line.strip().split(". ") if part.strip()]
    return found


def opening(text: str) -> str:
    """What a search shows of the page it found."""
    return " ".join(sentences(text)[:SHOWN])


def not_found(entity: str, titles: Sequence[str]) -> str:
    """What a search shows when there is no such page."""
    return f"Could not find {entity}. Similar: {list(titles[:SHOWN])}."


class Lookup:
    """The lookups on one page: repeating a keyword goes on, another one starts over."""

    def __init__(self) -> None:
        self._keyword: str | None = None
        self._found: list[str] = []
        self._next = 0

    def find(self, keyword: str, text: str | None) -> str:
        """The next sentence of ``text`` (None: no page was found yet) that holds ``keyword``,
        whatever its case. Keywords themselves are compared by case."""
        if keyword != self._keyword:
            self._keyword = keyword
            wanted = keyword.lower()
            self._found = [s for s in sentences(text or "") if wanted in s.lower()]
            self._next = 0
        if self._next >= len(self._found):
            return NO_MORE
        self._next += 1
        return f"(Result {self._next} / {len(self._found)}) {self._found[self._next - 1]}"


# A backslash with what follows it. Octal numbers over 377 and unknown letters stay as they are for
# the decoder, which would warn of them: the first can never be Latin-1, the others mean themselves.
_ESCAPE = re.compile(rb"\\(?:([4-7][0-7][0-7])|(.)|\Z)", re.DOTALL)
_KNOWN = frozenset(b"\n\\'\"abfnrtv01234567xuUN")


def unescaped(text: str) -> str:
    """Text as the original passes it on: backslash escapes in it are decoded.

    Its ``clean_str`` reads the text's UTF-8 bytes as escapes, and what comes out as UTF-8 again.
    Text without a backslash is left as it is.

    Raises:
        UnicodeError: an escape is cut short, or stands for more than one byte. The original
            raises here too.
    """
    if "\\" not in text:
        return text
    raw = text.encode("utf-8", "surrogatepass")

    def keep(match: re.Match[bytes]) -> bytes:
        if match[1]:
            raise UnicodeEncodeError("latin-1", text, 0, 1, "an escape above 255")
        unknown = match[2] is not None and match[2][0] not in _KNOWN
        return b"\\" + match[0] if unknown else match[0]

    return _ESCAPE.sub(keep, raw).decode("unicode-escape").encode("latin-1").decode("utf-8")

"""What ReAct sees of a Wikipedia page: the texts of paragraphs, lists and result headings.

WikiEnv (wikienv.py) reads pages with ``BeautifulSoup(html, "html.parser")`` and ``get_text()``;
here the standard library's parser builds the same texts. Kept of Beautiful Soup (4.15): tags close
only where the page says so, a stray end tag is ignored, blank strings shrink to one blank or
newline, and comments, styles, scripts, templates and ruby annotations have no text.
"""

from __future__ import annotations

import re
from html.entities import html5
from html.parser import HTMLParser

import msgspec

RESULT_HEADING = "mw-search-result-heading"

_VOID = frozenset(
    ("area", "base", "basefont", "bgsound", "br", "col", "command", "embed", "frame", "hr", "image",
     "img", "input", "isindex", "keygen", "link", "menuitem", "meta", "nextid", "param", "source",
     "spacer", "track", "wbr")
)  # fmt: skip
_SILENT = frozenset({"rt", "rp", "style", "script", "template"})
_VERBATIM = frozenset({"pre", "textarea"})
_BLANKS = "\x20\x0a\x09\x0c\x0d"
_NUMBER = re.compile(r"([xX][0-9a-fA-F]+|[0-9]+)(.*)", re.DOTALL)


class Markup(msgspec.Struct, frozen=True):
    """Texts of a page, stripped, in the page's order. A list's text holds that of lists inside."""

    headings: tuple[str, ...]
    paragraphs: tuple[str, ...]
    lists: tuple[str, ...]


def parse(html: str) -> Markup:
    """Read a page of a MediaWiki site. Raises ValueError where Python's parser gives up."""
    reader = _Reader()
    try:
        reader.feed(html)
        reader.close()
    except AssertionError as error:  # how html.parser refuses a broken declaration
        raise ValueError(str(error)) from error
    return reader.finish()


class _Reader(HTMLParser):
    """Collects every string of the page in order; an element's text is a slice of them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self._strings: list[str] = []
        self._pending: list[str] = []
        #: Open elements: name, and its place in ``_texts`` if its text is wanted.
        self._open: list[tuple[str, int | None]] = []
        self._counts: dict[str, int] = {}
        #: Kind, first string, end of strings (None while open), in the page's order.
        self._texts: list[tuple[str, int, int | None]] = []
        self._closed_already: list[str] = []

    def finish(self) -> Markup:
        self._flush()
        found: dict[str, list[str]] = {"heading": [], "p": [], "ul": []}
        for kind, start, end in self._texts:
            found[kind].append("".join(self._strings[start:end]).strip())
        return Markup(tuple(found["heading"]), tuple(found["p"]), tuple(found["ul"]))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._start(tag, attrs)
        if tag in _VOID:
            self._end(tag)
            self._closed_already.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._start(tag, attrs)
        self._end(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._closed_already:
            self._closed_already.remove(tag)
        else:
            self._end(tag)

    def _start(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._flush()
        kind = tag if tag in ("p", "ul") else ""
        if tag == "div" and RESULT_HEADING in (dict(attrs).get("class") or "").split():
            kind = "heading"
        if kind:
            self._texts.append((kind, len(self._strings), None))
        self._open.append((tag, len(self._texts) - 1 if kind else None))
        self._counts[tag] = self._counts.get(tag, 0) + 1

    def _end(self, tag: str) -> None:
        self._flush()
        if not self._counts.get(tag):
            return
        name = ""
        while name != tag:
            name, place = self._open.pop()
            self._counts[name] -= 1
            if place is not None:
                kind, start, _ = self._texts[place]
                self._texts[place] = (kind, start, len(self._strings))

    def handle_data(self, data: str) -> None:
        self._pending.append(data)

    def handle_charref(self, name: str) -> None:
        number = _NUMBER.match(name)
        if number is None:
            self._pending.append(name)
            return
        digits = number[1]
        value = int(digits[1:], 16) if digits[0] in "xX" else int(digits)
        self._pending.append(_character(value) + number[2])

    def handle_entityref(self, name: str) -> None:
        self._pending.append(html5.get(f"{name};") or html5.get(name) or f"&{name}")

    def handle_comment(self, data: str) -> None:
        self._flush()

    def handle_decl(self, decl: str) -> None:
        self._flush()

    def handle_pi(self, data: str) -> None:
        self._flush()

    def unknown_decl(self, data: str) -> None:
        self._flush()
        if data.upper().startswith("CDATA["):
            self._strings.append(self._shrunk(data[len("CDATA[") :]))

    def _flush(self) -> None:
        """End the string that was being read."""
        if not self._pending:
            return
        text = "".join(self._pending)
        self._pending = []
        if any(self._counts.get(tag) for tag in _SILENT):
            return
        self._strings.append(self._shrunk(text))

    def _shrunk(self, text: str) -> str:
        """The text; of white space alone, one."""
        if text.strip(_BLANKS) or any(self._counts.get(tag) for tag in _VERBATIM):
            return text
        return "\n" if "\n" in text else " "


def _character(number: int) -> str:
    """The character of a numeric reference; Windows-1252 where Unicode has controls."""
    if not 0 < number <= 0x10FFFF or 0xD800 <= number <= 0xDFFF:
        return "\ufffd"
    if 0x80 <= number <= 0x9F:
        try:
            return bytes([number]).decode("cp1252")
        except UnicodeDecodeError:
            return chr(number)
    return chr(number)

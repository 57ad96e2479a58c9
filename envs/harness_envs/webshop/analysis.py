"""Text -> index terms, as Lucene's ``DefaultEnglishAnalyzer`` of Anserini makes them.

Words by Unicode's word boundary rules (UAX #29, as Lucene 9's StandardTokenizer applies them),
possessive 's dropped, lower case, Lucene's 33 English stop words, Porter's stemmer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache

from harness_envs.webshop.porter import stem

#: ``EnglishAnalyzer.ENGLISH_STOP_WORDS_SET``.
_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such "
    "that the their then there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP.split(" "))
#: Longer words are cut into pieces of at most this many characters (``_cut``).
MAX_LENGTH = 255

# Characters that join words, by UAX #29's names.
_MID_LETTER = ":\u00b7\u0387\u05f4\u2027\ufe13\ufe55\uff1a"
_MID_NUM = ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b"
_MID_NUM_LET = ".\u2018\u2019\u2024\ufe52\uff07\uff0e"
_EXTEND_NUM_LET = "_\u202f\u203f\u2040\u2054\ufe33\ufe34\ufe4d\ufe4e\ufe4f\uff3f"
#: First and last of the ranges of letters by UAX #29 that are none by their category.
_MORE_LETTERS = (
    "2C2 2C5 2D2 2D7 2DE 2DF 2ED 2ED 2EF 2FF 55B 55C 55E 55E 5F3 5F3 24B6 24E9 A720 A721 A789 A78A "
    "AB5B AB5B 1F130 1F149 1F150 1F169 1F170 1F189"
)
_HEBREW_LETTERS = "5D0 5EA 5EF 5F2 FB1D FB1D FB1F FB28 FB2A FB4F"
#: First and last of the ranges of Unicode's Extended_Pictographic.
_PICTOGRAPHS = (
    "A9 A9 AE AE 203C 203C 2049 2049 2122 2122 2139 2139 2194 2199 21A9 21AA 231A 231B 2328 2328 "
    "2388 2388 23CF 23CF 23E9 23F3 23F8 23FA 24C2 24C2 25AA 25AB 25B6 25B6 25C0 25C0 25FB 25FE "
    "2600 2605 2607 2612 2614 2685 2690 2705 2708 2712 2714 2714 2716 2716 271D 271D 2721 2721 "
    "2728 2728 2733 2734 2744 2744 2747 2747 274C 274C 274E 274E 2753 2755 2757 2757 2763 2767 "
    "2795 2797 27A1 27A1 27B0 27B0 27BF 27BF 2934 2935 2B05 2B07 2B1B 2B1C 2B50 2B50 2B55 2B55 "
    "3030 3030 303D 303D 3297 3297 3299 3299 1F000 1F0FF 1F10D 1F10F 1F12F 1F12F 1F16C 1F171 "
    "1F17E 1F17F 1F18E 1F18E 1F191 1F19A 1F1AD 1F1E5 1F201 1F20F 1F21A 1F21A 1F22F 1F22F "
    "1F232 1F23A 1F23C 1F23F 1F249 1F3FA 1F400 1F53D 1F546 1F64F 1F680 1F6FF 1F774 1F77F "
    "1F7D5 1F7FF 1F80C 1F80F 1F848 1F84F 1F85A 1F85F 1F888 1F88F 1F8AE 1F8FF 1F90C 1F93A "
    "1F93C 1F945 1F947 1FAFF 1FC00 1FFFD"
)

#: Over kinds (see ``_kind``): a word, a run of katakana, a single sign, a pictograph sequence.
_WORDS = re.compile(
    r"""(?: aX*(?:[:.']X*(?=[ab]))? | bX*(?:[:.']X*(?=[ab]) | "X*(?=b) | 'X*)?
        | 0X*(?:[,.']X*(?=0))? | _X* )+
    | (?:kX*)+ | [ch]X* | [es]X*(?:(?<=z)eX*)* | rX*rX* | [#]v?w""".replace("X", "[xzsvw]"),
    re.VERBOSE,
)
_HAS_CONTENT = re.compile("[ab0kcher#]|^s")
#: The same over ASCII text itself: most of it, and three times as fast.
_ASCII_WORDS = re.compile(
    r"\w+(?:(?:(?<=[a-z])[:.'](?=[a-z])|(?<=\d)[,;.'](?=\d))\w+)*", re.ASCII | re.IGNORECASE
)


#: Characters that have a kind of their own.
_AS_THEY_ARE = {
    **{"'": "'", '"': '"', "#": "#", "*": "#"},
    **{"\u200d": "z", "\ufe0f": "v", "\u20e3": "w"},
}


class _Kinds(dict[int, str]):
    """Code point -> one letter for what UAX #29 makes of it; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        kind = self[code] = _kind(chr(code))
        return kind


@cache
def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    numbers = [int(number, 16) for number in text.split(" ")]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _within(code: int, ranges: str) -> bool:
    return any(low <= code <= high for low, high in _ranges(ranges))


def _kind(character: str) -> str:
    """a letter, b Hebrew letter, 0 digit, _ joins all, : joins letters, . joins both, "," joins
    digits, ' and " as they are, k katakana, h hiragana, c ideograph, r regional, e pictograph,
    # key, x extends, as do z zero-width joiner, s skin tone, v emoji selector, w keycap; space."""
    code = ord(character)
    category = unicodedata.category(character)
    for kind, members in (
        (":", _MID_LETTER),
        (".", _MID_NUM_LET),
        (",", _MID_NUM),
        ("_", _EXTEND_NUM_LET),
    ):
        if character in members:
            return kind
    if character in _AS_THEY_ARE:
        return _AS_THEY_ARE[character]
    if 0x1F3FB <= code <= 0x1F3FF:
        return "s"
    half_width_mark = code in (0xFF9E, 0xFF9F)
    if category in ("Mn", "Me", "Mc") or half_width_mark:
        return "x"
    if category == "Cf":
        return " " if code == 0x200B else "x"
    if category == "Nd" or code == 0x066B:
        return "0"
    if _within(code, _HEBREW_LETTERS):
        return "b"
    if category[0] == "L" or category == "Nl" or _within(code, _MORE_LETTERS):
        return _letter(code)
    if 0x1F1E6 <= code <= 0x1F1FF:
        return "r"
    return "e" if _within(code, _PICTOGRAPHS) else " "


def _letter(code: int) -> str:
    if 0x3041 <= code <= 0x309F:
        return "h"
    if 0x30A0 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9F:
        return "k"
    ideograph = 0x2E80 <= code <= 0x303B or 0x3400 <= code <= 0x9FFF or 0xF900 <= code <= 0xFAFF
    return "c" if ideograph or 0x20000 <= code <= 0x3FFFF else "a"


_KINDS = _Kinds()


def words(text: str) -> list[str]:
    """The words of a text, before anything is dropped or stemmed."""
    if text.isascii():
        found = _ASCII_WORDS.findall(text)
        if any(len(word) > MAX_LENGTH for word in found):
            found = [text[start:end] for start, end in _cut(_ASCII_WORDS, text)]
        return [word for word in found if word.strip("_")]
    kinds = text.translate(_KINDS)
    spans = [match.span() for match in _WORDS.finditer(kinds)]
    if any(end - start > MAX_LENGTH for start, end in spans):
        spans = list(_cut(_WORDS, kinds))
    return [text[start:end] for start, end in spans if _HAS_CONTENT.search(kinds[start:end])]


def _cut(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """Where words lie when none is read further than its longest beginning of ``MAX_LENGTH``
    characters that is a word; reading goes on behind that."""
    at = 0
    while at < len(text):
        start = pattern.search(text, at, at + MAX_LENGTH)
        if start is None:
            at += MAX_LENGTH
        else:
            found = pattern.match(text, start.start(), start.start() + MAX_LENGTH)
            assert found is not None
            yield found.span()
            at = found.end()


@lru_cache(maxsize=1 << 16)
def _term(word: str) -> str:
    """The index term of a word; empty for what is not indexed."""
    word = word.lower()
    if word[-2:] in ("'s", "’s", "＇s"):
        word = word[:-2]
    return "" if word in STOP_WORDS else stem(word)


def terms(text: str) -> list[str]:
    """Index terms in order, repeats kept.

    >>> terms("the women's 5.5 oz wi-fi")
    ['women', '5.5', 'oz', 'wi', 'fi']
    """
    return [term for word in words(text) if (term := _term(word))]

"""Text -> index terms, as Lucene's ``DefaultEnglishAnalyzer`` of Anserini makes them.

Words by Unicode's word boundary rules (UAX #29, as Lucene 9's StandardTokenizer applies them),
possessive 's dropped, lower case, Lucene's 33 English stop words, Porter's stemmer.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache, lru_cache

from harness_envs.webshop.porter import stem

#: ``EnglishAnalyzer.ENGLISH_STOP_WORDS_SET``.
_STOP = (
    "a an and are as at be but by for if in into is it no not of on or such "
    "that the their then there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP.split(" "))
#: Longer words are cut into pieces of this many characters.
MAX_LENGTH = 255

# Characters that join words, by UAX #29's names.
_MID_LETTER = ":··״‧︓﹕："
_MID_NUM = ",;;։،؍٬߸⁄︐︔﹐﹔，；"
_MID_NUM_LET = ".'‘’․﹒＇．"
_EXTEND_NUM_LET = "_\u202f‿⁀⁔︳︴﹍﹎﹏＿"
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
    r"(?:ax*(?:[:.]x*(?=a))?|0x*(?:[,.]x*(?=0))?|_x*)+|(?:kx*)+|[ch]x*|ex*(?:zex*)*|rr?x*"
)
_HAS_CONTENT = re.compile("[a0kcher]")
#: The same over ASCII text itself: most of it, and three times as fast.
_ASCII_WORDS = re.compile(
    r"\w+(?:(?:(?<=[a-z])[:.'](?=[a-z])|(?<=\d)[,;.'](?=\d))\w+)*", re.ASCII | re.IGNORECASE
)


class _Kinds(dict[int, str]):
    """Code point -> one letter for what UAX #29 makes of it; filled as characters are met."""

    def __missing__(self, code: int) -> str:
        kind = self[code] = _kind(chr(code))
        return kind


@cache
def _pictographs() -> tuple[tuple[int, int], ...]:
    numbers = [int(number, 16) for number in _PICTOGRAPHS.split(" ")]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _kind(character: str) -> str:
    """a letter, 0 digit, _ joins all, : joins letters, . joins both, "," joins digits, x extends,
    z zero-width joiner, k katakana, h hiragana, c ideograph, r regional, e pictograph, space."""
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
    if code == 0x200D:
        return "z"
    skin, half_width_mark = 0x1F3FB <= code <= 0x1F3FF, code in (0xFF9E, 0xFF9F)
    if category in ("Mn", "Me", "Mc") or skin or half_width_mark:
        return "x"
    if category == "Cf":
        return " " if code == 0x200B else "x"
    if category == "Nd":
        return "0"
    if category[0] == "L" or category == "Nl" or 0x24B6 <= code <= 0x24E9:
        return _letter(code)
    if 0x1F1E6 <= code <= 0x1F1FF:
        return "r"
    return "e" if any(low <= code <= high for low, high in _pictographs()) else " "


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
        whole = [word for word in _ASCII_WORDS.findall(text) if word.strip("_")]
    else:
        matches = _WORDS.finditer(text.translate(_KINDS))
        spans = [match.span() for match in matches if _HAS_CONTENT.search(match[0])]
        whole = [text[start:end] for start, end in spans]
    if all(len(word) <= MAX_LENGTH for word in whole):
        return whole
    return [w[at : at + MAX_LENGTH] for w in whole for at in range(0, len(w), MAX_LENGTH)]


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

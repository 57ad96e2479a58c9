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

# Ranges of characters, each by its first and last.
#: Letters by UAX #29 that are none by their category.
_MORE_LETTERS = (
    "2C2 2C5 2D2 2D7 2DE 2DF 2ED 2ED 2EF 2FF 55B 55C 55E 55E 5F3 5F3 24B6 24E9 A720 A721 A789 A78A "
    "AB5B AB5B 1F130 1F149 1F150 1F169 1F170 1F189"
)
_HEBREW_LETTERS = "5D0 5EA 5EF 5F2 FB1D FB1D FB1F FB28 FB2A FB4F"
_KATAKANA = (
    "3031 3035 309B 309C 30A0 30FA 30FC 30FF 31F0 31FF 32D0 32FE 3300 3357 FF66 FF9D 1B000 1B000 "
    "1B164 1B167"
)
_HIRAGANA = "3041 3096 309D 309F 1B001 1B11E 1B150 1B152 1F200 1F200"
_IDEOGRAPHS = "2E80 2FD5 3007 3007 3021 3029 3038 303A 3400 4DB5 4E00 9FEF F900 FAD9 20000 2FA1D"
#: Thai and others without spaces between words: letters and marks of line break class SA (UAX #14).
_SOUTHEAST_ASIAN = (
    "E01 E3A E40 E4E E81 EBD EC0 ECD EDC EDF 1000 103F 1050 108F 109A 109F 1780 17D3 17D7 17D7 "
    "17DC 17DD 1950 1974 1980 19C9 19DA 19DA 19DE 19DF 1A20 1A7C 1AA0 1AAD A9E0 A9EF A9FA A9FE "
    "AA60 AAC2 AADB AADF 11700 1172B 1173A 1173B 1173F 1173F"
)
#: Unicode's Extended_Pictographic, and those of them that are letters too.
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
    "1F93C 1F945 1F947 1FFFD"
)
_PICTOGRAPHIC_LETTERS = "2139 2139 24C2 24C2 1F170 1F171 1F17E 1F17F"
#: What is in no word although a letter, digit or mark: newer than Lucene's Unicode, 12.1, or an
#: ideograph that is not Han, as Tangut's.
_NO_WORDS = (
    "558 558 58B 58C 5C8 5C9 870 89F 8B5 8B5 8BE 8D2 B53 B55 C3C C3C C5C C5D CDC CDD CF3 CF3 D04 "
    "D04 D81 D81 ECE ECE 170D 170D 1715 171F 180F 180F 1ABF 1AF0 1B4C 1B4C 1C89 1C8A 1DFA 1DFA "
    "200B 200B 208F 208F 209D 209F 2C2F 2C2F 2C5F 2C5F 3006 3006 31BB 31BF 4DB6 4DBF 9FF0 9FFF "
    "A7C0 A7C1 A7C7 A7F6 A82C A82C AB68 AB6D 10570 105F3 10780 107BF 10940 10959 10D40 10EFF "
    "10F70 10FC4 11070 11075 110C2 110C2 11147 11147 111CE 111CF 1123F 11241 11380 113E2 11460 "
    "11461 116D0 116E3 11740 11746 11900 11959 11AB0 11ABF 11B0A 11BF9 11DB0 11DF1 11F00 11FB0 "
    "1246F 1247F 12550 12FF0 1342F 1342F 13439 143FA 16100 16139 16A70 16AC9 16D40 16D79 16EA0 "
    "16ED3 16FE4 1AFFE 1B11F 1B132 1B155 1B155 1B168 1B2FB 1CCF0 1D128 1D250 1D281 1D6A6 1D6A6 "
    "1DF00 1DFFF 1E030 1E08F 1E290 1E2AE 1E4D0 1E7FE 2A6D7 2A6DF 2B735 2B73F 2B81E 2B81E 2CEA2 "
    "2CEAD 2EBF0 2EE5D 30000 3FFFF"
)
#: The first that holds a character tells its kind.
_KINDS_BY_RANGE = {
    " ": _NO_WORDS,
    "m": _PICTOGRAPHIC_LETTERS,
    "a": _MORE_LETTERS,
    "b": _HEBREW_LETTERS,
    "k": _KATAKANA,
    "h": _HIRAGANA,
    "c": _IDEOGRAPHS,
    "y": _SOUTHEAST_ASIAN,
    "r": "1F1E6 1F1FF",
    "e": _PICTOGRAPHS,
    "s": "1F3FB 1F3FF",
    "x": "FF9E FF9F",
    "0": "66B 66B",
}

# Patterns over kinds (see ``_kind``). Repeats give nothing back (``+``): time stays linear.
#: What extends the character before it; in emoji, selectors do not.
_X = "[xzswqtv]*+"
_EMOJI_X = "[xzswq]*+"
#: Letters and digits, or katakana.
_RUN = rf"""(?:(?: b{_X}(?:'{_X}|"{_X}b{_X}) | [amb]{_X}(?:[:.']{_X}[amb]{_X})*+
    | 0{_X}(?:[,.']{_X}0{_X})*+ )++ | (?:k{_X})++)"""
#: Such runs joined by ``_``; with more of it before the first, a word would be cut anyway.
_WORD = rf"(?:_{_X}){{0,{MAX_LENGTH}}}+{_RUN}(?:(?:_{_X})++{_RUN}?)*+"
#: Pictographs joined by zero-width joiners: behind an emoji selector nothing else goes on. One that
#: is a letter begins a word, unless it is joined to one that is none.
_JOINED = rf"(?: z*+(?<=z)[em]{_EMOJI_X}v?+ | zs{_EMOJI_X} )*+"
_EMOJI = rf"""(?: (?:(?<!z)z++[em] | e | m{_EMOJI_X}v?+{_JOINED.replace("em", "m")}z*+(?<=z)e)
    {_EMOJI_X}v?+ | s{_EMOJI_X} ){_JOINED}"""
#: Besides: South-East Asian text, a single sign, a flag, a key.
_WORDS = re.compile(
    rf"{_EMOJI} | {_WORD} | (?:[yq]{_X})++ | [ch]{_X} | r{_X}r{_X} | [#][xzswq]*v?w{_EMOJI_X}",
    re.VERBOSE,
)
#: The same over ASCII text itself: most of it, and three times as fast.
_ASCII_WORDS = re.compile(
    r"\w+(?:(?:(?<=[a-z])[:.'](?=[a-z])|(?<=\d)[,;.'](?=\d))\w+)*", re.ASCII | re.IGNORECASE
)


#: Characters that have a kind of their own.
_AS_THEY_ARE = {
    **{"'": "'", '"': '"', "#": "#", "*": "#"},
    **{"\u200d": "z", "\ufe0e": "t", "\ufe0f": "v", "\u20e3": "w"},
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
    digits, ' and " as they are, k katakana, h hiragana, c ideograph, y South-East Asian letter,
    r regional, e pictograph, m one that is a letter, # key, x extends, as do q South-East Asian
    mark, z zero-width joiner, s skin tone, t text and v emoji selector, w keycap; space."""
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
    category = unicodedata.category(character)
    for kind, ranges in _KINDS_BY_RANGE.items():
        if _within(ord(character), ranges) and (kind == "e" or category != "Cn"):
            return "q" if kind == "y" and category[0] == "M" else kind
    if category[0] == "M" or category == "Cf":
        return "x"
    if category == "Nd":
        return "0"
    return "a" if category[0] == "L" or category == "Nl" else " "


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
    return [text[start:end] for start, end in spans]


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
    word = "".join(map(str.lower, word.replace("İ", "i")))  # one for one, as Lucene: Σ is σ
    if word[-2:] in ("'s", "’s", "＇s"):
        word = word[:-2]
    return "" if word in STOP_WORDS else stem(word)


def terms(text: str) -> list[str]:
    """Index terms in order, repeats kept.

    >>> terms("the women's 5.5 oz wi-fi")
    ['women', '5.5', 'oz', 'wi', 'fi']
    """
    return [term for word in words(text) if (term := _term(word))]

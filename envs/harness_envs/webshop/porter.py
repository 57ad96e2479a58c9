"""Porter's stemmer as its author distributes it (and Lucene's English analysis uses it).

M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980), with the three departures
of the author's own programs: words of one or two letters stay, ``bli`` becomes ``ble``, ``logi``
becomes ``log``.
"""

from __future__ import annotations

_STEP_2 = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "logi": "log",
}
_STEP_3 = {
    "icate": "ic",
    "ative": "",
    "alize": "al",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
}
_STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion"),
    *("ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


def stem(word: str) -> str:
    """The stem of a lower-case word. Characters other than a, e, i, o, u, y are consonants.

    >>> [stem(word) for word in ("machines", "washable", "easy", "heathered", "sky")]
    ['machin', 'washabl', 'easi', 'heather', 'sky']
    """
    if len(word) <= 2:
        return word
    word = _step_1(word)
    word = _replace(word, _STEP_2)
    word = _replace(word, _STEP_3)
    word = _step_4(word)
    return _step_5(word)


def _pattern(word: str) -> str:
    """``c`` or ``v`` for each letter; y is a vowel after a consonant."""
    kinds: list[str] = []
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and bool(kinds) and kinds[-1] == "c")
        kinds.append("v" if vowel else "c")
    return "".join(kinds)


def _measure(word: str) -> int:
    """How often a vowel is followed by a consonant: Porter's m."""
    return _pattern(word).count("vc")


def _has_vowel(word: str) -> bool:
    return "v" in _pattern(word)


def _ends_double(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and _pattern(word)[-1] == "c"


def _ends_short(word: str) -> bool:
    """Consonant, vowel, consonant, the last one not w, x or y: Porter's *o."""
    return len(word) > 2 and _pattern(word)[-3:] == "cvc" and word[-1] not in "wxy"


def _step_1(word: str) -> str:
    """Plurals, -ed, -ing, final y."""
    if word.endswith("s"):
        if word.endswith(("sses", "ies")):
            word = word[:-2]
        elif not word.endswith("ss"):
            word = word[:-1]
    if word.endswith("eed"):
        if _measure(word[:-3]) > 0:
            word = word[:-1]
    else:
        for suffix in ("ed", "ing"):
            if word.endswith(suffix) and _has_vowel(word[: -len(suffix)]):
                word = _after_1b(word[: -len(suffix)])
                break
    if word.endswith("y") and _has_vowel(word[:-1]):
        word = word[:-1] + "i"
    return word


def _after_1b(word: str) -> str:
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _ends_double(word):
        return word if word[-1] in "lsz" else word[:-1]
    if _measure(word) == 1 and _ends_short(word):
        return word + "e"
    return word


def _replace(word: str, endings: dict[str, str]) -> str:
    """The longest ending present is replaced if what is before it has m > 0."""
    for size in range(min(7, len(word)), 1, -1):
        ending = word[-size:]
        if ending in endings:
            before = word[:-size]
            return before + endings[ending] if _measure(before) > 0 else word
    return word


def _step_4(word: str) -> str:
    for size in range(min(5, len(word)), 1, -1):
        ending = word[-size:]
        if ending in _STEP_4:
            before = word[:-size]
            if ending == "ion" and not before.endswith(("s", "t")):
                return word
            return before if _measure(before) > 1 else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        before = word[:-1]
        m = _measure(before)
        if m > 1 or (m == 1 and not _ends_short(before)):
            word = before
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word

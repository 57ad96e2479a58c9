"""What an instruction asks for, as far as its words tell."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_CAP = re.compile(r",? and price lower than (\d+(?:\.\d+)?) dollars\s*$")
# The last "with" that an option's name follows.
_OPTIONS = re.compile(r"^(.*) with ((?:(?!with )[a-z ]){2,30}: .+)$")
_NEXT_OPTION = re.compile(r", and (?=[a-z ]{2,30}: )")
_OPENER = re.compile(
    r"^(?:hello|hi|hey)?[, ]*(?:please |kindly |help me |can you |could you )*"
    r"(?:(?:find|show|get|give|help)(?: me)?|i(?: am|'m|m)? (?:need|want|look|looking|search|"
    r"searching|interested|would like|'d like)(?: for| in| to buy| to find)?|i would like|"
    r"looking for)\b\s*",
    re.IGNORECASE,
)
_JOINTS = re.compile(
    r",? that (?:are|is|has|have) |,? which (?:are|is|has) |,? with |,? for |, | and "
)
# Words that say nothing about a product; what WebShop's attributes leave out too.
_STOP = frozenset(
    """a also an and any are as at be buy by can choose could find for from get good has have hello
    help helps hi i im in is it its kind like looking me my need of on one or order pair place
    please prefer should some such that thats the them these they this to type want wants
    which will with would you your""".split()  # noqa: SIM905
)
_WORD = re.compile(r"[a-z0-9]+(?:\.[0-9]+)?(?:'s)?")


@dataclass(frozen=True, slots=True)
class Request:
    """A shopper's wish.

    ``thing``: words of the kind of product; ``attributes``: phrases that it must fit; ``options``:
    name -> value where the instruction names them; ``cap``: dollars, None without a limit;
    ``words``: everything said but the price, for a search.
    """

    thing: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    cap: float | None
    words: str


@lru_cache(maxsize=8192)
def read_request(instruction: str) -> Request:
    """Read an instruction of either kind, generated or written by a person."""
    text = " ".join(instruction.split()).lower()
    cap = None
    if found := _CAP.search(text):
        text, cap = text[: found.start()], float(found[1])
    options: tuple[tuple[str, str], ...] = ()
    if found := _OPTIONS.search(text):
        pairs = (part.partition(": ") for part in _NEXT_OPTION.split(found[2]))
        options = tuple((name, value) for name, _, value in pairs if value)
        text = found[1]
    body = _OPENER.sub("", text).rstrip(". ")
    thing, attributes = _wishes(body)
    values = " ".join(value for _, value in options)
    spoken = " ".join(w for w in _WORD.findall(body) if w not in _STOP)
    return Request(thing, attributes, options, cap, f"{spoken} {values}".strip())


def _wishes(body: str) -> tuple[str, tuple[str, ...]]:
    """The kind of product and the attributes: "oil free, vegan face creams with green tea"."""
    head = re.split(r",? (?:that|which|with|for) ", body, maxsplit=1)[0]
    parts = [[w for w in part.split() if w not in _STOP] for part in head.split(", ")]
    # Attributes have two words nearly always; the first part that has more, or is the last, ends
    # in the thing, whose name may have commas of its own ("tops, tees & blouses").
    first = next((n for n, p in enumerate(parts) if len(p) > 2 or _owned(p)), len(parts) - 1)
    cut = 2 if len(parts[first]) > 2 and not _owned(parts[first]) else 0
    before = [*parts[:first], parts[first][:cut]]
    thing = ", ".join(" ".join(p) for p in [parts[first][cut:], *parts[first + 1 :]])
    after = [part.split() for part in _JOINTS.split(body[len(head) :])]
    phrases = (" ".join(w.rstrip(",") for w in p if w not in _STOP) for p in [*before, *after])
    return thing, tuple(dict.fromkeys(p for p in phrases if p))


def _owned(words: Sequence[str]) -> bool:
    """ "women's dresses": a thing, whatever its number of words."""
    return bool(words) and words[0].endswith("'s")


def stem(word: str) -> str:
    """A word without what plurals and possessives add."""
    word = word.removesuffix("'s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("shes", "ches", "xes", "sses")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=65536)
def stems(text: str) -> tuple[str, ...]:
    """The stems of a text's words that say something."""
    return tuple(stem(w) for w in _WORD.findall(text.lower()) if w not in _STOP)


def says(texts: Sequence[str], phrase: str) -> bool:
    """Whether a text holds the phrase's words side by side, in any order."""
    wanted = sorted(stems(phrase))
    size = len(wanted)
    if not size:
        return True
    return any(
        sorted(words[n : n + size]) == wanted
        for words in map(stems, texts)
        for n in range(len(words) - size + 1)
    )

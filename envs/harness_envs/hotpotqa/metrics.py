"""How an answer is scored: exact match, overlap of words, containment.

The rules are those of HotPotQA's evaluation script (hotpot_evaluate_v1.py), which ReAct's wrapper
(wrappers.py) shares.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import NamedTuple

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
#: Answers that overlap with nothing but themselves.
_CLOSED = frozenset({"yes", "no", "noanswer"})


class Overlap(NamedTuple):
    """Words shared by prediction and gold, each from 0 to 1."""

    f1: float
    precision: float
    recall: float


def normalize(answer: str) -> str:
    """What of an answer counts: lower case, no ASCII punctuation, no articles, single spaces.

    >>> normalize("The  U.S.A.!")
    'usa'
    """
    bare = answer.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, gold: str) -> bool:
    """Whether the two answers are the same when normalised."""
    return normalize(prediction) == normalize(gold)


def contains(prediction: str, gold: str) -> bool:
    """Whether the normalised gold answer stands somewhere in the normalised prediction.

    Some harnesses (aviary) score by this instead of exact match. An empty gold answer is contained
    in an empty prediction only.
    """
    said, wanted = normalize(prediction), normalize(gold)
    return wanted in said if wanted else not said


def f1_score(prediction: str, gold: str) -> Overlap:
    """Overlap of the normalised words: (f1, precision, recall).

    All are 0 where exactly one side is yes, no or noanswer, and where no word is shared (two empty
    answers included, although they match exactly).
    """
    said, wanted = normalize(prediction), normalize(gold)
    if said != wanted and (said in _CLOSED or wanted in _CLOSED):
        return Overlap(0.0, 0.0, 0.0)
    words, gold_words = said.split(), wanted.split()
    shared = sum((Counter(words) & Counter(gold_words)).values())
    if not shared:
        return Overlap(0.0, 0.0, 0.0)
    precision, recall = shared / len(words), shared / len(gold_words)
    return Overlap(2 * precision * recall / (precision + recall), precision, recall)

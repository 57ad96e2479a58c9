"""The admissible command that is most like a text, as AgentBench's ALFWorld executes it.

A command that the game does not admit is replaced there by the admissible one of the highest BLEU
(THUDM/AgentBench at 41e6807, src/server/tasks/alfworld/utils.py): a sentence's BLEU-4 over words,
smoothed by method 4 of Chen and Cherry, "A Systematic Comparison of Smoothing Techniques for
Sentence-Level BLEU" (2014), the admissible command as reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

ORDERS = 4
#: A command less like every admissible one is executed as it is.
LEAST = 0.01
#: Weight of a missing n-gram: 2 ** i * K / ln(words of the text), i counting the missing orders.
K = 5


def plain(text: str) -> str:
    """The first line of a text, lower-cased, as it is compared there."""
    return text.strip().lower().split("\n")[0]


def nearest(text: str, admissible: Sequence[str]) -> str:
    """The admissible command most like ``text`` (``plain``; the first of equals), else itself.

    >>> nearest("Put the mug on desk 1", ["go to desk 1", "move mug 1 to desk 1", "look"])
    'go to desk 1'
    """
    command = plain(text)
    if not admissible or command in admissible:
        return command
    scores = [bleu(choice.split(), command.split()) for choice in admissible]
    best = max(scores)
    return admissible[scores.index(best)] if best > LEAST else command


def bleu(reference: Sequence[str], words: Sequence[str]) -> float:
    """Smoothed BLEU-4 of ``words`` against one reference, in [0, 1]."""
    if not set(reference) & set(words):
        return 0.0
    missing, total = 0, 0.0
    for order in range(1, ORDERS + 1):
        ours, theirs = _ngrams(words, order), _ngrams(reference, order)
        hits = float((ours & theirs).total())
        if not hits:
            if len(words) == 1:  # nothing is smoothed, and what is zero does not count
                continue
            missing += 1
            hits = math.log(len(words)) / (2**missing * K)
        total += math.log(hits / max(1, ours.total())) / ORDERS
    brevity = min(0.0, 1 - len(reference) / len(words))
    return math.exp(brevity + total)


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

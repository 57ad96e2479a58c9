"""Guesses at what a reply says next, so that one pass of the model may settle several tokens.

Agents repeat themselves: names from the page, wordings of earlier steps, whole replies in a loop.
A guess is looked up, first in the conversation's own text (Saxena 2023, "prompt lookup decoding"),
then in what all replies said so far. The model reads the guess behind the last token and keeps the
part that it would have said itself (Leviathan et al. 2023), so a guess costs time, never a word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from harness_agents.backends.slots import Ids

#: Tokens of a conversation that must recur for what followed them to be guessed.
RECUR = 6
#: Lengths of contexts looked up in earlier replies, the longest first, and how many are kept (when
#: there are more, all are forgotten).
CONTEXTS, KEPT = (8, 5, 3, 2), 1 << 19
#: Numbers of guessed tokens a pass may take; every so many passes another one is tried.
SIZES, EXPLORE = (0, 1, 2, 4, 8), 16


class Drafts:
    """What replies said after contexts of a few tokens. One model thread uses it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        #: hash of a context -> [token that mostly followed, its lead over the others].
        self._next: dict[int, list[int]] = {}

    def learn(self, known: Sequence[int], first: int) -> None:
        """Take in the tokens of a conversation from position ``first`` on (a reply)."""
        if len(self._next) > self._kept:
            self._next.clear()
        for at in range(first, len(known)):
            token = known[at]
            for size in CONTEXTS:
                if size > at:
                    continue
                entry = self._next.setdefault(_key(known[at - size : at]), [token, 0])
                if entry[0] == token:
                    entry[1] += 1
                elif entry[1] > 0:  # a majority vote in constant memory (Boyer and Moore)
                    entry[1] -= 1
                else:
                    entry[:] = [token, 1]

    def guess(self, known: Ids, most: int) -> list[int]:
        """At most ``most`` tokens that may follow the conversation ``known``."""
        tokens = recurring(known)[:most]
        context = [*known[-CONTEXTS[0] :].tolist(), *tokens]
        while len(tokens) < most:
            token = self._after(context)
            if token is None:
                break
            tokens.append(token)
            context.append(token)
        return tokens

    def _after(self, context: Sequence[int]) -> int | None:
        for size in CONTEXTS:
            if size <= len(context):
                entry = self._next.get(_key(context[-size:]))
                if entry is not None:
                    return entry[0]
        return None


def _key(context: Sequence[int]) -> int:
    return hash(tuple(context))


def recurring(known: Ids) -> list[int]:
    """What followed the last time that the last ``RECUR`` tokens stood in ``known``."""
    if len(known) <= RECUR:
        return []
    tail = known[-RECUR:]
    ends = np.flatnonzero(known[RECUR - 1 : -1] == known[-1]) + RECUR
    for back in range(2, RECUR + 1):
        ends = ends[known[ends - back] == tail[-back]]
    if not len(ends):
        return []
    found: list[int] = known[ends[-1] : ends[-1] + SIZES[-1]].tolist()
    return found


class Pace:
    """How many tokens to guess, by the tokens a second that each of ``SIZES`` gave lately.

    Guessing pays where a pass costs about the same for one token as for several; where it does not,
    0 wins and nothing is guessed but in every ``EXPLORE``-th pass.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._sizes = [size for size in SIZES if size <= most]
        self._rate: dict[int, float] = {}
        self._passes = 0
        self._size = 0
        self._begun = 0.0

    def start(self) -> int:
        """Begin a pass: the most tokens to guess for a row."""
        self._passes += 1
        untried = [size for size in self._sizes if size not in self._rate]
        if untried:
            self._size = untried[0]
        elif self._passes % EXPLORE == 0:
            self._size = self._sizes[self._passes // EXPLORE % len(self._sizes)]
        else:
            self._size = max(self._sizes, key=self._rate.__getitem__)
        self._begun = self._clock()
        return self._size

    def end(self, tokens: int) -> None:
        """The pass gave ``tokens`` over all rows."""
        rate = tokens / (self._clock() - self._begun)
        self._rate[self._size] = 0.7 * self._rate.get(self._size, rate) + 0.3 * rate

"""Replies whose action is one of those that the environment admits (``decode = "admissible"``).

The thought is free. Behind the label ``Action:`` only tokens are sampled that lead to the end of an
admissible action's line: each is a path of a tree, walked token by token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import torch

Tree = dict[int, "Tree"]


class Choices:
    """What one reply may still say. ``paths`` are the token ids of each action's line, from the
    blank behind the label to its newline; ``barred`` ids hide the label's colon from view, as they
    go on after a colon, and are never sampled."""

    def __init__(self, paths: Iterable[Sequence[int]], barred: Collection[int]) -> None:
        self._tree: Tree = {}
        self._barred = list(barred)
        #: Tokens of the longest line: so many may follow the reply's cap.
        self.longest = 0
        #: The place in the tree, once the label is there.
        self._at: Tree | None = None
        for path in paths:
            node = self._tree
            for token in path:
                node = node.setdefault(token, {})
            self.longest = max(self.longest, len(path))

    @property
    def acting(self) -> bool:
        """Whether the label is there and the action's line has begun."""
        return self._at is not None

    def act(self) -> None:
        """The label is there."""
        self._at = self._tree

    def restrict(self, logits: torch.Tensor) -> None:
        """Take from ``logits`` [vocabulary], in place, what may not come next."""
        if self._at is None:
            logits[self._barred] = -torch.inf
            return
        allowed = list(self._at)
        kept = logits[allowed]
        logits.fill_(-torch.inf)
        logits[allowed] = kept

    def follow(self, token: int) -> None:
        """``token`` was sampled."""
        if self._at is not None:
            self._at = self._at[token]


def usable(actions: Iterable[str]) -> list[str]:
    """Actions that a reply's action line can say."""
    return [a for a in dict.fromkeys(actions) if a and a == a.strip() and len(a.splitlines()) == 1]

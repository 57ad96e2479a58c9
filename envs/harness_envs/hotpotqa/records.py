"""What HotPotQA's questions and pages are, whichever file they come from."""

from __future__ import annotations

import msgspec


class Page(msgspec.Struct, frozen=True):
    """One page of the encyclopedia.

    ``paragraphs`` are its texts in order, one string each and without newlines; ``aliases`` are
    further titles that lead to it (redirects).
    """

    title: str
    paragraphs: tuple[str, ...]
    aliases: tuple[str, ...] = ()


class Redirect(msgspec.Struct, frozen=True):
    """A title that leads to the page of another one."""

    title: str
    target: str


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question with its answer.

    ``id`` is HotPotQA's own (24 hex digits) or, of a built-in question, any that stays the same.
    Task ids are another thing (module ``data``): the n-th built-in question of a split is
    ``<split>/b<n>``, so that none is mistaken for an official one. ``type`` is ``"bridge"`` or
    ``"comparison"``; ``level`` easy, medium, hard or empty. ``supporting`` are the facts that
    answer it: (page title, index of the sentence on it), in reading order; empty where the file
    does not tell. ``group`` names what must not be split across training and evaluation (empty:
    the question alone).
    """

    id: str
    split: str
    question: str
    answer: str
    type: str = "bridge"
    level: str = ""
    supporting: tuple[tuple[str, int], ...] = ()
    group: str = ""

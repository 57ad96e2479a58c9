"""How far our labels are those of the paper's own recipe: the whole text tokenised, spans found by
character offsets (SAD, appendix D.2)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from harness.errors import ConfigError
from harness.transcript import Kind, Segment, join


class Agreement(NamedTuple):
    """Our labels against the paper's: the whole text tokenised, spans found by offsets (D.2).

    ``same``: share of our labelled tokens that are tokens of the whole text under the same label
    (a token belongs to the span with its first non-space character). ``straddling``: tokens of the
    whole text that touch a span and what is around it. ``lost_reason``, ``lost_act``: share of the
    whole text's labelled tokens lost where a token must lie inside its span from its first
    character on (a token with the space before a word does not).
    """

    name: str
    same: float
    straddling: float
    lost_reason: float
    lost_act: float


class _Token(NamedTuple):
    start: int
    end: int
    kind: Kind


def agreement(name: str, tok: Any, texts: Sequence[Sequence[Segment]]) -> Agreement:
    """Our labelled tokens of some texts against those of D.2's recipe under one tokenizer."""
    if not getattr(tok, "is_fast", False):
        raise ConfigError(f"Tokenizer '{name}' tells no offsets: it is not a 'fast' one.")
    same = ours = straddling = whole = 0
    lost = {Kind.REASON: 0, Kind.ACT: 0}
    all_ = {Kind.REASON: 0, Kind.ACT: 0}
    for segments in texts:
        text = join(segments)
        owner, spans = _spans(segments)
        mine = set(_piecewise(tok, segments))
        paper: set[_Token] = set()
        for start, end in _offsets(tok, text):
            at = _first_sign(text, start, end)
            touched = {int(owner[i]) for i in range(at, end) if not text[i].isspace()}
            if not touched - {-1}:
                continue
            whole += 1
            straddling += len(touched) > 1
            if owner[at] < 0:
                continue
            span = spans[owner[at]]
            paper.add(_Token(at, end, span.kind))
            all_[span.kind] += 1
            lost[span.kind] += start < span.start
        same += len(mine & paper)
        ours += len(mine)
    return Agreement(
        name,
        same / max(1, ours),
        straddling / max(1, whole),
        lost[Kind.REASON] / max(1, all_[Kind.REASON]),
        lost[Kind.ACT] / max(1, all_[Kind.ACT]),
    )


def _spans(segments: Sequence[Segment]) -> tuple[np.ndarray, list[_Token]]:
    """The paper's spans (what its expressions capture: no label, no blanks around), and for each
    character the index of its span, -1 outside: int [characters]."""
    spans: list[_Token] = []
    at = 0
    for kind, text in segments:
        body = text.strip()
        if kind in (Kind.REASON, Kind.ACT) and body:
            start = at + len(text) - len(text.lstrip())
            spans.append(_Token(start, start + len(body), kind))
        at += len(text)
    owner = np.full(at, -1, dtype=np.int64)
    for i, span in enumerate(spans):
        owner[span.start : span.end] = i
    return owner, spans


def _piecewise(tok: Any, segments: Sequence[Segment]) -> Iterator[_Token]:
    """Our labelled tokens: each segment tokenised alone."""
    base = 0
    for kind, text in segments:
        if kind in (Kind.REASON, Kind.ACT):
            for start, end in _offsets(tok, text):
                at = _first_sign(text, start, end)
                if at < end:
                    yield _Token(base + at, base + end, kind)
        base += len(text)


def _offsets(tok: Any, text: str) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = tok(
        text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )["offset_mapping"]
    return found


def _first_sign(text: str, start: int, end: int) -> int:
    """Where a token's first character that is no space stands; its end if there is none."""
    part = text[start:end]
    return start + len(part) - len(part.lstrip())

"""What ``harness distill inspect`` finds: lengths of spans, checks of labels, samples to draw."""

from __future__ import annotations

from typing import NamedTuple

from harness_distillation.paper_labels import Agreement


class Cell(NamedTuple):
    """The text of a token (of several, where a character is spread over them), and its kind: a
    segment's, or OBSERVED."""

    kind: int
    text: str


class Check(NamedTuple):
    """A claim about the labels: of ``total`` cases ``good`` hold; the first that does not."""

    claim: str
    good: int
    total: int
    first: str = ""

    @property
    def fine(self) -> bool:
        return self.good == self.total > 0


class Lengths(NamedTuple):
    """Spans of one class by their tokens: ``counts[i]`` have ``edges[i] <= n < edges[i + 1]``."""

    counts: list[int]
    edges: list[int]
    mean: float
    median: float
    most: int


class Drawn(NamedTuple):
    """A sequence to look at, and its environment ("" where it is not known)."""

    environment: str
    cells: list[Cell]


class Findings(NamedTuple):
    """All that there is to tell of a subject."""

    name: str
    sequences: int
    tokens: int
    #: Tokens by segment kind, and of observations that are taught.
    kinds: dict[str, int]
    reason: Lengths
    act: Lengths
    checks: list[Check]
    agreement: list[Agreement]
    drawn: list[Drawn]
    #: Environment -> how many sequences are drawn and checked, of how many.
    chosen: dict[str, tuple[int, int]]
    masks: str

    @property
    def ratio(self) -> float:
        """N_r : N_a, with the tokens of the format: as classes count them whose spans have it."""
        k = self.kinds
        return (k["reason"] + k["reason_format"]) / max(1, k["act"] + k["act_format"])

    @property
    def bare_ratio(self) -> float:
        """N_r : N_a where the format is a class of its own, or none."""
        return self.kinds["reason"] / max(1, self.kinds["act"])

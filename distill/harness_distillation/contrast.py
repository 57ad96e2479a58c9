"""The contrastive term: of two episodes of one task, prefer the one that won.

Per class c, with r the mean over an episode's targets of class c of log p_S - log p_start:

    -log sigmoid(beta (r(won) - r(lost))), a mean over the pairs of an optimizer step

The start is the student before its first step, frozen. The paper names a trajectory-level term of
weight 0.3 and no formula (appendix B); this one is unproven, so measure before believing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from harness.errors import DataError
from harness.types import Episode
from harness_distillation import models
from harness_distillation.dataset import PADDING, Row, Samples, make_row, pack
from harness_distillation.losses import log_likelihood
from harness_distillation.machine import Precision, autocast
from harness_distillation.ranks import Ranks
from harness_distillation.tokenizer import ACT, REASON


def pair_up(episodes: Sequence[Episode]) -> list[Episode]:
    """Won and lost episodes of the same tasks in turn: [won, lost, won, lost, ...].

    Every lost episode stands beside a won one of its task; wins are taken in turn. Of which no log
    tells the end, they are neither.
    """
    won: dict[tuple[str, str], list[Episode]] = {}
    for e in episodes:
        if e.success:
            won.setdefault((e.task.env, e.task.id), []).append(e)
    pairs: list[Episode] = []
    used: dict[tuple[str, str], int] = {}
    for e in episodes:
        key = (e.task.env, e.task.id)
        if e.outcome.scored and not e.success and key in won:
            turn = used.get(key, 0)
            pairs += [won[key][turn % len(won[key])], e]
            used[key] = turn + 1
    return pairs


class Preference(NamedTuple):
    """The term over some pairs. ``loss`` to differentiate, fp32 or wider; ``value``: the whole
    step's, a mean over ``pairs`` and a sum over classes; ``margin``: the mean of beta (r - r')."""

    loss: torch.Tensor
    value: float
    margin: float
    pairs: int


def preference(
    ratio: torch.Tensor,
    labels: torch.Tensor,
    side: torch.Tensor,
    classes: Sequence[int],
    beta: float,
    ranks: Ranks = Ranks(),
) -> Preference:
    """The term from log p_S - log p_start of S targets, fp [S].

    ``labels`` int64 [S] are their classes, ``side`` int64 [S] their episodes: 2p won, 2p + 1 lost
    of pair p. A class that one episode of a pair lacks says nothing about that pair.
    """
    pairs = int(side.max()) // 2 + 1 if len(side) else 0
    margins = []
    for c in classes:
        of = labels == c
        n = torch.bincount(side[of], minlength=2 * pairs)
        total = ratio.new_zeros(2 * pairs).index_add(0, side[of], ratio[of])
        mean = (total / n.clamp(min=1)).view(pairs, 2)
        margins.append(beta * (mean[:, 0] - mean[:, 1])[(n.view(pairs, 2) > 0).all(1)])
    counts = ranks.sum(torch.tensor([*map(len, margins), pairs], dtype=torch.float64))
    loss = ratio.sum() * 0.0
    for margin, n_pairs in zip(margins, counts.tolist(), strict=False):
        loss = loss - F.logsigmoid(margin).sum() / max(1.0, n_pairs)
    summed = torch.stack([loss.detach().double(), torch.cat(margins).detach().double().sum()])
    summed = summed.cpu()
    value, margin = ranks.sum(summed).tolist()
    return Preference(loss, value, margin / max(1.0, float(counts[:-1].sum())), int(counts[-1]))


def fitting(
    samples: Samples, row_tokens: int
) -> tuple[list[tuple[list[int], list[int]]], np.ndarray, np.ndarray]:
    """(pairs as the sequences of won and lost episode, their lengths, which of them fit a row):
    what does not fit is never read."""
    sequences: dict[int, list[int]] = {}
    for s, episode in enumerate(samples.episode.tolist()):
        sequences.setdefault(episode, []).append(s)
    pairs = [
        (sequences[e], sequences[e + 1])
        for e in sorted(sequences)
        if e % 2 == 0 and e + 1 in sequences
    ]
    lengths = np.array([sum(int(samples.lengths[s]) for s in a + b) for a, b in pairs])
    return pairs, lengths, np.flatnonzero(lengths <= row_tokens)


class Contrast:
    """Pairs ready for training: one row of them an optimizer step, a pure function of the step."""

    def __init__(
        self,
        samples: Samples,
        classes: np.ndarray,
        weighed: Sequence[int],
        start: Any,
        *,
        beta: float,
        seed: int,
        row_tokens: int,
        pad: int,
        padding: int = PADDING,
        precision: Precision = "fp32",
        ranks: Ranks = Ranks(),
    ) -> None:
        self.samples, self.classes, self.beta, self.ranks = samples, classes, beta, ranks
        self.weighed = [c for c in (REASON, ACT) if c in weighed]
        self.row_tokens, self.pad, self.padding, self.seed = row_tokens, pad, padding, seed
        self.pairs, self.lengths, self.chosen = fitting(samples, row_tokens)
        if not len(self.chosen):
            raise DataError(
                "The contrastive term found no won and lost episode of one task that fit a row "
                f"of {row_tokens} tokens together.\n"
                "  Collect several attempts a task, or set contrastive = 0."
            )
        self._rows, self._next = self._stream(), 0
        self.reference = self._reference(start, precision)

    def _stream(self) -> Iterator[list[int]]:
        def order() -> Iterator[int]:
            for epoch in count():
                generator = np.random.default_rng([self.seed, 6, epoch])
                yield from generator.permutation(self.chosen).tolist()

        return pack(self.lengths, order(), self.row_tokens, self.seed)

    def at(self, step: int) -> list[int]:
        """The pairs of an optimizer step."""
        if step < self._next:
            self._rows, self._next = self._stream(), 0
        while self._next < step:
            next(self._rows)
            self._next += 1
        self._next += 1
        return next(self._rows)

    def row(self, pairs: Sequence[int]) -> tuple[Row, torch.Tensor]:
        """Pairs as a packed row, and the side of every target (``preference``)."""
        sides = [side for p in pairs for side in self.pairs[p]]
        row = make_row(
            self.samples, [s for side in sides for s in side], self.classes, self.row_tokens,
            self.pad, self.padding,
        )  # fmt: skip
        documents = np.repeat(np.arange(len(sides)), [len(side) for side in sides])
        document = torch.bucketize(row.at + 1, row.bounds[1:], right=True)
        return row, torch.from_numpy(documents)[document]

    @torch.no_grad()
    def _reference(self, start: Any, precision: Precision) -> torch.Tensor:
        """log p of every taught token under the start, fp32 [taught tokens] on the CPU."""
        out = torch.zeros(int(self.samples.taught[-1]))
        body, head = models.body_and_head(start)
        models.check_isolation(start)
        start.eval()
        device = models.device_of(start)
        for p in self.chosen.tolist():
            row = self.row([p])[0].to(device)
            with autocast(precision, device):
                hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
                log_p = log_likelihood(hidden[0, row.at], head, row.targets)
            out[row.cached] = log_p.cpu()
        return out

    def __call__(self, step: int, body: Any, head: torch.nn.Module) -> Preference:
        """The term of an optimizer step, this rank's pairs of it: with none it is 0, and what is
        summed over ranks is summed all the same."""
        mine = self.at(step)[self.ranks.rank :: self.ranks.size]
        if not mine:
            nothing, none = torch.zeros(0, requires_grad=True), torch.zeros(0, dtype=torch.int64)
            return preference(nothing, none, none, self.weighed, self.beta, self.ranks)
        row, side = self.row(mine)
        device = models.device_of(body)
        row, side = row.to(device), side.to(device)
        hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
        start = self.reference[row.cached].to(device)
        ratio = log_likelihood(hidden[0, row.at], head, row.targets) - start
        return preference(ratio, row.labels, side, self.weighed, self.beta, self.ranks)

"""What a student is compared with at the supervised positions of a row, and what is counted there.

divergence      compared with                       unit
ce              the text                            target
alm             the teacher's likelihood of chunks  chunk
every other     the teacher's distributions         target
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from harness.errors import ConfigError
from harness_distillation import chunks, models
from harness_distillation.alm import chunk_loss
from harness_distillation.dataset import Row, Samples
from harness_distillation.likelihoods import Likelihoods
from harness_distillation.losses import Live, LossParts, Target, measure_of, span_loss
from harness_distillation.machine import Precision, autocast
from harness_distillation.ranks import Ranks
from harness_distillation.recipe import Objective
from harness_distillation.teacher_cache import Cache
from harness_distillation.tokenizer import CLASSES

LABELS = len(CLASSES) + 1


class Units(NamedTuple):
    """What the loss of a row counts, U targets or chunks: their classes int64 [U], and their places
    int64 [U] among those of all samples."""

    labels: torch.Tensor
    places: torch.Tensor


def count(
    rows: list[Row], units: list[Units], share: torch.Tensor | None, ranks: Ranks
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Over the whole step, all ranks: units of each class int64 [C + 1], their sums of u_t
    [C + 1] (``losses``), and tokens read."""
    counts = torch.stack([torch.bincount(u.labels, minlength=LABELS) for u in units]).sum(0)
    tokens = torch.tensor([sum(row.tokens for row in rows)])
    whole = ranks.sum(torch.cat([counts, tokens]))
    counts, read = whole[:-1], int(whole[-1])
    if share is None:
        return counts, counts, read
    summed = torch.zeros(LABELS, dtype=torch.float64)
    for u in units:
        summed += torch.bincount(u.labels, weights=share[u.places], minlength=LABELS)
    return counts, ranks.sum(summed), read


class Signal:
    """What the student is compared with at a row's supervised positions, and in which units;
    ``entries`` of its tokenizer."""

    def __init__(
        self,
        objective: Objective,
        cache: Cache | Likelihoods | None,
        teacher: Any,
        precision: Precision,
        entries: int,
    ) -> None:
        self.objective = objective
        self.text = objective.divergence == "ce"
        self.cache = cache
        self.teacher = teacher
        self.precision = precision
        self.entries = entries
        if not self.text and cache is None and teacher is None:
            raise ConfigError(f"Objective '{objective.name}' needs a teacher's distributions.")
        if not isinstance(cache, Likelihoods):
            self.measure = measure_of(
                objective.divergence or "ce", beta=objective.jsd_beta, alpha=objective.skew_alpha
            )
        if teacher is not None:
            teacher.eval()
            models.check_isolation(teacher)

    def counted(self, samples: Samples) -> Samples:
        """The samples with a token a unit."""
        if isinstance(self.cache, Likelihoods):
            return chunks.first_tokens(samples, self.cache.chunk)
        return samples

    def units(self, row: Row) -> Units:
        if isinstance(self.cache, Likelihoods):
            return Units(row.labels[self.cache.begins(row.cached)], self.cache.chunks(row.cached))
        return Units(row.labels, row.cached)

    def loss(
        self,
        hidden: torch.Tensor,
        head: torch.nn.Module,
        row: Row,
        unit: Units,
        weights: torch.Tensor,
        share: torch.Tensor | None,
    ) -> LossParts:
        """Of a row on its device, from hidden states [S, H] at its supervised positions."""
        device = hidden.device
        of_units = None if share is None else share[unit.places].to(device)
        if isinstance(self.cache, Likelihoods):
            return chunk_loss(
                hidden, head, row.targets, self.cache.pick(row.cached).to(device),
                unit.labels.to(device), weights, tau=self.objective.alm_tau, shares=of_units,
            )  # fmt: skip
        return span_loss(
            hidden, head, row.targets, row.labels, weights, self(row),
            measure=self.measure, temperature=self.objective.temperature, shares=of_units,
            entries=self.entries,
        )  # fmt: skip

    def __call__(self, row: Row) -> Target | Live | None:
        if self.text:
            return None
        if isinstance(self.cache, Cache):
            return self.cache.pick(row.cached).to(row.ids.device)
        body, head = models.body_and_head(self.teacher)
        with torch.no_grad(), autocast(self.precision, row.ids.device):
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
        return Live(hidden[0, row.at], head)

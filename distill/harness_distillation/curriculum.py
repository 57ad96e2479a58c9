"""In which order samples come: at random, by difficulty, or from a growing easiest share.

Difficulty is C(tau) = alpha z(len_r) + beta z(len_a) + gamma z(entropy of the teacher), Eq. 7 of
the SAD paper with z-scores, since lengths and nats cannot be added as they are. The paper trains on
one environment at a time; over several, z-scores among all sequences tell environments apart more
than episodes, those within each (``curriculum_within = "environment"``) episodes alone. Its tau is
an episode. Where a window cuts it, each sequence has a C of its own and the short ends of long
episodes come first, unless the whole is what is measured (``curriculum_unit = "episode"``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count

import numpy as np

from harness.errors import DataError
from harness.transcript import Kind
from harness_distillation.dataset import Samples, pack
from harness_distillation.recipe import Objective


def difficulty(
    samples: Samples,
    objective: Objective,
    entropy: np.ndarray | None = None,
    group: np.ndarray | None = None,
) -> np.ndarray:
    """C of every sequence, fp64 [S], its own or its episode's. ``entropy`` fp [taught tokens]: the
    teacher's exact entropy, cached or live; where the text is all that is matched there is none,
    and no such term. ``group`` int [S]: environments, within which z-scores are taken if the
    objective says so. Raises DataError where it does and they are not known."""
    if objective.curriculum_within == "all":
        group = np.zeros(len(samples.lengths), dtype=np.int64)
    elif group is None:
        raise DataError(
            "[objective] curriculum_within = 'environment': these samples were prepared before "
            "environments were noted.\n  --fresh makes them again from the traces."
        )
    unit = np.arange(len(samples.lengths))
    if objective.curriculum_unit == "episode":
        unit = np.unique(samples.episode, return_inverse=True)[1]
    group = group[np.unique(unit, return_index=True)[1]]
    # Every token is taught in one sequence of its episode: sums over those count it once.
    reason = np.bincount(unit, _per_sample(samples, samples.kinds == Kind.REASON))
    act = np.bincount(unit, _per_sample(samples, samples.kinds == Kind.ACT))
    score = objective.alpha * _z(reason, group) + objective.beta * _z(act, group)
    if entropy is not None:
        sums = np.concatenate([[0.0], np.cumsum(entropy, dtype=np.float64)])
        n = np.maximum(np.bincount(unit, np.diff(samples.taught)), 1)
        score += objective.gamma * _z(np.bincount(unit, np.diff(sums[samples.taught])) / n, group)
    found: np.ndarray = score[unit]
    return found


def _per_sample(samples: Samples, mask: np.ndarray) -> np.ndarray:
    sums = np.concatenate([[0], np.cumsum(mask)])
    counts: np.ndarray = np.diff(sums[samples.offsets]).astype(np.float64)
    return counts


def _z(x: np.ndarray, group: np.ndarray) -> np.ndarray:
    """z-scores within each group."""
    found = np.zeros_like(x)
    for one in np.unique(group):
        here = group == one
        if (spread := x[here].std()) > 0:
            found[here] = (x[here] - x[here].mean()) / spread
    return found


def competence(progress: float, start: float, end: float) -> float:
    """Share of the easiest samples in use at ``progress`` in [0, 1]: square-root pacing from
    ``start`` (at 0) to 1 (at ``end``)."""
    if end <= 0:
        return 1.0
    return min(1.0, math.sqrt(progress * (1 - start**2) / end + start**2))


def order(
    chosen: np.ndarray,
    lengths: np.ndarray,
    schedule: str,
    seed: int,
    *,
    score: np.ndarray | None = None,
    total_tokens: int = 1,
    start: float = 0.2,
    end: float = 0.5,
) -> Iterator[int]:
    """Endless stream of sample indices out of ``chosen``: a pure function of its arguments.

    ``random``, ``sorted`` and ``reverse`` give every sample once an epoch. ``pacing`` draws from
    the easiest share until all are in use, then goes on by epochs. ``score`` is C of all samples.
    """
    if schedule == "random":
        yield from _epochs(chosen, seed, 0)
    if score is None:
        raise ValueError(f"the schedule '{schedule}' needs difficulties")
    ranked = chosen[np.argsort(score[chosen], kind="stable")]
    if schedule in ("sorted", "reverse"):
        while True:
            yield from (ranked if schedule == "sorted" else ranked[::-1]).tolist()
    drawn = 0
    generator = np.random.default_rng([seed, 3])
    while (share := competence(drawn / total_tokens, start, end)) < 1.0:
        s = int(ranked[generator.integers(math.ceil(share * len(ranked)))])
        drawn += int(lengths[s])
        yield s
    yield from _epochs(chosen, seed, 1)


def _epochs(chosen: np.ndarray, seed: int, stream: int) -> Iterator[int]:
    for epoch in count():
        yield from np.random.default_rng([seed, stream, epoch]).permutation(chosen).tolist()


class Sampler:
    """Rows of every optimizer step. ``rows(step)`` depends on the arguments and ``step`` only;
    asking for the next step is free, going back replays from the start (cheap)."""

    def __init__(
        self,
        samples: Samples,
        chosen: np.ndarray,
        objective: Objective,
        seed: int,
        *,
        rows: int,
        row_tokens: int,
        steps: int,
        entropy: np.ndarray | None = None,
        group: np.ndarray | None = None,
    ) -> None:
        schedule = objective.curriculum or "random"
        score = None if schedule == "random" else difficulty(samples, objective, entropy, group)

        def stream() -> Iterator[list[int]]:
            items = order(
                chosen,
                samples.lengths,
                schedule,
                seed,
                score=score,
                total_tokens=rows * row_tokens * steps,
                start=objective.pacing_start,
                end=objective.pacing_end,
            )
            return pack(samples.lengths, items, row_tokens, seed)

        self._stream = stream
        self._per_step = rows
        self._rows = stream()
        self._next = 0

    def rows(self, step: int) -> list[list[int]]:
        if step < self._next:
            self._rows, self._next = self._stream(), 0
        while self._next < step:
            self._take()
        return self._take()

    def _take(self) -> list[list[int]]:
        self._next += 1
        return [next(self._rows) for _ in range(self._per_step)]

"""Which tokens are supervised as what, and how much each weighs: ablations and token weights.

All work on ``Samples``, whose kinds carry the labels; header and padding stay CONTEXT always.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch

from harness.errors import DataError
from harness.transcript import Kind
from harness_distillation.dataset import Samples
from harness_distillation.recipe import Objective, lambdas
from harness_distillation.tokenizer import ACT, CLASSES, NONE, REASON, class_of

#: What weighs a class in a recipe.
_KEYS = dict(
    zip(CLASSES, ("lambda_reason", "lambda_act", "lambda_format", "obs_weight"), strict=True)
)


def check_classes(samples: Samples, chosen: np.ndarray, objective: Objective) -> dict[str, int]:
    """Supervised tokens of each class that weighs anything, in the sequences ``chosen``.

    Refuses a mean over a class (normalizers ``class`` and ``span``) of which they hold no target:
    the objective would be another one than its name says. Raises DataError.
    """
    classes = class_of(objective.format or "span")
    counts = _counted(samples, chosen, classes)
    found = {}
    for number, (name, weight) in enumerate(lambdas(objective).items(), 1):
        if not weight or number not in classes:
            continue
        if not counts[number] and objective.normalizer in ("class", "span"):
            raise DataError(
                f"Objective '{objective.name}' takes a mean over the {name} tokens "
                f"({_KEYS[name]} = {weight:g}), and the traces hold none.\n"
                f"  Learn from traces that have them, or set [objective] {_KEYS[name]} = 0."
            )
        found[name] = int(counts[number])
    if not sum(found.values()):
        raise DataError(
            f"Objective '{objective.name}' weighs {' and '.join(found) or 'nothing'} with format = "
            f'"{objective.format}", and the traces hold no such token: nothing would be learned.\n'
            "  Learn from traces that have them, or weigh another class."
        )
    return found


def class_tokens(samples: Samples, objective: Objective) -> dict[str, int]:
    """Tokens of every class that the objective tells apart, whatever it weighs."""
    classes = class_of(objective.format or "span")
    counts = _counted(samples, np.arange(len(samples.lengths)), classes)
    return {name: int(counts[i]) for i, name in enumerate(CLASSES, 1) if i in classes}


def _counted(samples: Samples, chosen: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Tokens by class, int64 [C + 1], in the sequences ``chosen``."""
    trained = np.repeat(np.isin(np.arange(len(samples.lengths)), chosen), samples.lengths)
    return np.bincount(classes[samples.kinds[trained]], minlength=len(CLASSES) + 1)


def shares(
    samples: Samples, classes: np.ndarray, normalizer: str, lambdas: Mapping[str, float]
) -> torch.Tensor | None:
    """u_t of every taught token, fp64 [taught tokens]; None when all are 1 (``losses``).

    A span is a run of adjacent targets of one class. An episode's targets are counted over all its
    windows; only classes with a weight count.
    """
    if normalizer not in ("span", "episode"):
        return None
    labels = classes[samples.kinds]
    owner = np.repeat(np.arange(len(samples.lengths)), samples.lengths)
    if normalizer == "span":
        unit = np.cumsum(_changes(labels, owner)) - 1
        size = np.bincount(unit)
    else:
        unit = samples.episode[owner]
        weighed = np.array([False, *(lambdas[c] != 0 for c in CLASSES)])
        size = np.bincount(unit, weights=weighed[labels])
    taught = samples.kinds != Kind.CONTEXT
    return torch.from_numpy(1.0 / np.maximum(size[unit[taught]], 1.0))


def _changes(labels: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """True where another label or another sequence begins."""
    new = np.ones(len(labels), dtype=bool)
    new[1:] = (labels[1:] != labels[:-1]) | (owner[1:] != owner[:-1])
    return new


def shuffle_labels(
    samples: Samples, classes: np.ndarray, chosen: Iterable[int], seed: int
) -> Samples:
    """The sequences ``chosen`` with the kinds of their reason and act tokens permuted.

    The same tokens are supervised, and every sequence keeps its number of each kind.
    """
    kinds = samples.kinds.copy()
    for s in chosen:
        part = samples.part(s)
        at = part.start + np.flatnonzero(_movable(classes[kinds[part]]))
        generator = np.random.default_rng([seed, 5, s])
        kinds[at] = generator.permutation(kinds[at])
    return samples._replace(kinds=kinds)


def random_spans(
    samples: Samples,
    classes: np.ndarray,
    prompts: np.ndarray,
    chosen: Iterable[int],
    seed: int,
) -> Samples:
    """The sequences ``chosen`` with their reason and act spans moved anywhere after the prompt.

    ``prompts`` int64 [S]: tokens of each sequence's header. Every sequence keeps how many spans of
    which lengths it has; their order and places are drawn uniformly, with at least a token between
    two while there is room. Targets of other classes (a format of its own, observations) stay
    where they are, and a span goes on behind them: numbers of tokens are exact, those of spans and
    their lengths not counting what stands inside them.
    """
    kinds = samples.kinds.copy()
    for s in chosen:
        part = samples.part(s)
        kinds[part] = _moved(
            kinds[part], classes, int(prompts[s]), np.random.default_rng([seed, 4, s])
        )
    return Samples.make(samples.ids, kinds, samples.offsets, samples.episode)


def _moved(
    kinds: np.ndarray, classes: np.ndarray, prompt: int, generator: np.random.Generator
) -> np.ndarray:
    labels = classes[kinds]
    movable = _movable(labels)
    runs = np.split(
        np.arange(len(kinds)),
        np.flatnonzero(_changes(labels, np.zeros_like(labels)))[1:],
    )
    spans = [kinds[run] for run in runs if movable[run[0]]]
    out = np.where(movable | (labels == NONE), np.int8(Kind.CONTEXT), kinds)
    free = prompt + np.flatnonzero(out[prompt:] == Kind.CONTEXT)
    room = len(free) - int(movable.sum())
    between = 1 if room >= len(spans) - 1 else 0
    # Every way to share out what is left of the room before, between and after them is as likely.
    n = len(spans)
    spare = room - between * max(0, n - 1)
    before = np.sort(generator.choice(spare + n, n, replace=False)) - np.arange(n)
    used = 0
    for i, number in enumerate(generator.permutation(n)):
        start = int(before[i]) + between * i + used
        out[free[start : start + len(spans[number])]] = spans[number]
        used += len(spans[number])
    return out


def _movable(labels: np.ndarray) -> np.ndarray:
    found: np.ndarray = (labels == REASON) | (labels == ACT)
    return found

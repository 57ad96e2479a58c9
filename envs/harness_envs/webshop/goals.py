"""What agents are sent to buy: goals, their price caps, their order.

The original (``web_agent_site/engine/goal.py``) draws prices and price caps from Python's global
generator, unseeded, so that one index has another cap in every process. Here they come from a
Mersenne Twister of their own, seeded by ``goal_seed``, in the original's order of draws; with the
default seed they equal the recorded runs.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import msgspec

from harness_envs.webshop.catalogue import GOAL_SEED, Catalogue, Product

Kind = Literal["synthetic", "human"]
KINDS: tuple[Kind, ...] = ("synthetic", "human")

#: Dollars that a price cap can be.
PRICE_RANGE = [10.0 * i for i in range(1, 100)]
#: "No limit", as the original has it.
NO_CAP = 1_000_000.0
#: The original's seed of the goals' order.
SHUFFLE_SEED = 233


class Goal(msgspec.Struct, frozen=True):
    """What one episode asks for. ``options``: name -> value, or what a person named."""

    kind: Kind
    index: int
    asin: str
    instruction: str
    attributes: tuple[str, ...]
    options: dict[str, str] | tuple[str, ...]
    #: Dollars; ``NO_CAP`` without a limit.
    price_upper: float

    @property
    def option_values(self) -> tuple[str, ...]:
        return tuple(self.options.values() if isinstance(self.options, dict) else self.options)


class Goals(Sequence[Goal]):
    """All goals of one kind, in the original's order. A goal is put together when asked for."""

    def __init__(self, catalogue: Catalogue, kind: Kind, goal_seed: int = GOAL_SEED) -> None:
        self.kind = kind
        self._catalogue = catalogue
        rng = random.Random(goal_seed)
        #: asin -> the price drawn for this seed.
        self.prices = catalogue.prices(rng)
        self._sources: list[tuple[int, int]] = []  # (product, human instruction or 0)
        self._caps: list[float] = []
        self._starts: list[int] = []  # number of the source's first goal, before the shuffle
        count = 0
        for number, product in enumerate(catalogue.products):
            for source, goals in _sources(product, kind):
                self._sources.append((number, source))
                self._caps.append(_cap(self.prices[product.asin], rng))
                self._starts.append(count)
                count += goals
        self._order = list(range(count))
        random.Random(SHUFFLE_SEED).shuffle(self._order)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:  # type: ignore[override]
        if not 0 <= index < len(self._order):
            raise IndexError(index)
        place = self._order[index]
        source = bisect.bisect_right(self._starts, place) - 1
        number, human = self._sources[source]
        return self._goal(index, source, number, human, place - self._starts[source])

    def source(self, index: int) -> tuple[str, int]:
        """Of a goal, without putting it together: its asin, and its number among the product's
        combinations (or human instructions)."""
        place = self._order[index]
        source = bisect.bisect_right(self._starts, place) - 1
        number, human = self._sources[source]
        return self._catalogue.products[number].asin, human + place - self._starts[source]

    @cached_property
    def weights(self) -> list[float]:
        """How often the original draws each goal, relatively: a generated one by the mean, over
        what it asks for, of 1 / the goals that ask for it; people's all alike."""
        if self.kind == "human":
            return [1.0] * len(self)
        asked = [self._catalogue.products[n].instruction_attributes for n, _ in self._sources]
        ends = [*self._starts[1:], len(self)]
        sizes = [end - start for start, end in zip(self._starts, ends, strict=True)]
        counts: Counter[str] = Counter()
        for attributes, size in zip(asked, sizes, strict=True):
            for attribute in attributes:
                counts[attribute] += size
        means = [sum(1 / counts[a] for a in attributes) / len(attributes) for attributes in asked]
        return [means[bisect.bisect_right(self._starts, p) - 1] for p in self._order]

    @cached_property
    def _cumulative(self) -> list[float]:
        return [0.0, *itertools.accumulate(self.weights)]

    def drawn(self, uniform: float) -> int:
        """The index that the original draws by ``uniform``, in [0, 1): each goal by the weight of
        the one before it, so that the first is never drawn and the last by two weights."""
        found = bisect.bisect(self._cumulative, uniform * self._cumulative[-1])
        return min(found, len(self) - 1)

    def _goal(self, index: int, source: int, number: int, human: int, combination: int) -> Goal:
        product, cap = self._catalogue.products[number], self._caps[source]
        options: dict[str, str] | tuple[str, ...]
        if self.kind == "human":
            written = product.human[human]
            text, attributes, options = written.text.strip("."), written.attributes, written.options
        else:
            options = _combination(product, combination)
            chosen = ", and ".join(f"{name}: {value}" for name, value in options.items())
            text = f"{product.instruction}{f' with {chosen}' if chosen else ''}"
            attributes = product.instruction_attributes
        limit = "" if cap == NO_CAP else f", and price lower than {cap:.2f} dollars"
        return Goal(self.kind, index, product.asin, text + limit, attributes, options, cap)


def _sources(product: Product, kind: Kind) -> list[tuple[int, int]]:
    """What goals of a product are made from: (human instruction or 0, number of goals)."""
    if kind == "human":
        return [(number, 1) for number, one in enumerate(product.human) if one.attributes]
    if product.instruction is None:
        return []
    return [(0, math.prod(map(len, product.options.values())))]


def _combination(product: Product, number: int) -> dict[str, str]:
    """One of all combinations of option values, names sorted, the last name varying fastest."""
    names = sorted(product.options)
    every = itertools.product(*(product.options[name] for name in names))
    return dict(zip(names, next(itertools.islice(every, number, None)), strict=True))


def _cap(price: float, rng: random.Random) -> float:
    above = [limit for limit in PRICE_RANGE if limit > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_CAP

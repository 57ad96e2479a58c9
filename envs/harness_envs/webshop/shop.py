"""A shop opened for play: its products, its search engine, its goals; one a process and place."""

from __future__ import annotations

import hashlib
import importlib
import threading
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

import msgspec

from harness.errors import ConfigError, unknown
from harness_envs.webshop import files
from harness_envs.webshop.catalogue import GOAL_SEED, Catalogue
from harness_envs.webshop.goals import KINDS, Goal, Goals, Kind
from harness_envs.webshop.reward import Rules, reward
from harness_envs.webshop.search import FORMAT, Index, build

BUILTIN_SPLITS = ("train", "dev", "valid")
#: Larger catalogues keep their search index on disk.
INDEX_ON_DISK = 50_000

_OPENING = threading.Lock()


class Shop:
    """Products with what is derived from them. ``builtin``: ids name products, not positions;
    ``index_on_disk``: from how many products on the search index is kept in the cache folder."""

    def __init__(
        self, catalogue: Catalogue, builtin: bool = False, index_on_disk: int = INDEX_ON_DISK
    ) -> None:
        self.catalogue = catalogue
        self.builtin = builtin
        self._index_on_disk = index_on_disk
        self._goals: dict[tuple[str, int], Goals] = {}
        self._splits: dict[int, dict[str, dict[str, int]]] = {}
        self._digests: dict[tuple[str, int], bytes] = {}
        self._building = threading.Lock()

    @property
    def engine(self) -> Index:
        """The search index, built when first asked."""
        with self._building:
            return self._engine

    def search(self, query: str, k: int) -> list[str]:
        return self.engine.search(query, k)

    @cached_property
    def _engine(self) -> Index:
        products = sorted(self.catalogue.products, key=lambda product: product.asin)
        documents = ((product.asin, product.document) for product in products)
        if len(products) < self._index_on_disk:
            return build(documents)
        name = f"index-{FORMAT}-{self.catalogue.digest}"
        return build(documents, files.cache_folder() / name)

    def goals(self, kind: Kind, goal_seed: int) -> Goals:
        key = (kind, goal_seed)
        if key not in self._goals:
            self._goals[key] = Goals(self.catalogue, kind, goal_seed)
        return self._goals[key]

    # Task ids -----------------------------------------------------------------------------

    def task_ids(self, split: str, goal_seed: int) -> Sequence[str]:
        """``valid/<asin>-<n>`` of the built-in shop, else ``synthetic/<i>``, ``human/<i>``."""
        if self.builtin:
            if split not in BUILTIN_SPLITS:
                raise ConfigError(unknown("split of built-in WebShop", split, BUILTIN_SPLITS))
            return list(self._by_id(goal_seed)[split])
        return [f"{split}/{index}" for index in range(len(self._kind(split, goal_seed)))]

    def goal(self, task_id: str, goal_seed: int) -> Goal:
        split, _, name = task_id.partition("/")
        if self.builtin:
            known = self._by_id(goal_seed).get(split, {})
            if task_id not in known:
                raise ConfigError(
                    unknown("WebShop task", task_id, self._some_ids(split, goal_seed))
                )
            return self.goals("synthetic", goal_seed)[known[task_id]]
        goals = self._kind(split, goal_seed)
        if not name.isdecimal() or not name.isascii() or not int(name) < len(goals):
            raise ConfigError(
                f"Unknown WebShop task '{task_id}': this data have {split}/0 to "
                f"{split}/{len(goals) - 1}."
            )
        return goals[int(name)]

    def drawn(self, split: str, goal_seed: int, uniform: float) -> int:
        """The goal of official data that the original draws by ``uniform``, in [0, 1)."""
        return self._kind(split, goal_seed).drawn(uniform)

    def _kind(self, split: str, goal_seed: int) -> Goals:
        for kind in KINDS:
            if split == kind:
                goals = self.goals(kind, goal_seed)
                if not goals:
                    raise ConfigError(f"These WebShop data have no {kind} goals.")
                return goals
        raise ConfigError(unknown("split of WebShop data", split, KINDS))

    def _by_id(self, goal_seed: int) -> dict[str, dict[str, int]]:
        """Split -> task id -> index of its goal, in the goals' own (mixed) order."""
        if goal_seed not in self._splits:
            split_of = importlib.import_module("harness_envs.webshop.builtin").split_of
            goals = self.goals("synthetic", goal_seed)
            splits: dict[str, dict[str, int]] = {split: {} for split in BUILTIN_SPLITS}
            for index in range(len(goals)):
                asin, number = goals.source(index)
                split = split_of(asin)
                splits[split][f"{split}/{asin}-{number}"] = index
            self._splits[goal_seed] = splits
        return self._splits[goal_seed]

    def _some_ids(self, split: str, goal_seed: int) -> Sequence[str]:
        splits = self._by_id(goal_seed)
        return [id_ for name in ([split] if split in splits else splits) for id_ in splits[name]]

    # What tasks are made of ---------------------------------------------------------------

    def content_hash(self, goal: Goal, goal_seed: int) -> str:
        """A goal, and the products (with nouns and prices drawn) that it is played among."""
        key = (goal.kind, goal_seed)
        if key not in self._digests:
            prices = msgspec.json.encode(self.goals(*key).prices)
            whole = hashlib.sha256(self.catalogue.digest.encode() + prices)
            self._digests[key] = whole.digest()
        body = msgspec.json.encode(goal)
        return hashlib.sha256(self._digests[key] + body).hexdigest()[:16]

    def prices(self, goal_seed: int) -> Mapping[str, float]:
        return self.goals("synthetic", goal_seed).prices


def open_shop(data: str, nouns: str | None = None) -> Shop:
    """``"builtin"``, or a folder or product file; whatever thread asks, one shop a place."""
    with _OPENING:
        return _open_shop(data, nouns)


@cache
def _open_shop(data: str, nouns: str | None) -> Shop:
    if data == "builtin":
        products, attributes, known = importlib.import_module(
            "harness_envs.webshop.builtin"
        ).records()
        return Shop(Catalogue.from_records(products, attributes, nouns=known), builtin=True)
    place = Path(data).expanduser()
    return Shop(files.load(place, Path(nouns).expanduser() if nouns else None))


def unattainable(
    shop: Shop, kind: Kind = "synthetic", rules: Rules = "faithful", goal_seed: int = GOAL_SEED
) -> list[int]:
    """Indices of the goals whose own product with the options asked for earns less than 1.0.

    Of the 1000-product set's 6,910 generated goals ``"faithful"`` leaves 458, ``"fixed"`` none.
    """
    goals = shop.goals(kind, goal_seed)
    products, found = shop.catalogue.by_asin, []
    for goal in goals:
        target, price = products[goal.asin], goals.prices[goal.asin]
        if reward(target, chosen(goal), price, goal, target, rules).reward < 1.0:
            found.append(goal.index)
    return found


def chosen(goal: Goal) -> dict[str, str]:
    """The options a goal asks for as if clicked; of a person's words the names do not matter."""
    if isinstance(goal.options, dict):
        return dict(goal.options)
    return {str(number): value for number, value in enumerate(goal.options)}

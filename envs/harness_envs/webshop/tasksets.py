"""WebShop's named task sets: of the built-in shop, of the official 1000-product set, of a server.

Products and content hashes of that set's goals are in ``official_goals.tsv.xz``, written by
``make_official``: a set is complete without its data, which are needed to play it.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from harness.tasksets import TaskSet
from harness.types import Task
from harness_envs.webshop.catalogue import GOAL_SEED
from harness_envs.webshop.shop import BUILTIN_SPLITS, open_shop

ENV = "webshop"
#: Actions an agent has; those of others are in ``protocols``.
MAX_STEPS = 15
SMALL = 500
#: Goals of a server: its sessions ``fixed_0`` .. ``fixed_499``, which published runs are made on.
SERVED = "served"
N_SERVED = 500


@cache
def official_goals() -> dict[str, tuple[str, str]]:
    """Task id -> (asin, content hash) of the 1000-product set's 6,910 + 13 goals."""
    packed = (files("harness_envs.webshop") / "official_goals.tsv.xz").read_bytes()
    rows = [line.split("\t") for line in lzma.decompress(packed).decode().splitlines()]
    return {task_id: (asin, content) for task_id, asin, content in rows}


def group(task_id: str) -> str:
    """The product: all goals of one differ only in options and price cap.

    Ids of official data tell positions alone, so those that the 1000-product set has are read as
    its own, whatever data are played; any other, and a server's, is a group of its own.
    """
    split, _, name = task_id.partition("/")
    if split in BUILTIN_SPLITS:
        return f"builtin/{name.rpartition('-')[0]}"
    return official_goals().get(task_id, (task_id, ""))[0]


def _small(name: str) -> TaskSet:
    return _official(name, [f"synthetic/{index}" for index in range(SMALL)])


def _small_rest(name: str) -> TaskSet:
    """Generated goals of the products that ``small-500`` does not ask for."""
    out = {group(f"synthetic/{index}") for index in range(SMALL)}
    known = official_goals()
    ids = [id_ for id_, (asin, _) in known.items() if id_.startswith("synth") and asin not in out]
    return _official(name, ids)


def _human(name: str) -> TaskSet:
    return _official(name, [id_ for id_ in official_goals() if id_.startswith("human/")])


def _served(name: str) -> TaskSet:
    """Goals whose content only the server knows that they are played on."""
    ids = [f"{SERVED}/{index}" for index in range(N_SERVED)]
    return _set(name, ids, dict.fromkeys(ids, ""), {"backend": "http"})


def _official(name: str, ids: Sequence[str]) -> TaskSet:
    return _set(name, ids, {id_: content for id_, (_, content) in official_goals().items()})


def _builtin(name: str, split: str) -> TaskSet:
    shop = open_shop("builtin")
    ids = shop.task_ids(split, GOAL_SEED)
    content = {id_: shop.content_hash(shop.goal(id_, GOAL_SEED), GOAL_SEED) for id_ in ids}
    return _set(name, ids, content)


def _set(
    name: str,
    ids: Sequence[str],
    content: Mapping[str, str],
    options: Mapping[str, Any] = MappingProxyType({"goal_seed": GOAL_SEED, "rules": "faithful"}),
) -> TaskSet:
    return TaskSet.make(
        f"{ENV}/{name}",
        ENV,
        [Task(ENV, id_.split("/")[0], id_) for id_ in ids],
        max_steps=MAX_STEPS,
        content=content,
        options=dict(options),
        success="reward 1.0",
        reference="expert",
    )


#: The first is the default: it needs no data.
TASK_SETS: dict[str, Callable[[], TaskSet]] = {
    "webshop/builtin-valid": partial(_builtin, "builtin-valid", "valid"),
    "webshop/builtin-dev": partial(_builtin, "builtin-dev", "dev"),
    "webshop/builtin-train": partial(_builtin, "builtin-train", "train"),
    "webshop/small-500": partial(_small, "small-500"),
    "webshop/small-rest": partial(_small_rest, "small-rest"),
    "webshop/small-human": partial(_human, "small-human"),
    "webshop/served-500": partial(_served, "served-500"),
}

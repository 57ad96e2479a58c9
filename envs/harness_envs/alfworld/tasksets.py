"""ALFWorld's named task sets: of the built-in games, and of the official ones.

Ids and content hashes of the official games (release 2.1.2) are in ``official_games.tsv.xz``, the
task folders held out of train in ``holdout-1000.txt`` and ``dev-200.txt``; ``make_splits`` writes
all three. ``agentbench-50.txt`` and ``agentbench-fc-93.txt`` are AgentBench's own choice. A set is
complete without its games: those are needed to play it.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Sequence
from functools import cache, partial
from importlib.resources import files

from harness.tasksets import TaskSet
from harness.types import Task
from harness_envs.alfworld.game import group
from harness_envs.alfworld.games import BuiltinGames

ENV = "alfworld"
#: Steps an agent has; those of others are in ``protocols``.
MAX_STEPS = 40
HELD_OUT = ("holdout-1000", "dev-200")


@cache
def official_games() -> dict[str, str]:
    """Task id -> content hash of the 4,027 games of train, valid_train, valid_seen and _unseen."""
    packed = (files("harness_envs.alfworld") / "official_games.tsv.xz").read_bytes()
    lines = lzma.decompress(packed).decode().splitlines()
    return dict(line.split("\t") for line in lines)


def held_out_folders(name: str) -> frozenset[str]:
    """Task folders of ``holdout-1000`` or ``dev-200``, e.g. ``train/pick_..-Mug-None-Desk-301``."""
    return _listed(name)


def _listed(name: str) -> frozenset[str]:
    text = (files("harness_envs.alfworld") / f"{name}.txt").read_text(encoding="utf-8")
    return frozenset(line for line in text.splitlines() if line and not line.startswith("#"))


def _official(name: str, split: str) -> TaskSet:
    return _official_set(name, [id_ for id_ in official_games() if id_.startswith(f"{split}/")])


def _held_out(name: str) -> TaskSet:
    folders = held_out_folders(name)
    train = [id_ for id_ in official_games() if id_.startswith("train/")]
    return _official_set(name, [id_ for id_ in train if group(id_) in folders])


def _agentbench(name: str) -> TaskSet:
    """The games of valid_unseen that a version of AgentBench tests on."""
    return _official_set(name, sorted(_listed(name)))


def _real_train() -> TaskSet:
    out = frozenset[str]().union(*map(held_out_folders, HELD_OUT))
    train = [id_ for id_ in official_games() if id_.startswith("train/") and group(id_) not in out]
    return _official_set("real-train", train)


def _official_set(name: str, ids: Sequence[str]) -> TaskSet:
    known = official_games()
    # By content hash: mixed, so that a slice of a set holds every task type.
    return _set(name, sorted(ids, key=lambda id_: (known[id_], id_)), known)


def _builtin(name: str, split: str) -> TaskSet:
    games = BuiltinGames()
    ids = games.ids(split)
    return _set(name, ids, {id_: games.content_hash(id_) for id_ in ids})


def _set(name: str, ids: Sequence[str], content: dict[str, str]) -> TaskSet:
    return TaskSet.make(
        f"{ENV}/{name}",
        ENV,
        [Task(ENV, id_.split("/")[0], id_) for id_ in ids],
        max_steps=MAX_STEPS,
        content=content,
        options={"aliases": False},
        success="the problem's goal holds",
        reference="expert",
    )


#: The first is the default: it needs no data.
TASK_SETS: dict[str, Callable[[], TaskSet]] = {
    "alfworld/builtin-valid": partial(_builtin, "builtin-valid", "valid"),
    "alfworld/builtin-seen": partial(_builtin, "builtin-seen", "valid_seen"),
    "alfworld/builtin-unseen": partial(_builtin, "builtin-unseen", "valid_unseen"),
    "alfworld/builtin-dev": partial(_builtin, "builtin-dev", "dev"),
    "alfworld/builtin-train": partial(_builtin, "builtin-train", "train"),
    "alfworld/seen-140": partial(_official, "seen-140", "valid_seen"),
    "alfworld/unseen-134": partial(_official, "unseen-134", "valid_unseen"),
    "alfworld/holdout-1000": partial(_held_out, "holdout-1000"),
    "alfworld/dev-200": partial(_held_out, "dev-200"),
    "alfworld/real-train": _real_train,
    "alfworld/agentbench-50": partial(_agentbench, "agentbench-50"),
    "alfworld/agentbench-fc-93": partial(_agentbench, "agentbench-fc-93"),
}

"""Writes the resources of ``tasksets``: ``python -m harness_envs.alfworld.make_splits``.

Holds out of the official train split 1,000 and 200 games: whole task folders, drawn by seed and
stratified by task type. A random draw of games would leave a sibling trial of most in train.
``--ids FILE`` first rewrites the list of official games from ``{split: {task id: hash}}`` (JSON,
plain or .xz), the hash being ``game.content_hash``; without it the committed list is used.
"""

from __future__ import annotations

import argparse
import json
import lzma
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from harness_envs.alfworld.game import group, task_type
from harness_envs.alfworld.tasksets import official_games

SEED = 20261124
SIZES = {"holdout-1000": 1000, "dev-200": 200}


def hold_out(ids: Iterable[str], sizes: dict[str, int], seed: int) -> dict[str, list[str]]:
    """Disjoint sorted lists of task folders; the folders of each hold exactly ``size`` games.

    Each type's share is its share of all games, by largest remainder.
    """
    trials: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for id_ in ids:
        trials[task_type(id_)][group(id_)] += 1
    games = {kind: sum(folders.values()) for kind, folders in trials.items()}
    chosen: dict[str, list[str]] = {}
    taken: set[str] = set()
    for name, size in sizes.items():
        chosen[name] = []
        for kind, quota in _quotas(games, size).items():
            folders = sorted(f for f in trials[kind] if f not in taken)
            random.Random(f"{seed}-{name}-{kind}").shuffle(folders)
            for folder in folders:
                if trials[kind][folder] <= quota:
                    quota -= trials[kind][folder]
                    chosen[name].append(folder)
            if quota:
                raise SystemExit(f"{name}: {quota} games of type {kind} short.")
        taken.update(chosen[name])
        chosen[name].sort()
    return chosen


def _quotas(games: dict[str, int], size: int) -> dict[str, int]:
    total = sum(games.values())
    quotas = {kind: size * n // total for kind, n in games.items()}
    by_remainder = sorted(games, key=lambda kind: (-(size * games[kind] % total), kind))
    for kind in by_remainder[: size - sum(quotas.values())]:
        quotas[kind] += 1
    return dict(sorted(quotas.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ids", type=Path, help="JSON of all official ids and hashes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    if arguments.ids:
        opener = lzma.open if arguments.ids.suffix == ".xz" else open
        with opener(arguments.ids, "rb") as file:
            splits = json.load(file)
        known = {
            id_: splits[split][id_] for split in sorted(splits) for id_ in sorted(splits[split])
        }
        text = "".join(f"{id_}\t{digest}\n" for id_, digest in known.items())
        packed = lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)
        (arguments.out / "official_games.tsv.xz").write_bytes(packed)
    else:
        known = official_games()
    train = [id_ for id_ in known if id_.startswith("train/")]
    for name, folders in hold_out(train, SIZES, SEED).items():
        head = f"# Task folders of alfworld/{name}; written by make_splits, seed {SEED}.\n"
        (arguments.out / f"{name}.txt").write_text(head + "\n".join(folders) + "\n")


if __name__ == "__main__":
    main()

"""Writes ``official_goals.tsv.xz``: ``python -m ...webshop.make_official FOLDER [NOUNS]``.

FOLDER holds the 1000-product set. Needed again only when what a content hash covers changes.
"""

from __future__ import annotations

import lzma
import sys
from pathlib import Path

from harness_envs.webshop.catalogue import GOAL_SEED
from harness_envs.webshop.goals import KINDS
from harness_envs.webshop.shop import Shop, open_shop


def table(shop: Shop) -> str:
    """A line a goal: task id, asin, content hash."""
    lines = []
    for kind in KINDS:
        for goal in shop.goals(kind, GOAL_SEED):
            content = shop.content_hash(goal, GOAL_SEED)
            lines.append(f"{kind}/{goal.index}\t{goal.asin}\t{content}\n")
    return "".join(lines)


def main(arguments: list[str]) -> None:
    shop = open_shop(arguments[0], arguments[1] if len(arguments) > 1 else None)
    target = Path(__file__).with_name("official_goals.tsv.xz")
    target.write_bytes(lzma.compress(table(shop).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{target}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Writes ``dev-context.tsv`` and ``react-500.tsv``: ids and hashes of official dev questions, of
what is asked and of the pages that answer it (where the folder tells).

    python -m harness_envs.hotpotqa.make_sets FOLDER

``FOLDER`` holds all 7,405 dev questions, and contexts of some. A question belongs to dev-context if
every page that supports its answer is in its context.
"""

from __future__ import annotations

import html
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from harness_envs.hotpotqa.data import pages_hash
from harness_envs.hotpotqa.env import HotPotQAEnv
from harness_envs.hotpotqa.pages import is_data, records

_HERE = Path(__file__).parent


class _WithContext(msgspec.Struct):
    question: str
    supporting_facts: list[tuple[str, int]] = []
    context: list[tuple[str, list[str]]] = []


def with_gold(folder: Path) -> set[str]:
    """Dev questions whose context holds every supporting page."""
    found = set()
    for path in folder.iterdir():
        if is_data(path) and path.name.startswith(("dev", "hotpot_dev")):
            for raw in records(path):
                record = msgspec.json.decode(raw, type=_WithContext)
                wanted = {html.unescape(title) for title, _ in record.supporting_facts}
                if wanted and wanted <= {html.unescape(title) for title, _ in record.context}:
                    found.add(record.question)
    return found


def react_500() -> Sequence[int]:
    """Indices of the dev questions that ReAct played (hotpotqa.ipynb), in its order."""
    indices = list(range(7405))
    Random(233).shuffle(indices)
    return indices[:500]


def main(folder: Path) -> None:
    env = HotPotQAEnv(data=folder, backend="wikipedia")
    tasks = env.questions.tasks("dev")
    gold = with_gold(folder)
    sets = {
        "dev-context": [id_ for id_, question in tasks.items() if question.question in gold],
        "react-500": [f"dev/{index}" for index in react_500()],
    }
    for name, ids in sets.items():
        rows = [(id_, env.content_hash(id_), pages_hash(tasks[id_]) or "-") for id_ in ids]
        text = "".join("\t".join(row) + "\n" for row in rows)
        (_HERE / f"{name}.tsv").write_text(text, encoding="utf-8")
        print(f"{name}: {len(ids)} questions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

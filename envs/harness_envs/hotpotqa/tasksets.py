"""HotPotQA's named task sets: of the built-in questions, and of the official dev questions.

``dev-context.tsv`` and ``react-500.tsv`` hold task ids, content hashes and, where they are known,
hashes of the pages that answer (``data.pages_hash``; else a dash); ``make_sets`` writes them. A set
is complete without its questions: those are needed to play it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from importlib.resources import files
from typing import Any

from harness.tasksets import TaskSet
from harness.types import Task
from harness_envs.hotpotqa.data import content_hash, open_data

ENV = "hotpotqa"
#: Steps an agent has on our sets, and as ReAct's paper gives them.
MAX_STEPS, REACT_STEPS = 10, 7
#: Fingerprint of the 17,028 introductions that the contexts at hand make up.
DEV_CONTEXT_PAGES = "e282bcc75e114fd6"


def _builtin(split: str) -> TaskSet:
    data = open_data("builtin")
    content = {id_: content_hash(question) for id_, question in data.tasks(split).items()}
    options = {"backend": "corpus", "corpus_hash": data.corpus(split).fingerprint}
    return _set(f"builtin-{split}", content, MAX_STEPS, options)


def _dev_context() -> TaskSet:
    options = {"backend": "corpus", "corpus_hash": DEV_CONTEXT_PAGES}
    return _set("dev-context", _listed("dev-context.tsv"), MAX_STEPS, options)


def _react_500() -> TaskSet:
    return _set("react-500", _listed("react-500.tsv"), REACT_STEPS, {"backend": "wikipedia"})


def gold_pages(task_id: str) -> str:
    """``data.pages_hash`` of a question of the listed sets, where it is known; else nothing."""
    return _gold_pages().get(task_id, "")


@cache
def _gold_pages() -> dict[str, str]:
    rows = [*_rows("dev-context.tsv"), *_rows("react-500.tsv")]
    return {id_: pages for id_, _, pages in rows if pages != "-"}


def _listed(name: str) -> dict[str, str]:
    return {id_: content for id_, content, _ in _rows(name)}


def _rows(name: str) -> Iterator[tuple[str, str, str]]:
    text = (files("harness_envs.hotpotqa") / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        id_, content, pages = line.split("\t")
        yield id_, content, pages


def _set(
    name: str, content: Mapping[str, str], max_steps: int, options: Mapping[str, Any]
) -> TaskSet:
    return TaskSet.make(
        f"{ENV}/{name}",
        ENV,
        [Task(ENV, id_.split("/")[0], id_) for id_ in content],
        max_steps=max_steps,
        content=content,
        options={**options, "aliases": False},
        success="exact match of the normalised answer",
        reference="expert",
    )


#: The first is the default: it needs no data.
TASK_SETS: dict[str, Callable[[], TaskSet]] = {
    "hotpotqa/builtin-valid": partial(_builtin, "valid"),
    "hotpotqa/builtin-dev": partial(_builtin, "dev"),
    "hotpotqa/builtin-train": partial(_builtin, "train"),
    "hotpotqa/dev-context": _dev_context,
    "hotpotqa/react-500": _react_500,
}

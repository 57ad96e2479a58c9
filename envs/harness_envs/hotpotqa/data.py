"""HotPotQA's questions, and where they are read from.

A folder of data may hold, in any mix and each plain or packed (``.gz``, ``.xz``, ``.bz2``):

- the official files ``hotpot_train_v1.1.json``, ``hotpot_dev_distractor_v1.json``,
  ``hotpot_dev_fullwiki_v1.json``;
- ReAct's simplified ones, ``hotpot_dev_v1_simplified.json``;
- questions a line, ``<split>*.jsonl``, with the fields of the official files (``hotpot_id`` or
  ``_id``, and ``dev_index`` where the place in the official order is known);
- pages, ``wiki_*.jsonl`` or ``pages*.jsonl`` (module ``pages``). Without any, the pages are those
  of the questions' contexts.

Task ids are ``<split>/<index>`` where the official order is known (a complete official or
simplified file tells it), else ``<split>/<hotpot id>``; ``<split>/b<n>`` are the built-in ones.
"""

from __future__ import annotations

import hashlib
import html
import importlib
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Protocol

import msgspec

from harness import official
from harness.errors import ConfigError, DataError, unknown
from harness_envs.hotpotqa.corpus import Corpus
from harness_envs.hotpotqa.pages import READING, is_data, plain_name, read_pages, records
from harness_envs.hotpotqa.records import Page, Question, Redirect

#: Questions of the official splits; a file of as many has them in the official order.
OFFICIAL = {"train": 90_447, "dev": 7_405, "test": 7_405}
BUILTIN_SPLITS = ("train", "dev", "valid")
REMEDY = "Get the official files with: harness fetch hotpotqa"

_SPLIT = re.compile(r"\A(?:hotpot_)?(train|dev|valid|test)(?![a-z])")
_PAGES = re.compile(r"\A(?:wiki|pages|corpus|redirects)")
_BUILTIN_ID = re.compile(r"\A(?:train|dev|valid)/b\d+\Z")
_LOCK = threading.RLock()


class Questions(Protocol):
    """A source of questions. ``tasks`` maps task ids to questions, in the order of the split."""

    def splits(self) -> Sequence[str]: ...

    def tasks(self, split: str) -> Mapping[str, Question]: ...

    def corpus(self, split: str) -> Corpus:
        """The pages that come with the questions."""
        ...


def open_data(data: str) -> Questions:
    """``"builtin"``, a folder or a file; one source a process, whatever thread asks."""
    with _LOCK:
        return _open_data(data)


@cache
def _open_data(data: str) -> Questions:
    return BuiltinQuestions() if data == "builtin" else FileQuestions(Path(data).expanduser())


def is_builtin(task_id: str) -> bool:
    """Whether an id is one of a built-in question."""
    return bool(_BUILTIN_ID.match(task_id))


def group(task_id: str) -> str:
    """What must not be split across training and evaluation: for built-in questions the entities
    they are about, else the question."""
    if not is_builtin(task_id):
        return task_id
    question = open_data("builtin").tasks(task_id.split("/")[0]).get(task_id)
    return f"builtin/{question.group or question.id}" if question else f"builtin/{task_id}"


def gold_pages(task_id: str) -> str:
    """``pages_hash`` of an official question, where the environment variables name its file and it
    tells; else nothing."""
    folder = official.folder("hotpotqa")
    if is_builtin(task_id) or folder is None or not folder.is_dir():
        return ""
    questions, split = open_data(str(folder)), task_id.partition("/")[0]
    found = questions.tasks(split).get(task_id) if split in questions.splits() else None
    return pages_hash(found) if found is not None else ""


def pages_hash(question: Question) -> str:
    """12 hex digits of the pages that answer a question, whichever of their facts it needs; nothing
    where the file does not tell. Questions over the same pages share what is to be read."""
    titles = sorted({title for title, _ in question.supporting})
    return hashlib.sha256("\0".join(titles).encode()).hexdigest()[:12] if titles else ""


def content_hash(question: Question) -> str:
    """16 hex digits of question and answer, as task sets say them."""
    text = f"{question.question}\0{question.answer}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


class BuiltinQuestions:
    """Questions and pages that come with this project."""

    def __init__(self) -> None:
        self._module = importlib.import_module("harness_envs.hotpotqa.builtin")
        self._tasks: dict[str, dict[str, Question]] = {split: {} for split in BUILTIN_SPLITS}
        for question in self._module.questions():
            tasks = self._tasks[question.split]
            tasks[f"{question.split}/b{len(tasks)}"] = question
        self._corpus: Corpus | None = None

    def splits(self) -> Sequence[str]:
        return BUILTIN_SPLITS

    def tasks(self, split: str) -> Mapping[str, Question]:
        if split not in self._tasks:
            raise ConfigError(unknown("split of built-in HotPotQA", split, self._tasks))
        return self._tasks[split]

    def corpus(self, split: str) -> Corpus:
        with _LOCK:
            if self._corpus is None:
                self._corpus = Corpus.build(self._module.pages())
            return self._corpus


class FileQuestions:
    """Questions of a folder, or of one file."""

    def __init__(self, root: Path) -> None:
        if root.is_file():
            files = [root]
        elif root.is_dir():
            files = sorted(p for p in root.iterdir() if p.is_file() and is_data(p))
        else:
            raise DataError(
                f"HotPotQA data: there is no '{root}'. Name the folder (or file) of the questions "
                f"with data=.\n  {REMEDY}"
            )
        self.root = root
        self._pages = [p for p in files if _PAGES.match(p.name)]
        self._files: dict[str, list[Path]] = {}
        for path in sorted(files, key=_rank):
            split = _SPLIT.match(path.name)
            if split:
                self._files.setdefault(split[1], []).append(path)
        if not self._files:
            raise DataError(
                f"HotPotQA data: '{root}' holds no questions: no file is called hotpot_<split>_* "
                f"or <split>*.json[l].{official.inside(root, 'hotpotqa')}\n  {REMEDY}"
            )
        self._tasks: dict[str, dict[str, Question]] = {}
        self._corpora: dict[str, Corpus] = {}

    def splits(self) -> Sequence[str]:
        return sorted(self._files)

    def tasks(self, split: str) -> Mapping[str, Question]:
        if split not in self._files:
            known = self.splits()
            raise ConfigError(unknown(f"split of HotPotQA data in '{self.root}'", split, known))
        with _LOCK:
            if split not in self._tasks:
                self._tasks[split] = read_split(self._files[split], split)
            return self._tasks[split]

    def corpus(self, split: str) -> Corpus:
        """The folder's pages, else those of the contexts of the split's questions."""
        key = "" if self._pages else split
        with _LOCK:
            if key not in self._corpora:
                files = self._pages or self._files.get(split, [])
                self._corpora[key] = _corpus(files, self.root)
            return self._corpora[key]


def _corpus(files: Sequence[Path], root: Path) -> Corpus:
    def pages() -> Iterator[Page | Redirect]:
        seen: set[str] = set()
        for path in files:
            for page in read_pages(path):
                if page.title not in seen:
                    seen.add(page.title)
                    yield page

    found = pages()
    first = next(found, None)
    if first is None:
        raise DataError(
            f"HotPotQA data in '{root}' comes without pages: name some with corpus=, or play on "
            f"Wikipedia with backend='wikipedia'.\n  {REMEDY}"
        )
    return Corpus.build(chain([first], found))


def _rank(path: Path) -> tuple[int, str]:
    """Which file's order counts, where several are complete: the distractor file's first."""
    kinds = ("distractor", "train_v1", "simplified", "fullwiki")
    return next((i for i, kind in enumerate(kinds) if kind in path.name), len(kinds)), path.name


class _Record(msgspec.Struct):
    question: str | None = None
    answer: str | None = None
    type: str | None = None
    level: str | None = None
    official: str | None = msgspec.field(name="_id", default=None)
    #: Some collections number their questions here instead.
    hotpot_id: str | int | None = None
    dev_index: int | None = None
    supporting_facts: list[tuple[str, int]] = []


def read_split(files: Sequence[Path], split: str) -> dict[str, Question]:
    """Questions of a split by task id, from one or more files that may tell of the same ones.

    Raises:
        DataError: a question without an answer or otherwise unreadable, or two records that
            disagree; names the file and the record.
    """
    tasks: dict[str, Question] = {}
    #: Question -> its task id, and the file that told it first.
    by_text: dict[str, tuple[str, Path]] = {}
    for path in files:
        found = list(_read(path))
        ordered = plain_name(path.name).endswith(".json") and len(found) == OFFICIAL.get(split)
        for place, record in enumerate(found):
            question = _question(record, split)
            if question.question not in by_text:
                index = place if ordered else record.dev_index if split == "dev" else None
                name = question.id if index is None else str(index)
                known = f"{split}/{name}"
                by_text[question.question] = known, path
                if known in tasks:
                    raise DataError(f"{path}: record {place + 1}: a second question has the id "
                                    f"'{known}'.")  # fmt: skip
                tasks[known] = question
                continue
            known, first = by_text[question.question]
            where = f"{path}: record {place + 1}"
            tasks[known] = _merged(tasks[known], question, where, first)
    # Not before: another file may have told the type.
    return {
        id_: question if question.type else msgspec.structs.replace(question, type="bridge")
        for id_, question in tasks.items()
    }


def _id(record: _Record) -> str:
    """The hotpot id that a record tells, or nothing."""
    return record.hotpot_id if isinstance(record.hotpot_id, str) else record.official or ""


def _question(record: _Record, split: str) -> Question:
    text = record.question or ""
    return Question(
        id=_id(record) or _text_id(text),
        split=split,
        question=text,
        answer=record.answer or "",
        type=record.type or "",
        level=record.level or "",
        supporting=tuple((html.unescape(t), i) for t, i in record.supporting_facts),
    )


def _read(path: Path) -> Iterator[_Record]:
    decoder = msgspec.json.Decoder(_Record)
    try:
        for number, raw in enumerate(records(path), 1):
            where = f"{path}: record {number}"
            try:
                record = decoder.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise DataError(f"{where} is not a question: {error}.\n  {REMEDY}") from None
            where += f" ({_id(record)})" if _id(record) else ""
            if not (record.question or "").strip():
                raise DataError(f"{where} has no 'question'.\n  {REMEDY}")
            if not (record.answer or "").strip():
                raise DataError(
                    f"{where} has no 'answer', so it cannot be scored (the official test files "
                    f"carry none).\n  {REMEDY}"
                )
            yield record
    except READING as error:
        raise DataError(f"{path}: cannot be read: {error}.\n  {REMEDY}") from error


def _text_id(question: str) -> str:
    """An id for a question that has none, of a hotpot id's form."""
    return hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:24]


def _merged(one: Question, other: Question, where: str, first: Path) -> Question:
    """What two records tell of one question; ``first``: the file of the earlier one."""
    if one.answer != other.answer:
        raise DataError(
            f"{where} answers '{other.answer}' where an earlier record of the question, in "
            f"{first}, says '{one.answer}'. Keep one of the two."
        )
    own_id = one.id != _text_id(one.question)
    return msgspec.structs.replace(
        one,
        id=one.id if own_id else other.id,
        type=one.type or other.type,
        level=one.level or other.level,
        supporting=one.supporting or other.supporting,
    )

"""ALFWorld games: the record of one, and where they are read from.

A folder of data may hold, in any mix, ``json_2.1.1/<split>/<type-...>/<trial>/game.tw-pddl`` (the
official release; the folder may also be ``json_2.1.1`` itself), ``<split>.jsonl[.xz|.gz]`` (packed:
a game a line) and ``*<split>.tar.xz`` (the official layout, archived). One game is opened without
parsing the others.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import lzma
import os
import re
import tarfile
import tempfile
import threading
import weakref
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import msgspec

from harness.errors import ConfigError, DataError, unknown

Grammar = Literal["move", "put"]
GAME_FILE = "game.tw-pddl"
RELEASE = "json_2.1.1"
_TASK = re.compile(r"Your task is to: ([^\n\"]*)")
_LINE_ID = re.compile(rb'\A\s*\{\s*"id"\s*:\s*"([^"\\]+)"')
_OPENING = threading.Lock()
_REMEDY = "Get the games again with: harness fetch alfworld"


class Game(msgspec.Struct, frozen=True):
    """One game. ``grammar`` says which verb puts an object down: ``move X to Y`` (0.4 and later)
    or ``put X in/on Y`` (0.2 and 0.3, the grammar of all published ReAct prompts)."""

    id: str
    #: What follows "Your task is to: ", with its full stop.
    task: str
    pddl_problem: str
    #: The planner's solution, in the game's own grammar.
    walkthrough: tuple[str, ...]
    task_type: str
    grammar: Grammar = "move"
    solvable: bool = True


def task_type(task_id: str) -> str:
    """``train/pick_and_place_simple-Mug-None-Desk-301/trial_...`` -> ``pick_and_place_simple``."""
    return group(task_id).split("/")[-1].split("-")[0]


#: Official trials are named by date, ``trial_T2019...``.
BUILTIN_TRIAL = "trial_B"


def group(task_id: str) -> str:
    """The task folder: trials in it differ only in where things lie.

    A built-in game's is marked: its rooms share numbers with official ones and are other rooms.
    The official ``valid_train`` holds games of train's own folders, which therefore are its groups.
    Other splits keep theirs: by ALFWorld's design ``valid_seen`` shares tasks and rooms with train.
    """
    folder, _, trial = task_id.rpartition("/")
    if trial.startswith(BUILTIN_TRIAL):
        return f"builtin/{folder}"
    split, _, name = folder.partition("/")
    return f"train/{name}" if split == "valid_train" else folder


def content_hash(game: Game) -> str:
    """First 16 hex digits of the sha256 of the problem, surrounding space dropped.

    The older grammar counts too: a set of tasks in it is another set.
    """
    older = "put X in/on Y\n" if game.grammar == "put" else ""
    return hashlib.sha256((older + game.pddl_problem.strip()).encode()).hexdigest()[:16]


def detect_grammar(text: str) -> Grammar:
    """Which of the two grammars a game's grammar text is."""
    return "put" if re.search(r"put \{o\} in/on \{r\}", text) else "move"


def to_json(game: Game, domain: str, grammar: str) -> dict[str, Any]:
    """The official ``game.tw-pddl`` content; ``grammar`` holds the placeholder UNKNOWN GOAL."""
    placed, n = re.subn(r"(Your task is to: )UNKNOWN GOAL\.?", lambda m: m[1] + game.task, grammar)
    if n != 1:
        raise DataError("The grammar text has no line 'Your task is to: UNKNOWN GOAL'.")
    return {
        "pddl_domain": domain,
        "grammar": placed,
        "pddl_problem": game.pddl_problem,
        "walkthrough": list(game.walkthrough),
        "solvable": game.solvable,
    }


def from_json(raw: bytes, task_id: str, where: str) -> Game:
    """Read a ``game.tw-pddl`` or a packed line; ``where`` is its file (and line)."""
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}.\n  {_REMEDY}") from None
    if not isinstance(data, dict):
        raise DataError(f"{where}: holds a {type(data).__name__}, not an object.\n  {_REMEDY}")
    problem = _field(data, "pddl_problem", str, where)
    walkthrough = _field(data, "walkthrough", list, where)
    grammar: Grammar = "move"
    if "grammar" in data:
        text = _field(data, "grammar", str, where)
        grammar = detect_grammar(text)
        found = _TASK.search(text)
        if found is None:
            raise DataError(
                f"{where}: field 'grammar' has no 'Your task is to: ' line.\n  {_REMEDY}"
            )
        task = found[1]
    else:
        task = _field(data, "task", str, where)
    return Game(
        id=task_id,
        task=task,
        pddl_problem=problem,
        walkthrough=tuple(map(str, walkthrough)),
        task_type=str(data.get("task_type") or task_type(task_id)),
        grammar=grammar,
        solvable=bool(data.get("solvable", True)),
    )


def _field(data: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if name not in data:
        raise DataError(f"{where}: field '{name}' is missing.\n  {_REMEDY}")
    if not isinstance(data[name], kind):
        found = type(data[name]).__name__
        raise DataError(
            f"{where}: field '{name}' is a {found}, expected a {kind.__name__}.\n  {_REMEDY}"
        )
    return data[name]


class Games(Protocol):
    """A source of games."""

    def splits(self) -> Sequence[str]: ...

    def ids(self, split: str) -> Sequence[str]: ...

    def game(self, task_id: str) -> Game: ...

    def content_hash(self, task_id: str) -> str: ...


def open_games(data: str) -> Games:
    """``"builtin"`` or a folder; one source a process and folder, whatever thread asks."""
    with _OPENING:
        return _open_games(data)


@cache
def _open_games(data: str) -> Games:
    return BuiltinGames() if data == "builtin" else FolderGames(Path(data).expanduser())


class BuiltinGames:
    """Games that this project generates itself."""

    def __init__(self) -> None:
        self._module = importlib.import_module("harness_envs.alfworld.builtin")

    def splits(self) -> Sequence[str]:
        return ("train", "dev", "valid_seen", "valid_unseen", "valid")

    def ids(self, split: str) -> Sequence[str]:
        if split not in self.splits():
            raise ConfigError(unknown("split of built-in ALFWorld", split, self.splits()))
        if split == "valid":
            return [*self._module.ids("valid_seen"), *self._module.ids("valid_unseen")]
        found: Sequence[str] = self._module.ids(split)
        return found

    def game(self, task_id: str) -> Game:
        found: Game = self._module.game(task_id)
        return found

    def content_hash(self, task_id: str) -> str:
        key = f"{self._module.VERSION}:{task_id}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]


class FolderGames:
    """Games of a data folder, in any of the layouts above."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                f"ALFWorld data: '{root}' is not a folder. Point data= at the folder that holds "
                f"'{RELEASE}' or '<split>.jsonl.xz'.\n  {_REMEDY}"
            )
        self.root = root
        self._layout = root / RELEASE if (root / RELEASE).is_dir() else root
        self._packed: dict[str, PackedSplit] = {}
        self._expanding = threading.Lock()
        self._folders = sorted(p.name for p in self._layout.iterdir() if _holds_tasks(p))
        self._listed: dict[str, list[str]] = {}
        self._files: dict[str, Path] = {}
        for suffix in (".tar.xz", ".jsonl.gz", ".jsonl.xz", ".jsonl"):
            for path in sorted(root.glob(f"*{suffix}")):
                name = path.name.removesuffix(suffix)
                self._files[name.removeprefix(f"{RELEASE}-")] = path
        if not self._folders and not self._files:
            raise DataError(
                f"ALFWorld data: '{root}' holds no games: neither '{RELEASE}/<split>/<task>/<trial>"
                f"/{GAME_FILE}' nor '<split>.jsonl[.xz|.gz]'.\n  {_REMEDY}"
            )

    def splits(self) -> Sequence[str]:
        return sorted({*self._folders, *self._files})

    def ids(self, split: str) -> Sequence[str]:
        """All ids of a split, sorted; reads no game. A folder is listed once: it may be large."""
        if split in self._folders:
            if split not in self._listed:
                found = (self._layout / split).glob(f"*/*/{GAME_FILE}")
                names = (f"{split}/{p.parent.parent.name}/{p.parent.name}" for p in found)
                self._listed[split] = sorted(names)
            return self._listed[split]
        if split in self._files:
            return self._split(split).ids()
        raise ConfigError(unknown(f"split of ALFWorld data in '{self.root}'", split, self.splits()))

    def game(self, task_id: str) -> Game:
        split = task_id.split("/")[0]
        path = self._layout / task_id / GAME_FILE
        if split in self._folders and task_id.count("/") == 2 and path.is_file():
            return from_json(path.read_bytes(), task_id, str(path))
        if split in self._files and task_id in self._split(split).lines:
            return self._split(split).game(task_id)
        if split not in self.splits():
            raise DataError(
                f"ALFWorld data in '{self.root}' has no split '{split}' (task '{task_id}'); "
                f"it has: {', '.join(self.splits())}.\n  {_REMEDY}"
            )
        raise ConfigError(unknown("ALFWorld task", task_id, self.ids(split)))

    def content_hash(self, task_id: str) -> str:
        return content_hash(self.game(task_id))

    def _split(self, split: str) -> PackedSplit:
        with self._expanding:
            if split not in self._packed:
                self._packed[split] = PackedSplit(self._files[split], split)
            return self._packed[split]


def _holds_tasks(path: Path) -> bool:
    """Whether a folder looks like a split: ``<type>-<Object>-<Movable>-<Receptacle>-<scene>``."""
    return path.is_dir() and any(p.name.count("-") == 4 and p.is_dir() for p in path.iterdir())


class PackedSplit:
    """An archive or JSON-lines file of games, expanded once into an unnamed temporary file and
    indexed by task id, so that opening one game decodes one."""

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.split = split
        #: Task id -> (where in the expanded file, length, line number or 0).
        self.lines: dict[str, tuple[int, int, int]] = {}
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with self)
        weakref.finalize(self, self._file.close)
        try:
            for task_id, raw, line in self._games():
                self.lines[task_id] = (self._file.tell(), len(raw), line)
                self._file.write(raw)
        except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{path}: cannot be read: {error}.\n  {_REMEDY}") from error
        self._file.flush()

    def _games(self) -> Iterator[tuple[str, bytes, int]]:
        if self.path.name.endswith(".tar.xz"):
            yield from self._archived()
            return
        opener: Any = {".xz": lzma.open, ".gz": gzip.open}.get(self.path.suffix, open)
        with opener(self.path, "rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    yield self._id(raw, number), raw, number

    def _archived(self) -> Iterator[tuple[str, bytes, int]]:
        with tarfile.open(self.path, "r:xz") as archive:
            for member in archive:
                parts = member.name.split("/")
                content = archive.extractfile(member) if parts[-1] == GAME_FILE else None
                if content is not None and len(parts) >= 4 and parts[-4] == self.split:
                    yield "/".join(parts[-4:-1]), content.read(), 0

    def _id(self, raw: bytes, number: int) -> str:
        found = _LINE_ID.match(raw)
        where = f"{self.path}:{number}"
        try:
            return found[1].decode() if found else str(_field(json.loads(raw), "id", str, where))
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: not a packed game: {error}.\n  {_REMEDY}") from None

    def ids(self) -> Sequence[str]:
        return sorted(self.lines)

    def game(self, task_id: str) -> Game:
        start, length, number = self.lines[task_id]
        # Not seek and read: threads, and processes that were forked, share the file's position.
        raw = os.pread(self._file.fileno(), length, start)
        return from_json(raw, task_id, f"{self.path}:{number}" if number else str(self.path))

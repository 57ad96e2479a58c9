"""Where ALFWorld games are read from.

A folder of data may hold, in any mix, ``json_2.1.1/<split>/<type-...>/<trial>/game.tw-pddl`` (the
official release; the folder may also be ``json_2.1.1`` itself), ``<split>.jsonl[.xz|.gz]`` (packed:
a game a line) and ``*<split>.tar.xz`` (the official layout, archived). One game is opened without
parsing the others. A split lists the games that the original plays (``_is_played``); the others can
still be opened by their ids.
"""

from __future__ import annotations

import gzip
import hashlib
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
from typing import IO, Any, Protocol

from harness import official
from harness.errors import ConfigError, DataError, unknown
from harness_envs.alfworld import builtin
from harness_envs.alfworld.game import REMEDY, Game, content_hash, field, from_json

GAME_FILE = "game.tw-pddl"
RELEASE = "json_2.1.1"
_LINE_ID = re.compile(rb'\A\s*\{\s*"id"\s*:\s*"([^"\\]+)"')
_UNSOLVABLE = re.compile(rb'"solvable"\s*:\s*false\b')
_OPENING = threading.Lock()


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

    def splits(self) -> Sequence[str]:
        return ("train", "dev", "valid_seen", "valid_unseen", "valid")

    def ids(self, split: str) -> Sequence[str]:
        if split not in self.splits():
            raise ConfigError(unknown("split of built-in ALFWorld", split, self.splits()))
        if split == "valid":
            return [*builtin.ids("valid_seen"), *builtin.ids("valid_unseen")]
        return builtin.ids(split)

    def game(self, task_id: str) -> Game:
        return builtin.game(task_id)

    def content_hash(self, task_id: str) -> str:
        key = f"{builtin.VERSION}:{task_id}"
        return hashlib.sha256(key.encode()).hexdigest()[:16]


class FolderGames:
    """Games of a data folder, in any of the layouts above."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                f"ALFWorld data: '{root}' is not a folder. Point data= at the folder that holds "
                f"'{RELEASE}' or '<split>.jsonl.xz'.\n  {REMEDY}"
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
                f"/{GAME_FILE}' nor '<split>.jsonl[.xz|.gz]'.{official.inside(root, 'alfworld')}\n"
                f"  {REMEDY}"
            )

    def splits(self) -> Sequence[str]:
        return sorted({*self._folders, *self._files})

    def ids(self, split: str) -> Sequence[str]:
        """All ids of a split, sorted; parses no game. A folder is listed once: it may be large."""
        if split in self._folders:
            if split not in self._listed:
                files = {
                    f"{split}/{path.parent.parent.name}/{path.parent.name}": path
                    for path in (self._layout / split).glob(f"*/*/{GAME_FILE}")
                }
                self._listed[split] = sorted(
                    task_id for task_id, path in files.items() if _is_played(task_id, path)
                )
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
                f"it has: {', '.join(self.splits())}.\n  {REMEDY}"
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


def _is_played(task_id: str, game: Path | bytes) -> bool:
    """Whether the original plays a game (``AlfredTWEnv.collect_game_files``): none with movable
    receptacles or slices, nor one marked unsolvable. One without a mark, which the original
    leaves out until it has been checked, is played."""
    if "movable" in task_id or "Sliced" in task_id:
        return False
    return not _UNSOLVABLE.search(game if isinstance(game, bytes) else game.read_bytes())


class PackedSplit:
    """An archive or JSON-lines file of games, expanded once into an unnamed temporary file and
    indexed by task id, so that opening one game decodes one."""

    def __init__(self, path: Path, split: str) -> None:
        self.path = path
        self.split = split
        #: Task id -> (where in the expanded file, length, line number or 0).
        self.lines: dict[str, tuple[int, int, int]] = {}
        self._played: list[str] = []
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed with self)
        weakref.finalize(self, self._file.close)
        try:
            for task_id, raw, line in self._games():
                self.lines[task_id] = (self._file.tell(), len(raw), line)
                self._file.write(raw)
                if _is_played(task_id, raw):
                    self._played.append(task_id)
        except (OSError, EOFError, lzma.LZMAError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{path}: cannot be read: {error}.\n  {REMEDY}") from error
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
            return found[1].decode() if found else str(field(json.loads(raw), "id", str, where))
        except (ValueError, TypeError) as error:
            raise DataError(f"{where}: not a packed game: {error}.\n  {REMEDY}") from None

    def ids(self) -> Sequence[str]:
        return sorted(self._played)

    def game(self, task_id: str) -> Game:
        start, length, number = self.lines[task_id]
        # Not seek and read: threads, and processes that were forked, share the file's position.
        raw = os.pread(self._file.fileno(), length, start)
        return from_json(raw, task_id, f"{self.path}:{number}" if number else str(self.path))

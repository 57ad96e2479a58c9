"""Appends episodes to a run folder: one line each, flushed; survives kill -9 at any byte."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from io import BufferedWriter
from pathlib import Path

import msgspec

from harness.errors import ConfigError, TraceError
from harness.types import Episode, Outcome

EPISODES = "episodes.jsonl"
#: Where records of broken episodes go when these are played again.
ERRORS = "episodes.errors.jsonl"
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Episode)

Key = tuple[str, int, int]


class Recorder:
    """The only writer of a run folder. ``keys`` are the episodes already there.

    A torn last line (the process died while writing) is cut off and its episode played again. A
    second writer is refused, or waits for the first one to end (``wait``).
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        self.path = folder / EPISODES
        self._file = open_to_append(self.path, wait=wait)
        try:
            self.keys: set[Key] = {episode.key for episode in read_episodes(self.path)}
        except BaseException:  # whoever keeps the error would keep the lock
            self._file.close()
            raise

    def write(self, episode: Episode) -> None:
        """Append one episode; its key must be new."""
        if episode.key in self.keys:
            raise TraceError(f"{self.path}: episode {episode.key} is already recorded.")
        try:
            self._file.write(_line(episode))
            self._file.flush()
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot append: {error.strerror}. "
                f"Free some space and continue with `harness run --resume {self.path.parent}`."
            ) from error
        self.keys.add(episode.key)

    def set_errors_aside(self) -> None:
        """Move records of broken episodes to ``episodes.errors.jsonl``: nothing is lost, and they
        can be played again."""
        kept: list[Episode] = []
        broken: list[Episode] = []
        for episode in read_episodes(self.path):
            (broken if episode.outcome is Outcome.ERROR else kept).append(episode)
        if not broken:
            return
        # A full disk may have stopped this before: a torn line, and lines that are there already.
        with open(self.path.with_name(ERRORS), "a+b") as aside:
            _cut_torn_line(Path(aside.name))
            aside.seek(0)
            there = set(aside)
            aside.writelines(line for line in map(_line, broken) if line not in there)
        temporary = self.path.with_suffix(".tmp")
        file = open(temporary, "wb")  # noqa: SIM115 (the writer holds it open)
        file.writelines(map(_line, kept))
        file.flush()
        # Locked before it takes the place: nobody finds it there unlocked.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        temporary.replace(self.path)
        self._file.close()
        self._file = file
        self.keys = {episode.key for episode in kept}

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Closing flushes what could not be written once more, and would hide that error.
        with suppress(OSError) if kind else nullcontext():
            self.close()


def _line(episode: Episode) -> bytes:
    return _encoder.encode(episode) + b"\n"


def open_to_append(path: Path, *, wait: bool = False) -> BufferedWriter:
    """A file of lines, held open by one writer, its torn last line cut off.

    Raises ConfigError where it cannot be written, or another process writes it; with ``wait`` the
    other's end, however it comes, is waited for.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "ab")  # noqa: SIM115 (the writer holds it open)
        except OSError as error:
            raise ConfigError(
                f"Cannot write to {path.parent}: {error.strerror}. Choose another place with --out."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            file.close()
            raise ConfigError(
                f"{path.parent} is being written by another process. Wait for it, or stop it."
            ) from None
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
            break
        file.close()  # its writer put another in its place meanwhile
    _cut_torn_line(path)
    return file


def is_left(path: Path) -> bool:
    """Whether no process holds the file open to append; False also where that cannot be told."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def read_episodes(path: Path) -> Iterator[Episode]:
    """Episodes of a file in the order written. A torn last line is passed over; any other damage
    raises TraceError with file, line and field."""
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}.") from None
    with file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TraceError(
                    f"{path}:{number}: not an episode: {error}\n"
                    "  Remove that line of a stopped run; the others are unharmed. A complete run "
                    "is as it was recorded, or is recorded again."
                ) from None


def _cut_torn_line(path: Path) -> None:
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)

"""Appends episodes to a run folder: one line each, flushed; survives kill -9 at any byte."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path

import msgspec

from harness.errors import ConfigError, TraceError
from harness.types import Episode

EPISODES = "episodes.jsonl"
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Episode)

Key = tuple[str, int, int]


class Recorder:
    """The only writer of a run folder. ``keys`` are the episodes already there.

    A torn last line (the process died while writing) is cut off and its episode played again. A
    second writer is refused.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / EPISODES
        self._file = open_to_append(self.path)
        self.keys: set[Key] = {episode.key for episode in read_episodes(self.path)}

    def write(self, episode: Episode) -> None:
        """Append one episode; its key must be new."""
        if episode.key in self.keys:
            raise TraceError(f"{self.path}: episode {episode.key} is already recorded.")
        try:
            self._file.write(_encoder.encode(episode) + b"\n")
            self._file.flush()
        except OSError as error:
            raise ConfigError(
                f"{self.path}: cannot append: {error.strerror}. "
                f"Free some space and continue with `harness run --resume {self.path.parent}`."
            ) from error
        self.keys.add(episode.key)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_to_append(path: Path) -> BufferedWriter:
    """A file of lines, held open by one writer, its torn last line cut off.

    Raises ConfigError where it cannot be written, or another process writes it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab")  # noqa: SIM115 (the writer holds it open)
    except OSError as error:
        raise ConfigError(
            f"Cannot write to {path.parent}: {error.strerror}. Choose another place with --out."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(
            f"{path.parent} is being written by another process. Wait for it, or stop it."
        ) from None
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
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TraceError(
                    f"{path}:{number}: not an episode: {error}\n"
                    "  Remove or repair that line; the others are unharmed."
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

"""Work that is done once, and folders that one process works in."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

from harness.errors import ConfigError


@contextmanager
def alone(place: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else makes ``place``, a file or a folder, meanwhile. Waits for who does, and says so
    on stderr, or raises BlockingIOError."""
    with _locked(place.with_name(f".{place.name}.lock"), place if wait else None):
        yield


@contextmanager
def owned(folder: Path) -> Iterator[int]:
    """Nobody else works in ``folder`` meanwhile. Gives the open lock's number, for children that
    are to hold it as long as they live. Raises ConfigError where someone works there."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(_locked(folder / ".lock"))
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use by another process, or by one that it started.\n"
                "  Wait for it, stop it, or choose another place with --out."
            ) from None
        yield lock


@contextmanager
def _locked(path: Path, awaited: Path | None = None) -> Iterator[int]:
    """The lock at ``path``, held, by its number; waited for where something is ``awaited``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if awaited is None:
                raise
            said = f"waiting for {awaited}, which {_holder(file)} makes"
            print(said, file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield file.fileno()


def _holder(file: TextIO) -> str:
    """Who wrote itself into a lock that is held; it may be about to."""
    file.seek(0)
    return file.read() or "another process"

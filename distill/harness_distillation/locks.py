"""Work that is done once, and folders that one process works in."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.errors import ConfigError


@contextmanager
def alone(place: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else makes ``place``, a file or a folder, meanwhile. Waits for who does, or raises
    BlockingIOError."""
    with _locked(place.with_name(f".{place.name}.lock"), wait):
        yield


@contextmanager
def owned(folder: Path) -> Iterator[int]:
    """Nobody else works in ``folder`` meanwhile. Gives the open lock's number, for children that
    are to hold it as long as they live. Raises ConfigError where someone works there."""
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(_locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use by another process, or by one that it started.\n"
                "  Wait for it, stop it, or choose another place with --out."
            ) from None
        yield lock


@contextmanager
def _locked(path: Path, wait: bool) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file.fileno()

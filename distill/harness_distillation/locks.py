"""Work that several processes want done once."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def alone(place: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else makes ``place``, a file or a folder, meanwhile. Waits for who does, or raises
    BlockingIOError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{place.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield

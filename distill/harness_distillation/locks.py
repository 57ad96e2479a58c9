"""Work that several processes want done once."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def alone(place: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else makes ``place``, a file or a folder, meanwhile. Waits for who does, and says so
    on stderr, or raises BlockingIOError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{place.name}.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise
            print(f"waiting for {place}, which {_holder(file)} makes", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def _holder(file: TextIO) -> str:
    """Who wrote itself into a lock that is held; it may be about to."""
    file.seek(0)
    return file.read() or "another process"

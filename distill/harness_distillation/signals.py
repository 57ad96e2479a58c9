"""SIGTERM, as schedulers send it some seconds before they kill: first a training is saved."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def term_waits() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM only makes the function that is given true; at its end the process
    ends by it, as it would have. In other threads than the main one nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        asked.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
        if asked.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def term_ends() -> Iterator[None]:
    """Within the block SIGTERM ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""What the command shows on a terminal: tables to stdout; talk, warnings and progress to stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.plain import plain

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """The terminal, or a page of 160 columns where there is none."""
    from rich.console import Console

    console = Console(soft_wrap=False)
    if not console.is_terminal:
        console = Console(width=160)
    return console


def say(text: str) -> None:
    """A line to stderr."""
    print(plain(text), file=sys.stderr, flush=True)


def warn(error: Exception) -> None:
    """Say what is passed over."""
    say(f"harness: passed over: {error}")


class Progress:
    """A bar with rates and remaining time on a terminal, a line now and then elsewhere.

    ``there``: how many episodes are recorded already, by how they ended (``won``, ``broke``, ...).
    ``sampling`` False: the episodes are recorded ones, whose tokens nobody samples now.
    """

    def __init__(
        self, label: str, there: Mapping[str, int] | None = None, *, sampling: bool = True
    ) -> None:
        import time

        from harness.cost import sampled

        self._sampled, self._tokens = (sampled if sampling else None), 0
        self._now = time.monotonic
        there = there or {}
        self._label, self._done = plain(label), sum(there.values())
        self._wins, self._errors = there.get("won", 0), there.get("broke", 0)
        self._first = self._done
        self._start = self._told = self._now()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
            )  # fmt: skip
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=None, note="starting")
        else:
            say(f"{self._label}: starting")
        return self

    def __call__(self, episode: Any, total: int) -> None:
        self._done += 1
        self._wins += bool(episode.success)
        self._errors += episode.error is not None
        played = self._done - self._first
        elapsed = max(self._now() - self._start, 1e-9)
        rate = played / elapsed
        scored = self._done - self._errors
        note = f"{100 * self._wins / scored:.0f} % won" if scored else "none scored"
        if self._errors:
            note += f", {self._errors} errors"
        note += f", {60 * rate:.0f} episodes/min"
        if self._sampled is not None:
            self._tokens += self._sampled(episode.steps) or 0
        if self._tokens:
            note += f", {self._tokens / elapsed:.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=total, note=note)
        elif self._now() - self._told > 10 or self._done == total:
            self._told = self._now()
            remaining = (total - self._done) / rate
            say(f"{self._label}: {self._done}/{total} episodes, {note}, {remaining:.0f} s left")

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


class Steps:
    """How many steps are asked at and how fast: a line now and then."""

    def __init__(self, label: str) -> None:
        import time

        self._now, self._label = time.monotonic, label
        self._start = self._told = self._now()
        self._first: int | None = None

    def __call__(self, done: int, due: int) -> None:
        self._first = done - 1 if self._first is None else self._first
        now = self._now()
        if now - self._told < 10 and done < due:
            return
        self._told = now
        rate = (done - self._first) / max(now - self._start, 1e-9)
        left = (due - done) / rate
        say(f"{self._label}: {done}/{due} steps, {rate:.1f} a second, {left:.0f} s left")

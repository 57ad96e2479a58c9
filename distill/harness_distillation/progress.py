"""Progress of a training run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

#: Seconds between plain lines.
EVERY = 20.0


class Progress:
    """Shows step, losses per class, tokens/s, MFU and remaining time.

    Plain lines estimate it from the seconds of training that log lines tell, of this session: what
    lies between sessions, and play on a dev set, is no part of a step's time.
    """

    def __init__(self, name: str, total: int, done: int, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self.name, self.total = name, total
        #: Step and seconds of this session's first line, which the estimate counts from.
        self.since: tuple[int, float] | None = None
        self.shown = 0.0
        self.quiet = quiet
        self.bar: Bar | None = None
        if console.is_terminal and not quiet:
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[losses]}"),
                TimeRemainingColumn(),
                console=console,
            )
            self.task = self.bar.add_task(name, total=total, completed=done, losses="")

    def __enter__(self) -> Progress:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def say(self, text: str) -> None:
        """A line beside the bar."""
        if self.bar is not None:
            self.bar.console.print(text, markup=False)
        elif not self.quiet:
            print(f"{self.name} {text}", file=sys.stderr, flush=True)

    def step(self, step: int, line: dict[str, Any]) -> None:
        """Show the log line of ``step``."""
        losses = " ".join(f"{c} {line[c]:.4f}" for c in ("reason", "act", "format") if c in line)
        losses += f" {line['tokens_per_s']} tok/s MFU {line['mfu']:.0%}"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, losses=losses)
            return
        first, spent = self.since or (0, 0.0)
        left = (line["seconds"] - spent) / (step - first) * (self.total - step)
        self.since = self.since or (step, line["seconds"])
        now = time.monotonic()
        if self.quiet or (now - self.shown < EVERY and step < self.total):
            return
        self.shown = now
        print(
            f"{self.name} {step}/{self.total} {losses} left {left / 60:.1f} min",
            file=sys.stderr,
            flush=True,
        )

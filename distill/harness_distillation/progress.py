"""Progress of a training run on stderr: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column

from harness_distillation.tokenizer import CLASSES

#: Seconds between plain lines.
EVERY = 20.0


class Progress:
    """Shows step, losses of the ``classes`` that weigh anything, tokens/s, MFU, the newest held-out
    loss and the remaining time.

    That is estimated from the seconds of training that log lines tell, of this session: what lies
    between sessions, and play on a dev set, is no part of a step's time.
    """

    def __init__(
        self,
        name: str,
        total: int,
        done: int,
        quiet: bool = False,
        classes: Sequence[str] = CLASSES,
        console: Console | None = None,
    ) -> None:
        console = console or Console(stderr=True)
        self.name, self.total, self.classes = name, total, classes
        #: Step and seconds of this session's first line, which the estimate counts from.
        self.since: tuple[int, float] | None = None
        self.heldout = ""
        self.shown = 0.0
        self.quiet = quiet
        self.bar: Bar | None = None
        if console.is_terminal and not quiet:
            self.bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(10),
                MofNCompleteColumn(),
                # rich's own estimate forgets a step after 30 seconds: slower ones would have none.
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.fields[told]}", markup=False, table_column=Column()),  # wraps
                console=console,
            )
            self.task = self.bar.add_task(name, total=total, completed=done, told="", left="")

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

    def step(self, step: int, line: Mapping[str, Any]) -> None:
        """Show the log line of ``step``."""
        told = f"{self._losses(line)} {line['tokens_per_s']} tok/s MFU {line['mfu']:.0%}".lstrip()
        if "heldout" in line:
            self.heldout = f", held out at {step}: {self._losses(line['heldout'])}"
        told += self.heldout
        first, spent = self.since or (0, 0.0)
        seconds = (line["seconds"] - spent) / (step - first) * (self.total - step)
        left = f"left {seconds / 60:.1f} min"
        self.since = self.since or (step, line["seconds"])
        if self.bar is not None:
            self.bar.update(self.task, completed=step, told=told, left=left)
            return
        now = time.monotonic()
        if self.quiet or (now - self.shown < EVERY and step < self.total):
            return
        self.shown = now
        print(f"{self.name} {step}/{self.total} {told} {left}", file=sys.stderr, flush=True)

    def _losses(self, found: Mapping[str, Any]) -> str:
        return " ".join(f"{c} {found[c]:.4f}" for c in self.classes if c in found)

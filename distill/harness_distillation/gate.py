"""Play on a dev set while training: what chooses the student, and when training stops.

    training/dev.jsonl        one line a play: step, episodes won, n, held-out loss
    training/dev/step-N/      its run

Held-out loss does not predict success, so a recipe's ``[dev]`` table lets success speak: of the
checkpoints that were played, the one that won most is the student (the earlier of equals). When
training stops the loss has a say if it is asked (``heldout``): while it falls, nothing is over.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import msgspec
from harness_agents.checkpoints import locate

from harness import api, registry
from harness.config import AgentConfig
from harness.errors import DataError
from harness.runs import META, Run
from harness_distillation.machine import random_state_kept
from harness_distillation.recipe import Dev

LOG = "dev.jsonl"


class Played(msgspec.Struct, frozen=True):
    """One play of a checkpoint."""

    step: int
    won: int
    n: int
    #: Of a play noted before such plays were refused: they counted as lost.
    errors: int = 0
    #: The weighed sum of the classes' held-out losses, where patience asks for it.
    loss: float | None = None


class Gate:
    """The plays so far of a training in ``folder`` that stands at ``step``."""

    def __init__(self, dev: Dev, folder: Path, step: int) -> None:
        self.dev = dev
        self.folder = folder
        self.played: list[Played] = []
        path = folder / LOG
        if path.is_file():
            lines = path.read_bytes().splitlines(keepends=True)
            found = [msgspec.json.decode(x, type=Played) for x in lines if x.endswith(b"\n")]
            self.played = [p for p in found if p.step <= step]
            if len(self.played) < len(lines):
                # In one move: without these lines another checkpoint would be the student.
                draft = path.with_suffix(".draft")
                draft.write_bytes(b"".join(msgspec.json.encode(p) + b"\n" for p in self.played))
                os.replace(draft, path)

    def due(self, step: int, last: int) -> bool:
        """Whether the checkpoint of ``step`` is to be played and was not yet."""
        asked = step > 0 and (step % self.dev.every == 0 or step == last)
        return asked and all(p.step != step for p in self.played)

    def play(self, step: int, checkpoint: Path, loss: float | None = None) -> Played:
        """Play a checkpoint (a stopped play goes on) and note what it won, with its held-out loss.

        The random state of training is left as it was. Raises DataError where episodes broke, and
        did so again: by what is left of a play no student is chosen.
        """
        root = self.folder / "dev" / f"step-{step:07d}"
        with random_state_kept():
            run = once_more(self._run(root, checkpoint))
        s = run.summary
        if s.errors:
            raise DataError(
                f"{run.path}: {s.errors} of {s.n + s.errors} dev episodes broke, twice: "
                f"{first_fault(run)}\n  Mend what broke them, then give the same command: the "
                "checkpoint is kept, and they alone are played again."
            )
        played = Played(step, s.successes, s.n, loss=loss)
        with (self.folder / LOG).open("ab") as file:
            file.write(msgspec.json.encode(played) + b"\n")
        self.played.append(played)
        return played

    def _run(self, root: Path, checkpoint: Path) -> Run:
        for file in sorted(root.glob(f"*/*/*/{META}")):
            run = Run(file.parent)
            # A step that was taken again, as on another machine, may have led to other weights.
            now = locate(str(checkpoint.absolute())).sha256()
            same = run.meta.env_version == registry.env_class(self.dev.env).version
            if same and run.meta.policy.get("weights_sha256") == now:
                return run if run.meta.status == "complete" else api.resume(run.path)
        agent = AgentConfig(
            name=self.folder.parent.name, policy="react", role="checkpoint",
            options={"checkpoint": str(checkpoint.absolute())},
        )  # fmt: skip
        return api.evaluate(
            agent, self.dev.env, tasks=self.dev.tasks, out=root, kind="dev",
            max_steps=self.dev.max_steps, env_options=dict(self.dev.env_options),
        )  # fmt: skip

    @property
    def best(self) -> Played | None:
        """The play that won most, the earlier of equals."""
        return max(self.played, key=lambda p: (p.won, -p.step), default=None)

    @property
    def over(self) -> bool:
        """Whether ``patience`` plays in a row won no more than the best before them, nor, where it
        has a say, had a lower held-out loss."""
        best = self.best
        if best is None or not self.dev.patience:
            return False
        since = best.step
        if self.dev.heldout:
            losses = [(math.inf if p.loss is None else p.loss, p.step) for p in self.played]
            since = max(since, min(losses)[1])  # the earlier of equals
        return sum(p.step > since for p in self.played) >= self.dev.patience


def once_more(run: Run) -> Run:
    """A finished run whose broken episodes, if any, were played a second time."""
    return api.resume(run.path, retry_errors=True) if run.summary.errors else run


def first_fault(run: Run) -> str:
    """What the first episode that broke says of it."""
    fault = next((e.error for e in run.episodes() if e.error is not None), None)
    return "no reason noted" if fault is None else f"{fault.kind}: {fault.message}"

"""A training's log lines sent to experiment trackers (TensorBoard, Weights & Biases, MLflow ...).

``training/log.jsonl`` is the record; a tracker is a view of it, asked for with ``--tracker`` and
run by accelerate. A tracker that breaks stops no training: what it missed is in the log.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ConfigError, unknown
from harness.registry import require
from harness_distillation.recipe import Recipe


def check_trackers(names: Sequence[str], recipe: Recipe) -> None:
    """Refuse trackers that are unknown or not installed, or whose recipe tells them nothing."""
    if not names:
        return
    if recipe.objective.name == "minillm":
        raise ConfigError("--tracker: objective 'minillm', which TRL trains, sends no log to it.")
    tracking = require("accelerate", "trackers", "Sending a log to a tracker").tracking
    known = [str(name) for name in tracking.LOGGER_TYPE_TO_CLASS]
    here = [str(name) for name in tracking.get_available_trackers()]
    for name in names:
        if name not in known:
            raise ConfigError(unknown("tracker", name, known))
        if name not in here:
            raise ConfigError(f"Tracker '{name}' is not installed: pip install it first.")


class Trackers:
    """The trackers of one training; none asked for, nothing is done."""

    def __init__(self, names: Sequence[str], recipe: Recipe, folder: Path) -> None:
        """Raises ConfigError for a tracker that cannot start."""
        self._accelerator: Any = None
        if not names:
            return
        accelerate = require("accelerate", "trackers", "Sending a log to a tracker")
        title = f"{recipe.name}-s{recipe.seed}"
        try:
            self._accelerator = accelerate.Accelerator(log_with=list(names), project_dir=folder)
            self._accelerator.init_trackers(
                title, config=dict(_flat(msgspec.to_builtins(recipe))),
                init_kwargs={"wandb": {"name": title}},
            )  # fmt: skip
        except Exception as error:  # each tracker has errors of its own
            raise ConfigError(f"--tracker {' '.join(names)}: {error}") from error

    def log(self, line: dict[str, Any]) -> None:
        """Send a line of the log; after a failure no more is sent."""
        if self._accelerator is None:
            return
        numbers = {k: v for k, v in _flat(line) if isinstance(v, (int, float)) and k != "step"}
        try:
            self._accelerator.log(numbers, step=line["step"])
        except Exception as error:
            print(f"the tracker is left out from here on: {error}", file=sys.stderr)
            self._accelerator = None

    def close(self) -> None:
        """Send what is waiting."""
        if self._accelerator is None:
            return
        try:
            self._accelerator.end_training()
        except Exception as error:
            print(f"the tracker did not end well: {error}", file=sys.stderr)


def _flat(found: Any, before: str = "") -> list[tuple[str, Any]]:
    """Numbers and texts of nested tables: ("heldout/act", 0.5)."""
    if isinstance(found, dict):
        pairs = [_flat(v, f"{before}/{k}" if before else str(k)) for k, v in found.items()]
        return [pair for part in pairs for pair in part]
    return [(before, found)] if isinstance(found, (bool, int, float, str)) else []

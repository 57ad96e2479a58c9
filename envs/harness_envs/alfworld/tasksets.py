"""ALFWorld's named task sets."""

from __future__ import annotations

from collections.abc import Callable

from harness.tasksets import TaskSet

TASK_SETS: dict[str, Callable[[], TaskSet]] = {}

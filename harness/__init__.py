"""Evaluate ReAct language agents through Gymnasium, record every step, distil small students.

    import harness
    env = harness.make("alfworld")                      # a gymnasium.Env[str, str]
    run = harness.evaluate("expert", "alfworld")        # play, record, measure
    run.summary.success, list(run.episodes())
    run = harness.load("results/alfworld/expert")       # ... or read it again

Importing registers the environments with Gymnasium and prints nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.registration import register_environments

if TYPE_CHECKING:
    from harness.api import compare, evaluate, load, make, resume
    from harness.env import Environment
    from harness.errors import HarnessError
    from harness.policy import Policy
    from harness.tasksets import TaskSet
    from harness.types import Decision, Episode, Outcome, Step, Task

__all__ = [
    "Decision",
    "Environment",
    "Episode",
    "HarnessError",
    "Outcome",
    "Policy",
    "Step",
    "Task",
    "TaskSet",
    "compare",
    "evaluate",
    "load",
    "make",
    "resume",
]

_HOMES = {
    **dict.fromkeys(("compare", "evaluate", "load", "make", "resume"), "harness.api"),
    **dict.fromkeys(("Decision", "Episode", "Outcome", "Step", "Task"), "harness.types"),
    "Environment": "harness.env",
    "HarnessError": "harness.errors",
    "Policy": "harness.policy",
    "TaskSet": "harness.tasksets",
}

register_environments()


def __getattr__(name: str) -> Any:
    """Public names on first use, so that the command starts fast."""
    if name == "__version__":
        from importlib.metadata import version

        return version("distill-harness")
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

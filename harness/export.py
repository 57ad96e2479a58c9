"""Runs in a form to publish: what was run and what came out, without this machine's paths."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ConfigError
from harness.recorder import EPISODES
from harness.runs import Run, RunMeta, write_meta, write_metrics

_ABSOLUTE = re.compile(r"\A(?:/|[A-Za-z]:[\\/])\S*[\\/](?P<name>[^\\/]+)[\\/]?\Z")


def export(run: Run, to: Path, *, episodes: bool = False) -> Path:
    """Copy a complete run to ``to/<env>/<agent>/<run id>/``: run.json, metrics.jsonl and, if asked,
    episodes.jsonl (which quotes the environment's texts). Absolute paths keep their last part.

    Raises ConfigError for a run that is not complete or was exported there before.
    """
    meta = run.meta
    if meta.status != "complete":
        raise ConfigError(
            f"{run.path} is not complete. Finish it with `harness run --resume {run.path}`."
        )
    target = to / meta.task_set.env / run.path.parent.name / run.path.name
    if target.exists():
        raise ConfigError(f"{target} exists: this run was exported before.")
    rows = run.metrics
    write_meta(target, msgspec.convert(_without_paths(msgspec.to_builtins(meta)), RunMeta))
    write_metrics(target, rows)
    if episodes:
        (target / EPISODES).write_bytes((run.path / EPISODES).read_bytes())
    return target


def _without_paths(value: Any) -> Any:
    if isinstance(value, str):
        found = _ABSOLUTE.match(value)
        return found["name"] if found else value
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(inner) for inner in value]
    return value

"""Metrics of a run's episodes, against its reference traces: what metrics.jsonl holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from harness import references, registry
from harness.cot import Pieces, fingerprint
from harness.errors import ConfigError, TraceError
from harness.metrics import EpisodeMetrics, Summary, measure, summarise
from harness.recorder import EPISODES, read_episodes
from harness.runs import Run, RunMeta, check_description, open_run, write_meta, write_metrics
from harness.types import Episode


def asked(folder: Path, out: Path, reference: str | None, ceiling: str | None) -> RunMeta:
    """The description of a run that is to be measured against another ``reference`` or
    ``ceiling``; None: its own, but another reference has another ceiling."""
    run = Run(folder)
    check_description(run)
    told = msgspec.structs.replace(run.meta, reference=reference or run.meta.reference)
    meta = references.settle(told, out, folder)
    was, now = (references.place(m.reference, folder) for m in (run.meta, meta))
    if ceiling is not None:
        ceiling = references.noted(open_run(ceiling).path, folder)
    if ceiling is not None or (reference is not None and not references.same(was, now)):
        meta = msgspec.structs.replace(meta, ceiling=ceiling)
    return meta


def write(folder: Path, meta: RunMeta, out: Path) -> list[EpisodeMetrics]:
    """Measure the episodes as ``meta`` says, whose reference traces are there, and write the rows,
    and what they were measured with."""
    found = references.by_task(meta, out, folder)
    meta = msgspec.structs.replace(meta, reference_hash=fingerprint(found) if found else None)
    run, others = Run(folder), further_metrics()
    rows = []
    seen = set()
    for episode in read_episodes(folder / EPISODES):
        if episode.key in seen or not run.holds(episode.key):
            why = "recorded twice" if episode.key in seen else "not of this run"
            raise TraceError(
                f"{folder / EPISODES}: the episode {episode.key} is {why}. "
                f"`harness verify {folder}` tells all such episodes; remove their lines."
            )
        seen.add(episode.key)
        against = found.get(episode.task.id)
        trace = against.episode if against else None
        extra = {name: _value(name, metric, episode, trace) for name, metric in others.items()}
        rows.append(measure(episode, against, extra, meta.task_set.protocol))
    write_meta(folder, meta)
    write_metrics(folder, rows)
    return rows


def in_pieces(run: Run, out: Path, pieces: Pieces) -> Summary:
    """The summary of a scored run with CoT match in other ``pieces`` than words, the same traces
    against the same references; nothing is written."""
    found = references.by_task(run.meta, out, run.path)
    protocol = run.meta.task_set.protocol
    rows = [measure(e, found.get(e.task.id), None, protocol, pieces) for e in run.episodes()]
    return summarise(rows, run.group)


def _value(name: str, metric: Any, episode: Episode, trace: Episode | None) -> float | None:
    """What a metric of another package says of an episode; not a finite number: None."""
    try:
        said = metric(episode, trace)
        if isinstance(said, str | bytes):
            raise TypeError(f"a number or None is expected, not {said!r:.40}")
        value = None if said is None else float(said)
    except Exception as error:
        raise ConfigError(
            f"The metric '{name}' ({registry.names('metrics')[name].value}) fails on the episode "
            f"{episode.key}: {type(error).__name__}: {error}\n  The episodes are recorded: mend or "
            "uninstall it, then go on with `harness run --resume RUN`."
        ) from error
    return value if value is not None and math.isfinite(value) else None


def further_metrics() -> dict[str, Any]:
    """The metrics of other packages, by name (entry points ``harness.metrics``)."""
    return {name: registry.load("metrics", name, "metric") for name in registry.names("metrics")}

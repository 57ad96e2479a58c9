"""Runs in a form to publish: what was run and what came out, without this machine's paths."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness import decisions
from harness.errors import ConfigError
from harness.recorder import EPISODES
from harness.runs import Run, RunMeta, read_meta, sha256, write_meta, write_metrics
from harness.types import Episode

# An absolute path's beginning: a root, a home, a drive, a share, a file URL.
_START = r"(?:file:/{1,3}|~[\w.-]*[\\/]|[A-Za-z]:[\\/]|\\\\(?=\w)|/(?!/))"
#: A text that is a path, or an option and a path. Spaces belong to it.
_WHOLE = re.compile(
    rf"\A(?P<option>-*[\w.-]+=|)(?P<quote>[\"']?)(?P<path>{_START}.*)(?P=quote)\Z", re.DOTALL
)
#: A path in quotes, which may hold spaces.
_QUOTED = re.compile(rf"(?P<quote>[\"'`])(?P<path>{_START}[^\"'`\n]*[\\/][^\"'`\n]*)(?P=quote)")
#: A path of two parts at least inside a sentence.
_INSIDE = re.compile(
    rf"(?<![\w.~/\\-])(?P<path>{_START}[^\s\"'`<>|:;,()\[\]]*[\\/][^\s\"'`<>|:;,()\[\]]*"
    rf"|(?:file:/{{1,3}}|~[\w.-]*[\\/]|[A-Za-z]:[\\/])[^\s\"'`<>|:;,()\[\]]+)"
)


def export(run: Run, to: Path, *, episodes: bool = False, without_words: bool = False) -> Path:
    """Copy a complete run to ``to/<env>/<agent>/<run id>/``: run.json, metrics.jsonl and, if asked,
    episodes.jsonl (which quotes the environment's texts) or decisions.jsonl.xz (which has none of
    them: ``decisions``). Absolute paths keep their last part, in run.json as in the messages of
    episodes that broke. The copy appears in one move.

    Raises ConfigError for a run that is not complete or was exported there before, TraceError for
    ``episodes`` that are not here or were changed, and what ``decisions.export`` raises.
    """
    meta = run.meta
    run.check_complete()
    if episodes or (without_words and not decisions.needs_restoring(run.path)):
        run.check_whole()
    folder = run.path.resolve()
    target = to / meta.task_set.env / folder.parent.name / folder.name
    if target.exists():
        raise ConfigError(f"{target} exists: this run was exported before.")
    rows = run.metrics
    clean = cleaner(meta)
    half = to / f".export-{os.getpid()}-{folder.name}"
    try:
        write_meta(half, _clean_meta(meta, clean))
        write_metrics(half, rows)
        if without_words:
            decisions.export(run, half)
        if episodes:
            with open(half / EPISODES, "wb") as file:
                for episode in run.episodes():
                    file.write(msgspec.json.encode(_clean_episode(episode, clean)) + b"\n")
        if meta.episodes_hash is not None:
            now = sha256(half / EPISODES)  # cleaned, it has a hash of its own
            write_meta(half, msgspec.structs.replace(read_meta(half), episodes_hash=now))
        target.parent.mkdir(parents=True, exist_ok=True)
        half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return target


def cleaner(meta: RunMeta) -> Callable[[str], str]:
    """What takes this machine's paths out of a run's texts. A path that stands alone somewhere in
    run.json is known whole, spaces and all, and is found inside sentences too."""
    known = {str(Path.home())} | {
        found["path"].rstrip("\\/")
        for text in _texts(msgspec.to_builtins(meta))
        if (found := _WHOLE.match(text))
    }
    longest = sorted((path for path in known if len(path) > 1), key=len, reverse=True)
    either = "|".join(map(re.escape, longest)) or r"(?!)"
    literal = re.compile(rf"(?:{either})(?=[\\/\s\"'`:;,.)]|$)")

    def clean(text: str) -> str:
        whole = _WHOLE.match(text)
        if whole:
            return f"{whole['option']}{_last(whole['path'])}"
        text = _QUOTED.sub(lambda m: f"{m['quote']}{_last(m['path'])}{m['quote']}", text)
        # What follows a known folder is dropped up to the last part with it.
        text = literal.sub(lambda m: f"/-/{_last(m[0])}", text)
        return _INSIDE.sub(lambda m: _last(m["path"]), text)

    return clean


def _last(path: str) -> str:
    parts = [part for part in re.split(r"[\\/]+", path) if part]
    return parts[-1] if parts else ""


def _clean_meta(meta: RunMeta, clean: Callable[[str], str]) -> RunMeta:
    """All but the task set: its hash covers every letter."""
    found = msgspec.convert(_cleaned(msgspec.to_builtins(meta), clean), RunMeta)
    return msgspec.structs.replace(found, task_set=meta.task_set)


def _clean_episode(episode: Episode, clean: Callable[[str], str]) -> Episode:
    if episode.error is None:
        return episode
    fault = msgspec.structs.replace(episode.error, message=clean(episode.error.message))
    return msgspec.structs.replace(episode, error=fault)


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(key, clean): _cleaned(inner, clean) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(inner, clean) for inner in value]
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)

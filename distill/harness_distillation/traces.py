"""Traces: recorded episodes chosen for training, with where they came from.

runs (folders or episodes.jsonl) -> read -> select -> dedupe -> guard -> Traces
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from harness import registry
from harness.errors import ConfigError, DataError
from harness.overlap import TrainedOn
from harness.recorder import EPISODES, read_episodes
from harness.rows import IMPORTED, UNTOLD, draw, group, keys, unfit
from harness.runs import META, Run
from harness.transcript import join, render_decision
from harness.types import Episode


class Source(msgspec.Struct, frozen=True):
    """One recorded run as a parent: its path for people, its hash for machines."""

    path: str
    sha256: str
    episodes: int


class Traces(msgspec.Struct, frozen=True):
    """Episodes to learn from, in the order of ``load``, and what was left out of them."""

    episodes: tuple[Episode, ...]
    sources: tuple[Source, ...]
    #: Why episodes were left out -> how many.
    dropped: dict[str, int]

    @property
    def hash(self) -> str:
        """16 hex digits over the episodes' content (not their timing), in order."""
        digest = hashlib.sha256()
        for episode in self.episodes:
            digest.update(content_key(episode).encode())
        return digest.hexdigest()[:16]

    def tasks(self) -> list[tuple[str, str]]:
        """(environment, task id) of every episode, without repeats, in order."""
        return list(dict.fromkeys((e.task.env, e.task.id) for e in self.episodes))


def episodes_file(run: str | Path) -> Path:
    """The episodes.jsonl of a run folder, or the file itself; a clear error without one."""
    path = Path(run)
    found = path / "episodes.jsonl" if path.is_dir() else path
    if not found.is_file():
        raise DataError(
            f"{path}: no recorded episodes there (looked for {found}).\n"
            "  Record some with: harness collect --agent AGENT --env ENV"
        )
    return found


def load(
    runs: Sequence[str],
    *,
    successes_only: bool = True,
    limit: int | None = None,
    exclude: Iterable[str] = (),
) -> Traces:
    """Read runs, keep what teaches, refuse what must not be trained on.

    Kept are finished episodes (outcome done; with ``successes_only`` those that won), once each:
    a second episode of the same task with the same text teaches nothing new. Their order is that of
    a hash of their content, run by run, so that what is played again trains the same model.
    ``exclude`` names task sets (``"alfworld/holdout-1000"``) or tasks (``"env:task id"``). Raises
    TraceError for a complete run that has not all its episodes, as they were recorded.
    """
    if not runs:
        raise ConfigError("No runs to learn from: name them in [data] runs, or with --data.")
    kept: list[Episode] = []
    sources: list[Source] = []
    dropped: dict[str, int] = {}
    seen: set[str] = set()
    for run in runs:
        path, count = episodes_file(run), 0
        if path.name == EPISODES and (path.parent / META).is_file():
            Run(path.parent).check_whole()
        fit: dict[str, Episode] = {}
        for episode in read_episodes(path):
            count += 1
            reason = unfit(episode, successes_only=successes_only)
            if reason is None:
                key = content_key(episode)
                if key not in seen:
                    _check_known(episode, path)
                    seen.add(key)
                    fit[key] = episode
                    continue
                reason = "repeated"
            dropped[reason] = dropped.get(reason, 0) + 1
        # Recorded as they ended, which is a matter of timing: in another order, the same each time.
        room = len(fit) if limit is None else min(len(fit), limit - len(kept))
        kept += [fit[key] for key in sorted(fit)][:room]
        if room < len(fit):
            dropped["over the limit"] = dropped.get("over the limit", 0) + len(fit) - room
        sources.append(Source(str(run), file_sha256(path), count))
    if not kept:
        why = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "the files are empty"
        more = ""
        if UNTOLD in dropped:
            more = "\n  If they were won: harness import --all-won."
        if {"lost", UNTOLD} & dropped.keys():
            more += "\n  To learn from episodes that were not: [data] successes_only = false."
        raise DataError(f"No episode to learn from in {', '.join(map(str, runs))}: {why}.{more}")
    guard([(e.task.env, e.task.id) for e in kept], exclude)
    return Traces(tuple(kept), tuple(sources), dropped)


def _check_known(episode: Episode, path: Path) -> None:
    """Refuse an episode of an environment that is not installed. Raises DataError."""
    try:
        group(episode.task.env, episode.task.id)
    except ConfigError as error:
        raise DataError(f"{path}, task {episode.task.id}: {error}") from None


def content_key(episode: Episode) -> str:
    """Hash of what a model would read and learn: task, instruction, observations, decisions."""
    digest = hashlib.sha256()
    for part in (episode.task.env, episode.task.id, episode.instruction):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    for step in episode.steps:
        digest.update(step.observation.encode("utf-8", "surrogatepass") + b"\0")
        text = join(render_decision(step.decision))
        digest.update(text.encode("utf-8", "surrogatepass"))
        digest.update(b"\1" if step.decision.injected else b"\0")
    return digest.hexdigest()


def guard(
    tasks: Iterable[tuple[str, str]],
    exclude: Iterable[str],
    named_in: str = "[data] exclude",
    env: str | None = None,
) -> None:
    """Refuse training tasks that share a group (or another key: ``rows.keys``) with an excluded
    task set or task.

    Imported tasks of unknown id count as contaminated: they may be any task of their environment.
    ``named_in``: where a recipe says ``exclude``; ``env``: whose task sets they are, where they do
    not say it.
    Raises DataError naming the set, how many tasks leak, and the first of them.
    """
    present: dict[str, str] = {}
    unknown: dict[str, str] = {}
    for of, task_id in tasks:
        for key in keys(of, task_id):
            present.setdefault(key, task_id)
        if task_id.startswith(IMPORTED):
            unknown.setdefault(of, task_id)
    for name in exclude:
        of = env or _env_of(name)
        if of in unknown:
            raise DataError(
                f"Imported logs that do not say which tasks they are of (first: {unknown[of]}) "
                f"may hold tasks of '{name}', which is held out.\n"
                "  Import them with --data where tasks are known by their text (HotPotQA's "
                "questions); leave them out; or take "
                f"the set out of {named_in}."
            )
        leaked = sorted({present[key] for key in excluded_keys(name, env) if key in present})
        if leaked:
            raise DataError(
                f"{len(leaked)} training groups belong to '{name}', which is held out "
                f"(first: {leaked[0]}).\n"
                "  Train on other tasks (`harness collect --tasks builtin-train`, say), or "
                f"take the set out of {named_in}."
            )


def guard_start(
    start: str,
    learned: TrainedOn | None,
    exclude: Iterable[str],
    named_in: str = "[data] exclude",
    env: str | None = None,
) -> None:
    """``guard`` of what the weights have learned from that a student starts from; None: they do not
    tell, and nothing is refused. Raises DataError naming the start, the set and the first task."""
    if learned is None:
        return
    for name in exclude:
        of = env or _env_of(name)
        remedy = f"\n  Start from other weights, or take the set out of {named_in}."
        if of in learned.unknown:
            raise DataError(
                f"[student] start {start} was trained on imported logs that do not say which tasks "
                f"they are of: they may be of '{name}', which is held out.{remedy}"
            )
        if met := learned.met(of, _excluded(name, env)):
            groups = {group(of, task_id) for task_id in met}
            raise DataError(
                f"[student] start {start} was trained on {len(groups)} groups of '{name}', which "
                f"is held out (first: {min(met)}).{remedy}"
            )


def excluded_keys(name: str, env: str | None = None) -> set[str]:
    """Keys of a task set (``env/set``; with ``env`` any name of it, or a frozen one's file) or of
    one task (``env:task id``)."""
    of = env or _env_of(name)
    return {key for task_id in _excluded(name, env) for key in keys(of, task_id)}


def _env_of(name: str) -> str:
    return re.split("[/:]", name, maxsplit=1)[0]


def _excluded(name: str, env: str | None) -> list[str]:
    """Ids of the tasks of a task set, or of the one task that is named."""
    head, colon, task_id = name.partition(":")
    if env is None and colon and "/" not in head:
        return [task_id]
    return [task.id for task in registry.task_set(env or _env_of(name), name).tasks]


def split_heldout(
    episodes: Sequence[Episode], share: float, seed: int
) -> tuple[list[int], list[int]]:
    """Indices (train, held out): whole groups are held out, chosen by hash, so adding episodes
    moves no group from one side to the other."""
    train: list[int] = []
    held: list[int] = []
    for i, episode in enumerate(episodes):
        drawn = draw(group(episode.task.env, episode.task.id), seed)
        (held if drawn < share else train).append(i)
    if not train:
        raise DataError("Every episode is held out: lower [data] heldout or give more traces.")
    return train, held


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

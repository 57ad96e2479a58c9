"""Runs without the environment's words: what an agent decided, and the rest from one's own data.

    episodes.jsonl -> strip -> decisions.jsonl.xz      (``harness export --decisions``)
    decisions.jsonl.xz -> the same games, decision by decision -> episodes.jsonl   (``restore``)

Benchmarks whose texts may not be passed on can so be shared episode by episode: who has the data
gets the recorded file back, byte for byte, and each line is checked by its sha256. What the agent
wrote stays as it is, whatever it repeats. The message of an episode that broke is left out for
good: messages quote what was shown.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness import jobs
from harness.errors import ConfigError, TraceError
from harness.loop import play_episode
from harness.recorder import EPISODES
from harness.runs import Run, check_description
from harness.types import Episode
from harness.verify import Recorded, check_version, first_difference, played_here

DECISIONS = "decisions.jsonl.xz"


class Stripped(msgspec.Struct, frozen=True):
    """A line of decisions.jsonl: an episode without words, and the sha256 of its line with them."""

    episode: Episode
    sha256: str


def strip(episode: Episode) -> Stripped:
    """Without instruction, observations and a fault's message; all else, times too, stays."""
    if episode.error is not None:
        fault = msgspec.structs.replace(episode.error, message="")
        episode = msgspec.structs.replace(episode, error=fault)
    steps = tuple(msgspec.structs.replace(s, observation="") for s in episode.steps)
    bare = msgspec.structs.replace(
        episode, instruction="", steps=steps,
        final_observation=None if episode.final_observation is None else "",
    )  # fmt: skip
    return Stripped(bare, _sha256(episode))


def export(run: Run, folder: Path) -> None:
    """Write the decisions of a complete run to ``folder/decisions.jsonl.xz``, or copy its own.

    Raises TraceError for a run that lacks episodes, ConfigError for an imported one, which was not
    played here and cannot be played again.
    """
    if run.meta.kind == "import":
        raise ConfigError(f"{run.path} was imported, not played: --decisions cannot restore it.")
    if needs_restoring(run.path):
        shutil.copyfile(run.path / DECISIONS, folder / DECISIONS)
        return
    with lzma.open(folder / DECISIONS, "wb") as file:
        written = 0
        for episode in run.episodes():
            file.write(msgspec.json.encode(strip(episode)) + b"\n")
            written += 1
    if written != run.meta.n_episodes:
        raise TraceError(
            f"{run.path} has {written} of its {run.meta.n_episodes} episodes: its decisions would "
            "not be whole."
        )


def read(folder: Path) -> Iterator[Stripped]:
    """The lines of ``folder/decisions.jsonl.xz``; TraceError where it is damaged."""
    path = folder / DECISIONS
    try:
        with lzma.open(path, "rb") as file:
            for line in file:
                yield msgspec.json.decode(line, type=Stripped)
    except (lzma.LZMAError, EOFError, msgspec.MsgspecError) as error:
        raise TraceError(f"{path}: damaged ({error}). Get the run again.") from None


def needs_restoring(folder: Path) -> bool:
    """Whether a run has its decisions and not its episodes."""
    return (folder / DECISIONS).is_file() and not (folder / EPISODES).is_file()


def restore(run: Run, env_options: dict[str, Any] | None = None) -> Path:
    """Write ``run``'s episodes.jsonl, as it was recorded, from its decisions and the data here.

    ``env_options`` replace the run's: where the data are here. Raises DataError where the data are
    not those of the run's task set, TraceError where there is nothing to restore or an episode
    comes out otherwise than it was recorded; then nothing is written.
    """
    if (run.path / EPISODES).exists():
        raise TraceError(f"{run.path} has its episodes.")
    if not (run.path / DECISIONS).is_file():
        raise TraceError(
            f"{run.path} holds no {DECISIONS}: get it with `harness export --decisions`."
        )
    check_description(run)
    check_version(run)
    meta = played_here(run.meta, env_options or {})
    make_env = jobs.env_maker(meta, reveal=False)
    jobs.check_data(make_env, meta.task_set)
    path, draft = run.path / EPISODES, run.path / f".{EPISODES}.{os.getpid()}"
    due = {j.key for j in jobs.all_jobs(meta)}
    env = make_env()
    try:
        with draft.open("wb") as file:
            for line in read(run.path):
                bare = line.episode
                if bare.key not in due:
                    raise TraceError(f"{run.path}: episode {bare.key} is no (other) one of its.")
                due.remove(bare.key)
                again = play_episode(
                    Recorded(bare), env, bare.task, agent=bare.agent,
                    protocol=meta.task_set.protocol, attempt=bare.attempt,
                )  # fmt: skip
                whole = _filled(bare, again)
                if _sha256(whole) != line.sha256:
                    raise TraceError(_differs(run.path, whole, again))
                file.write(msgspec.json.encode(whole) + b"\n")
        if due and meta.status == "complete":
            raise TraceError(f"{run.path}: {len(due)} episodes lack decisions: {min(due)} ...")
        draft.replace(path)
    finally:
        env.close()
        draft.unlink(missing_ok=True)
    return path


def _filled(bare: Episode, again: Episode) -> Episode:
    """``bare`` with the words of ``again``; one that broke before the first of them has none."""
    if bare.final_observation is None:
        return bare
    said = [s.observation for s in again.steps]
    said += [""] * (len(bare.steps) - len(said))
    steps = zip(bare.steps, said, strict=False)
    return msgspec.structs.replace(
        bare,
        instruction=again.instruction,
        final_observation=again.final_observation,
        steps=tuple(msgspec.structs.replace(s, observation=words) for s, words in steps),
    )


def _differs(path: Path, whole: Episode, again: Episode) -> str:
    task, seed, attempt = whole.key
    found = first_difference(whole, again)
    what = "other words" if found is None else f"another {found.field}"
    where = "" if found is None or found.step is None else f" at step {found.step}"
    return (
        f"{path}: episode {task} (seed {seed}, attempt {attempt}) comes out with {what}{where} "
        "than was recorded.\n  The data here, or the environment's version, are not the run's."
    )


def _sha256(episode: Episode) -> str:
    return hashlib.sha256(msgspec.json.encode(episode)).hexdigest()

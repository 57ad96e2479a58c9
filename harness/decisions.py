"""Runs without the environment's words: what an agent decided, and the rest from one's own data.

    episodes.jsonl -> strip -> decisions.jsonl.xz      (``harness export --decisions``)
    decisions.jsonl.xz -> the same games, decision by decision -> episodes.jsonl   (``restore``)

Benchmarks whose texts may not be passed on can so be shared episode by episode: who has the data
gets the recorded file back, byte for byte, and each line is checked by its sha256.
"""

from __future__ import annotations

import hashlib
import lzma
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from harness import api
from harness.errors import TraceError
from harness.loop import play_episode
from harness.recorder import EPISODES
from harness.runs import Run, check_description
from harness.types import Episode
from harness.verify import Recorded, check_version, first_difference

DECISIONS = "decisions.jsonl.xz"


class Stripped(msgspec.Struct, frozen=True):
    """A line of decisions.jsonl: an episode without words, and the sha256 of its whole line."""

    episode: Episode
    sha256: str


def strip(episode: Episode) -> Stripped:
    """Without instruction and observations; all else, times too, stays."""
    steps = tuple(msgspec.structs.replace(s, observation="") for s in episode.steps)
    bare = msgspec.structs.replace(
        episode, instruction="", steps=steps,
        final_observation=None if episode.final_observation is None else "",
    )  # fmt: skip
    return Stripped(bare, _sha256(episode))


def write(folder: Path, episodes: Iterator[Episode]) -> None:
    """Write ``folder/decisions.jsonl.xz``."""
    with lzma.open(folder / DECISIONS, "wb") as file:
        for episode in episodes:
            file.write(msgspec.json.encode(strip(episode)) + b"\n")


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


def restore(run: Run) -> Path:
    """Write ``run``'s episodes.jsonl, as it was recorded, from its decisions and the data here.

    Raises DataError where the data are not those of the run's task set, TraceError where an episode
    comes out otherwise than it was recorded; then nothing is written.
    """
    check_description(run)
    check_version(run)
    meta = run.meta
    make_env = api.env_maker(meta, reveal=False)
    api.check_data(make_env, meta.task_set)
    path, draft = run.path / EPISODES, run.path / f".{EPISODES}.{os.getpid()}"
    due = {(j.task.id, j.task.seed, j.attempt) for j in api.all_jobs(meta)}
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

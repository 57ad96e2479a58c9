"""A recorded run in which an episode broke."""

from __future__ import annotations

from pathlib import Path

import msgspec

from harness import api
from harness.recorder import EPISODES
from harness.runs import Run, complete, read_meta, write_meta
from harness.types import Fault, Outcome


def break_episode(run: Path, number: int = 0) -> None:
    """As a fault of the machine would have left a complete run's ``number``-th episode."""
    episodes = list(Run(run).episodes())
    fault = Fault("AgentError", "the machine gave up")
    episodes[number] = msgspec.structs.replace(episodes[number], outcome=Outcome.ERROR, error=fault)
    (run / EPISODES).write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
    stopped = {"status": "running", "episodes_hash": None}
    write_meta(run, msgspec.structs.replace(read_meta(run), **stopped))
    api.score(run, api.results_folder(Run(run)))
    assert complete(run).summary.errors == 1

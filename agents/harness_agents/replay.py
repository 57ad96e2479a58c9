"""``ReplayPolicy``: makes the decisions of a recorded run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import AgentError, ConfigError
from harness.recorder import EPISODES, read_episodes
from harness.types import Decision, Episode, Info, Step


def unnamed(who: str, option: str) -> str:
    """What to do where no run is named."""
    return (
        f"{who}: no run is named. Write an agent config that says which, e.g. {who}.toml:\n"
        f'  policy = "{who}"\n  [options]\n  {option} = "results/<env>/<agent>/<run id>"'
    )


def load_episodes(path: str | Path, who: str) -> list[Episode]:
    """Episodes of a run folder, or of an episodes.jsonl file; ConfigError where there is none."""
    place = Path(path)
    file = place / EPISODES if place.is_dir() else place
    if not file.is_file():
        raise ConfigError(
            f"{who}: no recorded episodes at {file}. "
            "Give the folder of a run (results/<env>/<agent>/<run id>)."
        )
    episodes = list(read_episodes(file))
    if not episodes:
        raise ConfigError(f"{who}: {file} holds no episodes yet.")
    return episodes


class ReplayPolicy:
    """Plays a recorded run's actions again.

    ``run`` is a run folder. An episode is found by task id, seed and attempt.
    """

    @staticmethod
    def missing(run: str = "", **_: Any) -> str | None:
        """Why it cannot play, for ``harness list agents``; other options are checked later."""
        return None if run else unnamed("replay", "run")

    def __init__(self, run: str = "") -> None:
        if why := self.missing(run):
            raise ConfigError(why)
        self.run = run
        self.episodes = {e.key: e for e in load_episodes(run, "replay")}

    def act(
        self,
        instruction: str,
        history: Sequence[Step],
        observation: str,
        info: Info,
    ) -> Decision:
        key = (info["task_id"], info.get("seed", 0), info.get("attempt", 0))
        episode = self.episodes.get(key)
        if episode is None:
            raise AgentError(
                f"replay: run {self.run} has no episode of task '{key[0]}', seed {key[1]}, "
                f"attempt {key[2]}. Play the task set and seeds that it recorded."
            )
        if len(history) >= len(episode.steps):
            raise AgentError(
                f"replay: the episode of task '{key[0]}' in {self.run} ended after "
                f"{len(episode.steps)} steps and this one goes on: the environment is another."
            )
        return episode.steps[len(history)].decision

"""``RandomPolicy``: any admissible action, each as likely: the floor of every leaderboard."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.types import Decision, Info, Step


class RandomPolicy:
    """Any admissible action, each as likely.

    Where the environment lists none, a word of the observation.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        stream = info.get("sampling_seed", instruction)
        rng = Random(f"{self.seed}|{stream}|{len(history)}")
        options = info["admissible_actions"] or observation.split() or [""]
        return Decision(reasoning="", action=rng.choice(options))

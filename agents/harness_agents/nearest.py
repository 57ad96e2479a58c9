"""``NearestPolicy``: repeats the training episode of the most similar task, blindly.

It measures how hard a set of tasks is: what it solves needs no understanding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from harness.errors import ConfigError
from harness.overlap import TrainedOn
from harness.types import Decision, Episode, Info, Step
from harness_agents.replay import load_episodes, unnamed

Words = frozenset[str]


@lru_cache(maxsize=8192)
def _words(text: str) -> Words:
    return frozenset(text.lower().replace(",", " ").replace(".", " ").split())


def overlap(one: Words, other: Words) -> float:
    """Jaccard similarity of two sets of words."""
    return len(one & other) / max(1, len(one | other))


class NearestPolicy:
    """Plays again the won training episode whose task is nearest in its words.

    ``traces`` is a run on training tasks; only its successful episodes are used.
    Nearest: the most words in common with the instruction, then with the first observation, then
    recorded first. When the episode's actions are used up it has nothing more to say.
    """

    @staticmethod
    def missing(traces: str = "", **_: Any) -> str | None:
        """Why it cannot play, for ``harness list agents``; other options are checked later."""
        return None if traces else unnamed("nearest", "traces")

    def __init__(self, traces: str = "") -> None:
        if why := self.missing(traces):
            raise ConfigError(why)
        self.by_instruction: defaultdict[str, list[Episode]] = defaultdict(list)
        for episode in load_episodes(traces, "nearest"):
            if episode.success and episode.steps:
                self.by_instruction[episode.instruction].append(episode)
        if not self.by_instruction:
            raise ConfigError(f"nearest: no episode in {traces} was won, and it plays only such.")
        used = [e.task for some in self.by_instruction.values() for e in some]
        self.trained_on = TrainedOn.of((task.env, task.id) for task in used)
        self._nearest = lru_cache(maxsize=4096)(self._find)

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        first = history[0].observation if history else observation
        episode = self._nearest(instruction, first)
        step = len(history)
        action = episode.steps[step].decision.action if step < len(episode.steps) else None
        return Decision(reasoning="", action=action)

    def _find(self, instruction: str, first: str) -> Episode:
        wanted, scene = _words(instruction), _words(first)
        best = max(overlap(wanted, _words(text)) for text in self.by_instruction)
        near = [
            episode
            for text, episodes in self.by_instruction.items()
            if overlap(wanted, _words(text)) == best
            for episode in episodes
        ]
        return max(near, key=lambda e: overlap(scene, _words(e.steps[0].observation)))

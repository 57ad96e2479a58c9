"""``Environment``: what an environment must offer, on top of ``gymnasium.Env[str, str]``.

A subclass says which tasks it has and how one starts and goes on::

    class Echo(harness.Environment):
        max_steps = 5
        splits = ("valid",)

        def task_ids(self, split):
            return [f"{split}/{word}" for word in ("apple", "pear")]

        def start(self, task_id):
            self.word = task_id.split("/")[1]
            return f"Say {self.word}.", {"instruction": f"say {self.word}"}

        def play(self, action):
            won = action == f"say {self.word}"
            return "Right." if won else "No.", float(won), won, {"success": won}

and registers itself by an entry point in the group ``harness.envs``. The base class resolves
``reset`` options, seeds, fills the info keys every consumer may rely on and checks types.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

from harness.errors import ConfigError, EnvError, unknown
from harness.protocol import Preset
from harness.spaces import StringSpace
from harness.tasksets import TaskSet
from harness.types import Info, Task


class Environment(gymnasium.Env[str, str]):
    """A text environment with named tasks.

    ``reset(seed=, options={"task_id": ...} | {"split": ..., "index": ...})``; without options the
    seed draws a task of ``default_split``. ``step`` keeps working after termination, as the
    originals do; the step budget is Gymnasium's TimeLimit, set at registration.

    ``score`` is in [0, 1]: how much of the task was done where the environment tells degrees, else
    the last step's reward, clipped.

    Info always holds ``instruction, task_id, task_type, admissible_actions, success, score,
    invalid_action``; with ``reveal=True`` also ``solution``, the actions that win from the start.
    Numbers under ``info["measures"]`` (``{"f1": 0.5}``) are kept with the episode.
    """

    metadata: dict[str, Any] = {"render_modes": []}

    #: Bumped whenever an observation, a reward or a task changes.
    version: ClassVar[str] = "0"
    #: Step budget of the registered environment.
    max_steps: ClassVar[int] = 50
    #: True: info names the admissible actions; False: none, since an action is free text, and
    #: agents held to admissible actions are refused; None: it does not say.
    lists_actions: ClassVar[bool | None] = None
    #: False: several instances cannot share a process; each then lives in one of its own.
    shareable: ClassVar[bool] = True
    #: Rules of play known from the literature, by name.
    protocols: ClassVar[Mapping[str, Preset]] = {}
    #: Split that a bare ``reset()`` draws from.
    default_split: ClassVar[str] = "valid"
    #: Splits whose ``task_ids`` are all the tasks there are: ``reset`` refuses others. Empty: what
    #: is no split or task is for ``task_ids`` and ``start`` to refuse.
    splits: ClassVar[tuple[str, ...]] = ()
    #: Constructor keywords that decide a score, and so belong to a task set.
    scoring_options: ClassVar[tuple[str, ...]] = ()
    #: Those of them that make another task of the same id (drawn prices, say).
    task_options: ClassVar[tuple[str, ...]] = ()
    #: Constructor keywords that name files or folders: a run notes them in full.
    places: ClassVar[tuple[str, ...]] = ("data",)
    #: The environment's name in the registry (set when it is found).
    name: ClassVar[str] = ""

    def __init__(self, *, reveal: bool = False) -> None:
        self.observation_space = StringSpace()
        self.action_space = StringSpace()
        self.reveal = reveal
        self._task_id: str | None = None
        self._instruction = ""
        self._task_type = ""
        self._listed: frozenset[str] | None = None

    # What a subclass provides -------------------------------------------------------------

    def task_ids(self, split: str) -> Sequence[str]:
        """Ids of a split in their fixed order; an unknown split raises ConfigError."""
        raise self._lacks("task_ids(split)")

    def start(self, task_id: str) -> tuple[str, Info]:
        """Begin a task: (first observation, info with at least ``instruction``)."""
        raise self._lacks("start(task_id)")

    def play(self, action: str) -> tuple[str, float, bool, Info]:
        """Execute an action: (observation, reward, terminated, info)."""
        raise self._lacks("play(action)")

    def _lacks(self, method: str) -> EnvError:
        return EnvError(f"{type(self).__name__} lacks the method {method}.")

    def solution(self) -> Sequence[str]:
        """Hidden knowledge: actions that win the present task from its start."""
        raise EnvError(f"{type(self).__name__} offers no solutions")

    def draw_task(self, split: str, n: int) -> int:
        """Which of a split's ``n`` tasks a bare ``reset()`` plays, by ``np_random``: any alike."""
        return int(self.np_random.integers(n))

    def content_hash(self, task_id: str) -> str:
        """What the task is made of, as 16 hex digits, so that a task set can tell its data."""
        return hashlib.sha256(f"{self.version}:{task_id}".encode()).hexdigest()[:16]

    @classmethod
    def task_sets(cls) -> Mapping[str, Callable[[], TaskSet]]:
        """Named task sets; the first one is the default. Without any: ``default_split`` whole.
        Where some are of tasks that come with the environment and some of data named by its keyword
        ``data``, the former are called ``builtin-...``."""
        return {}

    @classmethod
    def fetch(cls, target: Path) -> None:
        """Download the official data into a folder."""
        raise ConfigError(f"{cls.name} has no data to fetch: what it needs comes with it.")

    @classmethod
    def group(cls, task_id: str) -> str:
        """What tasks must not be split across training and evaluation (default: the task)."""
        return task_id

    @classmethod
    def keys(cls, task_id: str) -> tuple[str, ...]:
        """All that no task of training may share with one of evaluation: the group, and what else
        ties tasks together where it cuts across groups."""
        return (cls.group(task_id),)

    # Gymnasium's interface ----------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        super().reset(seed=seed)
        task_id = self._resolve(options or {})
        observation, info = self.start(task_id)
        self._task_id = task_id
        self._instruction = info.get("instruction", observation)
        self._task_type = info.get("task_type", "")
        info = self._complete(info)
        if self.reveal:
            info["solution"] = list(self.solution())
        return observation, info

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        if self._task_id is None:
            raise EnvError(f"{type(self).__name__}.step() before reset()")
        if not isinstance(action, str):
            raise EnvError(
                f"{type(self).__name__}.step() takes a string, got {type(action).__name__}"
            )
        observation, reward, terminated, info = self.play(action)
        reward = float(reward)
        if not math.isfinite(reward):
            raise EnvError(f"{type(self).__name__}.play() gave the reward {reward}")
        if reward > 1 and "score" not in info:
            raise EnvError(
                f"{type(self).__name__}.play() gave the reward {reward}: a score is in [0, 1]. "
                "Give info['score'] beside a reward of another scale."
            )
        info = {"score": min(max(reward, 0.0), 1.0), **info}
        return observation, reward, bool(terminated), False, self._complete(info)

    def _resolve(self, options: dict[str, Any]) -> str:
        for key in options:
            if key not in ("task_id", "split", "index"):
                raise ConfigError(unknown("reset option", str(key), ("task_id", "split", "index")))
        if "task_id" in options:
            return self._known(str(options["task_id"]))
        split = str(options.get("split", self.default_split))
        if self.splits and split not in self.splits:
            raise ConfigError(unknown(f"split of {type(self).__name__}", split, self.splits))
        ids = self.task_ids(split)
        if not ids:
            raise ConfigError(f"Split '{split}' of {type(self).__name__} has no tasks.")
        asked = options.get("index")
        try:
            index = operator.index(self.draw_task(split, len(ids)) if asked is None else asked)
        except TypeError:
            index = -1
        if isinstance(asked, bool) or not 0 <= index < len(ids):
            raise ConfigError(f"Split '{split}' has tasks 0 to {len(ids) - 1}, not {asked!r}.")
        return ids[index]

    def _known(self, task_id: str) -> str:
        """The id, which must be one of the splits' where they list every task."""
        if self.splits:
            if self._listed is None:  # once: a split may be long
                self._listed = frozenset(i for s in self.splits for i in self.task_ids(s))
            if task_id not in self._listed:
                raise ConfigError(
                    f"{type(self).__name__} has no task '{task_id}' in its splits "
                    f"({', '.join(self.splits)})."
                )
        return task_id

    def _complete(self, info: Info) -> Info:
        """The info keys every consumer relies on, the subclass's own beside them."""
        return {
            "admissible_actions": [],
            "success": False,
            "score": 0.0,
            "invalid_action": False,
            **info,
            "instruction": self._instruction,
            "task_id": self._task_id,
            "task_type": self._task_type,
        }

    @classmethod
    def whole_split(cls, name: str, split: str) -> TaskSet:
        """A task set of every task of a split, for environments without named sets."""
        env = cls()
        try:
            tasks = tuple(Task(cls.name, split, i) for i in env.task_ids(split))
            content = {t.id: env.content_hash(t.id) for t in tasks}
        finally:
            env.close()
        return TaskSet.make(name, cls.name, tasks, max_steps=cls.max_steps, content=content)

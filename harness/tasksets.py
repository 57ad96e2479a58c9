"""Task sets: named, content-hashed lists of tasks with everything that decides a score."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from harness.errors import ConfigError
from harness.protocol import Protocol
from harness.types import Task

_PART = re.compile(r"\[(\d*):(\d*)\]")
#: What a limit of the protocol is called in a varied set's name.
_LIMITS = {"max_steps": "steps", "max_tokens": "tokens", "repeat_limit": "repeats"}
#: Rules that are no part of a hash while they are not used: runs older than them keep theirs.
_NEUTRAL = ("max_tokens", "repeat_limit")
_SLICE = re.compile(r"\A(?P<name>.*?)\[(?P<start>\d*):(?P<stop>\d*)\]\Z")


class TaskSet(msgspec.Struct, frozen=True):
    """Tasks plus protocol. Two sets with one ``hash`` score the same thing; ``name`` is a label.

    ``content`` holds a hash of each task's data, in the order of ``tasks``: data that differ are
    another set, and a run on them is refused.
    ``options`` are the environment keywords that decide a score (rules, grammar, goal_seed ...).
    ``protocol`` holds the rules of play.
    ``reference`` names the agent whose traces CoT overlap is measured against.
    """

    name: str
    env: str
    tasks: tuple[Task, ...]
    content: tuple[str, ...]
    protocol: Protocol
    options: dict[str, Any] = {}
    success: str = "the environment's own"
    reference: str | None = None

    @classmethod
    def make(
        cls,
        name: str,
        env: str,
        tasks: Sequence[Task],
        *,
        max_steps: int,
        content: Mapping[str, str],
        **fields: Any,
    ) -> TaskSet:
        """Build a set from tasks and their content hashes (task id -> hex digits); ``fields`` are
        ``options``, ``success``, ``reference``."""
        if not tasks:
            raise ConfigError(f"Task set '{name}' has no tasks.")
        try:
            hashes = tuple(content[task.id] for task in tasks)
        except KeyError as error:
            raise ConfigError(f"Task set '{name}': no content hash for task {error}.") from None
        return cls(name, env, tuple(tasks), hashes, Protocol(max_steps), **fields)

    def part(self, part: slice) -> TaskSet:
        """Some of the tasks, in order: another set, with another hash."""
        tasks = self.tasks[part]
        start, stop, _ = part.indices(len(self.tasks))
        if not tasks:
            raise ConfigError(f"'{self.name}[{start}:{stop}]' holds no tasks.")
        if len(tasks) == len(self.tasks):
            return self
        name = f"{self.name}[{start}:{stop}]"
        content = self.content[part]
        return msgspec.structs.replace(self, name=name, tasks=tasks, content=content)

    @property
    def hash(self) -> str:
        """16 hex digits over everything but the name."""
        raw = msgspec.to_builtins(msgspec.structs.replace(self, name=""))
        for key in _NEUTRAL:
            if raw["protocol"][key] is None:
                del raw["protocol"][key]
        body = msgspec.json.encode(raw, order="sorted")
        return hashlib.sha256(body).hexdigest()[:16]

    def under(self, name: str, protocol: Protocol) -> TaskSet:
        """The same tasks under a named protocol, and so under another hash."""
        ours = msgspec.structs.replace(protocol, options={})
        options = {**self.options, **protocol.options}
        return msgspec.structs.replace(
            self, name=f"{self.name}+{name}", protocol=ours, options=options
        )

    def varied(
        self,
        *,
        max_steps: int | None = None,
        max_tokens: int | None = None,
        repeat_limit: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> TaskSet:
        """The same tasks with other limits or options, and a name that tells."""
        protocol, name, chosen = self.protocol, self.name, dict(self.options)
        limits = {"max_steps": max_steps, "max_tokens": max_tokens, "repeat_limit": repeat_limit}
        for key, limit in limits.items():
            if limit is not None and limit != getattr(protocol, key):
                protocol = msgspec.structs.replace(protocol, **{key: limit})
                name += f"+{limit}{_LIMITS[key]}"
        for key, value in (options or {}).items():
            if chosen.get(key) != value:
                chosen[key] = value
                name += f"+{key}={value}"
        return msgspec.structs.replace(self, name=name, protocol=protocol, options=chosen)


def split_slice(name: str) -> tuple[str, slice | None]:
    """``"alfworld/valid[:20]"`` -> (``"alfworld/valid"``, ``slice(None, 20)``)."""
    match = _SLICE.match(name)
    if match is None:
        return name, None
    bounds = [int(match[g]) if match[g] else None for g in ("start", "stop")]
    return match["name"], slice(*bounds)


def named(asked: str, task_set: TaskSet) -> bool:
    """Whether a set is the one asked for by name: with or without its environment, a part by its
    bounds (``dev[:12]`` is ``alfworld/dev[0:12]``; one that holds all tasks is the set itself)."""
    wanted, part = _bounds(asked)
    base, ours = _bounds(task_set.name)
    if wanted not in (base, base.partition("/")[2]):
        return False
    if part is None or ours is None:
        size = len(task_set.tasks)
        return part == ours or (part is not None and part.indices(size) == (0, size, 1))
    return (part.start or 0) == (ours.start or 0) and part.stop in (None, ours.stop)


def _bounds(name: str) -> tuple[str, slice | None]:
    """A name without its part, which may stand before a protocol's suffix, and the part."""
    match = _PART.search(name)
    if match is None:
        return name, None
    bounds = (int(bound) if bound else None for bound in match.groups())
    return name[: match.start()] + name[match.end() :], slice(*bounds)

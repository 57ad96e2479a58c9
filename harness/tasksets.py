"""Task sets: named, content-hashed lists of tasks with everything that decides a score."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ConfigError, TraceError
from harness.protocol import Protocol
from harness.types import SCHEMA, Task

#: How the name of a frozen set's file ends.
SUFFIX = ".json"
_PART = re.compile(r"\[(\d*):(\d*)\]")
#: What a limit of the protocol is called in a varied set's name.
_LIMITS = {"max_steps": "steps", "max_tokens": "tokens", "repeat_limit": "repeats"}
#: Rules that are no part of a hash while they are not used: runs older than them keep theirs.
_NEUTRAL = ("max_tokens", "repeat_limit", "actions", "repetition", "help_action")
_SLICE = re.compile(r"\A(?P<name>.*?)\[(?P<start>\d*):(?P<stop>\d*)\]\Z")


def is_builtin(name: str) -> bool:
    """Whether a set of this name is of tasks that come with the environment."""
    return name.rpartition("/")[2].startswith("builtin-")


class TaskSet(msgspec.Struct, frozen=True):
    """Tasks plus protocol. Two sets with one ``hash`` score the same thing; ``name`` is a label.

    ``content`` holds a hash of each task's data, in the order of ``tasks``: data that differ are
    another set, and a run on them is refused. Of what only a server knows it is empty in a named
    set; a run's own set, which ``plan`` makes, has what the server told.
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
        ``options``, ``success``, ``reference``. Raises ConfigError for no tasks, one without a
        hash, and what ``check`` refuses."""
        if not tasks:
            raise ConfigError(f"Task set '{name}' has no tasks.")
        try:
            hashes = tuple(content[task.id] for task in tasks)
        except KeyError as error:
            raise ConfigError(f"Task set '{name}': no content hash for task {error}.") from None
        return cls(name, env, tuple(tasks), hashes, Protocol(max_steps), **fields).check()

    def check(self) -> TaskSet:
        """Itself. Raises ConfigError for a task that is listed twice, and for one with a seed: a
        run's seeds are played over all tasks, whatever theirs."""
        twice = [name for name, n in Counter(task.id for task in self.tasks).items() if n > 1]
        if twice:
            raise ConfigError(f"Task set '{self.name}' lists '{twice[0]}' twice: list it once.")
        for task in self.tasks:
            if task.seed != 0:
                raise ConfigError(
                    f"Task set '{self.name}': '{task.id}' has seed {task.seed}. A set's tasks have "
                    "none; give seeds to the run (--seeds N, or plan's 'seeds')."
                )
        return self

    def part(self, part: slice) -> TaskSet:
        """Some of the tasks, in order: another set, with another hash."""
        tasks = self.tasks[part]
        start, stop, _ = part.indices(len(self.tasks))
        if not tasks:
            asked = ":".join("" if end is None else str(end) for end in (part.start, part.stop))
            raise ConfigError(
                f"'{self.name}' has {len(self.tasks)} tasks; its part [{asked}] holds none."
            )
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


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task set as it was at one time: what a file holds that ``--tasks FILE`` plays.

    ``env_version`` is that of the environment; each task's data are known by the set's own hashes.
    """

    hash: str
    env_version: str
    task_set: TaskSet
    schema: int = SCHEMA

    def checked(self, where: Path) -> Frozen:
        """Itself. Raises TraceError where the set is not the one that was hashed."""
        if self.task_set.hash != self.hash:
            raise TraceError(
                f"{where}: its task set hashes to {self.task_set.hash}, but it says {self.hash}: "
                "it was changed since. Freeze the set again with `harness list tasks SET --to`."
            )
        return self

    def part(self, part: slice | None) -> Frozen:
        """Some of the tasks, as ``TaskSet.part``."""
        if part is None:
            return self
        found = self.task_set.part(part)
        return msgspec.structs.replace(self, hash=found.hash, task_set=found)


def freeze(frozen: Frozen, path: Path) -> None:
    """Write a set to a .json file, in one move. Raises ConfigError for another name."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"A frozen task set is a file *{SUFFIX}, not '{path}'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(frozen), indent=1) + b"\n")
    temporary.replace(path)


def thaw(path: Path) -> Frozen:
    """A frozen set. Raises ConfigError where there is none, TraceError for one that was damaged or
    changed."""
    try:
        frozen = msgspec.json.decode(path.read_bytes(), type=Frozen)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: not a frozen task set: {error}") from None
    return frozen.checked(path)


class Difference(msgspec.Struct, frozen=True):
    """What two sets do not share: tasks of one alone, tasks whose data differ, other rules."""

    same: int
    only_a: tuple[Task, ...]
    only_b: tuple[Task, ...]
    changed: tuple[Task, ...]
    #: Name of what decides a score, and both values.
    rules: tuple[tuple[str, str, str], ...]


def differences(a: Frozen, b: Frozen) -> Difference:
    """Compare two sets task by task and rule by rule; names and order do not count."""
    ours = dict(zip(a.task_set.tasks, a.task_set.content, strict=True))
    theirs = dict(zip(b.task_set.tasks, b.task_set.content, strict=True))
    shared = [task for task in ours if task in theirs]
    changed = tuple(task for task in shared if ours[task] != theirs[task])
    left, right = _rules(a), _rules(b)
    return Difference(
        same=len(shared) - len(changed),
        only_a=tuple(task for task in ours if task not in theirs),
        only_b=tuple(task for task in theirs if task not in ours),
        changed=changed,
        rules=tuple(
            (name, left.get(name, "-"), right.get(name, "-"))
            for name in sorted(left | right)
            if left.get(name) != right.get(name)
        ),
    )


def _rules(frozen: Frozen) -> dict[str, str]:
    """All that decides a score besides the tasks, as text."""
    s = frozen.task_set
    told = {"environment": s.env, "version": frozen.env_version, "success": s.success}
    told["CoT reference"] = s.reference or "-"
    protocol = msgspec.to_builtins(s.protocol)
    told |= {f"protocol {name}": str(value) for name, value in protocol.items()}
    return told | {f"option {name}": str(value) for name, value in s.options.items()}


def split_slice(name: str) -> tuple[str, slice | None]:
    """``"alfworld/valid[:20]"`` -> (``"alfworld/valid"``, ``slice(None, 20)``).

    Raises ConfigError for a part of another form.
    """
    match = _SLICE.match(name)
    if match is None:
        base, bracket, _ = name.rpartition("[")
        if bracket and name.endswith("]"):
            raise ConfigError(
                f"'{name}': a part of a task set is {base}[:20], [20:] or [20:40], counted from "
                "the first task; no negative numbers, no steps."
            )
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

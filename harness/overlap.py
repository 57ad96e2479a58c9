"""Which tasks of a set an agent's weights were trained on.

    tasks learned from -> TrainedOn (harness.json of the student) -> Overlap (run.json) -> tables

What counts as the same is what the leak guard of training refuses (``rows.keys``).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from harness.rows import IMPORTED, group, keys
from harness.types import Task

#: Hex digits of a key's hash. One of 10,000 keys and one of 1,000 others are alike by chance once
#: in 28 million records.
_DIGITS = 12


class TrainedOn(msgspec.Struct, frozen=True):
    """What weights have learned from.

    ``keys``: by environment the hashes of its tasks' keys, sorted and written one after the other.
    ``unknown``: environments of which imported episodes were learned that do not say their tasks.
    ``whole`` is False where weights that these go on from do not tell what they have learned.
    """

    keys: dict[str, str] = {}
    unknown: tuple[str, ...] = ()
    whole: bool = True

    @classmethod
    def of(cls, tasks: Iterable[tuple[str, str]]) -> TrainedOn:
        """Of (environment, task id) pairs."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        unknown = set()
        for env, task_id in tasks:
            if task_id.startswith(IMPORTED):
                unknown.add(env)
            found[env].update(map(_hash, keys(env, task_id)))
        return cls({env: "".join(sorted(found[env])) for env in sorted(found)},
                   tuple(sorted(unknown)))  # fmt: skip

    def hashes(self, env: str) -> frozenset[str]:
        text = self.keys.get(env, "")
        return frozenset(text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS))

    def met(self, env: str, task_ids: Iterable[str]) -> list[str]:
        """Those of an environment's tasks that share a key with what was learned from."""
        hashes = self.hashes(env)
        if not hashes:
            return []
        return [i for i in task_ids if not hashes.isdisjoint(map(_hash, keys(env, i)))]

    def after(self, start: TrainedOn | None) -> TrainedOn:
        """With what the weights had learned that these go on from (None: they do not tell)."""
        if start is None:
            return msgspec.structs.replace(self, whole=False)
        envs = sorted({*self.keys, *start.keys})
        both = {env: "".join(sorted(self.hashes(env) | start.hashes(env))) for env in envs}
        unknown = tuple(sorted({*self.unknown, *start.unknown}))
        return TrainedOn(both, unknown, self.whole and start.whole)


class Overlap(msgspec.Struct, frozen=True):
    """Of the ``of`` groups of a run's tasks, ``groups`` were trained on. ``unknown``: so were
    imported episodes of the environment that do not say their tasks. ``whole`` as in TrainedOn."""

    groups: int
    of: int
    unknown: bool = False
    whole: bool = True

    @property
    def flagged(self) -> bool:
        return self.groups > 0 or self.unknown

    def told(self) -> str:
        """``trained on ...``, for behind an agent's name."""
        said = f"trained on {self.groups} of the {self.of} groups of this set"
        if self.unknown:
            said += ", and on imported episodes of tasks unknown, which may be of it"
        return said


def overlap(learned: TrainedOn, env: str, tasks: Sequence[Task]) -> Overlap:
    """How much of a set's tasks was learned from."""
    groups = {group(env, task.id) for task in tasks}
    met = {group(env, i) for i in learned.met(env, [task.id for task in tasks])}
    return Overlap(len(met), len(groups), env in learned.unknown, learned.whole)


def note(agent: str, policy: Mapping[str, Any], met: Overlap | None) -> str | None:
    """A line for whoever looks at one run, flagged or not; None where the agent (which says
    ``policy`` of itself) has no weights."""
    if met is None:
        told = "which tasks its weights were trained on is not recorded"
        return f"{agent}: {told}." if "weights_sha256" in policy else None
    return f"{agent}: {met.told()}" + (
        "." if met.whole else "; what the weights learned that it went on from is not recorded."
    )


def largest(found: Iterable[Overlap | None]) -> Overlap | None:
    """Of an agent's several runs, the one that was trained on most of the set."""
    known = [o for o in found if o is not None]
    return max(known, key=lambda o: (o.flagged, o.groups), default=None)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]

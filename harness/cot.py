"""CoT match: how much an episode reasons as the reference of its task does, in the same words.

    reference episodes -> references(): of each task its reference, another task's, a second one
    episode, reference -> match(): recall (the paper's), precision, F1

Multisets of words of the fixed tokenisation, or of a model's tokens (``pieces``). The paper's match
(SAD, appendix C) is a recall, which rambling raises; precision and F1 stand beside it, and two
levels to read it by: the match with the reference of ANOTHER task (the floor: what any talk of this
kind gets) and that of a second sampling of the reference's agent with the first (the ceiling).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

import msgspec

from harness.protocol import Protocol
from harness.types import Decision, Episode, Outcome

_WORD = re.compile(r"\w+|[^\w\s]")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """The fixed word tokenisation every agent is measured with: runs of letters and digits,
    lower-cased, and single punctuation marks."""
    return tuple(_WORD.findall(text.lower()))


T = TypeVar("T")
#: What a thought is cut into to be compared.
Pieces = Callable[[str], Sequence[Hashable]]


class Match(NamedTuple):
    """Shared words over the reference's (``recall``), over one's own (``precision``), and their
    harmonic mean; None for a share of nothing."""

    recall: float | None
    precision: float | None
    f1: float | None


#: There is nothing to match.
NONE = Match(None, None, None)


def overlap(ours: Counter[T], theirs: Counter[T]) -> Match:
    """Clipped multiset intersection; exchanging the sides exchanges recall and precision."""
    shared, mine, wanted = (ours & theirs).total(), ours.total(), theirs.total()
    return Match(_share(shared, wanted), _share(shared, mine), _share(2 * shared, mine + wanted))


def _share(part: int, whole: int) -> float | None:
    """Six digits, as records hold it: a million rows are read in seconds."""
    return round(part / whole, 6) if whole else None


def match(
    episode: Episode | None,
    reference: Episode | None,
    protocol: Protocol | None = None,
    pieces: Pieces = words,
) -> Match:
    """CoT match of a whole episode, steps pooled. All None without a reference, or where it
    reasons not at all; an episode that says nothing has recall and F1 0, and no precision."""
    if episode is None or reference is None:
        return NONE
    theirs = reasoning(reference, protocol, pieces)
    return overlap(reasoning(episode, protocol, pieces), theirs) if theirs else NONE


def reasoning(
    episode: Episode, protocol: Protocol | None, pieces: Pieces = words
) -> Counter[Hashable]:
    """The words of an episode's thoughts; slips are not its agent's."""
    count: Counter[Hashable] = Counter()
    for step in episode.steps:
        if not step.decision.injected:
            count.update(pieces(parts(step.decision, protocol)[0]))
    return count


def parts(decision: Decision, protocol: Protocol | None) -> tuple[str, str]:
    """A decision's reasoning and its action; an action that is a thought under ``protocol`` is
    reasoning."""
    action = decision.action or ""
    if is_thought(decision, protocol):
        return f"{decision.reasoning} {action}", ""
    return decision.reasoning, action


def is_thought(decision: Decision, protocol: Protocol | None) -> bool:
    action = decision.action
    return action is not None and protocol is not None and protocol.is_thought(action)


class Reference(NamedTuple):
    """What an episode of a task is measured against: the task's reference; the reference of another
    task (floor); a second sampling of the reference's agent (ceiling). None where there is none."""

    episode: Episode
    other: Episode | None = None
    second: Episode | None = None


def references(
    recorded: Callable[[], Iterable[Episode]],
    again: Callable[[], Iterable[Episode]],
    tasks: Sequence[str],
    group: Callable[[str], str],
    protocol: Protocol | None = None,
) -> dict[str, Reference]:
    """The reference of each of ``tasks`` that has one.

    It is ``chosen`` from ``recorded``. The second sampling is the
    episode of the lowest other seed and attempt in ``again``, won or lost: the same seed and
    attempt would be the same sampling.
    """
    first = chosen(recorded(), tasks)
    second = _lowest(
        e for e in again()
        if e.task.id in first and e.outcome is not Outcome.ERROR and e.key != first[e.task.id].key
    )  # fmt: skip
    others = other_tasks(first, group, protocol)
    return {
        task: Reference(episode, others.get(task), second.get(task))
        for task, episode in first.items()
    }


def fingerprint(found: Mapping[str, Reference]) -> str:
    """sha256 of what the references say and do, task by task, in hex digits; when and how fast they
    were played does not count."""
    said = [
        (task, [(s.decision.reasoning, s.decision.action) for s in reference.episode.steps])
        for task, reference in found.items()
    ]
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def other_tasks(
    first: Mapping[str, Episode], group: Callable[[str], str], protocol: Protocol | None = None
) -> dict[str, Episode]:
    """The reference of another task for each that has one: of the next task of the same type, round
    to the first, that is of another ``group`` (trials of one folder are nearly one task) and whose
    reference reasons. A type of one group has none."""
    types: dict[str, list[str]] = {}
    for task, episode in first.items():
        if reasoning(episode, protocol):
            types.setdefault(episode.task_type, []).append(task)
    return {
        task: first[other] for ids in types.values() for task, other in _next_groups(ids, group)
    }


def chosen(episodes: Iterable[Episode], tasks: Sequence[str]) -> dict[str, Episode]:
    """The reference of each of ``tasks`` that has one, in their order: of its won episodes that of
    the lowest seed and attempt."""
    wanted = frozenset(tasks)
    found = _lowest(
        e for e in episodes if e.task.id in wanted and e.success and e.outcome is Outcome.DONE
    )
    return {task: found[task] for task in tasks if task in found}


def _lowest(episodes: Iterable[Episode]) -> dict[str, Episode]:
    """Of each task the episode of the lowest seed and attempt."""
    found: dict[str, Episode] = {}
    for episode in episodes:
        other = found.setdefault(episode.task.id, episode)
        if episode.key < other.key:
            found[episode.task.id] = episode
    return found


def _next_groups(tasks: Sequence[str], group: Callable[[str], str]) -> Iterable[tuple[str, str]]:
    """Each task with the next one, round to the first, of another group; without one, left out."""
    groups = [group(task) for task in tasks]
    n = len(tasks)
    after = 0
    for i in range(n):
        after = max(after, i + 1)
        while after < i + n and groups[after % n] == groups[i]:
            after += 1
        if after < i + n:
            yield tasks[i], tasks[after % n]

"""Metrics: functions of an episode and, for CoT overlap, of a reference episode of its task.

Definitions follow SAD, appendix C, read per episode as DISTILL's decisions say. A metric that
does not apply is None, never 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from harness.cost import completions
from harness.protocol import Protocol
from harness.types import Completion, Decision, Episode, Outcome

_WORD = re.compile(r"\w+|[^\w\s]")


@lru_cache(maxsize=65536)
def words(text: str) -> tuple[str, ...]:
    """The fixed word tokenisation every agent is measured with: runs of letters and digits,
    lower-cased, and single punctuation marks."""
    return tuple(_WORD.findall(text.lower()))


class EpisodeMetrics(msgspec.Struct, frozen=True, gc=False):
    """One line of metrics.jsonl. Tokens are the agent's tokenizer's (None without a model), words
    the fixed tokenisation's. ``success`` and ``score`` are None for an episode that broke."""

    task_id: str
    seed: int
    attempt: int
    task_type: str
    outcome: Outcome
    success: bool | None
    score: float | None
    n_steps: int
    invalid_actions: int
    reasoning_words: int
    action_words: int
    reasoning_tokens: int | None
    action_tokens: int | None
    prompt_tokens: int | None
    cot_overlap: float | None
    seconds: float
    policy_seconds: float
    env_seconds: float
    extra: dict[str, float | None] = {}
    #: Everything sampled; prompt tokens that were stored, and read again as the window moved.
    sampled_tokens: int | None = None
    cached_tokens: int | None = None
    reread_tokens: int | None = None
    #: Seconds of the model and of waiting for it; together less than ``policy_seconds``.
    model_seconds: float | None = None
    waiting_seconds: float | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """The episode's: (task id, seed, attempt)."""
        return (self.task_id, self.seed, self.attempt)


def measure(
    episode: Episode,
    reference: Episode | None = None,
    extra: dict[str, Any] | None = None,
    protocol: Protocol | None = None,
) -> EpisodeMetrics:
    """All metrics of one episode. ``extra`` holds metrics of other packages by name; what the
    environment measured itself (``Episode.measures``) stands beside them. Actions that are thoughts
    under ``protocol`` (``think: ...``) count as reasoning."""
    steps = [s for s in episode.steps if not s.forced]
    broken = episode.outcome is Outcome.ERROR
    texts = [_texts(s.decision, protocol) for s in steps]
    sampled = [
        (c.prompt_tokens, *_shares(c, _thinks(s.decision, protocol)))
        for s in steps
        if (c := s.decision.completion) is not None
    ]
    asked = completions(steps)
    return EpisodeMetrics(
        task_id=episode.task.id,
        seed=episode.task.seed,
        attempt=episode.attempt,
        task_type=episode.task_type,
        outcome=episode.outcome,
        success=None if broken else episode.success,
        score=None if broken else episode.score,
        n_steps=len(steps),
        invalid_actions=sum(s.invalid for s in steps),
        reasoning_words=sum(len(words(thought)) for thought, _ in texts),
        action_words=sum(len(words(action)) for _, action in texts),
        reasoning_tokens=_known([n for _, n, _ in sampled]),
        action_tokens=_known([n for _, _, n in sampled]),
        prompt_tokens=_known([n for n, _, _ in sampled]),
        cot_overlap=None if broken else cot_overlap(episode, reference, protocol),
        seconds=episode.seconds,
        policy_seconds=round(sum(s.policy_seconds for s in steps), 6),
        env_seconds=round(sum(s.env_seconds for s in steps), 6),
        extra={**({} if broken else episode.measures), **(extra or {})},
        sampled_tokens=_known([c.sampled for c in asked]),
        cached_tokens=_known([c.cached_tokens for c in asked]),
        reread_tokens=_known([c.reread_tokens for c in asked]),
        model_seconds=round(sum(c.seconds for c in asked), 6) if asked else None,
        waiting_seconds=round(sum(c.waited for c in asked), 6) if asked else None,
    )


def cot_overlap(
    episode: Episode, reference: Episode | None, protocol: Protocol | None = None
) -> float | None:
    """CoT match rate: clipped multiset intersection of reasoning words over the reference's count
    (SAD, appendix C). None without a reference, or when the reference reasons not at all."""
    if reference is None:
        return None
    theirs = _reasoning(reference, protocol)
    total = sum(theirs.values())
    if not total:
        return None
    ours = _reasoning(episode, protocol)
    return sum(min(count, ours[word]) for word, count in theirs.items()) / total


def _reasoning(episode: Episode, protocol: Protocol | None) -> Counter[str]:
    count: Counter[str] = Counter()
    for step in episode.steps:
        if not step.decision.injected:
            count.update(words(_texts(step.decision, protocol)[0]))
    return count


def _thinks(decision: Decision, protocol: Protocol | None) -> bool:
    action = decision.action
    return action is not None and protocol is not None and protocol.is_thought(action)


def _texts(decision: Decision, protocol: Protocol | None) -> tuple[str, str]:
    """A decision's reasoning and its action."""
    action = decision.action or ""
    if _thinks(decision, protocol):
        return f"{decision.reasoning} {action}", ""
    return decision.reasoning, action


def wilson(successes: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval of a share (95 % by default); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    denominator = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / denominator
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / denominator
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return low, high


def worth(played: Mapping[str, int], won: Mapping[str, int]) -> float:
    """How many episodes of different tasks know a success share as well as these, of which
    ``played`` and ``won`` say how many a task has: between the tasks and all episodes.

    Repeats of a task (seeds, attempts) tell of that task alone, and of others only as far as chance
    decides it (the effective sample size of Korn and Graubard, Survey Methodology 24, 1998).
    """
    n, tasks = sum(played.values()), len(played)
    if n == tasks:
        return float(n)
    # What they are worth where every task is won always or never.
    least = n * n / sum(count * count for count in played.values())
    p = sum(won.values()) / n
    if tasks < 2 or p in (0.0, 1.0):
        return least
    parts = sum((won.get(task, 0) - p * count) ** 2 for task, count in played.items())
    variance = parts * tasks / (tasks - 1) / n**2
    most = p * (1 - p) * n / (n - 1)
    return float(n) if most >= n * variance else max(most / variance, least)


class Summary(msgspec.Struct, frozen=True):
    """A run in one row. ``n`` counts scored episodes; ``errors`` stand beside them. The interval of
    success is Wilson's for as many episodes as these are ``worth``."""

    n: int
    errors: int
    truncated: int
    format: int
    context: int
    successes: int
    success: float | None
    success_low: float
    success_high: float
    #: 100 times the mean score.
    score: float | None
    steps: float | None
    invalid_actions: float | None
    reasoning_words_per_step: float | None
    reasoning_tokens_per_step: float | None
    action_tokens_per_step: float | None
    cot_overlap: float | None
    cot_overlap_n: int
    seconds: float | None
    #: By task type: scored episodes, and those won.
    types: dict[str, tuple[int, int]] = {}


class Tally:
    """A summary in the making: rows are added in parts of any size, and none is kept."""

    def __init__(self) -> None:
        self.rows = 0
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._sums: dict[str, Any] = defaultdict(int)
        self._types: Counter[tuple[str, bool]] = Counter()
        self._played: Counter[str] = Counter()
        self._won: Counter[str] = Counter()

    def add(self, rows: Sequence[EpisodeMetrics]) -> None:
        """Add episodes; those that broke are counted and enter no sum."""
        # One pass a field over lists: a leaderboard of a million episodes is read in seconds.
        self.rows += len(rows)
        outcomes = [r.outcome for r in rows]
        for outcome in Outcome:
            self._outcomes[outcome] += outcomes.count(outcome)
        broken = Outcome.ERROR
        scored = [r for r in rows if r.outcome is not broken] if broken in outcomes else rows
        self._sum("successes", [bool(r.success) for r in scored])
        self._types.update([(r.task_type, bool(r.success)) for r in scored])
        self._played.update([r.task_id for r in scored])
        self._won.update([r.task_id for r in scored if r.success])
        self._sum("score", [r.score or 0.0 for r in scored])
        self._sum("steps", [r.n_steps for r in scored])
        self._sum("invalid", [r.invalid_actions for r in scored])
        self._sum("words", [r.reasoning_words for r in scored])
        self._sum("seconds", [r.seconds for r in scored])
        overlaps = [r.cot_overlap for r in scored if r.cot_overlap is not None]
        self._sum("overlap", overlaps)
        self._sum("overlaps", [len(overlaps)])
        for name, counts in (
            ("reasoning", [(r.reasoning_tokens, r.n_steps) for r in scored]),
            ("action", [(r.action_tokens, r.n_steps) for r in scored]),
        ):
            known = [(tokens, steps) for tokens, steps in counts if tokens is not None]
            self._sum(name, [tokens for tokens, _ in known])
            self._sum(f"{name} steps", [steps for _, steps in known])

    def _sum(self, name: str, values: Sequence[float]) -> None:
        self._sums[name] = sum(values, self._sums[name])

    def summary(self) -> Summary:
        """What the rows add up to."""
        s, ended = self._sums, self._outcomes
        n = self.rows - ended[Outcome.ERROR]
        success = _ratio(s["successes"], n)
        units = worth(self._played, self._won) if n else 0.0
        low, high = wilson(units * (success or 0.0), units)
        return Summary(
            n=n,
            errors=ended[Outcome.ERROR],
            truncated=ended[Outcome.TRUNCATED],
            format=ended[Outcome.FORMAT],
            context=ended[Outcome.CONTEXT],
            successes=s["successes"],
            success=success,
            success_low=low,
            success_high=high,
            score=_ratio(100 * s["score"], n),
            steps=_ratio(s["steps"], n),
            invalid_actions=_ratio(s["invalid"], n),
            reasoning_words_per_step=_ratio(s["words"], s["steps"]),
            reasoning_tokens_per_step=_ratio(s["reasoning"], s["reasoning steps"]),
            action_tokens_per_step=_ratio(s["action"], s["action steps"]),
            cot_overlap=_ratio(s["overlap"], s["overlaps"]),
            cot_overlap_n=s["overlaps"],
            seconds=_ratio(s["seconds"], n),
            types={
                name: (self._types[name, True] + self._types[name, False], self._types[name, True])
                for name in sorted({name for name, _ in self._types})
            },
        )


def summarise(rows: Sequence[EpisodeMetrics]) -> Summary:
    """Aggregate episodes: means over scored ones (an episode that broke enters no mean)."""
    tally = Tally()
    tally.add(rows)
    return tally.summary()


def _shares(c: Completion, thought: bool) -> tuple[int | None, int | None]:
    """Reasoning and action tokens of a reply; an action that is a thought is all reasoning."""
    if not thought:
        return c.reasoning_tokens, c.action_tokens
    return _known([c.reasoning_tokens, c.action_tokens]), 0


def _known(counts: Sequence[int | None]) -> int | None:
    """The sum; None where a part is unknown, or there is none."""
    known = [c for c in counts if c is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _ratio(total: float | None, n: int) -> float | None:
    return None if total is None or n == 0 else total / n

"""Metrics: functions of an episode and, for CoT match, of the reference of its task.

Definitions follow SAD, appendix C, read per episode as DISTILL's decisions say. A metric that
does not apply is None, never 0.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from harness.cost import completions
from harness.cot import NONE, Pieces, Reference, is_thought, match, parts, words
from harness.protocol import Protocol
from harness.types import Completion, Episode, Outcome, Step

#: Outcomes met in fewer clusters of tasks than this cannot stand for clusters not met.
MANY = 20


class EpisodeMetrics(msgspec.Struct, frozen=True, gc=False):
    """One line of metrics.jsonl. Tokens are the agent's tokenizer's (None without a model), words
    the fixed tokenisation's. ``success`` and ``score`` are None unless ``outcome.scored``."""

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
    #: CoT match beside ``cot_overlap``, which is its recall; what the reference of another task and
    #: a second sampling of the reference's agent get (see ``harness.cot``).
    cot_precision: float | None = None
    cot_f1: float | None = None
    cot_floor: float | None = None
    cot_floor_f1: float | None = None
    cot_ceiling: float | None = None
    cot_ceiling_f1: float | None = None
    #: Replies that name no action; decisions that an earlier step made at the same observation.
    format_errors: int | None = None
    loops: int | None = None

    @property
    def key(self) -> tuple[str, int, int]:
        """The episode's: (task id, seed, attempt)."""
        return (self.task_id, self.seed, self.attempt)


def measure(
    episode: Episode,
    reference: Reference | None = None,
    extra: dict[str, Any] | None = None,
    protocol: Protocol | None = None,
    pieces: Pieces = words,
) -> EpisodeMetrics:
    """All metrics of one episode, its CoT match in ``pieces``. ``extra`` holds metrics of other
    packages by name; what the environment measured itself (``Episode.measures``) stands beside
    them. Actions that are thoughts under ``protocol`` (``think: ...``) count as reasoning."""
    steps = [s for s in episode.steps if not s.forced]
    broken = episode.outcome is Outcome.ERROR
    texts = [parts(s.decision, protocol) for s in steps]
    sampled = [
        (c.prompt_tokens, *_shares(c, is_thought(s.decision, protocol)))
        for s in steps
        if (c := s.decision.completion) is not None
    ]
    asked = completions(steps)
    cot = floor = ceiling = NONE
    if reference is not None and not broken:
        cot = match(episode, reference.episode, protocol, pieces)
        floor = match(episode, reference.other, protocol, pieces)
        ceiling = match(reference.second, reference.episode, protocol, pieces)
    return EpisodeMetrics(
        task_id=episode.task.id,
        seed=episode.task.seed,
        attempt=episode.attempt,
        task_type=episode.task_type,
        outcome=episode.outcome,
        success=episode.success if episode.outcome.scored else None,
        score=episode.score if episode.outcome.scored else None,
        n_steps=len(steps),
        invalid_actions=sum(s.invalid for s in steps),
        reasoning_words=sum(len(words(thought)) for thought, _ in texts),
        action_words=sum(len(words(action)) for _, action in texts),
        reasoning_tokens=_known([n for _, n, _ in sampled]),
        action_tokens=_known([n for _, _, n in sampled]),
        prompt_tokens=_known([n for n, _, _ in sampled]),
        cot_overlap=cot.recall,
        seconds=episode.seconds,
        policy_seconds=round(sum(s.policy_seconds for s in steps), 6),
        env_seconds=round(sum(s.env_seconds for s in steps), 6),
        extra={**({} if broken else episode.measures), **(extra or {})},
        sampled_tokens=_known([c.sampled for c in asked]),
        cached_tokens=_known([c.cached_tokens for c in asked]),
        reread_tokens=_known([c.reread_tokens for c in asked]),
        model_seconds=round(sum(c.seconds for c in asked), 6) if asked else None,
        waiting_seconds=round(sum(c.waited for c in asked), 6) if asked else None,
        cot_precision=cot.precision,
        cot_f1=cot.f1,
        cot_floor=floor.recall,
        cot_floor_f1=floor.f1,
        cot_ceiling=ceiling.recall,
        cot_ceiling_f1=ceiling.f1,
        format_errors=sum(s.decision.action is None for s in steps),
        loops=_loops(steps),
    )


def _loops(steps: Sequence[Step]) -> int:
    """Steps that did again what an earlier one did at the same observation."""
    done = [(s.observation, s.decision.action) for s in steps if s.decision.action is not None]
    return len(done) - len(set(done))


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


def evenly(counts: Iterable[float]) -> float:
    """Groups that would hold these counts were they even: the square of their sum over the sum of
    their squares (Kish's effective number); 0 for none."""
    total = squares = 0.0
    for count in counts:
        total, squares = total + count, squares + count * count
    return total * total / squares if squares else 0.0


def worth(played: Mapping[str, int], won: Mapping[str, int]) -> float:
    """How many independent episodes know a success share as well as these, of which ``played`` and
    ``won`` say how many a group of tasks has: between the groups and all episodes.

    Tasks of one group, and repeats of a task (seeds, attempts), tell of that group alone, and of
    others only as far as chance decides them (the effective sample size of Korn and Graubard,
    Survey Methodology 24, 1998). Where fewer than ``MANY`` groups were won in, or lost in (uneven
    ones counted ``evenly``), how far chance decides is hardly seen, and they count as if it decided
    nothing.
    """
    n, groups = sum(played.values()), len(played)
    if n == groups:
        return float(n)
    # What they are worth where every group is won always or never.
    least = evenly(played.values())
    won_in = [count for group, count in played.items() if won.get(group, 0)]
    lost_in = [count for group, count in played.items() if won.get(group, 0) < count]
    if min(evenly(won_in), evenly(lost_in)) < MANY:
        return least
    p = sum(won.get(group, 0) for group in played) / n
    parts = sum((won.get(group, 0) - p * count) ** 2 for group, count in played.items())
    variance = parts * groups / (groups - 1) / n**2
    most = p * (1 - p) * n / (n - 1)
    return float(n) if most >= n * variance else max(most / variance, least)


class Summary(msgspec.Struct, frozen=True):
    """A run in one row. ``n`` counts scored episodes; ``errors`` stand beside them, and so do those
    ``untold``, which enter all means but success and score. The interval of success is Wilson's for
    as many episodes as the scored ones are ``worth``."""

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
    #: Mean numbers an episode.
    invalid_actions: float | None
    format_errors: float | None
    loops: float | None
    reasoning_words: float | None
    reasoning_tokens: float | None
    reasoning_words_per_step: float | None
    reasoning_tokens_per_step: float | None
    action_tokens_per_step: float | None
    #: CoT match: means over the ``cot_overlap_n`` episodes that have one, precision over those that
    #: reason; floor and ceiling over their own.
    cot_overlap: float | None
    cot_overlap_n: int
    cot_precision: float | None
    cot_f1: float | None
    cot_floor: float | None
    cot_floor_f1: float | None
    cot_floor_n: int
    cot_ceiling: float | None
    cot_ceiling_f1: float | None
    cot_ceiling_n: int
    seconds: float | None
    #: What the scored episodes are ``worth``.
    worth: float
    #: By task type: scored episodes, those won, and what they are ``worth``.
    types: dict[str, tuple[int, int, float]] = {}
    #: Imported episodes of which no log tells how they ended.
    untold: int = 0


class Tally:
    """A summary in the making: rows are added in parts of any size, and none is kept."""

    def __init__(self) -> None:
        self.rows = 0
        self._outcomes = dict.fromkeys(Outcome, 0)
        self._sums: dict[str, Any] = defaultdict(int)
        self._counts: Counter[str] = Counter()
        self._types: Counter[str] = Counter()
        self._types_won: Counter[str] = Counter()
        self._played: Counter[str] = Counter()
        self._won: Counter[str] = Counter()
        self._type_of: dict[str, str] = {}

    def add(self, rows: Sequence[EpisodeMetrics]) -> None:
        """Add episodes; those that broke are counted and enter no sum."""
        # One pass a field over lists: a leaderboard of a million episodes is read in seconds.
        self.rows += len(rows)
        outcomes = [r.outcome for r in rows]
        for outcome in Outcome:
            self._outcomes[outcome] += outcomes.count(outcome)
        whole = scored = rows
        if Outcome.ERROR in outcomes:
            whole = scored = [r for r in rows if r.outcome is not Outcome.ERROR]
        if Outcome.UNTOLD in outcomes:
            scored = [r for r in whole if r.outcome is not Outcome.UNTOLD]
        wins = [r.success for r in scored]
        types = [r.task_type for r in scored]
        tasks = [r.task_id for r in scored]
        steps = [r.n_steps for r in whole]
        self._sums["successes"] += wins.count(True)
        self._types.update(types)
        self._types_won.update([t for t, won in zip(types, wins, strict=True) if won])
        self._played.update(tasks)
        self._type_of.update(zip(tasks, types, strict=True))
        self._won.update([t for t, won in zip(tasks, wins, strict=True) if won])
        self._sum("score", [r.score or 0.0 for r in scored])
        self._sum("steps", steps)
        self._sum("invalid", [r.invalid_actions for r in whole])
        self._sum("words", [r.reasoning_words for r in whole])
        self._sum("seconds", [r.seconds for r in whole])
        self._known("overlap", [r.cot_overlap for r in whole])
        self._known("precision", [r.cot_precision for r in whole])
        self._known("f1", [r.cot_f1 for r in whole])
        self._known("floor", [r.cot_floor for r in whole])
        self._known("floor f1", [r.cot_floor_f1 for r in whole])
        self._known("ceiling", [r.cot_ceiling for r in whole])
        self._known("ceiling f1", [r.cot_ceiling_f1 for r in whole])
        self._known("format errors", [r.format_errors for r in whole])
        self._known("loops", [r.loops for r in whole])
        for name, tokens in (
            ("reasoning", [r.reasoning_tokens for r in whole]),
            ("action", [r.action_tokens for r in whole]),
        ):
            self._known(name, tokens)
            known = (
                [n for n, t in zip(steps, tokens, strict=True) if t is not None]
                if None in tokens
                else steps
            )
            self._sum(f"{name} steps", known)

    def _sum(self, name: str, values: Sequence[float]) -> None:
        self._sums[name] = sum(values, self._sums[name])

    def _known(self, name: str, values: Sequence[float | None]) -> None:
        """Add up and count the values that are known."""
        known: Sequence[Any] = values
        try:
            total = sum(known)
        except TypeError:  # some are None, which is rare: looking for one first would take longer
            known = [v for v in values if v is not None]
            total = sum(known)
        self._sums[name] += total
        self._counts[name] += len(known)

    def _mean(self, name: str) -> float | None:
        return _ratio(self._sums[name], self._counts[name])

    def summary(self, group: Callable[[str], str] = str) -> Summary:
        """What the rows add up to. ``group`` names what ties tasks together (``Run.group``); as it
        stands each is independent of the others."""
        s, ended = self._sums, self._outcomes
        whole = self.rows - ended[Outcome.ERROR]
        n = whole - ended[Outcome.UNTOLD]
        success = _ratio(s["successes"], n)
        groups = {task: group(task) for task in self._played}
        units = self._worth(groups) if n else 0.0
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
            steps=_ratio(s["steps"], whole),
            invalid_actions=_ratio(s["invalid"], whole),
            format_errors=self._mean("format errors"),
            loops=self._mean("loops"),
            reasoning_words=_ratio(s["words"], whole),
            reasoning_tokens=self._mean("reasoning"),
            reasoning_words_per_step=_ratio(s["words"], s["steps"]),
            reasoning_tokens_per_step=_ratio(s["reasoning"], s["reasoning steps"]),
            action_tokens_per_step=_ratio(s["action"], s["action steps"]),
            cot_overlap=self._mean("overlap"),
            cot_overlap_n=self._counts["overlap"],
            cot_precision=self._mean("precision"),
            cot_f1=self._mean("f1"),
            cot_floor=self._mean("floor"),
            cot_floor_f1=self._mean("floor f1"),
            cot_floor_n=self._counts["floor"],
            cot_ceiling=self._mean("ceiling"),
            cot_ceiling_f1=self._mean("ceiling f1"),
            cot_ceiling_n=self._counts["ceiling"],
            seconds=_ratio(s["seconds"], whole),
            worth=units,
            types={
                name: (n, self._types_won[name], self._worth(groups, name))
                for name, n in sorted(self._types.items())
            },
            untold=ended[Outcome.UNTOLD],
        )

    def _worth(self, groups: Mapping[str, str], name: str | None = None) -> float:
        """What the episodes (of a task type) are worth."""
        played, won = Counter[str](), Counter[str]()
        for task, n in self._played.items():
            if name is None or self._type_of[task] == name:
                played[groups[task]] += n
                won[groups[task]] += self._won[task]
        return worth(played, won)


def summarise(rows: Sequence[EpisodeMetrics], group: Callable[[str], str] = str) -> Summary:
    """Aggregate episodes: means of those that did not break, success and score of the scored ones.
    ``group`` as in ``Tally.summary``."""
    tally = Tally()
    tally.add(rows)
    return tally.summary(group)


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

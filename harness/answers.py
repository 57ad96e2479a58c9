"""What an agent answered at a reference's steps: the record, and its scores.

    a line a step -> F1 of the reasoning with the reference's, agreement of the action

Scores are functions of the record and the reference; ``harness.teacher_forced`` does the asking.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from harness import cot, paired, registry
from harness.config import AgentConfig
from harness.errors import ConfigError, TraceError
from harness.plain import plain
from harness.protocol import Protocol
from harness.recorder import EPISODES
from harness.runs import Run
from harness.types import SCHEMA, Decision, Episode, Fault

Key = tuple[str, int, int, int]


class Asked(msgspec.Struct, frozen=True):
    """First line of a record: who was asked about what. Another agent, other weights or another
    reference are another record."""

    agent: AgentConfig
    reference: str
    reference_agent: str
    #: Of the reference's episodes.jsonl.
    reference_sha256: str
    task_set_hash: str
    #: What the policy says of itself, as in run.json.
    policy: dict[str, Any]
    schema: int = SCHEMA


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: the agent's decision at a step of the reference (from 0). Without one, its window
    was too small (``overflow``: nothing said, which counts) or something broke (``error``)."""

    task_id: str
    seed: int
    attempt: int
    step: int
    decision: Decision | None = None
    overflow: bool = False
    error: Fault | None = None
    seconds: float = 0.0

    @property
    def key(self) -> Key:
        return (self.task_id, self.seed, self.attempt, self.step)


class Mean(msgspec.Struct, frozen=True):
    """A mean over ``n`` steps in ``clusters`` of tasks, with its 95 % interval by clusters; None
    where they are too few (10), or where nothing varies."""

    n: int
    clusters: int
    value: float | None
    low: float | None
    high: float | None


class Report(msgspec.Struct, frozen=True):
    """How an agent answers at a reference's steps. ``f1`` is over the steps that the reference
    reasons at, ``agreement`` over those where it names an action. ``floor`` is F1 by chance: with
    the thought of the step of that number in the reference of another task (``cot.other_tasks``),
    where it has one. ``errors`` are in no mean, ``missing`` steps are not asked yet."""

    agent: str
    reference_agent: str
    reference: str
    record: str
    episodes: int
    steps: int
    errors: int
    missing: int
    no_action: int
    overflows: int
    f1: Mean
    floor: Mean
    agreement: Mean
    #: By task type: F1 and agreement.
    types: dict[str, tuple[Mean, Mean]]
    #: The first thing that broke.
    fault: Fault | None = None


def report(path: Path, reference: Run, *, most: int | None = None) -> Report:
    """Score a record against its reference; nothing is asked. Raises TraceError for a record of
    another reference, or a damaged one."""
    head, answers = read(path)
    if head.reference_sha256 != reference_sha256(reference):
        raise TraceError(f"{path}: its reference is not {reference.path}, or has changed since.")
    meta = reference.meta
    group, protocol = registry.env_class(meta.task_set.env).group, meta.task_set.protocol
    episodes = episodes_of(reference, most)
    others = cot.other_tasks({e.task.id: e for e in episodes}, group, protocol)
    scored: list[_Scored] = []
    found: list[Answer] = []
    due = 0
    for episode in episodes:
        steps = own_steps(episode)
        due += len(steps)
        for number in steps:
            answer = answers.get((*episode.key, number))
            if answer is None:
                continue
            found.append(answer)
            if answer.error is None:
                f1, agrees = compare(answer.decision, episode.steps[number].decision, protocol)
                other = others.get(episode.task.id)
                floor = None
                if f1 is not None and other is not None and number in own_steps(other):
                    floor, _ = compare(answer.decision, other.steps[number].decision, protocol)
                cluster = group(episode.task.id)
                scored.append(_Scored(cluster, episode.task_type, f1, floor, agrees))
    faults = [a.error for a in found if a.error is not None]
    types = sorted({s.task_type for s in scored if s.task_type})
    return Report(
        agent=head.agent.name,
        reference_agent=head.reference_agent,
        reference=head.reference,
        record=str(path),
        episodes=len(episodes),
        steps=len(scored),
        errors=len(faults),
        missing=due - len(found),
        no_action=sum(a.decision is not None and a.decision.action is None for a in found),
        overflows=sum(a.overflow for a in found),
        f1=_mean([(s.cluster, s.f1) for s in scored]),
        floor=_mean([(s.cluster, s.floor) for s in scored]),
        agreement=_mean([(s.cluster, s.agrees) for s in scored]),
        types={
            name: (
                _mean([(s.cluster, s.f1) for s in scored if s.task_type == name]),
                _mean([(s.cluster, s.agrees) for s in scored if s.task_type == name]),
            )
            for name in types
        },
        fault=faults[0] if faults else None,
    )


def compare(
    answer: Decision | None, reference: Decision, protocol: Protocol | None = None
) -> tuple[float | None, bool | None]:
    """F1 of the reasoning (None where the reference has none), and whether the actions are the same
    in words (None where the reference names none). ``answer`` None: nothing was said."""
    thought, action = cot.parts(reference, protocol)
    said, done = cot.parts(answer, protocol) if answer is not None else ("", "")
    theirs, ours = Counter(cot.words(thought)), Counter(cot.words(said))
    f1 = cot.overlap(ours, theirs).f1 if theirs else None
    if reference.action is None:
        return f1, None
    acted = answer is not None and answer.action is not None
    return f1, acted and cot.words(done) == cot.words(action)


def read(path: Path) -> tuple[Asked, dict[Key, Answer]]:
    """A record: its first line, and the last answer at each step. A torn last line is passed over;
    other damage raises TraceError with file and line."""
    answers: dict[Key, Answer] = {}
    head: Asked | None = None
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                if head is None:
                    head = _decode_head(line)
                    continue
                answer = _decode_answer(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise TraceError(
                    f"{path}:{number}: not a line of a teacher-forced record: {error}\n"
                    "  Remove that line; the others are unharmed (the first names the agent)."
                ) from None
            answers[answer.key] = answer
    if head is None:
        raise TraceError(f"{path}: an empty record. Remove it and ask again.")
    return head, answers


def table(found: Report) -> Table:
    """A report for the terminal, by task type where there are several."""
    title = (
        f"{found.agent} at {found.steps} steps of {found.reference_agent} "
        f"({found.episodes} episodes of {found.reference})"
    )
    value, _, n = _cells(found.floor)
    beside = f"F1 by chance, with another task's thought at that step: {value} (n = {n})\n"
    beside += f"{found.no_action} replies without an action, {found.overflows} beyond the window"
    beside += f"; {found.errors} steps broke, {found.missing} not asked (in no mean)"
    grid = Table(title=Text(plain(title)), title_justify="left", header_style="bold",
                 caption=Text(beside), caption_justify="left")  # fmt: skip
    heads = (
        "",
        "F1",
        "95 % interval",
        "steps",
        "same action",
        "95 % interval",
        "steps",
        "clusters",
    )
    for heading in heads:
        grid.add_column(heading, justify="right" if heading else "left")
    types = found.types if len(found.types) > 1 else {}
    for name, (f1, agreement) in {"all": (found.f1, found.agreement), **types}.items():
        grid.add_row(Text(plain(name)), *_cells(f1), *_cells(agreement), str(agreement.clusters))
    return grid


def to_json(found: Report) -> str:
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def _cells(mean: Mean) -> tuple[str, str, str]:
    if mean.value is None:
        return "-", "-", "0"
    interval = "-"
    if mean.low is not None and mean.high is not None:
        interval = f"{100 * mean.low:.1f} - {100 * mean.high:.1f}"
    return f"{100 * mean.value:.1f} %", interval, str(mean.n)


encode = msgspec.json.Encoder(order="sorted").encode
_decode_head = msgspec.json.Decoder(Asked).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


class _Scored(msgspec.Struct, frozen=True):
    cluster: str
    task_type: str
    f1: float | None
    floor: float | None
    agrees: bool | None


def episodes_of(reference: Run, most: int | None) -> list[Episode]:
    """The first ``most`` episodes that CoT match is measured against."""
    tasks = [task.id for task in reference.meta.task_set.tasks]
    found = list(cot.chosen(reference.episodes(), tasks).values())[:most]
    if not found:
        raise ConfigError(f"{reference.path} has no won episode that could be a reference.")
    return found


def own_steps(episode: Episode) -> list[int]:
    """Numbers of the steps that the reference itself decided."""
    return [
        i for i, s in enumerate(episode.steps) if not s.forced and not s.decision.injected
    ]  # fmt: skip


def reference_sha256(reference: Run) -> str:
    """The hash of a run's episodes, in hex digits."""
    with open(reference.path / EPISODES, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _mean(values: Sequence[tuple[str, float | None]]) -> Mean:
    known = [(cluster, value) for cluster, value in values if value is not None]
    if not known:
        return Mean(0, 0, None, None, None)
    _, cluster = np.unique([c for c, _ in known], return_inverse=True)
    numbers = np.array([v for _, v in known], dtype=np.float64)
    clusters = int(cluster.max()) + 1
    found = paired.means(numbers, cluster.astype(np.int64), np.zeros(len(known), dtype=np.int64))
    mean = float(numbers.mean())
    if found is None:
        return Mean(len(known), clusters, mean, None, None)
    return Mean(len(known), clusters, mean, max(0.0, found.low), min(1.0, found.high))

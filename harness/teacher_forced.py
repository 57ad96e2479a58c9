"""Teacher-forced: what an agent thinks at every step of a reference, given the reference's history.

    reference episode -> its own steps -> Policy.act(instruction, steps before, observation)
                      -> a line a step -> F1 of the reasoning, agreement of the action

In play two agents part ways and later steps are of different situations; here each pair of thoughts
answers the same text. Records hold what the agent answered; the scores are functions of them and of
the reference. No environment runs, so an agent that needs what a record does not hold (admissible
actions, the solution) is refused.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BufferedWriter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from rich.table import Table
from rich.text import Text

from harness import cot, paired, registry
from harness.config import AgentConfig
from harness.errors import ConfigError, EpisodeError, TraceError
from harness.loop import decide, fault_of, sampling_seed
from harness.plain import plain
from harness.policy import ContextOverflow, Policy
from harness.protocol import Protocol
from harness.recorder import EPISODES, open_to_append
from harness.runs import Run
from harness.types import SCHEMA, Decision, Episode, Fault, Step

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
    the thought of the same step in the reference of another task (see ``cot.other_tasks``), which
    has to have one. ``errors`` are in no mean, ``missing`` steps are not asked yet."""

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


#: Called after every step asked, with the number of steps there are and of those due.
OnStep = Callable[[int, int], None]


def ask(
    agent: str | AgentConfig,
    reference: Run,
    out: Path,
    *,
    workers: int | None = None,
    most: int | None = None,
    policy: Policy | None = None,
    on_step: OnStep | None = None,
) -> Report:
    """Ask an agent at every step of the reference's episodes (the first ``most``), append what it
    answers to ``record_path``, and report. Called again it goes on; what broke is asked again.

    The episodes are those that CoT match is measured against: of each task the won one of the
    lowest seed and attempt. ``policy`` answers in place of the config's own (the caller keeps it
    open). Raises ConfigError for an agent that needs more than a record holds, where the reference
    has no won episode, and where the record there was made by another policy.
    """
    config = registry.agent_config(agent) if isinstance(agent, str) else agent
    episodes = _episodes(reference, most)
    own = policy is None
    policy = policy or registry.build_policy(config)
    try:
        described: dict[str, Any] = getattr(policy, "describe", dict)()
        _check(config, policy, described)
        head = _head(config, reference, described)
        path = record_path(out, config, reference)
        with open_to_append(path) as file:
            answers = _start(path, file, head)
            _ask(policy, episodes, answers, file, workers or registry.default_workers(config),
                 on_step)  # fmt: skip
    finally:
        if own and hasattr(policy, "close"):
            policy.close()
    return report(path, reference, most=most)


def record_path(out: Path, config: AgentConfig, reference: Run) -> Path:
    """``<out>/<env>/<agent>/teacher-forced/<reference's agent>-<its run>.jsonl``."""
    agent, other = (re.sub(r"[^\w.+-]", "_", n) for n in (config.name, reference.meta.agent.name))
    name = f"{other}-{reference.path.resolve().name}.jsonl"
    return out / reference.meta.task_set.env / agent / "teacher-forced" / name


def report(path: Path, reference: Run, *, most: int | None = None) -> Report:
    """Score a record against its reference; nothing is asked. Raises TraceError for a record of
    another reference, or a damaged one."""
    head, answers = read(path)
    if head.reference_sha256 != _sha256(reference):
        raise TraceError(f"{path}: its reference is not {reference.path}, or has changed since.")
    meta = reference.meta
    group, protocol = registry.env_class(meta.task_set.env).group, meta.task_set.protocol
    episodes = _episodes(reference, most)
    others = cot.other_tasks({e.task.id: e for e in episodes}, group, protocol)
    scored: list[_Scored] = []
    found: list[Answer] = []
    due = 0
    for episode in episodes:
        steps = _own(episode)
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
                if f1 is not None and other is not None and number < len(other.steps):
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


_encode = msgspec.json.Encoder(order="sorted").encode
_decode_head = msgspec.json.Decoder(Asked).decode
_decode_answer = msgspec.json.Decoder(Answer).decode


class _Scored(msgspec.Struct, frozen=True):
    cluster: str
    task_type: str
    f1: float | None
    floor: float | None
    agrees: bool | None


def _episodes(reference: Run, most: int | None) -> list[Episode]:
    tasks = [task.id for task in reference.meta.task_set.tasks]
    found = list(cot.chosen(reference.episodes(), tasks).values())[:most]
    if not found:
        raise ConfigError(f"{reference.path} has no won episode that could be a reference.")
    return found


def _own(episode: Episode) -> list[int]:
    """Numbers of the steps that the reference itself decided."""
    return [
        i for i, s in enumerate(episode.steps) if not s.forced and not s.decision.injected
    ]  # fmt: skip


def _check(config: AgentConfig, policy: Policy, described: dict[str, Any]) -> None:
    needs = (
        "the solution" if getattr(policy, "privileged", False)
        else "the admissible actions"
        if described.get("decode") == "admissible" or described.get("show_actions")
        else None
    )  # fmt: skip
    if needs is not None:
        raise ConfigError(
            f"Agent '{config.name}' needs {needs}, which a record does not hold: it cannot be "
            "asked at a reference's steps. Take one that reads only what an agent sees."
        )


def _head(config: AgentConfig, reference: Run, described: dict[str, Any]) -> Asked:
    meta = reference.meta
    return Asked(
        config, meta.run_id, meta.agent.name, _sha256(reference), meta.task_set_hash, described
    )


def _sha256(reference: Run) -> str:
    with open(reference.path / EPISODES, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _start(path: Path, file: BufferedWriter, head: Asked) -> dict[Key, Answer]:
    """The answers that are there; a new record gets its first line."""
    if path.stat().st_size == 0:
        file.write(_encode(head) + b"\n")
        file.flush()
        return {}
    before, answers = read(path)
    # Compared as written: what a policy says of itself comes back with lists for tuples.
    if _encode(before) != _encode(head):
        fields = [f for f in Asked.__struct_fields__
                  if _encode(getattr(before, f)) != _encode(getattr(head, f))]  # fmt: skip
        raise ConfigError(
            f"{path} was recorded with another {' and '.join(fields)}: one record holds one agent "
            "and one reference. Move it away, or choose another place with --out."
        )
    return answers


def _ask(
    policy: Policy,
    episodes: Sequence[Episode],
    answers: dict[Key, Answer],
    file: BufferedWriter,
    workers: int,
    on_step: OnStep | None,
) -> None:
    """Ask at every step that has no answer, an episode a thread: its prefixes grow in order, which
    is what a model's cache of them wants."""
    todo = [(e, [i for i in _own(e) if not _answered(answers, e, i)]) for e in episodes]
    due = sum(len(_own(e)) for e in episodes)
    done = due - sum(len(numbers) for _, numbers in todo)
    lock, stop = threading.Lock(), threading.Event()

    def walk(episode: Episode, numbers: Sequence[int]) -> None:
        nonlocal done
        for number in numbers:
            if stop.is_set():
                return
            answer = _answer(policy, episode, number)
            with lock:
                file.write(_encode(answer) + b"\n")
                file.flush()
                done += 1
                if on_step is not None:
                    on_step(done, due)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for future in as_completed([pool.submit(walk, *job) for job in todo]):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _answered(answers: dict[Key, Answer], episode: Episode, number: int) -> bool:
    answer = answers.get((*episode.key, number))
    return answer is not None and answer.error is None


def _answer(policy: Policy, episode: Episode, number: int) -> Answer:
    task, step = episode.task, episode.steps[number]
    info = {
        "env": task.env, "task_id": task.id, "instruction": episode.instruction,
        "task_type": episode.task_type, "seed": task.seed, "attempt": episode.attempt,
        "sampling_seed": sampling_seed(task, episode.attempt, number),
    }  # fmt: skip
    history: tuple[Step, ...] = episode.steps[:number]
    began = time.perf_counter()
    decision, fault, overflow = None, None, False
    try:
        decision = decide(policy, episode.instruction, history, step.observation, info)
    except EpisodeError as error:
        overflow = isinstance(error.__cause__, ContextOverflow)
        fault = None if overflow else fault_of(error)
    seconds = round(time.perf_counter() - began, 6)
    return Answer(*episode.key, number, decision, overflow, fault, seconds)


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

"""Teacher-forced: what an agent thinks at every step of a reference, given the reference's history.

    reference episode -> its own steps -> Policy.act(instruction, steps before, observation)
                      -> a line a step -> harness.answers.report

In play two agents part ways and later steps are of different situations; here each pair of thoughts
answers the same text. No environment runs, so an agent that needs what a record does not hold
(admissible actions, the solution) is refused.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from io import BufferedWriter
from pathlib import Path
from typing import Any

from harness import registry
from harness.answers import (
    Answer,
    Asked,
    Key,
    Report,
    encode,
    episodes_of,
    own_steps,
    read,
    reference_sha256,
    report,
)
from harness.config import AgentConfig
from harness.errors import ConfigError, EpisodeError
from harness.loop import decide, fault_of, sampling_seed
from harness.policy import ContextOverflow, Policy
from harness.recorder import open_to_append
from harness.runs import Run
from harness.types import Episode, Step

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
    episodes = episodes_of(reference, most)
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
    except _NotRecorded as error:
        if not read(path)[1]:
            path.unlink()
        raise ConfigError(_refusal(config, f"info[{error}]")) from error
    finally:
        if own and hasattr(policy, "close"):
            policy.close()
    return report(path, reference, most=most)


def record_path(out: Path, config: AgentConfig, reference: Run) -> Path:
    """``<out>/<env>/<agent>/teacher-forced/<reference's agent>-<its run>.jsonl``."""
    agent, other = (re.sub(r"[^\w.+-]", "_", n) for n in (config.name, reference.meta.agent.name))
    name = f"{other}-{reference.path.resolve().name}.jsonl"
    return out / reference.meta.task_set.env / agent / "teacher-forced" / name


def _check(config: AgentConfig, policy: Policy, described: dict[str, Any]) -> None:
    needs = (
        "the solution" if getattr(policy, "privileged", False)
        else "the admissible actions"
        if described.get("decode") == "admissible" or described.get("show_actions")
        else None
    )  # fmt: skip
    if needs is not None:
        raise ConfigError(_refusal(config, needs))


def _refusal(config: AgentConfig, needs: str) -> str:
    return (
        f"Agent '{config.name}' needs {needs}, which a record does not hold: it cannot be "
        "asked at a reference's steps. Take one that reads only what an agent sees."
    )


class _NotRecorded(KeyError):
    """An agent asked ``info`` for a key that play has and a record has not."""


class _Recorded(dict[str, Any]):
    """What of ``info`` a record holds."""

    def __missing__(self, key: str) -> Any:
        raise _NotRecorded(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key == "admissible_actions"

    def get(self, key: str, default: Any = None) -> Any:
        """As ever, but for the one key that play always has: an agent that makes do without it here
        is another than the one that plays."""
        return self[key] if key in self else default  # noqa: SIM401 (this is get itself)


def _head(config: AgentConfig, reference: Run, described: dict[str, Any]) -> Asked:
    meta = reference.meta
    return Asked(
        config,
        meta.run_id,
        meta.agent.name,
        reference_sha256(reference),
        meta.task_set_hash,
        described,
    )


def _start(path: Path, file: BufferedWriter, head: Asked) -> dict[Key, Answer]:
    """The answers that are there; a new record gets its first line."""
    if path.stat().st_size == 0:
        file.write(encode(head) + b"\n")
        file.flush()
        return {}
    before, answers = read(path)
    # Compared as written: what a policy says of itself comes back with lists for tuples.
    if encode(before) != encode(head):
        fields = [f for f in Asked.__struct_fields__
                  if encode(getattr(before, f)) != encode(getattr(head, f))]  # fmt: skip
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
    todo = [(e, [i for i in own_steps(e) if not _answered(answers, e, i)]) for e in episodes]
    due = sum(len(own_steps(e)) for e in episodes)
    done = due - sum(len(numbers) for _, numbers in todo)
    lock, stop = threading.Lock(), threading.Event()

    def walk(episode: Episode, numbers: Sequence[int]) -> None:
        nonlocal done
        for number in numbers:
            if stop.is_set():
                return
            answer = _answer(policy, episode, number)
            with lock:
                file.write(encode(answer) + b"\n")
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
    info = _Recorded({
        "env": task.env, "task_id": task.id, "instruction": episode.instruction,
        "task_type": episode.task_type, "seed": task.seed, "attempt": episode.attempt,
        "sampling_seed": sampling_seed(task, episode.attempt, number),
    })  # fmt: skip
    history: tuple[Step, ...] = episode.steps[:number]
    began = time.perf_counter()
    decision, fault, overflow = None, None, False
    try:
        decision = decide(policy, episode.instruction, history, step.observation, info)
    except EpisodeError as error:
        if isinstance(error.__cause__, _NotRecorded):
            raise error.__cause__ from None
        overflow = isinstance(error.__cause__, ContextOverflow)
        fault = None if overflow else fault_of(error)
    seconds = round(time.perf_counter() - began, 6)
    return Answer(*episode.key, number, decision, overflow, fault, seconds)

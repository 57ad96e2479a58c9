"""Plays many episodes at once: a thread an episode, a watchdog over all.

Threads suffice: environments are fast or live in processes of their own, and a model backend
answers many waiting episodes together. An episode that hangs longer than its limits is recorded
as an error and its thread left behind; the run goes on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from harness.env import Environment
from harness.errors import ConfigError, EnvError, boundary
from harness.loop import Clock, fault_of, finish, play_episode
from harness.policy import Policy
from harness.protocol import Protocol
from harness.types import Episode, Fault, Outcome, Task


class Job(NamedTuple):
    """One episode to play."""

    task: Task
    attempt: int

    @property
    def key(self) -> tuple[str, int, int]:
        """``Episode.key`` of what comes of it."""
        return (self.task.id, self.task.seed, self.attempt)


class Limits(msgspec.Struct, frozen=True):
    """Wall-clock limits in seconds: faults when exceeded, so that speed never decides a score.
    Raises ConfigError for one that is not above 0."""

    step: float = 600.0
    episode: float = 7200.0

    def __post_init__(self) -> None:
        for name, seconds in (("step", self.step), ("episode", self.episode)):
            if not seconds > 0:
                raise ConfigError(f"--{name}-seconds is a time above 0, not {seconds:g}.")


class _Slot:
    def __init__(self) -> None:
        self.clock = Clock()
        self.job: Job | None = None
        self.abandoned = False
        #: Held while an episode is given up or handed over, so that it is one of the two.
        self.ending = threading.Lock()


def play_all(
    jobs: Sequence[Job],
    policy: Policy,
    make_env: Callable[[], Environment],
    *,
    agent: str,
    protocol: Protocol,
    workers: int = 1,
    limits: Limits | None = None,
) -> Iterator[Episode]:
    """Yield episodes as they finish, in no fixed order. Closing the iterator stops the workers.

    Each worker makes one environment and reuses it; after a fault it makes a new one.
    """
    limits = limits or Limits()
    todo: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        todo.put(job)
    done: queue.SimpleQueue[Episode | BaseException] = queue.SimpleQueue()
    stop = threading.Event()

    def work(slot: _Slot) -> None:
        try:
            play(slot)
        except BaseException as error:  # a thread that died in silence would be waited for
            if not slot.abandoned:
                slot.job = None
                done.put(error)

    def play(slot: _Slot) -> None:
        env: Environment | None = None
        while not stop.is_set() and not slot.abandoned:
            slot.clock = Clock()
            try:
                slot.job = job = todo.get_nowait()
            except queue.Empty:
                break
            clock = slot.clock
            episode = None
            if env is None:
                env, episode = _open(make_env, job, agent, clock)
            if env is not None:
                episode = play_episode(
                    policy, env, job.task, agent=agent, attempt=job.attempt,
                    protocol=protocol, clock=clock,
                )  # fmt: skip
                if episode.outcome is Outcome.ERROR:
                    _close(env)
                    env = None
            assert episode is not None
            with slot.ending:
                slot.job = None
                if not clock.abandoned:
                    done.put(episode)
        if env is not None:
            _close(env)

    def start() -> _Slot:
        slot = _Slot()
        threading.Thread(target=work, args=(slot,), daemon=True, name="episode").start()
        return slot

    slots = [start() for _ in range(max(1, min(workers, len(jobs))))]
    left = len(jobs)
    tick = min(1.0, limits.step / 4, limits.episode / 4)
    looked = time.perf_counter()
    try:
        while left:
            episode: Episode | BaseException | None = None
            with suppress(queue.Empty):
                episode = done.get(timeout=tick)
            if isinstance(episode, BaseException):  # such as sys.exit() in a policy: ends the run
                raise episode
            if episode is not None:
                left -= 1
                yield episode
            if time.perf_counter() - looked < tick:
                continue
            looked = time.perf_counter()
            for i, slot in enumerate(slots):
                late = _overdue(slot, limits, agent)
                if late is not None:
                    slots[i] = start()
                    left -= 1
                    yield late
    finally:
        stop.set()


def _open(
    make_env: Callable[[], Environment], job: Job, agent: str, clock: Clock
) -> tuple[Environment | None, Episode | None]:
    try:
        with boundary(EnvError, f"{job.task.env}: making the environment"):
            return make_env(), None
    except EnvError as error:
        fault = fault_of(error)
        return None, finish(job.task, agent, job.attempt, clock, Outcome.ERROR, {}, fault)


def _overdue(slot: _Slot, limits: Limits, agent: str) -> Episode | None:
    """The record of an episode that exceeded its limits, whose thread is now left behind."""
    with slot.ending:
        clock, job = slot.clock, slot.job
        if job is None:
            return None
        now = time.perf_counter()
        in_phase, in_all = now - clock.since, now - clock.started
        if in_phase <= limits.step and in_all <= limits.episode:
            return None
        clock.abandoned = slot.abandoned = True
    what = (
        f"{clock.phase} took more than {limits.step:g} s"
        if in_phase > limits.step
        else f"the episode took more than {limits.episode:g} s"
    )
    side = "AgentError" if clock.phase.startswith("policy") else "EnvError"
    fault = Fault(f"{side}/TimeoutError", f"{what} (limits: --step-seconds, --episode-seconds)")
    return finish(job.task, agent, job.attempt, clock, Outcome.ERROR, {}, fault)


def _close(env: Environment) -> None:
    with suppress(Exception):  # a broken environment may fail to close; its episode is recorded
        env.close()

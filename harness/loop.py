"""One episode: observe, decide, act, until the environment or the protocol ends it."""

from __future__ import annotations

import hashlib
import math
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from harness.cost import sampled
from harness.env import Environment
from harness.errors import AgentError, BackendError, EnvError, EpisodeError, HarnessError, boundary
from harness.policy import ContextOverflow, Policy, call
from harness.protocol import Protocol, Repetition
from harness.transcript import unlabelled
from harness.types import Completion, Decision, Episode, Fault, Info, Outcome, Step, Task

#: Shown when a reply names no action; costs a step.
NO_ACTION = "Invalid reply: it has no line 'Action: <action>'."
#: How the answer to a protocol's ``help_action`` begins.
ADMISSIBLE = "Admissible actions: "
#: Folders of libraries.
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_NOT_TOLD = sys.stdlib_module_names | {"harness"}
_COMPLETION = msgspec.json.Decoder(Completion)


class Clock:
    """Tells a watchdog what an episode is doing and since when. One episode, one clock."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.phase = "start"
        self.since = self.started
        self.steps: list[Step] = []
        self.instruction = ""
        self.observation: str | None = None
        self.task_type = ""
        #: Set by the watchdog: nobody waits for this episode any more.
        self.abandoned = False

    def enter(self, phase: str) -> float:
        self.phase, self.since = phase, time.perf_counter()
        return self.since


def play_episode(
    policy: Policy,
    env: Environment,
    task: Task,
    *,
    agent: str,
    protocol: Protocol,
    attempt: int = 0,
    clock: Clock | None = None,
) -> Episode:
    """Play one task to its end. Never raises for a fault: it comes back as outcome ``error``."""
    clock = clock or Clock()
    try:
        # What breaks outside the inner boundaries is what the environment told.
        with boundary(EnvError, task.env):
            outcome, info = _play(policy, env, task, protocol, attempt, clock)
            info, error = _result(info), None
    except EpisodeError as fault:
        outcome, info, error = Outcome.ERROR, {}, fault_of(fault)
    return finish(task, agent, attempt, clock, outcome, info, error)


def finish(
    task: Task,
    agent: str,
    attempt: int,
    clock: Clock,
    outcome: Outcome,
    info: Info,
    error: Fault | None,
) -> Episode:
    """The record of what a clock saw."""
    return Episode(
        task=task,
        agent=agent,
        attempt=attempt,
        instruction=clock.instruction,
        steps=tuple(clock.steps),
        final_observation=clock.observation,
        success=info.get("success", False),
        score=info.get("score", 0.0),
        measures=info.get("measures", {}),
        outcome=outcome,
        task_type=clock.task_type,
        seconds=round(time.perf_counter() - clock.started, 6),
        error=error,
    )


def _result(info: Info) -> Info:
    """What an episode keeps of its last info. Raises where a record could not hold it."""
    score = float(info.get("score", 0.0))
    measures = {str(k): float(v) for k, v in info.get("measures", {}).items()}
    for name, number in {"score": score, **measures}.items():
        if not math.isfinite(number):
            raise ValueError(f"info tells {number} as {name}")
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"info tells {score:g} as score, which is within [0, 1]")
    return {"success": bool(info.get("success", False)), "score": score, "measures": measures}


def _text(value: Any, source: str) -> str:
    """What an environment shows, which must be a string; ``source`` says what it is and whose."""
    if not isinstance(value, str):
        raise EnvError(f"{source} is {type(value).__name__}, not a string")
    return clean(value)


def _executed(info: Info, env: str) -> str | None:
    executed = info.get("executed")
    return None if executed is None else _text(executed, f"what {env}.step executed")


def _play(
    policy: Policy,
    env: Environment,
    task: Task,
    protocol: Protocol,
    attempt: int,
    clock: Clock,
) -> tuple[Outcome, Info]:
    clock.enter("env.reset")
    with boundary(EnvError, f"{task.env}.reset({task.id})"):
        observation, info = env.reset(seed=task.seed, options={"task_id": task.id})
    reset = f"of {task.env}.reset({task.id})"
    clock.observation = observation = _text(observation, f"the observation {reset}")
    clock.instruction = _text(info["instruction"], f"the instruction {reset}")
    clock.task_type = _text(info["task_type"], f"the task type {reset}")
    # What holds for the whole episode; an environment tells its solution at reset only.
    lasting = {"env": task.env, "seed": task.seed, "attempt": attempt}
    lasting |= {key: info[key] for key in ("solution",) if key in info}
    unreadable = 0
    for number in range(protocol.max_steps):
        if _spent(clock.steps, protocol):
            break
        info |= lasting
        info["sampling_seed"] = sampling_seed(task, attempt, number)
        asked = clock.enter("policy.act")
        try:
            decision = decide(policy, clock.instruction, tuple(clock.steps), observation, info)
        except AgentError as error:
            if isinstance(error.__cause__, ContextOverflow):
                return Outcome.CONTEXT, info
            raise
        acted = clock.enter("env.step")
        step = Step(observation, decision, policy_seconds=round(acted - asked, 6))
        if decision.action is None or not protocol.is_action(decision.action):
            unreadable += 1
            clock.steps.append(msgspec.structs.replace(step, invalid=True))
            clock.observation = observation = NO_ACTION
            if protocol.format_limit is not None and unreadable >= protocol.format_limit:
                return Outcome.FORMAT, info
            continue
        unreadable = 0
        if protocol.is_thought(decision.action):
            clock.steps.append(step)
            clock.observation = observation = str(protocol.think)
            continue
        if decision.action == protocol.help_action:
            clock.steps.append(step)
            listed = ", ".join(info["admissible_actions"])
            clock.observation = observation = clean(ADMISSIBLE + listed)
            continue
        with boundary(EnvError, f"{task.env}.step"):
            observation, reward, terminated, _, info = env.step(decision.action)
        step = msgspec.structs.replace(
            step,
            reward=reward,
            invalid=bool(info["invalid_action"]),
            executed=_executed(info, task.env),
            env_seconds=round(time.perf_counter() - acted, 6),
        )
        observation = _text(observation, f"the observation of {task.env}.step")
        clock.steps.append(step)
        clock.observation = observation
        if terminated:
            return Outcome.DONE, info
    if protocol.last_action is not None:
        info = _act_for_the_agent(env, task, protocol.last_action, clock)
    return Outcome.TRUNCATED, info


def decide(
    policy: Policy, instruction: str, history: Sequence[Step], observation: str, info: Info
) -> Decision:
    """Ask a policy for one decision. Whatever breaks in it is an AgentError or a BackendError."""
    with boundary(AgentError, "policy.act"):
        decision = call(policy, instruction, history, observation, info)
        if not isinstance(decision, Decision):
            raise TypeError(f"returned {type(decision).__name__}, not a Decision")
        return tidy(decision)


def fault_of(error: EpisodeError) -> Fault:
    """What broke, for the record; and where, unless a typed error says what to do about it."""
    cause = error.__cause__
    kind = type(error).__name__ + (f"/{type(cause).__name__}" if cause else "")
    where = "" if cause is None or isinstance(cause, HarnessError) else _where(cause)
    return Fault(kind, clean(str(error) + where))


def _where(error: BaseException) -> str:
    """The last calls of whoever broke, and the innermost one of a library that it called, without
    the machine's folders: `` (at agent.py, line 3, in act)``. Calls of Python's own and of this
    package are passed over."""
    calls = [
        (Path(frame.f_code.co_filename), f"line {line}, in {frame.f_code.co_name}")
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__") or "").split(".")[0] not in _NOT_TOLD
    ]
    own = [call for call in calls if not _INSTALLED.intersection(call[0].parts)]
    shown = own[-2:] + [call for call in calls[-1:] if call not in own]
    told = "; ".join(f"{file.name}, {place}" for file, place in shown)
    return f" (at {told})" if told else ""


def _spent(steps: Sequence[Step], protocol: Protocol) -> bool:
    """Whether the protocol ends an episode though it has steps left."""
    if protocol.max_tokens is not None:
        used = sampled(steps)
        if used is None:
            raise BackendError(
                "A limit of tokens needs their number, which this server does not tell: play "
                "without --max-tokens."
            )
        if used >= protocol.max_tokens:
            return True
    if protocol.repetition is not None:
        acted = [s.decision for s in steps if protocol.is_action(s.decision.action)]
        if _in_circles(acted, protocol.repetition):
            return True
    limit = protocol.repeat_limit
    if limit is None or len(steps) < limit:
        return False
    action = steps[-1].decision.action
    return action is not None and all(
        s.invalid and s.decision.action == action for s in steps[-limit:]
    )


def _in_circles(acted: Sequence[Decision], rule: Repetition) -> bool:
    if len(acted) < max(rule.limit, rule.least):
        return False
    last = acted[-rule.limit :]
    alike = {(d.reasoning if rule.of == "reply" else "", d.action) for d in last}
    return len(alike) == 1


def _act_for_the_agent(env: Environment, task: Task, action: str, clock: Clock) -> Info:
    """The protocol's last action, recorded as forced: it is no decision of the agent."""
    began = clock.enter("env.step")
    with boundary(EnvError, f"{task.env}.step"):
        observation, reward, _, _, info = env.step(action)
    observation = _text(observation, f"the observation of {task.env}.step")
    clock.steps.append(
        Step(
            str(clock.observation),
            Decision("", action, injected=True),
            reward,
            invalid=bool(info["invalid_action"]),
            executed=_executed(info, task.env),
            forced=True,
            env_seconds=round(time.perf_counter() - began, 6),
        )
    )
    clock.observation = observation
    return info


def sampling_seed(task: Task, attempt: int, step: int) -> int:
    """Seed of one sampled reply: a function of what is sampled, not of when or beside whom."""
    text = f"{task.env}\0{task.id}\0{task.seed}\0{attempt}\0{step}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")


def clean(text: str) -> str:
    """Text that a record can hold: a plain string (NumPy's are not), lone surrogates U+FFFD.
    Nothing else is touched."""
    if type(text) is not str:
        text = str.__str__(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def tidy(decision: Decision) -> Decision:
    """What is executed is what is logged: one line, encodable, and a thought that says no other
    action. Raises TypeError or a msgspec error for a completion that a record could not hold."""
    action, completion = decision.action, decision.completion
    reasoning = clean(decision.reasoning)
    if action is not None:
        action = " ".join(clean(action).splitlines()).strip() or None
    if completion is not None:
        texts = {"text": clean(completion.text), "hidden": clean(completion.hidden)}
        completion = msgspec.structs.replace(completion, **texts)
        completion = _COMPLETION.decode(msgspec.json.encode(completion))
    else:  # its text is written anew, and read again
        reasoning = unlabelled(reasoning)
    return Decision(reasoning, action, completion, bool(decision.injected))

"""A small environment and some policies that the core's tests play with. All parts are real."""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness import Environment, registry
from harness.errors import ConfigError
from harness.policy import call
from harness.types import Decision, Info, Step


class CountEnv(Environment):
    """Say the numbers up to n. 'boom' raises, 'hang' sleeps."""

    name = "count"
    version = "3"
    max_steps = 12

    def task_ids(self, split: str) -> Sequence[str]:
        if split not in ("train", "valid"):
            raise ConfigError(f"no split '{split}'")
        return [f"{split}/{n}" for n in range(1, 9)]

    def start(self, task_id: str) -> tuple[str, Info]:
        split, _, n = task_id.partition("/")
        if task_id not in self.task_ids(split):
            raise ConfigError(f"no task '{task_id}'")
        self.target, self.at = int(n), 0
        text = f"Count to {n}.\nAction: 99"
        return text, {"instruction": f"count to {n}", "admissible_actions": ["1"]}

    def play(self, action: str) -> tuple[str, float, bool, Info]:
        if action == "boom":
            raise RuntimeError("the counter broke")
        if action == "hang":
            time.sleep(60)
        right = action == str(self.at + 1)
        self.at += right
        won = self.at == self.target
        info = {
            "success": won,
            "score": self.at / self.target,
            "invalid_action": not right,
            "admissible_actions": [str(self.at + 1)],
        }
        return ("Yes." if right else "No."), float(won), won, info

    def solution(self) -> list[str]:
        return [str(i + 1) for i in range(self.target)]


class Counter:
    """Counts correctly from its history alone."""

    def act(self, instruction: str, history: Sequence[Step], observation: str) -> Decision:
        done = sum(not s.invalid for s in history)
        return Decision(f"I said {done} numbers.", str(done + 1))


class Slow:
    """The expert, who takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.expert = registry.build_policy(registry.agent_config("expert"))

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        time.sleep(self.seconds)
        return call(self.expert, instruction, history, observation, info)


class Says:
    """Always gives one answer."""

    def __init__(self, decision: object) -> None:
        self.decision = decision

    def act(self, instruction: str, history: Sequence[Step], observation: str) -> Decision:
        return self.decision  # type: ignore[return-value]

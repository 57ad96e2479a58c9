"""What the harness itself costs: a scripted agent in the fast engine, with and without it.

    python tests/bench/overhead.py [--episodes 200]

Prints milliseconds a step of the bare environment, of the loop, and of a whole recorded run, and
seconds of ``harness --help`` (best of 5). Nothing is asserted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time

import harness
from harness import registry
from harness.config import AgentConfig
from harness.loop import play_episode
from harness.protocol import Protocol

STEPS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=200)
    episodes = parser.parse_args().episodes
    tasks = registry.task_set("alfworld", f"builtin-train[:{episodes}]")
    env = registry.env_class("alfworld")()
    scripted = AgentConfig("scripted", "scripted")
    policy = registry.build_policy(scripted)

    start = time.perf_counter()
    for task in tasks.tasks:
        env.reset(options={"task_id": task.id})
        for _ in range(STEPS):
            env.step("look")
    bare = _ms(start, episodes)

    start = time.perf_counter()
    for task in tasks.tasks:
        play_episode(policy, env, task, agent="scripted", protocol=Protocol(STEPS))
    loop = _ms(start, episodes)

    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        harness.evaluate(scripted, "alfworld", tasks=tasks, out=out, kind="collect", workers=4)
        run = _ms(start, episodes)

    command = [sys.executable, "-m", "harness", "--help"]
    helps = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        helps.append(time.perf_counter() - start)
    print(f"{episodes} episodes of {STEPS} steps, ms a step:")
    print(f"  environment alone           {bare:.3f}")
    print(f"  + loop                      {loop:.3f}  (overhead {loop - bare:.3f})")
    print(f"  + run, recorded and scored  {run:.3f}  (overhead {run - bare:.3f})")
    print(f"harness --help: {min(helps):.3f} s (best of 5)")


def _ms(start: float, episodes: int) -> float:
    return 1000 * (time.perf_counter() - start) / (episodes * STEPS)


if __name__ == "__main__":
    main()

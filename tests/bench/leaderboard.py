"""How long the leaderboard takes over many recorded episodes, and how much memory.

    python tests/bench/leaderboard.py [--runs 200] [--tasks 1000] [--seeds 5]

Writes runs of runs x tasks x seeds episodes into a temporary folder, as the recorder does, then
runs `harness leaderboard --json` on them in a process of its own. Prints its seconds by the clock
and of the processor (which another program's load does not lengthen) and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from harness import api
from harness.config import AgentConfig
from harness.metrics import EpisodeMetrics
from harness.runs import METRICS, write_meta, write_metrics
from harness.tasksets import TaskSet
from harness.types import Outcome, Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    episodes = given.runs * given.tasks * given.seeds
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        size = record(out, given.runs, given.tasks, given.seeds)
        command = [
            sys.executable,
            "-P",
            "-m",
            "harness",
            "leaderboard",
            "--json",
            "--out",
            str(out),
        ]
        start = time.perf_counter()
        found = subprocess.run(command, check=True, capture_output=True, text=True)
        wall = time.perf_counter() - start
    rows = json.loads(found.stdout)[0]["rows"]
    assert sum(row["summary"]["n"] + row["summary"]["errors"] for row in rows) == episodes
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    print(f"{episodes} episodes in {given.runs} runs, {size / 1e6:.0f} MB of {METRICS}:")
    print(f"  {wall:.1f} s by the clock, {cpu:.1f} s of the processor")
    print(f"  {episodes / cpu:,.0f} episodes a second of the processor")
    print(f"  {used.ru_maxrss / 1024:.0f} MiB of memory at most")


def record(out: Path, runs: int, tasks: int, seeds: int) -> int:
    """Complete runs of one task set by so many agents; bytes of their metrics."""
    ids = [f"valid/pick_and_place_simple-Thing-None-Place-{i}/trial_{i:06}" for i in range(tasks)]
    task_set = TaskSet.make(
        "alfworld/many", "alfworld", [Task("alfworld", "valid", i) for i in ids], max_steps=30,
        content=dict.fromkeys(ids, "0123456789abcdef"),
    )  # fmt: skip
    plan = api.plan(AgentConfig("agent", "random"), "alfworld", tasks=task_set, seeds=range(seeds))
    size = 0
    for number in range(runs):
        name = f"agent-{number:03}"
        folder = out / "alfworld" / name / f"run-{number:03}"
        agent = AgentConfig(name, "random")
        rng = random.Random(number)
        write_meta(folder, msgspec.structs.replace(plan, agent=agent, status="complete"))
        write_metrics(folder, [row(rng, i, seed) for i in ids for seed in range(seeds)])
        size += (folder / METRICS).stat().st_size
    return size


def row(rng: random.Random, task: str, seed: int) -> EpisodeMetrics:
    """An episode as they are: a few steps, counted reasoning, now and then a fault."""
    draw = rng.random()
    steps = int(4 + 26 * draw)
    broken = draw < 0.002
    match = None if broken else round(0.5 + draw / 2, 6)
    return EpisodeMetrics(
        task, seed, 0, "pick_and_place_simple", Outcome.ERROR if broken else Outcome.DONE,
        None if broken else draw < 0.5, None if broken else float(draw < 0.5), steps,
        int(3 * draw), 25 * steps, 5 * steps, 28 * steps, 6 * steps, 300 * steps,
        match, 0.4 * steps, 0.4 * steps, 0.0001 * steps,
        sampled_tokens=37 * steps, cached_tokens=250 * steps, reread_tokens=0,
        model_seconds=0.3 * steps, waiting_seconds=0.1 * steps,
        cot_precision=match, cot_f1=match, cot_floor=match, cot_floor_f1=match, cot_ceiling=match,
        cot_ceiling_f1=match, format_errors=0, loops=int(2 * draw),
    )  # fmt: skip


if __name__ == "__main__":
    main()

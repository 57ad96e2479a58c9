"""What playing costs as the work grows: more episodes at once, longer episodes.

    python tests/bench/growth.py [--agent teacher-tiny] [--concurrent 8 32 128] [--steps 10 30 50]
        [--batch-size 32] [--threads 1] [--json FILE] [--figure FILE.svg]
    python tests/bench/growth.py --from FILE --figure FILE.svg     # cells measured before

Built-in ALFWorld games that go on after they are won, so that each episode has its full number of
steps; replies are greedy. Each cell plays all its episodes at once, in a process of its own, whose
peak memory is told beside that of its batch and of its stored prefixes. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the ReAct policy does, before torch

import msgspec
import torch
from harness_agents.backends.hf import HFBackend
from harness_agents.react import ReActPolicy
from harness_envs.alfworld import ALFWorldEnv

from harness import drawing, registry
from harness.cost import Cost, cost_of, total
from harness.figures import Mark, Panel, Series, Strip
from harness.loop import play_episode
from harness.protocol import Protocol
from harness.types import Episode, Info, Task


class Endless(ALFWorldEnv):
    """A game that goes on after it is won."""

    def play(self, action: str) -> tuple[str, float, bool, Info]:
        observation, reward, _, info = super().play(action)
        return observation, reward, False, info


def measure(agent: str, concurrent: int, steps: int, batch_size: int) -> dict[str, Any]:
    """One cell: ``concurrent`` episodes of ``steps`` steps."""
    known = registry.task_set("alfworld", "builtin-train").tasks
    config = registry.agent_config(agent)
    options = {**config.options, "batch_size": batch_size, "copies": 1}
    policy = registry.build_policy(msgspec.structs.replace(config, options=options))
    assert isinstance(policy, ReActPolicy)
    backend = policy.backend
    assert isinstance(backend, HFBackend)

    def one(task: Task) -> Episode:
        return play_episode(policy, Endless(), task, agent=agent, protocol=Protocol(steps, 999))

    before = peak()
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrent) as pool:
        episodes = list(pool.map(one, known[:concurrent]))
    seconds = time.perf_counter() - began
    store = backend._batch.prefixes._used
    batch = sum(layer.nbytes for layer in backend._batch.slots.data)
    policy.close()
    broken = [e.error for e in episodes if e.error is not None]
    if broken:
        raise SystemExit(f"{len(broken)} episodes broke, the first: {broken[0]}")
    cost = total([*map(cost_of, episodes), Cost(wall_seconds=seconds)])
    return {
        "agent": agent, "concurrent": concurrent, "steps": steps, "batch_size": batch_size,
        "played": sum(len(e.steps) for e in episodes), "peak_mib": peak(), "before_mib": before,
        "batch_mib": batch / 2**20, "store_mib": store / 2**20, **msgspec.to_builtins(cost),
    }  # fmt: skip


def peak() -> float:
    """Most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


HEAD = (
    " at once  steps  seconds  episodes/min  steps/s  tokens/s  ms/step  read/step  cached  "
    "reread/ep  waiting   peak MiB  of it batch  store"
)


def line(cell: dict[str, Any]) -> str:
    played, wall = cell["played"], cell["wall_seconds"]
    read = cell["prompt_tokens"] - cell["cached_tokens"]
    held = cell["model_seconds"] + cell["waiting_seconds"]
    return (
        f"{cell['concurrent']:8d} {cell['steps']:6d} {wall:8.1f} "
        f"{cell['episodes_per_minute']:13.1f} {played / wall:8.1f} "
        f"{cell['tokens_per_second']:9.0f} {1000 * wall / played:8.1f} {read / played:10.0f} "
        f"{100 * cell['cached_tokens'] / cell['prompt_tokens']:5.0f} % "
        f"{cell['reread_tokens'] / cell['episodes']:10.0f} "
        f"{100 * cell['waiting_seconds'] / held:6.0f} % {cell['peak_mib']:10.0f} "
        f"{cell['batch_mib']:12.1f} {cell['store_mib']:6.1f}"
    )


def figure(cells: list[dict[str, Any]]) -> Strip:
    """What a step takes and the most memory, against episodes at once; a line a length."""
    panels = []
    for name, axis, value in (
        ("time", "ms a step", lambda c: 1000 * c["wall_seconds"] / c["played"]),
        ("memory", "peak MiB", lambda c: c["peak_mib"]),
    ):
        series = tuple(
            Series(
                f"{steps} steps",
                tuple(
                    Mark(c["concurrent"], value(c))
                    for c in sorted(cells, key=lambda c: c["concurrent"])
                    if c["steps"] == steps
                ),
            )
            for steps in sorted({c["steps"] for c in cells})
        )
        panels.append(Panel(name, "episodes at once", axis, series))
    first = cells[0]
    title = f"{first['agent']}, batches of up to {first['batch_size']}"
    return Strip(title, tuple(panels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="teacher-tiny")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30, 50])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="append one line a cell to this file")
    parser.add_argument("--figure", type=Path, help="draw all cells into this .svg or .png")
    parser.add_argument("--from", dest="known", type=Path, help="cells of a --json file: none new")
    parser.add_argument("--cell", action="store_true", help="measure here, print the cell as JSON")
    given = parser.parse_args()
    if given.cell:
        torch.set_num_threads(given.threads)
        print(json.dumps(measure(
            given.agent, given.concurrent[0], given.steps[0], given.batch_size
        )))  # fmt: skip
        return
    if given.known and given.figure is None:
        parser.error("--from draws a figure: name it with --figure")
    if given.known:
        known = [json.loads(text) for text in given.known.read_text("utf-8").splitlines()]
        drawing.write([figure(known)], given.figure)
        return
    cells = []
    print(f"{given.agent}, batches of up to {given.batch_size}, {given.threads} threads")
    print(HEAD)
    for steps in given.steps:
        for concurrent in given.concurrent:
            command = [sys.executable, __file__, "--cell", "--agent", given.agent]
            command += ["--concurrent", str(concurrent), "--steps", str(steps)]
            command += ["--batch-size", str(given.batch_size), "--threads", str(given.threads)]
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            cell = json.loads(out)
            cells.append(cell)
            print(line(cell), flush=True)
            if given.json:
                with open(given.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(cell) + "\n")
    if given.figure:
        drawing.write([figure(cells)], given.figure)


if __name__ == "__main__":
    main()

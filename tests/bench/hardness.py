"""How hard a task set is: random, nearest training episode, expert, oracle; with intervals.

    python tests/bench/hardness.py [--env alfworld] [--tasks builtin-valid]
        [--train builtin-train] [--data official]

Plays whole runs into a temporary folder and prints the leaderboard.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

import harness
from harness import leaderboard
from harness.config import AgentConfig
from harness.runs import find_runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="alfworld")
    parser.add_argument("--tasks", default="builtin-valid")
    parser.add_argument("--train", default="builtin-train")
    parser.add_argument("--data", default="builtin")
    given = parser.parse_args()
    options = {"data": given.data}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        traces = harness.evaluate(
            "expert", given.env, tasks=given.train, out=out, kind="collect", env_options=options
        )
        nearest = AgentConfig("nearest", "nearest", options={"traces": str(traces.path)})
        for agent in ("oracle", "expert", "random", nearest):
            harness.evaluate(agent, given.env, tasks=given.tasks, out=out, env_options=options)
        for board in leaderboard.boards(find_runs(out)):
            Console(width=160).print(leaderboard.table(board))


if __name__ == "__main__":
    main()

"""Have students learned to copy and to perceive? Of the actions that an episode tries for the first
time: the valid ones, and how many numbered things they name ("mug 2") an observation had shown.

    python tests/bench/perception.py RUN...

A lost episode mostly repeats one invalid action until its steps are used up, so the share over all
actions says little more than how often it was lost. One row an agent and task set: means over its
runs (training seeds), standard deviations between them.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.table import Table

from harness.runs import Run
from harness.types import Episode

NAMED = re.compile(r"[a-z]+ \d+")  # ALFWorld's things and places; other environments have none


def first_tries(episodes: list[Episode]) -> tuple[int, int, int, int]:
    """(actions tried for the first time, valid of them, things they name, shown of those)."""
    tried = valid = named = shown = 0
    for episode in episodes:
        before: set[str] = set()
        seen: set[str] = set()
        for step in episode.steps:
            seen.update(NAMED.findall(step.observation))
            action = step.decision.action
            theirs = step.forced or step.decision.injected
            if action is None or theirs or action in before:
                continue
            before.add(action)
            things = NAMED.findall(action)
            tried += 1
            valid += not step.invalid
            named += len(things)
            shown += sum(thing in seen for thing in things)
    return tried, valid, named, shown


def shares(run: Run) -> dict[str, float]:
    """The columns of a run, in percent; those with nothing to count are left out."""
    episodes = [episode for episode in run.episodes() if episode.error is None]
    steps = [step for episode in episodes for step in episode.steps]
    tried, valid, named, shown = first_tries(episodes)
    columns = {
        "success": (sum(bool(e.success) for e in episodes), len(episodes)),
        "valid, all": (sum(not step.invalid for step in steps), len(steps)),
        "valid, first tries": (valid, tried),
        "things shown before": (shown, named),
    }
    return {name: 100 * a / b for name, (a, b) in columns.items() if b}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    found: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    for run in map(Run, parser.parse_args().runs):
        meta = run.meta
        steps = re.search(r"step-0*(\d+)$", str(meta.agent.options.get("checkpoint", "")))
        agent = meta.agent.name + (f" at {steps.group(1)} steps" if steps else "")
        found[meta.task_set.name, agent].append(shares(run))
    heads = ["success", "valid, all", "valid, first tries", "things shown before"]
    table = Table("task set", "agent", "runs", *heads, title="% of episodes, actions, things")
    for (tasks, agent), runs in sorted(found.items()):
        cells = []
        for head in heads:
            values = [run[head] for run in runs if head in run]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{mean(values):.1f}{spread}" if values else "-")
        table.add_row(tasks, agent, str(len(runs)), *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

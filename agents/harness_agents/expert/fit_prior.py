"""Counts where things lie in train games and writes ``alfworld_prior.json``.

    python -m harness_agents.expert.fit_prior --tasks alfworld/builtin-train builtin \\
        --tasks alfworld/real-train official

A task set and the ``data`` option that has its games. ``real-train`` is train without the task
folders that are held out, so nothing about held-out rooms gets into the table.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import registry

TABLE = Path(__file__).with_name("alfworld_prior.json")
_TYPE = re.compile(r"\((objectType|receptacleType) (\S+) (\w+)Type\)")
_IN = re.compile(r"\(inReceptacle ([^\s()]+) ([^\s()]+)\)")

#: object class -> receptacle class -> how many receptacles.
Counts = defaultdict[str, Counter[str]]


def count(problems: Iterable[str]) -> tuple[Counts, Counts, int]:
    """Over PDDL problems: (receptacles that hold such an object, receptacles in games that have
    one in some receptacle, games)."""
    held: Counts = defaultdict(Counter)
    stood: Counts = defaultdict(Counter)
    games = 0
    for problem in problems:
        games += 1
        kinds = {"objectType": {}, "receptacleType": {}}  # type: dict[str, dict[str, str]]
        for predicate, name, kind in _TYPE.findall(problem):
            kinds[predicate][name] = kind.lower()
        things, places = kinds["objectType"], kinds["receptacleType"]
        inside: defaultdict[str, set[str]] = defaultdict(set)
        for thing, place in _IN.findall(problem.partition("(:goal")[0]):
            if thing in things and place in places:
                inside[place].add(things[thing])
        present = set().union(*inside.values())
        for place, kind in places.items():
            for thing in present:
                stood[thing][kind] += 1
            for thing in inside[place]:
                held[thing][kind] += 1
    return held, stood, games


def problems(task_set: str, data: str) -> Iterator[str]:
    """The PDDL problems of an ALFWorld task set."""
    env: Any = registry.env_class("alfworld")(data=data)  # type: ignore[call-arg]
    for task in registry.task_set("alfworld", task_set).tasks:
        yield env.games.game(task.id).pddl_problem


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="fit_prior", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--tasks", action="append", nargs=2, required=True, metavar=("TASK_SET", "DATA")
    )
    parser.add_argument("--out", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    held: Counts = defaultdict(Counter)
    stood: Counts = defaultdict(Counter)
    sizes: dict[str, int] = {}
    for task_set, data in args.tasks:
        h, s, sizes[task_set] = count(problems(task_set, data))
        for total, part in ((held, h), (stood, s)):
            for thing, row in part.items():
                total[thing].update(row)
    table = {
        "source": "receptacles in ALFWorld train games (from ALFRED, MIT) and built-in ones",
        "games": sizes,
        "counts": {
            thing: {
                place: [held[thing][place], stood[thing][place]]
                for place in sorted(stood[thing])
                if held[thing][place]
            }
            for thing in sorted(held)
        },
    }
    lines = json.dumps(table, indent=1)
    # One row a line: [12, 340] instead of four lines.
    lines = re.sub(r"\[\s+(\d+),\s+(\d+)\s+\]", r"[\1, \2]", lines)
    args.out.write_text(lines + "\n", encoding="utf-8")
    print(f"{args.out}: {len(held)} object classes from {sum(sizes.values())} games")


if __name__ == "__main__":
    main()

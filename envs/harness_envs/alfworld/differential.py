"""Plays both engines side by side on random walks and reports every difference.

    python -m harness_envs.alfworld.differential --games 60 --steps 50 --data FOLDER

A difference is a fault of the ``fast`` engine's rules: mend the rule, never leave out the game.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from harness_envs.alfworld.env import translate
from harness_envs.alfworld.fast import FastEngine
from harness_envs.alfworld.game import Game, Grammar
from harness_envs.alfworld.games import open_games
from harness_envs.alfworld.textworld_engine import TextWorldEngine

#: How often a walk picks among admissible commands of a verb; going places is cheap and common.
VERBS = {"go": 3.0, "look": 0.5, "inventory": 0.5, "help": 0.1, "examine": 1.0, "close": 1.0}
MISSES = (
    "",
    "look around",
    "Look",
    "go to nowhere 1",
    "take  apple 1 from fridge 1",
    "put apple 1 in/on fridge 1",
    "move apple 1 to fridge 1",
    "think: what now?",
    "open",
    "ü \t[x]",
)


class Difference(NamedTuple):
    """Where the engines disagree: after ``commands``, in ``field`` (observation | ...)."""

    game: str
    commands: tuple[str, ...]
    field: str
    fast: object
    textworld: object


def walk(
    game: Game, steps: int, seed: int, other: TextWorldEngine, fast: FastEngine
) -> Iterator[Difference]:
    """Play one game on both engines for ``steps`` commands, past a win too."""
    rng = random.Random(f"{seed}:{game.id}")
    observation, admissible = fast.reset(game)
    ours: tuple[object, ...] = (observation, admissible, fast.won)
    theirs: tuple[object, ...] = (*other.reset(game), other.won)
    yield from _compare(game, (), ours, theirs)
    done: list[str] = []
    solution = list(game.walkthrough)
    for _ in range(steps):
        command = _choose(admissible, solution, rng)
        done.append(command)
        observation, admissible, won = fast.step(command)
        ours = (observation, admissible, won)
        yield from _compare(game, tuple(done), ours, other.step(command))


def _choose(admissible: Sequence[str], solution: list[str], rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(MISSES)
    if kind < 0.08:
        wrong = rng.choice(admissible)
        return rng.choice([wrong.upper(), f"  {wrong}\n", wrong[:-1], wrong + " 1", f"{wrong}."])
    if kind < 0.45 and solution:
        return solution.pop(0)
    weights = [VERBS.get(command.split()[0], 6.0) for command in admissible]
    places = sum(command.startswith("go to ") for command in admissible)
    weights = [
        weight * 8 / places if command.startswith("go to ") else weight
        for command, weight in zip(admissible, weights, strict=True)
    ]
    return rng.choices(admissible, weights)[0]


def _compare(
    game: Game, commands: tuple[str, ...], ours: tuple[object, ...], theirs: tuple[object, ...]
) -> Iterator[Difference]:
    for field, fast, textworld in zip(
        ("observation", "admissible", "won"), ours, theirs, strict=True
    ):
        if fast != textworld:
            yield Difference(game.id, commands, field, fast, textworld)


def in_grammar(game: Game, grammar: Grammar) -> Game:
    """The same game in the other grammar."""
    if game.grammar == grammar:
        return game
    walkthrough = tuple(translate(command, grammar) for command in game.walkthrough)
    return msgspec.structs.replace(game, grammar=grammar, walkthrough=walkthrough)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="builtin", help="'builtin' or a folder of games")
    parser.add_argument("--split", action="append", help="default: every split")
    parser.add_argument("--games", type=int, default=20)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grammar", choices=("move", "put"), help="default: each game's own")
    arguments = parser.parse_args()
    source = open_games(arguments.data)
    ids = sorted({id_ for s in arguments.split or source.splits() for id_ in source.ids(s)})
    chosen = random.Random(arguments.seed).sample(ids, min(arguments.games, len(ids)))
    fast, other = FastEngine(), TextWorldEngine()
    found = 0
    try:
        for id_ in chosen:
            game = source.game(id_)
            if arguments.grammar:
                game = in_grammar(game, arguments.grammar)
            for difference in walk(game, arguments.steps, arguments.seed, other, fast):
                found += 1
                print(difference)
    finally:
        other.close()
    print(f"{len(chosen)} games, {len(chosen) * arguments.steps} steps: {found} differences")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()

"""ALFWorld's two engines in one run: load + reset, steps per second, and the ratios.

    python tests/bench/engines.py [--data FOLDER --split valid_seen] [--games 8]

Nothing is asserted. ``textworld`` is ALFWorld's own code as shipped; ``memoised`` is how the
environment runs it (a problem's translation is kept between load and reset). Both play the same
commands: the walkthrough, then a random walk. Times of the worker include its pipe (about 0.1 ms).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

from harness_envs.alfworld.env import Engine
from harness_envs.alfworld.fast import FastEngine
from harness_envs.alfworld.game import Game
from harness_envs.alfworld.games import open_games
from harness_envs.alfworld.textworld_engine import TextWorldEngine


def commands_of(game: Game, steps: int) -> list[str]:
    """The walkthrough, then random admissible commands: found with the fast engine."""
    rng = random.Random(game.id)
    engine = FastEngine()
    _, admissible = engine.reset(game)
    commands: list[str] = []
    for i in range(steps):
        walk = i < len(game.walkthrough)
        commands.append(game.walkthrough[i] if walk else rng.choice(admissible))
        _, admissible, _ = engine.step(commands[-1])
    return commands


def measure(
    make: Callable[[], Engine], games: Sequence[Game], commands: Sequence[Sequence[str]]
) -> tuple[float, float]:
    """(median seconds of load + reset, seconds a step, admissible commands included)."""
    engine = make()
    engine.reset(games[-1])  # start-up and imports are not what is compared
    starts, steps, spent = [], 0, 0.0
    for game, walk in zip(games, commands, strict=True):
        begin = time.perf_counter()
        engine.reset(game)
        starts.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for command in walk:
            engine.step(command)
        spent += time.perf_counter() - begin
        steps += len(walk)
    engine.close()
    return statistics.median(starts), spent / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--split", default="valid_seen")
    parser.add_argument("--games", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20, help="steps a game")
    arguments = parser.parse_args()
    source = open_games(arguments.data)
    ids = random.Random(7).sample(list(source.ids(arguments.split)), arguments.games)
    games = [source.game(id_) for id_ in ids]
    walks = [commands_of(game, arguments.steps) for game in games]
    engines: dict[str, Callable[[], Engine]] = {
        "fast": FastEngine,
        "textworld": lambda: TextWorldEngine(memoise=False),
        "memoised": TextWorldEngine,
    }
    print(f"{len(games)} games of {arguments.data} {arguments.split}, {arguments.steps} steps each")
    print("engine      load+reset ms   ms/step   steps/s  x reset  x step")
    base: tuple[float, float] | None = None
    for name, make in engines.items():
        start, step = measure(make, games, walks)
        base = base or (start, step)
        print(
            f"{name:<10} {start * 1e3:>14.2f} {step * 1e3:>9.4f} {1 / step:>9.0f} "
            f"{start / base[0]:>8.0f} {step / base[1]:>7.0f}"
        )


if __name__ == "__main__":
    main()

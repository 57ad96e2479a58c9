"""The worker process of ``TextWorldEngine``: plays ALFWorld's own code for one parent.

Requests come as JSON lines on standard input and are answered on what was standard output; the
libraries' own printing goes to standard error. The process ends when its parent does.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from importlib.resources import files
from typing import Any

import msgspec

from harness_envs.alfworld.fast import HELP
from harness_envs.alfworld.game import Game, to_json
from harness_envs.alfworld.textworld_engine import Reply, Request


def official_texts() -> tuple[str, str]:
    """(domain, grammar) of the official games, release 2.1.2, from the installed alfworld.

    Where the installed files are newer than the games they are set back: there ``help`` begins
    with an empty line, and plain sinks do not clean (no game has one: all are sink basins).
    """
    data = files("alfworld") / "data"
    domain = (data / "alfred.pddl").read_text(encoding="utf-8")
    grammar = (data / "alfred.twl2").read_text(encoding="utf-8")
    domain = domain.replace(";(receptacleType ?r SinkType)", "(receptacleType ?r SinkType)")
    domain = re.sub(r"\)\s*\)\s*\Z", ")\n)\n", domain)
    grammar = grammar[: grammar.index("action help {")]
    grammar += f'action help {{\n    template :: "help";\n    feedback :: "\n{HELP}";\n}}\n'
    return domain, grammar


def older_texts(domain: str, grammar: str) -> tuple[str, str]:
    """The same in the grammar of ALFWorld 0.2 and 0.3: ``put X in/on Y``, places are ``loc 12``,
    no ``help``."""
    domain = domain[: domain.index("(:action help")].rstrip() + "\n)\n"
    grammar = grammar[: grammar.index("action help {")].rstrip() + "\n"
    for new, old in (
        ("You arrive at {r.name}.", "You arrive at {lend.name}."),
        ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
        ('"move {o} to {r}"', '"put {o} in/on {r}"'),
    ):
        grammar = grammar.replace(new, old)
    return domain, grammar


class Player:
    """One TextWorld environment, as ALFWorld wraps it."""

    def __init__(self, *, memoise: bool) -> None:
        if memoise:
            _memoise_translation()
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler, AlfredInfos
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv

        infos = EnvInfos(won=True, admissible_commands=True)
        self._env = AlfredInfos(AlfredDemangler(PddlEnv(infos)))
        self._texts = official_texts()
        self._game: Game | None = None

    def answer(self, request: Request) -> Reply:
        if request.game is not None:
            if request.game != self._game:
                old = request.game.grammar == "put"
                texts = older_texts(*self._texts) if old else self._texts
                self._env.load(to_json(request.game, *texts))
                self._game = request.game
            state: Any = self._env.reset()
        else:
            state, _, _ = self._env.step(request.command)
        return Reply(str(state.feedback), list(state["admissible_commands"]), bool(state["won"]))


def _memoise_translation() -> None:
    """Keep the last problem's two translations (plain and for replanning); both are only read."""
    fast_downward = importlib.import_module("fast_downward")
    original = fast_downward.pddl2sas
    kept: dict[tuple[str, str, bool], Any] = {}

    def pddl2sas(domain: str, problem: str, verbose: bool = False, optimize: bool = False) -> Any:
        key = (domain, problem, optimize)
        if key not in kept:
            for other in [k for k in kept if k[:2] != key[:2]]:
                del kept[other]
            kept[key] = original(domain, problem, verbose=verbose, optimize=optimize)
        return kept[key]

    fast_downward.pddl2sas = pddl2sas  # type: ignore[attr-defined]


def main() -> None:
    replies = os.dup(1)
    os.dup2(2, 1)
    player: Player | None = None
    for line in sys.stdin.buffer:
        try:
            if player is None:
                player = Player(memoise="--no-memoise" not in sys.argv)
                sys.argv = sys.argv[:1]
            reply = player.answer(msgspec.json.decode(line, type=Request))
        except Exception as error:
            import traceback

            traceback.print_exc()
            reply = Reply(error=re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:1000])
        os.write(replies, msgspec.json.encode(reply) + b"\n")


if __name__ == "__main__":
    main()

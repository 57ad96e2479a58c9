"""ALFWorld's own engine: equal to ``fast``, apart from this process, and ended when it fails."""

from __future__ import annotations

import copy
import importlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness_envs.alfworld import ALFWorldEnv, builtin
from harness_envs.alfworld.differential import in_grammar, walk
from harness_envs.alfworld.fast import FastEngine
from harness_envs.alfworld.game import Game
from harness_envs.alfworld.games import open_games
from harness_envs.alfworld.textworld_engine import TextWorldEngine

from harness.errors import EnvError

BUILTIN = [id_ for split in ("train", "valid_seen", "valid_unseen") for id_ in builtin.ids(split)]


@pytest.fixture(scope="module")
def engine() -> Iterator[TextWorldEngine]:
    engine = TextWorldEngine()
    yield engine
    engine.close()


def small(number: int, seed: int) -> list[Game]:
    """Built-in games in small rooms, where TextWorld is quick; one of each task type first."""
    games = [builtin.game(id_) for id_ in random.Random(seed).sample(BUILTIN, 60)]
    games.sort(key=lambda game: len(game.pddl_problem))
    firsts = {game.task_type: game for game in reversed(games)}
    return [*firsts.values(), *games][:number]


def differences(games: list[Game], steps: int, engine: TextWorldEngine) -> list[object]:
    fast = FastEngine()
    return [d for game in games for d in walk(game, steps, 20261124, engine, fast)]


@pytest.mark.textworld
def test_a_process_is_not_copied(engine: TextWorldEngine) -> None:
    with pytest.raises(EnvError, match=r"cannot be copied.*engine='fast'"):
        copy.deepcopy(engine)


def test_both_engines_agree_on_built_in_games(engine: TextWorldEngine) -> None:
    assert not differences(small(6, 1), 25, engine)


@pytest.mark.textworld
def test_both_engines_agree_in_the_older_grammar(engine: TextWorldEngine) -> None:
    games = [in_grammar(game, "put") for game in small(3, 2)]
    assert not differences(games, 25, engine)


@pytest.mark.textworld
@pytest.mark.data
def test_both_engines_agree_on_real_games(engine: TextWorldEngine, data: Path) -> None:
    source = open_games(str(data / "alfworld"))
    ids = random.Random(3).sample(list(source.ids("valid_seen")), 12)
    games = sorted(map(source.game, ids), key=lambda game: len(game.pddl_problem))
    assert not differences(games[:3], 25, engine)


@pytest.mark.textworld
@pytest.mark.campaign
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_campaign_on_built_in_games(engine: TextWorldEngine, grammar: str) -> None:
    ids = random.Random(4).sample(BUILTIN, 60)
    games = [in_grammar(builtin.game(id_), grammar) for id_ in ids]  # type: ignore[arg-type]
    assert not differences(games, 50, engine)


@pytest.mark.textworld
@pytest.mark.data
@pytest.mark.campaign
@pytest.mark.parametrize("grammar", ["move", "put"])
def test_campaign_on_real_games(engine: TextWorldEngine, grammar: str, data: Path) -> None:
    source = open_games(str(data / "alfworld"))
    ids = [*source.ids("train"), *source.ids("valid_seen")]
    chosen = random.Random(5).sample(ids, 60)
    games = [in_grammar(source.game(id_), grammar) for id_ in chosen]  # type: ignore[arg-type]
    assert not differences(games, 50, engine)


@pytest.mark.textworld
@pytest.mark.data
def test_the_texts_played_are_those_of_the_official_games(data: Path) -> None:
    worker = importlib.import_module("harness_envs.alfworld.textworld_worker")
    domain, grammar = worker.official_texts()
    folder = data / "alfworld"
    assert domain == (folder / "alfred.pddl").read_text()
    assert grammar == (folder / "alfred.twl2").read_text()
    older_domain, older = worker.older_texts(domain, grammar)
    assert older == (folder / "alfred_0.3_put_in_on.twl2").read_text()
    assert domain.startswith(older_domain.rstrip().removesuffix(")").rstrip())
    assert "help" not in older_domain


@pytest.mark.textworld
def test_the_environment_is_the_same_on_both(capfd: pytest.CaptureFixture[str]) -> None:
    """Also: nothing of the libraries' printing leaks, and this process's argv stays."""
    argv, modules = list(sys.argv), set(sys.modules)
    [game] = small(1, 6)
    fast, real = ALFWorldEnv(), ALFWorldEnv(engine="textworld")
    for _ in range(2):
        assert fast.reset(options={"task_id": game.id}) == real.reset(options={"task_id": game.id})
        for action in (*game.walkthrough, "look", "xyzzy"):
            assert fast.step(action) == real.step(action)
    real.close()
    assert capfd.readouterr() == ("", "")
    assert sys.argv == argv
    assert not {"textworld", "alfworld"} & (set(sys.modules) - modules)


@pytest.mark.textworld
def test_a_dead_worker_is_an_error_of_the_environment_and_replaced() -> None:
    [game] = small(1, 7)
    env = ALFWorldEnv(engine="textworld")
    env.reset(options={"task_id": game.id})
    engine = env._engine
    assert isinstance(engine, TextWorldEngine)
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    with pytest.raises(EnvError, match=r"worker process died") as caught:
        env.step("look")
    assert game.id in str(caught.value)
    assert engine.pid is None
    with pytest.raises(EnvError, match=r"without a running game"):
        env.step("look")
    env.reset(options={"task_id": game.id})
    assert env.step("inventory")[0] == "You are not carrying anything."
    env.close()


@pytest.mark.textworld
def test_a_hung_worker_is_ended() -> None:
    [game] = small(1, 8)
    hung = TextWorldEngine(timeout=60)
    hung.reset(game)
    pid = hung.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    hung._timeout = 0.2
    with pytest.raises(EnvError, match=r"silent for 0\.2 s"):
        hung.step("look")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.textworld
def test_a_game_that_textworld_refuses_is_named(engine: TextWorldEngine) -> None:
    game = Game("valid_seen/x-y-None-z-1/t", "do it.", "(define (problem", (), "x")
    with pytest.raises(EnvError, match=r"valid_seen/x-y-None-z-1/t") as caught:
        engine.reset(game)
    assert "Its last words" in str(caught.value)
    [whole] = small(1, 9)
    assert engine.reset(whole) == FastEngine().reset(whole)


@pytest.mark.textworld
def test_the_worker_ends_with_its_parent() -> None:
    code = (
        "import os; from harness_envs.alfworld import builtin; "
        "from harness_envs.alfworld.textworld_engine import TextWorldEngine; "
        "e = TextWorldEngine(); e.reset(builtin.game(builtin.ids('dev')[0])); "
        "print(e.pid, flush=True); os._exit(9)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 9
    pid = int(run.stdout)
    for _ in range(100):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().split(") ")[1].startswith("Z"):
            return
        subprocess.run(["sleep", "0.1"], check=True)
    pytest.fail("the worker lives on")


def test_without_the_extra_the_pip_command_is_named() -> None:
    code = (
        "import sys; sys.modules['textworld'] = None\n"
        "from harness_envs.alfworld import ALFWorldEnv\n"
        "from harness.errors import MissingDependency\n"
        "try: ALFWorldEnv(engine='textworld')\n"
        "except MissingDependency as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'textworld', which is not installed" in run.stdout
    assert "Traceback" not in run.stderr
    assert "pip install 'distill-harness[textworld]'" in run.stdout

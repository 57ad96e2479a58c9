"""The fast engine: every recorded step of the original, and properties over many games."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_envs.alfworld import builtin
from harness_envs.alfworld.differential import in_grammar
from harness_envs.alfworld.fast import NOTHING, FastEngine, display_names, listing
from harness_envs.alfworld.game import Game
from harness_envs.alfworld.games import open_games
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError

IDS = [id_ for split in ("train", "valid_seen", "valid_unseen") for id_ in builtin.ids(split)]


def recorded(vectors: Path) -> Iterator[dict[str, Any]]:
    for name in ("alfworld_transcripts", "alfworld_stress"):
        with gzip.open(vectors / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)


@pytest.mark.data
def test_every_recorded_step_of_the_original(data: Path, vectors: Path) -> None:
    games = open_games(str(data / "alfworld"))
    engine, seen, wrong = FastEngine(), Counter[str](), []
    for record in recorded(vectors):
        observation, admissible = engine.reset(games.game(record["game"]))
        if (observation, admissible, engine.won) != (
            record["intro"],
            record["adm"],
            record["won"],
        ):
            wrong.append((record["game"], "reset"))
        for i, step in enumerate(record["steps"]):
            observation, admissible, won = engine.step(step["cmd"])
            ours = (observation, admissible, won, int(won), won)
            if ours != tuple(step[k] for k in ("obs", "adm", "won", "score", "done")):
                wrong.append((record["game"], i, step["cmd"]))
            seen[step["cmd"].split()[0] if step["cmd"].split() else ""] += 1
    assert not wrong
    assert sum(seen.values()) == 3760
    assert {"go", "take", "move", "open", "close", "heat", "cool", "clean", "slice"} <= set(seen)


def test_the_walkthrough_wins_and_winning_can_be_undone() -> None:
    engine, undone = FastEngine(), 0
    for id_ in random.Random(1).sample(IDS, 40):
        game = builtin.game(id_)
        engine.reset(game)
        states = [engine.step(command)[2] for command in game.walkthrough]
        assert states == [False] * (len(states) - 1) + [True], id_
        last = game.walkthrough[-1]
        if last.startswith("move "):
            thing, _, place = last[5:].partition(" to ")
            undone += not engine.step(f"take {thing} from {place}")[2]
            assert engine.step(last)[2]
    assert undone > 10


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(IDS), st.integers(0, 2**32), st.sampled_from(["move", "put"]))
def test_admissible_commands_do_something(id_: str, seed: int, grammar: Any) -> None:
    game, rng, engine = in_grammar(builtin.game(id_), grammar), random.Random(seed), FastEngine()
    _, admissible = engine.reset(game)
    for _ in range(25):
        assert admissible == sorted(set(admissible))
        command = rng.choice(admissible)
        for other in admissible:
            observation, _, _ = snapshot(engine).step(other)
            assert observation != NOTHING, other
        _, admissible, _ = engine.step(command)


def snapshot(engine: FastEngine) -> FastEngine:
    """A copy that shares what never changes (the goal test, bound to the original, is unused)."""
    twin = FastEngine()
    twin.__dict__.update(
        {
            k: v if k in ("world", "_world", "_goal") else copy.deepcopy(v)
            for k, v in engine.__dict__.items()
        }
    )
    return twin


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(IDS), st.integers(0, 2**32), st.lists(st.text(), min_size=1, max_size=8))
def test_other_commands_change_nothing(id_: str, seed: int, texts: list[str]) -> None:
    rng, engine = random.Random(seed), FastEngine()
    _, admissible = engine.reset(builtin.game(id_))
    won = engine.won
    for text in texts:
        _, admissible, won = engine.step(rng.choice(admissible))
        before = state(engine)
        wrong = [text, rng.choice(admissible).upper(), rng.choice(admissible) + " 7", "\ud800"]
        for command in wrong:
            if command.strip() not in admissible:
                assert engine.step(command) == (NOTHING, admissible, won)
        assert state(engine) == before


def state(engine: FastEngine) -> dict[str, Any]:
    return {
        k: copy.deepcopy(v)
        for k, v in vars(engine).items()
        if k not in ("world", "_world", "_goal")
    }


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(IDS), st.integers(0, 2**32))
def test_the_older_grammar_is_the_same_game(id_: str, seed: int) -> None:
    """Walked in parallel, both grammars differ in the words of two answers and in ``help`` only."""
    game, rng = builtin.game(id_), random.Random(seed)
    new, old = FastEngine(), FastEngine()
    _, admissible = new.reset(game)
    old.reset(in_grammar(game, "put"))
    for _ in range(30):
        command = rng.choice([c for c in admissible if c != "help"])
        spoken, admissible, won = new.step(command)
        if command.startswith("move "):
            command = "put " + command[5:].replace(" to ", " in/on ")
            spoken = spoken.replace("You move", "You put").replace(" to the ", " in/on the ")
        observation, others, also_won = old.step(command)
        if command.startswith("go to "):
            arrived, _, rest = observation.partition(". ")
            assert arrived.startswith("You arrive at loc ")
            assert spoken == f"You arrive at {command[6:]}. {rest}"
        else:
            assert observation == spoken
        assert won == also_won
        assert "help" not in others
        assert len(others) == len(admissible) - 1


@given(st.lists(st.sampled_from(["mug", "desk", "sink"]), max_size=12), st.randoms())
def test_names_number_each_class_downwards(kinds: list[str], rng: random.Random) -> None:
    ids = [f"{kind}_bar_{i:02}" for i, kind in enumerate(kinds)]
    shuffled = rng.sample(ids, len(ids))
    names = display_names(shuffled)
    for kind in set(kinds):
        mine = [names[i] for i in sorted(ids) if i.startswith(kind)]
        assert mine == [f"{kind} {n}" for n in range(len(mine), 0, -1)]


def test_lists_and_names_as_the_original_writes_them() -> None:
    assert listing([]) == "nothing"
    assert listing(["x 1"]) == "a x 1"
    assert listing(["x 2", "x 1"]) == "a x 2, and a x 1"
    assert listing(["x 3", "x 2", "x 1"]) == "a x 3, a x 2, and a x 1"
    assert display_names(["sink_bar_1_bar_sinkbasin", "curtains"]) == {
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
        "curtains": "curtains ",
    }


def kitchen(goal: str = "(holds agent1 Egg_bar_1)", facts: str = "") -> Game:
    """A two-place game, small enough to read."""
    problem = f"""(define (problem p) (:domain alfred)
    (:objects agent1 - agent  Egg_bar_1 Mug_bar_1 Knife_bar_1 - object
        Shelf_bar_1 Shelf_bar_2 Fridge_bar_1 - receptacle  loc_bar_0 loc_bar_1 loc_bar_2 - location
        EggType MugType KnifeType - otype  ShelfType FridgeType - rtype)
    (:init (atLocation agent1 loc_bar_0) ; mid-room
        (receptacleAtLocation Shelf_bar_1 loc_bar_1) (receptacleAtLocation Shelf_bar_2 loc_bar_1)
        (receptacleAtLocation Fridge_bar_1 loc_bar_2) (openable Fridge_bar_1)
        (receptacleType Shelf_bar_1 ShelfType) (receptacleType Shelf_bar_2 ShelfType)
        (receptacleType Fridge_bar_1 FridgeType) (canContain ShelfType EggType)
        (canContain FridgeType EggType) (canContain ShelfType KnifeType)
        (objectType Egg_bar_1 EggType) (objectType Mug_bar_1 MugType)
        (objectType Knife_bar_1 KnifeType) (pickupable Egg_bar_1) (pickupable Knife_bar_1)
        (inReceptacle Egg_bar_1 Shelf_bar_1) (objectAtLocation Egg_bar_1 loc_bar_1)
        (inReceptacle Knife_bar_1 Shelf_bar_2) (objectAtLocation Knife_bar_1 loc_bar_1)
        (coolable Egg_bar_1) (sliceable Egg_bar_1) {facts})
    (:goal (and {goal})))"""
    return Game("valid_seen/x-Egg-None-Shelf-1/t", "hold the egg.", problem, (), "x")


def test_a_shared_place_lists_what_was_taken_from_its_other_receptacle() -> None:
    engine = FastEngine()
    _, admissible = engine.reset(kitchen())
    assert admissible.count("go to shelf 1") == 1
    engine.step("go to shelf 1")
    assert engine.step("look")[0] == (
        "You are facing the shelf 2, and shelf 1. Next to it, you see nothing."
    )
    assert not [c for c in engine.admissible if c.startswith("go to shelf")]
    _, _, won = engine.step("take egg 1 from shelf 2")
    assert won
    assert not [c for c in engine.admissible if c.startswith("take")]  # the hand is full
    engine.step("move egg 1 to shelf 2")
    assert engine.step("look")[0].endswith("Next to it, you see nothing.")  # back where it was
    engine.step("take egg 1 from shelf 2")
    _, _, won = engine.step("move egg 1 to shelf 1")
    assert not won
    assert engine.step("look")[0].endswith("Next to it, you see a egg 1.")
    engine.reset(kitchen())
    engine.step("go to shelf 1")
    assert engine.step("look")[0].endswith("Next to it, you see nothing.")


def test_heat_and_cold_end_each_other() -> None:
    engine = FastEngine()
    facts = "(heatable Egg_bar_1) (receptacleType Fridge_bar_1 MicrowaveType)"
    engine.reset(kitchen("(isCool Egg_bar_1)", facts))
    for command in ("go to shelf 1", "take egg 1 from shelf 2", "go to fridge 1"):
        engine.step(command)
    for verb, said in (("cool", "cold"), ("heat", "hot"), ("cool", "cold")):
        assert engine.step(f"{verb} egg 1 with fridge 1")[2] == (verb == "cool")
        assert engine.step("examine egg 1")[0] == f"This is a {said} egg 1."


def test_a_goal_that_holds_from_the_start_is_won() -> None:
    engine = FastEngine()
    engine.reset(kitchen("(inReceptacle Egg_bar_1 Shelf_bar_1)"))
    assert engine.won
    assert engine.step("look")[2]


def test_slicing_and_cooling_change_what_examine_says() -> None:
    engine = FastEngine()
    engine.reset(kitchen())
    for command in ("go to shelf 1", "take knife 1 from shelf 1", "slice egg 1 with knife 1"):
        assert engine.step(command)[0] != NOTHING
    for command in ("move knife 1 to shelf 1", "take egg 1 from shelf 2", "examine egg 1"):
        observation, _, _ = engine.step(command)
    assert observation == "This is a sliced egg 1."
    engine.step("go to fridge 1")
    assert "move egg 1 to fridge 1" not in engine.admissible
    engine.step("cool egg 1 with fridge 1")
    assert engine.step("examine egg 1")[0] == "This is a cool sliced egg 1."


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.replace("(:goal", "(:gaol"), "no '(:goal ...)'"),
        (lambda p: p[: p.index("(holds")], "goal cannot be read"),
        (lambda p: p.replace("(atLocation agent1 loc_bar_0)", ""), "0 'atlocation' facts"),
        (lambda p: p.replace("(holds agent1", "(loves agent1"), "'loves'"),
        (lambda p: p.replace("(holds agent1", "(holds"), "names 1 things instead of 2"),
    ],
)
def test_damaged_problems_name_the_game_and_the_place(change: Any, words: str) -> None:
    game = kitchen()
    damaged = Game(game.id, game.task, change(game.pddl_problem), (), "x")
    with pytest.raises(DataError, match=r"valid_seen/x-Egg-None-Shelf-1/t") as caught:
        FastEngine().reset(damaged)
    assert words in str(caught.value)


@pytest.mark.parametrize("change", [r"(\1)", r"(\1 \2 \2)"])
def test_facts_of_too_few_or_many_places_are_damage(change: str) -> None:
    """Each in turn: the game is refused, or the fact decides nothing and it plays."""
    game, refused = kitchen(), set()
    for found in re.finditer(r"\(([^():]+) (\S+)\)", game.pddl_problem):
        text = game.pddl_problem
        text = text[: found.start()] + found.expand(change) + text[found.end() :]
        try:
            FastEngine().reset(Game(game.id, game.task, text, (), "x"))
        except DataError:
            refused.add(found[1].split()[0].lower())
    assert {"receptacleatlocation", "inreceptacle", "openable", "cancontain"} <= refused

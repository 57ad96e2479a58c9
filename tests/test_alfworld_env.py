"""``ALFWorldEnv``: Gymnasium's contract, info keys, aliases, data places, bad options."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from harness_envs.alfworld import ALFWorldEnv, builtin
from harness_envs.alfworld.env import translate
from harness_envs.alfworld.tasksets import held_out_folders

from harness.errors import ConfigError, DataError, EnvError

TASK = builtin.ids("valid_seen")[20]


def play(env: ALFWorldEnv, seed: int, steps: int = 25) -> list[Any]:
    """An episode of random admissible actions, as plain data."""
    observation, info = env.reset(seed=seed)
    record: list[Any] = [info["task_id"], observation, info["admissible_actions"]]
    rng = random.Random(seed)
    for _ in range(steps):
        action = rng.choice(info["admissible_actions"])
        observation, reward, terminated, truncated, info = env.step(action)
        record.append([action, observation, reward, terminated, truncated, info])
    return record


def test_gymnasiums_checker_is_content() -> None:
    check_env(ALFWorldEnv(), skip_render_check=True)


def apart(makers: Any) -> gymnasium.vector.AsyncVectorEnv:
    """Each in a process of its own; text of any length has no place in shared memory."""
    return gymnasium.vector.AsyncVectorEnv(makers, shared_memory=False)


@pytest.mark.parametrize("kind", [gymnasium.vector.SyncVectorEnv, apart])
def test_vector_environments_play_as_single_ones_do(kind: Any) -> None:
    envs = kind([ALFWorldEnv, ALFWorldEnv])
    singles = [ALFWorldEnv(), ALFWorldEnv()]
    observations, _ = envs.reset(seed=[3, 4])
    assert list(observations) == [
        env.reset(seed=seed)[0] for env, seed in zip(singles, (3, 4), strict=True)
    ]
    for action in ("look", "inventory", "go to nowhere 1"):
        observations, rewards, *_ = envs.step([action, action])
        assert list(observations) == [env.step(action)[0] for env in singles]
        assert list(rewards) == [0.0, 0.0]
    envs.close()


def test_one_seed_is_one_episode_in_another_process_too() -> None:
    code = (
        "import json; from test_alfworld_env import play, ALFWorldEnv; "
        "print(json.dumps([play(ALFWorldEnv(), seed) for seed in (5, 6)]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        cwd=Path(__file__).resolve().parent,
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
    )
    here = [play(ALFWorldEnv(), seed) for seed in (5, 6)]
    assert json.loads(run.stdout) == json.loads(json.dumps(here))
    assert here[0] != here[1]


def test_info_tells_the_task_and_the_state() -> None:
    env = ALFWorldEnv(reveal=True)
    observation, info = env.reset(options={"task_id": TASK})
    game = builtin.game(TASK)
    assert observation.endswith(f"\n\nYour task is to: {game.task}")
    assert (info["instruction"], info["task_type"], info["grammar"]) == (
        game.task,
        game.task_type,
        "move",
    )
    assert info["solution"] == list(env.solution()) == list(game.walkthrough)
    for action in game.walkthrough:
        assert not info["success"]
        assert action in info["admissible_actions"]
        _, reward, terminated, truncated, info = env.step(f" {action}\n")
        assert (info["invalid_action"], truncated) == (False, False)
    assert (reward, terminated, info["success"], info["score"]) == (1.0, True, True, 1.0)
    observation, reward, terminated, _, info = env.step("dance")
    assert (observation, info["invalid_action"]) == ("Nothing happens.", True)
    assert (reward, terminated) == (1.0, True)


def test_trials_of_one_task_folder_are_a_group_apart_from_the_other_data() -> None:
    folder, _, trial = TASK.rpartition("/")
    assert ALFWorldEnv.group(TASK) == ALFWorldEnv.group(f"{folder}/{trial}9")
    assert ALFWorldEnv.group(f"{folder}/trial_T20190909_081908_677973") == folder
    assert ALFWorldEnv.group(TASK) != folder
    name = "pick_and_place_simple-Mug-None-Desk-301/trial_T20190909_081908_677973"
    train, again, seen = (
        ALFWorldEnv.group(f"{split}/{name}") for split in ("train", "valid_train", "valid_seen")
    )
    assert train == again != seen


@pytest.mark.data
def test_games_of_valid_train_are_of_trains_groups(data: Path) -> None:
    official = ALFWorldEnv(data=data / "alfworld")
    train = {ALFWorldEnv.group(id_) for id_ in official.task_ids("train")}
    again = {ALFWorldEnv.group(id_) for id_ in official.task_ids("valid_train")}
    assert again <= train
    assert all(group.startswith("train/") for group in train)
    assert again & held_out_folders("holdout-1000")


def test_the_list_of_actions_is_the_readers_own() -> None:
    env = ALFWorldEnv()
    _, info = env.reset(options={"task_id": TASK})
    info["admissible_actions"].clear()
    assert env.step("look")[4]["admissible_actions"]


def test_options_choose_the_task() -> None:
    env = ALFWorldEnv()
    ids = env.task_ids("valid")
    assert len(ids) == len(env.task_ids("valid_seen")) + len(env.task_ids("valid_unseen")) == 274
    for index in (0, 273):
        _, info = env.reset(options={"split": "valid", "index": index})
        assert info["task_id"] == ids[index]
    drawn = {env.reset(seed=seed)[1]["task_id"] for seed in range(20)}
    assert drawn <= set(env.task_ids("valid_seen"))
    assert len(drawn) > 10


@pytest.mark.parametrize("words", ["in/on", "in", "on", "into"])
def test_aliases_are_executed_in_the_games_own_words(words: str) -> None:
    for id_ in builtin.ids("valid_seen"):
        if builtin.game(id_).walkthrough[-1].startswith("move "):
            break
    env, strict = ALFWorldEnv(aliases=True), ALFWorldEnv()
    for each in (env, strict):
        each.reset(options={"task_id": id_})
    *way, last = builtin.game(id_).walkthrough
    for action in way:
        info = env.step(action)[4]
        assert strict.step(action)[4] == info
        assert "executed" not in info
    other = last.replace("move ", "put ").replace(" to ", f" {words} ")
    observation, reward, _, _, info = strict.step(other)
    assert (observation, reward, info["invalid_action"]) == ("Nothing happens.", 0.0, True)
    observation, reward, _, _, info = env.step(other)
    assert (reward, info["executed"], info["invalid_action"]) == (1.0, last, False)
    assert observation.startswith("You move the ")
    info = env.step(f"put mug 9 {words} desk 9")[4]  # what came of it does not decide
    assert (info["executed"], info["invalid_action"]) == ("move mug 9 to desk 9", True)


def test_translation_touches_only_putting_down() -> None:
    assert translate("put pan 1 in/on stoveburner 2", "move") == "move pan 1 to stoveburner 2"
    assert translate("move pan 1 to stoveburner 2", "put") == "put pan 1 in/on stoveburner 2"
    assert translate("put pan 1 on stoveburner 2", "put") == "put pan 1 in/on stoveburner 2"
    for other in ("take pan 1 from stoveburner 2", "put pan 1", "go to desk 1", "", "move"):
        assert translate(other, "put") == other


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'fast'"):
        ALFWorldEnv(engine="fasst")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"alias"):
        ALFWorldEnv(alias=True)  # type: ignore[call-arg]
    env = ALFWorldEnv()
    with pytest.raises(EnvError, match=r"before reset"):
        env.step("look")
    with pytest.raises(EnvError, match=r"before reset"):
        env.solution()
    with pytest.raises(ConfigError, match=r"valid_seen"):
        env.reset(options={"split": "valid_sen"})
    with pytest.raises(ConfigError):
        env.reset(options={"task_id": "valid_seen/no-such-task/here"})


def test_official_data_are_found_by_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = builtin.game(TASK)
    folder = tmp_path / "alfworld"
    folder.mkdir()
    row = {"id": TASK, "task": game.task, "pddl_problem": game.pddl_problem, "walkthrough": []}
    (folder / "valid_seen.jsonl").write_text(json.dumps(row))
    env = ALFWorldEnv(data="official")
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    with pytest.raises(DataError, match=r"harness fetch alfworld"):
        env.reset(seed=0)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert env.reset(seed=0)[1]["task_id"] == TASK
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match=r"elsewhere"):
        env.reset(seed=0)


def test_official_tasks_without_their_data_say_where_to_name_them() -> None:
    env, task_set = ALFWorldEnv(), ALFWorldEnv.task_sets()["alfworld/seen-140"]()
    for ask in (lambda i: env.content_hash(i), lambda i: env.reset(options={"task_id": i})):
        with pytest.raises(DataError, match=r"--data FOLDER.*\n.*harness fetch alfworld"):
            ask(task_set.tasks[0].id)


@pytest.mark.data
def test_real_games_have_their_sets_content_and_are_won_by_their_walkthroughs(data: Path) -> None:
    env = ALFWorldEnv(data=data / "alfworld")
    task_set = ALFWorldEnv.task_sets()["alfworld/seen-140"]()
    for task, content in zip(task_set.tasks, task_set.content, strict=True):
        assert env.content_hash(task.id) == content
        _, info = env.reset(options={"task_id": task.id})
        for action in env.solution():
            _, _, _, _, info = env.step(action)
        assert info["success"]


def test_strange_actions_are_answered() -> None:
    env = ALFWorldEnv(aliases=True)
    env.reset(options={"task_id": TASK})
    for action in ("", "\x00\x1b[2J", "\ud800", "put " * 50_000, "x" * 1_000_000, "move  to "):
        observation, _, _, _, info = env.step(action)
        assert (observation, info["invalid_action"]) == ("Nothing happens.", True)


def test_importing_is_light() -> None:
    code = (
        "import sys, harness_envs.alfworld; "
        "print([m for m in ('torch', 'textworld', 'alfworld', 'tatsu') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("[]\n", "")

"""Traces that a recipe asks for: by whom they were recorded, and what of them broke."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from broken import break_episode
from distill_traces import recipe
from harness_agents import checkpoints
from harness_distillation import cli, recordings
from harness_distillation.recipe import Collect

from harness.errors import DataError
from harness.export import export
from harness.runs import Run, find_runs, read_meta, write_meta

pytestmark = pytest.mark.models
CONFIG = """
policy = "react"
[options]
checkpoint = "package:token-tiny"
max_new_tokens = {tokens}
"""


def agent(folder: Path, tokens: int = 4, more: str = "") -> Collect:
    path = folder / "mine.toml"
    path.write_text(CONFIG.format(tokens=tokens) + more)
    return Collect(agent=str(path), env="alfworld", tasks="builtin-train[:2]", max_steps=2)


def collect(what: Collect, folder: Path, again: bool = False) -> Path:
    [run] = recordings.collect_all([what], folder / "traces", True, again)
    return run


def test_a_recording_by_another_config_of_the_agent_is_made_anew(tmp_path):
    first = collect(agent(tmp_path), tmp_path)
    write_meta(first, msgspec.structs.replace(read_meta(first), status="running"))
    second = collect(agent(tmp_path, tokens=6), tmp_path)  # one that was stopped neither goes on
    assert second != first
    assert [len(list(Run(run).episodes())) for run in (first, second)] == [2, 2]
    # How fast it answers, and from where, makes no other agent of it.
    assert collect(agent(tmp_path, tokens=6, more="batch_size = 1\n"), tmp_path) == second
    away = tmp_path / "weights"
    shutil.copytree(checkpoints.shipped()["token-tiny"], away)
    what = agent(tmp_path, tokens=6)
    config = Path(what.agent)
    config.write_text(config.read_text().replace("package:token-tiny", str(away)))
    assert collect(what, tmp_path) == second
    assert collect(agent(tmp_path), tmp_path) == first  # which goes on


def test_a_recording_of_another_version_of_the_environment_is_made_anew(tmp_path):
    what = agent(tmp_path)
    first = collect(what, tmp_path)
    assert collect(what, tmp_path) == first
    write_meta(first, msgspec.structs.replace(read_meta(first), env_version="0"))
    assert collect(what, tmp_path) != first


def test_a_recording_that_came_without_paths_stays(tmp_path):
    """As a campaign takes it along, of an agent that may not be here."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "alfworld.txt").write_text("Task: {instruction}\n")
    what = agent(tmp_path, more=f'prompt = "{texts}"\n')
    run = collect(what, tmp_path)
    here = tmp_path / "here" / run.relative_to(tmp_path)
    export(Run(run), here.parents[2], without_words=True)
    assert read_meta(here).agent.options["prompt"] == "texts"
    assert collect(what, tmp_path / "here") == here
    Path(what.agent).unlink()
    assert collect(what, tmp_path / "here") == here


def test_data_that_are_missing_are_told_before_anything_is_played(tmp_path, monkeypatch):
    for variable in ("HARNESS_DATA", "ALFWORLD_DATA"):
        monkeypatch.delenv(variable, raising=False)
    here = agent(tmp_path)
    gone = msgspec.structs.replace(here, tasks="dev-200", env_options={"data": "official"})
    with pytest.raises(DataError, match="ALFWORLD_DATA"):
        recordings.collect_all([here, gone], tmp_path / "traces", True)
    assert not find_runs(tmp_path / "traces")


def test_episodes_that_broke_are_played_once_more(tmp_path, capsys):
    """An agent without a prompt for this environment: every episode breaks, until it has one."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "webshop.txt").write_text("Shop: {instruction}\n")
    what = agent(tmp_path, more=f'prompt = "{texts}"\n')
    run = collect(what, tmp_path)
    assert Run(run).summary.errors == 2
    assert len((run / "episodes.errors.jsonl").read_bytes().splitlines()) == 2  # the first time
    recordings.collect_all([what], tmp_path / "traces", quiet=False)
    told = capsys.readouterr().err
    assert "2 of 2 episodes broke, of which nothing is learned: AgentError" in told
    assert f"harness run --resume {run} --retry-errors" in told
    (texts / "alfworld.txt").write_text("Task: {instruction}\n")  # mended
    assert Run(collect(what, tmp_path)).summary.errors == 2  # others may have learned from it
    assert collect(what, tmp_path, again=True) == run
    assert Run(run).summary.errors == 0
    break_episode(run)
    write_meta(run, msgspec.structs.replace(read_meta(run), status="running"))
    assert Run(collect(what, tmp_path)).summary.errors == 0  # it was stopped: nothing learned yet


def test_a_student_has_its_own_recording_whole_before_it_begins(tmp_path):
    more = '[[data.collect]]\nagent = "expert"\nenv = "alfworld"\ntasks = "builtin-train[:6]"\n'
    command = [str(recipe(tmp_path, more, steps=1)), "--out", str(tmp_path / "out"), "--quiet"]
    assert cli.main([*command, "--stage", "collect"]) == 0
    [root] = (p for p in (tmp_path / "out" / "training" / "traces").iterdir() if p.is_dir())
    [run] = find_runs(root)
    break_episode(run.path)
    assert cli.main([*command, "--stage", "prepare"]) == 0
    assert Run(run.path).summary.errors == 0

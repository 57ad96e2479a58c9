"""What weights were trained on is recorded with them and told beside what they won."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distill_traces import recipe, record
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import harness
from harness import comparison_text, leaderboard, pages, registry, view
from harness.cli import app
from harness.comparison import compare
from harness.comparison_page import comparison_page
from harness.overlap import Overlap, TrainedOn, overlap
from harness.rows import group
from harness.runs import Run, find_runs
from harness.types import Task

TRAIN = "builtin-train[12:24]"
#: A part of it and what follows; tasks of other rooms.
MET, NEW = "builtin-train[16:26]", "builtin-valid[:4]"


def tasks(name: str, env: str = "alfworld") -> list[tuple[str, str]]:
    return [(env, task.id) for task in registry.task_set(env, name).tasks]


# The record -----------------------------------------------------------------------------------

ids = st.lists(st.integers(0, 30), max_size=12)


@given(ids, ids, ids)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_sets(
    one: list[int], other: list[int], evaluated: list[int]
) -> None:
    def named(numbers: list[int]) -> list[str]:
        return [f"train/look-{n % 7}/trial_{n}" for n in numbers]

    both = TrainedOn.of(("alfworld", i) for i in named(one + other))
    chained = TrainedOn.of(("alfworld", i) for i in named(one)).after(
        TrainedOn.of(("alfworld", i) for i in named(other))
    )
    assert chained.hashes("alfworld") == both.hashes("alfworld")
    again = msgspec.json.decode(msgspec.json.encode(both), type=TrainedOn)
    found = overlap(again, "alfworld", [Task("alfworld", "train", i) for i in named(evaluated)])
    wanted = {n % 7 for n in evaluated}
    assert found == Overlap(len(wanted & {n % 7 for n in one + other}), len(wanted))
    assert found.flagged == bool(found.groups)


def test_other_environments_are_not_met() -> None:
    learned = TrainedOn.of(tasks(TRAIN))
    shop = registry.task_set("webshop", "builtin-dev[:5]")
    assert not overlap(learned, "webshop", shop.tasks).flagged


def test_imported_episodes_of_unknown_tasks_may_be_of_any_set() -> None:
    learned = TrainedOn.of([("hotpotqa", "imported/a"), *tasks(TRAIN)])
    questions = registry.task_set("hotpotqa", "builtin-dev[:5]")
    found = overlap(learned, "hotpotqa", questions.tasks)
    assert (found.groups, found.unknown, found.flagged) == (0, True, True)
    assert "may be of it" in found.told()
    assert not overlap(learned, "alfworld", registry.task_set("alfworld", NEW).tasks).unknown


def test_thousands_of_groups_stay_small() -> None:
    learned = TrainedOn.of(tasks("builtin-train", "webshop"))
    groups = {group(*task) for task in tasks("builtin-train", "webshop")}
    assert len(learned.hashes("webshop")) == len(groups)
    assert len(msgspec.json.encode(learned)) < 12 * len(groups) + 100


def test_who_repeats_training_episodes_is_told(tmp_path: Path) -> None:
    """Also an agent without weights: the nearest training episode."""
    run = harness.evaluate("expert", "alfworld", tasks=TRAIN, out=tmp_path)
    config = harness.config.AgentConfig("nearest", "nearest", options={"traces": str(run.path)})
    found = harness.evaluate(config, "alfworld", tasks=MET, max_steps=2, out=tmp_path).meta.overlap
    assert found is not None
    met = {group(*t) for t in tasks(MET)}
    assert (found.groups, found.of) == (len(met & {group(*t) for t in tasks(TRAIN)}), len(met))
    assert run.meta.overlap is None


# Students -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(tmp_path_factory: Any) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def episodes(out: Path) -> Run:
    return harness.evaluate("expert", "alfworld", tasks=TRAIN, out=out / "c", kind="collect")


def student(folder: Path, run: Path, more: str = "", **how: Any) -> Path:
    from harness_distillation import cli

    folder.mkdir(exist_ok=True)
    path = recipe(folder, more, steps=2, **how)
    made = folder / "student"
    assert cli.main([str(path), "--data", str(run), "--out", str(made), "--quiet"]) == 0
    return made


@pytest.fixture(scope="module")
def trained(out: Path, episodes: Run) -> Path:
    pytest.importorskip("torch")
    return student(out / "one", episodes.path)


def learned(folder: Path) -> TrainedOn:
    notes = json.loads((folder / "harness.json").read_text(encoding="utf-8"))
    return msgspec.convert(notes["trained_on"], TrainedOn)


def taught(run: Run) -> set[str]:
    """Groups of the episodes that train, held-out ones aside."""
    from harness_distillation import traces

    found = traces.load([str(run.path)])
    learn, held = traces.split_heldout(found.episodes, 0.1, 0)
    assert held
    return {group("alfworld", found.episodes[i].task.id) for i in learn}


@pytest.fixture(scope="module")
def board(out: Path, trained: Path) -> dict[str, dict[str, Run]]:
    """Runs by task set and agent: the student and another one on tasks met and new."""
    for name in (MET, NEW):
        for agent in (str(trained), "random"):
            harness.evaluate(agent, "alfworld", tasks=name, max_steps=2, out=out / "r")
    found: dict[str, dict[str, Run]] = {MET: {}, NEW: {}}
    for run in find_runs(out / "r"):
        if run.meta.kind == "run":
            name = MET if "train" in run.meta.task_set.name else NEW
            found[name][run.meta.agent.name] = run
    return found


@pytest.mark.models
def test_a_run_counts_the_groups_that_were_trained_on(board: Any, episodes: Run) -> None:
    evaluated = {group(*task) for task in tasks(MET)}
    met = board[MET]["student"].meta.overlap
    assert met == Overlap(len(evaluated & taught(episodes)), len(evaluated))
    assert 0 < met.groups < met.of
    new = board[NEW]["student"].meta.overlap
    assert new == Overlap(0, len({group(*task) for task in tasks(NEW)}))
    assert board[MET]["random"].meta.overlap is None


@pytest.mark.models
def test_a_leaderboard_tells_it(board: Any, out: Path, tmp_path: Path) -> None:
    met = board[MET]["student"].meta.overlap
    said = f"student: trained on {met.groups} of the {met.of} groups of this set."
    found = {b.task_set: b for b in leaderboard.boards(find_runs(out / "r"))}
    assert len(found) == 2
    for name, one in found.items():
        flagged = "train" in name
        page = pages.leaderboard_page([one])
        text = leaderboard.markdown([one])
        for where in (page, text):
            assert (said in where) == flagged
            assert ("student †" in where) == flagged
            assert "random †" not in where
        rows = {row["agent"]: row for row in json.loads(leaderboard.to_json([one]))[0]["rows"]}
        assert (rows["student"]["overlap"]["groups"] > 0) == flagged
        assert rows["random"]["overlap"] is None
    shown = CliRunner().invoke(app, ["leaderboard", "--out", str(out / "r")]).stdout
    assert shown.count("†") == 2
    assert " ".join(said.split()[:4]) in shown


@pytest.mark.models
def test_tables_tell_what_a_student_learned_of_each_class(
    board: Any, out: Path, trained: Path
) -> None:
    ratio = json.loads((trained / "harness.json").read_text(encoding="utf-8"))["reason_to_act"]
    assert board[MET]["student"].meta.policy["reason_to_act"] == ratio > 0
    for one in leaderboard.boards(find_runs(out / "r")):
        rows = {row["agent"]: row for row in json.loads(leaderboard.to_json([one]))[0]["rows"]}
        assert (rows["student"]["reason_to_act"], rows["random"]["reason_to_act"]) == (ratio, None)
        for where in (pages.leaderboard_page([one]), leaderboard.markdown([one])):
            assert f"(N_r : N_a): student {ratio:.2f}." in where
    for sides in (("student", "random"), ("random", "student")):
        found = compare(*(board[NEW][side] for side in sides), draws=200)
        for where in (comparison_page([found]), comparison_text.markdown([found])):
            assert f"(N_r : N_a): student {ratio:.2f}." in where


@pytest.mark.models
def test_a_comparison_tells_it(board: Any) -> None:
    for name, flagged in ((MET, True), (NEW, False)):
        runs = board[name]
        for sides in (("student", "random"), ("random", "student")):
            found = compare(*(runs[side] for side in sides), draws=200)
            told = " ".join(comparison_text.sentences(found))
            for where in (told, comparison_page([found]), comparison_text.markdown([found])):
                assert ("student was trained on" in where) == flagged
                assert "random was trained" not in where
            raw = json.loads(comparison_text.to_json([found]))[0]
            mine = raw["overlap_a" if sides[0] == "student" else "overlap_b"]
            assert (mine["groups"] > 0) == flagged


@pytest.mark.models
def test_several_seeds_tell_the_one_that_met_most(board: Any, tmp_path: Path) -> None:
    run = board[MET]["student"]
    other = tmp_path / "other"
    shutil.copytree(run.path, other)
    policy = {**run.meta.policy, "weights_sha256": "0" * 64}  # as of another training
    meta = msgspec.structs.replace(run.meta, overlap=Overlap(0, 8), policy=policy)
    harness.runs.write_meta(other, msgspec.structs.replace(meta, metrics_hash=None))
    found = compare([Run(other), run], board[MET]["random"], draws=200)
    assert found.overlap_a == run.meta.overlap


@pytest.mark.models
def test_who_looks_at_a_run_is_told_either_way(board: Any, tmp_path: Path) -> None:
    new, other = board[NEW]["student"], board[NEW]["random"]
    (said,) = view.trained([new, other])
    assert said == f"student: trained on 0 of the {new.meta.overlap.of} groups of this set."
    assert said in pages.episodes_page([new])
    older = tmp_path / "older"
    shutil.copytree(new.path, older)
    harness.runs.write_meta(older, msgspec.structs.replace(new.meta, overlap=None))
    assert "is not recorded" in view.trained([Run(older)])[0]
    shown = CliRunner().invoke(app, ["view", str(older)]).stdout
    assert "which tasks its weights were trained on is not recorded" in " ".join(shown.split())


@pytest.mark.models
def test_a_student_has_what_its_start_learned(out: Path, trained: Path, episodes: Run) -> None:
    later = harness.evaluate(
        "expert", "alfworld", tasks="builtin-train[40:48]", out=out / "d", kind="collect"
    )
    start = f'start = "{trained}"'
    both = learned(student(out / "two", later.path, student=start))
    own = TrainedOn.of(("alfworld", e.task.id) for e in episodes.episodes())
    assert learned(trained).hashes("alfworld") < both.hashes("alfworld")
    assert both.whole
    assert len(learned(trained).hashes("alfworld")) < len(own.hashes("alfworld"))  # held out

    older = out / "older"
    shutil.copytree(trained, older)
    notes = json.loads((older / "harness.json").read_text(encoding="utf-8"))
    del notes["trained_on"]
    (older / "harness.json").write_text(json.dumps(notes), encoding="utf-8")
    found = learned(student(out / "three", later.path, student=f'start = "{older}"'))
    assert not found.whole
    assert found.hashes("alfworld") == both.hashes("alfworld") - (
        learned(trained).hashes("alfworld") - found.hashes("alfworld")
    )
    played = harness.evaluate(str(out / "three" / "student"), "alfworld", tasks=NEW, max_steps=1,
                              out=out / "o").meta  # fmt: skip
    assert not played.overlap.flagged
    assert "it went on from is not recorded" in view.trained(find_runs(out / "o"))[0]


@pytest.mark.models
def test_shipped_weights_do_not_tell_and_are_no_noise(tmp_path: Path) -> None:
    run = harness.evaluate("ours-tiny", "alfworld", tasks="builtin-valid[:2]", max_steps=1,
                           out=tmp_path)  # fmt: skip
    assert run.meta.overlap is None
    (one,) = leaderboard.boards([run])
    assert [told for told in leaderboard.footnotes(one) if "N_r : N_a" not in told] == []
    assert "not recorded" not in leaderboard.markdown([one]) + pages.leaderboard_page([one])
    assert "not recorded" in view.trained([run])[0]


@pytest.mark.models
def test_on_policy_training_tells_the_tasks_of_its_rounds(trained: Path, tmp_path: Path) -> None:
    from harness_distillation import cli
    from harness_distillation import recipe as recipes
    from harness_distillation.gkd import played_tasks

    more = f"""
[teacher]
checkpoint = "{trained}"
signal = "live"
[objective]
name = "gkd"
[on_policy]
env = "alfworld"
tasks = "builtin-train[28:32]"
rounds = 2
episodes = 2
max_steps = 1
"""
    path = recipe(tmp_path, more, steps=2, student=f'start = "{trained}"')
    text = path.read_text(encoding="utf-8").replace("[tokenizer]\nvocab = 400\n", "")
    path.write_text(text, encoding="utf-8")
    assert cli.main([str(path), "--out", str(tmp_path / "s"), "--quiet"]) == 0
    play = recipes.load(str(path)).on_policy
    assert play is not None
    mine = TrainedOn.of(played_tasks(play, 0))
    assert len(mine.hashes("alfworld")) > 1
    assert learned(tmp_path / "s").keys == mine.after(learned(trained)).keys
    runs = find_runs(tmp_path / "s" / "training" / "rounds" / "000")
    assert {e.task.id for r in runs for e in r.episodes()} <= {i for _, i in played_tasks(play, 0)}


@pytest.mark.models
def test_an_export_keeps_the_record(trained: Path, tmp_path: Path) -> None:
    from harness_distillation import checkpoint

    checkpoint.export(trained, tmp_path / "shipped")
    assert learned(tmp_path / "shipped") == learned(trained)


@pytest.mark.models
def test_imported_text_marks_its_student(tmp_path: Path) -> None:
    path = record(tmp_path / "run" / "episodes.jsonl", 20)
    lines = path.read_text(encoding="utf-8").replace('"id":"train/toy-', '"id":"imported/')
    path.write_text(lines, encoding="utf-8")
    found = learned(student(tmp_path / "s", path.parent))
    assert found.unknown == ("alfworld",)

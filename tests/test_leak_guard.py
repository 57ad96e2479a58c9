"""Training refuses what belongs to an evaluated set, in all three environments, end to end."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import episode, recipe
from harness_agents import checkpoints
from harness_distillation import cli, models, traces
from harness_envs.hotpotqa.data import gold_pages, pages_hash
from harness_envs.hotpotqa.env import HotPotQAEnv
from harness_envs.hotpotqa.make_sets import with_gold
from harness_envs.webshop.tasksets import official_goals

from harness import registry
from harness.errors import DataError
from harness.rows import group, keys
from harness.types import Task

pytestmark = pytest.mark.models


def run_of(folder: Path, env: str, ids: list[str]) -> Path:
    """A recorded run of won episodes of these tasks."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        msgspec.json.encode(
            msgspec.structs.replace(episode(i), task=Task(env, id_.split("/")[0], id_))
        )
        for i, id_ in enumerate(ids)
    ]
    (folder / "episodes.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return folder


def prepared(folder: Path, env: str, ids: list[str], *exclude: str) -> int:
    """``harness distill`` up to its samples, of these tasks, with sets held out."""
    run = run_of(folder / "run", env, ids)
    path = recipe(folder)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[data]\n", f"[data]\nexclude = {json.dumps(exclude)}\n"))
    given = [str(path), "--data", str(run), "--out", str(folder / "s"), "--stage", "prepare"]
    return cli.main([*given, "--quiet", "--fresh"])


def leaks(folder: Path, env: str, ids: list[str], *exclude: str) -> str:
    with pytest.raises(DataError, match="which is held out") as caught:
        prepared(folder, env, ids, *exclude)
    return str(caught.value)


def some(name: str, env: str, count: int = 6) -> list[str]:
    return [task.id for task in registry.task_set(env, f"{name}[:{count}]").tasks]


# WebShop: the product ---------------------------------------------------------------------------


def test_a_product_that_is_asked_for_is_not_trained_on(tmp_path: Path) -> None:
    rest = some("small-rest", "webshop")
    assert prepared(tmp_path, "webshop", rest, "webshop/small-500") == 0
    goals = official_goals()
    asked = {goals[id_][0] for id_ in some("small-500", "webshop", 500)}
    # Another goal of such a product, which is itself in no evaluated set.
    other = next(
        id_
        for id_, (asin, _) in goals.items()
        if asin in asked and id_.startswith("synthetic/") and int(id_.split("/")[1]) >= 500
    )
    told = leaks(tmp_path, "webshop", [*rest, other], "webshop/small-500")
    assert told.startswith("1 training groups belong to 'webshop/small-500'")
    assert f"(first: {other})" in told
    human = next(id_ for id_, (asin, _) in goals.items() if asin in asked and id_[0] == "h")
    assert human in leaks(tmp_path, "webshop", [*rest, human], "webshop/small-500")


def test_a_built_in_product_of_a_valid_goal_is_not_trained_on(tmp_path: Path) -> None:
    train = some("builtin-train", "webshop")
    assert prepared(tmp_path, "webshop", train, "webshop/builtin-valid") == 0
    asked = registry.task_set("webshop", "builtin-valid").tasks[3].id
    sibling = f"{asked.rpartition('-')[0]}-99"
    assert sibling in leaks(tmp_path, "webshop", [*train, sibling], "webshop/builtin-valid")


# HotPotQA: the question, and the pages that answer it -------------------------------------------


def test_built_in_questions_about_the_same_entities_are_not_trained_on(tmp_path: Path) -> None:
    train = some("builtin-train", "hotpotqa")
    assert prepared(tmp_path, "hotpotqa", train, "hotpotqa/builtin-valid") == 0
    asked = some("builtin-valid", "hotpotqa", 1)
    assert asked[0] in leaks(tmp_path, "hotpotqa", [*train, *asked], "hotpotqa/builtin-valid")


#: Two questions over the same pages, one of them told by other facts; one over one of these pages.
OWN = [
    ("aa", "train", [("Loire", 0), ("Nantes", 1)]),
    ("bb", "dev", [("Nantes", 0), ("Loire", 2), ("Loire", 3)]),
    ("cc", "train", [("Loire", 0), ("Angers", 0)]),
]


@pytest.fixture
def official(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder of questions in the official form, named as such folders are."""
    folder = tmp_path / "official"
    folder.mkdir()
    for split in ("train", "dev"):
        rows = [
            {"_id": name, "question": f"{name}?", "answer": "x", "supporting_facts": facts}
            for name, where, facts in OWN
            if where == split
        ]
        body = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(body.encode()))
    monkeypatch.setenv("HOTPOTQA_DATA", str(folder))
    return folder


def test_a_question_over_the_same_pages_is_not_trained_on(tmp_path: Path, official: Path) -> None:
    ids = [f"train/other{i}" for i in range(6)]
    assert prepared(tmp_path, "hotpotqa", [*ids, "train/cc"], "hotpotqa:dev/bb") == 0
    told = leaks(tmp_path, "hotpotqa", [*ids, "train/aa"], "hotpotqa:dev/bb")
    assert "(first: train/aa)" in told
    assert "dev/bb" in leaks(tmp_path, "hotpotqa", [*ids, "dev/bb"], "hotpotqa:dev/bb")
    # Intervals stay clustered by question.
    assert group("hotpotqa", "train/aa") != group("hotpotqa", "dev/bb")
    assert set(keys("hotpotqa", "train/aa")) & set(keys("hotpotqa", "dev/bb"))


def test_without_the_files_the_question_alone_is_known(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.delenv("HOTPOTQA_DATA", raising=False)
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    assert keys("hotpotqa", "train/aa") == ("hotpotqa:train/aa",)
    known = registry.task_set("hotpotqa", "dev-context").tasks
    assert all(len(keys("hotpotqa", task.id)) == 2 for task in known)


@pytest.mark.data
def test_official_questions(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Of the train questions at hand one is over the pages of a dev-context question."""
    monkeypatch.setenv("HOTPOTQA_DATA", str(data / "hotpotqa"))
    env = HotPotQAEnv(data=data / "hotpotqa")
    evaluated = traces.excluded_keys("hotpotqa/dev-context")
    train = list(env.questions.tasks("train"))
    met = [id_ for id_ in train if not evaluated.isdisjoint(keys("hotpotqa", id_))]
    assert len(met) == 1
    asked_for = with_gold(data / "hotpotqa")
    questions = env.questions.tasks("dev").values()
    asked = {pages_hash(q) for q in questions if q.question in asked_for}
    assert gold_pages(met[0]) in asked
    fine = [id_ for id_ in train[:8] if id_ not in met]
    assert prepared(tmp_path, "hotpotqa", fine, "hotpotqa/dev-context") == 0
    told = leaks(tmp_path, "hotpotqa", [*fine, *met], "hotpotqa/dev-context")
    assert met[0] in told


# What a student starts from --------------------------------------------------------------------


def started(folder: Path, start: str, more: str = "", exclude: tuple[str, ...] = ()) -> Path:
    """A student of two steps on other tasks that starts from a model's weights."""
    others = registry.task_set("alfworld", "builtin-train[40:60]").tasks
    run = run_of(folder / "run", "alfworld", [task.id for task in others])
    path = recipe(folder, more, steps=2, student=f"start = '{start}'")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("[data]\n", f"[data]\nexclude = {json.dumps(exclude)}\n"))
    given = [str(path), "--data", str(run), "--out", str(folder / "s"), "--quiet", "--fresh"]
    assert cli.main(given) == 0
    return folder / "s"


@pytest.fixture(scope="module")
def start(tmp_path_factory: Any) -> Path:
    """A model that has learned from tasks that a later one is to be measured on."""
    folder = tmp_path_factory.mktemp("start")
    run = run_of(folder / "run", "alfworld", some("builtin-valid", "alfworld", 8))
    path = recipe(folder, steps=1)
    path.write_text(path.read_text(encoding="utf-8").replace("heldout = 0.1", "heldout = 0.0"))
    given = [str(path), "--data", str(run), "--out", str(folder / "model"), "--quiet"]
    assert cli.main(given) == 0
    return folder / "model"


DEV = "[dev]\nenv = 'alfworld'\ntasks = '{}'\nevery = 2\nmax_steps = 2\n"


def test_a_start_that_learned_what_is_held_out_is_refused(tmp_path: Path, start: Path) -> None:
    first = min(some("builtin-valid", "alfworld", 8))
    groups = len({group("alfworld", id_) for id_ in some("builtin-valid", "alfworld", 8)})
    told = rf"start {start} was trained on {groups} groups of 'alfworld/builtin-valid'"
    with pytest.raises(DataError, match=told + rf", which is held out \(first: {first}\)"):
        started(tmp_path, str(start), exclude=("alfworld/builtin-valid",))
    with pytest.raises(DataError, match=rf"start {start} .*(?s:.*)out of \[data\] exclude"):
        started(tmp_path, str(start), exclude=(f"alfworld:{first}",))
    with pytest.raises(DataError, match=rf"start {start} .*(?s:.*)out of \[dev\]\."):
        started(tmp_path, str(start), DEV.format("builtin-valid[2:4]"))
    assert not (tmp_path / "s" / "training" / "data").exists()
    # Its own student has learned it too.
    heir = started(tmp_path / "heir", str(start), exclude=("alfworld/builtin-dev",))
    with pytest.raises(DataError, match=rf"start {heir} was trained on {groups} groups"):
        started(tmp_path, str(heir), exclude=("alfworld/builtin-valid",))


def test_a_start_that_learned_other_tasks_or_does_not_tell_is_taken(
    tmp_path: Path, start: Path
) -> None:
    started(tmp_path / "other", str(start), exclude=("alfworld/builtin-dev", "webshop/small-500"))
    silent = tmp_path / "silent"
    shutil.copytree(start, silent, ignore=shutil.ignore_patterns("training"))
    notes = json.loads((silent / "harness.json").read_text(encoding="utf-8"))
    del notes["trained_on"]
    (silent / "harness.json").write_text(json.dumps(notes), encoding="utf-8")
    started(tmp_path / "a", str(silent), exclude=("alfworld/builtin-valid",))
    (silent / "harness.json").unlink()
    started(tmp_path / "b", str(silent), exclude=("alfworld/builtin-valid",))


def test_a_start_of_imported_logs_may_have_learned_any_task(tmp_path: Path, start: Path) -> None:
    given = tmp_path / "given"
    shutil.copytree(start, given, ignore=shutil.ignore_patterns("training"))
    notes = json.loads((given / "harness.json").read_text(encoding="utf-8"))
    notes["trained_on"] = {"keys": {}, "unknown": ["alfworld"]}
    (given / "harness.json").write_text(json.dumps(notes), encoding="utf-8")
    with pytest.raises(DataError, match=f"(?s)start {given} .*imported logs.*may be of"):
        started(tmp_path, str(given), exclude=("alfworld/builtin-dev",))
    started(tmp_path, str(given), exclude=("webshop/builtin-dev",))


def test_shipped_starts_tell_nothing_and_are_taken() -> None:
    """What the recipes that ship start from: no record, so nothing is refused of it."""
    weights = Path(checkpoints.__file__).parent / "weights"
    for folder in sorted(weights.iterdir()):
        if (folder / "harness.json").is_file():
            assert models.learned(str(folder)) is None
            traces.guard_start(str(folder), None, ["alfworld/builtin-dev"])

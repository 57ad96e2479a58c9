"""Grids of arms and seeds: what is planned, run once, gone on with, and concluded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from harness_distillation import recipe as recipes
from harness_distillation.recipe_faults import references
from harness_distillation.reproduce import beforehand, cli, grid, plan, report
from harness_distillation.reproduce import campaign as campaigns
from harness_distillation.reproduce import cell as cells
from harness_distillation.reproduce.trial import PILOT_SEEDS

import harness
from harness import paired
from harness.errors import ConfigError
from harness.metrics import wilson
from harness.runs import read_meta, write_meta

GRIDS = [(t, s) for t in ("table3", "table5") for s in ("smoke", "tiny", "paper")]
GRIDS += [("table4", s) for s in ("smoke", "paper")]

GRID = """
table = "table3"
scale = "test"
teacher = "small"
description = "a test"
comparisons = [["ours", "token"]]
[trial]
endpoint = "alfworld/builtin-dev[:3]"
seeds = 1
verdict = true
fixed_steps = 1
[trial.dev]
env = "alfworld"
tasks = "builtin-dev[3:6]"
max_steps = 3
[trial.tuning]
lr = [0.001, 0.01]
steps = 1
[trial.pilot]
arm = "token"
seeds = 2
steps = 1
[[rows]]
arm = "token"
recipe = "token-tiny"
paper = "token-120m"
[[rows]]
arm = "ours"
recipe = "ours-tiny"
paper = "ours-120m"
[[evaluations]]
env = "alfworld"
tasks = "builtin-dev[:3]"
max_steps = 3
[rates]
train = 1000
play = 1
[change]
max_new_tokens = 12
[change.student]
start = "models/small-start"
window = 2048
[change.teacher]
checkpoint = "models/small"
top_k = 1024
min_mass = 0.0
[change.data]
successes_only = false
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:6]" }]
[change.dev]
env = "alfworld"
tasks = "builtin-dev[6:8]"
max_steps = 2
every = 1
patience = 1
[change.optim]
steps = 3
warmup = 1
rows = 1
row_tokens = 2048
precision = "fp32"
[[parents]]
name = "small"
recipe = "sft-tiny"
[parents.change]
max_new_tokens = 12
[parents.change.student]
layers = 1
hidden = 32
heads = 2
intermediate = 64
window = 2048
[parents.change.tokenizer]
vocab = 400

[parents.change.data]
successes_only = false
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:8]" }]
[parents.change.optim]
steps = 2
warmup = 1
rows = 1
row_tokens = 2048
[[parents]]
name = "small-start"
recipe = "student-tiny-start"
[parents.change.student]
layers = 1
hidden = 32
heads = 2
intermediate = 64
window = 2048
[parents.change.tokenizer]
start = "models/small"
[parents.change.data]
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:6]" }]
[parents.change.optim]
steps = 1
warmup = 1
rows = 1
row_tokens = 2048
"""


@pytest.fixture
def own(tmp_path) -> Path:
    return written(tmp_path)


def written(folder: Path, text: str = GRID) -> Path:
    # A teacher from scratch: of sft-tiny's own teacher nothing is wanted.
    (folder / "start.toml").write_text(
        (recipes.shipped()["teacher-tiny-start"]).read_text(encoding="utf-8")
    )
    text = text.replace('recipe = "sft-tiny"', f'recipe = "{folder / "start.toml"}"')
    path = folder / "own.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("table", "scale"), GRIDS)
def test_shipped_grids_can_be_planned(table, scale):
    found = grid.load(table, scale)
    every = grid.cells(found)
    assert (found.table, found.scale) == (table, scale)
    assert len({c.name for c in every}) == len(every)
    seen: set[str] = set()
    for c in every:
        assert seen.issuperset(c.parents)
        seen.add(c.name)
        assert plan.cost(found, c).hours > 0
    assert all(c.evaluations for c in every if c.arm != grid.PARENT)
    endpoint = found.trial.endpoint
    for group in found.comparisons:
        for arm in group:
            assert any(e.name == endpoint for c in every if c.arm == arm for e in c.evaluations)
    numbers = {row.get("arm", row.get("agent")) for row in report._paper_rows(table)}
    assert {row.paper for row in found.rows} - {None} <= numbers


def test_no_arm_is_trained_on_what_it_is_played_on():
    for table, scale in GRIDS:
        found = grid.load(table, scale)
        if not found.trial.verdict:
            continue
        for c in grid.cells(found):
            of = {name.partition("/")[0] for name in c.recipe.data.exclude}
            for e in c.evaluations:
                if e.env in of:
                    assert e.name in c.recipe.data.exclude, (c.name, e.name)


def test_arms_of_the_trial_differ_in_their_objective_alone():
    by_seed: dict[int, set[bytes]] = {}
    for c in grid.cells(grid.load("table5", "tiny")):
        if c.stage != "trial":
            continue
        r = msgspec.structs.replace(
            c.recipe, name="", description="", objective=recipes.Objective()
        )
        by_seed.setdefault(c.seed, set()).add(msgspec.json.encode(r))
    assert len(by_seed) == 5
    assert all(len(alike) == 1 for alike in by_seed.values())


def test_gpu_hours_are_the_arithmetic_that_is_told(capsys):
    found = grid.load("table3", "paper")
    one = next(c for c in grid.cells(found) if c.name == "ours-340m-alfworld-s1")
    tokens = 20_000 * 32 * 1024
    train = 6 * 355e6 * tokens / (989e12 * 0.4)
    assert plan.cost(found, one).train == pytest.approx(train)
    sampled = 1000 * 500
    assert plan.cost(found, one).play == pytest.approx(sampled * 2 * 355e6 / (3.35e12 * 32))
    assert cli.main(["table3", "--scale", "paper"]) == 0
    shown, told = capsys.readouterr()
    assert "GPU-hours" in shown
    assert "6 x parameters x tokens at 40 % of 989 TFLOP/s" in shown
    assert "--run begins it" in told


def test_only_the_arms_asked_for_play_as_they_were_at_fixed_steps(tmp_path):
    wanted = grid.load("table3", "tiny")
    found = {c.name: [k.name for k in plan.columns(wanted, c)] for c in grid.cells(wanted)}
    end, fixed = "alfworld/holdout-1000", "alfworld/seen-140 at 800 steps"
    assert found["sft-s3"] == [end, "alfworld/seen-140", fixed]
    assert not any("holdout-1000 at" in name for names in found.values() for name in names)
    some = 'tasks = "builtin-dev[:3]"\nfixed = ["ours"]'
    text = GRID.replace('tasks = "builtin-dev[:3]"', some)
    wanted = grid.load(str(written(tmp_path, text)), "")
    found = {c.name: [k.steps for k in plan.columns(wanted, c)] for c in grid.cells(wanted)}
    assert (found["token-s1"], found["ours-s1"]) == ([None], [None, 1])
    bad = GRID.replace("[[evaluations]]", '[[evaluations]]\nfixed = ["nobody"]', 1)
    with pytest.raises(ConfigError, match="no row: nobody"):
        grid.load(str(written(tmp_path, bad)), "")


def test_what_is_compared_first_is_done_first():
    found = grid.load("table3", "tiny")
    names = [c.name for c in grid.cells(found) if c.stage in ("tuning", "trial")]
    rates = ("0.004", "0.008")
    tuned = [f"tune-{arm}-lr{lr}" for arm in ("token", "ours") for lr in rates]
    pairs = [f"{arm}-s{seed}" for seed in range(1, 11) for arm in ("token", "ours")]
    assert names[:24] == tuned + pairs
    second = ("flat-curriculum", "class-random")
    assert names[24:28] == [f"tune-{arm}-lr{lr}" for arm in second for lr in rates]
    assert names[28:30] == ["flat-curriculum-s1", "class-random-s1"]


def test_a_row_that_is_compared_with_nothing_comes_last(tmp_path):
    text = GRID.replace("[[rows]]", '[[rows]]\narm = "alone"\nrecipe = "token-tiny"\n[[rows]]', 1)
    found = grid.load(str(written(tmp_path, text)), "")
    students = [c.name for c in grid.cells(found) if c.stage == "trial"]
    assert students == ["token-s1", "ours-s1", "alone-s1"]


def test_table_4_has_a_teacher_a_family():
    found = grid.load("table4", "paper")
    assert found.teachers == ("teacher-opt-13b", "teacher-llama-13b")
    every = grid.cells(found)
    for c in every:
        if c.stage == "parent":
            assert c.evaluations == found.evaluations
        else:
            family = "llama" if "llama" in c.arm else "opt"
            assert c.teacher == f"teacher-{family}-13b"
            assert c.recipe.teacher.checkpoint == f"models/{c.teacher}"
            assert [e.env for e in c.evaluations] == [c.name.split("-")[-2]]
    rows = report.paper(plan.make(found, {}))[1]
    assert len(rows) == 1 + 2 + 8
    assert rows[1][:2] == ["Teacher (OPT13B)", "76.5"]
    smoke = grid.cells(grid.load("table4", "smoke"))
    assert {c.recipe.student.arch for c in smoke} == {"opt", "llama"}


def test_parents_come_from_recipes_or_from_finished_weights(tmp_path, monkeypatch):
    wanted = grid.load("table5", "tiny")
    names = [c.name for c in grid.cells(wanted) if c.arm == grid.PARENT]
    assert names == ["teacher-tiny-start", "teacher-tiny", "student-tiny-start"]
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path / "none"))
    assert plan.at_hand(wanted) == {"teacher-tiny": "package:teacher-tiny"}
    shipped = {p.cell.name: p for p in plan.make(wanted, plan.at_hand(wanted)).cells}
    assert shipped["teacher-tiny"].cell.given == "package:teacher-tiny"
    assert list(shipped)[:2] == ["teacher-tiny", "student-tiny-start"]
    every = campaigns.to_do(plan.make(wanted, plan.at_hand(wanted)), tmp_path, "trial")
    assert [p.cell.name for p in every] == list(shipped)
    with pytest.raises(ConfigError, match="shipped with the package 'nobody'"):
        plan.make(wanted, {"teacher-tiny": "package:nobody"})
    folder = tmp_path / "models" / "teacher-tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    assert plan.at_hand(wanted) == {"teacher-tiny": str(folder)}
    made = plan.make(wanted, plan.at_hand(wanted))
    parents = {p.cell.name: p.cell for p in made.cells if p.cell.arm == grid.PARENT}
    assert sorted(parents) == ["student-tiny-start", "teacher-tiny"]
    assert parents["student-tiny-start"].parents == ("teacher-tiny",)
    (folder / "model.safetensors").write_bytes(b"other weights")
    again = plan.make(wanted, plan.at_hand(wanted))
    assert {a.key == b.key for a, b in zip(made.cells, again.cells, strict=True)} == {False}


def changed_grids(folder: Path) -> list[tuple[grid.Grid, str]]:
    changes = (
        ("verdict = true", "verdict = true\nmargin = 5.0", "the trial"),
        ("seeds = 1", "seeds = 2", "the trial"),
        ("lr = [0.001, 0.01]", "lr = [0.001, 0.02]", "the trial"),
        ('["ours", "token"]', '["token", "ours"]', "the trial"),
        ("steps = 3\nwarmup", "steps = 4\nwarmup", "recipe, traces, parents or task sets of"),
        ("max_steps = 3\n[rates]", "max_steps = 4\n[rates]", "task sets of"),
    )
    found = []
    for before, after, what in changes:
        assert before in GRID
        found.append((grid.load(str(written(folder, GRID.replace(before, after))), ""), what))
    return found


def test_a_plan_does_not_bend_once_a_student_has_begun(own, tmp_path):
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    first = grid.load(str(own), "")
    plan.write(plan.settle(first, out), out)
    (out / "cells" / "pilot-token-s1001.log").touch()
    for changed, _ in changed_grids(tmp_path):  # nothing is known of the trial: it may change
        assert plan.settle(changed, out).grid == changed
    (out / "cells" / "token-s1.log").touch()
    assert plan.settle(first, out).grid == first
    for changed, what in changed_grids(tmp_path):
        with pytest.raises(ConfigError, match=what):
            plan.settle(changed, out)


def test_results_stay_under_their_trial_though_the_plan_is_gone(own, tmp_path):
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    first = grid.load(str(own), "")
    planned = next(p for p in plan.settle(first, out).cells if p.cell.stage == "trial")
    trial = plan.trial_hash(first)
    record = plan.Done(planned.key, None, {}, None, 0.0, 0.0, trial, 0.01, (), None)
    (out / "cells" / f"{planned.cell.name}.json").write_bytes(msgspec.json.encode(record))
    assert plan.settle(first, out).grid == first
    more = msgspec.structs.replace(first.trial.tuning, lr=(0.001, 0.02))
    for change in ({"margin": 9.0}, {"tuning": more}):
        other = msgspec.structs.replace(first.trial, **change)
        with pytest.raises(ConfigError, match="under another trial"):
            plan.settle(msgspec.structs.replace(first, trial=other), out)
    (out / "cells" / f"{planned.cell.name}.json").write_text('{"key": "older"}')
    with pytest.raises(ConfigError, match="Delete it to have that cell done again"):
        plan.settle(first, out)
    (out / plan.PLAN).write_text('{"grid": 1}')
    with pytest.raises(ConfigError, match="damaged, or of another release"):
        plan.settle(first, out)


def test_every_arm_has_the_same_tuning_on_the_dev_set_alone():
    for table in ("table3", "table5"):
        found = grid.load(table, "tiny")
        every = grid.cells(found)
        tried: dict[str, list[float]] = {}
        for c in every:
            if c.stage == "tuning":
                assert [e.name for e in c.evaluations] == [found.trial.dev.name]
                assert (c.recipe.optim.steps, c.recipe.dev) == (found.trial.tuning.steps, None)
                tried.setdefault(c.arm, []).append(c.recipe.optim.lr)
        assert set(tried) == {row.arm for row in found.rows}
        assert set(map(tuple, tried.values())) == {found.trial.tuning.lr}
        for c in every:
            assert len(c.tuned_by) == (len(found.trial.tuning.lr) if c.stage == "trial" else 0)
            if c.stage == "trial":
                assert set(c.tuned_by) <= set(c.parents)
                assert found.trial.fixed_steps in c.recipe.optim.keep


def test_the_plan_tells_what_decides(tmp_path, capsys):
    command = ["table3", "--scale", "tiny", "--dry-run", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    for told in (
        "on alfworld/holdout-1000 (n = 1000, 25 steps), 10 paired training seeds, alpha 0.05",
        "Played once by every finished student: alfworld/holdout-1000, alfworld/seen-140",
        "Equivalence within 3 points",
        "2 trainings of 800 steps of every arm, learning rates 0.004, 0.008",
        "after 800 steps of that training",
        "Pilot: 3 seeds of token on alfworld/dev-200, 0 done",
    ):
        assert told in shown
    assert list(tmp_path.iterdir()) == []


def test_models_that_need_each_other_are_refused(tmp_path):
    for name in recipes.shipped():
        above: list[str] = []
        waiting = [name]
        while waiting:  # every way up ends: no recipe is above itself
            above.append(waiting.pop())
            assert len(above) < 50, above
            waiting += [n for n in references(recipes.load(above[-1])) if n in recipes.shipped()]
    text = GRID.replace("vocab = 400", 'start = "models/small-start"', 1)
    with pytest.raises(ConfigError, match="small-start -> small -> small-start"):
        grid.cells(grid.load(str(written(tmp_path, text)), ""))
    own = tmp_path / "mine.toml"
    own.write_text('base = "ours-tiny"\n[teacher]\ncheckpoint = "models/mine"\n')
    with pytest.raises(ConfigError, match="it would learn from itself"):
        recipes.load(str(own))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('endpoint = "alfworld/builtin-dev[:3]"', 'endpoint = "x"', "is no evaluation"),
        ('[["ours", "token"]]', '[["ours", "nobody"]]', "compared, but no row: nobody"),
        ('arm = "ours"', 'arm = "teacher"', "name of the teacher's row"),
        ('arm = "ours"', 'arm = "token"', "two rows"),
        ('teacher = "small"', 'teacher = "ours"', "'ours' is a teacher's row"),
        ("[rates]\ntrain = 1000\nplay = 1", "", r"either \[rates\] or \[device\]"),
        ("seeds = 1", "seeds = 0", "needs a seed"),
        ("seeds = 1", "seeds = 1\nalpha = 0.01", "verdicts are told at alpha = 0.05"),
        ("seeds = 1", "seeds = 1\nmargin = 0", r"margin is in \(0, 100\]"),
        ("lr = [0.001, 0.01]", "lr = [0.001, 0.001]", "two different rates"),
        ('arm = "token"\nseeds = 2', 'arm = "nobody"\nseeds = 2', "pilot's arm 'nobody' is no row"),
        ('arm = "token"\nseeds = 2', 'arm = "token"\nseeds = 1', "one has no spread"),
        ('tasks = "builtin-dev[3:6]"', 'tasks = "builtin-dev[:3]"', "dev set and an evaluation"),
        ('scale = "test"', 'skale = "test"', "Did you mean 'scale'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, before, after, message):
    with pytest.raises(ConfigError, match=message):
        grid.load(str(written(tmp_path, GRID.replace(before, after))), "")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"builtin-dev[3:6]"', '"builtin-dev[2:6]"', r"both 'alfworld/builtin-dev\[2:6\]', which"),
        ('"builtin-dev[6:8]"', '"builtin-dev[:2]"', r"both 'alfworld/builtin-dev\[:2\]', which"),
        ("fixed_steps = 1", "fixed_steps = 3", "fewer than its 3 steps"),
        ("patience = 1", "patience = 0", r"\[dev\] with patience"),
        ('recipe = "ours-tiny"', 'recipe = "ours-tiny"\nenvs = ["webshop"]', "its share of tuning"),
    ],
)
def test_cells_that_cannot_be_are_refused(tmp_path, before, after, message):
    found = grid.load(str(written(tmp_path, GRID.replace(before, after))), "")
    with pytest.raises(ConfigError, match=message):
        grid.cells(found)


def test_unknown_tables_and_parents_are_named(tmp_path):
    with pytest.raises(ConfigError, match="table3-smoke"):
        grid.load("table3", "smok")
    text = GRID.replace('checkpoint = "models/small"', 'checkpoint = "models/nowhere"')
    with pytest.raises(ConfigError, match="'models/nowhere' is neither"):
        grid.cells(grid.load(str(written(tmp_path, text)), ""))


# Means and their intervals ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[int, harness.Run]:
    """Three runs of one task set whose outcomes differ by seed: slips spoil some episodes."""
    out = tmp_path_factory.mktemp("runs")
    return {
        seed: harness.evaluate(
            "expert", "alfworld", tasks="builtin-dev[:30]", out=out / str(seed), max_steps=9,
            seeds=(seed,), error_rate=0.3,
        )
        for seed in (1, 2, 3)
    }  # fmt: skip


def test_one_seed_has_wilsons_interval_at_the_effective_n(runs):
    won = report.QUANTITIES[0][2]
    found = report.mean({1: runs[1]}, won)
    assert found.value == runs[1].summary.success
    assert found.n == 30
    assert 1 <= found.effective <= 30
    expected = wilson(found.effective * found.value, found.effective)
    assert (found.low, found.high) == pytest.approx(expected)


def test_several_seeds_have_the_crossed_interval(runs):
    won = report.QUANTITIES[0][2]
    found = report.mean(runs, won)
    each = [run.summary.success for run in runs.values()]
    assert found.value == pytest.approx(np.mean(each))
    assert found.n == 90
    assert 0 <= found.low < found.value < found.high <= 1
    # The spread of three seeds' means alone already asks for this much.
    spread = np.std(each, ddof=1) / np.sqrt(3)
    assert found.high - found.low > 2 * 1.9 * spread
    assert found.effective < 90
    assert report.mean({}, won) is None
    steps = report.mean(runs, report.QUANTITIES[3][2])
    assert steps.value == pytest.approx(np.mean([run.summary.steps for run in runs.values()]))
    assert report.mean(runs, report.QUANTITIES[1][2]) is None  # no model, no tokens


def test_the_spread_of_seeds_is_found_again():
    """Worlds with a known spread: its estimate is right on average, its interval covers it."""
    rng = np.random.default_rng(0)
    seeds, tasks, sd = 5, 200, 0.06
    replicate, task = np.divmod(np.arange(seeds * tasks), tasks)
    squares, covered, worlds = [], 0, 300
    for _ in range(worlds):
        hard = rng.normal(0, 0.15, tasks)
        chance = 0.5 + rng.normal(0, sd, seeds)[:, None] + hard
        won = (rng.random((seeds, tasks)) < np.clip(chance, 0, 1)).astype(float).ravel()
        found = paired.spread(won, task, replicate, np.ones(len(won)))
        squares.append(found.seeds**2)
        covered += found.low <= sd <= found.high
        assert found.low <= found.seeds <= found.high
        assert 0.02 < found.rest < 0.05  # a run of 200 tasks, near 50 %: 3.4 points
    assert np.mean(squares) == pytest.approx(sd**2, rel=0.15)
    assert 0.92 <= covered / worlds <= 0.98


def test_a_design_that_detects_does_so_in_four_of_five_worlds():
    rng = np.random.default_rng(1)
    sd, rest, seeds = 0.03, 0.015, 5
    gap = beforehand.smallest(sd, rest, seeds)
    noise = np.sqrt(2 * (sd**2 + rest**2))
    drawn = gap + rng.normal(0, noise, (4000, seeds))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(seeds))
    assert np.mean(t > 2.776) == pytest.approx(0.8, abs=0.06)


# A campaign, end to end --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> tuple[Path, Path]:
    """(grid, folder) of a campaign that was killed in the middle and then finished."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("campaign")
    path, out = written(folder), folder / "out"
    command = [sys.executable, "-m", "harness_distillation.reproduce.cell", str(out), "small"]
    out.joinpath("cells").mkdir(parents=True)
    plan.write(plan.settle(grid.load(str(path), ""), out), out)
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    log = out / "models" / "small" / "training" / "log.jsonl"
    deadline = time.monotonic() + 120
    while not log.is_file() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "cells" / "small.json").exists()
    assert cli.main([str(path), "--out", str(out), "--jobs", "2"]) == 0
    return path, out


@pytest.mark.models
def test_a_campaign_leaves_models_runs_and_what_they_came_to(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), ""), out)
    records = {p.cell.name: plan.done(out, p) for p in settled.cells}
    tried = [f"tune-{arm}-lr{lr}" for arm in ("token", "ours") for lr in ("0.001", "0.01")]
    pilot = ["pilot-token-s1001", "pilot-token-s1002"]
    assert list(records) == ["small", "small-start", *pilot, *tried, "token-s1", "ours-s1"]
    for p in settled.cells:
        record = records[p.cell.name]
        recipe = beforehand.tuned(settled, out, p.cell)
        assert record.recipe_hash == recipes.recipe_hash(recipe)
        assert record.lr == recipe.optim.lr
        assert (out / "models" / p.cell.name / "model.safetensors").is_file()
        if p.cell.name == "small-start":  # no teacher: nobody asks how it plays
            assert record.runs == {}
            continue
        measured = "alfworld/builtin-dev[:3]" in record.runs
        assert measured == (p.cell.stage in ("parent", "trial"))
        dev = "alfworld/builtin-dev[3:6]"
        run = harness.load(out / record.runs["alfworld/builtin-dev[:3]" if measured else dev])
        assert run.meta.status == "complete"
        assert run.summary.n == 3
        assert run.meta.agent.name == p.cell.arm
        assert run.meta.packages["torch"]
    assert records["ours-s1"].reason_to_act > 1
    ours = harness.load(out / records["ours-s1"].runs["alfworld/builtin-dev[:3]"])
    assert ours.meta.reference == records["small"].runs["alfworld/builtin-dev[:3]"]
    assert len(list((out / "shared" / "cache").glob("*/manifest.json"))) == 1
    assert len(list((out / "shared" / "traces").glob("*/*/*/*/run.json"))) == 2


@pytest.mark.models
def test_a_student_at_fixed_steps_is_a_checkpoint_of_its_training(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), ""), out)
    for p in settled.cells:
        if p.cell.stage != "trial":
            continue
        record = plan.done(out, p)
        end, fixed = "alfworld/builtin-dev[:3]", "alfworld/builtin-dev[:3] at 1 steps"
        assert list(record.runs) == [end, fixed]
        kept = out / "models" / p.cell.name / "training" / "checkpoints" / "step-0000001"
        weights = plan.weights_of(kept)
        assert list(harness.load(out / record.runs[fixed]).meta.parents) == weights
        # Nothing is won, so the first play stays the best and the second has enough.
        log = out / "models" / p.cell.name / "training" / "dev.jsonl"
        assert [msgspec.json.decode(line)["step"] for line in log.read_bytes().splitlines()] == [
            1,
            2,
        ]
        assert record.runs[end] == record.runs[fixed]  # one student, played once


@pytest.mark.models
def test_pilot_and_tuning_are_told(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), ""), out)
    have, _ = beforehand.pilot(settled, out)
    assert have == 2
    assert PILOT_SEEDS + 1 in {p.cell.seed for p in settled.cells}
    told = "\n".join(beforehand.preregistration(settled, out))
    assert "Pilot: 2 seeds of token" in told
    rows = beforehand.tuning_table(settled, out)
    assert rows[0] == ["Method", "lr 0.001", "lr 0.01", "chosen"]
    assert [row[0] for row in rows[1:]] == ["token", "ours"]
    assert all(row[1].endswith(" of 3") and row[3] in ("0.001", "0.01") for row in rows[1:])


@pytest.mark.models
def test_what_is_finished_is_not_done_again(campaign):
    path, out = campaign
    before = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file()}
    assert cli.main([str(path), "--out", str(out)]) == 0
    after = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file()}
    assert {f for f in after if after[f] != before.get(f)} <= {out / ".lock"}
    # A cell whose record is lost finds its model and its run again.
    record = out / "cells" / "ours-s1.json"
    old = msgspec.json.decode(record.read_bytes())
    record.unlink()
    here = Path.cwd()
    try:
        cells.run(out, "ours-s1")
    finally:
        os.chdir(here)
    new = msgspec.json.decode(record.read_bytes())
    assert (new["runs"], new["key"]) == (old["runs"], old["key"])


@pytest.mark.models
def test_the_report_is_the_papers_table_with_intervals(campaign, capsys):
    path, out = campaign
    assert cli.main([str(path), "--out", str(out), "--report", "--markdown"]) == 0
    shown = capsys.readouterr().out
    columns = "alfworld/builtin-dev[:3] | alfworld/builtin-dev[:3] at 1 steps"
    head = f"| Method | {columns} | N_r : N_a | seeds | n | effective n |"
    assert head in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ours |")]
    assert len(rows) == 5  # tuning and the four quantities
    assert rows[1].count("[") == 2
    assert "success on alfworld/builtin-dev[:3] (n = 3, 3 steps), 1 paired" in shown
    assert "Tuning: won on alfworld/builtin-dev[3:6]" in shown
    assert "Beside the endpoint, alfworld/builtin-dev[:3] at 1 steps:" in shown
    assert "Verdict: " in shown
    assert "Pairs that ended alike: 3 of 3." in shown
    assert "the paper's Table 3" in shown
    assert "| Ours (120M) | 43.7 | 41.2 | 52.8 |" in shown
    assert "Ours (340M)" not in shown


@pytest.mark.models
def test_nothing_is_concluded_too_early_or_from_smoke(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), ""), out)
    found = report.arms(settled, out)
    assert "Verdict: " in report.verdicts(settled, out, found)[-1][-1]
    undone = tuple(
        msgspec.structs.replace(p, key="other") if p.cell.name == "ours-s1" else p
        for p in settled.cells
    )
    early = msgspec.structs.replace(settled, cells=undone)
    assert report.verdicts(early, out, found) == [[
        "ours against token: no verdict before all 2 cells are done (1 are). A trial is not "
        "stopped by a look at it."
    ]]  # fmt: skip
    # Another comparison's arms may be missing: it does not wait for them.
    more = msgspec.structs.replace(settled.grid, comparisons=(("ours", "token"), ("token", "x")))
    two = msgspec.structs.replace(settled, grid=more)
    missing = msgspec.structs.replace(undone[-1].cell, name="x-s1", arm="x")
    two = msgspec.structs.replace(two, cells=(*settled.cells, plan.Planned(missing, "none")))
    told = report.verdicts(two, out, found)
    assert all("Verdict: " in part[-1] for part in told[:-1])
    assert told[-1][0].startswith("token against x: no verdict before all 2 cells are done (1 are)")
    trial = msgspec.structs.replace(settled.grid.trial, verdict=False)
    smoke = msgspec.structs.replace(
        settled, grid=msgspec.structs.replace(settled.grid, trial=trial)
    )
    assert report.verdicts(smoke, out, found)[0][0].startswith("No verdict: ")


@pytest.mark.models
def test_a_campaign_goes_on_elsewhere(campaign, tmp_path, capsys):
    path, out = campaign
    here = tmp_path / "elsewhere"
    record = out / "cells" / "ours-s1.json"
    kept = record.read_bytes()
    record.unlink()
    command = [str(path), "--out", str(out), "--export", str(here)]
    assert cli.main(command) == 0
    assert "9 of 10 cells are in" in capsys.readouterr().err
    assert sorted(p.name for p in (here / "models").iterdir()) == ["small", "small-start"]
    assert not [*here.rglob("episodes*"), *here.rglob("training")]
    # That a student has begun fixes the plan there too.
    assert [(p.name, p.stat().st_size) for p in here.rglob("*.log")] == [("ours-s1.log", 0)]
    assert not any(str(out.parent).encode() in p.read_bytes() for p in here.rglob("run.json"))
    # The last one done: only what is new is copied.
    record.write_bytes(kept)
    before = {p: p.stat().st_mtime_ns for p in here.rglob("metrics.jsonl")}
    assert cli.main(command) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    capsys.readouterr()
    assert cli.main([str(path), "--out", str(out), "--report"]) == 0
    before = capsys.readouterr().out
    assert cli.main([str(path), "--out", str(here), "--report"]) == 0
    assert capsys.readouterr().out == before
    record = here / "cells" / "ours-s1.json"
    old = msgspec.json.decode(record.read_bytes(), type=plan.Done)
    record.unlink()
    settled = plan.settle(grid.load(str(path), ""), here)
    # Its play again was cut short: what is there is not all of it.
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["small", "ours-s1"]
    teacher = msgspec.json.decode((here / "cells" / "small.json").read_bytes(), type=plan.Done)
    for run in teacher.runs.values():
        (here / run / "episodes.jsonl").touch()
        cut = msgspec.structs.replace(read_meta(here / run), status="running")
        write_meta(here / run, cut)
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["small", "ours-s1"]
    weights = here / "models" / "small-start" / "model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(right + b"\0")
    with pytest.raises(ConfigError, match="has not the weights that 'small-start' was finished"):
        cli.main([str(path), "--out", str(here)])
    weights.write_bytes(right)
    assert cli.main([str(path), "--out", str(here)]) == 0
    assert not (here / "models" / "token-s1").exists()  # finished, and not done again
    new = msgspec.json.decode(record.read_bytes(), type=plan.Done)
    assert (new.traces, new.lr) == (old.traces, old.lr)
    assert new.weights == old.weights
    # Students' reasoning is measured against the teacher's episodes.
    teacher = msgspec.json.decode((here / "cells" / "small.json").read_bytes(), type=plan.Done)
    for run in teacher.runs.values():
        assert (here / run / "episodes.jsonl").is_file()
    assert cli.main([str(path), "--out", str(here), "--report"]) == 0
    assert capsys.readouterr().out.endswith(before[before.index("Tuning: ") :])


@pytest.mark.models
def test_traces_and_the_teachers_episodes_come_back_from_decisions(campaign, tmp_path):
    path, out = campaign
    here = tmp_path / "elsewhere"
    record = out / "cells" / "ours-s1.json"
    kept = record.read_bytes()
    record.unlink()
    try:
        assert cli.main([str(path), "--out", str(out), "--export", str(here)]) == 0
    finally:
        record.write_bytes(kept)
    settled = plan.settle(grid.load(str(path), ""), here)
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["small", "ours-s1"]
    campaigns._restore(here, lambda line: None)
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["ours-s1"]
    back = [*here.rglob("episodes.jsonl")]
    assert {p.relative_to(here).parts[0] for p in back} == {"results", "shared"}
    for file in back:
        assert file.read_bytes() == (out / file.relative_to(here)).read_bytes()


@pytest.mark.models
def test_students_of_other_episodes_are_told(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), ""), out)
    assert report.origins(settled, out) == []
    record = out / "cells" / "ours-s1.json"
    kept = record.read_bytes()
    other = msgspec.structs.replace(msgspec.json.decode(kept, type=plan.Done), traces="other")
    try:
        record.write_bytes(msgspec.json.encode(other))
        assert report.origins(settled, out) == [
            "Trained on different episodes of the same tasks: token-s1 / ours-s1."
        ]
    finally:
        record.write_bytes(kept)


@pytest.mark.models
def test_a_cell_that_breaks_is_named_and_the_others_go_on(tmp_path):
    from harness_distillation.reproduce.campaign import CellFailed

    pytest.importorskip("torch")
    text = GRID.replace(
        'recipe = "ours-tiny"', 'recipe = "ours-tiny"\nchange.student = { start_layers = [9] }'
    )
    # Without pilot, tuning and convergence: a cell less to wait for is a second less.
    text = text[: text.index("fixed_steps")] + text[text.index("[[rows]]") :]
    path, out = written(tmp_path, text), tmp_path / "out"
    with pytest.raises(CellFailed, match=r"(?s)'ours-s1' ended with status 2.*layer"):
        cli.main([str(path), "--out", str(out)])
    assert sorted(p.stem for p in (out / "cells").glob("*.json")) == [
        "small",
        "small-start",
        "token-s1",
    ]

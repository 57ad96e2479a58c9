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
from harness_distillation.reproduce import cell as cells
from harness_distillation.reproduce import cli, grid, plan, report

import harness
from harness.errors import ConfigError
from harness.metrics import wilson

GRIDS = [(t, s) for t in ("table3", "table5") for s in ("smoke", "tiny", "paper")]

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
tuning = "none"
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
layers = 1
hidden = 32
heads = 2
intermediate = 64
window = 2048
[change.teacher]
checkpoint = "models/small"
top_k = 1024
min_mass = 0.0
[change.data]
successes_only = false
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:6]" }]
[change.optim]
steps = 2
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
        if c.arm == grid.PARENT:
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


def test_parents_come_from_recipes_or_from_finished_weights(tmp_path, monkeypatch):
    wanted = grid.load("table5", "tiny")
    names = [c.name for c in grid.cells(wanted) if c.arm == grid.PARENT]
    assert names[-1] == "teacher-tiny"
    assert len(names) > 1  # it goes on from another model
    folder = tmp_path / "models" / "teacher-tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    assert plan.at_hand(wanted) == {"teacher-tiny": str(folder)}
    made = plan.make(wanted, plan.at_hand(wanted))
    assert [p.cell.name for p in made.cells if p.cell.arm == grid.PARENT] == ["teacher-tiny"]
    (folder / "model.safetensors").write_bytes(b"other weights")
    again = plan.make(wanted, plan.at_hand(wanted))
    assert {a.key == b.key for a, b in zip(made.cells, again.cells, strict=True)} == {False}


def test_a_plan_does_not_bend(own, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    plan.write(plan.settle(grid.load(str(own), ""), out), out)
    assert plan.settle(grid.load(str(own), ""), out).written
    for before, after, what in (
        ("margin", "margin", "the trial"),
        ("seeds = 1", "seeds = 2", "the trial"),
        ("steps = 2", "steps = 3", "recipe, traces, parents or task sets of"),
        ("max_steps = 3", "max_steps = 4", "task sets of"),
    ):
        text = GRID.replace(before, after)
        if before == "margin":
            text = GRID.replace("verdict = true", "verdict = true\nmargin = 5.0")
        changed = written(tmp_path, text)
        with pytest.raises(ConfigError, match=what):
            plan.settle(grid.load(str(changed), ""), out)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('endpoint = "alfworld/builtin-dev[:3]"', 'endpoint = "x"', "is no evaluation"),
        ('[["ours", "token"]]', '[["ours", "nobody"]]', "compared, but no row: nobody"),
        ('arm = "ours"', 'arm = "teacher"', "name of the teacher's row"),
        ('arm = "ours"', 'arm = "token"', "two rows"),
        ("[rates]\ntrain = 1000\nplay = 1", "", r"either \[rates\] or \[device\]"),
        ("seeds = 1", "seeds = 0", "needs a seed"),
        ('scale = "test"', 'skale = "test"', "Did you mean 'scale'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, before, after, message):
    with pytest.raises(ConfigError, match=message):
        grid.load(str(written(tmp_path, GRID.replace(before, after))), "")


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
    assert list(records) == ["small", "token-s1", "ours-s1"]
    for p in settled.cells:
        record = records[p.cell.name]
        assert record.recipe_hash == recipes.recipe_hash(p.cell.recipe)
        assert (out / "models" / p.cell.name / "model.safetensors").is_file()
        run = harness.load(out / record.runs["alfworld/builtin-dev[:3]"])
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
    head = "| Method | alfworld/builtin-dev[:3] | N_r : N_a | seeds | n | effective n |"
    assert head in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ours |")]
    assert len(rows) == 4
    assert rows[0].count("[") == 1
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
    assert report.verdicts(settled, found, complete=False) == [
        "No verdict before every planned cell is done: a trial is not stopped by its look."
    ]
    trial = msgspec.structs.replace(settled.grid.trial, verdict=False)
    smoke = msgspec.structs.replace(
        settled, grid=msgspec.structs.replace(settled.grid, trial=trial)
    )
    assert report.verdicts(smoke, found, complete=True)[0].startswith("No verdict: ")


@pytest.mark.models
def test_a_cell_that_breaks_is_named_and_the_others_go_on(tmp_path):
    from harness_distillation.reproduce.campaign import CellFailed

    pytest.importorskip("torch")
    text = GRID.replace(
        'recipe = "ours-tiny"', 'recipe = "ours-tiny"\nchange.student = { hidden = 33 }'
    )
    path, out = written(tmp_path, text), tmp_path / "out"
    with pytest.raises(CellFailed, match=r"(?s)'ours-s1' ended with status 2.*hidden 33"):
        cli.main([str(path), "--out", str(out)])
    assert sorted(p.stem for p in (out / "cells").glob("*.json")) == ["small", "token-s1"]

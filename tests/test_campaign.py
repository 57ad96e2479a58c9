"""A campaign, end to end: killed, finished, reported, gone on with elsewhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from broken import break_episode
from grids import GRID, written
from harness_distillation import recipe as recipes
from harness_distillation.reproduce import beforehand, cli, grid, plan, report
from harness_distillation.reproduce import campaign as campaigns
from harness_distillation.reproduce import cell as cells
from harness_distillation.reproduce.trial import PILOT_SEEDS

import harness
from harness.errors import ConfigError
from harness.runs import read_meta, write_meta


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> tuple[Path, Path]:
    """(grid, folder) of a campaign that was killed in the middle and then finished."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("campaign")
    path, out = written(folder), folder / "out"
    command = [sys.executable, "-m", "harness_distillation.reproduce.cell", str(out), "small"]
    out.joinpath("cells").mkdir(parents=True)
    plan.write(plan.settle(grid.load(str(path), None), out), out)
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
    settled = plan.settle(grid.load(str(path), None), out)
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
    settled = plan.settle(grid.load(str(path), None), out)
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
    settled = plan.settle(grid.load(str(path), None), out)
    have, _ = beforehand.pilot(settled, out)
    assert have == 2
    assert PILOT_SEEDS + 1 in {p.cell.seed for p in settled.cells}
    told = "\n".join(beforehand.preregistration(settled, out))
    assert "Pilot: 2 seeds of token" in told
    rows = beforehand.tuning_table(settled, out)
    assert rows[0] == ["Method", "lr 0.001", "lr 0.01", "chosen"]
    assert [row[0] for row in rows[1:]] == ["token", "ours"]
    assert all(row[1].endswith(" of 3") for row in rows[1:])
    assert {row[3].split()[0] for row in rows[1:]} <= {"0.001", "0.01"}


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
    assert f"| Method | {columns} |" in shown
    assert f"| Method | N_r : N_a | seeds | {columns} |" in shown
    rows = [line for line in shown.splitlines() if line.startswith("| ours |")]
    assert (
        len(rows) == 7
    )  # tuning, four quantities (the teacher won nothing to match), two of facts
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
    settled = plan.settle(grid.load(str(path), None), out)
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
    settled = plan.settle(grid.load(str(path), None), here)
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
    settled = plan.settle(grid.load(str(path), None), here)
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["small", "ours-s1"]
    campaigns._restore(here, lambda line: None)
    assert [p.cell.name for p in campaigns.to_do(settled, here, "trial")] == ["ours-s1"]
    back = [*here.rglob("episodes.jsonl")]
    assert {p.relative_to(here).parts[0] for p in back} == {"results", "shared"}
    for file in back:
        assert file.read_bytes() == (out / file.relative_to(here)).read_bytes()


def taken_along(out: Path, to: Path) -> plan.Plan:
    """A copy of a campaign."""
    shutil.copytree(out, to, symlinks=True)
    return plan.read(to)


@pytest.mark.models
def test_what_a_changed_plan_does_again_makes_room_for_itself(campaign, tmp_path):
    """Before the first student: a pilot that is done under the plan as it was, and one that was
    begun by a release that noted no keys."""
    _, out = campaign
    here = tmp_path / "out"
    taken_along(out, here)
    for student in ("token-s1", "ours-s1"):
        for file in (here / "cells").glob(f"{student}.*"):
            file.unlink()
    names = ("pilot-token-s1001", "pilot-token-s1002")
    (here / "cells" / f"{names[1]}.json").unlink()
    (here / "models" / names[1] / cells.KEY).unlink()
    before = {n: plan.weights_of(here / "models" / n) for n in names}
    asides = {names[0]: (here / "models" / names[0] / cells.KEY).read_text(), names[1]: "before"}
    kept = (here / "cells" / "small.json").read_bytes()
    text = GRID.replace("seeds = 2\nsteps = 1", "seeds = 2\nsteps = 2")
    changed = written(tmp_path, text)
    assert cli.main([str(changed), "--out", str(here), "--stage", "pilot"]) == 0
    settled = plan.read(here)
    for planned in settled.cells:
        if planned.cell.stage == "pilot":
            assert plan.done(here, planned).recipe_hash == recipes.recipe_hash(planned.cell.recipe)
    for name in names:
        assert plan.weights_of(here / "models" / name) != before[name]
        assert plan.weights_of(here / "models" / f".{name}.{asides[name]}") == before[name]
    assert (here / "cells" / "small.json").read_bytes() == kept  # as planned before
    # The key decides, for other traces of the same recipe too; what was only stopped goes on.
    place, cwd = here / "models" / names[0], Path.cwd()
    try:
        for key, again in ((None, False), ("other", True)):
            (here / "cells" / f"{names[0]}.json").unlink()
            if key is not None:
                (place / cells.KEY).write_text(key)
            made = place.stat().st_ino
            cells.run(here, names[0])
            assert (place.stat().st_ino != made) == again
    finally:
        os.chdir(cwd)


@pytest.mark.models
def test_tuning_that_broke_is_played_again_by_the_campaign(campaign, tmp_path):
    """Its run names its model by the campaign's folder: from elsewhere it could not be resumed."""
    path, out = campaign
    here = tmp_path / "out"
    settled = taken_along(out, here)
    (here / "cells" / "ours-s1.json").unlink()
    record = msgspec.json.decode((here / "cells" / "tune-ours-lr0.01.json").read_bytes())
    run = here / record["runs"]["alfworld/builtin-dev[3:6]"]
    break_episode(run, 1)
    student = next(p.cell for p in settled.cells if p.cell.name == "ours-s1")
    with pytest.raises(ConfigError, match=r"1 of 3 episodes of .* broke"):
        beforehand.tuned(settled, here, student)
    assert cli.main([str(path), "--out", str(here)]) == 0
    assert harness.load(run).summary.errors == 0
    assert (here / "cells" / "ours-s1.json").is_file()


@pytest.mark.models
def test_given_weights_need_no_notes(campaign, tmp_path):
    """As another library saves them."""
    path, out = campaign
    given = {}
    for name in ("small", "small-start"):
        folder = tmp_path / "given" / name
        shutil.copytree(out / "models" / name, folder, ignore=shutil.ignore_patterns("training"))
        (folder / "harness.json").unlink()
        given[name] = str(folder)
    here = tmp_path / "out"
    (here / "cells").mkdir(parents=True)
    made = plan.make(grid.load(str(path), None), given)
    plan.write(made, here)
    campaigns._link(made, here)
    cwd = Path.cwd()
    try:
        cells.run(here, "small")
    finally:
        os.chdir(cwd)
    record = plan.done(here, next(p for p in made.cells if p.cell.name == "small"))
    assert (record.reason_to_act, record.traces) == (None, None)
    assert len(record.runs) == 1


@pytest.mark.models
def test_students_of_other_episodes_are_told(campaign):
    path, out = campaign
    settled = plan.settle(grid.load(str(path), None), out)
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

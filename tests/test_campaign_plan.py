"""A campaign's plan: what it tells beforehand, and that it does not bend to results."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from grids import GRID, written
from harness_distillation.recipe import Optim, Student
from harness_distillation.reproduce import campaign as campaigns
from harness_distillation.reproduce import cli, estimates, expansion, grid, plan

from harness.errors import ConfigError


@pytest.fixture
def own(tmp_path) -> Path:
    return written(tmp_path)


def test_gpu_hours_are_the_arithmetic_that_is_told(capsys):
    found = grid.load("table3", "paper")
    one = next(c for c in expansion.cells(found) if c.name == "ours-340m-alfworld-s1")
    tokens = 20_000 * 32 * 1024
    train = 6 * 355e6 * tokens / (989e12 * 0.4)
    assert estimates.cost(found, one).train == pytest.approx(train)
    sampled = 1000 * 500
    assert estimates.cost(found, one).play == pytest.approx(sampled * 2 * 355e6 / (3.35e12 * 32))
    assert cli.main(["table3", "--scale", "paper"]) == 0
    shown, told = capsys.readouterr()
    assert "GPU-hours" in shown
    assert "6 x parameters x tokens at 40 % of 989 TFLOP/s" in shown
    assert "--run begins it" in told


def test_trainings_that_fit_no_device_are_named_before_one_is_rented():
    found = grid.load("table4", "paper")
    made = plan.make(found, {})
    (told,) = estimates.too_large(made)
    assert told.startswith("Too large for one H100 (80 GB), and several do not help")
    assert "token-opt-6.7b, ours-opt-6.7b, token-llama-7b, ours-llama-7b (107 GB and" in told
    assert "teacher-opt-13b, teacher-llama-13b (208 GB and activations; one B300 has" in told
    assert "2.7b" not in told
    head, *rows = estimates.cells_table(made, Path())
    size = {row[0]: row[head.index("GB")] for row in rows}
    assert size["token-opt-2.7b-webshop-s1 .. s5"] == f"{16 * 2.7:.1f}"
    assert sum(int(row[-1].split(" of ")[1]) for row in rows) == len(made.cells)
    assert estimates.too_large(plan.make(grid.load("table3", "paper"), {})) == []
    assert "GB" not in estimates.cells_table(plan.make(grid.load("table3", "tiny"), {}), Path())[0]


@pytest.mark.models
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_trainings_memory_is_what_weights_gradients_and_moments_take(name):
    torch = pytest.importorskip("torch")
    from harness_distillation import models, optimizers, tokenizer

    student = Student(layers=2, hidden=64, heads=2, intermediate=96, window=64)
    model = models.build(student, tokenizer.train([], "Task: {instruction}\n", 300), 0)
    optimizer = optimizers.build(model, Optim(optimizer=name))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    parts = optimizer.parts if name == "muon" else (optimizer,)
    held = [p for m in model.parameters() for p in (m, m.grad)]
    held += [v for o in parts for s in o.state.values() for v in s.values() if torch.is_tensor(v)]
    taken = sum(t.numel() * t.element_size() for t in held)
    found = grid.load("table3", "paper")
    cell = expansion.cells(found)[-1]
    optim = msgspec.structs.replace(cell.recipe.optim, optimizer=name)
    recipe = msgspec.structs.replace(cell.recipe, optim=optim)
    n = sum(p.numel() for p in model.parameters())
    told = estimates.memory(found, msgspec.structs.replace(cell, recipe=recipe, parameters=n))
    if name == "adamw":
        assert told == pytest.approx(taken, rel=0.001)
    else:  # the embeddings are AdamW's
        assert 0.8 * taken < told < taken


def test_parents_come_from_recipes_or_from_finished_weights(tmp_path, monkeypatch):
    wanted = grid.load("table5", "tiny")
    names = [c.name for c in expansion.cells(wanted) if c.arm == grid.PARENT]
    assert names == ["teacher-tiny-start", "teacher-tiny", "student-tiny-start"]
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path / "none"))
    start = {"student-tiny-start": "package:student-tiny-start"}
    assert plan.at_hand(wanted) == {"teacher-tiny": "package:teacher-tiny", **start}
    shipped = {p.cell.name: p for p in plan.make(wanted, plan.at_hand(wanted)).cells}
    assert shipped["teacher-tiny"].cell.given == "package:teacher-tiny"
    assert set(list(shipped)[:2]) == {"teacher-tiny", "student-tiny-start"}
    every = campaigns.to_do(plan.make(wanted, plan.at_hand(wanted)), tmp_path, "trial")
    assert [p.cell.name for p in every] == list(shipped)
    with pytest.raises(ConfigError, match="shipped with the package 'nobody'"):
        plan.make(wanted, {"teacher-tiny": "package:nobody"})
    folder = tmp_path / "models" / "teacher-tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    given = {"teacher-tiny": "models:teacher-tiny"}
    assert plan.at_hand(wanted) == {**given, **start}
    assert plan.folder_of("models:teacher-tiny") == folder
    made = plan.make(wanted, given)
    keys = {p.cell.name: p.key for p in made.cells}
    for elsewhere in ({"teacher-tiny": str(folder)}, given):  # the weights count, not their place
        monkeypatch.setenv("HARNESS_MODELS", str(folder.parent))
        assert {p.cell.name: p.key for p in plan.make(wanted, elsewhere).cells} == keys
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"models:teacher-tiny: no weights .* looked in .*none"):
        plan.make(wanted, given)
    monkeypatch.delenv("HARNESS_MODELS")
    parents = {p.cell.name: p.cell for p in made.cells if p.cell.arm == grid.PARENT}
    assert sorted(parents) == ["student-tiny-start", "teacher-tiny"]
    assert parents["student-tiny-start"].parents == ("teacher-tiny",)
    (folder / "model.safetensors").write_bytes(b"other weights")
    again = plan.make(wanted, given)
    assert {a.key == b.key for a, b in zip(made.cells, again.cells, strict=True)} == {False}


def test_a_report_needs_no_given_weights(tmp_path, monkeypatch, capsys):
    """They are found where the campaign has them, whatever folder it is looked at from; what was
    taken along without them is reported, and does not go on."""
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    here, out, away = tmp_path / "here", tmp_path / "out", tmp_path / "away"
    model = here / "models" / "teacher-tiny"
    for folder in (model, away, out / "cells"):
        folder.mkdir(parents=True)
    (model / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(here)
    wanted = grid.load("table5", "tiny")
    first = plan.settle(wanted, out)
    assert {p.cell.given for p in first.cells} >= {"models:teacher-tiny"}
    plan.write(first, out)
    campaigns._link(first, out)
    (out / "cells" / next(p.cell.name for p in first.cells if p.cell.stage == "trial")).with_suffix(
        ".log"
    ).touch()  # from here on the plan is fixed
    command = ["table5", "--scale", "tiny", "--out", str(out)]
    monkeypatch.chdir(away)
    assert plan.settle(wanted, out) == first
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(ConfigError, match="parents or task sets of teacher-tiny"):
        plan.settle(wanted, out)
    (out / "models" / "teacher-tiny").unlink()
    assert plan.settle(wanted, out) == first
    assert cli.main([*command, "--report"]) == 0
    assert "finished in" in capsys.readouterr().out
    assert cli.main([*command, "--export", str(tmp_path / "copy")]) == 0
    with pytest.raises(ConfigError, match=r"models:teacher-tiny: no weights .* there any more"):
        cli.main(command)
    assert [p.name for p in (out / "cells").iterdir() if p.suffix != ".log"] == []
    assert len(list((out / "cells").iterdir())) == 1  # nothing was started


ENGINE = 'env_options = { engine = "textworld" }'


def changed_grids(folder: Path) -> list[tuple[grid.Grid, str]]:
    changes = (
        ("verdict = true", "verdict = true\nmargin = 5.0", "the trial"),
        ("seeds = 1", "seeds = 2", "the trial"),
        ("lr = [0.001, 0.01]", "lr = [0.001, 0.02]", "the trial"),
        ('["ours", "token"]', '["token", "ours"]', "the trial"),
        ("steps = 3\nwarmup", "steps = 4\nwarmup", "recipe, traces, parents or task sets of"),
        ("max_steps = 3\n[rates]", "max_steps = 4\n[rates]", "task sets of"),
        # By the other engine: no other task set, and yet something else that is played.
        ("max_steps = 3\n[rates]", f"max_steps = 3\n{ENGINE}\n[rates]", "task sets of"),
    )
    found = []
    for before, after, what in changes:
        assert before in GRID
        found.append((grid.load(str(written(folder, GRID.replace(before, after))), None), what))
    return found


def test_a_plan_does_not_bend_once_a_student_has_begun(own, tmp_path):
    out = tmp_path / "out"
    (out / "cells").mkdir(parents=True)
    first = grid.load(str(own), None)
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
    first = grid.load(str(own), None)
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


def test_the_plan_tells_what_decides(tmp_path, capsys):
    command = ["table3", "--scale", "tiny", "--dry-run", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    for told in (
        "on alfworld/holdout-1000 (n = 1000, 25 steps), 10 paired training seeds (flat-",
        "sad-ce 3), alpha 0.05",
        "Played once by every finished student: alfworld/holdout-1000, alfworld/seen-140",
        "Equivalence within 3 points",
        "2 trainings of 800 steps of every arm, learning rates 0.004, 0.008",
        "after 800 steps of that training",
        "Pilot: 3 seeds of token on alfworld/dev-200, 0 done",
    ):
        assert told in shown
    assert list(tmp_path.iterdir()) == []

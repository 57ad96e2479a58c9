"""Grids: those that ship, their cells in order, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from grids import GRID, SHIPPED, written
from harness_distillation import recipe as recipes
from harness_distillation.recipe_faults import references
from harness_distillation.reproduce import estimates, expansion, grid, plan, report
from harness_distillation.reproduce.trial import TUNING_SEED

from harness import registry
from harness.errors import ConfigError
from harness.tasksets import Frozen, freeze

#: Two more seeds of some arms of the trial.
MORE = Path(__file__).parents[1] / "results" / "trial" / "more.toml"
CLASS = registry.env_class("alfworld")
#: The endpoint's tasks once more, under another budget.
BUDGETS = '[[evaluations]]\nenv = "alfworld"\ntasks = "builtin-dev[:3]"\nmax_steps = 4\n'


@pytest.mark.parametrize(("table", "scale"), SHIPPED)
def test_shipped_grids_can_be_planned(table, scale):
    found = grid.load(table, scale)
    every = expansion.cells(found)
    assert (found.table, found.scale) == (table, scale)
    assert len({c.name for c in every}) == len(every)
    seen: set[str] = set()
    for c in every:
        assert seen.issuperset(c.parents)
        seen.add(c.name)
        assert c.recipe.seed == c.seed
        assert estimates.cost(found, c).hours > 0
    assert all(c.evaluations for c in every if c.arm != grid.PARENT)
    endpoint = found.trial.endpoint
    for group in found.comparisons:
        for arm in group:
            assert any(e.name == endpoint for c in every if c.arm == arm for e in c.evaluations)
    numbers = {row.get("arm", row.get("agent")) for row in report._paper_rows(table)}
    assert {row.paper for row in found.rows} - {None} <= numbers


def test_no_arm_is_trained_on_what_it_is_played_on():
    for table, scale in SHIPPED:
        found = grid.load(table, scale)
        if not found.trial.verdict:
            continue
        for c in expansion.cells(found):
            of = {name.partition("/")[0] for name in c.recipe.data.exclude}
            for e in c.evaluations:
                if e.env in of:
                    assert e.name in c.recipe.data.exclude, (c.name, e.name)


def test_arms_of_the_trial_differ_in_their_objective_alone():
    by_seed: dict[int, set[bytes]] = {}
    for c in expansion.cells(grid.load("table5", "tiny")):
        if c.stage != "trial":
            continue
        r = msgspec.structs.replace(
            c.recipe, name="", description="", objective=recipes.Objective()
        )
        by_seed.setdefault(c.seed, set()).add(msgspec.json.encode(r))
    assert len(by_seed) == 5
    assert all(len(alike) == 1 for alike in by_seed.values())


def test_only_the_arms_asked_for_play_as_they_were_at_fixed_steps(tmp_path):
    wanted = grid.load("table3", "tiny")
    found = {c.name: [k.name for k in plan.columns(wanted, c)] for c in expansion.cells(wanted)}
    end, fixed = "alfworld/holdout-1000", "alfworld/seen-140 at 800 steps"
    assert found["sft-s3"] == [end, "alfworld/seen-140", fixed]
    assert not any("holdout-1000 at" in name for names in found.values() for name in names)
    some = 'tasks = "builtin-dev[:3]"\nfixed = ["ours"]'
    text = GRID.replace('tasks = "builtin-dev[:3]"', some)
    wanted = grid.load(str(written(tmp_path, text)), None)
    found = {c.name: [k.steps for k in plan.columns(wanted, c)] for c in expansion.cells(wanted)}
    assert (found["token-s1"], found["ours-s1"]) == ([None], [None, 1])
    bad = GRID.replace("[[evaluations]]", '[[evaluations]]\nfixed = ["nobody"]', 1)
    with pytest.raises(ConfigError, match="no row: nobody"):
        grid.load(str(written(tmp_path, bad)), None)


def test_what_is_compared_first_is_done_first():
    found = grid.load("table3", "tiny")
    names = [c.name for c in expansion.cells(found) if c.stage in ("tuning", "trial")]
    rates = ("0.004", "0.008")
    tuned = [f"tune-{arm}-lr{lr}" for arm in ("token", "ours") for lr in rates]
    pairs = [f"{arm}-s{seed}" for seed in range(1, 11) for arm in ("token", "ours")]
    assert names[:24] == tuned + pairs
    second = ("flat-curriculum", "class-random")
    assert names[24:28] == [f"tune-{arm}-lr{lr}" for arm in second for lr in rates]
    assert names[28:30] == ["flat-curriculum-s1", "class-random-s1"]


def test_a_row_that_is_compared_with_nothing_comes_last(tmp_path):
    text = GRID.replace("[[rows]]", '[[rows]]\narm = "alone"\nrecipe = "token-tiny"\n[[rows]]', 1)
    found = grid.load(str(written(tmp_path, text)), None)
    students = [c.name for c in expansion.cells(found) if c.stage == "trial"]
    assert students == ["token-s1", "ours-s1", "alone-s1"]


def test_table_4_has_a_teacher_a_family():
    found = grid.load("table4", "paper")
    assert found.teachers == ("teacher-opt-13b", "teacher-llama-13b")
    every = expansion.cells(found)
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
    smoke = expansion.cells(grid.load("table4", "smoke"))
    assert {c.recipe.student.arch for c in smoke} == {"opt", "llama"}


def test_every_arm_has_the_same_tuning_on_the_dev_set_alone():
    for table in ("table3", "table5"):
        found = grid.load(table, "tiny")
        every = expansion.cells(found)
        tried: dict[str, list[float]] = {}
        for c in every:
            if c.stage == "tuning":
                assert [e.name for e in c.evaluations] == [found.trial.dev.name]
                assert (c.recipe.optim.steps, c.recipe.dev) == (found.trial.tuning.steps, None)
                assert c.seed == c.recipe.seed == TUNING_SEED  # no student of the trial has it
                tried.setdefault(c.arm, []).append(c.recipe.optim.lr)
        assert set(tried) == {row.arm for row in found.rows}
        assert set(map(tuple, tried.values())) == {found.trial.tuning.lr}
        for c in every:
            assert len(c.tuned_by) == (len(found.trial.tuning.lr) if c.stage == "trial" else 0)
            if c.stage == "trial":
                assert c.seed < TUNING_SEED
                assert set(c.tuned_by) <= set(c.parents)
                assert found.trial.fixed_steps in c.recipe.optim.keep


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
        expansion.cells(grid.load(str(written(tmp_path, text)), None))
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
        ('arm = "ours"', 'arm = "token"', "two rows make the same cells"),
        ('arm = "ours"', 'arm = "../ours"', "an arm's name is a folder's"),
        ('paper = "ours-120m"', "seeds = 0", "a row has 1 to 999 seeds"),
        ('paper = "ours-120m"', "seeds = -2", "a row has 1 to 999 seeds"),
        ("[rates]", BUDGETS + "[rates]", r"two evaluations are called alfworld/builtin-dev\[:3\]"),
        ("steps = 1\n[trial.pilot]", "steps = 0\n[trial.pilot]", "train for a step at least"),
        ("lr = [0.001, 0.01]", "lr = [0.01, 0.010000001]", "two different rates"),
        ('teacher = "small"', 'teacher = "ours"', "'ours' is a teacher's row"),
        ("[rates]\ntrain = 1000\nplay = 1", "", r"either \[rates\] or \[device\]"),
        ("seeds = 1", "seeds = 0", "needs a seed"),
        ("seeds = 1", "seeds = 1\nfirst_seed = 0", "training seeds are 1, 2"),
        ("seeds = 1", "seeds = 10\nfirst_seed = 991", "training seeds are under 1000"),
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
        grid.load(str(written(tmp_path, GRID.replace(before, after))), None)


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
    found = grid.load(str(written(tmp_path, GRID.replace(before, after))), None)
    with pytest.raises(ConfigError, match=message):
        expansion.cells(found)


def test_task_sets_may_be_named_with_their_environment(tmp_path):
    text = GRID.replace('"builtin-dev', '"alfworld/builtin-dev')
    assert text.count('"alfworld/builtin-dev') > GRID.count('"alfworld/builtin-dev')
    plain, named = (grid.load(str(written(tmp_path, t)), None) for t in (GRID, text))
    assert [e.name for e in named.evaluations] == [e.name for e in plain.evaluations]
    assert len(expansion.cells(named)) == len(expansion.cells(plain))
    both = text.replace("builtin-dev[6:8]", "builtin-dev[:2]")
    with pytest.raises(ConfigError, match=r"both 'alfworld/builtin-dev\[:2\]', which is chosen"):
        expansion.cells(grid.load(str(written(tmp_path, both)), None))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('checkpoint = "models/small"', 'checkpoint = "PLACE"'),
        ('start = "models/small-start"', 'start = "PLACE"'),
        ('agent = "expert"', 'agent = "PLACE"'),
        ('"builtin-dev[6:8]"', '"PLACE.json[6:8]"'),
        ('tasks = "builtin-dev[:3]"\nmax_steps', 'tasks = "PLACE.json"\nmax_steps'),
    ],
)
def test_what_is_named_by_a_path_is_found_from_the_campaigns_folder(
    tmp_path, monkeypatch, before, after
):
    """There its cells run, whoever planned them wherever."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    known, version = registry.task_set("alfworld", "builtin-valid"), CLASS.version
    freeze(Frozen(known.hash, version, known), tmp_path / "mine.json")
    assert before in GRID
    for place in ("mine", str(tmp_path / "mine")):
        text = GRID.replace(before, after.replace("PLACE", place))
        if "max_steps" in before:
            text = text.replace("alfworld/builtin-dev[:3]", f"alfworld/{place}.json")
        found = grid.load(str(written(tmp_path, text)), None)
        if place == "mine":
            with pytest.raises(
                ConfigError, match=rf"'mine.*' is a path from .*\n.*{tmp_path}/mine"
            ):
                expansion.cells(found)
        else:
            assert expansion.cells(found)


def test_a_campaign_may_add_seeds_to_another_one(tmp_path):
    shipped, more = grid.load("table3", "tiny"), grid.load(str(MORE), None)
    before, after = ({c.name: c for c in expansion.cells(g)} for g in (shipped, more))
    told = {c.name for c in after.values() if c.arm != grid.PARENT}
    assert told == {f"{row.arm}-s{seed}" for row in more.rows for seed in (4, 5)}
    for row in more.rows:
        one, other = before[f"{row.arm}-s1"], after[f"{row.arm}-s4"]
        chosen = results_of(one.name)["lr"]
        optim = msgspec.structs.replace(one.recipe.optim, lr=chosen)
        same = msgspec.structs.replace(one.recipe, optim=optim, seed=4)
        assert recipes.decisive(same) == recipes.decisive(other.recipe)
        assert [e.name for e in one.evaluations] == [e.name for e in other.evaluations]
    assert plan.trial_hash(shipped) == results_of("sft-s1")["trial"]
    assert plan.trial_hash(more) != plan.trial_hash(
        msgspec.structs.replace(more, trial=msgspec.structs.replace(more.trial, first_seed=1))
    )


def test_an_evaluation_of_few_seeds_is_played_by_the_first_ones():
    found = grid.load("table3", "tiny")
    first, *rest = found.evaluations
    few = (msgspec.structs.replace(first, seeds=2), *rest)
    trial = msgspec.structs.replace(found.trial, seeds=5, first_seed=4)
    changed = msgspec.structs.replace(found, evaluations=few, trial=trial)
    arm = found.comparisons[0][0]
    played = {
        c.seed for c in expansion.cells(changed)
        if c.arm == arm and c.stage == "trial" and first.name in {e.name for e in c.evaluations}
    }  # fmt: skip
    assert played == {4, 5}


def results_of(cell):
    return json.loads((MORE.parent / "table3-tiny" / "cells" / f"{cell}.json").read_text())


def test_a_grid_says_only_how_it_differs_from_its_base(tmp_path):
    base = grid.load(str(written(tmp_path)), None)
    more = """
    base = "own.toml"
    scale = "more"
    trial.seeds = 2
    [change]
    teacher = { checkpoint = "models/wide", top_k = 1024, min_mass = 0.0 }
    [[parents]]
    name = "wide"
    recipe = "small"
    change.student.hidden = 64
    """
    (tmp_path / "more.toml").write_text(more)
    found = grid.load(str(tmp_path / "more.toml"), None)
    change = {**base.change, "teacher": found.change["teacher"]}
    trial = msgspec.structs.replace(base.trial, seeds=2)
    assert found == msgspec.structs.replace(
        base, scale="more", trial=trial, change=change, parents=(*base.parents, found.parents[-1])
    )
    recipe = {c.name: c.recipe for c in expansion.cells(found)}
    student = msgspec.structs.replace(recipe["small"].student, hidden=64)
    assert recipe["wide"] == msgspec.structs.replace(recipe["small"], student=student)
    (tmp_path / "own.toml").write_text('base = "more.toml"')
    with pytest.raises(ConfigError, match="each other's base"):
        grid.load(str(tmp_path / "more.toml"), None)
    (tmp_path / "own.toml").write_text('base = "table3-smoky"')
    with pytest.raises(ConfigError, match="Did you mean 'table3-smoke'"):
        grid.load(str(tmp_path / "more.toml"), None)


@pytest.mark.models
@pytest.mark.campaign
@pytest.mark.parametrize("table", ["table3", "table4", "table5"])
def test_smoke_runs_to_its_end_and_concludes_nothing(table, tmp_path):
    command = [sys.executable, "-m", "harness", "reproduce", table, "--scale", "smoke"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert "No verdict: this scale proves that everything runs" in told.stdout
    [campaign] = (tmp_path / "results" / "reproduce").iterdir()
    planned = plan.read(campaign).cells
    assert all(plan.done(campaign, one) is not None for one in planned)
    assert f"{len(planned)} of {len(planned)} cells done" in told.stderr


def test_unknown_tables_and_parents_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"scale of table3 'smok'\. Did you mean 'smoke'"):
        grid.load("table3", "smok")
    with pytest.raises(ConfigError, match="Unknown scale of table4 'tiny'"):
        grid.load("table4", "tiny")
    with pytest.raises(ConfigError, match="Unknown table 'table9'"):
        grid.load("table9", None)
    with pytest.raises(ConfigError, match="says its own scale"):
        grid.load(str(written(tmp_path)), "tiny")
    text = GRID.replace('checkpoint = "models/small"', 'checkpoint = "models/nowhere"')
    with pytest.raises(ConfigError, match="'models/nowhere' is neither"):
        expansion.cells(grid.load(str(written(tmp_path, text)), None))

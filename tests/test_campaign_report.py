"""Means over seeds and tasks with their intervals, and what a pilot's spread promises."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from grids import GRID, SHIPPED, written
from harness_distillation.reproduce import beforehand, cli, estimates, grid, plan, report
from harness_distillation.reproduce import campaign as campaigns
from rich.console import Console
from scipy.special import stdtrit

import harness
from harness import paired, registry
from harness.config import AgentConfig
from harness.errors import AgentError, ConfigError
from harness.metrics import wilson
from harness.policy import call
from harness.types import Decision


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
    won = report.QUANTITIES[0].value
    found = report.mean({1: runs[1]}, won, share=True)
    assert found.value == runs[1].summary.success
    assert found.n == 30
    assert 1 <= found.effective <= 30
    expected = wilson(found.effective * found.value, found.effective)
    assert (found.low, found.high) == pytest.approx(expected)


def test_several_seeds_have_the_crossed_interval(runs):
    won = report.QUANTITIES[0].value
    found = report.mean(runs, won, share=True)
    each = [run.summary.success for run in runs.values()]
    assert found.value == pytest.approx(np.mean(each))
    assert found.n == 90
    assert 0 <= found.low < found.value < found.high <= 1
    # The spread of three seeds' means alone already asks for this much.
    spread = np.std(each, ddof=1) / np.sqrt(3)
    assert found.high - found.low > 2 * 1.9 * spread
    assert found.effective < 90
    assert report.mean({}, won) is None
    steps = report.mean(runs, report.QUANTITIES[3].value)
    assert steps.value == pytest.approx(np.mean([run.summary.steps for run in runs.values()]))
    assert report.mean(runs, report.QUANTITIES[1].value) is None  # no model, no tokens


def test_an_interval_stays_where_its_quantity_can_lie(runs):
    """Two seeds spread so widely by Student's t that a match of 270 % would be in it."""
    two = {seed: runs[seed] for seed in (1, 2)}
    steps = report.QUANTITIES[3]
    most = steps.most(runs[1].meta)
    assert most == 9
    free = report.mean(two, steps.value)
    assert free.high > most
    held = report.mean(two, steps.value, most=most)
    assert (held.low, held.high, held.value) == (max(0.0, free.low), most, free.value)


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


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_design_that_detects_does_so_in_four_of_five_worlds(seeds):
    rng = np.random.default_rng(1)
    sd, rest = 0.03, 0.015
    gap = beforehand.smallest(sd, rest, seeds)
    noise = np.sqrt(2 * (sd**2 + rest**2))
    drawn = gap + rng.normal(0, noise, (20_000, seeds))
    t = drawn.mean(1) / (drawn.std(1, ddof=1) / np.sqrt(seeds))
    assert np.mean(t > stdtrit(seeds - 1, 0.975)) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_arms_of_no_difference_are_told_alike_as_often_as_is_said(seeds):
    rng = np.random.default_rng(2)
    sd, rest, margin = 0.03, 0.015, 0.04
    noise = np.sqrt(2 * (sd**2 + rest**2))
    drawn = rng.normal(0, noise, (40_000, seeds))
    wide = stdtrit(seeds - 1, 0.95) * drawn.std(1, ddof=1) / np.sqrt(seeds)
    told = np.mean(np.abs(drawn.mean(1)) + wide < margin)
    assert beforehand.alike(sd, rest, seeds, margin) == pytest.approx(float(told), abs=0.01)


# The tables ------------------------------------------------------------------------------------


class Clumsy:
    """Plays as another policy does, but looks around at a ``share`` of its steps, drawn by
    ``seed``; where it ``breaks``, its first episode does."""

    def __init__(self, policy, seed, share, breaks):
        self.policy, self.seed, self.share, self.breaks = policy, seed, share, breaks

    def act(self, instruction, history, observation, info):
        if self.breaks:
            self.breaks = False
            raise AgentError("lost the thread")
        draw = random.Random(f"{self.seed} {info['task_id']} {len(history)}").random()
        if draw < self.share:
            return Decision("I look around.", "look")
        return call(self.policy, instruction, history, observation, info)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[plan.Plan, Path]:
    """A campaign whose students are clumsy experts, so that no model is trained for its tables; one
    episode of the last student broke."""
    out = tmp_path_factory.mktemp("finished")
    text = GRID.replace("builtin-dev[:3]", "builtin-valid[:15]").replace("seeds = 1", "seeds = 3")
    text = text.replace("max_steps = 3\n[rates]", "max_steps = 12\n[rates]")
    made = plan.make(grid.load(str(written(out, text)), None), {})
    (out / "cells").mkdir()
    (what,) = made.grid.evaluations
    teacher = None
    for p in made.cells:
        if p.cell.stage != "trial" and p.cell.name != "small":
            continue
        agent = AgentConfig(p.cell.arm, "expert")
        expert = registry.build_policy(agent)
        share = {"token": 0.4, "ours": 0.2}.get(p.cell.arm, 0.0)
        policy = Clumsy(expert, p.cell.name, share, p.cell.name == "ours-s3")
        run = harness.evaluate(
            agent, what.env, tasks=what.task_set(), out=out / "results", workers=1, policy=policy,
            reference=None if teacher is None else str(teacher),
        )  # fmt: skip
        teacher = teacher or run.path
        runs, trial = {what.name: str(run.path.relative_to(out))}, plan.trial_hash(made.grid)
        record = plan.Done(p.key, None, runs, 2.5, 0.0, 0.0, trial, None, (), None)
        (out / "cells" / f"{p.cell.name}.json").write_bytes(msgspec.json.encode(record))
    return made, out


def test_a_table_has_what_its_means_rest_on(finished):
    made, out = finished
    found = {arm.name: arm for arm in report.arms(made, out)}
    tables = dict(report.tables(made, list(found.values())))
    success, *_, matched, rests, broken = tables.values()
    assert [row[0] for row in success] == ["Method", "small", "token", "ours"]
    assert all("[" in row[1] and row[2] == "-" for row in success[1:])  # nothing at fixed steps
    assert rests[0][:3] == ["Method", "N_r : N_a", "seeds"]
    name = "alfworld/builtin-valid[:15]"
    for arm, row in zip(("small", "token", "ours"), rests[1:], strict=True):
        whole = report.mean(found[arm].runs[name], report.QUANTITIES[0].value)
        assert row[:4] == [arm, "2.50", str(len(found[arm].runs[name])), (
            f"{whole.n} ({whole.effective:.0f})"
        )]  # fmt: skip
    assert [row[1].split(" / ")[0] for row in broken[1:]] == ["0", "0", "1"]
    rows = [row for run in found["ours"].runs[name].values() for row in run.metrics]
    f1 = np.mean([row.cot_f1 for row in rows if row.cot_f1 is not None])
    assert matched[1][1] == "-"  # the teacher's own traces are the reference
    assert matched[3][1].split(" / ")[1] == f"{100 * f1:.1f}"


def test_a_comparison_tells_ties_and_the_other_effects(finished):
    made, out = finished
    ((first, *told),) = report.verdicts(made, out, report.arms(made, out))
    assert first == "Endpoint, alfworld/builtin-valid[:15]:"
    text = "\n".join(told)
    pairs, ours, token, alike, of = (
        int(re.search(pattern, text)[1])
        for pattern in (
            r"(\d+) pairs over", r"only ours won (\d+)", r"only token won (\d+)",
            r"ended alike: (\d+)", r"ended alike: \d+ of (\d+)\.",
        )
    )  # fmt: skip
    assert pairs == of == 3 * 15 - 1
    assert alike == pairs - ours - token
    assert ours > 0
    assert any(line.startswith("CoT overlap: ") for line in told)
    assert any(line.startswith("Steps, both solved: ") and "interval" in line for line in told)


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 3, 1)])
def test_a_student_meets_the_one_of_its_own_seed(finished, order):
    """Whichever run has which seed: they share the order of samples, and so some of their luck."""
    made, out = finished
    name = "alfworld/builtin-valid[:15]"
    ours, token = (
        next(arm for arm in report.arms(made, out) if arm.name == wanted)
        for wanted in ("ours", "token")
    )
    runs = {seed: token.runs[name][other] for seed, other in zip((1, 2, 3), order, strict=True)}
    only = {"ours": 0, "token": 0}
    for seed, run in runs.items():
        theirs = {row.task_id: row.success for row in run.metrics}
        for row in ours.runs[name][seed].metrics:
            if row.success is not None:
                only["ours"] += row.success > theirs[row.task_id]
                only["token"] += row.success < theirs[row.task_id]
    [told] = report.compared(made, [ours, token._replace(runs={name: runs})], ("ours", "token"))
    for arm, count in only.items():
        assert f"only {arm} won {count}" in " ".join(told)


def test_alike_is_what_lies_within_the_grids_margin(finished):
    """A verdict by another margin than the one that was written down first would be chosen late."""
    made, out = finished
    found = report.arms(made, out)
    for margin, verdict in ((3.0, "Tied: not told apart"), (100.0, "Equivalent within 100 points")):
        trial = msgspec.structs.replace(made.grid.trial, margin=margin)
        under = msgspec.structs.replace(made, grid=msgspec.structs.replace(made.grid, trial=trial))
        [told] = report.compared(under, found, ("ours", "token"))
        assert any(line.startswith(verdict) for line in told)


def test_of_rates_that_win_alike_the_first_is_chosen():
    """By the share that they won, whatever the order and number of what they played."""

    def tried(lr: float, won: int, n: int = 10) -> beforehand.Tried:
        return beforehand.Tried(lr, won, n, 0, Path())

    assert beforehand.best([tried(1e-3, 4), tried(2e-3, 7), tried(4e-3, 7)]).lr == 2e-3
    assert beforehand.best([tried(1e-3, 7), tried(2e-3, 4)]).lr == 1e-3
    assert beforehand.best([tried(1e-3, 7, 20), tried(2e-3, 6)]).lr == 2e-3


def test_broken_episodes_choose_no_learning_rate(finished, tmp_path):
    made, out = finished
    student = next(p.cell for p in made.cells if p.cell.name == "ours-s1")
    dev = made.grid.trial.dev
    found = {}
    for name, share in zip(student.tuned_by, (0.0, 0.5), strict=True):
        agent = AgentConfig("ours", "expert")
        policy = Clumsy(registry.build_policy(agent), name, share, share > 0)
        found[name] = harness.evaluate(
            agent, dev.env, tasks=dev.task_set().varied(max_steps=20), out=tmp_path, workers=1,
            policy=policy,
        )  # fmt: skip
        planned = next(p for p in made.cells if p.cell.name == name)
        runs = {dev.name: str(found[name].path)}
        record = plan.Done(planned.key, None, runs, 2.5, 0.0, 0.0, "", None, (), None)
        (out / "cells" / f"{name}.json").write_bytes(msgspec.json.encode(record))
    first, second = found.values()
    [row] = beforehand.tuning_table(made, out)[1:]
    assert row[0] == "ours"
    assert row[1] == f"{first.summary.successes} of 3"
    assert row[2] == f"{second.summary.successes} of 3, 1 broke"
    assert row[3] == "-"
    with pytest.raises(ConfigError, match=r"1 of 3 episodes of .* broke.*\n.*played again"):
        beforehand.tuned(made, out, student)
    undone = tuple(
        msgspec.structs.replace(p, key="other") if p.cell.name == "ours-s1" else p
        for p in made.cells
    )
    waits = campaigns.to_do(msgspec.structs.replace(made, cells=undone), out, "tuning")
    assert set(student.tuned_by) & {p.cell.name for p in waits} == {student.tuned_by[1]}
    assert student.tuned_by[1] not in {p.cell.name for p in campaigns.to_do(made, out, "tuning")}
    harness.resume(second.path, retry_errors=True, policy=policy)
    assert beforehand.tuned(made, out, student).optim.lr == 0.001  # the earlier of equals
    assert beforehand.tuning_table(made, out)[1][3] == "0.001 (the lowest tried)"


def test_each_arm_is_compared_over_all_seeds_it_has(finished):
    """A third arm with one seed takes none from the other two."""
    made, out = finished
    found = report.arms(made, out)
    token = next(arm for arm in found if arm.name == "token")
    few = {name: {1: runs[1]} for name, runs in token.runs.items()}
    told = report.compared(
        made, [*found, token._replace(name="few", runs=few)], ("ours", "token", "few")
    )
    assert [re.search(r"(\d+) pairs over", " ".join(part))[1] for part in told] == ["44", "15"]
    # Who compares with two arms has two chances: p is Holm's.
    p = [re.search(r"p = ([^ ,]+)(?:, adjusted for all comparisons ([^ ]+))?", " ".join(part))
         for part in told]  # fmt: skip
    assert any(one[2] for one in p)
    adjusted = paired.holm([float(one[1]) for one in p])
    assert [float(one[2] or one[1]) for one in p] == pytest.approx(adjusted, rel=0.02)


def test_who_is_trained_on_other_episodes_is_told():
    told = "\n".join(beforehand.preregistration(plan.make(grid.load("table3", "tiny"), {}), Path()))
    assert "seqkd, sad-ce: those won of 4,500 of teacher-tiny. sft: those won of 12,361 of" in told
    assert "Holm over the arms of a comparison (1, 2, 3, 3; not over all 9 together)" in told
    assert "(played after 800, 1,600 steps of 4,096 tokens)" in told
    told = "\n".join(beforehand.preregistration(plan.make(grid.load("table5", "tiny"), {}), Path()))
    assert "trained on other" not in told


def test_no_table_is_wider_than_a_terminal(finished):
    """Of 100 columns: no word is cut, no number lost."""
    made, out = finished
    shown = report.tables(made, report.arms(made, out))
    for table, scale in SHIPPED:
        planned = plan.make(grid.load(table, scale), {})
        shown += [("Plan", estimates.cells_table(planned, out)), report.paper(planned)]
        ends = [c.name for c in planned.grid.columns]
        cells = ["100.0 [99.9, 100.0]"] * len(ends)
        shown.append((planned.grid.description, [["Method", *ends], ["flat-curriculum", *cells]]))
    for title, rows in shown:
        page = Console(width=100, file=io.StringIO())
        page.print(cli.fitting(page, title, rows))
        printed = page.file.getvalue()
        assert "…" not in printed
        for row in rows[1:]:
            for cell in row:
                assert all(word in printed for word in cell.split(" [")), (title, cell)

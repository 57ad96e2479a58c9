"""Comparisons: pairing, statistics against known values and by simulation, what is refused."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import harness
from harness import api, paired
from harness.cli import app
from harness.comparison import compare_all
from harness.comparison_text import markdown, rows, sentences, table, units, verdict
from harness.errors import ConfigError, TraceError
from harness.retention import retention
from harness.runs import Run, read_metrics, write_meta, write_metrics
from harness.sides import find_side
from harness.types import Outcome

TASKS = "builtin-dev[:60]"


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Real runs: the expert, one that errs half of the time, random."""
    out = tmp_path_factory.mktemp("runs")
    return out, {
        name: harness.evaluate(name, "alfworld", tasks=TASKS, out=out)
        for name in ("expert", "random")
    }


def edited(run: Run, folder, change, **meta) -> Run:
    """A copy of a run with other rows, as another agent's."""
    write_meta(folder, msgspec.structs.replace(run.meta, **meta))
    write_metrics(folder, [change(i, row) for i, row in enumerate(run.metrics)])
    return Run(folder)


def losing(share):
    """Rows of which every task whose number is in ``share`` is lost."""
    return lambda i, row: msgspec.structs.replace(row, success=i not in share)


def breaking(which):
    """Rows of which those numbered in ``which`` broke."""

    def change(i, row):
        if i not in which:
            return row
        return msgspec.structs.replace(row, outcome=Outcome.ERROR, success=None, score=None)

    return change


def repeated(run: Run, folder, change, seeds=(0, 1, 2), **meta) -> Run:
    """A copy of a run as if played with several evaluation seeds."""
    write_meta(folder, msgspec.structs.replace(run.meta, seeds=tuple(seeds), **meta))
    rows = [msgspec.structs.replace(row, seed=s) for s in seeds for row in run.metrics]
    write_metrics(folder, [change(i, row) for i, row in enumerate(rows)])
    return Run(folder)


def test_the_better_agent_is_told_and_how_sure(played):
    _, runs = played
    found = harness.compare(runs["expert"], runs["random"], draws=2000)
    assert found.verdict == "a"
    assert found.success.difference == pytest.approx(
        runs["expert"].summary.success - runs["random"].summary.success
    )
    assert found.success.low <= found.success.difference <= found.success.high
    assert (found.pairs, found.replicates, found.only_b) == (60, 1, 0)
    assert found.p < 1e-9
    assert sum(p.n for p in found.by_type) == 60
    assert "expert is better" in " ".join(sentences(found))


def test_exchanging_the_sides_changes_the_sign_and_nothing_else(played):
    _, runs = played
    one = harness.compare(runs["expert"], runs["random"], draws=500)
    other = harness.compare(runs["random"], runs["expert"], draws=500)
    assert one.success.difference == -other.success.difference
    assert one.success.low == pytest.approx(-other.success.high)
    assert (one.only_a, one.only_b, one.p) == (other.only_b, other.only_a, other.p)
    assert (one.verdict, other.verdict) == ("a", "b")
    assert not one.equivalent
    assert not other.equivalent


def test_an_agent_ties_with_its_twin_and_is_equal_only_as_far_as_the_tasks_reach(played, tmp_path):
    _, runs = played
    twin = edited(runs["expert"], tmp_path / "twin", lambda _, row: row)
    found = harness.compare(runs["expert"], twin, draws=500)
    assert (found.success.difference, found.p, found.verdict) == (0.0, 1.0, "tied")
    assert harness.compare(runs["expert"], twin, draws=500, margin=0.1).verdict == "equivalent"
    assert 0.03 < found.detectable < 0.15


def test_a_small_difference_on_few_tasks_is_tied_and_not_equivalent(played, tmp_path):
    _, runs = played
    worse = edited(runs["expert"], tmp_path / "worse", losing({3, 30}))
    found = harness.compare(runs["expert"], worse, draws=2000)
    assert found.verdict == "tied"
    assert (found.only_a, found.only_b) == (2, 0)
    assert "not the same as equal" in " ".join(sentences(found))


def test_broken_episodes_enter_no_pair_and_are_told(played, tmp_path):
    _, runs = played
    broken = edited(runs["expert"], tmp_path / "broken", breaking(range(10)))
    found = harness.compare(broken, runs["expert"], draws=500)
    assert (found.pairs, found.errors_a, found.errors_b) == (50, 10, 0)
    assert found.success.difference == 0.0
    assert found.lost.difference == pytest.approx(-10 / 60)
    text = " ".join(sentences(found))
    assert "10 episodes of expert" in text
    assert "Counted as lost, the difference is -16.7" in text


def test_an_agent_that_breaks_where_the_other_wins_is_worse(played, tmp_path):
    _, runs = played
    broken = edited(runs["expert"], tmp_path / "broken", breaking(range(20)))
    found = harness.compare(broken, runs["expert"], draws=500)
    assert (found.verdict, found.worse) == ("tied", True)
    assert not harness.compare(runs["expert"], broken, draws=500).worse
    once = edited(runs["expert"], tmp_path / "once", breaking({1}))
    assert not harness.compare(once, runs["expert"], draws=500).worse
    command = ["compare", str(broken.path), str(runs["expert"].path), "--fail-if-worse"]
    assert CliRunner().invoke(app, command).exit_code == 1


def test_errors_of_one_run_count_once_however_many_it_meets(played, tmp_path):
    _, runs = played
    broken = edited(runs["expert"], tmp_path / "broken", breaking(range(6)))
    others = [edited(runs["expert"], tmp_path / f"o{k}", losing({k})) for k in range(3)]
    found = harness.compare(broken, others, draws=200)
    assert (found.errors_a, found.errors_b) == (6, 0)
    assert "6 episodes of expert" in " ".join(sentences(found))


def test_no_copy_and_no_second_run_of_the_same_weights_is_a_training_seed(played, tmp_path):
    _, runs = played
    again = edited(runs["random"], tmp_path / "again", lambda i, row: row)
    with pytest.raises(ConfigError, match="is a copy of"):
        harness.compare([runs["random"], again], runs["expert"])
    said = {"weights_sha256": "a" * 64, "decoding": {"temperature": 1.0}}
    two = [
        edited(runs["random"], tmp_path / n, losing({k}), policy=said) for k, n in enumerate("ab")
    ]
    with pytest.raises(ConfigError, match=r"by the same weights as(?s:.*)--seeds"):
        harness.compare(two, runs["expert"])
    other = {**said, "weights_sha256": "b" * 64}
    two[1] = edited(runs["random"], tmp_path / "c", losing({1}), policy=other)
    assert harness.compare(two, runs["expert"], draws=200).replicates == 2


def test_replicates_are_paired_and_tested_over_seeds(played, tmp_path):
    _, runs = played
    ours = [edited(runs["expert"], tmp_path / f"a{s}", losing({s, s + 1})) for s in range(3)]
    theirs = [
        edited(runs["expert"], tmp_path / f"b{s}", losing(set(range(s, s + 24 + s))))
        for s in range(3)
    ]
    found = harness.compare(ours, theirs, draws=2000)
    assert (found.replicates, found.pairs, found.tasks) == (3, 180, 60)
    assert found.success.difference == pytest.approx((22 + 23 + 24) / 180)
    assert (found.verdict, found.test) == ("a", "t over training seeds and tasks")
    assert "another training seed" not in " ".join(sentences(found))
    single = harness.compare(ours, theirs[:1], draws=500)
    assert (single.replicates, single.runs_a, single.runs_b) == (3, 3, 1)
    assert "another training seed" in " ".join(sentences(single))
    with pytest.raises(ConfigError, match="equally many"):
        harness.compare(ours, theirs[:2])
    with pytest.raises(ConfigError, match="named twice"):
        harness.compare([ours[0], ours[0]], theirs[:2])


def test_evaluation_seeds_are_no_training_seeds(played, tmp_path):
    """One run against one: repeats are averaged, tasks stay the units, the warning stands."""
    _, runs = played
    lost = {i + 60 * s for s in range(3) for i in range(0, 60, 10)}
    ours = repeated(runs["expert"], tmp_path / "a", lambda _, row: row)
    theirs = repeated(runs["expert"], tmp_path / "b", losing(lost))
    once = edited(runs["expert"], tmp_path / "c", losing(set(range(0, 60, 10))))
    found = harness.compare(ours, theirs, draws=2000)
    assert (found.pairs, found.tasks, found.replicates) == (180, 60, 1)
    single = harness.compare(runs["expert"], once, draws=2000)
    assert found.success.difference == pytest.approx(single.success.difference)
    width, plain = (c.success.high - c.success.low for c in (found, single))
    assert width == pytest.approx(plain, rel=0.1)
    assert found.p == pytest.approx(single.p)
    assert "nothing of another training seed" in " ".join(sentences(found))


def test_episodes_without_a_partner_are_told(played, tmp_path):
    _, runs = played
    more = repeated(runs["random"], tmp_path / "m", lambda _, row: row)
    found = harness.compare(runs["expert"], more, draws=200)
    assert (found.pairs, found.unmatched_a, found.unmatched_b) == (60, 0, 120)
    assert "120 episodes of random" in " ".join(sentences(found))


def test_rows_that_are_missing_or_doubled_are_refused(played, tmp_path):
    _, runs = played
    run = runs["expert"]
    for name, kept in (("few", run.metrics[:5]), ("double", [*run.metrics[:-1], run.metrics[0]])):
        write_meta(tmp_path / name, run.meta)
        write_metrics(tmp_path / name, kept)
        with pytest.raises(TraceError, match="harness score"):
            harness.compare(Run(tmp_path / name), runs["random"])


def test_verdicts_of_several_comparisons_are_those_of_adjusted_p(played, tmp_path):
    _, runs = played
    sides = [runs["expert"]] + [
        edited(runs["expert"], tmp_path / str(k), losing(set(range(6)))) for k in range(5)
    ]
    alone = harness.compare(sides[0], sides[1], draws=500)
    assert (alone.verdict, alone.p < 0.05) == ("a", True)
    together = compare_all(sides, draws=500)
    assert {c.verdict for c in together} == {"tied"}
    assert together[0].success.low > 0
    told = "(the interval leaves 0 out, but p, adjusted for all comparisons, decides)"
    assert told in verdict(together[0])
    assert "leaves 0 out" not in verdict(alone)
    assert harness.compare(sides[1], sides[0], draws=500).worse


def test_the_sides_must_agree_in_all_that_decides_a_score(played, tmp_path):
    _, runs = played
    older = edited(runs["expert"], tmp_path / "v", lambda _, row: row, env_version="0")
    with pytest.raises(ConfigError, match="version 0"):
        harness.compare(runs["expert"], older)
    task_set = runs["expert"].meta.task_set
    protocol = msgspec.structs.replace(task_set.protocol, max_steps=400)
    changed = edited(
        runs["expert"], tmp_path / "h", lambda _, row: row,
        task_set=msgspec.structs.replace(task_set, protocol=protocol),
    )  # fmt: skip
    with pytest.raises(TraceError, match="changed after the run"):
        harness.compare(runs["expert"], changed)


def test_overlap_with_different_references_is_not_compared(played, tmp_path):
    _, runs = played
    other = edited(
        runs["expert"],
        tmp_path / "r",
        lambda _, row: row,
        reference="oracle",
        reference_hash="0" * 16,
    )
    names = [p.name for p in harness.compare(runs["random"], runs["expert"], draws=200).others]
    assert "CoT overlap" in names
    names = [p.name for p in harness.compare(runs["random"], other, draws=200).others]
    assert "CoT overlap" not in names
    # Where one run does not tell its traces, those that do must still agree.
    told = [
        edited(runs["random"], tmp_path / str(k), losing({k}), reference_hash=said)
        for k, said in enumerate(("0" * 16, "1" * 16))
    ]
    silent = edited(runs["expert"], tmp_path / "n", losing({2}), reference_hash=None)
    names = [p.name for p in harness.compare(told[0], silent, draws=200).others]
    assert "CoT overlap" in names
    names = [p.name for p in harness.compare(told, silent, draws=200).others]
    assert "CoT overlap" not in names


def test_match_with_traces_that_changed_under_one_name_is_not_compared(tmp_path):
    """An agent's folder means its newest run; and a run may get other episodes."""

    def run(agent, **options):
        return harness.evaluate(agent, "alfworld", tasks="builtin-dev[:6]", out=tmp_path, **options)

    def matched(a, b):
        return "CoT overlap" in [part.name for part in harness.compare(a, b, draws=200).others]

    newest = {"reference": str(tmp_path / "alfworld" / "expert")}
    first = run("expert")
    a, again = run("random", **newest), run("random", seeds=(0, 1), **newest)
    assert {a.meta.reference, again.meta.reference} == {str(first.path)}
    assert matched(a, again)
    run("expert", seeds=(3,))
    b = run("random", seeds=(0, 2), **newest)
    assert b.meta.reference != a.meta.reference
    assert not matched(a, b)
    api.score(a.path, tmp_path)
    assert (Run(a.path).meta.reference, matched(Run(a.path), again)) == (str(first.path), True)
    # Other episodes of the same run.
    lines = (first.path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (first.path / "episodes.jsonl").write_bytes(b"".join(lines[:-1]))
    api.score(again.path, tmp_path)
    assert Run(again.path).meta.reference == a.meta.reference
    assert not matched(Run(a.path), Run(again.path))
    # Of runs from before this was told, the name alone is known.
    write_meta(again.path, msgspec.structs.replace(Run(again.path).meta, reference_hash=None))
    assert matched(Run(a.path), Run(again.path))


def test_cot_match_is_told_in_percent_and_steps_for_what_they_are(played, tmp_path):
    _, runs = played
    found = harness.compare(runs["expert"], runs["random"], draws=200)
    part = next(p for p in found.others if p.name == "CoT overlap")
    cells = next(row for row in rows(found) if row[0] == "CoT overlap")
    assert (part.a, cells[3]) == (1.0, "100.0")
    assert "CoT match in percent" in units(found)
    other = edited(
        runs["expert"],
        tmp_path / "r",
        lambda _, row: row,
        reference="oracle",
        reference_hash="0" * 16,
    )
    assert "CoT" not in units(harness.compare(runs["random"], other, draws=200))
    words = next(p for p in found.others if p.name == "reasoning words a step")
    own = [r.reasoning_words / r.n_steps for r in runs["expert"].metrics]
    assert words.a == pytest.approx(np.mean(own))
    assert "mean of each episode's own" in units(found)
    assert units(found) in markdown([found])


def test_what_rows_cannot_tell_is_a_dash(played):
    _, runs = played
    found = harness.compare(runs["random"], runs["expert"], draws=200)
    solved = next(p for p in found.others if p.name == "steps, both solved")
    assert (solved.n < 10, solved.low) == (True, None)
    small = [p for p in found.by_type if p.units < 10]
    assert small
    assert {p.low for p in small} == {None}
    cells = next(row for row in rows(found) if row[0] == "success")
    assert cells[1:3] == ["60", str(found.success.units)]


@pytest.mark.parametrize("margin", [-0.01, 0.0, float("nan"), float("inf"), 1.5])
def test_a_margin_is_a_share(played, margin):
    with pytest.raises(ConfigError, match="margin"):
        harness.compare(played[1]["expert"], played[1]["random"], margin=margin)


def test_two_runs_of_one_agent_are_told_apart(played, tmp_path):
    _, runs = played
    other = edited(runs["expert"], tmp_path / "again", losing({4}))
    found = harness.compare(runs["expert"], other, draws=200)
    assert found.b == "expert (again)"
    assert found.a == f"expert ({runs['expert'].path.name})"


def test_the_tasks_that_differ_are_named(played, tmp_path):
    _, runs = played
    other = edited(runs["expert"], tmp_path / "d", losing({4, 7}))
    found = harness.compare(runs["expert"], other, draws=200)
    lost = {runs["expert"].metrics[i].task_id for i in (4, 7)}
    assert {(d.task_id, d.difference) for d in found.differing} == {(t, 1.0) for t in lost}
    assert all(t in " ".join(sentences(found)) for t in lost)


def test_runs_that_score_different_things_do_not_meet(played, tmp_path):
    out, runs = played
    other = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:20]", out=tmp_path)
    with pytest.raises(ConfigError, match="score different things"):
        harness.compare(runs["expert"], other)
    slipped = edited(runs["expert"], tmp_path / "s", lambda _, row: row, error_rate=0.1)
    with pytest.raises(ConfigError, match="slips"):
        harness.compare(runs["expert"], slipped)
    stopped = edited(runs["expert"], tmp_path / "t", lambda _, row: row, status="running")
    with pytest.raises(ConfigError, match="--resume"):
        harness.compare(runs["expert"], stopped)
    with pytest.raises(ConfigError, match="no folder of runs so called"):
        find_side("expart", out, None, None)


def test_several_agents_are_adjusted_together(played, tmp_path):
    _, runs = played
    sides = [runs["expert"]] + [
        edited(runs["expert"], tmp_path / str(k), losing(set(range(k)))) for k in (5, 7, 9)
    ]
    found = compare_all(sides, draws=500)
    assert [c.p_holm for c in found] == paired.holm([c.p for c in found])
    assert all(c.p_holm >= c.p for c in found)


def test_the_command_prints_tables_and_fails_where_asked(played):
    out, _ = played
    call = CliRunner().invoke
    good = call(app, ["compare", "expert", "random", "--out", str(out), "--fail-if-worse"])
    assert good.exit_code == 0
    assert "expert is better" in good.stdout
    bad = call(app, ["compare", "random", "expert", "--out", str(out), "--fail-if-worse"])
    assert bad.exit_code == 1
    as_json = call(app, ["compare", "expert", "random", "--out", str(out), "--json"])
    assert json.loads(as_json.stdout)[0]["only_b"] == 0
    assert json.loads(as_json.stdout)[0]["verdict"] == "a"
    as_text = call(app, ["compare", "expert", "random", "--out", str(out), "--markdown"])
    assert "| success | 60 | " in as_text.stdout


@pytest.mark.parametrize("width", [80, 100])
def test_a_terminal_cuts_no_number_for_an_agents_name(played, width):
    _, runs = played
    c = msgspec.structs.replace(
        harness.compare(runs["expert"], runs["random"], draws=500),
        a="teacher-tiny+admissible+t0.2 (20260101T000000Z-0123abcd)",
        b="ours-tiny+admissible+t0.2",
    )
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table(c, width))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in capture.get()
    assert sum("difference" in line for line in lines) == 1
    for name, *_, a, b, gap, interval in rows(c):
        numbers = f"{a} {b} {gap} {interval}".split()
        told = [x.replace("│", " ").split() for x in lines if name.strip()[:20] in x]
        assert numbers in [words[-len(numbers) :] for words in told]


def test_a_score_that_is_the_success_is_told_once(played, tmp_path):
    _, runs = played
    half = edited(
        runs["random"], tmp_path / "half", lambda _, row: msgspec.structs.replace(row, score=0.5)
    )
    for other, told in ((runs["random"], False), (half, True)):
        c = harness.compare(runs["expert"], other, draws=500)
        assert ("score" in [name for name, *_ in rows(c)]) is told


def test_markdown_and_sentences_agree_with_the_rows(played):
    _, runs = played
    found = harness.compare(runs["expert"], runs["random"], draws=500)
    assert all(line in markdown([found]) for line in sentences(found))
    assert read_metrics(runs["expert"].path / "metrics.jsonl") == runs["expert"].metrics


def test_a_student_is_told_beside_its_teacher(played, tmp_path):
    """Either way round, and with a teacher that won nothing: no share at all."""
    _, runs = played
    agent = msgspec.structs.replace(runs["expert"].meta.agent, name="tutor", role="teacher")
    teacher = edited(runs["expert"], tmp_path / "t", losing(range(10)), agent=agent)
    student = edited(runs["expert"], tmp_path / "s", losing(range(5, 35)))
    one, other = harness.compare(teacher, student), harness.compare(student, teacher)
    assert one.retained == other.retained
    assert (one.retained.student, one.retained.teacher) == ("expert", "tutor")
    assert one.retained.share == pytest.approx(30 / 50)
    assert 0.4 < one.retained.low < 0.6 < one.retained.high < 0.8
    assert "expert keeps 60.0 % of tutor's success" in " ".join(sentences(one))
    assert harness.compare(student, runs["random"]).retained is None  # no teacher
    assert harness.compare(teacher, edited(teacher, tmp_path / "u", losing(()))).retained is None
    lost = edited(teacher, tmp_path / "n", losing(range(60)))
    assert harness.compare(lost, student).retained is None


def test_retention_of_a_teacher_that_hardly_wins_has_no_upper_end():
    """Two seeds, one of which won nothing; and the student's own zero is no certainty."""
    seeds, tasks = np.repeat([0, 1], 30), np.tile(np.arange(30), 2)
    rng = np.random.default_rng(0)
    teacher = ((rng.random(60) < 0.5) & (seeds == 0)).astype(float)
    found = retention((rng.random(60) < 0.3).astype(float), teacher, tasks, seeds)
    assert found.low < found.ratio < found.high == float("inf")
    one = np.zeros(30, dtype=np.int64)
    none = retention(np.zeros(30), (np.arange(30) < 20).astype(float), np.arange(30), one)
    assert none.ratio == none.low == 0 < none.high < 0.4


def test_cot_above_chance_is_f1_over_the_f1_of_chance(played):
    _, runs = played
    found = {p.name: p for p in harness.compare(runs["expert"], runs["random"], draws=100).others}
    rows = [r for r in runs["expert"].metrics if r.cot_floor_f1 is not None]
    assert any(r.cot_floor != r.cot_floor_f1 for r in rows)
    above = found["CoT F1 above chance"]
    assert above.a == pytest.approx(np.mean([r.cot_f1 - r.cot_floor_f1 for r in rows]))


def test_retention_of_a_student_that_wins_few_tasks_is_known_from_these_alone():
    """However many repeats of them there are, and though all seeds agree."""
    task, turn = np.tile(np.arange(40), 3), np.repeat(np.arange(3), 40)
    teacher, one = (task % 4 > 0).astype(float), 0 * turn
    always = ((task < 8) & (teacher > 0)).astype(float)
    seeds, repeats = retention(always, teacher, task, turn), retention(always, teacher, task, one)
    assert (seeds.low <= repeats.low, seeds.high >= repeats.high) == (True, True)
    once = ((task < 9) & (turn == task % 3)).astype(float)
    tasks = retention(once, teacher, task, one)
    rows = retention(once, teacher, np.arange(120), one)
    assert tasks.low < 0.8 * rows.low
    assert tasks.high > 1.2 * rows.high

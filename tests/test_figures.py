"""Figures: their numbers are the leaderboard's, their bytes repeat, hostile names stay text."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import harness
from harness import drawing, figures, leaderboard
from harness.cli import app
from harness.errors import ConfigError, MissingDependency, TraceError
from harness.figures import Mark, Panel, Series, Strip
from harness.metrics import EpisodeMetrics
from harness.runs import Run, find_runs, write_meta, write_metrics
from harness.types import Outcome

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
HOSTILE = [
    "$\\frac{a}{$",
    "</text><script>alert(1)</script>",
    "\x1b[2J\x07",
    "\uffff & <b>",
    "名前",
]
LOG = [
    {"step": i, "loss": 3.0 / i, "reason": 2.0 / i, "n_reason": 9, "act": 1.0 / i, "n_act": 3}
    | ({"heldout": {"reason": 1.5 / i}} if i % 10 == 0 else {})
    for i in range(1, 1001)
]


@pytest.fixture(scope="module")
def boards():
    """The reference runs that the project keeps: tiny students and their teacher."""
    return leaderboard.boards(find_runs(REFERENCE), teacher="teacher-tiny")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Students of three sizes by two methods, and a teacher: real metrics, described anew."""
    out = tmp_path_factory.mktemp("family")
    run = harness.evaluate("random", "alfworld", tasks="builtin-dev[:20]", out=out / "played")
    rows = run.metrics
    for method in ("sad", "kd"):
        for i, size in enumerate((120, 340, 760)):
            won = 12 - 3 * i if method == "kd" else 14 - 3 * i
            add(out, run, f"{method}-{size}m", rows, won, size * 10**6, method)
    add(out, run, "big", rows, 2, 1500 * 10**6, "sft", role="teacher")
    add(out, run, "guess", rows, 18, None, None)
    return out


def add(out, run, name, rows, lost, size, method, role="student"):
    folder = out / "alfworld" / name / "r1"
    agent = msgspec.structs.replace(run.meta.agent, name=name, role=role)
    policy = {} if size is None else {"parameters": size, "method": method}
    write_meta(folder, msgspec.structs.replace(run.meta, agent=agent, policy=policy))
    changed = [
        msgspec.structs.replace(
            r, success=i >= lost, reasoning_tokens=(i % 5 + 4) * r.n_steps, cot_overlap=i / 40
        )
        for i, r in enumerate(rows)
    ]
    write_metrics(folder, changed)


def test_every_mark_is_the_leaderboards_number(family):
    found = leaderboard.boards(find_runs(family))
    skipped = []
    (strip,) = figures.scaling(found, on_skip=skipped.append)
    assert [t.partition(" on ")[0] for t in skipped] == ["guess"]
    rows = {row.agent: row.summary for row in found[0].rows}
    told = {
        "Success": lambda s: 100 * s.success,
        "Reasoning": lambda s: s.reasoning_tokens_per_step,
        "CoT overlap": lambda s: 100 * s.cot_overlap,
        "Steps": lambda s: s.steps,
    }
    assert [p.name for p in strip.panels] == list(told)
    for panel in strip.panels:
        assert [s.name for s in panel.series] == ["kd", "sad"]
        assert [m.label for m in panel.levels] == ["big"]
        for series in panel.series:
            assert [m.x for m in series.marks] == [120e6, 340e6, 760e6]
            assert all(m.label.startswith(series.name) for m in series.marks)
        for m in (*panel.levels, *(m for s in panel.series for m in s.marks)):
            assert m.y == pytest.approx(told[panel.name](rows[m.label]))
            if panel.name != "Steps":
                assert m.low < m.y < m.high
    success = strip.panels[0].series[1].marks[0]
    wilson = rows["sad-120m"]
    assert (success.low, success.high) == (100 * wilson.success_low, 100 * wilson.success_high)


def test_a_ratios_interval_is_the_delta_methods(family):
    """Twenty tasks of one episode: Student's t with the textbook's variance of a ratio."""
    from scipy.stats import t

    (strip,) = figures.scaling(leaderboard.boards(find_runs(family)))
    mark = strip.panels[1].series[0].marks[0]
    rows = Run(family / "alfworld" / "kd-120m" / "r1").metrics
    n, steps = len(rows), sum(r.n_steps for r in rows)
    ratio = sum(r.reasoning_tokens for r in rows) / steps
    left = [r.reasoning_tokens - ratio * r.n_steps for r in rows]
    error = math.sqrt(sum(x * x for x in left) / (n - 1) / n) / (steps / n)
    student = t.ppf(0.975, n - 1) * error
    assert mark.high - mark.y >= student * (1 - 1e-9)
    assert mark.high - mark.y < 1.3 * student


def test_intervals_of_plots_cover():
    """200 worlds of two seeds a task. A hard task takes more steps and more words in each: their
    ratio is no mean of the episodes' own. 99.9 % of counts at a true 95 % are 180 or more."""
    rng = np.random.default_rng(0)
    covered, tasks = np.zeros(2, dtype=int), 30
    # Steps are 5 + Poisson(10 h), words steps times (20 + 10 h), hardness h uniform.
    truth = 5 + 10 / 2, (100 + 250 / 2 + 100 / 3) / 10
    for _ in range(200):
        hard = np.repeat(rng.random(tasks), 2)
        steps = 5 + rng.poisson(10 * hard)
        words = rng.poisson(steps * (20 + 10 * hard))
        rows = [episode_row(f"t{i // 2}", i % 2, *map(int, x))
                for i, x in enumerate(zip(steps, words, strict=True))]  # fmt: skip
        for k, (value, low, high) in enumerate((
            figures.mean_interval(rows, lambda r: r.n_steps),
            figures.ratio_interval(rows, lambda r: r.reasoning_words),
        )):  # fmt: skip
            assert low < value < high
            covered[k] += low <= truth[k] <= high
    assert covered.min() >= 180


def episode_row(task, seed, steps, words):
    return EpisodeMetrics(
        task, seed, 0, "t", Outcome.DONE, True, 1.0, steps, 0, words, 0, None, None, None, None,
        1.0, 1.0, 0.0,
    )  # fmt: skip


def test_lines_can_be_told_and_a_lone_agent_has_none(tmp_path):
    shutil.copytree(REFERENCE / "alfworld", tmp_path / "alfworld")
    for run in find_runs(tmp_path):
        if run.meta.agent.name == "token-tiny":
            policy = {k: v for k, v in run.meta.policy.items() if k != "method"}
            write_meta(run.path, msgspec.structs.replace(run.meta, policy=policy))
    lines = {"ours-tiny": "sad", "teacher-tiny": "sad"}
    boards = leaderboard.boards(find_runs(tmp_path), teacher="teacher-tiny")
    found = figures.scaling(boards, lines=lines)
    seen = next(s for s in found if "seen-140" in s.title)
    by_name = {s.name: s for s in seen.panels[0].series}
    assert (by_name["sad"].joined, by_name["token-tiny"].joined) == (True, False)
    assert [m.label for m in seen.panels[0].levels] == ["teacher-tiny"]


def test_a_quantity_that_no_run_tells_makes_no_panel(family, tmp_path):
    run = Run(family / "alfworld" / "sad-120m" / "r1")
    folder = tmp_path / "alfworld" / "x" / "r1"
    write_meta(folder, run.meta)
    write_metrics(folder, [msgspec.structs.replace(r, cot_overlap=None) for r in run.metrics])
    skipped = []
    (strip,) = figures.scaling(leaderboard.boards(find_runs(tmp_path)), on_skip=skipped.append)
    assert [p.name for p in strip.panels] == ["Success", "Reasoning", "Steps"]
    assert [t.partition(" (")[0] for t in skipped] == ["CoT overlap"]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [(776_832, "777k"), (999_600, "1M"), (124_439_808, "124M"), (1_557_611_200, "1.56B")],
)
def test_sizes_are_named_as_they_are_called(parameters, text):
    assert drawing.size_text(parameters) == text


def test_tradeoff_holds_agents_with_counted_reasoning_and_their_front(family):
    found = leaderboard.boards(find_runs(family))
    (strip,) = figures.tradeoff(found)
    panel = strip.panels[0]
    marks = [s.marks[0] for s in panel.series]
    assert len(marks) == 8
    for x, y in panel.front:
        assert not any(m.x <= x and m.y > y for m in marks)
    skipped = []
    played = leaderboard.boards(find_runs(family / "played"))
    with pytest.raises(ConfigError, match="--words"):
        figures.tradeoff(played, on_skip=skipped.append)
    assert skipped
    (strip,) = figures.tradeoff(played, words=True)
    assert strip.panels[0].series[0].name == "random"
    with pytest.raises(ConfigError, match="number of parameters"):
        figures.scaling(played)


def write_log(folder, lines=LOG, tail=b""):
    folder.mkdir(parents=True)
    body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    (folder / figures.LOG).write_bytes(body + tail)
    return folder


def test_training_curves_are_means_of_the_log(tmp_path):
    student = tmp_path / "mine"
    write_log(student / "training", tail=b'{"step": 1001, "re')
    trained, heldout = figures.training([student])
    assert [p.name for p in trained.panels] == ["reason", "act"]
    marks = trained.panels[0].series[0].marks
    assert trained.panels[0].series[0].name == "mine"
    assert len(marks) == 250
    first = LOG[:4]
    assert marks[0].x == 2.5
    assert marks[0].y == pytest.approx(sum(line["reason"] for line in first) / 4)
    assert [p.name for p in heldout.panels] == ["reason"]
    assert len(heldout.panels[0].series[0].marks) == 100
    again = figures.training([student / "training", write_log(tmp_path / "other", LOG[:3])])
    assert [s.name for s in again[0].panels[0].series] == ["mine", "other"]


def test_logs_that_cannot_be_drawn_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs a student's folder"):
        figures.training([])
    with pytest.raises(ConfigError, match="No training log"):
        figures.training([tmp_path])
    with pytest.raises(ConfigError, match="no step yet"):
        figures.training([write_log(tmp_path / "empty", [])])
    with pytest.raises(TraceError, match=r"log\.jsonl:4"):
        figures.training([write_log(tmp_path / "bad", LOG[:3], b'{"loss": 1}\n')])


@settings(deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=200), st.integers(1, 50))
def test_stretches_keep_every_point_once(values, most):
    points = [(float(i), v) for i, v in enumerate(values)]
    found = figures.stretches(points, most)
    assert len(found) <= most
    size = math.ceil(len(points) / most)
    weights = [min(size, len(points) - i * size) for i in range(len(found))]
    total = sum(w * y for w, (_, y) in zip(weights, found, strict=True))
    assert total == pytest.approx(sum(values), abs=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is not None, reason="it is installed")
def test_without_matplotlib_the_error_names_the_extra(boards, tmp_path):
    with pytest.raises(MissingDependency, match=r"distill-harness\[plots\]"):
        drawing.write(figures.tradeoff(boards), tmp_path / "t.svg")
    assert not list(tmp_path.iterdir())


@pytest.mark.plots
def test_the_same_records_give_the_same_bytes(family, boards):
    strips = [*figures.scaling(leaderboard.boards(find_runs(family))), *figures.tradeoff(boards)]
    first = drawing.draw(strips)
    assert drawing.draw(strips) == first
    words = [t.text for t in ElementTree.fromstring(first).iter() if t.tag.endswith("}text")]
    assert {"120M", "340M", "760M", "sad", "kd", "big", "Pareto front"} <= set(words)
    assert b"date" not in first.lower().replace(b"update", b"")


@pytest.mark.plots
def test_a_users_settings_of_matplotlib_change_nothing(boards):
    import matplotlib

    strips = figures.tradeoff(boards)
    first = drawing.draw(strips)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "mine"}):
        assert drawing.draw(strips) == first
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.plots
def test_names_are_text_and_never_mathematics_or_markup():
    series = tuple(Series(n, (Mark(1e6, 5.0, 4.0, 6.0, n),)) for n in HOSTILE)
    panel = Panel(HOSTILE[0], HOSTILE[1], HOSTILE[0], series, sizes=True)
    body = drawing.draw([Strip(HOSTILE[1], (panel,))])
    tree = ElementTree.fromstring(body)
    assert not [e for e in tree.iter() if e.tag.endswith("}script")]
    shown = {t.text for t in tree.iter() if t.tag.endswith("}text")}
    assert {HOSTILE[0], HOSTILE[1], "\\x1b[2J\\x07", "\\uffff & <b>", HOSTILE[4]} <= shown


@pytest.mark.plots
def test_the_command_draws_svg_and_png_and_refuses_the_rest(family, tmp_path):
    def plot(*words):
        return CliRunner().invoke(app, ["plot", *map(str, words)])

    for figure, name in (("scaling", "s.svg"), ("scaling", "s.png"), ("tradeoff", "t.svg")):
        found = plot(figure, "--out", family, "--to", tmp_path / name)
        assert found.exit_code == 0, found.output
        assert str(tmp_path / name) in found.stdout
        body = (tmp_path / name).read_bytes()
        assert body.startswith(b"\x89PNG" if name.endswith("png") else b"<?xml")
    log = write_log(tmp_path / "student" / "training")
    assert plot("training", log, "--to", tmp_path / "l.svg").exit_code == 0
    told = ["--line", "ours=sad-120m,sad-340m", "--teacher", "big"]
    assert plot("scaling", "--out", family, "--to", tmp_path / "o.svg", *told).exit_code == 0
    assert ">ours</text>" in (tmp_path / "o.svg").read_text()
    refused = {
        "Unknown figure": ("pie",),
        "not to": ("tradeoff", "--out", family, "--to", tmp_path / "t.gif"),
        "no paths": ("scaling", tmp_path, "--out", family),
        "NAME=AGENT": ("scaling", "--out", family, "--line", "ours"),
        "on two lines": ("scaling", "--out", family, "--line", "a=big", "--line", "b=big"),
        "Unknown agent": ("scaling", "--out", family, "--teacher", "nobody"),
    }
    for text, words in refused.items():
        found = plot(*words)
        assert isinstance(found.exception, ConfigError)
        assert text in str(found.exception)
    assert sorted(p.name for p in tmp_path.glob(".*")) == []


def test_retention_is_a_share_of_the_teachers_success(family):
    (board,) = leaderboard.boards(find_runs(family))
    assert board.teacher == "big"
    rows = {row.agent: row for row in board.rows}
    assert rows["big"].retention == 1.0
    assert rows["sad-120m"].retention == pytest.approx(6 / 18)
    text = leaderboard.markdown([board])
    assert "| of teacher |" in text
    assert re.search(r"\| sad-120m \|.*\| 33\.3 % \|", text)
    (other,) = leaderboard.boards(find_runs(family), teacher="sad-120m")
    assert {r.agent: r.retention for r in other.rows}["big"] == pytest.approx(3.0)
    two = [msgspec.structs.replace(row, role="teacher") for row in board.rows]
    assert leaderboard.board(find_runs(family)[0].meta, two).teacher is None  # which one?
    (none,) = leaderboard.boards(find_runs(family / "played"))
    assert none.teacher is None
    assert "of teacher" not in leaderboard.markdown([none])

"""Figures as data: what stands against what, read from records. ``harness.drawing`` draws them.

    runs -> leaderboard.boards -> scaling, tradeoff -+
    a training's log.jsonl     -> training          -+-> Strips of Panels -> drawing.write

A number is the leaderboard's: the same runs, the same means, the same Wilson intervals. What has no
interval there gets Student's over tasks, or the cluster bootstrap's where that is wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from harness import paired
from harness.errors import ConfigError, TraceError
from harness.leaderboard import Board, Row, front, title
from harness.metrics import EpisodeMetrics
from harness.runs import Run
from harness.types import Outcome

#: The log of a training, and where it lies under a student's folder.
LOG = "log.jsonl"
_PLACES = (LOG, f"training/{LOG}")
#: A curve of more log lines is drawn as the means of so many stretches of equal length.
STRETCHES = 300


class Mark(msgspec.Struct, frozen=True):
    """A value and its 95 % interval (None: there is none), in the units of the axes."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


class Series(msgspec.Struct, frozen=True):
    """Marks of one kind. ``joined``: a line leads through them, through the mean where several
    share an x. ``dots``: the marks themselves are drawn."""

    name: str
    marks: tuple[Mark, ...]
    joined: bool = True
    dots: bool = True


class Bars(msgspec.Struct, frozen=True):
    """A histogram: counts and what they count. ``colour`` is the number of a series' colour."""

    labels: tuple[str, ...]
    counts: tuple[int, ...]
    colour: int = 0


class Panel(msgspec.Struct, frozen=True):
    """Axes with their series. ``levels`` are horizontal lines (a teacher's); ``front`` is a line
    of its own through the points that nobody beats."""

    name: str
    x: str
    y: str
    series: tuple[Series, ...] = ()
    bars: Bars | None = None
    levels: tuple[Mark, ...] = ()
    front: tuple[tuple[float, float], ...] = ()
    #: x is a number of parameters, on a logarithmic scale.
    sizes: bool = False
    #: y is a percentage; its axis shows all of them.
    share: bool = False


class Strip(msgspec.Struct, frozen=True):
    """Panels side by side under one title, with one legend."""

    title: str
    panels: tuple[Panel, ...]


#: Told of an agent that a figure leaves out, and why.
OnSkip = Callable[[str], None]


# Agents of a leaderboard ------------------------------------------------------------------


class _Agent(msgspec.Struct, frozen=True):
    row: Row
    run: Run
    method: str | None
    size: int | None


def scaling(
    boards: Iterable[Board],
    *,
    lines: Mapping[str, str] | None = None,
    words: bool = False,
    on_skip: OnSkip | None = None,
) -> list[Strip]:
    """Success, reasoning a step, CoT overlap and steps against the number of parameters (SAD,
    figures 2 and 9): a strip a board, a line a method, the board's teacher as a level.

    Number and method are what run.json says of the policy (``parameters``, ``method``); ``lines``
    (agent -> line) puts agents on lines of other names. Reasoning is in tokens of each agent's own
    tokenizer, or in ``words``. An agent without parameters, and a quantity that no run tells, are
    told to ``on_skip``. Raises ConfigError where nothing is left to draw.
    """
    strips = []
    for board in boards:
        agents = _agents(board, lines or {})
        teachers = [a for a in agents if a.row.agent == board.teacher]
        drawn = []
        for agent in agents:
            if agent.size is not None and agent not in teachers:
                drawn.append(agent)
            elif agent not in teachers and on_skip is not None:
                on_skip(f"{agent.row.agent} on {board.task_set}: its run tells no parameters.")
        panels = []
        for measure in _measures(words) if drawn else ():
            panel = _against_size(measure, drawn, teachers)
            if panel.series:
                panels.append(panel)
            elif on_skip is not None:
                on_skip(f"{panel.name} ({panel.y}) on {board.task_set}: no run tells it.")
        if panels:
            strips.append(Strip(title(board), tuple(panels)))
    if not strips:
        raise ConfigError(
            "No agent with a known number of parameters: run.json tells it of local models "
            "(`harness run --agent ours-tiny --env alfworld`)."
        )
    return strips


def tradeoff(
    boards: Iterable[Board], *, words: bool = False, on_skip: OnSkip | None = None
) -> list[Strip]:
    """Success against reasoning an episode, with the Pareto front: a strip a board, a point an
    agent. An agent whose reasoning is not counted in tokens is told to ``on_skip``."""
    unit = "words" if words else "tokens"
    strips = []
    for board in boards:
        marks = []
        for row in board.rows:
            s = row.summary
            step = s.reasoning_words_per_step if words else s.reasoning_tokens_per_step
            if s.success is None or step is None or s.steps is None:
                if on_skip is not None:
                    on_skip(f"{row.agent} on {board.task_set}: no reasoning counted in {unit}.")
                continue
            marks.append(Mark(step * s.steps, 100 * s.success, 100 * s.success_low,
                              100 * s.success_high, row.agent))  # fmt: skip
        if marks:
            best = tuple(front((m.x, m.y) for m in marks))
            series = tuple(Series(m.label, (m,), joined=False) for m in marks)
            panel = Panel("", f"reasoning {unit} an episode", "success, %", series,
                          front=best, share=True)  # fmt: skip
            strips.append(Strip(title(board), (panel,)))
    if not strips:
        remedy = "" if words else " Words are counted of every agent: --words."
        raise ConfigError(f"No agent's reasoning is counted in {unit}.{remedy}")
    return strips


def _agents(board: Board, lines: Mapping[str, str]) -> list[_Agent]:
    runs = [(row, Run(Path(row.run))) for row in board.rows]
    # One method in several families of models: a line each.
    families = {f for _, run in runs if (f := run.meta.policy.get("architecture")) is not None}
    found = []
    for row, run in runs:
        said = run.meta.policy
        size, method = said.get("parameters"), said.get("method")
        if method is not None and len(families) > 1:
            method = f"{method}, {said.get('architecture')}"
        size = size if isinstance(size, int) and size > 0 else None
        found.append(_Agent(row, run, lines.get(row.agent, method), size))
    return found


class _Measure(msgspec.Struct, frozen=True):
    name: str
    y: str
    value: Callable[[_Agent], tuple[float | None, float | None, float | None]]
    share: bool = False


def _measures(words: bool) -> tuple[_Measure, ...]:
    unit = "words" if words else "tokens"

    def success(a: _Agent) -> tuple[float | None, float | None, float | None]:
        s = a.row.summary
        if s.success is None:
            return None, None, None
        return 100 * s.success, 100 * s.success_low, 100 * s.success_high

    def reasoning(a: _Agent) -> tuple[float | None, float | None, float | None]:
        return ratio_interval(
            a.run.metrics, lambda r: r.reasoning_words if words else r.reasoning_tokens, a.run.group
        )

    return (
        _Measure("Success", "%", success, share=True),
        _Measure("Reasoning", f"{unit} a step", reasoning),
        _Measure(
            "CoT overlap",
            "%",
            lambda a: mean_interval(a.run.metrics, _overlap, a.run.group),
            share=True,
        ),
        _Measure(
            "Steps",
            "an episode",
            lambda a: mean_interval(a.run.metrics, lambda r: r.n_steps, a.run.group),
        ),
    )


def _overlap(row: EpisodeMetrics) -> float | None:
    return None if row.cot_overlap is None else 100 * row.cot_overlap


def _against_size(m: _Measure, agents: Sequence[_Agent], teachers: Sequence[_Agent]) -> Panel:
    groups: dict[str, list[Mark]] = {}
    lone: set[str] = set()
    for agent in agents:
        value, low, high = m.value(agent)
        if value is None:
            continue
        name = agent.method or agent.row.agent
        if agent.method is None:
            lone.add(name)
        mark = Mark(float(agent.size or 0), value, low, high, agent.row.agent)
        groups.setdefault(name, []).append(mark)
    levels = [
        Mark(float(t.size or 0), value, low, high, t.row.agent)
        for t in teachers
        for value, low, high in [m.value(t)]
        if value is not None
    ]
    series = tuple(
        Series(name, tuple(sorted(marks, key=lambda k: (k.x, k.label))), joined=name not in lone)
        for name, marks in sorted(groups.items())
    )
    return Panel(m.name, "parameters", m.y, series, levels=tuple(levels), sizes=True, share=m.share)


def mean_interval(
    rows: Sequence[EpisodeMetrics],
    value: Callable[[EpisodeMetrics], float | None],
    group: Callable[[str], str] = str,
) -> tuple[float | None, float | None, float | None]:
    """The mean over scored episodes, with its interval over groups of tasks."""
    known = [(r, v) for r in _scored(rows) if (v := value(r)) is not None]
    return _interval([group(r.task_id) for r, _ in known], [v for _, v in known])


def ratio_interval(
    rows: Sequence[EpisodeMetrics],
    count: Callable[[EpisodeMetrics], int | None],
    group: Callable[[str], str] = str,
) -> tuple[float | None, float | None, float | None]:
    """A count over all steps, with its interval over groups of tasks: each episode enters by its
    linearised share of the ratio (the delta method), whose mean is the ratio itself."""
    known = [(r, c) for r in _scored(rows) if (c := count(r)) is not None]
    steps = sum(r.n_steps for r, _ in known)
    if not steps:
        return None, None, None
    ratio, per = sum(c for _, c in known) / steps, steps / len(known)
    shares = [ratio + (c - ratio * r.n_steps) / per for r, c in known]
    return _interval([group(r.task_id) for r, _ in known], shares)


def _scored(rows: Sequence[EpisodeMetrics]) -> list[EpisodeMetrics]:
    return [r for r in rows if r.outcome is not Outcome.ERROR]


def _interval(
    groups: Sequence[str], values: Sequence[float]
) -> tuple[float | None, float | None, float | None]:
    if not groups:
        return None, None, None
    codes = np.unique(groups, return_inverse=True)[1].astype(np.int64)
    found = paired.means(np.array(values, dtype=np.float64), codes, np.zeros_like(codes))
    if found is None:
        return sum(values) / len(values), None, None
    return found.difference, found.low, found.high


# Trainings --------------------------------------------------------------------------------


def training(paths: Sequence[Path]) -> list[Strip]:
    """Losses a class against the optimizer step: a strip of what was optimised, one of the
    held-out cross-entropy where it was measured; a line a training. A path is a student's folder,
    its ``training``, or a log. Long curves are means of ``STRETCHES`` stretches.

    Raises ConfigError where there is no log, TraceError for a damaged one.
    """
    if not paths:
        raise ConfigError("`harness plot training` needs a student's folder, or its log.jsonl.")
    logs = {_label(path, paths): read_log(find_log(path)) for path in paths}
    strips = [
        _curves("Loss by class, nats a token", logs, lambda line: line),
        _curves("Held out: cross-entropy, nats a token", logs, lambda line: line.get("heldout")),
    ]
    return [strip for strip in strips if strip.panels]


def find_log(path: Path) -> Path:
    """The log that a path means."""
    found = [path, *(path / place for place in _PLACES)]
    for file in found:
        if file.is_file():
            return file
    raise ConfigError(f"No training log: neither {path / LOG} nor {path / _PLACES[1]} is there.")


def read_log(file: Path) -> list[dict[str, Any]]:
    """Lines of a training's log. A torn last line is passed over, other damage raises
    TraceError."""
    lines = []
    for number, raw in enumerate(file.read_bytes().splitlines(keepends=True), 1):
        if not raw.endswith(b"\n"):
            break
        try:
            line = msgspec.json.decode(raw, type=dict[str, Any])
            lines.append(line | {"step": int(line["step"])})
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise TraceError(f"{file}:{number}: not a line of a training's log: {error}") from None
    if not lines:
        raise ConfigError(f"{file} holds no step yet.")
    return lines


def _label(path: Path, paths: Sequence[Path]) -> str:
    """A training's name: its student's folder, the whole path where two are called alike."""

    def short(one: Path) -> str:
        parts = [p for p in one.absolute().parts if p not in ("training", LOG)]
        return parts[-1]

    alike = [other for other in paths if short(other) == short(path)]
    return short(path) if len(alike) == 1 else str(path)


def _curves(
    heading: str,
    logs: Mapping[str, list[dict[str, Any]]],
    pick: Callable[[dict[str, Any]], dict[str, Any] | None],
) -> Strip:
    panels = []
    # A class of targets is known by its count in the log: "act" stands beside "n_act".
    names = {k: None for lines in logs.values() for line in lines for k in line if f"n_{k}" in line}
    for name in names:
        series = []
        for label, lines in logs.items():
            points = [
                (float(line["step"]), float(value))
                for line in lines
                if (value := (pick(line) or {}).get(name)) is not None
            ]
            if points:
                marks = tuple(Mark(x, y) for x, y in stretches(points))
                series.append(Series(label, marks, dots=len(marks) == 1))
        if series:
            panels.append(Panel(name, "optimizer step", "nats", tuple(series)))
    return Strip(heading, tuple(panels))


def stretches(
    points: Sequence[tuple[float, float]], most: int = STRETCHES
) -> list[tuple[float, float]]:
    """At most ``most`` means of neighbours, each stretch of the same length (the last may be
    shorter)."""
    size = math.ceil(len(points) / most)
    cut = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in cut]

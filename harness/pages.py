"""Pages that stand alone: one HTML file with style, script and data inside, nothing fetched.

What environments and models wrote is hostile until shown otherwise: it reaches the page as JSON in
which no tag can begin or end, the script sets it as text only, and the page's policy allows no
script but its own (by hash), no network, no frame.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec

from harness.errors import ConfigError
from harness.leaderboard import (
    PER_STEP,
    Board,
    Row,
    cells,
    columns,
    footnotes,
    front,
    title,
)
from harness.runs import Run
from harness.sides import labels
from harness.types import Episode, Step
from harness.view import Beside, Wanted, select, trained

#: Most tasks on a page, and most bytes of their data: beyond, a browser gets slow.
MOST, MOST_BYTES = 2000, 64_000_000


def episodes_page(
    runs: Sequence[Run],
    wanted: Wanted | None = None,
    *,
    most: int = MOST,
    most_bytes: int = MOST_BYTES,
) -> str:
    """The episodes of a run that fit, step by step; of several runs of one task set, side by side.

    Raises ConfigError for runs of different task sets, where nothing fits, and for more than
    ``most`` tasks or ``most_bytes`` of data.
    """
    names = labels(runs)
    if len({run.meta.task_set_hash for run in runs}) > 1:
        told = ", ".join(f"{n}: {r.meta.task_set.name}" for n, r in zip(names, runs, strict=True))
        raise ConfigError(f"These runs score different things and share no page ({told}).")
    for run in runs:
        run.check_recorded()
    remedy = "filter them (--failed, --type, --task, --seed)"
    rows: list[Any] = []
    size = 0
    for row in select(runs, wanted):
        if len(rows) == most:
            raise ConfigError(
                f"{runs[0].path} has more than {most} episodes that fit, too many for a page: "
                f"{remedy}, or raise --most."
            )
        rows.append(_row(row))
        size += len(msgspec.json.encode(rows[-1]))
        if size > most_bytes:
            raise ConfigError(
                f"The page of {runs[0].path} would exceed {most_bytes / 1e6:.0f} MB after "
                f"{len(rows)} episodes: {remedy}."
            )
    if not rows and wanted not in (None, Wanted()):
        raise ConfigError(f"No episode of {' or '.join(str(r.path) for r in runs)} fits.")
    rows.sort(key=lambda row: (row["task"], row["seed"], row["attempt"]))
    heading = " and ".join(names)
    body = f"""\
<header class="top"><h1>{escape(heading)} on {escape(runs[0].meta.task_set.name)}</h1>
<div class="quiet small">{escape(", ".join(r.meta.run_id for r in runs))} · keys: j or → next,
k or ← previous, / search</div>
<div class="quiet small">{escape(" ".join(trained(runs)))}</div></header>
<div class="viewer"><nav class="list" aria-label="Episodes"><div class="tools">
<input id="search" type="search" placeholder="task or words" aria-label="Search">
<select id="type" aria-label="Task type"><option value="">all types</option></select>
{_filters(len(runs) > 1)}<span id="count" class="quiet small" role="status"></span></div>
<ol class="episodes"></ol></nav><main class="episode" aria-live="polite"></main></div>"""
    data = {"agents": names, "rows": rows}
    return document(f"{heading}: episodes", body, script="view.js", data=data)


def leaderboard_page(boards: Sequence[Board], *, notes: Sequence[str] = (), below: str = "") -> str:
    """Every board as a table with interval bars, and success against reasoning length. ``notes``
    tell what was passed over, ``below`` is markup that follows."""
    parts = ['<header class="top"><h1>Leaderboard</h1></header><main class="page">']
    for board in boards:
        parts.append(f"<h2>{escape(title(board))}</h2>")
        parts.append(_table(board))
        parts.append(_by_type(board))
        parts.append(_scatter(board))
    if not boards:
        parts.append('<p class="quiet">No complete runs.</p>')
    parts += [f'<p class="note">Passed over: {escape(note)}</p>' for note in notes]
    parts.append(
        '<p class="quiet small">Bars: 95 % Wilson intervals. "~": the interval overlaps that of '
        "the agent above, which does not make them equal: <code>harness compare</code> tells them "
        f"apart on the same tasks. {escape(PER_STEP)} Episodes that broke "
        "(errors) enter no share; repeats of a task count as what they are worth. The dashed line "
        "leads through agents that none beats with as few words.</p>"
    )
    parts.append(f"{below}</main>")
    return document("Leaderboard", "".join(parts))


def document(heading: str, body: str, *, script: str | None = None, data: Any = None) -> str:
    """A whole page: ``body`` is markup of this module, ``data`` anything at all."""
    web = files("harness") / "web"
    style = (web / "style.css").read_text(encoding="utf-8")
    code = (web / script).read_text(encoding="utf-8") if script else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    if code:
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    inside = (
        f'<script type="application/json" id="data">{safe_json(data)}</script>'
        f"<script>{code}</script>"
        if code
        else ""
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(heading)}</title><style>{style}</style></head>"
        f"<body>{body}{inside}</body></html>\n"
    )


def safe_json(data: Any) -> str:
    """JSON that can stand in a script element: no '<' and no line separator of JavaScript."""
    text = msgspec.json.encode(data).decode()
    for sign in ("<", ">", "&", "\u2028", "\u2029"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def escape(text: str) -> str:
    """Text as markup shows it."""
    return html.escape(text, quote=True)


def _filters(several: bool) -> str:
    names = ["all", "failed", "invalid", "errors", *(["differ"] if several else [])]
    return "".join(
        f'<button data-filter="{n}" aria-pressed="{"true" if n == "all" else "false"}">{n}</button>'
        for n in names
    )


def _row(row: Beside) -> dict[str, Any]:
    task, seed, attempt = next(e for e in row if e is not None).key
    return {
        "task": task,
        "seed": seed,
        "attempt": attempt,
        "episodes": [_episode(e) if e is not None else None for e in row],
    }


def _episode(episode: Episode) -> dict[str, Any]:
    return {
        "type": episode.task_type,
        "instruction": episode.instruction,
        "outcome": episode.outcome.value,
        "success": episode.success if episode.outcome.scored else None,
        "score": round(episode.score, 4) if episode.outcome.scored else None,
        "seconds": episode.seconds,
        "invalid": sum(step.invalid for step in episode.steps),
        "error": f"{episode.error.kind}: {episode.error.message}" if episode.error else None,
        "final": episode.final_observation,
        "steps": [_step(step) for step in episode.steps],
    }


def _step(step: Step) -> dict[str, Any]:
    decision, c = step.decision, step.decision.completion
    return {
        "o": step.observation,
        "r": decision.reasoning,
        "a": decision.action,
        "x": step.executed,
        "bad": step.invalid,
        "slip": decision.injected,
        "forced": step.forced,
        "reward": step.reward,
        "t": [c.prompt_tokens, c.reasoning_tokens, c.action_tokens] if c else None,
        "s": [step.policy_seconds, step.env_seconds],
    }


#: Columns of a leaderboard's page, beside the agent's and the bar: those of its tables, up to three
#: a cell, so that all fit the width of a window.
_COLUMNS = (
    ("success", "95 % interval"),
    ("score",),
    ("n", "errors"),
    ("steps", "truncated", "s/ep"),
    ("invalid/ep", "no action/ep", "loops/ep"),
    ("words/step", "words/ep"),
    ("tokens/step", "tokens/ep"),
    ("CoT overlap", "CoT F1", "CoT precision"),
    ("overlap by chance - ceiling", "F1 by chance - ceiling"),
    ("of teacher",),
)


def _table(board: Board) -> str:
    names = [name for name, _ in columns(board, more=True)]
    shown = [several for several in _COLUMNS if several[0] in names]
    lines = []
    above: Row | None = None
    for row in board.rows:
        s = row.summary
        overlaps = above is not None and s.n > 0 and s.success_high >= above.summary.success_low
        said = dict(zip(names, map(escape, cells(board, row, more=True)), strict=True))
        bar = _bar(s.success, s.success_low, s.success_high) if s.n else ""
        found = [_lines([said[name] for name in several]) for several in shown]
        mark = ' class="overlaps-above"' if overlaps else ""
        texts = [said["agent"], found[0], bar, *found[1:]]
        lines.append(f"<tr{mark}>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
        above = row
    head = ["agent", _lines(shown[0]), "", *map(_lines, shown[1:])]
    heads = "".join(f'<th scope="col">{h}</th>' for h in head)
    below = "".join(f'<p class="note">{escape(note)}</p>' for note in footnotes(board))
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(lines)}</table></div>{below}'


def _lines(texts: Sequence[str]) -> str:
    """A cell, a line a text; of one where all say nothing."""
    first, *rest = texts
    small = [] if {*texts} == {"-"} else [f"<small>{text}</small>" for text in rest]
    return "<br>".join([first, *small])


def _by_type(board: Board) -> str:
    """Success by task type, folded away; nothing where all tasks are of one."""
    types = sorted({t for row in board.rows for t in row.summary.types})
    if len(types) < 2:
        return ""
    heads = "".join(f'<th scope="col">{escape(t or "-")}</th>' for t in types)
    lines = "".join(
        f"<tr><td>{escape(row.agent)}</td>"
        + "".join(f"<td>{_won(*row.summary.types.get(t, (0, 0))[:2])}</td>" for t in types)
        + "</tr>"
        for row in board.rows
    )
    return (
        '<details><summary>Success by task type</summary><div class="scroll"><table><tr>'
        f'<th scope="col">agent</th>{heads}</tr>{lines}</table></div></details>'
    )


def _won(n: int, won: int) -> str:
    return f"{100 * won / n:.1f} % of {n}" if n else "-"


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None:
        return ""
    return (
        f'<div class="bar" role="img" aria-label="{100 * value:.1f} percent">'
        f'<i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
        f'<b style="left:{99 * value:.1f}%"></b></div>'
    )


def _scatter(board: Board) -> str:
    """Success against reasoning words an episode, with intervals and the Pareto front."""
    points = [
        (s.reasoning_words_per_step * s.steps, s.success, s.success_low, s.success_high, row.agent)
        for row in board.rows
        if (s := row.summary).success is not None
        and s.reasoning_words_per_step is not None
        and s.steps is not None
    ]
    if len(points) < 2:
        return ""
    width, height, left, bottom, top, right = 720, 300, 56, 44, 14, 150
    most = max(x for x, *_ in points) * 1.05 or 1.0

    def px(x: float) -> float:
        return left + (width - left - right) * x / most

    def py(y: float) -> float:
        return top + (height - top - bottom) * (1 - y)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" style="max-width:{width}px;width:100%" '
           'aria-label="Success against reasoning words an episode">']  # fmt: skip
    out += [
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{py(tick):.1f}" '
        f'y2="{py(tick):.1f}"/><text x="{left - 8}" y="{py(tick) + 4:.1f}" '
        f'text-anchor="end">{100 * tick:.0f} %</text>'
        for tick in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for share in (0, 0.5, 1):
        x = most * share
        out.append(f'<text x="{px(x):.1f}" y="{height - 24}" text-anchor="middle">{x:.0f}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 6}" text-anchor="middle">'
               "reasoning words an episode</text>")  # fmt: skip
    path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in front((x, y) for x, y, *_ in points))
    out.append(f'<polyline class="front" points="{path}"/>')
    heights = _apart([py(y) for _, y, *_ in points], py(0.0))
    for (x, y, low, high, agent), height_ in zip(points, heights, strict=True):
        out.append(f'<line class="whisker" x1="{px(x):.1f}" x2="{px(x):.1f}" y1="{py(low):.1f}" '
                   f'y2="{py(high):.1f}"/><circle class="point" cx="{px(x):.1f}" '
                   f'cy="{py(y):.1f}" r="4"/><text x="{px(x) + 8:.1f}" y="{height_ + 4:.1f}">'
                   f"{escape(agent)}</text>")  # fmt: skip
    return "".join(out) + "</svg>"


def _apart(heights: Sequence[float], bottom: float, gap: float = 14.0) -> list[float]:
    """Heights of labels, moved down until none stands on another, and up again from ``bottom``."""
    placed = list(heights)
    order = sorted(range(len(placed)), key=placed.__getitem__)
    highest = -math.inf
    for i in order:
        highest = placed[i] = max(placed[i], highest + gap)
    lowest = bottom + gap
    for i in reversed(order):
        lowest = placed[i] = min(placed[i], lowest - gap)
    return placed

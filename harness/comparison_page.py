"""Comparisons as a page: the verdict, differences with their intervals as a picture, the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.comparison import Comparison, Part
from harness.comparison_text import NAMED, head, rows, sentences, units, verdict
from harness.pages import document, escape
from harness.plain import plain

#: Most differing tasks that are listed.
_LISTED = 60


def comparison_page(found: Sequence[Comparison]) -> str:
    """Every comparison: what it says, success and task types with intervals, all quantities, and
    the tasks that the sides did not win equally often."""
    parts = ['<header class="top"><h1>Comparison</h1></header><main class="page">']
    for c in found:
        told = plain(verdict(c))
        # The tasks that differ have a list of their own.
        said = [s for s in sentences(c) if s != told and not s.startswith(NAMED)]
        others = "".join(f"<li>{escape(line)}</li>" for line in said)
        parts += [
            f"<h2>{escape(c.a)} against {escape(c.b)}</h2>",
            f'<p class="verdict"><strong>{escape(told)}</strong></p><ul>{others}</ul>',
            _forest(c), _table(c), f'<p class="quiet small">{escape(units(c))}</p>', _differing(c),
        ]  # fmt: skip
    parts.append(
        '<p class="quiet small">Bars: 95 % intervals of the difference in success, in points; the '
        "grey band is the margin of equivalence. A task type without a bar has too few tasks to "
        "tell.</p></main>"
    )
    return document("Comparison", "".join(parts))


def _forest(c: Comparison) -> str:
    parts = [c.success, *(p for p in c.by_type if p.difference is not None)]
    ends = [abs(x) for p in parts for x in (p.difference, p.low, p.high) if x is not None]
    most = min(1.0, 1.1 * max([*ends, 2 * c.margin]))
    width, left, right, line = 760, 240, 180, 26
    height = line * len(parts) + 46

    def px(x: float) -> float:
        return left + (width - left - right) * (x + most) / (2 * most)

    bottom = height - 36
    out = [
        f'<svg viewBox="0 0 {width} {height}" role="img" style="max-width:{width}px;width:100%" '
        f'aria-label="Difference in success, {escape(c.a)} minus {escape(c.b)}, in points">'
        f'<rect class="band" x="{px(-c.margin):.1f}" y="4" height="{bottom - 4}" '
        f'width="{px(c.margin) - px(-c.margin):.1f}"/>'
        f'<line class="axis zero" x1="{px(0):.1f}" x2="{px(0):.1f}" y1="4" y2="{bottom}"/>'
        f'<line class="axis" x1="{left}" x2="{width - right}" y1="{bottom}" y2="{bottom}"/>'
    ]
    out += [
        f'<text x="{px(share * most):.1f}" y="{bottom + 15}" text-anchor="middle">'
        f"{_signed(share * most)}</text>"
        for share in (-1.0, -0.5, 0.0, 0.5, 1.0)
    ]
    sides = (("start", left, f"better: {c.b}"), ("end", width - right, f"better: {c.a}"))
    out += [
        f'<text x="{x}" y="{height - 4}" text-anchor="{anchor}">{escape(text)}</text>'
        for anchor, x, text in sides
    ]
    out += [_bar(p, 4 + line * (i + 0.5), px, (left, width - right), i == 0)
            for i, p in enumerate(parts)]  # fmt: skip
    return "".join(out) + "</svg>"


def _bar(
    p: Part, y: float, px: Callable[[float], float], ends: tuple[int, int], whole: bool
) -> str:
    """A row of the picture: name and n, difference, interval."""
    assert p.difference is not None
    left, right = ends
    style = ' class="whole"' if whole else ""
    out = f'<text{style} x="0" y="{y + 4:.1f}">{escape(_short(p.name))} ({p.n})</text>'
    told = f"{100 * p.difference:+.1f}"
    if p.low is not None and p.high is not None:
        low, high = (min(max(px(x), left), right) for x in (p.low, p.high))
        told += f" [{100 * p.low:+.1f}, {100 * p.high:+.1f}]"
        out += f'<line class="whisker" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    out += f'<circle class="point" cx="{px(p.difference):.1f}" cy="{y:.1f}" r="4"/>'
    return out + f'<text{style} x="{right + 12}" y="{y + 4:.1f}">{told}</text>'


def _signed(share: float) -> str:
    return f"{100 * share:+.0f}" if share else "0"


def _short(name: str, most: int = 30) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _table(c: Comparison) -> str:
    heads = "".join(f'<th scope="col">{escape(h)}</th>' for h in head(c))
    lines = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows(c)
    )
    return f'<div class="scroll"><table><tr>{heads}</tr>{lines}</table></div>'


def _differing(c: Comparison) -> str:
    if not c.differing:
        return ""
    lines = "".join(
        f"<tr><td>{escape(d.task_id)}</td><td>{100 * d.difference:+.0f}</td></tr>"
        for d in c.differing[:_LISTED]
    )
    more = len(c.differing) - _LISTED
    rest = f'<p class="quiet small">and {more} more.</p>' if more > 0 else ""
    return (
        f"<details><summary>Tasks that differ ({len(c.differing)})</summary>"
        f'<div class="scroll"><table><tr><th scope="col">task</th><th scope="col">points</th></tr>'
        f"{lines}</table></div>{rest}"
        '<p class="quiet small"><code>harness view A B --task ID</code> shows both episodes.</p>'
        "</details>"
    )

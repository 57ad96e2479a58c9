"""A comparison in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from harness.comparison import Comparison, Part


def sentences(c: Comparison) -> list[str]:
    """What a comparison says, a sentence a line."""
    s = c.success
    lines = [
        f"{c.a} {_percent(s.a)}, {c.b} {_percent(s.b)} on {c.task_set}: {c.pairs} pairs"
        + (f" in {c.clusters} clusters" if c.clusters < c.pairs // c.replicates else "")
        + (f", {c.replicates} replicates" if c.replicates > 1 else "")
        + ".",
        f"Difference {_points(s.difference)} points, 95 % interval {_points(s.low)} to "
        f"{_points(s.high)}; only {c.a} won {c.only_a}, only {c.b} won {c.only_b}"
        + (f"; p = {c.p:.3g}" if c.p is not None else "")
        + (f" (Holm {c.p_holm:.3g})" if c.p_holm != c.p and c.p_holm is not None else "")
        + ".",
        _verdict(c),
    ]
    if c.replicates == 1:
        lines.append("One replicate: this says nothing of what another training seed would give.")
    if c.errors_a or c.errors_b:
        lines.append(
            f"Episodes that broke: {c.errors_a} of {c.a}, {c.errors_b} of {c.b}; left out above. "
            f"Counted as lost, the difference is {_points(c.errors_lost)} points."
        )
    return lines


def _verdict(c: Comparison) -> str:
    seen = f"This design shows differences from {100 * c.detectable:.1f} points on (80 % power)."
    if c.verdict == "a":
        return f"{c.a} is better. {seen}"
    if c.verdict == "b":
        return f"{c.b} is better. {seen}"
    if c.verdict == "equivalent":
        return f"Equivalent within {100 * c.margin:g} points (90 % interval inside). {seen}"
    return f"Tied: not told apart, which is not the same as equal. {seen}"


def table(c: Comparison) -> Table:
    """Success, by task type, and the other quantities."""
    grid = Table(title=f"{c.a} against {c.b}", title_justify="left", header_style="bold")
    for heading in ("", "n", c.a, c.b, "difference", "95 % interval"):
        grid.add_column(heading, justify="left" if not heading else "right")
    for row in rows(c):
        grid.add_row(*row)
    return grid


def markdown(found: Sequence[Comparison]) -> str:
    """Comparisons as Markdown."""
    parts = []
    for c in found:
        head = ["", "n", c.a, c.b, "difference", "95 % interval"]
        lines = [head, [":---", *["---:"] * 5], *rows(c)]
        text = "\n".join("| " + " | ".join(x.replace("|", "\\|") for x in line) + " |"
                         for line in lines)  # fmt: skip
        parts.append("\n".join(sentences(c)) + "\n\n" + text + "\n")
    return "\n".join(parts)


def rows(c: Comparison) -> list[list[str]]:
    """Cells of the table, headings apart."""
    shares = [("success", c.success), *((f"  {p.name}", p) for p in c.by_type)]
    return [
        *(_cells(name, part, 100.0, 1) for name, part in shares),
        *(_cells(part.name, part, 1.0, 2) for part in c.others if part.n),
    ]


def _cells(name: str, part: Part, scale: float, digits: int) -> list[str]:
    def show(value: float | None, signed: bool = False) -> str:
        if value is None:
            return "-"
        return f"{scale * value:{'+' if signed else ''}.{digits}f}"

    return [
        name, str(part.n), show(part.a), show(part.b), show(part.difference, True),
        f"{show(part.low, True)} to {show(part.high, True)}",
    ]  # fmt: skip


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}"

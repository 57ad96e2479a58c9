"""A comparison in words, as a table, as Markdown and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
from rich.console import Group
from rich.text import Text

from harness import tables
from harness.comparison import MATCH, Comparison, Part, Retained
from harness.leaderboard import taught
from harness.plain import plain

#: Most differing tasks that are named, and how their sentence begins.
_MOST, NAMED = 3, "Tasks that differ"


def sentences(c: Comparison) -> list[str]:
    """What a comparison says, a sentence a line."""
    s = c.success
    lines = [
        f"{c.a} {_percent(s.a)}, {c.b} {_percent(s.b)} on {c.task_set}: "
        f"{_count(c.pairs, 'pair')} over {_count(c.tasks, 'task')}"
        + (f" in {_count(c.clusters, 'cluster')}" if c.clusters < c.tasks else "")
        + (f", {c.replicates} training seeds" if c.replicates > 1 else "")
        + ".",
        f"Difference {_points(s.difference)} points, 95 % interval {_points(s.low)} to "
        f"{_points(s.high)}; only {c.a} won {c.only_a}, only {c.b} won {c.only_b}; "
        f"p = {c.p:.3g}"
        + (f", adjusted for all comparisons {c.p_holm:.3g}" if c.p_holm != c.p else "")
        + f" ({c.test}).",
        verdict(c),
    ]
    if c.retained is not None:
        lines.append(_kept(c.retained))
    lines += [
        f"{name} was {met.told()}: what it won there, it may have seen."
        for name, met in ((c.a, c.overlap_a), (c.b, c.overlap_b))
        if met is not None and met.flagged
    ]
    lines += taught([(c.a, c.reason_to_act_a), (c.b, c.reason_to_act_b)])
    single = [name for name, runs in ((c.a, c.runs_a), (c.b, c.runs_b)) if runs == 1]
    if single:
        lines.append(
            f"One run of {' and one of '.join(single)}: this says nothing of another training seed."
        )
    unmatched = [(c.unmatched_a, c.a), (c.unmatched_b, c.b)]
    if any(n for n, _ in unmatched):
        told = " and ".join(f"{_count(n, 'episode')} of {name}" for n, name in unmatched if n)
        lines.append(f"Left out for want of a partner (other seeds or attempts): {told}.")
    if c.errors_a or c.errors_b:
        told = " and ".join(
            f"{_count(n, 'episode')} of {name}"
            for n, name in ((c.errors_a, c.a), (c.errors_b, c.b)) if n
        )  # fmt: skip
        lines.append(
            f"Broken and left out above: {told}. Counted as lost, the difference is "
            f"{_points(c.lost.difference)} points, {_points(c.lost.low)} to "
            f"{_points(c.lost.high)} (p = {c.p_lost_holm:.3g})."
        )
    if c.differing:
        told = ", ".join(f"{d.task_id} ({_points(d.difference)})" for d in c.differing[:_MOST])
        more = len(c.differing) - _MOST
        lines.append(
            f"{NAMED} (`harness view A B --task ID`): {told}"
            + (f" and {more} more." if more > 0 else ".")
        )
    return [plain(line) for line in lines]


def _kept(r: Retained) -> str:
    told = (
        f"from {_percent(r.low)} on"
        if r.high is None
        else f"{_percent(r.low)} to {_percent(r.high)}"
    )
    return f"{r.student} keeps {_percent(r.share)} of {r.teacher}'s success, 95 % interval {told}."


def verdict(c: Comparison) -> str:
    """Who is better, or that it is not known, and what the design could have shown."""
    seen = (
        "No difference could be shown with 80 % power: play more tasks."
        if c.detectable is None
        else "With the spread that was seen this design shows differences from "
        f"{100 * c.detectable:.1f} points on (80 % power"
        + (", before p is adjusted)." if c.family > 1 else ").")
    )
    if c.verdict == "a":
        return f"{c.a} is better. {seen}"
    if c.verdict == "b":
        return f"{c.b} is better. {seen}"
    if c.verdict == "equivalent":
        return f"Equivalent within {100 * c.margin:g} points (90 % interval inside). {seen}"
    low, high = c.success.low, c.success.high
    told = ""
    if low is not None and high is not None and not low <= 0 <= high:
        adjusted = ", adjusted for all comparisons," if c.p_holm != c.p else ""
        told = f" (the interval leaves 0 out, but p{adjusted} decides)"
    return f"Tied: not told apart, which is not the same as equal{told}. {seen}"


def units(c: Comparison) -> str:
    """What the numbers of the table are."""
    match = "; CoT match in percent" if any(_is_match(p) for p in c.others) else ""
    return (
        f"Success in percent, differences of it in points{match}. Words and tokens a step: the "
        "mean of each episode's own, where the leaderboard divides all of a run's by all its steps."
    )


def table(c: Comparison, width: int | None = None) -> Group:
    """Success, by task type, and the other quantities, for a terminal of ``width`` columns (None:
    of any); the counts are left out where there is no room for them, and said to be."""
    heads = [(heading, "right" if heading else "left") for heading in head(c)]
    always = ("", c.a, c.b, *head(c)[-2:])
    grid, left_out = tables.fitted(
        f"{c.a} against {c.b}", heads, rows(c), width, names=("",), always=always, long=(c.a, c.b)
    )
    if not left_out:
        return Group(grid)
    told = f"No room for {', '.join(left_out)}: a wider terminal, --markdown or --page shows all."
    return Group(grid, Text(told))


def markdown(found: Sequence[Comparison]) -> str:
    """Comparisons as Markdown."""
    parts = []
    for c in found:
        lines = [head(c), [":---", *["---:"] * 6], *rows(c)]
        text = "\n".join("| " + " | ".join(_escape(x) for x in line) + " |" for line in lines)
        parts.append("\n".join(sentences(c)) + f"\n\n{text}\n\n{units(c)}\n")
    return "\n".join(parts)


def to_json(found: Sequence[Comparison]) -> str:
    """Comparisons as JSON, each with its verdict."""
    body = [{"verdict": c.verdict, "worse": c.worse, **msgspec.to_builtins(c)} for c in found]
    return msgspec.json.format(msgspec.json.encode(body), indent=2).decode()


def head(c: Comparison) -> list[str]:
    """Headings of the table."""
    return ["", "n", "clusters", c.a, c.b, "difference", "95 % interval"]


def rows(c: Comparison) -> list[list[str]]:
    """Cells of the table, headings apart. A score that is the success again, as where nothing is
    won in part, is told once."""
    shares = [("success", c.success), *((f"  {p.name}", p) for p in c.by_type)]
    return [
        *(_cells(name, part, 100.0, 1) for name, part in shares),
        *(cells(part) for part in c.others if part.n and not _is_success(c, part)),
    ]  # fmt: skip


def _is_success(c: Comparison, part: Part) -> bool:
    mine, theirs = (part.a, part.b), (c.success.a, c.success.b)
    return part.name == "score" and part.n == c.success.n and all(
        a is not None and b is not None and math.isclose(a, 100 * b, abs_tol=1e-9)
        for a, b in zip(mine, theirs, strict=True)
    )  # fmt: skip


def cells(part: Part) -> list[str]:
    """A row of a quantity that is no success: CoT match in percent."""
    return _cells(part.name, part, *((100.0, 1) if _is_match(part) else (1.0, 2)))


def _is_match(part: Part) -> bool:
    return part.name in {name for name, *_ in MATCH}


def _cells(name: str, part: Part, scale: float, digits: int) -> list[str]:
    def show(value: float | None, signed: bool = False) -> str:
        if value is None:
            return "-"
        return f"{scale * value:{'+' if signed else ''}.{digits}f}"

    known = part.low is not None
    return [
        name, str(part.n), str(part.units), show(part.a), show(part.b),
        show(part.difference, True),
        f"{show(part.low, True)} to {show(part.high, True)}" if known else "-",
    ]  # fmt: skip


def _escape(text: str) -> str:
    return " ".join(plain(text).split("\n")).replace("|", "\\|")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f}"

"""Draws which tokens are taught (SAD, figure 7) and how long spans are (figure 8).

On the terminal, or as a page that stands alone. What episodes say is hostile: it reaches the
terminal without control characters and the page escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.errors import ConfigError
from harness.figures import Bars, Panel, Strip
from harness.pages import document, escape
from harness.plain import plain
from harness.transcript import Kind
from harness_distillation.findings import Cell, Findings, Lengths
from harness_distillation.tokenizer import OBSERVED

_STYLE = {
    Kind.CONTEXT: "bright_black",
    Kind.REASON: "blue",
    Kind.ACT: "bold red",
    Kind.REASON_FORMAT: "dim blue",
    Kind.ACT_FORMAT: "dim red",
    OBSERVED: "green",
}
#: A token that ends inside a character decodes to this.
_BROKEN = "\ufffd"


def cells(tok: Any, ids: Sequence[int], kinds: Sequence[int]) -> list[Cell]:
    """The tokens of a sequence as text."""
    found: list[Cell] = []
    for kind, pairs in groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0]):
        waiting: list[int] = []
        for _, i in pairs:
            waiting.append(i)
            text = tok.decode(
                waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            if not text.endswith(_BROKEN):
                found.append(Cell(kind, text))
                waiting = []
        if waiting:
            text = tok.decode(
                waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            found.append(Cell(kind, text))
    return found


# Terminal ---------------------------------------------------------------------------------


def show(found: Findings, samples: int) -> None:
    """Print findings and the first drawn samples of each environment."""
    console = Console(soft_wrap=True)
    shown: Counter[str] = Counter()
    for number, (environment, drawn) in enumerate(found.drawn, 1):
        shown[environment] += 1
        if shown[environment] > samples:
            continue
        title = f"sample {number} of {len(found.drawn)} drawn{_of(found, environment)}"
        console.rule(Text(plain(title)), style="bright_black")
        console.print(painted(drawn), end="")
    if samples:
        console.rule(style="bright_black")
    for line in summary(found):
        console.print(Text(plain(line)))
    for name, of in (("reasoning", found.reason), ("action", found.act)):
        console.print(Text.assemble(f"\n{name} spans, tokens: ", spread(of)))
        console.print(bars(of, "blue" if name == "reasoning" else "red"), end="")


def _of(found: Findings, environment: str) -> str:
    """A drawn sample's environment, where there are others."""
    return f", {environment}" if len(found.chosen) > 1 else ""


def painted(drawn: Sequence[Cell]) -> Text:
    """A sample in colours; every second token of a span underlined, so that they can be told."""
    text = Text()
    for number, (kind, said) in enumerate(drawn):
        taught = kind in (Kind.REASON, Kind.ACT)
        text.append(plain(said), _STYLE[kind] + (" underline" if taught and number % 2 else ""))
    return text


def summary(found: Findings) -> list[str]:
    """Counts, checks and agreement, a line each."""
    k = found.kinds
    taught = found.tokens - k["context"]
    lines = [
        f"{found.name}: {found.sequences} sequences, {found.tokens} tokens, "
        f"{taught} taught ({taught / found.tokens:.1%})",
        f"reasoning {k['reason']} + {k['reason_format']} of its format, "
        f"action {k['act']} + {k['act_format']}, observations {k['observation']}; "
        f"N_r : N_a = {found.ratio:.2f}, without format {found.bare_ratio:.2f}",
    ]
    lines.append("drawn and checked: " + _told(found.chosen))
    if found.masks in _MOVED:
        lines.append(f"{_MOVED[found.masks]}: there is no text that they should spell")
    lines += [
        f"{'ok  ' if c.fine else 'FAIL'}  {c.claim} ({c.good} of {c.total})" for c in found.checks
    ]
    lines += [
        f"like the paper's D.2 with tokenizer {a.name}: {a.same:.2%} of labelled tokens; "
        f"{a.straddling:.2%} of the whole text's straddle a span's edge; a token that must lie "
        f"inside its span loses {a.lost_reason:.1%} of reasoning and {a.lost_act:.1%} of action"
        for a in found.agreement
    ]
    return lines


#: Masks whose labels are not where the text has its spans.
_MOVED = {
    "random_span": "spans lie anywhere",
    "label_shuffle": "labels are shuffled, reasoning and action, as in training",
}


def _told(chosen: dict[str, tuple[int, int]]) -> str:
    if "" in chosen:
        some, every = chosen[""]
        return (
            f"{some} of {every}, whatever their environment (of samples prepared before "
            "environments were noted)"
        )
    return ", ".join(f"{name} {some} of {every}" for name, (some, every) in chosen.items())


def spread(of: Lengths) -> str:
    return f"mean {of.mean:.1f}, median {of.median:g}, longest {of.most}"


def bars(of: Lengths, colour: str, width: int = 50) -> Text:
    """A histogram in text."""
    text = Text()
    most = max(of.counts, default=0)
    for label, count in zip(labels(of), of.counts, strict=True):
        text.append(f"{label:>9} ")
        text.append("█" * round(width * count / most), colour)
        text.append(f" {count}\n")
    return text


def labels(of: Lengths) -> list[str]:
    pairs = zip(of.edges, of.edges[1:], strict=False)
    return [str(a) if b - a == 1 else f"{a}-{b - 1}" for a, b in pairs]


def figure(found: Findings) -> Strip:
    """Both histograms as a figure (SAD, figure 8). Raises ConfigError where there are no spans."""
    panels = [
        Panel(f"{name}: {spread(of)}", "tokens", "spans",
              bars=Bars(tuple(labels(of)), tuple(of.counts), colour))
        for name, of, colour in (("reasoning", found.reason, 0), ("action", found.act, 1))
        if of.counts
    ]  # fmt: skip
    if not panels:
        raise ConfigError(f"{found.name}: no span of reasoning or action to draw.")
    return Strip(f"Lengths of spans: {found.name}", tuple(panels))


# Page -------------------------------------------------------------------------------------

_CSS = """<style>
.mask { white-space: pre-wrap; overflow-wrap: anywhere; color: var(--quiet); padding: 10px 12px;
  background: var(--panel); border: 1px solid var(--line); border-radius: 6px; font: 13px/1.7
  ui-monospace, monospace; }
.mask b { font-weight: 400; border-left: 1px solid var(--ground); }
.r b { color: var(--reason); background: var(--reason-ground); }
.a b { color: var(--act); background: var(--act-ground); }
.rf { color: var(--reason); opacity: .6; } .af { color: var(--act); opacity: .6; }
.o { color: var(--good); }
.fig { display: flex; flex-wrap: wrap; gap: 24px; } .fig svg { max-width: 540px; width: 100%; }
svg .r { fill: var(--reason); } svg .a { fill: var(--act); }
</style>"""
_CLASS = {
    Kind.REASON: "r",
    Kind.ACT: "a",
    Kind.REASON_FORMAT: "rf",
    Kind.ACT_FORMAT: "af",
    OBSERVED: "o",
}


_LEGEND = " &middot; ".join([
    '<span class="r"><b>reasoning</b></span>',
    '<span class="a"><b>action</b></span>',
    '<span class="rf">format of reasoning</span>',
    '<span class="af">format of action</span>',
    '<span class="o">observations that are taught</span>',
    "read only: prompts, slips, other observations",
])  # fmt: skip


def page(found: Findings) -> str:
    """The findings as one page."""
    lines = "".join(f"<li>{escape(plain(line))}</li>" for line in summary(found))
    samples = "".join(
        f'<h2 id="s{i}">Sample {i}{escape(plain(_of(found, environment)))}</h2>'
        f'<div class="mask">{_drawn(drawn)}</div>'
        for i, (environment, drawn) in enumerate(found.drawn, 1)
    )
    body = f"""{_CSS}<header class="top"><h1>What is taught: {escape(plain(found.name))}</h1>
<div class="mask small">{_LEGEND}</div></header>
<main class="page"><ul>{lines}</ul><h2>Lengths of spans, in tokens</h2><div class="fig">
{_figure(found.reason, "reasoning", "r")}{_figure(found.act, "action", "a")}</div>
{samples}</main>"""
    return document(f"What is taught: {plain(found.name)}", body)


def _drawn(drawn: Sequence[Cell]) -> str:
    parts = []
    for kind, some in groupby(drawn, key=lambda cell: cell.kind):
        said = [escape(plain(cell.text)) for cell in some]
        if kind == Kind.CONTEXT:
            parts.append("".join(said))
            continue
        taught = kind in (Kind.REASON, Kind.ACT)
        inner = "".join(f"<b>{text}</b>" if taught else text for text in said)
        parts.append(f'<span class="{_CLASS[kind]}">{inner}</span>')
    return "".join(parts)


def _figure(of: Lengths, name: str, css: str) -> str:
    width, height, bottom, top, left = 540, 220, 40, 24, 8
    if not of.counts:
        return f'<p class="quiet">No {name} spans.</p>'
    most, step = max(of.counts), (width - left) / len(of.counts)
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" '
             f'aria-label="Lengths of {name} spans"><text x="{left}" y="14">{name}: '
             f"{escape(spread(of))}</text>"]  # fmt: skip
    for i, (label, count) in enumerate(zip(labels(of), of.counts, strict=True)):
        tall = (height - bottom - top) * count / most
        x, y = left + i * step, height - bottom - tall
        parts.append(
            f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{step - 3:.1f}" '
            f'height="{tall:.1f}"><title>{escape(label)} tokens: {count}</title></rect>'
            f'<text x="{x + step / 2 - 2:.1f}" y="{height - 22}" text-anchor="middle" '
            f'style="font-size:10px">{escape(label)}</text>'
        )
    parts.append(f'<text x="{width / 2}" y="{height - 4}" text-anchor="middle">tokens</text></svg>')
    return "".join(parts)

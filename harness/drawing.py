"""Draws figures with matplotlib (extra ``plots``): the same figures give the same SVG, byte for
byte, whatever the user's own settings of matplotlib are.

Names of agents and task sets are text: no mathematics in them, control characters made visible.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ConfigError
from harness.figures import Bars, Mark, Panel, Series, Strip
from harness.plain import plain
from harness.registry import require

KINDS = (".svg", ".png")
#: Okabe and Ito's colours, which most colour-blind people tell apart; black is for levels.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_SHAPES = "osD^vPX*"
#: Inches of a panel; of what stands above and below a strip of them.
_WIDTH, _HEIGHT, _AROUND = 3.4, 2.7, 0.9
_NO_XML = re.compile("[\ufffe\uffff\ud800-\udfff]")


def write(strips: Sequence[Strip], path: Path) -> None:
    """Draw strips under one another into an SVG or PNG file, in one move.

    Raises ConfigError for another kind of file, MissingDependency without matplotlib.
    """
    if path.suffix.lower() not in KINDS or path.is_dir():
        raise ConfigError(f"A figure is written to a file .svg or .png, not to '{path}'.")
    kind = path.suffix.lower()[1:]
    body = draw(strips, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(body)
    temporary.replace(path)


def draw(strips: Sequence[Strip], kind: str = "svg") -> bytes:
    """The bytes of a figure: ``kind`` is "svg" or "png"."""
    require("matplotlib", "plots", "Drawing a figure")
    from matplotlib.figure import Figure

    most = max(len(strip.panels) for strip in strips)
    with _settings(kind):
        size = (_WIDTH * max(most, 2), (_HEIGHT + _AROUND) * len(strips))
        figure = Figure(figsize=size, layout="constrained")
        parts = figure.subfigures(len(strips), 1, squeeze=False)[:, 0]
        names = {s.name: None for strip in strips for panel in strip.panels for s in panel.series}
        numbers = {name: number for number, name in enumerate(names)}
        for part, strip in zip(parts, strips, strict=True):
            _strip(part, strip, numbers)
        body = io.BytesIO()
        told = {"Creator": None, "Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(body, format=kind, dpi=150, metadata=told)
    return body.getvalue()


@contextmanager
def _settings(kind: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        if kind == "svg":  # whoever shows the file has letters that this machine lacks
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "distill-harness", "svg.fonttype": "none",
                "text.parse_math": False, "text.usetex": False, "font.size": 9,
                "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
                "axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.6,
                "legend.frameon": False,
            }
        )  # fmt: skip
        yield


def _strip(part: Any, strip: Strip, numbers: dict[str, int]) -> None:
    part.suptitle(_text(strip.title), fontsize=9, x=0.01, ha="left")
    axes = part.subplots(1, len(strip.panels), squeeze=False)[0]
    keys: dict[str, Any] = {}
    for ax, panel in zip(axes, strip.panels, strict=True):
        keys = _panel(ax, panel, numbers) | keys
    if keys:
        part.legend(
            list(keys.values()), [_text(name) for name in keys], loc="outside lower center",
            ncols=min(4, len(keys)),
        )  # fmt: skip


def _panel(ax: Any, panel: Panel, numbers: dict[str, int]) -> dict[str, Any]:
    """Draws a panel; what the legend shows of it, by name."""
    keys: dict[str, Any] = {}
    ax.set_title(_text(panel.name), fontsize=9)
    ax.set_xlabel(_text(panel.x))
    ax.set_ylabel(_text(panel.y))
    for level in panel.levels:
        keys[level.label] = ax.axhline(level.y, color="black", linestyle="--", linewidth=1)
        if level.low is not None and level.high is not None:
            ax.axhspan(level.low, level.high, color="black", alpha=0.06, linewidth=0)
    if panel.front:
        x, y = zip(*panel.front, strict=True)
        keys["Pareto front"] = ax.plot(
            x, y, color="#555555", linestyle=":", linewidth=1.2, zorder=1,
            marker="o", markersize=11, markerfacecolor="none",
        )[0]  # fmt: skip
    # Series that share a size stand beside one another, not one over the other.
    middle = (len(panel.series) - 1) / 2
    for place, series in enumerate(panel.series):
        aside = 1.03 ** (place - middle) if panel.sizes else 1.0
        keys[series.name] = _series(ax, series, numbers[series.name], aside)
    if panel.bars is not None:
        _bars(ax, panel.bars)
    marks = [m for series in panel.series for m in series.marks]
    if panel.sizes:
        _sizes(ax, marks)
    elif panel.bars is None:
        ax.set_xlim(0, ax.get_xlim()[1])
    ax.set_ylim(*((-2, 102) if panel.share else (0, 1.05 * ax.get_ylim()[1])))
    return keys


def _series(ax: Any, series: Series, number: int, aside: float) -> Any:
    """Draws a series, every x multiplied by ``aside``; what the legend shows of it."""
    colour = _COLOURS[number % len(_COLOURS)]
    shape = _SHAPES[number % len(_SHAPES)] if series.dots else ""
    marks = [msgspec.structs.replace(m, x=aside * m.x) for m in series.marks]
    x, y = [m.x for m in marks], [m.y for m in marks]
    if series.joined:
        means: dict[float, list[float]] = {}
        for m in sorted(marks, key=lambda m: m.x):
            means.setdefault(m.x, []).append(m.y)
        line = [sum(values) / len(values) for values in means.values()]
        ax.plot(list(means), line, color=colour, linewidth=1.3)
    for m in marks:
        if m.low is not None and m.high is not None:
            ax.plot([m.x, m.x], [m.low, m.high], color=colour, linewidth=1, alpha=0.8)
    if not series.dots:
        return ax.plot([], [], color=colour, linewidth=1.3)[0]
    return ax.plot(x, y, color=colour, marker=shape, markersize=5, linestyle="none")[0]


def _bars(ax: Any, bars: Bars) -> None:
    at = range(len(bars.counts))
    ax.bar(at, bars.counts, width=0.85, color=_COLOURS[bars.colour])
    ax.set_xticks(list(at), [_text(label) for label in bars.labels], rotation=45, ha="right",
                  fontsize=7)  # fmt: skip
    ax.grid(axis="x", visible=False)


def _sizes(ax: Any, marks: Sequence[Mark]) -> None:
    """A logarithmic axis with a tick at every size that is not too near the one before."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    found = sorted({m.x for m in marks})
    ticks: list[float] = []
    width = max(found[-1] / found[0], 2.0)
    for size in found:
        if not ticks or size / ticks[-1] > width**0.1:
            ticks.append(size)
    ax.set_xscale("log")
    ax.set_xlim(found[0] / width**0.15, found[-1] * width**0.15)
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_major_formatter(FixedFormatter([size_text(t) for t in ticks]))
    ax.xaxis.set_minor_locator(NullLocator())


def size_text(parameters: float) -> str:
    """A number of parameters as it is called: 124M, 1.56B."""
    for unit, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= 0.9995 * unit:
            return f"{parameters / unit:.3g}{sign}"
    return f"{parameters:g}"


def _text(text: str) -> str:
    return _NO_XML.sub(lambda m: f"\\u{ord(m[0]):04x}", plain(text))

"""Tables for a terminal: no cell is cut, and columns that there is no room for are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich import box
from rich.cells import cell_len, chop_cells
from rich.table import Table
from rich.text import Text

from harness.plain import plain

#: Columns of prose are left out before they are narrower than this.
_PROSE = 24
#: Headings are not broken into narrower lines than this.
_NAME = 10


def grid(title: str, heads: Sequence[tuple[str, str]], names: Collection[str]) -> Table:
    """An empty table of (heading, "left" or "right") columns. Only those of ``names`` are broken
    where it is too wide."""
    empty = Table(title=Text(plain(title)), title_justify="left", header_style="bold")
    for heading, justify in heads:
        empty.add_column(Text(plain(heading)), justify=justify,  # type: ignore[arg-type]
                         overflow="fold", no_wrap=heading not in names)  # fmt: skip
    return empty


def fitted(
    title: str,
    heads: Sequence[tuple[str, str]],
    lines: Sequence[Sequence[str]],
    width: int | None,
    *,
    names: Collection[str],
    always: Collection[str],
    prose: Collection[str] = (),
    long: Collection[str] = (),
) -> tuple[Table, list[str]]:
    """The table of ``lines`` for a terminal of ``width`` columns (None: of any), and the headings
    of the columns left out. Columns of ``always`` stay, the others as there is room for their
    cells, from the left, those of ``prose`` for ``_PROSE`` of each, in several lines; where there
    is none even for the former, the rules go, and headings of ``long`` and columns of ``names`` are
    broken; the latter also where the terminal that shows a table of any width has no room."""
    headings = [plain(heading) for heading, _ in heads]
    texts = [[plain(cell) for cell in line] for line in lines]
    every = range(len(heads))

    def needs(shown: Collection[int]) -> int:
        """Cells, a blank on both sides of each, rules between."""
        total = 1
        for i in shown:
            widest = max(cell_len(row[i]) for row in (headings, *texts))
            total += 3 + (min(widest, _PROSE) if heads[i][0] in prose else widest)
        return total

    shown = [i for i in every if width is None or heads[i][0] in always]
    for i in every:
        more = sorted({*shown, i})
        if width is not None and needs(more) <= width:
            shown = more
    too_wide = width is not None and needs(shown) > width
    if too_wide:
        headings = _narrower(heads, texts, shown, width or 0, long)
    broken = {*prose, *(names if too_wide or width is None else ())}
    made = grid(title, [(headings[i], heads[i][1]) for i in shown], broken)
    if too_wide:
        made.box, made.padding, made.show_edge = box.SIMPLE_HEAD, (0, 0), False
    for line in texts:
        made.add_row(*(Text(line[i]) for i in shown))
    return made, [plain(heads[i][0]) for i in every if i not in shown]


def _narrower(
    heads: Sequence[tuple[str, str]],
    texts: Sequence[Sequence[str]],
    shown: Collection[int],
    width: int,
    long: Collection[str],
) -> list[str]:
    """Headings, those of ``long`` in several lines, as few as ``width`` allows without rules, so
    that no cell is cut for their sake."""
    cells = [max((cell_len(row[i]) for row in texts), default=0) for i in range(len(heads))]
    widest = max(cell_len(plain(head)) for head, _ in heads)
    for limit in range(max(widest, _NAME), _NAME - 1, -1):
        folded = [
            "\n".join(chop_cells(plain(head), max(limit, wide))) if head in long else plain(head)
            for (head, _), wide in zip(heads, cells, strict=True)
        ]
        lines = [max(map(cell_len, head.split("\n"))) for head in folded]
        if sum(max(cells[i], lines[i]) + 1 for i in shown) <= width:
            break
    return folded

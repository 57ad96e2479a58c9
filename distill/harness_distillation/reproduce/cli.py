"""``harness reproduce``: the command line of the campaigns."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from harness.console import say, stdout
from harness.errors import ConfigError
from harness.plain import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from harness_distillation.reproduce.plan import Plan
    from harness_distillation.reproduce.report import Table

#: Columns of a page that no table fills.
_WIDEST = 10_000


def main(args: list[str]) -> int:
    """``harness reproduce table3|table4|table5 --scale smoke|tiny|paper``.

    Returns the exit status; errors are HarnessErrors, which the caller prints.
    """
    parser = argparse.ArgumentParser(
        prog="harness reproduce",
        description="Reproduce a table of the paper as a grid of arms and training seeds: train, "
        "play, compare. Finished cells are kept, a stopped campaign goes on.",
        allow_abbrev=False,
    )
    parser.add_argument("table", help="table3, table4, table5, or a grid's .toml file")
    parser.add_argument(
        "--scale",
        help="smoke: minutes, proves that everything runs; tiny: the trial, on real ALFWorld, "
        "hours to days; paper: the hub's models, planned only (default: smoke)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder (default: results/reproduce/TABLE-SCALE)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time, a thread each")
    parser.add_argument("--dry-run", action="store_true", help="show cells and time, run nothing")
    parser.add_argument(
        "--stage", choices=("pilot", "tuning", "trial"), default="trial",
        help="last stage to run: a trial's pilot tells how far seeds spread, its tuning which "
        "learning rate each arm takes (default: trial)",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="show what is there, run nothing")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER",
        help="copy what is finished there, small and without paths, to report it or to go on "
        "elsewhere; run nothing",
    )  # fmt: skip
    parser.add_argument("--run", action="store_true", help="run a grid that is planned only")
    parser.add_argument("--markdown", action="store_true", help="tables as Markdown")
    given = parser.parse_args(args)
    if given.jobs < 1:
        raise ConfigError(f"--jobs is at least 1, not {given.jobs}.")

    from harness_distillation.reproduce import campaign, grid, plan, portable

    wanted = grid.load(given.table, given.scale)
    out = (given.out or Path("results") / "reproduce" / wanted.name).absolute()
    planned = plan.settle(wanted, out)
    if given.export is not None:
        count = portable.export(planned, out, given.export)
        say(f"{count} of {len(planned.cells)} cells are in {given.export}")
        return 0
    if given.report:
        return show_report(planned, out, given.markdown)
    show_plan(planned, out, given.markdown)
    if given.dry_run or (wanted.plan_only and not given.run):
        if not given.dry_run:
            say("Planned only; --run begins it.")
        return 0
    campaign.run(planned, out, given.jobs, say, given.stage)
    return show_report(planned, out, given.markdown)


def show_plan(plan: Plan, out: Path, markdown: bool) -> None:
    """The cells with their estimated time and memory, and what will decide."""
    from harness_distillation.reproduce import beforehand, estimates

    title = f"{plan.grid.name}: {plan.grid.description}"
    show(title, estimates.cells_table(plan, out), markdown)
    _list(estimates.sentences(plan, out), markdown)
    _list(beforehand.preregistration(plan, out), markdown)


def show_report(plan: Plan, out: Path, markdown: bool) -> int:
    """What was to decide, the table, the comparisons and the paper's numbers apart."""
    from harness_distillation.reproduce import beforehand, report

    _list(beforehand.preregistration(plan, out), markdown)
    if (tuning := beforehand.tuning_table(plan, out)) is not None:
        assert plan.grid.trial.dev is not None
        show(f"Tuning: won on {plan.grid.trial.dev.name}", tuning, markdown)
    found = report.arms(plan, out)
    tables = report.tables(plan, found)
    for title, rows in tables:
        show(title, rows, markdown)
    if not tables:
        _list([f"Nothing that the table shows is finished in {out}"], markdown)
    for line in report.origins(plan, out):
        _list([line], markdown)
    for part in report.verdicts(plan, out, found):
        _list(part, markdown)
    show(*report.paper(plan), markdown)
    return 0


def _list(lines: list[str], markdown: bool) -> None:
    """Sentences, on a terminal broken between words."""
    page = stdout()
    for line in lines:
        if page.is_terminal and not markdown:
            page.print(plain(line), markup=False, highlight=False)
        else:
            print(f"- {line}" if markdown else line)
    print()


def show(title: str, rows: Table, markdown: bool) -> None:
    """A table with its headings in the first row."""
    if markdown:
        rule = [":---", *["---:"] * (len(rows[0]) - 1)]
        lines = ("| " + " | ".join(line) + " |" for line in (rows[0], rule, *rows[1:]))
        print(f"**{title}**\n\n" + "\n".join(lines), end="\n\n")
        return
    page = stdout()
    page.print(fitting(page, title, rows))
    page.print()


def fitting(page: Console, title: str, rows: Table) -> Grid:
    """A table for a terminal; where it is too wide, one without rules, with intervals below their
    means and task sets below their environments."""
    wide = _laid_out(title, rows)
    needs = page.measure(wide, options=page.options.update(max_width=_WIDEST)).maximum
    return wide if needs <= page.width else _laid_out(title, rows, narrow=True)


def _laid_out(title: str, rows: Table, narrow: bool = False) -> Grid:
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    table = Grid(title=Text(plain(title)), title_justify="left", header_style="bold")
    if narrow:
        table.box, table.padding, table.show_edge = box.SIMPLE_HEAD, 0, False
    table.add_column(Text(plain(rows[0][0])), no_wrap=True)
    for heading in rows[0][1:]:
        shown = _broken(plain(heading)) if narrow else plain(heading)
        table.add_column(Text(shown), justify="right")
    for name, *cells in rows[1:]:
        values = [plain(cell).replace(" [", "\n[") if narrow else plain(cell) for cell in cells]
        table.add_row(Text(plain(name)), *map(Text, values))
    return table


def _broken(heading: str) -> str:
    if "/" in heading:
        return heading.replace("/", "/\n").replace(" at ", "\nat ")
    return re.sub(r"(?<=\w) (?=\w)", "\n", heading)

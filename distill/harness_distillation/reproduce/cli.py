"""``harness reproduce``: the command line of the campaigns."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.console import say, stdout
from harness.errors import ConfigError
from harness.plain import plain

if TYPE_CHECKING:
    from harness_distillation.reproduce.plan import Plan
    from harness_distillation.reproduce.report import Table


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
        "--scale", default="smoke",
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
    """The cells with their estimated time, and what will decide."""
    from harness_distillation.reproduce import beforehand, report
    from harness_distillation.reproduce import plan as plans

    grid, cells = plan.grid, [p.cell for p in plan.cells]
    hours = {c.name: plans.cost(grid, c).hours for c in cells}
    show(
        f"{grid.name}: {len(cells)} cells, {out}",
        report.cells_table(plan, out, hours),
        markdown,
    )
    collecting = plans.collecting(grid, cells)
    for what, episodes, seconds in collecting:
        print(f"Traces, once: {episodes} episodes of {what.agent} in {what.env}/{what.tasks}, "
              f"{seconds / 3600:.2f} h")  # fmt: skip
    total = sum(hours.values()) + sum(s for *_, s in collecting) / 3600
    unit = "GPU-hours" if grid.device is not None else "hours of one process"
    print(f"In all about {total:.1f} {unit}. {plans.arithmetic(grid)}")
    _list(beforehand.preregistration(plan, out), markdown)


def show_report(plan: Plan, out: Path, markdown: bool) -> int:
    """What was to decide, the table, the comparisons and the paper's numbers apart."""
    from harness_distillation.reproduce import beforehand, report

    _list(beforehand.preregistration(plan, out), markdown)
    if (tuning := beforehand.tuning_table(plan, out)) is not None:
        assert plan.grid.trial.dev is not None
        show(f"Tuning: won on {plan.grid.trial.dev.name}", tuning, markdown)
    found = report.arms(plan, out)
    for title, rows in report.tables(plan, found):
        show(title, rows, markdown)
    for line in report.origins(plan, out):
        print(line, end="\n\n")
    for part in report.verdicts(plan, out, found):
        _list(part, markdown)
    show(*report.paper(plan), markdown)
    return 0


def _list(lines: list[str], markdown: bool) -> None:
    print("\n".join(f"- {line}" if markdown else line for line in lines), end="\n\n")


def show(title: str, rows: Table, markdown: bool) -> None:
    """A table with its headings in the first row."""
    if markdown:
        rule = [":---", *["---:"] * (len(rows[0]) - 1)]
        lines = ("| " + " | ".join(line) + " |" for line in (rows[0], rule, *rows[1:]))
        print(f"**{title}**\n\n" + "\n".join(lines), end="\n\n")
        return
    from rich.table import Table as Grid
    from rich.text import Text

    table = Grid(title=Text(plain(title)), title_justify="left", header_style="bold")
    for number, heading in enumerate(rows[0]):
        table.add_column(Text(heading), justify="right" if number else "left")
    for row in rows[1:]:
        table.add_row(*(Text(plain(cell)) for cell in row))
    stdout().print(table)

"""``harness import``: foreign trajectory logs become a run folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness_distillation.imports import exported
from harness_distillation.imports.grammar import SOURCES
from harness_distillation.imports.run import Limits, Report, import_files, read


def main(args: list[str]) -> int:
    """``harness import SOURCE FILE... --env ENV``: the run's path to stdout, the report to stderr.

    Returns the exit status; errors are HarnessErrors, which the caller prints.
    """
    parser = argparse.ArgumentParser(
        prog="harness import",
        description="Turn trajectory logs of others, or rows of `harness export --as` (exported), "
        "into a run folder that view, score and distill --data take. Fails when too little of a "
        "log is understood.",
        allow_abbrev=False,
    )
    sources = (*SOURCES, exported.SOURCE)
    parser.add_argument("source", choices=sources, metavar="SOURCE", help=", ".join(sources))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="plain or packed")
    parser.add_argument(
        "-e", "--env", help="environment played (exported rows tell theirs; of several, one)"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("results"), help="results folder")
    parser.add_argument(
        "-a", "--agent", help="name of who played (default: the source's, or the rows')"
    )
    parser.add_argument("--data", help="data whose tasks the episodes are of (HotPotQA)")
    parser.add_argument(
        "--min-matched", type=float, default=Limits().matched, metavar="SHARE",
        help="least share of what the model wrote that must be understood (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-empty", type=float, default=Limits().empty, metavar="SHARE",
        help="most decisions without an action, and episodes without a decision (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--all-won", action="store_true", help="episodes whose end the log does not tell were won"
    )
    parser.add_argument("--dry-run", action="store_true", help="report, and write nothing")
    given = parser.parse_args(args)
    limits = Limits(given.min_matched, given.max_empty)
    if given.dry_run:
        found = read(
            given.source, given.files, given.env, agent=given.agent, data=given.data,
            limits=limits, all_won=given.all_won,
        )  # fmt: skip
        print(describe(found.report))
        return 0
    run, report = import_files(
        given.source, given.files, given.env, out=given.out, agent=given.agent, data=given.data,
        limits=limits, all_won=given.all_won,
    )  # fmt: skip
    print(describe(report), file=sys.stderr)
    print(run.path)
    return 0


def describe(report: Report) -> str:
    """The report in a few lines."""
    t = report.tally
    lines = [
        f"{report.n} episodes, {t.steps} decisions from {len(report.files)} file(s), "
        f"grammar {report.grammar}",
    ]
    logs = [
        f"  matched: {t.matched_share:.2%} of {t.written} characters written, "
        f"{1 - t.empty_share:.2%} of decisions have an action ({t.empty} have none), "
        f"{t.undecided} episodes have no decision",
        f"  left out by name: {t.left_out} characters",
        f"  labels inside observations: {t.labels_inside}",
        f"  actions renamed: {t.translated}, of no name the environment knows: {t.foreign}",
    ]
    if not report.grammar.startswith(exported.SOURCE):
        lines += logs
    lines += [
        f"  outcome: {report.won} won, {report.lost} lost, {report.untold} not told"
        + (" (--all-won)" if report.all_won else ""),
        f"  tasks found in the data: {report.known_tasks} of {report.n} episodes"
        + ("" if report.known_tasks == report.n else "; the others count as contaminated: "
           "they may be any task of this environment"),
    ]  # fmt: skip
    return "\n".join(lines)

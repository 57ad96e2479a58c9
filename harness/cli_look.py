"""Commands that look at what is recorded: leaderboard, compare, view, plot, list."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.console import say, stdout, warn
from harness.errors import ConfigError, TraceError, unknown

if TYPE_CHECKING:
    from rich.table import Table

    from harness.leaderboard import Board

RESULTS = Path("results")

Out = Annotated[Path, typer.Option("--out", "-o", help="Results folder.")]
OnlyEnv = Annotated[str | None, typer.Option("--env", "-e", help="Only this environment.")]
OnlyTasks = Annotated[
    str | None,
    typer.Option("--tasks", "-t", help="Only this set: a name, or the file of a frozen one."),
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Markdown to stdout.")]
Json = Annotated[bool, typer.Option("--json", help="JSON to stdout.")]
Page = Annotated[Path | None, typer.Option("--page", help="Write an HTML page.")]
Teacher = Annotated[
    str | None, typer.Option("--teacher", help="Agent that others' success is a share of.")
]


def leaderboard(
    out: Out = RESULTS,
    env: OnlyEnv = None,
    tasks: OnlyTasks = None,
    markdown: Markdown = False,
    json: Json = False,
    page: Page = None,
    teacher: Teacher = None,
    by_type: Annotated[
        bool, typer.Option("--by-type", help="On the terminal: success by task type too.")
    ] = False,
) -> None:
    """Who is better: a table per task set, with Wilson intervals and errors beside them."""
    from harness import leaderboard as boards

    _at_most_one({"--markdown": markdown, "--json": json, "--page": page is not None})
    if by_type and (markdown or json or page is not None):
        raise ConfigError("--by-type is for the terminal; --json and --page have types anyway.")
    damaged: list[str] = []

    def on_damage(error: Exception) -> None:
        damaged.append(str(error))
        warn(error)

    found = _boards(out, env, tasks, teacher, on_damage)
    if json:
        print(boards.to_json(found))
        return
    _not_empty(found, out, tasks)
    if markdown:
        print(boards.markdown(found))
    elif page is not None:
        from harness import pages
        from harness.view import write_page

        write_page(page, pages.leaderboard_page(found, notes=damaged))
        print(page)
    else:
        from rich.text import Text

        terminal = stdout()
        for board in found:
            terminal.print(boards.table(board, terminal.width), "")
            types = boards.type_table(board) if by_type else None
            if types is not None:
                terminal.print(types, "")
        terminal.print(Text(boards.PER_STEP))


def compare(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Agents or run folders, each against the first. A,B: training seeds of one agent."
        ),
    ],
    out: Out = RESULTS,
    env: OnlyEnv = None,
    tasks: OnlyTasks = None,
    margin: Annotated[
        float, typer.Option("--margin", help="Points that count as equivalent.")
    ] = 3.0,
    markdown: Markdown = False,
    json: Json = False,
    page: Page = None,
    fail_if_worse: Annotated[
        bool,
        typer.Option(
            "--fail-if-worse",
            help="Exit 1 where the first is clearly worse, also with broken episodes as lost.",
        ),
    ] = False,
) -> None:
    """Who is better on the same tasks, by how much, and how sure."""
    from harness import comparison, comparison_text
    from harness.sides import find_sides

    _at_most_one({"--markdown": markdown, "--json": json, "--page": page is not None})
    if len(sides) < 2:
        raise ConfigError("`harness compare` needs two agents or runs at least.")
    runs = find_sides(sides, out, env, tasks, warn, tell=say)
    found = comparison.compare_all(runs, margin=margin / 100)
    if json:
        print(comparison_text.to_json(found))
    elif markdown:
        print(comparison_text.markdown(found))
    elif page is not None:
        from harness.comparison_page import comparison_page
        from harness.view import write_page

        write_page(page, comparison_page(found))
        print(page)
    else:
        for one in found:
            terminal = stdout()
            terminal.print(comparison_text.table(one, terminal.width))
            print(comparison_text.units(one))
            print("\n".join(comparison_text.sentences(one)), end="\n\n")
    if fail_if_worse and any(one.worse for one in found):
        raise typer.Exit(1)


def view(
    sides: Annotated[
        list[str] | None,
        typer.Argument(help="A run folder or an agent; a second one is shown beside it."),
    ] = None,
    out: Out = RESULTS,
    env: OnlyEnv = None,
    tasks: OnlyTasks = None,
    task: Annotated[str | None, typer.Option("--task", help="One task, step by step.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Only this seed.")] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", help="Only this attempt.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Lost episodes.")] = False,
    invalid: Annotated[bool, typer.Option("--invalid", help="With an invalid action.")] = False,
    errors: Annotated[bool, typer.Option("--errors", help="Episodes that broke.")] = False,
    task_type: Annotated[str | None, typer.Option("--type", help="Only this task type.")] = None,
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Most episodes shown (50; 2000 on a page).")
    ] = None,
    page: Page = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve pages on this machine.")] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port of --serve (0: any).")
    ] = 0,
) -> None:
    """Look at episodes: on the terminal, as a page, or served to a browser."""
    from harness import view as viewing
    from harness.sides import find_sides

    wanted = viewing.Wanted(failed, invalid, errors, task_type, task, seed, attempt)
    if len(sides or ()) > 2 or not (sides or serve):
        raise ConfigError("`harness view` takes one run or agent, or two. See `harness list runs`.")
    runs = []
    all_found = find_sides(sides, out, env, tasks, warn, task=task, tell=say) if sides else []
    for side, found in zip(sides or (), all_found, strict=True):
        if len(found) > 1:
            raise ConfigError(f"`harness view` shows one run a side, not '{side}': name two sides.")
        runs += found
    if serve:
        if wanted != viewing.Wanted() or page is not None or most is not None:
            raise ConfigError("--serve shows whole runs: filter in the browser, or use --page.")
        _serve(out, runs, port)
    elif page is not None:
        from harness import pages

        shown = pages.episodes_page(runs, wanted, most=most or pages.MOST)
        viewing.write_page(page, shown)
        print(page)
    else:
        viewing.show(stdout(), runs, wanted, most=most or viewing.MOST)


def _serve(out: Path, runs: list[Any], port: int) -> None:
    from harness.serve import address, make_server

    path = address(out, runs) if runs else "/"
    with make_server(out, port) as server:
        try:
            say(f"http://127.0.0.1:{server.server_address[1]}{path}  (stop with Ctrl-C)")
            server.serve_forever()
        except KeyboardInterrupt:
            say("harness: no longer serving.")


def plot(
    figure: Annotated[str, typer.Argument(help="scaling, tradeoff or training")],
    paths: Annotated[
        list[Path] | None, typer.Argument(help="training: students' folders, or their log.jsonl.")
    ] = None,
    out: Out = RESULTS,
    env: OnlyEnv = None,
    tasks: OnlyTasks = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="File .svg or .png (default: FIGURE.svg).")
    ] = None,
    line: Annotated[
        list[str] | None,
        typer.Option("--line", help="scaling: NAME=AGENT,AGENT: these on one line; repeatable."),
    ] = None,
    teacher: Teacher = None,
    words: Annotated[
        bool, typer.Option("--words", help="Reasoning in words, not in tokens of each model's own.")
    ] = False,
) -> None:
    """Draw success and cost against model size (scaling), success against reasoning with the
    Pareto front (tradeoff), or a training's losses (training)."""
    from harness import drawing, figures

    def skipped(text: str) -> None:
        say(f"harness: left out: {text}")

    if figure == "training":
        strips = figures.training(paths or [])
    elif figure in ("scaling", "tradeoff"):
        if paths:
            raise ConfigError(f"`harness plot {figure}` takes its runs from --out, no paths.")
        found = _boards(out, env, tasks, teacher, warn)
        _not_empty(found, out, tasks)
        if figure == "scaling":
            named = _lines(line or [], {row.agent for board in found for row in board.rows})
            strips = figures.scaling(found, lines=named, words=words, on_skip=skipped)
        else:
            strips = figures.tradeoff(found, words=words, on_skip=skipped)
    else:
        raise ConfigError(unknown("figure", figure, ("scaling", "tradeoff", "training")))
    path = to or Path(f"{figure}.svg")
    drawing.write(strips, path)
    print(path)


def _boards(
    out: Path,
    env: str | None,
    tasks: str | None,
    teacher: str | None,
    on_damage: Callable[[Exception], None],
) -> list[Board]:
    """The boards asked for. Raises ConfigError for a teacher that is on none of them."""
    from harness import leaderboard
    from harness.runs import find_runs
    from harness.sides import check_env, chooser

    fits = chooser(env, tasks)
    recorded = find_runs(out, on_damage)
    check_env(env, recorded)
    runs = [run for run in recorded if fits(run)]
    found = leaderboard.boards(runs, teacher=teacher, on_damage=on_damage)
    agents = {row.agent for board in found for row in board.rows}
    if teacher is not None and teacher not in agents:
        raise ConfigError(unknown("agent on these boards", teacher, agents))
    return found


def _not_empty(found: Sequence[Board], out: Path, tasks: str | None = None) -> None:
    if found:
        return
    if tasks is None:
        nested = {path.parents[3] for path in out.glob("*/*/*/*/run.json")}
        below = "".join(f"\n  There are runs in {path}: --out {path}" for path in sorted(nested))
        raise ConfigError(
            f"No complete runs in {out}. Make one with `harness run`.{below}{_stopped(out)}"
        )
    from harness.runs import find_runs

    sets = {run.meta.task_set.name for run in find_runs(out, lambda error: None)}
    near = difflib.get_close_matches(tasks, sets | {name.partition("/")[2] for name in sets})
    meant = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ConfigError(
        f"No complete runs of '{tasks}' in {out}.{meant} Make one with `harness run --tasks "
        f"'{tasks}'`; see `harness list runs`.{_stopped(out)}"
    )


def _stopped(out: Path) -> str:
    """Runs that wait to go on, a line each; the first three."""
    from harness.runs import find_runs

    waiting = []
    for run in find_runs(out, lambda error: None):
        with suppress(TraceError):  # damage is told by `harness list runs`
            if run.meta.kind == "run" and run.state(sum(1 for _ in run.episodes())) == "stopped":
                waiting.append(run)
    if not waiting:
        return ""
    few = "".join(f"\n  harness run --resume {run.path}" for run in waiting[:3])
    return f"\n  {len(waiting)} stopped run{'' if len(waiting) == 1 else 's'}:{few}"


def _lines(given: Sequence[str], agents: set[str]) -> dict[str, str]:
    """``NAME=AGENT,AGENT`` as agent -> name."""
    lines: dict[str, str] = {}
    for text in given:
        name, _, rest = text.partition("=")
        members = [member.strip() for member in rest.split(",") if member.strip()]
        if not (name and members):
            raise ConfigError(f"--line takes NAME=AGENT,AGENT, not '{text}'.")
        for member in members:
            if member not in agents:
                raise ConfigError(unknown("agent on these boards", member, agents))
            if member in lines:
                raise ConfigError(f"--line: '{member}' is on two lines.")
            lines[member] = name
    return lines


def list_(
    what: Annotated[str, typer.Argument(help="envs, agents, tasks, protocols or runs")],
    sets: Annotated[
        list[str] | None,
        typer.Argument(
            help="tasks: a set, a frozen file or a run, to see its tasks; two, to see what "
            "differs. protocols: one, to see all about it. Either: an environment's alone."
        ),
    ] = None,
    out: Out = RESULTS,
    everything: Annotated[
        bool, typer.Option("--all", help="Also agents that cannot run here, and why.")
    ] = False,
    env: OnlyEnv = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="tasks SET: freeze it in this .json, for `run --tasks FILE`."),
    ] = None,
) -> None:
    """List environments, agents, task sets (or one's tasks), protocols or runs."""
    from harness import listing, registry

    if sets and len(sets) == 1 and env is None and sets[0] in registry.names("envs"):
        env, sets = sets[0], None
    listings: dict[str, Callable[[], Any]] = {
        "envs": listing.envs,
        "agents": lambda: listing.agents(everything),
        "tasks": lambda: listing.tasks(env),
        "protocols": lambda: listing.protocols(env),
        "runs": lambda: _runs(out),
    }
    if what not in listings:
        raise ConfigError(unknown("list", what, listings))
    if what == "protocols" and sets and len(sets) == 1 and to is None:
        stdout().print(listing.protocol(sets[0], env))
        return
    if not sets:
        if to is not None:
            raise ConfigError("--to goes with `harness list tasks SET`.")
        if env is not None and what not in ("tasks", "protocols"):
            raise ConfigError("--env goes with `harness list tasks` and `harness list protocols`.")
        stdout().print(listings[what]())
        return
    if what not in ("tasks", "protocols"):
        raise ConfigError(f"`harness list {what}` takes no {sets[0]}: it lists all of them.")
    if what != "tasks" or len(sets) > 2 or (to is not None and len(sets) > 1):
        raise ConfigError("`harness list tasks` takes a set, or two to compare; --to takes one.")
    from harness.sides import find_set
    from harness.tasksets import freeze

    found = [find_set(name, env) for name in sets]
    if to is not None:
        freeze(found[0], to)
        print(to)
    elif len(found) == 1:
        stdout().print(listing.task_set(found[0]))
    else:
        stdout().print(listing.task_differences(*found))


def _runs(out: Path) -> Table:
    from harness import listing

    console = stdout()
    table, left_out = listing.runs(out, warn, console.width if console.is_terminal else None)
    if not table.row_count:
        say(f"No runs in {out}. Make one with `harness run`, or say where they are with --out.")
    if left_out:
        say(f"No room for {', '.join(left_out)}: a wider terminal shows all.")
    return table


def _at_most_one(given: dict[str, bool]) -> None:
    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise ConfigError(f"{' and '.join(names)} exclude each other: give one.")

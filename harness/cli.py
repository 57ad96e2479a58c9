"""The ``harness`` command: a thin layer over ``harness.api``. Data to stdout, talk to stderr."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from harness import cli_export, cli_look, cli_play
from harness.cli_look import RESULTS, Out
from harness.cli_play import (
    Agent,
    Data,
    Options,
    Reference,
    Workers,
    env_options,
    one,
    report,
    stoppable,
)
from harness.console import Progress, Steps, say, stdout, warn
from harness.errors import ConfigError, HarnessError
from harness.plain import plain

app = typer.Typer(
    help="Evaluate language agents, compare them, and distil small students from their traces.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"distill-harness {version('distill-harness')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say the version.")
    ] = False,
) -> None:
    """Evaluate language agents, compare them, and distil small students from their traces."""


app.command()(cli_play.run)
app.command()(cli_play.collect)


@app.command(
    context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []
    }
)  # fmt: skip
def distill(context: typer.Context) -> None:
    """Train a student by a recipe: collect, cache, train, evaluate. See `distill --help`."""
    from harness import registry

    main = registry.load("commands", "distill", "command")
    raise typer.Exit(main(context.args))


@app.command(
    context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []
    }
)  # fmt: skip
def reproduce(context: typer.Context) -> None:
    """Run a table of the paper as a grid of arms and seeds. See `reproduce --help`."""
    from harness import registry

    main = registry.load("commands", "reproduce", "command")
    raise typer.Exit(main(context.args))


app.command()(cli_look.leaderboard)
app.command()(cli_look.compare)
app.command()(cli_look.view)
app.command(rich_help_panel="More")(cli_look.plot)


@app.command("list")
@functools.wraps(cli_look.list_)
def list_(**words: Any) -> None:
    # What goes over all environments goes on without those that cannot be loaded.
    if words["env"] is None and words["what"] != "runs":
        _pass_over_broken("envs", *(("agents",) if words["what"] == "agents" else ()))
    cli_look.list_(**words)


@app.command(
    "import",
    rich_help_panel="More",
    context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []
    },
)  # fmt: skip
def import_(context: typer.Context) -> None:
    """Take trajectory logs of others in as a run. See `import --help`."""
    from harness import registry

    main = registry.load("commands", "import", "command")
    raise typer.Exit(main(context.args))


@app.command(rich_help_panel="More")
def score(
    path: Annotated[Path, typer.Argument(help="Run folder.")],
    reference: Reference = None,
    ceiling: Annotated[
        str | None,
        typer.Option("--ceiling", help="Another run of the reference's agent, to match with it."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="Agent in whose tokens CoT match is told, too."),
    ] = None,
) -> None:
    """Rebuild a run's metrics from its episodes; nothing is played again."""
    from harness import api, leaderboard, registry, scoring
    from harness.runs import only_run

    encode = None if tokenizer is None else registry.tokenizer(registry.agent_config(tokenizer))
    found = only_run(path)
    out = api.results_folder(found)
    api.score(found.path, out, reference=reference, ceiling=ceiling)
    scored = api.load(found.path)
    report(scored)
    if encode is not None:
        told = scoring.in_pieces(scored, out, encode)
        print("\n".join(leaderboard.cot_notes(told, f"tokens of {tokenizer}")))


@app.command("teacher-forced", rich_help_panel="More")
def teacher_forced(
    reference: Annotated[str, typer.Argument(help="Run folder of the reference, or its agent.")],
    agent: Agent = None,
    out: Out = RESULTS,
    env: cli_look.OnlyEnv = None,
    tasks: cli_look.OnlyTasks = None,
    workers: Workers = None,
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Only the reference's first N episodes.")
    ] = None,
    json: cli_look.Json = False,
) -> None:
    """Ask an agent at every step of a recorded reference: F1 of its reasoning, same actions."""
    from harness import answers
    from harness import teacher_forced as forced
    from harness.sides import find_side

    player = one("teacher-forced", "agent", agent)
    runs = find_side(reference, out, env, tasks, warn)
    if len(runs) > 1:
        raise ConfigError(f"`harness teacher-forced` takes one reference, not '{reference}'.")
    steps = Steps(f"{player} at {runs[0].path}")
    with stoppable(lambda: "the same command goes on"):
        found = forced.ask(player, runs[0], out, workers=workers, most=most, on_step=steps)
    if json:
        print(answers.to_json(found))
    else:
        stdout().print(answers.table(found))
        print(found.record)
    if found.fault is not None:
        say(
            f"{found.errors} steps broke and are in no mean. The first:\n  {found.fault.message}\n"
            "  The same command asks at them again."
        )


@app.command(rich_help_panel="More")
def verify(
    path: Annotated[Path, typer.Argument(help="Run folder.")],
    data: Data = None,
    option: Options = None,
) -> None:
    """Play a run's recorded actions again and compare every observation and outcome."""
    from harness.runs import only_run
    from harness.verify import verify as check_run

    run = only_run(path)
    checked = different = broken = 0
    with Progress(f"verify {run.meta.agent.name}", sampling=False) as progress:
        for episode, difference in check_run(run, env_options(data, option)):
            checked += 1
            if episode is not None:
                progress(episode, run.meta.n_episodes)
                broken += episode.error is not None
            if difference is None:
                continue
            different += 1
            if different == 1:
                d = difference
                where = f"step {d.step}" if d.step else f"seed {d.seed}, attempt {d.attempt}"
                print(plain(f"{d.task_id}, {where}: {d.field} differs"))
                print(f"  recorded: {d.recorded!r}\n  found:    {d.found!r}")
    if not checked:
        raise ConfigError(f"{run.path} holds no episodes to verify (episodes.jsonl).")
    print(
        f"{checked - different} of {checked} episodes are equal in every observation and outcome."
    )
    if broken:
        print(f"{broken} episodes broke when they were played: they have no outcome to check.")
    if different:
        raise typer.Exit(1)


app.command(rich_help_panel="More")(cli_export.export)


@app.command(rich_help_panel="More")
def restore(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    data: Data = None,
    option: Options = None,
) -> None:
    """Make the episodes of runs that came with decisions alone (`export --decisions`): the games
    are played again on the data here, and every episode is checked against its hash."""
    from harness.decisions import restore as again
    from harness.runs import only_run

    for run in [only_run(path) for path in paths]:
        print(again(run, env_options(data, option)))


@app.command(rich_help_panel="More")
def fetch(
    env: Annotated[str, typer.Argument(help="Environment whose official data to download.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to put them into.")] = Path("data"),
) -> None:
    """Download an environment's official data (resumable, checked)."""
    from harness import registry

    registry.env_class(env).fetch(to)


@app.command(rich_help_panel="More")
def check(
    what: Annotated[str, typer.Argument(help="'env' or 'agent'")],
    name: Annotated[str, typer.Argument(help="Its name.")],
) -> None:
    """Hold an environment or an agent against its contract."""
    from harness import testing

    checks: dict[str, Callable[[str], list[testing.Check]]]
    checks = {"env": testing.environment_checks, "agent": testing.agent_checks}
    if what not in checks:
        raise ConfigError(f"`harness check` takes 'env' or 'agent', not '{what}'.")
    if what == "agent":  # in every environment that can be loaded
        _pass_over_broken("envs")
    failed = 0
    try:
        found = checks[what](name)
    except HarnessError:
        raise
    except Exception as error:
        found, failed = [], 1
        print(f"FAIL  it can be made: {type(error).__name__}: {error}")
    for label, call in found:
        try:
            call()
            print(f"ok    {label}")
        except (AssertionError, HarnessError) as error:
            failed += 1
            print(f"FAIL  {label}: {error}")
        except Exception as error:  # of the code that is checked
            failed += 1
            print(f"FAIL  {label}: {type(error).__name__}: {error}")
    if failed:
        raise typer.Exit(1)


@app.command(rich_help_panel="More")
def play(
    env: Annotated[str, typer.Argument(help="Environment to play.")] = "alfworld",
    task: Annotated[str | None, typer.Option("--task", help="Task id (default: by seed).")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Draws the task.")] = 0,
    data: Data = None,
    option: Options = None,
) -> None:
    """Play a task yourself, at the keyboard."""
    from harness import registry
    from harness.play import play as by_hand

    by_hand(registry.env_class(env)(**env_options(data, option)), task, seed)


@app.command(rich_help_panel="More")
def doctor(out: Out = RESULTS) -> None:
    """Say what works on this machine, and what to install for the rest."""
    from harness.doctor import diagnose

    healthy = True
    for finding in diagnose(out):
        print(f"{'ok   ' if finding.fine else 'MISSING' if finding.optional else 'FAIL '}"
              f"  {finding.what}: {finding.detail}")  # fmt: skip
        healthy = healthy and (finding.fine or finding.optional)
    if not healthy:
        raise typer.Exit(1)


def _pass_over_broken(*groups: str) -> None:
    from harness import registry

    for what, error in registry.set_aside(*groups):
        say(f"harness: passed over {what}: {error}")


def main() -> None:
    """Entry point: errors made on purpose become one message and exit status 2."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for as long as it runs)
        elif isinstance(stream, TextIOWrapper):  # what its encoding has no sign for is spelt out
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except HarnessError as error:
        say(f"harness: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a file that cannot be written or read: a place, not a bug
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"harness: {where}.\n  Choose another place, or make this one readable and writable.")
        sys.exit(2)

"""The ``harness`` command: a thin layer over ``harness.api``. Data to stdout, talk to stderr."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import cli_export, cli_look
from harness.cli_look import RESULTS, Out
from harness.console import Progress, Steps, say, stdout, warn
from harness.errors import ConfigError, HarnessError
from harness.plain import plain

if TYPE_CHECKING:
    from harness.runs import Run, RunMeta

app = typer.Typer(
    help="Evaluate language agents, compare them, and distil small students from their traces.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

Agent = Annotated[str, typer.Option("--agent", "-a", help="Agent: a name, .toml or checkpoint.")]
Env = Annotated[str, typer.Option("--env", "-e", help="Environment, as in `harness list envs`.")]
Tasks = Annotated[
    str | None,
    typer.Option("--tasks", "-t", help="Task set, or part of one: 'builtin-valid[:20]'."),
]
Data = Annotated[str | None, typer.Option("--data", help="'builtin', or a folder of real data.")]
Workers = Annotated[
    int | None, typer.Option("--workers", "-w", min=1, help="Episodes played at once.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Seeds 0 .. N-1, each over all tasks.")]
Attempts = Annotated[int, typer.Option("--attempts", min=1, help="Episodes per task and seed.")]
MaxSteps = Annotated[int | None, typer.Option("--max-steps", help="Step budget (another set!).")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", help="Tokens an episode may sample (another set!).")
]
RepeatLimit = Annotated[
    int | None,
    typer.Option("--repeat-limit", help="End after N identical invalid actions (another set!)."),
]
Decode = Annotated[
    str | None,
    typer.Option("--decode", help="'admissible': only admissible actions, as NAME+admissible."),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="Environment keyword, e.g. engine=textworld; repeatable."),
]
ProtocolName = Annotated[
    str | None, typer.Option("--protocol", help="Rules of play of a paper: see `list protocols`.")
]
StepSeconds = Annotated[float, typer.Option("--step-seconds", help="Time limit of one step.")]
EpisodeSeconds = Annotated[float, typer.Option("--episode-seconds", help="... of one episode.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be run.")]
PlanJson = Annotated[
    bool, typer.Option("--json", help="With --dry-run: the resolved config as JSON to stdout.")
]
Reference = Annotated[
    str | None, typer.Option("--reference", help="Run or agent that CoT overlap is against.")
]


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


@app.command()
def run(
    context: typer.Context,
    env: Env = "",
    agent: Agent = "",
    tasks: Tasks = None,
    data: Data = None,
    out: Out = RESULTS,
    workers: Workers = None,
    seeds: Seeds = 1,
    attempts: Attempts = 1,
    protocol: ProtocolName = None,
    max_steps: MaxSteps = None,
    max_tokens: MaxTokens = None,
    repeat_limit: RepeatLimit = None,
    decode: Decode = None,
    option: Options = None,
    reference: Reference = None,
    step_seconds: StepSeconds = 600.0,
    episode_seconds: EpisodeSeconds = 7200.0,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this run.")] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="With --resume: play broken episodes again.")
    ] = False,
    dry_run: DryRun = False,
    json: PlanJson = False,
) -> None:
    """Play an agent through a task set, record and measure it."""
    from harness.runner import Limits

    limits = Limits(step_seconds, episode_seconds)
    if resume is not None:
        _resume(context, resume, limits, retry_errors)
        return
    if retry_errors:
        raise ConfigError("--retry-errors goes with --resume RUN: it plays that run's again.")
    _play(
        "run", env, agent, tasks, data, out, option, limits, dry_run, json,
        workers=workers, seeds=range(seeds), attempts=attempts, protocol=protocol,
        max_steps=max_steps, max_tokens=max_tokens, repeat_limit=repeat_limit, decode=decode,
        reference=reference,
    )  # fmt: skip


@app.command()
def collect(
    context: typer.Context,
    env: Env = "",
    agent: Agent = "",
    tasks: Tasks = None,
    data: Data = None,
    out: Out = RESULTS,
    workers: Workers = None,
    seeds: Seeds = 1,
    attempts: Attempts = 1,
    protocol: ProtocolName = None,
    max_steps: MaxSteps = None,
    max_tokens: MaxTokens = None,
    repeat_limit: RepeatLimit = None,
    decode: Decode = None,
    option: Options = None,
    error_rate: Annotated[
        float, typer.Option("--error-rate", help="Share of steps replaced by marked slips.")
    ] = 0.0,
    errors_from: Annotated[
        str | None, typer.Option("--errors-from", help="Agent whose decisions are the slips.")
    ] = None,
    step_seconds: StepSeconds = 600.0,
    episode_seconds: EpisodeSeconds = 7200.0,
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with this run.")] = None,
    dry_run: DryRun = False,
    json: PlanJson = False,
) -> None:
    """Record traces to learn from: like run, with slips put in if asked (never taught)."""
    from harness.runner import Limits

    limits = Limits(step_seconds, episode_seconds)
    if resume is not None:
        _resume(context, resume, limits, False)
        return
    _play(
        "collect", env, agent, tasks, data, out, option, limits, dry_run, json,
        workers=workers, seeds=range(seeds), attempts=attempts, protocol=protocol,
        max_steps=max_steps, max_tokens=max_tokens, repeat_limit=repeat_limit, decode=decode,
        error_rate=error_rate, errors_from=errors_from,
    )  # fmt: skip


@app.command(
    context_settings={
        "allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []
    }
)  # fmt: skip
def distill(context: typer.Context) -> None:
    """Train a student by a recipe: prepare, cache the teacher, train. See `distill --help`."""
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
) -> None:
    """Rebuild a run's metrics from its episodes; nothing is played again."""
    from harness import api

    found = api.load(path)
    api.score(found.path, api.results_folder(found), reference=reference, ceiling=ceiling)
    _report(api.load(found.path))


@app.command("teacher-forced", rich_help_panel="More")
def teacher_forced(
    reference: Annotated[str, typer.Argument(help="Run folder of the reference, or its agent.")],
    agent: Agent = "",
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

    if not agent:
        raise ConfigError("`harness teacher-forced` needs --agent. See `harness list agents`.")
    runs = find_side(reference, out, env, tasks, warn)
    if len(runs) > 1:
        raise ConfigError(f"`harness teacher-forced` takes one reference, not '{reference}'.")
    steps = Steps(f"{agent} at {runs[0].path}")
    with _stoppable(lambda: "the same command goes on"):
        found = forced.ask(agent, runs[0], out, workers=workers, most=most, on_step=steps)
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
    from harness import api
    from harness.verify import verify as check_run

    run = api.load(path)
    checked = different = broken = 0
    with Progress(f"verify {run.meta.agent.name}", sampling=False) as progress:
        for episode, difference in check_run(run, _env_options(data, option)):
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
    from harness import api
    from harness.decisions import restore as again

    for path in paths:
        print(again(api.load(path), _env_options(data, option)))


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
    seed: Annotated[int, typer.Option("--seed", help="Draws the task.")] = 0,
    data: Data = None,
    option: Options = None,
) -> None:
    """Play a task yourself, at the keyboard."""
    from harness import registry
    from harness.play import play as by_hand

    by_hand(registry.env_class(env)(**_env_options(data, option)), task, seed)


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


def _play(
    kind: str,
    env: str,
    agent: str,
    tasks: str | None,
    data: str | None,
    out: Path,
    option: list[str] | None,
    limits: Any,
    dry_run: bool,
    json: bool,
    **settings: Any,
) -> None:
    from harness import api, registry
    from harness.runs import utc_now

    for flag, value in (("--env", env), ("--agent", agent)):
        if not value:
            noun = flag[2:] + "s"
            raise ConfigError(f"`harness {kind}` needs {flag}. See `harness list {noun}`.")
    config = registry.agent_config(agent)
    if settings["workers"] is None:
        settings["workers"] = registry.default_workers(config)
    settings.update(kind=kind, env_options=_env_options(data, option))
    if json and not dry_run:
        raise ConfigError("--json goes with --dry-run; a run's config is in its run.json.")
    if dry_run:
        import msgspec

        from harness import listing
        from harness.paired import detectable, planned_error

        meta = api.plan(config, env, tasks=tasks, **settings)
        if json:
            print(msgspec.json.format(msgspec.json.encode(meta), indent=1).decode())
        else:
            stdout().print(listing.plan(meta))
        seen = 100 * detectable(planned_error(len(meta.task_set.tasks)))
        n = len(meta.task_set.tasks)
        say(
            f"{meta.n_episodes} episodes, nothing played. {_estimate(meta, out)} A paired "
            f"comparison of one run each on these {n} tasks shows differences from about "
            f"{seen:.1f} points on (80 % power, near 50 % success); evaluation seeds and attempts "
            "repeat tasks and add none."
        )
        return
    since = utc_now()
    with (
        _stoppable(lambda: _begun(out, since)),
        Progress(f"{config.name} on {tasks or env}") as progress,
    ):
        run = api.evaluate(
            config, env, tasks=tasks, out=out, limits=limits, on_episode=progress, **settings
        )
    _report(run)


def _estimate(meta: RunMeta, out: Path) -> str:
    """How long a planned run takes, as the agent's newest complete run of this environment did."""
    from harness.errors import TraceError
    from harness.runs import find_runs

    for run in reversed(find_runs(out, warn)):
        was = run.meta
        alike = was.agent == meta.agent and was.task_set.env == meta.task_set.env
        if not alike or was.status != "complete":
            continue
        try:
            each = run.summary.seconds
        except TraceError as error:
            warn(error)
            continue
        if each is not None:
            at_once = min(was.workers, was.n_episodes)
            minutes = each * meta.n_episodes / at_once / 60
            return f"About {minutes:.1f} min, judged by {run.path} ({at_once} at once)."
    return "No earlier run of this agent tells how long they take."


#: Options that go with --resume; the others are the run's own.
_OF_RESUME = ("resume", "retry_errors", "step_seconds", "episode_seconds")


def _resume(context: typer.Context, path: Path, limits: Any, retry_errors: bool) -> None:
    from harness import api
    from harness.runs import only_run

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in _OF_RESUME
        and _is_given(context, parameter.name)
    ]
    if given:
        raise ConfigError(
            f"A run goes on as it began: {', '.join(given)} cannot go with --resume. Leave it out, "
            "or play a new run without --resume."
        )
    before = only_run(path)
    done = sum(1 for _ in before.episodes())
    say(f"{before.path}: {done} of {before.meta.n_episodes} episodes are there.")
    remedy = f"`harness run --resume {before.path}`"
    with _stoppable(lambda: remedy), Progress(before.meta.agent.name, done) as progress:
        run = api.resume(before.path, limits=limits, on_episode=progress, retry_errors=retry_errors)
    _report(run)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def _stoppable(remedy: Callable[[], str | None]) -> Iterator[None]:
    """End at Ctrl-C with how to go on; None: nothing is recorded yet."""
    try:
        yield
    except KeyboardInterrupt:
        told = remedy()
        say(
            "harness: stopped before an episode was recorded."
            if told is None
            else f"harness: stopped; what was played is recorded ({told})."
        )
        raise typer.Exit(130) from None


def _begun(out: Path, since: str) -> str | None:
    """How to go on with the run that this very command began: another process may have begun one
    in the same second, but it still writes."""
    from harness.recorder import EPISODES, is_left
    from harness.runs import find_runs

    ours = [
        run
        for run in find_runs(out, warn)
        if run.meta.argv == tuple(sys.argv)
        and run.meta.started >= since
        and run.meta.kind != "reference"
        and is_left(run.path / EPISODES)
    ]
    return f"`harness run --resume {ours[-1].path}`" if ours else None


def _report(run: Run) -> None:
    from harness import leaderboard as boards
    from harness.cost import told

    meta = run.meta
    board = boards.board(meta, [boards.Row.of(run)])
    page = stdout()
    page.print(boards.table(board, page.width))
    types = boards.type_table(board)
    if types is not None:
        page.print(types)
    print("\n".join(boards.notes(run.summary)))
    if meta.cost is not None:
        say(told(meta.cost))
    if run.summary.errors:
        first = next(e for e in run.episodes() if e.error is not None)
        assert first.error is not None
        say(
            f"{run.summary.errors} episodes broke and are not in the score. The first, "
            f"{first.task.id}:\n  {first.error.message}\n"
            f"  Play them again with `harness run --resume {run.path} --retry-errors`."
        )
    print(run.path)


def _env_options(data: str | None, option: list[str] | None) -> dict[str, Any]:
    import json

    options: dict[str, Any] = {} if data is None else {"data": data}
    for pair in option or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option takes KEY=VALUE, not '{pair}'.")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options


def main() -> None:
    """Entry point: errors made on purpose become one message and exit status 2."""
    try:
        app()
    except HarnessError as error:
        say(f"harness: {error}")
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:  # a file that cannot be written or read: a place, not a bug
        say(f"harness: {error}")
        sys.exit(2)

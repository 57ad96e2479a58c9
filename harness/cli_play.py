"""Commands that play and record: run, collect; and what other commands share with them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli_look import RESULTS, Out
from harness.console import Progress, say, stdout, warn
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.config import AgentConfig
    from harness.runs import Run, RunMeta

Agent = Annotated[
    list[str] | None, typer.Option("--agent", "-a", help="Agent: a name, .toml or checkpoint.")
]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="Environment, as in `harness list envs`.")
]
Tasks = Annotated[
    str | None,
    typer.Option("--tasks", "-t", help="Task set, or part of one: 'builtin-valid[:20]'."),
]
Data = Annotated[
    str | None, typer.Option("--data", help="'builtin', 'official', or a folder of real data.")
]
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
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", help="Sample a language model so, as NAME+t0.2."),
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


def run(
    context: typer.Context,
    env: Env = None,
    agent: Agent = None,
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
    temperature: Temperature = None,
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
        temperature=temperature, reference=reference,
    )  # fmt: skip


def collect(
    context: typer.Context,
    env: Env = None,
    agent: Agent = None,
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
    temperature: Temperature = None,
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
        temperature=temperature, error_rate=error_rate, errors_from=errors_from,
    )  # fmt: skip


def _play(
    kind: str,
    envs: list[str] | None,
    agents: list[str] | None,
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

    env, agent = one(kind, "env", envs), one(kind, "agent", agents)
    config = registry.agent_config(agent)
    if settings["workers"] is None:
        settings["workers"] = registry.default_workers(config)
    if kind == "collect":
        _check_attempts(config, **settings)
    settings.update(kind=kind, env_options=env_options(data, option))
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
        for obstacle in _obstacles(meta):
            say(f"Now this would be refused: {obstacle}")
        seen = 100 * detectable(planned_error(len(meta.task_set.tasks)))
        n = len(meta.task_set.tasks)
        shows = (
            f"shows differences from about {seen:.1f} points on (80 % power, near 50 % success)"
            if seen <= 100
            else "shows no difference"
        )
        say(
            f"{meta.n_episodes} episodes, nothing played. {_estimate(meta, out)} A paired "
            f"comparison of one run each on these {n} tasks {shows}; evaluation seeds and attempts "
            "repeat tasks and add none."
        )
        return
    since = utc_now()
    with (
        stoppable(lambda: _begun(out, since)),
        Progress(f"{config.name} on {tasks or env}") as progress,
    ):
        run = api.evaluate(
            config, env, tasks=tasks, out=out, limits=limits, on_episode=progress, **settings
        )
    report(run)
    _end(run)


def _check_attempts(
    config: AgentConfig, attempts: int, temperature: float | None, error_rate: float, **_: Any
) -> None:
    """Refuse to record the same episodes several times."""
    from harness import registry

    known = registry.option(config, "temperature") if temperature is None else temperature
    if attempts > 1 and known == 0 and not error_rate:
        raise ConfigError(
            f"'{config.name}' plays greedily, so that all attempts at a task are one episode. Give "
            "--temperature (the paper's teacher: 0.2), or --attempts 1."
        )


def one(command: str, what: str, given: list[str] | None) -> str:
    """The value of an option that is needed, and given once: of several the last would pass for
    all."""
    if not given or not given[0]:
        raise ConfigError(f"`harness {command}` needs --{what}. See `harness list {what}s`.")
    if len(given) > 1:
        raise ConfigError(
            f"`harness {command}` takes one --{what}, not {len(given)} ({', '.join(given)}). Play "
            "one after another; `harness compare` sets their runs side by side."
        )
    return given[0]


def _end(run: Run) -> None:
    """A run that scored nothing has failed."""
    if run.summary.errors and not run.summary.n:
        raise typer.Exit(1)


def _obstacles(meta: RunMeta) -> Iterator[str]:
    """Why a planned run would be refused now: an agent, or data, that this machine lacks."""
    from harness import registry
    from harness.errors import HarnessError
    from harness.jobs import env_maker

    try:
        lacks = registry.missing(meta.agent)
        if lacks is not None:
            yield lacks
        env = env_maker(meta, False)()
        try:
            env.content_hash(meta.task_set.tasks[0].id)
        finally:
            env.close()
    except HarnessError as error:
        yield str(error)


def _estimate(meta: RunMeta, out: Path) -> str:
    """How long a planned run takes, as the agent's newest complete run of this environment did,
    one under the same rules of play before others."""
    from harness.errors import TraceError
    from harness.runs import find_runs

    rules = meta.task_set.protocol
    alike = [
        run
        for run in reversed(find_runs(out, warn))
        if run.meta.agent == meta.agent
        and run.meta.task_set.env == meta.task_set.env
        and run.meta.status == "complete"
    ]
    for run in sorted(alike, key=lambda run: run.meta.task_set.protocol != rules):
        was = run.meta
        try:
            each = run.summary.seconds
        except TraceError as error:
            warn(error)
            continue
        if each is not None:
            at_once = min(was.workers, was.n_episodes)
            minutes = each * meta.n_episodes / at_once / 60
            other = "" if was.task_set.protocol == rules else ", other rules of play"
            return f"About {minutes:.1f} min, judged by {run.path} ({at_once} at once{other})."
    return "No earlier run of this agent tells how long they take."


#: Options that go with --resume; the others are the run's own.
_OF_RESUME = ("resume", "retry_errors", "step_seconds", "episode_seconds")


def _resume(context: typer.Context, path: Path, limits: Any, retry_errors: bool) -> None:
    from collections import Counter

    from harness import api
    from harness.runs import only_run
    from harness.types import Outcome

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
    there = Counter(
        "broke" if episode.outcome is Outcome.ERROR else "won" if episode.success else "lost"
        for episode in before.episodes()
    )
    say(f"{before.path}: {there.total()} of {before.meta.n_episodes} episodes are there.")
    if before.meta.status == "complete" and there.total():
        before.check_whole()
    if before.meta.status == "complete" and not (retry_errors and there["broke"]):
        say("Nothing is left to play.")
        report(before)
        return
    if retry_errors:
        del there["broke"]
    remedy = f"`harness run --resume {before.path}`"
    with stoppable(lambda: remedy), Progress(before.meta.agent.name, there) as progress:
        run = api.resume(before.path, limits=limits, on_episode=progress, retry_errors=retry_errors)
    report(run)
    _end(run)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def stoppable(remedy: Callable[[], str | None]) -> Iterator[None]:
    """End at Ctrl-C, and at the SIGTERM of a scheduler, with how to go on; None: nothing is
    recorded yet."""
    code = 130

    def term(number: int, frame: FrameType | None) -> None:
        nonlocal code
        code = 128 + number
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()  # others may set no handler
    before = signal.signal(signal.SIGTERM, term) if main else None
    try:
        yield
    except KeyboardInterrupt:
        told = remedy()
        say(
            "harness: stopped before an episode was recorded."
            if told is None
            else f"harness: stopped; what was played is recorded ({told})."
        )
        raise typer.Exit(code) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _begun(out: Path, since: str) -> str | None:
    """How to go on with the run that this very command began: another process may have begun one
    in the same second, but it still writes."""
    from harness.recorder import EPISODES, is_left
    from harness.runs import command, find_runs

    ours = [
        run
        for run in find_runs(out, warn)
        if run.meta.argv == command()
        and run.meta.started >= since
        and run.meta.kind != "reference"
        and is_left(run.path / EPISODES)
    ]
    return f"`harness run --resume {ours[-1].path}`" if ours else None


def report(run: Run) -> None:
    """Print a run's table, what it cost and what broke."""
    from harness import leaderboard as boards
    from harness.cost import told as spent
    from harness.view import partial

    meta = run.meta
    board = boards.board(meta, [boards.Row.of(run)])
    page = stdout()
    page.print(boards.table(board, page.width))
    types = boards.type_table(board)
    if types is not None:
        page.print(types)
    if (told := partial(run)) is not None:
        say(told)
    print("\n".join(boards.notes(run.summary)))
    if meta.cost is not None:
        say(spent(meta.cost))
        if meta.cost.cut:
            say(
                f"{meta.cost.cut} of {meta.cost.replies} replies were cut at their cap of tokens "
                "(max_new_tokens, or the server's own): a reply cut before its action has none."
            )
    if run.summary.errors:
        first = next(e for e in run.episodes() if e.error is not None)
        assert first.error is not None
        n = run.summary.errors
        broke = "1 episode broke and is" if n == 1 else f"{n} episodes broke and are"
        say(
            f"{broke} not in the score. The first, {first.task.id}:\n  {first.error.message}\n"
            f"  Play what broke again with `harness run --resume {run.path} --retry-errors`."
        )
    print(run.path)


def env_options(data: str | None, option: list[str] | None) -> dict[str, Any]:
    import json

    options: dict[str, Any] = {} if data is None else {"data": data}
    for pair in option or []:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--option takes KEY=VALUE, not '{pair}'.")
        if text in ("True", "False"):  # as task sets are named by them
            text = text.lower()
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    return options

"""Traces that a recipe asks to be recorded, each once for all students that learn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from harness_agents import checkpoints

from harness import api, jobs, registry
from harness.config import AgentConfig
from harness.errors import HarnessError
from harness.runs import Run, find_runs
from harness_distillation.gate import first_fault, once_more
from harness_distillation.locks import alone
from harness_distillation.prepare import say
from harness_distillation.recipe import Collect

#: Options of an agent that say where its weights are and how fast it answers, not what.
_ASIDE = frozenset({
    "checkpoint", "download", "needs", "device", "batch_size", "prefix_mb", "batch_mb", "copies",
    "guess",
})  # fmt: skip


def collect_all(
    wanted: Sequence[Collect], out: Path, quiet: bool, again: bool = False
) -> list[Path]:
    """Record what a recipe asks for, each once; a stopped recording goes on. Processes that want
    the same divide it among them: what another one is recording comes last, and is waited for.

    Episodes that broke are played once more and told where they break again. ``again``: nothing was
    trained on what is there, so that those of finished recordings are, too. Raises, before the
    first is played, DataError where the data of one that is to be made are not there, and
    ConfigError for an unknown task set.
    """
    for what in wanted:
        if _recorded(what, _root(what, out)) is None:
            meta = api.plan(
                "random", what.env, tasks=what.tasks, env_options=dict(what.env_options)
            )
            jobs.check_data(jobs.env_maker(meta, reveal=False), meta.task_set)
    found: list[Path | None] = []
    for what in wanted:
        try:
            found.append(collect(what, out, quiet, again, wait=False))
        except BlockingIOError:
            found.append(None)
    return [
        run or collect(what, out, quiet, again) for run, what in zip(found, wanted, strict=True)
    ]


def collect(what: Collect, out: Path, quiet: bool, again: bool = False, wait: bool = True) -> Path:
    """One recording, made anew where its agents are others since, by config or by weights. Raises
    BlockingIOError where another process makes it and ``wait`` is off."""
    root = _root(what, out)
    run = _recorded(what, root)
    # A finished one may stand where nothing can be written; one with errors may be about to be
    # played again, by the process that has just finished it.
    if run is None or run.meta.status != "complete" or run.summary.errors:
        with alone(root, wait):
            run = _collect(what, root, quiet, again)
    if errors := run.summary.errors:
        say(
            quiet,
            f"{run.path}: {errors} of {run.meta.n_episodes} episodes broke, of which nothing is "
            f"learned: {first_fault(run)}\n"
            "  Before anything is trained on the others they can be played again: "
            f"harness run --resume {run.path.absolute()} --retry-errors",
        )
    return run.path


def _root(what: Collect, out: Path) -> Path:
    return out / hashlib.sha256(msgspec.json.encode(what.plain())).hexdigest()[:12]


def _recorded(what: Collect, root: Path) -> Run | None:
    """The newest recording by the agents that ``what`` names, as they are now."""
    runs = [run for run in find_runs(root) if run.meta.kind != "reference"]
    return next((run for run in reversed(runs) if _played_by(run, what)), None)


def _played_by(run: Run, what: Collect) -> bool:
    """Whether a recording is of the agent's config and the environment's version now, and notes no
    other weights than those of its agents. Where these are not here, as in a campaign that goes on
    elsewhere, what was recorded with them stays."""
    if run.meta.env_version != registry.env_class(what.env).version:
        return False
    if not _as_configured(run.meta.agent, what):
        return False
    said = run.meta.policy
    agents = [(what.agent, said), (what.errors_from, said.get("errors_from", {}))]
    noted = [(agent, of["weights_sha256"]) for agent, of in agents if "weights_sha256" in of]
    return all(_weights(agent) in (None, then) for agent, then in noted if agent is not None)


def _as_configured(then: AgentConfig, what: Collect) -> bool:
    """Whether the recorded agent's config decides the replies that it does now."""
    try:
        now = _agent(what)
    except HarnessError:
        return True
    keys = (then.options.keys() | now.options.keys()) - _ASIDE
    pairs = ((then.options.get(key), now.options.get(key)) for key in keys)
    return then.policy == now.policy and all(a == b or _exported(b) == a for a, b in pairs)


def _exported(option: Any) -> Any:
    """An option as an exported run has it: of a path the last part."""
    return Path(option).name if isinstance(option, str) else option


def _agent(what: Collect) -> AgentConfig:
    """Who is recorded."""
    agent = registry.agent_config(what.agent)
    if what.temperature is None:
        return agent
    options = {**agent.options, "temperature": what.temperature}
    return msgspec.structs.replace(agent, options=options)


def _weights(agent: str) -> str | None:
    """Hash of an agent's weights, as its runs note it; None: it has none, or they are not here."""
    try:
        options = registry.agent_config(agent).options
        if "checkpoint" not in options:
            return None
        return checkpoints.locate(options["checkpoint"], revision=options.get("revision")).sha256()
    except HarnessError:
        return None


def _collect(what: Collect, root: Path, quiet: bool, again: bool) -> Run:
    run = _recorded(what, root)
    if run is not None and run.meta.status == "complete":
        return once_more(run) if again else run
    if run is not None:
        return once_more(api.resume(run.path))
    say(quiet, f"collecting {what.tasks or 'the default tasks'} of {what.env} with {what.agent}")
    run = api.evaluate(
        _agent(what), what.env, tasks=what.tasks, out=root, kind="collect",
        seeds=range(what.seeds), attempts=what.attempts, max_steps=what.max_steps,
        error_rate=what.error_rate,
        errors_from=what.errors_from, env_options=dict(what.env_options),
    )  # fmt: skip
    return once_more(run)

"""Traces that a recipe asks to be recorded, each once for all students that learn from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
from harness_agents import checkpoints

from harness import api, registry
from harness.errors import HarnessError
from harness.runs import Run, find_runs
from harness_distillation.locks import alone
from harness_distillation.prepare import say
from harness_distillation.recipe import Collect


def collect_all(wanted: Sequence[Collect], out: Path, quiet: bool) -> list[Path]:
    """Record what a recipe asks for, each once; a stopped recording goes on. Processes that want
    the same divide it among them: what another one is recording comes last, and is waited for."""
    found: list[Path | None] = []
    for what in wanted:
        try:
            found.append(collect(what, out, quiet, wait=False))
        except BlockingIOError:
            found.append(None)
    return [run or collect(what, out, quiet) for run, what in zip(found, wanted, strict=True)]


def collect(what: Collect, out: Path, quiet: bool, wait: bool = True) -> Path:
    """One recording, made anew where its models' weights have changed since. Raises BlockingIOError
    where another process makes it and ``wait`` is off."""
    root = out / hashlib.sha256(msgspec.json.encode(what.plain())).hexdigest()[:12]
    run = _recorded(what, root)
    if run is not None and run.meta.status == "complete":  # may stand where nothing can be written
        return run.path
    with alone(root, wait):
        return _collect(what, root, quiet)


def _recorded(what: Collect, root: Path) -> Run | None:
    """The newest recording by the weights that ``what`` names now."""
    runs = [run for run in find_runs(root) if run.meta.kind != "reference"]
    return next((run for run in reversed(runs) if _played_by(run, what)), None)


def _played_by(run: Run, what: Collect) -> bool:
    """Whether a recording notes no other weights than those of its agents now. Where these are not
    here, as in a campaign that goes on elsewhere, what was recorded with them stays."""
    said = run.meta.policy
    agents = [(what.agent, said), (what.errors_from, said.get("errors_from", {}))]
    noted = [(agent, of["weights_sha256"]) for agent, of in agents if "weights_sha256" in of]
    return all(_weights(agent) in (None, then) for agent, then in noted if agent is not None)


def _weights(agent: str) -> str | None:
    """Hash of an agent's weights, as its runs note it; None: it has none, or they are not here."""
    try:
        options = registry.agent_config(agent).options
        if "checkpoint" not in options:
            return None
        return checkpoints.locate(options["checkpoint"], revision=options.get("revision")).sha256()
    except HarnessError:
        return None


def _collect(what: Collect, root: Path, quiet: bool) -> Path:
    run = _recorded(what, root)
    if run is not None:
        return run.path if run.meta.status == "complete" else api.resume(run.path).path
    say(quiet, f"collecting {what.tasks or 'the default tasks'} of {what.env} with {what.agent}")
    agent = registry.agent_config(what.agent)
    if what.temperature is not None:
        options = {**agent.options, "temperature": what.temperature}
        agent = msgspec.structs.replace(agent, options=options)
    run = api.evaluate(
        agent, what.env, tasks=what.tasks, out=root, kind="collect",
        seeds=range(what.seeds), attempts=what.attempts, max_steps=what.max_steps,
        error_rate=what.error_rate,
        errors_from=what.errors_from, env_options=dict(what.env_options),
    )  # fmt: skip
    return run.path

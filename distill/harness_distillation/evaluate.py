"""The last stage: the finished student plays the task sets of its recipe (``[[evaluate]]``).

results/<env>/<student>/<run id>/   a run as ``harness run`` records it
OUT/harness.json                    ``scores``: task set, its hash, success, n, what broke, the run

What is played already by these very weights is taken as it is, and a stopped run goes on.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from harness_agents.checkpoints import locate

from harness import api, jobs, registry
from harness.console import Progress, warn
from harness.errors import ConfigError
from harness.runs import Run, RunMeta, find_runs
from harness_distillation import checkpoint
from harness_distillation.gate import first_fault, once_more
from harness_distillation.prepare import say
from harness_distillation.recipe import Evaluate, Recipe


def check(recipe: Recipe, results: Path) -> None:
    """Refuse, before hours of training, what could not be played after it: an unknown task set or
    option, a ``results`` folder that cannot be made or written (ConfigError), data that are not
    there or not the task set's (DataError)."""
    for what in recipe.evaluate:
        meta = _planned("random", what)
        jobs.check_data(jobs.env_maker(meta, reveal=False), meta.task_set)
    if recipe.evaluate:
        try:
            results.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=results).close()
        except OSError as error:
            raise ConfigError(
                f"--results {results}: {error.strerror}. Choose another folder."
            ) from None


def evaluate(recipe: Recipe, student: Path, results: Path, quiet: bool) -> None:
    """Play the student's task sets, greedily and once each, and note in its harness.json what it
    won. Episodes that broke are played once more, and are in no score."""
    student = student.absolute()  # a bare name may be a registered agent's
    scores: dict[str, Any] = {}
    for what in recipe.evaluate:
        run = once_more(_run(student, what, results, quiet))
        s = run.summary
        scores[run.meta.task_set.name] = {
            "task_set_hash": run.meta.task_set_hash,
            "n": s.n,
            "success": None if s.success is None else round(s.success, 4),
            "errors": s.errors,
            "run": str(run.path),
        }
        say(quiet, f"{run.meta.task_set.name}: {_told(run)}, {run.path}")
    notes = checkpoint.read_notes(student)
    if scores and notes.get("scores") != scores:
        checkpoint.write_notes(student, {**notes, "scores": scores})


def _planned(agent: str, what: Evaluate) -> RunMeta:
    return api.plan(
        agent, what.env, tasks=what.tasks, max_steps=what.max_steps,
        env_options=dict(what.env_options),
    )  # fmt: skip


def _run(student: Path, what: Evaluate, results: Path, quiet: bool) -> Run:
    """The run of these weights on a task set: the finished one, the rest of a stopped one, or a
    new one."""
    agent = registry.agent_config(str(student))
    planned = _planned(str(student), what)
    now = locate(str(student)).sha256()
    found = [
        run
        for run in find_runs(results, warn)
        if run.meta.kind == "run"
        and run.meta.agent == agent
        and run.meta.measure == planned.measure
        and _design(run.meta) == _design(planned)
        and run.meta.policy.get("weights_sha256") == now
    ]
    done = next((run for run in found if run.meta.status == "complete"), None)
    if done is not None:
        say(quiet, f"{planned.task_set.name}: played already")
        return done
    say(quiet, f"playing {planned.task_set.name}")
    if quiet:
        return _play(student, what, results, found, None)
    with Progress(f"{agent.name} on {planned.task_set.name}") as progress:
        return _play(student, what, results, found, progress)


def _design(meta: RunMeta) -> tuple[Any, ...]:
    """What of a run besides agent and task set decides its success."""
    return meta.seeds, meta.attempts, meta.error_rate


def _play(
    student: Path, what: Evaluate, results: Path, stopped: list[Run], progress: Progress | None
) -> Run:
    if stopped:
        return api.resume(stopped[-1].path, on_episode=progress)
    return api.evaluate(
        str(student), what.env, tasks=what.tasks, max_steps=what.max_steps, out=results,
        env_options=dict(what.env_options), on_episode=progress,
    )  # fmt: skip


def _told(run: Run) -> str:
    s = run.summary
    broke = f", {s.errors} broke: {first_fault(run)}" if s.errors else ""
    if s.success is None:
        return f"no episode came to an end{broke}"
    return (
        f"{s.success:.1%} of {s.n} won (95 % interval {s.success_low:.1%} to "
        f"{s.success_high:.1%}){broke}"
    )

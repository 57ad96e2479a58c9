"""Imports log files as a run folder: read, judge, refuse past a limit, then write."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from harness import api, registry
from harness.config import AgentConfig
from harness.errors import ConfigError, DataError, TraceError
from harness.recorder import Recorder
from harness.runs import (
    Run,
    RunMeta,
    complete,
    new_run_id,
    provenance,
    run_folder,
    write_meta,
)
from harness.tasksets import TaskSet
from harness.types import Episode, Outcome, Task
from harness_distillation.imports import exported
from harness_distillation.imports import grammar as grammars
from harness_distillation.imports.grammar import Grammar
from harness_distillation.imports.logs import Log, read_logs
from harness_distillation.imports.steps import Played, Tally, play, tally_of
from harness_distillation.traces import file_sha256

KIND, REPORT = "import", "import.json"
#: Split, and the beginning of the id, of a task that no data here know.
UNKNOWN = "imported"


class Limits(msgspec.Struct, frozen=True):
    """Least share of the written characters matched; most decisions without an action, and most
    episodes without a decision."""

    matched: float = 0.98
    empty: float = 0.01


class File(msgspec.Struct, frozen=True):
    """A file as a parent."""

    path: str
    sha256: str
    tally: Tally


class Report(msgspec.Struct, frozen=True):
    """import.json: what a run was imported from, by which grammar, and how well it fitted."""

    grammar: str
    files: tuple[File, ...]
    tally: Tally
    #: Episodes whose task is one of the data's; the others count as contaminated.
    known_tasks: int
    won: int
    lost: int
    #: The log does not tell how they ended.
    untold: int
    all_won: bool

    @property
    def n(self) -> int:
        return self.tally.episodes


class Imported(NamedTuple):
    env: str
    agent: str
    episodes: list[Episode]
    report: Report


def import_files(
    source: str,
    files: Sequence[Path],
    env: str | None,
    *,
    out: Path,
    agent: str | None = None,
    data: str | None = None,
    limits: Limits | None = None,
    all_won: bool = False,
) -> tuple[Run, Report]:
    """Import log files and write them as a run of kind ``import``; nothing is written on failure.

    ``data`` is the environment's (for HotPotQA: questions, whose ids episodes then carry; without
    it, and elsewhere, a task is called ``imported/<hash>``). ``all_won``: the files hold won
    episodes only, where the logs themselves do not tell. Rows of the source ``exported`` tell all
    of this themselves: ``env`` only chooses among them, ``agent`` names the run, no limit applies.

    Raises:
        TraceError: past a limit, or a file that is not its source's; names file and record.
        DataError, ConfigError: no such file, data, source or environment.
    """
    found = read(source, files, env, agent=agent, data=data, limits=limits, all_won=all_won)
    meta = _meta(source, found, data)
    folder = run_folder(out, found.env, meta.agent.name, meta.run_id)
    with Recorder(folder) as recorder:
        write_meta(folder, meta)
        for episode in found.episodes:
            recorder.write(episode)
    body = msgspec.json.format(msgspec.json.encode(found.report), indent=1)
    (folder / REPORT).write_bytes(body + b"\n")
    api.score(folder, out)
    return complete(folder), found.report


def read(
    source: str,
    files: Sequence[Path],
    env: str | None,
    *,
    agent: str | None = None,
    data: str | None = None,
    limits: Limits | None = None,
    all_won: bool = False,
) -> Imported:
    """Episodes of log files and the report on them; the errors of ``import_files``."""
    if source == exported.SOURCE:
        if data is not None or all_won or limits not in (None, Limits()):
            raise ConfigError("Exported rows tell everything themselves: only --env and --agent.")
        return _read_exported(files, env, agent)
    if env is None:
        raise ConfigError(f"Logs of {source} need --env: the environment played.")
    rules = grammars.grammar(source, env)
    known = _known_tasks(env, data)
    episodes: list[Episode] = []
    parents: list[File] = []
    attempts: dict[str, int] = {}
    for path in files:
        total = Tally()
        worst: tuple[Log, Played] | None = None
        for log in read_logs(path, rules):
            played = play(log, rules)
            total += played.tally
            if worst is None or _fit(played.tally) < _fit(worst[1].tally):
                worst = (log, played)
            task = _task(env, log, known)
            attempt = attempts[task.id] = attempts.get(task.id, -1) + 1
            episodes.append(_episode(task, log, played, agent or source, attempt, all_won))
        check(path, rules, total, worst, limits or Limits())
        parents.append(File(str(path), file_sha256(path), total))
    report = _report(rules.name, parents, episodes, all_won)
    return Imported(env, agent or source, episodes, report)


def _read_exported(files: Sequence[Path], env: str | None, agent: str | None) -> Imported:
    """Rows of one environment. Where two rows are of one attempt, the later one is another."""
    episodes: list[Episode] = []
    parents: list[File] = []
    keys: set[tuple[str, int, int]] = set()
    others: set[str] = set()
    for path in files:
        total = Tally()
        for _, episode in exported.read_exported(path):
            if episode.task.env != (env or episode.task.env):
                others.add(episode.task.env)
                continue
            while episode.key in keys:
                episode = msgspec.structs.replace(episode, attempt=episode.attempt + 1)
            keys.add(episode.key)
            episodes.append(episode)
            total += tally_of(episode)
        parents.append(File(str(path), file_sha256(path), total))
    found = {e.task.env for e in episodes}
    if not found:
        held = f"only of {', '.join(sorted(others))}" if others else "the files are empty"
        raise DataError(f"No episode{f' of {env}' if env else ''} in the rows: {held}.")
    if len(found) > 1:
        raise ConfigError(
            f"The rows are of {', '.join(sorted(found))}, and a run is of one: choose with --env."
        )
    (played,) = found
    agents = {e.agent for e in episodes}
    name = agent or (agents.pop() if len(agents) == 1 else exported.SOURCE)
    report = _report(f"{exported.SOURCE}/{played} 1", parents, episodes, False)
    return Imported(played, name, episodes, report)


def _report(
    grammar: str,
    parents: Sequence[File],
    episodes: Sequence[Episode],
    all_won: bool,
) -> Report:
    scored = [e for e in episodes if e.outcome.scored]
    won = sum(e.success for e in scored)
    return Report(
        grammar=grammar,
        files=tuple(parents),
        tally=sum((f.tally for f in parents), Tally()),
        known_tasks=sum(e.task.split != UNKNOWN for e in episodes),
        won=won,
        lost=len(scored) - won,
        untold=len(episodes) - len(scored),
        all_won=all_won,
    )


def _fit(tally: Tally) -> tuple[float, float]:
    return (tally.matched_share if tally.steps else -1.0, -tally.empty_share)


def check(
    path: Path, rules: Grammar, tally: Tally, worst: tuple[Log, Played] | None, limits: Limits
) -> None:
    """Refuse a file that the grammar understands too little of."""
    counts = (
        f"{tally.episodes} episodes, {tally.steps} decisions, {tally.empty} of them without an "
        f"action, {tally.matched} of {tally.written} written characters matched"
    )
    if tally.episodes == 0 or tally.steps == 0 or worst is None:
        raise TraceError(f"{path}: no decision found by the grammar '{rules.name}' ({counts}).")
    reasons = []
    if tally.matched_share < limits.matched:
        reasons.append(f"{tally.matched_share:.2%} matched is under {limits.matched:.2%}")
    if tally.empty_share > limits.empty:
        reasons.append(f"{tally.empty_share:.2%} without an action is over {limits.empty:.2%}")
    if tally.undecided > limits.empty * tally.episodes:
        share = tally.undecided / tally.episodes
        reasons.append(f"{share:.2%} of episodes without a decision is over {limits.empty:.2%}")
    if not reasons:
        return
    log, played = worst
    if played.stray:
        example = f"no place for {played.stray[:100]!r}"
    elif not played.steps:
        example = "no decision in it"
    else:
        example = f"{played.tally.empty} of its {len(played.steps)} decisions have no action"
    raise TraceError(
        f"{path}: the grammar '{rules.name}' does not fit: {'; '.join(reasons)}.\n"
        f"  Counts: {counts}.\n  Worst: {log.where}: {example}.\n"
        "  Is it another source's log (harness import SOURCE)? To take it all the same: "
        "--min-matched, --max-empty."
    )


def _known_tasks(env: str, data: str | None) -> dict[str, str]:
    """Question -> task id, of data that tell questions."""
    if data is None:
        return {}
    made: Any = registry.env_class(env)(data=data)  # type: ignore[call-arg]
    questions = getattr(made, "questions", None)
    if questions is None:
        raise ConfigError(f"--data: tasks of '{env}' are not known by their text; leave it out.")
    found: dict[str, str] = {}
    for split in questions.splits():
        for task_id, question in questions.tasks(split).items():
            found.setdefault(question.question.strip(), task_id)
    return found


def _task(env: str, log: Log, known: dict[str, str]) -> Task:
    task_id = known.get(log.instruction)
    if task_id is None:
        text = f"{env}\0{log.instruction}\0{log.opening}"
        task_id = f"{UNKNOWN}/{_digest(text)}"
    return Task(env, task_id.partition("/")[0], task_id)


def _episode(
    task: Task, log: Log, played: Played, agent: str, attempt: int, all_won: bool
) -> Episode:
    reward = log.reward if log.reward is not None else played.reward
    success = log.success if log.success is not None else reward is not None and reward >= 1.0
    # A maker's "lost" may mean that the steps were used up; the last observation tells the end.
    told = played.reward is not None or success
    silent = not told and log.reward is None and log.success is None
    if silent and all_won:
        silent = False
        told, success, reward = True, True, 1.0
    if success and reward is None:
        reward = 1.0
    score = min(1.0, max(0.0, reward or 0.0))
    steps = list(played.steps)
    if steps and told:
        steps[-1] = msgspec.structs.replace(steps[-1], reward=score)
    return Episode(
        task=task,
        agent=agent,
        attempt=attempt,
        instruction=log.instruction,
        steps=tuple(steps),
        final_observation=played.final_observation,
        success=success,
        score=score,
        outcome=Outcome.DONE if told else Outcome.UNTOLD if silent else Outcome.TRUNCATED,
    )


def _meta(source: str, found: Imported, data: str | None) -> RunMeta:
    env = found.env
    unique = {e.task.id: e.task for e in found.episodes}
    tasks = [msgspec.structs.replace(task, seed=0) for task in unique.values()]
    content = {e.task.id: _digest(e.instruction) for e in found.episodes}
    parents = tuple(f.sha256 for f in found.report.files)
    task_set = TaskSet.make(
        f"{env}/imported-{_digest(*parents)[:8]}",
        env,
        tasks,
        max_steps=max(len(e.steps) for e in found.episodes),
        content=content,
        success="as the log tells",
    )
    config = AgentConfig(
        name=found.agent, policy=KIND, role=KIND, description=f"imported, source {source}"
    )
    meta = RunMeta(
        run_id="",
        kind=KIND,
        agent=config,
        task_set=task_set,
        task_set_hash=task_set.hash,
        env_version=registry.env_class(env).version,
        env_options={} if data is None else {"data": data},
        seeds=tuple(sorted({e.task.seed for e in found.episodes})),
        attempts=1 + max(e.attempt for e in found.episodes),
        episodes=len(found.episodes),
        reference=None,
        policy={"grammar": found.report.grammar},
        workers=1,
        parents=parents,
    )
    return msgspec.structs.replace(meta, run_id=new_run_id(meta), **provenance())


def _digest(*texts: str) -> str:
    joined = "\0".join(texts).encode("utf-8", "replace")
    return hashlib.sha256(joined).hexdigest()[:16]

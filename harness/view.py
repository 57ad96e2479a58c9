"""Episodes on the terminal: a list, or one step by step, alone or beside another agent's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness.errors import ConfigError
from harness.plain import plain
from harness.runs import Run
from harness.types import Episode, Outcome, Step

FILTERS = ("all", "failed", "invalid", "errors")


def select(
    run: Run, *, which: str = "all", task_type: str | None = None, task: str | None = None
) -> Iterator[Episode]:
    """Episodes of a run that fit: ``failed`` (played to the end, not won), ``invalid`` (with an
    invalid action), ``errors``; of a type; of one task id, or of ids that contain the text."""
    exact = task is not None and any(e.task.id == task for e in run.episodes())
    for episode in run.episodes():
        broken = episode.outcome is Outcome.ERROR
        if which == "failed" and (episode.success or broken):
            continue
        if which == "invalid" and not any(s.invalid for s in episode.steps):
            continue
        if which == "errors" and not broken:
            continue
        if task_type is not None and episode.task_type != task_type:
            continue
        if task is not None and episode.task.id != task and (exact or task not in episode.task.id):
            continue
        yield episode


def listing(episodes: Sequence[Episode]) -> Table:
    """One line an episode."""
    grid = Table(header_style="bold")
    for name in ("task", "type", "outcome", "success", "steps", "invalid", "instruction"):
        grid.add_column(name, overflow="fold", justify="left")
    for e in episodes:
        grid.add_row(
            e.task.id, e.task_type, e.outcome.value, _won(e), str(len(e.steps)),
            str(sum(s.invalid for s in e.steps)), plain(e.instruction)[:80],
        )  # fmt: skip
    return grid


def transcript(episode: Episode, agent: str, mark: int | None = None) -> Group:
    """An episode step by step; ``mark`` is the step where it parts from another's."""
    parts: list[Text | Panel] = [
        Text.assemble((agent, "bold"), "  ", plain(episode.task.id)),
        Text(plain(episode.instruction)),
    ]
    for number, step in enumerate(episode.steps):
        parts.append(Panel(_step(step), title=f"step {number + 1}", title_align="left",
                           border_style="yellow" if number == mark else "dim"))  # fmt: skip
    if episode.final_observation is not None:
        parts.append(Panel(Text(plain(episode.final_observation)), title="after the last step",
                           title_align="left", border_style="dim"))  # fmt: skip
    end = f"{episode.outcome.value}, {_won(episode)}, score {episode.score:g}"
    parts.append(Text(end, style="green" if episode.success else "red"))
    if episode.error is not None:
        parts.append(Text(plain(f"{episode.error.kind}: {episode.error.message}"), style="red"))
    return Group(*parts)


def side_by_side(left: Episode, right: Episode, names: tuple[str, str]) -> Table:
    """Two agents on one task, and where they first part."""
    mark = parting(left, right)
    grid = Table.grid(expand=True, padding=(0, 1))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(transcript(left, names[0], mark), transcript(right, names[1], mark))
    return grid


def parting(left: Episode, right: Episode) -> int | None:
    """Index of the first step with another action; None for the same actions throughout."""
    for i, (a, b) in enumerate(zip(left.steps, right.steps, strict=False)):
        if a.decision.action != b.decision.action:
            return i
    shorter, longer = sorted((len(left.steps), len(right.steps)))
    return None if shorter == longer else shorter


def show(
    console: Console,
    runs: Sequence[Run],
    *,
    which: str = "all",
    task_type: str | None = None,
    task: str | None = None,
    most: int = 50,
) -> None:
    """Print what was asked for: a list, or the episode when only one fits."""
    found = list(select(runs[0], which=which, task_type=task_type, task=task))
    if not found:
        raise ConfigError(f"No episode of {runs[0].path} fits.")
    if task is None or len(found) > 1:
        console.print(listing(found[:most]))
        if len(found) > most:
            console.print(f"{len(found) - most} more; --most shows more.")
        return
    episode = found[0]
    if len(runs) == 1:
        console.print(transcript(episode, runs[0].meta.agent.name))
        return
    other = next((e for e in runs[1].episodes() if e.key == episode.key), None)
    if other is None:
        raise ConfigError(f"{runs[1].path} has no episode of {episode.task.id}.")
    names = (runs[0].meta.agent.name, runs[1].meta.agent.name)
    console.print(side_by_side(episode, other, names))


def write_page(path: Path, page: str) -> None:
    """Write a page in one move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def _step(step: Step) -> Text:
    decision = step.decision
    text = Text(plain(step.observation) + "\n", style="dim")
    if decision.reasoning:
        text.append(plain(decision.reasoning) + "\n", style="not dim blue")
    text.append("(no action)" if decision.action is None else plain(decision.action),
                style="not dim bold red")  # fmt: skip
    notes = []
    if step.executed:
        notes.append(f"executed as {plain(step.executed)}")
    if step.invalid:
        notes.append("invalid")
    if decision.injected:
        notes.append("the protocol's action" if step.forced else "slip put in on purpose")
    if c := decision.completion:
        notes.append(f"{c.prompt_tokens} prompt, {c.reasoning_tokens} reasoning, "
                     f"{c.action_tokens} action tokens")  # fmt: skip
    if step.policy_seconds >= 0.001:
        notes.append(f"{step.policy_seconds:.3f} s")
    if notes:
        text.append("\n" + " · ".join(notes), style="dim italic")
    return text


def _won(episode: Episode) -> str:
    if episode.outcome is Outcome.ERROR:
        return "error"
    return "won" if episode.success else "lost"

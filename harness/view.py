"""Episodes on the terminal: a list, or one step by step, alone or beside another agent's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from harness import tables
from harness.errors import ConfigError
from harness.overlap import note
from harness.plain import plain
from harness.runs import Run
from harness.sides import labels
from harness.types import Episode, Outcome, Step

#: Most lines of a list, unless asked otherwise.
MOST = 50
#: One task under one seed and attempt: an episode of each run (None: it has none).
Beside = tuple[Episode | None, ...]


class Wanted(msgspec.Struct, frozen=True):
    """Which episodes: all that is given must fit. ``failed`` is played to the end and not won,
    ``invalid`` has an invalid action, ``errors`` broke; ``task`` is an id, or a part of ids."""

    failed: bool = False
    invalid: bool = False
    errors: bool = False
    task_type: str | None = None
    task: str | None = None
    seed: int | None = None
    attempt: int | None = None

    def fits(self, episode: Episode, exact: bool) -> bool:
        """Whether an episode fits; with ``exact`` the task must have the very id."""
        broken = episode.outcome is Outcome.ERROR
        name = episode.task.id
        return (
            not (self.failed and (episode.success or not episode.outcome.scored))
            and not (self.invalid and not any(s.invalid for s in episode.steps))
            and not (self.errors and not broken)
            and self.task_type in (None, episode.task_type)
            and self.seed in (None, episode.task.seed)
            and self.attempt in (None, episode.attempt)
            and (self.task is None or self.task == name or (not exact and self.task in name))
        )


def select(runs: Sequence[Run], wanted: Wanted | None = None) -> Iterator[Beside]:
    """Episodes that fit, each beside the other runs' of the same task, seed and attempt; of
    several runs one that fits is enough."""
    wanted = wanted or Wanted()
    exact = wanted.task is not None and any(
        e.task.id == wanted.task for run in runs for e in run.episodes()
    )
    if len(runs) == 1:
        yield from ((e,) for e in runs[0].episodes() if wanted.fits(e, exact))
        return
    found = [{e.key: e for e in run.episodes()} for run in runs]
    for key in dict.fromkeys(key for episodes in found for key in episodes):
        row = tuple(episodes.get(key) for episodes in found)
        if any(e is not None and wanted.fits(e, exact) for e in row):
            yield row


def listing(rows: Sequence[Beside], names: Sequence[str], width: int | None = None) -> Table:
    """One line a task; what is recorded is text, never markup. Where ``width`` columns have no
    room for them, types and instructions are left out, which a task's own view tells."""
    several = len(names) > 1
    one = [next(e for e in row if e is not None) for row in rows]
    seeds, attempts = any(e.task.seed for e in one), any(e.attempt for e in one)
    heads = ["task", *["seed"] * seeds, *["attempt"] * attempts, "type"]
    if several:
        heads += [*names, "they part at"]
    else:
        heads += ["outcome", "success", "steps", "invalid"]
    broke = ["error"] * any(e and e.error for row in rows for e in row)
    heads += [*broke, "instruction"]
    lines: list[list[str]] = []
    for first, row in zip(one, rows, strict=True):
        cells = [first.task.id, *[str(first.task.seed)] * seeds, *[str(first.attempt)] * attempts]
        cells.append(first.task_type)
        if several:
            cells += [f"{_won(e)}, {len(e.steps)} steps" if e else "-" for e in row]
            cells.append(_parted(row))
        else:
            cells += [first.outcome.value, _won(first), str(len(first.steps))]
            cells.append(str(sum(s.invalid for s in first.steps)))
        cells += ["\n".join(e.error.message[:200] for e in row if e and e.error)] * len(broke)
        cells.append(first.instruction[:80])
        lines.append(cells)
    grid, _ = tables.fitted(
        "", [(head, "left") for head in heads], lines, width, names=("task",),
        always=[head for head in heads if head not in ("type", "instruction")],
        prose=("type", "error", "instruction"),
    )  # fmt: skip
    return grid


def _parted(row: Beside) -> str:
    left, right = row[0], row[1]
    if left is None or right is None:
        return "-"
    at = parting(left, right)
    return "never" if at is None else f"step {at + 1}"


def transcript(episode: Episode, agent: str, mark: int | None = None) -> Group:
    """An episode step by step; ``mark`` is the step where it parts from another's."""
    task, seed, attempt = episode.key
    which = f"{task}, seed {seed}, attempt {attempt}" if seed or attempt else task
    parts: list[Text | Panel] = [
        Text.assemble((plain(agent), "bold"), "  ", plain(which)),
        Text(plain(episode.instruction)),
    ]
    for number, step in enumerate(episode.steps):
        parts.append(Panel(_step(step), title=f"step {number + 1}", title_align="left",
                           border_style="yellow" if number == mark else "dim"))  # fmt: skip
    if episode.final_observation is not None:
        parts.append(Panel(Text(plain(episode.final_observation)), title="after the last step",
                           title_align="left", border_style="dim"))  # fmt: skip
    scored = episode.outcome.scored
    end = f", {_won(episode)}, score {episode.score:g}" if scored else ""
    style = "green" if episode.success else "red" if scored else "yellow"
    parts.append(Text(episode.outcome.value + end, style=style))
    if episode.error is not None:
        parts.append(Text(plain(f"{episode.error.kind}: {episode.error.message}"), style="red"))
    return Group(*parts)


def side_by_side(left: Episode, right: Episode, names: Sequence[str]) -> Table:
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
    console: Console, runs: Sequence[Run], wanted: Wanted | None = None, *, most: int = MOST
) -> None:
    """Print what was asked for: a list, or the episode when one task was asked for and found."""
    wanted = wanted or Wanted()
    for run in runs:
        run.check_recorded()
    place = {task.id: i for i, task in enumerate(runs[0].meta.task_set.tasks)}
    found = sorted(select(runs, wanted), key=lambda row: _in_order(row, place))
    names = labels(runs)
    if not found:
        raise ConfigError(f"No episode of {' or '.join(str(r.path) for r in runs)} fits.")
    if wanted.task is None or len(found) > 1:
        console.print(listing(found[:most], names, console.width))
        if len(found) > most:
            console.print(f"{len(found) - most} more; --most shows more.")
        for told in [*filter(None, map(partial, runs)), *trained(runs)]:
            console.print(Text(plain(told)))
        if wanted.task is not None:
            console.print("Several fit: say which with --task ID, --seed or --attempt.")
        return
    row = found[0]
    for episode, run in zip(row, runs, strict=True):
        if episode is None:
            raise ConfigError(f"{run.path} has no such episode of '{wanted.task}'.")
    whole = [episode for episode in row if episode is not None]
    if len(whole) == 1:
        console.print(transcript(whole[0], names[0]))
    else:
        console.print(side_by_side(whole[0], whole[1], names))


def _in_order(row: Beside, place: Mapping[str, int]) -> tuple[int, int, int]:
    """Episodes are recorded as they end; they are shown in the order of the task set."""
    task, seed, attempt = next(e.key for e in row if e is not None)
    return place.get(task, len(place)), seed, attempt


def partial(run: Run) -> str | None:
    """That a run is not complete, and what this does to its figures; None: it is."""
    if run.meta.status == "complete":
        return None
    return (
        f"{run.path} is not complete: {sum(1 for _ in run.episodes())} of {run.meta.n_episodes} "
        f"episodes, of which short ones end first. Go on with `harness run --resume {run.path}`."
    )


def trained(runs: Sequence[Run]) -> list[str]:
    """What of the tasks each run's agent was trained on (``overlap.note``), agents without weights
    left out."""
    told = (note(run.meta.agent.name, run.meta.policy, run.meta.overlap) for run in runs)
    return list(dict.fromkeys(filter(None, told)))


def write_page(path: Path, page: str) -> None:
    """Write a page in one move. Raises ConfigError where ``path`` names no file."""
    if path.is_dir() or not path.name:
        raise ConfigError(f"--page takes the name of a file to write, not a folder: '{path}'.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def _step(step: Step) -> Text:
    decision = step.decision
    text = Text(plain(step.observation) + "\n", style="dim")
    if decision.reasoning:
        text.append(f"Reasoning: {plain(decision.reasoning)}\n", style="not dim blue")
    action = "(no action)" if decision.action is None else f"Action: {plain(decision.action)}"
    text.append(action, style="not dim bold red")
    notes = []
    if step.executed:
        notes.append(f"executed as {plain(step.executed)}")
    if step.invalid:
        notes.append("invalid")
    if decision.injected:
        notes.append("the protocol's action" if step.forced else "slip put in on purpose")
    if c := decision.completion:
        counts = (c.prompt_tokens, c.reasoning_tokens, c.action_tokens)
        told = ["-" if n is None else str(n) for n in counts]
        notes.append("{} prompt, {} reasoning, {} action tokens".format(*told))
    if step.policy_seconds >= 0.001:
        notes.append(f"{step.policy_seconds:.3f} s")
    if notes:
        text.append("\n" + " · ".join(notes), style="dim italic")
    return text


def _won(episode: Episode) -> str:
    if not episode.outcome.scored:
        return episode.outcome.value
    return "won" if episode.success else "lost"

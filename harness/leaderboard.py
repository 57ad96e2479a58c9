"""Who is better: one row an agent, one table a task set, with n, errors and Wilson intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness import tables
from harness.errors import TraceError
from harness.metrics import Summary, wilson
from harness.overlap import Overlap
from harness.plain import plain
from harness.policy import differences
from harness.runs import OnDamage, Run, RunMeta

#: Stands behind an agent that was trained on some of the tasks.
MARK = "†"


class Row(msgspec.Struct, frozen=True):
    """One agent on one task set: its newest complete run. ``retention`` is its success as a share
    of the board's teacher's (None: there is no teacher, or it won nothing); ``overlap`` what of the
    set its weights were trained on (None: it has none, or they do not tell). ``runs`` counts the
    agent's complete runs of the set; ``whole`` is the newest without errors where this has some;
    ``unlike`` tells of several policies that played under its name."""

    agent: str
    role: str
    run: str
    started: str
    summary: Summary
    retention: float | None = None
    overlap: Overlap | None = None
    runs: int = 1
    whole: str | None = None
    unlike: str | None = None
    #: What ties its tasks together is not known here.
    independent: bool = False
    #: N_r : N_a of what a student learned from; None: it is none, or does not tell.
    reason_to_act: float | None = None
    #: The reference of its CoT match, and the hash of what that won.
    reference: str | None = None
    reference_hash: str | None = None

    @classmethod
    def of(cls, run: Run) -> Row:
        """Raises TraceError where the run's metrics cannot be read."""
        meta = run.meta
        return cls(meta.agent.name, meta.agent.role, str(run.path), meta.started, run.summary,
                   overlap=meta.overlap, independent=run.groups is None,
                   reason_to_act=meta.policy.get("reason_to_act"),
                   reference=meta.reference, reference_hash=meta.reference_hash)  # fmt: skip

    @property
    def marked(self) -> str:
        """The agent, marked where a footnote belongs to it."""
        flagged = self.overlap is not None and self.overlap.flagged
        return f"{self.agent} {MARK}" if flagged else self.agent


class Board(msgspec.Struct, frozen=True):
    """Rows that may be compared: same tasks, data, budget, rules (one task-set hash), and version
    of the environment."""

    env: str
    task_set: str
    task_set_hash: str
    max_steps: int
    #: Of the CoT match in all rows; None: there is none, or they have several.
    reference: str | None
    rows: tuple[Row, ...]
    #: The agent whose success the others' retention is a share of.
    teacher: str | None = None
    #: The environment's version, where there are boards of several for one task set.
    env_version: str | None = None


def boards(
    runs: Iterable[Run],
    kinds: Sequence[str] = ("run",),
    *,
    teacher: str | None = None,
    on_damage: OnDamage | None = None,
) -> list[Board]:
    """Group complete runs by task-set hash and version of the environment; of an agent's runs the
    newest counts.

    Runs that differ in either never meet in a table: they score different things. A run whose
    metrics cannot be read is told to ``on_damage`` and passed over (None: the error is raised).
    A board's teacher is the agent named ``teacher``, else its only one with the role of a teacher.
    """
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        meta = run.meta
        if meta.status != "complete" or meta.kind not in kinds or meta.error_rate:
            continue
        played = groups.setdefault(meta.measure, {})
        played.setdefault(meta.agent.name, []).append(run)
    found = []
    for played in groups.values():
        rows = []
        for several in played.values():
            several.sort(key=lambda run: run.meta.started)
            try:
                rows.append(_newest(several))
            except TraceError as error:
                if on_damage is None:
                    raise
                on_damage(error)
        if not rows:
            continue
        rows.sort(key=lambda r: (-(r.summary.success or 0.0), -(r.summary.score or 0.0), r.agent))
        meta = next(iter(played.values()))[-1].meta
        one = board(meta, rows, teacher)
        if sum(task_set == meta.task_set_hash for task_set, _ in groups) > 1:
            one = msgspec.structs.replace(one, env_version=meta.env_version)
        found.append(one)
    return sorted(found, key=lambda b: (b.env, b.task_set, b.env_version or ""))


def _newest(runs: Sequence[Run]) -> Row:
    """The row of an agent's newest run; ``runs`` are in order of age."""
    row = msgspec.structs.replace(Row.of(runs[-1]), runs=len(runs), unlike=unlike(runs))
    if not row.summary.errors:
        return row
    whole = next((str(run.path) for run in reversed(runs[:-1]) if _has_no_errors(run)), None)
    return msgspec.structs.replace(row, whole=whole)


def unlike(runs: Sequence[Run]) -> str | None:
    """How many policies played under one name, and in what they differ; None: one."""
    several: list[dict[str, Any]] = []
    found: dict[str, None] = {}
    for policy in (_described(run.meta) for run in runs):
        apart = [differences(other, policy) for other in several]
        if all(apart):
            several.append(policy)
        found.update(dict.fromkeys(text.partition(" (")[0] for texts in apart for text in texts))
    return f"{len(several)} policies, unlike in {', '.join(found)}" if len(several) > 1 else None


def _described(meta: RunMeta) -> dict[str, Any]:
    """A policy as it says of itself, else as its config says."""
    return {**(meta.policy or meta.agent.options), "policy": meta.agent.policy}


def _has_no_errors(run: Run) -> bool:
    try:
        return not run.summary.errors
    except TraceError:
        return False


def board(meta: RunMeta, rows: Sequence[Row], teacher: str | None = None) -> Board:
    """A board of given rows under the protocol of one run."""
    task_set = meta.task_set
    teachers = [r for r in rows if (r.role == "teacher" if teacher is None else r.agent == teacher)]
    known = teachers[0] if len(teachers) == 1 and len(rows) > 1 else None
    if known is not None:
        rows = [_retaining(row, known.summary.success) for row in rows]
    # Where nothing was matched, what would have been.
    references = [group[0].reference for group in _by_reference(_matched(rows) or rows)]
    return Board(
        env=task_set.env,
        task_set=task_set.name,
        task_set_hash=meta.task_set_hash,
        max_steps=task_set.protocol.max_steps,
        reference=references[0] if len(references) == 1 else None,
        rows=tuple(rows),
        teacher=known.agent if known is not None else None,
    )


def _matched(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.summary.cot_overlap_n]


def _by_reference(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows by what their CoT match is with. Of one name are one that tells what it won and one that
    does not, as for ``comparison``."""
    won: dict[str | None, set[str]] = {}
    for row in rows:
        won.setdefault(row.reference, set()).update(filter(None, [row.reference_hash]))
    found: dict[str | None, list[Row]] = {}
    for row in rows:
        only = next(iter(won[row.reference])) if len(won[row.reference]) == 1 else None
        found.setdefault(row.reference_hash or only or row.reference, []).append(row)
    return list(found.values())


def _retaining(row: Row, teacher: float | None) -> Row:
    own = row.summary.success
    share = own / teacher if own is not None and teacher else None
    return msgspec.structs.replace(row, retention=share)


def front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pareto front of (cost, gain): points that no other beats with as little and as much."""
    kept: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or y > kept[-1][1]:
            kept.append((x, y))
    return kept


#: Heading and cell of each column.
_COLUMNS: tuple[tuple[str, str], ...] = (
    ("agent", "left"),
    ("success", "right"),
    ("95 % interval", "right"),
    ("score", "right"),
    ("n", "right"),
    ("errors", "right"),
    ("truncated", "right"),
    ("invalid/ep", "right"),
    ("steps", "right"),
    ("words/step", "right"),
    ("tokens/step", "right"),
    ("CoT overlap", "right"),
    ("s/ep", "right"),
)
#: Further columns where there is room for them: a page, Markdown.
_MORE: tuple[tuple[str, str], ...] = (
    ("words/ep", "right"),
    ("tokens/ep", "right"),
    ("no action/ep", "right"),
    ("loops/ep", "right"),
    ("CoT precision", "right"),
    ("CoT F1", "right"),
    ("F1 by chance - ceiling", "right"),
    ("overlap by chance - ceiling", "right"),
)


#: What a step's numbers are here and in a comparison.
PER_STEP = (
    "Words and tokens a step: all reasoning of a run over all its steps, where `harness compare` "
    "has the mean of each episode's own."
)
#: Columns that the narrowest terminal shows, whole.
_ALWAYS = ("agent", "success", "95 % interval", "n", "errors")
#: Columns of a table by task type.
_TYPE_COLUMNS = (("task type", "left"), ("agent", "left"), *_COLUMNS[1:3], ("n", "right"))


def columns(board: Board, *, more: bool = False) -> list[tuple[str, str]]:
    """Headings and their sides; retention only where there is a teacher."""
    retention = [("of teacher", "right")] if board.teacher is not None else []
    return [*_COLUMNS, *retention, *(_MORE if more else ())]


def cells(board: Board, row: Row, *, more: bool = False) -> list[str]:
    """The row as text; what does not apply is a dash."""
    s = row.summary
    retention = [_percent(row.retention)] if board.teacher is not None else []
    further = [
        _number(s.reasoning_words, 0),
        _number(s.reasoning_tokens, 0),
        _number(s.format_errors, 2),
        _number(s.loops, 2),
        _percent(s.cot_precision),
        _percent(s.cot_f1),
        between(s.cot_floor_f1, s.cot_ceiling_f1),
        between(s.cot_floor, s.cot_ceiling),
    ]
    return [
        row.marked,
        _percent(s.success),
        f"{100 * s.success_low:.1f} - {100 * s.success_high:.1f}" if s.n else "-",
        _number(s.score, 1),
        str(s.n),
        str(s.errors),
        str(s.truncated),
        _number(s.invalid_actions, 2),
        _number(s.steps, 1),
        _number(s.reasoning_words_per_step, 1),
        _number(s.reasoning_tokens_per_step, 1),
        _percent(s.cot_overlap),
        _number(s.seconds, 2),
        *retention,
        *(further if more else ()),
    ]


def title(board: Board) -> str:
    reference = f", CoT reference {board.reference}" if board.reference else ""
    version = f", version {board.env_version} of {board.env}" if board.env_version else ""
    return (
        f"{board.task_set} ({board.max_steps} steps, task set {board.task_set_hash}{version}"
        f"{reference})"
    )


def footnotes(board: Board) -> list[str]:
    """What stands below a board: which agents were trained on some of its tasks, which have other
    runs than the one shown, and of another policy."""
    several = [f"{row.agent} of {row.runs}" for row in board.rows if row.runs > 1]
    partly = [row for row in board.rows if 0 < row.summary.cot_overlap_n < row.summary.n]
    newest = f"Newest complete run: {', '.join(several)} (`harness list runs` shows all)."
    return [
        *(f"{MARK} {row.agent}: {row.overlap.told()}." for row in board.rows
          if row.overlap is not None and row.overlap.flagged),
        *(["CoT match is over the episodes whose task the reference won: "
           + ", ".join(f"{r.agent} {r.summary.cot_overlap_n} of {r.summary.n}" for r in partly)
           + "."] if partly else []),
        *_references(board),
        *_teachers(board),
        *(f"{row.agent}: of {row.summary.untold} further episodes no log tells how they ended; "
          "they are in no success or score." for row in board.rows if row.summary.untold),
        *_units(board),
        *taught((row.agent, row.reason_to_act) for row in board.rows),
        *([newest] if several else []),
        *(f"{row.agent}: {row.summary.errors} episodes of the newest run broke; the older "
          f"{row.whole} has none that did." for row in board.rows if row.whole is not None),
        *_several_policies(board),
    ]  # fmt: skip


def _several_policies(board: Board) -> list[str]:
    told = [f"{row.agent}: {row.unlike}" for row in board.rows if row.unlike is not None]
    under = "this name" if len(told) == 1 else "one name"
    return [f"{'; '.join(told)}, played under {under}. Training seeds of one agent are told "
            "together by `harness compare RUN,RUN OTHER`; another agent needs another name."
            ] if told else []  # fmt: skip


def _references(board: Board) -> list[str]:
    """Which rows' CoT match is with which reference, where they have several."""
    found = _by_reference(_matched(board.rows))
    if len(found) < 2:
        return []
    told = "; ".join(
        f"{', '.join(row.agent for row in group)} with {group[0].reference}" for group in found
    )
    return [f"CoT match is with unlike references, and says nothing across them: {told}. "
            "`harness score RUN --reference NAME` takes one for all."]  # fmt: skip


def taught(ratios: Iterable[tuple[str, float | None]]) -> list[str]:
    """N_r : N_a of what agents learned from, a line of those that tell."""
    told = [f"{agent} {ratio:.2f}" for agent, ratio in ratios if ratio is not None]
    what = "Reasoning tokens for every action token that a student learned from (N_r : N_a)"
    return [f"{what}: {', '.join(told)}."] if told else []


def _teachers(board: Board) -> list[str]:
    """Why no share of the teacher's success is told, where there are several."""
    names = [row.agent for row in board.rows if row.role == "teacher"]
    if board.teacher is not None or len(names) < 2:
        return []
    return [f"Teachers are {', '.join(names)}: --teacher NAME says whose success the others' is "
            "told as a share of."]  # fmt: skip


def _units(board: Board) -> list[str]:
    """What the intervals count episodes as, where that is clearly less than so many."""
    if any(row.independent for row in board.rows):
        return [f"Intervals take all tasks for independent: '{board.env}' is not installed here, "
                "or does not tell which belong together."]  # fmt: skip
    fewer = [r for r in board.rows if r.summary.worth < 0.95 * r.summary.n]
    told = ", ".join(f"{r.agent} {r.summary.n} as {r.summary.worth:.0f}" for r in fewer)
    return [f"Intervals count episodes of tasks that belong together (of one product, one folder) "
            f"and repeats as what they are worth: {told}."] if fewer else []  # fmt: skip


def table(board: Board, width: int | None = None) -> Group:
    """A board for a terminal of ``width`` columns (None: of any): what is not ``_ALWAYS`` shown is
    left out, and said to be, where there is no room for it."""
    lines = [cells(board, row) for row in board.rows]
    grid, left_out = tables.fitted(
        title(board), columns(board), lines, width, names=("agent",), always=_ALWAYS
    )
    below = footnotes(board)
    if left_out:
        below.append(
            f"No room for {', '.join(left_out)}: a wider terminal, `harness leaderboard "
            "--markdown` or --page shows all."
        )
    return Group(grid, *(Text(plain(note)) for note in below))


def type_table(board: Board) -> Table | None:
    """Success by task type for the terminal; None where all tasks are of one."""
    types = sorted({name for row in board.rows for name in row.summary.types})
    if len(types) < 2:
        return None
    grid = tables.grid(f"{board.task_set} by task type", _TYPE_COLUMNS, ("task type", "agent"))
    ends = board.rows[-1] if len(board.rows) > 1 else None
    for name in types:
        for i, row in enumerate(board.rows):
            n, won, units = row.summary.types.get(name, (0, 0, 0.0))
            low, high = wilson(units * won / n, units) if n else (0.0, 0.0)
            told = ("" if i else name or "-", row.agent, _percent(won / n if n else None),
                    f"{100 * low:.1f} - {100 * high:.1f}" if n else "-", str(n))  # fmt: skip
            grid.add_row(*(Text(plain(cell)) for cell in told), end_section=row is ends)
    return grid


def notes(s: Summary) -> list[str]:
    """What a run's table has no room for, a line each: reasoning an episode, replies without an
    action, loops; CoT match (where there is a reference trace) and what to read it by."""
    tokens = "" if s.reasoning_tokens is None else f", {s.reasoning_tokens:.0f} tokens of its own"
    lines = [
        f"An episode: {_number(s.reasoning_words, 0)} words of reasoning{tokens}; replies without "
        f"an action {_number(s.format_errors, 2)}, loops {_number(s.loops, 2)}."
    ]
    if s.context:
        lines.append(
            f"{s.context} of {s.n} episodes ended because what was to be read did not fit the "
            "agent's window."
        )
    if s.worth < 0.95 * s.n:
        lines.append(
            f"The interval of success is that of {s.worth:.0f} independent episodes: tasks that "
            "belong together (of one product, one folder) and repeats tell less."
        )
    return [*lines, *cot_notes(s)]


def cot_notes(s: Summary, unit: str = "words") -> list[str]:
    """CoT match in ``unit`` and what to read it by, a line each; none without a reference trace."""
    if s.cot_overlap is None:
        return []

    def level(name: str, overlap: float | None, f1: float | None, n: int) -> str:
        told = f"overlap {_percent(overlap)}, F1 {_percent(f1)} (n = {n})" if n else "not known"
        return f"  {name}: {told}"

    return [
        f"CoT match, in {unit}: overlap {_percent(s.cot_overlap)}, precision "
        f"{_percent(s.cot_precision)}, F1 {_percent(s.cot_f1)} (n = {s.cot_overlap_n})",
        level("by chance, with the reference of another task", s.cot_floor, s.cot_floor_f1,
              s.cot_floor_n),
        level("of the reference's agent with itself", s.cot_ceiling, s.cot_ceiling_f1,
              s.cot_ceiling_n),
    ]  # fmt: skip


def markdown(found: Sequence[Board]) -> str:
    """All boards as Markdown, further columns in a second table: those that some row knows."""
    parts = []
    for board in found:
        heads = columns(board, more=True)
        rows = [cells(board, row, more=True) for row in board.rows]
        few = len(columns(board))
        more = [i for i in range(few, len(heads)) if any(row[i] != "-" for row in rows)]
        text = _table(heads, rows, range(few))
        if more:
            text += "\n" + _table(heads, rows, [0, *more])
        below = "".join(f"\n{_escape(note)}\n" for note in footnotes(board))
        parts.append(f"### {_escape(title(board))}\n\n{text}{below}")
    return "\n".join(parts)


def _table(
    heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], shown: Sequence[int]
) -> str:
    head = [heading for heading, _ in heads]
    rule = [":---" if justify == "left" else "---:" for _, justify in heads]
    return "".join(
        "| " + " | ".join(_escape(line[i]) for i in shown) + " |\n" for line in (head, rule, *rows)
    )


def to_json(found: Sequence[Board]) -> str:
    """All boards as JSON."""
    return msgspec.json.format(msgspec.json.encode(list(found)), indent=2).decode()


def _escape(text: str) -> str:
    return " ".join(plain(text).split("\n")).replace("|", "\\|")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def between(low: float | None, high: float | None) -> str:
    """A floor and a ceiling as text."""
    return "-" if low is None and high is None else f"{_percent(low)} - {_percent(high)}"


def _number(value: Any, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"

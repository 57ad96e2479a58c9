"""What is wrong with a record, and what each command makes of it: a refusal that says so, or an
empty cell; never a wrong number.

A results folder holds `expert` and `odd`, six tasks each. `odd` is `random`, changed as the case
says. A table says what each command answers: "ok" and a text that is printed, or the name of the
error (or exit status 1) and a text of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

import harness
from harness import figures, leaderboard
from harness.cli import app
from harness.errors import ConfigError, HarnessError
from harness.recorder import EPISODES
from harness.runs import METRICS, Run, complete, find_runs, write_meta, write_metrics
from harness.types import Episode, Fault, Outcome, Step

TASKS = 6


@pytest.fixture(scope="module")
def played(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("played")
    for name in ("expert", "random"):
        harness.evaluate(name, "alfworld", tasks=f"builtin-dev[:{TASKS}]", out=out)
    return out


# Cases --------------------------------------------------------------------------------------------


def write_episodes(run: Run, episodes: list[Episode]) -> None:
    body = b"".join(msgspec.json.encode(episode) + b"\n" for episode in episodes)
    (run.path / EPISODES).write_bytes(body)


def written(run: Run, episodes: list[Episode], **meta: object) -> None:
    """Record other episodes as if they had been played, with their metrics."""
    write_episodes(run, episodes)
    write_meta(run.path, msgspec.structs.replace(run.meta, **meta))
    complete(run.path)
    harness.api.score(run.path, run.path.parent.parent.parent)


def whole(run: Run) -> None:
    """The table's own check: nothing is wrong."""


def damaged_line(run: Run) -> None:
    file = run.path / EPISODES
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1][:40] + b"\n", *lines[2:]]))


def lost_episodes(run: Run) -> None:
    write_episodes(run, list(run.episodes())[:4])


def cut_newline(run: Run) -> None:
    """As an editor might: the last line is whole but for its end."""
    file = run.path / EPISODES
    file.write_bytes(file.read_bytes()[:-1])


def lost_without_hash(run: Run) -> None:
    """A run that was complete before hashes were kept, or came as decisions."""
    lost_episodes(run)
    write_meta(run.path, msgspec.structs.replace(run.meta, episodes_hash=None))


def damaged_metrics(run: Run) -> None:
    file = run.path / METRICS
    file.write_bytes(file.read_bytes().replace(b'"n_steps":', b'"n_steps":"', 1))


def edited_observation(run: Run) -> None:
    def edit(step: Step) -> Step:
        return msgspec.structs.replace(step, observation=step.observation + " You win.")

    first, *rest = run.episodes()
    steps = (first.steps[0], edit(first.steps[1]), *first.steps[2:])
    write_episodes(run, [msgspec.structs.replace(first, steps=steps), *rest])


def edited_metrics(run: Run) -> None:
    """One lost episode is made a won one, by hand."""
    file = run.path / METRICS
    file.write_bytes(file.read_bytes().replace(b'"success":false', b'"success":true', 1))


def claimed_win(run: Run) -> None:
    """Metrics say what the episodes do not, and run.json their hash."""
    write_metrics(run.path, [msgspec.structs.replace(row, success=True) for row in run.metrics])


def other_set(run: Run) -> None:
    """A run of other tasks, by its own description."""
    task_set = run.meta.task_set.part(slice(0, 4))
    episodes = [e for e in run.episodes() if e.task.id in {t.id for t in task_set.tasks}]
    written(run, episodes, task_set=task_set, task_set_hash=task_set.hash)


def changed_rules(run: Run) -> None:
    """The description says another budget than the run was played under."""
    task_set = run.meta.task_set
    protocol = msgspec.structs.replace(task_set.protocol, max_steps=500)
    easier = msgspec.structs.replace(task_set, protocol=protocol)
    write_meta(run.path, msgspec.structs.replace(run.meta, task_set=easier))


def foreign_episode(run: Run) -> None:
    """One episode, and its row, are of a task that the run's set does not have."""
    first, *rest = run.episodes()
    task = msgspec.structs.replace(first.task, id=first.task.id + "-of-train")
    write_episodes(run, [msgspec.structs.replace(first, task=task), *rest])
    rows = run.metrics
    write_metrics(run.path, [msgspec.structs.replace(rows[0], task_id=task.id), *rows[1:]])


def no_trace(run: Run) -> None:
    written(run, list(run.episodes()), reference=None)


def no_episodes(run: Run) -> None:
    (run.path / EPISODES).write_bytes(b"")
    (run.path / METRICS).write_bytes(b"")


def all_broke(run: Run) -> None:
    broke = {"outcome": Outcome.ERROR, "success": False, "score": 0.0}
    fault = Fault("EnvError", "the game went away")
    written(run, [msgspec.structs.replace(e, error=fault, **broke) for e in run.episodes()])


def one_episode(run: Run) -> None:
    task_set = run.meta.task_set.part(slice(0, 1))
    episodes = [e for e in run.episodes() if e.task.id == task_set.tasks[0].id]
    written(run, episodes, task_set=task_set, task_set_hash=task_set.hash)


# Commands -----------------------------------------------------------------------------------------

#: Words of each command; RUN, OUT and TO are paths. `plot` is its data, which need no matplotlib.
COMMANDS = {
    "score": "score RUN",
    "compare": "compare odd expert --out OUT",
    "leaderboard": "leaderboard --out OUT --markdown",
    "view": "view RUN",
    "beside": "view RUN OUT/alfworld/expert/run --page TO/page.html",
    "verify": "verify RUN",
    "export": "export RUN --to TO --episodes",
    "list": "list runs --out OUT",
    "plot": "",
}
GARBAGE = "not an episode"
CHANGED = "description was changed after the run"
EDITED = f"{EPISODES} was changed after it was recorded"

#: Case -> command -> (what comes, a text of it). Commands left out do as with `whole`.
EXPECTED: dict[Callable[[Run], None], dict[str, tuple[str, str]]] = {
    whole: {
        "score": ("ok", " 0.0 % "),
        "compare": ("ok", "expert is better"),
        "leaderboard": ("ok", "| odd | 0.0 % | 0.0 - 39.0 | 0.0 | 6 | 0 |"),
        "view": ("ok", " lost "),
        "beside": ("ok", "page.html"),
        "verify": ("ok", "6 of 6 episodes are equal"),
        "export": ("ok", "TO/alfworld/odd/run"),
        "list": ("ok", " 6/6 "),
        "plot": ("ok", "expert 100.0, odd 0.0"),
    },
    damaged_line: {
        **dict.fromkeys(("score", "export"), ("TraceError", EDITED)),
        **dict.fromkeys(("view", "beside", "verify"), ("TraceError", f"{EPISODES}:2: {GARBAGE}")),
    },
    lost_episodes: {
        **dict.fromkeys(("score", "export"), ("TraceError", EDITED)),
        "verify": ("exit 1", "4 of 6 episodes are equal"),
        "list": ("ok", " damaged "),
    },
    damaged_metrics: {
        **dict.fromkeys(("compare", "verify", "export"), ("TraceError", f"{METRICS}:1: not a")),
        "leaderboard": ("ok", "passed over"),
        "plot": ("ok", "expert 100.0"),
    },
    edited_metrics: {
        **dict.fromkeys(("compare", "export"), ("TraceError", "changed after the run was scored")),
        "leaderboard": ("ok", "passed over"),
        "plot": ("ok", "expert 100.0"),
        "verify": ("exit 1", "metrics, success differs"),
    },
    cut_newline: {
        **dict.fromkeys(("score", "export"), ("TraceError", EDITED)),
        "verify": ("exit 1", "5 of 6 episodes are equal"),
        "list": ("ok", " damaged "),
    },
    lost_without_hash: {
        **dict.fromkeys(
            ("score", "export"),
            ("TraceError", "What is missing is played by `harness run --resume"),
        ),
        "verify": ("exit 1", "4 of 6 episodes are equal"),
        "list": ("ok", " damaged "),
    },
    edited_observation: {
        **dict.fromkeys(("score", "export"), ("TraceError", EDITED)),
        "verify": ("exit 1", "step 2: observation differs"),
    },
    claimed_win: {
        # Rows that contradict their episodes are found by `verify`, which reads both, and `score`
        # makes them anew; tables read rows alone.
        "verify": ("exit 1", "metrics, success differs"),
        "compare": ("ok", "Tied"),
        "leaderboard": ("ok", "| odd | 100.0 %"),
        "plot": ("ok", "expert 100.0, odd 100.0"),
    },
    other_set: {
        "compare": ("ConfigError", "score different things"),
        "leaderboard": ("ok", "| odd | 0.0 % | 0.0 - 49.0 | 0.0 | 4 | 0 |"),
        "beside": ("ConfigError", "share no page"),
        "verify": ("ok", "4 of 4 episodes"),
        "plot": ("ok", "expert 100.0; odd 0.0"),
    },
    changed_rules: {
        **dict.fromkeys(("score", "compare", "verify", "export"), ("TraceError", CHANGED)),
        "leaderboard": ("ok", "passed over"),
        "plot": ("ok", "expert 100.0"),
    },
    foreign_episode: {
        **dict.fromkeys(("score", "export"), ("TraceError", EDITED)),
        "compare": ("TraceError", "is not of this run"),
        "leaderboard": ("ok", "passed over"),
        "verify": ("exit 1", "record differs"),
        "plot": ("ok", "expert 100.0"),
    },
    no_trace: {"leaderboard": ("ok", "| - |")},
    no_episodes: {
        "score": ("TraceError", "holds no episodes.jsonl"),
        "compare": ("TraceError", "0 lines, but the run has 6"),
        "leaderboard": ("ok", "passed over"),
        "view": ("TraceError", "holds no episodes.jsonl"),
        "beside": ("TraceError", "holds no episodes.jsonl"),
        "verify": ("TraceError", "holds no episodes.jsonl"),
        "export": ("TraceError", "holds no episodes.jsonl"),
        "plot": ("ok", "expert 100.0"),
    },
    all_broke: {
        "score": ("ok", "6 episodes broke and are not in the score"),
        "compare": ("ConfigError", "no episode of the same task"),
        "leaderboard": ("ok", "| odd | - | - | - | 0 | 6 |"),
        "view": ("ok", "the game went away"),
        "verify": ("ok", "6 episodes broke"),
        "plot": ("ok", "expert 100.0; left out odd"),
    },
    one_episode: {
        "compare": ("ConfigError", "score different things"),
        "leaderboard": ("ok", "| odd | 0.0 % | 0.0 - 79.3 | 0.0 | 1 | 0 |"),
        "beside": ("ConfigError", "share no page"),
        "verify": ("ok", "1 of 1 episodes"),
        "plot": ("ok", "expert 100.0; odd 0.0"),
    },
}


def marks(out: Path) -> str:
    """What a plot would draw: agents and success, boards apart, and what it leaves out."""
    told: list[str] = []
    boards = leaderboard.boards(find_runs(out), on_damage=lambda error: None)
    strips = figures.tradeoff(boards, words=True, on_skip=told.append)
    drawn = [
        ", ".join(f"{s.name} {s.marks[0].y:.1f}" for s in strip.panels[0].series)
        for strip in sorted(strips, key=lambda s: -len(s.title))
    ]
    return "; ".join([*sorted(drawn), *(f"left out {text.split(' on ')[0]}" for text in told)])


def answer(command: str, out: Path, to: Path) -> tuple[str, str]:
    if command == "plot":
        try:
            return "ok", marks(out)
        except HarnessError as error:
            return type(error).__name__, str(error)
    places = {"RUN": out / "alfworld" / "odd" / "run", "OUT": out, "TO": to}
    words = []
    for word in COMMANDS[command].split():
        head, slash, rest = word.partition("/")
        words.append(f"{places.get(head, head)}{slash}{rest}")
    found = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    if isinstance(found.exception, HarnessError):
        return type(found.exception).__name__, str(found.exception)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    text = found.output.replace(str(to), "TO")
    return ("ok" if found.exit_code == 0 else f"exit {found.exit_code}"), text


@pytest.mark.parametrize("case", EXPECTED, ids=lambda c: c.__name__)
def test_every_command_refuses_or_leaves_the_cell_empty(case, played, tmp_path):
    out = tmp_path / "out"
    for name, agent in (("expert", "expert"), ("odd", "random")):
        (source,) = (r for r in find_runs(played) if r.meta.agent.name == agent
                     and r.meta.kind == "run")  # fmt: skip
        folder = out / "alfworld" / name / "run"
        shutil.copytree(source.path, folder)
        config = msgspec.structs.replace(source.meta.agent, name=name)
        write_meta(folder, msgspec.structs.replace(source.meta, agent=config))
    for reference in played.glob("alfworld/expert/reference-*"):
        shutil.copytree(reference, out / "alfworld" / "expert" / reference.name)
    case(Run(out / "alfworld" / "odd" / "run"))
    wrong = {}
    before = contents(out)
    # `score` is last: it may mend what it reads.
    for command in sorted(COMMANDS, key=lambda name: name == "score"):
        kind, text = EXPECTED[case].get(command, EXPECTED[whole][command])
        got, told = answer(command, out, tmp_path / "to")
        if got != kind or text not in told:
            wrong[command] = (got, told[-900:])
        if (command, got) != ("score", "ok"):
            assert contents(out) == before, command
    assert not wrong


def contents(out: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}


def test_one_task_is_compared_and_nothing_follows(played, tmp_path):
    """One pair: an interval of nearly everything, tied, nothing else told."""
    expert, odd = (harness.evaluate(name, "alfworld", tasks="builtin-dev[:1]", out=tmp_path)
                   for name in ("expert", "random"))  # fmt: skip
    found = harness.compare(odd, expert)
    assert (found.pairs, found.verdict, found.p) == (1, "tied", 1.0)
    assert found.success.low < -0.9
    assert found.success.high > 0.1
    assert {part.low for part in (*found.by_type, *found.others)} == {None}
    with pytest.raises(ConfigError, match="no episode of the same task"):
        harness.compare(odd, Run(all_errors(expert, tmp_path / "broken")))


def all_errors(run: Run, folder: Path) -> Path:
    write_meta(folder, run.meta)
    rows = [
        msgspec.structs.replace(r, outcome=Outcome.ERROR, success=None, score=None)
        for r in run.metrics
    ]
    write_metrics(folder, rows)
    return folder

"""One ALFWorld game, and the two forms in which files hold it: the official ``game.tw-pddl`` and a
packed line."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Literal

import msgspec

from harness.errors import DataError

Grammar = Literal["move", "put"]
#: What to do about games that cannot be read.
REMEDY = "Get the games again with: harness fetch alfworld"
_TASK = re.compile(r"Your task is to: ([^\n\"]*)")


class Game(msgspec.Struct, frozen=True):
    """One game. ``grammar`` says which verb puts an object down: ``move X to Y`` (0.4 and later)
    or ``put X in/on Y`` (0.2 and 0.3, the grammar of all published ReAct prompts)."""

    id: str
    #: What follows "Your task is to: ", with its full stop.
    task: str
    pddl_problem: str
    #: The planner's solution, in the game's own grammar.
    walkthrough: tuple[str, ...]
    task_type: str
    grammar: Grammar = "move"
    solvable: bool = True


def task_type(task_id: str) -> str:
    """``train/pick_and_place_simple-Mug-None-Desk-301/trial_...`` -> ``pick_and_place_simple``."""
    return group(task_id).split("/")[-1].split("-")[0]


#: Official trials are named by date, ``trial_T2019...``.
BUILTIN_TRIAL = "trial_B"


def group(task_id: str) -> str:
    """The task folder: trials in it differ only in where things lie.

    A built-in game's is marked: its rooms share numbers with official ones and are other rooms.
    The official ``valid_train`` holds games of train's own folders, which therefore are its groups.
    Other splits keep theirs: by ALFWorld's design ``valid_seen`` shares tasks and rooms with train.
    """
    folder, _, trial = task_id.rpartition("/")
    if trial.startswith(BUILTIN_TRIAL):
        return f"builtin/{folder}"
    split, _, name = folder.partition("/")
    return f"train/{name}" if split == "valid_train" else folder


def content_hash(game: Game) -> str:
    """First 16 hex digits of the sha256 of the problem, surrounding space dropped.

    The older grammar counts too: a set of tasks in it is another set.
    """
    older = "put X in/on Y\n" if game.grammar == "put" else ""
    return hashlib.sha256((older + game.pddl_problem.strip()).encode()).hexdigest()[:16]


def detect_grammar(text: str) -> Grammar:
    """Which of the two grammars a game's grammar text is."""
    return "put" if re.search(r"put \{o\} in/on \{r\}", text) else "move"


def to_json(game: Game, domain: str, grammar: str) -> dict[str, Any]:
    """The official ``game.tw-pddl`` content; ``grammar`` holds the placeholder UNKNOWN GOAL."""
    placed, n = re.subn(r"(Your task is to: )UNKNOWN GOAL\.?", lambda m: m[1] + game.task, grammar)
    if n != 1:
        raise DataError("The grammar text has no line 'Your task is to: UNKNOWN GOAL'.")
    return {
        "pddl_domain": domain,
        "grammar": placed,
        "pddl_problem": game.pddl_problem,
        "walkthrough": list(game.walkthrough),
        "solvable": game.solvable,
    }


def from_json(raw: bytes, task_id: str, where: str) -> Game:
    """Read a ``game.tw-pddl`` or a packed line; ``where`` is its file (and line)."""
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON: {error}.\n  {REMEDY}") from None
    if not isinstance(data, dict):
        raise DataError(f"{where}: holds a {type(data).__name__}, not an object.\n  {REMEDY}")
    problem = field(data, "pddl_problem", str, where)
    walkthrough = field(data, "walkthrough", list, where)
    grammar: Grammar = "move"
    if "grammar" in data:
        text = field(data, "grammar", str, where)
        grammar = detect_grammar(text)
        found = _TASK.search(text)
        if found is None:
            raise DataError(
                f"{where}: field 'grammar' has no 'Your task is to: ' line.\n  {REMEDY}"
            )
        task = found[1]
    else:
        task = field(data, "task", str, where)
    return Game(
        id=task_id,
        task=task,
        pddl_problem=problem,
        walkthrough=tuple(map(str, walkthrough)),
        task_type=str(data.get("task_type") or task_type(task_id)),
        grammar=grammar,
        solvable=bool(data.get("solvable", True)),
    )


def field(data: dict[str, Any], name: str, kind: type, where: str) -> Any:
    """A field of a game in a file; DataError, naming it and ``where``, if it is not there or is no
    ``kind``."""
    if name not in data:
        raise DataError(f"{where}: field '{name}' is missing.\n  {REMEDY}")
    if not isinstance(data[name], kind):
        found = type(data[name]).__name__
        raise DataError(
            f"{where}: field '{name}' is a {found}, expected a {kind.__name__}.\n  {REMEDY}"
        )
    return data[name]

"""Recorded runs as a Hugging Face dataset folder, which ``datasets.load_dataset`` reads.

    runs -> rows -> FOLDER/<form>/<split>.jsonl, and FOLDER/README.md: the card that declares them

Data are JSON lines: they need no library here, and the card states every column's type.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec

from harness import transcript
from harness.errors import ConfigError, DataError, unknown
from harness.plain import plain
from harness.rows import COLUMNS, FORMS, HEADER, draw, group, rows, unfit
from harness.runs import Run

CARD = "README.md"
TRAIN, HELD_OUT = "train", "validation"


class Told(NamedTuple):
    """What a form's files hold: rows and bytes by split, episodes written and left out, by run."""

    rows: Counter[str]
    bytes: Counter[str]
    episodes: Counter[Path]
    dropped: Counter[str]


def write(
    runs: Sequence[Run],
    to: Path,
    forms: Sequence[str],
    *,
    header: str = HEADER,
    successes_only: bool = False,
    heldout: float = 0.0,
) -> dict[str, Told]:
    """Write complete runs in ``forms`` to a new folder ``to``, which appears in one move.

    ``heldout`` is the share of groups whose episodes are the split ``validation``: whole groups,
    by lot (``rows.draw``, seed 0: those that a recipe of seed 0 holds out).

    Raises:
        ConfigError: an unknown form, a share outside [0, 1), a header without its place for the
            instruction, a run that is not complete or named twice, a folder that is there.
        DataError: a split without a row, and why.
        TraceError: a run's episodes are not here, or not all and as they were when it was complete.
    """
    for form in forms:
        if form not in FORMS:
            raise ConfigError(unknown("form", form, FORMS))
    if not 0 <= heldout < 1:
        raise ConfigError(f"--heldout is a share in [0, 1), not {heldout}.")
    transcript.check_header(header, "--prompt")
    for run in runs:
        run.check_complete()
        run.check_whole()
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("A run is named twice: its episodes would count twice.")
    if to.exists():
        raise ConfigError(f"{to} exists: name a folder that does not, or remove it.")
    splits = (TRAIN, HELD_OUT) if heldout else (TRAIN,)
    half = to.parent / f".export-{os.getpid()}-{to.name}"
    try:
        told = {}
        for form in dict.fromkeys(forms):
            (half / form).mkdir(parents=True)
            with ExitStack() as stack:
                files = {
                    split: stack.enter_context(open(half / form / f"{split}.jsonl", "wb"))
                    for split in splits
                }
                told[form] = _write_form(runs, form, files, header, successes_only, heldout)
            _check_splits(form, splits, told[form], heldout)
        card = _card(runs, told, header, successes_only, heldout)
        (half / CARD).write_text(card, encoding="utf-8")
        half.rename(to)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return told


def _write_form(
    runs: Sequence[Run],
    form: str,
    files: Mapping[str, IO[bytes]],
    header: str,
    successes_only: bool,
    heldout: float,
) -> Told:
    told = Told(Counter(dict.fromkeys(files, 0)), Counter(), Counter(), Counter())
    for run in runs:
        for episode in run.episodes():
            reason = unfit(episode, form, successes_only=successes_only)
            if reason is not None:
                told.dropped[reason] += 1
                continue
            lot = draw(group(episode.task.env, episode.task.id), 0)
            split = HELD_OUT if lot < heldout else TRAIN
            told.episodes[run.path] += 1
            for row in rows(episode, form, header, run.meta.run_id):
                told.rows[split] += 1
                told.bytes[split] += files[split].write(msgspec.json.encode(row) + b"\n")
    return told


def _check_splits(form: str, splits: Sequence[str], told: Told, heldout: float) -> None:
    for split in splits:
        if told.rows[split]:
            continue
        why = ", ".join(f"{n} {reason}" for reason, n in told.dropped.items())
        raise DataError(
            f"No row of '{form}' for the split '{split}' ({told.episodes.total()} episodes fit, "
            f"left out: {why or 'none'})."
            + (f"\n  Another --heldout than {heldout} cuts elsewhere." if heldout else "")
        )


# The card ---------------------------------------------------------------------------------


def _card(
    runs: Sequence[Run], told: dict[str, Told], header: str, successes_only: bool, heldout: float
) -> str:
    parts = [
        f"---\n{_metadata(told)}---\n",
        "# Episodes of language agents\n",
        "Recorded by distill-harness: every row is an episode, or a decision of one, in the text "
        "that agents of the harness read and write (`Observation:`, `Reasoning:`, `Action:`).\n",
        _table(
            ("run", "environment", "agent", "task set", "hash", *(f"in {form}" for form in told)),
            [
                (
                    meta.run_id, meta.task_set.env, meta.agent.name, meta.task_set.name,
                    meta.task_set_hash, *(str(t.episodes[run.path]) for t in told.values()),
                )
                for run in runs
                for meta in [run.meta]
            ],
        ),
        "Numbers are episodes. " + (
            "Only episodes that were won." if successes_only
            else "Won and lost episodes: see `success` (null: a log does not tell)."
        ) + "\n",
        _table(
            ("form", "what", "rows", "left out"),
            [
                (
                    form, FORMS[form], ", ".join(f"{n} {split}" for split, n in t.rows.items()),
                    ", ".join(f"{n} {reason}" for reason, n in t.dropped.items()) or "none",
                )
                for form, t in told.items()
            ],
        ),
        _READING.format(form=next(iter(told))),
        "Before each episode stands this prompt:\n",
        "\n".join(f"    {line}" for line in plain(header).splitlines()) + "\n",
        "## Splits and leaks\n",
        "Every row names its `task` and its `group`: tasks of one group differ too little to be on "
        "two sides of a split. Evaluate on groups that are not in here, and split by `group`."
        + (
            f" `{HELD_OUT}` holds whole groups, about {heldout:.0%} of them, drawn by hash."
            if heldout else ""
        ) + " Tasks named `imported/...` may be any task of their environment.\n",
        "Observations are the environments' texts: mind their licences before you publish.\n",
    ]  # fmt: skip
    return "\n".join(parts)


_READING = """\
```python
from datasets import load_dataset
rows = load_dataset("FOLDER OR OWNER/NAME", "{form}", split="train")
```

Slips that were put in on purpose, and actions that a protocol took for the agent, are there to be
read and not to be learned: `loss` is false in `sharegpt`, `label` is null in `spans`, no row of
`prompt-completion` completes to one, and `messages` leaves such episodes out. Labels are `context`,
`reason`, `act`, and `reason_format`, `act_format` for the words "Reasoning:", "Action:" and their
newlines; offsets count characters (code points) from 0, ends excluded. `steps` tells each step's
reward, whether its action was invalid, put in or forced by the protocol, and the string executed if
another. `harness import exported FILE` makes a run of the rows again (not of `prompt-completion`).
"""


def _metadata(told: dict[str, Told]) -> str:
    """The card's YAML: which files are which split of which form, and every column's type."""
    configs, info = [], []
    for number, (form, t) in enumerate(told.items()):
        configs.append({
            "config_name": form,
            **({"default": True} if number == 0 else {}),
            "data_files": [{"split": s, "path": f"{form}/{s}.jsonl"} for s in t.rows],
        })  # fmt: skip
        info.append({
            "config_name": form,
            "features": _features(COLUMNS[form]),
            "splits": [
                {"name": s, "num_bytes": t.bytes[s], "num_examples": n} for s, n in t.rows.items()
            ],
        })  # fmt: skip
    metadata = {
        "pretty_name": "Episodes of language agents",
        "language": ["en"],
        "task_categories": ["text-generation"],
        "tags": ["agents", "react", "distill-harness"],
        "configs": configs,
        "dataset_info": info,
    }
    return "".join(_yaml(metadata))


def _features(columns: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dtype": kind} if isinstance(kind, str)
        else {"name": name, "list": _features(kind[0])}
        for name, kind in columns.items()
    ]  # fmt: skip


def _yaml(value: dict[str, Any], indent: str = "") -> list[str]:
    """A mapping as YAML lines; its scalars are written as JSON, which YAML holds."""
    lines = []
    for key, inner in value.items():
        if not isinstance(inner, list):
            lines.append(f"{indent}{key}: {msgspec.json.encode(inner).decode()}\n")
            continue
        lines.append(f"{indent}{key}:\n")
        for item in inner:
            if isinstance(item, dict):
                first, *rest = _yaml(item, f"{indent}  ")
                lines += [f"{indent}- {first.lstrip()}", *rest]
            else:
                lines.append(f"{indent}- {msgspec.json.encode(item).decode()}\n")
    return lines


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        shown = (" ".join(plain(cell).split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(shown)} |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, lines)]) + "\n"

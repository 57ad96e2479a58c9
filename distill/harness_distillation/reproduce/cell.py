"""One cell in a process of its own: distil the student, play its task sets, write what came of it.

    python -m harness_distillation.reproduce.cell OUT NAME

Works inside ``OUT``, so that ``models/NAME`` in a recipe is the campaign's own model. Whatever is
finished is kept: a stopped cell goes on in training, in the middle of a run, or after it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import msgspec

from harness import api, registry
from harness.config import AgentConfig
from harness.errors import ConfigError, HarnessError
from harness.recorder import EPISODES
from harness.runs import META, Run, read_meta
from harness_distillation import checkpoint
from harness_distillation.gate import once_more
from harness_distillation.recipe import Recipe, recipe_hash
from harness_distillation.recipe_faults import MODELS, references
from harness_distillation.reproduce.beforehand import tuned
from harness_distillation.reproduce.expansion import Cell
from harness_distillation.reproduce.plan import (
    Done,
    Planned,
    columns,
    done,
    read,
    trial_hash,
    weights_of,
)
from harness_distillation.reproduce.trial import Evaluation
from harness_distillation.traces import episodes_file, file_sha256


class _Parents(msgspec.Struct):
    traces: str | None = None


class _Notes(msgspec.Struct):
    """What a model's harness.json tells of its training."""

    reason_to_act: float | None = None
    parents: _Parents = msgspec.field(default_factory=_Parents)


RESULTS = Path("results")
CHECKPOINTS = Path("training") / "checkpoints"
#: Below a model: the key of the training that is made there.
KEY = Path("training") / "cell.key"


def run(out: Path, name: str) -> None:
    """Do what is left of a cell of the campaign planned in ``out``."""
    os.chdir(out)
    plan = read(Path())
    planned = {p.cell.name: p for p in plan.cells}
    cell = planned[name].cell
    model = Path("models") / name
    begun = time.monotonic()
    recipe = tuned(plan, Path(), cell)
    before = done(Path(), planned[name])
    # A finished one is here to play again: its training may have stayed elsewhere.
    if cell.given is None and before is None:
        if cell.stage != "trial":
            _put_aside(recipe, model)
        _train(recipe, model)
    trained = time.monotonic()
    teacher = planned.get(cell.teacher or "")
    notes = _Notes()
    if cell.given is None or (model / "harness.json").is_file():  # who gave it may not tell
        notes = msgspec.json.decode((model / "harness.json").read_bytes(), type=_Notes)
    runs = {}
    for column in columns(plan.grid, cell):
        played = model if column.steps is None else model / CHECKPOINTS / f"step-{column.steps:07d}"
        reference = _reference(teacher, column.evaluation) if teacher is not None else None
        runs[column.name] = str(_play(cell, played, column.evaluation, reference).path)
    found = Done(
        key=planned[name].key,
        recipe_hash=recipe_hash(recipe) if cell.given is None else None,
        runs=runs,
        reason_to_act=notes.reason_to_act,
        train_seconds=before.train_seconds if before else round(trained - begun, 1),
        play_seconds=round(time.monotonic() - trained, 1),
        trial=trial_hash(plan.grid),
        lr=recipe.optim.lr if cell.given is None else None,
        weights=tuple(weights_of(model)),
        traces=notes.parents.traces if cell.given is None else None,
    )
    path = Path("cells") / f"{name}.json"
    draft = path.with_suffix(".draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    draft.replace(path)


def _put_aside(recipe: Recipe, model: Path) -> None:
    """Make room where another training was begun under this name: before its first student a plan
    may change (``plan.settle``), and what pilot, tuning or a parent came to then is of no use now.
    It is left in ``models/.NAME.KEY``."""
    noted, key, before = model / KEY, _training_key(recipe), "before"
    if noted.is_file():
        before = noted.read_text(encoding="utf-8")
        other = before != key
    else:  # begun before keys were noted, or given then
        begun = checkpoint.begun(model)
        other = begun is not None and begun.recipe != recipe_hash(recipe)
    if model.is_symlink() and (other or not noted.is_file()):  # a name of given weights
        model.unlink()
    elif other:
        aside = model.with_name(f".{model.name}.{before}")
        shutil.rmtree(aside, ignore_errors=True)  # the same training, put aside before
        model.rename(aside)
    noted.parent.mkdir(parents=True, exist_ok=True)
    noted.write_text(key, encoding="utf-8")


def _training_key(recipe: Recipe) -> str:
    """16 hex digits over what a training depends on: its recipe, its traces, the weights it starts
    from and learns from. What the student is played on is no part of it."""
    recorded = [file_sha256(episodes_file(run)) for run in recipe.data.runs]
    parents = {name: weights_of(Path(MODELS) / name) for name in references(recipe)}
    collected = [what.plain() for what in recipe.data.collect]
    body = msgspec.json.encode((recipe_hash(recipe), collected, recorded, parents), order="sorted")
    return hashlib.sha256(body).hexdigest()[:16]


def _train(recipe: Recipe, model: Path) -> None:
    from harness_distillation.stages import distill

    distill(recipe, model, until="train", shared=Path("shared"))


def _play(cell: Cell, model: Path, what: Evaluation, reference: str | None) -> Run:
    """The run of these weights on a task set: the finished one, or the rest of a stopped one (all
    of it, where its episodes were left behind). A student that ended as it was at fixed steps has
    one run for both."""
    agent = AgentConfig(
        name=cell.arm, policy="react", description=cell.recipe.description, role="student",
        options={"checkpoint": str(model)},
    )  # fmt: skip
    task_set = what.task_set()
    measure = (task_set.hash, registry.env_class(what.env).version)
    weights = weights_of(model)
    for file in sorted((RESULTS / what.env / cell.arm).glob(f"*/{META}")):
        meta = read_meta(file.parent)
        if meta.measure == measure and list(meta.parents) == weights:
            whole = meta.status == "complete" and (file.parent / EPISODES).is_file()
            return once_more(Run(file.parent) if whole else api.resume(file.parent))
    print(f"playing {what.name}", file=sys.stderr, flush=True)
    run = api.evaluate(
        agent, what.env, tasks=task_set, out=RESULTS, env_options=what.env_options,
        reference=reference, parents=weights,
    )  # fmt: skip
    return once_more(run)


def _reference(teacher: Planned, what: Evaluation) -> str:
    """The teacher's run on the same tasks: what CoT match is measured against."""
    found = done(Path(), teacher)
    if found is None:
        raise ConfigError(f"The teacher '{teacher.cell.name}' has not been played yet.")
    return found.runs[what.name]


def main() -> int:
    try:
        run(Path(sys.argv[1]), sys.argv[2])
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

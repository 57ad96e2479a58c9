"""``harness distill``: the command line of this package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from harness.errors import ConfigError
from harness.runs import RESULTS

if TYPE_CHECKING:
    from harness_distillation.recipe import Recipe


def main(args: list[str]) -> int:
    """``harness distill RECIPE`` trains; ``list`` names recipes, ``export CHECKPOINT OUT`` ships,
    ``inspect RUN`` shows.

    Returns the exit status; errors are HarnessErrors, which the caller prints.
    """
    if args[:1] == ["export"]:
        return _export(args[1:])
    if args[:1] == ["inspect"]:
        from harness_distillation import inspect

        return inspect.main(args[1:])
    if args == ["list"]:
        return _list()
    parser = argparse.ArgumentParser(
        prog="harness distill",
        description="Train a student by a recipe: collect traces, prepare them, cache the "
        "teacher, train, evaluate. Finished stages are kept, a stopped one goes on. "
        "'harness distill list' names the recipes that ship; "
        "'harness distill export CHECKPOINT OUT' copies a model for shipping; "
        "'harness distill inspect RUN|OUT' shows which tokens are taught.",
        allow_abbrev=False,
    )
    parser.add_argument("recipe", help="a .toml file, or the name of a recipe that ships")
    parser.add_argument("--out", type=Path, help="student's folder (default: models/NAME)")
    parser.add_argument(
        "--data", action="append", metavar="RUN", help="recorded run instead of the recipe's own"
    )
    parser.add_argument(
        "--teacher", metavar="DIR", help="teacher checkpoint instead of the recipe's"
    )
    parser.add_argument("--seed", type=int, help="training seed instead of the recipe's")
    parser.add_argument("--steps", type=int, help="optimizer steps instead of the recipe's")
    parser.add_argument("--max-minutes", type=float, help="stop (resumable) after so long")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument(
        "--device", help="'cpu' or 'cuda' (default: an accelerator where there is one)"
    )
    parser.add_argument(
        "--tracker", action="append", default=[], metavar="NAME",
        help="send the log to it, too: tensorboard, wandb, mlflow ... (extra 'trackers')",
    )  # fmt: skip
    parser.add_argument(
        "--stage", choices=("collect", "prepare", "cache", "train", "evaluate"),
        default="evaluate", help="last stage to run",
    )  # fmt: skip
    parser.add_argument(
        "--results", type=Path, default=RESULTS,
        help="results folder of what the student plays (default: results)",
    )  # fmt: skip
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on (the default)")
    start.add_argument("--fresh", action="store_true", help="delete earlier work and start again")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the whole recipe and do nothing"
    )
    given = parser.parse_args(args)

    # Idle OpenMP threads that spin would take the other core from a second process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from harness_distillation import parents, ranks
    from harness_distillation import recipe as recipes
    from harness_distillation.prepare import say
    from harness_distillation.stages import distill

    recipe = override(recipes.load(given.recipe), given)
    out = given.out or Path(os.environ.get("HARNESS_MODELS") or "models") / recipe.name
    if given.resume and not (out / "training").is_dir():
        raise ConfigError(f"Nothing to resume in {out}.")
    us = ranks.current()
    if given.dry_run:
        return _dry_run(recipe, out)
    try:
        # Links are made once, and all ranks refuse what is to be trained first.
        with us.first_alone():
            for name, what in parents.bring(recipe).items():
                say(given.quiet or not us.first, f"models/{name}: {what}")
        result = distill(
            recipe,
            out,
            fresh=given.fresh,
            until=given.stage,
            quiet=given.quiet or not us.first,
            device=given.device,
            trackers=given.tracker,
            results=given.results,
        )
    finally:
        ranks.leave()
    if result is None or not us.first:
        return 0
    if result.reason == "time":
        say(given.quiet, f"stopped by --max-minutes at step {result.step}; same command goes on")
        print(result.checkpoint)
    else:
        print(out)
    return 0


def _list() -> int:
    """A line a recipe: its name, and what it makes."""
    from harness_distillation import recipe as recipes

    found = {name: recipes.load(name) for name in sorted(recipes.shipped())}
    wide = max(map(len, found))
    for name, recipe in found.items():
        print(f"{name:{wide}}  {recipe.description}")
    return 0


def _dry_run(recipe: Recipe, out: Path) -> int:
    """The recipe with every number stated, and what is missing for it."""
    from harness_distillation import parents
    from harness_distillation.prepare import say
    from harness_distillation.recipe import recipe_hash

    print(msgspec.json.format(msgspec.json.encode(recipe)).decode())
    say(False, f"recipe {recipe_hash(recipe)}, to be trained in {out}; nothing was done")
    if missing := parents.missing(recipe):
        say(False, f"not in this folder: {', '.join(f'models/{name}' for name in missing)}")
    return 0


def override(recipe: Recipe, given: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says instead."""
    from harness_distillation import recipe as recipes

    replace = msgspec.structs.replace
    optim = {
        key: value
        for key, value in (
            ("steps", given.steps),
            ("max_minutes", given.max_minutes),
            ("threads", given.threads),
        )
        if value is not None
    }
    recipe = replace(recipe, optim=replace(recipe.optim, **optim))
    if given.seed is not None:
        recipe = replace(recipe, seed=given.seed)
    if given.data:
        recipe = replace(recipe, data=replace(recipe.data, runs=tuple(given.data), collect=()))
    if given.teacher is not None:
        teacher = recipe.teacher or recipes.Teacher(checkpoint=given.teacher)
        if recipe.tokenizer.start == teacher.checkpoint:  # its tokenizer is the other one's too
            tokenizer = replace(recipe.tokenizer, start=given.teacher)
            recipe = replace(recipe, tokenizer=tokenizer)
        recipe = replace(recipe, teacher=replace(teacher, checkpoint=given.teacher))
    return recipes.resolve(recipe)


def _export(args: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="harness distill export",
        description="Copy a checkpoint's model, tokenizer and harness.json, without what only "
        "training needs.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dtype", default="float16", help="float16, bfloat16 or float32")
    parser.add_argument("--scores", metavar="JSON", default="{}", help="measured scores to note")
    given = parser.parse_args(args)
    from harness_distillation import checkpoint

    try:
        scores = msgspec.json.decode(given.scores, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise ConfigError(f"--scores is not a JSON object: {error}") from None
    checkpoint.export(given.checkpoint, given.out, given.dtype, scores=scores)
    print(given.out, file=sys.stdout)
    return 0

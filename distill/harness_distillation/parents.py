"""Models that a recipe names as ``models/NAME``: those it starts, learns and collects from."""

from __future__ import annotations

import shutil
from pathlib import Path

from harness_agents import checkpoints

from harness.errors import ConfigError
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Recipe
from harness_distillation.recipe_faults import MODELS, references


def missing(recipe: Recipe) -> list[str]:
    """Names of those that are not in ./models."""
    return [name for name in references(recipe) if not (Path(MODELS) / name).is_dir()]


def bring(recipe: Recipe) -> list[str]:
    """Link what ships with the package and is not in ./models; returns its names.

    Raises ConfigError, before anything is linked, for models that are to be trained first.
    """
    wanted = missing(recipe)
    shipped = checkpoints.shipped()
    untrained = [name for name in wanted if name not in shipped]
    if untrained:
        lines = [f"'{recipe.name}' needs {', '.join(MODELS + name for name in untrained)}."]
        known = recipes.shipped()
        lines += [
            f"  Train it first, in this folder: harness distill {name}"
            if name in known
            else f"  {MODELS}{name}: no recipe of that name ships; put its checkpoint there."
            for name in untrained
        ]
        raise ConfigError("\n".join(lines))
    for name in wanted:
        link(Path(MODELS) / name, shipped[name])
    return wanted


def link(place: Path, folder: Path) -> None:
    """``folder`` under another name: a link, or a copy where links cannot be made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)  # a link into another machine's folders
    try:
        place.symlink_to(folder.absolute())
    except FileExistsError:  # another process was as quick
        pass
    except OSError:
        shutil.copytree(folder, place)

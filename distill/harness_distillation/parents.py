"""Models that a recipe names as ``models/NAME``: those it starts, learns and collects from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import uuid4

from harness_agents import checkpoints

from harness.errors import ConfigError
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Recipe
from harness_distillation.recipe_faults import MODELS, references


def missing(recipe: Recipe) -> list[str]:
    """Names of those that are not in ./models."""
    return [name for name in references(recipe) if not (Path(MODELS) / name).is_dir()]


def bring(recipe: Recipe) -> dict[str, str]:
    """Link what is not in ./models from ``$HARNESS_MODELS``, where students are written, else from
    what ships with the package; returns by name what it is.

    Raises ConfigError, before anything is linked, for models that are to be trained first.
    """
    wanted = missing(recipe)
    root, shipped = checkpoints.models_folder(), checkpoints.shipped()
    own = {name: root / name for name in wanted if any((root / name).glob("*.safetensors"))}
    untrained = [name for name in wanted if name not in own and name not in shipped]
    if untrained:
        lines = [f"'{recipe.name}' needs {', '.join(MODELS + name for name in untrained)}."]
        known = recipes.shipped()
        lines += [
            f"  Train it first, in this folder: harness distill {name}"
            if name in known
            else f"  {MODELS}{name}: no recipe of that name ships; put its checkpoint there."
            for name in untrained
        ]
        if os.environ.get("HARNESS_MODELS"):
            lines.append(f"  Looked for in HARNESS_MODELS ({root}), too.")
        raise ConfigError("\n".join(lines))
    for name in wanted:
        link(Path(MODELS) / name, own.get(name) or shipped[name])
    of_package = "the one that comes with the package"
    return {name: f"the one in {root}" if name in own else of_package for name in wanted}


def link(place: Path, folder: Path) -> None:
    """``folder`` under another name: a link, or a copy where links cannot be made. It takes the
    place of another link at once, so that no process that reads there finds none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{uuid4().hex}")
    try:
        draft.symlink_to(folder.absolute())
    except OSError:
        shutil.copytree(folder, draft)
    draft.replace(place)

"""What a training read when: supervised tokens by environment after some steps.

    python tests/bench/schedule.py models/STUDENT [--cache FOLDER] [--steps 400 800 1600]

The order of samples is a pure function of recipe, samples and the teacher's entropies, so it is
replayed, not measured; counts that are not those that the training logged are refused. The same
samples in random order stand beside it. ``--cache`` names the teacher's cache where it is not the
student's own (a campaign's is in shared/cache/KEY).
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler, difficulty
from harness_distillation.dataset import Samples
from harness_distillation.prepare import environments, manifest_of
from rich.console import Console
from rich.table import Table


def entropies(folder: Path) -> np.ndarray | None:
    """Of a cache's shards in order; None where there is no cache."""
    shards = sorted(folder.glob("shard-*.npz"))
    return np.concatenate([np.load(shard)["entropy"] for shard in shards]) if shards else None


def logged(training: Path) -> dict[int, int]:
    """Supervised tokens of each step, as logged."""
    lines = map(msgspec.json.decode, (training / "log.jsonl").read_bytes().splitlines())
    return {x["step"]: sum(v for k, v in x.items() if k.startswith("n_") and k != "n_pairs")
            for x in lines if "loss" in x}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("student", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--steps", type=int, nargs="+", default=[400, 800, 1600])
    given = parser.parse_args()
    training = given.student / "training"
    data = training / "data"
    samples, manifest = Samples.load(data / "samples.npz"), manifest_of(data)
    recipe = msgspec.json.decode((training / "recipe.json").read_bytes(), type=recipes.Recipe)
    learned = np.flatnonzero(~np.isin(samples.episode, manifest.heldout))
    of = environments(manifest, samples)
    if of is None:
        raise SystemExit(f"{data} was prepared before environments were noted.")
    group = np.unique(of, return_inverse=True)[1]
    taught = np.diff(samples.taught)
    entropy = entropies(given.cache or training / "cache")
    table = Table(title=str(given.student), title_justify="left")
    envs = sorted(set(of))
    for heading in ("step", "order", *envs, "all"):
        table.add_column(heading, justify="left" if heading == "order" else "right")
    wanted = logged(training)
    orders = dict.fromkeys(["random", recipe.objective.curriculum or "random"])
    found: dict[tuple[int, str], Counter[str]] = {}
    for name in orders:
        objective = msgspec.structs.replace(recipe.objective, curriculum=name)
        sampler = Sampler(
            samples, learned, objective, recipe.seed, rows=recipe.optim.rows,
            row_tokens=recipe.optim.row_tokens, steps=recipe.optim.steps,
            entropy=None if name == "random" else entropy, group=group,
        )  # fmt: skip
        read: Counter[str] = Counter()
        for step in range(max(given.steps)):
            here = [s for row in sampler.rows(step) for s in row]
            for s in here:
                read[of[s]] += int(taught[s])
            own = name == (recipe.objective.curriculum or "random")
            if own and wanted.get(step + 1, 0) not in (0, sum(int(taught[s]) for s in here)):
                raise SystemExit(f"Step {step + 1} is not as logged: another cache, or recipe.")
            if step + 1 in given.steps:
                found[step + 1, name] = read.copy()
    for step in given.steps:
        for name in orders:
            counts = found[step, name]
            cells = [f"{counts[env]:,}" for env in envs]
            table.add_row(str(step), name, *cells, f"{counts.total():,}")
    Console().print(table)
    if recipe.objective.curriculum not in (None, "random"):
        score = difficulty(samples, recipe.objective, entropy, group)
        within = sum(score[np.array(of) == env].var() * of.count(env) for env in envs)
        share = 1 - within / (len(score) * score.var())
        print(f"Of the variance of difficulty {100 * share:.0f} % is between environments.")


if __name__ == "__main__":
    main()

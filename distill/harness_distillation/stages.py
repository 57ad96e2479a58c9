"""From a recipe to a checkpoint in stages, each skipped when its inputs are unchanged.

collect -> prepare (traces, tokenizer, samples) -> cache (teacher) -> train

OUT/                    the finished student: weights, tokenizer, harness.json
OUT/training/traces/    runs collected for the recipe
OUT/training/data/      tokenizer, samples, manifest
OUT/training/cache/     the teacher's distributions
OUT/training/           checkpoints/, log.jsonl, recipe.json

Students that are compared share traces and teacher's distributions: ``shared`` holds both for all
of them: who needs them makes them, several divide the work, and what another one is making is
waited for.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from harness import api
from harness.errors import ConfigError
from harness_distillation import checkpoint, models, ranks, teacher_cache, tokenizer, traces
from harness_distillation.dataset import Samples
from harness_distillation.gkd import train_on_policy
from harness_distillation.locks import alone
from harness_distillation.machine import CPU, device_of, precision_of
from harness_distillation.minillm import train_minillm
from harness_distillation.prepare import (
    RECIPE,
    Prepared,
    Workplace,
    digest,
    prepare,
    say,
    tokenizer_origin,
    write,
)
from harness_distillation.recipe import Collect, Dev, OnPolicy, Recipe, recipe_hash
from harness_distillation.supervision import shuffle_labels
from harness_distillation.trackers import check_trackers
from harness_distillation.train import Corpus, Result, train

STAGES = ("collect", "prepare", "cache", "train")


def distill(
    recipe: Recipe,
    out: Path,
    *,
    fresh: bool = False,
    until: str = "train",
    quiet: bool = False,
    shared: Path | None = None,
    device: str | None = None,
    trackers: Sequence[str] = (),
) -> Result | None:
    """Run the stages up to ``until``; None when that is before training.

    ``fresh`` starts again: checkpoints, samples and cache of an earlier go are deleted (traces
    and what is ``shared`` stay). Without it everything finished is reused and a stopped training
    goes on. ``device``: "cpu", "cuda" ...; None: an accelerator where there is one. ``trackers``
    are sent the log.
    """
    place = Workplace(out, shared)
    here = device_of(device)
    check_trackers(trackers, recipe)
    us = ranks.current()
    if recipe.on_policy is not None:
        return _on_policy(recipe, recipe.on_policy, place, us, fresh, until, quiet, here)
    with us.first_alone():
        if fresh and us.first:
            for name in ("data", "cache", "checkpoints", "minillm", "start"):
                shutil.rmtree(place.training / name, ignore_errors=True)
            for name in ("log.jsonl", "dev.jsonl", "minillm.jsonl"):
                (place.training / name).unlink(missing_ok=True)
            shutil.rmtree(place.training / "dev", ignore_errors=True)
        place.training.mkdir(parents=True, exist_ok=True)
        runs = [*recipe.data.runs]
        runs += [str(run) for run in collect_all(recipe.data.collect, place.traces, quiet)]
        if until == "collect":
            return None
        if us.first:
            write(place.training / RECIPE, recipe)
        tok, samples, prepared = prepare(recipe, runs, place, quiet)
        if recipe.dev is not None:
            traces.guard(prepared.tasks, [_dev_set(recipe.dev)])
        if until == "prepare":
            return None
        teacher = load_teacher(recipe, tok, here)
        cache = entropy = None
        if recipe.teacher is not None and teacher is not None:
            how = recipe.teacher
            if how.signal == "cache":
                cache = cached_teacher(
                    recipe, teacher, tok, samples, place, quiet, how.top_k, how.min_mass
                )
            elif recipe.objective.weighs_entropy:
                # All that the curriculum asks of a live teacher beforehand: entropies are exact
                # whatever the top k.
                entropy = cached_teacher(recipe, teacher, tok, samples, place, quiet, 1, 0).entropy
        if until == "cache":
            return None
        notes = provenance(recipe, prepared, teacher, here)
    learn, held = _sides(samples, prepared)
    if recipe.objective.name == "minillm":
        if us.size > 1:
            raise ConfigError("Objective 'minillm' is trained by TRL: start it in one process.")
        result = train_minillm(
            recipe, samples, learn, tok, place.training, notes, quiet=quiet, device=here
        )
        checkpoint.write_model(out, models.load(result.checkpoint), tok, notes)
        return result
    if recipe.objective.masks == "label_shuffle":
        classes = tokenizer.class_of(recipe.objective.format or "span")
        samples = shuffle_labels(samples, classes, learn, recipe.seed)
    pairs = Samples.load(place.data / "pairs.npz") if prepared.pairs else None
    corpus = Corpus(samples, learn, held, prepared.samples, pairs)
    live = teacher if recipe.teacher is not None and recipe.teacher.signal == "live" else None
    del teacher  # cached, it need not stay in the device's memory
    result = train(
        recipe, recipe_hash(recipe), corpus, tok, place.training, notes,
        cache=cache, teacher=live, entropy=entropy, ranks=us, quiet=quiet, device=here,
        trackers=trackers,
    )  # fmt: skip
    if result.reason == "finished" and us.first:
        checkpoint.write_model(out, models.load(result.checkpoint), tok, notes)
    return result


def _on_policy(
    recipe: Recipe, play: OnPolicy, place: Workplace, us: ranks.Ranks, fresh: bool, until: str,
    quiet: bool, here: torch.device,
) -> Result | None:  # fmt: skip
    """Objective ``gkd``: no traces and no cache, the student's own episodes round by round."""
    if us.size > 1:
        raise ConfigError("Objective 'gkd' plays between its steps: train it in one process.")
    if fresh:
        shutil.rmtree(place.training, ignore_errors=True)
    if until != "train":
        return None
    place.training.mkdir(parents=True, exist_ok=True)
    tok = tokenizer.load(tokenizer_origin(recipe) or "")
    teacher = load_teacher(recipe, tok, here)
    notes = {
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
        "recipe": msgspec.to_builtins(recipe),
        "recipe_hash": recipe_hash(recipe),
        "parents": {"teacher": models.weights_hash(teacher)},
        "tokenizer": tokenizer.fingerprint(tok),
        "machine": _machine(recipe, here),
        "scores": {},
    }
    write(place.training / RECIPE, recipe)
    result = train_on_policy(recipe, play, place.training, notes, teacher, tok, quiet=quiet,
                             device=here)  # fmt: skip
    if result.reason == "finished":
        checkpoint.write_model(place.out, models.load(result.checkpoint), tok, notes)
    return result


def collect_all(wanted: Sequence[Collect], out: Path, quiet: bool) -> list[Path]:
    """Record what a recipe asks for, each once; a stopped recording goes on. Processes that want
    the same divide it among them: what another one is recording comes last, and is waited for."""
    for what in wanted:
        with suppress(BlockingIOError):
            collect(what, out, quiet, wait=False)
    return [collect(what, out, quiet) for what in wanted]


def collect(what: Collect, out: Path, quiet: bool, wait: bool = True) -> Path:
    """One recording. Raises BlockingIOError where another process makes it and ``wait`` is off."""
    name = hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:12]
    if runs := _recorded(out / name):
        run = api.load(runs[-1])
        if run.meta.status == "complete":  # may stand where nothing can be written
            return Path(run.path)
    with alone(out / name, wait):
        return _collect(what, out / name, quiet)


def _recorded(root: Path) -> list[Path]:
    return sorted(p.parent for p in root.glob("*/*/*/run.json") if "reference-" not in str(p))


def _collect(what: Collect, root: Path, quiet: bool) -> Path:
    if runs := _recorded(root):
        run = api.load(runs[-1])
        if run.meta.status != "complete":
            run = api.resume(runs[-1])
        return Path(run.path)
    say(quiet, f"collecting {what.tasks or 'the default tasks'} of {what.env} with {what.agent}")
    run = api.evaluate(
        what.agent, what.env, tasks=what.tasks, out=root, kind="collect",
        seeds=range(what.seeds), attempts=what.attempts, max_steps=what.max_steps,
        error_rate=what.error_rate,
        errors_from=what.errors_from, env_options=dict(what.env_options),
    )  # fmt: skip
    return Path(run.path)


def _dev_set(dev: Dev) -> str:
    return dev.tasks if dev.tasks.startswith(f"{dev.env}/") else f"{dev.env}/{dev.tasks}"


def _sides(samples: Samples, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Sequences that train, and those of held-out episodes."""
    held = np.isin(samples.episode, np.array(prepared.heldout, dtype=np.int64))
    return np.flatnonzero(~held), np.flatnonzero(held)


def load_teacher(recipe: Recipe, tok: Any, device: torch.device = CPU) -> Any:
    """The teacher model on ``device``, or None; refuses one with another tokenizer, and for an
    objective over observations one that has not learned them."""
    if recipe.teacher is None or recipe.objective.divergence == "ce":
        return None
    folder = recipe.teacher.checkpoint
    if recipe.objective.obs_weight and not models.knows_observations(folder):
        raise ConfigError(
            f"Teacher {folder} was not trained on observations (its harness.json does not say "
            f"{models.OBSERVATIONS} = true): its distributions there are noise, and matching them "
            "would be a straw man.\n"
            "  Train a teacher with [objective] obs_weight, or leave observations out (kd)."
        )
    teacher = models.load(folder)
    mine, theirs = tokenizer.fingerprint(tok), tokenizer.fingerprint(tokenizer.load(folder))
    if mine != theirs:
        raise ConfigError(
            f"Teacher {folder} has another tokenizer ({theirs}) than the student ({mine}): their "
            "distributions cannot be compared.\n  Use its tokenizer ([tokenizer] start), or train "
            "on its text (objective seqkd)."
        )
    return teacher.to(device)


def cached_teacher(
    recipe: Recipe, teacher: Any, tok: Any, samples: Samples, place: Workplace, quiet: bool,
    top_k: int, min_mass: float,
) -> teacher_cache.Cache:  # fmt: skip
    """The teacher cache of a recipe: loaded when finished and fitting, else computed."""
    device = models.device_of(teacher)
    precision = precision_of(recipe.optim.precision, device)
    key = teacher_cache.Key(
        samples.hash,
        tokenizer.fingerprint(tok),
        digest(recipe.data.header, recipe.student.window, recipe.max_new_tokens),
        models.weights_hash(teacher),
        top_k,
        precision,
    )

    def progress(done: int, total: int) -> None:
        say(quiet, f"teacher cache {done}/{total} sequences")

    models.isolate_documents(teacher, device)
    folder = place.cache(key)
    # A folder of one student may be asked for under another key meanwhile.
    with nullcontext() if place.shared is not None else alone(folder):
        if not (folder / teacher_cache.MANIFEST).is_file():
            teacher_cache.build(
                folder, teacher, samples, key,
                pad=tok.pad_token_id, entries=len(tok), row_tokens=recipe.optim.row_tokens,
                precision=precision, progress=progress,
            )  # fmt: skip
    return teacher_cache.load(folder, key, min_mass=min_mass)


def provenance(
    recipe: Recipe, prepared: Prepared, teacher: Any, device: torch.device = CPU
) -> dict[str, Any]:
    """harness.json: how to ask the student, and what it comes from."""
    return {
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
        "recipe": msgspec.to_builtins(recipe),
        "recipe_hash": recipe_hash(recipe),
        "parents": {
            "runs": [s.sha256 for s in prepared.sources],
            "traces": prepared.traces,
            "samples": prepared.samples,
            "teacher": models.weights_hash(teacher) if teacher is not None else None,
        },
        "tokenizer": prepared.tokenizer,
        models.OBSERVATIONS: bool(recipe.objective.obs_weight),
        "reason_to_act": prepared.reason_to_act,
        "packages": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
        "machine": _machine(recipe, device),
        "scores": {},
    }


def _machine(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """What it is trained on, for harness.json: device and the precision of its products."""
    return {"device": device.type, "precision": precision_of(recipe.optim.precision, device)}

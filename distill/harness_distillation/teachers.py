"""A recipe's teacher: its model, and what it says of the samples, computed once and kept."""

from __future__ import annotations

from typing import Any

import torch

from harness.errors import ConfigError
from harness_distillation import chunks, likelihoods, models, teacher_cache, tokenizer
from harness_distillation.dataset import Samples
from harness_distillation.machine import CPU, precision_of
from harness_distillation.prepare import Workplace, digest, say, teacher_tokenizer
from harness_distillation.recipe import Recipe
from harness_distillation.shards import MANIFEST


def load_teacher(recipe: Recipe, tok: Any, device: torch.device = CPU) -> Any:
    """The teacher model on ``device``, or None; refuses one with another tokenizer unless chunks
    are matched, and for an objective over observations one that has not learned them."""
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
    if mine != theirs and recipe.objective.divergence != "alm":
        raise ConfigError(
            f"Teacher {folder} has another tokenizer ({theirs}) than the student ({mine}): their "
            "distributions cannot be compared.\n  Use its tokenizer ([tokenizer] start), match "
            'likelihoods of chunks ([objective] divergence = "alm"), or train on its text '
            "(objective seqkd or sad_ce)."
        )
    return teacher.to(device)


def cached_teacher(
    recipe: Recipe, teacher: Any, tok: Any, samples: Samples, place: Workplace, quiet: bool,
    top_k: int, min_mass: float, temperature: float = 1.0,
) -> teacher_cache.Cache:  # fmt: skip
    """The teacher cache of a recipe: loaded when finished and fitting, else computed."""
    device = models.device_of(teacher)
    precision = precision_of(recipe.optim.precision, device)
    # Distributions were once taken over an embedding's padding too.
    padded = teacher.get_output_embeddings().out_features > len(tok)
    key = teacher_cache.Key(
        samples.hash,
        tokenizer.fingerprint(tok),
        digest(
            recipe.data.header,
            recipe.student.window,
            recipe.max_new_tokens,
            *(["entries"] if padded else []),
        ),
        models.weights_hash(teacher),
        top_k,
        precision,
        temperature,
        models.config_hash(teacher),
    )

    def progress(done: int, total: int) -> None:
        say(quiet, f"teacher cache {done}/{total} sequences")

    models.isolate_documents(teacher, device)
    folder = place.cache(key)
    if not (folder / MANIFEST).is_file():
        teacher_cache.build(
            folder, teacher, samples, key,
            pad=tok.pad_token_id, entries=len(tok), row_tokens=recipe.optim.row_tokens,
            precision=precision, progress=progress,
        )  # fmt: skip
    return teacher_cache.load(folder, key, min_mass=min_mass)


def cached_likelihoods(
    recipe: Recipe, teacher: Any, tok: Any, samples: Samples, place: Workplace, quiet: bool
) -> likelihoods.Likelihoods:
    """What the teacher says of each chunk: loaded when finished and fitting, else computed."""
    device = models.device_of(teacher)
    precision = precision_of(recipe.optim.precision, device)
    other, theirs = teacher_tokenizer(recipe), Samples.load(place.data / "teacher.npz")
    matched = chunks.align(samples, theirs, tok, other)
    key = likelihoods.Key(
        samples.hash,
        tokenizer.fingerprint(tok),
        digest(recipe.data.header, recipe.student.window, recipe.max_new_tokens),
        models.weights_hash(teacher),
        theirs.hash,
        tokenizer.fingerprint(other),
        precision,
        models.config_hash(teacher),
    )

    def progress(done: int, total: int) -> None:
        say(quiet, f"teacher's likelihoods {done}/{total} sequences")

    models.isolate_documents(teacher, device)
    folder = place.cache(key, "likelihoods")
    if not (folder / MANIFEST).is_file():
        likelihoods.build(
            folder, teacher, theirs, matched, key,
            pad=other.pad_token_id, entries=len(other), row_tokens=recipe.optim.row_tokens,
            precision=precision, progress=progress,
        )  # fmt: skip
    return likelihoods.load(folder, key, samples, matched)

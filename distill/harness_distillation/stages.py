"""From a recipe to a checkpoint in stages, each skipped when its inputs are unchanged.

collect -> prepare (traces, tokenizer, samples) -> cache (teacher) -> train

OUT/                    the finished student: weights, tokenizer, harness.json
OUT/training/traces/    runs collected for the recipe
OUT/training/data/      tokenizer, samples, manifest
OUT/training/cache/     the teacher's distributions
OUT/training/           checkpoints/, log.jsonl, recipe.json

Students that are compared share traces and teacher's distributions: ``shared`` holds both for all
of them, whoever needs them first makes them and the others wait.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from harness import api
from harness.errors import ConfigError
from harness.rows import group
from harness.transcript import Kind
from harness.types import Episode
from harness_distillation import checkpoint, models, ranks, teacher_cache, tokenizer, traces
from harness_distillation.contrast import pair_up
from harness_distillation.dataset import Samples, encode
from harness_distillation.gkd import train_on_policy
from harness_distillation.recipe import Collect, Dev, OnPolicy, Recipe, plain, recipe_hash
from harness_distillation.supervision import random_spans, shuffle_labels
from harness_distillation.traces import Source
from harness_distillation.train import Corpus, Result, train

STAGES = ("collect", "prepare", "cache", "train")


class Prepared(msgspec.Struct, frozen=True):
    """data/manifest.json: what the samples are made of. ``key`` hashes every input."""

    key: str
    samples: str
    traces: str
    tokenizer: str
    sources: tuple[Source, ...]
    #: Episodes left out, and why.
    dropped: dict[str, int]
    episodes: int
    sequences: int
    tokens: int
    #: Tokens by segment kind, taught once each; N_r : N_a with their format tokens.
    kinds: dict[str, int]
    reason_to_act: float
    #: Decisions not taught: after an observation that overflows the window; longer than it.
    overflow: int
    too_long: int
    #: Share of tokens that tokenising whole texts would give otherwise (200 episodes).
    whole_text_difference: float
    #: Indices of the episodes held out; the others train.
    heldout: tuple[int, ...]
    tasks: tuple[tuple[str, str], ...]
    #: Won and lost episodes of one task, for the contrastive term.
    pairs: int = 0


class Workplace(NamedTuple):
    """The folders of one student; ``shared`` is several students'."""

    out: Path
    shared: Path | None = None

    @property
    def training(self) -> Path:
        return self.out / "training"

    @property
    def data(self) -> Path:
        return self.training / "data"

    @property
    def traces(self) -> Path:
        return (self.shared or self.training) / "traces"

    def cache(self, key: teacher_cache.Key) -> Path:
        """Where the distributions under ``key`` lie; a student of its own has one cache."""
        return (
            self.training / "cache" if self.shared is None else self.shared / "cache" / _hash(key)
        )


def distill(
    recipe: Recipe,
    out: Path,
    *,
    fresh: bool = False,
    until: str = "train",
    quiet: bool = False,
    shared: Path | None = None,
) -> Result | None:
    """Run the stages up to ``until``; None when that is before training.

    ``fresh`` starts again: checkpoints, samples and cache of an earlier go are deleted (traces
    and what is ``shared`` stay). Without it everything finished is reused and a stopped training
    goes on.
    """
    place = Workplace(out, shared)
    us = ranks.current()
    if recipe.on_policy is not None:
        return _on_policy(recipe, recipe.on_policy, place, us, fresh, until, quiet)
    with us.first_alone():
        if fresh and us.first:
            for name in ("data", "cache", "checkpoints"):
                shutil.rmtree(place.training / name, ignore_errors=True)
            for name in ("log.jsonl", "dev.jsonl"):
                (place.training / name).unlink(missing_ok=True)
            shutil.rmtree(place.training / "dev", ignore_errors=True)
        place.training.mkdir(parents=True, exist_ok=True)
        runs = [*recipe.data.runs]
        runs += [str(collect(c, place.traces, quiet)) for c in recipe.data.collect]
        if until == "collect":
            return None
        tok, samples, prepared = prepare(recipe, runs, place, quiet)
        if recipe.dev is not None:
            traces.guard(prepared.tasks, [_dev_set(recipe.dev)])
        if until == "prepare":
            return None
        teacher = load_teacher(recipe, tok)
        cache = None
        if recipe.teacher is not None and recipe.teacher.signal == "cache":
            cache = cached_teacher(recipe, teacher, tok, samples, place, quiet)
        if until == "cache":
            return None
        notes = provenance(recipe, prepared, teacher)
        if us.first:
            _write(place.training / "recipe.json", recipe)
    learn, held = _sides(samples, prepared)
    if recipe.objective.masks == "label_shuffle":
        classes = tokenizer.class_of(recipe.objective.format or "span")
        samples = shuffle_labels(samples, classes, learn, recipe.seed)
    pairs = Samples.load(place.data / "pairs.npz") if prepared.pairs else None
    corpus = Corpus(samples, learn, held, prepared.samples, pairs)
    live = teacher if recipe.teacher is not None and recipe.teacher.signal == "live" else None
    result = train(
        recipe, recipe_hash(recipe), corpus, tok, place.training, notes,
        cache=cache, teacher=live, ranks=us, quiet=quiet,
    )  # fmt: skip
    if result.reason == "finished" and us.first:
        checkpoint.write_model(out, models.load(result.checkpoint), tok, notes)
    return result


def _on_policy(
    recipe: Recipe, play: OnPolicy, place: Workplace, us: ranks.Ranks, fresh: bool, until: str,
    quiet: bool,
) -> Result | None:  # fmt: skip
    """Objective ``gkd``: no traces and no cache, the student's own episodes round by round."""
    if us.size > 1:
        raise ConfigError("Objective 'gkd' plays between its steps: train it in one process.")
    if fresh:
        shutil.rmtree(place.training, ignore_errors=True)
    if until != "train":
        return None
    place.training.mkdir(parents=True, exist_ok=True)
    tok = tokenizer.load(_tokenizer_origin(recipe) or "")
    teacher = load_teacher(recipe, tok)
    notes = {
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
        "recipe": msgspec.to_builtins(recipe),
        "recipe_hash": recipe_hash(recipe),
        "parents": {"teacher": models.weights_hash(teacher)},
        "tokenizer": tokenizer.fingerprint(tok),
        "scores": {},
    }
    _write(place.training / "recipe.json", recipe)
    result = train_on_policy(recipe, play, place.training, notes, teacher, tok, quiet=quiet)
    if result.reason == "finished":
        checkpoint.write_model(place.out, models.load(result.checkpoint), tok, notes)
    return result


def collect(what: Collect, out: Path, quiet: bool) -> Path:
    """Record what a recipe asks for, once; a stopped recording goes on."""
    name = hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:12]
    with _alone(out / name):
        return _collect(what, out / name, quiet)


def _collect(what: Collect, root: Path, quiet: bool) -> Path:
    runs = sorted(p.parent for p in root.glob("*/*/*/run.json") if "reference-" not in str(p))
    if runs:
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


def prepare(
    recipe: Recipe, runs: list[str], place: Workplace, quiet: bool
) -> tuple[Any, Samples, Prepared]:
    """Traces, tokenizer and samples; from disk when nothing they depend on has changed."""
    origin = _tokenizer_origin(recipe)
    objective = recipe.objective
    observations = bool(objective.obs_weight)
    moved = [objective.masks, objective.format] if objective.masks == "random_span" else []
    key = _hash(
        [traces.file_sha256(traces.episodes_file(run)) for run in runs],
        {**plain(recipe)["data"], "runs": [], "collect": []},
        plain(recipe)["tokenizer"],
        tokenizer.fingerprint(tokenizer.load(origin)) if origin else None,
        [recipe.student.window, recipe.max_new_tokens, recipe.seed],
        *([observations] if observations else []),
        *moved,
        *(["pairs"] if objective.contrastive else []),
    )
    manifest = place.data / "manifest.json"
    if manifest.is_file():
        prepared = msgspec.json.decode(manifest.read_bytes(), type=Prepared)
        if prepared.key == key:
            say(quiet, f"prepared already: {prepared.episodes} episodes, {prepared.tokens} tokens")
            samples = Samples.load(place.data / "samples.npz")
            return tokenizer.load(place.data / "tokenizer"), samples, prepared
    found = traces.load(
        runs,
        successes_only=recipe.data.successes_only,
        limit=recipe.data.limit,
        exclude=recipe.data.exclude,
    )
    learn, held = traces.split_heldout(found.episodes, recipe.data.heldout, recipe.seed)
    tok = tokenizer.load(origin) if origin else None
    if tok is None or recipe.tokenizer.extend:
        own, header = [found.episodes[i] for i in learn], recipe.data.header
        tok = (
            tokenizer.extend(tok, own, header, recipe.tokenizer.vocab)
            if tok
            else tokenizer.train(own, header, recipe.tokenizer.vocab)
        )
    shutil.rmtree(place.data, ignore_errors=True)
    place.data.mkdir(parents=True)
    tok.save_pretrained(place.data / "tokenizer")
    tok = tokenizer.load(place.data / "tokenizer")
    encoder = tokenizer.SegmentEncoder(tok)
    samples, skipped = encode(
        found.episodes, encoder, recipe.data.header, recipe.student.window, recipe.max_new_tokens,
        per_step=recipe.data.samples == "step", truncate=recipe.data.paper_truncate,
        observations=observations,
    )  # fmt: skip
    if moved:
        headers = [
            recipe.data.header.replace("{instruction}", e.instruction) for e in found.episodes
        ]
        prompts = np.array([len(encoder.encode(h)) for h in headers])[samples.episode]
        taught = np.flatnonzero(~np.isin(samples.episode, held))
        classes = tokenizer.class_of(objective.format or "span")
        samples = random_spans(samples, classes, prompts, taught, recipe.seed)
    samples.save(place.data / "samples.npz")
    paired = []
    if objective.contrastive:
        away = {group(*_task(found.episodes[i])) for i in held}
        every = traces.load(runs, successes_only=False, exclude=recipe.data.exclude).episodes
        paired = pair_up([e for e in every if group(*_task(e)) not in away])
        if paired:
            encode(
                paired, encoder, recipe.data.header, recipe.student.window, recipe.max_new_tokens
            )[0].save(place.data / "pairs.npz")
    kinds = {kind.name.lower(): int(np.sum(samples.kinds == kind)) for kind in Kind}
    if observations:
        kinds["observation"] = int(np.sum(samples.kinds == tokenizer.OBSERVED))
    prepared = Prepared(
        key=key,
        samples=samples.hash,
        traces=found.hash,
        tokenizer=tokenizer.fingerprint(tok),
        sources=found.sources,
        dropped=found.dropped,
        episodes=len(found.episodes),
        sequences=len(samples.lengths),
        tokens=len(samples.ids),
        kinds=kinds,
        reason_to_act=(kinds["reason"] + kinds["reason_format"])
        / max(1, kinds["act"] + kinds["act_format"]),
        overflow=skipped.overflow,
        too_long=skipped.too_long,
        whole_text_difference=tokenizer.whole_text_difference(
            encoder, found.episodes[:200], recipe.data.header
        ),
        heldout=tuple(held),
        tasks=tuple(found.tasks()),
        pairs=len(paired) // 2,
    )
    _write(manifest, prepared)
    say(
        quiet,
        f"prepared {prepared.episodes} episodes ({len(held)} held out), {prepared.tokens} tokens "
        f"({prepared.tokens / prepared.sequences:.0f} a sequence), vocabulary {len(tok)}, "
        f"N_r : N_a = {prepared.reason_to_act:.2f}, left out {prepared.dropped or 'none'}",
    )
    return tok, samples, prepared


def _dev_set(dev: Dev) -> str:
    return dev.tasks if dev.tasks.startswith(f"{dev.env}/") else f"{dev.env}/{dev.tasks}"


def _task(episode: Episode) -> tuple[str, str]:
    return episode.task.env, episode.task.id


def _sides(samples: Samples, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Sequences that train, and those of held-out episodes."""
    held = np.isin(samples.episode, np.array(prepared.heldout, dtype=np.int64))
    return np.flatnonzero(~held), np.flatnonzero(held)


def _tokenizer_origin(recipe: Recipe) -> str | None:
    """Folder whose tokenizer is used or extended; None: train one."""
    if recipe.tokenizer.start or recipe.tokenizer.extend:
        return recipe.tokenizer.start or recipe.tokenizer.extend
    if recipe.student.start is not None:
        return recipe.student.start
    return recipe.teacher.checkpoint if recipe.teacher is not None else None


def load_teacher(recipe: Recipe, tok: Any) -> Any:
    """The teacher model, or None; refuses one with another tokenizer, and for an objective over
    observations one that has not learned them."""
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
    return teacher


def cached_teacher(
    recipe: Recipe, teacher: Any, tok: Any, samples: Samples, place: Workplace, quiet: bool
) -> teacher_cache.Cache | None:
    """The teacher cache of a recipe: loaded when finished and fitting, else computed."""
    if teacher is None or recipe.teacher is None:
        return None
    key = teacher_cache.Key(
        samples.hash,
        tokenizer.fingerprint(tok),
        _hash(recipe.data.header, recipe.student.window, recipe.max_new_tokens),
        models.weights_hash(teacher),
        recipe.teacher.top_k,
    )

    def progress(done: int, total: int) -> None:
        say(quiet, f"teacher cache {done}/{total} sequences")

    models.isolate_documents(teacher, next(teacher.parameters()).device)
    folder = place.cache(key)
    with _alone(folder):
        if not (folder / teacher_cache.MANIFEST).is_file():
            teacher_cache.build(
                folder, teacher, samples, key,
                pad=tok.pad_token_id, row_tokens=recipe.optim.row_tokens,
                bf16=recipe.optim.precision == "bf16", progress=progress,
            )  # fmt: skip
    return teacher_cache.load(folder, key, min_mass=recipe.teacher.min_mass)


def provenance(recipe: Recipe, prepared: Prepared, teacher: Any) -> dict[str, Any]:
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
        "scores": {},
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes ``folder`` meanwhile; waits for who does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def _write(path: Path, value: Any) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    draft.replace(path)

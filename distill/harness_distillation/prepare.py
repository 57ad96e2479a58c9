"""The stage before any model: recorded runs become a tokenizer and labelled samples.

training/data/manifest.json    what they are made of (``Prepared``)
training/data/tokenizer/
training/data/samples.npz      pairs.npz for the contrastive term, teacher.npz (the same in the
                               teacher's tokens) for likelihood matching
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from harness.rows import group
from harness.transcript import Kind
from harness.types import Episode
from harness_distillation import chunks, tokenizer, traces
from harness_distillation.contrast import pair_up
from harness_distillation.dataset import Samples, encode, encode_both
from harness_distillation.recipe import Recipe, plain
from harness_distillation.supervision import random_spans
from harness_distillation.traces import Source

#: The resolved recipe, in a student's training folder.
RECIPE = "recipe.json"


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
    #: Tokens by segment kind, taught once each; N_r : N_a with their format tokens, in tokens or,
    #: where likelihoods are matched, in chunks.
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
    #: Chunks of the text that student's and teacher's tokenizers both see, for likelihood matching.
    chunks: int = 0


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

    def cache(self, key: msgspec.Struct, name: str = "cache") -> Path:
        """Where what a teacher says under ``key`` lies; a student of its own has one folder."""
        return self.training / name if self.shared is None else self.shared / "cache" / digest(key)


def prepare(
    recipe: Recipe, runs: list[str], place: Workplace, quiet: bool
) -> tuple[Any, Samples, Prepared]:
    """Traces, tokenizer and samples; from disk when nothing they depend on has changed."""
    origin = tokenizer_origin(recipe)
    objective = recipe.objective
    observations = bool(objective.obs_weight)
    other = teacher_tokenizer(recipe)
    moved = [objective.masks, objective.format] if objective.masks == "random_span" else []
    key = digest(
        [traces.file_sha256(traces.episodes_file(run)) for run in runs],
        {**plain(recipe)["data"], "runs": [], "collect": []},
        plain(recipe)["tokenizer"],
        tokenizer.fingerprint(tokenizer.load(origin)) if origin else None,
        [recipe.student.window, recipe.max_new_tokens, recipe.seed],
        *([observations] if observations else []),
        *moved,
        *(["pairs"] if objective.contrastive else []),
        *(["chunks", tokenizer.fingerprint(other)] if other else []),
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
    per_step = recipe.data.samples == "step"
    counted = None
    if other:
        samples, theirs, skipped = encode_both(
            found.episodes, encoder, tokenizer.SegmentEncoder(other), recipe.data.header,
            recipe.student.window, recipe.max_new_tokens,
            per_step=per_step, observations=observations,
        )  # fmt: skip
        counted = chunks.first_tokens(samples, chunks.align(samples, theirs, tok, other).mine)
        theirs.save(place.data / "teacher.npz")
    else:
        samples, skipped = encode(
            found.episodes, encoder, recipe.data.header, recipe.student.window,
            recipe.max_new_tokens, per_step=per_step, truncate=recipe.data.paper_truncate,
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
    reason, act = (
        int(np.isin((counted or samples).kinds, span).sum())
        for span in ((Kind.REASON, Kind.REASON_FORMAT), (Kind.ACT, Kind.ACT_FORMAT))
    )
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
        reason_to_act=reason / max(1, act),
        overflow=skipped.overflow,
        too_long=skipped.too_long,
        whole_text_difference=tokenizer.whole_text_difference(
            encoder, found.episodes[:200], recipe.data.header
        ),
        heldout=tuple(held),
        tasks=tuple(dict.fromkeys([*found.tasks(), *map(_task, paired)])),
        pairs=len(paired) // 2,
        chunks=int(counted.taught[-1]) if counted else 0,
    )
    write(manifest, prepared)
    say(
        quiet,
        f"prepared {prepared.episodes} episodes ({len(held)} held out), {prepared.tokens} tokens "
        f"({prepared.tokens / prepared.sequences:.0f} a sequence), vocabulary {len(tok)}, "
        f"N_r : N_a = {prepared.reason_to_act:.2f}, left out {prepared.dropped or 'none'}",
    )
    return tok, samples, prepared


def _task(episode: Episode) -> tuple[str, str]:
    return episode.task.env, episode.task.id


def tokenizer_origin(recipe: Recipe) -> str | None:
    """Folder whose tokenizer is used or extended; None: train one."""
    if recipe.tokenizer.start or recipe.tokenizer.extend:
        return recipe.tokenizer.start or recipe.tokenizer.extend
    if recipe.student.start is not None:
        return recipe.student.start
    if recipe.objective.divergence == "alm":
        return None
    return recipe.teacher.checkpoint if recipe.teacher is not None else None


def teacher_tokenizer(recipe: Recipe) -> Any:
    """The teacher's tokenizer where its likelihoods are matched, else None."""
    if recipe.objective.divergence != "alm" or recipe.teacher is None:
        return None
    return tokenizer.load(recipe.teacher.checkpoint)


def say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr, flush=True)


def digest(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def write(path: Path, value: Any) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    draft.replace(path)

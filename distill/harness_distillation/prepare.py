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
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from harness.errors import DataError
from harness.rows import draw, group
from harness.transcript import Kind
from harness.types import Episode
from harness_distillation import chunks, tokenizer, traces
from harness_distillation.checkpoint import Begun, file_sha256
from harness_distillation.contrast import pair_up
from harness_distillation.dataset import Samples, encode, encode_both
from harness_distillation.recipe import Format, Recipe, plain, recipe_hash
from harness_distillation.supervision import random_spans
from harness_distillation.traces import Source

#: The resolved recipe, in a student's training folder.
RECIPE = "recipe.json"
MANIFEST, SAMPLES = "manifest.json", "samples.npz"


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
    #: Environments of the episodes in their order, each with how many follow one another; none
    #: where it was prepared before they were noted.
    environments: tuple[tuple[str, int], ...] = ()
    #: Won and lost episodes of one task, for the contrastive term; harness.json says how many of
    #: them fit a row and are read.
    pairs: int = 0
    #: Chunks of the text that student's and teacher's tokenizers both see, for likelihood matching.
    chunks: int = 0
    #: sha256 of every other file; none where it was prepared before they were noted.
    files: dict[str, str] = {}


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
        """Where what a teacher says under ``key`` lies; a student of its own has one folder. The
        teacher's config has no part in the name: what was made before it was noted is found."""
        if self.shared is None:
            return self.training / name
        return self.shared / "cache" / digest(msgspec.structs.replace(key, config=""))


def prepare(
    recipe: Recipe, runs: list[str], place: Workplace, quiet: bool, begun: Begun | None = None
) -> tuple[Any, Samples, Prepared]:
    """Traces, tokenizer and samples; from disk when nothing they depend on has changed.

    What is damaged there is made again. Raises DataError where other samples come of it than those
    that a training was ``begun`` with, which are left as they are.
    """
    origin = recipe.tokenizer_origin
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
        *(["cut"] if objective.contrastive and recipe.data.paper_truncate else []),
        *(["chunks", tokenizer.fingerprint(other)] if other else []),
    )
    if (kept := _kept(place.data, key, quiet)) is not None:
        prepared = kept[2]
        say(quiet, f"prepared already: {prepared.episodes} episodes, {prepared.tokens} tokens")
        return kept
    with _instead_of(place.data) as data:
        prepared = _make(recipe, runs, data, key)
        if begun is not None:
            pairs = Samples.load(data / "pairs.npz") if prepared.pairs else None
            begun.check(recipe_hash(recipe), whole_hash(prepared, pairs))
    tok, samples = tokenizer.load(place.data / "tokenizer"), Samples.load(place.data / SAMPLES)
    ratio = reason_to_act(prepared, recipe.objective.format)
    say(
        quiet,
        f"prepared {prepared.episodes} episodes ({len(prepared.heldout)} held out), "
        f"{prepared.tokens} tokens ({prepared.tokens / prepared.sequences:.0f} a sequence), "
        f"vocabulary {len(tok)}, N_r : N_a = {'none' if ratio is None else f'{ratio:.2f}'}, "
        f"left out {_left_out(prepared)}",
    )
    return tok, samples, prepared


def _left_out(prepared: Prepared) -> str:
    """Episodes by why, and decisions of the others that are not taught."""
    told = {
        **prepared.dropped,
        "decisions after an observation that overflows the window": prepared.overflow,
        "decisions too long for it": prepared.too_long,
    }
    return ", ".join(f"{n} {what}" for what, n in told.items() if n) or "nothing"


def reason_to_act(prepared: Prepared, form: Format | None) -> float | None:
    """N_r : N_a as the loss's classes count them: with their format tokens only where these belong
    to the span they stand in. None without actions."""
    if prepared.chunks or (form or "span") == "span":
        return prepared.reason_to_act if prepared.kinds["act"] else None
    reason, act = prepared.kinds["reason"], prepared.kinds["act"]
    return reason / act if act else None


def whole_hash(prepared: Prepared, pairs: Samples | None) -> str:
    """Of all that is trained on, as checkpoints tell it."""
    return prepared.samples if pairs is None else digest(prepared.samples, pairs.hash)


def manifest_of(data: Path) -> Prepared:
    """What samples are made of. Raises DataError where it is damaged."""
    path = data / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Prepared)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{path} is damaged: {error}\n"
            f"  The recipe makes it again from its traces where {data} is deleted."
        ) from None


def environments(prepared: Prepared, samples: Samples) -> list[str] | None:
    """The environment of every sequence; None where it was prepared before they were noted and
    there are several."""
    noted = prepared.environments
    if not noted and len(known := {env for env, _ in prepared.tasks}) == 1:
        noted = ((known.pop(), prepared.episodes),)
    if not noted:
        return None
    names, counts = zip(*noted, strict=True)
    of_episodes = np.repeat(np.array(names), counts)
    found: list[str] = of_episodes[samples.episode].tolist()
    return found


def _kept(data: Path, key: str, quiet: bool) -> tuple[Any, Samples, Prepared] | None:
    """What was prepared from the same inputs; None where there is nothing of them, or, said in a
    line, it is not whole."""
    if not (data / MANIFEST).is_file():
        return None
    try:
        prepared = manifest_of(data)
        if prepared.key != key:
            return None
        for name, sha256 in prepared.files.items():
            if not (data / name).is_file() or file_sha256(data / name) != sha256:
                raise DataError(f"{data / name} is missing or differs from its manifest")
        tok, samples = tokenizer.load(data / "tokenizer"), Samples.load(data / SAMPLES)
        if (samples.hash, tokenizer.fingerprint(tok)) != (prepared.samples, prepared.tokenizer):
            raise DataError(f"{data}: samples or tokenizer differ from its manifest")
    except DataError as error:
        say(quiet, f"{str(error).splitlines()[0]}: prepared again from the traces")
        return None
    return tok, samples, prepared


@contextmanager
def _instead_of(folder: Path) -> Iterator[Path]:
    """A new folder that takes ``folder``'s place when the block is done; when it raises, the old
    one stays as it is."""
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _make(recipe: Recipe, runs: list[str], data: Path, key: str) -> Prepared:
    """Everything in ``data``, from the traces."""
    objective, origin, other = recipe.objective, recipe.tokenizer_origin, teacher_tokenizer(recipe)
    observations = bool(objective.obs_weight)
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
    tok.save_pretrained(data / "tokenizer")
    tok = tokenizer.load(data / "tokenizer")
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
        theirs.save(data / "teacher.npz")
    else:
        samples, skipped = encode(
            found.episodes, encoder, recipe.data.header, recipe.student.window,
            recipe.max_new_tokens, per_step=per_step, truncate=recipe.data.paper_truncate,
            observations=observations,
        )  # fmt: skip
    if objective.masks == "random_span":
        headers = [
            recipe.data.header.replace("{instruction}", e.instruction) for e in found.episodes
        ]
        prompts = np.array([len(encoder.encode(h)) for h in headers])[samples.episode]
        taught = np.flatnonzero(~np.isin(samples.episode, held))
        classes = tokenizer.class_of(objective.format or "span")
        samples = random_spans(samples, classes, prompts, taught, recipe.seed)
    samples.save(data / SAMPLES)
    paired = []
    if objective.contrastive:
        every = traces.load(runs, successes_only=False, exclude=recipe.data.exclude).episodes
        # By lot, as of the samples: of what the limit left out there is no held-out episode.
        lots = (draw(group(*_task(e)), recipe.seed) for e in every)
        paired = pair_up(
            [e for e, lot in zip(every, lots, strict=True) if lot >= recipe.data.heldout]
        )
        if paired:
            # A sequence a decision would say the same of each, and read what is before it again.
            encode(
                paired, encoder, recipe.data.header, recipe.student.window, recipe.max_new_tokens,
                truncate=recipe.data.paper_truncate,
            )[0].save(data / "pairs.npz")  # fmt: skip
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
        environments=tuple(
            (env, len(list(some))) for env, some in groupby(e.task.env for e in found.episodes)
        ),
        pairs=len(paired) // 2,
        chunks=int(counted.taught[-1]) if counted else 0,
        files={
            str(p.relative_to(data)): file_sha256(p) for p in sorted(data.rglob("*")) if p.is_file()
        },
    )
    write(data / MANIFEST, prepared)
    return prepared


def _task(episode: Episode) -> tuple[str, str]:
    return episode.task.env, episode.task.id


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

"""``harness distill inspect``: which tokens a student is taught, and whether the labels are right.

Of a run (its episodes, through any tokenizer) or of a student's folder (the very samples that it
trains on): the masks drawn over random samples, lengths of spans, N_r : N_a, checks of the labels,
and how far they are those that the paper's own recipe gives (SAD, appendix D.2).
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from harness.errors import ConfigError, DataError
from harness.recorder import read_episodes
from harness.transcript import Kind, Segment, join, render, split_reply
from harness.types import Episode, Outcome
from harness_distillation import overlay, tokenizer, traces
from harness_distillation.dataset import Samples, encode, make_row
from harness_distillation.findings import Check, Drawn, Findings, Lengths
from harness_distillation.paper_labels import agreement
from harness_distillation.prepare import (
    MANIFEST,
    RECIPE,
    SAMPLES,
    Prepared,
    Workplace,
    environments,
    manifest_of,
)
from harness_distillation.recipe import Data
from harness_distillation.supervision import shuffle_labels
from harness_distillation.tokenizer import (
    ACT,
    OBSERVATION,
    OBSERVED,
    REASON,
    SegmentEncoder,
    class_of,
)

#: Entries of the tokenizer that is trained when none is named.
OWN_VOCAB = 1024
#: Random samples of each environment that are drawn and checked.
DRAWN = 100
#: Kinds of tokens by name; that of CONTEXT is 0.
KINDS = {**{kind.name.lower(): int(kind) for kind in Kind}, "observation": OBSERVED}


class Subject(NamedTuple):
    """What is looked at: token sequences, the tokenizer that reads them, the segments they were
    made of (None: only the tokens are left, of a student's folder), which tokens carry the labels
    (``Objective.masks``), the environment of each sequence (None: not known), and after how many
    tokens sequences were cut (``Data.paper_truncate``; None: they are whole)."""

    name: str
    samples: Samples
    tokenizer: Any
    segments: list[list[Segment]] | None
    masks: str = "spans"
    environments: list[str] | None = None
    cut: int | None = None


def main(args: list[str]) -> int:
    """``harness distill inspect RUN|OUT``; 1 when a check fails."""
    parser = argparse.ArgumentParser(
        prog="harness distill inspect",
        description="Show which tokens are taught: masks over random samples (reasoning blue, "
        "action red, observations green, what is only read grey), span lengths, and checks of the "
        "labels.",
        allow_abbrev=False,
    )
    parser.add_argument("what", type=Path, metavar="RUN|OUT", help="a run, or a student's folder")
    parser.add_argument(
        "--tokenizer", action="append", default=[], metavar="DIR",
        help="checkpoint whose tokenizer reads the text; repeatable, the first one draws",
    )  # fmt: skip
    parser.add_argument("--header", default=Data().header, help="a prompt's opening, for a run")
    parser.add_argument(
        "--n", type=int, default=DRAWN, help="random samples of each environment drawn and checked"
    )
    parser.add_argument(
        "--show", type=int, default=3, help="... of each environment's on the terminal"
    )
    parser.add_argument("--seed", type=int, default=0, help="which samples")
    parser.add_argument(
        "--sample", type=int, action="append", default=[], metavar="N",
        help="this one, by its number, and no random ones; repeatable",
    )  # fmt: skip
    parser.add_argument("--page", type=Path, help="write an HTML page with all samples")
    parser.add_argument(
        "--figure", type=Path, help="draw the lengths of spans into a file .svg or .png"
    )
    given = parser.parse_args(args)
    if given.n < 1:
        raise ConfigError(f"--n is at least 1, not {given.n}.")
    header = given.header.replace("\\n", "\n")
    subject, others = load(given.what, given.tokenizer, header)
    found = inspect(subject, others, n=given.n, seed=given.seed, only=given.sample)
    overlay.show(found, len(given.sample) or given.show)
    if given.page is not None:
        from harness.view import write_page

        write_page(given.page, overlay.page(found))
        print(given.page)
    if given.figure is not None:
        from harness import drawing

        drawing.write([overlay.figure(found)], given.figure)
        print(given.figure)
    failed = [c for c in found.checks if not c.fine]
    for check in failed:
        print(f"harness: {check.claim}: not so. {check.first}", file=sys.stderr)
    return 1 if failed else 0


def load(what: Path, names: Sequence[str], header: str) -> tuple[Subject, dict[str, Any]]:
    """The subject in a folder, and the tokenizers to compare by name.

    Raises:
        DataError, ConfigError: neither a run nor a student's folder; a tokenizer is not there.
    """
    place = Workplace(what)
    others = {name: tokenizer.load(name) for name in names}
    if (place.data / MANIFEST).is_file():
        prepared = manifest_of(place.data)
        own = tokenizer.load(place.data / "tokenizer")
        if prepared.tokenizer != tokenizer.fingerprint(own):
            raise ConfigError(f"{place.data}: its tokenizer is not the one of its samples.")
        samples, masks, cut = _labelled(place, prepared, Samples.load(place.data / SAMPLES))
        subject = Subject(
            str(what), samples, own, None, masks, environments(prepared, samples), cut
        )
        return subject, {"own": own, **others}
    path = traces.episodes_file(what)
    episodes = [e for e in read_episodes(path) if e.steps and e.outcome is not Outcome.ERROR]
    if not episodes:
        raise ConfigError(f"{path} holds no played episode.")
    if not others:
        others = {f"own, {OWN_VOCAB} entries": tokenizer.train(episodes, header, OWN_VOCAB)}
    return of_episodes(str(what), episodes, header, next(iter(others.values()))), others


def _labelled(
    place: Workplace, prepared: Prepared, samples: Samples
) -> tuple[Samples, str, int | None]:
    """A student's samples as it trains on them, which tokens its recipe puts the labels on, and
    after how many it cuts a sequence."""
    path = place.training / RECIPE
    if not path.is_file():
        raise DataError(
            f"{place.data} has samples and no {RECIPE} beside it, which says how they are labelled."
            "\n  harness distill RECIPE --stage prepare writes it."
        )
    recipe = msgspec.json.decode(path.read_bytes())
    masks: str = recipe["objective"].get("masks", "spans")
    if masks == "label_shuffle":
        # Training permutes them after the samples are made, in episodes that it learns from.
        learn = np.flatnonzero(~np.isin(samples.episode, prepared.heldout))
        classes = class_of(recipe["objective"].get("format") or "span")
        samples = shuffle_labels(samples, classes, learn, recipe["seed"])
    return samples, masks, recipe["data"].get("paper_truncate")


def of_episodes(name: str, episodes: Sequence[Episode], header: str, tok: Any) -> Subject:
    """Whole episodes as a subject: a sequence each, those without anything to teach left out."""
    segments = [
        [s for b in render(header.replace("{instruction}", e.instruction), e.steps) for s in b]
        for e in episodes
    ]
    encoder = SegmentEncoder(tok)
    longest = max(len(encoder.segments(s).ids) for s in segments)
    samples, _ = encode(episodes, encoder, header, longest, 0)
    owners = samples.episode.tolist()
    return Subject(
        name, samples, tok, [segments[i] for i in owners],
        environments=[episodes[i].task.env for i in owners],
    )  # fmt: skip


def inspect(
    subject: Subject, tokenizers: dict[str, Any], *, n: int = DRAWN, seed: int = 0,
    only: Sequence[int] = (),
) -> Findings:  # fmt: skip
    """Counts and lengths over all sequences; checks, agreement and drawings over ``n`` of every
    environment (all it has where they are fewer), or over ``only`` these. Raises ConfigError for
    one that is not there.

    Random spans and shuffled labels lie across words and segments: what they spell and what the
    paper's recipe would label there is not asked.
    """
    samples = subject.samples
    true = subject.masks == "spans"
    everything = range(len(samples.lengths))
    if absent := sorted(set(only) - set(everything)):
        raise ConfigError(f"{subject.name} has samples 0..{everything[-1]}, not {absent[0]}.")
    owners = subject.environments or [""] * len(everything)
    places: dict[str, list[int]] = {}
    for s, environment in enumerate(owners):
        places.setdefault(environment, []).append(s)
    drawn = {
        environment: sorted(
            set(own).intersection(only)
            if only
            else random.Random(seed).sample(own, min(n, len(own)))
        )
        for environment, own in sorted(places.items())
    }
    chosen = [s for some in drawn.values() for s in some]
    texts = [_segments(subject, s) for s in chosen] if true else []
    return Findings(
        name=subject.name,
        sequences=len(samples.lengths),
        tokens=len(samples.ids),
        kinds={name: int(np.sum(samples.kinds == kind)) for name, kind in KINDS.items()},
        reason=lengths(samples, Kind.REASON),
        act=lengths(samples, Kind.ACT),
        checks=[*counted(samples, chosen), *([spelled(subject, chosen)] if true else [])],
        agreement=[agreement(name, tok, texts) for name, tok in tokenizers.items() if true],
        drawn=[
            Drawn(owners[s], overlay.cells(subject.tokenizer, *_tokens(samples, s))) for s in chosen
        ],
        chosen={name: (len(some), len(places[name])) for name, some in drawn.items()},
        masks=subject.masks,
    )


def _tokens(samples: Samples, s: int) -> tuple[list[int], list[int]]:
    part = samples.part(s)
    return samples.ids[part].tolist(), samples.kinds[part].tolist()


def _decode(tok: Any, ids: Sequence[int]) -> str:
    text: str = tok.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _runs(samples: Samples, s: int) -> Iterator[tuple[Kind, list[int]]]:
    """A sequence's stretches of one kind of segment, with their ids. Observations are CONTEXT,
    taught or not."""
    ids, kinds = _tokens(samples, s)
    own = [Kind.CONTEXT if kind == OBSERVED else Kind(kind) for kind in kinds]
    for kind, pairs in groupby(zip(own, ids, strict=True), key=lambda pair: pair[0]):
        yield kind, [i for _, i in pairs]


def _segments(subject: Subject, s: int) -> list[Segment]:
    if subject.segments is not None:
        return subject.segments[s]
    tok = subject.tokenizer
    return [Segment(kind, _decode(tok, ids)) for kind, ids in _runs(subject.samples, s)]


# Lengths ----------------------------------------------------------------------------------


def lengths(samples: Samples, kind: Kind, bars: int = 12) -> Lengths:
    """Histogram of the spans of a kind (SAD, figure 8); the last bar takes all longer ones."""
    inside = samples.kinds == kind
    first = inside.copy()
    first[1:] &= ~inside[:-1]
    first[samples.offsets[:-1]] = inside[samples.offsets[:-1]]
    if not first.any():
        return Lengths([], [], 0.0, 0.0, 0)
    found = np.bincount(np.cumsum(first)[inside])[1:]
    width = max(1, -(-int(np.percentile(found, 99)) // bars))
    most = int(found.max())
    counts = np.bincount(np.minimum((found - 1) // width, bars - 1))
    edges = [1 + i * width for i in range(len(counts) + 1)]
    edges[-1] = max(edges[-1], most + 1)
    return Lengths(counts.tolist(), edges, float(found.mean()), float(np.median(found)), most)


# Checks -----------------------------------------------------------------------------------


def counted(samples: Samples, chosen: Sequence[int]) -> list[Check]:
    """Label counts add up to the target tokens, and a label stands at the token it weighs."""
    taught = int(samples.taught[-1])
    added = sum(int(np.sum(samples.kinds == kind)) for kind in KINDS.values() if kind)
    good, first = 0, ""
    classes = class_of("span")
    for s in chosen:
        ids, kinds = (np.array(x) for x in _tokens(samples, s))
        row = make_row(samples, [s], classes, len(ids), 0)
        labels = row.labels.numpy()
        wanted = [np.isin(kinds, (Kind.REASON, Kind.REASON_FORMAT)).sum(),
                  np.isin(kinds, (Kind.ACT, Kind.ACT_FORMAT)).sum(),
                  (kinds == OBSERVED).sum()]  # fmt: skip
        found = [(labels == c).sum() for c in (REASON, ACT, OBSERVATION)]
        after = row.at.numpy() + 1
        fits = (
            wanted == found
            and bool((row.at.numpy() >= 0).all())
            and bool((ids[after] == row.targets.numpy()).all())
            and bool((classes[kinds[after]] == labels).all())
        )
        good += fits
        first = first or ("" if fits else f"First: sequence {s}.")
    return [
        Check("label counts add up to the target tokens", added, taught),
        Check("every token has one label at most, and every target is the next token",
              good, len(chosen), first),
    ]  # fmt: skip


def spelled(subject: Subject, chosen: Sequence[int]) -> Check:
    """Decoding a label's tokens gives the spans' text.

    Against the segments where they are known; else against what the reply parser makes of the
    decoded text, less a last reply that was cut with its sequence.
    """
    good = total = 0
    first = ""
    for s in chosen:
        decoded = [(k, _decode(subject.tokenizer, ids)) for k, ids in _runs(subject.samples, s)]
        if subject.samples.lengths[s] == subject.cut:
            while decoded and decoded[-1][0] is not Kind.CONTEXT:
                decoded.pop()
        known = subject.segments
        wanted = _merged(known[s]) if known is not None else _parsed(decoded)
        ours = [pair for pair in decoded if pair[0] is not Kind.CONTEXT]
        theirs = [pair for pair in wanted if pair[0] is not Kind.CONTEXT]
        total += max(len(ours), len(theirs))
        for a, b in zip(ours, theirs, strict=False):
            good += a == b
            if a != b and not first:
                first = f"First, sequence {s}: tokens spell {_named(a)}, the span is {_named(b)}."
        if len(ours) != len(theirs) and not first:
            first = f"First, sequence {s}: {len(ours)} spans in the tokens, {len(theirs)} in text."
    return Check("a label's tokens spell its span's text", good, total, first)


def _named(span: tuple[Kind, str]) -> str:
    return f"{span[1]!r} ({span[0].name.lower()})"


def _merged(segments: Sequence[Segment]) -> list[tuple[Kind, str]]:
    groups = groupby(segments, key=lambda s: s.kind)
    return [(kind, text) for kind, some in groups if (text := join(list(some)))]


def _parsed(decoded: Sequence[tuple[Kind, str]]) -> list[tuple[Kind, str]]:
    """Taught stretches as the parser of replies cuts their joined text."""
    found: list[tuple[Kind, str]] = []
    for taught, some in groupby(decoded, key=lambda pair: pair[0] is not Kind.CONTEXT):
        if taught:
            found += _merged(split_reply("".join(text for _, text in some)))
    return found

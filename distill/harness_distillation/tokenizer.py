"""Own tokenizers, and the segment-wise encoding that gives every token its label.

Each segment is tokenised by itself and the ids are joined, in training and in play alike: no
token straddles two segments, so a token's label is its segment's.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.errors import ConfigError, DataError
from harness.registry import require
from harness.transcript import Kind, Segment, join, render
from harness.types import Completion, Episode
from harness_distillation.hub import HUB, MODULE, gguf, locate

#: Loss classes a target can belong to; NONE is read and never trained on.
NONE, REASON, ACT, FORMAT, OBSERVATION = 0, 1, 2, 3, 4
CLASSES = ("reason", "act", "format", "observation")
#: Kind of an observation's tokens in samples made to train on them (else they are CONTEXT).
OBSERVED = len(Kind)
EOS, PAD = "<|eos|>", "<|pad|>"

#: What no merge crosses: words, numbers and signs with their space, as GPT-2 has them; and a mark
#: in brackets ("[SEP]", dozens on a WebShop page) as one.
_WORDS = r" ?\[[A-Z]+\]|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Format = Literal["span", "shared", "none"]

_LABELS: dict[str, dict[Kind, int]] = {
    "span": {Kind.REASON_FORMAT: REASON, Kind.ACT_FORMAT: ACT},
    "shared": {Kind.REASON_FORMAT: FORMAT, Kind.ACT_FORMAT: FORMAT},
    "none": {Kind.REASON_FORMAT: NONE, Kind.ACT_FORMAT: NONE},
}


def class_of(format: Format) -> np.ndarray:
    """Map from segment kind (0..4, OBSERVED) to loss class (0..4): int8 [6]."""
    table = {Kind.CONTEXT: NONE, Kind.REASON: REASON, Kind.ACT: ACT, **_LABELS[format]}
    return np.array([*(table[kind] for kind in Kind), OBSERVATION], dtype=np.int8)


class Encoded(NamedTuple):
    """A token sequence: ids int32 [n] and the segment kind of every token, int8 [n]."""

    ids: np.ndarray
    kinds: np.ndarray


class SegmentEncoder:
    """Encodes segments one by one; repeated segments (most of them) come from a cache."""

    def __init__(self, tokenizer: Any, cache: int = 200_000) -> None:
        self.tokenizer = tokenizer
        self._special = frozenset(tokenizer.all_special_ids)

        @lru_cache(maxsize=cache)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        self.encode: Callable[[str], tuple[int, ...]] = encode

    def segments(self, segments: Sequence[Segment]) -> Encoded:
        """Ids of the joined segments, each token with its segment's kind."""
        parts = [self.encode(s.text) for s in segments]
        ids = np.fromiter((i for part in parts for i in part), dtype=np.int32)
        kinds = np.repeat(
            np.array([s.kind for s in segments], dtype=np.int8),
            np.array([len(part) for part in parts], dtype=np.int64),
        )
        return Encoded(ids, kinds)

    def as_sampled(
        self, block: Sequence[Segment], completion: Completion | None, canonical: Encoded
    ) -> Encoded:
        """A step's block with its reply in the ids it was sampled in; ``canonical`` where there
        are none, or where they spell more than the reply (what followed its action line).

        A token belongs to the segment of its first character that is not a blank.
        """
        ids = [] if completion is None else [i for i in completion.ids if i not in self._special]
        reply = "" if completion is None else completion.text
        if not ids or self._text(ids) != reply:
            return canonical
        place = np.repeat(
            np.array([s.kind for s in block[1:]], dtype=np.int8),
            np.array([len(s.text) for s in block[1:]], dtype=np.int64),
        )
        ends = [len(self._text(ids[: n + 1]).rstrip("\ufffd")) for n in range(len(ids))]
        kinds = []
        for start, end in pairwise([0, *ends]):
            word = reply[start:end]
            kinds.append(place[min(start + len(word) - len(word.lstrip(" ")), len(reply) - 1)])
        first = self.segments(block[:1])
        closing = self.encode(join(block[1:])[len(reply) :])  # a newline the model left out
        return Encoded(
            np.concatenate([first.ids, np.array([*ids, *closing], dtype=np.int32)]),
            np.concatenate(
                [first.kinds, np.array([*kinds, *[place[-1]] * len(closing)], dtype=np.int8)]
            ),
        )

    def _text(self, ids: Sequence[int]) -> str:
        # Behind another token, because some decoders strip a text's first blank.
        mark = list(self.encode("."))
        text = self.tokenizer.decode([*mark, *ids], clean_up_tokenization_spaces=False)
        return str(text)[1:]


def texts(episodes: Iterable[Episode], header: str) -> Iterator[str]:
    """Every segment of the episodes' transcripts, as text: what a tokenizer learns from."""
    for episode in episodes:
        for block in render(header.replace("{instruction}", episode.instruction), episode.steps):
            for segment in block:
                yield segment.text


def train(episodes: Sequence[Episode], header: str, vocab: int) -> Any:
    """Byte-level BPE over the segments; a number with the space before it is a token.

    A small corpus gives fewer entries than asked. Returns a ``PreTrainedTokenizerFast``.
    """
    tokenizers = require("tokenizers", "models", "Training a tokenizer")
    transformers = require("transformers", "models", "Training a tokenizer")
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    # " 2" stays one token: what follows "mug" is then its number, which a small model copies in one
    # step of attention. Digits split from their space put a blank, alike for all, in between.
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_WORDS), "isolated")
    as_bytes = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([split, as_bytes])
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=2,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    model.train_from_iterator(texts(episodes, header), trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model,
        eos_token=EOS,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def extend(tokenizer: Any, episodes: Sequence[Episode], header: str, vocab: int) -> Any:
    """A byte-level BPE tokenizer that has learned further merges from the segments.

    Its entries keep their ids and its merges their order; the new ones stand behind, up to
    ``vocab`` entries or as long as a pair occurs twice. Returns a ``PreTrainedTokenizerFast``.
    Raises ConfigError for another kind of tokenizer.
    """
    tokenizers = require("tokenizers", "models", "Extending a tokenizer")
    transformers = require("transformers", "models", "Extending a tokenizer")
    backend = tokenizer.backend_tokenizer
    if not isinstance(backend.model, tokenizers.models.BPE) or backend.pre_tokenizer is None:
        raise ConfigError(
            "[tokenizer] extend: only byte-pair encodings that cut a text into words first can be "
            "added to."
        )
    words: Counter[str] = Counter()
    for text, times in Counter(texts(episodes, header)).items():
        for word, _ in backend.pre_tokenizer.pre_tokenize_str(text):
            words[word] += times
    pieces = {word: [t.value for t in backend.model.tokenize(word)] for word in words}
    described = json.loads(backend.to_str())
    entries, merges = described["model"]["vocab"], described["model"]["merges"]
    following = len(tokenizer)
    for left, right in islice(_merges(pieces, words), max(0, vocab - following)):
        merges.append([left, right])
        # What two ways of merging spell alike is one entry.
        if entries.setdefault(left + right, following) == following:
            following += 1
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(described)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        clean_up_tokenization_spaces=False,
    )


def _merges(words: dict[str, list[str]], times: Counter[str]) -> Iterator[tuple[str, str]]:
    """Most frequent pair of neighbours, joined everywhere, again and again; ties by spelling."""
    counts: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for word, pieces in words.items():
        for pair in pairwise(pieces):
            counts[pair] += times[word]
            places[pair].add(word)
    while counts:
        best = max(counts, key=lambda pair: (counts[pair], pair))
        if counts[best] < 2:
            return
        yield best
        for word in sorted(places.pop(best)):
            old = words[word]
            new: list[str] = []
            for piece in old:
                if new and (new[-1], piece) == best:
                    new[-1] += piece
                else:
                    new.append(piece)
            words[word] = new
            counts.subtract({pair: n * times[word] for pair, n in Counter(pairwise(old)).items()})
            for pair in pairwise(new):
                counts[pair] += times[word]
                places[pair].add(word)
        counts += Counter()  # drops what is at zero


def load(folder: str | Path) -> Any:
    """The tokenizer of a folder, ``hub:owner/name`` or ``module:name``, as transformers loads it
    but for blanks that it would put before a text (``exact``, as in play); padding is the end of
    text where it has none of its own. Raises DataError when the folder is not there."""
    transformers = require("transformers", "models", "Loading a tokenizer")
    from harness_agents.backends.exact import make_exact  # needs tokenizers

    source = locate(folder) if str(folder).startswith((HUB, MODULE)) else str(folder)
    if not Path(source).is_dir():  # else transformers asks the Hub for it, by this name
        raise DataError(
            f"{source}: no such folder to take a tokenizer from. Train the model first."
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **gguf(source))
        make_exact(tokenizer)
    except (OSError, ValueError, LookupError, AttributeError, ImportError) as error:
        raise DataError(
            f"{source}: no usable tokenizer there: {type(error).__name__}: {error!s:.200}"
        ) from error
    # As in play: text that spells a special token stays text.
    tokenizer.split_special_tokens = True
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def fingerprint(tokenizer: Any) -> str:
    """16 hex digits of the token -> id map. Equal maps, not equal sizes, make one tokenizer."""
    vocab = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(vocab, ensure_ascii=True).encode()).hexdigest()[:16]


def whole_text_difference(
    encoder: SegmentEncoder, episodes: Iterable[Episode], header: str
) -> float:
    """Share of tokens (by position of their end) that tokenising the whole text gives otherwise.

    Compares token boundaries in bytes: the segment-wise tokens that are not tokens of the whole
    text, divided by all segment-wise tokens.
    """
    other = total = 0
    for episode in episodes:
        blocks = render(header.replace("{instruction}", episode.instruction), episode.steps)
        segments = [s for block in blocks for s in block]
        ids = encoder.segments(segments).ids.tolist()
        whole = encoder.tokenizer.encode(join(segments), add_special_tokens=False)
        mine, theirs = _spans(encoder.tokenizer, ids), _spans(encoder.tokenizer, whole)
        other += len(mine - theirs)
        total += len(mine)
    return other / total if total else 0.0


def _spans(tokenizer: Any, ids: Sequence[int]) -> set[tuple[int, int]]:
    """(start, end) of every token in the characters of the tokenizer's own alphabet."""
    spans, at = set(), 0
    for piece in tokenizer.convert_ids_to_tokens(list(ids)):
        spans.add((at, at + len(piece)))
        at += len(piece)
    return spans

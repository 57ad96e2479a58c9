"""Tokenizers of SentencePiece's kind, built from texts: a blank before every text, bytes for what
has no entry (the newline among it), as Llama's are."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{n:02X}>" for n in range(256)]
#: How such a tokenizer may be written: the older files' normalizer, a pre-tokenizer, the class of
#: transformers, and a unigram model.
FORMS = ("normalizer", "pre_tokenizer", "class", "unigram")


def llama_like(texts: Iterable[str], vocab: int, form: str) -> Any:
    """A tokenizer of one of FORMS with about ``vocab`` entries besides bytes and special ones."""
    lines = [line for text in texts for line in text.split("\n")]
    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    if form == "unigram":
        return PreTrainedTokenizerFast(tokenizer_object=_unigram(lines, vocab), **named)
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=vocab, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    entries = {name: i for i, name in enumerate([*SPECIAL, *BYTES, *learned["vocab"]])}
    merges = [tuple(pair) for pair in learned["merges"]]
    if form == "class":
        return LlamaTokenizer(vocab=entries, merges=merges, pad_token="</s>")
    found = Tokenizer(
        models.BPE(entries, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if form == "normalizer":
        found.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        found.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    found.decoder = _decoder()
    return PreTrainedTokenizerFast(tokenizer_object=found, **named)


def _unigram(lines: list[str], vocab: int) -> Tokenizer:
    learner = Tokenizer(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=vocab, unk_token="<unk>", show_progress=False)
    learner.train_from_iterator(lines, trainer)
    learned = json.loads(learner.to_str())["model"]["vocab"]
    pieces = [(name, score) for name, score in learned if name != "<unk>"]
    # A byte is never better than a piece that is there.
    scores = [("<unk>", 0.0), *((name, -100.0) for name in BYTES), *pieces]
    found = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    found.add_special_tokens(SPECIAL)
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = _decoder()
    return found


def _decoder() -> Any:
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip

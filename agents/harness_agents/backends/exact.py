"""Tokenizers that give every segment back as it was.

Prompts and training sequences are tokenised segment by segment (``harness.transcript``). Tokenizers
of SentencePiece's kind, Llama's among them, put a blank before every text they are given and take
the first one away as they decode: before each segment stands then a blank that nobody wrote, and a
span's own is lost. A segment goes on from the one before it, so neither is wanted.
"""

from __future__ import annotations

import json
from typing import Any

from tokenizers import Tokenizer

_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_BLANKS = ("\u2581", " ")


def exact(tokenizer: Tokenizer) -> Tokenizer:
    """``tokenizer`` where it puts no blank before a text and takes none away; else one of the same
    entries that does not. Other changes of a text (case, Unicode forms) stay: they cannot be undone
    (``harness distill inspect`` tells them)."""
    whole = json.loads(tokenizer.to_str())
    parts = {name: _plain(whole[name], name == "decoder") for name in _PARTS}
    if all(whole[name] == part for name, part in parts.items()):
        return tokenizer
    found: Tokenizer = Tokenizer.from_str(json.dumps({**whole, **parts}))
    found.encode_special_tokens = tokenizer.encode_special_tokens
    return found


def make_exact(tokenizer: Any) -> None:
    """``exact`` for a tokenizer of transformers, in place."""
    backend = tokenizer.backend_tokenizer
    found = exact(backend)
    if found is not backend:
        for part in _PARTS:
            setattr(backend, part, getattr(found, part))


def _plain(part: dict[str, Any] | None, decodes: bool) -> dict[str, Any] | None:
    """A normalizer, pre-tokenizer or decoder (which ``decodes``), as its file describes it, that
    leaves blanks alone; None where nothing is left of it."""
    if part is None:
        return None
    match part:
        case {"type": "Prepend", "prepend": blank} if blank in _BLANKS:
            return None
        case {"type": "Metaspace"}:
            return {**part, "prepend_scheme": "never"}
        case {"type": "ByteLevel", "add_prefix_space": True} if not decodes:
            return {**part, "add_prefix_space": False}
        case {"type": "Strip", "content": blank, "start": int(n)} if blank in _BLANKS and n:
            return {**part, "start": 0}
        case {"type": "Sequence"}:
            name = next(key for key in part if key != "type")
            kept = [plain for inner in part[name] if (plain := _plain(inner, decodes)) is not None]
            return {**part, name: kept}
    return part

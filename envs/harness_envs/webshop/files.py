"""Official WebShop files: found, read record by record, checked.

A folder holds ``items_shuffle*.json`` (products), ``items_ins_v2*.json`` (attributes and generated
instructions) and, if wanted, ``items_human_ins*.json`` (human instructions), each plain or ``.gz``.
The nouns of the titles, which the original takes from spaCy on every purchase, are beside the
products in ``<products>.nouns.jsonl.gz``, written by ``python -m harness_envs.webshop.nouns``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from harness import official
from harness.errors import DataError
from harness_envs.webshop.catalogue import REMEDY, Catalogue, Record

PRODUCTS, ATTRIBUTES, HUMAN = "items_shuffle", "items_ins_v2", "items_human_ins"
NOUNS_COMMAND = "python -m harness_envs.webshop.nouns"
_CHUNK = 1 << 22
#: No record is longer; a damaged file is not read to its end.
_LONGEST = 1 << 26
_BLANK = re.compile(r"\s*")


def cache_folder() -> Path:
    """Where derived data go when the data's own folder cannot be written."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "distill-harness" / "webshop"


def load(place: Path, nouns: Path | None = None) -> Catalogue:
    """The catalogue of a folder, or of a product file and the files beside it.

    ``nouns``: their file, if it is not beside the products or in the cache folder. Raises DataError
    naming file, record and field.
    """
    products = find_products(place)
    known = read_nouns(nouns or find_nouns(products))
    attributes = read_object(_beside(products, ATTRIBUTES))
    human = _beside(products, HUMAN, needed=False)
    return Catalogue.from_records(
        read_products(products), attributes, read_object(human) if human else None, nouns=known
    )


# Finding ----------------------------------------------------------------------------------


def find_products(place: Path) -> Path:
    """The product file of a folder, or the one that was named."""
    if place.is_file():
        return place
    if not place.is_dir():
        raise DataError(f"WebShop data: '{place}' is neither a folder nor a file.\n  {REMEDY}")
    found = _named(place, PRODUCTS)
    if not found:
        hint = official.inside(place, "webshop")
        raise DataError(
            f"WebShop data: '{place}' holds no '{PRODUCTS}*.json[.gz]'.{hint}\n  {REMEDY}"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"WebShop data: '{place}' holds several product files ({names}).\n"
            f"  Name the one to use: data={place / found[0].name}"
        )
    return found[0]


def _named(folder: Path, name: str) -> list[Path]:
    """Files of a name, a plain one before its .gz copy."""
    plain = sorted(folder.glob(f"{name}*.json"))
    packed = [p for p in sorted(folder.glob(f"{name}*.json.gz")) if p.with_suffix("") not in plain]
    return plain + packed


def _suffix(products: Path) -> str:
    """``items_shuffle_1000.json.gz`` -> ``_1000``."""
    return products.name.removesuffix(".gz").removesuffix(".json").removeprefix(PRODUCTS)


def _beside(products: Path, name: str, needed: bool = True) -> Path | None:
    """The file that goes with the products: of the same suffix, else the only one."""
    found = _named(products.parent, name)
    same = [path for path in found if path.name.startswith(f"{name}{_suffix(products)}.json")]
    if same or len(found) == 1:
        return (same or found)[0]
    if not found and not needed:
        return None
    problem = f"holds several '{name}*.json'" if found else f"holds no '{name}*.json[.gz]'"
    raise DataError(f"WebShop data: '{products.parent}' {problem} for {products.name}.\n  {REMEDY}")


def nouns_name(products: Path) -> str:
    return products.name.removesuffix(".gz").removesuffix(".json") + ".nouns.jsonl.gz"


def find_nouns(products: Path) -> Path:
    name = nouns_name(products)
    for folder in (products.parent, cache_folder()):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{products}: the nouns of its titles, which rewards need, are neither beside it ({name}) "
        f"nor in {cache_folder()}.\n  Write them once with: {NOUNS_COMMAND} {products}\n"
        "  (needs: pip install 'distill-harness[nouns]')"
    )


# Reading ----------------------------------------------------------------------------------


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _unreadable(path: Path, error: Exception) -> DataError:
    why = f"is not UTF-8 ({error})" if isinstance(error, UnicodeDecodeError) else f": {error}"
    return DataError(f"{path}: cannot be read: {why.removeprefix(': ')}.\n  {REMEDY}")


_READ_ERRORS = (OSError, EOFError, UnicodeDecodeError, zlib.error)


def read_products(path: Path) -> Iterator[Record]:
    """Records of a JSON list, one at a time, each with its line and number."""
    decoder = json.JSONDecoder()
    try:
        with _open(path) as file:
            text, at, line, number = file.read(_CHUNK), 0, 1, 0
            opening = _BLANK.match(text)
            at = opening.end() if opening else 0
            if text[at : at + 1] != "[":
                raise DataError(f"{path}:1: not a JSON list of products.\n  {REMEDY}")
            at += 1
            after_record = False
            while True:
                blank = _BLANK.match(text, at)
                assert blank is not None
                line += text.count("\n", at, blank.end())
                at = blank.end()
                mark = text[at : at + 1]
                if mark == "]" and (after_record or number == 0):
                    if text[at + 1 :].strip() or file.read(_CHUNK).strip():
                        raise DataError(f"{path}:{line}: text after the closing ']'.\n  {REMEDY}")
                    return
                if after_record and mark == ",":
                    at, after_record = at + 1, False
                    continue
                if after_record and mark:
                    raise DataError(
                        f"{path}:{line}: record {number}: no comma before it.\n  {REMEDY}"
                    )
                try:
                    body, end = decoder.raw_decode(text, at)
                except json.JSONDecodeError as error:
                    more = file.read(_CHUNK) if len(text) - at < _LONGEST else ""
                    if not more:
                        raise _broken(path, line, number, error, at) from None
                    text, at = text[at:] + more, 0
                    continue
                yield Record(body, f"{path}:{line}: record {number}")
                line += text.count("\n", at, end)
                at, number, after_record = end, number + 1, True
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None


def _broken(path: Path, line: int, number: int, error: json.JSONDecodeError, at: int) -> DataError:
    cut = error.pos >= len(error.doc.rstrip()) or "Unterminated" in error.msg
    what = "the file ends inside it" if cut else f"not valid JSON ({error.msg})"
    if not error.doc[at:].strip():
        what = "the file ends before the closing ']'"
    line += error.doc.count("\n", at, error.pos)
    return DataError(f"{path}:{line}: record {number}: {what}.\n  {REMEDY}")


def read_object(path: Path | None) -> dict[str, Any]:
    """A JSON object whose values know their place."""
    assert path is not None
    try:
        with _open(path) as file:
            found = json.load(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}:{error.lineno}: not valid JSON: {error.msg}.\n  {REMEDY}"
        ) from None
    except _READ_ERRORS as error:
        raise _unreadable(path, error) from None
    if not isinstance(found, dict):
        raise DataError(f"{path}:1: holds a {type(found).__name__}, not an object.\n  {REMEDY}")
    return {
        asin: Record(body, f"{path}: '{asin}'") if isinstance(body, dict) else body
        for asin, body in found.items()
    }


def read_nouns(path: Path) -> dict[str, list[str]]:
    """Title -> nouns, from JSON lines with ``name`` and ``nouns``."""
    found: dict[str, list[str]] = {}
    try:
        with _open(path) as file:
            for number, text in enumerate(file, 1):
                try:
                    body = json.loads(text)
                    found[body["name"]] = [str(noun) for noun in body["nouns"]]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{path}:{number}: not a title with its nouns: {error!r}.\n"
                        f"  Write the file again with: {NOUNS_COMMAND} FOLDER"
                    ) from None
    except _READ_ERRORS as error:
        raise DataError(
            f"{path}: cannot be read: {error}.\n  Write it again with: {NOUNS_COMMAND} FOLDER"
        ) from None
    return found

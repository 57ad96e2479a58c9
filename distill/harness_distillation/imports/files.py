"""Reads log files: text or JSON, plain or packed; what cannot be read is named with its place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import DataError, TraceError

_OPEN = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}


def read_text(path: Path) -> str:
    """The text of a file. Raises DataError when absent or damaged, TraceError when not UTF-8."""
    opened: Any = _OPEN.get(path.suffix, open)
    try:
        with opened(path, "rb") as file:
            raw: bytes = file.read()
    except IsADirectoryError:
        logs = sorted(file for file in path.rglob("*") if file.is_file() and is_records(file))
        named = f" Name a file in it: {', '.join(map(str, logs[:3]))}." if logs else ""
        raise DataError(f"{path} is a folder, not a log.{named}") from None
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        return raw.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise TraceError(f"{path}: byte {error.start} is not UTF-8 text: {error.reason}.") from None


def is_records(path: Path) -> bool:
    """Whether a file's name says JSON."""
    name = path.name if path.suffix not in _OPEN else path.stem
    return name.endswith((".json", ".jsonl"))


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, object) of every record of a JSON array, or of JSON lines."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        found = _decode(text, str(path))
        rows: list[Any] = found if isinstance(found, list) else [found]
        for number, row in enumerate(rows, 1):
            yield _checked(f"{path}: record {number}", row)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _checked(where, _decode(line, where))


def _decode(text: str, where: str) -> Any:
    try:
        return msgspec.json.decode(text.encode())
    except msgspec.DecodeError as error:
        raise TraceError(f"{where}: not JSON: {error}.") from None


def _checked(where: str, row: Any) -> tuple[str, dict[str, Any]]:
    if not isinstance(row, dict):
        raise TraceError(f"{where}: not an object but {type(row).__name__}.")
    return where, row


def field(where: str, row: dict[str, Any], name: str, type_: type[Any] = str) -> Any:
    """A field of a record, which must be there and of that type."""
    if not isinstance(row.get(name), type_):
        known = ", ".join(map(str, row)) or "none"
        raise TraceError(
            f"{where}: no field '{name}' of type {type_.__name__} (its fields: {known})."
        )
    return row[name]

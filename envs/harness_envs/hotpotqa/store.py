"""Opens a corpus by its path: an index, or pages that are indexed first (many of them, once)."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from functools import cache
from pathlib import Path

from harness.errors import DataError
from harness_envs.hotpotqa.corpus import INDEX_FILE, Corpus, ensure_index
from harness_envs.hotpotqa.pages import read_pages

IN_MEMORY = 64 << 20
_LOCK = threading.Lock()


def open_corpus(path: str, *, in_memory: int = IN_MEMORY) -> Corpus:
    """The corpus at a path; one a process, whatever thread asks.

    Files of ``in_memory`` bytes are indexed in memory, each time; more get an index in the cache
    folder, known by their content.

    Raises:
        DataError: nothing there, or nothing that holds pages.
    """
    with _LOCK:
        return _open(path, in_memory)


@cache
def _open(name: str, in_memory: int) -> Corpus:
    path = Path(name).expanduser()
    if (path / INDEX_FILE).is_file():
        return Corpus.open(path)
    if not path.exists():
        raise DataError(
            f"There is no corpus '{path}'. Name a file or folder of pages, or a folder that "
            "'python -m harness_envs.hotpotqa.corpus SOURCE FOLDER' wrote."
        )
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    if sum(file.stat().st_size for file in files) <= in_memory:
        return Corpus.build(read_pages(path))
    folder = cache_folder() / f"corpus-{_content_key(files)}"
    ensure_index(read_pages(path), folder)
    return Corpus.open(folder)


def cache_folder() -> Path:
    """Where indices are kept: ``HARNESS_CACHE``, else the user's cache folder."""
    if os.environ.get("HARNESS_CACHE"):
        return Path(os.environ["HARNESS_CACHE"]).expanduser() / "hotpotqa"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "distill-harness" / "hotpotqa"


def _content_key(files: list[Path]) -> str:
    """Hash of the files' content. Hashing gigabytes takes seconds, so it is remembered until a
    file's size or time changes."""
    state = "\n".join(f"{f.resolve()} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files)
    name = hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    known = cache_folder() / "hashes.json"
    hashes = _remembered(known)
    if name not in hashes:
        digest = hashlib.sha256()
        for file in files:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        hashes[name] = digest.hexdigest()[:24]
        known.parent.mkdir(parents=True, exist_ok=True)
        temporary = known.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(hashes), encoding="utf-8")
        temporary.replace(known)
    return hashes[name]


def _remembered(known: Path) -> dict[str, str]:
    try:
        found = json.loads(known.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

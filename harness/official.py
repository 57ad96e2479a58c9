"""Official data of an environment: where it lies on this machine, and how it gets there."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import DataError

#: Seconds to wait for a connection, and for the next bytes.
TIMEOUT = (10.0, 60.0)


def absolute(place: str | Path) -> str:
    """A file or folder as it is called from anywhere, so that it stays the one that was meant; the
    words ``"builtin"`` and ``"official"`` unchanged."""
    text = str(place)
    if text in ("builtin", "official"):
        return text
    return os.path.abspath(os.path.expanduser(text))


def locate(data: str, env: str, holds: str) -> str:
    """``"official"`` -> the folder that ``<ENV>_DATA`` names, else ``<env>`` inside
    ``HARNESS_DATA``; any other ``data`` unchanged. ``holds`` says what such a folder holds.

    Raises DataError where neither variable is set.
    """
    if data != "official":
        return data
    if (found := folder(env)) is not None:
        return str(found)
    raise DataError(
        f"{env} with data='official' needs the environment variable {_variable(env)} (a folder of "
        f"{holds}) or HARNESS_DATA (a folder with '{env}' in it).\n"
        f"  Get the data with: harness fetch {env}"
    )


def folder(env: str) -> Path | None:
    """Where the variables say that an environment's official data are; None where neither is
    set."""
    if own := os.environ.get(_variable(env)):
        return Path(absolute(own))
    shared = os.environ.get("HARNESS_DATA")
    return Path(absolute(shared)) / env if shared else None


def not_built_in(what: str, env: str, files: str) -> str:
    """What to do about a task (``what`` says which) of official data while built-in ones are
    played; ``files`` is what those data are called."""
    where = folder(env)
    there = where is not None and where.is_dir()
    official = f"say --data official, {where}." if there else (
        f"set {_variable(env)} and say --data official."
    )  # fmt: skip
    return (
        f"{what}, which are not built in.\n  Name their folder with --data FOLDER (data=FOLDER), "
        f"or {official}\n  Get the {files} with: harness fetch {env}"
    )


def inside(root: Path, env: str) -> str:
    """A hint where ``root`` is the folder around an environment's data."""
    return f" Its folder '{env}' may be meant: {root / env}." if (root / env).is_dir() else ""


def _variable(env: str) -> str:
    return f"{env.upper()}_DATA"


def make_folder(target: Path) -> None:
    """The folder that data are fetched into; DataError where it cannot be."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error}. Choose another --to.") from None


def download(address: str, path: Path) -> None:
    """Download a file to ``path``, going on where an earlier download stopped.

    Raises DataError, which names address and remedy, for a failure, a transfer that broke off, and
    a web page in the place of the file (what file stores show over their limits).
    """
    import requests
    from rich.console import Console
    from rich.progress import Progress

    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send
                part.replace(path)
                return
            answer.raise_for_status()
            if "text/html" in answer.headers.get("Content-Type", ""):
                raise DataError(
                    f"{address} answers with a web page instead of {path.name}. Try later, or open "
                    f"it in a browser and put the file at {path}."
                )
            if answer.status_code != 206:  # the server starts over
                have = 0
            rest = int(answer.headers.get("Content-Length", 0))
            with (
                part.open("ab" if have else "wb") as file,
                Progress(console=Console(stderr=True), transient=True) as progress,
            ):
                bar = progress.add_task(path.name, total=(have + rest) or None, completed=have)
                for chunk in answer.iter_content(1 << 16):
                    file.write(chunk)
                    progress.advance(bar, len(chunk))
    except requests.RequestException as error:
        raise DataError(
            f"{path.name} could not be downloaded from {address}\n  {error}\n"
            f"  Without a connection: download that file elsewhere, put it at {path}, and run the "
            "command again (it goes on where it stopped)."
        ) from None
    if rest and part.stat().st_size < have + rest:
        raise DataError(
            f"The download of {address} broke off at {part.stat().st_size} of {have + rest} bytes. "
            "Run the command again: it goes on where it stopped."
        )
    part.replace(path)

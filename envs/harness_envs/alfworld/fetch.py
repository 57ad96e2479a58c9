"""Gets the official ALFWorld games: ``harness fetch alfworld``."""

from __future__ import annotations

import zipfile
from pathlib import Path

from harness.errors import DataError
from harness.official import download, make_folder
from harness_envs.alfworld.game import content_hash, from_json
from harness_envs.alfworld.games import GAME_FILE, RELEASE
from harness_envs.alfworld.tasksets import official_games

#: Release 2.1.2 of the text games, the address that alfworld's own download script uses.
ADDRESS = "https://github.com/alfworld/alfworld/releases/download/0.4.0/json_2.1.2_tw-pddl.zip"


def fetch(target: Path, *, address: str = ADDRESS) -> None:
    """Download the games into ``target``/json_2.1.1/<split>/..., going on where a download stopped.

    The release's authors publish no checksum of the archive, so each of the 4,027 games is checked
    against the sha256 that the task sets hold. Raises DataError, which names address and remedy.
    """
    make_folder(target)
    archive = target / address.rpartition("/")[2]
    if not archive.is_file():
        download(address, archive)
    _unpack(archive, target)
    _check(target)


def _unpack(archive: Path, target: Path) -> None:
    """Write the games of the archive, and nothing else of it, to the official layout."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                parts = name.split("/")
                if parts[-1] != GAME_FILE or RELEASE not in parts or ".." in parts:
                    continue
                path = target.joinpath(*parts[parts.index(RELEASE) :])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(packed.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{archive}: cannot be unpacked: {error}. Delete it and run the command again."
        ) from None


def _check(target: Path) -> None:
    """Compare every official game with its known hash."""
    known = official_games()
    absent, other = [], []
    for task_id, expected in known.items():
        path = target / RELEASE / task_id / GAME_FILE
        if not path.is_file():
            absent.append(task_id)
        elif content_hash(from_json(path.read_bytes(), task_id, str(path))) != expected:
            other.append(task_id)
    if absent or other:
        raise DataError(
            f"{target}: of {len(known)} official games {len(absent)} are absent and {len(other)} "
            f"differ (first: {(absent or other)[0]}). Delete the archive there and fetch again."
        )

"""Gets HotPotQA's official questions: ``harness fetch hotpotqa``."""

from __future__ import annotations

from pathlib import Path

import requests
from rich.console import Console
from rich.progress import Progress

from harness.errors import DataError
from harness_envs.hotpotqa.data import OFFICIAL, read_split

#: The addresses that HotPotQA's own download script (download.sh) uses. No checksums are published.
SITE = "http://curtis.ml.cmu.edu/datasets/hotpot"
FILES = {
    "hotpot_dev_distractor_v1.json": "dev",
    "hotpot_dev_fullwiki_v1.json": "dev",
    "hotpot_train_v1.1.json": "train",
}
TIMEOUT = (10.0, 60.0)


def fetch(target: Path, *, site: str = SITE) -> None:
    """Download the questions with their contexts into ``target``, going on where it stopped.

    Each file is read once and must hold as many questions with answers as the official split has.
    They are CC BY-SA 4.0 (hotpotqa.github.io); keep that with anything made of them. Raises
    DataError, which names address and remedy.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error}. Choose another --out.") from None
    for name, split in FILES.items():
        path = target / name
        if not path.is_file():
            _download(f"{site}/{name}", path)
        found = len(read_split([path], split))
        if found != OFFICIAL[split]:
            raise DataError(
                f"{path} holds {found} questions, the official {split} split {OFFICIAL[split]}. "
                "Delete it and run the command again."
            )


def _download(address: str, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    have = part.stat().st_size if part.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    try:
        with requests.get(address, headers=headers, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # nothing is left to send
                part.replace(path)
                return
            answer.raise_for_status()
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
            f"HotPotQA's questions could not be downloaded from {address}\n  {error}\n"
            f"  Without a connection: download that file elsewhere and put it at {path}."
        ) from None
    if rest and part.stat().st_size < have + rest:
        raise DataError(
            f"The download of {address} broke off at {part.stat().st_size} of {have + rest} bytes. "
            "Run the command again: it goes on where it stopped."
        )
    part.replace(path)

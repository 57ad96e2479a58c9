"""Gets the official 1000-product set: ``harness fetch webshop``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import requests
from rich.console import Console
from rich.progress import Progress

from harness.errors import DataError
from harness_envs.webshop import files
from harness_envs.webshop.tasksets import official_goals

#: Where the original's ``setup.sh`` gets its files: Google Drive, by number.
ADDRESS = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
TIMEOUT = (10.0, 60.0)


class Source(NamedTuple):
    """An official file: its name, its number there."""

    name: str
    id: str


#: ``setup.sh -d small``: 1000 products, their attributes, all human instructions.
SMALL = (
    Source("items_shuffle_1000.json", "1EgHdxQ_YxqIQlvvq5iKlCrkEKR6-j0Ib"),
    Source("items_ins_v2_1000.json", "1IduG0xl544V_A_jv3tHXC0kyFi7PnyBu"),
    Source("items_human_ins.json", "14Kb5SPBk_jfdLZ_CDBNitW98QLDlKR5O"),
)


def fetch(target: Path, *, address: str = ADDRESS, sources: tuple[Source, ...] = SMALL) -> None:
    """Download the files into ``target``, going on where a download stopped.

    The authors publish no checksums: that the products are the ones the task sets mean is checked
    by their asins; each task's content hash is checked again before a run. Raises DataError.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error}. Choose another --out.") from None
    for source in sources:
        if not (target / source.name).is_file():
            _download(address.format(id=source.id), target / source.name)
    check(target / sources[0].name)
    Console(stderr=True).print(
        f"WebShop's files are in {target}. Rewards need the nouns of the titles; write them once:\n"
        f"  pip install 'distill-harness[nouns]'\n  {files.NOUNS_COMMAND} {target}"
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
            if "text/html" in answer.headers.get("Content-Type", ""):
                raise DataError(
                    f"{address} answers with a web page instead of {path.name} (Google Drive does "
                    f"so over its daily limit). Try later, or open it in a browser and put the "
                    f"file at {path}."
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
            f"WebShop's {path.name} could not be downloaded from {address}\n  {error}\n"
            f"  Without a connection: download it elsewhere, put it at {path}, and run the command "
            "again (it goes on where it stopped)."
        ) from None
    if rest and part.stat().st_size < have + rest:
        raise DataError(
            f"The download of {address} broke off at {part.stat().st_size} of {have + rest} bytes. "
            "Run the command again: it goes on where it stopped."
        )
    part.replace(path)


def check(products: Path) -> None:
    """Compare the products with those that the official task sets ask for."""
    found = {record.get("asin", str) for record in files.read_products(products)}
    absent = sorted({asin for asin, _ in official_goals().values()} - found)
    if absent:
        raise DataError(
            f"{products}: lacks {len(absent)} products of WebShop's 1000-product set (first: "
            f"{absent[0]}). Delete the file and fetch again."
        )

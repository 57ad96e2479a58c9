"""Gets the official 1000-product set: ``harness fetch webshop``."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from harness.errors import DataError
from harness.official import download, make_folder
from harness_envs.webshop import files
from harness_envs.webshop.tasksets import official_goals

#: Where the original's ``setup.sh`` gets its files: Google Drive, by number.
ADDRESS = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"


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
    make_folder(target)
    for source in sources:
        if not (target / source.name).is_file():
            download(address.format(id=source.id), target / source.name)
    check(target / sources[0].name)
    Console(stderr=True).print(
        f"WebShop's files are in {target}. Rewards need the nouns of the titles; write them once:\n"
        f"  pip install 'distill-harness[nouns]'\n  {files.NOUNS_COMMAND} {target}"
    )


def check(products: Path) -> None:
    """Compare the products with those that the official task sets ask for."""
    found = {record.get("asin", str) for record in files.read_products(products)}
    absent = sorted({asin for asin, _ in official_goals().values()} - found)
    if absent:
        raise DataError(
            f"{products}: lacks {len(absent)} products of WebShop's 1000-product set (first: "
            f"{absent[0]}). Delete the file and fetch again."
        )

"""Gets HotPotQA's official questions: ``harness fetch hotpotqa``."""

from __future__ import annotations

from pathlib import Path

from harness.errors import DataError
from harness.official import download, make_folder
from harness_envs.hotpotqa.data import OFFICIAL, read_split

#: The addresses that HotPotQA's own download script (download.sh) uses. No checksums are published.
SITE = "http://curtis.ml.cmu.edu/datasets/hotpot"
FILES = {
    "hotpot_dev_distractor_v1.json": "dev",
    "hotpot_dev_fullwiki_v1.json": "dev",
    "hotpot_train_v1.1.json": "train",
}


def fetch(target: Path, *, site: str = SITE) -> None:
    """Download the questions with their contexts into ``target``, going on where it stopped.

    Each file is read once and must hold as many questions with answers as the official split has.
    They are CC BY-SA 4.0 (hotpotqa.github.io); keep that with anything made of them. Raises
    DataError, which names address and remedy.
    """
    make_folder(target)
    for name, split in FILES.items():
        path = target / name
        if not path.is_file():
            download(f"{site}/{name}", path)
        found = len(read_split([path], split))
        if found != OFFICIAL[split]:
            raise DataError(
                f"{path} holds {found} questions, the official {split} split {OFFICIAL[split]}. "
                "Delete it and run the command again."
            )

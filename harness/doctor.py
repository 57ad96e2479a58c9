"""What works on this machine, and what to install for the rest."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from harness import registry
from harness.errors import HarnessError


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    fine: bool
    detail: str
    optional: bool = False


def diagnose(out: Path) -> Iterator[Finding]:
    """Look at everything a run could need."""
    good = sys.version_info >= (3, 11)
    yield Finding("Python", good, platform.python_version() + ("" if good else ": needs 3.11+"))
    yield _no_namesake()
    yield _writable(out)
    for what, error in registry.set_aside(*registry.GROUPS):
        yield Finding(f"entry point {what}", False, str(error))
    for name in sorted(registry.names("envs")):
        yield _environment(name)
    extras = {
        "models": ("torch", "transformers", "tokenizers", "safetensors"),
        "gguf": ("gguf",),
        "textworld": ("textworld", "alfworld"),
        "plots": ("matplotlib",),
        "nouns": ("spacy",),
    }
    for extra, packages in extras.items():
        absent = [p for p in packages if find_spec(p) is None]
        shown = ", ".join(f"{p} {version(p)}" for p in packages if p not in absent)
        detail = f"pip install 'distill-harness[{extra}]'" if absent else shown
        yield Finding(f"extra '{extra}'", not absent, detail, optional=True)
    for variable in ("HARNESS_DATA", "ALFWORLD_DATA", "HARNESS_MODELS"):
        value = os.environ.get(variable)
        if value is None:
            continue
        inside = [Path(value) / name for name in registry.names("envs")]
        empty = variable == "HARNESS_DATA" and not any(folder.is_dir() for folder in inside)
        why = f" holds no environment yet: `harness fetch ENV --to {value}/ENV`" if empty else ""
        there = Path(value).is_dir()
        yield Finding(variable, there and not empty, f"{value}{why}", optional=there)
    runnable = [n for n, c in registry.agent_configs().items() if registry.missing(c) is None]
    yield Finding("agents at hand", bool(runnable), ", ".join(sorted(runnable)))


def _no_namesake() -> Finding:
    """Another distribution called 'harness' installs modules over ours."""
    try:
        other = distribution("harness")
    except PackageNotFoundError:
        return Finding("package name", True, "no other package named 'harness' is installed")
    return Finding(
        "package name",
        False,
        f"the unrelated package 'harness' {other.version} is installed and shares our folder: "
        "pip uninstall harness && pip install --force-reinstall --no-deps distill-harness",
    )


def _writable(out: Path) -> Finding:
    folder = out if out.exists() else out.absolute().parent
    fine = folder.is_dir() and os.access(folder, os.W_OK)
    return Finding(
        "results folder",
        fine,
        f"{out}" if fine else f"{out} is no folder that can be written: use --out",
    )


def _environment(name: str) -> Finding:
    try:
        env = registry.env_class(name)()
        try:
            env.reset(seed=0)
        finally:
            env.close()
    except HarnessError as error:
        return Finding(f"environment '{name}'", False, str(error))
    except Exception as error:  # its package's own
        return Finding(f"environment '{name}'", False, f"{type(error).__name__}: {error}")
    return Finding(f"environment '{name}'", True, "starts on its built-in tasks")

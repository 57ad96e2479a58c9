"""Agent configs: TOML files decoded into frozen records; a misspelt key is refused by name."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from harness.errors import ConfigError, unknown

T = TypeVar("T")


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent by name: which policy (entry point in ``harness.agents``) with which options.

    ``options`` are the keywords of the policy's constructor, which checks them.
    """

    name: str
    policy: str
    description: str = ""
    role: str = "baseline"
    options: dict[str, Any] = {}


def load_toml(path: Path, type_: type[T], **overrides: Any) -> T:
    """Decode a TOML file into ``type_``; unknown keys and wrong types raise ConfigError."""
    try:
        raw = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    return convert({**raw, **overrides}, type_, str(path))


def read_text(path: Path) -> str:
    """A text that a user wrote. Raises ConfigError where it is absent or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")  # some editors mark it so
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 ({error}): save it as UTF-8.") from None


def convert(raw: dict[str, Any], type_: type[T], where: str) -> T:
    """Check a plain dict against a record type; the error names ``where`` and the key."""
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        known = [f.encode_name for f in msgspec.structs.fields(type_)]
        for key in raw:
            if key not in known:
                raise ConfigError(f"{where}: " + unknown("key", key, known))
    try:
        return msgspec.convert(raw, type_)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_choices(error, type_) or error}") from None


def _choices(error: msgspec.ValidationError, type_: Any) -> str | None:
    """Of a value that is none of its field's: which there are."""
    found = re.match(r"Invalid enum value '(.*)' - at `\$\.(\w+)`", str(error))
    if found is None:
        return None
    value, name = found.groups()
    parts = [get_type_hints(type_)[name]]
    for part in parts:  # a union's members, then a Literal's
        parts += get_args(part)
    return unknown(f"value of '{name}'", value, [p for p in parts if isinstance(p, str)])

"""Every error that leaves this package, and ``boundary``, which names the side that broke.

HarnessError
├── ConfigError         a name, option, recipe or config that cannot be used
├── MissingDependency   an extra is not installed (says the pip command)
├── DataError           data absent, damaged or of another version (says how to get it)
├── TraceError          a record that cannot be read (file:line and field)
└── EpisodeError        one episode failed; the run goes on and reports it
    ├── AgentError      the policy's code
    ├── BackendError    the model or its server
    └── EnvError        the environment
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate


class HarnessError(Exception):
    """Root of all errors raised on purpose; its text says who, where and what to do."""


class ConfigError(HarnessError):
    """A name, option, recipe or config that cannot be used."""


class MissingDependency(HarnessError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str, need: str, also: str = "") -> None:
        super().__init__(
            f"{need} needs the package '{package}', which is not installed.\n"
            f"  Install it with: pip install 'distill-harness[{extra}]'"
            + (f" && {also}" if also else "")
        )


class DataError(HarnessError):
    """Data that is absent, damaged, or not the version that was asked for."""


class TraceError(HarnessError):
    """A record that cannot be read; names file, line and field."""


class EpisodeError(HarnessError):
    """One episode failed. Recorded with outcome ``error``; never a score. It ends a run only where
    the first episodes all did."""


class AgentError(EpisodeError):
    """The policy's own code failed."""


class BackendError(EpisodeError):
    """The model, or the server that runs it, failed."""


class EnvError(EpisodeError):
    """The environment failed."""


@contextmanager
def boundary(side: type[EpisodeError], who: str) -> Iterator[None]:
    """Turn whatever breaks inside into ``side``, naming ``who``.

    Errors that already name their side pass unchanged, so the innermost boundary wins.
    ``KeyboardInterrupt`` and ``SystemExit`` are not faults of an episode and pass too.
    """
    try:
        yield
    except EpisodeError:
        raise
    except Exception as error:
        raise side(f"{who}: {type(error).__name__}: {error}") from error


def unknown(noun: str, name: str, known: Iterable[str], hint: str = "") -> str:
    """Text for an unknown name: the nearest ones first, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    text = f"Unknown {noun} '{name}'."
    if near:
        text += f" Did you mean {' or '.join(repr(n) for n in near)}?"
    room = accumulate(len(known) + 2 for known in names)
    shown = max(1, sum(used <= 800 for used in room))
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    text += f"\n  Known: {', '.join(names[:shown]) or '(none)'}{more}"
    return text + (f"\n  {hint}" if hint else "")

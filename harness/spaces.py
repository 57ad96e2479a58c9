"""A Gymnasium space of any Python string, also in vector environments."""

from __future__ import annotations

import ctypes
import string
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

from harness.errors import EnvError

#: Bytes of one observation in AsyncVectorEnv's shared memory.
SHARED_BYTES = 1 << 20


class StringSpace(gymnasium.spaces.Space[str]):
    """Any Python string. ``gymnasium.spaces.Text`` rejects spaces and most of Unicode."""

    def __init__(self, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(shape=(), dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        letters = string.ascii_lowercase + " []"
        return "".join(self.np_random.choice(list(letters), size=12))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return "StringSpace()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StringSpace)

    def __hash__(self) -> int:
        return hash(StringSpace)


# AsyncVectorEnv's shared memory: an observation is its length, then its UTF-8 bytes.


@create_shared_memory.register(StringSpace)
def _create(space: StringSpace, n: int = 1, ctx: Any = None) -> Any:
    sizes = ctx.Array(ctypes.c_int64, n)
    return sizes, ctx.Array(ctypes.c_char, n * SHARED_BYTES)


@write_to_shared_memory.register(StringSpace)
def _write(space: StringSpace, index: int, value: str, shared_memory: Any) -> None:
    sizes, buffer = shared_memory
    data = value.encode("utf-8", "surrogatepass")
    if len(data) > SHARED_BYTES:
        raise EnvError(
            f"An observation of {len(data)} bytes exceeds AsyncVectorEnv's shared memory "
            f"({SHARED_BYTES}): make the vector environment with shared_memory=False."
        )
    sizes[index] = len(data)
    start = index * SHARED_BYTES
    buffer[start : start + len(data)] = data


@read_from_shared_memory.register(StringSpace)
def _read(space: StringSpace, shared_memory: Any, n: int = 1) -> _Shared:
    sizes, buffer = shared_memory
    return _Shared(sizes, buffer, n)


class _Shared(Sequence[str]):
    """A live view, as Gymnasium expects of shared memory; copied, it is a tuple of strings."""

    def __init__(self, sizes: Any, buffer: Any, n: int) -> None:
        self._sizes, self._buffer, self._n = sizes, buffer, n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: Any) -> Any:
        places = range(self._n)[index]
        if isinstance(places, range):
            return tuple(self[place] for place in places)
        start = places * SHARED_BYTES
        raw = self._buffer[start : start + self._sizes[places]]
        return raw.decode("utf-8", "surrogatepass")

    def __deepcopy__(self, memo: Any) -> tuple[str, ...]:
        return tuple(self)

"""Keys and values of a batch of conversations, and of the conversations that may come back.

``Slots`` is the cache a model writes while a batch decodes: one row a conversation, stored from
column 0 on, so that column = position and nothing has to move when rows differ in length.
``Prefixes`` keeps finished rows: an episode's next prompt starts with its last one, so only what
is new has to be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

#: Columns to reserve at least, where there is memory for them.
SPARE = 512
Ids = np.ndarray[Any, np.dtype[np.int64]]


class Slots(Cache):  # type: ignore[misc]
    """A tensor ``[key|value, row, head, column, dim]`` a layer behind transformers' interface.

    ``aim`` says where the next forward pass writes; ``update`` is called by the model.
    """

    def __init__(self, layers: int, heads: int, dim: int, like: torch.Tensor) -> None:
        super().__init__(layers=[DynamicLayer() for _ in range(layers)])
        self.shape = (layers, heads, dim)
        self.data = [like.new_zeros((2, 0, heads, 0, dim)) for _ in range(layers)]
        #: Bytes of one token of one row.
        self.token_bytes = layers * 2 * heads * dim * like.element_size()

    @classmethod
    def of(cls, model: Any) -> Slots | None:
        """Slots of a model's own shape; None when its layers do not all keep plain keys/values."""
        probe = DynamicCache(config=model.config)
        ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
        model(input_ids=ids, past_key_values=probe, use_cache=True)
        shapes = {tuple(t.shape) for layer in probe.layers for t in _pair(layer)}
        if len(shapes) != 1 or any(type(layer) is not DynamicLayer for layer in probe.layers):
            return None
        ((_, heads, _, dim),) = shapes
        return cls(len(probe.layers), heads, dim, probe.layers[0].keys)

    @property
    def room(self) -> tuple[int, int]:
        """(rows, columns) there is memory for: in every layer, of which some may have grown when
        memory ran out."""
        return min(t.shape[1] for t in self.data), min(t.shape[3] for t in self.data)

    def reserve(self, rows: int, columns: int, keep: int = 0, most: int | None = None) -> None:
        """Make room; of the content only the first ``keep`` rows are sure to stay. Unwritten room
        is zero, never NaN. Room to spare is taken while all of it is at most ``most`` bytes.

        Grows layer by layer: beside the old room there is never more than one layer of the new.
        With nothing to keep, room four times too large is given back.
        """
        have_rows, have_columns = self.room
        if rows <= have_rows and columns <= have_columns:
            if keep or have_rows * have_columns <= 4 * rows * max(columns, SPARE):
                return
            have_rows = have_columns = 0
        wide = have_columns
        if columns > have_columns:
            wide = max(columns, have_columns * 3 // 2, SPARE)  # seldom, as prompts grow a little
        if most is None or max(rows, have_rows) * wide * self.token_bytes <= most:
            rows, columns = max(rows, have_rows), wide
        _, heads, dim = self.shape
        if not keep:
            self.clear()  # free the old room first
        for layer, old in enumerate(self.data):
            new = old.new_zeros((2, rows, heads, columns, dim))
            if keep:
                width = min(columns, old.shape[3])
                new[:, :keep, :, :width] = old[:, :keep, :, :width]
            self.data[layer] = new

    def clear(self) -> None:
        """Give all room back."""
        _, heads, dim = self.shape
        self.data = [old.new_zeros((2, 0, heads, 0, dim)) for old in self.data]

    def aim(self, first: int, columns: torch.Tensor, width: int) -> None:
        """Next pass: rows from ``first`` on, at ``columns`` [rows, tokens], reading ``width``."""
        rows = torch.arange(first, first + len(columns), device=columns.device)
        self._where = (rows[:, None], slice(None), columns)
        self._read = (slice(first, first + len(columns)), slice(None), slice(0, width))

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self.data[layer_idx]
        keys[self._where] = key_states.transpose(1, 2)
        values[self._where] = value_states.transpose(1, 2)
        return keys[self._read], values[self._read]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0  # positions and mask are always given; nothing may be derived from this

    def save(self, row: int, length: int) -> torch.Tensor:
        return torch.stack([layer[:, row, :, :length] for layer in self.data])

    def load(self, row: int, saved: torch.Tensor, length: int) -> None:
        for layer, part in zip(self.data, saved, strict=True):
            layer[:, row, :, :length] = part[:, :, :length]

    def move(self, source: int, target: int, length: int) -> None:
        for layer in self.data:
            layer[:, target, :, :length] = layer[:, source, :, :length]


def _pair(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.keys, layer.values


class Prefixes:
    """Keys and values of token sequences read before, the oldest out first.

    ``budget`` is in bytes; 0 keeps nothing. Used by the model's thread only.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._used = 0
        #: number -> (ids, how many of them were prompt, keys and values)
        self._kept: OrderedDict[int, tuple[Ids, int, torch.Tensor]] = OrderedDict()
        self._next = 0

    def match(self, ids: Ids) -> tuple[int, torch.Tensor | None, int]:
        """Longest stored beginning of ``ids``: its length, keys and values, and the number of the
        entry when ``ids`` goes on where that entry's reply began (-1 otherwise)."""
        best, found, number = 0, None, -1
        for key, (known, prompt, saved) in self._kept.items():
            shared = common([known, ids])
            if shared > best:
                best, found, number = shared, saved, key if shared >= prompt else -1
        return best, found, number

    def holds(self, number: int) -> bool:
        """Whether the entry of this number is still there."""
        return number in self._kept

    def put(self, ids: Ids, prompt: int, saved: torch.Tensor, replaces: int = -1) -> None:
        """Keep a sequence, ``prompt`` of its ids being prompt, in place of the one it continues."""
        self._drop(replaces)
        self._kept[self._next] = (ids, prompt, saved)
        self._next += 1
        self._used += saved.nbytes
        while self._used > self.budget:
            self._drop(next(iter(self._kept)))

    def _drop(self, number: int) -> None:
        entry = self._kept.pop(number, None)
        if entry is not None:
            self._used -= entry[2].nbytes


def common(sequences: Sequence[Ids]) -> int:
    """Length of the beginning that all sequences share."""
    first = sequences[0]
    length = min(len(s) for s in sequences)
    for other in sequences[1:]:
        differ = first[:length] != other[:length]
        at = int(differ.argmax()) if length else 0
        if length and differ[at]:
            length = at
    return length

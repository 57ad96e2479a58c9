"""Strings as a Gymnasium space, in the shared memory of vector environments too."""

from __future__ import annotations

import copy
import multiprocessing

import pytest
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import EnvError
from harness.spaces import SHARED_BYTES, StringSpace

SPACE = StringSpace()
PLACES = st.integers(-9, 9)
SLICES = st.slices(4)


@given(st.lists(st.text(), min_size=4, max_size=4), PLACES | SLICES)
@settings(max_examples=30, deadline=None)
def test_what_is_shared_reads_like_a_tuple(texts: list[str], asked: int | slice) -> None:
    memory = create_shared_memory(SPACE, 4, multiprocessing.get_context("spawn"))
    for place, text in enumerate(texts):
        write_to_shared_memory(SPACE, place, text, memory)
    view = read_from_shared_memory(SPACE, memory, 4)
    assert (copy.deepcopy(view), list(reversed(view))) == (tuple(texts), texts[::-1])
    try:
        expected = tuple(texts)[asked]
    except IndexError:
        with pytest.raises(IndexError):
            view[asked]
    else:
        assert view[asked] == expected


def test_what_does_not_fit_names_the_remedy() -> None:
    memory = create_shared_memory(SPACE, 1, multiprocessing.get_context("spawn"))
    with pytest.raises(EnvError, match="shared_memory=False"):
        write_to_shared_memory(SPACE, 0, "x" * (SHARED_BYTES + 1), memory)

"""Guessing ahead: what is guessed, when it is tried, and that no reply knows of it."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from harness_agents.backends.drafts import CONTEXTS, RECUR, SIZES, Drafts, Pace, recurring
from harness_agents.backends.hf import HFBackend
from harness_agents.checkpoints import locate
from tiny import WORDS, config, decision, save

from harness.policy import Decoding
from harness.transcript import render
from harness.types import Completion, Step

tokens = st.lists(st.integers(0, 2), max_size=60)


@given(tokens)
def test_a_guess_is_what_followed_the_last_time(known: list[int]) -> None:
    tail, expected = known[-RECUR:], list[int]()
    for end in range(RECUR, len(known)):
        if len(known) >= RECUR and known[end - RECUR : end] == tail:
            expected = known[end : end + SIZES[-1]]
    assert recurring(np.array(known, dtype=np.int64)) == expected


@given(st.lists(st.integers(0, 5), min_size=CONTEXTS[0], max_size=80), st.integers(1, 8))
def test_what_was_said_once_is_guessed_again(said: list[int], most: int) -> None:
    """A text of which every longest context is followed by one token only is told to its end."""
    drafts, size = Drafts(), CONTEXTS[0]
    numbered = [*range(100, 100 + size), *said]
    drafts.learn(numbered, size)
    follows: dict[tuple[int, ...], set[int]] = {}
    for at in range(size, len(numbered)):
        follows.setdefault(tuple(numbered[at - size : at]), set()).add(numbered[at])
    if any(len(after) > 1 for after in follows.values()):
        return
    got = drafts.guess(np.array(numbered[:size], dtype=np.int64), most)
    assert got == said[:most]


def test_the_majority_is_guessed_and_memory_is_bounded() -> None:
    drafts = Drafts(kept=200)
    context = list(range(10, 18))
    for token in (1, 2, 1, 1, 2):
        drafts.learn([*context, token], len(context))
    assert drafts.guess(np.array(context), 1) == [1]
    for _ in range(2):
        drafts.learn([*context, 2], len(context))
    assert drafts.guess(np.array(context), 1) == [2]
    rng = np.random.default_rng(0)
    for _ in range(50):
        drafts.learn(rng.integers(0, 10**6, 60).tolist(), 8)
        assert len(drafts._next) <= 200 + 52 * len(CONTEXTS)


@pytest.mark.parametrize(("pays", "most"), [(True, 8), (False, 8), (False, 0)])
def test_the_pace_goes_on_with_what_pays(pays: bool, most: int) -> None:
    """A pass of 1 ms that gives 1 token or 1 for each guess, or costs 1 ms more for each guess."""
    now = 0.0
    pace, taken = Pace(most, lambda: now), Counter[int]()
    for _ in range(80):
        size = pace.start()
        now += 0.001 if pays else 0.001 * (1 + size)
        pace.end(1 + size if pays else 1)
        taken[size] += 1
    assert set(taken) <= {size for size in SIZES if size <= most}
    assert taken.most_common(1)[0][0] == (most if pays else 0)


def test_the_pace_finds_out_when_guesses_begin_to_pay() -> None:
    now, sizes = 0.0, list[int]()
    pace = Pace(8, lambda: now)
    for n in range(400):
        size = pace.start()
        now += 0.001 * (1 if n >= 100 else 1 + size)
        pace.end(1 + size if n >= 100 else 1)
        sizes.append(size)
    assert (Counter(sizes[50:100]).most_common(1)[0][0], sizes[-2]) == (0, 8)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("temperature", [0.0, 0.3])
@pytest.mark.parametrize("admissible", [False, True])
def test_guessing_takes_fewer_passes_and_changes_no_reply(
    kind: str, temperature: float, admissible: bool, tmp_path: Path
) -> None:
    """Everything is asked twice, so that there is something to guess. In float64 nothing is lost
    to rounding."""
    torch.manual_seed(0)
    folder = save(tmp_path, transformers_model(kind))
    asked = [
        render(
            f"Task: say {word} {i}.\n",
            [Step(f"Seen {word}.", decision(word, n)) for n in range(i % 4)],
            f"Say {word}.",
        )
        for i, word in enumerate(WORDS * 3)
    ]
    actions = [f"say {word}" for word in WORDS] if admissible else []

    def play(guess: bool) -> tuple[list[Completion], int]:
        passes = 0

        def count(*_: Any) -> None:
            nonlocal passes
            passes += 1

        backend = HFBackend(locate(str(folder)), batch_size=4, guess=guess)
        backend.model.double()
        backend._batch.slots.data = [layer.double() for layer in backend._batch.slots.data]
        try:
            backend.model.register_forward_pre_hook(count)
            decoding = Decoding(temperature=temperature, max_new_tokens=40)
            with ThreadPoolExecutor(len(asked)) as pool:
                twice = [*range(len(asked))] * 2
                replies = pool.map(
                    lambda i: backend.complete(asked[i], decoding, i, actions), twice
                )
                return list(replies), passes
        finally:
            backend.close()

    plain, slow = play(guess=False)
    guessed, fast = play(guess=True)
    assert [r.ids for r in guessed] == [r.ids for r in plain]
    assert [r.text for r in guessed] == [r.text for r in plain]
    assert fast < slow


def transformers_model(kind: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(config(kind))

"""Checkpoints for the tests of the local backend, and what transformers itself replies."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.policy import Decoding
from harness.transcript import Segment, render
from harness.types import Completion, Step

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")

import torch
from harness_agents.backends.hf import HFBackend
from harness_agents.checkpoints import locate
from tiny import (
    HEADER,
    WORDS,
    config,
    decision,
    fit,
    make_tokenizer,
    opening,
    save,
    transcript,
)
from transformers import AutoModelForCausalLM

Blocks = list[list[Segment]]


def new_model(kind: str, folder: Path) -> Path:
    """A checkpoint whose weights are as they were drawn."""
    torch.manual_seed(0)
    return save(folder, AutoModelForCausalLM.from_config(config(kind)))


def echo_player(folder: Path) -> Path:
    """A tiny Llama that has learned to play Echo: a real model that stops by itself."""
    tokenizer = make_tokenizer().backend_tokenizer
    rows = [
        [
            i
            for b in render(opening(w), transcript(w))
            for s in b
            for i in tokenizer.encode(s.text).ids
        ]
        + [0]  # then EOS
        for w in WORDS
    ]
    fit(folder, rows)
    (folder / "harness.json").write_text(
        json.dumps({"header": HEADER, "window": 400, "max_new_tokens": 48, "recipe": "x"})
    )
    return folder


@contextmanager
def backends() -> Iterator[Callable[..., HFBackend]]:
    """Opens backends, which are closed at the end."""
    with ExitStack() as opened:

        def open_(folder: Path, **options: Any) -> HFBackend:
            backend = HFBackend(locate(str(folder)), **options)
            opened.callback(backend.close)
            return backend

        yield open_


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def completions(
    backend: HFBackend, prompts: list[Blocks], decoding: Decoding, seeds: list[int] | None = None
) -> list[Completion]:
    """All prompts at once, each from its own thread."""
    seeds = seeds or [0] * len(prompts)
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda p, s: backend.complete(p, decoding, s), prompts, seeds))


def prompts(count: int, steps: int, seed: int = 0) -> list[Blocks]:
    """Transcripts of varied length, some sharing a long beginning."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        history = [
            Step(
                f"Seen {' '.join(rng.choices(WORDS, k=rng.randint(1, 14)))}.",
                decision(rng.choice(WORDS), rng.randint(0, 9)),
            )
            for _ in range(rng.randint(0, steps))
        ]
        header = f"Task: say {rng.choice(WORDS)} {i}.\n"
        found.append(render(header, history, "Say " + " ".join(rng.choices(WORDS, k=1 + i))))
    return found


def generated(model: Any, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """transformers' own greedy reply to one prompt, and by how much each token led."""
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    top = [logits[0].float().topk(2).values for logits in out.logits]
    return out.sequences[0, len(ids) :].tolist(), [float(t[0] - t[1]) for t in top]


def same_until_tie(found: tuple[int, ...], expected: list[int], lead: list[float]) -> bool:
    """Equal, or differing first where the two best logits are closer than rounding."""
    for got, want, by in zip(found, expected, lead, strict=False):
        if got != want:
            return by < 1e-4
    return len(found) == len(expected)

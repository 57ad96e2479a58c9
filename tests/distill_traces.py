"""Episodes for the distillation tests: a small household told by a fixed rule, seeded."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from harness.types import Completion, Decision, Episode, Outcome, Step, Task

THINGS = ("mug", "apple", "pen", "book", "plate", "key")
PLACES = ("desk", "shelf", "fridge", "drawer", "table", "sink")
HEADER = "Task: {instruction}\n"


def episode(seed: int, *, steps: int | None = None, sampled: bool = False) -> Episode:
    """A search for a thing: won, with reasoning, sometimes with an injected slip."""
    rng = random.Random(seed)
    thing, place = rng.choice(THINGS), rng.choice(PLACES)
    n = steps or rng.randint(2, 7)
    taken = []
    for i in range(n):
        where = f"{rng.choice(PLACES)} {rng.randint(1, 12)}"
        observation = f"You see a {rng.choice(THINGS)} {i}.\nAction: look"
        reasoning = f"I need a {thing}. It may be on the {where}." if rng.random() < 0.9 else ""
        action = f"go to {where}" if i < n - 1 else f"move {thing} 1 to {place} {seed % 40}"
        completion = None
        if sampled and i % 2:
            text = f"Reasoning: {reasoning}\nReasoning: really\nAction: {action}"
            completion = Completion(text=text)
        decision = Decision(reasoning, action, completion, injected=rng.random() < 0.1)
        taken.append(Step(observation, decision))
    return Episode(
        task=Task("alfworld", "train", f"train/toy-{thing}-{seed % 50}/trial_{seed}"),
        agent="toy",
        instruction=f"put a {thing} in {place}.",
        steps=tuple(taken),
        final_observation="Done.",
        success=True,
        score=1.0,
        outcome=Outcome.DONE,
    )


def record(path: Path, count: int, first: int = 0) -> Path:
    """A run's episodes.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [msgspec.json.encode(episode(first + i)) + b"\n" for i in range(count)]
    path.write_bytes(b"".join(lines))
    return path


EPISODES = [episode(i, sampled=i % 3 == 0) for i in range(60)]
SIZES = "layers = 2\nhidden = 32\nheads = 2"
RECIPE = """
name = "tiny"
[student]
{student}
window = 512
[tokenizer]
vocab = 400
[data]
heldout = 0.1
[optim]
steps = {steps}
lr = 5e-3
warmup = 5
rows = 2
row_tokens = 1024
threads = 1
checkpoint_minutes = 0
eval_every = 10
"""


def recipe(folder: Path, more: str = "", steps: int = 20, student: str = SIZES) -> Path:
    path = folder / "tiny.toml"
    path.write_text(RECIPE.format(steps=steps, student=student) + more, encoding="utf-8")
    return path

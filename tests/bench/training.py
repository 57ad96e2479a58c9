"""Training speed on this machine: tokens/s of whole optimizer steps, one process a cell.

    python tests/bench/training.py                      # the table of sizes x precision x compile
    python tests/bench/training.py --size 3M --threads 2 --precision bf16 --attention sdpa

Random tokens in documents of 300-1,200, 45 % of the targets supervised, rows of 8,192. The median
of the timed steps is shown with the best: other processes can only slow a step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SIZES = {"3M": (4, 256, 4, 576), "3M-deep": (8, 192, 6, 416), "1M": (4, 128, 4, 336)}


def measure(
    size: str,
    threads: int,
    precision: str,
    compiled: bool,
    attention: str,
    loss: str,
    vocab: int,
    tokens: int,
    steps: int,
) -> dict[str, object]:
    import numpy as np
    import torch
    from harness_distillation import models, optimizers
    from harness_distillation.dataset import Samples, make_row
    from harness_distillation.losses import Live, class_weights, span_loss
    from harness_distillation.recipe import Optim, Student
    from harness_distillation.teacher_cache import distribution
    from harness_distillation.tokenizer import class_of

    torch.set_num_threads(threads)
    layers, hidden, heads, intermediate = SIZES[size]

    class Tokens:
        eos_token_id, pad_token_id = 0, 1

        def __len__(self) -> int:
            return vocab

    student = Student(layers=layers, hidden=hidden, heads=heads, intermediate=intermediate)
    model = models.build(student, Tokens(), 0)
    model.train()
    models.isolate_documents(model, torch.device("cpu"))
    if attention == "sdpa":
        model.set_attn_implementation("sdpa")
    optimizer = optimizers.build(model, Optim())
    body, head = models.body_and_head(model)
    if compiled:
        body = models.compile_body(body)
    live = None
    if loss == "live":
        live = models.build(Student(layers=8, hidden=512, heads=8), Tokens(), 1)
        models.isolate_documents(live, torch.device("cpu"))

    rng = np.random.default_rng(0)
    lengths = []
    while sum(lengths) < tokens:
        lengths.append(min(int(rng.integers(300, 1200)), tokens - sum(lengths)))
    kinds = (rng.random(tokens) < 0.45).astype(np.int8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    kinds[offsets[:-1]] = 0
    samples = Samples.make(
        rng.integers(0, vocab, tokens).astype(np.int32), kinds, offsets, np.arange(len(lengths))
    )
    row = make_row(samples, range(len(lengths)), class_of("span"), tokens, 1)
    cache = None
    if loss == "cached":
        cache = distribution(torch.randn(int(kinds.sum()), vocab) * 4, row.targets, 64)
    weights = class_weights(
        torch.bincount(row.labels, minlength=4), {"reason": 1, "act": 1, "format": 1}, "token"
    )

    def step() -> float:
        begun = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            signal = None
            if live is not None:
                teacher, teacher_head = models.body_and_head(live)
                with torch.no_grad():
                    states = models.hidden_states(teacher, row.ids, row.positions, row.bounds)
                signal = Live(states[0, row.at], teacher_head)
            elif cache is not None:
                signal = cache.pick(row.cached)
            states = models.hidden_states(body, row.ids, row.positions, row.bounds)
            parts = span_loss(states[0, row.at], head, row.targets, row.labels, weights, signal)
        torch.autograd.backward(parts.loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begun

    step()
    step()
    seconds = [step() for _ in range(steps)]
    parameters = sum(p.numel() for p in model.parameters())
    speed = tokens / statistics.median(seconds)
    return {
        "size": size,
        "parameters": parameters,
        "threads": threads,
        "precision": precision,
        "compile": compiled,
        "attention": attention,
        "loss": loss,
        "vocab": vocab,
        "tokens_per_s": round(speed),
        "best": round(tokens / min(seconds)),
        "gflops": round(6 * parameters * speed / 1e9, 1),
        "load": round(os.getloadavg()[0], 1),
    }


GRID = [
    *(
        f"--size {size} --threads {threads} --precision {precision}"
        for size in ("3M", "1M")
        for threads in (1, 2)
        for precision in ("fp32", "bf16")
    ),
    "--size 3M --threads 2 --precision bf16 --compile",
    "--size 1M --threads 2 --precision bf16 --compile",
    "--size 3M --threads 2 --precision bf16 --attention sdpa",
    "--size 3M-deep --threads 2 --precision bf16",
    "--size 1M --threads 2 --precision bf16 --loss cached",
    "--size 1M --threads 2 --precision bf16 --loss live",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=SIZES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--attention", choices=("documents", "sdpa"), default="documents")
    parser.add_argument("--loss", choices=("ce", "cached", "live"), default="ce")
    parser.add_argument("--vocab", type=int, default=896)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--steps", type=int, default=5)
    given = parser.parse_args()
    if given.size:
        cell = measure(
            given.size, given.threads, given.precision, given.compile, given.attention, given.loss,
            given.vocab, given.tokens, given.steps,
        )  # fmt: skip
        print(json.dumps(cell))
        return
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    for arguments in GRID:
        command = [sys.executable, __file__, *arguments.split(), "--steps", str(given.steps)]
        subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()

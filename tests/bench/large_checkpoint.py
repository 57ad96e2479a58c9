"""A checkpoint folder of GPT-2 large's shape (774M, random weights) made on the spot plays.

    python tests/bench/large_checkpoint.py [--steps 2]

Prints seconds and peak memory of making, loading and playing one episode through
``--agent FOLDER``. Needs about 3 GB of disk and 8 GB of memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from harness_distillation import tokenizer as tokenizers
from transformers import GPT2Config, GPT2LMHeadModel

import harness


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        traces = harness.evaluate(
            "expert", "alfworld", tasks="builtin-dev[:50]", out=root / "traces", kind="collect"
        )
        start = time.perf_counter()
        header = "Task: {instruction}\n"
        tokenizer = tokenizers.train(list(traces.episodes()), header, 1024)
        shape = GPT2Config(vocab_size=50257, n_embd=1280, n_layer=36, n_head=20)
        with torch.device("cpu"):
            model = GPT2LMHeadModel(shape)
        model.save_pretrained(root / "large")
        tokenizer.save_pretrained(root / "large")
        size = sum(p.numel() for p in model.parameters())
        del model
        made = time.perf_counter()
        run = harness.evaluate(
            str(root / "large"), "alfworld", tasks="builtin-dev[:1]", out=root, max_steps=steps
        )
        played = time.perf_counter()
        (episode,) = run.episodes()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{size / 1e6:.0f}M parameters: made in {made - start:.0f} s,")
        print(f"loaded and played {len(episode.steps)} steps in {played - made:.0f} s")
        print(f"({episode.outcome}), peak memory {peak:.1f} GiB")


if __name__ == "__main__":
    main()

"""One rank of several under torchrun: trains each recipe named, sums gradients of its own, meets
a loss that is no number, and parts from the others.

torchrun --nproc-per-node 2 tests/ranks_worker.py FOLDER OUT=RECIPE ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from harness_distillation import ranks, recipe, stages, teacher_cache, tokenizer
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import Samples
from harness_distillation.train import Corpus, Diverged, train

#: Bytes of a bucket, and shapes of gradients: several fill it together, two are larger than it.
MOST = 4000
SHAPES = [(3, 5), (700,), (290,), (1,), (2000,), (40, 25), (7,)]


def gradients(rank: int) -> list[torch.nn.Parameter]:
    """Parameters with gradients drawn for a rank; one has none on the second, one lies across."""
    g = torch.Generator().manual_seed(rank)
    held = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for i, p in enumerate(held):
        drawn = torch.randn(p.shape, generator=g)
        if i == 5:
            drawn = torch.randn(p.shape[::-1], generator=g).T
        p.grad = None if (i, rank) == (2, 1) else drawn
    return held


def diverge(folder: Path, data: Path, path: Path, us: ranks.Ranks) -> None:
    """Train on a teacher's cache that is broken at a sample which the second rank reads; write
    the samples of its row, and the error that this rank ends with."""
    loaded = recipe.load(str(path), {"objective": {"curriculum": "random"}})
    tok, samples = tokenizer.load(data / "tokenizer"), Samples.load(data / "samples.npz")
    every = np.arange(len(samples.lengths))
    n = int(samples.taught[-1])
    logits = torch.randn(n, len(tok), generator=torch.Generator().manual_seed(0))
    cache = teacher_cache.distribution(logits, torch.zeros(n, dtype=torch.int64), 4)
    optim = loaded.optim
    sampler = Sampler(samples, every, loaded.objective, loaded.seed, rows=optim.rows,
                      row_tokens=optim.row_tokens, steps=optim.steps)  # fmt: skip
    others, read = sampler.rows(0)
    bad = next(s for s in read if s not in others)
    cache.logp[samples.taught[bad] : samples.taught[bad + 1]] = np.nan
    corpus = Corpus(samples, every, every[:0], samples.hash)
    try:
        train(loaded, "h", corpus, tok, folder / "broken", {}, cache=cache, ranks=us, quiet=True)
    except Diverged as error:
        text = f"{' '.join(map(str, sorted(set(read))))}\n{error}"
        (folder / f"broken-{us.rank}.txt").write_text(text)


def threads() -> list[str]:
    """Names of this process's threads that belong to the group, where the system tells them."""
    tasks = Path("/proc/self/task")
    names = [(t / "comm").read_text().strip() for t in tasks.iterdir()] if tasks.is_dir() else []
    return [name for name in names if "gloo" in name]


def main(folder: str, *given: str) -> None:
    us = ranks.current()
    torch.set_num_threads(1)
    for pair in given:
        out, path = pair.split("=")
        stages.distill(recipe.load(path), Path(out), quiet=True)
    held = gradients(us.rank)
    us.sum_gradients(held, MOST)
    torch.save([p.grad for p in held], Path(folder) / f"summed-{us.rank}.pt")
    one = Path(folder) / "one" / "sum" / "training" / "data"
    diverge(Path(folder), one, Path(folder) / "sum.toml", us)
    joined = threads()
    ranks.leave()
    (Path(folder) / f"threads-{us.rank}.json").write_text(json.dumps([joined, threads()]))


if __name__ == "__main__":
    main(*sys.argv[1:])

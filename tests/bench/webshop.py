"""WebShop: start-up, steps per second, memory; with --products, search at the full shop's size.

    python tests/bench/webshop.py --data FOLDER [--nouns FILE]     # the 1000-product set
    python tests/bench/webshop.py --products 1000000 --keep FOLDER # a generated corpus, minutes

Nothing is asserted. The original's figures (one process with its JVM, 1000 products, two shared
cores) were recorded, not taken in this run: it needs Java and Lucene.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from harness_envs.webshop import WebShopEnv
from harness_envs.webshop.search import build

#: Seconds to start, steps per second, resident megabytes of the original.
ORIGINAL = (1.3, 33.0, 451.0)

_START = """
import time; begin = time.perf_counter()
import resource
from harness_envs.webshop import WebShopEnv
env = WebShopEnv(**{keywords!r})
env.reset(options={{"split": {split!r}, "index": 0}})
first = time.perf_counter() - begin
env.step("search[red shirt]")
searched = time.perf_counter() - begin
for action in ("click[next >]", "click[< prev]", "click[back to search]"):
    env.step(action)
print(first, searched, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def start_up(keywords: dict[str, str], split: str, runs: int) -> tuple[float, float, float, float]:
    """Medians of fresh processes: whole process, to the first observation, to the first result
    page (seconds), and peak resident memory (MB)."""
    found = []
    for _ in range(runs):
        begin = time.perf_counter()
        code = _START.format(keywords=keywords, split=split)
        answer = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        whole = time.perf_counter() - begin
        found.append((whole, *map(float, answer.stdout.split())))
    columns = zip(*found, strict=True)
    whole, first, searched, memory = (statistics.median(column) for column in columns)
    return whole, first, searched, memory


def steps_per_second(env: WebShopEnv, split: str, episodes: int) -> tuple[float, float]:
    """(with a new search every sixth step, without any) over the same products."""
    ids = list(env.task_ids(split))[:episodes]
    searched = looked = 0.0
    n_searched = n_looked = 0
    for number, task_id in enumerate(ids):
        _, info = env.reset(options={"task_id": task_id})
        query = f"{' '.join(info['instruction'].split()[:10])} {number}"  # never asked before
        walk = [f"search[{query}]"]
        begin = time.perf_counter()
        *_, info = env.step(walk[0])
        searched += time.perf_counter() - begin
        product = info["clickables"][-1]
        rest = [f"click[{product}]", "click[description]", "click[< prev]", "click[features]"]
        rest.append("click[< prev]")
        begin = time.perf_counter()
        for action in rest:
            env.step(action)
        spent = time.perf_counter() - begin
        searched, looked = searched + spent, looked + spent
        n_searched, n_looked = n_searched + 1 + len(rest), n_looked + len(rest)
    return n_searched / searched, n_looked / looked


def corpus(products: int, vocabulary: int, seed: int = 7) -> Iterator[tuple[str, str]]:
    """(asin, text): Zipf-distributed made-up words, lengths like the real products' (mean 108)."""
    rng = np.random.default_rng(seed)
    consonants, vowels = np.array(list("bcdfghjklmnprstvw")), np.array(list("aeiou"))
    syllables = np.char.add(rng.choice(consonants, 85), rng.choice(vowels, 85))
    lengths = rng.integers(2, 6, vocabulary)
    parts = rng.integers(0, 85, (vocabulary, 6))
    words = [
        "".join(syllables[row[:length]]) + ("" if n < 2000 else str(n))
        for n, (row, length) in enumerate(zip(parts, lengths, strict=True))
    ]
    weights = 1.0 / np.arange(1, vocabulary + 1)
    edges = np.cumsum(weights / weights.sum())
    for start in range(0, products, 10_000):
        count = min(10_000, products - start)
        sizes = np.clip(rng.lognormal(4.4, 0.75, count), 8, 1500).astype(int)
        drawn = np.searchsorted(edges, rng.random(int(sizes.sum())))
        at = 0
        for number, size in enumerate(sizes):
            text = " ".join([words[min(i, vocabulary - 1)] for i in drawn[at : at + size]])
            at += size
            yield f"B{start + number:09d}", text


def at_scale(products: int, vocabulary: int, folder: Path, queries: int) -> None:
    name = folder / f"index-{products}-{vocabulary}"
    fresh = not (name / "index.json").is_file()
    begin = time.perf_counter()
    index = build(corpus(products, vocabulary), name)
    spent = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in name.iterdir())
    print(
        f"{len(index):,} documents, mean length {index.average_length:.1f}, "
        f"{len(index.starts) - 1:,} terms, {len(index.docs):,} postings; on disk "
        f"{size / 2**30:.2f} GiB; {'built in' if fresh else 'opened in'} {spent:.1f} s"
    )
    rng = np.random.default_rng(11)
    texts = corpus(10_000, vocabulary, seed=7)
    documents = [text.split() for _, text in texts]
    for label, low, high in (("short (2-5 words)", 2, 6), ("instruction (12-25 words)", 12, 26)):
        taken, found = [], 0
        for _ in range(queries):
            words = documents[rng.integers(len(documents))]
            size_ = int(rng.integers(low, high))
            query = " ".join(rng.choice(words, size_))
            begin = time.perf_counter()
            found += len(index.hits(query, 50))
            taken.append(1e3 * (time.perf_counter() - begin))
        p50, p95 = np.percentile(taken, [50, 95])
        print(f"  {label}: p50 {p50:.1f} ms, p95 {p95:.1f} ms, {found / queries:.0f} hits")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak resident memory of this process, mapped pages included: {memory:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="builtin")
    parser.add_argument("--nouns", default="")
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--products", type=int, default=0, help="search this many generated ones")
    parser.add_argument("--vocabulary", type=int, default=300_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--keep", type=Path, default=Path("/tmp/webshop-bench"))
    arguments = parser.parse_args()
    if arguments.products:
        at_scale(arguments.products, arguments.vocabulary, arguments.keep, arguments.queries)
        return
    split = "valid" if arguments.data == "builtin" else "synthetic"
    keywords = {"data": arguments.data} | ({"nouns": arguments.nouns} if arguments.nouns else {})
    whole, first, searched, memory = start_up(keywords, split, arguments.runs)
    env = WebShopEnv(**keywords)  # type: ignore[arg-type]
    env.reset(options={"split": split, "index": 0})
    env.step("search[warm up]")
    mixed, plain = steps_per_second(env, split, arguments.episodes)
    seconds, steps, megabytes = ORIGINAL
    print(f"data {arguments.data}; the original's recorded figure and the ratio in brackets")
    print(f"start to first observation  {first:.2f} s   ({seconds} s, x{seconds / first:.1f})")
    print(f"  to first result page      {searched:.2f} s; whole process {whole:.2f} s")
    print(f"steps/s, every sixth searches {mixed:>8.0f}   ({steps:.0f}, x{mixed / steps:.0f})")
    print(f"steps/s without search        {plain:>8.0f}   ({steps:.0f}, x{plain / steps:.0f})")
    print(f"peak resident memory        {memory:.0f} MB   ({megabytes:.0f} MB)")


if __name__ == "__main__":
    main()

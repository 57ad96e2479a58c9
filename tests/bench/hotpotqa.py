"""HotPotQA on local pages: start-up, steps per second, memory, at 17 thousand pages and a million.

    python tests/bench/hotpotqa.py [--data FOLDER] [--pages 1000000] [--index FOLDER]

Nothing is asserted. ``--data`` (default: HARNESS_DATA's hotpotqa) is the real set; the million
pages have generated titles and are indexed once in ``--index`` (default: a temporary folder), in a
process of its own, so that every memory figure is of one thing.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness_envs.hotpotqa import HotPotQAEnv
from harness_envs.hotpotqa.corpus import Corpus, ensure_index
from harness_envs.hotpotqa.env import LocalPages
from harness_envs.hotpotqa.records import Page

SYLLABLES = ("ba", "ri", "ton", "mel", "dor", "sha", "kin", "ver", "lo", "na", "pe", "stra", "gu",
             "wick", "ham", "ler", "qui", "zen", "fo", "ty")  # fmt: skip
COMMON = ("The", "of", "film", "album", "County", "University", "Station", "River", "2008",
          "season", "football", "in", "School")  # fmt: skip


def titles(count: int) -> Iterator[str]:
    """Made-up titles of one to four words; common words are as common as in real ones."""
    rng = random.Random(1)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(2, 4))).title() for _ in range(60_000)]
    for number in range(count):
        title = rng.choices(words, k=rng.randint(1, 3))
        if rng.random() < 0.5:
            title.insert(rng.randrange(len(title) + 1), rng.choice(COMMON))
        yield " ".join(title) + (f" {number}" if rng.random() < 0.1 else "")


def pages(count: int) -> Iterator[Page]:
    text = "It is a thing of its kind. It was first told of in 1901. Nobody knows more about it."
    return (Page(title, (f"{title} is the subject. {text}",)) for title in titles(count))


def memory() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def quantiles(times: Sequence[float]) -> str:
    ordered = sorted(times)
    half, most = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.95)]
    return f"p50 {half * 1e3:7.3f} ms  p95 {most * 1e3:7.3f} ms  (n = {len(ordered)})"


def measure(corpus: Corpus, count: int) -> None:
    """Searches that hit, and that miss: a title cut short, a word too many, words of two titles."""
    rng = random.Random(2)
    place = LocalPages(corpus)
    found = [corpus.page(rng.randrange(len(corpus))).title for _ in range(count)]
    misses = [
        (title[:-1], f"{title} film", f"{title.split()[0]} {found[-i].split()[-1]}")[i % 3]
        for i, title in enumerate(found)
    ]
    for name, asked in (("exact title", found), ("similar titles", misses)):
        times = []
        for entity in asked:
            begin = time.perf_counter()
            place.search(entity)
            times.append(time.perf_counter() - begin)
        print(f"  {name:<15} {quantiles(times)}")


def play(env: HotPotQAEnv, count: int) -> None:
    """The oracle's actions, a lookup after each search."""
    steps, spent = 0, 0.0
    ids = list(env.task_ids(env.default_split))[:count]
    for task_id in ids:
        _, info = env.reset(options={"task_id": task_id})
        actions = [a for action in info["solution"] for a in (action, "lookup[the]")]
        begin = time.perf_counter()
        for action in actions:
            env.step(action)
        spent += time.perf_counter() - begin
        steps += len(actions)
    print(f"  oracle's steps  {steps / spent:,.0f} a second (n = {steps}, {len(ids)} episodes)")


def real(data: str) -> None:
    begin = time.perf_counter()
    env = HotPotQAEnv(data=data, reveal=True)
    env.reset(seed=0)
    print(f"data at hand: start-up {time.perf_counter() - begin:.2f} s, {memory():.0f} MB")
    play(env, 200)
    measure(env.corpus(env.default_split), 300)


def million(folder: Path, count: int) -> None:
    if not folder.exists():
        begin = time.perf_counter()
        ensure_index(pages(count), folder)
        print(f"{count:,} pages: built in {time.perf_counter() - begin:.0f} s, {memory():.0f} MB")
        return
    begin = time.perf_counter()
    corpus = Corpus.open(folder)
    LocalPages(corpus).search("The first search maps the files")
    print(f"{len(corpus):,} pages: start-up {time.perf_counter() - begin:.3f} s")
    measure(corpus, 600)
    print(f"  memory          {memory():.0f} MB (mapped files included)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = os.environ.get("HARNESS_DATA")
    parser.add_argument("--data", default=str(Path(default) / "hotpotqa") if default else "builtin")
    parser.add_argument("--pages", type=int, default=1_000_000)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--only", choices=("real", "million"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only == "real":
        real(arguments.data)
    elif arguments.only == "million":
        million(arguments.index, arguments.pages)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            index = arguments.index or Path(temporary) / "index"
            for only in ("real", "million", "million"):
                command = [sys.executable, __file__, "--only", only, "--data", arguments.data,
                           "--pages", str(arguments.pages), "--index", str(index)]  # fmt: skip
                subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

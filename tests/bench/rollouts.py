"""Episodes a minute of the local backend against transformers' ``generate``, in one run.

    python tests/bench/rollouts.py [--agent teacher-tiny] [--episodes 16] [--steps 12] [--threads 1]

The same tasks with the same weights and greedy replies, three ways:

    alone      one episode at a time, the whole prompt read each step
    lock-step  batches of 16 episodes, each step one left-padded ``generate`` that ends with its
               slowest row
    backend    all episodes at once through ``HFBackend``

Prints the ratios, tokens, where the backend's time goes, how near its decoding comes to this
machine's memory bandwidth, and how many episodes had the same actions. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the ReAct policy does, before torch

import msgspec
import torch
from harness_agents.backends.hf import HFBackend
from harness_agents.react import ReActPolicy
from transformers import AutoModelForCausalLM, StoppingCriteria

from harness import registry
from harness.loop import play_episode
from harness.policy import Decoding, Policy
from harness.protocol import Protocol
from harness.transcript import Segment, join, split_reply
from harness.types import Completion, Episode, Task


class Stop(StoppingCriteria):  # type: ignore[misc]
    """Each row by the backend's own rule: the action line ended."""

    def __init__(self, backend: HFBackend, prompts: Sequence[list[int]]) -> None:
        self.backend, self.prompts = backend, prompts
        self.width = max(map(len, prompts))

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        rows = input_ids[:, self.width :].tolist()
        return torch.tensor(
            [
                bool(self.backend._replies.ended(prompt[-1], ids))
                for prompt, ids in zip(self.prompts, rows, strict=True)
            ]
        )


class Generate:
    """``harness.policy.Backend`` over ``generate``: waits until every live episode has asked."""

    def __init__(self, backend: HFBackend, model: Any, live: int) -> None:
        self.backend, self.model, self.live = backend, model, live
        self.asked: list[tuple[list[int], int, Future[Completion]]] = []
        self.lock = threading.Lock()
        self.seconds = 0.0

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        prompt, _ = self.backend.prompt(blocks, decoding.max_new_tokens)
        future: Future[Completion] = Future()
        with self.lock:
            self.asked.append((prompt, decoding.max_new_tokens, future))
            self.generate()
        return future.result()

    def leave(self) -> None:
        """One episode less to wait for."""
        with self.lock:
            self.live -= 1
            self.generate()

    def generate(self) -> None:
        if not self.asked or len(self.asked) < self.live:
            return
        began = time.perf_counter()
        prompts = [prompt for prompt, _, _ in self.asked]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=self.asked[0][1],
                stopping_criteria=[Stop(self.backend, prompts)],
                pad_token_id=0,
            )
        for (prompt, _, future), row in zip(self.asked, out[:, width:].tolist(), strict=True):
            future.set_result(self.reply(prompt, row))
        self.asked = []
        self.seconds += time.perf_counter() - began

    def reply(self, prompt: list[int], row: list[int]) -> Completion:
        ids: list[int] = []
        for token in row:
            ids.append(token)
            if self.backend._replies.ended(prompt[-1], ids):
                break
        text = join(split_reply(self.backend._replies.decode(prompt[-1], ids)))
        return Completion(text, prompt_tokens=len(prompt), ids=tuple(ids))

    def describe(self) -> dict[str, Any]:
        return {"backend": "generate"}

    def close(self) -> None:
        pass


class Meter:
    """Wall seconds of the backend's forward passes, and the bytes its decoding has to read."""

    def __init__(self, backend: HFBackend) -> None:
        self.reading = self.decoding = self.bytes = 0.0
        self.passes = self.rows = 0
        weights = sum(p.numel() * p.element_size() for p in backend.model.parameters())

        self.sampling = False

        def begin(module: Any, args: Any, kwargs: Any) -> None:
            self.sampling = True
            self.began = time.perf_counter()

        def begin_reading(module: Any, args: Any, kwargs: Any) -> None:
            if not self.sampling:
                self.began = time.perf_counter()

        def read(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if not self.sampling:
                self.reading += time.perf_counter() - self.began

        def decoded(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            self.sampling = False
            self.decoding += time.perf_counter() - self.began
            self.passes += 1
            self.rows += len(columns())
            self.bytes += weights + int((columns() + 1).sum()) * backend._batch.slots.token_bytes

        def columns() -> torch.Tensor:
            found: torch.Tensor = backend._batch.slots._where[2]
            return found

        # Prompts are read by the model below its head, tokens sampled through all of it.
        backend.model.register_forward_pre_hook(begin, with_kwargs=True)
        backend.model.register_forward_hook(decoded, with_kwargs=True)
        backend.model.base_model.register_forward_pre_hook(begin_reading, with_kwargs=True)
        backend.model.base_model.register_forward_hook(read, with_kwargs=True)


def play(policy: Policy, env: Any, tasks: Sequence[Task], steps: int) -> list[Episode]:
    """All tasks at once, each in a thread of its own."""

    def one(task: Task) -> Episode:
        try:
            return play_episode(policy, env(), task, agent="a", protocol=Protocol(steps))
        finally:
            if isinstance(policy, ReActPolicy) and isinstance(policy.backend, Generate):
                policy.backend.leave()

    with ThreadPoolExecutor(len(tasks)) as pool:
        return list(pool.map(one, tasks))


def bandwidth() -> float:
    """Bytes a second of summing 200 MB, the best of 7."""
    data, best = torch.ones(50_000_000), 0.0
    for _ in range(7):
        began = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - began))
    return best


def row(name: str, episodes: Sequence[Episode], seconds: float) -> str:
    found = [s.decision.completion for e in episodes for s in e.steps if s.decision.completion]
    sampled, read = (sum(len(c.ids) for c in found), sum(c.prompt_tokens or 0 for c in found))
    return (
        f"{name:10s} {60 * len(episodes) / seconds:8.1f} episodes/min  {seconds:7.1f} s  "
        f"{len(found):5d} steps  {sampled / seconds:7.0f} sampled tokens/s  "
        f"{sampled:7d} sampled  {read:8d} prompt, "
        f"{read - sum(c.cached_tokens or 0 for c in found):8d} of them read"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", default="teacher-tiny")
    parser.add_argument("--tasks", default="builtin-dev")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--batch-size", type=int, help="of the backend (default: the agent's)")
    parser.add_argument("--lockstep", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tasks = registry.task_set("alfworld", options.tasks).tasks[: options.episodes]
    env = registry.env_class("alfworld")
    config = registry.agent_config(options.agent)
    # One process for all three ways: what copies of a small model add comes on top.
    own = {"copies": 1} | ({"batch_size": options.batch_size} if options.batch_size else {})
    config = msgspec.structs.replace(config, options={**config.options, **own})
    policy = registry.build_policy(config)
    assert isinstance(policy, ReActPolicy)
    backend = policy.backend
    assert isinstance(backend, HFBackend)
    meter = Meter(backend)

    began = time.perf_counter()
    ours = play(policy, env, tasks, options.steps)
    seconds = time.perf_counter() - began
    print(f"{options.agent}: {len(tasks)} episodes, {options.threads} threads")
    print(row("backend", ours, seconds), flush=True)

    gguf = backend.checkpoint.gguf
    model = AutoModelForCausalLM.from_pretrained(
        backend.checkpoint.folder,
        dtype=torch.float32,
        **({"gguf_file": gguf} if gguf else {}),
    ).eval()
    asked = {"header": policy.headers[""]} if "" in policy.headers else {"prompt": policy.prompt}
    for name, size in (("lock-step", options.lockstep), ("alone", 1)):
        found: list[Episode] = []
        held = 0.0
        began = time.perf_counter()
        for first in range(0, len(tasks), size):
            batch = tasks[first : first + size]
            generate = Generate(backend, model, len(batch))
            other = ReActPolicy(
                backend=generate,
                **asked,
                max_new_tokens=policy.decoding.max_new_tokens,
            )
            found += play(other, env, batch, options.steps)
            held += generate.seconds
        whole = time.perf_counter() - began
        same = sum(actions(a) == actions(b) for a, b in zip(ours, found, strict=True))
        print(row(name, found, whole))
        print(
            f"  the backend is {whole / seconds:.1f} x as fast; same actions in {same} of "
            f"{len(ours)} episodes; in generate {100 * held / whole:.0f} % of the time",
            flush=True,
        )
    peak, reached = bandwidth(), meter.bytes / max(1e-9, meter.decoding)
    rest = seconds - meter.reading - meter.decoding
    print(
        f"backend: reading prompts {100 * meter.reading / seconds:.0f} %, decoding "
        f"{100 * meter.decoding / seconds:.0f} %, all else {100 * rest / seconds:.0f} % of the time"
        f"; {meter.rows / max(1, meter.passes):.1f} rows a pass; decoding reads "
        f"{reached / 1e9:.1f} GB/s of {peak / 1e9:.1f} ({100 * reached / peak:.0f} %)"
    )
    policy.close()


def actions(episode: Episode) -> list[str | None]:
    return [step.decision.action for step in episode.steps]


if __name__ == "__main__":
    main()

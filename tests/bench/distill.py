"""Training speed and memory beside a plain transformers loop and TRL, in one run.

    python tests/bench/distill.py                                # 3M, all that is installed
    python tests/bench/distill.py --size 135M --documents 4 --trl ~/trl/bin/python

The same model, documents, supervised targets (the last 45 % of each document), precision and
optimizer for all; each in a process of its own, in turn, ``--rounds`` times:

    ours-ce       this package: packed rows, supervised positions projected alone
    ours-cached   forward KL with a cached teacher (top 64 and the rest)
    ours-live     forward KL with a live teacher ten times the size
    plain-ce      transformers alone: padded batch, labels -100, the model's own loss
    trl-sft       TRL's SFTTrainer on the same ids and labels
    trl-gkd       TRL's GKDTrainer, off-policy, the same live teacher

Tokens are those of documents, never padding. The median step counts; peak memory is the
process's own, less what it held before the first step. ``--trl``: a Python that has TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

#: layers, hidden, heads, key-value heads, feed-forward; student and a teacher of ten times.
SHAPES = {
    "3M": ((4, 256, 4, 4, 576), (8, 512, 8, 8, 1536)),
    "135M": ((30, 576, 9, 3, 1536), (30, 2048, 16, 8, 4096)),
}
CONTENDERS = ("ours-ce", "ours-cached", "ours-live", "plain-ce", "trl-sft", "trl-gkd")
SUPERVISED = 0.45
LR = 1e-4


def model(shape: tuple[int, ...], vocab: int, window: int, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    layers, hidden, heads, kv_heads, wide = shape
    config = LlamaConfig(
        num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        num_key_value_heads=kv_heads, intermediate_size=wide, vocab_size=vocab,
        max_position_embeddings=window, tie_word_embeddings=True, pad_token_id=1, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def documents(given: argparse.Namespace) -> list[list[int]]:
    """Random ids, 300 to 1,200 a document."""
    import numpy as np

    rng = np.random.default_rng(0)
    lengths = rng.integers(300, 1200, given.documents)
    return [rng.integers(2, given.vocab, int(n)).tolist() for n in lengths]


def taught_from(ids: list[int]) -> int:
    return len(ids) - int(SUPERVISED * len(ids))


class Meter:
    """Seconds of the timed steps, and the process's memory before and at its peak."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.left = given.steps + given.warmup
        self.warmup = given.warmup
        self.seconds: list[float] = []
        self.before = peak_mb()

    def add(self, seconds: float) -> None:
        if self.warmup:
            self.warmup -= 1
        else:
            self.seconds.append(seconds)

    def report(self, tokens: int, parameters: int) -> dict[str, Any]:
        return {
            "tokens_per_s": tokens / statistics.median(self.seconds),
            "best": tokens / min(self.seconds),
            "peak_mb": peak_mb() - self.before,
            "parameters": parameters,
        }


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(meter: Meter, step: Callable[[], None]) -> None:
    for _ in range(meter.left):
        began = time.perf_counter()
        step()
        meter.add(time.perf_counter() - began)


def ours(given: argparse.Namespace, signal: str) -> dict[str, Any]:
    import numpy as np
    import torch
    from harness_distillation import models, optimizers
    from harness_distillation.dataset import Samples, make_row
    from harness_distillation.losses import Live, class_weights, span_loss
    from harness_distillation.recipe import Optim
    from harness_distillation.teacher_cache import distribution
    from harness_distillation.tokenizer import class_of

    texts = documents(given)
    student, big = SHAPES[given.size]
    net = model(student, given.vocab, 2048, 0).train()
    models.isolate_documents(net, torch.device("cpu"))
    body, head = models.body_and_head(net)
    optimizer = optimizers.build(net, Optim(lr=LR))
    kinds = [np.arange(len(ids)) >= taught_from(ids) for ids in texts]
    offsets = np.concatenate([[0], np.cumsum([len(ids) for ids in texts])]).astype(np.int64)
    samples = Samples.make(
        np.concatenate(texts).astype(np.int32), np.concatenate(kinds).astype(np.int8), offsets,
        np.arange(len(texts)),
    )  # fmt: skip
    row = make_row(samples, range(len(texts)), class_of("span"), int(offsets[-1]), 1)
    weights = class_weights(
        torch.bincount(row.labels, minlength=3), {"reason": 1, "act": 1}, "token"
    )
    teacher = cache = None
    if signal == "live":
        teacher = model(big, given.vocab, 2048, 1).eval()
        models.isolate_documents(teacher, torch.device("cpu"))
    elif signal == "cached":
        pieces = [
            distribution(torch.randn(len(part), given.vocab) * 4, part, 64)
            for part in row.targets.split(1024)
        ]
        cache = type(pieces[0])(*(np.concatenate(x) for x in zip(*pieces, strict=True)))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            target: Any = None
            if teacher is not None:
                below, above = models.body_and_head(teacher)
                with torch.no_grad():
                    states = models.hidden_states(below, row.ids, row.positions, row.bounds)
                target = Live(states[0, row.at], above)
            elif cache is not None:
                target = cache.pick(row.cached)
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
            parts = span_loss(hidden[0, row.at], head, row.targets, row.labels, weights, target)
        torch.autograd.backward(parts.loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    meter = Meter(given)
    timed(meter, step)
    return meter.report(int(offsets[-1]), sum(p.numel() for p in net.parameters()))


def plain(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    texts = documents(given)
    net = model(SHAPES[given.size][0], given.vocab, 2048, 0).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=True)
    width = max(map(len, texts))
    ids = torch.tensor([t + [1] * (width - len(t)) for t in texts])
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in texts])
    labels = torch.full_like(ids, -100)
    for i, t in enumerate(texts):
        labels[i, taught_from(t) : len(t)] = ids[i, taught_from(t) : len(t)]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=given.precision == "bf16"):
            loss = net(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    meter = Meter(given)
    timed(meter, step)
    return meter.report(sum(map(len, texts)), sum(p.numel() for p in net.parameters()))


def trl(given: argparse.Namespace, kind: str) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, TrainerCallback

    torch.set_num_threads(given.threads)
    texts = documents(given)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(given.vocab)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w0", pad_token="w1")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    student, big = SHAPES[given.size]
    net = model(student, given.vocab, 2048, 0)
    teacher = model(big, given.vocab, 2048, 1) if kind == "gkd" else None
    meter = Meter(given)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            meter.add(time.perf_counter() - self.began)

    with tempfile.TemporaryDirectory() as folder:
        arguments: dict[str, Any] = {
            "output_dir": folder, "per_device_train_batch_size": len(texts), "learning_rate": LR,
            "max_steps": meter.left, "max_grad_norm": 1.0, "use_cpu": True,
            "bf16": given.precision == "bf16", "fp16": False, "gradient_checkpointing": False,
            "report_to": [], "save_strategy": "no", "logging_strategy": "no", "max_length": None,
            "optim": "adamw_torch_fused", "disable_tqdm": True, "dataloader_pin_memory": False,
        }  # fmt: skip
        common = {"model": net, "processing_class": tokenizer, "callbacks": [Clock()]}
        if kind == "sft":
            from trl import SFTConfig, SFTTrainer

            rows = [
                {"input_ids": t, "labels": [-100] * taught_from(t) + t[taught_from(t) :]}
                for t in texts
            ]
            trainer = SFTTrainer(
                args=SFTConfig(**arguments), train_dataset=Dataset.from_list(rows), **common
            )
        else:
            from trl.experimental.gkd import GKDConfig, GKDTrainer

            def said(ids: list[int]) -> str:
                return " ".join(f"w{i}" for i in ids)

            chats = [
                {
                    "messages": [
                        {"role": "user", "content": said(t[: taught_from(t)])},
                        {"role": "assistant", "content": said(t[taught_from(t) :])},
                    ]
                }
                for t in texts
            ]
            # lmbda 0: never on-policy; beta 0: forward KL.
            arguments |= {"lmbda": 0.0, "beta": 0.0, "max_length": 2048}
            trainer = GKDTrainer(
                teacher_model=teacher, args=GKDConfig(**arguments),
                train_dataset=Dataset.from_list(chats), **common,
            )  # fmt: skip
        trainer.train()
    return meter.report(sum(map(len, texts)), sum(p.numel() for p in net.parameters()))


def contend(given: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(given.threads)
    kind, _, rest = given.contender.partition("-")
    if kind == "ours":
        return ours(given, rest)
    return plain(given) if kind == "plain" else trl(given, rest)


def measured(given: argparse.Namespace, contender: str) -> dict[str, Any] | str:
    """A contender's figures, or why there are none."""
    python = given.trl if contender.startswith("trl") else sys.executable
    if contender.startswith("trl"):
        probe = [python, "-c", "import trl, datasets"]
        if subprocess.run(probe, capture_output=True).returncode:
            return "not installed"
    keep = [f"--{k}={getattr(given, k)}" for k in
            ("size", "threads", "precision", "vocab", "documents", "steps", "warmup")]  # fmt: skip
    environment = {
        **os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(given.threads),
    }  # fmt: skip
    done = subprocess.run(
        [python, __file__, *keep, "--contender", contender],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", choices=SHAPES, default="3M")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--vocab", type=int)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--trl", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.vocab = given.vocab or (1024 if given.size == "3M" else 49152)
    if given.precision == "auto":
        from harness_distillation.machine import CPU, precision_of

        given.precision = precision_of("auto", CPU)
    if given.contender:
        print(json.dumps(contend(given)))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    why: dict[str, str] = {}
    for _ in range(given.rounds):
        for contender in given.only:
            one = measured(given, contender)
            print(contender, one, file=sys.stderr, flush=True)
            if isinstance(one, str):
                why[contender] = one
            else:
                found.setdefault(contender, []).append(one)
    tokens = sum(map(len, documents(given)))
    print(
        f"{given.size}, {given.precision}, {given.threads} thread(s), vocabulary {given.vocab}, "
        f"{tokens} tokens a step in {given.documents} documents, {given.rounds} x {given.steps} "
        f"steps, load {os.getloadavg()[0]:.1f}"
    )
    speed = {
        name: statistics.median(one["tokens_per_s"] for one in rounds)
        for name, rounds in found.items()
    }
    for name in given.only:
        if name not in found:
            print(f"{name:12s} {why[name]}")
            continue
        best = max(one["best"] for one in found[name])
        peak = max(one["peak_mb"] for one in found[name])
        print(
            f"{name:12s} {speed[name]:8.0f} tokens/s (best {best:.0f})  {peak:7.0f} MB  "
            f"{found[name][0]['parameters'] / 1e6:.1f}M"
        )
    for above, below in (
        ("ours-ce", "plain-ce"), ("ours-ce", "trl-sft"), ("ours-cached", "ours-ce"),
        ("ours-cached", "ours-live"), ("ours-cached", "trl-gkd"), ("ours-live", "trl-gkd"),
    ):  # fmt: skip
        if above in speed and below in speed:
            print(f"{above} / {below}: {speed[above] / speed[below]:.2f} x")


if __name__ == "__main__":
    main()

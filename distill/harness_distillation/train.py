"""The training loop: one function, read top to bottom, resumable at every checkpoint.

rows(step) -> hidden states -> loss at supervised positions -> optimizer -> log line
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch

from harness.errors import ConfigError, HarnessError
from harness_distillation import checkpoint, models, optimizers
from harness_distillation.contrast import Contrast
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import PADDING, Row, Samples, make_row, pack
from harness_distillation.gate import Gate, Played
from harness_distillation.likelihoods import Likelihoods
from harness_distillation.losses import class_weights, span_loss
from harness_distillation.machine import CPU, Precision, autocast, peak, precision_of
from harness_distillation.progress import Progress
from harness_distillation.ranks import Ranks
from harness_distillation.recipe import Recipe, lambdas
from harness_distillation.signals import term_ends, term_waits
from harness_distillation.supervision import shares
from harness_distillation.teacher_cache import Cache
from harness_distillation.teacher_signal import LABELS, Signal, count
from harness_distillation.tokenizer import CLASSES, class_of
from harness_distillation.training_log import LOG, log_line, truncate

#: Samples that an error names.
NAMED = 8


class Diverged(HarnessError):
    """The loss or its gradient is no longer a number; the last good checkpoint is kept."""


class Corpus(NamedTuple):
    """What is trained on: samples, which of them train and which are held out, and their hash;
    ``pairs``: samples of won and lost episodes in turn, for the contrastive term; ``group`` int
    [S]: the environment of each sample, numbered."""

    samples: Samples
    train: np.ndarray
    heldout: np.ndarray
    hash: str
    pairs: Samples | None = None
    group: np.ndarray | None = None


class Part(NamedTuple):
    """The steps ``first`` .. ``last`` - 1, which a corpus of their own is for."""

    first: int
    last: int


class Result(NamedTuple):
    """Where training stopped, the checkpoint that came of it, and why: "finished" or "time"."""

    checkpoint: Path
    step: int
    reason: str


def train(
    recipe: Recipe,
    recipe_hash: str,
    corpus: Corpus,
    tokenizer: Any,
    out: Path,
    notes: dict[str, Any],
    *,
    cache: Cache | Likelihoods | None = None,
    teacher: Any = None,
    entropy: np.ndarray | None = None,
    ranks: Ranks = Ranks(),
    quiet: bool = False,
    part: Part | None = None,
    device: torch.device = CPU,
    send: Callable[[dict[str, Any]], None] | None = None,
) -> Result:
    """Train a student as ``recipe`` says, from its start or from the newest checkpoint in ``out``.

    ``cache`` or ``teacher`` (a live model) give what an objective with a teacher needs, a cache or
    ``entropy`` fp [taught tokens] what a curriculum asks of the teacher. With several ``ranks``
    each reads its part of a step's rows and the first writes. The model is put on ``device``, and
    a live ``teacher`` must be there. ``send`` is given each line of the log. With ``[dev]`` the
    result is the checkpoint that won most, and training may stop early (``gate``).
    ``part``: only those of the recipe's steps, "finished" when they are taken. Raises Diverged (the
    last good checkpoint stays), DataError when ``out`` was made by another recipe or other
    samples. Nobody else may be training there (``locks.owned``).
    """
    optim, objective = recipe.optim, recipe.objective
    if optim.rows % (optim.micro_rows * ranks.size):
        raise ConfigError(
            f"Recipe '{recipe.name}': {optim.rows} rows in micro-batches of {optim.micro_rows} "
            f"cannot be shared out to {ranks.size} ranks."
        )
    if optim.threads is not None:
        torch.set_num_threads(optim.threads)
    out.mkdir(parents=True, exist_ok=True)
    root = out / "checkpoints"
    last = checkpoint.latest(root)
    state = checkpoint.State(0, 0.0, 0, recipe_hash, corpus.hash)
    if last is not None:
        checkpoint.verify(last)
        before_it = checkpoint.read_state(last)
        if part is not None and before_it.step == part.first:
            before_it = msgspec.structs.replace(before_it, samples_hash=corpus.hash)
        checkpoint.Begun(last, before_it.recipe_hash, before_it.samples_hash).check(
            recipe_hash, corpus.hash
        )
        state = before_it
    torch.manual_seed(recipe.seed)
    model = (
        models.load(last)
        if last is not None
        else models.build(recipe.student, tokenizer, recipe.seed)
    )
    model.to(device)
    readers = [model] if teacher is None else [model, teacher]
    for reads in readers:
        models.check_reach(reads, int(corpus.samples.lengths.max()))
    positions = [getattr(reads.config, "max_position_embeddings", None) for reads in readers]
    padding = min([PADDING, *filter(None, positions)])
    models.check_isolation(model)
    if optim.recompute:
        models.recompute_layers(model)
    model.train()
    optimizer = optimizers.build(model, optim)
    if last is not None:
        checkpoint.restore(last, optimizer)
    first, end = part or Part(0, optim.steps)
    body, head = models.body_and_head(model)
    if optim.compile:
        body = models.compile_body(body)
    precision = precision_of(optim.precision, device)
    signal = Signal(objective, cache, teacher, precision, len(tokenizer))
    sampler = Sampler(
        corpus.samples, corpus.train, objective, recipe.seed,
        rows=optim.rows, row_tokens=optim.row_tokens, steps=optim.steps,
        entropy=entropy if cache is None else cache.entropy, group=corpus.group,
    )  # fmt: skip
    classes = class_of(objective.format or "span")
    pad = tokenizer.pad_token_id
    normalizer, of_class = objective.normalizer or "token", lambdas(objective)
    share = shares(signal.counted(corpus.samples), classes, normalizer, of_class)
    contrast = None
    if objective.contrastive:
        if corpus.pairs is None:
            raise ConfigError("The contrastive term needs pairs of won and lost episodes.")
        contrast = Contrast(
            corpus.pairs, classes, [i for i, c in enumerate(CLASSES, 1) if of_class[c]],
            models.build(recipe.student, tokenizer, recipe.seed).to(device),
            beta=objective.contrastive_beta, seed=recipe.seed,
            row_tokens=optim.row_tokens, pad=pad, padding=padding, precision=precision,
            ranks=ranks,
        )  # fmt: skip
    gate = Gate(recipe.dev, out, state.step) if recipe.dev and ranks.first else None
    heldout = [
        make_row(corpus.samples, row, classes, optim.row_tokens, pad, padding)
        for row in pack(
            corpus.samples.lengths, iter(corpus.heldout.tolist()), optim.row_tokens, seed=0
        )
    ]
    if ranks.first:
        truncate(out / LOG, state.step)
    top, work = peak(precision, device), 6 * sum(p.numel() for p in model.parameters())
    begun = saved = time.monotonic()
    before = state.seconds

    def save() -> Path:
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            raise _diverged(state.step, "weights are no numbers", read, corpus, tokenizer, out)
        best = () if gate is None or gate.best is None else (gate.best.step,)
        keep = (*optim.keep, *best)
        return checkpoint.save(root, model, tokenizer, optimizer, state, notes, keep)

    def play() -> bool:
        """Play the newest checkpoint if it is due; whether training is over."""
        nonlocal begun
        if recipe.dev is None:
            return False
        if gate is not None and last is not None and gate.due(state.step, optim.steps):
            tick = time.monotonic()
            loss = None
            if recipe.dev.heldout and heldout:
                losses = evaluate(model, heldout, precision)
                loss = sum(of_class[name] * value for name, value in losses.items())
            with term_ends():  # the checkpoint is safe, and a play that is cut goes on
                progress.say(_told(gate.play(state.step, last, loss)))
            begun += time.monotonic() - tick
        kept = state.step >= max(optim.keep, default=0)
        return ranks.any(gate is not None and gate.over and kept)

    hushed, told = quiet or not ranks.first, [c for c in CLASSES if of_class[c]]
    with (
        term_waits() as ended,
        Progress(recipe.name, optim.steps, state.step, hushed, told) as progress,
        (out / LOG if ranks.first else Path(os.devnull)).open("ab") as log,
    ):
        over = play()
        while state.step < end and not over:
            tick = time.monotonic()
            step_rows = sampler.rows(state.step - first)  # all ranks'
            read = list(dict.fromkeys(s for row in step_rows for s in row))
            batches = micro_batches(step_rows, optim.micro_rows, ranks)
            length = optim.micro_rows * optim.row_tokens
            rows = [
                make_row(corpus.samples, chosen, classes, length, pad, padding)
                for chosen in batches
            ]
            units = [signal.units(row) for row in rows]
            counts, summed, tokens = count(rows, units, share, ranks)
            weights = class_weights(summed, of_class, normalizer)
            sums, weighed = torch.zeros(2, LABELS, dtype=torch.float64)
            broken: list[int] = []
            for on_cpu, unit, chosen in zip(rows, units, batches, strict=True):
                row = on_cpu.to(device)
                with autocast(precision, device):
                    hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
                    parts = signal.loss(hidden[0, row.at], head, row, unit, weights, share)
                torch.autograd.backward(parts.loss)
                of_row = parts.sums.cpu()
                if not bool(torch.isfinite(of_row).all()):
                    broken += chosen
                sums += of_row
                weighed += parts.weighed.cpu()
            sums, weighed = ranks.sum(torch.stack([sums, weighed]))
            pairs = None
            if contrast is not None:
                with autocast(precision, device):
                    pairs = contrast(state.step, body, head)
                torch.autograd.backward(objective.contrastive * pairs.loss)
            ranks.sum_gradients(model.parameters())
            rate = learning_rate(state.step, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip))
            if not (math.isfinite(norm) and bool(torch.isfinite(sums).all())):
                what = f"the {_broken(sums, norm)} is not a number; the weights are as before it"
                # Every rank tells of what broke on any: who is read is the first.
                broken = ranks.union(broken, len(corpus.samples.lengths))
                raise _diverged(state.step + 1, what, broken or read, corpus, tokenizer, out)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

            now = time.monotonic()
            state = msgspec.structs.replace(
                state,
                step=state.step + 1,
                seconds=before + now - begun,
                tokens=state.tokens + tokens,
            )
            loss = float((weights * weighed).sum())
            speed = tokens / (now - tick)
            mfu = speed * work / (top * ranks.size)
            line = log_line(state, sums, loss, counts, rate, norm, speed, mfu)
            if pairs is not None:
                line["loss"] += objective.contrastive * pairs.value
                line |= {"contrastive": pairs.value, "margin": pairs.margin}
                line |= {"n_pairs": pairs.pairs}
            due = state.step % optim.eval_every == 0 or state.step == optim.steps
            if heldout and ranks.first and due:
                line["heldout"] = evaluate(model, heldout, precision)
            log.write(msgspec.json.encode(line) + b"\n")
            log.flush()  # a line that finds no room raises, where an unbuffered write is cut short
            progress.step(state.step, line)
            if send is not None:
                send(line)
            told_to_end = ranks.any(ended())
            out_of_time = told_to_end or ranks.any(
                optim.max_minutes is not None and state.seconds - before >= 60 * optim.max_minutes
            )
            if (
                out_of_time
                or state.step == end
                or (gate is not None and gate.due(state.step, optim.steps))
                or state.step in optim.keep
                or now - saved >= 60 * optim.checkpoint_minutes
            ):
                if ranks.first:
                    last = save()
                saved = now
            over = not told_to_end and play()
            if out_of_time:
                break
    finished = over or state.step >= end
    if finished and gate is not None and gate.best is not None:
        last = root / f"step-{gate.best.step:07d}"
    return Result(last or root, state.step, "finished" if finished else "time")


def _told(played: Played) -> str:
    loss = "" if played.loss is None else f", held-out loss {played.loss:.4f}"
    return f"step {played.step}: {played.won} of {played.n} dev episodes won{loss}"


def micro_batches(rows: list[list[int]], size: int, ranks: Ranks) -> list[list[int]]:
    """Samples of this rank's micro-batches, each of ``size`` rows joined to one."""
    joined = [[s for row in rows[i : i + size] for s in row] for i in range(0, len(rows), size)]
    return joined[ranks.rank :: ranks.size]


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine from ``lr`` down to ``min_lr * lr`` at ``steps``."""
    optim = recipe.optim
    if step < optim.warmup:
        return optim.lr * (step + 1) / optim.warmup
    done = (step - optim.warmup) / max(1, optim.steps - optim.warmup)
    floor = optim.min_lr
    return optim.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


@torch.no_grad()
def evaluate(model: Any, rows: list[Row], precision: Precision) -> dict[str, float]:
    """Mean cross-entropy per target of each class over ``rows``."""
    body, head = models.body_and_head(model)
    sums, counts = torch.zeros(LABELS, dtype=torch.float64), torch.zeros(LABELS)
    device = models.device_of(model)
    model.eval()
    for on_cpu in rows:
        row = on_cpu.to(device)
        with autocast(precision, device):
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
            parts = span_loss(hidden[0, row.at], head, row.targets, row.labels, torch.ones(LABELS))
        sums += parts.sums.cpu()
        counts += torch.bincount(on_cpu.labels, minlength=LABELS)
    model.train()
    return {c: float(sums[i + 1] / counts[i + 1]) for i, c in enumerate(CLASSES) if counts[i + 1]}


def _broken(sums: torch.Tensor, norm: float) -> str:
    bad = [c for i, c in enumerate(CLASSES, 1) if not torch.isfinite(sums[i])]
    return f"loss of {', '.join(bad)}" if bad else f"gradient norm ({norm})"


def _diverged(
    step: int, what: str, read: Sequence[int], corpus: Corpus, tokenizer: Any, out: Path
) -> Diverged:
    """``read``: the samples that it may come from, told by their numbers and opening words."""
    told = []
    for s in read[:NAMED]:
        opening = tokenizer.decode(corpus.samples.ids[corpus.samples.part(s)][:40].tolist())
        told.append(f"    sample {s}: {opening.partition(chr(10))[0]}")
    if len(read) > NAMED:
        told.append(f"    and {len(read) - NAMED} more")
    return Diverged(
        f"Step {step}: {what}.\n"
        f"  Last good checkpoint: {checkpoint.latest(out / 'checkpoints') or 'none yet'}. Lower "
        "[optim] lr or raise warmup, or look at what was read (of samples made from traces: "
        f"harness distill inspect {out.parent} --sample N):\n" + "\n".join(told)
    )

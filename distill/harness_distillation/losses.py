"""Losses over labelled targets: ``sum_c lambda_c * sum_t D(p_T || p_S)_t / Z_c``.

``label[t]`` is about target t, so it weighs ``logits[t - 1]``. Only hidden states at supervised
positions reach the LM head, chunk by chunk in fp32: a tensor [tokens, V] exists for one chunk.
Z counts a whole optimizer step, so how it is cut into rows, micro-batches or ranks changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from harness.errors import ConfigError
from harness_distillation.tokenizer import CLASSES


class Target(NamedTuple):
    """Teacher's distribution at S positions: its top k and, in one bucket, the rest.

    ``ids`` int64 [S, k]; ``logp`` fp32 [S, k] and ``tail`` fp32 [S] (log of the remaining mass,
    -inf when none) at temperature 1.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    tail: torch.Tensor


def class_weights(
    counts: torch.Tensor, lambdas: Mapping[str, float], normalizer: str
) -> torch.Tensor:
    """Weight ``lambda_c / Z_c`` of every token of class c = 1.. (fp64 [C + 1], entry 0 is 0).

    ``counts`` int [C + 1] are the targets of each class in the whole optimizer step. ``token``:
    Z = all supervised targets whose lambda is not 0. ``class``: Z_c = N_c. ``sum``: Z = 1. A class
    without targets weighs nothing.
    """
    scale = torch.tensor([0.0, *(lambdas[c] for c in CLASSES)], dtype=torch.float64)
    n = counts.to("cpu", torch.float64)
    if normalizer == "sum":
        return scale
    if normalizer == "class":
        return torch.where(n > 0, scale / n.clamp(min=1), 0.0)
    if normalizer == "token":
        return scale / n[scale != 0].sum().clamp(min=1)
    raise ConfigError(f"Unknown normalizer '{normalizer}'. Known: class, sum, token.")


def divergence(
    logits: torch.Tensor,
    target_ids: torch.Tensor,
    target: Target | torch.Tensor | None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """D per position, [S], from student logits [S, V].

    ``target`` None: cross-entropy with ``target_ids`` [S]. Logits [S, V] of a live teacher: exact
    forward KL. A cached ``Target``: forward KL over k + 1 outcomes, a lower bound of the exact one
    and never negative. KL is scaled by T^2 so that its gradient keeps its size.
    """
    if target is None:
        return F.cross_entropy(logits, target_ids, reduction="none")
    log_q = F.log_softmax(logits / temperature, dim=-1)
    if isinstance(target, torch.Tensor):
        log_p = F.log_softmax(target.to(logits.dtype) / temperature, dim=-1)
        kl = (log_p.exp() * (log_p - log_q)).sum(-1)
        return kl * temperature**2
    return bucketed_kl(log_q, target, temperature) * temperature**2


def bucketed_kl(log_q: torch.Tensor, target: Target, temperature: float) -> torch.Tensor:
    """Forward KL [S] over the teacher's top k and one bucket for the rest.

    A temperature other than 1 cannot be applied inside the bucket, so there the teacher is
    renormalised over its top k (the tail is dropped) and the student likewise.
    """
    q = log_q.gather(-1, target.ids)
    p = target.logp.to(log_q.dtype)
    if temperature != 1.0:
        p, q = F.log_softmax(p / temperature, -1), F.log_softmax(q, -1)
        return (p.exp() * (p - q)).sum(-1)
    tail_p = target.tail.to(log_q.dtype)
    # Rounding (fp16) may leave the masses off one: normalise the k + 1 outcomes exactly.
    total = torch.logsumexp(torch.cat([p, tail_p[:, None]], -1), -1)
    p, tail_p = p - total[:, None], tail_p - total
    kl = _term(p, q).sum(-1)
    if target.ids.shape[-1] < log_q.shape[-1]:
        kl = kl + _term(tail_p, log_q.scatter(-1, target.ids, -torch.inf).logsumexp(-1))
    return kl


def _term(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """p (log p - log q), 0 where p is 0."""
    some = torch.isfinite(log_p)
    log_p = torch.where(some, log_p, torch.zeros_like(log_p))
    return torch.where(some, log_p.exp() * (log_p - log_q), torch.zeros_like(log_p))


class Live(NamedTuple):
    """A live teacher at S positions: hidden states [S, H_T] and the head that makes logits."""

    hidden: torch.Tensor
    head: torch.nn.Module


class LossParts(NamedTuple):
    """``loss`` to differentiate (this micro-batch's share of the step's); ``sums`` fp64 [C + 1]:
    the unweighted sum of D per class, for the log."""

    loss: torch.Tensor
    sums: torch.Tensor


def span_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    target_ids: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    target: Target | Live | None = None,
    *,
    temperature: float = 1.0,
    chunk: int = 2048,
) -> LossParts:
    """Loss over S supervised positions.

    ``hidden`` [S, H] predicts ``target_ids`` int64 [S] whose classes are ``labels`` [S];
    ``weights`` are ``class_weights``. ``target`` None means cross-entropy. Logits of a chunk,
    the student's and a live teacher's, are made again in the backward pass.
    """
    loss = hidden.sum() * 0.0
    sums = torch.zeros(len(weights), dtype=torch.float64, device=hidden.device)
    weights = weights.to(hidden.device)
    for start in range(0, len(target_ids), chunk):
        part = slice(start, start + chunk)

        def values(h: torch.Tensor, part: slice = part) -> torch.Tensor:
            logits = _wide(head(h))
            return divergence(logits, target_ids[part], _piece(target, part), temperature)

        one = len(target_ids) <= chunk or not torch.is_grad_enabled()
        h = hidden[part]
        d = values(h) if one else checkpoint(values, h, use_reentrant=False)
        label = labels[part].long()
        loss = loss + (weights[label].to(d.dtype) * d).sum()
        sums.index_add_(0, label, d.detach().double())
    return LossParts(loss, sums)


def _piece(target: Target | Live | None, part: slice) -> Target | torch.Tensor | None:
    if target is None:
        return None
    if isinstance(target, Live):
        with torch.no_grad():
            return _wide(target.head(target.hidden[part]))
    return Target(target.ids[part], target.logp[part], target.tail[part])


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least fp32."""
    return logits if logits.dtype == torch.float64 else logits.float()

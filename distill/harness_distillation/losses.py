"""Losses over labelled targets: ``sum_c lambda_c * sum_t u_t * D(p_T, p_S)_t / Z_c``.

``label[t]`` is about target t, so it weighs ``logits[t - 1]``. Only hidden states at supervised
positions reach the LM head, chunk by chunk: a tensor [tokens, V] exists for one chunk. The head's
product has autocast's precision (bf16 where training has); its logits are fp32 before any softmax.
Z counts a whole optimizer step, so how it is cut into rows, micro-batches or ranks changes nothing.

    normalizer  u_t                                      Z_c
    sum         1                                        1
    token       1                                        targets of all classes
    class       1                                        targets of class c
    span        1 / length of the target's span          spans of class c
    episode     1 / weighed targets of its episode       episodes

Every D is a sum over outcomes that merging outcomes never makes larger (f-divergences by the
log-sum inequality, soft cross-entropy because each outcome is less likely than their union). So
over a teacher's cached top k and one bucket for the rest each D is a lower bound of the exact one,
and equal to it when k = V. A temperature softens the teacher before its top k are cached.

A model may have more logits than the tokenizer has entries (an embedding's padding). Teacher and
student are compared over the entries, and to that comes -log of the probability that the student
leaves to them, which cross-entropy and forward KL over all its logits contain: else its padding
would never be trained, and be sampled in play.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from harness.errors import ConfigError, unknown
from harness_distillation.tokenizer import CLASSES

NORMALIZERS = ("class", "episode", "span", "sum", "token")
#: Log-probability that stands for one of exactly 0, so that no term is infinite.
FLOOR = -100.0
#: Positions at which a live teacher's distribution is compared at once.
ROWS = 128


class Target(NamedTuple):
    """Teacher's distribution at S positions: its top k and, in one bucket, the rest.

    ``ids`` int64 [S, k]; ``logp`` fp32 [S, k] and ``tail`` fp32 [S] (log of the remaining mass,
    -inf when none) at the loss's temperature.
    """

    ids: torch.Tensor
    logp: torch.Tensor
    tail: torch.Tensor

    def to(self, device: torch.device) -> Target:
        return Target(*(part.to(device, non_blocking=True) for part in self))


def class_weights(
    counts: torch.Tensor, lambdas: Mapping[str, float], normalizer: str
) -> torch.Tensor:
    """Weight ``lambda_c / Z_c`` of every token of class c = 1.. (fp64 [C + 1], entry 0 is 0).

    ``counts`` [C + 1] are each class's sums of u_t in the whole optimizer step: its targets, its
    spans, or its part of the episodes. Targets whose lambda is 0 are in no Z. A class without
    targets weighs nothing.
    """
    names = CLASSES[: len(counts) - 1]
    scale = torch.tensor([0.0, *(lambdas[c] for c in names)], dtype=torch.float64)
    n = counts.to("cpu", torch.float64)
    if normalizer == "sum":
        return scale
    if normalizer in ("class", "span"):
        return torch.where(n > 0, scale / torch.where(n > 0, n, 1.0), 0.0)
    if normalizer in ("token", "episode"):
        whole = n[scale != 0].sum()
        return scale / whole if whole > 0 else torch.zeros_like(scale)
    raise ConfigError(unknown("normalizer", normalizer, NORMALIZERS))


#: One outcome's part of D: f(log p, log q) of teacher and student, elementwise.
Measure = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q), Eq. 4 and 5: covers what the teacher would say."""
    return log_p.exp() * (log_p - log_q)


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(q || p), MiniLLM's: keeps the student to what the teacher would say."""
    return log_q.exp() * (log_q - log_p)


def cross_entropy(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Soft cross-entropy, forward KL plus the teacher's entropy: the same gradient."""
    return -log_p.exp() * log_q


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor, beta: float) -> torch.Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q (GKD, Eq. 1)."""
    log_m = _mix(log_p, log_q, beta)
    p, q = log_p.exp(), log_q.exp()
    return beta * p * (log_p - log_m) + (1 - beta) * q * (log_q - log_m)


def skew_kl(log_p: torch.Tensor, log_q: torch.Tensor, alpha: float) -> torch.Tensor:
    """KL(p || alpha p + (1 - alpha) q), DistiLLM's: bounded by -log(alpha)."""
    return log_p.exp() * (log_p - _mix(log_p, log_q, alpha))


def _mix(log_p: torch.Tensor, log_q: torch.Tensor, share: float) -> torch.Tensor:
    """log(share p + (1 - share) q)."""
    return torch.logaddexp(log_p + math.log(share), log_q + math.log1p(-share))


def measure_of(name: str, *, beta: float = 0.5, alpha: float = 0.1) -> Measure:
    """A divergence by its name in a recipe. With ``ce`` the text is the target and no teacher."""
    known: dict[str, Measure] = {
        "ce": cross_entropy,
        "ce_soft": cross_entropy,
        "forward_kl": forward_kl,
        "reverse_kl": reverse_kl,
        "jsd": lambda log_p, log_q: jensen_shannon(log_p, log_q, beta),
        "skew_kl": lambda log_p, log_q: skew_kl(log_p, log_q, alpha),
    }
    if name not in known:
        raise ConfigError(unknown("divergence", name, known))
    return known[name]


def divergence(
    logits: torch.Tensor,
    target_ids: torch.Tensor,
    target: Target | torch.Tensor | None,
    temperature: float = 1.0,
    measure: Measure = forward_kl,
    entries: int | None = None,
) -> torch.Tensor:
    """D per position, [S], from student logits [S, V].

    ``target`` None: cross-entropy with ``target_ids`` [S], at temperature 1. Logits [S, V] of a
    live teacher: the exact ``measure``. A cached ``Target``: over k + 1 outcomes. What compares
    distributions is scaled by T^2 so that its gradient keeps its size. ``entries``: how many of the
    logits are a token's (None: all); a live teacher's are those.
    """
    if target is None:
        return F.cross_entropy(logits, target_ids, reduction="none")
    if entries is not None and entries < logits.shape[-1]:
        real, padding = logits[:, :entries], logits[:, entries:]
        inside = real.logsumexp(-1)
        lost = torch.logaddexp(inside, padding.logsumexp(-1)) - inside
        return lost + divergence(real, target_ids, target, temperature, measure)
    if temperature != 1.0:
        logits = logits / temperature
    if isinstance(target, Target):
        return bucketed(logits, target, measure) * temperature**2
    log_q = F.log_softmax(logits, dim=-1)
    del logits  # nobody else's: as large as log_q
    return full(log_q, target, temperature, measure) * temperature**2


def full(
    log_q: torch.Tensor, logits: torch.Tensor, temperature: float, measure: Measure = forward_kl
) -> torch.Tensor:
    """D [S] over all outcomes, from a teacher's ``logits`` [S, V]. What a measure makes on its way
    exists for ROWS positions at a time."""

    def values(q: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        log_p = _floor(F.log_softmax(p.to(q.dtype) / temperature, dim=-1))
        return measure(log_p, q).sum(-1)

    pieces = zip(torch.split(log_q, ROWS), torch.split(logits, ROWS), strict=True)
    return torch.cat(
        [checkpoint(values, q, p, use_reentrant=False, preserve_rng_state=False) for q, p in pieces]
    )


class Outcomes(torch.autograd.Function):
    """From logits [S, V]: log q of a teacher's top k ``ids`` [S, k], and the rest's log mass [S].

    The softmax is in it: one tensor like the logits is kept and one made on the way back, as for
    cross-entropy, where log-softmax, gather, scatter and logsumexp keep two and make five.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        others = logits.scatter(-1, ids, -torch.inf)
        rest = others.logsumexp(-1)
        # What is small is fp64: differences of sums like these are what gradients are made of.
        top = logits.gather(-1, ids).double()
        whole = torch.logaddexp(rest.double(), top.logsumexp(-1))
        log_q, log_rest = top - whole[:, None], rest.double() - whole
        ctx.save_for_backward(others, ids, rest, log_q, log_rest)
        return log_q.to(logits.dtype), log_rest.to(logits.dtype)

    @staticmethod
    def backward(
        ctx: Any, of_top: torch.Tensor, of_rest: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        others, ids, rest, log_q, log_rest = ctx.saved_tensors
        # The rest shares its gradient by its softmax; all pay for the whole.
        every = of_top.double().sum(-1) + of_rest
        share = (of_rest - every * log_rest.exp()).to(others.dtype)
        grad = (others - rest[:, None]).exp_().mul_(share[:, None])
        of_top = of_top - every[:, None] * log_q.exp()
        return grad.scatter_(-1, ids, of_top.to(others.dtype)), None


def bucketed(logits: torch.Tensor, target: Target, measure: Measure = forward_kl) -> torch.Tensor:
    """D [S] over the teacher's top k and one bucket for the rest (module docstring), from the
    student's logits [S, V]."""
    p, tail_p = target.logp.to(logits.dtype), target.tail.to(logits.dtype)
    # Rounding (fp16) may leave the masses off one: normalise the k + 1 outcomes exactly.
    total = torch.logsumexp(torch.cat([p, tail_p[:, None]], -1), -1)
    p, tail_p = _floor(p - total[:, None]), _floor(tail_p - total)
    if target.ids.shape[-1] == logits.shape[-1]:
        return measure(p, F.log_softmax(logits.gather(-1, target.ids), -1)).sum(-1)
    q, rest = Outcomes.apply(logits, target.ids)  # type: ignore[no-untyped-call]
    return measure(p, q).sum(-1) + measure(tail_p, rest)


def _floor(log_p: torch.Tensor) -> torch.Tensor:
    return log_p.masked_fill(log_p == -torch.inf, FLOOR)


class Live(NamedTuple):
    """A live teacher at S positions: hidden states [S, H_T] and the head that makes logits."""

    hidden: torch.Tensor
    head: torch.nn.Module


class LossParts(NamedTuple):
    """``loss`` to differentiate (this micro-batch's share of the step's); per class, fp64 [C + 1]:
    ``sums`` of D, for the log, and ``weighed``, those of u_t D_t, which the weights belong to."""

    loss: torch.Tensor
    sums: torch.Tensor
    weighed: torch.Tensor


def span_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    target_ids: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    target: Target | Live | None = None,
    *,
    measure: Measure = forward_kl,
    temperature: float = 1.0,
    shares: torch.Tensor | None = None,
    entries: int | None = None,
    chunk: int = 2048,
) -> LossParts:
    """Loss over S supervised positions.

    ``hidden`` [S, H] predicts ``target_ids`` int64 [S] whose classes are ``labels`` [S];
    ``weights`` are ``class_weights`` and ``shares`` fp64 [S] the u_t (None: all 1). ``target``
    None means cross-entropy. ``entries``: of the tokenizer (None: as many as logits). Logits of a
    chunk, the student's and a live teacher's, are made again in the backward pass. Without
    positions the loss is 0 and still differentiable.
    """
    loss = hidden.sum() * 0.0
    sums = torch.zeros(len(weights), dtype=torch.float64, device=hidden.device)
    weighed = sums if shares is None else sums.clone()
    weights = weights.to(hidden.device)
    for start in range(0, len(target_ids), chunk):
        at = slice(start, start + chunk)

        def values(h: torch.Tensor, at: slice = at) -> torch.Tensor:
            # Logits in no name of this frame: divergence lets go of them when it can.
            teacher = _piece(target, at, entries)
            return divergence(
                _wide(head(h)), target_ids[at], teacher, temperature, measure, entries
            )

        one = len(target_ids) <= chunk or not torch.is_grad_enabled()
        h = hidden[at]
        d = values(h) if one else checkpoint(values, h, use_reentrant=False)
        label = labels[at].long()
        weight = weights[label] if shares is None else weights[label] * shares[at]
        loss = loss + (weight.to(d.dtype) * d).sum()
        wide = d.detach().double()
        sums.index_add_(0, label, wide)
        if shares is not None:
            weighed.index_add_(0, label, wide * shares[at])
    return LossParts(loss, sums, weighed)


def log_likelihood(
    hidden: torch.Tensor, head: torch.nn.Module, target_ids: torch.Tensor, chunk: int = 2048
) -> torch.Tensor:
    """log p of S targets from hidden states [S, H]: fp32 [S], logits a chunk at a time."""

    def values(h: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return -F.cross_entropy(_wide(head(h)), ids, reduction="none")

    one = len(target_ids) <= chunk or not torch.is_grad_enabled()
    pieces = [
        values(h, ids) if one else checkpoint(values, h, ids, use_reentrant=False)
        for h, ids in zip(torch.split(hidden, chunk), torch.split(target_ids, chunk), strict=True)
    ]
    return torch.cat(pieces)


def _piece(
    target: Target | Live | None, at: slice, entries: int | None
) -> Target | torch.Tensor | None:
    if target is None:
        return None
    if isinstance(target, Live):
        with torch.no_grad():
            return _wide(target.head(target.hidden[at]))[:, :entries]
    return Target(target.ids[at], target.logp[at], target.tail[at])


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least fp32."""
    return logits if logits.dtype == torch.float64 else logits.float()

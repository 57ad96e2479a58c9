"""Likelihood matching across tokenizers: ``sum_c lambda_c * sum_u D(p_T, p_S)_u / Z_c``, u a chunk.

ALM of Minixhofer, Vulic and Ponti 2025 ("Universal Cross-Tokenizer Distillation via Approximate
Likelihood Matching"), with KL. A chunk's likelihood p is the product over its tokens; it is said or
not, so there are two outcomes:

    D = tau (KL(p_T^(1/tau) || p_S^(1/tau)) + KL(1 - p_T^(1/tau) || 1 - p_S^(1/tau)))

tau = 100 brings likelihoods near 0 into sight. The paper does not multiply by tau: with it the
gradient keeps its size, as with T^2 elsewhere. For tau to infinity D is t log(t / s) - t + s of the
two's nats t and s, the cross-entropy s where the teacher is sure (t = 0).
"""

from __future__ import annotations

import torch

from harness_distillation.likelihoods import Matched
from harness_distillation.losses import LossParts, forward_kl, log_likelihood

#: log p that stands for one of exactly 0, so that no term is infinite: half of fp32's last place.
SURE = -(2.0**-24)


def binary_divergence(log_p: torch.Tensor, log_q: torch.Tensor, tau: float) -> torch.Tensor:
    """D of chunks [U] from the teacher's and the student's log-likelihoods, fp64 [U]."""
    said_p, said_q = _below_one(log_p.double()) / tau, _below_one(log_q.double()) / tau
    not_p, not_q = (torch.log(-torch.expm1(said)) for said in (said_p, said_q))
    return tau * (forward_kl(said_p, said_q) + forward_kl(not_p, not_q))


def _below_one(log_p: torch.Tensor) -> torch.Tensor:
    """At most SURE; the gradient goes on as it was, so that a student wrongly sure is told."""
    fixed = log_p.detach()
    return log_p + (fixed.clamp(max=SURE) - fixed)


def chunk_loss(
    hidden: torch.Tensor,
    head: torch.nn.Module,
    target_ids: torch.Tensor,
    matched: Matched,
    labels: torch.Tensor,
    weights: torch.Tensor,
    *,
    tau: float,
    shares: torch.Tensor | None = None,
) -> LossParts:
    """Loss over the U chunks of S supervised positions.

    ``hidden`` [S, H] predicts ``target_ids`` int64 [S], ``matched`` says which chunk each belongs
    to and the teacher's likelihoods; ``labels`` int64 [U] are the chunks' classes, ``weights`` and
    ``shares`` fp64 [U] as in ``losses.span_loss``, counted in chunks. Every token of a chunk gets
    its gradient.
    """
    log_q = log_likelihood(hidden, head, target_ids).double()
    of_chunk = torch.zeros_like(matched.log_p, dtype=torch.float64)
    d = binary_divergence(matched.log_p, of_chunk.index_add(0, matched.chunk, log_q), tau)
    u = torch.ones_like(d) if shares is None else shares
    sums, weighed = torch.zeros(2, len(weights), dtype=torch.float64, device=d.device)
    sums.index_add_(0, labels, d.detach())
    weighed.index_add_(0, labels, d.detach() * u)
    loss = hidden.sum() * 0.0 + (weights.to(d.device)[labels] * u * d).sum()
    return LossParts(loss, sums, weighed)

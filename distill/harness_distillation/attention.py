"""Causal attention inside each document of a packed row, on the CPU.

Document by document: no score across documents is computed, so a row of sixteen episodes costs what
the episodes cost. Two ways to the same numbers:

    flash   PyTorch's kernel; two opaque operators, so that torch.compile neither unrolls nor
            recompiles over the lengths
    kept    products of matrices over blocks of queries, whose probabilities are kept for the way
            back, while there is memory for them: up to 1.3 times as fast in fp32 and 1.2 in bf16,
            by processor and length of documents
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch

from harness.errors import ConfigError
from harness.registry import require

#: Name to give as ``attn_implementation``.
DOCUMENTS = "documents"


#: Most bytes of probabilities that one layer keeps of a row.
KEPT_BYTES = 128 << 20
#: Queries whose scores are computed at once: beyond them causality saves nothing.
BLOCK = 128


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [1, H, T, D] and log-sum-exps fp32 [1, H, T]; ``bounds`` int64 [documents + 1]."""
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    for a, b in pairwise(bounds.tolist()):
        part = (q[:, :, a:b], k[:, :, a:b], v[:, :, a:b])
        out[:, :, a:b], lse[:, :, a:b] = forward(*part, 0.0, True, scale=scale)
    return out, lse


def attend_backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    bounds: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k, v from that of the output."""
    grads = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    for a, b in pairwise(bounds.tolist()):
        part = [x[:, :, a:b] for x in (grad, q, k, v, out, lse)]
        for whole, piece in zip(grads, backward(*part, 0.0, True, scale=scale), strict=True):
            whole[:, :, a:b] = piece
    return grads


class Kept(torch.autograd.Function):
    """``attend`` that keeps the probabilities. Scores and their softmax are fp32; all else has the
    inputs' type, as in the kernel."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: list[int], scale: float
    ) -> torch.Tensor:
        out = torch.empty_like(q)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        later = torch.ones(BLOCK, BLOCK, dtype=torch.bool).triu(1)
        kept = []
        # Autocast would multiply what is made fp32 in bf16.
        with torch.autocast("cpu", enabled=False):
            for a, b in pairwise(bounds):
                queries, keys = q[0, :, a:b].float() * scale, k[0, :, a:b].float()
                values = v[0, :, a:b]
                for i in range(0, b - a, BLOCK):
                    j = min(i + BLOCK, b - a)
                    scores = queries[:, i:j] @ keys[:, :j].mT
                    scores[:, :, i:j].masked_fill_(later[: j - i, : j - i], -torch.inf)
                    p = torch.softmax(scores, -1, out=scores).to(q.dtype)
                    out[0, :, a + i : a + j] = p @ values[:, :j]
                    kept.append(p)
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.bounds, ctx.scale = bounds, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, out, *saved = ctx.saved_tensors
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        grad = grad.contiguous()
        mean = (grad * out).sum(-1, keepdim=True)
        kept = iter(saved)
        for a, b in pairwise(ctx.bounds):
            for i in range(a, b, BLOCK):
                at, to = slice(i, min(i + BLOCK, b)), slice(a, min(i + BLOCK, b))
                p, g = next(kept), grad[0, :, at]
                of_v[0, :, to] += p.mT @ g
                of_scores = (g @ v[0, :, to].mT).sub_(mean[0, :, at]).mul_(p)
                of_q[0, :, at] = of_scores @ k[0, :, to]
                of_k[0, :, to] += of_scores.mT @ q[0, :, at]
        return of_q.mul_(ctx.scale), of_k.mul_(ctx.scale), of_v, None, None


def keeps(q: torch.Tensor, bounds: list[int]) -> bool:
    """Whether ``Kept`` is the way for these queries [1, H, T, D]: with a way back, and memory."""
    if not torch.is_grad_enabled():
        return False
    cells = sum((b - a) * (b - a + BLOCK) // 2 for a, b in pairwise(bounds))
    return cells * q.shape[1] * q.element_size() <= KEPT_BYTES


@cache
def register_document_attention() -> None:
    """Make ``attn_implementation = "documents"`` known to transformers."""
    # Schemas are spelt out: postponed annotations hide the types from the library.
    inputs = "Tensor q, Tensor k, Tensor v"
    op = torch.library.custom_op(
        "harness_distillation::attend",
        attend,
        mutates_args=(),
        schema=f"({inputs}, Tensor bounds, float scale) -> (Tensor, Tensor)",
    )
    op_backward = torch.library.custom_op(
        "harness_distillation::attend_backward",
        attend_backward,
        mutates_args=(),
        schema=f"(Tensor grad, {inputs}, Tensor out, Tensor lse, Tensor bounds, float scale)"
        " -> (Tensor, Tensor, Tensor)",
    )

    def shapes(q: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=torch.float32)

    def shapes_backward(
        _grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        q, k, v, bounds, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output, bounds)

    def differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        *saved, bounds = ctx.saved_tensors
        return (*op_backward(grad.contiguous(), *saved, bounds, ctx.scale), None, None)

    op.register_fake(shapes)
    op_backward.register_fake(shapes_backward)
    op.register_autograd(differentiate, setup_context=setup)

    def documents(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        _mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        bounds: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        if dropout:
            raise ConfigError("Attention inside documents has no dropout: set dropout = 0.")
        if bounds is None:
            raise ConfigError(f"{type(module).__name__} does not pass the documents' bounds on.")
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        # Rotary embeddings leave q and k in fp32 under autocast.
        query, key = query.to(value.dtype), key.to(value.dtype)
        scale = scaling or query.shape[-1] ** -0.5
        # torch.compile would unroll it.
        if not torch.compiler.is_compiling() and keeps(query, ends := bounds.tolist()):
            out = Kept.apply(query, key, value, ends, scale)  # type: ignore[no-untyped-call]
        else:
            out, _lse = op(query, key, value, bounds, scale)
        return out.transpose(1, 2).contiguous(), None

    interface = require("transformers", "models", "Training").AttentionInterface
    interface.register(DOCUMENTS, documents)

"""Attention of models whose query heads share keys and values, several tokens at a time.

With a mask and more than one token a row, transformers copies keys and values once a query head in
every layer of every pass: for a batch of long conversations that costs several times the attention
itself. Here query heads that share keys are so many more queries of one head; nothing is copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "harness_grouped"


def use_grouped(model: Any) -> None:
    """Have ``model`` use ``grouped`` where it attends by "sdpa" and shares keys between heads."""
    config = model.config
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None)
    if config._attn_implementation == "sdpa" and heads and shared and shared < heads:
        AttentionInterface.register(NAME, grouped)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """``query`` [rows, heads, tokens, dim] over ``key`` and ``value`` [rows, shared heads, columns,
    dim] with an additive mask [rows, 1, tokens, columns]: [rows, tokens, heads, dim]. Anything else
    (no mask, one a head, biases, dropout) is transformers' own."""
    rows, heads, tokens, dim = query.shape
    shared, columns = key.shape[1:3]
    if (
        attention_mask is None
        or attention_mask.shape != (rows, 1, tokens, columns)
        or dropout
        or any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    ):
        whole, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return whole, None
    queries = query.reshape(rows, shared, heads // shared * tokens, dim)
    mask = attention_mask.repeat(1, 1, heads // shared, 1)
    found = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
    return found.reshape(rows, heads, tokens, dim).transpose(1, 2).contiguous(), None

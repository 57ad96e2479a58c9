"""Attention of a batch of conversations: no key is copied, none is read that no token may see.

With a mask, transformers reads every row to the width of the longest, and copies keys and values
once a query head where heads share them. Batches of unlike lengths spend most of a pass on the one,
long conversations of such models several times a pass on the other. Here every row is read to its
own width, and query heads that share keys are so many more queries of one head.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "harness_rows"
#: Rows are read one by one where that leaves out at least so much of what would be read.
PAYS = 0.1


def use_rows(model: Any) -> None:
    """Have ``model`` use ``attend`` where it attends by "sdpa"."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def attend(
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
    own = partial(
        sdpa_attention_forward, module, query, key, value, attention_mask, dropout=dropout,
        scaling=scaling, **kwargs,
    )  # fmt: skip
    if (
        attention_mask is None
        or attention_mask.shape != (rows, 1, tokens, columns)
        or not attention_mask.is_floating_point()
        or dropout
        or any(kwargs.get(name) is not None for name in ("position_bias", "softcap", "s_aux"))
    ):
        return own()[0], None
    widths = _widths(attention_mask) if _by_row(query) else None
    if widths is None and shared == heads:
        return own()[0], None
    queries = query.reshape(rows, shared, heads // shared * tokens, dim)
    mask = attention_mask.repeat(1, 1, heads // shared, 1)
    if widths is None:
        found = scaled_dot_product_attention(queries, key, value, attn_mask=mask, scale=scaling)
        return found.reshape(rows, heads, tokens, dim).transpose(1, 2).contiguous(), None
    whole = query.new_empty((rows, tokens, heads, dim))
    for i, width in enumerate(widths):
        row = slice(i, i + 1), slice(None), slice(0, width)
        found = scaled_dot_product_attention(
            queries[i : i + 1], key[row], value[row], attn_mask=mask[i : i + 1, ..., :width],
            scale=scaling,
        )  # fmt: skip
        whole[i] = found.reshape(heads, tokens, dim).transpose(0, 1)
    return whole, None


def _by_row(query: torch.Tensor) -> bool:
    """On an accelerator a kernel a row, and waiting for the widths, cost more than they save."""
    return query.device.type == "cpu" and len(query) > 1


def _widths(mask: torch.Tensor) -> list[int] | None:
    """Columns up to the last one that any token of a row may see, by an additive mask [rows, 1,
    tokens, columns]; None where reading all columns of all rows is hardly more."""
    rows, _, _, columns = mask.shape
    seen = mask.amax(dim=(1, 2)) > torch.finfo(mask.dtype).min
    numbers = torch.arange(1, columns + 1)
    found: list[int] = torch.where(seen, numbers, 1).amax(dim=-1).tolist()
    return found if sum(found) <= (1 - PAYS) * rows * columns else None

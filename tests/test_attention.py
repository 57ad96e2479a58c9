"""Grouped attention against transformers' own, and where it is used."""

from __future__ import annotations

import pytest
import torch
from harness_agents.backends.attention import NAME, grouped, use_grouped
from tiny import config
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward


@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (8, 1), (4, 4)])
def test_it_is_transformers_own(heads, shared, tokens):
    torch.manual_seed(heads + tokens)
    rows, columns, dim = 3, 70, 16
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = heads // shared, True
    query = torch.randn(rows, heads, tokens, dim)
    # A part of a larger room, as the backend's cache gives it.
    key, value = torch.randn(2, rows + 2, shared, columns + 9, dim)[:, :rows, :, :columns]
    seen = torch.arange(columns) <= torch.randint(8, columns, (rows, 1, tokens, 1))
    mask = torch.zeros(rows, 1, tokens, columns).masked_fill(~seen, torch.finfo(torch.float32).min)
    for given in (mask, None):
        found, none = grouped(module, query, key, value, given, scaling=dim**-0.5)
        own, _ = sdpa_attention_forward(module, query, key, value, given, scaling=dim**-0.5)
        assert none is None
        assert found.shape == (rows, tokens, heads, dim)
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("architecture", "name"), [("llama", NAME), ("gpt2", "sdpa")])
def test_models_that_share_keys_use_it(architecture, name):
    model = AutoModelForCausalLM.from_config(config(architecture)).eval()
    ids = torch.arange(24)[None] % model.config.vocab_size
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        use_grouped(model)
        assert model.config._attn_implementation == name
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)

"""The batch's attention against transformers' own, and where it is used."""

from __future__ import annotations

import pytest
import torch
from harness_agents.backends.attention import NAME, attend, use_rows
from tiny import config
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

LOWEST = torch.finfo(torch.float32).min


def _case(heads, shared, tokens, lengths, columns=70, dim=16):
    """A module, and query, key, value and mask of rows of which ``lengths`` columns are written."""
    torch.manual_seed(heads + tokens)
    rows = len(lengths)
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = heads // shared, True
    query = torch.randn(rows, heads, tokens, dim)
    # A part of a larger room, as the backend's cache gives it.
    key, value = torch.randn(2, rows + 2, shared, columns + 9, dim)[:, :rows, :, :columns]
    last = torch.tensor(lengths)[:, None, None, None] - torch.arange(tokens, 0, -1)[:, None]
    mask = torch.zeros(rows, 1, tokens, columns)
    mask.masked_fill_(torch.arange(columns) > last.clamp(min=0), LOWEST)
    return module, query, key, value, mask


@pytest.mark.parametrize("lengths", [(70, 69, 70), (70, 9, 31), (41, 40, 42), (50,)])
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (8, 1), (4, 4)])
def test_it_is_transformers_own(heads, shared, tokens, lengths):
    module, query, key, value, mask = _case(heads, shared, tokens, lengths)
    # By halves: who may see a column is another question for every row and token.
    holes = mask.masked_fill(torch.rand(mask.shape) < 0.5, LOWEST)
    holes[..., 0] = 0.0
    for given in (mask, holes, None):
        found, none = attend(module, query, key, value, given, scaling=16**-0.5)
        own, _ = sdpa_attention_forward(module, query, key, value, given, scaling=16**-0.5)
        assert none is None
        assert found.shape == (len(lengths), tokens, heads, 16)
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("heads", "shared"), [(9, 3), (4, 4)])
def test_what_no_token_may_see_is_not_read(heads, shared):
    lengths = (70, 9, 31)
    module, query, key, value, mask = _case(heads, shared, 3, lengths)
    found, _ = attend(module, query, key, value, mask, scaling=0.25)
    for i, length in enumerate(lengths):  # a mask would not keep this out: 0 x NaN is NaN
        key[i, :, length:] = value[i, :, length:] = torch.nan
    again, _ = attend(module, query, key, value, mask, scaling=0.25)
    assert torch.equal(again, found)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_models_use_it_and_stay_themselves(architecture):
    model = AutoModelForCausalLM.from_config(config(architecture)).eval()
    ids = torch.arange(48).reshape(2, 24) % model.config.vocab_size
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        use_rows(model)
        assert model.config._attn_implementation == NAME
        torch.testing.assert_close(model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-5)

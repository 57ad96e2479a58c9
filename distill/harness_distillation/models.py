"""Models: small causal LMs from scratch or from a checkpoint, with documents kept apart.

A packed row holds many episodes. On the CPU, attention runs document by document, so no token is
padded and no masked score is computed; elsewhere transformers' own packed mask (reset
``position_ids``, no attention mask, no cache) does it. Either way ``isolation_gap`` measures, at
start-up and for the very model, that a packed row gives what each document gives alone.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch

from harness.errors import ConfigError, DataError
from harness.registry import require
from harness_distillation.recipe import Student

#: Logits may differ by so much (fp32 sums in another order) between packed and alone.
ISOLATION_TOLERANCE = 1e-3


def build(student: Student, tokenizer: Any, seed: int) -> Any:
    """The student before its first step: fresh weights (drawn from ``seed``) or ``start``'s."""
    if student.start is not None:
        return load(student.start)
    transformers = require("transformers", "models", "Training")
    tokens = {
        "vocab_size": padded_vocab(len(tokenizer)),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
    if student.hidden % student.heads:
        raise ConfigError(
            f"[student] hidden {student.hidden} is not a multiple of heads {student.heads}."
        )
    if student.arch == "llama":
        config = transformers.LlamaConfig(
            hidden_size=student.hidden,
            num_hidden_layers=student.layers,
            num_attention_heads=student.heads,
            intermediate_size=student.intermediate or student.hidden * 8 // 3 // 16 * 16,
            max_position_embeddings=student.window,
            attention_dropout=student.dropout,
            **tokens,
        )
    else:
        config = transformers.GPT2Config(
            n_embd=student.hidden,
            n_layer=student.layers,
            n_head=student.heads,
            n_inner=student.intermediate,
            n_positions=student.window,
            resid_pdrop=student.dropout,
            embd_pdrop=student.dropout,
            attn_pdrop=student.dropout,
            **tokens,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def load(folder: str | Path) -> Any:
    """A causal LM in fp32 from a checkpoint folder."""
    transformers = require("transformers", "models", "Training")
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise DataError(f"{path}: no checkpoint there (no config.json). Train it first.")
    return transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)


def padded_vocab(entries: int) -> int:
    """Rows of the embedding: up to the next multiple of 16, which matrix kernels like."""
    return (entries + 15) // 16 * 16


def weights_hash(model: Any) -> str:
    """16 hex digits over names, shapes and values (in fp32) of all parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def body_and_head(model: Any) -> tuple[Any, torch.nn.Module]:
    """(transformer that gives hidden states [B, T, H], LM head H -> V)."""
    return model.base_model, model.get_output_embeddings()


def isolate_documents(model: Any, device: torch.device) -> None:
    """Make the model's attention keep the documents of a packed row apart."""
    if device.type == "cpu":
        register_document_attention()
        model.set_attn_implementation("documents")
    else:
        model.set_attn_implementation("sdpa")


def hidden_states(
    body: Any, ids: torch.Tensor, positions: torch.Tensor, bounds: torch.Tensor
) -> torch.Tensor:
    """Last hidden states [1, T, H] of one packed row.

    ``ids`` and ``positions`` are int64 [1, T], positions restarting at every document;
    ``bounds`` int64 [D + 1] are the documents' starts and the row's end, on the CPU.
    """
    out = body(
        input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False, bounds=bounds
    )
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


@torch.no_grad()
def isolation_gap(model: Any, tokens: int = 48, seed: int = 0) -> float:
    """Largest difference of logits between three documents packed and each alone (plain sdpa)."""
    generator = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    lengths = [tokens, tokens // 3, tokens // 2]
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (1, sum(lengths)), generator=generator).to(device)
    positions = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    body, head = body_and_head(model)
    training = model.training
    model.eval()
    isolate_documents(model, device)
    packed = head(hidden_states(body, ids, positions, bounds))[0]
    model.set_attn_implementation("sdpa")
    gap, start = 0.0, 0
    for n in lengths:
        alone = model(input_ids=ids[:, start : start + n], use_cache=False).logits[0]
        gap = max(gap, float((packed[start : start + n] - alone).abs().max()))
        start += n
    isolate_documents(model, device)
    model.train(training)
    return gap


def check_isolation(model: Any) -> float:
    """Refuse a model whose packed logits differ from its unpacked ones; returns the gap."""
    gap = isolation_gap(model)
    if not gap <= ISOLATION_TOLERANCE:
        raise ConfigError(
            f"{type(model).__name__} does not keep packed episodes apart: logits differ by "
            f"{gap:.3g} (tolerated: {ISOLATION_TOLERANCE:g}).\n"
            "  Use a Llama- or GPT-2-type student."
        )
    return gap


@cache
def register_document_attention() -> None:
    """Make ``attn_implementation = "documents"`` known: causal attention inside each document.

    An opaque operator, so that torch.compile neither unrolls nor recompiles over the lengths.
    Grouped key/value heads are repeated. CPU only (PyTorch's flash kernel for the CPU).
    """
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def attend(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: torch.Tensor, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        out = torch.empty_like(q)
        lse = q.new_empty(q.shape[:3], dtype=torch.float32)
        ends = bounds.tolist()
        for a, b in zip(ends, ends[1:], strict=False):
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
        grads = (torch.empty_like(q), torch.empty_like(k), torch.empty_like(v))
        ends = bounds.tolist()
        for a, b in zip(ends, ends[1:], strict=False):
            part = [x[:, :, a:b] for x in (grad, q, k, v, out, lse)]
            for whole, piece in zip(grads, backward(*part, 0.0, True, scale=scale), strict=True):
                whole[:, :, a:b] = piece
        return grads

    # Schemas are spelt out: with postponed annotations they cannot be inferred from the functions.
    op = torch.library.custom_op(
        "harness_distillation::attend",
        attend,
        mutates_args=(),
        schema="(Tensor q, Tensor k, Tensor v, Tensor bounds, float scale) -> (Tensor, Tensor)",
    )
    op_backward = torch.library.custom_op(
        "harness_distillation::attend_backward",
        attend_backward,
        mutates_args=(),
        schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor bounds,"
        " float scale) -> (Tensor, Tensor, Tensor)",
    )
    op.register_fake(
        lambda q, k, v, bounds, scale: (
            torch.empty_like(q),
            q.new_empty(q.shape[:3], dtype=torch.float32),
        )
    )
    op_backward.register_fake(
        lambda grad, q, k, v, out, lse, bounds, scale: (
            torch.empty_like(q),
            torch.empty_like(k),
            torch.empty_like(v),
        )
    )

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
        q, k, v, bounds, ctx.scale = inputs
        ctx.save_for_backward(q, k, v, *output, bounds)

    def differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        *saved, bounds = ctx.saved_tensors
        return (*op_backward(grad.contiguous(), *saved, bounds, ctx.scale), None, None)

    op.register_autograd(differentiate, setup_context=setup)

    def documents(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
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
        out, _lse = op(query, key, value, bounds, scaling or query.shape[-1] ** -0.5)
        return out.transpose(1, 2).contiguous(), None

    require("transformers", "models", "Training").AttentionInterface.register(
        "documents", documents
    )

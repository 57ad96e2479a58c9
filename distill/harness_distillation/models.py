"""Models: small causal LMs from scratch or from a checkpoint, with documents kept apart.

A packed row holds many episodes. On the CPU, attention runs document by document, so no token is
padded and no masked score is computed; elsewhere transformers' own packed mask (reset
``position_ids``, no attention mask, no cache) does it. Either way ``isolation_gap`` measures, at
start-up and for the very model, that a packed row gives what each document gives alone.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from harness.errors import ConfigError, DataError
from harness.registry import require
from harness_distillation.attention import DOCUMENTS, register_document_attention
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
    transformers = quiet_transformers()
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise DataError(f"{path}: no checkpoint there (no config.json). Train it first.")
    return transformers.AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)


def quiet_transformers() -> Any:
    """The package, without its own progress bars: ours is the only one."""
    transformers = require("transformers", "models", "Training")
    transformers.utils.logging.disable_progress_bar()
    return transformers


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
        model.set_attn_implementation(DOCUMENTS)
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

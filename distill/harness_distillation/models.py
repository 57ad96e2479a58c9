"""Models: small causal LMs from scratch or from a checkpoint, with documents kept apart.

A packed row holds many episodes, kept apart in one of three ways (``layout``):

    documents   attention document by document: no token padded, no masked score computed (CPU)
    packed      transformers' own mask for reset ``position_ids``, no attention mask, no cache
    padded      one document a row, padded behind: what an architecture needs that builds its mask
                without looking at positions (OPT leaks when packed)

Whichever it is, ``isolation_gap`` measures, at start-up and for the very model, that a packed row
gives what each document gives alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from harness.errors import ConfigError
from harness.overlap import TrainedOn
from harness.registry import require
from harness_distillation.attention import DOCUMENTS, register_document_attention
from harness_distillation.hub import HUB, gguf, locate
from harness_distillation.machine import random_state_kept
from harness_distillation.recipe import Student
from harness_distillation.tokenizer import load as load_tokenizer

#: Logits may differ by so much (fp32 sums in another order) between packed and alone.
ISOLATION_TOLERANCE = 1e-3
#: Architectures whose mask does not look at positions.
LEAKY = ("opt",)
#: Key of harness.json: whether a model was trained on observations too.
OBSERVATIONS = "observations"
#: Lists of a config that may be as long as there are layers and are none of them.
_NOT_OF_LAYERS = ("architectures", "eos_token_id")


def build(student: Student, tokenizer: Any, seed: int) -> Any:
    """The student before its first step: fresh weights (drawn from ``seed``) or ``start``'s."""
    if student.start is not None:
        return _start(student, tokenizer)
    transformers = require("transformers", "models", "Training")
    tokens = {
        "vocab_size": padded_vocab(len(tokenizer)),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": True,
    }
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
    elif student.arch == "opt":
        config = transformers.OPTConfig(
            hidden_size=student.hidden,
            word_embed_proj_dim=student.hidden,
            num_hidden_layers=student.layers,
            num_attention_heads=student.heads,
            ffn_dim=student.intermediate or 4 * student.hidden,
            max_position_embeddings=student.window,
            dropout=student.dropout,
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
    with random_state_kept():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _start(student: Student, tokenizer: Any) -> Any:
    """``start`` with the recipe's dropout, window and vocabulary, whole or some of its layers."""
    transformers = quiet_transformers()
    source = locate(student.start or "")
    config = transformers.AutoConfig.from_pretrained(source, **gguf(source))
    if getattr(config, "rope_parameters", None):  # no weights of positions: a window can grow
        config.max_position_embeddings = max(config.max_position_embeddings, student.window)
    elif config.max_position_embeddings < student.window:
        raise ConfigError(
            f"[student] window {student.window} is over the {config.max_position_embeddings} "
            f"positions of {student.start}."
        )
    for name in ("dropout", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, student.dropout)
    model = _pretrained(source, config)
    _grow(model, student.start or "", tokenizer)
    if not student.start_layers:
        return model
    count = config.num_hidden_layers
    if not set(student.start_layers) <= set(range(count)):
        raise ConfigError(f"[student] start_layers: {student.start} has layers 0..{count - 1}.")
    for name, told in list(vars(config).items()):
        # What is told layer by layer (layer_types, no_rope_layers ...).
        if isinstance(told, list) and len(told) == count and name not in _NOT_OF_LAYERS:
            setattr(config, name, [told[layer] for layer in student.start_layers])
    config.num_hidden_layers = len(student.start_layers)
    small = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = model.state_dict()
    small.load_state_dict(
        {name: weights[_layer_of_start(name, student.start_layers)] for name in small.state_dict()}
    )
    return small


def _grow(model: Any, start: str, tokenizer: Any) -> None:
    """Embeddings for the entries that ``tokenizer`` has over the start's own: the mean of their
    pieces'; of further rows, which pad the table, the mean of all that were there. Refuses a
    tokenizer that is not the start's, nor an extension of it."""
    own = load_tokenizer(start)
    before, after = own.get_vocab(), tokenizer.get_vocab()
    if any(after.get(entry) != place for entry, place in before.items()):
        raise ConfigError(
            f"The tokenizer is neither that of [student] start {start} nor an extension of it: "
            "the model would read other words than it has learned.\n"
            "  Leave [tokenizer] out, or add to it with [tokenizer] extend."
        )
    new = sorted(after.keys() - before.keys(), key=after.__getitem__)
    if not new:
        return
    known = model.get_input_embeddings().num_embeddings
    rows = max(padded_vocab(len(tokenizer)), known)
    model.resize_token_embeddings(rows, mean_resizing=False)
    bpe = own.backend_tokenizer.model
    tables = {
        layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    with torch.no_grad():
        for table in tables:
            table[known:] = table[:known].mean(0)  # resizing draws them, by no seed
        for entry in new:
            pieces = [piece.id for piece in bpe.tokenize(entry)]
            for table in tables:
                table[after[entry]] = table[pieces].mean(0)


def _layer_of_start(name: str, layers: tuple[int, ...]) -> str:
    """A parameter's name in the start: ``model.layers.1.x`` -> ``model.layers.{layers[1]}.x``."""
    return re.sub(
        r"\.(h|layers)\.(\d+)\.", lambda m: f".{m[1]}.{layers[int(m[2])]}.", name, count=1
    )


def load(folder: str | Path) -> Any:
    """A causal LM in fp32 from a checkpoint folder, ``hub:owner/name`` or ``module:name``."""
    quiet_transformers()
    return _pretrained(locate(folder))


def _pretrained(source: str, config: Any = None) -> Any:
    transformers = quiet_transformers()
    from harness_agents.backends.loading import gguf_options  # needs transformers

    file = gguf(source).get("gguf_file")
    return transformers.AutoModelForCausalLM.from_pretrained(
        source, config=config, dtype=torch.float32, **(gguf_options(file) if file else {})
    )


def knows_observations(folder: str) -> bool:
    """Whether a checkpoint's harness.json says that it was trained on observations."""
    notes = Path(locate(folder)) / "harness.json"
    return notes.is_file() and msgspec.json.decode(notes.read_bytes()).get(OBSERVATIONS) is True


def learned(folder: str) -> TrainedOn | None:
    """What a checkpoint's weights have learned from; None where its harness.json does not tell.
    Weights without one (a language model's) count as having seen no task."""
    notes = Path(locate(folder)) / "harness.json"
    if not notes.is_file():
        return TrainedOn()
    return msgspec.json.decode(notes.read_bytes(), type=_Learned).trained_on


class _Learned(msgspec.Struct):
    trained_on: TrainedOn | None = None


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


#: Of a config: what leaves a model's distributions as they are.
_IDLE = {
    "_name_or_path", "architectures", "bos_token_id", "dtype", "eos_token_id", "pad_token_id",
    "transformers_version", "use_cache",
}  # fmt: skip


def config_hash(model: Any) -> str:
    """16 hex digits over what a model's config says otherwise than its architecture's defaults:
    the same weights speak otherwise at, say, another ``rope_theta``."""
    default = type(model.config)().to_dict()
    told = {
        name: value
        for name, value in model.config.to_dict().items()
        if name not in _IDLE and value != default.get(name)
    }
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def device_of(model: Any) -> torch.device:
    """Where its weights are."""
    found: torch.device = next(model.parameters()).device
    return found


def body_and_head(model: Any) -> tuple[Any, torch.nn.Module]:
    """(transformer that gives hidden states [B, T, H], LM head H -> V)."""
    return model.base_model, model.get_output_embeddings()


Layout = Literal["documents", "packed", "padded"]


def layout(body: Any) -> Layout:
    """How this model keeps the documents of a row apart (module docstring)."""
    if body.config._attn_implementation == DOCUMENTS:
        return "documents"
    return "padded" if body.config.model_type in LEAKY else "packed"


def leaks(student: Student) -> bool:
    """Whether its architecture is LEAKY; False of a start that is still on the hub, unread."""
    if student.start is None:
        return student.arch in LEAKY
    if student.start.startswith(HUB):
        return False
    source = locate(student.start)
    config = quiet_transformers().AutoConfig.from_pretrained(source, **gguf(source))
    return config.model_type in LEAKY


def recompute_layers(model: Any) -> None:
    """Make each layer's intermediate results again on the way back instead of keeping them."""
    name = "activation_checkpointing_enable"  # transformers 5.0 to 5.22 know the older name
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def isolate_documents(model: Any, device: torch.device) -> None:
    """Make the model's attention keep the documents of a packed row apart."""
    if device.type == "cpu":
        register_document_attention()
        model.set_attn_implementation(DOCUMENTS)
    else:
        model.set_attn_implementation("sdpa")


def compile_body(body: Any) -> Any:
    """``body`` compiled once for rows of one length, whatever documents they hold.

    Raises ConfigError without a C++ compiler (on a CPU), or where every row has another shape.
    What cannot be compiled whole raises when it is first called: nothing runs uncompiled instead.
    """
    if layout(body) == "padded":
        raise ConfigError(
            f"[optim] compile: {type(body).__name__} gets one document a row here, so that every "
            "step has another shape. Set compile = false."
        )
    from torch._inductor import config

    wanted = [name for name in config.cpp.cxx if name]
    if device_of(body).type == "cpu" and not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"[optim] compile needs a C++ compiler, and {' or '.join(wanted)} is not there.\n"
            "  Install g++, name another in the environment variable CXX, or set compile = false."
        )
    return torch.compile(body, dynamic=False, fullgraph=True)


def hidden_states(
    body: Any, ids: torch.Tensor, positions: torch.Tensor, bounds: torch.Tensor
) -> torch.Tensor:
    """Last hidden states [1, T, H] of one packed row.

    ``ids`` and ``positions`` are int64 [1, T], positions restarting at every document;
    ``bounds`` int64 [D + 1] are the documents' starts and the row's end, on the CPU.
    """
    way = layout(body)
    if way == "padded":
        return _one_document_a_row(body, ids, positions, bounds)
    more = {"bounds": bounds} if way == "documents" else {}
    if more and hasattr(body, "_orig_mod"):  # compiled, and once for any number of documents
        torch._dynamo.mark_dynamic(bounds, 0)
    out = body(input_ids=ids, position_ids=positions, attention_mask=None, use_cache=False, **more)
    hidden: torch.Tensor = out.last_hidden_state
    return hidden


def _one_document_a_row(
    body: Any, ids: torch.Tensor, positions: torch.Tensor, bounds: torch.Tensor
) -> torch.Tensor:
    """``hidden_states`` of documents side by side. Padding stands behind its document, where
    causal attention never looks, so no mask is needed."""
    lengths = bounds.diff()
    at = torch.arange(int(lengths.max()))[None].expand(len(lengths), -1)
    real = (at < lengths[:, None]).to(ids.device)
    place = (bounds[:-1, None] + at.clamp(max=lengths[:, None] - 1)).to(ids.device)
    out = body(
        input_ids=ids[0, place],
        position_ids=positions[0, place],
        attention_mask=None,
        use_cache=False,
    )
    hidden: torch.Tensor = out.last_hidden_state[real][None]
    return hidden


@torch.no_grad()
def isolation_gap(
    model: Any, tokens: int = 48, seed: int = 0, implementation: str | None = None
) -> float:
    """Largest difference of logits between three documents in a row and each alone (plain sdpa).

    ``tokens`` of the longest, where the model has positions for so many. ``implementation`` of
    attention for the row: None for the device's own (``isolate_documents``).
    """
    generator = torch.Generator().manual_seed(seed)
    device = device_of(model)
    tokens = min(tokens, getattr(model.config, "max_position_embeddings", tokens))
    lengths = [tokens, max(1, tokens // 3), max(1, tokens // 2)]
    vocab = model.config.vocab_size
    ids = torch.randint(0, vocab, (1, sum(lengths)), generator=generator).to(device)
    positions = torch.cat([torch.arange(n) for n in lengths])[None].to(device)
    bounds = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    body, head = body_and_head(model)
    training = model.training
    model.eval()
    isolate_documents(model, device)
    if implementation is not None:
        model.set_attn_implementation(implementation)
    packed = head(hidden_states(body, ids, positions, bounds))[0]
    model.set_attn_implementation("sdpa")
    gaps, start = [], 0
    for n in lengths:
        alone = model(input_ids=ids[:, start : start + n], use_cache=False).logits[0]
        gaps.append((packed[start : start + n] - alone).abs().max())
        start += n
    isolate_documents(model, device)
    model.train(training)
    return float(torch.stack(gaps).max())  # nan where a logit is


def check_reach(model: Any, longest: int) -> None:
    """Refuse a model that cannot read ``longest`` tokens as it plays: it has fewer positions, or
    layers with a shorter sliding window, which attention inside documents does not follow."""
    config = model.config
    positions = getattr(config, "max_position_embeddings", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or any(kind != "full_attention" for kind in kinds)
    windows = [getattr(config, key, None) for key in ("sliding_window", "attention_chunk_size")]
    limits = [n for n in (positions, *(windows if slides else ())) if n]
    if limits and longest > min(limits):
        what = "positions" if min(limits) == positions else "tokens in the window of its layers"
        raise ConfigError(
            f"A sequence is {longest} tokens long, over the {min(limits)} {what} of "
            f"{type(model).__name__}. Lower [student] window."
        )


def check_isolation(model: Any) -> float:
    """Refuse a model whose packed logits differ from its unpacked ones; returns the gap."""
    gap = isolation_gap(model)
    if not gap <= ISOLATION_TOLERANCE:
        raise ConfigError(
            f"{type(model).__name__} does not keep packed episodes apart: logits differ by "
            f"{gap:.3g} (tolerated: {ISOLATION_TOLERANCE:g}).\n"
            "  Use a Llama-, GPT-2- or OPT-type student."
        )
    return gap

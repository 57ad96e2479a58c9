"""A checkpoint folder's tokenizer and model, through the transformers library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from harness.errors import ConfigError
from harness_agents.backends.attention import use_rows
from harness_agents.checkpoints import Checkpoint


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The tokenizer of a folder; its Rust one is set to plain text in and ids out."""
    options = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    try:
        loaded = AutoTokenizer.from_pretrained(
            checkpoint.folder, local_files_only=True, trust_remote_code=False, **options
        )
        tokenizer = loaded.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise ConfigError(f"{checkpoint.folder}: no usable tokenizer: {error}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return loaded


def load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model of a folder; weights that are missing in its files are refused, never drawn."""
    options: dict[str, Any] = {"use_safetensors": True}
    if checkpoint.gguf:
        options = gguf_options(checkpoint.gguf)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        raise ConfigError(
            f"{checkpoint.folder}: not a causal language model that can be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    missing = sorted(report["missing_keys"])
    if missing:
        raise ConfigError(f"{checkpoint.folder}: weights lack {', '.join(missing[:5])}.")
    use_rows(model)
    return model.eval().requires_grad_(False)


def gguf_options(file: str) -> dict[str, Any]:
    """What a model's ``from_pretrained`` is told of a GGUF file: its weights are unpacked at once.
    Else releases that can keep them packed do, where their kernels are installed, and such a model
    has other weights to hash and cannot be saved."""
    options: dict[str, Any] = {"gguf_file": file}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return options


def load_configs(checkpoint: Checkpoint) -> tuple[Any, ...]:
    """Configuration of the model and, where it has one, of its generation; no weights are read."""
    options: dict[str, Any] = {"local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{checkpoint.folder}: no usable config.json: {error}") from error
    if not (checkpoint.folder / "generation_config.json").is_file():
        return (config,)
    return (config, GenerationConfig.from_pretrained(checkpoint.folder, **options))


def eos_ids(configs: Sequence[Any], tokenizer: Any) -> frozenset[int]:
    """The tokens that end a text, by a model's configurations."""
    found: set[int] = set()
    for config in configs:
        ids = getattr(config, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, list | tuple) else {ids} if ids is not None else set()
    return frozenset(i for i in found if i < vocabulary(tokenizer))


def vocabulary(tokenizer: Any) -> int:
    """One above the highest id: some ids may be nobody's."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)

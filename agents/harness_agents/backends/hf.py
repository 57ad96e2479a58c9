"""``HFBackend``: a local causal language model of the transformers library, batched.

Episodes call ``complete`` from their own threads; one model thread keeps up to ``batch_size`` of
them in a batch that never stops for its slowest row:

    prompt ids -> what a stored prefix lacks is read (rows of like length together) -> one token a
    row a pass, and as many more as were guessed right (``drafts``) -> a row that is done leaves,
    its caller goes on at once, who waits takes its place

Greedy replies equal transformers' own ``generate`` on the single prompt, up to rounding.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from harness.errors import BackendError, ConfigError, unknown
from harness.policy import Decoding
from harness.transcript import (
    Kind,
    Segment,
)
from harness.types import Completion
from harness_agents.backends.choices import Choices, usable
from harness_agents.backends.drafts import CONTEXTS, SIZES, Drafts, Pace
from harness_agents.backends.loading import load_model, load_tokenizer, vocabulary
from harness_agents.backends.replies import Replies
from harness_agents.backends.slots import Ids, Prefixes, Slots, common
from harness_agents.checkpoints import Checkpoint

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: Most padded tokens of one reading pass, and the shortest beginning worth sharing in a batch.
PASS_TOKENS, SHARED = 8192, 64
#: Tokens of the long row in the test at the start: above what local layers commonly see.
TESTED = 320
#: Seconds to wait for another episode's request before a batch that is not full starts.
LINGER = 0.003
#: Seconds after which the oldest request's turn comes, whatever is stored for others.
PATIENCE = 60.0
#: Who waits is let in when that many of who plays: reading together costs one pass.
JOIN = 1 / 8


class Request:
    """One reply being sampled: a row of the batch."""

    def __init__(
        self,
        prompt: Sequence[int] | Ids,
        reread: int,
        decoding: Decoding,
        seed: int,
        choices: Choices | None = None,
    ) -> None:
        self.prompt = np.array(prompt, dtype=np.int64)
        self.reread = reread
        self.decoding = decoding
        self.choices = choices
        self.random = np.random.default_rng(seed)
        self.future: Future[Completion] = Future()
        self.ids: list[int] = []
        self.read = 0  # tokens whose keys and values are stored
        self.continues = -1  # number of the stored prefix this conversation continues
        self.sought = False
        self.cached = 0
        self.asked = time.perf_counter()
        self.started = 0.0

    @property
    def room(self) -> int:
        """Tokens that prompt and reply may fill."""
        more = self.choices.longest if self.choices else 0
        return len(self.prompt) + self.decoding.max_new_tokens + more

    @property
    def last(self) -> int:
        return self.ids[-1] if self.ids else int(self.prompt[-1])

    @property
    def known(self) -> Ids:
        """Prompt and reply so far."""
        return np.concatenate([self.prompt, np.array(self.ids, dtype=np.int64)])


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
        self._positions = self._replies.positions or self.window
        texts = self._replies.texts
        self._colons = frozenset(i for i, text in enumerate(texts) if text.endswith(":"))
        self._barred = [i for i, text in enumerate(texts) if ":" in text[:-1]]
        self._sha256 = checkpoint.sha256()  # of what is loaded: the folder may be written anew
        kind = type(self.model).__name__
        with torch.inference_mode():
            try:
                slots = None if batch_dependent(self.model, self.window) else Slots.of(self.model)
            except Exception as error:  # whatever a model raises that is called in another way
                raise ConfigError(f"{checkpoint.name}: {kind} is not supported: {error}") from error
            if slots is None:
                raise ConfigError(
                    f"{checkpoint.name}: {kind} keeps a cache this backend can't batch."
                )
            self._slots = slots
            self._ahead = SIZES[-1] if guess and batch_size > 1 else 0
            self._most = batch_size * (self.window + self._ahead) * slots.token_bytes
            if batch_mb is not None:
                self._most = min(self._most, batch_mb << 20)
            if self._most < (self.window + self._ahead) * slots.token_bytes:
                raise ConfigError(
                    f"{checkpoint.name}: 'batch_mb' {batch_mb} is less than one row of a window of "
                    f"{self.window} tokens needs: "
                    f"{-(-(self.window + self._ahead) * slots.token_bytes >> 20)}."
                )
            try:
                self._self_test()
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise ConfigError(f"{checkpoint.name}: {kind} is not supported: {error}") from error
            self._slots.clear()  # what the test needed is no conversation's
        self._prefixes = Prefixes(prefix_mb << 20)
        self._drafts, self._pace = Drafts(), Pace(self._ahead)
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
        self._rows: list[Request] = []  # places 0 .. len - 1 of the slots
        joining: list[Request] = []
        try:
            while not self._closed:
                joining = self._admit(self._rows)
                if not self._closed:
                    self._take_turn(joining)
            why = "it was closed"
        except BaseException as error:  # whoever asks next is told, and nobody waits for ever
            why = f"its thread ended ({error!r})"
        with self._changed:
            self._closed = True
            left = [*self._rows, *joining, *self._waiting]
        self._fail(left, BackendError, why)

    def _take_turn(self, joining: list[Request]) -> None:
        """Read the prompts of who joins, then advance the batch."""
        if self.threads not in (None, torch.get_num_threads()):
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                if joining:
                    self._rows += self._read_prompts(joining, self._rows)
        except Exception as error:  # of who joins alone: the places of who plays are untouched
            self._fail(joining, type(error), str(error))
        if not self._rows:
            return
        try:
            with torch.inference_mode():
                self._advance(self._rows)
        except Exception as error:  # reaches every caller in the batch, see _fail
            rows, self._rows = self._rows, []
            self._fail(rows, type(error), str(error))
            self._slots.clear()

    def _admit(self, rows: Sequence[Request]) -> list[Request]:
        """Who joins the batch now. With nobody in it, waits for somebody."""
        with self._changed:
            if not rows:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                while len(self._waiting) < self.batch_size and self._changed.wait(LINGER):
                    pass
            most = min(self.batch_size - len(rows), len(self._waiting))
            free = self._fitting(rows, most)
            if 0 < free < len(self._waiting):
                self._waiting = deque(self._by_turn(self._waiting))
                free = self._fitting(rows, most)
            if free < JOIN * len(rows):
                return []
            return [self._waiting.popleft() for _ in range(free)]

    def _fitting(self, rows: Sequence[Request], most: int) -> int:
        """How many of the first ``most`` that wait there is memory for: rows are as long as the
        longest."""
        room = max((row.room for row in rows), default=0) + self._ahead
        for joining in range(most):
            room = max(room, self._waiting[joining].room + self._ahead)
            if (len(rows) + joining + 1) * room * self._slots.token_bytes > self._most:
                return joining
        return most

    def _by_turn(self, waiting: Iterable[Request]) -> list[Request]:
        """Who goes on with a conversation whose keys and values are stored comes before who begins:
        with more conversations than there is memory for, taking turns would drop each one's just
        before they are wanted. Who has waited longest comes before all after ``PATIENCE``."""

        def begins(request: Request) -> bool:
            if not request.sought:  # what it goes on with was stored before it was asked
                request.continues = self._prefixes.match(request.prompt[:-1])[2]
                request.sought = True
            return not self._prefixes.holds(request.continues)

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

    def _advance(self, rows: list[Request]) -> None:
        """A token a row, and what was guessed right behind it; rows that are done leave."""
        most = self._pace.start()
        guesses = [self._guess(row, most) for row in rows]
        logits = self._forward(rows, guesses)
        best = logits.argmax(dim=-1).tolist()
        said = 0
        for i in reversed(range(len(rows))):
            row, stop = rows[i], ""
            for j, guessed in enumerate([*guesses[i], None]):
                token = self._choose(logits[i, j], row, best[i][j])
                row.read += 1
                row.ids.append(token)
                said += 1
                stop = self._stopped(row)
                if stop or token != guessed:
                    break
            if stop:
                self._finish(row, i, stop)
                # the last row takes the free place, so that rows stay 0 .. len - 1
                if i < len(rows) - 1:
                    self._slots.move(len(rows) - 1, i, rows[-1].read)
                    rows[i] = rows[-1]
                rows.pop()
        self._pace.end(said)

    def _guess(self, row: Request, most: int) -> list[int]:
        """Tokens that may follow, fewer than the reply may still have."""
        most = min(most, row.decoding.max_new_tokens - len(row.ids) - 1)
        return self._drafts.guess(row.known, most) if most > 0 else []

    def _choose(self, logits: torch.Tensor, row: Request, best: int) -> int:
        """The row's next token from its logits [vocabulary], of which ``best`` is the largest."""
        choices = row.choices
        if choices is not None:
            choices.restrict(logits)
            best = int(logits.argmax())
        token = best if row.decoding.temperature <= 0 else sample(logits, row)
        if choices is not None:
            choices.follow(token)
            row.ids.append(token)
            if token in self._colons and not choices.acting and self._labelled(row):
                choices.act()
            row.ids.pop()
        return token

    def _forward(self, rows: Sequence[Request], guesses: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read each row's last token and the guess behind it: logits [rows, 1 + longest guess,
        vocabulary] of the next ones, in float32. Raises BackendError if they are not finite."""
        longest = max(map(len, guesses))
        padded = [
            [row.last, *g, *[0] * (longest - len(g))] for row, g in zip(rows, guesses, strict=True)
        ]
        ids = torch.tensor(padded, device=self.device)
        at = torch.tensor([[row.read] for row in rows]) + torch.arange(1 + longest)
        width = int(at.max()) + 1
        output = self._pass(self.model, 0, ids, at.to(self.device), width)
        logits: torch.Tensor = output.logits.float()
        if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
            raise BackendError("the model's logits are not finite")
        return logits

    def _pass(self, model: Any, first: int, ids: torch.Tensor, at: torch.Tensor, width: int) -> Any:
        """One pass over ``ids`` [rows, tokens] at positions ``at``, for the rows from ``first``."""
        self._slots.aim(first, at, width)
        columns = torch.arange(width, device=self.device)
        mask = torch.zeros((len(ids), 1, ids.shape[1], width), dtype=self.model.dtype)
        mask = mask.to(self.device).masked_fill_(
            columns > at[:, None, :, None], torch.finfo(self.model.dtype).min
        )
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=at.clamp(max=self._positions - 1),
            past_key_values=self._slots,
            use_cache=True,
        )

    def _read_prompts(self, batch: list[Request], playing: Sequence[Request] = ()) -> list[Request]:
        """Read all but each prompt's last token into the places behind who plays; returns the rows
        in their order there."""
        base = len(playing)
        started = time.perf_counter()
        prompts = [request.prompt[:-1] for request in batch]
        shared = common(prompts) if len(batch) > 1 else 0
        matches = [self._prefixes.match(prompt) for prompt in prompts]
        cached = [length for length, *_ in matches]
        room = max(row.room for row in [*playing, *batch]) + self._ahead
        if shared >= SHARED and sum(match[0] < shared - SHARED for match in matches) > 1:
            one = Request(batch[0].prompt[: shared + 1], 0, batch[0].decoding, 0)
            self._read_prompts([one], playing)
            saved = self._slots.save(base, shared)
            self._prefixes.put(one.prompt[:shared], shared, saved)
            begun = [m[0] < shared for m in matches]
            cached = [shared if new else m[0] for new, m in zip(begun, matches, strict=True)]
            cached[begun.index(True)] = one.cached  # what is read for all is one's
            matches = [
                (shared, saved, -1) if new else m for new, m in zip(begun, matches, strict=True)
            ]
        order = sorted(range(len(batch)), key=lambda i: len(prompts[i]) - matches[i][0])
        self._slots.reserve(base + len(batch), room, keep=base, most=self._most)
        columns = self._slots.room[1]
        rows = [batch[i] for i in order]
        for place, i in enumerate(order, base):
            length, stored, number = matches[i]
            if stored is not None:
                self._slots.load(place, stored, length)
            batch[i].read, batch[i].continues, batch[i].started = length, number, started
            batch[i].cached = cached[i]
        for first, stop in passes([len(row.prompt) - 1 - row.read for row in rows]):
            group = rows[first:stop]
            longest = len(group[-1].prompt) - 1 - group[-1].read
            ids = np.zeros((len(group), longest), dtype=np.int64)
            for line, row in zip(ids, group, strict=True):
                new = row.prompt[row.read : -1]
                line[: len(new)] = new
            at = torch.tensor([row.read for row in group])[:, None] + torch.arange(longest)
            # Padding may reach past the room; its column is written again before it is read.
            at.clamp_(max=columns - 1)
            tokens, width = torch.from_numpy(ids).to(self.device), int(at.max()) + 1
            self._pass(self.model.base_model, base + first, tokens, at.to(self.device), width)
            for row in group:
                row.read = len(row.prompt) - 1
        return rows

    def _stopped(self, row: Request) -> str:
        stop = self._replies.ended(int(row.prompt[-1]), row.ids)
        if stop or (row.choices is not None and row.choices.acting):
            return stop
        return "length" if len(row.ids) >= row.decoding.max_new_tokens else ""

    def _labelled(self, row: Request) -> bool:
        """Whether the reply so far ends in the label of an action."""
        said = self._replies.said(int(row.prompt[-1]), row.ids)
        return bool(said) and said[-1].kind is Kind.ACT_FORMAT and "Action" in said[-1].text

    def _finish(self, row: Request, place: int, stop: str) -> None:
        known = row.known
        if self._prefixes.budget:
            saved = self._slots.save(place, row.read)
            self._prefixes.put(known[:-1], len(row.prompt), saved, row.continues)
        if self._ahead:
            self._drafts.learn(known[-len(row.ids) - CONTEXTS[0] :].tolist(), CONTEXTS[0])
        row.future.set_result(
            self._replies.completion(
                int(row.prompt[-1]),
                row.ids,
                prompt_tokens=len(row.prompt),
                cached_tokens=row.cached,
                reread_tokens=row.reread,
                stop=stop,
                seconds=round(time.perf_counter() - row.started, 6),
                waited=round(row.started - row.asked, 6),
            )
        )

    def _self_test(self) -> None:
        """The batched way must give this architecture's own logits, or it is not played at all."""
        size = vocabulary(self.tokenizer)
        known = self.model.get_input_embeddings().num_embeddings
        if size > known:
            raise ConfigError(
                f"{self.checkpoint.name}: the tokenizer has {size} tokens, the model only {known}."
            )
        # A short row beside a long one, of few tokens: neither may see that it is not alone.
        long = np.resize(np.random.default_rng(0).integers(0, size, 12), TESTED)[: self.window - 2]
        rows = [Request(ids, 0, Decoding(max_new_tokens=1), 0) for ids in (long[-8:], long)]
        alone = [
            self.model(input_ids=torch.from_numpy(row.prompt)[None].to(self.device)).logits[0, -1]
            for row in rows
        ]
        expected = torch.stack(alone).float()
        self._prefixes = Prefixes(0)
        order = self._read_prompts(rows)
        logits = self._forward(order, [[], []])[:, 0]
        found = torch.stack([logits[order.index(row)] for row in rows])
        worst = ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max()
        if not worst < (1e-3 if self.dtype == "float32" else 0.1):
            raise ConfigError(
                f"{self.checkpoint.name}: batching {type(self.model).__name__} changes its logits "
                f"(by {float(worst):.2g} of the largest); this architecture is not supported."
            )


def batch_dependent(model: Any, window: int) -> bool:
    """Whether a row's logits would depend on how long its neighbours are: windows that end where
    the longest row does (GPT-Neo's local layers), rotary factors that all rows change together once
    one is long (LongRoPE)."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    for kind in kinds:
        own = getattr(config, "original_max_position_embeddings", None)
        first = kind.get("original_max_position_embeddings") or own
        if "longrope" in (kind.get("rope_type"), kind.get("type")) and window > (first or 0):
            return True
    return any(getattr(module, "attention_type", None) == "local" for module in model.modules())


def passes(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut rows, sorted by tokens to read, into passes [first, stop) with little padding."""
    cuts: list[tuple[int, int]] = []
    first = 0
    while first < len(lengths):
        stop = first + 1
        if lengths[first] > 0:
            most = 1.5 * lengths[first] + 16
            while (
                stop < len(lengths)
                and lengths[stop] <= most
                and lengths[stop] * (stop + 1 - first) <= PASS_TOKENS
            ):
                stop += 1
            cuts.append((first, stop))
        first = stop
    return cuts


def sample(logits: torch.Tensor, row: Request) -> int:
    """A token drawn from logits [vocabulary] by the row's own generator, so that what it gets does
    not depend on its neighbours. Temperature first, then the smallest set whose probability reaches
    ``top_p``."""
    p = torch.softmax(logits.double() / row.decoding.temperature, dim=-1)
    if row.decoding.top_p < 1:
        falling, order = p.sort(descending=True, stable=True)
        outside = falling.cumsum(-1) - falling >= row.decoding.top_p
        p[order[outside]] = 0.0
    total = p.cumsum(-1)
    # random() < 1, so the threshold stays below the last total: always a kept token
    return int((total <= row.random.random() * total[-1]).sum())

"""The rows that one model decodes together, and the passes that it makes for them.

prompt ids -> what a stored prefix lacks is read (rows of like length together) -> one token a
row a pass, and as many more as were guessed right (``drafts``) -> a row that is done leaves and
its keys and values are kept for the conversation's next prompt
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from harness.errors import BackendError, ConfigError
from harness.policy import Decoding
from harness.transcript import Kind
from harness.types import Completion
from harness_agents.backends.choices import Choices
from harness_agents.backends.drafts import CONTEXTS, SIZES, Drafts, Pace
from harness_agents.backends.loading import vocabulary
from harness_agents.backends.replies import Replies
from harness_agents.backends.slots import Ids, Prefixes, Slots, common

#: Most padded tokens of one reading pass, and the shortest beginning worth sharing in a batch.
PASS_TOKENS, SHARED = 8192, 64
#: Tokens of the long row in the test at the start: above what local layers commonly see.
TESTED = 320


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


class Batch:
    """Rows of ``model`` at places 0 .. len(rows) - 1 of its slots. One thread at a time uses it.

    ``replies`` are the checkpoint's, ``most_rows`` how many there may be, ``prefix_mb``,
    ``batch_mb`` and ``guess`` as in ``HFBackend``. Raises ConfigError, its text beginning with
    ``name``, for a model that cannot be batched: its logits are compared first.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        replies: Replies,
        *,
        most_rows: int,
        prefix_mb: int,
        batch_mb: int | None,
        guess: bool,
    ) -> None:
        self.rows: list[Request] = []
        self._model, self._replies = model, replies
        self._device = model.device
        self._positions = replies.positions or replies.window
        self._colons = frozenset(i for i, text in enumerate(replies.texts) if text.endswith(":"))
        kind = type(model).__name__
        with torch.inference_mode():
            try:
                dependent = batch_dependent(model, replies.window)
                slots = None if dependent else Slots.of(model)
            except Exception as error:  # whatever a model raises that is called in another way
                raise ConfigError(f"{name}: {kind} is not supported: {error}") from error
            if slots is None:
                raise ConfigError(f"{name}: {kind} keeps a cache this backend can't batch.")
            self.slots = slots
            #: Columns that guesses may take behind a row's own.
            self.ahead = SIZES[-1] if guess and most_rows > 1 else 0
            row = (replies.window + self.ahead) * slots.token_bytes
            #: Bytes that the rows may take together.
            self.most = most_rows * row
            if batch_mb is not None:
                self.most = min(self.most, batch_mb << 20)
            if self.most < row:
                raise ConfigError(
                    f"{name}: 'batch_mb' {batch_mb} is less than one row of a window of "
                    f"{replies.window} tokens needs: {-(-row >> 20)}."
                )
            self.prefixes = Prefixes(0)
            try:
                self._self_test(name, kind)
            except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
                raise ConfigError(f"{name}: {kind} is not supported: {error}") from error
            self.slots.clear()  # what the test needed is no conversation's
        self.prefixes = Prefixes(prefix_mb << 20)
        self._drafts, self._pace = Drafts(), Pace(self.ahead)

    def fitting(self, waiting: Iterable[Request]) -> int:
        """How many of the first of those who wait there is memory for: rows are as long as the
        longest."""
        room = max((row.room for row in self.rows), default=0) + self.ahead
        joining = 0
        for request in waiting:
            room = max(room, request.room + self.ahead)
            if (len(self.rows) + joining + 1) * room * self.slots.token_bytes > self.most:
                break
            joining += 1
        return joining

    def join(self, requests: list[Request]) -> None:
        """Read the prompts of ``requests`` and have them play. If it raises, none of them does, and
        the places of who plays are untouched."""
        self.rows += self._read_prompts(requests)

    def advance(self) -> None:
        """A token a row, and what was guessed right behind it; rows that are done leave, their
        replies told. After it has raised, only ``drop`` is left to do."""
        rows = self.rows
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
                    self.slots.move(len(rows) - 1, i, rows[-1].read)
                    rows[i] = rows[-1]
                rows.pop()
        self._pace.end(said)

    def drop(self) -> list[Request]:
        """Who played, none of whom plays any longer; the rows' memory is given back."""
        rows, self.rows = self.rows, []
        self.slots.clear()
        return rows

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
        ids = torch.tensor(padded, device=self._device)
        at = torch.tensor([[row.read] for row in rows]) + torch.arange(1 + longest)
        width = int(at.max()) + 1
        output = self._pass(self._model, 0, ids, at.to(self._device), width)
        logits: torch.Tensor = output.logits.float()
        if not bool(torch.isfinite(logits.amax(dim=-1)).all()):
            raise BackendError("the model's logits are not finite")
        return logits

    def _pass(self, model: Any, first: int, ids: torch.Tensor, at: torch.Tensor, width: int) -> Any:
        """One pass over ``ids`` [rows, tokens] at positions ``at``, for the rows from ``first``."""
        self.slots.aim(first, at, width)
        columns = torch.arange(width, device=self._device)
        mask = torch.zeros((len(ids), 1, ids.shape[1], width), dtype=self._model.dtype)
        mask = mask.to(self._device).masked_fill_(
            columns > at[:, None, :, None], torch.finfo(self._model.dtype).min
        )
        return model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=at.clamp(max=self._positions - 1),
            past_key_values=self.slots,
            use_cache=True,
        )

    def _read_prompts(self, batch: list[Request]) -> list[Request]:
        """Read all but each prompt's last token into the places behind who plays; returns the rows
        in their order there."""
        base = len(self.rows)
        started = time.perf_counter()
        prompts = [request.prompt[:-1] for request in batch]
        shared = common(prompts) if len(batch) > 1 else 0
        matches = [self.prefixes.match(prompt) for prompt in prompts]
        cached = [length for length, *_ in matches]
        room = max(row.room for row in [*self.rows, *batch]) + self.ahead
        if shared >= SHARED and sum(match[0] < shared - SHARED for match in matches) > 1:
            one = Request(batch[0].prompt[: shared + 1], 0, batch[0].decoding, 0)
            self._read_prompts([one])
            saved = self.slots.save(base, shared)
            self.prefixes.put(one.prompt[:shared], shared, saved)
            begun = [m[0] < shared for m in matches]
            cached = [shared if new else m[0] for new, m in zip(begun, matches, strict=True)]
            cached[begun.index(True)] = one.cached  # what is read for all is one's
            matches = [
                (shared, saved, -1) if new else m for new, m in zip(begun, matches, strict=True)
            ]
        order = sorted(range(len(batch)), key=lambda i: len(prompts[i]) - matches[i][0])
        self.slots.reserve(base + len(batch), room, keep=base, most=self.most)
        columns = self.slots.room[1]
        rows = [batch[i] for i in order]
        for place, i in enumerate(order, base):
            length, stored, number = matches[i]
            if stored is not None:
                self.slots.load(place, stored, length)
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
            tokens, width = torch.from_numpy(ids).to(self._device), int(at.max()) + 1
            self._pass(self._model.base_model, base + first, tokens, at.to(self._device), width)
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
        if self.prefixes.budget:
            saved = self.slots.save(place, row.read)
            self.prefixes.put(known[:-1], len(row.prompt), saved, row.continues)
        if self.ahead:
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

    def _self_test(self, name: str, kind: str) -> None:
        """The batched way must give this architecture's own logits, or it is not played at all."""
        size = vocabulary(self._replies.tokenizer)
        known = self._model.get_input_embeddings().num_embeddings
        if size > known:
            raise ConfigError(f"{name}: the tokenizer has {size} tokens, the model only {known}.")
        # A short row beside a long one, of few tokens: neither may see that it is not alone.
        long = np.resize(np.random.default_rng(0).integers(0, size, 12), TESTED)
        long = long[: self._replies.window - 2]
        rows = [Request(ids, 0, Decoding(max_new_tokens=1), 0) for ids in (long[-8:], long)]
        alone = [
            self._model(input_ids=torch.from_numpy(row.prompt)[None].to(self._device)).logits[0, -1]
            for row in rows
        ]
        expected = torch.stack(alone).float()
        order = self._read_prompts(rows)
        logits = self._forward(order, [[], []])[:, 0]
        found = torch.stack([logits[order.index(row)] for row in rows])
        worst = ((found - expected).abs().amax(-1) / expected.abs().amax(-1)).max()
        if not worst < (1e-3 if self._model.dtype == torch.float32 else 0.1):
            raise ConfigError(
                f"{name}: batching {kind} changes its logits (by {float(worst):.2g} of the "
                "largest); this architecture is not supported."
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

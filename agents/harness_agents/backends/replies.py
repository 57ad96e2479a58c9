"""What a local model's token ids mean: prompts on their way in, sampled replies on their way out.

Both local backends, our own batches and vLLM, say through this where a reply ends and what it said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from harness.errors import ConfigError
from harness.loop import clean
from harness.transcript import ACTED, Kind, Segment, count_tokens, join, split_reply
from harness.types import Completion
from harness_agents.backends.exact import exact
from harness_agents.backends.loading import eos_ids, vocabulary
from harness_agents.backends.prompts import ChatPrompts, Prompts
from harness_agents.checkpoints import Checkpoint


def encoder(tokenizer: Any) -> Callable[[str], tuple[int, ...]]:
    """Token ids of a text, as prompts have them. Text that spells a special token stays text: the
    environment must not end a prompt."""

    @lru_cache(maxsize=1 << 16)
    def encode(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(clean(text), add_special_tokens=False).ids)

    return encode


class Replies:
    """A checkpoint's tokenizer, window and end tokens. ``loaded`` is its ``load_tokenizer``,
    ``configs`` its model's and its generation's; ``window`` is in tokens, prompt and reply together
    (None: the checkpoint's, else the model's, at most 2,048). ``chat`` has the checkpoint's own
    chat template write the turns. Raises ConfigError for a window that the model has not."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        loaded: Any,
        configs: Sequence[Any],
        window: int | None,
        chat: bool,
    ) -> None:
        name = checkpoint.name
        # A chat template writes whole texts: ``ChatPrompts`` reads them as the model learned them.
        self.tokenizer = exact(loaded.backend_tokenizer)
        self.encode = encoder(self.tokenizer)
        #: Positions that the model has; None: as many as are asked for.
        self.positions: int | None = getattr(configs[0], "max_position_embeddings", None)
        self.window = window or checkpoint.settings.window or min(self.positions or 2048, 2048)
        if self.positions is not None and self.window > self.positions:
            raise ConfigError(
                f"{name}: window {self.window} exceeds the model's {self.positions} tokens."
            )
        self._prompts = (
            ChatPrompts(name, loaded, self.window)
            if chat
            else Prompts(name, self.encode, self.window)
        )
        #: blocks, most new tokens -> (ids, how many of them are read again as the window moved)
        self.prompt = self._prompts.ids
        self.eos = eos_ids(configs, self.tokenizer)
        #: The text of each token id.
        self.texts: list[str] = self.tokenizer.decode_batch(
            [[i] for i in range(vocabulary(self.tokenizer))], skip_special_tokens=False
        )
        self._breaks = frozenset(i for i, text in enumerate(self.texts) if "\n" in text)

    @property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def decode(self, before: int, ids: Sequence[int]) -> str:
        """The text of sampled ids behind the prompt's last one, ``before``: some decoders strip a
        text's first blank."""
        ids = ids[:-1] if ids[-1] in self.eos else ids
        whole = self.tokenizer.decode([before, *ids], skip_special_tokens=False)
        return str(whole[len(self.tokenizer.decode([before], skip_special_tokens=False)) :])

    def said(self, before: int, ids: Sequence[int]) -> list[Segment]:
        """The visible part of a reply."""
        return split_reply(self._prompts.said(self.decode(before, ids))[1])

    def ended(self, before: int, ids: Sequence[int]) -> str:
        """Why a reply ends with its newest token: "eos", "stop" (its action line is whole), or ""
        where it goes on."""
        if ids[-1] in self.eos:
            return "eos"
        if ids[-1] in self._breaks:
            segments = self.said(before, ids)
            if segments and segments[-1] == ACTED:
                return "stop"
        return ""

    def completion(self, before: int, ids: Sequence[int], **costs: Any) -> Completion:
        """A whole reply, its tokens counted; ``costs`` are further fields."""
        hidden, said = self._prompts.said(self.decode(before, ids))
        segments = split_reply(said)

        def length(text: str) -> int:
            return len(self.encode(text))

        return Completion(
            text=join(segments),
            reasoning_tokens=length(hidden) + count_tokens(segments, length, Kind.REASON),
            action_tokens=count_tokens(segments, length, Kind.ACT),
            ids=tuple(ids),
            hidden=hidden.strip(),
            **costs,
        )

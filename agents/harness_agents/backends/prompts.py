"""From a transcript to the token ids that a local model reads, within its window.

``Prompts`` joins segments as students were trained on them; ``ChatPrompts`` has the model's own
chat template write the turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer

from harness.errors import ConfigError
from harness.loop import clean
from harness.policy import ContextOverflow
from harness.transcript import Kind, Segment, join, messages, window_start
from harness_agents.backends.answers import uncover

Blocks = Sequence[Sequence[Segment]]
#: The tag that opens a thinking model's hidden thought.
THINK = "<think>"


class Prompts:
    """Segments are tokenised one by one and their ids joined (``harness.transcript``)."""

    def __init__(self, name: str, encode: Callable[[str], Sequence[int]], window: int) -> None:
        self.name, self.encode, self.window = name, encode, window

    def ids(self, blocks: Blocks, max_new_tokens: int) -> tuple[list[int], int]:
        """Token ids the model reads, and how many of them it reads again as the window moved.

        Raises ContextOverflow when header and newest observation leave no room for a reply.
        """
        limit = self.window - max_new_tokens
        ids = [[i for s in block for i in self.encode(s.text)] for block in blocks]
        lengths = [len(block) for block in ids]
        head, steps = lengths[0], lengths[1:]
        start = window_start(head, steps, limit)
        if start >= len(steps):
            raise self._overflow(head, steps[-1] if steps else 0, limit)
        reread = 0
        if len(steps) > 1:
            before = [*steps[:-2], len(self.encode(blocks[-2][0].text))]
            if window_start(head, before, limit) != start:
                reread = sum(steps[start:-1])
        return [i for block in (ids[0], *ids[1 + start :]) for i in block], reread

    def said(self, text: str) -> tuple[str, str]:
        """(hidden thought, visible reply) of a sampled text."""
        return "", text

    def _overflow(self, head: int, newest: int, limit: int) -> ContextOverflow:
        return ContextOverflow(
            f"{self.name}: header ({head} tokens) and newest observation ({newest}) exceed {limit} "
            f"(window {self.window} less a reply)."
        )


class ChatPrompts(Prompts):
    """Turns by the template that came with the checkpoint. Text that spells a special token gets a
    blank inside it, so that an observation cannot end a turn. Raises ConfigError without a
    template."""

    def __init__(self, name: str, tokenizer: Any, window: int) -> None:
        if not tokenizer.chat_template:
            raise ConfigError(f"{name}: chat = true, but the checkpoint has no chat template.")
        reader = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        reader.encode_special_tokens = False  # the template's own marks are tokens

        # A prompt is read again in the next steps, for the lengths of what the window may drop.
        @lru_cache(maxsize=1 << 10)
        def encode(text: str) -> tuple[int, ...]:
            return tuple(reader.encode(text, add_special_tokens=False).ids)

        super().__init__(name, encode, window)
        self._tokenizer = tokenizer
        added = (t.content for t in reader.get_added_tokens_decoder().values() if t.special)
        self._special = [t for t in {*tokenizer.all_special_tokens, *added} if len(t) > 1]
        self._special.sort(key=len, reverse=True)
        #: What the template writes last for the model to go on from, if that opens a thought.
        line = [Segment(Kind.CONTEXT, "x\n")]
        asked = self._text([line, line])
        self._opened = THINK if asked.rstrip().endswith(THINK) else ""

    def ids(self, blocks: Blocks, max_new_tokens: int) -> tuple[list[int], int]:
        limit = self.window - max_new_tokens
        header, steps = blocks[0], list(blocks[1:])
        # What each step added to the prompt then: its observation, the reply before, their marks.
        upto = [len(self.encode(join(header)))]
        for k, block in enumerate(steps):
            upto.append(len(self._ids(header, [*steps[:k], block[:1]])))
        added = [after - before for before, after in pairwise(upto)]
        start = self._start(header, steps, upto[0], added, limit)
        if start >= len(steps):
            raise self._overflow(upto[0], added[-1] if added else 0, limit)
        reread = 0
        if len(steps) > 1:
            then = [*steps[:-2], steps[-2][:1]]
            if self._start(header, then, upto[0], added[:-1], limit) != start:
                reread = sum(added[start:-1])
        return self._ids(header, steps[start:]), reread

    def _start(
        self, header: Sequence[Segment], steps: Blocks, head: int, added: Sequence[int], limit: int
    ) -> int:
        """First step to show. Without the steps before it a template may write more."""
        start = window_start(head, added, limit)
        while start < len(steps) and len(self._ids(header, steps[start:])) > limit:
            start += 1
        return start

    def _ids(self, header: Sequence[Segment], steps: Blocks) -> list[int]:
        return list(self.encode(self._text([header, *steps])))

    def said(self, text: str) -> tuple[str, str]:
        return uncover(self._opened + text)

    def _text(self, blocks: Blocks) -> str:
        turns = messages(blocks[0], blocks[1:])
        for turn in turns:
            content = clean(turn["content"])
            for token in self._special:
                content = content.replace(token, f"{token[0]} {token[1:]}")
            turn["content"] = content
        text: str = self._tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, tokenize=False
        )
        return text

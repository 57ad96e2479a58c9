"""``ServerBackend``: a language model behind an OpenAI-compatible server.

    blocks -> prompt text (``completions``) or messages (``chat``) -> POST -> Completion

Any number of episodes call at once, each from its own thread. Lost connections, time-outs, 408,
409, 425, 429 and 5xx are tried again with growing pauses, at another server where there is one;
other refusals are not. What stays broken is a BackendError: an error beside the score, which
``--retry-errors`` plays again.

A thinking model's hidden thought becomes the decision's reasoning and is not shown to it again, as
its chat template would have it. A native tool call is read as an action (see ``answers``).
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from itertools import chain, count, repeat
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import requests
from urllib3.exceptions import HTTPError

from harness.errors import BackendError, ConfigError
from harness.policy import ContextOverflow, Decoding
from harness.transcript import Segment, conversation, join, messages, window_start
from harness.types import Completion
from harness_agents.backends.answers import STOP, OddAnswer, read, too_long

#: Seconds a server that dropped a connection, or has none behind it, is left alone while others
#: answer.
_REST = 30.0
_GONE = (502, 503, 504)
#: Answers below 500 that may pass: time-out, conflict, too early, too many.
_LATER = (408, 409, 425, 429)
#: Ends of an answer that is none: a fault of the server, or a reply that it keeps back.
_FAILED = ("error", "abort", "content_filter")
#: By how much a refused prompt is above what will be sent next, refusal after refusal.
_SHRINK = (15 / 16, 3 / 4)


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the model is. ``url`` ends before ``/completions`` or ``/chat/completions``; of several
    urls a conversation keeps one as long as it answers (its prefix is cached there)."""

    url: str | tuple[str, ...]
    model: str
    api: Literal["completions", "chat"] = "chat"
    #: Name of the environment variable that holds the key; the key itself is written nowhere.
    key_env: str | None = None
    #: Seconds for one try, and for a reply with all its tries and pauses (below --step-seconds).
    timeout: float = 120.0
    deadline: float = 480.0
    retries: int = 5
    #: First pause between tries in seconds; doubled each time, at most 60.
    pause: float = 1.0
    #: Further fields of the request, as the server wants them; they win over the backend's own.
    extra: dict[str, Any] = {}
    #: Fields of the backend's own that the server does not take, such as "max_tokens" or "stop".
    #: None in ``extra`` does the same.
    omit: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.urls:
            raise ConfigError("[server] url is empty: name at least one address.")
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ConfigError(f"[server] url: '{url}' is no http address.")
            if parts.username or parts.password:
                raise ConfigError("[server] url holds a password: name a variable in key_env.")
            if parts.query or parts.fragment:
                raise ConfigError(
                    "[server] url ends before '?': a key is named by key_env, fields go to extra."
                )
        if self.retries < 0 or self.timeout <= 0 or self.pause < 0 or self.deadline <= 0:
            raise ConfigError(
                "[server] retries and pause are 0 or more, timeout and deadline are above 0."
            )

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    @property
    def key(self) -> str | None:
        """The key, without the blanks and the newline that a file or a shell put round it."""
        return (os.environ.get(self.key_env, "").strip() or None) if self.key_env else None

    def missing_key(self) -> str | None:
        """Why the server cannot be asked: its key is not set, or nothing a header can hold."""
        if self.key_env and self.key is None:
            return f"the environment variable {self.key_env} (the server's key) is not set"
        if self.key and not all("!" <= c <= "~" for c in self.key):
            return (
                f"the environment variable {self.key_env} is no key: it holds blanks or non-ASCII"
            )
        return None


class ServerBackend:
    """``harness.policy.Backend`` over HTTP. Raises ConfigError where the key is missing."""

    def __init__(self, config: ServerConfig) -> None:
        if why := config.missing_key():
            raise ConfigError(f"Model '{config.model}': {why}.")
        self.config = config
        self._key = config.key
        self._local = threading.local()
        self._down: dict[str, float] = {}
        #: Conversation -> characters its prompt may have, where the server has refused more.
        self._limits: dict[bytes, int] = {}
        self._closed = threading.Event()

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        began = time.monotonic()
        until = began + self.config.deadline
        header, steps = blocks[0], list(blocks[1:])
        key = conversation(blocks)
        head, sizes = len(join(header)), [len(join(block)) for block in steps]
        limit, before = self._limits.get(key), 0
        if limit is not None and len(steps) > 1:
            before = _start(head, [*sizes[:-2], len(steps[-2][0].text)], limit)
        # The window is the server's to know: what it has refused bounds what is sent.
        shrink = chain(_SHRINK, repeat(1 / 2))
        while True:
            start = _start(head, sizes, limit)
            reply = self._ask(header, steps[start:], decoding, seed, key, until)
            if reply is not None:
                break
            if start >= len(steps) - 1:
                raise ContextOverflow(f"'{self.config.model}' refused header and newest step")
            limit = self._limits[key] = int((head + sum(sizes[start:])) * next(shrink))
        reread: int | None = 0
        if start != before:
            share = sum(sizes[start:-1]) / max(1, head + sum(sizes[start:]))
            reread = None if reply.prompt_tokens is None else round(reply.prompt_tokens * share)
        waited = round(max(0.0, time.monotonic() - began - reply.seconds), 6)
        return msgspec.structs.replace(reply, reread_tokens=reread, waited=waited)

    def describe(self) -> dict[str, Any]:
        hosts = [urlsplit(url).netloc for url in self.config.urls]
        return {
            "backend": "server",
            "model": self.config.model,
            "api": self.config.api,
            "servers": hosts,
            "extra": self.config.extra,
            "omit": self.config.omit,
        }

    def close(self) -> None:
        self._closed.set()

    # One request --------------------------------------------------------------------------

    def _ask(
        self,
        header: Sequence[Segment],
        steps: Sequence[Sequence[Segment]],
        decoding: Decoding,
        seed: int,
        conversation: bytes,
        until: float,
    ) -> Completion | None:
        """The server's reply; None: the prompt is too long for it."""
        body = self._request(header, steps, decoding, seed)
        for tries in count(1):
            if self._closed.is_set():
                raise BackendError(f"'{self.config.model}': stopped.")
            url = self._server(conversation)
            wait = min(60.0, self.config.pause * 2 ** (tries - 1)) * random.uniform(0.75, 1.25)
            seconds = max(0.01, min(self.config.timeout, until - time.monotonic()))
            try:
                return self._try(url, body, seconds, decoding.max_new_tokens)
            except _Passing as error:
                trouble, wait = str(error), max(wait, error.wait)
                if error.gone:
                    self._down[url] = time.monotonic()
            if tries > self.config.retries or time.monotonic() + wait >= until:
                break
            self._closed.wait(wait)
        raise BackendError(
            f"'{self.config.model}' gave no answer in {tries} tries; the last: {trouble}. "
            "The episode is an error, not a score; play it again with --retry-errors."
        )

    def _request(
        self,
        header: Sequence[Segment],
        steps: Sequence[Sequence[Segment]],
        decoding: Decoding,
        seed: int,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.config.model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "seed": seed % (1 << 31),
            "stop": [STOP],
        }
        body = {k: v for k, v in body.items() if k not in self.config.omit} | self.config.extra
        if self.config.api == "chat":
            body["messages"] = messages(header, steps)
        else:
            body["prompt"] = join(header) + "".join(join(block) for block in steps)
        return {key: value for key, value in body.items() if value is not None}

    def _try(
        self, url: str, body: dict[str, Any], seconds: float, reply_tokens: int
    ) -> Completion | None:
        """One request: the reply, or None where the prompt is too long. Raises _Passing for what
        may pass, BackendError for what will not."""
        host, chat = urlsplit(url).netloc, self.config.api == "chat"
        path = "/chat/completions" if chat else "/completions"
        began = time.monotonic()
        try:
            reply, raw = self._post(url.rstrip("/") + path, body, seconds)
        except (requests.RequestException, HTTPError) as error:
            raise _Passing(f"{host}: {type(error).__name__}", gone=True) from None
        text = self._redact(raw.decode("utf-8", "replace"))
        status = reply.status_code
        if status in _LATER or status >= 500:
            # After a fault many servers close the connection without a word.
            self._session().close()
            what = f"{host}: HTTP {status} {' '.join(text[:200].split())}".rstrip()
            raise _Passing(what, _retry_after(reply), gone=status in _GONE)
        if status in (400, 413, 422) and too_long(text, reply_tokens):
            return None
        if status >= 300:
            what = f"HTTP {status}: {text[:500]}"
            if "Location" in reply.headers:
                what = f"HTTP {status}: it has moved to {self._redact(reply.headers['Location'])}"
            raise BackendError(f"'{self.config.model}' at {host} refuses: {what}")
        try:
            # Not msgspec's: servers cut emoji, and half of one is no JSON to it.
            answer = json.loads(raw)
            choice = answer["choices"][0]
            if not isinstance(choice["message" if chat else "text"], dict if chat else str):
                raise TypeError("wrong type")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise _Passing(f"{host}: an answer without choices: {text[:80]!r}") from None
        if choice.get("finish_reason") in _FAILED or choice.get("error"):
            what = choice.get("error") or choice["finish_reason"]
            raise _Passing(f"{host}: an answer that the server itself calls failed: {what!s:.200}")
        try:
            found = read(choice, answer.get("usage"), self.config.api)
        except OddAnswer as error:
            raise BackendError(f"'{self.config.model}' at {host}: odd answer: {error}.") from None
        return msgspec.structs.replace(found, seconds=round(time.monotonic() - began, 6))

    def _post(
        self, url: str, body: dict[str, Any], seconds: float
    ) -> tuple[requests.Response, bytes]:
        """Response and body, read within about ``seconds``; a limit of requests' is for each read,
        and a server that drips would hold an episode for ever."""
        until = time.monotonic() + seconds
        limits = (min(10.0, seconds), seconds)
        parts = []
        with self._session().post(
            url, json=body, timeout=limits, stream=True, allow_redirects=False
        ) as reply:
            while part := reply.raw.read1(1 << 16, decode_content=True):
                parts.append(part)
                if time.monotonic() > until:
                    raise requests.Timeout
        return reply, b"".join(parts)

    def _server(self, conversation: bytes) -> str:
        """The conversation's own server, or the next one while it rests; of resting ones the one
        that has rested longest."""
        urls = self.config.urls
        first = int.from_bytes(conversation[:8], "big")
        order = [urls[(first + i) % len(urls)] for i in range(len(urls))]
        now, down = time.monotonic(), self._down
        up = [u for u in order if now - down.get(u, -math.inf) >= _REST]
        return up[0] if up else min(order, key=lambda u: down[u])

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.auth = self._authorize  # set even without a key: else ~/.netrc sends its own
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _Passing(Exception):
    """A trouble that may pass after ``wait`` seconds; ``gone``: another server comes first."""

    def __init__(self, what: str, wait: float = 0.0, gone: bool = False) -> None:
        super().__init__(what)
        self.wait, self.gone = wait, gone


def _start(head: int, sizes: Sequence[int], limit: int | None) -> int:
    """First step to send. The newest always is: only the server can say that it does not fit."""
    if limit is None or not sizes:
        return 0
    return min(window_start(head, sizes, limit), len(sizes) - 1)


def _retry_after(reply: requests.Response) -> float:
    try:
        return min(60.0, float(reply.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0

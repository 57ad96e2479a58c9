"""``ServerBackend``: a language model behind an OpenAI-compatible server.

    blocks -> prompt text (``completions``) or messages (``chat``) -> POST -> Completion

Any number of episodes call at once, each from its own thread. Lost connections, time-outs, 429 and
5xx are tried again with growing pauses; other refusals are not. What stays broken is a
BackendError: an error beside the score, which ``--retry-errors`` plays again.

A thinking model's hidden thought (``reasoning_content``, or ``<think>`` in the text) becomes the
decision's reasoning and is not shown to it again, as its chat template would have it. A native
tool call is read as an action.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
import requests

from harness.errors import BackendError, ConfigError
from harness.policy import ContextOverflow, Decoding
from harness.transcript import Kind, Segment, join, split_reply
from harness.types import Completion

_THINK = re.compile(r"\A\s*<think>(?P<thought>.*?)(?:</think>|\Z)\s*", re.DOTALL)
_TOO_LONG = re.compile(r"context.{0,20}(length|window|size)|too long|maximum.{0,20}tokens", re.I)
#: Seconds a server that dropped a connection is left alone while others answer.
_REST = 30.0


class ServerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the model is. ``url`` ends before ``/completions`` or ``/chat/completions``; of several
    urls a conversation keeps one as long as it answers (its prefix is cached there)."""

    url: str | tuple[str, ...]
    model: str
    api: Literal["completions", "chat"] = "chat"
    #: Name of the environment variable that holds the key; the key itself is written nowhere.
    key_env: str | None = None
    timeout: float = 120.0
    retries: int = 5
    #: First pause between tries in seconds; doubled each time, at most 60.
    pause: float = 1.0
    #: Further fields of the request, as the server wants them.
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        for url in self.urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ConfigError(f"[server] url: '{url}' is no http address.")
            if parts.username or parts.password:
                raise ConfigError("[server] url holds a password: name a variable in key_env.")
        if self.retries < 0 or self.timeout <= 0 or self.pause < 0:
            raise ConfigError("[server] retries and pause are 0 or more, timeout is above 0.")

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,) if isinstance(self.url, str) else self.url

    def missing_key(self) -> str | None:
        """Why the server cannot be asked: its key is not set."""
        if self.key_env and not os.environ.get(self.key_env):
            return f"the environment variable {self.key_env} (the server's key) is not set"
        return None


class ServerBackend:
    """``harness.policy.Backend`` over HTTP. Raises ConfigError where the key is missing."""

    def __init__(self, config: ServerConfig) -> None:
        if why := config.missing_key():
            raise ConfigError(f"Model '{config.model}': {why}.")
        self.config = config
        self._key = os.environ.get(config.key_env) if config.key_env else None
        self._local = threading.local()
        self._down: dict[str, float] = {}
        self._closed = threading.Event()

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        began = time.perf_counter()
        header, steps = blocks[0], list(blocks[1:])
        opening = hashlib.sha256(join([*header, *(steps[0] if steps else ())]).encode()).digest()
        dropped = False
        while True:
            answer = self._ask(header, steps, decoding, seed, opening)
            if answer is not None:
                break
            if len(steps) < 2:
                raise ContextOverflow(f"'{self.config.model}' refused header and newest step")
            # The window is the server's to know: drop the older half and send what is left.
            steps, dropped = steps[(len(steps) + 1) // 2 :], True
        return _completion(answer, self.config.api, dropped, time.perf_counter() - began)

    def describe(self) -> dict[str, Any]:
        hosts = [urlsplit(url).netloc for url in self.config.urls]
        return {
            "backend": "server",
            "model": self.config.model,
            "api": self.config.api,
            "servers": hosts,
            "extra": self.config.extra,
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
        opening: bytes,
    ) -> dict[str, Any] | None:
        """The server's answer, decoded; None: the prompt is too long for it."""
        chat = self.config.api == "chat"
        body: dict[str, Any] = {
            "model": self.config.model,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": decoding.max_new_tokens,
            "seed": seed % (1 << 31),
            "stop": ["\nObservation:"],
            **self.config.extra,
        }
        if chat:
            body["messages"] = messages(header, steps)
        else:
            body["prompt"] = join(header) + "".join(join(block) for block in steps)
        path = "/chat/completions" if chat else "/completions"
        trouble = ""
        for attempt in range(self.config.retries + 1):
            if self._closed.is_set():
                raise BackendError(f"'{self.config.model}': stopped.")
            url = self._server(opening)
            pause = min(60.0, self.config.pause * 2**attempt) * random.uniform(0.75, 1.25)
            try:
                reply = self._session().post(
                    url.rstrip("/") + path, json=body, timeout=(10.0, self.config.timeout)
                )
            except requests.RequestException as error:
                self._down[url] = time.monotonic()
                trouble = f"{urlsplit(url).netloc}: {type(error).__name__}"
            else:
                answer, found, wait = self._read(reply, url)
                if answer is not None or found is None:
                    return answer
                trouble, pause = found, max(pause, wait)
            if attempt < self.config.retries:
                self._closed.wait(pause)
        raise BackendError(
            f"'{self.config.model}' gave no answer in {self.config.retries + 1} tries; the last: "
            f"{trouble}. The episode is an error, not a score; play it again with --retry-errors."
        )

    def _read(
        self, reply: requests.Response, url: str
    ) -> tuple[dict[str, Any] | None, str | None, float]:
        """(answer, trouble, seconds the server asks to wait). (None, None, 0): too long."""
        host = urlsplit(url).netloc
        if reply.status_code == 429 or reply.status_code >= 500:
            return None, f"{host}: HTTP {reply.status_code}", _retry_after(reply)
        if reply.status_code >= 400:
            text = self._redact(reply.text[:500])
            if reply.status_code in (400, 413, 422) and _TOO_LONG.search(text):
                return None, None, 0.0
            raise BackendError(
                f"'{self.config.model}' at {host} refuses: HTTP {reply.status_code}: {text}"
            )
        try:
            answer = msgspec.json.decode(reply.content)
            choice = answer["choices"][0]
            if not isinstance(choice["message" if self.config.api == "chat" else "text"],
                              dict if self.config.api == "chat" else str):  # fmt: skip
                raise TypeError("wrong type")
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError, IndexError, TypeError):
            return None, f"{host}: an answer without choices: {self._redact(reply.text[:80])!r}", 0
        return answer, None, 0.0

    def _server(self, opening: bytes) -> str:
        """The conversation's own server, or the next one while it rests from a lost connection."""
        urls = self.config.urls
        first = int.from_bytes(opening[:8], "big")
        order = [urls[(first + i) % len(urls)] for i in range(len(urls))]
        now = time.monotonic()
        up = [u for u in order if now - self._down.get(u, -_REST) >= _REST]
        return (up or order)[0]

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            if self._key:
                session.headers["Authorization"] = f"Bearer {self._key}"
        return session

    def _redact(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def messages(header: Sequence[Segment], steps: Sequence[Sequence[Segment]]) -> list[dict[str, str]]:
    """The transcript as a chat: what the agent saw is the user's, its replies the assistant's.

    The header opens the first user message, so models without a system role do too.
    """
    found: list[dict[str, str]] = []
    pending = join(header)
    for block in steps:
        pending += block[0].text
        decision = join(block[1:])
        if decision:
            found.append({"role": "user", "content": pending.rstrip("\n")})
            found.append({"role": "assistant", "content": decision.rstrip("\n")})
            pending = ""
    if pending:
        found.append({"role": "user", "content": pending.rstrip("\n")})
    return found


def _completion(answer: Mapping[str, Any], api: str, dropped: bool, seconds: float) -> Completion:
    choice = answer["choices"][0]
    hidden = ""
    if api == "chat":
        message = choice["message"]
        text = message.get("content") or ""
        hidden = message.get("reasoning_content") or message.get("reasoning") or ""
        text += _tool_call(message, text)
    else:
        text = choice["text"]
    if thought := _THINK.match(text):
        hidden, text = hidden or thought["thought"].strip(), text[thought.end() :]
    segments = split_reply(text)
    usage = answer.get("usage") or {}
    total = int(usage.get("completion_tokens") or 0)
    details = usage.get("completion_tokens_details") or {}
    thinking = int(details.get("reasoning_tokens") or 0)
    # A server tells one count for the reply: it is shared out by characters.
    shares = {k: sum(len(s.text) for s in segments if s.kind is k) for k in Kind}
    length = max(1, len(text))
    visible = max(0, total - thinking)
    reasoning = thinking + round(visible * shares[Kind.REASON] / length)
    prompt = int(usage.get("prompt_tokens") or 0)
    return Completion(
        text=join(segments),
        prompt_tokens=prompt,
        reasoning_tokens=reasoning,
        action_tokens=round(visible * shares[Kind.ACT] / length),
        reread_tokens=prompt if dropped else 0,
        stop="length" if choice.get("finish_reason") == "length" else "stop",
        seconds=round(seconds, 6),
        hidden=hidden.strip(),
    )


def _tool_call(message: Mapping[str, Any], text: str) -> str:
    """A native tool call as an action line, where the text has none."""
    calls = message.get("tool_calls") or []
    if not calls or any(s.kind is Kind.ACT for s in split_reply(text)):
        return ""
    function = calls[0].get("function") or {}
    try:
        arguments = msgspec.json.decode(function.get("arguments") or "{}")
    except msgspec.DecodeError:
        arguments = {"": function["arguments"]}
    values = list(arguments.values()) if isinstance(arguments, dict) else [arguments]
    action = (
        str(arguments["action"])
        if isinstance(arguments, dict) and "action" in arguments
        else f"{function.get('name', '')}[{', '.join(map(str, values))}]"
    )
    return ("\n" if text and not text.endswith("\n") else "") + f"Action: {action}"


def _retry_after(reply: requests.Response) -> float:
    try:
        return min(60.0, float(reply.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0

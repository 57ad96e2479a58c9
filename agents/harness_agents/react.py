"""``ReActPolicy``: a language model that reads the transcript and answers with one decision.

    prompt header, history, observation -> transcript.render -> Backend.complete -> transcript.parse

It keeps nothing between steps, so one policy serves all episodes of a run at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from harness import registry
from harness.config import convert, read_text
from harness.errors import AgentError, ConfigError, HarnessError, MissingDependency, unknown
from harness.policy import Backend, Decoding
from harness.transcript import Kind, Segment, check_header, parse, render
from harness.types import Decision, Info, Step
from harness_agents.checkpoints import Checkpoint, locate

if TYPE_CHECKING:
    from harness_agents.backends.server import ServerConfig

BACKENDS = ("hf", "vllm", "server")
#: Options of a local checkpoint that vLLM takes too; the others are the local backend's own.
VLLM_OPTIONS = ("window", "dtype", "batch_size", "chat")
DECODES = ("free", "admissible")
MODULES = ("torch", "transformers")


class ReActPolicy:
    """A language model as an agent.

    ``checkpoint`` says where the model is (see ``checkpoints.locate``); it is loaded at once, so
    what is missing is said before a run starts. The prompt is ``header`` (a text that holds
    ``{instruction}``), else ``prompt``: "zero-shot", "few-shot", a text file, or a folder with one
    text per environment; else the checkpoint's own header. Decoding is greedy unless told.
    ``needs`` says what training the weights takes, for the error when they are missing.
    ``decode`` "admissible" holds each action to those that the environment admits, where it names
    any; ``show_actions`` lists them behind the newest observation. ``chat`` has the chat template
    of a local checkpoint write the turns (a server does so by itself). ``copies`` is in how many
    processes a local model answers (see ``backends.copies``; None: as suits the machine).
    ``backend`` "hf" is a local model; "vllm" one that vLLM answers in this process (``engine``:
    further arguments of its engine); "server" one behind an OpenAI-compatible server, described by
    ``server`` (see ``backends.server.ServerConfig``). It may also be a ``harness.policy.Backend``,
    which then brings its own model.
    """

    #: Episodes to play at once unless told: what fills a batch.
    workers = 32

    def __init__(
        self,
        *,
        checkpoint: str | None = None,
        backend: str | Backend = "hf",
        prompt: str | None = None,
        header: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        max_new_tokens: int | None = None,
        decode: str = "free",
        show_actions: bool = False,
        window: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | None = None,
        prefix_mb: int | None = None,
        batch_mb: int | None = None,
        guess: bool | None = None,
        chat: bool | None = None,
        copies: int | None = None,
        revision: str | None = None,
        download: bool = False,
        needs: str = "",
        engine: Mapping[str, Any] | None = None,
        server: Mapping[str, Any] | None = None,
    ) -> None:
        if prompt is not None and header is not None:
            raise ConfigError("Policy 'react' takes 'prompt' or 'header', not both.")
        if decode not in DECODES:
            raise ConfigError(unknown("way to decode", decode, DECODES))
        found: Checkpoint | None = None
        local: dict[str, Any] = {
            "window": window, "dtype": dtype, "device": device, "batch_size": batch_size,
            "prefix_mb": prefix_mb, "batch_mb": batch_mb, "guess": guess, "chat": chat,
            "copies": copies,
        }  # fmt: skip
        local = {name: value for name, value in local.items() if value is not None}
        if copies is not None and copies < 1:
            raise ConfigError("'copies' must be at least 1.")
        if isinstance(backend, str) and backend not in BACKENDS:
            raise ConfigError(unknown("backend", backend, BACKENDS))
        known = {"hf": tuple(local), "vllm": VLLM_OPTIONS}.get(str(backend), ())
        if foreign := [name for name in local if name not in known]:
            raise ConfigError(
                f"{', '.join(map(repr, foreign))}: not for this backend, which decides it itself; "
                "the local backend 'hf' takes it."
            )
        if engine is not None and backend != "vllm":
            raise ConfigError("A table [options.engine] goes with backend = 'vllm'.")
        if isinstance(backend, str):
            if (backend == "server") != (server is not None):
                raise ConfigError("backend = 'server' and a table [options.server] go together.")
            if backend != "server" and checkpoint is None:
                raise ConfigError(
                    "Policy 'react' needs 'checkpoint': a folder or a name. "
                    "Agents that have one: harness list agents"
                )
            if checkpoint is not None:
                found = locate(checkpoint, revision=revision, download=download, needs=needs)
        #: What the weights have learned from; None: they do not tell.
        self.trained_on = found.settings.trained_on if found else None
        if header is None and prompt is None:
            header = found.settings.header if found else "Task: {instruction}\n"
        self.prompt = prompt or "header"
        self.headers = {"": header} if header is not None else read_prompts(prompt or "")
        for env, text in self.headers.items():
            check_header(text, f"prompt '{self.prompt}' {env}".rstrip())
        if max_new_tokens is None:
            max_new_tokens = found.settings.max_new_tokens if found else Decoding().max_new_tokens
        self.decoding = Decoding(temperature, top_p, max_new_tokens)
        _check_decoding(self.decoding)
        if server is not None:
            from harness_agents.backends.server import ServerBackend

            backend = ServerBackend(server_config(server))
        if isinstance(backend, str):
            # Threads that spin while they wait halve the speed on a machine with other work to do;
            # read when torch is first loaded, so it is set here and not by the backend.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            for module in MODULES:
                registry.require(module, "models", f"Checkpoint '{checkpoint}'")
            assert found is not None
            backend = _vllm(found, local, engine) if backend == "vllm" else _hf(found, local)
        self.backend = backend
        window, longest = getattr(backend, "window", None), self.decoding.max_new_tokens
        if isinstance(window, int) and window <= longest:
            raise ConfigError(
                f"A window of {window} tokens leaves no room to read beside a reply of up to "
                f"{longest} (max_new_tokens)."
            )
        if decode == "admissible" and "actions" not in signature(backend.complete).parameters:
            name = type(backend).__name__
            raise ConfigError(
                f"decode = 'admissible' needs a backend that can hold a reply to given actions; "
                f"{name} can't, the local backend 'hf' can."
            )
        self.decode, self.show_actions = decode, show_actions

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        header = self._header(info.get("env", "")).replace("{instruction}", instruction)
        blocks = render(header, history, observation)
        seed = info.get("sampling_seed", 0)
        # Asked for only where they are needed: a recorded step has none.
        needed = self.show_actions or self.decode == "admissible"
        actions = info.get("admissible_actions", ()) if needed else ()
        if self.show_actions and actions:
            shown = f"Admissible actions: {', '.join(actions)}\n"
            blocks[-1].append(Segment(Kind.CONTEXT, shown))
        if self.decode == "admissible":
            completion = self.backend.complete(blocks, self.decoding, seed, actions)  # type: ignore[call-arg]
        else:
            completion = self.backend.complete(blocks, self.decoding, seed)
        return parse(completion.text, completion)

    def _header(self, env: str) -> str:
        text = self.headers.get(env, self.headers.get(""))
        if text is None:
            raise AgentError(
                f"Prompt '{self.prompt}' has no text for environment '{env}', only for "
                f"{', '.join(sorted(self.headers))}; give one with 'prompt' (a file) or 'header'."
            )
        return text

    def describe(self) -> dict[str, Any]:
        """What decides a reply, for run.json."""
        return {
            "policy": "react",
            "prompt": self.prompt,
            "prompt_sha256": _hash(self.headers),
            "decoding": msgspec.to_builtins(self.decoding),
            "decode": self.decode,
            "show_actions": self.show_actions,
            **self.backend.describe(),
        }

    def close(self) -> None:
        self.backend.close()

    @classmethod
    def tokenizer(
        cls,
        *,
        checkpoint: str | None = None,
        revision: str | None = None,
        download: bool = False,
        needs: str = "",
        **_: Any,
    ) -> Callable[[str], tuple[int, ...]]:
        """Token ids of a thought as the checkpoint's model says it, behind its label; the model
        itself is not loaded. Raises ConfigError without a checkpoint here."""
        if checkpoint is None:
            raise ConfigError("A model behind a server has no tokenizer here.")
        found = locate(checkpoint, revision=revision, download=download, needs=needs)
        for module in MODULES:
            registry.require(module, "models", f"Checkpoint '{checkpoint}'")
        from harness_agents.backends.exact import exact
        from harness_agents.backends.loading import load_tokenizer
        from harness_agents.backends.replies import encoder

        encode = encoder(exact(load_tokenizer(found).backend_tokenizer))
        return lambda text: encode(f" {text}") if text else ()

    @classmethod
    def missing(
        cls,
        *,
        checkpoint: str | None = None,
        backend: str | Backend = "hf",
        download: bool = False,
        revision: str | None = None,
        needs: str = "",
        server: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> str | None:
        """Why a policy with these options can't be built on this machine; None: it can.

        Loads nothing. What the other options hold is for the constructor to judge.
        """
        if not isinstance(backend, str):
            return None
        if server is not None:
            return server_config(server).missing_key()
        if checkpoint is None:
            return "names no checkpoint"
        for module in MODULES:
            if importlib.util.find_spec(module) is None:
                return str(MissingDependency(module, "models", f"Checkpoint '{checkpoint}'"))
        if backend == "vllm" and importlib.util.find_spec("vllm") is None:
            return str(
                MissingDependency(
                    "vllm", "vllm", f"Checkpoint '{checkpoint}' with backend = 'vllm'"
                )
            )
        if download:
            return None
        try:
            locate(checkpoint, revision=revision, needs=needs)
        except HarnessError as error:
            return str(error)
        return None


def _hf(found: Checkpoint, options: dict[str, Any]) -> Backend:
    """The local backend, in several processes where that pays."""
    from harness_agents.backends.copies import Copies, copies_for
    from harness_agents.backends.hf import HFBackend

    options = dict(options)
    copies = options.pop("copies", None)
    first = HFBackend(found, **options)
    count = copies_for(first) if copies is None else copies
    return Copies(first, found, options, count) if count > 1 else first


def _vllm(found: Checkpoint, options: dict[str, Any], engine: Mapping[str, Any] | None) -> Backend:
    from harness_agents.backends.vllm import VLLMBackend

    return VLLMBackend(found, **options, engine=engine)


def server_config(options: Mapping[str, Any]) -> ServerConfig:
    """The table ``[options.server]``; a misspelt key is refused."""
    from harness_agents.backends.server import ServerConfig

    return convert(dict(options), ServerConfig, "[options.server]")


def read_prompts(name: str) -> dict[str, str]:
    """Prompt texts by environment; "" is the text for every environment."""
    shipped = Path(str(files("harness_agents") / "prompts"))
    known = sorted(p.name for p in shipped.iterdir() if p.is_dir())
    path = shipped / name if name in known else Path(name).expanduser()
    if path.is_file():
        return {"": read_text(path)}
    texts = {p.stem: read_text(p) for p in sorted(path.glob("*.txt"))}
    if not texts:
        raise ConfigError(
            unknown("prompt", name, known, "Or a text file, or a folder of <environment>.txt.")
        )
    return texts


def _check_decoding(decoding: Decoding) -> None:
    if not 0 <= decoding.temperature < math.inf:
        raise ConfigError(
            f"'temperature' is 0 (greedy) or more, and finite, not {decoding.temperature}."
        )
    if not 0 < decoding.top_p <= 1:
        raise ConfigError(f"'top_p' is above 0 and at most 1, not {decoding.top_p}.")
    if decoding.max_new_tokens < 1:
        raise ConfigError(f"'max_new_tokens' is at least 1, not {decoding.max_new_tokens}.")


def _hash(texts: Mapping[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(dict(texts), order="sorted")).hexdigest()

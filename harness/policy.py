"""What an agent is: ``Policy`` decides, a ``Backend`` runs the language model behind one."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import msgspec

from harness.transcript import Segment
from harness.types import Completion, Decision, Info, Step


@runtime_checkable
class Policy(Protocol):
    """Decides one step. Stateless: everything it may know comes in, so it serves any number of
    episodes at once, from many threads, and an episode can be resumed or replayed anywhere.

    A policy that needs only what a person at the screen would see takes three arguments. One
    that names a fourth, ``info``, also gets the environment's info dict (admissible actions, task
    id) and ``info["sampling_seed"]``, an int that depends on task, seed, attempt and step only.
    One with the attribute ``privileged = True`` is given ``info["solution"]`` too.
    """

    def act(self, instruction: str, history: Sequence[Step], observation: str) -> Decision: ...


class Decoding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to sample. Greedy at temperature 0 (the evaluation default; E.2's teachers use 0.2)."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 96


class Backend(Protocol):
    """A language model that completes transcripts. Thread-safe: calls come from many episodes at
    once and may be answered together.

    A backend whose ``complete`` names a fourth parameter, ``actions``, can hold a reply's action to
    one of them.
    """

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        """Sample one reply, up to and including its action line.

        ``blocks`` are ``transcript.render``'s; the backend tokenises segment by segment and drops
        the oldest step blocks when its window is full. Raises BackendError when the model fails,
        ContextOverflow when even header and newest block do not fit.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Model id, weights hash, tokenizer fingerprint, dtype: saved with every run."""
        ...

    def close(self) -> None: ...


#: Of what a policy says of itself, what decides no reply: where and how fast it is made, and names
#: of what is hashed.
ASIDE = frozenset({"device", "batch_size", "servers", "vllm", "prompt", "method", "reason_to_act"})


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What decides a reply and is not the same in two descriptions of a policy, as texts. Only what
    both tell is compared: an older release may have told less."""
    aside = ASIDE | ({"model"} if "weights_sha256" in before.keys() & now.keys() else set())
    found = []
    for key in before:
        if key in aside or key not in now or before[key] == now[key]:
            continue
        was, is_ = before[key], now[key]
        if isinstance(was, dict) and isinstance(is_, dict):
            found += [f"{key}.{text}" for text in differences(was, is_)]
        else:
            found.append(f"{key} ({was!s:.16}, now {is_!s:.16})")
    return found


class ContextOverflow(Exception):
    """Header and newest observation exceed the window: the episode ends with ``context``."""


def takes_info(policy: Policy) -> bool:
    """Whether ``policy.act`` names a fourth parameter, ``info``."""
    return "info" in inspect.signature(policy.act).parameters


def call(
    policy: Policy,
    instruction: str,
    history: Sequence[Step],
    observation: str,
    info: Info,
) -> Decision:
    """Ask a policy, with or without ``info`` as its signature says."""
    if takes_info(policy):
        return policy.act(instruction, history, observation, info)  # type: ignore[call-arg]
    return policy.act(instruction, history, observation)

"""From spans to an episode's steps, and the count of what was understood on the way."""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from harness.loop import clean
from harness.transcript import parse, reply
from harness.types import Decision, Episode, Step
from harness_distillation.imports.grammar import HEARD, Grammar, Kind
from harness_distillation.imports.logs import Log


class Tally(msgspec.Struct, frozen=True):
    """Counts over logs. Characters are counted without white space.

    ``written`` is what the model wrote less what the grammar leaves out by name (``left_out``):
    ``matched`` of it became reasoning or action, the rest had no place.
    """

    episodes: int = 0
    steps: int = 0
    written: int = 0
    matched: int = 0
    left_out: int = 0
    #: Decisions without an action.
    empty: int = 0
    #: Episodes without a decision.
    undecided: int = 0
    #: Lines of observations that look like labels.
    labels_inside: int = 0
    #: Actions under another name than the environment's, and those of no name that it knows.
    translated: int = 0
    foreign: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def matched_share(self) -> float:
        return self.matched / self.written if self.written else 0.0

    @property
    def empty_share(self) -> float:
        return self.empty / self.steps if self.steps else 1.0


def astuple(tally: Tally) -> tuple[int, ...]:
    values: tuple[int, ...] = msgspec.structs.astuple(tally)
    return values


def tally_of(episode: Episode) -> Tally:
    """The count of an episode that was read whole: what was written is what was matched."""
    said = [s.decision for s in episode.steps]
    written = sum(size(d.reasoning) + size(d.action or "") for d in said)
    return Tally(
        episodes=1,
        steps=len(said),
        written=written,
        matched=written,
        empty=sum(d.action is None for d in said),
        undecided=int(not said),
        labels_inside=sum(len(_LABEL.findall(s.observation)) for s in episode.steps),
    )


class Played(NamedTuple):
    """An episode's steps as a log tells them."""

    steps: tuple[Step, ...]
    final_observation: str | None
    #: Reward that the last observation tells; None: it tells none.
    reward: float | None
    tally: Tally
    #: What had no place in it: the first such stretch, or nothing.
    stray: str


_LABEL = re.compile(
    r"^[ \t]*(?:Reasoning|Thought|Action|Observation|(?:Final )?Answer)[ \t]*\d*[ \t]*:", re.M
)
_VERBS = {
    "hotpotqa": ("search", "lookup", "finish"),
    "webshop": ("search", "click"),
    "alfworld": ("go", "open", "close", "take", "put", "move", "use", "clean", "heat", "cool",
                 "examine", "slice", "look", "inventory", "help"),
}  # fmt: skip
_CALL = re.compile(r"\A(\w+)[ \t]*\[(.*)\Z", re.DOTALL)
_THOUGHT = re.compile(r"\Athink[ \t]*(?::|\[)[ \t]*(.*?)\]?\Z", re.DOTALL | re.IGNORECASE)
_INVALID = ("Nothing happens", "Invalid action", "Invalid Action")
_REWARDS: tuple[tuple[re.Pattern[str], dict[str, float]], ...] = (
    (re.compile(r"Answer is (CORRECT|INCORRECT)"), {"CORRECT": 1.0, "INCORRECT": 0.0}),
    (re.compile(r"Episode finished, reward = (True|False)"), {"True": 1.0, "False": 0.0}),
    (re.compile(r"Episode finished, reward = (\d+(?:\.\d+)?)"), {}),
    (re.compile(r"Your score \(min 0\.0, max 1\.0\)[^:]*: *(\d+(?:\.\d+)?)"), {}),
    (re.compile(r"\A(You won)\b"), {"You won": 1.0}),
)  # fmt: skip


def size(text: str) -> int:
    """Characters that are not white space."""
    return sum(map(len, text.split()))


def play(log: Log, grammar: Grammar) -> Played:
    """The steps of a log: a decision at each action, with the thoughts since the one before.

    A thought that was given as an action (``think[...]``) joins the next decision's reasoning, and
    the environment's "OK." to it is nobody's observation. What is left without an action (a log
    that ends in a thought) becomes a decision without one.
    """
    steps: list[Step] = []
    thoughts: list[str] = []
    observation: str | None = clean(log.opening)
    stray = ""
    written = matched = left_out = translated = foreign = 0

    def decide(action: str | None) -> None:
        nonlocal observation, matched
        decision = _renderable(Decision("\n".join(thoughts), action))
        steps.append(Step(observation or "", decision, invalid=action is None))
        matched += sum(map(size, thoughts))
        thoughts.clear()
        observation = None

    for kind, raw in log.spans:
        text = clean(raw)
        thought = _THOUGHT.match(text) if kind is Kind.ACTION else None
        if thought is not None:
            kind, text = Kind.THOUGHT, thought[1].strip()
        match kind:
            case Kind.STRAY:
                written += size(text)
                stray = stray or text
            case Kind.LEFT_OUT:
                left_out += size(text)
            case Kind.THOUGHT:
                written += size(text)
                if text:
                    thoughts.append(text)
            case Kind.ACTION | Kind.ANSWER:
                written += size(text)
                matched += size(text)
                action, other_name = _action(text, kind, grammar)
                translated += other_name
                foreign += action is not None and _verb(action) not in _VERBS[grammar.env]
                decide(action)
            case Kind.OBSERVATION:
                if thoughts and text in HEARD:
                    continue
                if thoughts and observation and text:
                    decide(None)
                observation = f"{observation}\n{text}".strip() if observation else text
            case Kind.META:
                pass
    if thoughts:
        decide(None)
    final = observation if steps else None
    tally = Tally(
        episodes=1,
        steps=len(steps),
        written=written,
        matched=matched,
        left_out=left_out,
        empty=sum(s.decision.action is None for s in steps),
        undecided=int(not steps),
        labels_inside=sum(len(_LABEL.findall(s.text)) for s in log.spans
                          if s.kind is Kind.OBSERVATION),
        translated=translated,
        foreign=foreign,
    )  # fmt: skip
    return Played(_judged(steps, final), final, _reward(final), tally, stray)


def _action(text: str, kind: Kind, grammar: Grammar) -> tuple[str | None, bool]:
    """An action in the environment's own words (None: there is none), and whether its name is
    another than the log's."""
    line = " ".join(text.splitlines()).strip()
    if not line:
        return None, False
    call = _CALL.match(line)
    if kind is Kind.ANSWER and not (call and call[1].lower() == "finish"):
        return f"finish[{line}]", False
    if call is None or grammar.env == "alfworld":
        return line, False
    verb = call[1].lower()
    return f"{grammar.verbs.get(verb, verb)}[{call[2]}", verb in grammar.verbs


def _verb(action: str) -> str:
    found = re.match(r"\w+", action)
    return found[0].lower() if found else ""


def _renderable(decision: Decision) -> Decision:
    """The decision in a form that its canonical text gives back: a thought with a line that looks
    like one of our labels is put on one line."""
    if parse(reply(decision)) != decision:
        flat = " ".join(decision.reasoning.split())
        decision = msgspec.structs.replace(decision, reasoning=flat)
    return decision


def _reward(final: str | None) -> float | None:
    for pattern, values in _REWARDS:
        found = pattern.search(final or "")
        if found:
            return values[found[1]] if values else float(found[1])
    return None


def _judged(steps: list[Step], final: str | None) -> tuple[Step, ...]:
    """Steps with ``invalid`` where the next observation says so."""
    after = [*(s.observation for s in steps[1:]), final or ""]
    return tuple(
        msgspec.structs.replace(s, invalid=s.invalid or shown.startswith(_INVALID))
        for s, shown in zip(steps, after, strict=False)  # a log may hold no decision
    )

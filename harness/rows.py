"""Episodes as rows of training data, in the forms that trainers read.

    Episode -> transcript.render -> rows: messages | prompt-completion | sharegpt | spans

The text is the project's own: what an agent read in play and what a student is trained on. Slips
that were put in and a protocol's own actions are seen and never taught, in every form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from harness import registry
from harness.transcript import Kind, Segment, join, messages, render
from harness.types import Episode, Outcome

#: What stands before an episode unless told: the prompt of checkpoints without one of their own.
HEADER = "Task: {instruction}\n"
#: Begins the ids of tasks of imported logs that do not say which task they are.
IMPORTED = "imported/"
#: Why an episode is left out that may or may not have been won.
UNTOLD = "of an outcome that the log does not tell"

#: Form -> for whom.
FORMS = {
    "messages": "TRL's conversational form: user and assistant turns, an episode a row",
    "prompt-completion": "TRL's prompt and completion as text, a decision a row",
    "sharegpt": "ShareGPT's conversations with a loss flag in each turn, an episode a row",
    "spans": "text with labelled stretches by character, an episode a row",
}


class About(msgspec.Struct, frozen=True):
    """What every row says of its episode. ``group`` is what a split must not cut."""

    env: str
    task_split: str
    task: str
    group: str
    task_type: str
    seed: int
    attempt: int
    agent: str
    run: str
    instruction: str
    #: None where the outcome tells neither.
    success: bool | None
    score: float | None
    outcome: Outcome


class Step(msgspec.Struct, frozen=True):
    """What a whole episode's row tells of a step beside its text."""

    reward: float
    invalid: bool
    injected: bool
    forced: bool
    executed: str | None


class Whole(About, frozen=True):
    """What the row of a whole episode adds; ``prompt_chars`` of its text are the prompt."""

    prompt_chars: int
    final_observation: str | None
    steps: list[Step]


class Single(About, frozen=True):
    """What the row of one decision adds; ``step`` counts from 1."""

    step: int
    invalid: bool


def _columns(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: _TYPES[field.type] for field in msgspec.structs.fields(kind)}


_TYPES: dict[Any, Any] = {
    str: "string", str | None: "string", Outcome: "string",
    int: "int64", float: "float64", bool: "bool", bool | None: "bool", float | None: "float64",
}  # fmt: skip
_TYPES[list[Step]] = [_columns(Step)]

_TURN = {"role": "string", "content": "string"}
_SPAN = {"start": "int64", "end": "int64", "label": "string"}
#: Form -> its columns and their types, as ``datasets`` names them; a list holds many of its one.
COLUMNS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [_TURN], **_columns(Whole)},
    "prompt-completion": {"prompt": "string", "completion": "string", **_columns(Single)},
    "sharegpt": {
        "conversations": [{"from": "string", "value": "string", "loss": "bool"}],
        **_columns(Whole),
    },
    "spans": {"text": "string", "spans": [_SPAN], **_columns(Whole)},
}


def unfit(episode: Episode, form: str | None = None, *, successes_only: bool) -> str | None:
    """Why an episode teaches nothing, or cannot be written in a form; None: it can.

    A chat has no turn for a reply without text, and ``messages`` no flag for a turn that is seen
    and not taught.
    """
    if episode.outcome is Outcome.ERROR:
        return "faults"
    if not episode.steps:
        return "without steps"
    if successes_only and episode.outcome is Outcome.UNTOLD:
        return UNTOLD
    if successes_only and not episode.success:
        return "lost"
    if episode.outcome is not Outcome.DONE and successes_only:
        return "unfinished"
    if form == "messages" and any(s.decision.injected for s in episode.steps):
        return "with slips, which 'messages' cannot mark"
    if form in ("messages", "sharegpt") and not all(map(len, _replies(episode))):
        return "with a reply without text, for which a chat has no turn"
    return None


def rows(episode: Episode, form: str, header: str = HEADER, run: str = "") -> list[dict[str, Any]]:
    """The rows of an episode in one of FORMS, with the columns of COLUMNS.

    One row an episode; ``prompt-completion`` gives one a decision: after exactly what the agent had
    read, so that nothing but its own reply is taught and what was put in never is. ``header`` holds
    ``{instruction}``. The episode is fit for the form (``unfit``).
    """
    about = _about(episode, run)
    head = header.replace("{instruction}", episode.instruction)
    blocks = render(head, episode.steps)
    if form == "prompt-completion":
        return list(_decisions(episode, blocks, about))
    if form == "spans":
        body: dict[str, Any] = _spans(blocks)
    else:
        turns = _chat(blocks)
        body = {"messages": turns} if form == "messages" else _conversation(turns, episode)
    steps = [
        Step(s.reward, s.invalid, s.decision.injected, s.forced, s.executed) for s in episode.steps
    ]
    whole = Whole(
        **about, prompt_chars=len(head), final_observation=episode.final_observation,
        steps=steps,
    )  # fmt: skip
    return [{**body, **msgspec.to_builtins(whole)}]


def _about(episode: Episode, run: str) -> dict[str, Any]:
    """The fields of ``About``."""
    task = episode.task
    return dict(
        env=task.env, task_split=task.split, task=task.id, group=group(task.env, task.id),
        task_type=episode.task_type, seed=task.seed, attempt=episode.attempt, agent=episode.agent,
        run=run, instruction=episode.instruction,
        success=episode.success if episode.outcome.scored else None,
        score=episode.score if episode.outcome.scored else None,
        outcome=episode.outcome,
    )  # fmt: skip


def _replies(episode: Episode) -> list[str]:
    return [join(block[1:]) for block in render("", episode.steps)[1:]]


def _decisions(
    episode: Episode, blocks: list[list[Segment]], about: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    read = join(blocks[0])
    for number, (step, block) in enumerate(zip(episode.steps, blocks[1:], strict=True), 1):
        read += block[0].text
        reply = join(block[1:])
        if reply and not step.decision.injected:
            told = Single(**about, step=number, invalid=step.invalid)
            yield {"prompt": read, "completion": reply, **msgspec.to_builtins(told)}
        read += reply


def _spans(blocks: list[list[Segment]]) -> dict[str, Any]:
    """Every segment with its place in the text; a decision that is not taught has no label."""
    spans, at = [], 0
    for block in blocks:
        for i, segment in enumerate(block):
            injected = i > 0 and segment.kind is Kind.CONTEXT
            label = None if injected else segment.kind.name.lower()
            spans.append({"start": at, "end": at + len(segment.text), "label": label})
            at += len(segment.text)
    return {"text": "".join(map(join, blocks)), "spans": spans}


def _chat(blocks: list[list[Segment]]) -> list[dict[str, str]]:
    *before, last = blocks
    turns = messages(before[0], [*before[1:], last[:1]])
    return [*turns, {"role": "assistant", "content": join(last[1:]).rstrip("\n")}]


def _conversation(turns: list[dict[str, str]], episode: Episode) -> dict[str, Any]:
    taught = {2 * i + 1: not step.decision.injected for i, step in enumerate(episode.steps)}
    names = {"user": "human", "assistant": "gpt"}
    return {
        "conversations": [
            {"from": names[turn["role"]], "value": turn["content"], "loss": taught.get(i, False)}
            for i, turn in enumerate(turns)
        ]
    }


def group(env: str, task_id: str) -> str:
    """What must not be split across training and evaluation, named with its environment."""
    if task_id.startswith(IMPORTED):
        return f"{env}:{task_id}"
    return f"{env}:{registry.env_class(env).group(task_id)}"


def keys(env: str, task_id: str) -> tuple[str, ...]:
    """All that a task of training may share with none of evaluation (``Environment.keys``), named
    with its environment; its group comes first."""
    if task_id.startswith(IMPORTED):
        return (group(env, task_id),)
    return tuple(f"{env}:{key}" for key in registry.env_class(env).keys(task_id))


def draw(of: str, seed: int) -> float:
    """A group's lot in [0, 1): below the share held out, it is. Other groups do not change it."""
    name = f"{seed}:{of}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48

"""On-policy distillation in the environment (GKD): the student plays, the teacher says what it
would have said, token by token, and takes fewer and fewer decisions itself.

    round: play -> episodes -> samples with the ids as sampled -> steps with a live teacher

``training/rounds/NNN/`` holds each round's runs; weights, optimizer and random state go on from
round to round through checkpoints, so a stopped training goes on in the round it was in.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from harness import api, registry
from harness.config import AgentConfig
from harness.errors import DataError
from harness.policy import Policy, call
from harness.recorder import EPISODES
from harness.runs import Run, find_runs
from harness.tasksets import TaskSet
from harness.types import Decision, Episode, Info, Outcome, Step
from harness_distillation import checkpoint, models, tokenizer, traces
from harness_distillation.dataset import Samples, encode
from harness_distillation.gate import first_fault
from harness_distillation.hub import locate
from harness_distillation.machine import CPU, random_state_kept
from harness_distillation.prepare import say
from harness_distillation.recipe import OnPolicy, Recipe, lambdas, recipe_hash
from harness_distillation.supervision import class_tokens
from harness_distillation.train import Corpus, Part, Result, train

#: Added to a round's seed each time that a task comes again in it.
AGAIN = 10**9


class Mixture:
    """Student and teacher at one game: each decision is the teacher's with probability ``share``,
    drawn from the step's own sampling seed."""

    def __init__(self, student: Policy, teacher: Policy, share: float) -> None:
        self.student, self.teacher, self.share = student, teacher, share

    def act(
        self, instruction: str, history: Sequence[Step], observation: str, info: Info
    ) -> Decision:
        draw = random.Random(f"who {info['sampling_seed']}").random()
        who = self.teacher if draw < self.share else self.student
        return call(who, instruction, history, observation, info)

    def describe(self) -> dict[str, Any]:
        """What decides, for run.json."""
        both = {"student": self.student, "teacher": self.teacher}
        parts = {name: policy.describe() for name, policy in both.items()}  # type: ignore[attr-defined]
        return {"policy": "mixture", "teacher_share": self.share, **parts}


def teacher_share(play: OnPolicy, number: int) -> float:
    """The teacher's share of the decisions in round ``number`` of 0 .. rounds - 1: a line from
    ``teacher_start`` to ``teacher_end``."""
    done = number / max(1, play.rounds - 1)
    return play.teacher_start + (play.teacher_end - play.teacher_start) * done


def round_tasks(play: OnPolicy, number: int, seed: int) -> list[TaskSet]:
    """The tasks of a round: the next ones of an endless sequence of shuffled task sets. Those that
    come again in the round are in a second set, what comes once more in a third ..."""
    whole = registry.task_set(play.env, play.tasks)
    n = len(whole.tasks)
    sets: list[list[int]] = []
    for at in range(number * play.episodes, (number + 1) * play.episodes):
        place = int(np.random.default_rng([seed, 7, at // n]).permutation(n)[at % n])
        again = sum(place in one for one in sets)
        if again == len(sets):
            sets.append([])
        sets[again].append(place)
    return [
        msgspec.structs.replace(
            whole,
            name=f"{whole.name}+round{number}",
            tasks=tuple(whole.tasks[i] for i in places),
            content=tuple(whole.content[i] for i in places),
        )
        for places in sets
    ]


def guard(recipe: Recipe, play: OnPolicy) -> None:
    """Refuse to play, and so to train on, what is to be measured on: tasks of ``[dev]``,
    ``[[evaluate]]`` and ``[data] exclude``. Raises DataError."""
    tasks = [(play.env, task.id) for task in registry.task_set(play.env, play.tasks).tasks]
    traces.guard(tasks, recipe.data.exclude)
    for table, what in recipe.measured_on:
        traces.guard(tasks, [what.task_set], table, what.env)


def played_tasks(play: OnPolicy, seed: int) -> list[tuple[str, str]]:
    """(environment, task id) of all rounds' tasks."""
    rounds = [round_tasks(play, number, seed)[0] for number in range(play.rounds)]
    return list(dict.fromkeys((play.env, task.id) for one in rounds for task in one.tasks))


def train_on_policy(
    recipe: Recipe, play: OnPolicy, out: Path, notes: dict[str, Any], teacher: Any, tok: Any,
    *, quiet: bool = False, device: torch.device = CPU,
    send: Callable[[dict[str, Any]], None] | None = None,
) -> Result:  # fmt: skip
    """Rounds of play and training in ``out``, from where they stopped.

    ``teacher`` is the loaded model of ``recipe.teacher``, whose tokenizer ``tok`` is.
    ``optim.max_minutes`` counts from here on, play and all: when they are over, no other round
    begins. ``notes`` are written with what the rounds were learned from; ``send`` as in ``train``.
    Raises DataError where a round leaves nothing to learn from.
    """
    begun = time.monotonic()

    def left() -> float | None:
        most = recipe.optim.max_minutes
        return None if most is None else max(0.0, most - (time.monotonic() - begun) / 60)

    start = out / "start"
    if not (start / "harness.json").is_file():
        model = models.build(recipe.student, tok, recipe.seed)
        checkpoint.write_model(start, model, tok, notes)
    result = Result(start, 0, "time")
    cuts = np.linspace(0, recipe.optim.steps, play.rounds + 1).astype(int).tolist()
    for number, part in enumerate(pairwise(cuts)):
        last = checkpoint.latest(out / "checkpoints")
        at = 0 if last is None else checkpoint.read_state(last).step
        if at >= part[1] and number < play.rounds - 1:
            continue
        student = start if last is None else last
        runs = _round(recipe, play, number, student, out / "rounds", at > part[0])
        if broken := [run for run in runs if run.summary.errors]:
            errors = sum(run.summary.errors for run in broken)
            say(
                quiet,
                f"round {number}: {errors} episodes broke, twice, of which nothing is learned: "
                f"{first_fault(broken[0])}",
            )
        corpus = _corpus(recipe, runs, tok)
        played = [run.path / EPISODES for run in runs]
        told = with_round(notes, recipe, last, number, played, corpus.samples)
        optim = msgspec.structs.replace(recipe.optim, max_minutes=left())
        within = msgspec.structs.replace(recipe, optim=optim)
        result = train(
            within, recipe_hash(recipe), corpus, tok, out, told,
            teacher=teacher, quiet=quiet, part=Part(*part), device=device, send=send,
        )  # fmt: skip
        if result.reason == "time" or result.step < part[1]:  # out of time, or [dev] had enough
            break
        if left() == 0 and number < play.rounds - 1:
            return result._replace(reason="time")
    return result


def _round(
    recipe: Recipe, play: OnPolicy, number: int, student: Path, rounds: Path, learned: bool
) -> list[Run]:
    """The runs of a round, one for each of its sets; one that was stopped is played again by the
    same student, and so are episodes that broke, once. ``learned``: steps were taken on what is
    there, so that nothing joins it."""
    root = rounds / f"{number:03d}"
    found: dict[tuple[int, ...], Run] = {}
    for run in find_runs(root):
        if run.meta.status == "complete":
            found[run.meta.seeds] = run
        else:
            shutil.rmtree(run.path)
    wanted = {
        (recipe.seed * 1000 + number + AGAIN * again,): tasks
        for again, tasks in enumerate(round_tasks(play, number, recipe.seed))
    }
    whole = found.keys() == wanted.keys() and not any(run.summary.errors for run in found.values())
    if whole or (learned and found):
        return list(found.values())
    assert recipe.teacher is not None
    share = teacher_share(play, number)
    with random_state_kept():
        sides = [
            registry.build_policy(_agent(Path(folder), play, recipe))
            for folder in (student, locate(recipe.teacher.checkpoint))
        ]
        mixture: Any = Mixture(sides[0], sides[1], share)
        try:
            for seeds, tasks in wanted.items():
                if seeds not in found:
                    found[seeds] = api.evaluate(
                        AgentConfig(recipe.name, "react", role="student"), play.env,
                        tasks=tasks, out=root, kind="collect", policy=mixture, seeds=seeds,
                        max_steps=play.max_steps, env_options=dict(play.env_options),
                    )  # fmt: skip
                if found[seeds].summary.errors:
                    found[seeds] = api.resume(found[seeds].path, retry_errors=True, policy=mixture)
        finally:
            for side in sides:
                side.close()  # type: ignore[attr-defined]
    return list(found.values())


def with_round(
    notes: dict[str, Any], recipe: Recipe, last: Path | None, number: int,
    played: Sequence[Path], samples: Samples,
) -> dict[str, Any]:  # fmt: skip
    """``notes`` with what the rounds up to this one are learned from: ``samples`` of the episodes
    ``played``, and what the checkpoint ``last`` tells of those before it. Where it does not (it is
    older than this note), nothing is said, rather than of a part of them."""
    before = checkpoint.read_notes(last).get("rounds", []) if last is not None else []
    if len(before) < number:
        return notes
    this = {
        "runs": [traces.file_sha256(file) for file in played],
        "samples": samples.hash,
        "tokens": class_tokens(samples, recipe.objective),
    }
    rounds = [*before[:number], this]
    tokens: Counter[str] = Counter()
    for one in rounds:
        tokens.update(one["tokens"])
    weights = lambdas(recipe.objective)
    return {
        **notes,
        "parents": {**notes["parents"], "runs": [sha for one in rounds for sha in one["runs"]]},
        "reason_to_act": tokens["reason"] / tokens["act"] if tokens["act"] else None,
        "supervised": {name: n for name, n in tokens.items() if weights[name]},
        "rounds": rounds,
    }


def _agent(folder: Path, play: OnPolicy, recipe: Recipe) -> AgentConfig:
    options = {
        "checkpoint": str(folder.absolute()),
        "temperature": play.temperature,
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
    }
    return AgentConfig("side", "react", options=options)


def _corpus(recipe: Recipe, runs: Sequence[Run], tok: Any) -> Corpus:
    """All decisions of a round's episodes, won or lost, in the order of their tasks."""
    episodes: list[Episode] = sorted(
        (e for run in runs for e in run.episodes() if e.outcome is not Outcome.ERROR and e.steps),
        key=lambda e: e.key,
    )
    if not episodes:
        raise DataError(f"{runs[0].path / EPISODES}: every episode of this round broke.")
    samples, _ = encode(
        episodes, tokenizer.SegmentEncoder(tok), recipe.data.header, recipe.student.window,
        recipe.max_new_tokens, sampled=True,
    )  # fmt: skip
    every = np.arange(len(samples.lengths))
    return Corpus(samples, every, every[:0], samples.hash)

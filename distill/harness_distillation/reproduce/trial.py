"""What decides, written down before anything runs: the grid's table ``[trial]``.

endpoint = "alfworld/holdout-1000"   one number decides, at the end of training
seeds, margin, alpha, fixed_steps
[trial.dev]       the set that anything is chosen on; no test set
[trial.tuning]    learning rates that every arm tries, equally many
[trial.pilot]     trainings of one arm that only tell how far seeds spread
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import msgspec

from harness import comparison, registry
from harness.tasksets import TaskSet

#: Training seeds of the pilot come after this, those of the trial are 1, 2, ...
PILOT_SEEDS = 1000
TUNING_SEED = 2000


class Evaluation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task set that is played: by all, by the first ``seeds`` alone, or by some arms; by those in
    ``fixed`` (None: all of them) also as they were at fixed steps."""

    env: str
    tasks: str
    env_options: dict[str, Any] = {}
    max_steps: int | None = None
    seeds: int | None = None
    arms: tuple[str, ...] = ()
    fixed: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """``tasks`` with its environment before it."""
        return self.tasks if self.tasks.startswith(f"{self.env}/") else f"{self.env}/{self.tasks}"

    def task_set(self) -> TaskSet:
        """The set as it is scored."""
        found = _task_set(self.env, self.tasks)
        scoring = registry.env_class(self.env).scoring_options
        options = {k: v for k, v in self.env_options.items() if k in scoring}
        return found.varied(max_steps=self.max_steps, options=options)


@cache
def _task_set(env: str, tasks: str) -> TaskSet:
    return registry.task_set(env, tasks)


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same learning rates for every arm, each trained once with a seed of its own; what wins
    most on the dev set (the earlier of equals) is the arm's, in place of its recipe's."""

    lr: tuple[float, ...]
    #: So many steps without [dev]; None: trained as in the trial.
    steps: int | None = None


class Pilot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``seeds`` trainings of one arm, by its recipe as it stands, played on the dev set alone."""

    arm: str
    seeds: int
    #: So many steps without [dev]; None: trained as in the trial.
    steps: int | None = None


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The preregistration: fixed when the first student of a campaign begins, refused when changed
    afterwards."""

    #: The evaluation ("env/tasks") whose success decides.
    endpoint: str
    #: So many training seeds of every row that does not say otherwise, from ``first_seed`` on.
    seeds: int
    #: Points of success that count as equivalent.
    margin: float = 3.0
    alpha: float = comparison.ALPHA
    #: Students are also compared after so many steps, in checkpoints that their whole trainings
    #: (recipes with [dev] patience) keep.
    fixed_steps: int | None = None
    dev: Evaluation | None = None
    tuning: Tuning | None = None
    pilot: Pilot | None = None
    #: False: the numbers prove that everything runs, and nothing else.
    verdict: bool = True
    #: Over 1 in a campaign that adds seeds to those of another one.
    first_seed: int = 1


def faults(trial: Trial, names: list[str], arms: set[str]) -> list[tuple[bool, str]]:
    """(whether it is so, what to say); ``names`` of the evaluations."""
    tuning, pilot, dev = trial.tuning, trial.pilot, trial.dev
    rates = tuning.lr if tuning is not None else ()
    told = {f"{rate:g}" for rate in rates}  # as cells are called
    shorter = (tuning, pilot)
    return [
        (
            trial.endpoint not in names,
            f"the endpoint '{trial.endpoint}' is no evaluation: {', '.join(names)}.",
        ),
        (trial.seeds < 1, "a trial needs a seed."),
        (trial.first_seed < 1, "training seeds are 1, 2, ..."),
        (
            trial.first_seed + trial.seeds > PILOT_SEEDS,
            f"training seeds are under {PILOT_SEEDS}: those from there on are the pilot's.",
        ),
        (
            trial.alpha != comparison.ALPHA,
            f"verdicts are told at alpha = {comparison.ALPHA:g} (harness.comparison), not "
            f"{trial.alpha:g}.",
        ),
        (
            not (math.isfinite(trial.margin) and 0 < trial.margin <= 100),
            f"margin is in (0, 100] points, not {trial.margin:g}.",
        ),
        (
            dev is None and (tuning is not None or pilot is not None),
            "tuning and pilot are played on a dev set: add [trial.dev].",
        ),
        (
            dev is not None and dev.name in names,
            f"'{dev.name if dev else ''}' is the dev set and an evaluation: what is chosen on a "
            "set cannot be measured on it.",
        ),
        (
            tuning is not None and (len(told) < max(2, len(rates)) or min(rates) <= 0),
            f"[trial.tuning] lr needs two different rates at least, all over 0: {list(rates)}.",
        ),
        (
            any(part is not None and part.steps is not None and part.steps < 1 for part in shorter),
            "[trial.tuning] and [trial.pilot] train for a step at least.",
        ),
        (
            pilot is not None and pilot.arm not in arms,
            f"the pilot's arm '{pilot.arm if pilot else ''}' is no row.",
        ),
        (
            pilot is not None and not 2 <= pilot.seeds < PILOT_SEEDS,
            "a pilot needs two seeds at least: one has no spread.",
        ),
    ]

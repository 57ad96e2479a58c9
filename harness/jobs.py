"""What a run's description comes to: its episodes to play, its environment, and its data."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from harness import registry, remote
from harness.env import Environment
from harness.errors import DataError
from harness.runner import Job
from harness.runs import RunMeta
from harness.tasksets import TaskSet


def all_jobs(meta: RunMeta) -> list[Job]:
    """Every episode of a run: tasks x seeds x attempts."""
    return [
        Job(msgspec.structs.replace(task, seed=seed), attempt)
        for task in meta.task_set.tasks
        for seed in meta.seeds
        for attempt in range(meta.attempts)
    ]


def env_maker(meta: RunMeta, reveal: bool) -> Callable[[], Environment]:
    """A constructor of the run's environment; in a process of its own where it must be."""
    cls = registry.env_class(meta.task_set.env)
    keywords = {**meta.task_set.options, **meta.env_options}
    if reveal:
        keywords["reveal"] = True
    if cls.shareable:
        return lambda: cls(**keywords)
    return lambda: remote.RemoteEnvironment(meta.task_set.env, keywords)


def check_data(make_env: Callable[[], Environment], task_set: TaskSet) -> None:
    """Refuse data whose tasks are not the task set's: another version would score another thing."""
    env = make_env()
    try:
        for task, expected in zip(task_set.tasks, task_set.content, strict=True):
            found = env.content_hash(task.id)
            if found != expected:
                raise DataError(
                    f"Task '{task.id}' is not the one that task set '{task_set.name}' means: its "
                    f"data hash to {found}, the set says {expected}.\n"
                    f"  Get the matching data with `harness fetch {task_set.env}`."
                )
    finally:
        env.close()

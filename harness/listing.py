"""Tables of ``harness list``: environments, agents, task sets, runs."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from harness import registry
from harness.runs import find_runs


def _grid(*columns: str) -> Table:
    table = Table(header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def envs() -> Table:
    """Registered environments."""
    table = _grid("environment", "gymnasium id", "version", "default task set", "from")
    for name, point in sorted(registry.names("envs").items()):
        cls = registry.env_class(name)
        table.add_row(
            name, registry.gym_id(name), cls.version, registry.task_set(name).name, point.value
        )
    return table


def agents(everything: bool = False) -> Table:
    """Agents that can run on this machine; with ``everything`` the rest too, and why not."""
    columns = ("agent", "role", "policy", "what it is", *(("missing",) if everything else ()))
    table = _grid(*columns)
    for name, config in sorted(registry.agent_configs().items()):
        why = registry.missing(config)
        if why is not None and not everything:
            continue
        cells = [name, config.role, config.policy, config.description]
        table.add_row(*cells, *((((why or "").split("\n")[0],)) if everything else ()))
    return table


def tasks() -> Table:
    """Task sets of all environments."""
    table = _grid("task set", "tasks", "steps", "hash", "CoT reference")
    for env in sorted(registry.names("envs")):
        for name in registry.task_set_names(env):
            found = registry.task_set(env, name)
            table.add_row(
                name, str(len(found.tasks)), str(found.protocol.max_steps), found.hash,
                found.reference or "-",
            )  # fmt: skip
    return table


def protocols() -> Table:
    """Rules of play of the literature, for `run --protocol`."""
    table = _grid("environment", "protocol", "steps", "think", "last action", "options")
    for env in sorted(registry.names("envs")):
        for name, p in registry.env_class(env).protocols.items():
            options = " ".join(f"{k}={v}" for k, v in p.options.items())
            table.add_row(
                env, name, str(p.max_steps), p.think or "-", p.last_action or "-", options or "-"
            )
    return table


def runs(out: Path) -> Table:
    """Recorded runs, oldest first."""
    table = _grid("run", "kind", "agent", "task set", "episodes", "status")
    for run in find_runs(out):
        meta = run.meta
        done = sum(1 for _ in run.episodes())
        table.add_row(
            str(run.path), meta.kind, meta.agent.name, meta.task_set.name,
            f"{done}/{meta.n_episodes}", meta.status,
        )  # fmt: skip
    return table

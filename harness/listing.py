"""Tables of ``harness list``: environments, agents, task sets and their tasks, runs."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness import registry, tables
from harness.errors import ConfigError, TraceError, unknown
from harness.plain import plain
from harness.protocol import Protocol
from harness.runs import OnDamage, RunMeta, find_runs
from harness.tasksets import Frozen, differences
from harness.types import Task


def _grid(*columns: str) -> Table:
    """An empty table whose first column, the names that one types, is never broken."""
    table = Table(header_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=place == 0)
    return table


def _add(table: Table, *cells: str) -> None:
    """A row; what is recorded or configured is text, never markup."""
    table.add_row(*(Text(plain(cell)) for cell in cells))


def envs() -> Table:
    """Registered environments."""
    table = _grid("environment", "gymnasium id", "version", "default task set", "from")
    for name, point in sorted(registry.names("envs").items()):
        cls = registry.env_class(name)
        _add(
            table,
            name,
            registry.gym_id(name),
            cls.version,
            registry.task_set(name).name,
            point.value,
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
        about = config.description or registry.about(config)
        cells = [name, config.role, config.policy, about]
        _add(table, *cells, *((((why or "").split("\n")[0],)) if everything else ()))
    return table


def _envs(env: str | None) -> list[str]:
    return [env] if env is not None else sorted(registry.names("envs"))


def tasks(env: str | None = None) -> Group:
    """Task sets of one environment, or of all."""
    table = _grid("task set", "tasks", "steps", "data", "hash", "CoT reference")
    for e in _envs(env):
        for name in registry.task_set_names(e):
            found = registry.task_set(e, name)
            told = all(found.content)  # else only a server knows, and so a run's hash is another
            data = "official" if registry.needs_data(e, name) else "built in"
            _add(
                table, name, str(len(found.tasks)), str(found.protocol.max_steps),
                data if told else "a server's", found.hash if told else "-",
                found.reference or "-",
            )  # fmt: skip
    footnote = (
        "Sets of official data are played with --data official (or --data FOLDER); "
        "`harness fetch ENV` downloads them."
    )
    return Group(table, Text(footnote))


def task_set(found: Frozen) -> Group:
    """The tasks of a set, in order."""
    s = found.task_set
    table = _grid("task", "split", "seed", "data")
    for task, content in zip(s.tasks, s.content, strict=True):
        _add(table, task.id, task.split, str(task.seed), content)
    options = [f"option {k}={v}" for k, v in s.options.items()]
    told = (
        f"{s.name}: {len(s.tasks)} tasks, {s.protocol.max_steps} steps, hash {found.hash}, "
        f"version {found.env_version} of {s.env}\n"
        f"success: {s.success}; {'; '.join([*rules(s.protocol), *options])}"
    )
    return Group(Text(plain(told)), table)


def task_differences(a: Frozen, b: Frozen) -> Group:
    """What two sets do not share, rules first."""
    d = differences(a, b)
    table = _grid("", plain(a.task_set.name), plain(b.task_set.name))
    for rule in d.rules:
        _add(table, *rule)
    for task in d.changed:
        _add(table, _named(task), "its data", "other data")
    for task in d.only_a:
        _add(table, _named(task), "in it", "-")
    for task in d.only_b:
        _add(table, _named(task), "-", "in it")
    same = a.hash == b.hash
    told = f"{d.same} tasks in both; " + (
        f"the same set, hash {a.hash}" if same else f"hash {a.hash} and {b.hash}"
    )
    return Group(Text(told), *([table] if table.row_count else []))


def _named(task: Task) -> str:
    return task.id + (f", seed {task.seed}" if task.seed else "")


def protocols(env: str | None = None) -> Group:
    """Rules of play of the literature, for `run --protocol`."""
    table = _grid("environment", "protocol", "steps", "rules", "its tasks here", "not reproduced")
    for e in _envs(env):
        for name, preset in registry.env_class(e).protocols.items():
            _add(
                table, e, name, str(preset.protocol.max_steps),
                "\n".join(rules(preset.protocol)) or "-", preset.tasks or "-",
                preset.differs or "-",
            )  # fmt: skip
    told = (
        "`harness list protocols NAME` tells more. `run --protocol NAME` plays its tasks where "
        "--data names real data, unless --tasks says which. Prompts and the form of replies are "
        "the agent's own under every protocol."
    )
    return Group(table, Text(told))


def protocol(name: str, env: str | None = None) -> Group:
    """All that is known of the presets of one name."""
    known = {e: registry.env_class(e).protocols for e in _envs(env)}
    fitting = {e: presets[name] for e, presets in known.items() if name in presets}
    if not fitting:
        raise ConfigError(unknown("protocol", name, {n for some in known.values() for n in some}))
    parts: list[Table] = []
    for e, preset in fitting.items():
        table = _grid("", f"{name} on {e}")
        facts = {
            "steps": str(preset.protocol.max_steps),
            "rules": "\n".join(rules(preset.protocol)),
            "tasks": preset.plays,
            "tasks here": preset.tasks or "",
            "grammar": preset.grammar,
            "invalid": preset.invalid,
            "scoring": preset.scoring,
            "not reproduced": preset.differs,
            "source": preset.source,
        }
        for fact, text in facts.items():
            _add(table, fact, text or "-")
        parts.append(table)
    return Group(*parts)


def rules(protocol: Protocol) -> list[str]:
    """Rules of play besides the step budget, a sentence each."""
    told = []
    if protocol.format_limit is not None:
        n = protocol.format_limit
        told.append(f"ends at {n} replies without an action" if n > 1 else
                    "ends at a reply without an action")  # fmt: skip
    if protocol.actions is not None:
        told.append(f"an action begins with {protocol.actions}")
    if protocol.max_tokens is not None:
        told.append(f"ends at {protocol.max_tokens} sampled tokens")
    if protocol.repeat_limit is not None:
        told.append(f"ends at {protocol.repeat_limit} identical invalid actions")
    if (same := protocol.repetition) is not None:
        what = "replies" if same.of == "reply" else "actions"
        told.append(f"ends at {same.limit} identical {what}, from step {same.least} on")
    if protocol.help_action is not None:
        told.append(f"`{protocol.help_action}` lists the admissible actions")
    if protocol.think is not None:
        told.append(f"`think: ...` costs a step, is answered `{protocol.think}`")
    if protocol.last_action is not None:
        told.append(f"`{protocol.last_action}` is done when the steps are used up")
    return told + [f"option {k}={v}" for k, v in protocol.options.items()]


def plan(meta: RunMeta) -> Table:
    """What a run would play."""
    s = meta.task_set
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    facts = {
        "agent": f"{meta.agent.name} ({meta.agent.role}; policy {meta.agent.policy})",
        "task set": f"{s.name}, hash {meta.task_set_hash}, version {meta.env_version} of {s.env}",
        "episodes": f"{meta.n_episodes}: {len(s.tasks)} tasks x {len(meta.seeds)} seeds x "
        f"{meta.attempts} attempts, {meta.workers} at once",
        "budget": f"{s.protocol.max_steps} steps an episode",
        "protocol": "\n".join(rules(s.protocol)),
        "options": "\n".join(f"{k}={v}" for k, v in {**s.options, **meta.env_options}.items()),
        "slips": f"{100 * meta.error_rate:g} % of steps" if meta.error_rate else "",
        "CoT reference": meta.reference or "",
    }
    for fact, text in facts.items():
        if text:
            _add(table, fact, text)
    return table


def runs(
    out: Path, on_damage: OnDamage | None = None, width: int | None = None
) -> tuple[Table, list[str]]:
    """Recorded runs, oldest first, for a terminal of ``width`` columns, and the columns that there
    is no room for; what cannot be read is told to ``on_damage`` (None: raised)."""
    lines = []
    for run in find_runs(out, on_damage):
        meta = run.meta
        try:
            recorded = sum(1 for _ in run.episodes())
            done, state = str(recorded), run.state(recorded)
        except TraceError as error:
            if on_damage is None:
                raise
            on_damage(error)
            done, state = "?", "damaged"
        lines.append(
            [str(run.path), f"{done}/{meta.n_episodes}", state, meta.kind, meta.agent.name,
             meta.task_set.name]
        )  # fmt: skip
    heads = [(name, "left") for name in ("run", "episodes", "status", "kind", "agent", "task set")]
    always = ("run", "episodes", "status")
    return tables.fitted("", heads, lines, width, names=("run",), always=always)

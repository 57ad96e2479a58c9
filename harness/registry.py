"""Finds environments, agents, metrics and commands: by entry points only, built-ins included.

harness.envs           name -> Environment subclass
harness.agents         name -> callable(**options) -> Policy
harness.agent_configs  name -> package with *.toml agent configs
harness.policy_wrappers  "errors" -> callable(policy, rate=, errors_from=) -> Policy
harness.metrics        name -> callable(Episode, reference Episode | None) -> number | None
harness.commands       name -> callable(list of arguments) -> exit status
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from harness import registration
from harness.config import AgentConfig, load_toml
from harness.env import Environment
from harness.errors import ConfigError, DataError, HarnessError, MissingDependency, unknown
from harness.policy import Policy
from harness.protocol import Preset
from harness.tasksets import SUFFIX, TaskSet, is_builtin, split_slice, thaw

#: Role of an agent that is an object its caller holds, and that no config can make again.
OBJECT = "object"


#: What is registered, ``harness.<group>`` each, and what one of it is called.
GROUPS = {
    "envs": "environment",
    "agents": "policy",
    "agent_configs": "agent config package",
    "policy_wrappers": "policy wrapper",
    "metrics": "metric",
    "recipes": "recipe package",
    "commands": "command",
}
#: (group, name) of what cannot be loaded and is passed over, see ``set_aside``.
_aside: set[tuple[str, str]] = set()
#: What each environment class is registered as.
_named: dict[type[Environment], str] = {}


def names(group: str) -> dict[str, EntryPoint]:
    """Entry points of ``harness.<group>``; the first of two with one name is refused loudly."""
    return {name: p for name, p in _points(group).items() if (group, name) not in _aside}


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"harness.{group}"):
        other = found.get(point.name)
        if other is not None and other.value != point.value:
            raise ConfigError(
                f"Two packages register '{point.name}' in harness.{group}: "
                f"{other.value} and {point.value}. Uninstall one."
            )
        found[point.name] = point
    return found


def load(group: str, name: str, noun: str) -> Any:
    """Load one entry point; unknown names raise with the nearest and the known ones, and what its
    package breaks with is a ConfigError that names it."""
    points = _points(group)
    if name not in points:
        raise ConfigError(unknown(noun, name, points))
    try:
        return points[name].load()
    except HarnessError:
        raise
    except Exception as error:
        package = points[name].dist
        raise ConfigError(
            f"{noun.capitalize()} '{name}' ({points[name].value}, registered in harness.{group}"
            f"{f' by {package.name} {package.version}' if package else ''}) cannot be loaded: "
            f"{type(error).__name__}: {error}\n  Mend or uninstall that package."
        ) from error


def set_aside(*groups: str) -> Iterator[tuple[str, HarnessError]]:
    """Leave out of ``names`` what cannot be loaded, and yield (``group: name``, why): for commands
    that go over everything, so that one broken package does not hide the others."""
    for group in groups:
        for name in names(group):
            try:
                if group == "envs":
                    env_class(name)
                else:
                    load(group, name, GROUPS[group])
            except HarnessError as error:
                _aside.add((group, name))
                yield f"harness.{group}: {name}", error


def env_class(name: str) -> type[Environment]:
    """The environment registered as ``name``."""
    cls = load("envs", name, "environment")
    if not (isinstance(cls, type) and issubclass(cls, Environment)):
        raise ConfigError(
            f"Environment '{name}' is {cls!r}, not a subclass of harness.Environment."
        )
    if (first := _named.setdefault(cls, name)) != name:
        raise ConfigError(
            f"'{first}' and '{name}' are both {cls.__module__}:{cls.__qualname__} in harness.envs: "
            "one class has one name. Register a subclass as the second."
        )
    cls.name = name
    return cls


def gym_id(name: str) -> str:
    """Gymnasium id of an environment, as it was registered at import."""
    env_class(name)
    return registration.gym_ids()[name]


def _task_sets(env: str) -> dict[str, Callable[[], TaskSet]]:
    cls = env_class(env)
    name = f"{env}/{cls.default_split}"
    return dict(cls.task_sets()) or {name: lambda: cls.whole_split(name, cls.default_split)}


def task_set_names(env: str) -> list[str]:
    """Names of an environment's task sets, the default first."""
    return list(_task_sets(env))


def task_set(env: str, name: str | None = None) -> TaskSet:
    """A task set by name, sliced if asked (``"alfworld/builtin-valid[:20]"``), or a frozen one by
    its file, either under a protocol if asked (``"unseen-134+eto"``); None: default. Raises
    DataError for one frozen in another version."""
    if not isinstance(name, str | None):
        raise ConfigError(
            f"Tasks are named by a text such as 'builtin-dev[:20]', not {name!r:.60}."
        )
    known = _task_sets(env)
    rest, plus, wanted = (name or "").rpartition("+")
    if plus and wanted in env_class(env).protocols:
        return under(task_set(env, rest), wanted)
    base, part = split_slice(name or next(iter(known)))
    if base.endswith(SUFFIX):
        frozen, version = thaw(Path(base)), env_class(env).version
        if frozen.task_set.env == env and frozen.env_version != version:
            raise DataError(
                f"{base} was frozen in version {frozen.env_version} of '{env}', which now is "
                f"{version}: they score different things.\n  Install the package of that time, "
                "or freeze the set again with `harness list tasks SET --to FILE`."
            )
        return frozen.part(part).task_set
    full = base if base in known else f"{env}/{base}"
    if full not in known:
        raise ConfigError(unknown(f"task set of '{env}'", base, known))
    found = known[full]()
    return found if part is None else found.part(part)


def needs_data(env: str, name: str) -> bool:
    """Whether a task set is of data that do not come with its environment."""
    return is_builtin(next(iter(_task_sets(env)))) and not is_builtin(name)


def preset(cls: type[Environment], name: str, wanted: str) -> Preset:
    """Rules of play by name, of those that an environment offers."""
    if wanted not in cls.protocols:
        raise ConfigError(unknown(f"protocol of '{name}'", wanted, cls.protocols))
    return cls.protocols[wanted]


def under(found: TaskSet, wanted: str) -> TaskSet:
    """A task set under rules of play that its environment offers by name.

    Raises ConfigError for a set that is under some already: its options would stay.
    """
    presets = env_class(found.env).protocols
    rules = preset(env_class(found.env), found.env, wanted).protocol
    for name in found.name.split("+")[1:]:
        if name in presets:
            raise ConfigError(
                f"'{found.name}' is under protocol '{name}' already; '{wanted}' goes with a set "
                "that is under none."
            )
    return found.under(wanted, rules)


@cache
def agent_configs() -> dict[str, AgentConfig]:
    """All configs of all registered config packages, and each bare policy under its own name. A
    package that cannot be loaded is passed over: its agents are unknown, the others play."""
    found: dict[str, AgentConfig] = {}
    for name in names("agent_configs"):
        try:
            package = load("agent_configs", name, GROUPS["agent_configs"])
        except ConfigError:
            continue
        for folder in package.__path__:
            for path in sorted(Path(folder).glob("*.toml")):
                config = load_toml(path, AgentConfig, name=path.stem)
                if config.name in found:
                    raise ConfigError(f"{path}: agent '{config.name}' is defined twice.")
                found[config.name] = config
    for name in names("agents"):
        found.setdefault(name, AgentConfig(name=name, policy=name))
    return found


def recipe_names() -> set[str]:
    """Names of the recipes that `harness distill NAME` finds."""
    packages = [load("recipes", name, GROUPS["recipes"]) for name in names("recipes")]
    folders = [Path(f) for package in packages for f in package.__path__]
    return {path.stem for folder in folders for path in folder.glob("*.toml")}


def agent_config(name: str) -> AgentConfig:
    """A config by name, by .toml path, or by checkpoint folder (played by the ``react`` policy)."""
    path, configs = Path(name), agent_configs()
    if path.suffix == ".toml" and path.is_file():
        return _from_file(path, configs)
    if name in configs:
        return configs[name]
    if path.is_dir():
        return AgentConfig(
            name=path.resolve().name,
            policy="react",
            role="checkpoint",
            options={"checkpoint": str(path.resolve())},
        )
    if path.suffix == ".toml" or "/" in name or os.sep in name:
        kind = "file" if path.suffix == ".toml" else "folder"
        raise ConfigError(f"There is no {kind} '{name}' here, which --agent could play.")
    hint = "An agent is a name, a .toml file or a checkpoint folder."
    for _, error in set_aside("agent_configs"):
        hint += f"\n  {error}"
    raise ConfigError(unknown("agent", name, configs, hint))


def _from_file(path: Path, configs: Mapping[str, AgentConfig]) -> AgentConfig:
    """The agent of a .toml, whose name is the file's. Raises ConfigError where the file says
    another, and for a registered agent's name above something else."""
    raw = load_toml(path, dict[str, Any])
    if raw.get("name", path.stem) != path.stem:
        raise ConfigError(
            f"{path}: an agent's name is its file's, '{path.stem}', but name = {raw['name']!r}. "
            "Rename the file, or leave the key out."
        )
    config = load_toml(path, AgentConfig, name=path.stem)
    known = configs.get(config.name, config)
    if (known.policy, known.options) != (config.policy, config.options):
        raise ConfigError(
            f"{path}: '{config.name}' is a registered agent and this is another, which would be "
            "recorded under its name. Rename the file."
        )
    return config


def build_policy(config: AgentConfig) -> Policy:
    """Construct the policy of a config; options it does not take are refused with a suggestion."""
    factory = load("agents", config.policy, "policy")
    named, takes_any = _parameters(factory)
    for key in config.options:
        if key not in named and not takes_any:
            raise ConfigError(f"Agent '{config.name}': " + unknown("option", key, named))
    for key, parameter in named.items():
        if parameter.default is parameter.empty and key not in config.options:
            raise ConfigError(
                f"Agent '{config.name}' needs the option '{key}': write a .toml with "
                f'policy = "{config.policy}" and [options] {key} = ...'
            )
    policy: Policy = factory(**config.options)
    return policy


def tokenizer(config: AgentConfig) -> Callable[[str], Sequence[int]]:
    """What an agent's model reads for a text: its token ids. Raises ConfigError where it has no
    tokenizer here."""
    find = getattr(load("agents", config.policy, "policy"), "tokenizer", None)
    if find is None:
        raise ConfigError(f"Agent '{config.name}' is no language model: it has no tokenizer.")
    found: Callable[[str], Sequence[int]] = find(**config.options)
    return found


def takes(config: AgentConfig, option: str) -> bool:
    """Whether the agent's policy has an option."""
    named, takes_any = _parameters(load("agents", config.policy, "policy"))
    return takes_any or option in named


def option(config: AgentConfig, name: str) -> Any:
    """What the agent's policy has for an option: its config's value, else its constructor's own
    (None: it names none)."""
    named, _ = _parameters(load("agents", config.policy, "policy"))
    own = named[name].default if name in named else None
    return config.options.get(name, None if own is inspect.Parameter.empty else own)


def _parameters(factory: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """Named parameters of a policy's constructor, and whether it takes others."""
    parameters = inspect.signature(factory).parameters
    kinds = {p.kind for p in parameters.values()}
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {key: p for key, p in parameters.items() if p.kind not in rest}
    # (*args, **kwargs) is what a subclass of Policy without a constructor of its own shows.
    return named, rest[1] in kinds and rest[0] not in kinds


def given_config(policy: Policy, name: str | None = None) -> AgentConfig:
    """The config of a policy that is an object and no registered agent: by ``name``, else by the
    object's ``name``, else by its class's. Raises ConfigError for the name of a registered agent,
    whose play it would pass for."""
    own = getattr(policy, "name", None)
    chosen = name or (own if isinstance(own, str) and own else type(policy).__name__.lower())
    chosen = chosen.encode(errors="replace").decode()  # a record holds no lone surrogate
    if chosen in agent_configs():
        raise ConfigError(
            f"'{chosen}' is a registered agent, and the policy given is an object of "
            f"{class_of(policy)}, which would be recorded under its name.\n"
            f"  Give it a name of its own (name=...), or play evaluate('{chosen}', ...)."
        )
    return AgentConfig(chosen, class_of(policy), role=OBJECT)


def class_of(policy: Policy) -> str:
    """``module:Class`` of an object."""
    return f"{type(policy).__module__}:{type(policy).__qualname__}"


def with_errors(policy: Policy, rate: float, errors_from: str | None) -> Policy:
    """The policy with slips put in at ``rate`` per step: its own blunders, or another agent's.
    Raises ConfigError for one that plays a solution, which leads nowhere after a slip."""
    if getattr(policy, "privileged", False):
        raise ConfigError(
            f"{class_of(policy)} plays each task's solution, which leads nowhere once a slip went "
            "before: no --error-rate. 'expert' finds its way back."
        )
    wrap = load("policy_wrappers", "errors", "policy wrapper")
    other = build_policy(agent_config(errors_from)) if errors_from else None
    wrapped: Policy = wrap(policy, rate=rate, errors_from=other)
    return wrapped


def check_env_options(cls: type[Environment], name: str, options: Mapping[str, Any]) -> None:
    """Refuse keywords that the environment's constructor does not name, and for a switch what is
    neither true nor false: any text would switch it on."""
    parameters = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    known = [p for p in parameters if p != "reveal"]
    for key, value in options.items():
        if key not in known and not takes_any:
            raise ConfigError(unknown(f"option of environment '{name}'", key, known))
        is_switch = key in parameters and isinstance(parameters[key].default, bool)
        if is_switch and not isinstance(value, bool):
            raise ConfigError(
                f"Option '{key}' of environment '{name}' is true or false, not {value!r:.40}."
            )


def require(module: str, extra: str, need: str) -> Any:
    """Import an optional package or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependency(module.split(".")[0], extra, need) from None


def default_workers(config: AgentConfig) -> int:
    """Episodes to play at once: what the policy class asks for (``workers``), else 4."""
    factory = load("agents", config.policy, "policy")
    return int(getattr(factory, "workers", 4))


def about(config: AgentConfig) -> str:
    """What an agent's policy class says that it is: the first line of its docstring."""
    try:
        factory = load("agents", config.policy, "policy")
    except HarnessError:  # ``missing`` tells
        return ""
    return (inspect.getdoc(factory) or "").partition("\n")[0].replace("``", "")


def missing(config: AgentConfig) -> str | None:
    """Why an agent cannot run here and what to do, as its policy class tells; None: it can."""
    try:
        factory = load("agents", config.policy, "policy")
    except HarnessError as error:
        return str(error)
    tell = getattr(factory, "missing", None)
    return tell(**config.options) if tell is not None else None

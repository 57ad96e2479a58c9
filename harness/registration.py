"""Registers every environment found by entry points with Gymnasium, loading none of them.

Gymnasium itself takes half of the command's start-up time, so ``import harness`` does not import
it: the registration happens now if Gymnasium is loaded, else right after it is.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec


@cache
def gym_ids() -> dict[str, str]:
    """Gymnasium id of every environment by its registered name, told from the entry points alone,
    also where one names no class (``point.attr`` breaks on that).

    ``harness/<class name without Env>-v0``; where another class has that name, one of this project
    or of a registered name before it, ``harness/<class name>-<registered name>-v0``.
    """
    found: dict[str, str] = {}
    first: dict[str, str] = {}
    for point in sorted(entry_points(group="harness.envs"), key=_order):
        target = point.value.partition("[")[0].strip()
        name = target.rpartition(":")[2].removesuffix("Env")
        if first.setdefault(name, target) != target:
            name = f"{name}-{point.name}"
        found[point.name] = f"harness/{name}-v0"
    return found


def _order(point: EntryPoint) -> tuple[bool, str]:
    return not point.value.startswith("harness_envs."), point.name


def register_environments() -> None:
    """Register every environment once, as soon as Gymnasium is there."""
    if "gymnasium" in sys.modules:
        _register()
    elif not any(isinstance(finder, _AfterGymnasium) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterGymnasium())


def _register() -> None:
    import gymnasium

    ids = gym_ids()
    for point in entry_points(group="harness.envs"):
        name = ids[point.name]
        if name not in gymnasium.registry:
            gymnasium.registry[name] = _lazy_spec()(id=name, entry_point=point.value)


@cache
def _lazy_spec() -> type[EnvSpec]:
    """A class made once Gymnasium is there."""
    from gymnasium.envs.registration import EnvSpec, load_env_creator

    class LazySpec(EnvSpec):
        """A spec whose step budget is its environment class's ``max_steps``, read when asked for.

        Plain registration wants the number beforehand, and so an import of every environment.
        """

        _budget: int | None

        @property
        def max_episode_steps(self) -> Any:
            if self._budget is None:
                self._budget = load_env_creator(str(self.entry_point)).max_steps  # type: ignore
            return self._budget

        @max_episode_steps.setter
        def max_episode_steps(self, value: int | None) -> None:
            self._budget = value

        def __reduce__(self) -> Any:  # pickle does not find a class made in a function
            return _unpickled, (self.__dict__,)

    return LazySpec


def _unpickled(state: dict[str, Any]) -> EnvSpec:
    spec = object.__new__(_lazy_spec())
    spec.__dict__.update(state)
    return spec


class _AfterGymnasium(MetaPathFinder, Loader):
    """Lets Gymnasium load as ever, registers, and is gone."""

    _loader: Any = None

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register()

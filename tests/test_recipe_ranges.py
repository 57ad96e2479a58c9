"""Numbers of a recipe: each has a range, and one outside it is refused when the recipe is read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Recipe
from harness_distillation.recipe_faults import RANGES

from harness.errors import ConfigError

#: A recipe with every table, as TOML gives it.
WHOLE: dict[str, Any] = {
    "name": "x",
    "data": {"collect": [{"agent": "expert", "env": "alfworld"}]},
    "teacher": {"checkpoint": "t"},
    "objective": {"name": "sad"},
    "optim": {"steps": 100},
    "dev": {"env": "alfworld", "tasks": "builtin-dev"},
    "evaluate": [{"env": "alfworld", "tasks": "builtin-valid"}],
}
GKD = {
    **WHOLE, "data": {}, "teacher": {"checkpoint": "t", "signal": "live"},
    "objective": {"name": "gkd"}, "on_policy": {"env": "alfworld", "tasks": "builtin-train"},
}  # fmt: skip


def numbers(type_: Any, table: str = "") -> Iterator[tuple[str, str, Any, bool]]:
    """Table, key, type (int or float) and whether it is a list, of every number below a struct."""
    for field in msgspec.inspect.type_info(type_).fields:
        kinds = getattr(field.type, "types", (field.type,))
        for kind in kinds:
            many = isinstance(kind, (msgspec.inspect.VarTupleType, msgspec.inspect.TupleType))
            inner = getattr(kind, "item_type", None) or (kind.item_types[0] if many else kind)
            below = f"{table}.{field.name}" if table else field.name
            if isinstance(inner, msgspec.inspect.StructType):
                yield from numbers(inner.cls, below)
            elif isinstance(inner, msgspec.inspect.IntType):
                yield table, field.name, int, many
            elif isinstance(inner, msgspec.inspect.FloatType):
                yield table, field.name, float, many


EVERY = list(numbers(Recipe))


def read(table: str, key: str, value: Any) -> Recipe:
    raw = msgspec.json.decode(msgspec.json.encode(GKD if table == "on_policy" else WHOLE))
    at = raw
    for part in filter(None, table.split(".")):
        at = at.setdefault(part, {})
        at = at[0] if isinstance(at, list) else at
    at[key] = value
    return recipes.resolve(recipes.decode(raw, "x"))


def test_every_number_has_a_range_and_no_range_is_left_over():
    assert {(table, key) for table, key, *_ in EVERY} == {
        (table, key) for table, keys in RANGES.items() for key in keys
    }


@pytest.mark.parametrize(("table", "key", "type_", "many"), EVERY, ids=lambda x: str(x))
def test_a_number_outside_its_range_is_refused_by_name_value_and_range(table, key, type_, many):
    interval = RANGES[table][key]
    low, high = (float(end) for end in interval[1:-1].split(", "))
    bad = [math.nan] if type_ is float else []
    if math.isfinite(low):
        bad += [low - 1] + [low] * (interval[0] == "(")
    if math.isfinite(high):
        bad += [high + 1]
    if interval[-1] == ")" and (type_ is float or math.isfinite(high)):
        bad += [high]
    assert bad
    for value in map(type_, bad):
        told = f"{f'[{table}] ' if table else ''}{key} = {value} is not in {interval}."
        with pytest.raises(ConfigError, match=re.escape(f"Recipe 'x': {told}")):
            read(table, key, [value, value] if many else value)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("optim", "max_minutes", 0),
        ("optim", "clip", math.inf),
        ("objective", "pacing_start", 1),
        ("objective", "lambda_reason", 0),
        ("student", "dropout", 0.5),
        ("data.collect", "error_rate", 1),
        ("on_policy", "temperature", 0),
        ("", "seed", 0),
        ("", "seed", 2**32 - 1),
    ],
)
def test_ends_that_belong_to_a_range_are_taken(table, key, value):
    read(table, key, value)


def test_all_that_is_wrong_is_told_at_once():
    raw = {"name": "x", "optim": {"lr": -1.0, "clip": 0.0}, "student": {"layers": 0}}
    with pytest.raises(ConfigError) as error:
        recipes.resolve(recipes.decode(raw, "x"))
    assert [line.strip() for line in str(error.value).splitlines()] == [
        "Recipe 'x': [student] layers = 0 is not in [1, inf).",
        "[optim] lr = -1.0 is not in (0, inf).",
        "[optim] clip = 0.0 is not in (0, inf].",
    ]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"student": {"hidden": 30, "heads": 4}}, "hidden 30 is not a multiple of heads 4"),
        ({"student": {"hidden": 6, "heads": 2}}, "an even width"),
        ({"student": {"window": 96}}, "leaves no room to read in a window of 96"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(raw, message):
    with pytest.raises(ConfigError, match=message):
        recipes.resolve(recipes.decode({"name": "x", **raw}, "x"))


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/tmp/x", "x/"])
def test_a_name_that_is_no_folder_is_refused(name):
    with pytest.raises(ConfigError, match="is that of its folder in models/"):
        recipes.resolve(recipes.decode({"name": name}, "x"))


def test_a_step_to_keep_that_never_comes_is_refused():
    raw = {**WHOLE, "optim": {"steps": 100, "keep": [100]}}
    recipes.resolve(recipes.decode(raw, "x"))
    raw["optim"]["keep"] = [50, 101]
    with pytest.raises(ConfigError, match="keep names step 101 of 100: it never comes"):
        recipes.resolve(recipes.decode(raw, "x"))

"""Task sets in files: frozen, played again, refused when they are no longer what they were."""

from __future__ import annotations

import msgspec
import pytest
from typer.testing import CliRunner

import harness
from harness import api, registry
from harness.cli import app
from harness.errors import ConfigError, DataError, TraceError
from harness.sides import chooser, find_set
from harness.tasksets import Frozen, differences, freeze, named, thaw

SET = "alfworld/builtin-dev[:4]"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.json"
    freeze(find_set(SET), path)
    return path


def call(*words):
    return CliRunner().invoke(app, ["list", "tasks", *map(str, words)], env={"COLUMNS": "200"})


def altered(path, **changes):
    """The frozen set with another task set, and the hash that it then has."""
    old = thaw(path)
    task_set = msgspec.structs.replace(old.task_set, **changes)
    freeze(Frozen(task_set.hash, old.env_version, task_set), path)
    return path


def test_a_frozen_set_is_the_set(file, tmp_path):
    named = registry.task_set("alfworld", SET)
    assert registry.task_set("alfworld", str(file)) == named
    assert registry.task_set("alfworld", f"{file}[1:3]").tasks == named.tasks[1:3]
    run = harness.evaluate("oracle", "alfworld", tasks=str(file), out=tmp_path)
    assert run.meta.task_set_hash == named.hash == find_set(str(run.path)).hash
    again = tmp_path / "again.json"
    freeze(find_set(str(run.path)), again)
    assert again.read_bytes() == file.read_bytes()
    assert chooser(None, str(file))(run)
    freeze(msgspec.structs.replace(thaw(file), env_version="0"), file)
    assert not chooser(None, str(file))(run)  # which scored other things


def test_a_set_is_known_by_its_name_and_the_bounds_of_its_part():
    whole = registry.task_set("alfworld", "alfworld/builtin-dev")
    part, size = whole.part(slice(2, 5)), len(whole.tasks)
    asked = ("builtin-dev", f"builtin-dev[:{size}]", "builtin-dev[2:]", "builtin-dev[2:5]")
    assert [named(name, whole) for name in asked] == [True, True, False, False]
    assert [named(name, part) for name in asked] == [False, False, True, True]
    assert not named("builtin-dev[2:4]", part)


def test_what_no_longer_matches_is_refused(file, tmp_path):
    body = file.read_text()
    first = thaw(file).task_set.tasks[0].id
    file.write_text(body.replace(first, first + "x"))
    with pytest.raises(TraceError, match="changed since"):
        registry.task_set("alfworld", str(file))
    file.write_text(body[:-30])
    with pytest.raises(TraceError, match="not a frozen task set"):
        thaw(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        thaw(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="file"):
        freeze(find_set(SET), tmp_path / "set.txt")


def test_other_data_and_another_version_are_refused_before_anything_is_played(file, tmp_path):
    out = tmp_path / "out"
    content = thaw(file).task_set.content
    with pytest.raises(DataError, match="is not the one that task set"):
        harness.evaluate(
            "oracle", "alfworld", out=out,
            tasks=str(altered(file, content=(*content[:3], "0" * 16))),
        )  # fmt: skip
    assert not out.exists()
    old = thaw(file)
    freeze(msgspec.structs.replace(old, env_version="0"), file)
    with pytest.raises(DataError, match="frozen in version 0"):
        registry.task_set("alfworld", str(file))
    with pytest.raises(ConfigError, match="is of 'alfworld', not 'webshop'"):
        harness.evaluate("random", "webshop", tasks=str(file), out=out)


def test_differences_name_tasks_data_and_rules(file):
    whole = thaw(file)
    other = find_set("alfworld/builtin-dev[1:6]")
    d = differences(whole, other)
    assert (d.same, [t.id for t in d.only_a]) == (3, [whole.task_set.tasks[0].id])
    assert [t.id for t in d.only_b] == [t.id for t in other.task_set.tasks[3:]]
    assert d.changed == d.rules == ()
    content = whole.task_set.content
    shorter = registry.task_set("alfworld", SET).varied(max_steps=7)
    changed = msgspec.structs.replace(shorter, content=("0" * 16, *content[1:]))
    d = differences(whole, Frozen(changed.hash, whole.env_version, changed))
    assert (d.same, len(d.changed), d.only_a, d.only_b) == (3, 1, (), ())
    steps = str(whole.task_set.protocol.max_steps)
    assert d.rules == (("protocol max_steps", steps, "7"),)
    same = differences(whole, whole)
    assert (same.same, same.rules, same.changed) == (4, (), ())


def test_the_command_shows_freezes_and_compares(tmp_path):
    path = tmp_path / "set.json"
    shown = call(SET)
    ids = [t.id for t in registry.task_set("alfworld", SET).tasks]
    assert all(i in shown.stdout for i in ids)
    assert registry.task_set("alfworld", SET).hash in shown.stdout
    assert call("builtin-dev[:4]", "--env", "alfworld", "--to", path).stdout.strip() == str(path)
    both = call(path, "alfworld/builtin-dev[1:5]")
    assert "3 tasks in both" in both.stdout
    assert ids[0] in both.stdout
    assert ids[1] not in both.stdout
    assert "4 tasks in both; the same set" in call(path, SET).stdout
    refused = {
        "give the whole name": ("builtin-dev",),
        "Unknown task set": ("alfworld/none",),
        "takes one": (SET, SET, "--to", path),
        "goes with": ("--to", path),
        "a task set of 'alfworld', not 'webshop'": (path, "--env", "webshop"),
    }
    for text, words in refused.items():
        found = call(*words)
        assert isinstance(found.exception, ConfigError)
        assert text in str(found.exception)


def test_a_set_under_a_protocol_has_a_name_of_its_own(tmp_path):
    file = tmp_path / "eto.json"
    assert call(f"{SET}+eto", "--to", file).exception is None
    frozen = thaw(file)
    assert (
        frozen.task_set
        == api.plan("random", "alfworld", tasks="builtin-dev[:4]", protocol="eto").task_set
    )
    assert registry.task_set("alfworld", "builtin-dev[:4]+eto") == frozen.task_set
    assert registry.task_set("alfworld", str(file)) == frozen.task_set
    d = differences(find_set(SET), frozen)
    assert d.same == 4
    assert d.rules == (
        ("option aliases", "False", "True"), ("protocol format_limit", "3", "None")
    )  # fmt: skip
    with pytest.raises(ConfigError, match="is under protocol 'eto' already"):
        find_set(f"{file}+react")
    with pytest.raises(ConfigError, match="is under protocol 'eto' already"):
        harness.evaluate("random", "alfworld", tasks=str(file), protocol="eto", out=tmp_path)
    with pytest.raises(ConfigError, match="Unknown task set"):
        find_set(f"{SET}+nobody's")


@pytest.mark.parametrize("words", [["--env", "webshop"], ["webshop"]])
def test_lists_of_one_environment(words):
    shown = CliRunner().invoke(app, ["list", "tasks", *words]).stdout
    sets = {line.split()[1]: line for line in shown.splitlines() if "/" in line}
    assert " official " in sets["webshop/small-500"]
    assert " built in " in sets["webshop/builtin-dev"]
    assert "alfworld" not in shown

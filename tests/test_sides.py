"""Which runs an argument names: parts of sets, folders, agents."""

from __future__ import annotations

import os
import shutil

import msgspec
import pytest

import harness
from harness.errors import ConfigError, TraceError
from harness.export import export
from harness.leaderboard import boards, title
from harness.metrics import summarise
from harness.protocol import Protocol
from harness.recorder import EPISODES, open_to_append
from harness.runs import Run, find_runs, run_folder, write_meta
from harness.serve import render
from harness.sides import find_side, find_sides, labels
from harness.tasksets import TaskSet, named
from harness.types import Task


def task_set(size=20):
    tasks = [Task("e", "dev", f"dev/{i}") for i in range(size)]
    return TaskSet.make("e/dev", "e", tasks, max_steps=9, content={t.id: "0" for t in tasks})


@pytest.mark.parametrize(
    ("asked", "part", "same"),
    [
        ("dev", slice(None), True),
        ("e/dev", slice(None), True),
        ("other/dev", slice(None), False),
        ("dev[:12]", slice(12), True),
        ("e/dev[0:12]", slice(12), True),
        ("dev[:13]", slice(12), False),
        ("dev", slice(12), False),
        ("dev[:12]", slice(None), False),
        ("dev[:]", slice(None), True),
        ("dev[:99]", slice(None), True),
        ("dev[5:]", slice(5, None), True),
        ("dev[5:]", slice(6, None), False),
        ("dev[1:]", slice(None), False),
    ],
)
def test_a_name_is_found_however_its_part_is_written(asked, part, same):
    assert named(asked, task_set().part(part)) is same


def test_a_folder_that_is_called_as_an_agent_is_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:1]", out="results")
    (tmp_path / "oracle").mkdir()
    assert find_side("oracle", tmp_path / "results")[0].path.name == run.path.name
    (tmp_path / "nobody").mkdir()
    with pytest.raises(ConfigError, match="no folder of runs so called"):
        find_side("nobody", tmp_path / "results")


def test_a_run_that_died_while_it_was_scored_is_stopped(tmp_path):
    """All its episodes are there; it is another's only as long as that one writes."""
    run = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:2]", out=tmp_path)
    write_meta(run.path, msgspec.structs.replace(run.meta, status="running"))
    assert Run(run.path).state(2) == "stopped"
    with open_to_append(run.path / EPISODES):
        assert Run(run.path).state(2) == "running"


def test_a_complete_run_that_lost_episodes_is_damaged_and_one_that_came_without_is_not(tmp_path):
    run = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:2]", out=tmp_path / "a")
    assert [run.state(n) for n in (0, 1, 2)] == ["damaged", "damaged", "complete"]
    assert Run(export(run, tmp_path / "b")).state(0) == "complete"


@pytest.mark.parametrize("name", ["..", ".", "..hidden"])
def test_a_name_of_dots_is_a_folder_of_its_own(tmp_path, name):
    assert run_folder(tmp_path, "e", name, "r").parent.parent == tmp_path / "e"
    assert run_folder(tmp_path, "e", name, "r").parent.name.startswith("_")


def test_a_part_may_stand_before_a_protocol():
    found = task_set().part(slice(12)).under("react", Protocol(7))
    assert found.name == "e/dev[0:12]+react"
    assert named("dev[:12]+react", found)
    assert not named("dev[:12]", found)


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([Task("alfworld", "dev", "dev/1"), Task("alfworld", "dev", "dev/1")], "'dev/1' twice"),
        ([Task("alfworld", "dev", "dev/1"), Task("alfworld", "dev", "dev/2", 7)], "has seed 7"),
    ],
)
def test_a_task_stands_in_a_set_once_and_without_a_seed(tasks, words):
    content = {task.id: "0" for task in tasks}
    with pytest.raises(ConfigError, match=words):
        TaskSet.make("alfworld/mine", "alfworld", tasks, max_steps=9, content=content)
    mine = TaskSet("alfworld/mine", "alfworld", tuple(tasks), ("0", "0"), Protocol(9))
    with pytest.raises(ConfigError, match=words):
        harness.api.plan("random", "alfworld", tasks=mine)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for tasks in ("builtin-dev[:2]", "builtin-dev[:3]"):
        harness.evaluate("expert", "alfworld", tasks=tasks, out=out)
    return out


def test_agents_and_folders(out):
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    assert run.meta.n_episodes == 3
    (same,) = find_side(str(run.path), out, "alfworld", "builtin-dev[:3]")
    assert same.path == run.path
    assert len(find_side(f"{run.path}, {run.path}", out)) == 2
    assert labels([run, same]) == [f"expert ({run.path.name})"] * 2
    for words in (("expert",), ("nobody",), (" , ",), (str(run.path), "webshop"),
                  (str(run.path), None, "builtin-dev[:2]")):  # fmt: skip
        name, *rest = words
        with pytest.raises(ConfigError):
            find_side(name, out, *rest)


def test_of_several_task_sets_the_shared_one_counts(out, tmp_path):
    """The first session of the README: one agent played two environments, another one of them."""
    (three,) = find_side("expert", out, None, "builtin-dev[:3]")
    (two,) = find_side("expert", out, None, "builtin-dev[:2]")

    def recorded(agent, *runs):
        named = msgspec.structs.replace(three.meta.agent, name=agent)
        for run in runs:
            meta = msgspec.structs.replace(run.meta, agent=named)
            write_meta(tmp_path / "alfworld" / agent / run.path.name, meta)

    recorded("teacher", two)
    recorded("student", two, three)
    found = find_sides(["teacher", "student"], tmp_path)
    assert {run.meta.task_set_hash for (run,) in found} == {two.meta.task_set_hash}
    found = find_sides([str(three.path), "student"], tmp_path)
    assert found[1][0].meta.task_set_hash == three.meta.task_set_hash
    only = next(iter(three.tasks - two.tasks))
    assert find_sides(["student"], tmp_path, task=only)[0][0].meta.n_episodes == 3
    with pytest.raises(ConfigError, match=r"'student' has runs of several .*--tasks"):
        find_sides(["student"], tmp_path, task=next(iter(two.tasks)))
    recorded("teacher", three)
    with pytest.raises(ConfigError, match=r"'teacher' and 'student' have runs of several") as error:
        find_sides(["teacher", "student"], tmp_path)
    assert f"alfworld/builtin-dev[0:3] ({three.meta.task_set_hash}, version" in str(error.value)
    with pytest.raises(ConfigError, match="No task set is shared"):
        find_sides([str(two.path), str(three.path), "student"], tmp_path)


def test_of_what_an_agents_newest_run_was_chosen_is_told(out, tmp_path):
    told: list[str] = []
    run = find_sides(["expert"], out, tasks="builtin-dev[:2]", tell=told.append)[0][0]
    assert told == []
    shutil.copytree(out, tmp_path / "out")
    older = msgspec.structs.replace(
        run.meta, started="2000", policy={**run.meta.policy, "prior": "f" * 16}
    )
    place = (tmp_path / "out" / run.path.relative_to(out)).with_name("older")
    shutil.copytree(run.path, place)
    write_meta(place, older)
    sides = ["expert", str(run.path)]
    found = find_sides(sides, tmp_path / "out", tasks="builtin-dev[:2]", tell=told.append)
    assert found[0][0].path.name == run.path.name
    (line,) = told
    assert line.startswith("expert: the newest of 2 complete runs (2 policies, unlike in prior)")
    assert str(found[0][0].path) in line


def test_damage_beside_an_agents_run_is_told_and_damage_of_the_named_run_raised(out, tmp_path):
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    for name in ("a", "b"):
        write_meta(tmp_path / "alfworld" / "expert" / name, run.meta)
    bad = tmp_path / "alfworld" / "expert" / "a"
    (bad / "run.json").write_text("{")
    told = []
    (found,) = find_side("expert", tmp_path, on_damage=told.append)
    assert (found.path.name, len(told), str(bad) in str(told[0])) == ("b", 1, True)
    with pytest.raises(TraceError):
        find_side("expert", tmp_path)
    with pytest.raises(TraceError):
        find_side(str(bad), tmp_path, on_damage=told.append)
    (bad / "run.json").unlink()
    (bad / "run.json").mkdir()
    with pytest.raises(TraceError, match="cannot be read"):
        find_side("expert", tmp_path)


def test_records_of_another_schema_are_not_read(out, tmp_path):
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    write_meta(tmp_path, msgspec.structs.replace(run.meta, schema=99))
    with pytest.raises(TraceError, match=r"run\.json: its records are of schema 99"):
        Run(tmp_path)


def test_versions_of_an_environment_are_apart(out, tmp_path):
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")

    def recorded(agent, version, started):
        meta = msgspec.structs.replace(
            run.meta, agent=msgspec.structs.replace(run.meta.agent, name=agent),
            env_version=version, started=started,
        )  # fmt: skip
        folder = shutil.copytree(run.path, tmp_path / "alfworld" / agent / started)
        write_meta(folder, meta)

    recorded("a", "8", "2026-01-01")
    recorded("a", "9", "2026-01-02")
    recorded("b", "8", "2026-01-03")
    found = find_sides(["a", "b"], tmp_path)
    assert [r.path.name for (r,) in found] == ["2026-01-01", "2026-01-03"]
    assert find_side("a", tmp_path)[0].path.name == "2026-01-02"
    recorded("c", "9", "2026-01-04")
    with pytest.raises(ConfigError, match="version"):
        find_sides(["a", "b", "c"], tmp_path)
    tables = boards(find_runs(tmp_path))
    assert [[row.agent for row in board.rows] for board in tables] == [["a", "b"], ["a", "c"]]
    assert [board.env_version for board in tables] == ["8", "9"]
    assert "version 8 of alfworld" in title(tables[0])
    assert "version" not in title(boards([run])[0])
    # Four runs, and beside each the other one of its version.
    assert render(tmp_path, "/").count('href="/run/') == 8


def test_a_name_and_a_leaderboard_mean_complete_runs_without_slips(out, tmp_path):
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    for number, odd in enumerate(({"status": "running"}, {"kind": "collect"}, {"error_rate": 0.1})):
        folder = shutil.copytree(run.path, tmp_path / "alfworld" / "expert" / str(number))
        write_meta(folder, msgspec.structs.replace(run.meta, **odd))
        assert boards([Run(folder)]) == []
        if "error_rate" not in odd:  # which is for who compares it to refuse
            with pytest.raises(ConfigError, match="No complete run of agent 'expert'"):
                find_side("expert", tmp_path)
    assert len(boards([run])) == 1


def test_rows_of_a_run_are_one_an_episode(out, tmp_path):
    """Read whole for a comparison, or in parts for a leaderboard."""
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    file = tmp_path / "metrics.jsonl"
    lines = (run.path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    # As scored before the rows' hash was kept.
    running = msgspec.structs.replace(run.meta, status="running", metrics_hash=None)

    def refused(text):
        for read in (lambda r: r.metrics, lambda r: r.summary):
            with pytest.raises(TraceError, match=text):
                read(Run(tmp_path))

    write_meta(tmp_path, running)
    refused("is missing")
    file.write_bytes(b"".join(lines))
    assert len(Run(tmp_path).metrics) == Run(tmp_path).summary.n == 3
    assert Run(tmp_path).summary == run.summary == summarise(run.metrics)
    for own, other in ((b'"seed":0', b'"seed":1'), (b'"attempt":0', b'"attempt":1')):
        file.write_bytes(b"".join(lines).replace(own, other, 1))
        refused("is not of this run")
    file.write_bytes(lines[0] * 2)
    refused("two rows")
    file.write_bytes(lines[0])
    assert len(Run(tmp_path).metrics) == Run(tmp_path).summary.n == 1
    write_meta(tmp_path, run.meta)
    refused("1 lines, but the run has 3")
    file.write_bytes(lines[0] + lines[1][:-9] + b"\n" + lines[2])
    refused("metrics.jsonl:2: not a metrics row")
    file.write_bytes(b"".join(lines).replace(b'"n_steps":', b'"n_steps":1', 1))
    refused("changed after the run was scored")
    file.write_bytes(b"".join(lines))
    assert Run(tmp_path).summary == run.summary


def test_an_edited_row_is_refused_at_once(out, tmp_path):
    """Same length, same time of change: what is read is what counts."""
    (run,) = find_side("expert", out, None, "builtin-dev[:3]")
    write_meta(tmp_path, run.meta)
    file = tmp_path / "metrics.jsonl"
    body = (run.path / "metrics.jsonl").read_bytes()
    assert body.count(b'"success":true,"score":1.0') == 3
    file.write_bytes(body)
    before = file.stat()
    assert boards([Run(tmp_path)])[0].rows[0].summary.successes == 3
    file.write_bytes(body.replace(b'"success":true,', b'"success":null,', 1))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    with pytest.raises(TraceError, match="changed after the run was scored"):
        boards([Run(tmp_path)])

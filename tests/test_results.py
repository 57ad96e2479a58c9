"""Exported runs and the results page."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import sys

import msgspec
import pytest
from conftest import ROOT

import harness
from harness import leaderboard, registry
from harness.api import results_folder
from harness.errors import ConfigError, TraceError
from harness.export import export
from harness.runs import Run, complete, find_runs, open_run, write_meta
from harness.types import Fault, Outcome


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "results" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_page_is_fresh(build):
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert page == build.page(), "run `python results/build.py`"


def test_the_papers_tables_name_agents_that_have_a_config(build):
    known = registry.agent_configs()
    for table in ("table3.tsv", "table4.tsv"):
        with open(build.TABLES / table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert {r["agent"] for r in rows} <= set(known)
        assert {r["env"] for r in rows} == {"alfworld", "webshop", "hotpotqa"}
        assert all(0 < float(r["success"]) < 100 for r in rows)


def test_reference_runs_carry_no_paths_of_a_machine():
    for run in find_runs(ROOT / "results" / "reference"):
        text = (run.path / "run.json").read_text(encoding="utf-8")
        assert "/home/" not in text
        assert "/work/" not in text
        assert "/root/" not in text


def test_an_exported_run_says_the_same_without_paths(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/opt/venv/bin/harness", "run", "--out", "/home/me/results"])
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:3]", out=tmp_path / "a")
    target = export(run, tmp_path / "b")
    found = find_runs(tmp_path / "b")
    assert [r.path for r in found] == [target]
    assert found[0].summary == run.summary
    assert found[0].meta.argv == ("harness", "run", "--out", "results")
    assert found[0].meta.task_set == run.meta.task_set
    assert not list(found[0].episodes())
    ours, theirs = (leaderboard.boards([r]) for r in (found[0], run))
    assert ours[0].task_set_hash == theirs[0].task_set_hash
    with pytest.raises(ConfigError, match="exported before"):
        export(run, tmp_path / "b")
    whole = export(run, tmp_path / "c", episodes=True)
    assert list(harness.load(whole).episodes()) == list(run.episodes())


def test_only_complete_runs_are_exported(tmp_path):
    run = harness.evaluate("expert", "alfworld", tasks="builtin-dev[:2]", out=tmp_path / "a")
    write_meta(run.path, msgspec.structs.replace(run.meta, status="running"))
    with pytest.raises(ConfigError, match="--resume"):
        export(harness.load(run.path), tmp_path / "b")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return harness.evaluate(
        "expert", "alfworld", tasks="builtin-dev[:2]", out=tmp_path_factory.mktemp("runs")
    )


def exported(run, tmp_path, **meta):
    """A run as if made elsewhere, exported; the exported run and all that it says."""
    copy = tmp_path / "a" / "alfworld" / "expert" / run.path.name
    shutil.copytree(run.path, copy)
    write_meta(copy, msgspec.structs.replace(run.meta, **meta))
    found = harness.load(export(harness.load(copy), tmp_path / "b"))
    return found, (found.path / "run.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--data=/home/me/x",), ("--data=x",)),
        (("--data", "/home/jane doe/data"), ("--data", "data")),
        (("~/data", "~jane/data"), ("data", "data")),
        (("file:///home/jane/data",), ("data",)),
        (("C:\\Users\\jane\\data", "\\\\server\\jane\\data"), ("data", "data")),
        (("no games in /home/jane/data/seen: fetch",), ("no games in seen: fetch",)),
        (("cannot open '/home/jane doe/a b.json'",), ("cannot open 'a b.json'",)),
        (("at data:/home/jane/x and ~/jane/y",), ("at data:x and y",)),
        (("http://localhost:8000/v1", "results/alfworld/x", "a/b or w/ it"),) * 2,
    ],
)
def test_no_path_leaves_this_machine(run, tmp_path, words, expected):
    found, text = exported(run, tmp_path, argv=words)
    assert found.meta.argv == expected
    assert "jane" not in text
    assert found.meta.task_set.hash == found.meta.task_set_hash


def test_a_folder_named_in_one_place_is_found_in_sentences(run, tmp_path):
    found, text = exported(
        run, tmp_path, env_options={"data": "/home/jane doe/data"},
        policy={"why": "No games in /home/jane doe/data/seen here."},
    )  # fmt: skip
    assert found.meta.env_options == {"data": "data"}
    assert found.meta.policy == {"why": "No games in seen here."}
    assert "jane" not in text


def test_messages_of_broken_episodes_lose_their_paths_and_nothing_else_changes(run, tmp_path):
    copy = tmp_path / "a" / "alfworld" / "expert" / run.path.name
    shutil.copytree(run.path, copy)
    first, second = run.episodes()
    fault = Fault("EnvError/OSError", "start: OSError: [Errno 2] none: '/home/jane/x/game.z8'")
    broken = msgspec.structs.replace(first, outcome=Outcome.ERROR, error=fault)
    body = b"".join(msgspec.json.encode(e) + b"\n" for e in (broken, second))
    (copy / "episodes.jsonl").write_bytes(body)
    complete(copy)
    found = harness.load(export(harness.load(copy), tmp_path / "b", episodes=True))
    one, other = found.episodes()
    assert one.error.message == "start: OSError: [Errno 2] none: 'game.z8'"
    assert (one.steps, other) == (broken.steps, second)


def test_a_failed_export_leaves_nothing(run, tmp_path):
    copy = tmp_path / "a" / "alfworld" / "expert" / run.path.name
    shutil.copytree(run.path, copy)
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_bytes(lines[0] + b"garbage\n")
    with pytest.raises(TraceError):
        export(harness.load(copy), tmp_path / "b", episodes=True)
    assert not [p for p in (tmp_path / "b").rglob("*") if p.is_file()]
    assert export(harness.load(copy), tmp_path / "b").exists()


def test_inside_its_folder_a_run_is_still_itself(run, tmp_path, monkeypatch):
    copy = tmp_path / "a" / "alfworld" / "expert" / run.path.name
    shutil.copytree(run.path, copy)
    monkeypatch.chdir(copy)
    here = harness.load(".")
    assert export(here, tmp_path / "b") == tmp_path / "b" / "alfworld" / "expert" / copy.name
    assert results_folder(here) == tmp_path / "a"


def test_a_run_that_was_copied_elsewhere_has_no_results_folder(run, tmp_path):
    copy = Run(shutil.copytree(run.path, tmp_path / "x" / "run"))
    with pytest.raises(ConfigError, match="RESULTS/alfworld/AGENT/run"):
        results_folder(copy)
    linked = tmp_path / "results" / "alfworld" / "expert"
    linked.mkdir(parents=True)
    (linked / "run").symlink_to(copy.path)
    assert results_folder(Run(linked / "run")) == tmp_path / "results"


def test_episodes_that_are_not_here_are_not_exported(run, tmp_path):
    published = Run(export(run, tmp_path / "a"))
    with pytest.raises(TraceError, match=r"holds no episodes\.jsonl.*harness restore"):
        export(published, tmp_path / "b", episodes=True)
    assert not list((tmp_path / "b").rglob("*"))
    assert export(published, tmp_path / "b").is_dir()


def test_the_page_says_where_there_is_nothing(build, tmp_path):
    (tmp_path / "measurements.md").write_text("Measured.\n")
    assert "## Reference runs\n\nNone yet" in build.page(tmp_path)


def test_the_newest_run_is_no_reference_and_goes_by_its_time(run, tmp_path):
    def put(name, **meta):
        write_meta(tmp_path / name, msgspec.structs.replace(run.meta, **meta))

    put("z-older", started="2026-01-01T00:00:00Z")
    put("a-newer", started="2026-01-02T00:00:00Z")
    put("reference-1", started="2026-01-03T00:00:00Z", kind="reference")
    assert open_run(tmp_path).path.name == "a-newer"

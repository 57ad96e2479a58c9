"""Exported runs and the results page."""

from __future__ import annotations

import csv
import importlib.util
import sys

import msgspec
import pytest
from conftest import ROOT

import harness
from harness import leaderboard, registry
from harness.errors import ConfigError
from harness.export import export
from harness.runs import find_runs, write_meta


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "results" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_results_page_is_fresh(build):
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert page == build.page(), "run `python results/build.py`"


def test_the_papers_tables_name_agents_that_have_a_config():
    known = registry.agent_configs()
    for table in ("table3.tsv", "table4.tsv"):
        with open(ROOT / "results" / "paper" / table, encoding="utf-8", newline="") as file:
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

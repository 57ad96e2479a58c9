"""Models that a recipe needs, and what ``harness distill`` tells of recipes."""

from __future__ import annotations

import msgspec
import pytest
from distill_traces import record
from harness_agents import checkpoints
from harness_distillation import cli, parents
from harness_distillation import recipe as recipes

from harness.errors import ConfigError


@pytest.mark.models
def test_what_ships_is_linked_into_a_folder_that_lacks_it(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    data = record(tmp_path / "episodes.jsonl", 6)
    monkeypatch.chdir(tmp_path)
    command = ["ours-tiny", "--data", str(data), "--stage", "prepare"]
    assert cli.main(command) == 0
    for name in ("student-tiny-start", "teacher-tiny"):
        assert (tmp_path / "models" / name).resolve() == checkpoints.shipped()[name]
    assert "models/teacher-tiny: the one that comes with the package" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert "comes with" not in capsys.readouterr().err


def test_what_is_to_be_trained_first_is_named_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"needs models/teacher-tiny-start\.\n.*distill teach"):
        cli.main(["teacher-tiny"])
    own = tmp_path / "own.toml"
    own.write_text('base = "ours-tiny"\n[teacher]\ncheckpoint = "models/mine"\n')
    with pytest.raises(ConfigError, match="models/mine: no recipe of that name ships"):
        cli.main([str(own)])
    assert list(tmp_path.iterdir()) == [own]


def test_a_link_is_made_anew(tmp_path):
    source, place = tmp_path / "there", tmp_path / "models" / "x"
    source.mkdir()
    (source / "f").write_text("1")
    parents.link(place, source)
    assert (place.is_symlink(), (place / "f").read_text()) == (True, "1")
    parents.link(place, source)  # what was a link may be linked anew


def test_a_dry_run_tells_all_numbers_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ours-tiny", "--steps", "7", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert msgspec.json.decode(told.out)["optim"]["steps"] == 7
    assert "models/student-tiny-start, models/teacher-tiny" in told.err
    assert list(tmp_path.iterdir()) == []


def test_every_recipe_is_listed_with_what_it_makes(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(recipes.shipped())
    assert all(len(line.split()) > 3 for line in lines)

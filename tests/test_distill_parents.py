"""Models that a recipe needs, and what ``harness distill`` tells of recipes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from distill_traces import recipe, record
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
    assert list(place.parent.iterdir()) == [place]


def test_a_link_that_is_made_anew_is_never_missing(tmp_path):
    """Several processes of one folder bring the same models."""
    source, place = tmp_path / "there", tmp_path / "models" / "x"
    source.mkdir()
    parents.link(place, source)
    missed = 0

    def again() -> None:
        for _ in range(300):
            parents.link(place, source)

    with ThreadPoolExecutor(2) as pool:
        making = [pool.submit(again) for _ in range(2)]
        while not all(one.done() for one in making):
            missed += not place.is_dir()
    assert [one.exception() for one in making] == [None, None]
    assert missed == 0


def test_parents_are_found_where_students_are_written(tmp_path, monkeypatch, capsys):
    """With HARNESS_MODELS one recipe of a chain finds what the one before it left there; what a
    folder has of its own comes first, what ships last."""
    models, here = tmp_path / "kept", tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HARNESS_MODELS", str(models))
    chain = recipes.load("teacher-tiny")
    with pytest.raises(ConfigError, match=rf"(?s)distill teacher-tiny-start\n.*\({models}\), too"):
        parents.bring(chain)
    (models / "teacher-tiny-start" / "training").mkdir(parents=True)
    with pytest.raises(ConfigError, match="needs models/teacher-tiny-start"):  # not finished
        parents.bring(chain)
    for name in ("teacher-tiny-start", "teacher-tiny"):
        (models / name).mkdir(exist_ok=True)
        (models / name / "model.safetensors").write_bytes(b"w")
    assert parents.bring(chain) == {"teacher-tiny-start": f"the one in {models}"}
    assert Path("models/teacher-tiny-start").resolve() == models / "teacher-tiny-start"
    assert parents.bring(chain) == {}
    told = parents.bring(recipes.load("ours-tiny"))
    assert Path("models/teacher-tiny").resolve() == models / "teacher-tiny"
    shipped = checkpoints.shipped()["student-tiny-start"]
    assert told["student-tiny-start"] == "the one that comes with the package"
    assert Path("models/student-tiny-start").resolve() == shipped


@pytest.mark.models
def test_a_chain_of_recipes_goes_through_the_models_folder(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    data = record(tmp_path / "episodes.jsonl", 6)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path / "kept"))
    first = recipe(tmp_path, steps=1).rename(tmp_path / "first.toml")
    first.write_text(first.read_text().replace('name = "tiny"', 'name = "first"'))
    second = recipe(tmp_path, steps=1, student="start = 'models/first'")
    for path in (first, second):
        assert cli.main([str(path), "--data", str(data), "--quiet"]) == 0
    assert (tmp_path / "kept" / "tiny" / "model.safetensors").is_file()


@pytest.mark.models
def test_a_student_is_never_trained_into_what_its_name_is_a_link_to(tmp_path, monkeypatch):
    """As a parent is linked that comes with the package: its weights are not ours to replace."""
    pytest.importorskip("torch")
    data = record(tmp_path / "episodes.jsonl", 6)
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path, steps=1)
    kept = tmp_path / "kept"
    assert cli.main([str(path), "--data", str(data), "--out", str(kept), "--quiet"]) == 0
    parents.link(Path("models/tiny"), kept)
    before = {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()}
    command = [str(path), "--data", str(data), "--quiet"]
    for more in ([], ["--fresh"], ["--stage", "prepare"]):
        with pytest.raises(ConfigError, match=r"models/tiny is a link to .*kept.*\n.*rm models/ti"):
            cli.main([*command, *more])
    with pytest.raises(ConfigError, match="models/tiny is a link to"):
        cli.main(["export", str(kept), "models/tiny"])
    assert {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()} == before
    Path("models/tiny").unlink()
    assert cli.main([*command, "--seed", "5"]) == 0
    assert Path("models/tiny/model.safetensors").is_file()
    assert {p: p.read_bytes() for p in kept.rglob("*") if p.is_file()} == before


def test_a_dry_run_tells_all_numbers_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ours-tiny", "--steps", "7", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert msgspec.json.decode(told.out)["optim"]["steps"] == 7
    assert "models/student-tiny-start, models/teacher-tiny" in told.err
    assert list(tmp_path.iterdir()) == []


def test_another_teacher_brings_its_tokenizer(tmp_path, capsys):
    """Where the recipe takes its teacher's; one from elsewhere stays."""
    given = ["--teacher", str(tmp_path), "--data", str(tmp_path), "--dry-run"]
    assert cli.main(["token-120m", *given]) == 0
    told = capsys.readouterr()
    recipe = msgspec.json.decode(told.out)
    assert recipe["teacher"]["checkpoint"] == recipe["tokenizer"]["start"] == str(tmp_path)
    assert "teacher-1.5b" not in told.err
    path = tmp_path / "own.toml"
    path.write_text("base = 'token-120m'\n[tokenizer]\nstart = 'elsewhere'\n")
    assert cli.main([str(path), *given]) == 0
    assert msgspec.json.decode(capsys.readouterr().out)["tokenizer"]["start"] == "elsewhere"


def test_every_recipe_is_listed_with_what_it_makes(capsys):
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(recipes.shipped())
    assert all(len(line.split()) > 3 for line in lines)

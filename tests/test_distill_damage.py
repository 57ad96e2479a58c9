"""Files of a training that are damaged are named, and made again where they can be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import record
from distill_training import CONTRASTIVE, Training, files, log, paired, torn
from harness_distillation import checkpoint, cli
from harness_distillation.dataset import Samples

from harness.errors import DataError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 40)


def edited(path: Path) -> None:
    """Other tokens in a file that loads."""
    samples = Samples.load(path)
    samples.ids[:50] = samples.ids[50:100]
    samples.save(path)


def moved(path: Path) -> None:
    """The same sequences said to be of other episodes: another hash of the file alone."""
    samples = Samples.load(path)
    samples._replace(episode=samples.episode[::-1].copy()).save(path)


DAMAGE = {
    "empty": ("samples.npz", lambda path: path.write_bytes(b"")),
    "torn": ("samples.npz", torn),
    "text": ("samples.npz", lambda path: path.write_text("no samples")),
    "gone": ("samples.npz", Path.unlink),
    "edited": ("samples.npz", edited),
    "moved": ("samples.npz", moved),
    "manifest": ("manifest.json", torn),
    "tokenizer": ("tokenizer/tokenizer.json", torn),
    "pairs": ("pairs.npz", torn),
}


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> tuple[Path, list[dict]]:
    """Episodes of won and lost tasks, and what training on them logs."""
    folder = tmp_path_factory.mktemp("untouched")
    data = paired(folder / "run" / "episodes.jsonl")
    return data, log(Training(folder, data, CONTRASTIVE, steps=2).go())


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_samples_are_made_again_in_a_line(tmp_path, untouched, how, capfd):
    data, wanted = untouched
    training = Training(tmp_path, data, CONTRASTIVE, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    before = files(place)
    name, damage = DAMAGE[how]
    damage(place / name)
    capfd.readouterr()
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    told = capfd.readouterr().err.splitlines()
    assert sum(f"{place / name} is " in line and "prepared again" in line for line in told) == 1
    assert files(place) == before
    assert "prepared already" not in "".join(told)
    # In the middle of a training too, which then goes on as if nothing had been.
    training.step()
    damage(place / name)
    assert log(training.go()) == wanted
    assert files(place) == before


def test_samples_that_cannot_be_made_again_alike_are_refused(tmp_path, run):
    """The traces are others by now: what is left of the samples stays for who can repair it."""
    data = tmp_path / "run" / "episodes.jsonl"
    record(data, 40)
    training = Training(tmp_path, data, steps=3)
    torn(training.step() / "training" / "data" / "samples.npz")
    before = files(training.out)
    record(data, 39)
    with pytest.raises(DataError, match="was trained with another set of samples"):
        training.go()
    assert files(training.out) == before
    record(data, 40)
    assert len(log(training.go())) == 3


def test_samples_prepared_before_files_were_hashed_go_on(tmp_path, run, capfd):
    training = Training(tmp_path, run, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    manifest = msgspec.json.decode((place / "manifest.json").read_bytes())
    assert set(manifest["files"]) == set(files(place)) - {"manifest.json"}
    del manifest["files"]
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    before = files(place)
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    assert "prepared already" in capfd.readouterr().err
    assert files(place) == before
    edited(place / "samples.npz")
    assert cli.main([*training.args, "--stage", "prepare"]) == 0
    assert "samples or tokenizer differ from its manifest: prepared" in capfd.readouterr().err
    assert Samples.load(place / "samples.npz").hash == manifest["samples"]


@pytest.mark.parametrize("how", ["empty", "torn", "gone", "manifest"])
def test_inspect_names_what_is_damaged(tmp_path, run, how):
    training = Training(tmp_path, run, steps=2)
    place = training.go("--stage", "prepare") / "training" / "data"
    name, damage = DAMAGE[how]
    damage(place / name)
    with pytest.raises(DataError, match=rf"(?s){place / name} is .*damaged.*made? again|makes it"):
        cli.main(["inspect", str(training.out)])


def test_manifests_of_checkpoints_and_caches_that_are_torn_are_named(tmp_path, run):
    training = Training(tmp_path, run, steps=3)
    last = checkpoint.latest(training.step() / "training" / "checkpoints")
    torn(last / "manifest.json")
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*\n  Delete .*step-0000001"):
        training.go()
    more = f"[objective]\nname = 'kd'\n[teacher]\ncheckpoint = '{last}'\nmin_mass = 0.0\n"
    student = Training(tmp_path / "student", run, more, steps=2)
    cache = student.go("--stage", "cache") / "training" / "cache" / "manifest.json"
    torn(cache)
    with pytest.raises(DataError, match=r"manifest\.json is damaged.*Delete the folder"):
        student.go()

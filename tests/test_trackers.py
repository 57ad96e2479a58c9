"""A training's log at an experiment tracker: the same numbers, read back from its own file."""

from __future__ import annotations

import struct

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("accelerate")
pytest.importorskip("tensorboardX")

from distill_traces import recipe, record
from harness_distillation import cli
from tensorboardX.proto.event_pb2 import Event

from harness.errors import ConfigError

pytestmark = pytest.mark.models


def scalars(folder):
    """{(name, step): value} of TensorBoard's event files: length, checksum, event, checksum."""
    found = {}
    for file in folder.rglob("events.out.tfevents*"):
        body = file.read_bytes()
        while body:
            (size,) = struct.unpack("<Q", body[:8])
            event = Event.FromString(body[12 : 12 + size])
            body = body[16 + size :]
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard_has_what_the_log_has(tmp_path):
    run = record(tmp_path / "run" / "episodes.jsonl", 40)
    out = tmp_path / "out"
    args = [str(recipe(tmp_path, steps=5)), "--data", str(run), "--out", str(out), "--quiet"]
    cli.main([*args, "--tracker", "tensorboard"])
    lines = [
        msgspec.json.decode(x) for x in (out / "training" / "log.jsonl").read_bytes().splitlines()
    ]
    assert len(lines) == 5
    found = scalars(out / "training")
    for line in lines:
        for name in ("loss", "reason", "act", "lr", "grad_norm", "tokens_per_s", "mfu"):
            assert found[name, line["step"]] == pytest.approx(line[name], rel=1e-6)
    for name, value in lines[-1]["heldout"].items():
        assert found[f"heldout/{name}", 5] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(("name", "told"), [("tensorbord", "tensorboard"), ("aim", "aim")])
def test_a_tracker_that_is_not_there_is_refused(tmp_path, name, told):
    run = record(tmp_path / "run" / "episodes.jsonl", 40)
    args = [str(recipe(tmp_path, steps=5)), "--data", str(run), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match=told):
        cli.main([*args, "--quiet", "--tracker", name])


def test_what_another_library_trains_is_not_promised_to_a_tracker(tmp_path):
    arm = "[objective]\nname = 'minillm'\n[teacher]\ncheckpoint = 'none'\nsignal = 'live'\n"
    args = [str(recipe(tmp_path, arm, steps=5)), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(ConfigError, match="which TRL trains"):
        cli.main([*args, "--tracker", "tensorboard"])

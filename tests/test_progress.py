"""What a training tells of itself on stderr: the line, and the bar of a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from distill_traces import recipe, record
from harness_distillation import cli
from harness_distillation.progress import Progress
from rich.console import Console

SPEED: dict[str, Any] = {"tokens_per_s": 1234, "mfu": 0.41}
FIRST = {"reason": 1.5, "act": 0.25, "observation": 2.0, **SPEED, "seconds": 60.0}
HELD = {"reason": 1.6, "act": 0.35, "observation": 2.1}


def shown(progress: Progress, step: int, line: dict[str, Any]) -> None:
    progress.shown = -1e9
    progress.step(step, line)


def test_the_line_tells_losses_speed_and_remaining_time(capsys):
    with Progress("tiny", total=100, done=0, classes=["reason", "act"]) as progress:
        shown(progress, 1, FIRST)
    losses = "reason 1.5000 act 0.2500"  # what weighs nothing is not optimised
    assert capsys.readouterr().err == f"tiny 1/100 {losses} 1234 tok/s MFU 41% left 99.0 min\n"


def test_a_heldout_loss_is_told_until_the_next_one(capsys):
    with Progress("tiny", total=100, done=0, classes=["act"]) as progress:
        shown(progress, 1, FIRST)
        progress.step(2, {**FIRST, "seconds": 120.0, "heldout": HELD})  # too soon for a line
        shown(progress, 3, {**FIRST, "seconds": 180.0})
        shown(progress, 4, {**FIRST, "seconds": 240.0, "heldout": {"act": 0.3}})
    first, second, third = capsys.readouterr().err.splitlines()
    assert "held out" not in first
    assert second.endswith("MFU 41%, held out at 2: act 0.3500 left 97.0 min")
    assert third.endswith("MFU 41%, held out at 4: act 0.3000 left 96.0 min")


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_has_all_of_it_beside_a_bar(width):
    """Steps of a minute have a remaining time, too, and a narrow terminal loses nothing."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    name = "teacher-tiny-start"
    with Progress(name, total=100, done=0, console=console) as progress:
        progress.step(1, FIRST)
        progress.step(2, {**FIRST, "seconds": 120.0, "heldout": HELD})
        progress.say("step 2: 1 of 3 dev episodes won")
    told = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())
    last = told[told.rindex(name) :]
    assert "2/100 left 98.0 min" in last
    for part in (
        "reason 1.5000", "act 0.2500", "observation 2.0000", "1234 tok/s", "MFU 41%",
        "held out at 2: reason 1.6000 act 0.3500 observation 2.1000",
    ):  # fmt: skip
        assert part in " ".join(last.split())
    assert "step 2: 1 of 3 dev episodes won" in told


def test_a_quiet_training_says_nothing(capsys):
    console = Console(file=io.StringIO(), force_terminal=True)
    with Progress("tiny", total=1, done=0, quiet=True, console=console) as progress:
        shown(progress, 1, FIRST)
        progress.say("no")
    assert (capsys.readouterr().err, console.file.getvalue()) == ("", "")


@pytest.mark.models
def test_a_training_on_observations_tells_their_loss(tmp_path: Path, capfd):
    pytest.importorskip("torch")
    data = record(tmp_path / "episodes.jsonl", 40)
    text = "[objective]\nname = 'sft'\nlambda_reason = 0\nlambda_act = 0\nobs_weight = 1\n"
    out = tmp_path / "out"
    args = [str(recipe(tmp_path, text, steps=1)), "--data", str(data), "--out", str(out)]
    assert cli.main(args) == 0
    line = msgspec.json.decode((out / "training" / "log.jsonl").read_bytes())
    told = capfd.readouterr().err
    assert {"reason", "act"} < line.keys()
    assert {"reason", "act"} < line["heldout"].keys()
    assert (
        f"tiny 1/1 observation {line['observation']:.4f} {line['tokens_per_s']} tok/s MFU "
        f"{line['mfu']:.0%}, held out at 1: observation {line['heldout']['observation']:.4f} left"
    ) in told

"""Play on a dev set while training: which checkpoint is the student, and when it stops."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import recipe, record
from harness_agents import checkpoints
from harness_distillation import cli, models
from harness_distillation import recipe as recipes
from harness_distillation.gate import LOG, Gate
from harness_distillation.recipe import Dev

import harness
from harness.config import AgentConfig
from harness.errors import ConfigError, DataError
from harness.runs import find_runs

pytestmark = pytest.mark.models

COLLECT = """
[[data.collect]]
agent = "expert"
env = "alfworld"
tasks = "builtin-train[:6]"
"""
DEV = """
[dev]
env = "alfworld"
tasks = "builtin-dev[:2]"
max_steps = 2
every = 2
patience = 2
"""


def gate(folder: Path, won: dict[int, int], step: int = 99, **dev) -> Gate:
    lines = [
        msgspec.json.encode({"step": s, "won": n, "n": 10, "errors": 0}) + b"\n"
        for s, n in won.items()
    ]
    (folder / LOG).write_bytes(b"".join(lines))
    return Gate(Dev(env="alfworld", tasks="builtin-dev", every=10, **dev), folder, step)


def test_the_earlier_of_equals_is_best(tmp_path):
    assert gate(tmp_path, {10: 3, 20: 5, 30: 5, 40: 4}).best.step == 20
    assert gate(tmp_path, {}).best is None


def test_patience_counts_plays_since_the_best(tmp_path):
    won = {10: 3, 20: 5, 30: 5, 40: 4}
    assert gate(tmp_path, won, patience=2).over
    assert not gate(tmp_path, won, patience=3).over
    assert not gate(tmp_path, {**won, 50: 6}, patience=2).over
    assert not gate(tmp_path, won).over
    assert not gate(tmp_path, {}, patience=1).over


def test_a_held_out_loss_that_falls_keeps_patience_where_it_has_a_say(tmp_path):
    def over(losses: list[float | None], **dev) -> bool:
        found = gate(tmp_path, {10: 3, 20: 5, 30: 5, 40: 4}, patience=2, **dev)
        found.played = [
            msgspec.structs.replace(p, loss=loss)
            for p, loss in zip(found.played, losses, strict=True)
        ]
        return found.over

    assert over([0.9, 0.8, 0.7, 0.6])
    assert not over([0.9, 0.8, 0.7, 0.6], heldout=True)
    assert not over([0.9, 0.8, 0.7, 0.7], heldout=True)  # one play since the lowest
    assert over([0.9, 0.8, 0.8, 0.8], heldout=True)
    assert over([0.9, 0.8, 0.85, 0.9], heldout=True)
    assert over([None, None, None, None], heldout=True)  # noted before losses were


def test_plays_of_steps_that_are_taken_again_are_forgotten(tmp_path):
    found = gate(tmp_path, {10: 3, 20: 5, 30: 9}, step=20)
    assert [p.step for p in found.played] == [10, 20]
    assert len((tmp_path / LOG).read_bytes().splitlines()) == 2
    assert [s for s in range(41) if found.due(s, 35)] == [30, 35, 40]


def test_a_gate_that_cannot_be_is_refused(tmp_path):
    path = recipe(tmp_path, DEV.replace("every = 2", "every = 0"))
    with pytest.raises(ConfigError, match=r"\[dev\] every"):
        recipes.load(str(path))
    for old, new in (("patience = 2", "heldout = true"), ("[dev]", "[data]\nheldout = 0\n[dev]")):
        text = (DEV + "heldout = true\n" if old == "[dev]" else DEV).replace(old, new)
        path = recipe(tmp_path)
        path.write_text(path.read_text().replace("[data]\nheldout = 0.1\n", "") + text)
        with pytest.raises(ConfigError, match=r"\[dev\] heldout .* needs patience"):
            recipes.load(str(path))
    path = recipe(tmp_path, DEV.replace("every = 2", "evry = 2"))
    with pytest.raises(ConfigError, match="Did you mean 'every'"):
        recipes.load(str(path))


def train(folder: Path, more: str, *args: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = recipe(folder, more, steps=12)
    text = path.read_text().replace("window = 512", "window = 1024")
    path.write_text(text.replace('name = "tiny"', 'name = "tiny"\nmax_new_tokens = 8'))
    out = folder / "out"
    assert cli.main([str(path), "--out", str(out), "--quiet", *args]) == 0
    return out


def losses(out: Path) -> list[float]:
    lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line)["loss"] for line in lines]


def test_training_stops_when_play_gets_no_better(tmp_path):
    """Nothing is won in two steps: the first play stays the best, and two more are waited for."""
    data = ("--data", str(record(tmp_path / "episodes.jsonl", 40)))
    plain = train(tmp_path / "plain", "", *data)
    for _ in range(3):  # stopped after every step, gone on with, and at last finished
        gated = train(tmp_path / "gated", DEV, *data, "--max-minutes", "0")
    gated = train(tmp_path / "gated", DEV, *data)
    assert losses(gated) == losses(plain)[:6]  # play leaves training as it is
    played = (gated / "training" / LOG).read_bytes().splitlines()
    assert [msgspec.json.decode(p)["step"] for p in played] == [2, 4, 6]
    assert msgspec.json.decode(played[0]) == {
        "step": 2, "won": 0, "n": 2, "errors": 0, "loss": None,
    }  # fmt: skip
    runs = [r for f in (gated / "training" / "dev").iterdir() for r in find_runs(f)]
    assert {(r.meta.kind, r.meta.status) for r in runs} == {("dev", "complete")}
    best = gated / "training" / "checkpoints" / "step-0000002"
    a, b = models.load(gated).state_dict(), models.load(best).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert train(tmp_path / "gated", DEV, *data) == gated  # finished: nothing is trained or played
    assert len(losses(gated)) == 6
    # The held-out loss falls all the while: with a say it lets training go on, in the same steps.
    patient = train(tmp_path / "patient", DEV + "heldout = true\n", *data)
    assert losses(patient) == losses(plain)
    played = (patient / "training" / LOG).read_bytes().splitlines()
    falling = [msgspec.json.decode(p)["loss"] for p in played]
    assert len(falling) == 6
    assert falling == sorted(falling, reverse=True)


def test_the_held_out_loss_of_a_play_weighs_classes_as_training_does(tmp_path):
    weighed = DEV + "heldout = true\n[objective]\nlambda_act = 0.25\n"
    out = train(
        tmp_path / "weighed", weighed.replace("patience = 2", "patience = 9"),
        "--data", str(record(tmp_path / "episodes.jsonl", 40)),
    )  # fmt: skip
    lines = map(msgspec.json.decode, (out / "training" / "log.jsonl").read_bytes().splitlines())
    told = {line["step"]: line["heldout"] for line in lines if "heldout" in line}
    lines = map(msgspec.json.decode, (out / "training" / LOG).read_bytes().splitlines())
    played = {line["step"]: line["loss"] for line in lines}
    assert played.keys() & told.keys() == {10, 12}
    for step in (10, 12):
        rest = {name: value for name, value in told[step].items() if name != "act"}
        assert rest.keys() >= {"reason"}
        weighed_sum = 0.25 * told[step]["act"] + sum(rest.values())
        assert played[step] == pytest.approx(weighed_sum, rel=1e-6)


def test_a_play_that_broke_chooses_nothing(tmp_path):
    """An agent without a prompt for this environment: every episode breaks, and breaks again."""
    (tmp_path / "webshop.txt").write_text("Shop: {instruction}\n")
    checkpoint = str(checkpoints.shipped()["token-tiny"])
    agent = AgentConfig("x", "react", options={"checkpoint": checkpoint, "prompt": str(tmp_path)})
    what = {"tasks": "builtin-dev[:2]", "max_steps": 2}
    root = tmp_path / "dev" / "step-0000002"
    harness.evaluate(agent, "alfworld", out=root, kind="dev", **what)
    found = Gate(Dev("alfworld", every=2, **what), tmp_path, 2)
    for _ in range(2):  # nothing is noted, so the same command plays it again
        with pytest.raises(DataError, match=r"2 of 2 dev episodes broke, twice: AgentError.* no t"):
            found.play(2, Path(checkpoint))
        assert not (tmp_path / LOG).exists()
        assert found.best is None
    (tmp_path / "alfworld.txt").write_text("Task: {instruction}\n")  # mended
    assert found.play(2, Path(checkpoint)).n == 2
    [run] = find_runs(root)
    assert (run.summary.n, run.summary.errors) == (2, 0)


def test_a_step_taken_again_to_other_weights_is_played_again(tmp_path):
    model = train(tmp_path, "", "--data", str(record(tmp_path / "episodes.jsonl", 40)))
    dev = Dev(env="alfworld", tasks="builtin-dev[:1]", every=10, max_steps=2)

    def play() -> list[str]:
        Gate(dev, tmp_path, 0).play(10, model)
        runs = find_runs(tmp_path / "dev" / "step-0000010")
        return [run.meta.policy["weights_sha256"] for run in runs]

    first = play()
    assert play() == first  # the same weights' play is kept
    changed = models.load(model)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    changed.save_pretrained(model)
    again = play()
    assert len(set(again)) == 2
    assert play() == again


def test_a_dev_set_that_is_trained_on_is_refused(tmp_path):
    with pytest.raises(DataError, match="builtin-train"):
        train(tmp_path / "leak", COLLECT + DEV.replace("builtin-dev[:2]", "builtin-train[2:4]"))

"""The last stage: what a finished student is measured on, once, by its very weights."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import recipe, record
from harness_agents import checkpoints
from harness_distillation import checkpoint, cli, recordings
from harness_distillation import recipe as recipes
from harness_distillation.recipe import Collect

import harness
from harness import registry
from harness.errors import ConfigError, DataError
from harness.recorder import EPISODES
from harness.runs import Run, find_runs, read_meta, write_meta
from harness.tasksets import Frozen, freeze

pytestmark = pytest.mark.models

EVALUATE = """
[[evaluate]]
env = "alfworld"
tasks = "builtin-dev[:3]"
max_steps = 2
[[evaluate]]
env = "hotpotqa"
tasks = "builtin-dev[:2]"
max_steps = 2
"""


@pytest.fixture
def traces(tmp_path) -> Path:
    return record(tmp_path / "episodes.jsonl", 40)


def distill(folder: Path, traces: Path, *words: str, more: str = EVALUATE) -> Path:
    path, out = recipe(folder, more, steps=2), folder / "models" / "tiny"
    results = str(folder / "results")
    words = ("--data", str(traces), "--out", str(out), "--results", results, "--quiet", *words)
    assert cli.main([str(path), *words]) == 0
    return out


def runs(folder: Path) -> list[Run]:
    return [run for run in find_runs(folder / "results") if run.meta.kind == "run"]


def test_a_finished_student_is_measured_once(tmp_path, traces):
    out = distill(tmp_path, traces)
    played = runs(tmp_path)
    scores = checkpoint.read_notes(out)["scores"]
    assert scores == {
        run.meta.task_set.name: {
            "task_set_hash": run.meta.task_set_hash, "n": run.summary.n,
            "success": run.summary.success, "errors": 0, "run": str(run.path),
        }
        for run in played
    }  # fmt: skip
    assert {(r.meta.task_set.env, r.meta.agent.name, r.summary.n) for r in played} == {
        ("alfworld", "tiny", 3), ("hotpotqa", "tiny", 2),
    }  # fmt: skip
    assert all(r.meta.agent == harness.registry.agent_config(str(out)) for r in played)

    def state() -> list[object]:
        files = sorted((tmp_path / "results").rglob("*.json*"))
        return [checkpoint.read_notes(out), *((f, f.stat().st_mtime_ns) for f in files)]

    before = state()
    distill(tmp_path, traces)
    distill(tmp_path, traces, "--stage", "train")  # plays nothing, and forgets nothing
    assert state() == before


def test_a_stopped_run_goes_on_and_other_weights_are_played_anew(tmp_path, traces):
    out = distill(tmp_path, traces)
    run = next(r for r in runs(tmp_path) if r.meta.task_set.env == "alfworld")
    lines = (run.path / EPISODES).read_bytes().splitlines(keepends=True)
    (run.path / EPISODES).write_bytes(lines[0])
    write_meta(run.path, msgspec.structs.replace(read_meta(run.path), status="running"))
    distill(tmp_path, traces)
    assert len(runs(tmp_path)) == 2
    again = (run.path / EPISODES).read_bytes().splitlines(keepends=True)
    assert again[0] == lines[0]
    assert (len(again), read_meta(run.path).status) == (3, "complete")
    before = {str(r.path) for r in runs(tmp_path)}
    distill(tmp_path, traces, "--fresh", "--seed", "5")
    assert len(runs(tmp_path)) == 4
    told = {score["run"] for score in checkpoint.read_notes(out)["scores"].values()}
    assert told == {str(r.path) for r in runs(tmp_path)} - before


def test_the_student_is_played_whatever_its_folder_is_called(tmp_path, traces, monkeypatch):
    """A bare name could be a registered agent's."""
    monkeypatch.chdir(tmp_path)
    path = recipe(tmp_path, EVALUATE, steps=2)
    command = [str(path), "--data", str(traces), "--out", "expert", "--quiet"]
    for _ in range(2):
        assert cli.main(command) == 0
        played = runs(tmp_path)
        weights = checkpoints.locate(str(tmp_path / "expert")).sha256()
        assert [run.meta.policy.get("weights_sha256") for run in played] == [weights] * 2


@pytest.mark.parametrize(
    "design", [{"seeds": (0, 1)}, {"attempts": 2}, {"error_rate": 0.5}], ids=lambda d: next(iter(d))
)
def test_a_run_of_another_design_is_no_score(tmp_path, traces, design):
    out = distill(tmp_path, traces, more="")
    other = harness.evaluate(
        str(out), "alfworld", tasks="builtin-dev[:3]", max_steps=2, out=tmp_path / "results",
        **design,
    )  # fmt: skip
    more = EVALUATE[: EVALUATE.index("[[evaluate]]", 2)]
    distill(tmp_path, traces, more=more)
    [score] = checkpoint.read_notes(out)["scores"].values()
    assert score["run"] != str(other.path)
    assert (score["n"], len(runs(tmp_path))) == (3, 2)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ('tasks = "builtin-dve"', ConfigError, "Did you mean 'alfworld/builtin-dev'"),
        ('tasks = "builtin-dev"\nenv_options = {colour = 1}', ConfigError, "Unknown option of env"),
        ('tasks = "seen-140"', DataError, "harness fetch alfworld"),
        ('tasks = "builtin-dev[:2]"\nmax_steps = 0', ConfigError, "max_steps = 0 is not in"),
    ],
)
def test_what_could_not_be_played_is_refused_before_training(
    tmp_path, traces, what, error, message
):
    more = f'[[evaluate]]\nenv = "alfworld"\n{what}\n'
    with pytest.raises(error, match=message):
        distill(tmp_path, traces, more=more)
    assert not (tmp_path / "models" / "tiny" / "training" / "checkpoints").exists()


def test_a_results_folder_that_cannot_be_is_refused_before_training(tmp_path, traces):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ConfigError, match=r"--results .*results: File exists\. Choose another"):
        distill(tmp_path, traces, more=EVALUATE)
    assert not (tmp_path / "models" / "tiny" / "training" / "checkpoints").exists()


def test_what_is_measured_on_is_not_trained_on(tmp_path):
    run = harness.evaluate("expert", "alfworld", tasks="builtin-train[:4]", out=tmp_path / "runs")
    more = '[[evaluate]]\nenv = "alfworld"\ntasks = "builtin-train[3:5]"\n'
    with pytest.raises(DataError, match=r"(?s)1 training groups .* out of \[\[evaluate\]\]"):
        distill(tmp_path, run.path, more=more)


@pytest.mark.parametrize("table", ["[[evaluate]]", "[dev]"])
def test_a_frozen_set_may_be_measured_on(tmp_path, traces, table):
    known, file = registry.task_set("alfworld", "builtin-train[:2]"), tmp_path / "mine.json"
    freeze(Frozen(known.hash, registry.env_class("alfworld").version, known), file)
    more = f'{table}\nenv = "alfworld"\ntasks = "{file}[:2]"\nmax_steps = 2\n'
    more += "every = 1\n" if table == "[dev]" else ""
    out = distill(tmp_path, traces, more=more)
    assert (out / "model.safetensors").is_file()
    run = harness.evaluate("expert", "alfworld", tasks="builtin-train[1:4]", out=tmp_path / "runs")
    with pytest.raises(DataError, match="1 training groups belong to") as error:
        distill(tmp_path, run.path, "--fresh", more=more)
    assert f"'{file}[:2]', which is held out" in str(error.value)
    assert f"out of {table}." in str(error.value)


def test_measuring_and_a_temperature_unsaid_decide_no_hash(tmp_path):
    bare = recipes.load(str(recipe(tmp_path, steps=2)))
    played = recipes.load(str(recipe(tmp_path, EVALUATE, steps=2)))
    assert played.evaluate
    assert recipes.recipe_hash(played) == recipes.recipe_hash(bare)
    what = Collect(agent="expert", env="alfworld")
    assert "temperature" not in what.plain()
    assert msgspec.structs.replace(what, temperature=0.0).plain() != what.plain()


def test_a_teacher_is_sampled_at_the_temperature_that_is_asked(tmp_path, traces):
    teacher = distill(tmp_path, traces, more="")
    what = Collect(
        agent=str(teacher), env="alfworld", tasks="builtin-train[:1]", attempts=3, max_steps=2
    )

    def said(temperature: float | None) -> set[str]:
        wanted = msgspec.structs.replace(what, temperature=temperature)
        [run] = recordings.collect_all([wanted], tmp_path / "traces", quiet=True)
        meta = read_meta(run)
        assert meta.agent.options.get("temperature") == temperature
        return {e.steps[0].decision.completion.text for e in Run(run).episodes()}

    assert len(said(None)) == 1
    assert len(said(1.0)) > 1


def test_attempts_of_a_greedy_model_are_refused():
    more = {"data": {"collect": [{"agent": "models/m", "env": "alfworld", "attempts": 2}]}}
    with pytest.raises(ConfigError, match="plays greedily"):
        recipes.load("seqkd-tiny", more)
    for kind in ({"temperature": 0.2}, {"error_rate": 0.1}):
        more["data"]["collect"][0] |= kind
        assert recipes.load("seqkd-tiny", more).data.collect[0].attempts == 2

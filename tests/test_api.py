"""Evaluate, resume, score: whole runs on disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from toy import Counter, Says, Slow

import harness
from harness import api, registry
from harness.config import AgentConfig
from harness.errors import ConfigError, DataError, TraceError
from harness.leaderboard import boards, markdown, to_json
from harness.metrics import summarise
from harness.runs import find_runs, read_meta, write_meta
from harness.types import Decision, Outcome

TASKS = "alfworld/builtin-dev[:12]"


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("results")
    for agent in ("oracle", "expert", "random"):
        harness.evaluate(agent, "alfworld", tasks=TASKS, out=out, workers=3)
    return out


def test_a_run_folder_tells_everything(results):
    run = harness.load(results / "alfworld" / "expert")
    meta = json.loads((run.path / "run.json").read_text())
    assert meta["status"] == "complete"
    assert meta["task_set_hash"] == run.meta.task_set.hash
    assert len(meta["task_set"]["tasks"]) == 12
    assert {"argv", "packages", "host", "started", "finished", "seeds"} <= set(meta)
    assert sorted(p.name for p in run.path.iterdir()) == [
        "episodes.jsonl", "metrics.jsonl", "run.json",
    ]  # fmt: skip
    assert len(list(run.episodes())) == len(run.metrics) == 12


def test_oracle_expert_and_random_rank_as_they_should(results):
    (board,) = boards(find_runs(results))
    assert board.task_set == "alfworld/builtin-dev[0:12]"
    rates = {row.agent: row.summary.success for row in board.rows}
    assert rates["oracle"] == 1.0
    assert rates["expert"] > 0.9
    assert rates["random"] < 0.3
    assert board.rows[-1].agent == "random"


def test_the_experts_overlap_with_itself_is_whole_and_the_randoms_is_not(results):
    rows = {r.agent: r.summary for r in boards(find_runs(results))[0].rows}
    assert rows["expert"].cot_overlap == pytest.approx(1.0)
    assert rows["random"].cot_overlap < 0.5
    references = [r for r in find_runs(results) if r.meta.kind == "reference"]
    assert len(references) == 1


def test_a_reference_agent_is_sampled_twice_and_gives_floor_and_ceiling(results):
    (row,) = [r for r in boards(find_runs(results))[0].rows if r.agent == "expert"]
    s = row.summary
    assert s.cot_precision == s.cot_f1 == 1.0
    assert s.cot_floor < s.cot_ceiling < s.cot_overlap
    assert s.cot_floor_f1 < s.cot_ceiling_f1 < s.cot_f1
    assert s.cot_ceiling_n == s.cot_overlap_n
    (reference,) = [r for r in find_runs(results) if r.meta.kind == "reference"]
    assert {e.attempt for e in reference.episodes()} == {0, 1}


def test_a_run_repeats_exactly(results, tmp_path):
    again = harness.evaluate("random", "alfworld", tasks=TASKS, out=tmp_path, workers=1)
    first = harness.load(results / "alfworld" / "random")

    def actions(run):
        return {e.key: [s.decision.action for s in e.steps] for e in run.episodes()}

    assert actions(again) == actions(first)


def test_metrics_are_rebuilt_by_one_call(results):
    run = harness.load(results / "alfworld" / "random")
    before = (run.path / "metrics.jsonl").read_bytes()
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(TraceError, match="--resume"):
        _ = harness.load(run.path).metrics
    api.score(run.path, results)
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_another_run_can_be_the_reference(results):
    run = harness.load(results / "alfworld" / "expert")
    rows = api.score(run.path, results, reference=str(results / "alfworld" / "oracle"))
    assert all(r.cot_overlap is None or 0 <= r.cot_overlap <= 1 for r in rows)
    api.score(run.path, results)


def test_a_reference_named_from_here_is_found_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    tasks = "builtin-dev[:3]"
    traces = harness.evaluate("expert", "alfworld", tasks=tasks, out="results")
    one, two = (
        harness.evaluate("oracle", "alfworld", tasks=tasks, out="results", reference=str(named))
        for named in (traces.path, traces.path.resolve())
    )
    traces_there = traces.path.resolve()
    assert (one.meta.reference, two.meta.reference) == (str(traces.path),) * 2
    outside = harness.evaluate(
        "oracle", "alfworld", tasks=tasks, out=tmp_path / "elsewhere", reference=str(traces.path)
    )
    assert outside.meta.reference == str(traces.path)  # the folder that holds both is this one
    paths = [run.path.resolve() for run in (one, two)]
    monkeypatch.chdir(tmp_path / "elsewhere")
    before = harness.load(paths[0]).meta.reference_hash
    assert api.score(paths[0], tmp_path / "results")
    assert harness.load(paths[0]).meta.reference_hash == before
    # So is a ceiling, which stays where the same reference is named from elsewhere.
    monkeypatch.chdir(tmp_path)
    other = harness.evaluate("expert", "alfworld", tasks=tasks, out="results", seeds=(3,))
    api.score(paths[0], "results", ceiling=str(other.path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    api.score(paths[0], tmp_path / "results", reference=str(traces_there))
    kept = harness.load(paths[0])
    assert kept.meta.ceiling == str(other.path)
    assert kept.summary.cot_ceiling_n > 0
    away = harness.evaluate("oracle", "alfworld", tasks=tasks, out="r", reference=str(traces_there))
    assert away.meta.reference == str(traces_there)
    # Another folder of the same traces says the same.
    copy = shutil.copytree(traces_there, tmp_path / "copy")
    api.score(paths[1], tmp_path / "results", reference=str(copy))
    assert "CoT overlap" in {part.name for part in harness.compare(*paths).others}


def test_a_recorded_run_can_be_the_ceiling(tmp_path):
    tasks = "alfworld/builtin-dev[:12]"
    once = harness.evaluate("expert", "alfworld", tasks=tasks, out=tmp_path)
    other = harness.evaluate("expert", "alfworld", tasks=tasks, out=tmp_path, seeds=(3,))
    oracle = harness.evaluate("oracle", "alfworld", tasks=tasks, out=tmp_path)
    api.score(oracle.path, tmp_path, reference=str(once.path))
    assert harness.load(oracle.path).summary.cot_ceiling is None
    api.score(oracle.path, tmp_path, ceiling=str(other.path))
    scored = harness.load(oracle.path)
    assert (scored.meta.reference, scored.meta.ceiling) == (str(once.path), str(other.path))
    # The same reference under another name is the same: the ceiling stays.
    api.score(oracle.path, tmp_path, reference=str(once.path.parent / "." / once.path.name))
    assert harness.load(oracle.path).meta.ceiling == str(other.path)
    assert 0.5 < scored.summary.cot_ceiling < 1.0
    assert scored.summary.cot_overlap == 0.0
    before = (oracle.path / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="no further sampling of a reference"):
        api.score(oracle.path, tmp_path, ceiling=str(once.path))
    with pytest.raises(ConfigError, match="is a run of 'oracle', but the reference is of 'expert'"):
        api.score(oracle.path, tmp_path, ceiling=str(oracle.path))
    assert (oracle.path / "metrics.jsonl").read_bytes() == before
    # Another reference has another ceiling.
    api.score(oracle.path, tmp_path, reference=str(other.path))
    assert harness.load(oracle.path).meta.ceiling is None


def test_different_sets_never_meet_in_one_table(results, tmp_path):
    harness.evaluate("random", "alfworld", tasks="builtin-dev[:3]", out=tmp_path)
    harness.evaluate("random", "alfworld", tasks="builtin-dev[:3]", out=tmp_path, max_steps=7)
    found = boards(find_runs(tmp_path))
    assert len(found) == 2
    assert {b.max_steps for b in found} == {7, 40}
    assert len({b.task_set_hash for b in found}) == 2


def test_leaderboards_in_every_form(results):
    found = boards(find_runs(results))
    assert "| oracle | 100.0 % |" in markdown(found)
    assert "| F1 by chance - ceiling |" in markdown(found)
    decoded = json.loads(to_json(found))
    assert {r["agent"] for r in decoded[0]["rows"]} == {"oracle", "expert", "random"}


def test_seeds_and_attempts_multiply(tmp_path):
    run = harness.evaluate(
        "random", "alfworld", tasks="builtin-dev[:2]", out=tmp_path, seeds=(0, 5), attempts=2
    )
    keys = {e.key for e in run.episodes()}
    assert len(keys) == run.meta.n_episodes == 8
    assert {k[1:] for k in keys} == {(0, 0), (0, 1), (5, 0), (5, 1)}
    plays = {tuple(s.decision.action for s in e.steps) for e in run.episodes()}
    assert len(plays) == 8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: api.plan("expret", "alfworld"), "Did you mean 'expert'"),
        (lambda: api.plan("expert", "alfwrold"), "Did you mean 'alfworld'"),
        (lambda: api.plan("expert", "alfworld", tasks="builtin-vaild"), "builtin-valid"),
        (lambda: api.plan("expert", "alfworld", env_options={"engin": 1}), "'engine'"),
        (lambda: api.plan("expert", "alfworld", max_steps=0), "at least 1"),
        (lambda: api.plan("expert", "alfworld", attempts=0), "at least one attempt"),
        (lambda: api.plan("expert", "alfworld", seeds=(1, 1)), "no seed twice"),
        (lambda: api.plan("expert", "alfworld", seeds=2), r"seeds=range\(2\)"),
        (lambda: api.plan("expert", "alfworld", error_rate=1.5), "probability"),
        (lambda: harness.load("no/such/run"), "not a run folder"),
        (lambda: harness.make("alfworld", engin="fast"), "'engine'"),
        (lambda: harness.make("alfwrold"), "Did you mean 'alfworld'"),
        (lambda: harness.compare("a", "b"), "'a' is not a run folder"),
        (lambda: harness.compare([], []), "A side is a run"),
        (lambda: harness.compare(1, 2), "A side is a run"),
    ],
)
def test_wrong_names_get_the_nearest_right_ones(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_an_agents_file_may_begin_with_a_mark_of_utf_8(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('policy = "random"\n', encoding="utf-8-sig")
    assert api.plan(str(file), "alfworld", tasks="builtin-dev[:2]").agent.name == "mine"


def test_make_takes_the_environments_keywords_and_gymnasiums():
    env = harness.make("alfworld", engine="fast", reveal=True, max_episode_steps=3)
    assert env.spec.max_episode_steps == 3
    assert env.reset(seed=1)[1]["solution"]


def test_runs_are_compared_by_their_folders(results):
    runs = [harness.load(results / "alfworld" / name) for name in ("expert", "random")]
    found = harness.compare(runs[0], runs[1], draws=200)
    assert harness.compare(str(runs[0].path), [runs[1].path], draws=200) == found


def test_other_data_than_the_sets_are_refused(tmp_path):
    task_set = api.plan("expert", "alfworld", tasks="builtin-dev[:2]").task_set
    import msgspec

    wrong = msgspec.structs.replace(task_set, content=("0" * 16,) * 2)
    with pytest.raises(DataError, match="harness fetch alfworld"):
        harness.evaluate("expert", "alfworld", tasks=wrong, out=tmp_path)
    assert not list(tmp_path.rglob("run.json"))


def test_errors_stand_beside_the_score_and_can_be_played_again(tmp_path):
    class Sometimes:
        def __init__(self) -> None:
            self.expert = registry.build_policy(registry.agent_config("expert"))
            self.broken = True

        def act(self, instruction, history, observation, info):
            if self.broken and info["task_id"].endswith(("1", "3", "5")):
                raise ConnectionError("the line is dead")
            return self.expert.act(instruction, history, observation, info)

    policy = Sometimes()
    run = harness.evaluate(policy, "alfworld", tasks=TASKS, out=tmp_path)
    broken = sum(e.outcome is Outcome.ERROR for e in run.episodes())
    assert 0 < broken < 12
    assert (run.summary.errors, run.summary.n) == (broken, 12 - broken)
    policy.broken = False
    again = harness.resume(run.path, retry_errors=True, policy=policy)
    assert (again.summary.errors, again.summary.n) == (0, 12)
    assert len((run.path / "episodes.errors.jsonl").read_text().splitlines()) == broken


_SLOW = """
import sys, harness
from toy import Slow
harness.evaluate(Slow(0.004), "alfworld", tasks=sys.argv[1], out=sys.argv[2], name="slow",
                 kind=sys.argv[3], error_rate=float(sys.argv[4]), workers=2)
"""


@pytest.mark.parametrize(("kind", "rate"), [("run", "0"), ("collect", "0.2")])
def test_killed_and_resumed_each_task_is_there_exactly_once(tmp_path, kind, rate):
    tasks = "alfworld/builtin-dev[:40]"
    whole = harness.evaluate(
        "expert", "alfworld", tasks=tasks, out=tmp_path / "whole", kind=kind, error_rate=float(rate)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW, tasks, tmp_path / "cut", kind, rate],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    try:
        file = _wait_for(tmp_path / "cut", lines=5)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with open(file, "ab") as torn:
        torn.write(b'{"task":{"env":"alfw')
    before = len(file.read_bytes().splitlines()) - 1
    assert 5 <= before < 40
    assert read_meta(file.parent).status == "running"
    run = harness.resume(file.parent, policy=Slow(0))
    assert run.meta.status == "complete"
    plays = {e.key: [s.decision for s in e.steps] for e in run.episodes()}
    assert len(list(run.episodes())) == len(plays) == 40
    assert plays == {e.key: [s.decision for s in e.steps] for e in whole.episodes()}
    assert summarise(run.metrics).successes == whole.summary.successes


def _wait_for(folder: Path, lines: int) -> Path:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for file in folder.glob("alfworld/slow/*/episodes.jsonl"):
            if file.read_bytes().count(b"\n") >= lines:
                return file
        time.sleep(0.02)
    raise AssertionError("no episodes appeared")


# Resumed with another policy -------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path) -> Path:
    """A copy of a language model's folder, for tests to change."""
    pytest.importorskip("torch")
    from harness_agents.checkpoints import locate

    return shutil.copytree(locate("package:ours-tiny").folder, tmp_path / "weights")


def change(weights: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = weights / "model.safetensors"
    found = load_file(file)
    save_file({k: v + 0.01 for k, v in found.items()}, file, metadata={"format": "pt"})


def stopped(agent: object, out: Path, **options) -> Path:
    """The folder of a run of four short episodes that was stopped after two."""
    count = 0

    def stop(*_) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        harness.evaluate(
            agent, "alfworld", tasks="builtin-dev[:4]", out=out, max_steps=2, workers=1,
            kind="collect", on_episode=stop, **options,
        )  # fmt: skip
    (file,) = out.glob("*/*/*/run.json")
    return file.parent


@pytest.mark.models
def test_a_run_goes_on_with_the_weights_it_was_begun_with_and_no_others(tmp_path, weights):
    folder = stopped(str(weights), tmp_path / "out")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    kept = (weights / "model.safetensors").read_bytes()
    change(weights)
    with pytest.raises(ConfigError, match=r"weights_sha256 \(\w{16}, now \w{16}\)\.\n  Put back"):
        harness.resume(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    (weights / "model.safetensors").write_bytes(kept)
    notes = json.loads((weights / "harness.json").read_text())
    (weights / "harness.json").write_text(json.dumps({**notes, "max_new_tokens": 7}))
    with pytest.raises(ConfigError, match=r"decoding\.max_new_tokens \(96, now 7\)"):
        harness.resume(folder, retry_errors=True)
    (weights / "harness.json").write_text(json.dumps(notes))
    # The same model elsewhere, in batches of another size, is the same policy.
    moved = weights.rename(tmp_path / "moved")
    meta = read_meta(folder)
    options = {"checkpoint": str(moved), "batch_size": 3}
    write_meta(folder, replace(meta, agent=replace(meta.agent, options=options)))
    run = harness.resume(folder)
    assert (run.meta.status, len(run.metrics)) == ("complete", 4)
    assert run.meta.policy["weights_sha256"] == meta.policy["weights_sha256"]


@pytest.mark.models
def test_the_weights_that_slips_come_from_are_noted_and_compared(tmp_path, weights):
    slips = {"error_rate": 0.5, "errors_from": str(weights)}
    folder = stopped("expert", tmp_path / "out", **slips)
    change(weights)
    with pytest.raises(ConfigError, match=r"errors_from\.weights_sha256"):
        harness.resume(folder)
    # Runs of before it was noted go on.
    meta = read_meta(folder)
    said = {k: v for k, v in meta.policy.items() if k != "errors_from"}
    write_meta(folder, replace(meta, policy=said))
    assert harness.resume(folder).meta.status == "complete"


@pytest.mark.models
def test_where_every_episode_broke_another_model_may_play_them_again(tmp_path, weights):
    config = registry.agent_config(str(weights))

    class Breaks:
        def __init__(self, after: int) -> None:
            self.policy, self.after = registry.build_policy(config), after

        def act(self, instruction, history, observation, info):
            self.after -= 1
            if self.after < 0:
                raise ConnectionError("the line is dead")
            return self.policy.act(instruction, history, observation, info)

        def describe(self):
            return self.policy.describe()

    def run(after: int) -> harness.Run:
        return harness.evaluate(
            config, "alfworld", tasks="builtin-dev[:3]", out=tmp_path / "out", max_steps=2,
            workers=1, kind="collect", policy=Breaks(after),
        )  # fmt: skip

    none, some = run(0), run(2)
    assert (none.summary.errors, some.summary.errors) == (3, 2)
    before = (some.path / "episodes.jsonl").read_bytes()
    change(weights)
    with pytest.raises(ConfigError, match="weights_sha256"):
        # Their records stay, and were made by the other model.
        harness.resume(none.path, policy=Breaks(9))
    assert harness.resume(none.path, retry_errors=True).summary.errors == 0
    with pytest.raises(ConfigError, match="weights_sha256"):
        harness.resume(some.path, retry_errors=True, policy=Breaks(9))
    assert (some.path / "episodes.jsonl").read_bytes() == before
    assert not (some.path / "episodes.errors.jsonl").exists()


# Policies that are objects ---------------------------------------------------------------------


def test_an_object_plays_under_a_name_of_its_own_and_run_json_says_so(tmp_path):
    def run(*words, **options):
        return harness.evaluate(
            *words, "alfworld", tasks="builtin-dev[:2]", max_steps=2, out=tmp_path, kind="collect",
            **options,
        )  # fmt: skip

    class Named(Says):
        name, workers = "looks", 3

        def describe(self):
            return {"looks": "around"}

    looks = Decision("", "look")
    assert run(Says(looks)).meta.agent.name == "says"
    assert run(Says(looks), name="other").meta.agent.name == "other"
    assert run("third", policy=Says(looks)).meta.agent.name == "third"
    meta = run(Named(looks)).meta
    assert (meta.agent.name, meta.agent.role, meta.workers) == ("looks", "object", 3)
    assert meta.policy == {"object": f"{__name__}:{Named.__qualname__}", "looks": "around"}
    # Beside a config it stands for the config's policy, and run.json tells it all the same.
    config = AgentConfig("ours", "expert")
    assert run(config, policy=Says(looks)).meta.policy == {"object": "toy:Says"}


@pytest.mark.parametrize(
    ("agent", "options", "words"),
    [
        ("random", {"policy": Counter()}, "'random' is a registered agent"),
        (AgentConfig("random", "random"), {"policy": Counter()}, "is a registered agent"),
        (Counter(), {"name": "expert"}, "'expert' is a registered agent"),
        (Counter(), {"policy": Counter()}, "Two policies"),
        (Counter(), {"decode": "admissible"}, "has its own"),
        (Counter, {}, r"is a class: give an object of it, Counter\("),
        (7, {}, "object with act"),
        ("mine", {"policy": 7}, "object with act"),
        ("random", {"name": "mine"}, "an agent has its own name"),
    ],
)
def test_objects_that_would_pass_for_another_or_cannot_play_are_refused(
    agent, options, words, tmp_path
):
    with pytest.raises(ConfigError, match=words):
        harness.evaluate(agent, "alfworld", tasks=TASKS, out=tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_run_of_an_object_goes_on_with_one_of_its_class_alone(tmp_path):
    folder = stopped(Slow(0), tmp_path / "out")
    with pytest.raises(ConfigError, match=r"object of toy:Slow.*\n?.*policy="):
        harness.resume(folder)
    with pytest.raises(ConfigError, match="played by toy:Slow, not by toy:Counter"):
        harness.resume(folder, policy=Counter())
    assert harness.resume(folder, policy=Slow(0)).meta.status == "complete"
    registered = stopped("random", tmp_path / "random")
    with pytest.raises(ConfigError, match="played by the policy of its own config"):
        harness.resume(registered, policy=Counter())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_results_are_refused_before_anything_is_played(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="--out"):
        harness.evaluate("oracle", "alfworld", tasks=TASKS, out=tmp_path)

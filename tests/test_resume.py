"""Runs that go on, are written by several processes, or ran out of space: nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from toy import Says

import harness
from harness import api, references
from harness.errors import ConfigError, EpisodeError, TraceError
from harness.export import export
from harness.recorder import EPISODES, Recorder
from harness.runs import META, Run, read_meta, write_meta
from harness.types import Decision, Outcome

LOOKS = Decision("I look.", "look")


class Breaks(Says):
    """Says one thing; while ``broken``, not in every task."""

    broken = True

    def act(self, instruction, history, observation, info):
        if self.broken and info["task_id"].endswith(("1", "3", "5")):
            raise ConnectionError("the line is dead")
        return self.decision


def short(agent: object, out: Path, **options) -> Run:
    """A run of two tasks, two steps each."""
    options = {"tasks": "builtin-dev[:2]", "max_steps": 2, "kind": "collect", **options}
    return harness.evaluate(agent, "alfworld", out=out, **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture
def broken(tmp_path) -> tuple[Run, Breaks]:
    """A run of which an episode broke, and its policy, mended."""
    policy = Breaks(LOOKS)
    run = short(policy, tmp_path / "broken", tasks="builtin-dev[:12]")
    assert 0 < run.summary.errors < 12
    policy.broken = False
    return run, policy


def test_a_complete_run_whose_episodes_were_changed_goes_on_in_no_way(broken):
    """Least of all by playing those that broke, which would hash the changed ones anew."""
    run, policy = broken
    file = run.path / EPISODES
    file.write_bytes(file.read_bytes().replace(b"I look.", b"I stare", 1))
    before = contents(run.path)
    with pytest.raises(TraceError, match="was changed after it was recorded"):
        harness.resume(run.path, retry_errors=True, policy=policy)
    assert contents(run.path) == before


def test_an_episode_of_another_run_is_never_scored(broken):
    run, _ = broken
    write_meta(run.path, replace(run.meta, status="running", episodes_hash=None))
    with Recorder(run.path) as recorder:
        recorder.write(replace(next(run.episodes()), attempt=7))
    before = contents(run.path)
    with pytest.raises(TraceError, match=r"7\) is not of this run"):
        api.score(run.path, api.results_folder(run))
    assert contents(run.path) == before


# Broken episodes are set aside -------------------------------------------------------------------


def test_a_run_that_is_being_written_keeps_its_broken_episodes(broken):
    run, policy = broken
    write_meta(run.path, replace(run.meta, status="running"))
    with Recorder(run.path) as live:
        before = contents(run.path)
        with pytest.raises(ConfigError, match="being written by another process"):
            harness.resume(run.path, retry_errors=True, policy=policy)
        assert contents(run.path) == before
        live.write(replace(next(run.episodes()), attempt=7))
    assert [e.attempt for e in run.episodes()].count(7) == 1


def test_a_run_that_is_being_written_is_not_scored_from_outside(broken):
    run, _ = broken
    before = contents(run.path)
    with Recorder(run.path), pytest.raises(ConfigError, match="being written by another process"):
        api.score(run.path, api.results_folder(run))
    assert contents(run.path) == before


def test_a_file_that_its_writer_replaced_is_not_written(broken):
    run, _ = broken
    with Recorder(run.path) as recorder:
        old = (run.path / EPISODES).stat().st_ino
        recorder.set_errors_aside()
        assert (run.path / EPISODES).stat().st_ino != old
        assert all(e.outcome is not Outcome.ERROR for e in run.episodes())
        assert recorder.keys == {e.key for e in run.episodes()}
        with pytest.raises(ConfigError, match="being written by another process"):
            Recorder(run.path)


def test_who_waits_for_a_writer_waits_on_when_that_replaces_the_file(broken):
    run, _ = broken
    next_one: list[Recorder] = []
    waits = threading.Thread(target=lambda: next_one.append(Recorder(run.path, wait=True)))
    with Recorder(run.path) as recorder:
        waits.start()
        waits.join(0.2)
        recorder.set_errors_aside()
        waits.join(0.2)
        assert not next_one
    waits.join(20)
    with next_one[0] as recorder:
        assert recorder.keys == {e.key for e in run.episodes()}


def test_a_run_killed_after_its_broken_episodes_were_set_aside_goes_on(broken):
    run, policy = broken

    class Killed(Breaks):
        @property
        def trained_on(self):
            raise KeyboardInterrupt

    Killed.__module__, Killed.__qualname__ = Breaks.__module__, Breaks.__qualname__
    killed = Killed(LOOKS)
    with pytest.raises(KeyboardInterrupt):
        harness.resume(run.path, retry_errors=True, policy=killed)
    assert (run.path / "episodes.errors.jsonl").is_file()
    again = harness.resume(run.path, policy=policy)
    assert (again.meta.status, again.summary.errors, again.summary.n) == ("complete", 0, 12)


# Complete runs without their episodes ------------------------------------------------------------


def test_a_published_run_is_not_played_again(tmp_path):
    run = Run(export(short("random", tmp_path / "a"), tmp_path / "b"))
    before = contents(run.path)
    for options in ({}, {"retry_errors": True}):
        with pytest.raises(ConfigError, match=r"(?s)without its episodes.*harness restore.*new"):
            harness.resume(run.path, **options)
    with pytest.raises(TraceError, match=r"holds no episodes\.jsonl.*harness restore"):
        api.score(run.path, tmp_path / "b")
    assert contents(run.path) == before


@pytest.mark.models
def test_a_published_run_is_played_again_by_its_own_weights_alone(tmp_path):
    pytest.importorskip("torch")
    whole = short("ours-tiny", tmp_path / "a")
    run = Run(export(whole, tmp_path / "b"))
    said = run.meta.policy
    write_meta(run.path, replace(run.meta, policy={**said, "weights_sha256": "0" * 64}))
    with pytest.raises(ConfigError, match=r"another policy.*weights_sha256"):
        harness.resume(run.path)
    write_meta(run.path, replace(run.meta, policy=said))
    again = harness.resume(run.path)
    assert again.meta.status == "complete"
    assert {e.key for e in again.episodes()} == {e.key for e in whole.episodes()}


# The shared reference traces ---------------------------------------------------------------------


def reference_of(run: Run, out: Path) -> Path:
    return references.reference_folder(run.meta, out, "expert")


def test_reference_traces_killed_before_their_description_are_played(tmp_path):
    meta = api.plan("random", "alfworld", tasks="builtin-dev[:2]", max_steps=2)
    folder = references.reference_folder(meta, tmp_path, "expert")
    Recorder(folder).close()
    assert not (folder / META).exists()
    run = short("random", tmp_path, kind="run")
    assert (run.meta.status, read_meta(folder).status) == ("complete", "complete")


def test_published_reference_traces_are_not_taken_for_empty_ones(tmp_path):
    run = short("random", tmp_path, kind="run")
    folder = reference_of(run, tmp_path)
    (folder / EPISODES).write_bytes(b"")
    for _ in range(2):
        with pytest.raises(ConfigError, match="without its episodes"):
            api.score(run.path, tmp_path)


def test_a_run_waits_for_reference_traces_that_another_process_plays(tmp_path):
    meta = api.plan("random", "alfworld", tasks="builtin-dev[:2]", max_steps=2)
    folder = references.reference_folder(meta, tmp_path, "expert")
    found: list[Run] = []
    threads = [
        threading.Thread(target=lambda: found.append(short("random", tmp_path, kind="run")))
        for _ in range(2)
    ]

    def recorded() -> int:
        files = tmp_path.glob("alfworld/random/*/episodes.jsonl")
        return sum(file.read_bytes().count(b"\n") for file in files)

    with Recorder(folder):
        for number, thread in enumerate(threads, 1):
            thread.start()
            deadline = time.monotonic() + 30
            while recorded() < 2 * number and time.monotonic() < deadline:
                time.sleep(0.02)
        time.sleep(0.2)
        assert found == []
        assert all(thread.is_alive() for thread in threads)
    for thread in threads:
        thread.join(30)
    assert [run.meta.status for run in found] == ["complete"] * 2
    assert (read_meta(folder).status, len(list(Run(folder).episodes()))) == ("complete", 4)


def test_reference_traces_of_another_version_are_left_alone(tmp_path):
    run = short("random", tmp_path, kind="run")
    old = reference_of(run, tmp_path)
    write_meta(old, replace(read_meta(old), env_version="0"))
    before = contents(old)
    again = short("random", tmp_path, kind="run")
    new = reference_of(again, tmp_path)
    assert (new.name, read_meta(new).env_version) == (
        f"{old.name}-{run.meta.env_version}", run.meta.env_version,
    )  # fmt: skip
    assert contents(old) == before
    # What was played in the old version is measured against traces of it, or not at all.
    write_meta(run.path, replace(run.meta, env_version="0"))
    assert reference_of(Run(run.path), tmp_path) == old
    shutil.rmtree(old)
    with pytest.raises(ConfigError, match=r"(?s)version 0 of 'alfworld'.*--reference"):
        api.score(run.path, tmp_path)


def test_a_run_without_episodes_is_no_reference(tmp_path):
    told = export(short("expert", tmp_path / "played"), tmp_path / "published")
    with pytest.raises(TraceError, match="holds no episodes"):
        short("random", tmp_path, kind="run", reference=str(told))


def test_a_run_does_not_go_on_in_another_version_of_its_environment(tmp_path):
    run = short("random", tmp_path)
    write_meta(run.path, replace(run.meta, env_version="0", status="running", episodes_hash=None))
    before = contents(run.path)
    with pytest.raises(ConfigError, match=r"begun in version 0 of 'alfworld', .* is installed"):
        harness.resume(run.path)
    assert contents(run.path) == before


def test_of_ten_tasks_every_one_is_tried_and_of_more_none_after_ten_that_broke(tmp_path):
    class Dead(Says):
        def act(self, instruction, history, observation):
            raise ConnectionError("the line is dead")

    assert short(Dead(LOOKS), tmp_path, tasks="builtin-dev[:10]").summary.errors == 10
    with pytest.raises(EpisodeError, match="first 10 episodes all broke"):
        short(Dead(LOOKS), tmp_path, tasks="builtin-dev[:11]", workers=1)


# Slips of an agent that knows the solution -------------------------------------------------------


def test_slips_come_from_an_agent_that_is_given_the_solution(tmp_path):
    run = short("random", tmp_path, max_steps=4, error_rate=0.5, errors_from="oracle")
    assert run.summary.errors == 0
    slips = {s.decision.action for e in run.episodes() for s in e.steps if s.decision.injected}
    wins = short("oracle", tmp_path, max_steps=None).episodes()
    assert slips
    assert slips <= {s.decision.action for e in wins for s in e.steps}


# No space left -----------------------------------------------------------------------------------

_FULL = """
import resource, sys, harness
from toy import Says
from harness.types import Decision

def full(*_):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))

harness.evaluate(Says(Decision("", "look")), "alfworld", tasks="builtin-dev[:3]", max_steps=2,
                 kind="collect", workers=1, out=sys.argv[1], on_episode=full)
"""


def test_a_full_disk_is_told_with_its_remedy(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", _FULL, tmp_path], capture_output=True, text=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert found.stderr.splitlines()[-1].startswith("harness.errors.ConfigError: ")
    assert "Free some space and continue with `harness run --resume" in found.stderr
    (run,) = (Run(file.parent) for file in tmp_path.glob(f"*/*/*/{META}"))
    again = harness.resume(run.path, policy=Says(LOOKS))
    assert (again.meta.status, again.summary.n) == ("complete", 3)

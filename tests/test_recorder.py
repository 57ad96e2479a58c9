"""Records survive whatever happens to the process."""

from __future__ import annotations

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import ConfigError, TraceError
from harness.recorder import EPISODES, ERRORS, Recorder, read_episodes
from harness.types import Decision, Episode, Fault, Outcome, Step, Task


def episode(number: int, text: str = "look") -> Episode:
    steps = (Step(text, Decision(text, text)),)
    task = Task("e", "v", f"v/{number}")
    return Episode(task, "a", "do", steps, text, True, 1.0, Outcome.DONE)


@given(st.text())
def test_written_is_read(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("run")
    with Recorder(folder) as recorder:
        recorder.write(episode(1, text.encode("utf-8", "replace").decode()))
    (found,) = read_episodes(folder / EPISODES)
    assert found.key == ("v/1", 0, 0)


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_torn_last_line_is_cut_and_its_episode_can_be_written_again(tmp_path, cut):
    with Recorder(tmp_path) as recorder:
        for number in range(3):
            recorder.write(episode(number))
    file = tmp_path / EPISODES
    os.truncate(file, file.stat().st_size - cut)
    assert [e.task.id for e in read_episodes(file)] == ["v/0", "v/1"]
    with Recorder(tmp_path) as recorder:
        assert recorder.keys == {("v/0", 0, 0), ("v/1", 0, 0)}
        recorder.write(episode(2))
    assert [e.task.id for e in read_episodes(file)] == ["v/0", "v/1", "v/2"]


def test_an_episode_is_recorded_once(tmp_path):
    with Recorder(tmp_path) as recorder:
        recorder.write(episode(1))
        with pytest.raises(TraceError, match="already recorded"):
            recorder.write(episode(1))


def test_a_second_writer_is_refused(tmp_path):
    with Recorder(tmp_path), pytest.raises(ConfigError, match="another process"):
        Recorder(tmp_path)


def test_errors_set_aside_survive_a_disk_that_was_full(tmp_path):
    """It stopped between writing them aside and cutting them here, in the middle of a line."""
    broken = [
        msgspec.structs.replace(
            episode(n), success=False, score=0.0, outcome=Outcome.ERROR, error=Fault("env", "x")
        )
        for n in range(3)
    ]
    with Recorder(tmp_path) as recorder:
        for one in (*broken, episode(3)):
            recorder.write(one)
    lines = (tmp_path / EPISODES).read_bytes().splitlines(keepends=True)
    (tmp_path / ERRORS).write_bytes(lines[0] + lines[1][:-20])
    with Recorder(tmp_path) as recorder:
        recorder.set_errors_aside()
        assert recorder.keys == {("v/3", 0, 0)}
    assert [e.task.id for e in read_episodes(tmp_path / ERRORS)] == ["v/0", "v/1", "v/2"]


def test_a_damaged_file_is_left_unlocked_whoever_keeps_the_error(tmp_path):
    with Recorder(tmp_path) as recorder:
        for number in range(2):
            recorder.write(episode(number))
    whole = (tmp_path / EPISODES).read_bytes()
    (tmp_path / EPISODES).write_bytes(b"{}\n" + whole)
    with pytest.raises(TraceError) as kept:
        Recorder(tmp_path)
    (tmp_path / EPISODES).write_bytes(whole)
    with Recorder(tmp_path) as recorder:
        assert len(recorder.keys) == 2
    assert kept.value.__traceback__ is not None


def test_damage_in_the_middle_names_line_and_field(tmp_path):
    with Recorder(tmp_path) as recorder:
        for number in range(3):
            recorder.write(episode(number))
    file = tmp_path / EPISODES
    lines = file.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"success":true', b'"success":"maybe"')
    file.write_bytes(b"".join(lines))
    with pytest.raises(TraceError, match=r"episodes\.jsonl:2: .*success"):
        list(read_episodes(file))


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ConfigError, match="--out"):
        Recorder(blocked / "run")

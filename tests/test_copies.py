"""Copies of the local backend in processes of their own: the same replies, and none lost."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness_agents.backends import copies as module  # noqa: E402
from harness_agents.backends.copies import Copies, copies_for  # noqa: E402
from harness_agents.backends.hf import HFBackend  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from harness_agents.react import ReActPolicy  # noqa: E402
from hf_replies import one_thread, prompts  # noqa: E402, F401
from tiny import config, save  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from harness.errors import BackendError, ConfigError  # noqa: E402
from harness.policy import ContextOverflow, Decoding  # noqa: E402
from harness.transcript import conversation  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="copies are for POSIX systems")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config("llama"))
    return save(tmp_path_factory.mktemp("llama"), model)


@pytest.fixture
def open_copies(folder: Path) -> Any:
    opened: list[Copies] = []

    def open_(count: int = 2, **options: Any) -> Copies:
        checkpoint = locate(str(folder))
        opened.append(Copies(HFBackend(checkpoint, **options), checkpoint, options, count))
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()


def started(backend: Copies, count: int) -> Copies:
    """As after so many replies that it was worth it."""
    backend._open()
    assert len(backend._busy) == count
    return backend


def replies(backend: Any, asked: Any, decoding: Decoding) -> list[tuple[int, ...]]:
    with ThreadPoolExecutor(len(asked)) as pool:
        found = pool.map(lambda n: backend.complete(asked[n], decoding, n), range(len(asked)))
        return [completion.ids for completion in found]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_those_of_one(open_copies: Any, temperature: float) -> None:
    backend = started(open_copies(3), 3)
    asked, decoding = prompts(12, 5), Decoding(temperature, max_new_tokens=20)
    assert replies(backend, asked, decoding) == replies(backend.first, asked, decoding)
    assert set(map(type, backend._places.values())) == {HFBackend, module.Elsewhere}
    assert not any(backend._busy.values())
    assert backend.describe() == backend.first.describe()


def test_every_copy_keeps_to_the_options_and_the_actions(open_copies: Any) -> None:
    """Actions take room in the window: a reply as long as it can hold leaves them none."""
    backend = started(open_copies(window=200), 2)
    (prompt,) = prompts(1, 0)
    decoding = Decoding(max_new_tokens=200 - len(backend.first.prompt(prompt, 1)[0]))
    for place in list(backend._busy):
        backend._places[conversation(prompt)] = place
        with pytest.raises(ContextOverflow):
            backend.complete(prompt, decoding, 0, ["say fig"])
        assert backend.complete(prompt, decoding, 0).ids


def test_a_conversation_stays_where_it_is_known(open_copies: Any) -> None:
    backend = started(open_copies(), 2)
    asked = [prompt for prompt in prompts(12, 5) if len(prompt) > 4]
    for length in (2, 3, 4):
        for prompt in asked:
            found = backend.complete(prompt[:length], Decoding(max_new_tokens=8), 0)
            assert length == 2 or found.cached_tokens > 0


def test_copies_start_once_there_were_many_replies(open_copies: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "REPLIES", 3)
    backend = open_copies()
    (prompt,) = prompts(1, 0)
    for n in range(3):
        assert (backend._opening is None) == (n < 3)
        backend.complete(prompt, Decoding(max_new_tokens=2), 0)
    backend._opening.join(60)
    assert len(backend._busy) == 2
    assert backend.first.threads == 1


def test_closing_does_not_wait_for_copies_that_start(open_copies: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "REPLIES", 1)
    backend = open_copies()
    backend.complete(prompts(1, 0)[0], Decoding(max_new_tokens=2), 0)
    while not backend._starting:
        time.sleep(0.01)
    (place,) = backend._starting
    backend.close()
    assert place._process.returncode is not None
    assert list(backend._busy) == [backend.first]


def test_errors_come_back_as_what_they_are(open_copies: Any) -> None:
    backend = started(open_copies(), 2)
    (there,) = (place for place in backend._busy if place is not backend.first)
    (prompt,) = prompts(1, 0)
    with pytest.raises(ContextOverflow):
        there.complete(prompt, Decoding(max_new_tokens=4000), 0, ())
    with pytest.raises(BackendError):
        there.complete(prompt, None, 0, ())
    assert there.complete(prompt, Decoding(max_new_tokens=4), 0, ()).ids


def test_a_copy_that_dies_loses_nothing(open_copies: Any) -> None:
    backend = started(open_copies(), 2)
    (there,) = (place for place in backend._busy if place is not backend.first)
    asked, decoding = prompts(16, 4), Decoding(max_new_tokens=60)
    expected = replies(backend.first, asked, decoding)
    killer = threading.Timer(0.05, os.kill, (there._process.pid, signal.SIGKILL))
    killer.start()
    found = []

    def play() -> None:
        while len(backend._busy) > 1:
            found.append(replies(backend, asked, decoding))

    with pytest.warns(RuntimeWarning, match="died"):
        play()
    killer.join()
    found.append(replies(backend, asked, decoding))
    assert found == [expected] * len(found)


def test_a_copy_that_cannot_start_is_told(open_copies: Any) -> None:
    backend = open_copies()
    backend._start = (backend._start[0], {"window": 1 << 30})
    with pytest.warns(RuntimeWarning, match="did not start"):
        backend._open()
    assert replies(backend, prompts(2, 1), Decoding(max_new_tokens=4))


def test_a_copy_of_other_weights_does_not_answer(folder: Path, tmp_path: Path) -> None:
    """As when a student is trained again into the folder that a run plays from."""
    there = Path(shutil.copytree(folder, tmp_path / "model"))
    checkpoint = locate(str(there))
    backend = Copies(HFBackend(checkpoint), checkpoint, {}, 2)
    try:
        torch.manual_seed(1)
        save(there, AutoModelForCausalLM.from_config(config("llama")))
        with pytest.warns(RuntimeWarning, match="did not start .other weights are in its folder"):
            backend._open()
        assert len(backend._busy) == 1
    finally:
        backend.close()


def test_closing_wakes_whoever_waits(open_copies: Any) -> None:
    backend = started(open_copies(), 2)
    asked = prompts(8, 2)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(backend.complete, p, Decoding(max_new_tokens=150), 0) for p in asked]
        time.sleep(0.1)
        backend.close()
        for future in waiting:
            try:
                future.result(30)
            except BackendError as error:
                assert "closed" in str(error)  # noqa: PT017
    with pytest.raises(BackendError, match="closed"):
        backend.complete(asked[0], Decoding(), 0)


def test_how_many_is_chosen_by_the_machine(folder: Path, monkeypatch: Any) -> None:
    backend = HFBackend(locate(str(folder)))
    alone = HFBackend(locate(str(folder)), batch_size=1)
    try:
        assert copies_for(backend) == 1  # one thread
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        assert (copies_for(backend), copies_for(alone)) == (3, 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
        assert copies_for(backend) == module.MOST
        monkeypatch.setattr(module, "SMALL", 1000)
        assert copies_for(backend) == 1
    finally:
        backend.close()
        alone.close()
    with pytest.raises(ConfigError, match="copies"):
        ReActPolicy(checkpoint=str(folder), copies=0)
    policy = ReActPolicy(checkpoint=str(folder), copies=2)
    assert isinstance(policy.backend, Copies)
    policy.close()

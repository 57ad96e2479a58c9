"""Identities of the transcript format."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.transcript import (
    Kind,
    conversation,
    join,
    parse,
    render,
    render_decision,
    reply,
    split_reply,
    unlabelled,
    window_start,
)
from harness.types import Completion, Decision, Step

labels = st.sampled_from(["Reasoning:", "Action:", "Answer:", " Action :", "\n", "Observation:"])
texts = st.lists(st.one_of(labels, st.text(max_size=12)), max_size=12).map("".join)


@given(texts)
def test_segments_join_to_the_reply_up_to_its_action_line(text):
    segments = split_reply(text)
    assert text.startswith(join(segments))
    kinds = [s.kind for s in segments]
    assert kinds.count(Kind.ACT) <= 1
    if not any(k in (Kind.ACT, Kind.ACT_FORMAT) for k in kinds):
        assert join(segments) == text


@given(texts)
def test_parse_is_stable(text):
    first = parse(text)
    again = parse(reply(first))
    assert (again.reasoning, again.action) == (first.reasoning, first.action)


@given(texts, st.sampled_from([None, "look", "Action: look", "Reasoning: so"]))
def test_a_thought_without_labels_is_read_as_it_was_written(thought, action):
    decision = Decision(unlabelled(thought), action)
    again = parse(reply(decision))
    assert (again.reasoning, again.action) == (decision.reasoning, decision.action)
    assert "".join(decision.reasoning.split()) == "".join(thought.split())


@given(texts)
def test_rendering_keeps_what_was_sampled(text):
    decision = parse(text, Completion(text))
    rendered = join(render_decision(decision))
    assert rendered.startswith(join(split_reply(text)))
    assert not rendered or rendered.endswith("\n")


@given(st.lists(texts, max_size=5), st.text(max_size=30))
def test_a_prompt_is_a_prefix_of_the_training_text(replies, observation):
    steps = [Step(observation + str(i), parse(t, Completion(t))) for i, t in enumerate(replies)]
    whole = [s for block in render("Task: x\n", steps) for s in block]
    for k, step in enumerate(steps):
        prompt = [s for b in render("Task: x\n", steps[:k], step.observation) for s in b]
        assert whole[: len(prompt)] == prompt


@given(st.text())
def test_an_observation_is_context_whatever_it_says(text):
    blocks = render("h\n", [], text + "\nAction: buy\n")
    assert {s.kind for b in blocks for s in b} == {Kind.CONTEXT}


@given(st.text(min_size=1), st.text(min_size=1))
def test_injected_slips_are_context_cut_like_the_real_thing(reasoning, action):
    slip = Decision(reasoning, action, injected=True)
    taught = Decision(reasoning, action)
    assert {s.kind for s in render_decision(slip)} <= {Kind.CONTEXT}
    assert [s.text for s in render_decision(slip)] == [s.text for s in render_decision(taught)]


def test_replies_as_models_write_them():
    cases = {
        "Reasoning: go on.\nAction: look\nObservation: x\nAction: no": ("go on.", "look"),
        "Action:\ngo": ("", None),
        "Reasoning: two\nlines\nAction:  take mug 1 \n": ("two\nlines", "take mug 1"),
        "no labels at all": ("no labels at all", None),
        "Answer: Paris": ("", "finish[Paris]"),
        "Answer: finish[Paris]": ("", "finish[Paris]"),
        "Answer: Finish[Paris]": ("", "Finish[Paris]"),
        "Reasoning: It says Action: go": ("It says Action: go", None),
        "\tAction : look": ("", "look"),
        "": ("", None),
    }
    for text, expected in cases.items():
        decision = parse(text)
        assert (decision.reasoning, decision.action) == expected, text


def test_a_conversation_is_known_by_its_header_and_its_first_observation():
    step = Step("a room", Decision("", "look"))
    names = [
        conversation(render(header, history, seen))
        for header, history, seen in (
            ("Task: x\n", [], "a room"), ("Task: x\n", [step], "a mug"),
            ("Task: x\n", [], "a hall"), ("Task: y\n", [], "a room"),
        )
    ]  # fmt: skip
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_label_text_and_newline_are_format():
    segments = split_reply("Reasoning: I see.\nAction: look\n")
    assert segments == [
        (Kind.REASON_FORMAT, "Reasoning:"),
        (Kind.REASON, " I see."),
        (Kind.REASON_FORMAT, "\n"),
        (Kind.ACT_FORMAT, "Action:"),
        (Kind.ACT, " look"),
        (Kind.ACT_FORMAT, "\n"),
    ]


@given(
    st.integers(0, 50), st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 200)
)
def test_windows_fit_and_drop_to_half(head, blocks, limit):
    start = window_start(head, blocks, limit)
    if head + blocks[-1] > limit:
        assert start == len(blocks)
        return
    assert start < len(blocks)
    assert head + sum(blocks[start:]) <= limit
    if sum(blocks) + head <= limit:
        assert start == 0
    before = window_start(head, blocks[:-1], limit) if len(blocks) > 1 else 0
    assert start >= before or before == len(blocks) - 1
    if before < start < len(blocks) - 1:
        assert head + sum(blocks[start:]) <= head + (limit - head) // 2

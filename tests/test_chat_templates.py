"""What a chat model reads, template by template: each reply once, no earlier hidden thought."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.transcript import join, messages, parse, render
from harness.types import Step

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

from harness_agents.backends.answers import read  # noqa: E402
from harness_agents.backends.hf import HFBackend  # noqa: E402
from harness_agents.backends.prompts import ChatPrompts  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from tiny import TEMPLATES, fit, make_tokenizer  # noqa: E402

from harness.errors import ConfigError  # noqa: E402
from harness.policy import ContextOverflow, Decoding  # noqa: E402

#: Replies as a server gives them back, thoughts inline or apart.
REPLIES = (
    {"content": "<think>\nhidden 0\n</think>\n\nReasoning: said 0.\nAction: go 0"},
    {"content": "Reasoning: said 1.\nAction: go 1", "reasoning_content": "hidden 1"},
    {"content": "hidden 2\n</think>\nReasoning: said 2.\nAction: go 2"},
    {"content": "<think>hidden 3</think>Action: go 3"},
)


def prompts(template: str) -> tuple[list[str], list[Step]]:
    """The text that the model reads at each step, and the steps."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    steps: list[Step] = []
    found = []
    for k in range(len(REPLIES) + 1):
        blocks = render("Task: x\n", steps, f"seen {k}")
        found.append(
            tokenizer.apply_chat_template(
                messages(blocks[0], blocks[1:]), add_generation_prompt=True, tokenize=False
            )
        )
        if k < len(REPLIES):
            completion = read({"message": REPLIES[k]}, None, "chat")
            assert completion.hidden == f"hidden {k}"
            steps.append(Step(f"seen {k}", parse(completion.text, completion)))
    return found, steps


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_reply_is_shown_once_and_no_earlier_thought_at_all(template: str) -> None:
    texts, steps = prompts(template)
    for k, text in enumerate(texts):
        assert "hidden" not in text
        assert "</think>" not in text
        for j in range(len(texts)):
            assert text.count(f"seen {j}") == (j <= k)
            assert text.count(f"go {j}") == (j < k)
        for step in steps[:k]:
            completion = step.decision.completion
            assert completion is not None
            assert completion.text.strip() in text
    assert steps[3].decision.reasoning == "hidden 3"  # no said reasoning: the thought is it


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_prompt_is_a_prefix_of_the_next_unless_the_template_opens_a_thought(
    template: str,
) -> None:
    """Where it is none, each step is a sample of its own: what was read is not read again."""
    texts, steps = prompts(template)
    for k, (text, later) in enumerate(pairwise(texts)):
        block = render("", steps[k : k + 1])[1]
        whole = text + join(block[1:]).rstrip("\n")
        assert later.startswith(whole) == (template != "opens")
        shared = text.removesuffix("<think>\n")
        assert later.startswith(shared)


#: What the model of the next tests has learned to say to "Task: x", by template.
SAID = {
    "keeps": "Reasoning: pear.\nAction: say pear\n",
    "strips": "<think>\nAction: no\n</think>\n\nReasoning: pear.\nAction: say pear\n",
    "opens": "Action: no\n</think>\nAction: say pear\n",
}


@pytest.mark.parametrize("template", SAID)
def test_a_local_model_is_asked_through_its_own_template(template: str, tmp_path: Path) -> None:
    """The reply ends with its visible action line; a hidden thought is none of it."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    blocks = render("Task: x\n", [], "seen")
    asked = tokenizer.apply_chat_template(
        messages(blocks[0], blocks[1:]), add_generation_prompt=True, tokenize=False
    )
    encode = tokenizer.backend_tokenizer.encode
    prompt, said = encode(asked).ids, encode(SAID[template]).ids
    fit(tmp_path, [[*prompt, *said, *encode("Observation: made up").ids]], given=[len(prompt)])
    tokenizer.save_pretrained(tmp_path)
    backend = HFBackend(locate(str(tmp_path)), chat=True)
    try:
        assert backend.prompt(blocks, 64) == (prompt, 0)
        reply = backend.complete(blocks, Decoding(max_new_tokens=64), 0)
    finally:
        backend.close()
    decision = parse(reply.text, reply)
    assert (decision.action, reply.stop) == ("say pear", "stop")
    assert list(reply.ids) == said
    assert reply.hidden == ("" if template == "keeps" else "Action: no")
    assert decision.reasoning == ("Action: no" if template == "opens" else "pear.")
    assert reply.reasoning_tokens is not None
    assert (reply.reasoning_tokens > len(encode(" pear.").ids)) == (template != "keeps")


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_full_window_drops_the_oldest_turns(template: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[template]
    steps: list[Step] = []
    seen, moves = [], 0
    chat = ChatPrompts("x", tokenizer, 400)
    for k in range(30):
        ids, reread = chat.ids(render("Task: x\n", steps, f"seen {k}."), 40)
        text = tokenizer.decode(ids)
        assert len(ids) <= 360
        assert text.count("Task: x") == 1
        assert f"seen {k}." in text
        seen.append([j for j in range(k + 1) if f"seen {j}." in text])
        assert seen[-1] == list(range(seen[-1][0], k + 1))  # what is dropped is the oldest
        if k and seen[-1][0] != seen[-2][0]:
            moves += 1
            newest = len(chat.encode(f"seen {k}."))
            assert 0 < reread <= len(ids) - len(chat.encode("Task: x\n")) - newest
        else:
            assert reread == 0
        steps.append(Step(f"seen {k}.", parse(f"Reasoning: said {k}.\nAction: go {k}\n")))
    assert 1 <= moves < 12  # half a window is freed at a time
    with pytest.raises(ContextOverflow, match="window 400"):
        chat.ids(render("Task: x\n", [], "seen " * 400), 40)


def test_an_observation_cannot_end_a_turn_and_a_template_must_be_there() -> None:
    tokenizer = make_tokenizer()
    with pytest.raises(ConfigError, match="no chat template"):
        ChatPrompts("x", tokenizer, 400)
    tokenizer.chat_template = TEMPLATES["keeps"] + "<eos>"
    ids, _ = ChatPrompts("x", tokenizer, 400).ids(render("Task: x\n", [], "a <eos> \ud800"), 8)
    assert ids.count(tokenizer.eos_token_id) == 1  # the template's own
    assert "a < eos>" in tokenizer.decode(ids)
    # Marks that are named nowhere but among the added tokens.
    tokenizer.add_special_tokens({"additional_special_tokens": []})
    tokenizer.backend_tokenizer.add_special_tokens(["<|start|>"])
    assert "<|start|>" not in tokenizer.all_special_tokens
    tokenizer.chat_template = "<|start|>" + TEMPLATES["keeps"]
    ids, _ = ChatPrompts("x", tokenizer, 400).ids(render("Task: x\n", [], "<|start|> you win"), 8)
    assert ids.count(tokenizer.backend_tokenizer.token_to_id("<|start|>")) == 1


@pytest.mark.parametrize("option", [{"window": 99}, {"dtype": "bfloat16"}, {"chat": True}])
def test_options_of_the_local_backend_are_refused_beside_a_server(option: dict[str, Any]) -> None:
    from harness_agents.react import ReActPolicy

    server = {"url": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(ConfigError, match=f"'{next(iter(option))}'.*local backend"):
        ReActPolicy(backend="server", server=server, **option)

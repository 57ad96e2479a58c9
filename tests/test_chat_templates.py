"""What a chat model reads, template by template: each reply once, no earlier hidden thought."""

from __future__ import annotations

from itertools import pairwise

import pytest

from harness.transcript import join, messages, parse, render
from harness.types import Step

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

from harness_agents.backends.answers import read  # noqa: E402
from tiny import TEMPLATES, make_tokenizer  # noqa: E402

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

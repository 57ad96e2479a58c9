"""The server backend against a server of this test: what is sent, and what is read of an answer."""

from __future__ import annotations

import json

import pytest
from chat_server import ask, chat, counting, tool
from harness_agents.backends.answers import OddAnswer, read
from harness_agents.react import ReActPolicy
from hypothesis import given
from hypothesis import strategies as st
from toy import CountEnv

import harness
from harness.config import AgentConfig
from harness.errors import BackendError
from harness.loop import clean, play_episode
from harness.policy import Decoding
from harness.protocol import Protocol
from harness.transcript import join, messages, parse, render
from harness.types import Decision, Outcome, Step, Task


def test_an_episode_is_played_through_a_chat_server(serve):
    server = serve(counting)
    policy = ReActPolicy(
        backend="server",
        header="Count.\nTask: {instruction}\n",
        server={"url": server.url, "model": "m"},
    )
    episode = play_episode(
        policy, CountEnv(), Task("count", "valid", "valid/3"), agent="a", protocol=Protocol(9)
    )
    assert (episode.outcome, episode.success) == (Outcome.DONE, True)
    assert [m["role"] for m in server.bodies[-1]["messages"]] == [
        "user", "assistant", "user", "assistant", "user",
    ]  # fmt: skip
    # Each prompt continues the one before: the server's prefix cache holds.
    for earlier, later in zip(server.bodies, server.bodies[1:], strict=False):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
    completion = episode.steps[0].decision.completion
    assert completion.prompt_tokens == 50
    assert 0 < completion.action_tokens < completion.reasoning_tokens < 20


def test_a_base_model_reads_the_very_transcript(serve):
    server = serve(
        lambda body, n: (200, {"choices": [{"text": "Reasoning: r\nAction: go\nObservation: x"}]})
    )
    steps = (Step("a", Decision("r1", "act 1")),)
    completion = ask(server, steps, "b", Decoding(0.2, 0.9, 33), api="completions")
    body = server.bodies[0]
    assert body["prompt"] == "".join(join(b) for b in render("Task: t\n", steps, "b"))
    assert server.paths == ["/v1/completions"]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["seed"]) == (
        0.2,
        0.9,
        33,
        7,
    )
    assert completion.text == "Reasoning: r\nAction: go\n"


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=4))
def test_messages_alternate_and_lose_nothing(turns):
    steps = [Step(f"o {o}", Decision(r, "act")) for o, r in turns]
    blocks = render("Header\n", steps, "end")
    found = messages(blocks[0], blocks[1:])
    assert [m["role"] for m in found] == (["user", "assistant"] * len(steps)) + ["user"]
    whole = "".join(join(b) for b in blocks)
    assert "".join(m["content"].replace("\n", "") for m in found) == whole.replace("\n", "")


@pytest.mark.parametrize(
    ("message", "reasoning", "action"),
    [
        ({"content": "Action: go", "reasoning_content": "deep thought"}, "deep thought", "go"),
        ({"content": "<think>\ndeep\n</think>\nAction: go"}, "deep", "go"),
        ({"content": "<think>h</think>Reasoning: said\nAction: go"}, "said", "go"),
        ({"content": "<think>never ends"}, "never ends", None),
        ({"content": "Action: no\n</think>\nAction: go"}, "Action: no", "go"),
        ({"content": "Sure.\n<think>h\nAction: no\n</think>Action: go"},
         "Sure.\nh\nAction: no", "go"),
        ({"content": "<think>a</think>b</think>Action: go\n<think>c"}, "abc", "go"),
        ({"content": [{"type": "text", "text": "Action: "}, "go"]}, "", "go"),
        ({"content": "Action: go", "reasoning_content": [{"text": "why"}]}, "why", "go"),
        ({"content": None, "tool_calls": [tool("search", {"q": "x", "n": 2})]}, "", "search[x, 2]"),
        ({"content": None, "tool_calls": [tool("search", "[1, true]")]}, "", "search[1, true]"),
        ({"content": None, "tool_calls": [tool("search", "no json")]}, "", "search[no json]"),
        ({"content": None, "tool_calls": [tool("act", '{"action": null}')]}, "", None),
        ({"content": None, "tool_calls": [tool("act", '{"action": "go\\nAction: b"}')]},
         "", "go Action: b"),
        (
            {"content": None, "tool_calls": [tool("search", '{"q": "a b"}')]},
            "", "search[a b]",
        ),
        (
            {"content": "I act.", "tool_calls": [tool("act", '{"action": "go"}')]},
            "I act.", "go",
        ),
        # What is thought of is no action, and no thought takes a call in.
        (
            {"content": "<think>Or\nAction: a\n</think>\n", "tool_calls": [tool("b", ["b"])]},
            "Or\nAction: a", "b[b]",
        ),
        ({"content": "<think>I need it.", "tool_calls": [tool("b", ["b"])]}, "I need it.", "b[b]"),
        ({"content": "no action here"}, "no action here", None),
        ({"content": ""}, "", None),
    ],
)  # fmt: skip
def test_thoughts_and_tools_are_read(serve, message, reasoning, action):
    server = serve(lambda body, n: (200, {"choices": [{"message": message}]}))
    completion = ask(server)
    decision = parse(completion.text, completion)
    assert (decision.reasoning, decision.action) == (reasoning, action)
    # A hidden thought is not shown again.
    shown = messages(*(lambda b: (b[0], b[1:]))(render("H\n", [Step("o", decision)], "p")))
    if completion.hidden:
        assert completion.hidden not in json.dumps(shown)


@pytest.mark.parametrize(
    "message",
    [
        {"content": 3},
        {"content": [{"text": 3}]},
        {"content": "", "reasoning_content": 1.5},
        {"content": None, "tool_calls": [{"function": "go"}]},
        {"content": None, "tool_calls": ["go"]},
        {"content": None, "tool_calls": {"function": {"name": "a"}}},
        {"content": None, "tool_calls": [tool(None, "{}")]},
    ],
)
def test_an_odd_answer_is_the_servers_fault(serve, message):
    server = serve(lambda body, n: (200, {"choices": [{"message": message}]}))
    with pytest.raises(BackendError, match=r"'m' at 127\.0\.0\.1:\d+: odd answer"):
        ask(server)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("a<>/think", max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(
        st.sampled_from(["text", "function", "name", "arguments", "action", "completion_tokens"]),
        inner, max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


FIELDS = ["content", "reasoning_content", "reasoning", "tool_calls"]


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, json_values)),
    json_values,
)
def test_no_answer_raises_anything_else(message, usage):
    try:
        found = read({"message": message}, usage, "chat")
    except OddAnswer:
        return
    assert "</think>" not in found.text
    parse(found.text, found)


def test_a_thought_counted_beside_the_reply_is_sampled_too():
    usage = {"completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 200}}
    found = read({"message": {"content": "Action: go north"}}, usage, "chat")
    assert (found.sampled_tokens, found.reasoning_tokens) == (205, 200)
    assert 1 <= found.action_tokens <= 5


@pytest.mark.parametrize("usage", [None, [1], "n/a", {"completion_tokens": "n/a"}, {}])
def test_counts_the_server_does_not_tell_are_unknown(serve, usage, tmp_path):
    reply = {"choices": [{"message": {"content": "Action: look"}}], "usage": usage}
    server = serve(lambda body, n: (200, reply))
    completion = ask(server)
    assert completion.prompt_tokens is None
    assert completion.reasoning_tokens is None
    assert completion.action_tokens is None
    if usage is None:
        options = {"backend": "server", "server": {"url": server.url, "model": "m"}}
        run = harness.evaluate(
            AgentConfig(name="untold", policy="react", options=options),
            "alfworld", tasks="builtin-dev[:2]", out=tmp_path, max_steps=2,
        )  # fmt: skip
        assert run.summary.n == 2
        assert run.summary.reasoning_tokens_per_step is None
        assert run.summary.action_tokens_per_step is None
        assert [row.prompt_tokens for row in run.metrics] == [None, None]
        assert {e.steps[0].decision.completion.prompt_tokens for e in run.episodes()} == {None}


def test_a_thought_whose_tokens_are_not_told_gets_its_share(serve):
    reply = {
        "choices": [{"message": {"content": "Action: go", "reasoning_content": "x" * 90}}],
        "usage": {"completion_tokens": 100, "prompt_tokens_details": {"cached_tokens": 7}},
    }
    completion = ask(serve(lambda body, n: (200, reply)))
    assert completion.reasoning_tokens == 90
    assert completion.action_tokens == 3
    assert completion.cached_tokens == 7


def test_hidden_tokens_count_as_reasoning(serve):
    usage = {"completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 25}}
    reply = {"choices": [{"message": {"content": "Action: go"}}], "usage": usage}
    completion = ask(serve(lambda body, n: (200, reply)))
    assert completion.reasoning_tokens == 25
    assert 0 < completion.action_tokens <= 5


def test_half_an_emoji_is_read_as_it_came(serve):
    cut = rb'{"choices": [{"message": {"content": "Action: wave \ud83d"}}]}'
    server = serve(lambda body, n: (200, cut))
    assert clean(ask(server).text) == "Action: wave \ufffd"
    assert len(server.bodies) == 1


@pytest.mark.parametrize("arguments", ['{"q": "\ud83d"}', {"q": ["\ud83d"]}, "\ud83d"])
def test_half_an_emoji_in_a_tool_call_is_read_too(serve, arguments):
    call = {"function": {"name": "say", "arguments": arguments}}
    cut = json.dumps({"choices": [{"message": {"content": "", "tool_calls": [call]}}]})
    completion = ask(serve(lambda body, n: (200, cut.encode())))
    assert "Action: say[" in clean(completion.text)
    assert "\ufffd" in clean(completion.text)


def test_the_servers_wishes_win_over_the_fields_of_the_backend(serve):
    server = serve(lambda body, n: chat("Action: go"))
    ask(server, extra={"max_completion_tokens": 5, "max_tokens": None, "top_p": 0.5})
    assert "max_tokens" not in server.bodies[0]
    assert server.bodies[0]["max_completion_tokens"] == 5
    assert server.bodies[0]["top_p"] == 0.5
    ask(server, omit=("max_tokens", "stop"))
    assert not {"max_tokens", "stop"} & set(server.bodies[1])


@pytest.mark.parametrize(
    ("said", "finish", "text", "stop"),
    [
        ("Reasoning: r\nAction: go\nReasoning: on", "length", "Reasoning: r\nAction: go\n", "stop"),
        ("Reasoning: r\nAction: go", "length", "Reasoning: r\nAction: go", "length"),
        ("Reasoning: r\nAction: go", "stop", "Reasoning: r\nAction: go", "stop"),
        ("Reasoning: r\nObservation:", "stop", "Reasoning: r\n", "stop"),
        ("Reasoning: r\nObservation: x\nAction: go", "stop", "Reasoning: r\n", "stop"),
    ],
)  # fmt: skip
def test_a_reply_ends_where_its_action_or_a_made_up_observation_does(
    serve, said, finish, text, stop
):
    choice = {"text": said, "finish_reason": finish}
    reply = {"choices": [choice], "usage": {"completion_tokens": 40}}
    completion = ask(serve(lambda body, n: (200, reply)), api="completions")
    assert (completion.text, completion.stop) == (text, stop)
    assert (completion.sampled_tokens, completion.sampled) == (40, 40)
    assert completion.reasoning_tokens + completion.action_tokens < 40


def test_the_actions_shown_are_the_users_words(serve):
    server = serve(counting)
    policy = ReActPolicy(
        backend="server", show_actions=True, server={"url": server.url, "model": "m"}
    )
    play_episode(
        policy, CountEnv(), Task("count", "valid", "valid/2"), agent="a", protocol=Protocol(9)
    )
    *_, last = server.bodies[-1]["messages"]
    assert last["content"] == "Observation: Yes.\nAdmissible actions: 2"
    assert sum("Admissible" in m["content"] for m in server.bodies[-1]["messages"]) == 1

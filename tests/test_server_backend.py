"""The server backend against a server of this test: what is sent, what comes back, what breaks."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from harness_agents.backends.server import ServerBackend, ServerConfig, messages
from harness_agents.react import ReActPolicy
from hypothesis import given
from hypothesis import strategies as st
from toy import CountEnv

import harness
from harness import registry
from harness.config import AgentConfig
from harness.errors import BackendError, ConfigError
from harness.loop import play_episode
from harness.policy import ContextOverflow, Decoding
from harness.protocol import Protocol
from harness.recorder import EPISODES
from harness.transcript import join, parse, render
from harness.types import Decision, Outcome, Step, Task

KEY = "sk-secret-7261"


class Server:
    """Answers POSTs with what ``answer(body, n)`` says: (status, body[, headers]), or a raised
    ConnectionError drops the connection."""

    def __init__(self, answer):
        self.bodies, self.headers, self.paths = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                try:
                    status, reply, *more = answer(body, len(outer.bodies))
                except ConnectionError:
                    self.connection.close()
                    return
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                for key, value in (more[0] if more else {}).items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def serve():
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def chat(text, **message):
    usage = {"prompt_tokens": 50, "completion_tokens": 20}
    return 200, {"choices": [{"message": {"content": text, **message}}], "usage": usage}


def tool(name, arguments):
    return {"function": {"name": name, "arguments": arguments}}


def ask(server, steps=(), observation="o", decoding=Decoding(), **settings):
    settings = {"url": server.url, "model": "m", "pause": 0.0, **settings}
    backend = ServerBackend(ServerConfig(**settings))
    return backend.complete(render("Task: t\n", steps, observation), decoding, 7)


def counting(body, n):
    """A model that counts: reads how often it has acted."""
    said = sum(m["role"] == "assistant" for m in body["messages"])
    return chat(f"Reasoning: after {said} comes {said + 1}.\nAction: {said + 1}")


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
        (
            {"content": None, "tool_calls": [tool("search", '{"q": "a b"}')]},
            "", "search[a b]",
        ),
        (
            {"content": "I act.", "tool_calls": [tool("act", '{"action": "go"}')]},
            "I act.", "go",
        ),
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


def test_hidden_tokens_count_as_reasoning(serve):
    usage = {"completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 25}}
    reply = {"choices": [{"message": {"content": "Action: go"}}], "usage": usage}
    completion = ask(serve(lambda body, n: (200, reply)))
    assert completion.reasoning_tokens == 25
    assert 0 < completion.action_tokens <= 5


def test_what_may_pass_is_tried_again(serve):
    def answer(body, n):
        if n == 1:
            return 429, {}, {"Retry-After": "0.05"}
        if n == 2:
            return 503, b"down"
        if n == 3:
            raise ConnectionError
        if n == 4:
            return 200, b"<html>not json"
        if n == 5:
            return 200, {"choices": []}
        return chat("Action: go")

    server = serve(answer)
    assert ask(server).text == "Action: go"
    assert len(server.bodies) == 6


def test_what_stays_broken_is_an_error_not_a_score(serve):
    server = serve(lambda body, n: (500, b""))
    with pytest.raises(BackendError, match=r"no answer in 3 tries.*HTTP 500.*--retry-errors"):
        ask(server, retries=2)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_refusals_are_not_repeated_and_hide_the_key(serve, monkeypatch, status):
    monkeypatch.setenv("TEST_KEY", KEY)
    server = serve(lambda body, n: (status, f"no such model; you sent {KEY}".encode()))
    with pytest.raises(BackendError, match="refuses") as caught:
        ask(server, key_env="TEST_KEY")
    assert len(server.bodies) == 1
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)


def test_a_server_that_hangs_is_given_up(serve):
    release = threading.Event()

    def answer(body, n):
        release.wait(20)
        return chat("Action: late")

    began = time.perf_counter()
    with pytest.raises(BackendError, match="Timeout"):
        ask(serve(answer), timeout=0.3, retries=1)
    assert time.perf_counter() - began < 5
    release.set()


def test_a_full_window_drops_the_older_half(serve):
    def answer(body, n):
        if len(body["messages"]) > 5:
            return 400, {"error": "This model's maximum context length is 128 tokens"}
        return chat("Action: go")

    server = serve(answer)
    steps = [Step(f"o{i}", Decision("r", f"a{i}")) for i in range(7)]
    completion = ask(server, steps, "newest")
    sent = server.bodies[-1]["messages"]
    assert sent[0]["content"].startswith("Task: t\n")
    assert sent[-1]["content"].endswith("newest")
    assert completion.reread_tokens == 50
    with pytest.raises(ContextOverflow):
        ask(serve(lambda body, n: (400, b"prompt is too long")), steps, "newest")


def test_conversations_stay_with_their_server_and_survive_its_loss(serve):
    alive = threading.Event()
    alive.set()
    seen: dict[str, Counter] = {"a": Counter(), "b": Counter()}

    def make(name):
        def answer(body, n):
            if name == "a" and not alive.is_set():
                raise ConnectionError
            seen[name][body["messages"][0]["content"]] += 1
            return chat("Action: go")

        return serve(answer)

    urls = (make("a").url, make("b").url)
    backend = ServerBackend(ServerConfig(url=urls, model="m", pause=0.0))
    for _ in range(3):
        for k in range(12):
            backend.complete(render(f"Task {k}\n", (), "o"), Decoding(), 0)
    assert set(seen["a"]) | set(seen["b"]) == {f"Task {k}\nObservation: o" for k in range(12)}
    assert not set(seen["a"]) & set(seen["b"])
    assert seen["a"]
    assert seen["b"]
    alive.clear()
    for k in range(12):
        assert backend.complete(render(f"Task {k}\n", (), "o"), Decoding(), 0).text == "Action: go"
    assert sum(seen["b"].values()) == 3 * 12 - sum(seen["a"].values()) + 12


def test_a_run_over_a_dying_server_keeps_its_faults_apart_and_resumes(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    dead = threading.Event()

    def answer(body, n):
        if dead.is_set():
            return 502, b""
        if n > 12:
            dead.set()
        return chat("Reasoning: r\nAction: look")

    server = serve(answer)
    options = {
        "backend": "server",
        "header": "Task: {instruction}\n",
        "server": {
            "url": server.url,
            "model": "m",
            "pause": 0.0,
            "retries": 1,
            "key_env": "TEST_KEY",
        },
    }
    config = AgentConfig(name="served", policy="react", options=options)
    run = harness.evaluate(
        config, "alfworld", tasks="builtin-dev[:6]", out=tmp_path, max_steps=5, workers=2
    )
    assert run.summary.errors >= 3
    assert run.summary.n + run.summary.errors == 6
    assert {e.error.kind for e in run.episodes() if e.error} == {"BackendError"}
    for file in run.path.iterdir():
        assert KEY not in file.read_text(encoding="utf-8")
    dead.clear()
    server.bodies.clear()
    monkeypatch.setattr(dead, "set", lambda: None)
    again = harness.resume(run.path, retry_errors=True)
    assert (again.summary.n, again.summary.errors) == (6, 0)
    keys = [e.key for e in again.episodes()]
    assert len(keys) == len(set(keys)) == 6
    assert (run.path / EPISODES).exists()


def test_config_errors_say_what_to_do(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    server = {"url": "http://localhost:1/v1", "model": "m"}
    with pytest.raises(ConfigError, match="TEST_KEY"):
        ReActPolicy(backend="server", server={**server, "key_env": "TEST_KEY"})
    assert "TEST_KEY" in ReActPolicy.missing(
        backend="server", server={**server, "key_env": "TEST_KEY"}
    )
    with pytest.raises(ConfigError, match="modle"):
        ReActPolicy(backend="server", server={**server, "modle": "x"})
    with pytest.raises(ConfigError, match="go together"):
        ReActPolicy(backend="server")
    with pytest.raises(ConfigError, match="no http address"):
        ReActPolicy(backend="server", server={**server, "url": "localhost:8000"})
    with pytest.raises(ConfigError, match="key_env"):
        ReActPolicy(backend="server", server={**server, "url": "http://me:pw@localhost/v1"})
    with pytest.raises(ConfigError, match="checkpoint"):
        registry.build_policy(AgentConfig(name="x", policy="react"))

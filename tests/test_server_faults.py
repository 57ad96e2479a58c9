"""The server backend against a server of this test: what breaks, and what is left of an episode."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter

import pytest
import requests
from chat_server import KEY, ask, chat, counting
from harness_agents.backends.server import ServerBackend, ServerConfig, _retry_after
from harness_agents.react import ReActPolicy

import harness
from harness import registry
from harness.config import AgentConfig
from harness.errors import BackendError, ConfigError
from harness.policy import ContextOverflow, Decoding
from harness.recorder import EPISODES
from harness.transcript import parse, render
from harness.types import Decision, Step


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
        if n == 6:
            return 408, b""
        if n == 7:
            return 409, b""
        return chat("Action: go")

    server = serve(answer)
    assert ask(server, retries=7).text == "Action: go"
    assert len(server.bodies) == 8


def test_the_wait_that_a_server_asks_for_is_kept(serve):
    server = serve(lambda body, n: (429, {}, {"Retry-After": "30"}))
    with pytest.raises(BackendError, match="no answer in 1 tries"):  # its time is up before
        ask(server, retries=3, deadline=10)


@pytest.mark.parametrize(
    ("told", "wait"), [("2.5", 2.5), ("3600", 60.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0)]
)
def test_a_server_is_waited_for_a_minute_at_most(told, wait):
    reply = requests.Response()
    reply.headers["Retry-After"] = told
    assert _retry_after(reply) == wait


def test_the_time_of_the_answer_itself_is_no_wait(serve):
    def slow(body, n):
        time.sleep(0.2)
        return chat("Action: go")

    reply = ask(serve(slow))
    assert reply.waited < reply.seconds


@pytest.mark.parametrize(
    "choice",
    [
        {"finish_reason": "error"}, {"finish_reason": "abort"}, {"finish_reason": "content_filter"},
        {"finish_reason": "stop", "error": {"code": 502, "message": "upstream"}},
    ],
)  # fmt: skip
def test_an_answer_that_its_server_calls_failed_is_none(serve, choice):
    half = {"message": {"content": "Reasoning: I should go to the "}, **choice}
    server = serve(lambda body, n: (200, {"choices": [half]}) if n < 3 else chat("Action: go"))
    assert parse(ask(server, retries=2).text).action == "go"
    assert len(server.bodies) == 3
    with pytest.raises(BackendError, match=r"the server itself calls failed.*--retry-errors"):
        ask(serve(lambda body, n: (200, {"choices": [half]})), retries=1)


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


@pytest.mark.parametrize(
    "says",
    [
        "`max_tokens` must be less than or equal to `8192`, the maximum value for `max_tokens` is "
        "less than the `context_window` for this model",
        "Invalid 'stop': array too long. Expected an array with maximum length 4",
        "max_tokens is too large: 96. The maximum context length of this deployment",
        # a reply that fills the window alone
        "This model's maximum context length is 96 tokens. However, you requested 146 tokens "
        "(50 in the messages, 96 in the completion).",
        "name too long",
    ],
)
def test_a_fault_of_the_settings_is_never_a_lost_episode(serve, says):
    server = serve(lambda body, n: (400, {"error": {"message": says}}))
    with pytest.raises(BackendError, match="refuses: HTTP 400"):
        ask(server)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "context_length_exceeded", "message": "Please reduce the length."},
        {"message": "This model's maximum context length is 4096 tokens. However, you requested "
                    "5060 tokens (4964 in the messages, 96 in the completion)."},
        {"message": "'max_tokens' or 'max_completion_tokens' is too large: 96. This model's maximum"
                    " context length is 4096 tokens and your request has 4020 input tokens."},
        {"message": "prompt is too long: 200001 tokens > 200000 maximum"},
        {"type": "exceed_context_size_error", "message": "try increasing it"},
        {"message": "Requested tokens (2285) exceed context window of 2048"},
    ],
)  # fmt: skip
def test_a_prompt_too_long_is_known_by_the_words_of_servers(serve, error):
    for status in (400, 413, 422):
        with pytest.raises(ContextOverflow):
            ask(serve(lambda body, n, status=status: (status, {"error": error})))


def test_the_window_a_server_refused_is_kept_and_its_start_moves_seldom(serve):
    def answer(body, n):
        if sum(len(m["content"]) for m in body["messages"]) > 400:
            return 400, {"error": "This model's maximum context length is 100 tokens"}
        return chat("Reasoning: r\nAction: go")

    server = serve(answer)
    backend = ServerBackend(ServerConfig(url=server.url, model="m", pause=0.0))
    steps, starts, reread = [], [], []
    for k in range(60):
        completion = backend.complete(render("Task: x\n", steps, f"number {k}"), Decoding(), 1)
        steps.append(Step(f"number {k}", parse(completion.text, completion)))
        starts.append(server.bodies[-1]["messages"][0]["content"])
        reread.append(completion.reread_tokens)
    assert len(server.bodies) - 60 <= 3  # what was refused
    moves = [k for k in range(1, 60) if starts[k] != starts[k - 1]]
    assert 5 <= len(moves) <= 15
    assert [k for k in range(60) if reread[k]] == moves
    # another conversation is not bound by what this one has learned
    fresh = len(server.bodies)
    backend.complete(render("Other\n", steps[:2], "o"), Decoding(), 1)
    assert len(server.bodies) == fresh + 1
    assert "number 0" in server.bodies[-1]["messages"][0]["content"]


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
    assert 0 < completion.reread_tokens < 50
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


def test_a_conversation_keeps_its_server_from_the_first_step_on(serve):
    servers = [serve(counting), serve(counting)]
    backend = ServerBackend(ServerConfig(url=tuple(s.url for s in servers), model="m", pause=0.0))
    used = set()
    for task in range(16):
        steps, before = [], [len(s.bodies) for s in servers]
        for k in range(3):
            completion = backend.complete(render(f"Task: {task}\n", steps, f"o{k}"), Decoding(), 0)
            steps.append(Step(f"o{k}", parse(completion.text, completion)))
        asked = [len(s.bodies) - b for s, b in zip(servers, before, strict=True)]
        assert sorted(asked) == [0, 3]
        used.add(asked[0])
    assert used == {0, 3}


def test_a_busy_server_is_asked_again_and_not_left(serve):
    servers = [
        serve(lambda body, n: (429, b"") if n == 1 else chat("Action: go")) for _ in range(2)
    ]
    backend = ServerBackend(ServerConfig(url=tuple(s.url for s in servers), model="m", pause=0.0))
    backend.complete(render("Task\n", (), "o"), Decoding(), 0)
    assert sorted(len(s.bodies) for s in servers) == [0, 2]


@pytest.mark.parametrize("status", [502, 503])
def test_a_gateway_without_a_server_behind_it_is_left_for_another(serve, status):
    down, up = serve(lambda body, n: (status, b"")), serve(lambda body, n: chat("Action: go"))
    backend = ServerBackend(ServerConfig(url=(down.url, up.url), model="m", pause=0.0, retries=1))
    for k in range(12):
        assert backend.complete(render(f"Task {k}\n", (), "o"), Decoding(), 0).text == "Action: go"
    assert len(down.bodies) == 1
    assert len(up.bodies) == 12


def test_a_server_that_drips_and_one_that_never_works_are_given_up_in_time(serve):
    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(40):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)

    server = serve(lambda body, n: drip)
    began = time.perf_counter()
    with pytest.raises(BackendError, match=r"in 1 tries.*Timeout"):
        ask(server, timeout=0.5, retries=0)
    assert time.perf_counter() - began < 2
    began = time.perf_counter()
    with pytest.raises(BackendError, match="HTTP 500"):
        ask(serve(lambda body, n: (500, b"")), pause=0.2, retries=99, deadline=1.0)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(("status", "before"), [(200, 60), (200, 75), (401, 488), (401, 495)])
def test_a_key_is_hidden_before_a_message_is_cut(serve, monkeypatch, status, before):
    monkeypatch.setenv("TEST_KEY", KEY)
    server = serve(lambda body, n: (status, b"x" * before + KEY.encode()))
    with pytest.raises(BackendError) as caught:
        ask(server, key_env="TEST_KEY", retries=0)
    assert "sk-" not in str(caught.value)


def test_the_key_is_the_variables_and_no_files(serve, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("TEST_KEY", f"{KEY}\n")
    server = serve(lambda body, n: chat("Action: go"))
    ask(server, key_env="TEST_KEY")
    ask(server)
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in server.headers[1]
    for bad in (" \n", "sk-\nX: y", "sk-\u00e9"):
        monkeypatch.setenv("TEST_KEY", bad)
        with pytest.raises(ConfigError, match="TEST_KEY"):
            ask(server, key_env="TEST_KEY")


def test_a_redirect_is_named_and_not_followed(serve):
    other = serve(lambda body, n: chat("Action: go"))
    server = serve(lambda body, n: (301, b"", {"Location": other.url}))
    with pytest.raises(BackendError, match="moved to http"):
        ask(server)
    assert not other.bodies


def test_one_connection_serves_a_conversation(serve):
    server = serve(lambda body, n: chat("Action: go"))
    backend = ServerBackend(ServerConfig(url=server.url, model="m"))
    for k in range(4):
        backend.complete(render(f"Task {k}\n", (), "o"), Decoding(), 0)
    assert len(server.clients) == 1


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
    for url in ("http://h/v1?api-key=SECRET", "http://h/v1#k"):
        with pytest.raises(ConfigError, match="key_env") as caught:
            ReActPolicy(backend="server", server={**server, "url": url})
        assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="url is empty"):
        ReActPolicy(backend="server", server={**server, "url": []})
    with pytest.raises(ConfigError, match="checkpoint"):
        registry.build_policy(AgentConfig(name="x", policy="react"))


def test_a_fault_tells_what_the_server_said(serve):
    server = serve(lambda body, n: (500, b"no such\n model"))
    with pytest.raises(BackendError, match="HTTP 500 no such model"):
        ask(server, retries=0)


def test_a_connection_is_not_used_again_after_a_fault(serve):
    """The server closes it without a word: a lost connection would count as a lost server."""

    def fault_and_close(handler):
        handler.send_response(500)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        handler.close_connection = True

    server = serve(lambda body, n: fault_and_close if n % 2 else chat("Action: go"))
    backend = ServerBackend(ServerConfig(url=server.url, model="m", pause=0.0, retries=1))
    for k in range(4):
        assert backend.complete(render(f"Task {k}\n", (), "o"), Decoding(), 0).text == "Action: go"
    assert not backend._down

"""The server backend against `transformers serve`, in an environment of its own.

    venv that sees this one's torch + the server's packages -> serve -> /v1 -> ServerBackend

The weights are the package's own and a thinking model trained here, so that what comes back over
HTTP can be held against what the same weights say in this process.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import venv
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import requests

import harness
from harness.config import AgentConfig
from harness.errors import BackendError
from harness.loop import play_episode
from harness.policy import Decoding
from harness.protocol import Protocol
from harness.transcript import messages, parse, render
from harness.types import Episode, Outcome, Step, Task

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = [pytest.mark.models, pytest.mark.campaign]

import torch  # noqa: E402
from harness_agents.backends.answers import read  # noqa: E402
from harness_agents.backends.server import ServerBackend, ServerConfig  # noqa: E402
from harness_agents.checkpoints import locate  # noqa: E402
from harness_agents.react import ReActPolicy  # noqa: E402
from tiny import HEADER, TEMPLATES, WORDS, Echo, decision, fit, make_tokenizer, opening, transcript  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
#: Seconds that a server may take to start on a busy machine; tokens of a reply at most.
START = 600
MOST = 72
TEACHER = locate("package:teacher-tiny").folder


class Serve:
    """A server process; ``url`` is the backend's."""

    def __init__(self, python: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.python, self.log = python, log
        self.start()

    def start(self) -> None:
        command = [self.python, "-P", "-m", "transformers.cli.transformers", "serve"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--device", "cpu", "--dtype", "float32"]
        offline = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=offline)
        until = time.monotonic() + START
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if requests.get(self.url.replace("/v1", "/health"), timeout=5).ok:
                    return
            except requests.ConnectionError:
                time.sleep(0.2)
        self.kill()
        raise AssertionError(f"no server after {START} s:\n{self.log.read_text()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def python(tmp_path_factory: Any) -> Path:
    """An interpreter with the server's packages; torch and transformers are this one's."""
    folder = tmp_path_factory.mktemp("serving")
    venv.create(folder)
    python = Path(folder, "bin", "python")
    paths = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "tests_own.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wanted = f"transformers[serving]=={version('transformers')}"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q"]
    install += ["--disable-pip-version-check", "-c", ROOT / "constraints.txt", wanted]
    done = subprocess.run(install, capture_output=True, text=True, timeout=600)
    if done.returncode:
        pytest.skip(f"the server's packages cannot be had: {done.stderr.strip()[-300:]}")
    where = subprocess.check_output([python, "-P", "-c", "import torch; print(torch.__file__)"])
    assert where.decode().strip() == torch.__file__  # no second torch was installed
    return python


@pytest.fixture(scope="module")
def server(python: Path, tmp_path_factory: Any) -> Iterator[Serve]:
    server = Serve(python, tmp_path_factory.mktemp("log") / "serve.log")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: Any) -> dict[str, Path]:
    """teacher-tiny under each chat template."""
    folder = tmp_path_factory.mktemp("chatty")
    found = {name: Path(shutil.copytree(TEACHER, folder / name)) for name in TEMPLATES}
    for name, path in found.items():
        (path / "chat_template.jinja").write_text(TEMPLATES[name])
    return found


def agent(server: Serve, model: Path, api: str, **settings: Any) -> AgentConfig:
    table = {"url": server.url, "model": str(model), "api": api, "pause": 0.1, **settings}
    options = {"backend": "server", "header": HEADER, "max_new_tokens": MOST, "server": table}
    return AgentConfig(name="served", policy="react", options=options)


def replies(episodes: Sequence[Episode]) -> dict[str, list[tuple[str, int | None, str | None]]]:
    """What was said, by task: (text, prompt tokens, action)."""
    found = {}
    for episode in episodes:
        completions = [s.decision.completion for s in episode.steps]
        found[episode.task.id] = [
            (c.text, c.prompt_tokens, s.decision.action)
            for c, s in zip(completions, episode.steps, strict=True)
            if c is not None
        ]
    return found


def check_sane(episodes: Sequence[Episode]) -> None:
    for episode in episodes:
        assert episode.outcome in (Outcome.DONE, Outcome.TRUNCATED, Outcome.FORMAT), episode.error
        for step in episode.steps:
            completion = step.decision.completion
            assert completion is not None
            assert "Observation:" not in completion.text
            assert parse(completion.text, completion) == step.decision
            assert completion.prompt_tokens
            assert completion.seconds > 0
            assert completion.waited >= 0
            if step.decision.action:
                assert completion.action_tokens
                assert completion.stop == "stop"


def test_a_base_model_says_over_http_what_it_says_here(server: Serve, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"tasks": "builtin-dev[:6]", "max_steps": 6}
    here = {"checkpoint": str(TEACHER), "batch_size": 1, "header": HEADER, "max_new_tokens": MOST}
    local = harness.evaluate(
        AgentConfig(name="here", policy="react", options=here),
        "alfworld", out=tmp_path, **settings,
    )  # fmt: skip
    served = harness.evaluate(
        agent(server, TEACHER, "completions"), "alfworld", out=tmp_path, workers=3, **settings
    )
    episodes = list(served.episodes())
    check_sane(episodes)
    assert sum(len(e.steps) for e in episodes) >= 20
    assert replies(episodes) == replies(list(local.episodes()))
    assert served.summary.successes == local.summary.successes


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_model_reads_its_template_and_nothing_else(
    server: Serve, chatty: dict[str, Path], tmp_path: Path, template: str
) -> None:
    """Each recorded reply is ``generate``'s on the template over the recorded transcript."""
    folder = chatty[template]
    run = harness.evaluate(
        agent(server, folder, "chat"),
        "alfworld", tasks="builtin-dev[:3]", out=tmp_path, max_steps=4, workers=3,
    )  # fmt: skip
    episodes = list(run.episodes())
    check_sane(episodes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for episode in episodes:
        for k, step in enumerate(episode.steps):
            header = HEADER.replace("{instruction}", episode.instruction)
            blocks = render(header, episode.steps[:k], step.observation)
            ids = tokenizer.apply_chat_template(
                messages(blocks[0], blocks[1:]), add_generation_prompt=True, return_tensors="pt"
            )["input_ids"]
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST, do_sample=False,
                stop_strings=["\nObservation:"], tokenizer=tokenizer,
            )  # fmt: skip
            said = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            completion = step.decision.completion
            assert completion is not None
            assert completion.prompt_tokens == ids.shape[1]
            expected = read({"message": {"content": said}}, None, "chat")
            assert (completion.text, completion.hidden) == (expected.text, expected.hidden)


@pytest.fixture(scope="module", params=["strips", "opens"])
def thinker(request: Any, tmp_path_factory: Any) -> Path:
    """A tiny model that has learned Echo with a hidden thought before each reply."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATES[request.param]
    rows, given = [], []
    for word in WORDS:
        steps = transcript(word)
        for k, step in enumerate(steps):
            blocks = render(opening(word), steps[:k], step.observation)
            prompt = tokenizer.apply_chat_template(
                messages(blocks[0], blocks[1:]), add_generation_prompt=True
            )["input_ids"]
            thought = f"hidden {k}\n</think>\n\n"
            if request.param == "strips":
                thought = "<think>\n" + thought
            reply = thought + f"Reasoning: {step.decision.reasoning}\nAction: say {word}"
            rows.append([*prompt, *tokenizer(reply)["input_ids"], 0])
            given.append(len(prompt))
    folder = fit(tmp_path_factory.mktemp(request.param), rows, 240, given)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_thinking_model_wins_and_its_earlier_thoughts_are_not_shown(
    server: Serve, thinker: Path
) -> None:
    policy = ReActPolicy(**agent(server, thinker, "chat").options)
    tokenizer = AutoTokenizer.from_pretrained(thinker)
    for word in WORDS:
        task = Task("echo", "valid", f"valid/{word}")
        episode = play_episode(policy, Echo(), task, agent="a", protocol=Protocol(6))
        assert (episode.outcome, episode.success) == (Outcome.DONE, True)
        for k, step in enumerate(episode.steps):
            assert step.decision.reasoning == decision(word, k).reasoning
            completion = step.decision.completion
            assert completion is not None
            assert completion.hidden == f"hidden {k}"
            assert completion.reasoning_tokens is not None
            assert completion.reasoning_tokens > len(tokenizer(completion.hidden)["input_ids"]) / 2
            # What it read holds no thought of an earlier step: per-step samples, no prefix.
            blocks = render(opening(word), episode.steps[:k], step.observation)
            prompt = tokenizer.apply_chat_template(
                messages(blocks[0], blocks[1:]), add_generation_prompt=True, tokenize=False
            )
            assert "hidden" not in prompt
            assert completion.prompt_tokens == len(tokenizer(prompt)["input_ids"])


def test_what_the_server_refuses_is_an_error_that_says_so(server: Serve) -> None:
    def ask(model: str, **settings: Any) -> str:
        config = ServerConfig(url=server.url, model=model, pause=0.0, retries=1, **settings)
        with pytest.raises(BackendError) as caught:
            ServerBackend(config).complete(
                render("Task: x\n", (), "o"), Decoding(max_new_tokens=4), 0
            )
        return str(caught.value)

    assert "no_such_field" in ask(str(TEACHER), api="completions", extra={"no_such_field": 1})
    assert "HTTP 500" in ask("/no/such/model")
    assert "HTTP 500" in ask(str(TEACHER), api="chat")  # no chat template


def test_a_server_killed_in_a_run_leaves_errors_and_the_run_resumes(
    python: Path, tmp_path: Path
) -> None:
    server = Serve(python, tmp_path / "serve.log")
    try:
        done: list[Episode] = []
        enough = threading.Event()

        def seen(episode: Episode, total: int) -> None:
            done.append(episode)
            if len(done) == 2:
                server.kill()
                enough.set()

        config = agent(server, TEACHER, "completions", retries=1)
        run = harness.evaluate(
            config, "alfworld", tasks="builtin-dev[:8]", out=tmp_path, max_steps=4, workers=2,
            on_episode=seen,
        )  # fmt: skip
        assert enough.is_set()
        assert run.summary.errors >= 4
        assert run.summary.n + run.summary.errors == 8
        assert {e.error.kind for e in run.episodes() if e.error} == {"BackendError"}
        server.start()
        again = harness.resume(run.path, retry_errors=True)
        assert (again.summary.n, again.summary.errors) == (8, 0)
        whole = harness.evaluate(
            config, "alfworld", tasks="builtin-dev[:8]", out=tmp_path, max_steps=4, workers=2
        )
        assert replies(list(again.episodes())) == replies(list(whole.episodes()))
    finally:
        server.kill()


def test_steps_are_recorded_as_the_next_prompt_shows_them(server: Serve) -> None:
    """A reply that runs on past its action, or into an observation, is cut where it was cut."""
    backend = ServerBackend(ServerConfig(url=server.url, model=str(TEACHER), api="completions"))
    steps: list[Step] = []
    for k in range(3):
        blocks = render("Task: put a mug in desk.\n", steps, f"Nothing happens, {k}.")
        completion = backend.complete(blocks, Decoding(max_new_tokens=60), 0)
        steps.append(Step(f"Nothing happens, {k}.", parse(completion.text, completion)))
        assert completion.text.count("Action:") <= 1

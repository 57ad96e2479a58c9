"""``export --push``: one commit to a stand-in hub, private unless told, the token in no word."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import harness

pytest.importorskip("huggingface_hub", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

TOKEN = "hf_secret7261"


class Hub(ThreadingHTTPServer):
    """Enough of the hub's API to take a small commit. ``public``: the repository is there already
    and public; ``refuses``: the status that everything is answered with."""

    daemon_threads = True

    def __init__(self, *, public: bool = False, refuses: int | None = None) -> None:
        self.public, self.refuses = public, refuses
        self.created: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.tokens: set[str | None] = set()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, path: str, body: bytes) -> tuple[int, object]:
        if self.refuses:
            return self.refuses, {"error": f"no right to write with {TOKEN}"}
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            url = f"{self.url}/datasets/me/episodes"
            return (409 if self.public else 200), {"url": url, "name": "me/episodes"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/datasets/me/episodes/preupload/main":
            return 200, {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
            }
        if path == "/api/datasets/me/episodes/commit/main":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            commit = f"{self.url}/datasets/me/episodes/commit/abc"
            return 200, {"commitUrl": commit, "commitOid": "abc", "success": True}
        if path == "/api/datasets/me/episodes":
            return 200, {"id": "me/episodes", "private": not self.public, "sha": "abc",
                         "siblings": [], "tags": []}  # fmt: skip
        return 404, {"error": f"no {path} here"}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/datasets/" in self.path or "/repos/" in self.path:
            self.server.tokens.add(self.headers.get("Authorization"))
        status, found = self.server.answer(self.path.partition("?")[0], body)
        reply = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub(**kind):
    with Hub(**kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    return harness.evaluate("expert", "alfworld", tasks="builtin-dev[:2]", out=out).path


def push(
    run: Path, to: Path, *args: str, url: str = "http://127.0.0.1:9", token: str | None = TOKEN
):
    """The command in a process of its own, with a home that a login was made in."""
    home = to.parent / "home"
    home.mkdir(exist_ok=True)
    (home / "token").write_text("hf_ofalogin")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(home)} | ({"HF_TOKEN": token} if token else {})
    command = [sys.executable, "-P", "-m", "harness", "export", str(run), "--to", str(to),
               "--as", "spans", *args]  # fmt: skip
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    for secret in (TOKEN, "hf_ofalogin", "Traceback"):
        assert secret not in done.stdout + done.stderr
    return done


def held(folder: Path) -> dict[str, bytes]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.mark.parametrize("public", [False, True])
def test_a_folder_is_sent_whole_and_private_unless_told(run, tmp_path, public):
    to = tmp_path / "data"
    with hub() as server:
        done = push(run, to, "--push", "me/episodes", *["--public"] * public, url=server.url)
        assert done.returncode == 0, done.stderr
        (made,) = server.created
        assert (made["type"], made["name"], made["organization"]) == ("dataset", "episodes", "me")
        assert made.get("private", made.get("visibility") == "private") is not public
        assert server.files == held(to)
        assert set(server.files) == {"README.md", "spans/train.jsonl"}
        assert server.tokens == {f"Bearer {TOKEN}"}
        assert done.stdout.split() == [str(to), f"{server.url}/datasets/me/episodes"]


def test_a_public_repository_gets_nothing_unless_told(run, tmp_path):
    with hub(public=True) as server:
        done = push(run, tmp_path / "a", "--push", "me/episodes", url=server.url)
        assert done.returncode == 2
        assert "is there already and is public; nothing was sent" in done.stderr
        assert not server.files
        done = push(run, tmp_path / "b", "--push", "me/episodes", "--public", url=server.url)
        assert done.returncode == 0, done.stderr
        assert server.files == held(tmp_path / "b")


def test_a_hub_that_refuses_or_is_not_there(run, tmp_path):
    with hub(refuses=403) as server:
        done = push(run, tmp_path / "a", "--push", "me/episodes", url=server.url)
        assert done.returncode == 2
        assert "'me/episodes' could not be sent" in done.stderr
        assert "403" in done.stderr
    assert held(tmp_path / "a")
    done = push(run, tmp_path / "b", "--push", "me/episodes")
    assert done.returncode == 2
    assert f"could not be sent; the folder {tmp_path / 'b'} is whole" in done.stderr


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        ("episodes", TOKEN, "--push takes OWNER/NAME, not 'episodes'"),
        ("me/my episodes", TOKEN, "--push takes OWNER/NAME, not 'me/my episodes'"),
        ("a/b/c", TOKEN, "--push takes OWNER/NAME, not 'a/b/c'"),
        ("me/episodes", None, "environment variable HF_TOKEN"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(run, tmp_path, name, token, message):
    done = push(run, tmp_path / "data", "--push", name, token=token)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "data").exists()

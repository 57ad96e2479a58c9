"""A chat server for the tests of the server backend, and how they ask it."""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from harness_agents.backends.server import ServerBackend, ServerConfig

from harness.policy import Decoding
from harness.transcript import render

KEY = "sk-secret-7261"


class Server:
    """Answers POSTs with what ``answer(body, n)`` says: (status, body[, headers]), a function of
    the handler that writes by itself, or a raised ConnectionError that drops the connection."""

    def __init__(self, answer):
        self.bodies, self.headers, self.paths, self.clients = [], [], [], set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                outer.clients.add(self.client_address)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.bodies.append(body)
                outer.headers.append(dict(self.headers))
                outer.paths.append(self.path)
                try:
                    found = answer(body, len(outer.bodies))
                except ConnectionError:
                    self.close_connection = True
                    return
                if callable(found):
                    found(self)
                    return
                status, reply, *more = found
                raw = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                with contextlib.suppress(ConnectionError):  # the client may have given up
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

"""A local server for the pages: loopback only, GET only, and only to pages of this very server.

    /                 leaderboard of the results folder, and its runs
    /run/N            episodes of run N
    /run/N/M          runs N and M side by side

Requests with another Host (a name that was made to resolve here) or another Origin are refused.
"""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness import leaderboard
from harness.errors import HarnessError
from harness.pages import document, episodes_page, escape, leaderboard_page
from harness.runs import Run, find_runs

_RUN = re.compile(r"\A/run/(\d{1,6})(?:/(\d{1,6}))?\Z")


def make_server(results: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a results folder on 127.0.0.1, not yet serving; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "harness", ""

        def do_GET(self) -> None:
            own = {f"{name}:{self.server.server_address[1]}" for name in ("127.0.0.1", "localhost")}  # type: ignore[index]
            origin = self.headers.get("Origin")
            if self.headers.get("Host") not in own or (
                origin is not None and origin not in {f"http://{host}" for host in own}
            ):
                self._send(403, "text/plain; charset=utf-8", "Only for pages of this server.\n")
                return
            try:
                page = render(results, self.path.partition("?")[0])
            except HarnessError as error:
                message = f'<main class="page"><p>{escape(str(error))}</p></main>'
                self._send(409, "text/html; charset=utf-8", document("harness", message))
                return
            if page is None:
                self._send(404, "text/plain; charset=utf-8", "No such page.\n")
                return
            self._send(200, "text/html; charset=utf-8", page)

        def _send(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("X-Frame-Options", "DENY")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def render(results: Path, path: str) -> str | None:
    """The page at a path; None: there is none."""
    runs = find_runs(results)
    if path == "/":
        return _front(runs)
    found = _RUN.match(path)
    numbers = [int(n) for n in found.groups() if n is not None] if found else []
    if not numbers or max(numbers) >= len(runs):
        return None
    return episodes_page([runs[n] for n in numbers])


def _front(runs: list[Run]) -> str:
    board = leaderboard_page(leaderboard.boards(runs))
    rows = []
    for number, run in reversed(list(enumerate(runs))):
        meta = run.meta
        beside = " ".join(
            f'<a href="/run/{number}/{other}">{escape(runs[other].meta.agent.name)}</a>'
            for other in range(len(runs))
            if other != number and runs[other].meta.task_set_hash == meta.task_set_hash
        )
        rows.append(
            f'<tr><td><a href="/run/{number}">{escape(meta.agent.name)}</a></td>'
            f"<td>{escape(meta.task_set.name)}</td><td>{escape(meta.kind)}</td>"
            f"<td>{escape(meta.status)}</td><td>{escape(meta.started)}</td><td>{beside}</td></tr>"
        )
    heads = "".join(
        f'<th scope="col">{h}</th>'
        for h in ("episodes of", "task set", "kind", "status", "started", "beside")
    )
    table = (
        f'<main class="page"><h2>Runs</h2><div class="scroll"><table><tr>{heads}</tr>'
        f"{''.join(rows)}</table></div></main>"
    )
    return board.replace("</body>", table + "</body>")

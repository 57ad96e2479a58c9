"""A local server for the pages: loopback only, GET only, and only to pages of this very server.

    /                                       leaderboard of the results folder, and its runs
    /run/ENV/AGENT/ID                       episodes of a run
    /run/ENV/AGENT/ID/ENV/AGENT/ID          two runs side by side

Requests with another Host (a name that was made to resolve here) or another Origin are refused.
A path is looked up among the runs found, never opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

from harness import leaderboard
from harness.errors import ConfigError, HarnessError
from harness.pages import document, episodes_page, escape, leaderboard_page
from harness.runs import Run, find_runs


def make_server(results: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a results folder on 127.0.0.1, not yet serving; port 0 takes a free one.

    Raises ConfigError where there is no such folder, or the port cannot be had.
    """
    if not results.is_dir():
        raise ConfigError(f"No results folder '{results}' to serve. Make a run, or give --out.")

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "harness", ""

        def do_GET(self) -> None:
            own = hosts(self.server.server_port)  # type: ignore[attr-defined]
            origin = self.headers.get("Origin")
            if self.headers.get("Host") not in own or (
                origin is not None and origin not in {f"http://{host}" for host in own}
            ):
                self._send(403, "text/plain; charset=utf-8", "Only for pages of this server.\n")
                return
            try:
                page = render(results, self.path.partition("?")[0])
            except (HarnessError, OSError) as error:
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

        def handle(self) -> None:
            with suppress(ConnectionError):  # the browser went away
                super().handle()

        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        return ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigError(f"Port {port} cannot be had: {error}. Another --port?") from None


def hosts(port: int) -> set[str]:
    """What a browser's Host header may say for this server; HTTP's own port is left out of it."""
    names = ("127.0.0.1", "localhost")
    return {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())


def render(results: Path, path: str) -> str | None:
    """The page at a path; None: there is none."""
    damaged: list[str] = []
    named = {}
    for run in find_runs(results, lambda error: damaged.append(str(error))):
        try:
            named[_name(results, run)] = run
        except ConfigError as error:  # a link that leads out of the folder
            damaged.append(str(error))
    if path == "/":
        return _front(results, list(named.values()), damaged)
    parts = [unquote(part) for part in path.split("/")]
    if parts[:2] != ["", "run"] or len(parts) not in (5, 8):
        return None
    asked = [tuple(parts[i : i + 3]) for i in range(2, len(parts), 3)]
    if not all(name in named for name in asked):
        return None
    return episodes_page([named[name] for name in asked])


def address(results: Path, runs: Sequence[Run]) -> str:
    """The path of the page that shows these runs. Raises ConfigError for one outside ``results``,
    and for runs that share no page."""
    if len({run.meta.task_set_hash for run in runs}) > 1:
        raise ConfigError("These runs score different things and share no page.")
    return "/run/" + "/".join(quote(part, safe="") for run in runs for part in _name(results, run))


def _name(results: Path, run: Run) -> tuple[str, ...]:
    root, folder = results.resolve(), run.path.resolve()
    if len(folder.parts) != len(root.parts) + 3 or root not in folder.parents:
        raise ConfigError(f"{run.path} is not in {results}: serve its folder with --out.")
    return folder.parts[-3:]


def _front(results: Path, runs: list[Run], damaged: list[str]) -> str:
    boards = leaderboard.boards(runs, on_damage=lambda error: damaged.append(str(error)))
    sets: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        sets.setdefault(run.meta.measure, []).append(run)
    rows = []
    for run in reversed(runs):
        meta = run.meta
        beside = " ".join(
            _link(results, [run, other], other.meta.agent.name)
            for other in sets[meta.measure]
            if other is not run
        )
        rows.append(
            f"<tr><td>{_link(results, [run], meta.agent.name)}</td>"
            f"<td>{escape(meta.task_set.name)}</td><td>{escape(meta.kind)}</td>"
            f"<td>{escape(meta.status)}</td><td>{escape(meta.started)}</td><td>{beside}</td></tr>"
        )
    heads = "".join(
        f'<th scope="col">{h}</th>'
        for h in ("episodes of", "task set", "kind", "status", "started", "beside")
    )
    table = f'<h2>Runs</h2><div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'
    return leaderboard_page(boards, notes=damaged, below=table)


def _link(results: Path, runs: Sequence[Run], text: str) -> str:
    return f'<a href="{escape(address(results, runs))}">{escape(text)}</a>'

"""Pages and the viewer: what they show, and that hostile text stays text."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import threading

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import harness
from harness import leaderboard, pages, view
from harness.cli import app
from harness.errors import ConfigError
from harness.recorder import EPISODES
from harness.runs import Run, find_runs
from harness.serve import address, hosts, make_server
from harness.types import Decision, Episode, Outcome, Step, Task

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HOSTILE = [
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    "<!--<script>",
    "\u2028\u2029 & &lt; ]]>",
    "\x1b[2J\x1b]0;pwned\x07\x9b31m",
    "javascript:alert(1)//<a href=javascript:alert(1)>",
]


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    for name in ("expert", "random"):
        harness.evaluate(name, "alfworld", tasks="builtin-dev[:6]", out=out)
    return out, {r.meta.agent.name: r for r in find_runs(out) if r.meta.kind == "run"}


@pytest.fixture
def hostile(played, tmp_path):
    """A run in which every text that an environment or a model writes is an attack."""
    run = played[1]["expert"]
    for file in run.path.iterdir():
        shutil.copy(file, tmp_path)
    task = next(run.episodes()).task
    steps = tuple(Step(text, Decision(text, text), 0.0, executed=text) for text in HOSTILE)
    episode = Episode(
        msgspec.structs.replace(task, id=HOSTILE[0]), HOSTILE[1], HOSTILE[1], steps, HOSTILE[0],
        False, 0.0, Outcome.DONE, task_type=HOSTILE[1],
    )  # fmt: skip
    (tmp_path / EPISODES).write_bytes(msgspec.json.encode(episode) + b"\n")
    return Run(tmp_path)


def page_data(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def test_a_page_holds_every_episode_as_recorded(played):
    run = played[1]["expert"]
    data = page_data(pages.episodes_page([run]))
    assert (len(data["rows"]), data["agents"]) == (6, ["expert"])
    rows = {(r["task"], r["seed"], r["attempt"]): r["episodes"] for r in data["rows"]}
    for episode in run.episodes():
        (shown,) = rows[episode.key]
        assert [s["o"] for s in shown["steps"]] == [s.observation for s in episode.steps]
        assert [s["a"] for s in shown["steps"]] == [s.decision.action for s in episode.steps]
        assert shown["final"] == episode.final_observation


@given(st.text())
def test_no_text_leaves_its_script_element(text):
    shown = pages.safe_json({"t": text})
    assert not set("<>&\u2028\u2029") & set(shown)
    assert json.loads(shown) == {"t": text}


def test_hostile_text_stays_text(hostile):
    page = pages.episodes_page([hostile])
    assert "<img" not in page
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert page_data(page)["rows"][0]["episodes"][0]["steps"][1]["o"] == HOSTILE[1]
    assert "default-src 'none'" in page


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_real_browser_shows_the_text_and_runs_none_of_it(hostile, played, tmp_path):
    for name, runs in (("bad", [hostile]), ("good", [played[1]["expert"], played[1]["random"]])):
        file = tmp_path / f"{name}.html"
        view.write_page(file, pages.episodes_page(runs))
        dom = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
             "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / name}", file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
        assert "<title>pwned" not in dom
        assert "<img" not in dom
        shown = dom[dom.index('<ol class="episodes">') :]
        if name == "bad":
            assert shown.count('<article class="step"') == len(HOSTILE) + 1
            assert "&lt;img src=x" in shown
        else:
            assert "6 of 6" in dom
            assert "They part at step" in shown


def test_the_leaderboard_page_shows_every_row_with_its_interval(played):
    boards = leaderboard.boards(find_runs(played[0]))
    page = pages.leaderboard_page(boards)
    assert page.count("<tr") == 3
    assert "100.0 %" in page
    assert 'class="whisker"' in page
    assert "No complete runs" in pages.leaderboard_page([])


def test_a_name_on_the_leaderboard_is_escaped(played):
    board = leaderboard.boards(find_runs(played[0]))[0]
    rows = tuple(msgspec.structs.replace(r, agent=HOSTILE[1]) for r in board.rows)
    page = pages.leaderboard_page([msgspec.structs.replace(board, rows=rows)])
    assert "<img" not in page


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1)), min_size=1, max_size=12))
def test_the_front_is_what_nobody_beats(points):
    kept = pages.front(points)
    for x, y in points:
        beaten = any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
        assert beaten or (x, y) in kept
    assert all(p in points for p in kept)


def test_runs_of_different_sets_and_long_runs_make_no_page(played, tmp_path):
    other = harness.evaluate("random", "alfworld", tasks="builtin-dev[:2]", out=tmp_path)
    with pytest.raises(ConfigError, match="share no page"):
        pages.episodes_page([played[1]["random"], other])
    with pytest.raises(ConfigError, match="too many"):
        pages.episodes_page([other], most=1)


def test_the_terminal_lists_filters_and_shows(played):
    out, runs = played
    call = CliRunner().invoke
    listed = call(app, ["view", "random", "--out", str(out), "--failed"])
    assert listed.exit_code == 0
    lost = sum(not e.success for e in runs["random"].episodes())
    assert listed.stdout.count(" lost ") == lost
    task = next(runs["expert"].episodes()).task.id
    one = call(app, ["view", "expert", "--out", str(out), "--task", task])
    assert "step 1" in one.stdout
    assert "done, won" in one.stdout
    both = call(app, ["view", "expert", "random", "--out", str(out), "--task", task])
    assert both.stdout.count("step 1 ") == 2
    nothing = call(app, ["view", "expert", "--out", str(out), "--errors"])
    assert isinstance(nothing.exception, ConfigError)


def test_escape_sequences_do_not_reach_the_terminal(hostile):
    console = Console(width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        view.show(console, [hostile], view.Wanted(task=HOSTILE[0]))
    assert "\x1b]0;" not in capture.get()
    assert "\x1b[2J" not in capture.get()
    assert "\\x1b[2J" in capture.get()


def test_where_two_episodes_part():
    def episode(*actions):
        steps = tuple(Step("o", Decision("", a)) for a in actions)
        return Episode(Task("e", "v", "1"), "a", "i", steps, "f", True, 1.0, Outcome.DONE)

    assert view.parting(episode("a", "b"), episode("a", "c")) == 1
    assert view.parting(episode("a", "b"), episode("a", "b")) is None
    assert view.parting(episode("a"), episode("a", "b")) == 1


@pytest.fixture
def server(played):
    found = make_server(played[0])
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def get(server, path, **headers):
    port = server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest("GET", path, skip_host=True)
    for key, value in {"Host": f"localhost:{port}", **headers}.items():
        connection.putheader(key, value)
    connection.endheaders()
    reply = connection.getresponse()
    return reply.status, reply.read().decode()


def test_the_server_serves_its_pages_and_nothing_else(server, played):
    status, front = get(server, "/")
    assert status == 200
    assert front.count('href="/run/') >= 4
    assert front.count("<main") == 1
    runs = played[1]
    status, page = get(server, address(played[0], [runs["random"]]))
    assert (status, len(page_data(page)["rows"])) == (200, 6)
    status, page = get(server, address(played[0], [runs["expert"], runs["random"]]))
    assert (status, page_data(page)["agents"]) == (200, ["expert", "random"])
    name = runs["random"].path.name
    for path in ("/run/0", "/run/alfworld/random/x", "/../../etc/passwd", "/style.css",
                 f"/run/alfworld/random/../random/{name}", f"/run/alfworld//{name}",
                 f"/run/alfworld/random/{name}/alfworld/random"):  # fmt: skip
        assert get(server, path)[0] == 404


def test_the_server_answers_only_its_own_pages(server):
    port = server.server_address[1]
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/", Host="evil.example")[0] == 403
    assert get(server, "/", Host=f"evil.example:{port}")[0] == 403
    assert get(server, "/", Origin="http://evil.example")[0] == 403
    assert get(server, "/", Origin="null")[0] == 403
    assert get(server, "/", Origin=f"http://localhost:{port}")[0] == 200

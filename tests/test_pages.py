"""Pages and the viewer: what they show, and that hostile text stays text."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import shutil
import subprocess

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import harness
from harness import comparison_text, leaderboard, listing, pages, view
from harness.cli import app
from harness.comparison import compare
from harness.comparison_page import comparison_page
from harness.errors import ConfigError
from harness.plain import plain
from harness.recorder import EPISODES
from harness.runs import Run, find_runs, write_meta, write_metrics
from harness.sides import labels
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
        dom = browse(file.as_uri(), tmp_path / name)
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
    types = {e.task_type for e in played[1]["expert"].episodes()}
    assert page.count("<tr") == (6 if len(types) > 1 else 3)
    for name in types:
        n = sum(e.task_type == name for e in played[1]["expert"].episodes())
        assert f'<th scope="col">{name}</th>' in page
        assert f"<td>100.0 % of {n}</td>" in page
    # All that the widest table has, on a footnote's word.
    for board in boards:
        for heading, _ in leaderboard.columns(board, more=True):
            assert f">{heading}<" in page
        for row in board.rows:
            for cell in leaderboard.cells(board, row, more=True):
                assert cell == "-" or f">{pages.escape(cell)}<" in page
    assert 'class="whisker"' in page
    assert page.count('<tr class="overlaps-above">') == 0
    assert "which does not make them equal" in page
    assert '"= "' not in page
    assert "No complete runs" in pages.leaderboard_page([])


def test_the_page_of_a_comparison_says_what_the_text_says(played, tmp_path):
    out, runs = played
    file = tmp_path / "c.html"
    words = ["compare", "expert", "random", "--out", str(out), "--page", str(file)]
    assert CliRunner().invoke(app, words).exit_code == 0
    page = file.read_text()
    found = compare(runs["expert"], runs["random"])
    assert f"<strong>{comparison_text.verdict(found)}</strong>" in page
    assert comparison_text.sentences(found)[1] in page
    for row in comparison_text.rows(found):
        assert "<tr>" + "".join(f"<td>{pages.escape(cell)}</td>" for cell in row) in page
    drawn = [p for p in (found.success, *found.by_type) if p.difference is not None]
    assert page.count('class="point"') == len(drawn)
    assert page.count('class="whisker"') == sum(p.low is not None for p in drawn)
    assert all(d.task_id in page for d in found.differing)
    named = msgspec.structs.replace(found, a=HOSTILE[1], b=HOSTILE[0])
    assert "<img" not in comparison_page([named])
    assert "<script" not in comparison_page([named])


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160])
def test_a_terminal_cuts_no_cell_of_the_leaderboard(played, width):
    board = leaderboard.boards(find_runs(played[0]))[0]
    agent = "ours-tiny+admissible" if width == 40 else "teacher-tiny"
    rows = [*board.rows, msgspec.structs.replace(board.rows[0], agent=agent)]
    board = msgspec.structs.replace(board, rows=tuple(rows))
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(leaderboard.table(board, width))
    lines = capture.get().splitlines()
    assert "…" not in capture.get()
    assert max(map(len, lines)) <= width
    heads = [heading for heading, _ in leaderboard.columns(board)]
    shown = next(line for line in lines if "success" in line and "errors" in line)
    for row in board.rows:
        values = dict(zip(heads, leaderboard.cells(board, row), strict=True))
        wanted = [value for heading, value in values.items() if heading in shown]
        if width > 40:
            line = next(line for line in lines if f" {row.agent} " in line)
            assert [cell.strip() for cell in line.strip("│").split("│")] == wanted
    assert all(heading in shown for heading in ("success", "95 % interval", " n ", "errors"))
    told = " ".join(capture.get().split())
    hidden = [heading for heading in heads if heading not in shown]
    assert (f"No room for {', '.join(hidden)}: a wider terminal" in told) is bool(hidden)
    assert (width < 160) is bool(hidden)


@pytest.mark.parametrize("width", [50, 60, 80, 100, 160])
def test_a_terminal_cuts_no_cell_of_a_comparison(played, width):
    found = compare(played[1]["expert"], played[1]["random"], draws=100)
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(comparison_text.table(found, width))
    lines = capture.get().splitlines()
    assert "…" not in capture.get()
    assert max(map(len, lines)) <= width
    heads = comparison_text.head(found)
    shown = [heading for heading in heads if f" {heading} " in f" {lines[1]} {lines[2]} "]
    assert {"expert", "random", "difference", "95 % interval"} <= {*shown}
    _, *cells = comparison_text.rows(found)[0]
    line = next(line for line in lines if "success" in line)
    kept = [cell for heading, cell in zip(heads[1:], cells, strict=True) if heading in shown]
    assert " ".join(line.replace("│", " ").split()) == " ".join(["success", *kept])
    told = " ".join(capture.get().split())
    hidden = [heading for heading in heads if heading not in shown]
    assert (f"No room for {', '.join(hidden)}: a wider terminal" in told) is bool(hidden)
    assert (width < 100) is bool(hidden)


def test_the_leaderboard_says_whose_run_is_the_newest_of_several(played, tmp_path):
    run = played[1]["random"]
    (board,) = leaderboard.boards([run])
    assert not leaderboard.footnotes(board)
    copies = []
    for number in (1, 2, 3):
        write_meta(tmp_path / str(number),
                   msgspec.structs.replace(run.meta, started=f"2030-01-0{number}"))  # fmt: skip
        rows = run.metrics
        if number == 3:
            broken = {"outcome": Outcome.ERROR, "success": None, "score": None}
            rows = [msgspec.structs.replace(rows[0], **broken), *rows[1:]]
        write_metrics(tmp_path / str(number), rows)
        copies.append(Run(tmp_path / str(number)))
    (board,) = leaderboard.boards([*reversed(copies), run])
    (row,) = board.rows
    assert (row.run, row.runs, row.whole) == (str(tmp_path / "3"), 4, str(tmp_path / "2"))
    newest, hidden = leaderboard.footnotes(board)
    assert "random of 4 (`harness list runs`" in newest
    assert f"1 episodes of the newest run broke; the older {tmp_path / '2'} has none" in hidden
    assert pages.escape(newest) in pages.leaderboard_page([board])
    (copies[1].path / "metrics.jsonl").write_text("{")
    (board,) = leaderboard.boards([Run(copy.path) for copy in copies])
    assert board.rows[0].whole == str(tmp_path / "1")


def test_the_leaderboard_says_where_one_name_stands_for_two_policies(played, tmp_path):
    run = played[1]["random"]
    said = [
        {"weights_sha256": "a" * 64},
        {"weights_sha256": "b" * 64},
        {"weights_sha256": "b" * 64},
    ]
    for number, policy in enumerate(said):
        meta = msgspec.structs.replace(run.meta, started=f"203{number}", policy=policy)
        write_meta(tmp_path / str(number), meta)
        write_metrics(tmp_path / str(number), run.metrics)
    copies = [Run(tmp_path / str(number)) for number in range(3)]
    (board,) = leaderboard.boards(copies)
    _, unlike = leaderboard.footnotes(board)
    assert "random: 2 policies, unlike in weights_sha256, played under this name" in unlike
    (board,) = leaderboard.boards(copies[1:])
    assert len(leaderboard.footnotes(board)) == 1
    # A policy that says nothing of itself is what its config says.
    for number, script in enumerate(("a", "a", "b")):
        meta = msgspec.structs.replace(
            copies[number].meta, policy={},
            agent=msgspec.structs.replace(run.meta.agent, options={"script": script}),
        )  # fmt: skip
        write_meta(tmp_path / str(number), meta)
    (board,) = leaderboard.boards([Run(copy.path) for copy in copies])
    assert "random: 2 policies, unlike in script, played" in leaderboard.footnotes(board)[-1]


def test_the_leaderboard_says_where_cot_is_matched_with_unlike_references(played):
    runs = leaderboard.boards([*played[1].values()])[0].rows
    row = msgspec.structs.replace(
        runs[0], summary=msgspec.structs.replace(runs[0].summary, cot_overlap_n=3)
    )
    meta = played[1]["random"].meta

    def board(*said):
        rows = [
            msgspec.structs.replace(row, agent=f"agent{i}", reference=name, reference_hash=won)
            for i, (name, won) in enumerate(said)
        ]
        return leaderboard.board(meta, rows)

    # One name is one reference where nobody tells that it won other tasks.
    for same in ([("a", "1"), ("a", "1")], [("a", "1"), ("a", None)], [("a", None)] * 2):
        assert "CoT reference a" in leaderboard.title(board(*same))
        assert not any("unlike" in note for note in leaderboard.footnotes(board(*same)))
    for other in ([("a", "1"), ("b", "2")], [("a", "1"), ("a", "2")], [("a", None), ("b", None)]):
        assert "CoT reference" not in leaderboard.title(board(*other))
        (note,) = (n for n in leaderboard.footnotes(board(*other)) if "unlike" in n)
        assert f"agent0 with {other[0][0]}; agent1 with {other[1][0]}" in note
    # Where nothing was matched there is nothing to tell apart.
    row = msgspec.structs.replace(
        row, summary=msgspec.structs.replace(row.summary, cot_overlap_n=0)
    )
    assert not any("unlike" in n for n in leaderboard.footnotes(board(("a", "1"), ("b", "2"))))


def test_a_run_of_an_environment_that_is_not_here_can_be_read(played, tmp_path):
    run = played[1]["random"]
    gone = msgspec.structs.replace(run.meta.task_set, env="gone")
    meta = msgspec.structs.replace(run.meta, task_set=gone, task_set_hash=gone.hash)
    write_meta(tmp_path, meta)
    write_metrics(tmp_path, run.metrics)
    (board,) = leaderboard.boards([Run(tmp_path)])
    assert board.rows[0].summary.worth == board.rows[0].summary.n
    assert "'gone' is not installed here" in leaderboard.footnotes(board)[-1]


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


@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_stand_apart_and_inside(heights):
    placed = pages._apart(heights, 100.0)
    assert all(b - a > 13.99 for a, b in itertools.pairwise(sorted(placed)))
    assert max(placed, default=0.0) <= 100.0
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert order == sorted(range(len(placed)), key=placed.__getitem__)


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


MARKUP = ["buy [size: small] thing", "close [/b] it", "[link=http://evil]x[/link]", "[bold]gone"]


@pytest.mark.parametrize("text", [*MARKUP, "\x1b[2Jx", "\x1b]0;pwned\x07x", "\u202egnp"])
def test_recorded_text_is_neither_markup_nor_command(played, tmp_path, text):
    """In every listing: instructions, types, ids, names of agents and task sets."""
    run = played[1]["expert"]
    folder = tmp_path / "alfworld" / "x" / "r1"
    named = msgspec.structs.replace(run.meta.agent, name=text)
    task_set = msgspec.structs.replace(run.meta.task_set, name=f"alfworld/{text}")
    meta = msgspec.structs.replace(run.meta, agent=named, task_set=task_set)
    write_meta(folder, meta)
    write_metrics(folder, [msgspec.structs.replace(r, task_type=text) for r in run.metrics])
    episodes = [
        msgspec.structs.replace(
            e, instruction=text, task_type=text, task=msgspec.structs.replace(e.task, id=text)
        )
        for e in run.episodes()
    ]
    (folder / EPISODES).write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
    hostile = Run(folder)
    console = Console(width=400, force_terminal=True, color_system=None)
    found = compare(hostile, run, draws=100)
    shown = []
    for show in (
        lambda: console.print(view.listing(list(view.select([hostile])), ["x"])),
        lambda: console.print(view.listing(list(view.select([hostile, run])), [text, "y"])),
        lambda: console.print(leaderboard.table(leaderboard.boards([hostile])[0])),
        lambda: console.print(listing.runs(tmp_path)[0]),
        lambda: console.print(comparison_text.table(found)),
    ):
        with console.capture() as capture:
            show()
        shown.append(capture.get())
    shown.append("\n".join(comparison_text.sentences(found)))
    shown.append(comparison_text.markdown([found]))
    shown.append(leaderboard.markdown(leaderboard.boards([hostile])))
    for one in shown:
        assert plain(text) in one
        assert not set("\x07\u202e") & set(one)
        assert "\x1b[2J" not in one
        assert "\x1b]" not in one


def with_seeds(run, folder):
    """A copy of a run with two seeds and two attempts."""
    write_meta(folder, msgspec.structs.replace(run.meta, seeds=(0, 1), attempts=2))
    episodes = [
        msgspec.structs.replace(e, attempt=a, task=msgspec.structs.replace(e.task, seed=s))
        for e in run.episodes()
        for s in (0, 1)
        for a in (0, 1)
    ]
    (folder / EPISODES).write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
    return Run(folder)


def test_seeds_and_attempts_can_be_told_apart_and_opened(played, tmp_path):
    run = with_seeds(played[1]["expert"], tmp_path / "r")
    task = next(run.episodes()).task.id
    call = CliRunner().invoke
    listed = call(app, ["view", str(run.path), "--task", task])
    assert all(word in listed.stdout for word in ("seed", "attempt", "Several fit"))
    one = call(app, ["view", str(run.path), "--task", task, "--seed", "1", "--attempt", "1"])
    assert f"{task}, seed 1, attempt 1" in one.stdout
    rows = page_data(pages.episodes_page([run]))["rows"]
    assert len({(r["task"], r["seed"], r["attempt"]) for r in rows}) == 24


def test_the_page_shows_what_was_asked_for(played, tmp_path):
    out, runs = played
    lost = [e.task.id for e in runs["random"].episodes() if not e.success]
    file = tmp_path / "p.html"
    call = CliRunner().invoke
    words = ["view", "random", "--out", str(out), "--page", str(file)]
    assert call(app, [*words, "--failed"]).exit_code == 0
    assert sorted(r["task"] for r in page_data(file.read_text())["rows"]) == sorted(lost)
    assert call(app, [*words, "--task", lost[0]]).exit_code == 0
    assert [r["task"] for r in page_data(file.read_text())["rows"]] == [lost[0]]
    assert "No episode" in str(call(app, [*words, "--type", "nothing"]).exception)
    assert "too many" in str(call(app, [*words, "--most", "3"]).exception)
    beside = ["view", "expert", "random", "--out", str(out), "--page", str(file), "--failed"]
    assert call(app, beside).exit_code == 0
    assert len(page_data(file.read_text())["rows"]) == len(lost)


def test_a_page_has_a_size(played):
    with pytest.raises(ConfigError, match="would exceed"):
        pages.episodes_page([played[1]["expert"]], most_bytes=5000)


def test_two_runs_are_listed_beside_each_other(played):
    out, runs = played
    call = CliRunner().invoke
    both = call(app, ["view", "expert", "random", "--out", str(out), "--failed"]).stdout
    assert "they part at" in both
    assert both.count("won, ") == sum(not e.success for e in runs["random"].episodes())
    joined = call(app, ["view", "expert,random", "--out", str(out)])
    assert "one run a side" in str(joined.exception)
    assert labels([runs["expert"], runs["random"]]) == ["expert", "random"]
    assert labels([runs["expert"]] * 2) == [f"expert ({runs['expert'].path.name})"] * 2


def test_filters_add_up():
    def episode(success, invalid, outcome=Outcome.DONE):
        steps = (Step("o", Decision("", "a"), invalid=invalid),)
        return Episode(Task("e", "v", "1"), "a", "i", steps, "f", success, 1.0, outcome)

    both = view.Wanted(failed=True, invalid=True)
    assert both.fits(episode(False, True), False)
    assert not both.fits(episode(True, True), False)
    assert not both.fits(episode(False, False), False)
    assert not both.fits(episode(False, True, Outcome.ERROR), False)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_hostile_names_and_addresses_in_a_real_browser(played, tmp_path):
    """Task ids that are names of JavaScript's own, ids that look like seeds, a broken address."""
    runs = []
    ids = ["__proto__", "constructor", "t seed 1", "t"]
    for name, run in played[1].items():
        folder = tmp_path / name
        write_meta(folder, run.meta)
        found = list(run.episodes())[:4]
        episodes = [
            msgspec.structs.replace(
                e, task=msgspec.structs.replace(e.task, id=i, seed=int(i == "t"))
            )
            for e, i in zip(found, ids if name == "expert" else ["other", *ids[1:]], strict=True)
        ]
        (folder / EPISODES).write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
        runs.append(Run(folder))
    file = tmp_path / "p.html"
    view.write_page(file, pages.episodes_page(runs))
    for fragment in ("", "#100%", "#t%2F1%2F0"):
        dom = browse(file.as_uri() + fragment, tmp_path / "profile")
        assert "5 of 5" in dom
        assert dom.count('<article class="step') > 1
    assert re.search(r'aria-current="true">.{0,300}t · seed 1<', dom)


def browse(address, profile, *flags):
    """The document as a headless Chromium leaves it."""
    return subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         "--virtual-time-budget=3000", f"--user-data-dir={profile}", *flags, address],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip


def measured(page, script, file, *flags):
    """What a script of the test makes of a page, as its title."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    if "script-src '" in page:
        page = page.replace("script-src '", f"script-src 'sha256-{digest}' '", 1)
    else:
        page = page.replace(
            "form-action 'none'", f"form-action 'none'; script-src 'sha256-{digest}'"
        )
    view.write_page(file, page.replace("</body>", f"<script>{script}</script></body>"))
    dom = browse(file.as_uri(), file.parent / "profile", *flags)
    return re.search(r"<title>(.*?)</title>", dom)[1]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1200, 600])
def test_no_page_scrolls_sideways(played, tmp_path, width):
    """A leaderboard with all its columns fits 1,200 pixels; on less its table scrolls, not the
    page."""
    runs = played[1]
    (board,) = leaderboard.boards(runs.values(), teacher="expert")
    rows = [
        msgspec.structs.replace(row, agent=name)
        for row, name in zip(board.rows, ("teacher-of-1500M-parameters", "ours-tiny"), strict=True)
    ]
    board = msgspec.structs.replace(board, rows=tuple(rows))
    shown = {
        "board": pages.leaderboard_page([board]),
        "compare": comparison_page([compare(runs["expert"], runs["random"])]),
        "episode": pages.episodes_page([runs["random"]]),
        "sides": pages.episodes_page([runs["expert"], runs["random"]]),
    }
    wide = (
        "const over = (e) => Math.max(0, e.scrollWidth - e.clientWidth);"
        "document.title = over(document.documentElement) + ' '"
        " + Math.max(0, ...[...document.querySelectorAll('.scroll')].map(over));"
    )
    found = {
        name: measured(page, wide, tmp_path / f"{name}.html", f"--window-size={width},900")
        for name, page in shown.items()
    }
    assert {name: told.split()[0] for name, told in found.items()} == dict.fromkeys(shown, "0")
    if width == 1200:
        assert set(found.values()) == {"0 0"}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_an_episode_without_its_like_is_called_so(played, tmp_path):
    runs = []
    for name, kept in (("expert", slice(0, 3)), ("random", slice(1, 3))):
        run = played[1][name]
        write_meta(tmp_path / name, run.meta)
        episodes = sorted(run.episodes(), key=lambda e: e.key)[kept]
        body = b"".join(msgspec.json.encode(e) + b"\n" for e in episodes)
        (tmp_path / name / EPISODES).write_bytes(body)
        runs.append(Run(tmp_path / name))
    told = (
        "const said = rows.map((_, i) => { current = i; select();"
        " return document.querySelector('.note').textContent.slice(0, 8); });"
        "document.title = said.sort().join('|');"
    )
    found = measured(pages.episodes_page(runs), told, tmp_path / "p.html")
    assert found == "Only one|They par|They par"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_search_finds_words_of_steps_and_keys_move(played, tmp_path):
    run = played[1]["expert"]
    last = list(run.episodes())[-1]
    word = max(last.steps[-1].decision.action.split(), key=len)
    hits = sum(
        word in " ".join([e.instruction, e.final_observation or "", e.task.id, *(
            f"{s.observation} {s.decision.reasoning} {s.decision.action}" for s in e.steps
        )]).lower()
        for e in run.episodes()
    )  # fmt: skip
    page = pages.episodes_page([run])
    press = (
        "for (const key of ['ArrowRight', 'ArrowRight', 'ArrowLeft'])"
        " document.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));"
        "const at = [...document.querySelectorAll('ol.episodes button')]"
        ".findIndex((b) => b.getAttribute('aria-current') === 'true');"
        "const s = document.getElementById('search'); s.value = WORD;"
        "s.dispatchEvent(new Event('input'));"
        "document.title = document.getElementById('count').textContent + ' at ' + at;"
    ).replace("WORD", json.dumps(word))
    assert measured(page, press, tmp_path / "s.html") == f"{hits} of 6 at 1"

"""Wikipedia as ReAct asks it: recorded episodes on their recorded pages, caches, faults."""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness_envs.hotpotqa import HotPotQAEnv
from harness_envs.hotpotqa.cache import Cache, freeze, main
from harness_envs.hotpotqa.markup import parse
from harness_envs.hotpotqa.wikipedia import Wikipedia

import harness
from harness import api
from harness.errors import DataError, EnvError
from harness.tasksets import TaskSet
from harness.types import Outcome, Task

QUESTION = {"question": "Which river is longest?", "answer": "the Nile", "type": "bridge"}


def recorded(vectors: Path, name: str) -> list[dict[str, Any]]:
    with gzip.open(vectors / f"hotpot_{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def keep(requests: list[dict[str, str]], path: Path) -> Path:
    """A frozen cache of recorded pages."""
    cache = Cache(path.with_suffix(".live"))
    for request in requests:
        before = cache.get(request["url"])
        assert before in (None, request["html"]), "one address, two pages"
        cache.add(request["url"], request["html"])
    if not requests:
        cache.add("none", "")
    freeze(path.with_suffix(".live"), path)
    return path


@pytest.mark.data
def test_recorded_episodes_replay_on_their_recorded_pages(
    data: Path, vectors: Path, tmp_path: Path
) -> None:
    folder = data / "hotpotqa"
    played = raised = 0
    for number, episode in enumerate(recorded(vectors, "episodes")):
        asked = [r for step in episode["steps"] for r in step.get("requests", ())]
        cache = keep(asked, tmp_path / f"{number}.gz")
        env = HotPotQAEnv(data=folder, backend="wikipedia", cache=cache)
        shown, info = env.reset(options={"task_id": f"dev/{episode['dev_index']}"})
        assert shown == episode["reset_obs"]
        assert info["instruction"] == episode["question"]
        for step in episode["steps"]:
            before, page = shown, env.page
            shown, reward, done, _, info = env.step(step["action"])
            played += 1
            assert (env.page != page) == step["page_changed"] or page == step.get("page")
            if step["page_changed"]:
                assert env.page == step["page"]
            if "error" in step:
                raised += 1
                assert (shown, reward, done) == (before, 0.0, False)
                assert info["invalid_action"]
                continue
            assert (shown, reward, done) == (step["obs"], step["reward"], step["done"])
            assert (info["steps"], info["answer"]) == (
                step["info"]["steps"],
                step["info"]["answer"],
            )
            assert info["invalid_action"] == shown.startswith("Invalid action")
            if done:
                assert info["success"] is step["info"]["em"]
                assert info["measures"]["f1"] == step["info"]["f1"]
                assert info["score"] == step["info"]["f1"]
        env.close()
    assert (played, raised) == (525, 12)


TURN = re.compile(r"Action (\d+): (.*?)\nObservation \1: (.*?)\n(?=Thought \d+:|\Z)", re.DOTALL)


@pytest.mark.data
def test_recorded_runs_of_reacts_own_loop_replay(data: Path, vectors: Path, tmp_path: Path) -> None:
    """Its loop lowers the first letter of an action and answers for the agent after seven steps."""
    folder = data / "hotpotqa"
    for number, run in enumerate(recorded(vectors, "webthink")):
        cache = keep(run["requests"], tmp_path / f"{number}.gz")
        env = HotPotQAEnv(data=folder, backend="wikipedia", cache=cache, aliases=True)
        env.reset(options={"task_id": f"dev/{run['dev_index']}"})
        done, info = False, {}
        turns = TURN.findall(run["info"]["traj"])
        assert len(turns) == min(7, run["info"]["steps"])
        for _, action, observation in turns:
            shown, reward, done, _, info = env.step(action)
            assert shown.replace("\\n", "") == observation
        if not done:
            _, reward, done, _, info = env.step("finish[]")
        assert done
        assert (reward, info["answer"]) == (run["reward"], run["info"]["answer"])
        assert info["measures"]["f1"] == run["info"]["f1"]


# A site that fails in a chosen way ------------------------------------------------------------

ARTICLE = (
    "<!DOCTYPE html><html><head><title>Nile - Wikipedia</title></head><body>"
    '<div id="mw-content-text"><p>The Nile is a river in Africa. It is very long.</p>'
    "<p>Two words</p></div></body></html>"
)
CAPTCHA = "<html><title>Are you human?</title><body><p>Solve this captcha.</p></body></html>"


class Site:
    """A local server. ``fault`` says how it answers; ``asked`` are the paths it was asked for."""

    def __init__(self) -> None:
        self.fault = ""
        self.retry_after = "0"
        self.failures = 10**6
        self.page = ARTICLE
        self.asked: list[str] = []
        self.agents: set[str] = set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                site.agents.add(self.headers["User-Agent"])
                fault = site.fault if site.failures > 0 else ""
                site.failures -= 1
                site.answer(self, fault)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}/w/index.php"

    def answer(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        page = {"captcha": CAPTCHA, "cut": self.page[: len(self.page) // 2]}.get(fault, self.page)
        body = page.encode()
        if fault == "dropped":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        handler.send_response(int(fault) if fault.isdigit() else 200)
        handler.send_header("Content-Type", "text/html; charset=UTF-8")
        handler.send_header("Retry-After", self.retry_after)
        # "short": fewer bytes arrive than the header promises.
        handler.send_header("Content-Length", str(len(body) * (2 if fault == "short" else 1)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    server = Site()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "questions").mkdir()
    record = {**QUESTION, "_id": "5a" * 12, "supporting_facts": [["Nile", 0]]}
    (tmp_path / "questions" / "dev_mine.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path / "questions"


FAULTS = ("dropped", "429", "503", "captcha", "cut", "short", "403")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_an_error_beside_the_score_and_is_played_again(
    fault: str, site: Site, folder: Path, tmp_path: Path
) -> None:
    task = Task("hotpotqa", "dev", f"dev/{'5a' * 12}")
    options = {"data": str(folder), "backend": "wikipedia", "site": site.address, "patience": 0.1}
    env = HotPotQAEnv(**options)
    content = {task.id: env.content_hash(task.id)}
    env.close()
    tasks = TaskSet.make("hotpotqa/mine", "hotpotqa", [task], max_steps=5, content=content)
    site.fault = fault
    run = harness.evaluate(
        "oracle", "hotpotqa", tasks=tasks, out=tmp_path / "out", env_options=options, workers=1
    )
    [episode] = run.episodes()
    assert episode.outcome is Outcome.ERROR
    assert episode.error is not None
    assert episode.error.kind.startswith("EnvError")
    assert (run.summary.n, run.summary.errors, run.summary.success) == (0, 1, None)
    assert [step.decision.action for step in episode.steps] == []  # nothing was executed
    site.fault = ""
    again = api.resume(run.path, retry_errors=True)
    [episode] = again.episodes()
    assert (episode.outcome, episode.success, episode.score) == (Outcome.DONE, True, 1.0)
    assert episode.measures == {"em": 1.0, "f1": 1.0, "contains": 1.0}
    assert episode.steps[1].observation == "The Nile is a river in Africa. It is very long.."


def test_an_outage_is_an_error_that_says_how_to_go_on(folder: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        wiki = Wikipedia(site=f"http://127.0.0.1:{port}/w/index.php", patience=0.1)
        with pytest.raises(EnvError, match="--retry-errors"):
            wiki.search("Nile")
        wiki.close()


@pytest.mark.parametrize("fault", ["dropped", "429", "503", "cut", "short"])
def test_what_may_pass_is_tried_again(fault: str, site: Site) -> None:
    site.fault, site.failures = fault, 1
    wiki = Wikipedia(site=site.address, patience=5)
    assert wiki.search("Nile river").titles is None
    assert site.asked == ["/w/index.php?search=Nile+river"] * 2
    assert all("distill-harness" in agent for agent in site.agents)
    wiki.close()


def test_the_wait_that_the_site_asks_for_is_kept(site: Site) -> None:
    site.fault, site.retry_after = "429", "30"
    wiki = Wikipedia(site=site.address, patience=3)
    with pytest.raises(EnvError, match="--retry-errors"):  # at once: there is no such patience
        wiki.search("Nile")
    assert len(site.asked) == 1
    wiki.close()


def test_a_page_that_cannot_be_decoded_leaves_the_observation(site: Site, folder: Path) -> None:
    """The original raises there: the action is invalid and costs no step of its own count."""
    env = HotPotQAEnv(data=folder, backend="wikipedia", site=site.address)
    first, _ = env.reset(seed=0)
    site.page = ARTICLE.replace("<p>Two", "<p>Cut short it ends in \\x")
    shown, _, done, _, info = env.step("search[Nile]")
    assert (shown, done, info["invalid_action"], info["steps"]) == (first, False, True, 0)
    env.close()


@pytest.mark.parametrize("fault", ["captcha", "403"])
def test_what_will_not_pass_is_asked_once(fault: str, site: Site) -> None:
    site.fault = fault
    wiki = Wikipedia(site=site.address, patience=5)
    with pytest.raises(EnvError, match="Wikipedia answered"):
        wiki.search("Nile")
    assert len(site.asked) == 1
    wiki.close()


@pytest.mark.parametrize("status", ["414", "400"])
def test_a_search_that_no_server_takes_is_the_agents_fault(
    status: str, site: Site, folder: Path
) -> None:
    env = HotPotQAEnv(data=folder, backend="wikipedia", site=site.address, patience=0.1)
    first, _ = env.reset(seed=0)
    site.fault = status
    shown, _, done, _, info = env.step("search[" + "x" * 9000 + "]")
    assert (shown, done, info["invalid_action"]) == (first, False, True)
    shown, _, _, _, info = env.step("search[\ud800]")
    assert (shown, info["invalid_action"]) == (first, True)
    env.close()


@pytest.mark.parametrize("broken", ["<![<p>d", "&#" + "1" * 5000 + ";"])
def test_a_page_that_the_original_cannot_read_either_changes_nothing(
    broken: str, site: Site, folder: Path
) -> None:
    env = HotPotQAEnv(data=folder, backend="wikipedia", site=site.address, patience=0.1)
    first, _ = env.reset(seed=0)
    site.page = ARTICLE.replace("<p>", f"<p>{broken}", 1)
    shown, _, done, _, info = env.step("search[Nile]")
    assert (shown, done, info["invalid_action"]) == (first, False, True)
    env.close()


def test_an_article_about_captchas_is_an_article(site: Site) -> None:
    site.page = ARTICLE.replace("Nile - ", "CAPTCHA - ").replace(
        "<p>Two", '<h2 id="reCAPTCHA">reCAPTCHA</h2><p>A captcha is a test. Two'
    )
    wiki = Wikipedia(site=site.address, patience=0.1)
    assert wiki.search("CAPTCHA").titles is None
    wiki.close()


def play(env: HotPotQAEnv, actions: list[str]) -> list[Any]:
    return [env.reset(seed=0), *(env.step(action) for action in actions)]


def test_a_frozen_cache_replays_a_run_byte_for_byte(
    site: Site, folder: Path, tmp_path: Path
) -> None:
    actions = ["search[Nile]", "lookup[long]", "search[the  Nile & co]", "lookup[a]", "finish[x]"]
    options: dict[str, Any] = {"data": folder, "backend": "wikipedia", "site": site.address}
    live = HotPotQAEnv(**options, cache=tmp_path / "pages" / "live.gz")
    first = play(live, actions)
    live.close()
    assert len(site.asked) == 2
    frozen = [tmp_path / "one.gz", tmp_path / "two.gz"]
    for path in frozen:
        assert freeze(tmp_path / "pages" / "live.gz", path) == 2
    assert frozen[0].read_bytes() == frozen[1].read_bytes()
    assert frozen[0].read_bytes()[4:8] == bytes(4)  # gzip's own time: none
    site.close()  # nobody answers any more
    before = frozen[0].read_bytes()
    again = HotPotQAEnv(**options, cache=frozen[0])
    assert play(again, actions) == first
    again.reset(seed=0)
    with pytest.raises(EnvError, match=r"frozen cache .* has no page"):
        again.step("search[Amazon]")
    again.close()
    assert frozen[0].read_bytes() == before
    with gzip.open(frozen[0], "rt") as file:
        assert [json.loads(line).get("frozen", 0) for line in file] == [2, 0, 0]
    with pytest.raises(EnvError, match="is frozen"):
        Cache(frozen[0]).add("a", "b")
    frozen[0].write_bytes(before[:-1])
    with pytest.raises(DataError, match="of 2 pages only 1 are left"):
        Cache(frozen[0])


def test_freezing_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for address in ("c", "a"):
        Cache(tmp_path / "live.gz").add(address, "b")
    command = ["freeze", str(tmp_path / "live.gz"), str(tmp_path / "frozen.gz")]
    assert main(command) == 0
    assert Cache(tmp_path / "frozen.gz").get("a") == "b"
    with gzip.open(tmp_path / "frozen.gz", "rt") as file:
        assert [json.loads(line).get("url") for line in file] == [None, "a", "c"]
    assert main(command) == 1  # never written over
    assert main(["thaw"]) == 2
    assert "frozen.gz: 2 pages" in capsys.readouterr().out


def test_a_cache_is_shared_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "pages.gz"
    one, other = Cache(path), Cache(path)
    one.add("a", "first")
    assert other.get("a") == "first"
    other.add("a", "second")
    other.add("b", "é")
    assert (one.get("a"), one.get("b")) == ("first", "é")
    assert other.get("a") == "first"
    whole = path.read_bytes()
    for cut in (1, 5, 20, len(whole) // 3):
        path.write_bytes(whole[:-cut])
        torn = Cache(path)
        assert torn.get("b") is None
        if torn.get("a") is None:
            torn.add("a", "first")
        torn.add("b", "new")
        assert (Cache(path).get("a"), Cache(path).get("b")) == ("first", "new")


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pages.gz"
    for content in (b"hello", gzip.compress(b"hello"), gzip.compress(b'{"url": 3}')):
        path.write_bytes(content)
        with pytest.raises(DataError, match="not a cache of pages"):
            Cache(path)
    with pytest.raises(DataError, match="no cache of pages"):
        freeze(tmp_path / "absent.gz", tmp_path / "frozen.gz")


# Markup --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("html", "paragraphs", "lists"),
    [
        ("<p>a<style>x</style>b<!-- c -->c</p>", ("abc",), ()),
        ("<p>a<![CDATA[  ]]>b<![CDATA[ c ]]>d</p>", ("a b c d",), ()),
        ("<p>a<p>b</p>c", ("abc", "b"), ()),  # only the page closes paragraphs
        ("<p>a</i></div>b</p>", ("ab",), ()),
        ("<ul><li>a<ul><li>b</ul></ul>", (), ("ab", "b")),
        ("<p>a <b> </b>\t<i>b</i></p>", ("a   b",), ()),
        ("<p>x&amp;y&nbsp;&#233;&#x1F600;&#150;&nosuch;</p>", ("x&y\xa0é😀–&nosuch",), ()),
        ("<p>a<br>b<br/>c</br>d<img src=x>e</p>", ("abcde",), ()),
        ("<ruby>x<rt>y</rt></ruby><p>a<ruby>b<rp>(</rp><rt>c</rt></ruby></p>", ("ab",), ()),
        ("<p>", ("",), ()),
        ("", (), ()),
    ],
)
def test_texts_are_what_beautiful_soup_gives(
    html: str, paragraphs: tuple[str, ...], lists: tuple[str, ...]
) -> None:
    """Expected values: Beautiful Soup 4.15 with its "html.parser"."""
    found = parse(html)
    assert (found.paragraphs, found.lists) == (paragraphs, lists)

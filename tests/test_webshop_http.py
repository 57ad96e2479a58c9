"""WebShop over HTTP: played against a stand-in that serves pages in the original's HTML form."""

from __future__ import annotations

import ast
import gzip
import html
import json
import pprint
import re
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec
import pytest
from click.testing import Result
from harness_envs.webshop import WebShopEnv, pages
from harness_envs.webshop.catalogue import GOAL_SEED
from harness_envs.webshop.fetch import Source, fetch
from harness_envs.webshop.http import HttpSite, read_html
from harness_envs.webshop.pages import Page
from harness_envs.webshop.search import MAX_TERMS
from harness_envs.webshop.shop import Shop, open_shop
from harness_envs.webshop.site import LocalSite, Unanswerable
from typer.testing import CliRunner

import harness
from harness import api
from harness.cli import app
from harness.errors import ConfigError, DataError, EnvError
from harness.verify import verify

S = TypeVar("S", bound=ThreadingHTTPServer)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def as_html(page: Page) -> str:
    """Strings in the elements that the original's templates put them in, indentation included."""
    parts = ["<!DOCTYPE html>\n<html>\n  <head>\n    <style>h1 {}</style>\n  </head>\n  <body>\n"]
    for number, (kind, text, name) in enumerate(page):
        words, label = html.escape(text), html.escape(name)
        if kind == "button":
            form = f'<form method="post" action="/x"><button class="btn">{words}</button></form>'
            parts.append(f"    <!-- a button -->\n    {form}\n")
        elif kind == "product":
            parts.append(f'    <h4><a class="product-link" href="/x">{words}</a></h5>\n')
        elif kind == "option":
            radio = f'<input type="radio" id="r{number}" name="{label}" value="{words}">'
            parts.append(f'      {radio}\n      <label for="r{number}">{words}</label>\n')
        else:
            parts.append(f'    <div class="row"><img src="/i.jpg"><h4>{words}</h4></div>\n')
    return "".join([*parts, "  </body>\n  <script>let x = 1;</script>\n</html>"])


class Server(ThreadingHTTPServer):
    """Plays ``web_agent_site/app.py``: sessions ``fixed_<i>``, its routes, its receipt."""

    daemon_threads = True

    def __init__(self, shop: Shop, kind: str = "synthetic") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.shop, self.kind = shop, kind
        self.paths: list[str] = []
        #: What to do before answering: statuses to give, or seconds to wait.
        self.trouble: list[int | float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def site(self, session: str) -> LocalSite:
        goals = self.shop.goals(self.kind, GOAL_SEED)  # type: ignore[arg-type]
        goal = goals[int(session.rpartition("_")[2])]
        return LocalSite(self.shop.catalogue, self.shop, goal, self.shop.prices(GOAL_SEED))

    def page(self, path: str) -> str | None:
        parts = re.sub("//+", "/", path).strip("/").split("/")
        session = parts[0] if len(parts) == 1 else parts[1]
        site = self.site(session)
        instruction = site.start()[2].text
        match parts:
            case [_]:
                return as_html(site.start())
            case ["search_results", _, keywords, page]:
                words = ast.literal_eval(keywords) if keywords.startswith("[") else [keywords]
                if words[0] == "<a>":
                    found = [p for p in self.shop.catalogue.products if words[-1] in p.attributes]
                    return as_html(pages.results(instruction, found, int(page)))
                return as_html(site.results(words, int(page)))
            case ["item_page", _, asin, _, _, options]:
                assert isinstance(ast.literal_eval(options), dict)
                return as_html(site.item(asin, "", 1, {}))
            case ["item_sub_page", _, asin, _, _, name, _]:
                return as_html(site.sub_page(asin, "", 1, name, {}))
            case ["done", _, asin, options]:
                receipt = site.done(asin, ast.literal_eval(options))
                assert receipt.parts is not None
                told = msgspec.structs.asdict(receipt.parts)
                told = {k: v for k, v in told.items() if k != "reward" and v is not None}
                return as_html((*receipt.page[:-1], pages.Node("text", pprint.pformat(told))))
        return None


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # headers and page leave together

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.paths.append(path)
        status, body = 200, None
        if self.server.trouble:
            trouble = self.server.trouble.pop(0)
            if isinstance(trouble, float):
                time.sleep(trouble)
            else:
                status, body = trouble, "Internal Server Error"
        if body is None:
            body = self.server.page(path)
            if body is None:
                status, body = 404, "<h1>Not Found</h1><p>The requested URL was not found.</p>"
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def run(server: S) -> Iterator[S]:
    poll = {"poll_interval": 0.01}
    thread = threading.Thread(target=server.serve_forever, kwargs=poll, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def real_shop(data: Path, vectors: Path) -> Shop:
    return open_shop(str(data / "webshop"), str(vectors / "webshop_title_nouns.jsonl.gz"))


@pytest.fixture
def server() -> Iterator[Server]:
    with run(Server(open_shop("builtin"))) as served:
        yield served


# Played alike -----------------------------------------------------------------------------


def test_page_survives_html() -> None:
    shop = open_shop("builtin")
    for product in shop.catalogue.products[:60]:
        for page in (
            pages.item("buy <b> & 'c'", product),
            pages.sub_page("x", product, "Features"),
            pages.sub_page("x", product, "Description"),
            pages.results("x", [product], 2),
        ):
            assert read_html(as_html(page)) == page


@pytest.mark.data
def test_recorded_episodes_over_http(real_shop: Shop, vectors: Path) -> None:
    """Observations, rewards and parts of the recorded text episodes, page by page over HTTP."""
    episodes = list(rows(vectors / "webshop_episodes.jsonl.gz"))
    with run(Server(real_shop)) as served:
        plain = WebShopEnv(backend="http", url=served.url)
        rich = WebShopEnv(backend="http", url=served.url, observation_mode="text_rich")
        for episode in [e for e in episodes if e["goal_set"] == "synthetic"][::8]:
            task = {"task_id": f"served/{episode['goal_index']}"}
            observation, info = plain.reset(options=task)
            assert observation == episode["reset"]["obs_text"]
            assert info["instruction"] in observation
            rich.reset(options=task)
            for step in episode["steps"]:
                if "/" in step["action"]:
                    break  # no page of a server has such an address
                observation, reward, done, _, info = plain.step(step["action"])
                assert (reward, done) == (step["reward"], step["done"])
                assert info["clickables"] == step["clickables"]
                other, *_ = rich.step(step["action"])
                if done:  # a server's receipt says more
                    assert info["measures"] == {k: +v for k, v in step["verbose_info"].items()}
                    break
                assert observation == step["obs_text"]
                assert other == step["obs_text_rich"]
        plain.close()
        rich.close()


@pytest.mark.data
def test_recorded_episodes_of_reacts_client_over_http(real_shop: Shop, vectors: Path) -> None:
    """Same answers and, step by step, the same addresses as ReAct's client asked for, but for
    those that no page has."""
    for kind in ("synthetic", "human"):
        with run(Server(real_shop, kind)) as served:
            env = WebShopEnv(backend="http", url=served.url, view="react")
            for episode in rows(vectors / "react_webshop_episodes.jsonl.gz"):
                if episode["goal_set"] == kind:
                    _react_episode(env, served, episode)
            env.close()


def _react_episode(env: WebShopEnv, served: Server, episode: dict[str, Any]) -> None:
    for step in episode["steps"]:
        served.paths.clear()
        if step["action"] == "reset":
            observation, _ = env.reset(options={"task_id": f"served/{episode['goal_index']}"})
            continue
        observation, reward, done, _, _ = env.step(step["action"])
        assert observation == step["observation"], (episode["id"], step["i"])
        assert (reward, done) == (step.get("reward", 0.0), step.get("done", False))
        if not step["action"].startswith("think["):  # which asks for nothing here
            expected = [urlsplit(unquote(each["url"])).path for each in step["urls"]]
            assert served.paths == (expected if observation else [])


def test_builtin_goal_is_won_over_http(server: Server) -> None:
    local = WebShopEnv()
    goals = local.shop.goals("synthetic", GOAL_SEED)
    asin, number = goals.source(3)
    known = [id_ for s in ("train", "dev", "valid") for id_ in local.task_ids(s)]
    task_id = next(id_ for id_ in known if id_.endswith(f"/{asin}-{number}"))
    env = WebShopEnv(backend="http", url=server.url)
    _, info = env.reset(options={"task_id": "served/3"})
    local.reset(options={"task_id": task_id})
    assert info["instruction"] == goals[3].instruction
    assert info["admissible_actions"] == [f"search[{goals[3].instruction}]"]
    for action in local.solution():
        expected = local.step(action)
        observation, reward, terminated, _, info = env.step(action)
        if not terminated:
            assert observation == expected[0]
    assert (reward, terminated, info["success"], info["score"]) == (1.0, True, True, 1.0)
    assert info["measures"]["r_att"] == 1.0
    assert env.content_hash("served/3") == env.content_hash("served/3")
    assert env.content_hash("served/3") != env.content_hash("served/4")
    env.close()


# Faults -----------------------------------------------------------------------------------


def site(server: Server, **options: Any) -> HttpSite:
    return HttpSite(server.url, "fixed_0", pauses=(0.01, 0.01), **options)


def test_faults_that_pass_are_tried_again(server: Server) -> None:
    server.trouble = [500, 503]
    assert pages.text(site(server).start()).startswith("WebShop")
    assert len(server.paths) == 3


@pytest.mark.parametrize("status", [500, 502])
def test_faults_that_stay_are_errors(server: Server, status: int) -> None:
    server.trouble = [status] * 3
    with pytest.raises(EnvError, match=rf"{server.url}/fixed_0\n  status {status}"):
        site(server).start()
    assert len(server.paths) == 3


def test_refusals_are_not_tried_again(server: Server) -> None:
    server.trouble = [403]
    with pytest.raises(EnvError, match="status 403"):
        site(server).start()
    assert len(server.paths) == 1


def test_slow_answers_are_errors(server: Server) -> None:
    server.trouble = [0.4]
    with pytest.raises(EnvError, match="timed out"):
        HttpSite(server.url, "fixed_0", timeout=(0.2, 0.05), pauses=()).start()


def test_no_server() -> None:
    env = WebShopEnv(backend="http", url="http://127.0.0.1:9")
    with pytest.raises(EnvError, match=r"http://127\.0\.0\.1:9"):
        HttpSite("http://127.0.0.1:9", "fixed_0", pauses=()).start()
    with pytest.raises(EnvError, match="does not tell"):
        env.solution()


def test_a_fault_in_play_is_an_error_and_never_a_reward(server: Server) -> None:
    env = WebShopEnv(backend="http", url=server.url)
    env.reset(options={"task_id": "served/0"})
    server.trouble = [400]
    with pytest.raises(EnvError, match="status 400"):
        env.step("search[lamp]")
    env.close()


def test_pages_that_say_no_score_are_errors(server: Server) -> None:
    place = site(server)
    server.page = lambda _: "<html><body><p>Thank you</p></body></html>"  # type: ignore
    with pytest.raises(EnvError, match="tells no score"):
        place.done("B000000001", {})
    with pytest.raises(EnvError, match="no instruction"):
        WebShopEnv(backend="http", url=server.url).reset(options={"task_id": "served/0"})


def test_the_options_chosen_stand_in_the_address(server: Server) -> None:
    place, asin, chosen = site(server), server.shop.catalogue.products[0].asin, {"color": "red"}
    place.item(asin, ["lamp"], 2, chosen)
    place.sub_page(asin, ["lamp"], 2, "Description", chosen)
    place.done(asin, chosen)
    told = f"/{asin}/['lamp']/2"
    assert server.paths == [
        f"/item_page/fixed_0{told}/{chosen}",
        f"/item_sub_page/fixed_0{told}/Description/{chosen}",
        f"/done/fixed_0/{asin}/{chosen}",
    ]


def test_as_many_terms_as_a_query_may_have_are_asked_for(server: Server) -> None:
    words = [f"t{n}" for n in range(MAX_TERMS)]
    assert site(server).results([*words, words[0]], 1)


MANY = " ".join(f"t{n}" for n in range(2000))


@pytest.mark.parametrize("words", [["<a>", "x"], ["<c>"], ["a/b"], MANY.split(" ")])
def test_words_without_a_page_are_never_a_fault(server: Server, words: list[str]) -> None:
    with pytest.raises(Unanswerable):
        site(server).results(words, 1)


@pytest.mark.parametrize(
    "query",
    [
        *("a/b", "", "/", "what?", "no #1", "[1]", "[x", "['a', 1]", MANY, "<c>", "['<c>']"),
        *("[{[]: 1}]", ".", "..", "../..", "a%2Fb", "%2e%2e/%2e%2e", "../fixed_9/lamp"),
        *("../../item_page/fixed_0/B000000001/x/1/{}?", "../../done/fixed_0/B000000001/{}#"),
    ],
)
def test_typed_text_without_a_page_is_never_a_fault(server: Server, query: str) -> None:
    with pytest.raises(Unanswerable):
        site(server).visit(f"/search_results/fixed_0/{query}/1")
    assert served_alike(server, query)


@pytest.mark.parametrize(
    "query",
    [
        *("50% off", "käse", "it's", '"x"', "['a', 'b']", "%41 lamp", "%", "%20", "lamp  /"),
        *("// lamp", "['<a>','x']", "<a>", "<a> x", "<q>", "a\\b", "lamp/2#", "./lamp"),
    ],
)
def test_typed_text_reaches_the_server(server: Server, query: str) -> None:
    assert site(server).visit(f"/search_results/fixed_0/{query}/1").page
    assert served_alike(server, query)
    assert site(server).results(re.sub("[</]", "", query).split(" "), 2)


def served_alike(server: Server, query: str) -> bool:
    """Whether a page in process is the one over HTTP, or neither has one."""
    answers = []
    for place in (site(server), server.site("fixed_0")):
        try:
            answers.append(place.visit(f"/search_results/fixed_0/{query}/1"))
        except Unanswerable:
            answers.append(None)
    return answers[0] == answers[1]


def test_tasks_of_a_server(server: Server) -> None:
    env = WebShopEnv(backend="http", url=server.url)
    assert len(env.task_ids(env.default_split)) == 500
    _, info = env.reset(seed=0)
    assert info["task_id"].startswith("served/")
    for task_id in ("synthetic/0", "served/x", "served/"):
        with pytest.raises(ConfigError, match=r"served/<i>"):
            env.reset(options={"task_id": task_id})
    with pytest.raises(ConfigError, match="Unknown split"):
        env.task_ids("valid")
    env.close()


def play(url: str, out: Path, *words: str) -> Result:
    tasks = ("--tasks", "served-500[:2]", "--option", f"url={url}", "--out", str(out))
    return CliRunner().invoke(app, ["run", "--agent", "expert", "--env", "webshop", *tasks, *words])


def test_goals_of_a_server_are_a_task_set(server: Server, tmp_path: Path) -> None:
    told = play(server.url, tmp_path, "--option", "backend=http")
    assert told.exit_code == 0, told.output
    run = harness.load(tmp_path / "webshop" / "expert")
    assert [episode.success for episode in run.episodes()] == [True, True]
    env = WebShopEnv(backend="http", url=server.url)
    assert run.meta.task_set.content == tuple(env.content_hash(f"served/{i}") for i in range(2))
    assert run.meta.task_set.name == "webshop/served-500[0:2]"
    assert run.metrics[0].cot_overlap is not None  # the reference is played there too
    assert [difference for _, difference in verify(run)] == [None, None]
    with run_other() as other:
        moved = {"url": other.url}
        again = api.plan("expert", "webshop", tasks="served-500[:2]", env_options=moved)
        assert again.task_set_hash != run.meta.task_set_hash
        with pytest.raises(DataError, match="is not the one that task set"):
            list(verify(run, moved))


def run_other() -> AbstractContextManager[Server]:
    """A server whose goals are in another order."""
    other = Server(open_shop("builtin"))
    other.site = lambda session: Server.site(other, f"fixed_{int(session[6:]) + 1}")  # type: ignore
    return run(other)


# Fetching ---------------------------------------------------------------------------------


class Files(BaseHTTPRequestHandler):
    """Serves one file by name, with ranges; ``page`` answers with a web page, ``cut`` half."""

    content = json.dumps([{"asin": "B000000001"}] * 200).encode()

    def do_GET(self) -> None:
        name = self.path.rpartition("=")[2]
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        body = self.content[start:]
        self.send_response(206 if start else 200)
        kind = "text/html" if name == "page" else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if name == "cut" else body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_fetch_goes_on_where_it_stopped_and_checks_what_came(tmp_path: Path) -> None:
    with run(ThreadingHTTPServer(("127.0.0.1", 0), Files)) as served:
        address = f"http://127.0.0.1:{served.server_port}/?id={{id}}"
        source = (Source("items_shuffle_1000.json", "whole"),)
        part = tmp_path / "items_shuffle_1000.json.part"
        part.write_bytes(Files.content[:100])
        with pytest.raises(DataError, match="lacks 415 products"):
            fetch(tmp_path, address=address, sources=source)
        assert (tmp_path / "items_shuffle_1000.json").read_bytes() == Files.content
        for name, message in (("page", "web page instead"), ("cut", "Run the command again|broke")):
            with pytest.raises(DataError, match=message):
                fetch(tmp_path, address=address, sources=(Source(f"{name}.json", name),))


def test_fetch_without_a_connection(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Without a connection"):
        fetch(tmp_path, address="http://127.0.0.1:9/{id}")

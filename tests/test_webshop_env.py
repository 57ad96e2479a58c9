"""WebShop's environment against the original's recorded episodes, and on its own."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness_envs.webshop import WebShopEnv, tasksets
from harness_envs.webshop.browser import Browser, Turn
from harness_envs.webshop.catalogue import GOAL_SEED
from harness_envs.webshop.env import solve
from harness_envs.webshop.shop import Shop, open_shop, unattainable
from harness_envs.webshop.site import LocalSite
from hypothesis import given, settings
from hypothesis import strategies as st

import harness
from harness import api
from harness.errors import ConfigError, DataError

NOUNS = "webshop_title_nouns.jsonl.gz"


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.fixture(scope="module")
def shop(data: Path, vectors: Path) -> Shop:
    return open_shop(str(data / "webshop"), str(vectors / NOUNS))


def real(data: Path, vectors: Path, **options: Any) -> WebShopEnv:
    return WebShopEnv(data=data / "webshop", nouns=vectors / NOUNS, **options)


# The recorded episodes, with the original's result lists -----------------------------------


class Recorded:
    """Answers searches with the lists that an episode shows; what no page showed is filled up."""

    def __init__(self, steps: list[dict[str, Any]], filler: str) -> None:
        self._lists: dict[str, list[str]] = {}
        for step in steps:
            total = re.search(r"Page (-?\d+) \(Total results: (\d+)\)", step.get("obs_text", ""))
            session = step.get("session")
            if total is None or not isinstance(session, dict) or session["keywords"] is None:
                continue
            query = " ".join(session["keywords"])
            found = self._lists.setdefault(query, [filler] * int(total[2]))
            shown = [c.upper() for c in step["clickables"] if re.fullmatch(r"[b\d][\da-z]{9}", c)]
            start = (int(total[1]) - 1) * 10
            if start >= 0:
                found[start : start + len(shown)] = shown

    def search(self, query: str, k: int) -> list[str]:
        return self._lists[query][:k]


def _state(browser: Browser) -> dict[str, Any]:
    return {
        "keywords": browser.keywords,
        "page": browser.page_number,
        "asin": browser.asin,
        "asins": sorted(browser.visited),
        "options": browser.options,
    }


def _same(browser: Browser, state: dict[str, Any], where: str) -> None:
    assert browser.observation("text") == state["obs_text"], where
    if "obs_text_rich" in state:
        assert browser.observation("text_rich") == state["obs_text_rich"], where
    if "clickables" in state:
        assert browser.clickables == state["clickables"], where
        assert browser.has_search_bar == state["has_search_bar"], where
    assert browser.url == state["url"], where
    if isinstance(state.get("session"), dict):
        session = {k: v for k, v in state["session"].items() if k != "actions"}
        assert _state(browser) == session, where


def _replay(shop: Shop, episode: dict[str, Any]) -> int:
    goal = shop.goals(episode.get("goal_set", "synthetic"), GOAL_SEED)[episode["goal_index"]]
    engine = Recorded(episode["steps"], shop.catalogue.products[0].asin)
    show_attrs = episode.get("kind") == "show_attrs"
    site = LocalSite(shop.catalogue, engine, goal, shop.prices(GOAL_SEED), show_attrs=show_attrs)
    session = episode.get("session", str(episode["goal_index"]))
    browser = Browser(site, session)
    _same(browser, episode["reset"], f"{episode['id']}: reset")
    for number, step in enumerate(episode["steps"]):
        where = f"{episode['id']}: step {number} {step['action']}"
        if "error" in step:  # the original raised
            before = browser.observation("text_rich")
            assert browser.act(step["action"]) == Turn(invalid=True), where
            assert browser.observation("text_rich") == before, where
            continue
        if step["action"] == "<reset same session>":
            browser = Browser(site, session)
        else:
            if "seed_before_step" in step:
                site.rng.seed(step["seed_before_step"])
            turn = browser.act(step["action"])
            assert (turn.reward, turn.done) == (step["reward"], step["done"]), where
            # An ignored action earns the integer 0 in the original, others a float.
            assert turn.invalid == isinstance(step["reward"], int), where
            if turn.done:
                assert turn.parts is not None
                verbose = {k: float(v) for k, v in step["verbose_info"].items()}
                assert turn.parts.measures() == verbose, where
        _same(browser, step, where)
    return len(episode["steps"])


@pytest.mark.data
def test_recorded_episodes(shop: Shop, vectors: Path) -> None:
    steps = [_replay(shop, episode) for episode in rows(vectors / "webshop_episodes.jsonl.gz")]
    assert (len(steps), sum(steps)) == (120, 1077)


@pytest.mark.data
def test_recorded_extras(shop: Shop, vectors: Path) -> None:
    extras = [e for e in rows(vectors / "webshop_extras.jsonl.gz") if "steps" in e]
    assert sum(_replay(shop, episode) for episode in extras) == 369
    assert {e["kind"] for e in extras} >= {"raises", "history", "show_attrs", "random_search"}


@pytest.mark.data
@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_recorded_episodes_with_own_search(mode: Any, data: Path, vectors: Path) -> None:
    """The whole environment, its own search included, plays all 120 episodes alike."""
    env = real(data, vectors, observation_mode=mode)
    key = "obs_text" if mode == "text" else "obs_text_rich"
    for episode in rows(vectors / "webshop_episodes.jsonl.gz"):
        task_id = f"{episode['goal_set']}/{episode['goal_index']}"
        observation, info = env.reset(options={"task_id": task_id})
        assert observation == episode["reset"][key]
        assert info["instruction"] in observation
        for step in episode["steps"]:
            observation, reward, terminated, truncated, info = env.step(step["action"])
            assert observation == step[key]
            assert (reward, terminated, truncated) == (step["reward"], step["done"], False)
            assert info["clickables"] == step["clickables"]
            assert info["score"] == reward
            assert info["success"] == (reward == 1.0)
            assert ("measures" in info) == terminated


@pytest.mark.data
def test_recorded_episodes_of_reacts_client(data: Path, vectors: Path) -> None:
    env = real(data, vectors, view="react")
    finals = steps = 0
    for episode in rows(vectors / "react_webshop_episodes.jsonl.gz"):
        reward = 0.0
        for step in episode["steps"]:
            if step["action"] == "reset":
                task_id = f"{episode['goal_set']}/{episode['goal_index']}"
                observation, info = env.reset(options={"task_id": task_id})
                assert info["instruction"] == episode["instruction_text"]
                done = False
            else:
                observation, reward, done, _, info = env.step(step["action"])
            assert observation == step["observation"], (episode["id"], step["i"])
            assert (reward, done) == (step.get("reward", 0.0), step.get("done", False))
            if step.get("assertion_error"):
                assert info["invalid_action"], (episode["id"], step["i"])
            steps += 1
        finals += reward == episode["final"]
    assert (finals, steps) == (32, 248)


# Solutions --------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("view", ["original", "react"])
def test_solutions_win_every_attainable_goal_of_small_500(
    view: Any, data: Path, vectors: Path, shop: Shop
) -> None:
    env = real(data, vectors, view=view, reveal=True)
    lost = set(unattainable(shop))
    tasks = [task.id for task in tasksets.TASK_SETS["webshop/small-500"]().tasks]
    won = 0
    for task_id in tasks[:: 1 if view == "original" else 5]:
        _, info = env.reset(options={"task_id": task_id})
        solution = info["solution"]
        assert len(solution) <= tasksets.MAX_STEPS
        for action in solution:
            _, _, terminated, _, info = env.step(action)
            assert not info["invalid_action"], (task_id, action)
        assert terminated
        solved = env.shop.goal(task_id, GOAL_SEED)
        cut = view == "react" and any("#" in value for value in solved.option_values)
        assert info["success"] == (int(task_id.split("/")[1]) not in lost and not cut), task_id
        won += info["success"]
    assert won > 60


@pytest.mark.campaign
@pytest.mark.data
@pytest.mark.parametrize("rules", ["faithful", "fixed"])
def test_solutions_win_every_attainable_goal(
    rules: Any, data: Path, vectors: Path, shop: Shop
) -> None:
    env = real(data, vectors, rules=rules)
    for kind in ("synthetic", "human"):
        lost = set(unattainable(shop, kind, rules))  # type: ignore[arg-type]
        for index, task_id in enumerate(env.task_ids(kind)):
            env.reset(options={"task_id": task_id})
            for action in env.solution():
                _, reward, *_ = env.step(action)
            assert (reward == 1.0) == (index not in lost), task_id


def test_solutions_win_builtin_goals() -> None:
    env = WebShopEnv(reveal=True)
    for split in ("train", "dev", "valid"):
        for task_id in list(env.task_ids(split))[::25]:
            _, info = env.reset(options={"task_id": task_id})
            for action in info["solution"]:
                _, _, terminated, _, info = env.step(action)
            assert (terminated, info["success"], info["score"]) == (True, True, 1.0), task_id


def test_every_builtin_goal_is_attainable() -> None:
    for rules in ("faithful", "fixed"):
        assert unattainable(open_shop("builtin"), rules=rules) == []  # type: ignore[arg-type]


# The interface ----------------------------------------------------------------------------


@pytest.fixture
def env() -> WebShopEnv:
    return WebShopEnv()


def _on_item(env: WebShopEnv) -> dict[str, Any]:
    env.reset(seed=1)
    for action in env.solution():
        if action == "click[buy now]":
            break
        _, _, _, _, info = env.step(action)
    return info


def test_made_by_gymnasium() -> None:
    env = harness.make("webshop")
    assert env.spec is not None
    assert env.spec.id == "harness/WebShop-v0"
    observation, info = env.reset(seed=0)
    assert observation.startswith("WebShop [SEP] Instruction: [SEP] ")
    assert info["admissible_actions"] == [f"search[{info['instruction']}]"]
    assert info["task_id"].startswith("valid/")


def test_admissible_actions_are_executed(env: WebShopEnv) -> None:
    info = _on_item(env)
    for action in info["admissible_actions"]:
        _on_item(env)
        *_, after = env.step(action)
        assert not after["invalid_action"], action


@pytest.mark.parametrize(
    "action",
    [
        *("", "[]", "search[]", "click[]", "Search[lamp]", "CLICK[features]", "click[search]"),
        *("click[b000000000]", "click[qwertz]", "think[hm]", "search", "click(features)"),
        *("click[features", "search[[x]", "search[<a> lamp]", "search[<c>]", "\x00", "\ud800"),
        "search[" + " ".join(f"t{n}" for n in range(10_000)) + "]",
    ],
)
def test_what_cannot_be_done_changes_nothing(env: WebShopEnv, action: str) -> None:
    _on_item(env)
    before = env.step("qwertz")
    after = env.step(action)
    assert after[:4] == before[:4]
    assert after[4] == before[4]
    assert after[4]["invalid_action"]
    assert after[4]["score"] == 0.0


@pytest.mark.parametrize(
    "query",
    [
        *("lamp] now", "a]", '"quoted" words', "brackets]", "käse ☕ 한국", "50% off/on #1 ?", " "),
        *("\ud800", "<r>", "<q> lamps", "lamp " * 10_000, "a\\u00e9", "the of"),
    ],
)
def test_queries_of_any_kind_give_a_page(env: WebShopEnv, query: str) -> None:
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step(f"search[{query}]")
    assert "Page 1 (Total results: " in observation
    assert (reward, terminated, info["invalid_action"]) == (0.0, False, False)
    assert info["clickables"][:2] == ["back to search", "next >"]


@pytest.mark.parametrize("query", ["<c>", "<a> lamp", " ".join(f"t{n}" for n in range(1100))])
def test_a_search_that_fails_takes_the_product_away(env: WebShopEnv, query: str) -> None:
    """The old page stays, and nothing on it leads on but its way back (the original raises)."""
    _on_item(env)
    before = env.step(f"search[{query}]")
    assert "click[buy now]" in before[4]["admissible_actions"]
    for action in before[4]["admissible_actions"]:
        if action != "click[back to search]":
            assert env.step(action) == before, action
            assert before[4]["invalid_action"]
    observation, *_, info = env.step("click[back to search]")
    assert (observation.endswith("Search"), info["invalid_action"]) == (True, False)
    _on_item(env)
    assert env.step("click[buy now]")[1:3] == (1.0, True)


def test_a_search_that_fails_keeps_its_words(env: WebShopEnv) -> None:
    _on_item(env)
    env.step("click[< prev]")
    found = env.step("search[<c>]")[4]["clickables"][2:]
    assert env.step("click[next >]")[4]["invalid_action"]
    assert not env.step(f"click[{found[0]}]")[4]["invalid_action"]
    assert env.step("click[< prev]")[4]["invalid_action"]
    assert env.step("click[buy now]")[4]["invalid_action"]


def test_shopping_goes_on_after_buying(env: WebShopEnv) -> None:
    _on_item(env)
    receipt, reward, terminated, _, info = env.step("click[buy now]")
    assert (reward, terminated) == (1.0, True)
    assert info["clickables"] == info["admissible_actions"] == []
    again, reward, terminated, _, info = env.step("click[buy now]")
    assert (again, reward, terminated) == (receipt, 0.0, False)
    assert info["invalid_action"]
    observation, _, terminated, _, info = env.step("search[lamp]")
    assert "Page 1" in observation
    assert (terminated, info["success"]) == (False, False)


def test_pages_past_the_end_are_empty(env: WebShopEnv) -> None:
    env.reset(seed=0)
    env.step("search[lamp]")
    for _ in range(7):
        observation, *_, info = env.step("click[next >]")
    assert "Page 8 (Total results: " in observation
    assert info["clickables"] == ["back to search", "< prev", "next >"]


@given(actions=st.lists(st.one_of(st.text(max_size=8), st.integers(0, 30)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_any_play_is_repeated_exactly(actions: list[str | int]) -> None:
    """Numbers choose an admissible action, texts are said as they are."""
    traces = []
    for _ in range(2):
        env = WebShopEnv(observation_mode="text_rich")
        trace: list[Any] = [env.reset(seed=5)]
        for action in actions:
            offered = trace[-1][-1]["admissible_actions"]
            if isinstance(action, int):
                action = offered[action % len(offered)] if offered else "search[red]"
            trace.append(env.step(action))
        traces.append(trace)
    assert traces[0] == traces[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"observation_mode": "html"}, "observation_mode 'html'"),
        ({"rules": "fair"}, "Did you mean|Known"),
        ({"view": "reakt"}, "Did you mean 'react'"),
        ({"backend": "https"}, "Did you mean 'http'"),
        ({"goal_seed": "1"}, "whole number"),
        ({"goal_seed": 1, "backend": "http"}, "draws its own prices"),
    ],
)
def test_unknown_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WebShopEnv(**options)


@pytest.mark.parametrize("task_id", ["valid/B000000000-0", "valid", "nowhere/1", "valid/-1"])
def test_unknown_builtin_tasks(env: WebShopEnv, task_id: str) -> None:
    with pytest.raises(ConfigError, match="Unknown WebShop task"):
        env.reset(options={"task_id": task_id})


@pytest.mark.data
@pytest.mark.parametrize(
    "task_id", ["synthetic/6910", "synthetic/-1", "synthetic/x", "synthetic/²", "human/13", "x/1"]
)
def test_unknown_official_tasks(data: Path, vectors: Path, task_id: str) -> None:
    with pytest.raises(ConfigError, match="Unknown"):
        real(data, vectors).reset(options={"task_id": task_id})


@pytest.mark.data
def test_bare_reset_on_official_data(data: Path, vectors: Path) -> None:
    _, info = real(data, vectors).reset(seed=0)
    assert info["task_id"].startswith("synthetic/")
    assert info["task_type"] in ("beauty", "electronics", "fashion", "garden", "grocery")


def test_fixed_rules_are_another_task_set() -> None:
    found = tasksets.TASK_SETS["webshop/builtin-dev"]()
    fixed = found.varied(options={"rules": "fixed"})
    assert fixed.hash != found.hash
    assert found.options == {"goal_seed": GOAL_SEED, "rules": "faithful"}


def test_goal_seed_changes_caps_and_nothing_else() -> None:
    one, other = WebShopEnv(), WebShopEnv(goal_seed=3)
    ids = one.task_ids("valid")
    assert other.task_ids("valid") == ids
    goals = [[e.shop.goal(i, s) for i in ids] for e, s in ((one, GOAL_SEED), (other, 3))]
    pairs = list(zip(*goals, strict=True))
    assert all((a.options, a.attributes) == (b.options, b.attributes) for a, b in pairs)
    assert any(a.price_upper != b.price_upper for a, b in pairs)


def test_another_goal_seed_is_a_task_set_of_other_tasks(tmp_path: Path) -> None:
    asked = {"tasks": "builtin-valid[:4]"}
    own = api.plan("oracle", "webshop", **asked)
    same = api.plan("oracle", "webshop", env_options={"goal_seed": GOAL_SEED}, **asked)
    other = api.plan("oracle", "webshop", env_options={"goal_seed": 3}, **asked)
    assert same.task_set == own.task_set
    assert other.task_set.tasks == own.task_set.tasks
    assert other.task_set.name == f"{own.task_set.name}+goal_seed=3"
    env = WebShopEnv(goal_seed=3)
    assert other.task_set.content == tuple(env.content_hash(t.id) for t in own.task_set.tasks)
    assert set(other.task_set.content) != set(own.task_set.content)
    run = harness.evaluate(
        "oracle", "webshop", env_options={"goal_seed": 3}, out=tmp_path, workers=1, **asked
    )
    assert run.summary.success == 1.0
    assert run.meta.task_set == other.task_set
    digests = own.task_set.content
    odd = msgspec.structs.replace(own.task_set, content=(digests[1], digests[0], *digests[2:]))
    with pytest.raises(DataError, match="is not the one that task set"):
        api.plan("oracle", "webshop", tasks=odd, env_options={"goal_seed": 3})


def test_react_view_has_its_own_words(env: WebShopEnv) -> None:
    env = WebShopEnv(view="react")
    observation, info = env.reset(seed=0)
    assert observation.endswith("\n[Search] ")
    for action in env.solution():
        observation, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    assert observation == "Your score (min 0.0, max 1.0): 1.0"
    env.reset(seed=0)
    assert env.step("think[hm]")[0] == "OK."
    observation, *_, info = env.step("search[a/b]")
    assert (observation, info["invalid_action"]) == ("", True)
    env.step("click[Back to Search]")
    observation, *_, info = env.step(f"search[{env.shop.catalogue.products[0].query}]")
    assert len(re.findall(r"\n\[B0", observation)) == 3
    assert len(info["admissible_actions"]) == 4


def test_react_view_answers_as_its_loop_does(env: WebShopEnv) -> None:
    env = WebShopEnv(view="react")
    start, _ = env.reset(seed=0)
    for thought in ("think", "think: hmm", "thinking hard"):
        observation, reward, terminated, _, info = env.step(thought)
        assert (observation, reward, terminated) == ("OK.", 0.0, False)
        assert not info["invalid_action"]
    for action in ("Think", "Reset", "reset "):
        assert env.step(action)[0] == "Invalid action!"
    for action in env.solution()[:-1]:
        env.step(action)
        before = env.step("reset")
        assert before[:3] == (start, 0.0, False)
        assert (before[4]["has_search_bar"], before[4]["invalid_action"]) == (True, False)
        assert env.step("click[Back to Search]")[0] == "Invalid action!"
    for action in env.solution():
        _, reward, terminated, _, _ = env.step(action)
    assert (reward, terminated) == (1.0, True)


@pytest.mark.parametrize(
    ("query", "alike"),
    [
        *(("%4Camp", "Lamp"), ("red%20lamp", "red lamp"), ("lamp%20", "lamp "), ("%", "50%")),
        *(("// lamp", " lamp"), ("lamp  /", "lamp  "), ("./lamp", "lamp"), ("['lamp']", "lamp")),
        # Dots that were encoded are sent as they are, and a redirect keeps them.
        *(("%2e", "%20"), ("%2e%2e", "%20"), ("%2f..", "%20")),
        *(("%4C 50%", "4C 50"), ("<a>", "%20"), ("<a> lamp", "a lamp"), ("\ud800 lamp", "lamp")),
    ],
)
def test_react_view_puts_queries_into_addresses_as_they_are(query: str, alike: str) -> None:
    shown = []
    for typed in (query, alike):
        env = WebShopEnv(view="react")
        env.reset(seed=0)
        shown.append(env.step(f"search[{typed}]")[0])
    assert shown[0] == shown[1] != ""


@pytest.mark.parametrize(
    "query",
    [
        "",
        "/",
        ".",
        "..",
        "../..",
        "%2F",
        "a%2Fb",
        "a/b",
        "a?",
        "#1",
        "[1]",
        "[x",
        "<c>",
        "[{[]: 1}]",
        "[{[]}]",
    ],
)
def test_react_view_shows_nothing_where_a_server_has_no_page(query: str) -> None:
    env = WebShopEnv(view="react")
    env.reset(seed=0)
    observation, reward, terminated, _, info = env.step(f"search[{query}]")
    assert (observation, reward, terminated, info["invalid_action"]) == ("", 0.0, False, True)
    assert env.step("click[Back to Search]")[0].endswith("[Search] ")


@pytest.mark.data
def test_react_view_knows_attributes(data: Path, vectors: Path) -> None:
    env = real(data, vectors, view="react")
    env.reset(options={"task_id": "synthetic/0"})
    assert "(Total results: 30)" in env.step("search[['<a>','easy use']]")[0]


@pytest.mark.data
def test_an_option_with_a_hash_leaves_reacts_client_without_pages(
    data: Path, vectors: Path
) -> None:
    env = real(data, vectors, view="react")
    env.reset(options={"task_id": "synthetic/78"})
    title = env.shop.catalogue.by_asin["B07WMMYB6G"].title
    for action, shown in (
        *((f"search[{title}]", None), ("click[B07WMMYB6G]", None)),
        ("click[#2 army green]", "You have clicked #2 army green."),
        *(("click[30]", "You have clicked 30."), ("click[Description]", "")),
        *(("click[qwertz]", ""), ("click[< Prev]", "")),
    ):
        observation, reward, terminated, _, info = env.step(action)
        assert shown is None or observation == shown, action
        assert (reward, terminated) == (0.0, False)
    observation, reward, terminated, _, info = env.step("click[Buy Now]")
    assert (observation, reward, terminated) == ("", 0.0, True)
    assert (info["success"], info["score"]) == (False, 0.0)


@pytest.mark.data
def test_solution_looks_on_the_page_that_shows_the_product(shop: Shop) -> None:
    goals = shop.goals("synthetic", GOAL_SEED)
    for index in range(0, 6910, 97):
        actions = solve(shop, goals[index])
        assert actions[0].startswith("search[")
        assert actions[-1] == "click[buy now]"

"""What a click does on which of WebShop's pages, in the built-in shop."""

from __future__ import annotations

from typing import Any

import pytest
from harness_envs.webshop import WebShopEnv, pages
from harness_envs.webshop.catalogue import Catalogue


def on_item(env: WebShopEnv) -> list[str]:
    """Play a goal that names an option up to buying; returns the way to the bare product."""
    for task_id in env.task_ids("valid"):
        env.reset(options={"task_id": task_id})
        way = list(env.solution())
        if env.shop.goal(task_id, env._goal_seed).options:
            break
    for action in way[:-1]:
        assert not env.step(action)[4]["invalid_action"]
    return way[
        : next(i for i, action in enumerate(way) if action.lower().startswith("click[b0")) + 1
    ]


def test_the_way_back_leads_through_the_pages_that_were_left() -> None:
    env = WebShopEnv()
    env.reset(seed=0)
    one, *_, info = env.step("search[lamp]")
    assert info["clickables"][:2] == ["back to search", "next >"]
    two, *_, info = env.step("click[next >]")
    assert info["clickables"][:3] == ["back to search", "< prev", "next >"]
    env.step(f"click[{info['clickables'][3]}]")
    assert env.step("click[features]")[0] != env.step("click[< prev]")[0]
    assert env.step("click[< prev]")[0] == two
    assert env.step("click[< prev]")[0] == one


def test_options_stay_on_sub_pages_and_are_gone_among_the_results() -> None:
    env = WebShopEnv()
    on_item(env)
    env.step("click[features]")
    env.step("click[< prev]")
    receipt, reward, *_ = env.step("click[buy now]")
    assert (reward, "options [SEP] {}" in receipt) == (1.0, False)
    way = on_item(env)
    env.step("click[< prev]")
    env.step(way[-1])
    receipt, reward, *_ = env.step("click[buy now]")
    assert (reward < 1.0, "options [SEP] {}" in receipt) == (True, True)


def test_reacts_client_forgets_options_on_the_way_back() -> None:
    env = WebShopEnv(view="react")
    way = on_item(env)
    env.step("click[< Prev]")
    env.step(way[-1])
    assert env.step("click[Buy Now]")[1] < 1.0


def test_a_product_is_marked_as_visited_until_the_way_back_to_the_search() -> None:
    env = WebShopEnv(observation_mode="text_rich")
    env.reset(seed=0)
    fresh, *_, info = env.step("search[lamp]")
    asin = info["clickables"][2]
    env.step(f"click[{asin}]")
    assert f"[clicked button] {asin.upper()} [clicked button_]" in env.step("click[< prev]")[0]
    env.step("click[back to search]")
    assert env.step("search[lamp]")[0] == fresh


def test_random_products_are_the_tasks_own() -> None:
    shown = []
    for _ in range(2):
        env = WebShopEnv()
        env.reset(seed=0)
        shown.append([env.step("search[<r>]")[0] for _ in range(2)])
    assert shown[0] == shown[1]
    assert shown[0][0] != shown[0][1]


def shelf(**changes: Any) -> pages.Page:
    raw = {
        "asin": "B000000001", "name": "Lamp", "full_description": "", "small_description": [],
        "product_category": "", "category": "", "query": "", **changes,
    }  # fmt: skip
    only = Catalogue.from_records([raw], {}, nouns={"Lamp": []}).products
    return pages.results("x", only, 1) + pages.item("x", only[0])


def test_of_two_options_with_one_value_the_later_is_clicked() -> None:
    red = [{"value": "Red"}]
    found = pages.clickables(shelf(customization_options={"Color": red, "Trim": red}))
    assert found["red"].name == "trim"


@pytest.mark.parametrize(("pricing", "tag"), [("$5", "$5.0"), ("$5 to $7", "$5.0 to $7.0")])
def test_results_and_product_show_one_price(pricing: str, tag: str) -> None:
    shown = [node.text for node in shelf(pricing=pricing)]
    assert tag in shown
    assert f"Price: {tag}" in shown

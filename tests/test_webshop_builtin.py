"""The generated shop: in the official form, checkable, attainable, and not to be won by a title."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from typing import Any

import pytest
from harness_envs.webshop import WebShopEnv
from harness_envs.webshop.builtin import SPLITS, records, split_of
from harness_envs.webshop.builtin_text import title_nouns
from harness_envs.webshop.builtin_words import Kind, shop
from harness_envs.webshop.catalogue import GOAL_SEED, Product
from harness_envs.webshop.goals import Goal
from harness_envs.webshop.pages import RESULTS
from harness_envs.webshop.reward import Reward, reward
from harness_envs.webshop.shop import chosen, open_shop, unattainable

PRODUCTS, ATTRIBUTES, NOUNS = records()
KINDS = {kind.query: kind for department in shop().departments for kind in department.kinds}
SHOP = open_shop("builtin")
GOALS = SHOP.goals("synthetic", GOAL_SEED)


@cache
def goals_of(split: str) -> list[Goal]:
    return [SHOP.goal(id_, GOAL_SEED) for id_ in SHOP.task_ids(split, GOAL_SEED)]


def earned(goal: Goal, bought: Product, options: dict[str, str]) -> Reward:
    target = SHOP.catalogue.by_asin[goal.asin]
    return reward(bought, options, GOALS.prices[bought.asin], goal, target)


def test_size() -> None:
    assert len(PRODUCTS) == 1440
    assert len({p["category"] for p in PRODUCTS}) == 5
    assert len(KINDS) == 60
    counts = {split: len(goals_of(split)) for split in SPLITS}
    assert counts["train"] > 3500
    assert 300 <= counts["valid"] <= 400
    assert 200 <= counts["dev"] <= 300
    assert sum(counts.values()) == len(GOALS)
    assert len({g.asin for g in goals_of("valid")}) >= 90


def test_the_same_anywhere() -> None:
    """Another process, with another hash seed, makes the same catalogue: a pinned one."""
    code = (
        "import hashlib, json\nfrom harness_envs.webshop.builtin import records\n"
        "print(hashlib.sha256(json.dumps(records()).encode()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7"},
    )
    here = hashlib.sha256(json.dumps(records()).encode()).hexdigest()
    assert run.stdout.strip() == here
    # A change of the catalogue comes with a new VERSION and a new number here.
    assert here[:16] == "1e2162db4a9057cb"


def test_official_form() -> None:
    for product in PRODUCTS:
        assert re.fullmatch(r"B0[0-9A-Z]{8}", product["asin"])
        assert 3 <= len(product["name"].split()) <= 12
        assert 2 <= len(product["small_description"]) <= 5
        assert re.fullmatch(r"\$\d+\.\d\d(,\$\d+\.\d\d)?", product["pricing"])
        assert len(product["product_category"].split(" › ")) == 3
        assert product["query"] in KINDS
    assert len({p["asin"] for p in PRODUCTS}) == len(PRODUCTS)
    assert sum("," in p["pricing"] for p in PRODUCTS) > 100
    asked = [a for a in ATTRIBUTES.values() if "instruction" in a]
    assert 0.7 * len(PRODUCTS) < len(asked) < 0.9 * len(PRODUCTS)
    for facts in asked:
        assert 2 <= len(facts["instruction_attributes"]) <= 4
        assert set(facts["instruction_attributes"]) <= set(facts["attributes"])


def test_prices_of_a_range_rise() -> None:
    for product in SHOP.catalogue.products:
        assert list(product.pricing) == sorted(set(product.pricing))
        assert 2 <= product.pricing[0] < 500


def test_splits_by_product() -> None:
    products = {split: {g.asin for g in goals_of(split)} for split in SPLITS}
    assert not products["train"] & products["valid"]
    assert not products["train"] & products["dev"]
    assert not products["dev"] & products["valid"]
    assert all(split_of(asin) == split for split, asins in products.items() for asin in asins)
    # Every department is asked for in every split.
    by_asin = SHOP.catalogue.by_asin
    for asins in products.values():
        assert len({by_asin[a].category for a in asins}) == 5


def said(product: dict[str, Any]) -> str:
    """All that a product's pages say, "easy to clean" as the attribute "easy clean"."""
    texts = [product["name"], product["full_description"], *product["small_description"]]
    return " | ".join(texts).lower().replace("easy to ", "easy ")


def test_pages_say_what_is_true_and_nothing_else() -> None:
    for product in PRODUCTS:
        has, text = ATTRIBUTES[product["asin"]]["attributes"], said(product)
        for attribute in KINDS[product["query"]].attributes:
            assert (attribute.name in text) == (attribute.name in has), (attribute, text)


def test_title_and_features_are_enough() -> None:
    for product in PRODUCTS:
        text = said({**product, "full_description": ""})
        assert all(name in text for name in ATTRIBUTES[product["asin"]]["attributes"])


def test_some_things_only_the_features_page_tells() -> None:
    """Not the title, and not what the search engine reads: so for most instructions."""
    hidden = 0
    for product in PRODUCTS:
        searched = SHOP.catalogue.by_asin[product["asin"]].document.replace("easy to ", "easy ")
        wanted = ATTRIBUTES[product["asin"]].get("instruction_attributes", [])
        hidden += any(name not in searched for name in wanted)
    assert hidden > 0.5 * sum("instruction" in a for a in ATTRIBUTES.values())


def test_instructions_are_not_titles() -> None:
    for product in PRODUCTS:
        text = ATTRIBUTES[product["asin"]].get("instruction")
        if text is None:
            continue
        brand = {b.lower() for d in shop().departments for b in d.brands}
        words = set(text.lower().replace(",", "").split())
        assert not words & brand
        assert product["query"] in text
        title = set(product["name"].lower().replace(",", "").split())
        assert not title <= words


def test_every_goal_is_attainable() -> None:
    assert unattainable(SHOP) == []
    assert unattainable(SHOP, rules="fixed") == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_attributes_and_values_are_told_apart(kind: Kind) -> None:
    """By the reward's own comparison: another attribute or value never counts for the right one."""
    for goal, bought in wrong_option_pairs(kind):
        assert earned(goal, *bought).reward != 1.0
    names = [a.name for a in kind.attributes]
    assert len(set(names)) == len(names) >= 8


def wrong_option_pairs(kind: Kind) -> list[tuple[Goal, tuple[Product, dict[str, str]]]]:
    """Goals of a kind, with their own product but another value of one option."""
    found = []
    for goal in GOALS:
        product = SHOP.catalogue.by_asin[goal.asin]
        if product.query != kind.query:
            continue
        right = chosen(goal)
        for name, values in product.options.items():
            wrong = [v for v in values if v != right[name]]
            found += [(goal, (product, {**right, name: value})) for value in wrong]
    return found


def test_options_left_out_cost() -> None:
    for goal in goals_of("valid"):
        if goal.options:
            own = SHOP.catalogue.by_asin[goal.asin]
            assert earned(goal, own, {}).reward < 1.0


def test_near_misses() -> None:
    """Most goals have products that differ from what is asked in a single wish."""
    by_query = defaultdict(list)
    for product in SHOP.catalogue.products:
        by_query[product.query].append(product)
    tempted = Counter[str]()
    for goal in goals_of("valid"):
        own = SHOP.catalogue.by_asin[goal.asin]
        for other in by_query[own.query]:
            if other.asin == own.asin:
                continue
            missed = sum(a not in other.attributes for a in goal.attributes)
            lacking = sum(v not in sum(other.options.values(), ()) for v in goal.option_values)
            dear = other.pricing[0] > goal.price_upper
            if missed + lacking + dear == 1:
                tempted[goal.instruction] += 1
    assert len(tempted) >= 0.7 * len({g.instruction for g in goals_of("valid")})
    assert sum(tempted.values()) / len(tempted) > 2


def test_products_that_would_do_are_few() -> None:
    """How many products of the shop fulfil a goal: one nearly always."""
    counts = []
    for goal in goals_of("valid"):
        target = SHOP.catalogue.by_asin[goal.asin]
        kind = [p for p in SHOP.catalogue.products if p.query == target.query]
        wanted = chosen(goal)
        fits = 0
        for product in kind:
            options = {n: v for n, v in wanted.items() if v in product.options.get(n, ())}
            fits += earned(goal, product, options).reward == 1.0
        assert fits >= 1
        counts.append(fits)
    assert sum(counts) / len(counts) < 1.4


def test_nouns() -> None:
    text = "Women's Leggings by Marlow, Machine Washable with Zipper Pockets for Gym Workout"
    assert " ".join(title_nouns(text)) == "women leggings marlow zipper pockets gym workout"
    for product in PRODUCTS:
        nouns = NOUNS[product["name"]]
        thing = KINDS[product["query"]].title.lower().replace("'s", "").split()[-1]
        assert thing in nouns
        assert len(nouns) >= 2


def test_pages_are_short() -> None:
    """A page of ten products fits a small model's window several times."""
    env = WebShopEnv()
    for task_id in env.task_ids("valid")[::20]:
        observation, info = env.reset(options={"task_id": task_id})
        assert len(observation) < 400
        observation = env.step(f"search[{info['instruction']}]")[0]
        assert f"Total results: {RESULTS}" in observation
        assert len(observation) < 1400


def test_other_goal_seed_other_caps() -> None:
    other = SHOP.goals("synthetic", 7)
    assert len(other) == len(GOALS)
    assert [g.price_upper for g in other] != [g.price_upper for g in GOALS]
    assert [g.asin for g in other] == [g.asin for g in GOALS]
    assert unattainable(SHOP, goal_seed=7) == []

"""WebShop's reward: every part against the recorded ones, and what the fixed rules change."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from harness_envs.webshop.catalogue import GOAL_SEED, Catalogue, Product
from harness_envs.webshop.goals import Goal, Kind
from harness_envs.webshop.reward import COLOURS, RULES, Reward, Rules, reward
from harness_envs.webshop.shop import Shop, chosen, open_shop, unattainable
from hypothesis import given, settings
from hypothesis import strategies as st

PARTS = (
    *("r_type", "r_att", "w_att", "query_match", "category_match", "title_score"),
    *("r_option", "w_option", "r_price", "w_price"),
)


@pytest.fixture(scope="module")
def shop(data: Path, vectors: Path) -> Shop:
    return open_shop(str(data / "webshop"), str(vectors / "webshop_title_nouns.jsonl.gz"))


@pytest.mark.data
def test_every_part_equals_the_recorded_one(shop: Shop, vectors: Path) -> None:
    products, count = shop.catalogue.by_asin, 0
    with gzip.open(vectors / "webshop_reward.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            goal = shop.goals(row["goal_set"], GOAL_SEED)[row["goal_index"]]
            assert goal.asin == row["goal_asin"]
            found = reward(
                products[row["asin"]], row["options"], row["price"], goal, products[goal.asin]
            )
            assert found.reward == row["reward"], row["id"]
            for part in PARTS:
                assert getattr(found, part) == row["verbose"].get(part), (row["id"], part)
            assert round(found.r_att * len(goal.attributes)) == row["n_attr_matches"]
            count += 1
    assert count == 2000


@pytest.mark.data
@pytest.mark.parametrize(
    ("kind", "rules", "expected"),
    [("synthetic", "faithful", 458), ("synthetic", "fixed", 0), ("human", "fixed", 0)],
)
def test_unattainable_goals(shop: Shop, kind: Kind, rules: Rules, expected: int) -> None:
    assert len(unattainable(shop, kind, rules)) == expected


@pytest.mark.data
def test_unattainable_goals_are_out_of_reach_whatever_is_chosen(shop: Shop) -> None:
    """Not only the options asked for: no value of the product meets the option that is lost."""
    goals = shop.goals("synthetic", GOAL_SEED)
    for index in unattainable(shop)[::7]:
        goal = goals[index]
        target = shop.catalogue.by_asin[goal.asin]
        every = {f"{name}{n}": v for name, vs in target.options.items() for n, v in enumerate(vs)}
        found = reward(target, every, goals.prices[goal.asin], goal, target)
        assert found.reward < 1.0
        assert found.r_option is not None
        assert found.r_option < 1.0


def item(title: str = "Red Lamp", nouns: list[str] | None = None, **changes: Any) -> Product:
    raw = {
        "asin": "B000000001",
        "name": title,
        "full_description": "For desks.",
        "small_description": ["Bright", "Small"],
        "product_category": "Home › Lamps › Table Lamps",
        "category": "garden",
        "query": "table lamps",
        **changes,
    }
    facts = {"B000000001": {"attributes": ["easy clean"]}}
    return Catalogue.from_records([raw], facts, nouns={title: nouns or []}).products[0]


def goal(options: dict[str, str] | tuple[str, ...] = (), *attributes: str) -> Goal:
    kind: Kind = "synthetic" if isinstance(options, dict) else "human"
    return Goal(kind, 0, "B000000001", "x", attributes or ("easy clean",), options, 50.0)


@pytest.mark.parametrize(
    ("nouns", "wanted", "same_kind", "expected"),
    [
        (["lamp"], ["lamp"], True, 1.0),
        (["lamp"], ["lamp", *"abcdefg"], False, 0.5),  # 0.125: neither kind nor title
        (["lamp"], ["lamp", *"abcdefghi"], False, 0.5),  # 0.1 is not below 0.1
        (["lamp"], ["lamp", *"abcdefghijk"], True, 0.1),  # 0.083, though the query matches
        (["lamp"], ["chair"], True, 0.0),
        ([], [], False, 0.5),  # 0.2 is not above 0.2
        (["lamp"], ["lamp", "lamp"], True, 1.0),  # half: repeats count below
    ],
)
def test_type(nouns: list[str], wanted: list[str], same_kind: bool, expected: float) -> None:
    bought = item(nouns=nouns)
    other = {} if same_kind else {"query": "chairs", "product_category": "Home › Chairs"}
    found = reward(bought, {}, 10.0, goal(), item(nouns=wanted, **other))
    assert found.r_type == expected
    assert found.reward == expected


def test_attributes_match_by_likeness_or_in_the_texts() -> None:
    target = item(nouns=["lamp"])
    for attribute, met in (
        ("easy to clean", True),  # token_set_ratio
        ("for desks", True),  # description
        ("bright small", True),  # bullets, joined
        ("red", True),  # title
        ("heavy duty", False),
    ):
        found = reward(target, {}, 10.0, goal((), attribute), target)
        assert found.r_att == float(met), attribute


@pytest.mark.parametrize(
    ("wanted", "bought", "faithful", "fixed"),
    [
        ({"size": "large"}, "large", 1, 1),
        ({"size": "large"}, "xx-large", 0, 0),
        (("large",), "xx-large", 1, 0),
        (("large",), "large tall", 1, 1),
        ({"color": "blue"}, "navy blue", 1, 1),
        ({"shape": "rectangular"}, "rectangular", 0, 1),  # holds "tan"
        ({"color": "deep blue"}, "deep blue", 1, 1),
        ({"color": "burgundy"}, "blue", 0, 0),
        (("small",), "small", 1, 1),
        (("black",), "black 2 pack", 1, 1),
        (("small",), "x-small", 1, 0),
        (("abcdefghijklm",), "abcdefghijkno", 0, 0),  # 84.6 % alike: 85 is not above 85
    ],
)
def test_options_under_both_rules(
    wanted: dict[str, str] | tuple[str, ...], bought: str, faithful: int, fixed: int
) -> None:
    target = item(nouns=["lamp"])
    for rules, expected in zip(RULES, (faithful, fixed), strict=True):
        found = reward(target, {"any": bought}, 10.0, goal(wanted), target, rules)
        assert found.r_option == expected, rules


def test_price_above_the_cap_costs_its_share() -> None:
    target = item(nouns=["lamp"])
    assert reward(target, {}, 50.0, goal(), target).reward == 1.0
    dear = reward(target, {}, 50.01, goal(), target)
    assert (dear.reward, dear.r_price, dear.w_price) == (0.5, False, 0.5)


def test_measures_are_numbers_without_what_does_not_apply() -> None:
    target = item(nouns=["lamp"])
    without = reward(target, {}, 1.0, goal(), target).measures()
    assert set(without) == set(PARTS) - {"r_option", "w_option"}
    assert set(reward(target, {}, 1.0, goal({"size": "x"}), target).measures()) == set(PARTS)
    assert all(type(value) is float for value in without.values())


def test_colours_are_in_the_originals_order() -> None:
    assert list(COLOURS) == sorted(COLOURS)
    assert len(COLOURS) == len(set(COLOURS)) == 102


texts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=12)


@given(
    values=st.dictionaries(texts, texts, max_size=3),
    wanted=st.dictionaries(texts, texts, min_size=1, max_size=3),
    price=st.floats(0, 1000),
    rules=st.sampled_from(RULES),
)
@settings(max_examples=100, deadline=None)
def test_any_purchase_earns_a_share(
    values: dict[str, str], wanted: dict[str, str], price: float, rules: Rules
) -> None:
    target = item(nouns=["lamp"])
    found = reward(target, values, price, goal(wanted), target, rules)
    assert isinstance(found, Reward)
    assert 0.0 <= found.reward <= 1.0
    met = reward(target, chosen(goal(wanted)), 1.0, goal(wanted), target, "fixed")
    assert met.r_option == 1.0

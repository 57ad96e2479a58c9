"""Agents in the shop: what the expert promises, its slips, and how little the others get."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness_agents.errors import WithErrors, slips
from harness_agents.expert import ExpertPolicy, expert_for
from harness_agents.expert.webshop import BUDGET, decide, judge
from harness_agents.expert.webshop_belief import believe
from harness_agents.expert.webshop_pages import read_page, read_price
from harness_agents.expert.webshop_request import read_request, says
from harness_agents.nearest import NearestPolicy
from harness_agents.oracle import OraclePolicy
from harness_agents.random import RandomPolicy
from harness_agents.react import read_prompts
from harness_agents.replay import ReplayPolicy
from harness_envs.webshop import WebShopEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from played import played, share

import harness
from harness import registry, testing
from harness.loop import NO_ACTION
from harness.policy import Policy
from harness.transcript import parse
from harness.types import Decision, Episode, Outcome, Step

VALID, DEV = "webshop/builtin-valid", "webshop/builtin-dev"
ASIN = re.compile(r"B0[0-9A-Z]{8}")
PRICE = re.compile(r"\$(\d+\.\d+)")


def play(policy: Policy, tasks: str = VALID, **how: Any) -> list[Episode]:
    return played(policy, tasks, **how)


def act(step: Step) -> str:
    return step.decision.action or ""


@pytest.fixture(scope="module")
def expert_episodes() -> list[Episode]:
    return play(ExpertPolicy())


@pytest.fixture(scope="module")
def slipping_episodes() -> list[Episode]:
    return play(WithErrors(ExpertPolicy(), 0.15))


# The expert ---------------------------------------------------------------------------------


def test_expert_buys_what_is_asked(expert_episodes: list[Episode]) -> None:
    assert share(expert_episodes) >= 0.95
    assert sum(len(e.steps) for e in expert_episodes) / len(expert_episodes) < 8.5
    assert all(e.outcome is Outcome.DONE for e in expert_episodes)
    assert not any(s.invalid for e in expert_episodes for s in e.steps)


def test_expert_recovers_from_slips(slipping_episodes: list[Episode]) -> None:
    assert share(slipping_episodes) >= 0.8
    # What is lost otherwise is lost by a slip that ends the episode, or that takes the last steps.
    unspoilt = [
        e for e in slipping_episodes if not any("buy" in act(s) for s in e.steps if _slip(s))
    ]
    assert share(unspoilt) >= 0.85


def _slip(step: Step) -> bool:
    return step.decision.injected


def test_expert_reads_rich_pages_too(expert_episodes: list[Episode]) -> None:
    rich = play(ExpertPolicy(), every=6, observation_mode="text_rich")
    for one, other in zip(rich, expert_episodes[::6], strict=True):
        assert [act(s) for s in one.steps] == [act(s) for s in other.steps]


def test_expert_buys_in_reacts_view_too() -> None:
    """Three products and no second page, buttons in one spelling, no page after a choice."""
    plain = play(ExpertPolicy(), DEV, every=6, view="react")
    assert share(plain) >= 0.85
    clicks = [s for e in plain for s in e.steps if act(s).startswith("click[")]
    refused = {act(s) for s in clicks if s.invalid}
    assert refused <= {"click[Next >]"}  # shown, as in the original, and taken by neither
    slipping = play(WithErrors(ExpertPolicy(), 0.15), DEV, every=6, view="react")
    assert share(slipping) >= 0.7
    bought = {act(s) for e in slipping for s in e.steps if "buy now" in act(s).lower()}
    assert bought >= {"click[Buy Now]"}


def test_titles_in_brackets_are_read_alike_in_all_views() -> None:
    """Of the original's thousand products five have one."""
    title, parts = "Running Shoes [2 Pack]", ["Description", "Features", "Reviews"]
    seller = ["Price: $9.5", "Rating: N.A.", *parts, "Buy Now"]
    text = ["Instruction", "buy", "Back to Search", "< Prev", "size", "7", "8", title, *seller]
    buttons = {"Back to Search", "< Prev", "7", "8", *parts, "Buy Now"}
    rich = [f"[button] {p} [button_]" if p in buttons else p for p in text]
    react = ["", "[Back to Search] ", "[< Prev] ", "size [7][8]", f"{title} ", "Price: $9.5 ",
             "Rating: N.A. ", *(f"[{p}] " for p in parts), "[Buy Now] "]  # fmt: skip
    pages = [read_page(" [SEP] ".join(text)), *(read_page("\n".join(v)) for v in (rich, react))]
    assert pages[0].title == title
    assert pages[0].options == (("size", ("7", "8")),)
    assert pages == [pages[0]] * 3
    listed = [
        "",
        "[Back to Search] ",
        "Page 1 (Total results: 1) ",
        "[B000000001] ",
        f"{title} ",
        "$9.5 ",
    ]
    assert [p.title for p in read_page("\n".join(listed)).products] == [title]


@pytest.mark.data
def test_expert_buys_in_the_official_shop(data: Path, vectors: Path) -> None:
    """Goals of products outside ``small-500``; one goal in twelve can't be met at all."""
    episodes = play(
        ExpertPolicy(),
        "webshop/small-rest",
        every=5,
        data=str(data / "webshop"),
        nouns=str(vectors / "webshop_title_nouns.jsonl.gz"),
    )
    assert len(episodes) == 149
    assert share(episodes) >= 0.75
    assert all(e.outcome is Outcome.DONE for e in episodes)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 2**32), st.integers(0, 9))
def test_expert_buys_from_any_state(index: int, seed: int, length: int) -> None:
    """After any walk that leaves time, sensible or not, it ends with a purchase within budget."""
    env, rng, policy = WebShopEnv(), random.Random(seed), ExpertPolicy()
    task = registry.task_set("webshop", VALID).tasks[index]
    observation, info = env.reset(options={"task_id": task.id})
    steps: list[Step] = []
    for _ in range(length):
        possible = [a for a in info["admissible_actions"] if a != "click[buy now]"]
        junk = ["click[B000000000]", "search[gift]", "buy it", "click[red", "search[zzzz]"]
        action = rng.choice(possible if possible and rng.random() < 0.8 else junk)
        steps.append(Step(observation, Decision("", action)))
        observation, _, done, _, info = env.step(action)
        assert not done
    while len(steps) < BUDGET:
        decision = policy.act(info["instruction"], steps, observation)
        steps.append(Step(observation, decision))
        observation, _, done, _, info = env.step(act(steps[-1]))
        assert not info["invalid_action"]
        if done:
            break
    assert done


def test_expert_never_repeats_what_did_nothing(slipping_episodes: list[Episode]) -> None:
    for episode in slipping_episodes:
        for before, now in zip(episode.steps, episode.steps[1:], strict=False):
            if before.invalid and not _slip(now):
                assert act(now) != act(before)


def test_expert_walks_in_no_circles(expert_episodes: list[Episode]) -> None:
    for episode in expert_episodes:
        opened = Counter(act(s) for s in episode.steps if ASIN.search(act(s)))
        assert max(opened.values()) <= 2
        assert sum(n == 2 for n in opened.values()) <= 1


def test_expert_says_only_what_it_saw(slipping_episodes: list[Episode]) -> None:
    """Products and prices that it names were on the screen, or in an action before."""
    for episode in slipping_episodes:
        asins: set[str] = set()
        prices: set[str] = set()
        for step in episode.steps:
            asins |= set(ASIN.findall(step.observation))
            prices |= set(PRICE.findall(step.observation))
            if not _slip(step):
                assert set(ASIN.findall(step.decision.reasoning)) <= asins
                assert set(PRICE.findall(step.decision.reasoning)) <= prices
                assert set(ASIN.findall(act(step))) <= asins


def test_reasoning_is_one_compact_line_that_leads_to_its_action(
    slipping_episodes: list[Episode],
) -> None:
    words = []
    for step in (s for e in slipping_episodes for s in e.steps if not _slip(s)):
        reasoning = step.decision.reasoning
        assert "\n" not in reasoning
        assert "  " not in reasoning
        assert reasoning[0].isupper() or not reasoning[0].isalpha()
        assert reasoning.endswith(".")
        ending = reasoning.rpartition(", so ")[2]
        assert " I " in f" {ending}"
        target = act(step).partition("[")[2].removesuffix("]")
        if ASIN.fullmatch(target):
            assert target in ending
        words.append(len(reasoning.split()))
    assert 15 <= sum(words) / len(words) <= 25
    assert max(words) <= 50


def test_wording_varies_and_the_way_does_not() -> None:
    one, other = play(ExpertPolicy(), every=20), play(ExpertPolicy(seed=1), every=20)
    again = play(ExpertPolicy(), every=20)
    told = [[[s.decision for s in e.steps] for e in run] for run in (one, other, again)]
    assert told[0] == told[2]
    assert told[0] != told[1]
    ways = [[[act(s) for s in e.steps] for e in run] for run in (one, other)]
    assert ways[0] == ways[1]


def test_there_are_many_wordings(expert_episodes: list[Episode]) -> None:
    openings = Counter(
        " ".join(re.sub(r"[\d.$]+", "0", s.decision.reasoning).split()[:4])
        for e in expert_episodes
        for s in e.steps
    )
    assert len(openings) > 300


def test_expert_is_a_function_of_what_it_is_given(expert_episodes: list[Episode]) -> None:
    for episode in expert_episodes[::25]:
        info = {"task_id": episode.task.id}
        steps = list(episode.steps)
        for k in random.Random(0).sample(range(len(steps)), len(steps)):
            args = (episode.instruction, steps[:k], steps[k].observation, info)
            assert ExpertPolicy().act(*args) == ExpertPolicy().act(*args)
            assert ExpertPolicy().act(*args).action == act(steps[k])


START = "WebShop [SEP] Instruction: [SEP] Find me oil free soaps with color: red [SEP] Search"


@settings(max_examples=200, deadline=None)
@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.text(max_size=30), st.text(max_size=80)), max_size=6),
)
def test_expert_has_an_answer_to_any_history(wish: str, turns: list[tuple[str, str]]) -> None:
    texts = [START, *(observation for _, observation in turns)]
    history = [
        Step(text, Decision("", action)) for text, (action, _) in zip(texts, turns, strict=False)
    ]
    assert ExpertPolicy().act(wish, history, texts[-1]).action


def test_expert_knows_its_environment() -> None:
    assert expert_for(START).name == "webshop"
    rich = "WebShop\nInstruction: \nFind me soap\n[button] Search [button_]\n"
    assert expert_for(rich) is expert_for(START)
    assert expert_for("Question: who?") is not expert_for(START)
    assert expert_for("Nobody's first page") is None


def test_expert_after_a_reply_without_action() -> None:
    history = [Step(START, Decision("Hm.", None), invalid=True)]
    decision = ExpertPolicy().act("Find me oil free soaps", history, NO_ACTION)
    assert decision.action == "search[oil free soaps]"


def test_expert_plans_with_the_steps_and_the_cap_that_count() -> None:
    assert registry.task_set("webshop", VALID).protocol.max_steps == BUDGET
    page = "Instruction: [SEP] x [SEP] Back to Search [SEP] Page 1 (Total results: 1) [SEP] Next >"
    observation = f"{page} [SEP] B000000001 [SEP] Red Lamp [SEP] $20.0"
    belief = believe([Step("WebShop [SEP] x", Decision("", "search[red lamp]"))], observation)
    for cap, affordable in ((20, True), (19.99, False)):
        request = read_request(f"find me a red lamp, and price lower than {cap:.2f} dollars")
        assert judge(request, belief, "B000000001").affordable is affordable


def test_a_search_that_left_much_out_is_made_again() -> None:
    env = WebShopEnv()
    observation, info = env.reset(options={"split": "valid", "index": 0})
    steps = [Step(observation, Decision("", "search[soap]"))]
    observation = env.step("search[soap]")[0]
    plan = decide(read_request(info["instruction"]), believe(steps, observation))
    assert (plan.aim, plan.action) == (
        "search",
        f"search[{read_request(info['instruction']).words}]",
    )


# Reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "thing", "attributes", "options", "cap"),
    [
        (
            "Find me oil free, easy clean hand soaps with tea tree for dry skin with scent: mint, "
            "and size: 2 ounce, and price lower than 30.00 dollars",
            "hand soaps",
            ("oil free", "easy clean", "tea tree", "dry skin"),
            (("scent", "mint"), ("size", "2 ounce")),
            30.0,
        ),
        (
            "I am looking for curtains that are easy to install and eco friendly, for living room",
            "curtains",
            ("easy install", "eco friendly", "living room"),
            (),
            None,
        ),
        (
            "Find me hand wash women's tops, tees & blouses with short sleeve",
            "women's tops, tees & blouses",
            ("hand wash", "short sleeve"),
            (),
            None,
        ),
        ("Show me popcorn, and price lower than 20.00 dollars", "popcorn", (), (), 20.0),
        (
            "i need gluten free cookies with real fruit",
            "cookies",
            ("gluten free", "real fruit"),
            (),
            None,
        ),
    ],
)
def test_requests(
    text: str,
    thing: str,
    attributes: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    cap: float | None,
) -> None:
    request = read_request(text)
    assert (request.thing, request.attributes, request.options, request.cap) == (
        thing,
        attributes,
        options,
        cap,
    )


def test_every_built_in_instruction_is_read_right() -> None:
    env = WebShopEnv()
    for split in ("train", "dev", "valid"):
        for task_id in env.task_ids(split)[::7]:
            goal = env.shop.goal(task_id, 20261124)
            request = read_request(goal.instruction)
            assert set(request.attributes) == set(goal.attributes)
            assert dict(request.options) == goal.options
            assert request.cap == goal.price_upper
            assert request.thing == env.shop.catalogue.by_asin[goal.asin].query


def test_phrases_are_words_side_by_side() -> None:
    assert says(["It is easy to clean."], "easy clean")
    assert says(["Cleans: easy"], "easy clean")
    assert not says(["Easy to use, and clean"], "easy clean")
    assert not says(["gluten free, coconut oil"], "oil free")


@given(st.text())
def test_any_text_can_be_read(text: str) -> None:
    read_page(text)
    read_request(text)
    read_price(text)


def test_pages_are_read_as_the_shop_has_them() -> None:
    env = WebShopEnv()
    for task_id in env.task_ids("valid")[::30]:
        goal = env.shop.goal(task_id, 20261124)
        product = env.shop.catalogue.by_asin[goal.asin]
        observation, _ = env.reset(options={"task_id": task_id})
        assert read_page(observation).kind == "start"
        page = read_page(env.step(f"search[{product.title}]")[0])
        assert (page.kind, page.number, page.total, len(page.products)) == ("results", 1, 50, 10)
        listing = next(p for p in page.products if p.asin == product.asin)
        assert (listing.title, listing.low) == (product.title, product.pricing[0])
        page = read_page(env.step(f"click[{product.asin}]")[0])
        assert (page.kind, page.title) == ("item", product.title)
        assert (page.low, page.high) == (product.pricing[0], product.pricing[-1])
        assert dict(page.options) == product.options
        page = read_page(env.step("click[features]")[0])
        assert (page.kind, page.text) == ("sub", product.bullets)
        env.step("click[< prev]")
        assert read_page(env.step("click[buy now]")[0]).kind == "done"


# Slips --------------------------------------------------------------------------------------


def test_slips_come_at_their_rate_and_are_marked(slipping_episodes: list[Episode]) -> None:
    steps = [s for e in slipping_episodes for s in e.steps]
    assert 0.12 <= sum(map(_slip, steps)) / len(steps) <= 0.18
    expert = ExpertPolicy()
    for episode in slipping_episodes[::5]:
        for k, step in enumerate(episode.steps):
            right = expert.act(episode.instruction, episode.steps[:k], step.observation).action
            assert (act(step) == right) is not _slip(step)
            if _slip(step):
                assert act(step) in step.decision.reasoning


def test_slips_of_every_page() -> None:
    env, rng, kinds = WebShopEnv(), random.Random(0), set()
    for task_id in env.task_ids("valid")[::40]:
        observation, info = env.reset(options={"task_id": task_id})
        wish, steps = info["instruction"], []
        for action in (f"search[{wish}]", "", "click[features]", "click[< prev]"):
            action = action or f"click[{ASIN.findall(observation)[0]}]"
            found = slips(action, wish, steps, observation, info, rng)
            assert all(a != action for actions in found.values() for a in actions)
            kinds |= {kind for kind, actions in found.items() if actions}
            steps.append(Step(observation, Decision("", action)))
            observation, _, _, _, info = env.step(action)
    assert kinds >= {
        "vague",
        "wrong_product",
        "price_ignored",
        "buy_too_early",
        "skipped_options",
        "wrong_option",
        "malformed",
        "absent",
        "start_over",
        "too_early_back",
        "repeated",
    }


# The others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["random", "oracle", "expert"])
def test_contract(name: str) -> None:
    for what, check in testing.agent_checks(name, "webshop"):
        try:
            check()
        except Exception as error:  # pragma: no cover
            raise AssertionError(f"{name}: {what}") from error


def test_oracle_buys_right_always() -> None:
    assert share(play(OraclePolicy())) == 1


def test_random_hardly_ever_buys_right() -> None:
    assert share(play(RandomPolicy())) <= 0.05


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    run = harness.evaluate("expert", "webshop", tasks="webshop/builtin-train[:400]", out=out)
    return run.path


def test_replay_plays_a_run_again(recorded: Path) -> None:
    first = {e.key: e for e in harness.load(recorded).episodes()}
    for episode in play(ReplayPolicy(str(recorded)), "webshop/builtin-train[:400]", every=40):
        assert [s.decision for s in episode.steps] == [s.decision for s in first[episode.key].steps]
        assert episode.score == first[episode.key].score


def test_nearest_buys_right_what_it_has_seen_and_little_else(recorded: Path) -> None:
    policy = NearestPolicy(str(recorded))
    assert share(play(policy, "webshop/builtin-train[:400]", every=8)) >= 0.8
    assert share(play(policy, every=3)) <= 0.30


@pytest.mark.campaign
def test_nearest_of_all_training_episodes_buys_little_right(tmp_path: Path) -> None:
    run = harness.evaluate("expert", "webshop", tasks="webshop/builtin-train", out=tmp_path)
    assert share(play(NearestPolicy(str(run.path)))) <= 0.30


# Prompts ------------------------------------------------------------------------------------


def test_exemplars_are_episodes_of_the_shop() -> None:
    """Played again, every exemplar shows what it says it saw (lists are cut) and buys right."""
    env = WebShopEnv()
    by_wish = {env.shop.goal(id_, 20261124).instruction: id_ for id_ in env.task_ids("train")}
    text = read_prompts("few-shot")["webshop"]
    exemplars = text.split("\n\nTask: ")[1:-1]
    assert len(exemplars) == 2
    for exemplar in exemplars:
        wish, *blocks = exemplar.split("\nObservation: ")
        observation, info = env.reset(options={"task_id": by_wish[wish]})
        for block in blocks:
            shown, reply = block.split("\nReasoning: ")
            assert observation.startswith(shown)
            observation, _, _, _, info = env.step(parse(f"Reasoning: {reply}").action or "")
        assert info["success"]


def test_zero_shot_names_the_actions() -> None:
    text = read_prompts("zero-shot")["webshop"]
    assert "{instruction}" in text
    for name in ("search[", "click[", "click[buy now]", "click[< prev]", "click[features]"):
        assert name in text

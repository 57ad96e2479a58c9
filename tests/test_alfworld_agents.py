"""Agents in the household: what the ALFWorld expert promises, its prior and its slips."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness_agents.errors import WithErrors, misled, slips
from harness_agents.expert import ExpertPolicy
from harness_agents.expert.alfworld import Goal, decide, read_goal
from harness_agents.expert.alfworld_belief import Belief, believe, read_command, read_observation
from harness_agents.expert.fit_prior import count
from harness_agents.expert.prior import chance, worth
from harness_agents.scripted import ScriptedPolicy
from harness_envs.alfworld import ALFWorldEnv
from harness_envs.alfworld.fast import FastEngine
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from played import played, share, told

from harness import registry
from harness.errors import AgentError, ConfigError
from harness.policy import Policy
from harness.types import Decision, Episode, Step

NAME = re.compile(r"[a-z]+ \d+")
VALID = "alfworld/builtin-valid"


def play(policy: Policy, tasks: str = VALID, *, max_steps: int = 40, **how: Any) -> list[Episode]:
    return played(policy, tasks, max_steps=max_steps, **how)


@pytest.fixture(scope="module")
def expert_episodes() -> list[Episode]:
    return play(ExpertPolicy())


@pytest.fixture(scope="module")
def slipping_episodes() -> list[Episode]:
    return play(WithErrors(ExpertPolicy(), 0.12))


def _act(step: Step) -> str:
    return step.decision.action or ""


def _taught(episodes: Sequence[Episode]) -> Iterator[Step]:
    return (s for e in episodes for s in e.steps if not s.decision.injected)


# The expert ---------------------------------------------------------------------------------


def test_expert_wins_built_in_games(expert_episodes: list[Episode]) -> None:
    assert share(expert_episodes) >= 0.99
    assert sum(len(e.steps) for e in expert_episodes) / len(expert_episodes) < 10
    assert not any(s.invalid for e in expert_episodes for s in e.steps if "go to" not in _act(s))


@pytest.mark.data
def test_expert_wins_real_games(data: Path) -> None:
    for policy in (ExpertPolicy(), WithErrors(ExpertPolicy(), 0.12)):
        episodes = play(policy, "alfworld/seen-140", data=str(data / "alfworld"))
        assert len(episodes) == 140
        assert share(episodes) >= 0.97


def test_expert_recovers_from_slips(slipping_episodes: list[Episode]) -> None:
    assert share(slipping_episodes) >= 0.97


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 273), st.integers(0, 2**32), st.integers(0, 30), st.sampled_from(("move", "put"))
)
def test_expert_goes_on_from_any_state(index: int, seed: int, length: int, grammar: str) -> None:
    """After any walk, admissible or not, in either grammar, it still wins."""
    env = ALFWorldEnv()
    game = env.games.game(registry.task_set("alfworld", VALID).tasks[index].id)
    game = msgspec.structs.replace(game, grammar=grammar)
    engine, rng, policy = FastEngine(), random.Random(seed), ExpertPolicy()
    observation, admissible = engine.reset(game)
    steps: list[Step] = []
    for _ in range(length):
        junk = ["go to desk 99", "take mug 1 from fridge 1", "open", "", "put mug 1 in desk 1"]
        action = rng.choice(admissible if rng.random() < 0.8 else junk)
        steps.append(Step(observation, Decision("", action)))
        observation, admissible, won = engine.step(action)
        # Some things can't be put down again anywhere: a dead end of the game itself.
        held = observation.startswith("You pick up")
        assume(not held or any(a.startswith(("move", "put")) for a in admissible))
        assume(not won)
    for _ in range(70):
        decision = policy.act(game.task, steps, observation)
        steps.append(Step(observation, decision))
        observation, _, won = engine.step(decision.action or "")
        if won:
            break
    assert won


def test_expert_never_repeats_a_command_that_did_nothing(slipping_episodes: list[Episode]) -> None:
    for episode in slipping_episodes:
        for before, now in zip(episode.steps, episode.steps[1:], strict=False):
            if now.observation == "Nothing happens." and not now.decision.injected:
                assert _act(now) != _act(before)


def test_expert_says_only_what_it_saw(slipping_episodes: list[Episode]) -> None:
    """Every thing it names was on the screen or in its own earlier commands."""
    for episode in slipping_episodes:
        known: set[str] = set()
        for step in episode.steps:
            known |= set(NAME.findall(step.observation))
            if not step.decision.injected:
                assert set(NAME.findall(step.decision.reasoning)) <= known
                assert set(NAME.findall(_act(step))) <= known
            known |= set(NAME.findall(_act(step)))


def test_reasoning_is_one_compact_line_that_ends_in_its_action(
    slipping_episodes: list[Episode],
) -> None:
    words = []
    for step in _taught(slipping_episodes):
        reasoning = step.decision.reasoning
        assert "\n" not in reasoning
        assert "  " not in reasoning
        assert reasoning[0].isupper()
        assert reasoning.endswith(".")
        ending = reasoning.rpartition(" I ")[2].rstrip(".")
        place = _act(step).removeprefix("go to ")
        assert ending.endswith((_act(step), f"try {place}", f"check {place}"))
        words.append(len(reasoning.split()))
    assert 15 <= sum(words) / len(words) <= 25
    assert max(words) <= 45


def test_wording_varies_and_the_way_does_not() -> None:
    one, other = play(ExpertPolicy(), every=10), play(ExpertPolicy(seed=1), every=10)
    again = play(ExpertPolicy(), every=10)
    assert told(one) == told(again)
    assert told(one) != told(other)
    assert [[_act(s) for s in e.steps] for e in one] == [[_act(s) for s in e.steps] for e in other]


def test_attempts_are_worded_differently() -> None:
    observation, info = ALFWorldEnv().reset(seed=0)
    said = {
        (d.reasoning, d.action)
        for seed in range(30)
        for d in [
            ExpertPolicy().act(
                info["instruction"], [], observation, {"task_id": "x", "sampling_seed": seed}
            )
        ]
    }
    assert len({action for _, action in said}) == 1 < len(said)


def test_there_are_many_wordings(expert_episodes: list[Episode]) -> None:
    patterns = Counter(NAME.sub("X", r.decision.reasoning) for r in _taught(expert_episodes))
    assert len(patterns) > 500


def test_expert_is_a_function_of_what_it_is_given(expert_episodes: list[Episode]) -> None:
    for episode in expert_episodes[::20]:
        info = {"task_id": episode.task.id}
        steps = list(episode.steps)
        for k in random.Random(0).sample(range(len(steps)), len(steps)):
            args = (episode.instruction, steps[:k], steps[k].observation, info)
            assert ExpertPolicy().act(*args) == ExpertPolicy().act(*args)
            assert ExpertPolicy().act(*args).action == _act(steps[k])


def test_two_that_lie_apart_are_brought_together() -> None:
    """One on each of two shelves: the second goes to the first, from wherever the agent stands."""
    goal = Goal("cd", "shelf", count=2)
    contents = {"shelf 1": ("cd 3",), "shelf 2": ("cd 2",)}
    lids = dict.fromkeys(contents, "surface")
    for at, action in (("shelf 1", "go to shelf 2"), ("shelf 2", "take cd 2 from shelf 2")):
        belief = Belief(("shelf 2", "shelf 1"), at=at, contents=contents.copy(), lids=lids)
        assert decide(goal, belief).action == action


def test_expert_walks_in_no_circles(expert_episodes: list[Episode]) -> None:
    for episode in [*expert_episodes, *play(ExpertPolicy(), "alfworld/builtin-dev")]:
        assert episode.success
        assert max(Counter(_act(s) for s in episode.steps).values()) <= 3


def test_expert_plays_no_unknown_environment() -> None:
    with pytest.raises(AgentError, match="plays alfworld"):
        ExpertPolicy().act("buy a shoe", [], "WebShop [SEP] Instruction:")


@pytest.mark.parametrize(
    ("sentence", "goal"),
    [
        ("put some mug on desk.", Goal("mug", "desk")),
        ("put a mug in desk.", Goal("mug", "desk")),
        ("clean some egg and put it in fridge.", Goal("egg", "fridge", "clean")),
        ("put a hot egg in fridge.", Goal("egg", "fridge", "hot")),
        ("heat some egg and put it in fridge.", Goal("egg", "fridge", "hot")),
        ("cool some egg and put it in fridge.", Goal("egg", "fridge", "cool")),
        ("find two cd and put them in safe.", Goal("cd", "safe", count=2)),
        ("put two cd in safe.", Goal("cd", "safe", count=2)),
        ("look at cd under the desklamp.", Goal("cd", lamp="desklamp")),
        ("examine the cd with the desklamp.", Goal("cd", lamp="desklamp")),
    ],
)
def test_goal_templates(sentence: str, goal: Goal) -> None:
    assert read_goal(sentence) == goal


def test_free_instructions_are_refused_by_name() -> None:
    with pytest.raises(AgentError, match="tidy up"):
        read_goal("tidy up")


@given(st.text(), st.text())
def test_any_text_can_be_read(observation: str, action: str) -> None:
    read_observation(observation)
    read_command(action)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=60)), max_size=6))
def test_expert_has_an_answer_to_any_history(turns: list[tuple[str, str]]) -> None:
    intro = (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a desk 1, and a shelf 1.\n\nYour task is to: put a mug in desk."
    )
    texts = [intro, *(observation for _, observation in turns)]
    history = [
        Step(text, Decision("", action)) for text, (action, _) in zip(texts, turns, strict=False)
    ]
    decision = ExpertPolicy().act("put a mug in desk.", history, texts[-1])
    assert decision.action


def test_belief_knows_the_room() -> None:
    env = ALFWorldEnv()
    observation, info = env.reset(options={"split": "valid_seen", "index": 0})
    belief = believe([], observation)
    gone = {a.removeprefix("go to ") for a in info["admissible_actions"] if a.startswith("go to")}
    assert gone <= set(belief.places)
    assert decide(read_goal(info["instruction"]), belief).action in info["admissible_actions"]


# The prior ----------------------------------------------------------------------------------

PROBLEM = """(:init (receptacleType D1 DeskType) (receptacleType D2 DeskType)
(receptacleType S1 ShelfType) (objectType M1 MugType) (objectType M2 MugType)
(objectType B1 BookType) (inReceptacle M1 D1) (inReceptacle M2 D1) (inReceptacle B1 S1))
(:goal (inReceptacle B1 D1))"""


def test_prior_counts_receptacles_of_games_that_have_the_object() -> None:
    held, stood, games = count([PROBLEM, PROBLEM.replace("MugType", "PenType")])
    assert games == 2
    assert held["mug"] == {"desk": 1}
    assert stood["mug"] == {"desk": 2, "shelf": 1}
    assert held["book"] == {"shelf": 2}
    assert stood["book"] == {"desk": 4, "shelf": 2}


def test_prior_is_a_probability_and_a_lid_costs_a_step() -> None:
    for thing in ("mug", "book", "cd", "no such thing"):
        for place in ("desk", "drawer", "fridge", "bed", "no such place"):
            assert 0 <= chance(thing, place) <= 1
    assert worth("egg", "fridge") == chance("egg", "fridge") / 2
    assert chance("egg", "bed") == 0


# Slips --------------------------------------------------------------------------------------


def test_slips_come_at_their_rate_and_are_marked(slipping_episodes: list[Episode]) -> None:
    steps = [s for e in slipping_episodes for s in e.steps]
    injected = sum(s.decision.injected for s in steps)
    assert abs(injected / len(steps) - 0.12) < 4 * (0.12 * 0.88 / len(steps)) ** 0.5


def test_a_slip_is_another_action_with_reasoning_that_leads_to_it(
    slipping_episodes: list[Episode],
) -> None:
    expert = ExpertPolicy()
    kinds = Counter[str]()
    for episode in slipping_episodes:
        for k, step in enumerate(episode.steps):
            right = expert.act(episode.instruction, episode.steps[:k], step.observation).action
            if step.decision.injected:
                assert _act(step) != right
                assert _act(step) in step.decision.reasoning
                kinds[read_command(_act(step)).verb] += 1
            else:
                assert _act(step) == right
    assert set(kinds) >= {"", "go", "open", "take", "put", "look", "examine"}


def test_without_errors_it_is_the_policy(expert_episodes: list[Episode]) -> None:
    assert told(play(WithErrors(ExpertPolicy(), 0.0))) == told(expert_episodes)


def test_slips_are_the_same_again_and_others_with_another_seed() -> None:
    def injected(seed: int) -> list[tuple[str, int]]:
        episodes = play(WithErrors(ExpertPolicy(), 0.3, seed=seed), every=10)
        return [
            (e.task.id, k) for e in episodes for k, s in enumerate(e.steps) if s.decision.injected
        ]

    assert injected(0) == injected(0) != injected(1)


def test_attempts_at_a_task_slip_at_other_steps() -> None:
    policy = WithErrors(ScriptedPolicy(["go"]), 0.5)
    info = [{"task_id": "t", "sampling_seed": seed} for seed in range(20)]
    assert len({policy.act("do", [], "", one).injected for one in info}) == 2


def test_errors_from_another_agent() -> None:
    other = ScriptedPolicy(["Reasoning: Hm.\nAction: dance"])
    steps = [
        s
        for e in play(WithErrors(ExpertPolicy(), 0.3, errors_from=other), every=20)
        for s in e.steps
    ]
    slipped = [s.decision for s in steps if s.decision.injected]
    assert slipped
    assert all(d == Decision("Hm.", "dance", injected=True) for d in slipped)
    # Where the other agent is right there is nothing to mark.
    twin = play(WithErrors(ExpertPolicy(), 0.5, errors_from=ExpertPolicy(seed=9)), every=20)
    assert not any(s.decision.injected for e in twin for s in e.steps)


def test_slips_where_nothing_is_known_of_the_environment() -> None:
    rng = random.Random(0)
    info = {"admissible_actions": ["click[b]", "click[a]"]}
    found = slips("click[a]", "buy a", [], "a page", info, rng)
    assert found["other"] == ["click[b]"]
    assert all(a != "click[a]" for actions in found.values() for a in actions)
    history = [Step("", Decision("", action)) for action in ("first", "last")]
    assert slips("x", "", history, "", {}, rng)["repeated"] == ["last"]
    assert any(slips("x", "", [], "", {}, rng).values())


def test_slips_are_of_the_environments_kinds_at_every_step() -> None:
    rng, (seen, info) = random.Random(0), ALFWorldEnv().reset(options={"index": 0})
    asked = ("go to desk 1", info["instruction"])
    begun = slips(*asked, [], seen, info, rng)
    later = slips(*asked, [Step(seen, Decision("", "look"))], "Nothing happens.", info, rng)
    assert set(begun) == set(later) > {"repeated", "malformed", "other"}


def test_error_rate_is_a_probability() -> None:
    with pytest.raises(ConfigError, match="probability"):
        WithErrors(ExpertPolicy(), 1.5)


@pytest.mark.parametrize(
    ("reasoning", "said"),
    [
        ("It is here, so I take mug 1.", "It is here, so I look."),
        ("Not here, so I try desk 1.", "Not here, so I look."),
        ("I see it. Now I try desk 1.", "I see it. I look."),
        ("", ""),
    ],
)
def test_reasoning_is_led_to_the_slip(reasoning: str, said: str) -> None:
    assert misled(Decision(reasoning, "take mug 1"), "look") == said

"""Presets of the literature: each one's rules exercised by a scripted agent, and what is told."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import msgspec
import pytest
from harness_envs.alfworld import ALFWorldEnv
from harness_envs.alfworld.nearest import bleu, nearest
from toy import CountEnv
from typer.testing import CliRunner

import harness
from harness import api, registry
from harness.cli import app
from harness.errors import ConfigError
from harness.listing import rules
from harness.loop import ADMISSIBLE, play_episode
from harness.protocol import Protocol, Repetition
from harness.sides import find_set
from harness.tasksets import TaskSet, freeze
from harness.types import Decision, Outcome, Task

ENVS = ("alfworld", "hotpotqa", "webshop")
PRESETS = [(env, name) for env in ENVS for name in registry.env_class(env).protocols]  # fmt: skip
NOTHING = "Nothing happens."


class Recites:
    """Gives one reply after the other, then the last one for good. None: a reply that names no
    action."""

    def __init__(self, *replies: Decision | str | None) -> None:
        self.replies = [
            r if isinstance(r, Decision) else Decision("hm", r) for r in replies
        ]  # fmt: skip

    def act(self, instruction, history, observation):
        return self.replies[min(len(history), len(self.replies) - 1)]


def play(env, preset, *replies):
    """One built-in task under a preset, by an agent that recites."""
    meta = api.plan("random", env, tasks="builtin-dev[:1]", protocol=preset)
    made = registry.env_class(env)(**meta.task_set.options, **meta.env_options)
    try:
        return play_episode(
            Recites(*replies), made, meta.task_set.tasks[0], agent="recites",
            protocol=meta.task_set.protocol,
        )  # fmt: skip
    finally:
        made.close()


def varied(episode):
    """How it ended, after how many steps of the agent, how many of them invalid."""
    own = [s for s in episode.steps if not s.forced]
    return episode.outcome, len(own), sum(s.invalid for s in own)


# The budgets and the rules of each preset -----------------------------------------------------

BUDGETS = {
    ("alfworld", "react"): 49,
    ("alfworld", "eto"): 40,
    ("alfworld", "gigpo"): 50,
    ("alfworld", "agentboard"): 30,
    ("alfworld", "agentbench"): 35,
    ("alfworld", "agentbench-fc"): 20,
    ("hotpotqa", "react"): 7,
    ("webshop", "react"): 14,
    ("webshop", "eto"): 10,
    ("webshop", "gigpo"): 15,
    ("webshop", "agentboard"): 29,
    ("webshop", "agentbench"): 10,
    ("webshop", "agentbench-fc"): 20,
}
#: Two actions that every game admits, in turns: no repetition, nothing achieved.
IDLE = {
    "alfworld": ("look", "inventory"),
    "hotpotqa": ("search[a]", "search[b]"),
    "webshop": ("search[tea]", "click[Back to Search]"),
}


@pytest.mark.parametrize(("env", "name"), PRESETS)
def test_a_preset_gives_its_budget_and_no_step_more(env, name):
    budget = BUDGETS[env, name]
    episode = play(env, name, *(IDLE[env] * 30))
    assert varied(episode)[:2] == (Outcome.TRUNCATED, budget)
    assert not episode.success
    assert episode.score == 0.0


@pytest.mark.parametrize(("env", "name"), PRESETS)
def test_replies_without_an_action_cost_steps_and_end_only_agentbench(env, name):
    outcome, steps, invalid = varied(play(env, name, None))
    if name == "agentbench":
        assert (outcome, steps) == (Outcome.FORMAT, 1)
    else:
        assert (outcome, steps) == (Outcome.TRUNCATED, BUDGETS[env, name])
    assert invalid == steps


@pytest.mark.parametrize("name", ["react", "eto", "gigpo", "agentboard"])
def test_an_invalid_action_of_alfworld_costs_a_step_and_repeating_it_ends_nothing(name):
    budget = BUDGETS["alfworld", name]
    episode = play("alfworld", name, "fly to the moon")
    assert varied(episode) == (Outcome.TRUNCATED, budget, budget)
    assert {s.observation for s in episode.steps[1:]} == {NOTHING}


def test_thoughts_cost_a_step_of_reacts_alfworld_and_are_nonsense_to_etos():
    ours, theirs = (play("alfworld", name, "think: where is it?") for name in ("react", "eto"))
    assert varied(ours) == (Outcome.TRUNCATED, 49, 0)
    assert ours.final_observation == "OK."
    assert varied(theirs) == (Outcome.TRUNCATED, 40, 40)
    assert theirs.final_observation == NOTHING


def test_agentbench_ends_at_the_third_like_reply_but_not_before_the_fourth_step():
    same = Decision("I look around.", "look")
    episode = play("alfworld", "agentbench", same)
    assert varied(episode) == (Outcome.TRUNCATED, 4, 0)
    episode = play("alfworld", "agentbench", "inventory", "help", same)
    assert varied(episode) == (Outcome.TRUNCATED, 5, 0)
    # The whole reply counts there: other thoughts about one action are no repetition ...
    thoughts = [Decision(f"thought {i}", "look") for i in range(50)]
    assert varied(play("alfworld", "agentbench", *thoughts))[1] == 35
    # ... and with function calls the action alone.
    assert varied(play("alfworld", "agentbench-fc", *thoughts))[:2] == (Outcome.TRUNCATED, 4)
    # Replies without a call are not counted and interrupt nothing.
    gaps = ["look", None, "look", None, "look", None, "look"]
    assert varied(play("alfworld", "agentbench-fc", *gaps)) == (Outcome.TRUNCATED, 7, 3)


def test_agentbench_executes_the_most_like_admissible_action_and_the_record_tells():
    first = play("alfworld", "agentboard", "check valid actions").steps[1].observation
    target = next(a for a in first.removeprefix(ADMISSIBLE).split(", ") if a.startswith("go to"))
    step, *_ = play("alfworld", "agentbench", f"Walk {target.removeprefix('go ')}").steps
    assert (step.executed, step.invalid) == (target, False)
    step, *_ = play("alfworld", "agentbench", "xyzzy").steps
    assert (step.executed, step.invalid) == (None, True)


@pytest.mark.parametrize("form", [str, str.capitalize, "{}\nThen I will check it.".format])
def test_agentbench_reads_the_first_line_in_lower_case(form):
    """Else the like of a put with a capital is heating what is to be put."""
    env = ALFWorldEnv(reveal=True, aliases=True, nearest=True)
    tried = 0
    for index in range(60):
        _, info = env.reset(options={"index": index})
        for action in info["solution"]:
            if found := re.fullmatch(r"(?:heat|cool) (.+) with (.+)", action):
                thing, place = found.groups()
                if (opening := f"open {place}") in info["admissible_actions"]:
                    env.step(opening)
                *_, info = env.step(form(f"put {thing} in/on {place}"))
                assert info["executed"] == f"move {thing} to {place}"
                tried += 1
                break
            *_, info = env.step(action)
    assert tried > 5


def test_agentboards_request_lists_what_is_admissible_at_the_price_of_a_step():
    episode = play("alfworld", "agentboard", "check valid actions", "look", "inventory", "help")
    first, second = episode.steps[:2]
    assert not first.invalid
    listed = second.observation.removeprefix(ADMISSIBLE).split(", ")
    assert {"help", "inventory", "look"} < set(listed)
    assert any(action.startswith("go to ") for action in listed)
    # Elsewhere the words are an action like any other, and nonsense.
    assert play("alfworld", "eto", "check valid actions").steps[0].invalid


@pytest.mark.parametrize(
    ("name", "executes"), [("react", True), ("eto", True), ("agentboard", True), ("gigpo", False)]
)
def test_the_older_grammar_is_executed_where_the_originals_games_have_it(name, executes):
    env, game = ALFWorldEnv(reveal=True), "builtin-dev[:1]"
    task = registry.task_set("alfworld", game).tasks[0]
    solution = env.reset(options={"task_id": task.id})[1]["solution"]
    put = [_older(action) for action in solution]
    assert put != solution
    episode = play("alfworld", name, *put)
    assert episode.success is executes


def _older(action):
    if not action.startswith("move "):
        return action
    thing, place = action.removeprefix("move ").split(" to ")
    return f"put {thing} in/on {place}"


def test_hotpotqas_last_answer_is_empty_and_forced():
    episode = play("hotpotqa", "react", "Search[nobody]")
    assert varied(episode)[:2] == (Outcome.TRUNCATED, 7)
    assert episode.steps[0].executed == "search[nobody]"
    assert (episode.steps[-1].forced, episode.steps[-1].decision.action) == (True, "finish[]")
    assert episode.final_observation == "Episode finished, reward = 0\n"


def test_webshops_invalid_actions_are_answered_by_react_and_ignored_elsewhere():
    react = play("webshop", "react", "click[nothing of the sort]", "buy it")
    assert varied(react) == (Outcome.TRUNCATED, 14, 14)
    assert react.final_observation == "Invalid action!"
    for name in ("eto", "gigpo", "agentbench", "agentbench-fc"):
        episode = play("webshop", name, "click[nothing of the sort]")
        assert len({s.observation for s in episode.steps}) == 1
        assert varied(episode) == (Outcome.TRUNCATED, len(episode.steps), len(episode.steps))
        assert len(episode.steps) == BUDGETS["webshop", name]
    # In AgentBench, what is neither a search nor a click is no action and ends the episode.
    assert varied(play("webshop", "agentbench", "search[tea]", "buy it")) == (Outcome.FORMAT, 2, 1)
    assert varied(play("webshop", "eto", "search[tea]", "buy it")) == (Outcome.TRUNCATED, 10, 9)
    thought = play("webshop", "react", "think[which one?]")
    assert (varied(thought), thought.final_observation) == ((Outcome.TRUNCATED, 14, 0), "OK.")


def test_reacts_published_webshop_episodes_have_its_budget(data: Path) -> None:
    path = data / "trajectories" / "webshop_react" / "react_webshop_500.jsonl.gz"
    with gzip.open(path) as file:
        episodes = [msgspec.json.decode(line) for line in file]
    assert len(episodes) == 500
    longest = [e for e in episodes if len(e["steps"]) >= BUDGETS["webshop", "react"]]
    assert {len(e["steps"]) for e in longest} == {BUDGETS["webshop", "react"]}
    # Most that took so many were cut off.
    assert sum(e["reward"] == 0 for e in longest) > len(longest) / 2


def test_a_purchase_that_is_not_right_is_a_score_and_no_success():
    ids = registry.task_set("webshop", "builtin-dev[:1]").tasks
    env = harness.make("webshop")
    _, info = env.reset(options={"task_id": ids[0].id})
    page, *_ = env.step(f"search[{info['instruction']}]")
    asins = [part for part in page.split(" [SEP] ") if len(part) == 10 and part.isupper()]
    search = f"search[{info['instruction']}]"
    found = [
        play("webshop", "eto", search, f"click[{a.lower()}]", "click[buy now]") for a in asins
    ]  # fmt: skip
    partial = [e for e in found if 0 < e.score < 1]
    assert partial
    assert all(e.outcome is Outcome.DONE and not e.success for e in partial)


# A preset in a run ------------------------------------------------------------------------------


def test_a_preset_is_recorded_and_two_are_never_compared(tmp_path):
    runs = [
        harness.evaluate(
            agent, "alfworld", tasks="builtin-dev[:2]", protocol=name, out=tmp_path, workers=1
        )
        for agent, name in (("oracle", "eto"), ("expert", "eto"), ("expert", "agentboard"))
    ]
    meta = harness.load(runs[0].path).meta
    assert meta.task_set.name == "alfworld/builtin-dev[0:2]+eto"
    assert meta.task_set.protocol == Protocol(40, format_limit=None)
    assert meta.task_set.options["aliases"] is True
    assert harness.compare(runs[0], runs[1]).pairs == 2
    with pytest.raises(ConfigError, match="score different things"):
        harness.compare(runs[0], runs[2])
    plain = harness.evaluate("oracle", "alfworld", tasks="builtin-dev[:2]", out=tmp_path)
    with pytest.raises(ConfigError, match="score different things"):
        harness.compare(runs[0], plain)


def test_a_preset_brings_its_tasks_where_real_data_are_named():
    def planned(env, name, **settings):
        task_set = api.plan("random", env, protocol=name, **settings).task_set
        return task_set.name, len(task_set.tasks)

    real = {"env_options": {"data": "official"}}
    assert planned("alfworld", "eto", **real) == ("alfworld/unseen-134+eto", 134)
    assert planned("alfworld", "gigpo", **real) == ("alfworld/seen-140+gigpo", 140)
    assert planned("alfworld", "agentbench", **real) == ("alfworld/agentbench-50+agentbench", 50)
    assert planned("webshop", "gigpo", **real) == ("webshop/small-500+gigpo", 500)
    assert planned("hotpotqa", "react", **real) == ("hotpotqa/react-500+react", 500)
    named = planned("alfworld", "eto", tasks="seen-140", **real)
    assert named == ("alfworld/seen-140+eto", 140)
    # Without real data, what is built in; its name tells.
    assert planned("alfworld", "eto")[0] == "alfworld/builtin-valid+eto"
    with pytest.raises(ConfigError, match="has no task set"):
        planned("webshop", "eto", **real)


@pytest.mark.parametrize(("env", "name"), PRESETS)
def test_a_preset_tells_where_its_facts_are_from_and_its_set_is_there(env, name):
    preset = registry.env_class(env).protocols[name]
    assert " at " in preset.source
    assert ": " in preset.source
    for text in (preset.plays, preset.grammar, preset.invalid, preset.scoring):
        assert text
    assert preset.tasks is None or registry.task_set(env, preset.tasks).tasks
    assert preset.tasks or "not among the data" in preset.differs


# Rules that are not used are no part of a hash ---------------------------------------------------


def test_unused_rules_leave_hashes_alone_and_used_ones_change_them():
    plain = TaskSet.make(
        "e/v", "e", [Task("e", "v", "v/1")], max_steps=9, content={"v/1": "0"}
    )  # fmt: skip
    assert plain.hash == "03441dbae6b97a88"
    assert plain.varied(max_tokens=500, repeat_limit=3).hash == "56e35abf1c6b7b9c"
    for env, name, known in (
        ("alfworld", "unseen-134", "ee50c35731bf58ee"),
        ("webshop", "small-500", "5335d09c22198c60"),
        ("hotpotqa", "react-500", "62ce6edfc6190fc9"),
    ):
        assert registry.task_set(env, name).hash == known
    changed = [
        msgspec.structs.replace(plain.protocol, **rule)
        for rule in (
            {"format_limit": None},
            {"help_action": "help me"},
            {"actions": "go"},
            {"repetition": Repetition(3)},
            {"repetition": Repetition(3, of="action")},
            {"repetition": Repetition(3, least=4)},
        )
    ]
    hashes = {msgspec.structs.replace(plain, protocol=p).hash for p in changed}
    assert len(hashes | {plain.hash}) == 7
    assert [plain.varied(max_steps=n).protocol.max_steps for n in (8, 9, 12)] == [8, 9, 12]


def test_rules_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="at least 2 replies"):
        Repetition(1)
    with pytest.raises(ConfigError, match="at least 2 replies"):
        Repetition(3, least=0)
    with pytest.raises(ConfigError, match="No pattern of actions"):
        Protocol(3, actions="(go")
    with pytest.raises(ConfigError, match="format limit is at least 1"):
        Protocol(3, format_limit=0)


def test_a_thought_and_an_action_are_known_by_how_they_begin():
    rules = Protocol(3, think="OK.", actions="go|think")
    thoughts = ("think: a", "Think [a]", "think about it", "rethink: a")
    assert [rules.is_thought(text) for text in thoughts] == [True, True, False, False]
    actions = ("go", "going", "I go", None)
    assert [rules.is_action(text) for text in actions] == [True, True, False, False]


def test_all_rules_together_in_the_loop():
    protocol = Protocol(
        9, format_limit=None, repetition=Repetition(2, of="action"), help_action="?"
    )  # fmt: skip
    task = Task("count", "valid", "valid/4")
    script = Recites("?", "1", None, "0", "7", "7")
    episode = play_episode(script, CountEnv(), task, agent="t", protocol=protocol)
    assert (episode.outcome, len(episode.steps), episode.score) == (Outcome.TRUNCATED, 6, 0.25)
    assert episode.steps[1].observation == "Admissible actions: 1"
    assert [s.invalid for s in episode.steps] == [False, False, True, True, True, True]
    assert rules(protocol) == [
        "ends at 2 identical actions, from step 1 on",
        "`?` lists the admissible actions",
    ]


# The most like command ---------------------------------------------------------------------------

#: Smoothed BLEU-4 (method 4) as NLTK 3.10.4 computes it.
BLEU = [
    ("go to desk 1", "go to the desk 1", 0.17141814854755813),
    ("move mug 1 to desk 1", "put mug 1 on desk 1", 0.1374292659508281),
    ("look", "look around", 0.06754436142034707),
    ("go to desk 1", "go", 0.049787068367863944),
    ("look", "look", 1.0),
    ("look", "go", 0.0),
    ("look", "", 0.0),
]


@pytest.mark.parametrize(("reference", "text", "score"), BLEU)
def test_bleu_is_nltks(reference, text, score):
    assert bleu(reference.split(), text.split()) == pytest.approx(score, rel=1e-12)


def test_the_nearest_command():
    commands = [
        "examine desk 1", "go to desk 1", "go to drawer 2", "help", "inventory", "look",
        "move mug 1 to desk 1", "open drawer 1", "take mug 1 from desk 1",
    ]  # fmt: skip
    for text, found in {
        "Go to desk 1 ": "go to desk 1",
        "put the mug 1 on desk 1": "move mug 1 to desk 1",
        "open the drawer 2": "go to drawer 2",
        "look around": "look",
        "mug": "mug",  # 0.0067: too little
        "walk over": "walk over",
        "": "",
    }.items():
        assert nearest(text, commands) == found
    assert nearest("Fly", []) == "fly"


# The commands ----------------------------------------------------------------------------------


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "240"})


def test_the_list_tells_what_is_not_reproduced_and_one_preset_everything():
    shown = call("list", "protocols").stdout
    assert "subgoal" in shown
    assert "agentbench-fc-93" in shown
    told = call("list", "protocols", "agentbench").stdout
    for text in ("agentbench on alfworld", "agentbench on webshop", "41e6807", "highest BLEU"):
        assert text in told
    assert "webshop" not in call("list", "protocols", "agentbench", "--env", "alfworld").stdout
    refused = call("list", "protocols", "agentbnch")
    assert "Did you mean 'agentbench'" in str(refused.exception)


def test_a_frozen_file_selects_the_runs_on_that_set(tmp_path):
    out, file, part = tmp_path / "out", tmp_path / "four.json", "alfworld/builtin-dev[:4]"
    freeze(find_set(part), file)
    for agent, tasks, protocol in (
        ("oracle", str(file), None), ("expert", part, None),
        ("expert", "builtin-dev[:3]", None), ("expert", part, "eto"),
    ):  # fmt: skip
        harness.evaluate(agent, "alfworld", tasks=tasks, protocol=protocol, out=out, workers=1)

    def boards(*words):
        found = call("leaderboard", "--out", out, "--json", *words)
        assert found.exception is None, found.exception
        return {
            (board["task_set"], row["agent"])
            for board in msgspec.json.decode(found.stdout)
            for row in board["rows"]
        }

    four = {("alfworld/builtin-dev[0:4]", agent) for agent in ("oracle", "expert")}
    assert boards("--tasks", file) == boards("--tasks", part) == four
    assert boards("--tasks", f"{file}[:3]") == {("alfworld/builtin-dev[0:3]", "expert")}
    assert len(boards()) == 4
    assert boards("--tasks", file, "--env", "webshop") == set()
    compared = call("compare", "oracle", "expert", "--out", out, "--tasks", file)
    assert "oracle" in compared.stdout
    freeze(find_set("alfworld/builtin-dev[5:7]"), file)
    nobody = call("leaderboard", "--out", out, "--tasks", file)
    assert f"No complete runs of '{file}'" in str(nobody.exception)
    file.unlink()
    assert "cannot be read" in str(call("leaderboard", "--out", out, "--tasks", file).exception)


def test_a_protocol_of_agents_is_played_from_the_command(tmp_path):
    made = call(
        "run", "--protocol", "eto", "-e", "alfworld", "-a", "expert", "-t", "builtin-dev[:1]",
        "--out", tmp_path,
    )  # fmt: skip
    assert made.exception is None, made.exception
    run = made.stdout.splitlines()[-1]
    assert harness.load(run).meta.task_set.name == "alfworld/builtin-dev[0:1]+eto"
    assert call("verify", run).exit_code == 0

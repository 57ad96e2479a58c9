"""One episode and many at once: outcomes, faults, limits, order."""

from __future__ import annotations

import json
import re
import sys
import time

import msgspec
import numpy as np
import pytest
from toy import CountEnv, Counter, Says

from harness.errors import AgentError, EnvError, boundary
from harness.loop import NO_ACTION, clean, play_episode, sampling_seed, tidy
from harness.metrics import measure
from harness.policy import ContextOverflow
from harness.protocol import Protocol
from harness.runner import Job, Limits, play_all
from harness.transcript import parse, reply
from harness.types import Completion, Decision, Episode, Outcome, Task

TASK = Task("count", "valid", "valid/4")


def play(policy, task=TASK, **settings):
    settings = {"agent": "t", "protocol": Protocol(12), **settings}
    return play_episode(policy, CountEnv(), task, **settings)


def test_an_episode_is_done_when_the_environment_says_so():
    episode = play(Counter())
    assert (episode.outcome, episode.success, episode.score) == (Outcome.DONE, True, 1.0)
    assert [s.decision.action for s in episode.steps] == ["1", "2", "3", "4"]
    assert episode.steps[0].observation == "Count to 4.\nAction: 99"
    assert episode.final_observation == "Yes."
    assert episode.instruction == "count to 4"


def test_the_budget_truncates_and_keeps_the_score_reached():
    episode = play(Counter(), protocol=Protocol(2))
    assert (episode.outcome, episode.success, episode.score) == (Outcome.TRUNCATED, False, 0.5)


def test_replies_without_an_action_cost_steps_and_end_the_episode():
    episode = play(Says(Decision("hmm", None)))
    assert (episode.outcome, len(episode.steps), episode.error) == (Outcome.FORMAT, 3, None)
    assert [s.observation for s in episode.steps[1:]] == [NO_ACTION] * 2
    assert all(s.invalid for s in episode.steps)


def test_an_action_in_between_makes_replies_without_one_no_row():
    class Gaps(Counter):
        def act(self, instruction, history, observation):
            return Decision("", "0" if len(history) % 3 == 2 else None)

    episode = play(Gaps())
    assert (episode.outcome, len(episode.steps)) == (Outcome.TRUNCATED, 12)


def test_the_seconds_of_steps_add_up_to_no_more_than_the_episodes():
    class Slow(Counter):
        def act(self, instruction, history, observation):
            time.sleep(0.01)
            return super().act(instruction, history, observation)

    episode = play(Slow())
    spent = [s.policy_seconds for s in episode.steps]
    assert min(spent) >= 0.01
    assert sum(spent) + sum(s.env_seconds for s in episode.steps) <= episode.seconds + 1e-5


@pytest.mark.parametrize(
    ("policy", "kind", "words"),
    [
        (Says(None), "AgentError/TypeError", "NoneType"),
        (Says("go"), "AgentError/TypeError", "str"),
        (
            Says(Decision("", "boom")),
            "EnvError/RuntimeError",
            "the counter broke (at toy.py, line 36, in play)",
        ),
    ],
)
def test_a_fault_is_an_error_never_a_score(policy, kind, words):
    episode = play(policy)
    assert episode.outcome is Outcome.ERROR
    assert episode.error.kind == kind
    assert words in episode.error.message
    assert not episode.success


def test_where_a_fault_was_is_told_whatever_the_code_calls_itself():
    class Acts:
        def __init__(self, name, line):
            self.code = compile(f"def act(*_):\n    {line}\n", "/home/jane/mine.py", "exec")
            self.names = {"__name__": name, "json": json}
            exec(self.code, self.names)

        def act(self, *seen):
            return self.names["act"](*seen)

    for name in (None, 3, "mine"):
        message = play(Acts(name, "json.loads('{')")).error.message
        assert message.endswith("; mine.py, line 2, in act)")
        assert "jane" not in message
    torch = pytest.importorskip("torch")

    class Asks:
        def act(self, *_):
            return torch.nn.Linear(2, 2)("x")

    message = play(Asks()).error.message
    assert re.search(
        r"\(at test_loop.py, line \d+, in act; linear.py, line \d+, in \w+\)$", message
    )


class Odd(CountEnv):
    """Tells at reset (0 steps) or at a step what no record can hold."""

    def __init__(self, at: int, **told: object) -> None:
        super().__init__()
        self.when, self.told = at, told

    def start(self, task_id):
        observation, info = super().start(task_id)
        return self._odd(0, observation, info)

    def play(self, action):
        observation, reward, won, info = super().play(action)
        observation, info = self._odd(self.at, observation, info)
        return observation, self.told.get("reward", reward), won, info

    def _odd(self, at, observation, info):
        if at != self.when:
            return observation, info
        observation = self.told.get("observation", observation)
        return observation, {**info, **self.told}


ODD = [
    (
        Odd(0, observation=["a", "list"]),
        r"of count.reset\(valid/4\) is list, not a str",
    ),
    (Odd(2, observation=None), "observation of count.step is NoneType, not a str"),
    (Odd(0, instruction=7), "the instruction of .* is int"),
    (Odd(0, task_type=None), "the task type of .* is NoneType"),
    (Odd(4, score="high"), "count: ValueError: .*'high'"),
    (Odd(4, score=float("nan")), "info tells nan as score"),
    (Odd(4, measures={"f1": float("inf")}), "info tells inf as f1"),
    (Odd(4, measures=None), "count: AttributeError"),
    (Odd(1, reward=float("nan")), "reward nan"),
    (Odd(4, score=7.0), r"info tells 7 as score, which is within \[0, 1\]"),
    (Odd(4, score=-0.5), r"info tells -0.5 as score"),
    (Odd(2, executed=["2"]), "what count.step executed is list, not a string"),
]


@pytest.mark.parametrize(("env", "words"), ODD)
def test_what_no_record_can_hold_is_the_environments_fault_at_once(env, words):
    episodes = list(
        play_all([Job(TASK, 0), Job(TASK, 1)], Counter(), lambda: env, agent="t",
                 protocol=Protocol(12), limits=Limits(step=20))
    )  # fmt: skip
    assert [e.outcome for e in episodes] == [Outcome.ERROR] * 2
    assert all(e.error.kind.startswith("EnvError") for e in episodes)
    assert all(re.search(words, e.error.message) for e in episodes), episodes[0].error
    assert msgspec.json.decode(msgspec.json.encode(episodes), type=list[Episode]) == episodes


class Peculiar(Counter):
    """A policy whose decisions have something odd about them."""

    def __init__(self, **odd: object) -> None:
        self.odd = odd

    def act(self, instruction, history, observation):
        action = super().act(instruction, history, observation).action
        fields = {"reasoning": "", "action": action, **self.odd}
        return Decision(**{k: v(action) if callable(v) else v for k, v in fields.items()})


@pytest.mark.parametrize(
    "odd",
    [
        {"completion": "a text"},
        {"completion": Completion("x", prompt_tokens=np.int64(4))},
        {"completion": Completion("x", prompt_tokens="four")},
        {"completion": Completion("x", ids=(1.5,))},
        {"reasoning": None},
        {"action": 7},
    ],
)
def test_what_no_record_can_hold_is_the_policys_fault(odd):
    episode = play(Peculiar(**odd))
    assert episode.outcome is Outcome.ERROR
    assert episode.error.kind.startswith("AgentError"), episode.error
    assert msgspec.json.decode(msgspec.json.encode(episode), type=Episode) == episode


@pytest.mark.parametrize(
    "odd",
    [
        {"action": np.str_},
        {"reasoning": np.str_("because")},
        {"reasoning": "cut \ud83d"},
        {"completion": Completion("cut \ud83d", hidden="\ud83d")},
    ],
)
def test_strings_of_other_kinds_are_played_as_text(odd):
    episode = play(Peculiar(**odd))
    assert episode.outcome is Outcome.DONE, episode.error
    assert msgspec.json.decode(msgspec.json.encode(episode), type=Episode) == episode


def test_a_faults_message_can_be_written():
    class Breaks(Counter):
        def act(self, instruction, history, observation):
            raise ValueError("cut \ud83d")

    episode = play(Breaks())
    assert "cut \ufffd" in episode.error.message
    assert msgspec.json.decode(msgspec.json.encode(episode), type=Episode) == episode


def test_what_is_no_fault_of_an_episode_ends_the_run_at_once():
    class Exits(Counter):
        def act(self, instruction, history, observation):
            sys.exit("no more")

    began = time.perf_counter()
    with pytest.raises(SystemExit, match="no more"):
        run_all(Exits(), workers=2)
    assert time.perf_counter() - began < 20


def test_what_was_played_before_a_fault_is_kept():
    class Breaks(Counter):
        def act(self, instruction, history, observation):
            if len(history) == 2:
                raise ValueError("out of ideas")
            return super().act(instruction, history, observation)

    episode = play(Breaks())
    assert [s.decision.action for s in episode.steps] == ["1", "2"]
    assert "out of ideas" in episode.error.message


def test_an_unknown_task_is_an_error_of_that_episode():
    assert play(Counter(), Task("count", "valid", "valid/77")).outcome is Outcome.ERROR


def test_a_full_window_is_an_outcome():
    class Full:
        def act(self, instruction, history, observation):
            raise ContextOverflow("3000 tokens, window 2048")

    assert play(Full()).outcome is Outcome.CONTEXT


@pytest.mark.parametrize(
    "action",
    ["x" * 1_000_000, "\x00\x07\x1b[31m", "\ud800 lone", "two\nlines", " padded ", "行く 🍎"],
)
def test_hostile_text_is_played_recorded_and_read_back(action):
    episode = play(Says(Decision(action, action)), protocol=Protocol(1))
    assert episode.outcome is Outcome.TRUNCATED
    assert msgspec.json.decode(msgspec.json.encode(episode), type=Episode) == episode
    assert "\n" not in episode.steps[0].decision.action


def test_a_thought_never_says_another_action_than_the_one_played():
    thought = "First I try.\n  Action: look\nAnswer: then"
    own = tidy(Decision(thought, "w0"))
    assert own.reasoning == "First I try.   Action: look Answer: then"
    assert parse(reply(own)).action == "w0"
    sampled = Completion("Reasoning: so\nAction: w0\n")  # kept as it was sampled
    assert tidy(Decision(" so", "w0", sampled)).reasoning == " so"


def test_blank_actions_are_no_actions():
    assert play(Says(Decision("", " \n"))).outcome is Outcome.FORMAT


def test_clean_only_touches_what_utf8_cannot_hold():
    assert clean("a\ud800b") == "a\ufffdb"
    text = "plain é 🍎 \x00"
    assert clean(text) is text


def test_policies_that_name_info_get_it():
    seen = []

    class Nosy(Counter):
        def act(self, instruction, history, observation, info):
            seen.append(info)
            return super().act(instruction, history, observation)

    play(Nosy())
    assert seen[0]["admissible_actions"] == ["1"]
    assert seen[0]["env"] == seen[-1]["env"] == "count"
    assert len({i["sampling_seed"] for i in seen}) >= 1


def test_sampling_seeds_differ_in_every_part():
    others = ({"seed": 1}, {"id": "valid/5"}, {"env": "other"})
    tasks = [TASK, *(msgspec.structs.replace(TASK, **part) for part in others)]
    seeds = [sampling_seed(t, a, s) for t in tasks for a in (0, 1) for s in range(5)]
    assert len(set(seeds)) == 40
    assert sampling_seed(TASK, 0, 0) == sampling_seed(TASK, 0, 0)


def test_boundary_names_the_innermost_side():
    with (
        pytest.raises(EnvError, match="inner"),
        boundary(AgentError, "outer"),
        boundary(EnvError, "inner"),
    ):
        raise OSError("disk")


def jobs(n=8):
    return [Job(Task("count", "valid", f"valid/{1 + i % 8}"), i // 8) for i in range(n)]


def run_all(policy, n=8, **settings):
    settings = {"agent": "t", "protocol": Protocol(12), **settings}
    return list(play_all(jobs(n), policy, CountEnv, **settings))


@pytest.mark.parametrize("workers", [1, 3, 16])
def test_every_job_is_played_once_whatever_the_workers(workers):
    episodes = run_all(Counter(), 24, workers=workers)
    assert sorted(e.key for e in episodes) == sorted((j.task.id, 0, j.attempt) for j in jobs(24))
    assert all(e.success for e in episodes)


@pytest.mark.parametrize(("action", "made"), [("0", 1), ("boom", 3)])
def test_a_worker_has_one_environment_until_a_fault(action, made):
    opened = []

    def make():
        opened.append(CountEnv())
        return opened[-1]

    class Slow(Says):
        def act(self, instruction, history, observation):
            time.sleep(0.05)
            return super().act(instruction, history, observation)

    policy = Slow(Decision("", action))
    assert len(list(play_all(jobs(3), policy, make, agent="t", protocol=Protocol(2)))) == 3
    assert len(opened) == made


def test_a_hung_step_is_an_error_and_the_run_goes_on():
    class Hangs(Counter):
        def act(self, instruction, history, observation):
            if instruction == "count to 3" and len(history) == 1:
                return Decision("wait", "hang")
            return super().act(instruction, history, observation)

    start = time.perf_counter()
    episodes = run_all(Hangs(), workers=2, limits=Limits(step=0.3))
    assert time.perf_counter() - start < 10
    broken = [e for e in episodes if e.error]
    assert [e.task.id for e in broken] == ["valid/3"]
    assert "env.step took more than 0.3 s" in broken[0].error.message
    assert len(broken[0].steps) == 1
    assert len(episodes) == 8


def test_a_step_that_took_too_long_is_an_error_however_often_others_finish():
    class Uneven(Counter):
        def act(self, instruction, history, observation):
            time.sleep(1.5 if instruction == "count to 8" and not history else 0.01)
            return super().act(instruction, history, observation)

    tasks = [
        Job(Task("count", "valid", f"valid/{n}"), k)
        for n, k in [(8, 0)] + [(1, k) for k in range(400)]
    ]
    settings = {"agent": "t", "protocol": Protocol(12), "limits": Limits(step=0.5)}
    episodes = list(play_all(tasks, Uneven(), CountEnv, workers=2, **settings))
    broken = [e for e in episodes if e.error]
    assert [(e.task.id, e.error.kind) for e in broken] == [("valid/8", "AgentError/TimeoutError")]
    assert len({e.key for e in episodes}) == len(episodes) == 401


def test_a_slow_episode_is_an_error():
    class Slow(Counter):
        def act(self, instruction, history, observation):
            time.sleep(0.1)
            return Decision("", "0")

    episodes = run_all(Slow(), 2, workers=2, limits=Limits(episode=0.5))
    assert {e.error.kind for e in episodes} <= {"AgentError/TimeoutError", "EnvError/TimeoutError"}
    assert all("the episode took more than" in e.error.message for e in episodes)


def test_an_environment_that_broke_is_closed_and_another_made_in_its_place():
    made = []

    class Fragile(CountEnv):
        closed = False

        def __init__(self):
            super().__init__()
            made.append(self)

        def close(self):
            self.closed = True

    class Trips(Counter):
        def act(self, instruction, history, observation):
            if instruction == "count to 3":
                return Decision("", "boom")
            return super().act(instruction, history, observation)

    episodes = list(play_all(jobs(6), Trips(), Fragile, agent="t", protocol=Protocol(12)))
    assert [e.outcome for e in episodes].count(Outcome.ERROR) == 1
    assert (len(made), made[0].closed) == (2, True)


def test_an_environment_that_cannot_be_made_is_an_error_of_each_episode():
    def broken():
        raise OSError("no data")

    episodes = list(
        play_all(jobs(3), Counter(), broken, agent="t", protocol=Protocol(3), workers=2)
    )
    assert len(episodes) == 3
    assert all("no data" in e.error.message for e in episodes)


class Thinks:
    """Thinks first, then counts."""

    def act(self, instruction, history, observation, info):
        return Decision("", "think: count" if not history else str(len(history)))


def test_a_protocol_answers_thoughts_itself_and_they_cost_a_step():
    episode = play(Thinks(), protocol=Protocol(5, think="OK."))
    assert [s.decision.action for s in episode.steps] == ["think: count", "1", "2", "3", "4"]
    assert episode.steps[1].observation == "OK."
    assert (episode.outcome, episode.success) == (Outcome.DONE, True)
    assert not play(Thinks(), protocol=Protocol(4, think="OK.")).success
    # Without the rule the environment gets the thought, and judges it.
    assert play(Thinks(), protocol=Protocol(5)).steps[1].observation != "OK."


def test_a_protocol_acts_last_and_the_record_tells():
    episode = play(Counter(), protocol=Protocol(2, last_action="3"))
    assert [s.decision.action for s in episode.steps] == ["1", "2", "3"]
    assert [s.forced for s in episode.steps] == [False, False, True]
    assert episode.steps[-1].decision.injected  # never taught
    assert (episode.outcome, episode.score) == (Outcome.TRUNCATED, 0.75)
    assert measure(episode).n_steps == 2
    wrong = play(Counter(), protocol=Protocol(2, last_action="9")).steps[-1]
    assert (wrong.forced, wrong.invalid) == (True, True)
    assert not any(s.forced for s in play(Counter(), protocol=Protocol(9, last_action="3")).steps)


# Limits of the protocol -----------------------------------------------------------------------


class Repeats(Counter):
    """Counts to two, then says the same wrong number for ever, each reply of 7 tokens."""

    def act(self, instruction, history, observation):
        right = super().act(instruction, history, observation).action
        action = right if len(history) < 2 else "9"
        return Decision("so", action, Completion("", ids=(1,) * 7, prompt_tokens=len(history)))


def test_identical_invalid_actions_end_an_episode_where_the_protocol_says_so():
    for limit in (1, 2, 4):
        episode = play(Repeats(), protocol=Protocol(12, repeat_limit=limit))
        assert (episode.outcome, len(episode.steps)) == (Outcome.TRUNCATED, 2 + limit)
        assert (episode.score, episode.error) == (0.5, None)
    assert len(play(Repeats()).steps) == 12


def test_only_repeated_invalid_actions_count():
    class Alternates(Counter):
        def act(self, instruction, history, observation):
            return Decision("", "98" if len(history) % 2 else "99")

    assert len(play(Alternates(), protocol=Protocol(12, repeat_limit=2)).steps) == 12
    nothing = play(Says(Decision("hm", None)), protocol=Protocol(12, repeat_limit=2))
    assert nothing.outcome is Outcome.FORMAT


def test_tokens_used_up_end_an_episode_and_the_protocol_acts_last():
    for limit, steps in ((1, 1), (7, 1), (8, 2), (21, 3)):
        episode = play(Repeats(), protocol=Protocol(12, max_tokens=limit, last_action="0"))
        *own, last = episode.steps
        assert (len(own), last.forced, episode.outcome) == (steps, True, Outcome.TRUNCATED)
    assert play(Counter(), protocol=Protocol(12, max_tokens=1)).success  # no model, no tokens


def test_tokens_that_nobody_tells_cannot_be_limited():
    untold = Says(Decision("", "1", Completion("", reasoning_tokens=None)))
    episode = play(untold, protocol=Protocol(12, max_tokens=50))
    assert (episode.outcome, episode.error.kind) == (Outcome.ERROR, "BackendError")
    assert "--max-tokens" in episode.error.message

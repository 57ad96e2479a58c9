"""How others evaluate on ALFWorld, as presets. Constants and facts read in their own code."""

from __future__ import annotations

from harness.protocol import Preset, Protocol, Repetition

#: Games before 0.4 put things down by ``put X in/on Y``; those of today by ``move X to Y``.
_PUT = {"aliases": True}
_OLD_GRAMMAR = "puts by `put X in/on Y` (here: the games' own `move X to Y` too)"
_SEEN, _UNSEEN = "valid_seen, 140 games", "valid_unseen, all 134 games"
_SUCCESS = "share of games won"
_ANSWER = "a reply without an action is answered in this project's words"
_TODAY = "observations and listed commands are worded as today's games do"
_AGENTBENCH_STOP = "ended at the third identical {} in a row, from the fourth step on"

PROTOCOLS = {
    # for i in range(1, 50); a line that starts with 'think:' is answered 'OK.'.
    "react": Preset(
        Protocol(49, format_limit=None, think="OK.", options=_PUT),
        tasks="unseen-134",
        plays=_UNSEEN,
        grammar=f"a line is an action or `think: ...`, which costs a step; {_OLD_GRAMMAR}",
        invalid="executed: `Nothing happens.`, a step; never ended early",
        scoring=_SUCCESS,
        differs=_TODAY,
        source="ysymyth/ReAct at 6bdb3a1: alfworld.ipynb",
    ),
    # max_steps 40 in the task's config; test is eval_out_of_distribution, dev the 140 seen games.
    "eto": Preset(
        Protocol(40, format_limit=None, options=_PUT),
        tasks="unseen-134",
        plays=f"{_UNSEEN} (test); {_SEEN} (dev)",
        grammar=f"`Thought: ...` and `Action: ...`; {_OLD_GRAMMAR}",
        invalid="a step each; never ended early",
        scoring="mean reward, which is the share of games won",
        differs=f"{_TODAY}; {_ANSWER}",
        source="Yifan-Song793/ETO at a2fc5da: eval_agent/envs/alfworld_env.py, tasks/alfworld.py, "
        "configs/task/alfworld.json",
    ),
    # env.max_steps=50, eval_in_distribution, val_data_size=128; games of the newer grammar.
    "gigpo": Preset(
        Protocol(50, format_limit=None),
        tasks="seen-140",
        plays="128 games drawn from valid_seen (140)",
        grammar="`<think>...</think><action>...</action>`, admissible actions listed in the "
        "prompt; puts by `move X to Y`",
        invalid="executed: `Nothing happens.`, a step; a reply without tags is executed as its "
        "last 30 characters; a penalty of 0.1 in training only",
        scoring=f"{_SUCCESS} (reward 10 a win)",
        differs=f"all 140 games, not a draw of 128; {_ANSWER}",
        source="langfengQ/verl-agent at 2716b30 (in the fork xlan156/verl-agent): examples/"
        "gigpo_trainer/run_alfworld.sh, agent_system/environments/env_package/alfworld/"
        "{envs,projection}.py, verl/trainer/config/ppo_trainer.yaml",
    ),
    # max_num_steps 30, num_exams 134; 'check valid actions' is answered with the valid ones.
    "agentboard": Preset(
        Protocol(30, format_limit=None, help_action="check valid actions", options=_PUT),
        tasks="unseen-134",
        plays=_UNSEEN,
        grammar="`Action: ...`, no thoughts; `check valid actions` lists them and costs a step; "
        f"{_OLD_GRAMMAR}",
        invalid="executed: `Nothing happens.`, a step; never ended early",
        scoring="success rate; progress rate: share of a game's annotated subgoals that "
        "observations have matched; grounding: share of actions that were valid",
        differs="no progress rate (its subgoal annotations are not here) and no easy and hard "
        f"games; {_TODAY}; `look` shows the room, not the place last gone to or opened; a full "
        "stop behind an action is not dropped; the list of valid actions is worded otherwise",
        source="hkust-nlp/AgentBoard at bb7255e: agentboard/tasks/alfworld.py, agentboard/"
        "environment/alfworld/alfworld_env.py, eval_configs/main_results_all_tasks.yaml",
    ),
    # max_step 35, split standard; no 'ACTION:' in the reply ends it; the failure test on 'output'.
    "agentbench": Preset(
        Protocol(
            35,
            format_limit=1,
            repetition=Repetition(3, of="reply", least=4),
            options={**_PUT, "nearest": True},
        ),
        tasks="agentbench-50",
        plays="50 games of valid_unseen (standard.json)",
        grammar=f"`THOUGHT: ...` (optional) and `ACTION: ...`, actions listed; {_OLD_GRAMMAR}",
        invalid="the admissible action of the highest BLEU is executed instead; a reply without "
        f"an action ends the game; {_AGENTBENCH_STOP.format('reply')}",
        scoring=_SUCCESS,
        differs=f"{_TODAY}, so that the most like one may be another",
        source="THUDM/AgentBench at 41e6807 (branch v0.2, of the paper): src/server/tasks/alfworld/"
        "{task,utils}.py, configs/tasks/alfworld.yaml, data/alfworld/standard.json",
    ),
    # max_step 20, split new_std; a reply without a tool call goes on and is not in the log.
    "agentbench-fc": Preset(
        Protocol(
            20,
            format_limit=None,
            repetition=Repetition(3, of="action", least=4),
            options={**_PUT, "nearest": True},
        ),
        tasks="agentbench-fc-93",
        plays="109 games of valid_unseen (new_std.json)",
        grammar=f"a call of the function take_action(action), actions listed; {_OLD_GRAMMAR}",
        invalid="the admissible action of the highest BLEU is executed instead; a reply without a "
        f"call costs a step; {_AGENTBENCH_STOP.format('action')}",
        scoring=_SUCCESS,
        differs="16 of the 109 games, which ALFWorld's release 2.1.2 does not have; actions are "
        f"read from the agent's text, not from function calls; {_TODAY}, so that the most like one "
        f"may be another; {_ANSWER}",
        source="THUDM/AgentBench at 578c5e9 (main, function calling): src/server/tasks/alfworld/"
        "{task,utils}.py, configs/tasks/alfworld.yaml, data/alfworld/new_std.json",
    ),
}

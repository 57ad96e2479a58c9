"""How others evaluate on WebShop, as presets. Constants and facts read in their own code."""

from __future__ import annotations

from harness.protocol import Preset, Protocol

_ACTIONS = "`search[..]`, `click[..]`"
_THOUGHT = "`Thought: ...` and `Action: ...`"
_MEAN = "mean reward (0 where nothing was bought)"
_IGNORED = "ignored, the page again, a step"
_FULL = "the full catalogue and its human goals are not among the data fetched here"
_ANSWER = "a reply without an action is answered in this project's words"

PROTOCOLS = {
    # for i in range(15), of which the first is the reset: 14 actions, as in its recorded episodes.
    "react": Preset(
        Protocol(14, format_limit=None, options={"view": "react"}),
        plays="human goals 0-499 of the full catalogue (sessions fixed_0 to fixed_499)",
        grammar=f"{_ACTIONS}, `think[..]`, which costs a step; three products shown, no paging",
        invalid="answered `Invalid action!`, a step; never ended early",
        scoring=f"{_MEAN}; success: reward 1",
        differs=f"{_FULL}: play a server's with --tasks served-500 --option url=ADDRESS",
        source="ysymyth/ReAct at 6bdb3a1: WebShop.ipynb",
    ),
    # max_steps 10 in the task's config; 'success' there is a purchase, what is reported the reward.
    "eto": Preset(
        Protocol(10, format_limit=None),
        plays="200 human goals of the full catalogue (test_indices.json)",
        grammar=f"{_THOUGHT} of {_ACTIONS}",
        invalid=f"{_IGNORED}; never ended early",
        scoring=f"{_MEAN}; its `success` is any purchase",
        differs=f"{_FULL}; success here is reward 1; {_ANSWER}",
        source="Yifan-Song793/ETO at a2fc5da: eval_agent/envs/webshop_env.py, tasks/webshop.py, "
        "configs/task/webshop.json, data/webshop/test_indices.json",
    ),
    # env.max_steps=15, use_small True, human_goals False, goal_idxs range(500) when not training.
    "gigpo": Preset(
        Protocol(15, format_limit=None),
        tasks="small-500",
        plays="draws from synthetic goals 0-499 of the 1,000 products",
        grammar=f"`<think>...</think><action>...</action>` of {_ACTIONS}, which are listed in the "
        "prompt",
        invalid=f"{_IGNORED}; a reply without tags is executed as its last 20 characters; a "
        "penalty of 0.1 in training only",
        scoring=f"success: reward 1; score: {_MEAN}",
        differs="all 500 goals in the original shop's order; there each worker shuffles the goals "
        f"by a seed of its own, so that its 500 are others and met in training; {_ANSWER}",
        source="langfengQ/verl-agent at 2716b30 (in the fork xlan156/verl-agent): examples/"
        "gigpo_trainer/run_webshop.sh, agent_system/environments/env_package/webshop/"
        "{envs,projection}.py, verl/trainer/config/ppo_trainer.yaml",
    ),
    # max_num_steps 30, of which the first is the reset: 29 actions; end_idx 251.
    "agentboard": Preset(
        Protocol(29, format_limit=None, options={"view": "react"}),
        plays="goals 0-250 of a server (sessions fixed_0 to fixed_250)",
        grammar=f"`Action: ...` of {_ACTIONS}, no thoughts; three products a page",
        invalid="answered with what to do, a step; never ended early",
        scoring="success: reward 1; progress rate: a third each for the best reward among the "
        "products found, opened and bought",
        differs=f"no progress rate, no easy and hard goals; {_FULL}; pages are ReAct's: no paging, "
        "no attributes, and an invalid action is answered in its words",
        source="hkust-nlp/AgentBoard at bb7255e: agentboard/tasks/webshop.py, agentboard/"
        "environment/webshop_env.py, agentboard/environment/WebShop/web_agent_site/app.py, "
        "eval_configs/main_results_all_tasks.yaml",
    ),
    # for j in range(10); no search or click behind 'Action:' in the reply: reward 0 and out.
    "agentbench": Preset(
        Protocol(10, format_limit=1, actions=r"(search|click)\[.+?\]"),
        plays="human goals 0-199 of the full catalogue",
        grammar=f"{_THOUGHT} of {_ACTIONS}, clickables listed",
        invalid=f"{_IGNORED}; a reply without such an action ends the episode with reward 0",
        scoring=_MEAN,
        differs=_FULL,
        source="THUDM/AgentBench at 41e6807 (branch v0.2, of the paper): src/server/tasks/webshop/"
        "__init__.py, configs/tasks/webshop.yaml",
    ),
    # round 20, start 0, end 200.
    "agentbench-fc": Preset(
        Protocol(20, format_limit=None),
        plays="human goals 0-199 of the full catalogue",
        grammar="calls of the functions search_action(keywords), click_action(value), clickables "
        "listed",
        invalid=f"{_IGNORED}; a reply without a call costs a step",
        scoring=_MEAN,
        differs=f"{_FULL}; actions are read from the agent's text, not from function calls; "
        f"{_ANSWER}",
        source="THUDM/AgentBench at 578c5e9 (main, function calling): src/server/tasks/webshop/"
        "task.py, configs/tasks/webshop.yaml",
    ),
}

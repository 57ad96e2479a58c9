"""A person at the keyboard as the policy."""

from __future__ import annotations

from harness.env import Environment
from harness.plain import plain


def play(env: Environment, task_id: str | None, seed: int) -> None:
    """Play one task on the terminal: a line an action; '?' lists what is possible, empty ends."""
    options = {"task_id": task_id} if task_id else None
    observation, info = env.reset(seed=seed, options=options)
    print(f"[{plain(info['task_id'])}]  ('?' shows the possible actions, an empty line ends)\n")
    steps = 0
    while True:
        print(_for_people(observation))
        try:
            action = input("> ").strip()
        except EOFError:
            action = ""
        if not action:
            break
        if action == "?":
            observation = "\n".join(f"  {a}" for a in info["admissible_actions"])
            continue
        steps += 1
        observation, reward, terminated, _, info = env.step(action)
        if terminated:
            print(_for_people(observation))
            print(f"Done after {steps} steps: reward {reward:g}, success {info['success']}.")
            break
    env.close()


def _for_people(observation: str) -> str:
    """A line a part where a page's parts are joined by WebShop's separator."""
    return plain(observation).replace(" [SEP] ", "\n")

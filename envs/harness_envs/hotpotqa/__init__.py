"""HotPotQA-ReAct: answer questions by search, lookup and finish, on local pages or Wikipedia."""

from harness_envs.hotpotqa.env import HotPotQAEnv
from harness_envs.hotpotqa.metrics import contains, exact_match, f1_score

__all__ = ["HotPotQAEnv", "contains", "exact_match", "f1_score"]

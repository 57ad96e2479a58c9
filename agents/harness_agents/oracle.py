"""``OraclePolicy``: plays the environment's own solution: proof that a task can be won."""

from __future__ import annotations

from collections.abc import Sequence

from harness.errors import AgentError
from harness.types import Decision, Info, Step


class OraclePolicy:
    """The environment's hidden solution, ``info["solution"]``, one action a step."""

    privileged = True

    def act(
        self,
        instruction: str,
        history: Sequence[Step],
        observation: str,
        info: Info,
    ) -> Decision:
        task = info.get("task_id")
        if "solution" not in info:
            raise AgentError(
                f"oracle: no solution of task '{task}' was given. Make the environment with "
                "reveal=True; one that has no solutions cannot be played by the oracle."
            )
        solution = info["solution"]
        if len(history) >= len(solution):
            raise AgentError(
                f"oracle: the solution of task '{task}' has {len(solution)} actions and did not "
                "win: the environment and its solution disagree."
            )
        return Decision(reasoning="", action=solution[len(history)])

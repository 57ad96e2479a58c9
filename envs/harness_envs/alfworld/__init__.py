"""ALFWorld: household tasks by text, on two engines that agree in every observation."""

from harness_envs.alfworld.env import ALFWorldEnv

__all__ = ["ALFWorldEnv"]

from __future__ import annotations
def slips(action, instruction, history, observation, rng): return {}

from __future__ import annotations
def say(quest, notes, plan, number): return plan.aim

"""Grids for the tests: those that ship, and one of seconds with every stage of a trial."""

from __future__ import annotations

from pathlib import Path

from harness_distillation import recipe as recipes

SHIPPED = [(t, s) for t in ("table3", "table5") for s in ("smoke", "tiny", "paper")]
SHIPPED += [("table4", s) for s in ("smoke", "paper")]

GRID = """
table = "table3"
scale = "test"
teacher = "small"
description = "a test"
comparisons = [["ours", "token"]]
[trial]
endpoint = "alfworld/builtin-dev[:3]"
seeds = 1
verdict = true
fixed_steps = 1
[trial.dev]
env = "alfworld"
tasks = "builtin-dev[3:6]"
max_steps = 3
[trial.tuning]
lr = [0.001, 0.01]
steps = 1
[trial.pilot]
arm = "token"
seeds = 2
steps = 1
[[rows]]
arm = "token"
recipe = "token-tiny"
paper = "token-120m"
[[rows]]
arm = "ours"
recipe = "ours-tiny"
paper = "ours-120m"
[[evaluations]]
env = "alfworld"
tasks = "builtin-dev[:3]"
max_steps = 3
[rates]
train = 1000
play = 1
[change]
max_new_tokens = 12
[change.student]
start = "models/small-start"
window = 2048
[change.teacher]
checkpoint = "models/small"
top_k = 1024
min_mass = 0.0
[change.data]
successes_only = false
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:6]" }]
[change.dev]
env = "alfworld"
tasks = "builtin-dev[6:8]"
max_steps = 2
every = 1
patience = 1
[change.optim]
steps = 3
warmup = 1
rows = 1
row_tokens = 2048
precision = "fp32"
[[parents]]
name = "small"
recipe = "sft-tiny"
[parents.change]
max_new_tokens = 12
[parents.change.student]
layers = 1
hidden = 32
heads = 2
intermediate = 64
window = 2048
[parents.change.tokenizer]
vocab = 400

[parents.change.data]
successes_only = false
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:8]" }]
[parents.change.optim]
steps = 2
warmup = 1
rows = 1
row_tokens = 2048
[[parents]]
name = "small-start"
recipe = "student-tiny-start"
[parents.change.student]
layers = 1
hidden = 32
heads = 2
intermediate = 64
window = 2048
[parents.change.tokenizer]
start = "models/small"
[parents.change.data]
collect = [{ agent = "expert", env = "alfworld", tasks = "builtin-train[:6]" }]
[parents.change.optim]
steps = 1
warmup = 1
rows = 1
row_tokens = 2048
"""


def written(folder: Path, text: str = GRID) -> Path:
    # A teacher from scratch: of sft-tiny's own teacher nothing is wanted.
    (folder / "start.toml").write_text(
        (recipes.shipped()["teacher-tiny-start"]).read_text(encoding="utf-8")
    )
    text = text.replace('recipe = "sft-tiny"', f'recipe = "{folder / "start.toml"}"')
    path = folder / "own.toml"
    path.write_text(text)
    return path

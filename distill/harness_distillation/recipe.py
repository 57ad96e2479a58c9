"""Recipes: one TOML file says everything that decides a student.

    name = "ours-tiny"
    seed = 0
    [student]    what is trained: a size, or a checkpoint to start from
    [data]       which recorded runs, or how to collect them
    [teacher]    whose distributions are matched (objectives kd and sad)
    [objective]  what is minimised over which tokens
    [optim]      how long, how fast

Misspelt keys are refused by name. ``resolve`` fills what an objective's name implies, so that a
resolved recipe states every number.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config import convert, load_toml
from harness.errors import ConfigError, unknown

Format = Literal["span", "shared", "none"]
Normalizer = Literal["token", "class", "sum"]
Divergence = Literal["ce", "forward_kl"]
Curriculum = Literal["random", "sorted", "reverse", "pacing"]


class Student(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model from scratch (``arch`` and sizes), or ``start``: a checkpoint folder."""

    arch: Literal["llama", "gpt2"] = "llama"
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    #: Width of the feed-forward layer; None: 8/3 of hidden (llama), 4 times hidden (gpt2).
    intermediate: int | None = None
    start: str | None = None
    #: Most tokens of a sequence, in training and in play; longer episodes are cut in windows.
    window: int = 2048
    dropout: float = 0.0


class Tokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Own byte-level BPE of ``vocab`` entries, or ``start``: a folder that has one.

    With a teacher or a start checkpoint its tokenizer is taken unless this names another.
    """

    vocab: int = 1024
    start: str | None = None


class Collect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One recording to make when it is not there: the arguments of ``harness collect``."""

    agent: str
    env: str
    tasks: str | None = None
    seeds: int = 1
    attempts: int = 1
    #: Another budget than the task set's: a teacher that has lost its way is not worth its steps.
    max_steps: int | None = None
    error_rate: float = 0.0
    errors_from: str | None = None
    env_options: dict[str, Any] = {}


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is learned from: recorded ``runs`` (folders or episodes.jsonl) and those ``collect``
    makes first."""

    runs: tuple[str, ...] = ()
    collect: tuple[Collect, ...] = ()
    successes_only: bool = True
    #: Most episodes kept, in order of the record; None: all.
    limit: int | None = None
    #: Task sets ("env/set") or tasks ("env:task id") whose groups may not be trained on.
    exclude: tuple[str, ...] = ()
    #: Share of groups held out to measure the loss on.
    heldout: float = 0.02
    #: The prompt's opening, in training and in play.
    header: str = "Task: {instruction}\n"


class Teacher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model whose next-token distributions are matched."""

    checkpoint: str
    signal: Literal["cache", "live"] = "cache"
    top_k: int = 64
    #: Least mean probability mass inside the cached top k.
    min_mass: float = 0.95


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sum_c lambda_c * sum_t D_t / Z_c`` over the labelled targets (DISTILL.md, Losses).

    ``name`` sets what is left None: sft, seqkd (CE, token), kd (forward KL, token), sad (forward
    KL, class), sad_ce (CE, class).
    """

    name: Literal["sft", "seqkd", "kd", "sad", "sad_ce"] = "sft"
    divergence: Divergence | None = None
    normalizer: Normalizer | None = None
    curriculum: Curriculum | None = None
    lambda_reason: float = 1.0
    lambda_act: float = 1.0
    #: Weight of format tokens when they are a class of their own (format = "shared").
    lambda_format: float = 1.0
    format: Format = "span"
    temperature: float = 1.0
    #: C(tau) = alpha z(len_r) + beta z(len_a) + gamma z(entropy), Eq. 7.
    alpha: float = 1 / 3
    beta: float = 1 / 3
    gamma: float = 1 / 3
    #: Pacing: share of the easiest samples at the start, and when (share of the steps) all are in.
    pacing_start: float = 0.2
    pacing_end: float = 0.5


class Optim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """AdamW, linear warm-up, cosine decay. The schedule runs over ``steps``, known beforehand."""

    steps: int = 2000
    lr: float = 1e-3
    min_lr: float = 0.1
    """Final learning rate as a share of ``lr``."""
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    #: Rows an optimizer step reads (over all micro-batches) and tokens in a row.
    rows: int = 2
    row_tokens: int = 8192
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    threads: int | None = None
    #: Stop (with a checkpoint) after so many minutes of training, whatever the steps.
    max_minutes: float | None = None
    checkpoint_minutes: float = 10.0
    #: Steps whose weights are kept for good, beside the last checkpoint.
    keep: tuple[int, ...] = ()
    eval_every: int = 200


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What decides a student; its hash names it in every checkpoint."""

    name: str
    description: str = ""
    seed: int = 0
    student: Student = Student()
    tokenizer: Tokenizer = Tokenizer()
    data: Data = Data()
    teacher: Teacher | None = None
    objective: Objective = Objective()
    optim: Optim = Optim()
    #: Token cap of one reply in play.
    max_new_tokens: int = 96


_IMPLIED: dict[str, tuple[Divergence, Normalizer, Curriculum]] = {
    "sft": ("ce", "token", "random"),
    "seqkd": ("ce", "token", "random"),
    "kd": ("forward_kl", "token", "random"),
    "sad": ("forward_kl", "class", "pacing"),
    "sad_ce": ("ce", "class", "random"),
}


def load(name: str, **overrides: Any) -> Recipe:
    """A recipe by .toml path or by the name of one that ships with the package."""
    path = Path(name)
    if path.suffix != ".toml":
        shipped = {p.stem: p for p in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
        if name not in shipped:
            raise ConfigError(unknown("recipe", name, shipped, "A recipe is a name or a .toml."))
        path = shipped[name]
    raw = load_toml(path, dict[str, Any])
    raw.setdefault("name", path.stem)
    return resolve(decode({**raw, **overrides}, str(path)))


_TABLES: dict[str, type[msgspec.Struct]] = {
    "student": Student,
    "tokenizer": Tokenizer,
    "data": Data,
    "teacher": Teacher,
    "objective": Objective,
    "optim": Optim,
}


def decode(raw: dict[str, Any], where: str) -> Recipe:
    """Check a recipe's tables one by one, so that an error names the table and the key."""
    for name, type_ in _TABLES.items():
        if isinstance(raw.get(name), dict):
            convert(raw[name], type_, f"{where} [{name}]")
    return convert(raw, Recipe, where)


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits over what decides the student: not where it came from or how long one
    invocation may take."""
    neutral = msgspec.structs.replace(
        recipe,
        description="",
        data=msgspec.structs.replace(recipe.data, runs=(), collect=()),
        optim=msgspec.structs.replace(
            recipe.optim, max_minutes=None, checkpoint_minutes=0.0, keep=(), threads=None
        ),
    )
    body = msgspec.json.encode(neutral, order="sorted")
    return hashlib.sha256(body).hexdigest()[:16]


def resolve(recipe: Recipe) -> Recipe:
    """Fill what the objective's name implies and refuse what cannot be."""
    given = recipe.objective
    implied = _IMPLIED[given.name]
    objective = msgspec.structs.replace(
        given,
        divergence=given.divergence or implied[0],
        normalizer=given.normalizer or implied[1],
        curriculum=given.curriculum or implied[2],
    )
    where = f"Recipe '{recipe.name}'"
    if objective.divergence == "forward_kl" and recipe.teacher is None:
        raise ConfigError(
            f"{where}: objective '{given.name}' matches a teacher's distributions. "
            'Add [teacher] checkpoint = "FOLDER".'
        )
    if recipe.optim.row_tokens < recipe.student.window:
        raise ConfigError(
            f"{where}: row_tokens {recipe.optim.row_tokens} is under the window "
            f"{recipe.student.window}; a whole window must fit into a row."
        )
    if "{instruction}" not in recipe.data.header or not recipe.data.header.endswith("\n"):
        raise ConfigError(f"{where}: the header must contain {{instruction}} and end in a newline.")
    if not 0 <= recipe.data.heldout < 1:
        raise ConfigError(f"{where}: heldout is a share in [0, 1), not {recipe.data.heldout}.")
    return msgspec.structs.replace(recipe, objective=objective)

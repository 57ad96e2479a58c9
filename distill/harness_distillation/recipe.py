"""Recipes: one TOML file says everything that decides a student.

    name = "ours-tiny"
    seed = 0
    [student]    what is trained: a size, or a checkpoint to start from
    [data]       which recorded runs, or how to collect them
    [teacher]    whose distributions are matched (objectives kd and sad)
    [objective]  what is minimised over which tokens
    [optim]      how long, how fast
    [on_policy]  what the student plays to learn from its own episodes (objective gkd)
    [dev]        a dev set that is played meanwhile: which checkpoint is the student, when to stop
    [[evaluate]] task sets that the finished student plays

``base = "NAME"`` starts from another recipe, of which the tables are overridden key by key, so that
an arm says only how it differs. Misspelt keys are refused by name. ``resolve`` fills what an
objective's name implies, so that a resolved recipe states every number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from harness.config import convert, load_toml
from harness.errors import ConfigError, unknown
from harness.tasksets import SUFFIX
from harness_distillation.recipe_faults import faults, outside

Format = Literal["span", "shared", "none"]
Normalizer = Literal["token", "class", "sum", "span", "episode"]
Divergence = Literal["ce", "ce_soft", "forward_kl", "reverse_kl", "jsd", "skew_kl", "alm"]
Curriculum = Literal["random", "sorted", "reverse", "pacing"]
Masks = Literal["spans", "random_span", "label_shuffle"]
Name = Literal[
    "sft", "seqkd", "kd", "kd_all", "sad", "sad_ce", "gkd", "minillm",
    "only_reason", "only_act", "random_span", "label_shuffle",
    "token", "ours", "no_segmentation",
]  # fmt: skip


class Student(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model from scratch (``arch`` and sizes), or ``start``: a checkpoint folder, or
    ``hub:owner/name``."""

    arch: Literal["llama", "gpt2", "opt"] = "llama"
    layers: int = 4
    hidden: int = 256
    heads: int = 4
    #: Width of the feed-forward layer; None: 8/3 of hidden (llama), 4 times hidden (gpt2, opt).
    intermediate: int | None = None
    start: str | None = None
    #: Layers of ``start`` to keep, in this order; empty: all.
    start_layers: tuple[int, ...] = ()
    #: Most tokens of a sequence, in training and in play; longer episodes are cut in windows.
    window: int = 2048
    dropout: float = 0.0


class Tokenizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Own byte-level BPE of ``vocab`` entries, or ``start``: a folder that has one.

    With a teacher or a start checkpoint its tokenizer is taken unless this names another; under
    the divergence ``alm`` a student from scratch has its own.
    """

    vocab: int = 1024
    start: str | None = None
    #: A checkpoint folder whose entries keep their ids; words of this text join them, up to
    #: ``vocab``. A student that starts from it gets their embeddings from their pieces'.
    extend: str | None = None


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
    #: Sampling temperature of a language model (the paper's teacher: 0.2); None: its config's, and
    #: a checkpoint plays greedily, so that further ``attempts`` would say the same again.
    temperature: float | None = None

    def plain(self) -> dict[str, Any]:
        """As plain data for a hash: what was recorded before there was a temperature keeps its."""
        raw: dict[str, Any] = msgspec.to_builtins(self)
        if self.temperature is None:
            del raw["temperature"]
        return raw


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is learned from: recorded ``runs`` (folders or episodes.jsonl) and those ``collect``
    makes first."""

    runs: tuple[str, ...] = ()
    collect: tuple[Collect, ...] = ()
    successes_only: bool = True
    #: Most episodes kept, the same ones each time (``traces.load``); None: all.
    limit: int | None = None
    #: Task sets ("env/set") or tasks ("env:task id") whose groups may not be trained on.
    exclude: tuple[str, ...] = ()
    #: Share of groups held out to measure the loss on.
    heldout: float = 0.02
    #: The prompt's opening, in training and in play.
    header: str = "Task: {instruction}\n"
    #: A sequence is an episode (or a window of a long one), or one decision with what it follows.
    samples: Literal["episode", "step"] = "episode"
    #: Cut every sequence after so many tokens and lose the rest, as the paper does (512).
    paper_truncate: int | None = None


class Teacher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model whose next-token distributions are matched."""

    checkpoint: str
    signal: Literal["cache", "live"] = "cache"
    top_k: int = 64
    #: Least mean probability mass inside the cached top k.
    min_mass: float = 0.95


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``sum_c lambda_c * sum_t u_t D_t / Z_c`` over the labelled targets (``losses``).

    ``name`` sets what is left None (``_IMPLIED``); "token" and "no_segmentation" are the paper's
    names for ``kd``, "ours" is its name for ``sad``.
    """

    name: Name = "sft"
    divergence: Divergence | None = None
    normalizer: Normalizer | None = None
    curriculum: Curriculum | None = None
    lambda_reason: float | None = None
    lambda_act: float | None = None
    #: Weight of format tokens when they are a class of their own (format = "shared").
    lambda_format: float = 1.0
    #: Weight of observation tokens; with a teacher, only of one that was trained on them.
    obs_weight: float | None = None
    format: Format | None = None
    #: Which tokens carry the labels: the spans; as many spans of the same lengths anywhere after
    #: the prompt (around format tokens where those are a class); or the same tokens with the labels
    #: reason and act permuted.
    masks: Masks | None = None
    temperature: float = 1.0
    #: Weight of the teacher in the mixture of ``jsd``, and of ``skew_kl``.
    jsd_beta: float = 0.5
    skew_alpha: float = 0.1
    #: Temperature of ``alm``: likelihoods of chunks are compared to the power 1 / alm_tau.
    alm_tau: float = 100.0
    #: C(tau) = alpha z(len_r) + beta z(len_a) + gamma z(entropy), Eq. 7.
    alpha: float = 1 / 3
    beta: float = 1 / 3
    gamma: float = 1 / 3
    #: Among which sequences they are z-scored: all, or those of the same environment. Over traces
    #: of several environments "all" orders environments more than episodes.
    curriculum_within: Literal["all", "environment"] = "all"
    #: What has a C: a sequence, or the episode of which a window may have made several.
    curriculum_unit: Literal["sequence", "episode"] = "sequence"
    #: Pacing: share of the easiest samples at the start, and when all are in: once the samples
    #: drawn hold this share of rows * row_tokens * steps tokens. With full rows that is a share of
    #: the steps; rows that fill badly make it later, drawing ahead of the rows a little earlier.
    pacing_start: float = 0.2
    pacing_end: float = 0.5
    #: Weight of the contrastive term over pairs of a won and a lost episode (paper: 0.3), and the
    #: slope of its sigmoid.
    contrastive: float = 0.0
    contrastive_beta: float = 1.0

    @property
    def weighs_entropy(self) -> bool:
        """Whether the order of samples asks for a teacher's entropies."""
        return self.curriculum not in (None, "random") and self.gamma != 0


class Optim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Linear warm-up, cosine decay. The schedule runs over ``steps``, known beforehand."""

    #: "muon": the matrices inside the layers by Muon, the rest by AdamW (``optimizers``).
    optimizer: Literal["adamw", "muon"] = "adamw"
    steps: int = 2000
    lr: float = 1e-3
    min_lr: float = 0.1
    """Final learning rate as a share of ``lr``."""
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.1
    clip: float = 1.0
    #: Rows an optimizer step reads (over all micro-batches and ranks), tokens in a row, and rows in
    #: a micro-batch: rows / micro_rows gradients are accumulated.
    rows: int = 2
    row_tokens: int = 8192
    micro_rows: int = 1
    #: "auto": bf16 where the device multiplies it natively, else fp32.
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    #: Keep no layer's intermediate results for the way back but make them again: far less memory,
    #: a third more work.
    recompute: bool = False
    threads: int | None = None
    #: Stop (with a checkpoint) after so many minutes of training, whatever the steps.
    max_minutes: float | None = None
    checkpoint_minutes: float = 10.0
    #: Steps whose weights are kept for good, beside the last checkpoint; [dev] stops no training
    #: before the last of them.
    keep: tuple[int, ...] = ()
    #: Steps between two held-out losses. They decide no training, but are part of its hash.
    eval_every: int = 200


class OnPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The student's own play, learned from under objective ``gkd``: ``rounds`` of ``episodes``
    each, every round followed by its part of the steps."""

    env: str
    tasks: str
    rounds: int = 10
    episodes: int = 64
    #: Share of the decisions that the teacher takes, in the first round and in the last.
    teacher_start: float = 0.5
    teacher_end: float = 0.0
    temperature: float = 1.0
    max_steps: int | None = None
    env_options: dict[str, Any] = {}


class Evaluate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A task set that the student plays greedily: the finished one, as an entry of
    ``[[evaluate]]``."""

    env: str
    tasks: str
    max_steps: int | None = None
    env_options: dict[str, Any] = {}

    @property
    def task_set(self) -> str:
        """``tasks`` with its environment before it; a frozen set's file as it is."""
        said = self.tasks.startswith(f"{self.env}/") or is_frozen(self.tasks)
        return self.tasks if said else f"{self.env}/{self.tasks}"


class Dev(Evaluate, frozen=True, forbid_unknown_fields=True):
    """A task set played every so many steps; the checkpoint that won most is the student."""

    every: int = 200
    #: Stop when so many plays in a row won no more than the best before them; 0: at ``steps``.
    patience: int = 0
    #: Only plays at which the held-out loss was no lower than before count against ``patience``.
    heldout: bool = False


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
    dev: Dev | None = None
    on_policy: OnPolicy | None = None
    evaluate: tuple[Evaluate, ...] = ()
    #: Token cap of one reply in play.
    max_new_tokens: int = 96

    @property
    def measured_on(self) -> list[tuple[str, Evaluate]]:
        """(table, its entry) of what its student is measured on."""
        dev: list[tuple[str, Evaluate]] = [("[dev]", self.dev)] if self.dev is not None else []
        return dev + [("[[evaluate]]", what) for what in self.evaluate]

    @property
    def tokenizer_origin(self) -> str | None:
        """The folder whose tokenizer is taken, or extended; None: one is trained."""
        named = self.tokenizer.start or self.tokenizer.extend or self.student.start
        if named or self.objective.divergence == "alm":
            return named
        return self.teacher.checkpoint if self.teacher is not None else None


_FLAT: dict[str, Any] = {
    "divergence": "forward_kl", "normalizer": "token", "curriculum": "random",
    "lambda_reason": 1.0, "lambda_act": 1.0, "obs_weight": 0.0, "format": "span", "masks": "spans",
}  # fmt: skip
_SAD = {**_FLAT, "normalizer": "class", "curriculum": "pacing"}
_TEXT = {**_FLAT, "divergence": "ce"}
#: What an objective's name sets. Arms without a class keep its format, as a class of its own, so
#: that none fails for lack of the grammar.
_IMPLIED: dict[str, dict[str, Any]] = {
    "sft": _TEXT,
    "seqkd": _TEXT,
    "kd": _FLAT,
    "kd_all": {**_FLAT, "obs_weight": 1.0},
    "sad": _SAD,
    "sad_ce": {**_TEXT, "normalizer": "class"},
    "gkd": {**_FLAT, "divergence": "jsd"},
    "minillm": {**_FLAT, "divergence": "reverse_kl"},
    "only_reason": {**_SAD, "lambda_act": 0.0, "format": "shared"},
    "only_act": {**_SAD, "lambda_reason": 0.0, "format": "shared"},
    "random_span": {**_SAD, "masks": "random_span", "format": "shared"},
    "label_shuffle": {**_SAD, "masks": "label_shuffle"},
}
_ALIASES: dict[str, Name] = {"token": "kd", "no_segmentation": "kd", "ours": "sad"}
#: Values at which a key is no part of a hash: what was trained before it existed keeps its name.
_NEUTRAL: dict[str, dict[str, Any]] = {
    "student": {"start_layers": ()},
    "tokenizer": {"extend": None},
    "data": {"samples": "episode", "paper_truncate": None},
    "objective": {
        "obs_weight": 0.0, "masks": "spans", "jsd_beta": 0.5, "skew_alpha": 0.1,
        "alm_tau": 100.0, "curriculum_within": "all",
        "curriculum_unit": "sequence", "contrastive": 0.0, "contrastive_beta": 1.0,
    },
    "optim": {"micro_rows": 1, "optimizer": "adamw", "recompute": False},
    "dev": {"heldout": False},
}  # fmt: skip


def is_frozen(tasks: str) -> bool:
    """Whether a task set is named by the file of a frozen one (or a part of it, or a protocol)."""
    return re.search(rf"{re.escape(SUFFIX)}(\[[^\]]*\])?(\+.*)?\Z", tasks) is not None


def load(name: str, *changes: dict[str, Any]) -> Recipe:
    """A recipe by .toml path or by the name of one that ships with the package; ``changes`` are
    laid over its tables, key by key, one after the other."""
    path = _find(name, Path())
    raw = read(path, _find, laid_over)
    raw.setdefault("name", path.stem)
    for change in changes:
        raw = laid_over(raw, change)
    _refuse_sizes(raw, str(path))
    return resolve(decode(raw, str(path)))


def shipped() -> dict[str, Path]:
    """The recipes that ship with the package, by name."""
    return {p.stem: p for p in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def _find(name: str, beside: Path) -> Path:
    """The file of a recipe: a .toml path (relative to ``beside``), or one that ships."""
    path = Path(name)
    if path.suffix == ".toml":
        return beside / path
    known = shipped()
    if name not in known:
        raise ConfigError(unknown("recipe", name, known, "A recipe is a name or a .toml."))
    return known[name]


def read(
    path: Path,
    find: Callable[[str, Path], Path],
    lay: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
    above: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """A file's tables over those of its bases: ``lay(of the base, own)``; ``find(name, beside)`` is
    the file of a base."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: files are each other's base.")
    own = load_toml(path, dict[str, Any])
    base = own.pop("base", None)
    if base is None:
        return own
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base is the name or path of another, not {base!r}.")
    raw = read(find(base, path.parent), find, lay, (*above, path.resolve()))
    raw.pop("name", None)
    return lay(raw, own)


def laid_over(raw: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``own`` over ``raw``, tables key by key."""
    merged = dict(raw)
    student, base = own.get("student"), raw.get("student")
    if isinstance(student, dict) and isinstance(base, dict) and "start" in student:
        # Sizes of a base that was from scratch go: weights have their own.
        merged["student"] = {k: v for k, v in base.items() if k not in _SIZES}
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged


def _refuse_sizes(raw: dict[str, Any], where: str) -> None:
    """A student that starts from weights has their sizes: others would be ignored."""
    student = raw.get("student")
    if not isinstance(student, dict) or student.get("start") is None:
        return
    if sizes := [key for key in _SIZES if key in student]:
        raise ConfigError(
            f"{where} [student]: it starts from {student['start']} and has its sizes, so that "
            f"{', '.join(sizes)} would change nothing. Drop them, or drop 'start' to train from "
            "scratch."
        )


_SIZES = ("arch", "layers", "hidden", "heads", "intermediate")
_TABLES: dict[str, type[msgspec.Struct]] = {
    "student": Student,
    "tokenizer": Tokenizer,
    "data": Data,
    "teacher": Teacher,
    "objective": Objective,
    "optim": Optim,
    "dev": Dev,
    "on_policy": OnPolicy,
}


def decode(raw: dict[str, Any], where: str) -> Recipe:
    """Check a recipe's tables one by one, so that an error names the table and the key."""
    for name, type_ in _TABLES.items():
        if isinstance(raw.get(name), dict):
            convert(raw[name], type_, f"{where} [{name}]")
    return convert(raw, Recipe, where)


def recipe_hash(recipe: Recipe) -> str:
    """16 hex digits over what is ``decisive`` in a recipe."""
    body = msgspec.json.encode(decisive(recipe), order="sorted")
    return hashlib.sha256(body).hexdigest()[:16]


def decisive(recipe: Recipe) -> dict[str, Any]:
    """What decides the student (and ``eval_every``, which does not, so that hashes stay), as plain
    data: not where it came from or how long one invocation may take."""
    stops = recipe.dev is not None and recipe.dev.patience > 0
    neutral = msgspec.structs.replace(
        recipe,
        description="",
        data=msgspec.structs.replace(recipe.data, runs=(), collect=()),
        optim=msgspec.structs.replace(
            recipe.optim,
            max_minutes=None,
            checkpoint_minutes=0.0,
            keep=recipe.optim.keep if stops else (),
            threads=None,
            recompute=False,
            # The machine's choice is no part of it; before there was one, bf16 stood here.
            precision="bf16" if recipe.optim.precision == "auto" else recipe.optim.precision,
        ),
    )
    return plain(neutral)


def plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data for a hash: keys that say nothing new (``_NEUTRAL``) are left out."""
    raw: dict[str, Any] = msgspec.to_builtins(recipe)
    del raw["evaluate"]  # what is measured afterwards decides no student
    for name in ("dev", "on_policy"):
        if raw[name] is None:
            del raw[name]
    for table, neutral in _NEUTRAL.items():
        if table not in raw:
            continue
        raw[table] = {k: v for k, v in raw[table].items() if k not in neutral or v != neutral[k]}
    return raw


def resolve(recipe: Recipe) -> Recipe:
    """Fill what the objective's name implies and refuse what cannot be."""
    given = recipe.objective
    name = _ALIASES.get(given.name, given.name)
    implied = {k: v for k, v in _IMPLIED[name].items() if getattr(given, k) is None}
    objective = msgspec.structs.replace(given, name=name, **implied)
    found = msgspec.structs.replace(recipe, objective=objective)
    if wrong := list(outside(found)):
        raise ConfigError(f"Recipe '{recipe.name}': " + "\n  ".join(wrong))
    for so, message in faults(found, lambdas(objective)):
        if so:
            raise ConfigError(f"Recipe '{recipe.name}': {message}")
    return found


def lambdas(objective: Objective) -> dict[str, float]:
    """Weight of every loss class of a resolved objective."""
    values = {
        "reason": objective.lambda_reason,
        "act": objective.lambda_act,
        "format": objective.lambda_format,
        "observation": objective.obs_weight,
    }
    unset = [name for name, value in values.items() if value is None]
    if unset:
        raise ConfigError(f"Objective '{objective.name}' is not resolved: no weight of {unset[0]}.")
    return {name: float(value or 0.0) for name, value in values.items()}

"""What a recipe cannot be, and which other models it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_distillation.recipe import Recipe

#: What a recipe's path of another model begins with.
MODELS = "models/"

#: Where every number of a recipe lies: its table ("" is the top one) -> key -> interval.
RANGES = {
    # What every library takes as a seed: NumPy's older generator has 32 bits.
    "": {"seed": "[0, 4294967296)", "max_new_tokens": "[1, inf)"},
    "student": {
        "layers": "[1, inf)", "hidden": "[1, inf)", "heads": "[1, inf)",
        "intermediate": "[1, inf)", "start_layers": "[0, inf)", "window": "[1, inf)",
        "dropout": "[0, 1)",
    },
    "tokenizer": {"vocab": "[258, inf)"},  # bytes and special tokens
    "data": {"limit": "[1, inf)", "heldout": "[0, 1)", "paper_truncate": "[1, inf)"},
    "data.collect": {
        "seeds": "[1, inf)", "attempts": "[1, inf)", "max_steps": "[1, inf)",
        "error_rate": "[0, 1]", "temperature": "[0, inf)",
    },
    "teacher": {"top_k": "[1, inf)", "min_mass": "[0, 1]"},
    "objective": {
        "lambda_reason": "[0, inf)", "lambda_act": "[0, inf)", "lambda_format": "[0, inf)",
        "obs_weight": "[0, inf)", "temperature": "(0, inf)", "jsd_beta": "(0, 1)",
        "skew_alpha": "(0, 1)", "alpha": "(-inf, inf)", "beta": "(-inf, inf)",
        "gamma": "(-inf, inf)", "pacing_start": "(0, 1]", "pacing_end": "[0, 1]",
        "contrastive": "[0, inf)", "contrastive_beta": "(0, inf)", "alm_tau": "(0, inf)",
    },
    "optim": {
        "steps": "[1, inf)", "lr": "(0, inf)", "min_lr": "[0, 1]", "warmup": "[0, inf)",
        "betas": "[0, 1)", "weight_decay": "[0, inf)", "clip": "(0, inf]", "rows": "[1, inf)",
        "row_tokens": "[1, inf)", "micro_rows": "[1, inf)", "threads": "[1, inf)",
        "max_minutes": "[0, inf]", "checkpoint_minutes": "[0, inf]", "keep": "[1, inf)",
        "eval_every": "[1, inf)",
    },
    "on_policy": {
        "rounds": "[1, inf)", "episodes": "[1, inf)", "teacher_start": "[0, 1]",
        "teacher_end": "[0, 1]", "temperature": "[0, inf)", "max_steps": "[1, inf)",
    },
    "dev": {"every": "[1, inf)", "patience": "[0, inf)", "max_steps": "[1, inf)"},
    "evaluate": {"max_steps": "[1, inf)"},
}  # fmt: skip


def outside(recipe: Recipe) -> Iterator[str]:
    """What to say of each number that is not where ``RANGES`` has it."""
    for name, keys in RANGES.items():
        found: Any = recipe
        for part in filter(None, name.split(".")):
            found = getattr(found, part)
        for table in found if isinstance(found, tuple) else (found,):
            for key, interval in keys.items() if table is not None else ():
                value = getattr(table, key)
                for one in value if isinstance(value, tuple) else (value,):
                    if one is not None and not _within(one, interval):
                        yield f"{f'[{name}] ' if name else ''}{key} = {one} is not in {interval}."


def _within(value: float, interval: str) -> bool:
    """Whether a number (never nan) is in an interval as mathematics writes it."""
    low, high = (float(end) for end in interval[1:-1].split(", "))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    return above and below


def faults(recipe: Recipe, weights: dict[str, float]) -> list[tuple[bool, str]]:
    """(whether it is so, what to say) of what cannot be together, each number being in its range;
    ``weights`` of the classes."""
    student, data, objective, optim = recipe.student, recipe.data, recipe.objective, recipe.optim
    cut = data.paper_truncate
    play = recipe.on_policy
    # The format is a class where it is "shared" only.
    weighed = [w for c, w in weights.items() if c != "format" or objective.format == "shared"]
    idle = [key for key, so in _besides_trl(recipe).items() if so]
    return [
        (
            not _names_a_folder(recipe.name),
            f"its name is that of its folder in models/, which '{recipe.name}' cannot be. "
            'Set name = "NAME".',
        ),
        (
            any(step > optim.steps for step in optim.keep),
            f"[optim] keep names step {max(optim.keep, default=0)} of {optim.steps}: it never "
            "comes, and [dev] patience would wait for it. Keep steps of 1..steps.",
        ),
        (
            any(
                what.agent.startswith(MODELS)
                and what.seeds * what.attempts > 1
                and not (what.temperature or what.error_rate)
                for what in data.collect
            ),
            "[[data.collect]] asks for several episodes a task of a model that plays greedily, and "
            "so the same ones. Set its temperature (the paper's teacher: 0.2), or attempts = 1.",
        ),
        (
            any(what.errors_from is not None and not what.error_rate for what in data.collect),
            "[[data.collect]] errors_from says who slips: it goes with error_rate above 0.",
        ),
        (
            recipe.dev is not None
            and recipe.dev.heldout
            and (data.heldout == 0 or play is not None or not recipe.dev.patience),
            "[dev] heldout lets the loss on held-out traces speak beside play when patience ends a "
            "training: it needs patience, [data] heldout over 0, and traces (no [on_policy]).",
        ),
        (
            objective.curriculum not in (None, "random")
            and objective.alpha == objective.beta == 0
            and (objective.gamma == 0 or objective.divergence == "ce"),
            f'curriculum "{objective.curriculum}" has nothing to order by: alpha and beta are 0, '
            "and gamma is 0 or, under cross-entropy with the text (ce), has no teacher's entropy "
            'to weigh. Weigh one of them, or set curriculum = "random".',
        ),
        (
            objective.divergence != "ce" and recipe.teacher is None,
            f"objective '{objective.name}' matches a teacher's distributions. "
            'Add [teacher] checkpoint = "FOLDER".',
        ),
        (
            optim.row_tokens < student.window,
            f"row_tokens {optim.row_tokens} is under the window {student.window}; a whole window "
            "must fit into a row.",
        ),
        (
            "{instruction}" not in data.header or not data.header.endswith("\n"),
            "the header must contain {instruction} and end in a newline.",
        ),
        (
            cut is not None and cut > student.window,
            f"paper_truncate {cut} is over the window ({student.window}).",
        ),
        (
            not any(weighed),
            f'weights of classes are not all 0: {weights}, with format = "{objective.format}".',
        ),
        (
            bool(objective.contrastive) and not (weights["reason"] or weights["act"]),
            "the contrastive term prefers reasoning and actions: lambda_reason or lambda_act over "
            "0, or contrastive = 0.",
        ),
        (
            objective.divergence == "ce" and objective.temperature != 1.0,
            "temperature softens distributions; cross-entropy with the text (ce) has none.",
        ),
        (
            objective.divergence == "alm"
            and (
                (recipe.teacher is not None and recipe.teacher.signal != "cache")
                or objective.masks != "spans"
                or objective.temperature != 1.0
                or cut is not None
            ),
            'divergence "alm" matches cached likelihoods of chunks of whole spans, at alm_tau: '
            '[teacher] signal = "cache", no masks, temperature or paper_truncate.',
        ),
        (
            bool(objective.contrastive) and objective.masks != "spans",
            f'masks "{objective.masks}" change the labels of the samples, and the contrastive term '
            "reads pairs by their true ones: one loss would be of two labellings. Set contrastive "
            '= 0, or masks = "spans".',
        ),
        (
            optim.rows % optim.micro_rows != 0,
            f"micro_rows {optim.micro_rows} does not divide rows {optim.rows}.",
        ),
        (
            student.start is None and student.hidden % student.heads != 0,
            f"[student] hidden {student.hidden} is not a multiple of heads {student.heads}.",
        ),
        (
            student.start is None
            and student.arch == "llama"
            and student.hidden // student.heads % 2 != 0,
            f"[student] a llama's heads have an even width (rotary positions turn pairs), not "
            f"{student.hidden // student.heads}: hidden {student.hidden}, heads {student.heads}.",
        ),
        (
            recipe.max_new_tokens >= student.window,
            f"max_new_tokens {recipe.max_new_tokens} leaves no room to read in a window of "
            f"{student.window}.",
        ),
        (
            bool(student.start_layers) and student.start is None,
            "start_layers are layers of a start: name it.",
        ),
        (
            recipe.tokenizer.start is not None and recipe.tokenizer.extend is not None,
            "[tokenizer] start takes a tokenizer as it is, extend adds to one: give one of them.",
        ),
        (
            (objective.name == "gkd") != (play is not None),
            'objective "gkd" and a table [on_policy] go together.',
        ),
        (
            play is not None and (recipe.teacher is None or recipe.teacher.signal != "live"),
            'on the student\'s own episodes the teacher answers live: [teacher] signal = "live".',
        ),
        (
            play is not None and bool(data.runs or data.collect or objective.contrastive),
            "[on_policy] makes its own episodes: no [data] runs, collect or contrastive term.",
        ),
        (
            play is not None
            and (
                bool(objective.obs_weight or cut)
                or (objective.masks, data.samples) != ("spans", "episode")
            ),
            "[on_policy] teaches the decisions of whole episodes in the ids that were sampled: no "
            "obs_weight, masks, samples or paper_truncate.",
        ),
        (
            play is not None and objective.divergence == "ce",
            "on the student's own episodes it learns what the teacher would say, not its own text "
            '(divergence "ce"): name another divergence.',
        ),
        (
            play is not None and recipe.tokenizer.extend is not None,
            "[tokenizer] extend learns words from traces, and [on_policy] has none: leave it out.",
        ),
        (
            play is not None and play.rounds > optim.steps,
            "[on_policy] needs a step for every round: rounds in 1..steps.",
        ),
        (
            play is not None and objective.curriculum not in (None, "random"),
            f'curriculum "{objective.curriculum}" orders the samples of a whole training, and each '
            "round of [on_policy] brings its own: it would begin anew every round and most would "
            'never be read. Set [objective] curriculum = "random".',
        ),
        (
            objective.name == "minillm"
            and (
                recipe.teacher is None
                or recipe.teacher.signal != "live"
                or recipe.dev is not None
                or optim.optimizer != "adamw"
                or bool(objective.contrastive or objective.obs_weight)
                or (objective.masks, objective.divergence) != ("spans", "reverse_kl")
                or (weights["reason"], weights["act"]) != (1.0, 1.0)
            ),
            'objective "minillm" is trained by TRL, on whole replies: [teacher] signal = "live", '
            "AdamW, no [dev], masks, weights or contrastive term.",
        ),
        (
            objective.name == "minillm" and bool(idle),
            f'objective "minillm" is trained by TRL, to which {" and ".join(idle)} would say '
            "nothing. Leave it out.",
        ),
        (
            recipe.name in references(recipe),
            f"it needs {MODELS}{recipe.name}, which is what it makes: it would learn from itself.",
        ),
    ]


def _besides_trl(recipe: Recipe) -> dict[str, bool]:
    """What TRL is not told of -> whether a recipe says it otherwise than ``minillm`` implies."""
    objective, data = recipe.objective, recipe.data
    return {
        f'[objective] normalizer = "{objective.normalizer}"': objective.normalizer != "token",
        f'[objective] curriculum = "{objective.curriculum}"': objective.curriculum != "random",
        f'[objective] format = "{objective.format}"': objective.format != "span",
        f"[objective] lambda_format = {objective.lambda_format}": objective.lambda_format != 1.0,
        f'[data] samples = "{data.samples}"': data.samples != "episode",
    }


def _names_a_folder(name: str) -> bool:
    return bool(name.strip()) and name != ".." and Path(name).name == name


def references(recipe: Recipe) -> tuple[str, ...]:
    """Names of the models that a recipe needs finished (``models/NAME``), without repeats."""
    texts = [recipe.student.start, recipe.tokenizer.start, recipe.tokenizer.extend]
    texts += [recipe.teacher.checkpoint if recipe.teacher is not None else None]
    for what in recipe.data.collect:
        texts += [what.agent, what.errors_from]
    names = [t.removeprefix(MODELS) for t in texts if t is not None and t.startswith(MODELS)]
    return tuple(dict.fromkeys(names))

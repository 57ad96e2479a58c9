"""What a recipe cannot be, and which other models it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness_distillation.recipe import Recipe

#: What a recipe's path of another model begins with.
MODELS = "models/"


def faults(recipe: Recipe, weights: dict[str, float]) -> list[tuple[bool, str]]:
    """(whether it is so, what to say) of everything that cannot be; ``weights`` of the classes."""
    student, data, objective, optim = recipe.student, recipe.data, recipe.objective, recipe.optim
    cut = data.paper_truncate
    play = recipe.on_policy
    return [
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
        (not 0 <= data.heldout < 1, f"heldout is a share in [0, 1), not {data.heldout}."),
        (
            cut is not None and not 0 < cut <= student.window,
            f"paper_truncate {cut} is not in 1..window ({student.window}).",
        ),
        (
            min(weights.values()) < 0 or max(weights.values()) == 0,
            f"weights of classes are at least 0 and not all 0: {weights}.",
        ),
        (objective.temperature <= 0, f"temperature must be over 0, not {objective.temperature}."),
        (
            objective.divergence == "ce" and objective.temperature != 1.0,
            "temperature softens distributions; cross-entropy with the text (ce) has none.",
        ),
        (not 0 < objective.jsd_beta < 1, f"jsd_beta is in (0, 1), not {objective.jsd_beta}."),
        (not 0 < objective.skew_alpha < 1, f"skew_alpha is in (0, 1), not {objective.skew_alpha}."),
        (
            optim.micro_rows < 1 or optim.rows % optim.micro_rows != 0,
            f"micro_rows {optim.micro_rows} does not divide rows {optim.rows}.",
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
            and not (
                1 <= play.rounds <= optim.steps
                and play.episodes >= 1
                and min(play.teacher_start, play.teacher_end) >= 0
                and max(play.teacher_start, play.teacher_end) <= 1
            ),
            "[on_policy] needs rounds in 1..steps, an episode at least, and shares in [0, 1].",
        ),
        (
            play is not None and objective.weighs_entropy,
            "episodes of a round come with no entropies to order them by: gamma = 0, or "
            'curriculum = "random".',
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
            recipe.dev is not None and (recipe.dev.every < 1 or recipe.dev.patience < 0),
            "[dev] every is at least 1 and patience at least 0.",
        ),
        (
            recipe.name in references(recipe),
            f"it needs {MODELS}{recipe.name}, which is what it makes: it would learn from itself.",
        ),
        (
            objective.contrastive < 0,
            f"contrastive must be at least 0, not {objective.contrastive}.",
        ),
    ]


def references(recipe: Recipe) -> tuple[str, ...]:
    """Names of the models that a recipe needs finished (``models/NAME``), without repeats."""
    texts = [recipe.student.start, recipe.tokenizer.start, recipe.tokenizer.extend]
    texts += [recipe.teacher.checkpoint if recipe.teacher is not None else None]
    for what in recipe.data.collect:
        texts += [what.agent, what.errors_from]
    names = [t.removeprefix(MODELS) for t in texts if t is not None and t.startswith(MODELS)]
    return tuple(dict.fromkeys(names))

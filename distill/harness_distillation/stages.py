"""From a recipe to a measured student in stages, each skipped when its inputs are unchanged.

collect -> prepare (traces, tokenizer, samples) -> cache (teacher) -> train -> evaluate

OUT/                    the finished student: weights, tokenizer, harness.json
OUT/training/traces/    runs collected for the recipe
OUT/training/data/      tokenizer, samples, manifest
OUT/training/cache/     the teacher's distributions, or in likelihoods/ those of chunks
OUT/training/           checkpoints/, log.jsonl, recipe.json

Students that are compared share traces and teacher's distributions: ``shared`` holds both for all
of them: who needs them makes them, several divide the work, and what another one is making is
waited for.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from contextlib import closing, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from harness.errors import ConfigError, DataError
from harness.overlap import TrainedOn
from harness.rows import draw, group
from harness.runs import RESULTS
from harness_distillation import (
    checkpoint,
    likelihoods,
    models,
    ranks,
    teacher_cache,
    tokenizer,
    traces,
)
from harness_distillation.checkpoint import room
from harness_distillation.contrast import fitting
from harness_distillation.dataset import Samples
from harness_distillation.evaluate import check as check_evaluate
from harness_distillation.evaluate import evaluate
from harness_distillation.gkd import guard as guard_play
from harness_distillation.gkd import played_tasks, train_on_policy
from harness_distillation.locks import owned
from harness_distillation.machine import CPU, device_of, precision_of
from harness_distillation.minillm import train_minillm
from harness_distillation.prepare import (
    RECIPE,
    Prepared,
    Workplace,
    environments,
    prepare,
    reason_to_act,
    say,
    whole_hash,
    write,
)
from harness_distillation.recipe import OnPolicy, Optim, Recipe, recipe_hash
from harness_distillation.recordings import collect_all
from harness_distillation.supervision import check_classes, shuffle_labels
from harness_distillation.teachers import cached_likelihoods, cached_teacher, load_teacher
from harness_distillation.trackers import Trackers, check_trackers
from harness_distillation.train import Corpus, Result, train


def distill(
    recipe: Recipe,
    out: Path,
    *,
    fresh: bool = False,
    until: str = "evaluate",
    quiet: bool = False,
    shared: Path | None = None,
    device: str | None = None,
    trackers: Sequence[str] = (),
    results: Path = RESULTS,
) -> Result | None:
    """Run the stages up to ``until``; None when that is before training. A finished student's runs
    are kept in ``results``.

    ``fresh`` starts again: checkpoints, samples and cache of an earlier go are deleted (traces
    and what is ``shared`` stay). Without it everything finished is reused and a stopped training
    goes on. ``device``: "cpu", "cuda" ...; None: an accelerator where there is one. ``trackers``
    are sent the log. Raises ConfigError where another process works in ``out``, or it is a link,
    and checkpoint.DiskFull.
    """
    place = Workplace(out, shared)
    here = device_of(device)
    us = ranks.current()
    check_trackers(trackers, recipe)
    checkpoint.refuse_link(out)
    _refuse(recipe, us, here)
    with owned(place.training) if us.first else nullcontext(-1) as lock, room(place.training):
        if fresh and us.first:
            _forget(place.training)
        # A finished student of another recipe is what --fresh starts again over.
        begun = None if fresh else checkpoint.begun(out)
        if begun is not None:
            begun.check(recipe_hash(recipe), now=recipe)
        if until != "collect":
            _guard_start(recipe)
        if recipe.optim.warmup > recipe.optim.steps:
            say(quiet, _told_warmup(recipe.optim))
        if (told := _told_vocab(recipe)) is not None:
            say(quiet, told)
        last = until
        if until == "evaluate":
            last = "train"
            if us.first:
                check_evaluate(recipe, results)
        if recipe.on_policy is not None:
            result = _on_policy(recipe, recipe.on_policy, place, last, quiet, here, trackers)
        else:
            result = _from_traces(recipe, place, us, last, quiet, here, trackers, lock, begun)
        if until == "evaluate" and us.first and result is not None and result.reason == "finished":
            evaluate(recipe, out, results, quiet)
        return result


def _refuse(recipe: Recipe, us: ranks.Ranks, here: torch.device) -> None:
    """What cannot be trained here, before anything is made or deleted."""
    name = recipe.objective.name
    if us.size > 1 and name in ("gkd", "minillm"):
        raise ConfigError(f"Objective '{name}' is trained in one process: start it without ranks.")
    if recipe.student.dropout and here.type == "cpu" and name != "minillm":
        raise ConfigError(
            f"[student] dropout = {recipe.student.dropout}: on a CPU attention runs inside "
            "documents and has no dropout.\n  Set dropout = 0, or train on an accelerator."
        )
    if recipe.optim.compile and here.type != "cpu" and models.leaks(recipe.student):
        raise ConfigError(
            "[optim] compile: on an accelerator OPT gets one document a row, so that every step "
            "has another shape.\n  Set compile = false."
        )
    if recipe.on_policy is not None:
        guard_play(recipe, recipe.on_policy)


def _guard_start(recipe: Recipe) -> None:
    """Refuse a start that has learned from what is to be measured on, as far as it tells."""
    start, measured = recipe.student.start, recipe.measured_on
    if start is None or not (recipe.data.exclude or measured):
        return
    learned = models.learned(start)
    traces.guard_start(start, learned, recipe.data.exclude)
    for table, what in measured:
        traces.guard_start(start, learned, [what.task_set], table, what.env)


def _told_warmup(optim: Optim) -> str:
    return (
        f"note: [optim] warmup {optim.warmup} is over the {optim.steps} steps, so that the rate "
        f"ends at {optim.steps / optim.warmup:.0%} of lr; lower warmup for more"
    )


def _told_vocab(recipe: Recipe) -> str | None:
    """What to say of a vocabulary's size that nothing is made of."""
    own, origin = recipe.tokenizer, recipe.tokenizer_origin
    if own.extend or origin is None or own.vocab == type(own)().vocab:
        return None
    return f"note: [tokenizer] vocab {own.vocab} is not used, the tokenizer of {origin} is"


def _forget(training: Path) -> None:
    """Delete what an earlier go has made, but its traces."""
    prepared = ("data", "cache", "likelihoods")
    for name in (*prepared, "checkpoints", "dev", "minillm", "rounds", "start"):
        if (training / name).exists():
            shutil.rmtree(training / name)
    for name in ("log.jsonl", "dev.jsonl", "minillm.jsonl"):
        (training / name).unlink(missing_ok=True)


def _from_traces(
    recipe: Recipe, place: Workplace, us: ranks.Ranks, until: str, quiet: bool,
    here: torch.device, trackers: Sequence[str], lock: int, begun: checkpoint.Begun | None,
) -> Result | None:  # fmt: skip
    """All stages; ``lock``: ``place``'s, which MiniLLM's process holds too; ``begun``: the training
    that goes on there."""
    with us.first_alone():
        runs = [*recipe.data.runs]
        unused = place.shared is None and begun is None
        runs += map(
            str, collect_all(recipe.data.collect, place.traces, quiet, again=unused and us.first)
        )
        if until == "collect":
            return None
        tok, samples, prepared = prepare(recipe, runs, place, quiet, begun)
        if us.first:
            write(place.training / RECIPE, recipe)
        # Again for what was prepared earlier: what is known of tasks may have grown.
        traces.guard(prepared.tasks, recipe.data.exclude)
        for table, what in recipe.measured_on:
            traces.guard(prepared.tasks, [what.task_set], table, what.env)
        learn, held = _sides(recipe, samples, prepared)
        counts = check_classes(samples, learn, recipe.objective)
        if told := _told_cut(recipe, samples):
            say(quiet, told)
        if recipe.objective.name != "minillm":
            say(quiet, _told_supervised(counts))
        if until == "prepare":
            return None
        teacher = load_teacher(recipe, tok, here)
        if us.first:
            check_teacher(recipe, teacher, place.training)
        cache: teacher_cache.Cache | likelihoods.Likelihoods | None = None
        entropy = None
        if recipe.teacher is not None and teacher is not None:
            how = recipe.teacher
            if recipe.objective.divergence == "alm":
                cache = cached_likelihoods(recipe, teacher, tok, samples, place, quiet)
            elif how.signal == "cache":
                cache = cached_teacher(
                    recipe, teacher, tok, samples, place, quiet, how.top_k, how.min_mass,
                    recipe.objective.temperature,
                )  # fmt: skip
                say(quiet, f"teacher cache: the top {how.top_k} hold {cache.mean_mass:.2%} of the "
                           "teacher's probability")  # fmt: skip
            elif recipe.objective.weighs_entropy:
                # All that the curriculum asks of a live teacher beforehand: entropies are exact
                # whatever the top k.
                entropy = cached_teacher(recipe, teacher, tok, samples, place, quiet, 1, 0).entropy
        if until == "cache":
            return None
        pairs = Samples.load(place.data / "pairs.npz") if prepared.pairs else None
        notes = provenance(recipe, prepared, teacher, here)
        if recipe.objective.name != "minillm":  # whose student learns from what it samples
            notes["supervised"] = counts
        if isinstance(cache, teacher_cache.Cache):
            notes["teacher_mass"] = round(cache.mean_mass, 6)
        if us.first:  # who writes the notes
            notes["parents"]["start"] = start_hash(recipe, tok, place.training)
        if pairs is not None:
            notes["parents"]["pairs"] = pairs.hash
            notes["pairs"] = len(fitting(pairs, recipe.optim.row_tokens)[2])
            say(quiet, _told_pairs(notes["pairs"], prepared.pairs, recipe.optim.row_tokens))
    if recipe.objective.name == "minillm":
        result = train_minillm(
            recipe, samples, learn, tok, place.training, notes, lock, quiet=quiet, device=here
        )
    else:
        if recipe.objective.masks == "label_shuffle":
            classes = tokenizer.class_of(recipe.objective.format or "span")
            samples = shuffle_labels(samples, classes, learn, recipe.seed)
        envs = environments(prepared, samples)
        numbered = None if envs is None else np.unique(envs, return_inverse=True)[1]
        corpus = Corpus(samples, learn, held, whole_hash(prepared, pairs), pairs, numbered)
        live = teacher if recipe.teacher is not None and recipe.teacher.signal == "live" else None
        del teacher  # cached, it need not stay in the device's memory
        asked = trackers if us.first else ()
        with closing(Trackers(asked, recipe, place.training)) as sent:
            result = train(
                recipe, recipe_hash(recipe), corpus, tok, place.training, notes,
                cache=cache, teacher=live, entropy=entropy, ranks=us, quiet=quiet, device=here,
                send=sent.log,
            )  # fmt: skip
    if us.first:
        _finish(place, result, tok)
    return result


def _on_policy(
    recipe: Recipe, play: OnPolicy, place: Workplace, until: str, quiet: bool,
    here: torch.device, trackers: Sequence[str],
) -> Result | None:  # fmt: skip
    """Objective ``gkd``: no traces and no cache, the student's own episodes round by round."""
    if until in ("collect", "prepare", "cache"):
        say(quiet, f"objective 'gkd' has no stage '{until}', it plays as it trains: nothing done")
        return None
    tok = tokenizer.load(recipe.tokenizer_origin or "")
    teacher = load_teacher(recipe, tok, here)
    check_teacher(recipe, teacher, place.training)
    notes = {
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
        "recipe": msgspec.to_builtins(recipe),
        "recipe_hash": recipe_hash(recipe),
        "parents": {
            "teacher": models.weights_hash(teacher),
            "start": start_hash(recipe, tok, place.training),
        },
        "trained_on": trained_on(recipe, played_tasks(play, recipe.seed)),
        "tokenizer": tokenizer.fingerprint(tok),
        "packages": _packages(),
        "machine": _machine(recipe, here),
        "scores": {},
    }
    write(place.training / RECIPE, recipe)
    with closing(Trackers(trackers, recipe, place.training)) as sent:
        result = train_on_policy(
            recipe, play, place.training, notes, teacher, tok,
            quiet=quiet, device=here, send=sent.log,
        )  # fmt: skip
    _finish(place, result, tok)
    return result


def _finish(place: Workplace, result: Result, tok: Any) -> None:
    """Write the student of a training that is finished, with the notes of what ended it: of a
    finished one that is asked for again they stay as they are."""
    if result.reason == "finished":
        last = checkpoint.latest(place.training / "checkpoints") or result.checkpoint
        notes = checkpoint.read_notes(last)
        with suppress(FileNotFoundError):
            before = checkpoint.read_notes(place.out)
            if {**before, "scores": {}} == notes:
                notes["scores"] = before["scores"]
        checkpoint.write_model(place.out, models.load(result.checkpoint), tok, notes)


def start_hash(recipe: Recipe, tok: Any, training: Path) -> str | None:
    """``models.weights_hash`` of the student before its first step; None where a training that goes
    on began before it was noted.

    Of a training that goes on it is what was noted then. Raises DataError where the start is still
    needed (no step taken yet, or the contrastive term's reference) and is another one now.
    """
    begun, noted = _begun(recipe, training, "start")
    if begun.name != "start" and not recipe.objective.contrastive:
        return noted
    now = models.weights_hash(models.build(recipe.student, tok, recipe.seed))
    if noted not in (None, now):
        raise DataError(
            f"{begun} comes from other weights than the student starts from now ({noted}, now "
            f"{now}), and still needs them.\n"
            "  Put [student] start back as it was, use another --out, or --fresh to start again."
        )
    return now


def check_teacher(recipe: Recipe, teacher: Any, training: Path) -> None:
    """Raise DataError where a training that goes on has learned from another teacher so far."""
    if recipe.teacher is None or teacher is None:
        return
    begun, noted = _begun(recipe, training, "teacher")
    if noted is not None and noted != (now := models.weights_hash(teacher)):
        raise DataError(
            f"{begun} comes from another teacher than {recipe.teacher.checkpoint} is now ({noted}, "
            f"now {now}).\n"
            "  Put its weights back as they were, use another --out, or --fresh to start again."
        )


def _begun(recipe: Recipe, training: Path, parent: str) -> tuple[Path, str | None]:
    """Where a training stands: its newest checkpoint, else ``training/start``; and the hash of a
    parent as noted there. None: nothing is begun, or it was begun before that was noted."""
    begun = checkpoint.latest(training / "checkpoints") or training / "start"
    then = checkpoint.read_notes(begun) if (begun / "harness.json").is_file() else {}
    # Another recipe has other parents, and is refused for what it is (``train``).
    if not then or then["recipe_hash"] != recipe_hash(recipe):
        return begun, None
    return begun, then["parents"].get(parent)


def _sides(recipe: Recipe, samples: Samples, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """Sequences that train, and those of held-out episodes. Raises DataError where none trains."""
    held = np.isin(samples.episode, np.array(prepared.heldout, dtype=np.int64))
    if held.all():
        cut = recipe.data.paper_truncate
        raise DataError(
            f"No decision of the {prepared.episodes - len(prepared.heldout)} episodes that train "
            f"fits a window of {recipe.student.window} tokens{f' cut after {cut}' if cut else ''}; "
            f"of all, {prepared.overflow} come after an observation that overflows it and "
            f"{prepared.too_long} are too long for it.\n"
            "  Raise [student] window, or lower max_new_tokens, which is kept free in it."
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def _told_cut(recipe: Recipe, samples: Samples) -> str | None:
    """Of a curriculum over parts of episodes, which Eq. 7 is not about."""
    objective = recipe.objective
    if objective.curriculum in (None, "random") or objective.curriculum_unit == "episode":
        return None
    parts = np.unique(samples.episode, return_counts=True)[1]
    if not (cut := int((parts > 1).sum())):
        return None
    return (
        f"note: {cut} of {len(parts)} episodes are in several sequences, which the curriculum "
        'orders one by one; [objective] curriculum_unit = "episode" orders episodes'
    )


def _told_supervised(counts: dict[str, int]) -> str:
    told = ", ".join(f"{name} {n}" for name, n in counts.items())
    return f"supervised tokens, held-out episodes aside: {sum(counts.values())} ({told})"


def _told_pairs(read: int, found: int, row_tokens: int) -> str:
    told = f"contrastive term: {read} of {found} pairs of a won and a lost episode are read"
    if read == found:
        return told
    return f"{told}; note: the others do not fit a row of {row_tokens} tokens, or the window"


def provenance(
    recipe: Recipe, prepared: Prepared, teacher: Any, device: torch.device = CPU
) -> dict[str, Any]:
    """harness.json: how to ask the student, and what it comes from."""
    return {
        "header": recipe.data.header,
        "window": recipe.student.window,
        "max_new_tokens": recipe.max_new_tokens,
        "recipe": msgspec.to_builtins(recipe),
        "recipe_hash": recipe_hash(recipe),
        "parents": {
            "runs": [s.sha256 for s in prepared.sources],
            "traces": prepared.traces,
            "samples": prepared.samples,
            "teacher": models.weights_hash(teacher) if teacher is not None else None,
        },
        "trained_on": trained_on(recipe, _taught(prepared, recipe)),
        "tokenizer": prepared.tokenizer,
        models.OBSERVATIONS: bool(recipe.objective.obs_weight),
        "reason_to_act": reason_to_act(prepared, recipe.objective.format),
        "packages": _packages(),
        "machine": _machine(recipe, device),
        "scores": {},
    }


def trained_on(recipe: Recipe, tasks: Iterable[tuple[str, str]]) -> TrainedOn:
    """What a student has learned from, its start included; ``tasks`` as (environment, task id)."""
    found = TrainedOn.of(tasks)
    start = recipe.student.start
    return found if start is None else found.after(models.learned(start))


def _taught(prepared: Prepared, recipe: Recipe) -> list[tuple[str, str]]:
    """The tasks of the episodes that train; held-out groups are drawn by their names alone."""
    share, seed = recipe.data.heldout, recipe.seed
    return [task for task in prepared.tasks if draw(group(*task), seed) >= share]


def _packages() -> dict[str, str]:
    """Versions of what trains, for harness.json."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def _machine(recipe: Recipe, device: torch.device) -> dict[str, str]:
    """What it is trained on, for harness.json: device and the precision of its products."""
    return {"device": device.type, "precision": precision_of(recipe.optim.precision, device)}

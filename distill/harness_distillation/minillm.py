"""Objective ``minillm``: reverse KL by policy gradient, by TRL in an environment of its own.

    traces -> prompts (ids up to each decision) -> minillm_runner.py -> a checkpoint, imported

TRL 0.27 has the trainer and its newer releases have not, so it lives apart from this package's
libraries: the two exchange prompts and checkpoint folders, and nothing else. The environment is
made once (``HARNESS_MINILLM`` names the folder of another that has ``REQUIREMENTS``).

    training/minillm/prompts.jsonl    token ids, one decision a line
    training/minillm/job.json         every number
    training/minillm/out/             TRL's checkpoints: a stopped training goes on from the last
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from harness.errors import ConfigError, HarnessError
from harness.transcript import Kind
from harness_distillation import checkpoint, models
from harness_distillation.dataset import Samples
from harness_distillation.hub import gguf, locate
from harness_distillation.locks import alone
from harness_distillation.machine import CPU, precision_of
from harness_distillation.prepare import write
from harness_distillation.recipe import Recipe
from harness_distillation.train import Result
from harness_distillation.training_log import truncate

#: Beside them torch, in the release that this package runs on.
REQUIREMENTS = ("trl==0.27.2", "transformers==5.0.0", "datasets==5.2.0", "accelerate==1.15.0",
                "jinja2==3.1.6")  # fmt: skip
RUNNER = Path(__file__).with_name("minillm_runner.py")
#: Lines of TRL's output that an error shows.
TAIL = 8
#: In ``training/``: a line a step, as TRL tells it.
LOG = "minillm.jsonl"


class RunnerFailed(HarnessError):
    """The training in the other environment broke; what it had finished is kept."""


def prompts(samples: Samples, taught: np.ndarray, count: int, seed: int) -> list[list[int]]:
    """``count`` decisions of the sequences ``taught``, each as the ids that stand before it.

    Shuffled, and again from the start (in another order) when all are used. What another window
    teaches, slips and forced steps are no decisions here.
    """
    made = samples.kinds != Kind.CONTEXT
    first = made & ~np.concatenate([[False], made[:-1]])
    first[samples.offsets[:-1]] = False
    at = np.flatnonzero(first)
    owner = np.searchsorted(samples.offsets, at, side="right") - 1
    keep = np.isin(owner, taught)
    at, owner = at[keep], owner[keep]
    if not len(at):
        raise ConfigError("The traces hold no decision to ask the student for.")
    rng = np.random.default_rng([seed, 11])
    orders = [rng.permutation(len(at)) for _ in range(-(-count // len(at)))]
    return [
        samples.ids[samples.offsets[owner[i]] : at[i]].tolist()
        for i in np.concatenate(orders)[:count]
    ]


def environment(quiet: bool) -> Path:
    """Python of the environment with ``REQUIREMENTS``, made when it is not there yet.

    Raises ConfigError when it cannot be made, or is not what it says.
    """
    wanted = [*REQUIREMENTS, f"torch=={version('torch').partition('+')[0]}"]
    given = os.environ.get("HARNESS_MINILLM")
    if given:
        python = Path(given).absolute() / "bin" / "python"
        if not python.is_file():
            raise ConfigError(f"HARNESS_MINILLM: {python} is not there.")
        _check(python, wanted)
        return python
    cache = os.environ.get("HARNESS_CACHE") or os.environ.get("XDG_CACHE_HOME")
    root = Path(cache).expanduser() if cache else Path.home() / ".cache"
    name = hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    folder = root.absolute() / "distill-harness" / f"minillm-{name}"
    with alone(folder):
        whole = folder / "requirements.txt"  # written last
        if not whole.is_file():
            _make(folder, wanted, quiet)
            whole.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    return folder / "bin" / "python"


def _make(folder: Path, wanted: list[str], quiet: bool) -> None:
    if not quiet:
        print(f"installing {', '.join(wanted)} into {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    found = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *wanted],
        capture_output=True, text=True, env=_outside(), check=False,
    )  # fmt: skip
    if found.returncode:
        shutil.rmtree(folder)
        raise ConfigError(
            f"The environment of objective 'minillm' cannot be made in {folder}:\n"
            f"{_tail(found.stderr)}\n"
            "  Mend that, or name a folder of your own with HARNESS_MINILLM."
        )


def _check(python: Path, wanted: list[str]) -> None:
    """Refuse an environment of other releases."""
    code = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    names, releases = zip(*(w.split("==") for w in wanted), strict=True)
    found = subprocess.run(
        [python, "-P", "-c", code, *names],
        capture_output=True, text=True, env=_outside(), check=False,
    )  # fmt: skip
    have = [release.partition("+")[0] for release in found.stdout.split()]
    if found.returncode or have != list(releases):
        told = ", ".join(map("==".join, zip(names, have, strict=False))) or _tail(found.stderr)
        raise ConfigError(
            f"{python} has not what objective 'minillm' runs on: {', '.join(wanted)}.\n  It has: "
            f"{told}."
        )


def train_minillm(
    recipe: Recipe,
    samples: Samples,
    taught: np.ndarray,
    tok: Any,
    out: Path,
    notes: dict[str, Any],
    lock: int,
    *,
    quiet: bool = False,
    device: torch.device = CPU,
) -> Result:
    """Train ``recipe``'s student in ``out`` (``training/``) on the decisions of ``samples``.

    An optimizer step samples ``optim.rows`` replies. ``lock``: ``out``'s (``locks.owned``), which
    TRL's process holds too. ``optim.max_minutes`` counts from its start. Raises RunnerFailed with
    the end of TRL's output; the same call goes on from its last checkpoint.
    """
    assert recipe.teacher is not None
    optim, root = recipe.optim, out / "minillm"
    if gguf(locate(recipe.teacher.checkpoint)):
        raise ConfigError("Objective 'minillm' takes no GGUF teacher: save it as safetensors.")
    start = out / "start"
    if not (start / "harness.json").is_file():
        student = models.build(recipe.student, tok, recipe.seed)
        _check_rows(student.config.vocab_size, recipe.teacher.checkpoint)
        checkpoint.write_model(start, student, tok, notes)
    root.mkdir(parents=True, exist_ok=True)
    chosen = prompts(samples, taught, optim.steps * optim.rows, recipe.seed)
    lines = b"".join(msgspec.json.encode(ids) + b"\n" for ids in chosen)
    job = {
        "student": str(start.absolute()),
        "teacher": str(Path(locate(recipe.teacher.checkpoint)).absolute()),
        "prompts": str((root / "prompts.jsonl").absolute()),
        "prompts_hash": hashlib.sha256(lines).hexdigest(),
        "teacher_hash": notes["parents"]["teacher"],
        "recipe_hash": notes["recipe_hash"],
        "out": str((root / "out").absolute()),
        "log": str((out / LOG).absolute()),
        "threads": optim.threads or 1,
        "max_minutes": optim.max_minutes,
        "seed": recipe.seed,
        "steps": optim.steps,
        "rows": optim.rows,
        "lr": optim.lr,
        "min_lr": optim.min_lr,
        "warmup": optim.warmup,
        "betas": optim.betas,
        "weight_decay": optim.weight_decay,
        "clip": optim.clip,
        "bf16": precision_of(optim.precision, device) == "bf16",
        "use_cpu": device.type == "cpu",
        "max_new_tokens": recipe.max_new_tokens,
        "kd_temperature": recipe.objective.temperature,
    }
    body = msgspec.json.format(msgspec.json.encode(job), indent=1) + b"\n"
    path = root / "job.json"
    if path.is_file() and _elsewhere(path.read_bytes()) != _elsewhere(body):
        raise ConfigError(
            f"{path} is of another training than this recipe, traces and teacher make.\n"
            "  Use another --out, or --fresh to start again."
        )
    path.write_bytes(body)
    student = root / "out" / "student"
    if not (student / "model.safetensors").is_file():
        (root / "prompts.jsonl").write_bytes(lines)
        python = environment(quiet)
        cut_log(out)
        _run(python, path, lock, quiet)
    if not (student / "model.safetensors").is_file():
        last = max((root / "out").glob("checkpoint-*"), key=_step)
        return Result(last, _step(last), "time")
    if not (student / "harness.json").is_file():  # of who ended the training
        write(student / "harness.json", notes)
    return Result(student, optim.steps, "finished")


def cut_log(training: Path) -> None:
    """Drop log lines of steps that TRL will take again: those after its last whole checkpoint, of
    which the state is written last."""
    whole = (training / "minillm" / "out").glob("checkpoint-*/trainer_state.json")
    truncate(training / LOG, max((_step(state.parent) for state in whole), default=0))


def _check_rows(mine: int, teacher: str) -> None:
    """TRL compares all logits of student and teacher, those of an embedding's padding too: refuse
    an embedding of another size than the student's, ``mine`` rows. Raises ConfigError."""
    config = models.quiet_transformers().AutoConfig.from_pretrained(locate(teacher))
    if config.vocab_size != mine:
        raise ConfigError(
            f"Objective 'minillm' compares student and teacher over all their logits, and the "
            f"student has {mine} of them, teacher {teacher} {config.vocab_size} (padding of their "
            "embeddings).\n  Start from a student whose embedding has the teacher's rows, or train "
            "by kd or gkd, which compare over the tokenizer's entries."
        )


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _elsewhere(job: bytes) -> dict[str, Any]:
    """A job without what the machine, or one call, decides, nor where its files lie: what is in
    them the hashes tell."""
    found: dict[str, Any] = msgspec.json.decode(job)
    own = ("bf16", "use_cpu", "threads", "max_minutes")
    places = ("student", "teacher", "prompts", "out", "log")
    return {key: value for key, value in found.items() if key not in own + places}


def _run(python: Path, job: Path, lock: int, quiet: bool) -> None:
    log = job.with_name("runner.log")
    if not quiet:
        print(f"TRL trains, telling it to {log}", file=sys.stderr, flush=True)
    with (
        log.open("ab") as file,
        # Not from the runner's own folder, whose modules would hide the library's (-P). Its stdin
        # ends with this process, however that ends; it holds the lock as long as it lives.
        subprocess.Popen(
            [python, "-P", RUNNER, job],
            stdin=subprocess.PIPE, stdout=file, stderr=file, env=_outside(), pass_fds=(lock,),
        ) as child,
    ):  # fmt: skip
        status = child.wait()
    if status:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise RunnerFailed(
            f"TRL's training ended with status {status}; the end of {log}:\n{_tail(text)}"
        )


def _outside() -> dict[str, str]:
    """Variables for the other environment: none that would lead it into this one."""
    away = re.compile(r"PYTHON|VIRTUAL_ENV|HARNESS_")
    found = {k: v for k, v in os.environ.items() if not away.match(k)}
    return {**found, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip


def _tail(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines()[-TAIL:])

"""Run folders: ``results/<env>/<agent>/<run_id>/`` with run.json, episodes.jsonl, metrics.jsonl."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from harness.config import AgentConfig
from harness.cost import Cost
from harness.errors import ConfigError, HarnessError, TraceError
from harness.metrics import EpisodeMetrics, Summary, Tally, summarise
from harness.overlap import Overlap
from harness.recorder import EPISODES, is_left, read_episodes
from harness.rows import group as named_group
from harness.tasksets import TaskSet
from harness.types import SCHEMA, Episode

#: Where runs are kept, unless another folder is said.
RESULTS = Path("results")
META = "run.json"
METRICS = "metrics.jsonl"

#: Told of a run that cannot be read, which is then passed over.
OnDamage = Callable[[HarnessError], None]
_PACKAGES = ("distill-harness", "gymnasium", "numpy", "torch", "transformers", "tokenizers",
             "textworld", "alfworld")  # fmt: skip


class RunMeta(msgspec.Struct, frozen=True):
    """run.json: everything needed to tell what was run and to run it again."""

    run_id: str
    kind: str
    agent: AgentConfig
    task_set: TaskSet
    task_set_hash: str
    env_version: str
    #: Environment keywords that do not decide a score (where the data lie, which engine).
    env_options: dict[str, Any]
    seeds: tuple[int, ...]
    attempts: int
    reference: str | None
    #: What the policy says of itself: model id, weights hash, tokenizer, prompt hash, decoding.
    policy: dict[str, Any]
    workers: int
    error_rate: float = 0.0
    errors_from: str | None = None
    #: The run that holds further samplings of the reference's agent; None: the reference itself.
    ceiling: str | None = None
    argv: tuple[str, ...] = ()
    commit: str | None = None
    dirty: bool | None = None
    packages: dict[str, str] = {}
    host: dict[str, Any] = {}
    parents: tuple[str, ...] = ()
    #: How many episodes there are, where they are not all tasks x seeds x attempts (imports).
    episodes: int | None = None
    #: What of its tasks the agent's weights were trained on; None: no weights, or they do not tell.
    overlap: Overlap | None = None
    #: Of all episodes played, those that were set aside too.
    cost: Cost | None = None
    started: str = ""
    finished: str | None = None
    status: str = "running"
    #: sha256 of the reference traces' decisions as scored against (None: there are none, or it was
    #: scored before this was kept).
    reference_hash: str | None = None
    #: sha256 of metrics.jsonl as scored (None: scored before this was kept).
    metrics_hash: str | None = None
    #: sha256 of episodes.jsonl when the run was complete (None: before this was kept).
    episodes_hash: str | None = None
    schema: int = SCHEMA

    @property
    def measure(self) -> tuple[str, str]:
        """Hash of the task set and version of the environment: runs that share both may be
        compared."""
        return self.task_set_hash, self.env_version

    @property
    def n_episodes(self) -> int:
        if self.episodes is not None:
            return self.episodes
        return len(self.task_set.tasks) * len(self.seeds) * self.attempts


class Run:
    """A recorded run. Episodes are read lazily; metrics once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.meta = read_meta(path)

    def episodes(self) -> Iterator[Episode]:
        """Every recorded episode, in the order written."""
        file = self.path / EPISODES
        return read_episodes(file) if file.exists() else iter(())

    @cached_property
    def metrics(self) -> list[EpisodeMetrics]:
        """One row an episode, from metrics.jsonl. Raises TraceError where an episode has two or is
        not of this run, where a complete run lacks some, and where the file is not as it was
        scored: what is missing is never left out in silence, and nothing foreign gets in."""
        file, digest = self._scored(), hashlib.sha256()
        rows = [row for part in metrics_parts(file, digest=digest) for row in part]
        if len({row.key for row in rows}) < len(rows):
            raise TraceError(f"{file}: some episode has two rows. {self._remedy}")
        self._check_held(rows)
        self._check_number(self.path / METRICS, len(rows), self._remedy)
        self._check_unchanged(digest.hexdigest())
        return rows

    @cached_property
    def summary(self) -> Summary:
        """The metrics' summary, read in parts: memory does not grow with the run. Raises what
        ``metrics`` raises."""
        tally, keys, digest = Tally(), set[int](), hashlib.sha256()
        for rows in metrics_parts(self._scored(), digest=digest):
            self._check_held(rows)
            tally.add(rows)
            keys.update([hash((r.task_id, r.seed, r.attempt)) for r in rows])
        if len(keys) < tally.rows:  # two rows of one episode, or two episodes of one hash
            return summarise(self.metrics, self.group)
        self._check_number(self.path / METRICS, tally.rows, self._remedy)
        self._check_unchanged(digest.hexdigest())
        return tally.summary(self.group)

    @cached_property
    def groups(self) -> dict[str, str] | None:
        """What ties its tasks together (``Environment.group``), by id. None: its environment is not
        installed here, or does not tell."""
        env = self.meta.task_set.env
        try:
            return {task: named_group(env, task) for task in self.tasks}
        except Exception:
            # Another package's code is no reason not to read a record; tables say what is missing.
            return None

    def group(self, task_id: str) -> str:
        """What ties a task to others; itself where that is not known."""
        return task_id if self.groups is None else self.groups[task_id]

    def check_episodes(self) -> None:
        """Raise TraceError where episodes.jsonl is not as it was when the run was complete."""
        file = self.path / EPISODES
        whole = self.meta.status == "complete" and self.meta.episodes_hash is not None
        if whole and self.meta.episodes_hash != sha256(file):
            raise TraceError(
                f"{file} was changed after it was recorded.\n  Put it back, or record it again; "
                f"`harness verify {self.path}` tells which episodes are not as they were played."
            )

    def check_whole(self) -> None:
        """Raise TraceError for a run that came without its episodes, and for a complete one that
        has not all of them, as they were recorded."""
        self.check_recorded()
        self.check_episodes()
        file = self.path / EPISODES
        with open(file, "rb") as lines:
            self._check_number(file, sum(line.endswith(b"\n") for line in lines))

    def check_recorded(self) -> None:
        """Raise TraceError for a run that came without its episodes."""
        file = self.path / EPISODES
        complete = self.meta.status == "complete"
        if not file.is_file() or (complete and file.stat().st_size == 0):
            raise TraceError(
                f"{self.path} holds no {EPISODES}. Get the run with its episodes (`harness export "
                "--episodes`), or make them from its decisions (`harness restore`)."
            )

    def check_complete(self) -> None:
        """Raise ConfigError for a run that is not complete: it is not given away in part."""
        if self.meta.status != "complete":
            raise ConfigError(
                f"{self.path} is not complete. Finish it with `harness run --resume {self.path}`."
            )

    @cached_property
    def tasks(self) -> frozenset[str]:
        """Ids of the tasks of its set."""
        return frozenset(task.id for task in self.meta.task_set.tasks)

    def _scored(self) -> Path:
        check_description(self)
        file = self.path / METRICS
        if not file.exists():
            raise TraceError(
                f"{file} is missing: the run was stopped before it was scored. "
                f"Continue it with `harness run --resume {self.path}`."
            )
        return file

    def _check_held(self, rows: Sequence[EpisodeMetrics]) -> None:
        # With distinct keys and the right number of rows, this makes them the run's very episodes.
        meta = self.meta
        if (
            {r.task_id for r in rows} <= self.tasks
            and {r.seed for r in rows} <= set(meta.seeds)
            and {r.attempt for r in rows} <= set(range(meta.attempts))
        ):
            return
        foreign = next(r.key for r in rows if not self.holds(r.key))
        raise TraceError(
            f"{self.path / METRICS}: the episode {foreign} is not of this run. {self._remedy}"
        )

    def holds(self, key: tuple[str, int, int]) -> bool:
        """Whether an episode of this (task id, seed, attempt) belongs to the run."""
        task, seed, attempt = key
        meta = self.meta
        return task in self.tasks and seed in meta.seeds and attempt in range(meta.attempts)

    def _check_number(self, file: Path, lines: int, remedy: str = "") -> None:
        if self.meta.status == "complete" and lines != self.meta.n_episodes:
            play = f"What is missing is played by `harness run --resume {self.path}`."
            raise TraceError(
                f"{file}: {lines} lines, but the run has {self.meta.n_episodes} episodes. "
                f"{remedy or play}"
            )

    def _check_unchanged(self, digest: str) -> None:
        if self.meta.metrics_hash not in (None, digest):
            raise TraceError(
                f"{self.path / METRICS} was changed after the run was scored. {self._remedy}"
            )

    @property
    def _remedy(self) -> str:
        return f"Score the run again with `harness score {self.path}`."

    def state(self, recorded: int) -> str:
        """Its status, of a run with so many episodes; ``stopped`` where some are missing and no
        process writes them, ``damaged`` where a complete one has not what it had (it may have come
        without its episodes)."""
        came = recorded or self.meta.episodes_hash is not None
        if self.meta.status == "complete" and came and recorded != self.meta.n_episodes:
            return "damaged"
        dead = self.meta.status == "running" and is_left(self.path / EPISODES)
        return "stopped" if dead else self.meta.status

    def __repr__(self) -> str:
        return f"Run({self.meta.agent.name!r} on {self.meta.task_set.name!r}, {str(self.path)!r})"


def check_description(run: Run) -> None:
    """Raises TraceError for a run.json whose task set is not the one it names by hash: its episodes
    were played under other tasks or rules than it says."""
    meta = run.meta
    if meta.task_set.hash != meta.task_set_hash:
        raise TraceError(
            f"{run.path}: its task set hashes to {meta.task_set.hash}, but run.json says "
            f"{meta.task_set_hash}: the description was changed after the run. Play it again."
        )


def read_meta(folder: Path) -> RunMeta:
    """run.json of a folder; another schema or a damaged file raises TraceError."""
    file = folder / META
    try:
        meta = msgspec.json.decode(file.read_bytes(), type=RunMeta)
    except FileNotFoundError:
        raise TraceError(f"{folder} is not a run folder: it has no {META}.") from None
    except OSError as error:
        raise TraceError(f"{file}: cannot be read: {error.strerror}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{file}: not a run description: {error}") from None
    if meta.schema != SCHEMA:
        raise TraceError(
            f"{file}: its records are of schema {meta.schema}, this release reads {SCHEMA}. Read "
            "them with the release that wrote them."
        )
    return meta


def write_meta(folder: Path, meta: RunMeta) -> None:
    """Write run.json in one move, so that it is never half there."""
    folder.mkdir(parents=True, exist_ok=True)
    body = msgspec.json.format(msgspec.json.encode(meta), indent=1)
    temporary = folder / f".{META}.{os.getpid()}"
    temporary.write_bytes(body + b"\n")
    temporary.replace(folder / META)


def sha256(file: Path) -> str | None:
    """Hash of a file, in hex digits; None where there is none."""
    if not file.is_file():
        return None
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def complete(folder: Path) -> Run:
    """The run in ``folder``, all of whose episodes are there and scored: its run.json says so."""
    meta = msgspec.structs.replace(
        read_meta(folder),
        status="complete",
        finished=utc_now(),
        episodes_hash=sha256(folder / EPISODES),
    )
    write_meta(folder, meta)
    return Run(folder)


def read_metrics(file: Path) -> list[EpisodeMetrics]:
    """Rows of metrics.jsonl; damage raises TraceError with file and line."""
    return [row for part in metrics_parts(file) for row in part]


def metrics_parts(
    file: Path, size: int = 4 << 20, digest: Any = None
) -> Iterator[list[EpisodeMetrics]]:
    """Rows of metrics.jsonl, about ``size`` bytes at a time; damage raises TraceError with file and
    line. ``digest`` (of hashlib) is fed all that is read."""
    try:
        with open(file, "rb") as lines:
            number = 1
            while body := lines.read(size):
                body += lines.readline()
                if digest is not None:
                    digest.update(body)
                try:
                    rows = _decode_rows(body)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    rows = []
                # Blank lines are damage too; one line at a time finds which.
                count = body.count(b"\n") + (not body.endswith(b"\n"))
                if len(rows) != count:
                    part = body.removesuffix(b"\n").split(b"\n")
                    rows = [_row(file, n, line) for n, line in enumerate(part, number)]
                yield rows
                number += count
    except OSError as error:
        raise TraceError(f"{file}: cannot be read: {error.strerror}.") from None


_decoder = msgspec.json.Decoder(EpisodeMetrics)
_decode_row, _decode_rows = _decoder.decode, _decoder.decode_lines


def _row(file: Path, number: int, line: bytes) -> EpisodeMetrics:
    try:
        return _decode_row(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(
            f"{file}:{number}: not a metrics row: {error}\n"
            "  Delete the file and score the run again with `harness score`."
        ) from None


def write_metrics(folder: Path, rows: Sequence[EpisodeMetrics]) -> None:
    """Write metrics.jsonl in one move, then its hash into the folder's run.json."""
    encoder = msgspec.json.Encoder()
    temporary = folder / f".{METRICS}.{os.getpid()}"
    body = b"".join(encoder.encode(r) + b"\n" for r in rows)
    temporary.write_bytes(body)
    temporary.replace(folder / METRICS)
    digest = hashlib.sha256(body).hexdigest()
    write_meta(folder, msgspec.structs.replace(read_meta(folder), metrics_hash=digest))


def new_run_id(config: Any) -> str:
    """UTC time and a hash of the resolved config: ``20261124T101530Z-1a2b3c4d``."""
    body = msgspec.json.encode(config, order="sorted")
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    return f"{stamp}-{hashlib.sha256(body).hexdigest()[:8]}"


def run_folder(out: Path, env: str, agent: str, run_id: str) -> Path:
    """A fresh folder's path; one that exists (same second, same config) gets a number."""
    name = re.sub(r"[^\w.+-]|^\.", "_", agent)
    folder = out / env / name / run_id
    number = 1
    while folder.exists():
        number += 1
        folder = out / env / name / f"{run_id}-{number}"
    return folder


def find_runs(out: Path, on_damage: OnDamage | None = None) -> list[Run]:
    """All runs under a results folder, oldest first. A damaged run.json is told to ``on_damage``
    and passed over, so that one does not hide the others; without it TraceError is raised."""
    if not out.is_dir():
        return []
    found = []
    for file in out.glob(f"*/*/*/{META}"):
        try:
            found.append(Run(file.parent))
        except TraceError as error:
            if on_damage is None:
                raise
            on_damage(error)
    return sorted(found, key=_age)


def open_run(path: str | Path) -> Run:
    """A run by its folder, or by the folder of its newest run (``results/alfworld/expert``);
    references count only where there is nothing else."""
    folder = Path(path)
    if (folder / META).exists():
        return Run(folder)
    inner = [Run(file.parent) for file in folder.glob(f"**/{META}")]
    if inner:
        return max(inner, key=lambda run: (run.meta.kind != "reference", _age(run)))
    raise ConfigError(f"'{path}' is not a run folder and holds none. See `harness list runs`.")


def only_run(path: str | Path) -> Run:
    """A run by its folder, or by a folder that holds no other. Raises ConfigError for one that
    holds several, references apart."""
    folder = Path(path)
    if not (folder / META).exists():
        runs = [Run(file.parent) for file in sorted(folder.glob(f"**/{META}"))]
        runs = [run for run in runs if run.meta.kind != "reference"] or runs
        if len(runs) > 1:
            most = 10
            shown = "".join(f"\n  {run.path} ({run.meta.status})" for run in runs[:most])
            more = f"\n  and {len(runs) - most} more" if len(runs) > most else ""
            raise ConfigError(f"'{path}' holds several runs; name one:{shown}{more}")
        if runs:
            return runs[0]
    return open_run(folder)


def _age(run: Run) -> tuple[str, str]:
    return run.meta.started, run.path.name


def command() -> tuple[str, ...]:
    """This process's command line; bytes that are no text become ``?``."""
    return tuple(word.encode(errors="replace").decode() for word in sys.argv)


def provenance() -> dict[str, Any]:
    """Where and with what a run is made: argv, commit, packages, host."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    commit, dirty = _git()
    return {
        "argv": command(),
        "commit": commit,
        "dirty": dirty,
        "packages": found,
        "host": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
        "started": utc_now(),
    }


def utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _git() -> tuple[str | None, bool | None]:
    """Commit and dirty flag of this package's own checkout; (None, None) for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10
        )
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=root, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    if head.returncode:
        return None, None
    return head.stdout.strip(), bool(status.stdout.strip())

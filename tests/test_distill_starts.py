"""Where a student comes from: an architecture, a checkpoint, or some layers of one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
import transformers
from distill_traces import episode, recipe, record
from distill_training import CONTRASTIVE, column, log, paired, train
from harness_distillation import checkpoint, cli, models, tokenizer
from harness_distillation import recipe as recipes

from harness.errors import ConfigError, DataError

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 60)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    return train(tmp_path_factory.mktemp("teacher"), run, steps=30, name="teacher")


def test_an_opt_student_trains_and_loads(tmp_path, run):
    path = recipe(tmp_path, steps=12)
    path.write_text(path.read_text().replace("[student]", "[student]\narch = 'opt'"))
    out = tmp_path / "opt"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    assert models.load(out).config.model_type == "opt"
    assert column(out, "loss")[-1] < 0.9 * column(out, "loss")[0]


@pytest.mark.parametrize("arch", ["gpt2", "opt", "llama"])
def test_a_window_may_be_shorter_than_the_padding_of_a_row(tmp_path, arch):
    """Of rows that train, are held out, or hold pairs: no padding at a position that none has."""
    run = paired(tmp_path / "run" / "episodes.jsonl", 60)
    path = recipe(tmp_path, CONTRASTIVE, steps=2)
    text = path.read_text().replace("[student]", f"[student]\narch = '{arch}'")
    text = text.replace("window = 512", "window = 160")
    path.write_text("max_new_tokens = 40\n" + text.replace("heldout = 0.1", "heldout = 0.4"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    assert log(out)[-1]["heldout"]


def test_a_student_can_start_from_some_layers(tmp_path, run, teacher):
    student = recipes.Student(start=str(teacher), start_layers=(1,), window=512)
    small = models.build(student, tokenizer.load(teacher), 0)
    big, mine = models.load(teacher).state_dict(), small.state_dict()
    assert small.config.num_hidden_layers == 1
    assert not any("layers.1." in name for name in mine)
    for name, value in mine.items():
        assert torch.equal(value, big[name.replace("layers.0.", "layers.1.")])
    path = recipe(tmp_path, steps=2, student=f"start = '{teacher}'\nstart_layers = [1]")
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    assert models.load(out).config.num_hidden_layers == 1
    with pytest.raises(ConfigError, match=r"layers 0\.\.1"):
        models.build(
            msgspec.structs.replace(student, start_layers=(5,)), tokenizer.load(teacher), 0
        )


@pytest.mark.parametrize("arch", ["gpt2", "opt"])
def test_layers_of_every_architecture(tmp_path, teacher, arch):
    tok = tokenizer.load(teacher)
    whole = models.build(
        recipes.Student(arch=arch, layers=3, hidden=32, heads=2, window=64), tok, 1
    )
    checkpoint.write_model(tmp_path / "start", whole, tok, {})
    student = recipes.Student(start=str(tmp_path / "start"), start_layers=(2, 0), window=64)
    small = models.build(student, tok, 0)
    layers = {"gpt2": "transformer.h", "opt": "model.decoder.layers"}[arch]
    big = whole.state_dict()
    for name, value in small.state_dict().items():
        for mine, theirs in ((0, 2), (1, 0)):
            if name.startswith(f"{layers}.{mine}."):
                assert torch.equal(value, big[name.replace(f".{mine}.", f".{theirs}.", 1)])
    assert small.config.num_hidden_layers == 2
    assert models.check_isolation(small) < 1e-4
    with pytest.raises(ConfigError, match="over the 64 positions"):
        models.build(msgspec.structs.replace(student, window=128), tok, 0)


@pytest.mark.parametrize(("name", "told"), [
    ("Qwen2Config", {"layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
                     "use_sliding_window": True, "sliding_window": 64}),
    ("SmolLM3Config", {"no_rope_layers": [1, 0, 1, 0]}),
])  # fmt: skip
def test_what_a_config_tells_by_layers_is_cut_with_them(tmp_path, teacher, name, told):
    """Else the student's first checkpoint could not be written, or its layers were others."""
    tok = tokenizer.load(teacher)
    config = getattr(transformers, name)(
        vocab_size=models.padded_vocab(len(tok)), hidden_size=32, intermediate_size=48,
        num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=2, bos_token_id=None,
        eos_token_id=[tok.eos_token_id] * 4, pad_token_id=tok.pad_token_id, **told,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    checkpoint.write_model(tmp_path / "start", whole, tok, {})
    tok = tokenizer.load(tmp_path / "start")  # as its architecture reads it
    student = recipes.Student(start=str(tmp_path / "start"), start_layers=(0, 3), window=64)
    small = models.build(student, tok, 0)
    checkpoint.write_model(tmp_path / "small", small, tok, {})
    kept = models.load(tmp_path / "small")
    assert models.weights_hash(kept) == models.weights_hash(small)
    for key, value in told.items():
        found = getattr(kept.config, key)
        assert found == ([value[0], value[3]] if isinstance(value, list) else value)
    assert len(kept.config.eos_token_id) == 4


def test_rows_that_pad_a_grown_table_are_the_same_each_time(tmp_path):
    episodes = [episode(i) for i in range(60)]
    old = tokenizer.train(episodes, "Task: {instruction}\n", 300)
    student = recipes.Student(layers=1, hidden=32, heads=2, window=64)
    checkpoint.write_model(tmp_path, models.build(student, old, 0), old, {})
    new = tokenizer.extend(tokenizer.load(tmp_path), episodes, "Task: {instruction}\n", 330)
    assert models.padded_vocab(len(old)) < len(new) < models.padded_vocab(len(new))
    student = recipes.Student(start=str(tmp_path), window=64)
    assert len({models.weights_hash(models.build(student, new, 0)) for _ in range(3)}) == 1


def test_a_start_learns_new_words(tmp_path, run, teacher):
    """What it knew is as it was; a new word begins as the mean of its pieces."""
    path = recipe(tmp_path, steps=2, student=f"start = '{teacher}'")
    path.write_text(path.read_text().replace("[tokenizer]", f"[tokenizer]\nextend = '{teacher}'"))
    shop = tmp_path / "shop" / "episodes.jsonl"
    shop.parent.mkdir()
    shop.write_bytes(run.read_bytes().replace(b"mug", b"lavender"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(shop), "--out", str(out), "--quiet"]) == 0
    old, new = tokenizer.load(teacher), tokenizer.load(out)
    assert new.tokenize(" lavender") == ["Ġlavender"]
    assert models.load(out).config.vocab_size == models.padded_vocab(len(new))
    student = recipes.load(str(path)).student
    start, grown = models.load(teacher), models.build(student, new, 0)
    ids = torch.tensor([old.encode("You see a mug 1.", add_special_tokens=False)])
    assert torch.equal(grown(ids).logits[..., : len(old)], start(ids).logits[..., : len(old)])
    table = grown.get_input_embeddings().weight
    word = max(new.get_vocab().items(), key=lambda item: item[1])
    pieces = [p.id for p in old.backend_tokenizer.model.tokenize(word[0])]
    assert len(pieces) > 1
    assert torch.equal(table[word[1]], table[pieces].mean(0))
    other = tokenizer.train([episode(i) for i in range(5)], "Goal: {instruction}\n", 300)
    with pytest.raises(ConfigError, match="nor an extension"):
        models.build(student, other, 0)
    longer = msgspec.structs.replace(student, window=4096)
    assert models.build(longer, new, 0).config.max_position_embeddings == 4096


def test_a_start_takes_the_recipes_dropout(teacher):
    student = recipes.Student(start=str(teacher), window=512, dropout=0.25)
    assert models.build(student, tokenizer.load(teacher), 0).config.attention_dropout == 0.25


def test_a_hub_model_that_cannot_be_had_is_named():
    with pytest.raises(DataError, match="'hub:not a name' cannot be had"):
        models.load("hub:not a name")

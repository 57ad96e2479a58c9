"""Arms trained end to end on a small household: what must be equal is, what must differ does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import transformers
from distill_traces import episode, recipe, record
from harness_distillation import checkpoint, cli, contrast, models, teacher_cache, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler
from harness_distillation.dataset import Samples, make_row
from harness_distillation.train import micro_batches

from harness.errors import ConfigError, DataError

pytestmark = pytest.mark.models
STEPS = 4


def log(out: Path) -> list[dict]:
    lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [msgspec.json.decode(line) for line in lines]


def column(out: Path, name: str) -> list[float]:
    return [line[name] for line in log(out)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 60)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    return train(tmp_path_factory.mktemp("teacher"), run, steps=30, name="teacher")


def train(
    folder: Path,
    run: Path,
    more: str = "",
    *,
    steps: int = STEPS,
    name: str = "out",
    optim: str = "",
) -> Path:
    """Train by the tiny recipe in fp32, ``more`` tables appended; the student's folder."""
    path = recipe(folder, more, steps=steps)
    path.write_text(path.read_text().replace("[optim]", f"[optim]\nprecision = 'fp32'\n{optim}"))
    out = folder / name
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    return out


def of(teacher: Path, objective: str, signal: str = "cache") -> str:
    return (
        f"[objective]\n{objective}\n[teacher]\ncheckpoint = '{teacher}'\n"
        f"signal = '{signal}'\nmin_mass = 0.3\n"
    )


def test_the_heldout_loss_is_a_mean_over_the_targets_of_heldout_episodes(teacher):
    """Each by itself, from the logits of all its tokens: no row that trains, no padding."""
    told = log(teacher)[-1]["heldout"]
    model = models.load(checkpoint.latest(teacher / "training" / "checkpoints")).float().eval()
    model.set_attn_implementation("sdpa")
    data = teacher / "training" / "data"
    samples = Samples.load(data / "samples.npz")
    heldout = msgspec.json.decode((data / "manifest.json").read_bytes())["heldout"]
    chosen = np.flatnonzero(np.isin(samples.episode, heldout))
    assert 0 < len(chosen) < len(samples.lengths)
    losses: dict[int, list[float]] = {1: [], 2: []}
    for s in chosen:
        ids = torch.from_numpy(samples.ids[samples.part(s)].astype(np.int64))
        labels = tokenizer.class_of("span")[samples.kinds[samples.part(s)]]
        with torch.no_grad():
            log_p = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
        for t in np.flatnonzero(labels):
            losses[int(labels[t])].append(-float(log_p[t - 1, ids[t]]))
    assert told == pytest.approx(
        {"reason": np.mean(losses[1]), "act": np.mean(losses[2])}, rel=1e-4
    )


@pytest.mark.parametrize("normalizer", ["sum", "class"])
def test_shuffled_labels_under_sum_are_ours(tmp_path, run, teacher, normalizer):
    """DISTILL.md, point 1: with sums and equal weights, labels inside r and a decide nothing."""
    same = f"normalizer = '{normalizer}'"
    ours = train(tmp_path, run, of(teacher, f"name = 'ours'\n{same}"), name="ours")
    mixed = train(tmp_path, run, of(teacher, f"name = 'label_shuffle'\n{same}"), name="mixed")
    assert column(ours, "n_reason") == column(mixed, "n_reason")
    assert column(ours, "reason") != pytest.approx(column(mixed, "reason"), rel=1e-4)
    equal = column(ours, "loss") == pytest.approx(column(mixed, "loss"), rel=1e-5)
    assert equal == (normalizer == "sum")
    a, b = (models.load(out).state_dict() for out in (ours, mixed))
    gap = max(float((a[k] - b[k]).abs().max()) for k in a)
    assert (gap < 1e-4) == (normalizer == "sum")
    assert log(ours)[-1]["heldout"].keys() == log(mixed)[-1]["heldout"].keys()


def test_flat_ignores_where_the_format_belongs(tmp_path, run, teacher):
    """Under flat weights ``no_segmentation`` is ``token`` whether or not the format is shared."""
    spans = train(tmp_path, run, of(teacher, "name = 'token'"), name="a")
    shared = train(
        tmp_path, run, of(teacher, "name = 'no_segmentation'\nformat = 'shared'"), name="b"
    )
    assert column(spans, "loss") == pytest.approx(column(shared, "loss"), rel=1e-5)
    # N_r : N_a is of the classes that the loss has.
    kinds = msgspec.json.decode((shared / "training" / "data" / "manifest.json").read_bytes())[
        "kinds"
    ]
    told = [msgspec.json.decode((out / "harness.json").read_bytes()) for out in (spans, shared)]
    with_format = [kinds[name] + kinds[f"{name}_format"] for name in ("reason", "act")]
    assert told[0]["reason_to_act"] == pytest.approx(with_format[0] / with_format[1])
    assert told[1]["reason_to_act"] == pytest.approx(kinds["reason"] / kinds["act"])
    assert "n_format" in log(shared)[0]


def test_only_one_class_leaves_the_other_alone(tmp_path, run, teacher):
    for name, silent in (("only_reason", "act"), ("only_act", "reason")):
        out = train(tmp_path, run, of(teacher, f"name = '{name}'"), name=name)
        line = log(out)[0]
        other = "act" if silent == "reason" else "reason"
        assert line["loss"] == pytest.approx(line[other] + line["format"], rel=1e-6)
        assert line[f"n_{silent}"] > 0


def test_random_spans_are_cached_and_trained_where_they_lie(tmp_path, run, teacher):
    same = "format = 'shared'\ncurriculum = 'random'"
    ours = train(tmp_path, run, of(teacher, f"name = 'sad'\n{same}"), name="ours")
    out = train(tmp_path, run, of(teacher, f"name = 'random_span'\n{same}"))
    for column_ in ("n_reason", "n_act", "n_format", "tokens"):
        assert column(out, column_) == column(ours, column_)
    assert column(out, "reason")[0] != pytest.approx(column(ours, "reason")[0], rel=1e-3)
    a, b = (Samples.load(x / "training" / "data" / "samples.npz") for x in (ours, out))
    manifest = msgspec.json.decode((out / "training" / "data" / "manifest.json").read_bytes())
    held = np.isin(a.episode, manifest["heldout"])
    for s in range(len(a.lengths)):
        assert np.array_equal(a.kinds[a.part(s)], b.kinds[b.part(s)]) == bool(held[s])


def test_observations_need_a_teacher_that_learned_them(tmp_path, run, teacher):
    with pytest.raises(ConfigError, match="not trained on observations"):
        train(tmp_path, run, of(teacher, "name = 'kd_all'"))
    knowing = train(
        tmp_path, run, "[objective]\nname = 'sft'\nobs_weight = 1.0\n", steps=10, name="knowing"
    )
    assert models.knows_observations(str(knowing))
    out = train(tmp_path, run, of(knowing, "name = 'kd_all'"), name="all")
    line = log(out)[0]
    n = {c: line[f"n_{c}"] for c in ("reason", "act", "observation")}
    assert n["observation"] > n["act"]
    flat = sum(line[c] * n[c] for c in n) / sum(n.values())
    assert line["loss"] == pytest.approx(flat, rel=1e-9)


@pytest.mark.parametrize("divergence", ["ce_soft", "reverse_kl", "jsd", "skew_kl"])
def test_every_divergence_trains_and_cached_equals_live(tmp_path, run, teacher, divergence):
    losses = []
    for signal in ("cache", "live"):
        more = of(teacher, f"name = 'kd'\ndivergence = '{divergence}'", signal) + "top_k = 400\n"
        losses.append(column(train(tmp_path, run, more, name=signal), "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@pytest.mark.parametrize("signal", ["cache", "live"])
def test_temperature_reaches_the_loss(tmp_path, run, teacher, signal):
    losses = []
    for t in (1.0, 2.0):
        more = of(teacher, f"name = 'kd'\ntemperature = {t}", signal) + "top_k = 400\n"
        losses.append(column(train(tmp_path, run, more, steps=1, name=f"t{t}"), "loss")[0])
    assert losses[0] != pytest.approx(losses[1], rel=0.01)


def test_cached_distributions_belong_to_their_tokens(tmp_path, run, teacher):
    """In whatever order samples come: what a row compares with is the teacher on those tokens."""
    out = train(tmp_path, run, of(teacher, "name = 'sad'"), steps=1)
    place = out / "training"
    samples = Samples.load(place / "data" / "samples.npz")
    key = msgspec.json.decode((place / "cache" / "manifest.json").read_bytes())["key"]
    cache = teacher_cache.load(
        place / "cache", msgspec.convert(key, teacher_cache.Key), min_mass=0.0
    )
    model = models.load(teacher)
    body, head = models.body_and_head(model)
    models.check_isolation(model)
    chosen = np.arange(len(samples.lengths))
    for schedule in ("random", "sorted", "reverse", "pacing"):
        sampler = Sampler(
            samples, chosen, recipes.Objective(curriculum=schedule), 3,
            rows=1, row_tokens=1024, steps=9, entropy=cache.entropy,
        )  # fmt: skip
        row = make_row(samples, sampler.rows(2)[0], tokenizer.class_of("none"), 1024, 0)
        with torch.no_grad():
            hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
            entries = len(tokenizer.load(teacher))
            log_p = head(hidden[0, row.at])[:, :entries].log_softmax(-1)
        picked = cache.pick(row.cached)
        assert float((log_p.gather(-1, picked.ids) - picked.logp).abs().max()) < 0.02
        mine = log_p.gather(-1, row.targets[:, None])[:, 0]
        assert float((mine - torch.from_numpy(cache.target[row.cached])).abs().max()) < 1e-4


@pytest.mark.parametrize("normalizer", ["class", "episode", "span"])
def test_micro_batches_change_nothing(tmp_path, run, teacher, normalizer):
    more = of(teacher, f"name = 'sad'\nnormalizer = '{normalizer}'")
    whole = train(tmp_path, run, more, name="a", optim="micro_rows = 2")
    split = train(tmp_path, run, more, name="b", optim="micro_rows = 1")
    for name in ("loss", "grad_norm"):
        assert column(whole, name) == pytest.approx(column(split, name), rel=1e-5)
    for name in ("tokens", "n_reason", "n_act"):
        assert column(whole, name) == column(split, name)


def test_ranks_share_out_every_row_once():
    from harness_distillation.ranks import Ranks

    rows = [[i, 10 + i] for i in range(8)]
    for size in (1, 2, 4):
        parts = [micro_batches(rows, 2, Ranks(r, size)) for r in range(size)]
        assert sorted(s for part in parts for micro in part for s in micro) == sorted(
            s for row in rows for s in row
        )
        assert {len(part) for part in parts} == {4 // size}


def test_two_ranks_take_one_processes_steps(tmp_path, teacher):
    """Under torchrun with gloo: same losses, gradients and weights, one log, one checkpoint."""
    more = of(teacher, "name = 'sad'\nnormalizer = 'episode'\ncontrastive = 0.3")
    mixed = with_losses(tmp_path / "mixed" / "episodes.jsonl")
    one = train(tmp_path, mixed, more, name="one")
    two = tmp_path / "two"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
        "-m", "harness", "distill", str(tmp_path / "tiny.toml"), "--data", str(mixed),
        "--out", str(two), "--quiet",
    ]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert [line["step"] for line in log(two)] == [line["step"] for line in log(one)]
    for name in ("loss", "grad_norm", "reason", "act", "contrastive", "margin"):
        assert column(two, name) == pytest.approx(column(one, name), rel=1e-6, abs=1e-7)
    for name in ("tokens", "n_reason", "n_act", "n_pairs"):
        assert column(two, name) == column(one, name)
    a, b = (models.load(out).state_dict() for out in (one, two))
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    assert len(checkpoint.complete(two / "training" / "checkpoints")) == 2


@pytest.mark.parametrize(("arm", "weight"), [
    ("label_shuffle", 0.0), ("random_span", 0.0), ("ours", 0.3),
])  # fmt: skip
def test_arms_resume_exactly(tmp_path, teacher, arm, weight):
    """Stopped after every step and gone on from the checkpoint: the same losses, bit for bit."""
    mixed = with_losses(tmp_path / "mixed" / "episodes.jsonl")
    more = of(teacher, f"name = '{arm}'\nnormalizer = 'episode'\ncontrastive = {weight}")
    whole = train(tmp_path, mixed, more, name="whole")
    for _ in range(STEPS):
        broken = train(tmp_path, mixed, more, name="broken", optim="max_minutes = 0")
    for name in ("step", "loss", "reason", "act", "grad_norm", "tokens"):
        assert column(broken, name) == column(whole, name)
    if weight:
        assert column(broken, "contrastive") == column(whole, "contrastive")


def test_equal_vocabulary_sizes_do_not_make_one_tokenizer(tmp_path, run, teacher):
    other = tmp_path / "other"
    shutil.copytree(teacher, other, ignore=shutil.ignore_patterns("training"))
    path = other / "tokenizer.json"
    raw = msgspec.json.decode(path.read_bytes())
    vocab = raw["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_bytes(msgspec.json.encode(raw))
    assert len(tokenizer.load(other)) == len(tokenizer.load(teacher))
    more = of(teacher, "name = 'kd'") + f"[tokenizer]\nstart = '{other}'\n"
    path = recipe(tmp_path, more, steps=1)
    path.write_text(path.read_text().replace("[tokenizer]\nvocab = 400\n", ""))
    with pytest.raises(ConfigError, match="another tokenizer"):
        cli.main([str(path), "--data", str(run), "--out", str(tmp_path / "out"), "--quiet"])


def test_more_ranks_than_rows_are_refused(tmp_path, run):
    from harness_distillation.ranks import Ranks
    from harness_distillation.train import Corpus
    from harness_distillation.train import train as loop

    nothing = np.zeros(0, dtype=np.int64)
    with pytest.raises(ConfigError, match="cannot be shared out to 3 ranks"):
        loop(
            recipes.load(str(recipe(tmp_path))), "h", Corpus(None, nothing, nothing, "h"), None,
            tmp_path, {}, ranks=Ranks(0, 3),
        )  # fmt: skip


# The contrastive term -------------------------------------------------------------------------


def with_losses(path: Path) -> Path:
    """Every third task also has an episode that was lost on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(60):
        won = episode(i)
        lines.append(msgspec.json.encode(won) + b"\n")
        if i % 3 == 0:
            lost = msgspec.structs.replace(
                episode(i + 1000), task=won.task, success=False, score=0.0, attempt=1
            )
            lines.append(msgspec.json.encode(lost) + b"\n")
    path.write_bytes(b"".join(lines))
    return path


def test_pairs_are_of_one_task():
    episodes = [msgspec.json.decode(x, type=type(episode(0))) for x in _lines(20)]
    pairs = contrast.pair_up(episodes)
    assert len(pairs) == 2 * sum(not e.success for e in episodes)
    for won, lost in zip(pairs[::2], pairs[1::2], strict=True):
        assert (won.success, lost.success) == (True, False)
        assert won.task == lost.task
    assert contrast.pair_up([e for e in episodes if e.success]) == []


def test_wins_of_a_task_are_taken_in_turn():
    """However many, no win is left out while another stands in two pairs."""
    task = episode(0).task
    wins, losses = (
        [msgspec.structs.replace(episode(first + i), task=task, success=first == 0, attempt=i)
         for i in range(4)]
        for first in (0, 100)
    )  # fmt: skip
    for n in range(1, 5):
        used = contrast.pair_up([*wins[:n], *losses])[::2]
        assert [used.count(won) for won in wins[:n]] == [(4 + n - 1 - i) // n for i in range(n)]


def _lines(count: int) -> list[bytes]:
    out = []
    for i in range(count):
        won = episode(i)
        out.append(msgspec.json.encode(won))
        if i % 3 == 0:
            out.append(msgspec.json.encode(msgspec.structs.replace(won, success=False)))
    return out


def test_preference_equals_the_reference():
    g = torch.Generator().manual_seed(0)
    n, pairs, beta = 60, 5, 1.7
    ratio = torch.randn(n, generator=g, dtype=torch.float64).requires_grad_()
    labels = torch.randint(1, 3, (n,), generator=g)
    side = torch.randint(0, 2 * pairs, (n,), generator=g)
    labels[side == 4] = 1  # the won episode of pair 2 never acts
    total, margins = torch.zeros((), dtype=torch.float64), []
    for c in (1, 2):
        terms = []
        for p in range(pairs):
            won, lost = (ratio[(side == 2 * p + s) & (labels == c)] for s in (0, 1))
            if len(won) and len(lost):
                margins.append(beta * (won.mean() - lost.mean()))
                terms.append(-torch.log(torch.sigmoid(margins[-1])))
        total = total + sum(terms) / len(terms)
    got = contrast.preference(ratio, labels, side, [1, 2], beta)
    assert got.value == pytest.approx(float(total.detach()), abs=1e-12)
    assert got.margin == pytest.approx(float(torch.stack(margins).detach().mean()), abs=1e-12)
    assert got.pairs == pairs
    a, b = (torch.autograd.grad(x, ratio)[0] for x in (got.loss, total))
    assert float((a - b).abs().max()) < 1e-12
    nothing = torch.zeros(0, requires_grad=True)
    none = torch.zeros(0, dtype=torch.int64)
    empty = contrast.preference(nothing, none, none, [1, 2], beta)
    torch.autograd.backward(empty.loss)
    assert (empty.value, empty.pairs) == (0.0, 0)


def test_pairs_that_fit_no_row_are_told(tmp_path, capsys):
    run = tmp_path / "run" / "episodes.jsonl"
    run.parent.mkdir()
    lines = []
    for i in range(12):
        won, lost = episode(i, steps=3), episode(i + 900, steps=3 if i < 4 else 30)
        lost = msgspec.structs.replace(lost, task=won.task, success=False, score=0.0, attempt=1)
        lines += [msgspec.json.encode(e) + b"\n" for e in (won, lost)]
    run.write_bytes(b"".join(lines))
    path = recipe(tmp_path, "[objective]\nname = 'sft'\ncontrastive = 0.3\n", steps=1)
    text = path.read_text().replace("row_tokens = 1024", "row_tokens = 512")
    path.write_text(text.replace("heldout = 0.1", "heldout = 0.0"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out)]) == 0
    told = "4 of 12 pairs of a won and a lost episode are read; note: the others do not fit a row"
    assert told in capsys.readouterr().err
    assert checkpoint.read_notes(out)["pairs"] == 4


def test_the_contrastive_term_prefers_what_won(tmp_path):
    mixed = with_losses(tmp_path / "mixed" / "episodes.jsonl")
    more = "[objective]\nname = 'sft'\ncontrastive = {}\n"
    out = train(tmp_path, mixed, more.format(2.0), steps=20)
    lines = log(out)
    assert lines[0]["contrastive"] == pytest.approx(2 * np.log(2), rel=1e-4)
    assert lines[0]["margin"] == pytest.approx(0.0, abs=1e-4)
    assert np.mean(column(out, "margin")[-5:]) > 0.05
    assert lines[0]["n_pairs"] >= 2
    one = lines[3]
    n = one["n_reason"] + one["n_act"]
    flat = (one["reason"] * one["n_reason"] + one["act"] * one["n_act"]) / n
    assert one["loss"] == pytest.approx(flat + 2.0 * one["contrastive"], rel=1e-9)
    wins = record(tmp_path / "wins" / "episodes.jsonl", 20)
    with pytest.raises((ConfigError, DataError), match="won and lost"):
        train(tmp_path, wins, more.format(0.3), name="none")


def test_beta_scales_the_margin(tmp_path):
    """Of a term that weighs next to nothing, so that the students take the same step."""
    mixed = with_losses(tmp_path / "mixed" / "episodes.jsonl")
    more = "[objective]\nname = 'sft'\ncontrastive = 1e-9\ncontrastive_beta = {}\n"
    one, two = (
        column(train(tmp_path, mixed, more.format(b), steps=2, name=b), "margin")[1]
        for b in ("1.0", "2.0")
    )
    assert abs(one) > 1e-4
    assert two == pytest.approx(2 * one, rel=1e-3)


@pytest.mark.parametrize("data", ["samples = 'step'", "paper_truncate = 64"])
def test_pairs_are_cut_as_samples_are(tmp_path, data):
    """What no sample reads is preferred by no pair: by episode, the taught tokens are those that
    are taught of it as a sample."""
    mixed = with_losses(tmp_path / "mixed" / "episodes.jsonl")
    objective = "[objective]\nname = 'sft'\ncontrastive = 0.3\n"
    path = recipe(tmp_path, objective)
    text = path.read_text().replace("[data]", f"[data]\nsuccesses_only = false\n{data}")
    path.write_text(text.replace("heldout = 0.1", "heldout = 0.0"))
    out = tmp_path / "out"
    args = [str(path), "--data", str(mixed), "--out", str(out), "--quiet", "--stage", "prepare"]
    assert cli.main(args) == 0
    samples, pairs = (
        Samples.load(out / "training" / "data" / f"{name}.npz") for name in ("samples", "pairs")
    )

    def taught(found: Samples) -> set[bytes]:
        every = found.kinds > 0
        owner = np.repeat(found.episode, found.lengths)
        return {found.ids[every & (owner == e)].tobytes() for e in set(found.episode.tolist())}

    assert len(taught(pairs)) > 30
    assert taught(pairs) <= taught(samples)
    if "truncate" in data:
        assert int(pairs.lengths.max()) == int(samples.lengths.max()) == 64


@pytest.mark.parametrize("masks", ["random_span", "label_shuffle"])
def test_masks_that_pairs_do_not_have_are_refused(tmp_path, masks):
    more = f"[objective]\nname = 'sft'\ncontrastive = {{}}\nmasks = '{masks}'\n"
    with pytest.raises(ConfigError, match=f'masks "{masks}" .* by their true ones'):
        recipes.load(str(recipe(tmp_path, more.format(0.3))))
    recipes.load(str(recipe(tmp_path, more.format(0.0))))


# Where a student comes from -------------------------------------------------------------------


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
    run = with_losses(tmp_path / "run" / "episodes.jsonl")
    path = recipe(tmp_path, "[objective]\nname = 'sft'\ncontrastive = 0.3\n", steps=2)
    text = path.read_text().replace("[student]", f"[student]\narch = '{arch}'")
    text = text.replace("window = 512", "window = 160").replace("[tokenizer]\n", "[tokenizer]\n")
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


@pytest.mark.parametrize("data", ["samples = 'step'", "paper_truncate = 128"])
def test_other_samples_train(tmp_path, run, teacher, data):
    path = recipe(tmp_path, of(teacher, "name = 'sad'"), steps=2)
    path.write_text(path.read_text().replace("[data]", f"[data]\n{data}"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    samples = Samples.load(out / "training" / "data" / "samples.npz")
    if "step" in data:
        assert len(samples.lengths) > 2 * len(set(samples.episode.tolist()))
    else:
        assert int(samples.lengths.max()) <= 128

"""The contrastive term: which episodes make a pair, what the term is, what it does to a student."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode, recipe, record
from distill_training import CONTRASTIVE, column, log, paired, train
from harness_distillation import checkpoint, cli, contrast
from harness_distillation import recipe as recipes
from harness_distillation.dataset import Samples

from harness.errors import ConfigError, DataError
from harness.types import Outcome

pytestmark = pytest.mark.models


def test_pairs_are_of_one_task():
    episodes = [msgspec.json.decode(x, type=type(episode(0))) for x in _lines(20)]
    pairs = contrast.pair_up(episodes)
    assert len(pairs) == 2 * sum(not e.success for e in episodes)
    for won, lost in zip(pairs[::2], pairs[1::2], strict=True):
        assert (won.success, lost.success) == (True, False)
        assert won.task == lost.task
    assert contrast.pair_up([e for e in episodes if e.success]) == []
    untold = [
        e if e.success else msgspec.structs.replace(e, outcome=Outcome.UNTOLD) for e in episodes
    ]
    assert contrast.pair_up(untold) == []


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
    path = recipe(tmp_path, CONTRASTIVE, steps=1)
    text = path.read_text().replace("row_tokens = 1024", "row_tokens = 512")
    path.write_text(text.replace("heldout = 0.1", "heldout = 0.0"))
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out)]) == 0
    told = "4 of 12 pairs of a won and a lost episode are read; note: the others do not fit a row"
    assert told in capsys.readouterr().err
    assert checkpoint.read_notes(out)["pairs"] == 4


def test_the_contrastive_term_prefers_what_won(tmp_path):
    mixed = paired(tmp_path / "mixed" / "episodes.jsonl", 60)
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
    mixed = paired(tmp_path / "mixed" / "episodes.jsonl", 60)
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
    mixed = paired(tmp_path / "mixed" / "episodes.jsonl", 60)
    objective = CONTRASTIVE
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

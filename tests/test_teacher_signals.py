"""Gradients from a teacher, cached or live, against plain fp64 references; models of other sizes
than their tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

import torch
import torch.nn.functional as F
from distill_traces import recipe, record
from harness_distillation import checkpoint, cli, models, tokenizer
from harness_distillation.losses import (
    Live,
    Target,
    class_weights,
    divergence,
    log_likelihood,
    measure_of,
    span_loss,
)
from harness_distillation.recipe import Student
from loss_reference import (
    ALPHA,
    BETA,
    KINDS,
    LAMBDAS,
    NORMALIZERS,
    Case,
    S,
    discrepancy,
    reference,
    shared,
)

pytestmark = pytest.mark.models
K = 6


def gradients(case, kind, normalizer, signal, dtype, temperature=1.0):
    """Of the hidden states and of the head, in ``dtype``."""
    u, counts = shared(case, normalizer, LAMBDAS)
    hidden = case.hidden.to(dtype).requires_grad_()
    head = case.head.to(dtype)
    parts = span_loss(
        hidden, head, case.targets, case.labels, class_weights(counts, LAMBDAS, normalizer), signal,
        measure=measure_of(kind, beta=BETA, alpha=ALPHA), temperature=temperature, shares=u,
        chunk=11,
    )  # fmt: skip
    return torch.autograd.grad(parts.loss, (hidden, head.weight))


def exact(case, kind, normalizer, cached, temperature=1.0):
    hidden = case.hidden.clone().requires_grad_()
    weight = case.head.weight.detach().double().requires_grad_()
    loss = reference(case, hidden, weight, kind, LAMBDAS, normalizer, temperature, cached)
    return torch.autograd.grad(loss, (hidden, weight))


def off(got, wanted) -> float:
    """Length of the difference, as a share of the right one's."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_references(kind, normalizer):
    """Over the top k of a cache in fp16 and one outcome for the rest, over all of a live teacher's,
    from the text: exact in fp64, within 1e-6 in fp32. What a cache holds is given to both sides."""
    case = Case(1)
    signals = [None] if kind == "ce" else [case.live(), case.rounded(K), case.rounded(1)]
    for signal in signals:
        cached = None if isinstance(signal, Live | None) else signal
        wanted = exact(case, kind, normalizer, cached)
        assert off(gradients(case, kind, normalizer, signal, torch.float64), wanted) < 1e-12
        assert off(gradients(case, kind, normalizer, signal, torch.float32), wanted) < 1e-6


@pytest.mark.parametrize("kind", KINDS[1:])
def test_at_another_temperature_the_rest_is_an_outcome_too(kind):
    """Softened as the student is, so that what a student gives to none of the teacher's top k is
    trained."""
    case = Case(2)
    cached = case.rounded(K, 2.0)
    p = torch.softmax(case.teacher / 2, -1)
    at_the_top = p.gather(-1, cached.ids).sum(-1)
    assert float((cached.logp.double().exp().sum(-1) - at_the_top).abs().max()) < 1e-3
    assert float((cached.tail.double().exp() + at_the_top - 1).abs().max()) < 1e-6
    wanted = exact(case, kind, "class", cached, 2.0)
    assert off(gradients(case, kind, "class", cached, torch.float64, 2.0), wanted) < 1e-12
    measure = measure_of(kind, beta=BETA, alpha=ALPHA)
    logits = case.head(case.hidden).detach().requires_grad_()
    bound = divergence(logits, case.targets, cached, 2.0, measure)
    pull = torch.autograd.grad(bound.sum(), logits)[0]
    assert float(pull.scatter(-1, cached.ids, 0.0).abs().sum(-1).min()) > 0


def test_log_likelihood_is_the_same_in_chunks():
    case = Case(3)
    weight = case.head.weight
    wanted = F.log_softmax(case.hidden @ weight.T, -1)[torch.arange(S), case.targets]
    pull = torch.randn(S, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grads = []
    for chunk in (5, S, 1000):
        hidden = case.hidden.clone().requires_grad_()
        found = log_likelihood(hidden, case.head, case.targets, chunk)
        assert float((found - wanted).detach().abs().max()) < 1e-12
        grads.append(torch.autograd.grad((found * pull).sum(), (hidden, weight)))
    hidden = case.hidden.clone().requires_grad_()
    log_p = F.log_softmax(hidden @ weight.T, -1)[torch.arange(S), case.targets]
    plain = torch.autograd.grad((log_p * pull).sum(), (hidden, weight))
    for found in grads:
        assert off(found, plain) < 1e-12


# Models with more rows than the tokenizer has entries ------------------------------------------

#: Entries of the tokenizer; logits of a student and of a teacher.
ENTRIES = 19


@pytest.mark.parametrize(("of_student", "of_teacher"), [(19, 27), (27, 19), (23, 27), (27, 23)])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_logits_of_no_token_take_no_part(kind, of_student, of_teacher):
    """Both are compared over the entries. What a student gives beyond them would be sampled in
    play, so it pays for it what cross-entropy would. Value and gradient in fp64."""
    g = torch.Generator().manual_seed(4)
    logits = torch.randn(S, of_student, generator=g, dtype=torch.float64).requires_grad_()
    theirs = torch.randn(S, of_teacher, generator=g, dtype=torch.float64) * 3
    targets = torch.randint(0, ENTRIES, (S,), generator=g)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(S):
        q = torch.softmax(logits[t], 0)
        inside = q[:ENTRIES].sum()
        p = torch.softmax(theirs[t, :ENTRIES], 0)
        total = total + discrepancy(kind, p, q[:ENTRIES] / inside, targets[t]) - torch.log(inside)
    wanted = torch.autograd.grad(total, logits)
    live = Live(theirs, torch.nn.Identity())
    log_p = theirs[:, :ENTRIES].log_softmax(-1)
    every = Target(torch.arange(ENTRIES).expand(S, -1), log_p, torch.full((S,), -torch.inf))
    few = Target(torch.arange(3).expand(S, -1), log_p[:, :3], log_p[:, 3:].logsumexp(-1))
    for signal in (live, every, few):
        parts = span_loss(
            logits, torch.nn.Identity(), targets, torch.ones_like(targets),
            class_weights(torch.tensor([0, S]), {"reason": 1.0}, "sum"), signal,
            measure=measure_of(kind, beta=BETA, alpha=ALPHA), entries=ENTRIES, chunk=10,
        )  # fmt: skip
        got = torch.autograd.grad(parts.loss, logits)
        if signal is few:
            assert float(parts.loss.detach()) < float(total.detach())
        else:
            assert abs(float((parts.loss - total).detach())) < 1e-9
            assert off(got, wanted) < 1e-9
        assert bool((got[0][:, ENTRIES:] > 0).all())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 30)


@pytest.fixture(scope="module")
def padded(tmp_path_factory, run) -> Path:
    """A teacher of 355 entries and 368 logits."""
    folder = tmp_path_factory.mktemp("teacher")
    path = recipe(folder, steps=10)
    path.write_text(path.read_text().replace("vocab = 400", "vocab = 355"))
    out = folder / "teacher"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    return out


def exact_rows(folder: Path, padded: Path) -> Path:
    """A model of as many logits as the tokenizer has entries, as the hub's GPT-2."""
    tok = tokenizer.load(padded)
    model = models.build(Student(layers=1, hidden=32, heads=2, window=512), tok, 3)
    model.resize_token_embeddings(len(tok), mean_resizing=False)
    checkpoint.write_model(folder, model, tok, {})
    return folder


@pytest.mark.parametrize("larger", ["teacher", "student"])
def test_a_student_of_other_rows_learns_alike_live_and_cached(tmp_path, run, padded, larger):
    small = exact_rows(tmp_path / "exact", padded)
    teacher, start = (padded, small) if larger == "teacher" else (small, padded)
    rows = {models.load(x).config.vocab_size for x in (teacher, start)}
    assert (len(tokenizer.load(padded)), rows) == (355, {355, 368})
    losses = []
    for signal in ("cache", "live"):
        more = (
            f"[objective]\nname = 'kd'\n[teacher]\ncheckpoint = '{teacher}'\nsignal = '{signal}'\n"
            "top_k = 355\n"
        )
        path = recipe(tmp_path, more, steps=2, student=f"start = '{start}'")
        path.write_text(path.read_text().replace("[optim]", "[optim]\nprecision = 'fp32'"))
        out = tmp_path / signal
        shutil.rmtree(out, ignore_errors=True)
        assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
        lines = (out / "training" / "log.jsonl").read_bytes().splitlines()
        losses.append([msgspec.json.decode(line)["loss"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)

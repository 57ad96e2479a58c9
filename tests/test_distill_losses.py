"""Losses against a plain fp64 reference, and what must not change them."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from harness_distillation import models  # noqa: E402
from harness_distillation.losses import (  # noqa: E402
    Live,
    Target,
    class_weights,
    divergence,
    span_loss,
)
from harness_distillation.recipe import Student  # noqa: E402
from harness_distillation.teacher_cache import distribution  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from harness.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.models

S, H, V = 37, 8, 23
LAMBDAS = {"reason": 0.7, "act": 2.5, "format": 0.3}
ONES = {"reason": 1.0, "act": 1.0, "format": 1.0}


class Case:
    """Random hidden states, head, targets, labels 1..3 and a teacher, in fp64."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        g = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(S, H, generator=g, dtype=torch.float64)
        self.head = torch.nn.Linear(H, V, bias=False).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(V, H, generator=g))
        self.targets = torch.randint(0, V, (S,), generator=g)
        self.labels = torch.randint(1, classes + 1, (S,), generator=g)
        self.counts = torch.bincount(self.labels, minlength=4)
        self.teacher = torch.randn(S, V, generator=g, dtype=torch.float64) * 3

    def live(self) -> Live:
        return Live(self.teacher, torch.nn.Identity())

    def cached(self, k: int) -> Target:
        log_p = self.teacher.log_softmax(-1)
        top = log_p.topk(k, -1)
        rest = log_p.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
        return Target(top.indices, top.values, rest)


def reference(case, hidden, weight, kind, lambdas, normalizer, temperature=1.0):
    """Position by position, outcome by outcome, in fp64."""
    names = ("reason", "act", "format")
    n = {c: int((case.labels == i + 1).sum()) for i, c in enumerate(names)}
    total = torch.zeros((), dtype=torch.float64)
    for t in range(S):
        c = names[int(case.labels[t]) - 1]
        z = {"sum": 1, "class": n[c], "token": sum(n.values())}[normalizer]
        logits = weight @ hidden[t] / temperature
        log_q = logits - torch.log(torch.exp(logits - logits.max()).sum()) - logits.max()
        if kind == "ce":
            d = -log_q[case.targets[t]]
        else:
            p = torch.softmax(case.teacher[t] / temperature, 0)
            d = sum(p[v] * (torch.log(p[v]) - log_q[v]) for v in range(V)) * temperature**2
        total = total + lambdas[c] * d / z
    return total


@pytest.mark.parametrize("normalizer", ["sum", "token", "class"])
@pytest.mark.parametrize(
    ("kind", "temperature"), [("ce", 1.0), ("live", 1.0), ("live", 2.0), ("cached", 1.0)]
)
def test_value_and_gradient_equal_the_reference(kind, temperature, normalizer):
    case = Case()
    hidden = case.hidden.clone().requires_grad_()
    weight = case.head.weight.detach().clone().requires_grad_()
    wanted = reference(case, hidden, weight, kind, LAMBDAS, normalizer, temperature)
    grads = torch.autograd.grad(wanted, (hidden, weight))

    signal = {"ce": None, "live": case.live(), "cached": case.cached(V)}[kind]
    weights = class_weights(case.counts, LAMBDAS, normalizer)
    for chunk in (5, 1000):
        mine = case.hidden.clone().requires_grad_()
        parts = span_loss(
            mine, case.head, case.targets, case.labels, weights, signal,
            temperature=temperature, chunk=chunk,
        )  # fmt: skip
        got = torch.autograd.grad(parts.loss, (mine, case.head.weight))
        assert abs(float((parts.loss - wanted).detach())) < 1e-9
        for a, b in zip(got, grads, strict=True):
            assert float((a - b).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", ["ce", "live"])
def test_fp32_gradient_is_within_1e6_of_the_fp64_reference(kind):
    case = Case(1)
    hidden = case.hidden.clone().requires_grad_()
    weight = case.head.weight.detach().clone()
    wanted = torch.autograd.grad(
        reference(case, hidden, weight, kind, LAMBDAS, "class"), hidden
    )[0]  # fmt: skip
    mine = case.hidden.float().requires_grad_()
    signal = Live(case.teacher.float(), torch.nn.Identity()) if kind == "live" else None
    weights = class_weights(case.counts, LAMBDAS, "class")
    head = case.head.float()
    parts = span_loss(mine, head, case.targets, case.labels, weights, signal, chunk=11)
    got = torch.autograd.grad(parts.loss, mine)[0]
    assert float((got - wanted).abs().max()) < 1e-6


def test_micro_batches_give_the_whole_steps_gradient():
    case = Case(2)
    weights = class_weights(case.counts, LAMBDAS, "class")
    whole = span_loss(case.hidden, case.head, case.targets, case.labels, weights, case.cached(7))
    wanted = torch.autograd.grad(whole.loss, case.head.weight)[0]
    signal = case.cached(7)
    got = torch.zeros_like(wanted)
    for part in (slice(0, 3), slice(3, 4), slice(4, S)):
        piece = Target(signal.ids[part], signal.logp[part], signal.tail[part])
        parts = span_loss(
            case.hidden[part], case.head, case.targets[part], case.labels[part], weights, piece
        )
        got += torch.autograd.grad(parts.loss, case.head.weight)[0]
    assert float((got - wanted).abs().max()) < 1e-12


@given(st.integers(0, 10_000), st.integers(1, V))
@settings(max_examples=40, deadline=None)
def test_bucketed_kl_bounds_the_exact_kl_from_below(seed, k):
    case = Case(seed)
    logits = case.head(case.hidden).detach()
    exact = divergence(logits, case.targets, case.teacher)
    bucket = divergence(logits, case.targets, case.cached(k))
    assert float(bucket.min()) >= -1e-12
    assert bool((bucket <= exact + 1e-9).all())
    if k == V:
        assert float((bucket - exact).abs().max()) < 1e-9


def test_bucketed_kl_pulls_up_a_student_that_gives_the_tail_nothing():
    teacher = torch.zeros(1, V)
    student = torch.full((1, V), -40.0)
    student[0, :4] = 0.0
    student.requires_grad_()
    cache = distribution(teacher, torch.zeros(1, dtype=torch.int64), 4)
    target = Target(
        torch.arange(4)[None], torch.full((1, 4), -math.log(V)), torch.from_numpy(cache.tail)
    )
    loss = divergence(student, torch.zeros(1, dtype=torch.int64), target).sum()
    gradient = torch.autograd.grad(loss, student)[0]
    assert torch.isfinite(gradient).all()
    assert float(gradient[0, 4:].sum()) < -0.5


def test_sum_with_equal_lambdas_is_flat_and_ignores_labels():
    """DISTILL.md, point 1: Eq. 6 with lambda = 1 and sums is the flat masked loss."""
    case = Case(3)
    flat = divergence(case.head(case.hidden), case.targets, case.teacher).sum()
    weights = class_weights(case.counts, ONES, "sum")
    shuffled = case.labels[torch.randperm(S, generator=torch.Generator().manual_seed(0))]
    for labels in (case.labels, shuffled):
        parts = span_loss(case.hidden, case.head, case.targets, labels, weights, case.live())
        assert abs(float((parts.loss - flat).detach())) < 1e-9
    by_class = class_weights(case.counts, ONES, "class")
    a, b = (
        span_loss(case.hidden, case.head, case.targets, labels, by_class, case.live()).loss
        for labels in (case.labels, shuffled)
    )
    assert abs(float((a - b).detach())) > 1e-6


def test_a_class_without_targets_weighs_nothing():
    case = Case(4, classes=1)
    for normalizer in ("sum", "token", "class"):
        weights = class_weights(case.counts, LAMBDAS, normalizer)
        parts = span_loss(case.hidden, case.head, case.targets, case.labels, weights)
        assert math.isfinite(float(parts.loss.detach()))
        assert parts.sums[2:].tolist() == [0.0, 0.0]
    nothing = torch.zeros(0, dtype=torch.int64)
    hidden = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    parts = span_loss(hidden, case.head, nothing, nothing, torch.zeros(4, dtype=torch.float64))
    torch.autograd.backward(parts.loss)
    assert float(parts.loss.detach()) == 0.0
    assert hidden.grad is not None


def test_token_normalizer_counts_only_what_is_weighed():
    counts = torch.tensor([0, 30, 10, 5])
    weights = class_weights(counts, {"reason": 0.0, "act": 1.0, "format": 1.0}, "token")
    assert weights.tolist() == [0.0, 0.0, 1 / 15, 1 / 15]
    with pytest.raises(ConfigError, match="Unknown normalizer"):
        class_weights(counts, ONES, "mean")


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_packed_documents_are_isolated_and_their_gradient_is_exact(arch):
    """Packed, document attention, gathered positions == each document alone, full logits."""
    torch.set_num_threads(1)

    class Tokens:
        eos_token_id, pad_token_id = 0, 1

        def __len__(self):
            return 60

    student = Student(arch=arch, layers=2, hidden=32, heads=2, window=64)
    model = models.build(student, Tokens(), 0)
    assert models.check_isolation(model) < 1e-4
    lengths = [17, 5, 30]
    ids = torch.randint(0, 60, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    labels = torch.randint(0, 4, (sum(lengths),), generator=torch.Generator().manual_seed(2))
    bounds = torch.tensor([0, 17, 22, 52])
    labels[bounds[:-1]] = 0
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    weights = class_weights(torch.bincount(labels, minlength=4) * 1, ONES, "token")
    weights[0] = 0.0

    body, head = models.body_and_head(model)
    at = labels.nonzero()[:, 0]
    hidden = models.hidden_states(body, ids, positions, bounds)
    loss = span_loss(hidden[0, at - 1], head, ids[0, at], labels[at], weights).loss
    torch.autograd.backward(loss)
    got = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()

    model.set_attn_implementation("eager")
    total = torch.zeros(())
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        logits = model(input_ids=ids[:, a:b], use_cache=False).logits[0]
        for t in range(1, b - a):
            log_q = logits[t - 1].log_softmax(-1)
            total = total - weights[labels[a + t]] * log_q[ids[0, a + t]]
    torch.autograd.backward(total)
    assert abs(float((loss - total).detach())) < 1e-5
    for name, p in model.named_parameters():
        assert float((got[name] - p.grad).abs().max()) < 1e-5, name

"""Losses against a plain fp64 reference, and what must not change them."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from harness_distillation import attention, models  # noqa: E402
from harness_distillation.losses import (  # noqa: E402
    Target,
    class_weights,
    divergence,
    measure_of,
    span_loss,
)
from harness_distillation.recipe import Student  # noqa: E402
from harness_distillation.teacher_cache import distribution  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from loss_reference import (  # noqa: E402
    ALPHA,
    BETA,
    KINDS,
    LAMBDAS,
    NORMALIZERS,
    ONES,
    Case,
    H,
    S,
    V,
    reference,
    shared,
)

from harness.errors import ConfigError  # noqa: E402

pytestmark = pytest.mark.models


class Tokens:
    eos_token_id, pad_token_id = 0, 1

    def __len__(self):
        return 60


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_equal_the_reference(kind, normalizer):
    case = Case()
    hidden = case.hidden.clone().requires_grad_()
    weight = case.head.weight.detach().clone().requires_grad_()
    temperature = 1.0 if kind == "ce" or normalizer == "token" else 2.0
    wanted = reference(case, hidden, weight, kind, LAMBDAS, normalizer, temperature)
    grads = torch.autograd.grad(wanted, (hidden, weight))

    u, counts = shared(case, normalizer, LAMBDAS)
    weights = class_weights(counts, LAMBDAS, normalizer)
    signals = [None] if kind == "ce" else [case.live(), case.cached(V, temperature)]
    for signal in signals:
        for chunk in (5, 1000):
            mine = case.hidden.clone().requires_grad_()
            parts = span_loss(
                mine, case.head, case.targets, case.labels, weights, signal,
                measure=measure_of(kind, beta=BETA, alpha=ALPHA),
                temperature=temperature, shares=u, chunk=chunk,
            )  # fmt: skip
            got = torch.autograd.grad(parts.loss, (mine, case.head.weight))
            assert abs(float((parts.loss - wanted).detach())) < 1e-9
            assert float((weights * parts.weighed).sum()) == pytest.approx(
                float(wanted.detach()), rel=1e-9
            )
            for a, b in zip(got, grads, strict=True):
                assert float((a - b).abs().max()) < 1e-9


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_micro_batches_give_the_whole_steps_gradient(normalizer):
    """Uneven cuts, one of a single target: their losses add up, they are not averaged."""
    case = Case(2)
    u, counts = shared(case, normalizer, LAMBDAS)
    weights = class_weights(counts, LAMBDAS, normalizer)
    signal = case.cached(7)
    whole = span_loss(case.hidden, case.head, case.targets, case.labels, weights, signal, shares=u)
    wanted = torch.autograd.grad(whole.loss, case.head.weight)[0]
    got = torch.zeros_like(wanted)
    for part in (slice(0, 3), slice(3, 4), slice(4, S)):
        piece = Target(signal.ids[part], signal.logp[part], signal.tail[part])
        parts = span_loss(
            case.hidden[part], case.head, case.targets[part], case.labels[part], weights, piece,
            shares=None if u is None else u[part],
        )  # fmt: skip
        got += torch.autograd.grad(parts.loss, case.head.weight)[0]
    assert float((got - wanted).abs().max()) < 1e-12


@given(
    st.sampled_from(KINDS[1:]),
    st.integers(0, 10_000),
    st.integers(1, V),
    st.sampled_from([0.5, 1.0, 2.0]),
)
@settings(max_examples=100, deadline=None)
def test_the_cache_bounds_every_divergence_from_below(kind, seed, k, temperature):
    case = Case(seed)
    measure = measure_of(kind, beta=BETA, alpha=ALPHA)
    logits = case.head(case.hidden).detach()
    exact, bucket = (
        divergence(logits, case.targets, target, temperature, measure)
        for target in (case.teacher, case.cached(k, temperature))
    )
    assert float(bucket.min()) >= -1e-12
    assert bool((bucket <= exact + 1e-9).all())
    if k == V:
        assert float((bucket - exact).abs().max()) < 1e-9


@pytest.mark.parametrize("kind", KINDS[2:])
def test_a_divergence_is_zero_only_between_equals(kind):
    """A cross-entropy under the name of a divergence would leave the teacher's entropy."""
    case = Case(5)
    measure = measure_of(kind)
    same = divergence(case.teacher, case.targets, case.teacher, measure=measure)
    assert float(same.abs().max()) < 1e-12
    other = divergence(case.teacher.roll(1, -1), case.targets, case.teacher, measure=measure)
    assert float(other.min()) > 1e-4


@pytest.mark.parametrize("kind", KINDS[1:])
def test_temperature_reaches_the_divergence(kind):
    case = Case(6)
    logits = case.head(case.hidden).detach()
    measure = measure_of(kind)
    for k in (None, V, 4):
        one, two = (
            divergence(logits, case.targets, case.cached(k, t) if k else case.teacher, t, measure)
            for t in (1.0, 2.0)
        )
        assert float((one - two).abs().min()) > 1e-6


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_teacher_that_excludes_outcomes_gives_finite_gradients(kind):
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = torch.zeros(3, V).index_fill(1, torch.arange(5, V), -torch.inf)
    log_p = teacher.log_softmax(-1)
    cached = Target(torch.arange(8).expand(3, -1), log_p[:, :8], torch.full((3,), -torch.inf))
    for target in (teacher, cached):
        loss = divergence(logits, torch.zeros(3, dtype=torch.int64), target, 1.0, measure_of(kind))
        gradient = torch.autograd.grad(loss.sum(), logits)[0]
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


def test_the_head_sees_supervised_positions_only_a_chunk_at_a_time():
    """No tensor [tokens, V] exists: the head is never given more than a chunk of positions."""
    case = Case(7)
    seen = []

    class Head(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return case.head(x)

    weights = class_weights(case.counts, ONES, "token")
    hidden = case.hidden.clone().requires_grad_()
    parts = span_loss(hidden, Head(), case.targets, case.labels, weights, case.live(), chunk=8)
    assert sum(seen) == S
    torch.autograd.backward(parts.loss)
    assert max(seen) == 8
    assert sum(seen) == 2 * S


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
    for normalizer in NORMALIZERS:
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


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("way", ["documents", "sdpa"])
def test_packed_documents_are_isolated_and_their_gradient_is_exact(arch, way):
    """A packed row, gathered positions == each document alone, full logits. ``sdpa`` is what runs
    off the CPU: transformers' own packed mask, or for OPT one document a row."""
    torch.set_num_threads(1)
    student = Student(arch=arch, layers=2, hidden=32, heads=2, window=64)
    model = models.build(student, Tokens(), 0)
    assert models.check_isolation(model) < 1e-4
    assert models.isolation_gap(model, implementation="sdpa") < 1e-4
    model.set_attn_implementation(way)
    leaky = arch == "opt" and way == "sdpa"
    assert models.layout(model.base_model) == (
        "padded" if leaky else "documents" if way == "documents" else "packed"
    )
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

    alone = models.build(student, Tokens(), 0).double()
    alone.set_attn_implementation("eager")
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        logits = alone(input_ids=ids[:, a:b], use_cache=False).logits[0]
        for t in range(1, b - a):
            log_q = logits[t - 1].log_softmax(-1)
            total = total - weights[labels[a + t]] * log_q[ids[0, a + t]]
    torch.autograd.backward(total)
    assert abs(float((loss - total).detach())) < 1e-6
    for name, p in alone.named_parameters():
        assert float((got[name] - p.grad).abs().max()) < 1e-6, name


def attended(way, q, k, v, grad, bounds, scale):
    """Outputs and gradients of q, k, v [1, H, T, D] by one way of attending inside documents."""
    if way == "exact":
        q, k, v = (x.detach().double().requires_grad_() for x in (q, k, v))
        parts = [
            F.scaled_dot_product_attention(
                *(x[:, :, a:b] for x in (q, k, v)), is_causal=True, scale=scale
            )
            for a, b in pairwise(bounds)
        ]
        out = torch.cat(parts, 2)
    elif way == "kept":
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = attention.Kept.apply(q, k, v, bounds, scale)
    else:
        at = torch.tensor(bounds)
        out, lse = attention.attend(q, k, v, at, scale)
        return out, *attention.attend_backward(grad, q, k, v, out, lse, at, scale)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), grad.to(out.dtype))


@pytest.mark.parametrize("sharp", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_probabilities_give_the_kernels_numbers(dtype, sharp):
    """Against fp64: exact in fp32; in bf16 as near as PyTorch's kernel, within a factor."""
    torch.manual_seed(0)
    lengths = [1, 300, attention.BLOCK, attention.BLOCK + 1, 17]
    bounds = [0, *accumulate(lengths)]
    # As models give them: the values are a view of [1, T, H, D].
    q, k, v, grad = (
        torch.randn(1, bounds[-1], 2, 32).mul(s).to(dtype).transpose(1, 2)
        for s in (sharp, sharp, 1.0, 1.0)
    )
    exact, kernel, kept = (
        attended(way, q, k, v, grad, bounds, 32**-0.5) for way in ("exact", "flash", "kept")
    )
    for right, flash, mine in zip(exact, kernel, kept, strict=True):
        off, known = (float((x.double() - right).norm() / right.norm()) for x in (mine, flash))
        assert off < (1e-5 if dtype is torch.float32 else max(4 * known, 5e-3))


def test_scores_are_fp32_under_autocast_too():
    """As training in bf16 attends: the numbers compared with fp64 above, bit for bit."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 300, 32).mul(3).bfloat16() for _ in range(3))
    found = []
    for under in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=under):
            found.append(attention.Kept.apply(q, k, v, [0, 300], 32**-0.5))
    assert torch.equal(*found)


def test_what_is_kept_stays_within_memory():
    q = torch.zeros(1, 4, 8, 32, dtype=torch.bfloat16)
    assert attention.keeps(q, [0, 3072, 6144, 8192])
    assert not attention.keeps(q, [0, 3072, 6144, 20000])
    assert attention.keeps(q.float(), [0, 3072])
    assert not attention.keeps(q.float(), [0, 3072, 6144, 8192])
    with torch.no_grad():
        assert not attention.keeps(q, [0, 64])


def test_opt_leaks_when_packed_and_one_document_a_row_does_not():
    """OPT's own mask does not look at positions: packed without care, episodes see each other."""
    model = models.build(Student(arch="opt", layers=1, hidden=32, heads=2, window=64), Tokens(), 0)
    body, _ = models.body_and_head(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5.0)
    model.set_attn_implementation("sdpa")
    ids = torch.randint(0, 60, (1, 20), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(10), torch.arange(10)])[None]
    alone = body(input_ids=ids[:, 10:], use_cache=False).last_hidden_state[0]
    packed = body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0, 10:]
    right = models.hidden_states(body, ids, positions, torch.tensor([0, 10, 20]))[0, 10:]
    assert float((packed - alone).detach().abs().max()) > 0.01
    assert float((right - alone).detach().abs().max()) < 1e-5


def convolving(window: int):
    """LFM2 mixes neighbouring tokens by convolutions as well, which know of no documents."""
    from transformers import Lfm2Config, Lfm2ForCausalLM

    torch.manual_seed(0)
    return Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            layer_types=["conv", "full_attention"], num_attention_heads=2, num_key_value_heads=2,
            max_position_embeddings=window, initializer_range=0.3,
        )
    )  # fmt: skip


@pytest.mark.parametrize("window", [512, 20])
def test_a_model_that_leaks_whatever_its_attention_is_refused(window):
    model = convolving(window)
    gap = models.isolation_gap(model)
    assert gap > 100 * models.ISOLATION_TOLERANCE
    told = r"Lfm2ForCausalLM does not keep packed episodes apart: logits differ by (.+) \(tol"
    with pytest.raises(ConfigError, match=told) as error:
        models.check_isolation(model)
    assert f"by {gap:.3g} (" in str(error.value)


def test_no_model_reads_further_than_it_does_in_play():
    """Attention inside documents follows no sliding window, and positions end."""
    from transformers import MistralConfig, MistralForCausalLM

    sizes = dict(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    sliding = MistralForCausalLM(MistralConfig(sliding_window=64, **sizes))
    models.check_reach(sliding, 64)
    with pytest.raises(ConfigError, match="over the 64 tokens in the window of its layers"):
        models.check_reach(sliding, 65)
    whole = MistralForCausalLM(MistralConfig(sliding_window=None, **sizes))
    models.check_reach(whole, 512)
    with pytest.raises(ConfigError, match=r"over the 512 positions.*Lower \[student\] window"):
        models.check_reach(whole, 513)
    for arch in ("llama", "gpt2", "opt"):
        student = Student(arch=arch, layers=1, hidden=32, heads=2, window=48)
        models.check_reach(models.build(student, Tokens(), 0), 48)


@pytest.mark.parametrize("window", [1, 7, 47])
@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
def test_isolation_is_measured_within_the_models_positions(arch, window):
    student = Student(arch=arch, layers=1, hidden=32, heads=2, window=window)
    assert models.check_isolation(models.build(student, Tokens(), 0)) < 1e-4

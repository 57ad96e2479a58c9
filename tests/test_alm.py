"""Likelihood matching across tokenizers: chunks, the loss over them, the teacher's cache."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import NamedTuple

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from distill_traces import episode
from harness_distillation import chunks, dataset, likelihoods, models, shards, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.alm import binary_divergence, chunk_loss
from harness_distillation.likelihoods import Matched
from harness_distillation.losses import class_weights
from harness_distillation.ranks import Ranks
from harness_distillation.supervision import shares
from harness_distillation.teacher_signal import LABELS, Signal, count
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.transcript import Kind, join, render
from harness.types import Decision, Step

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"
NORMALIZERS = ["sum", "token", "class", "span", "episode"]
LAMBDAS = {"reason": 0.7, "act": 2.5, "format": 0.3, "observation": 0.0}
EPISODES = [episode(i, sampled=i % 3 == 0) for i in range(40)]


@pytest.fixture(scope="module")
def toks():
    """The student's tokenizer and a teacher's, of another size."""
    torch.set_num_threads(1)
    return tuple(tokenizer.train(EPISODES, HEADER, vocab) for vocab in (290, 420))


def encode_both(episodes, toks, window=512, **how):
    encoders = [tokenizer.SegmentEncoder(tok) for tok in toks]
    return dataset.encode_both(episodes, *encoders, HEADER, window, 32, **how)[:2]


# Chunks ---------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["I need a mug", " on desk 12", "żółć", "日本", "👩‍🚀 é", "\t \n", "<|eos|>"]
)


def check_partition(mine, theirs, toks):
    """Every taught token in one chunk, of one kind, that spells the same on both sides and in
    which the two meet nowhere else."""
    found = chunks.align(mine, theirs, *toks)
    seen = []
    for samples, chunk, tok in ((mine, found.mine, toks[0]), (theirs, found.theirs, toks[1])):
        taught = samples.ids[samples.kinds != Kind.CONTEXT].tolist()
        kinds = samples.kinds[samples.kinds != Kind.CONTEXT].tolist()
        assert len(chunk) == len(taught)
        spelled: list[tuple[bytes, set[int]]] = []
        inside: list[set[int]] = []
        for i, kind, c in zip(taught, kinds, chunk.tolist(), strict=True):
            assert c in (len(spelled) - 1, len(spelled))
            if c == len(spelled):
                spelled.append((b"", set()))
                inside.append(set())
            text, labels = spelled[c]
            inside[c].add(len(text))
            spelled[c] = (text + chunks.spell(tok, [i])[0], labels | {kind})
        assert all(len(labels) == 1 for _, labels in spelled)
        seen.append((spelled, inside))
    assert seen[0][0] == seen[1][0]
    assert all(a & b == {0} for a, b in zip(seen[0][1], seen[1][1], strict=True))
    return found


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_chunks_are_a_partition(toks, texts):
    steps = [Step(o, Decision(r, a or None)) for o, r, a in texts]
    one = msgspec.structs.replace(EPISODES[0], steps=(*steps, *EPISODES[1].steps[:1]))
    mine, theirs = encode_both([one, EPISODES[2]], toks, window=4096)
    check_partition(mine, theirs, toks)
    text = "".join(
        join(block)
        for e in (one, EPISODES[2])
        for block in render(HEADER.replace("{instruction}", e.instruction), e.steps)
    )
    for samples, tok in zip((mine, theirs), toks, strict=True):
        spelled, ends = chunks.spell(tok, samples.ids)
        assert spelled == text.encode()
        assert ends[-1] == len(spelled)


@pytest.mark.parametrize("how", [{}, {"per_step": True}, {"observations": True}])
def test_both_read_the_same_blocks_of_windows(toks, how):
    """The student's lengths cut; what the teacher reads spells the same, sequence by sequence."""
    mine, theirs = encode_both(EPISODES, toks, window=150, **how)
    alone, _ = dataset.encode(EPISODES, tokenizer.SegmentEncoder(toks[0]), HEADER, 150, 32, **how)
    for a, b in zip(mine, alone, strict=True):
        assert np.array_equal(a, b)
    assert len(mine.lengths) > len(EPISODES)
    for s in range(len(mine.lengths)):
        a, b = (
            chunks.spell(tok, x.ids[x.part(s)])[0]
            for tok, x in zip(toks, (mine, theirs), strict=True)
        )
        assert a == b
    found = check_partition(mine, theirs, toks)
    ones = chunks.first_tokens(mine, found.mine)
    assert ones.taught[-1] == found.mine[-1] + 1
    assert np.array_equal(ones.taught, [*found.mine[mine.taught[:-1]], ones.taught[-1]])


def test_one_tokenizer_makes_chunks_of_one_token(toks):
    mine, theirs = encode_both(EPISODES, (toks[0], toks[0]))
    found = chunks.align(mine, theirs, toks[0], toks[0])
    assert np.array_equal(found.mine, np.arange(mine.taught[-1]))
    assert np.array_equal(found.mine, found.theirs)


def test_a_tokenizer_that_changes_the_text_is_refused(toks):
    from tokenizers import normalizers

    other = tokenizer.train(EPISODES, HEADER, 300)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    mine, theirs = encode_both(EPISODES, (toks[0], other))
    with pytest.raises(ConfigError, match=r"do not spell the same text.*\n.*seqkd or sad_ce"):
        chunks.align(mine, theirs, toks[0], other)


def test_a_tokenizer_of_characters_is_refused():
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(kinds.WordLevel({"mug": 0, "\u2581a": 1}, unk_token="mug"))
    other = PreTrainedTokenizerFast(tokenizer_object=words)
    assert chunks.spell(other, [0])[0] == b"mug"
    with pytest.raises(ConfigError, match=r"token 1 .* is not spelled in bytes"):
        chunks.spell(other, [0, 1])


# Loss -----------------------------------------------------------------------------------------

S, H, V = 41, 8, 23
#: First target of each chunk; the last chunks are single tokens.
STARTS = [0, 3, 4, 9, 12, 20, 21, 30, 33, *range(36, S)]
U = len(STARTS)
SPANS, TASKS = [0, 2, 3, 6, 10], [0, 6]


def group(u, starts):
    return max(i for i, first in enumerate(starts) if first <= u)


class Case:
    """Random hidden states, head, targets in chunks, classes of chunks and a teacher's nats."""

    def __init__(self, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(S, H, generator=g, dtype=torch.float64)
        self.weight = torch.randn(V, H, generator=g, dtype=torch.float64)
        self.targets = torch.randint(0, V, (S,), generator=g)
        self.chunk = torch.tensor([group(t, STARTS) for t in range(S)])
        self.labels = torch.randint(1, 4, (U,), generator=g)
        self.log_p = -torch.rand(U, generator=g).mul(9).exp() / 200

    def shares(self, normalizer):
        """u of every chunk by the definitions of a span's and an episode's mean."""
        if normalizer not in ("span", "episode"):
            return None
        starts = SPANS if normalizer == "span" else TASKS
        size = [sum(group(o, starts) == group(u, starts) for o in range(U)) for u in range(U)]
        return 1 / torch.tensor(size, dtype=torch.float64)

    def loss(self, hidden, weight, normalizer, tau, at=slice(0, U)):
        """The product's, of the chunks ``at``."""
        head = torch.nn.Linear(H, V, bias=False).to(hidden.dtype)
        head.weight = torch.nn.Parameter(weight)
        u = self.shares(normalizer)
        counts = torch.bincount(self.labels, weights=u, minlength=LABELS)
        tokens = (self.chunk >= at.start) & (self.chunk < at.stop)
        return chunk_loss(
            hidden[tokens], head, self.targets[tokens],
            Matched(self.chunk[tokens] - at.start, self.log_p[at]), self.labels[at],
            class_weights(counts, LAMBDAS, normalizer), tau=tau,
            shares=None if u is None else u[at],
        ), head.weight  # fmt: skip


def reference(case, hidden, weight, normalizer, tau):
    """Chunk by chunk, probabilities multiplied, in fp64."""
    names = ("reason", "act", "format")
    u = case.shares(normalizer)
    u = [1.0] * U if u is None else u.tolist()
    of = [names[int(label) - 1] for label in case.labels]
    total = torch.zeros((), dtype=torch.float64)
    for c in range(U):
        q = torch.ones((), dtype=torch.float64)
        for t in range(S):
            if group(t, STARTS) == c:
                q = q * torch.softmax(weight @ hidden[t], 0)[case.targets[t]]
        p = math.exp(float(case.log_p[c])) ** (1 / tau)
        q = q ** (1 / tau)
        d = tau * (p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q)))
        z = {
            "sum": 1.0,
            "class": sum(o == of[c] for o in of),
            "span": sum(x for x, o in zip(u, of, strict=True) if o == of[c]),
        }.get(normalizer, sum(u))
        total = total + LAMBDAS[of[c]] * u[c] * d / z
    return total


@pytest.mark.parametrize("tau", [1.0, 100.0])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_value_and_gradient_equal_the_reference(normalizer, tau):
    case = Case()
    hidden, weight = (x.clone().requires_grad_() for x in (case.hidden, case.weight))
    wanted = reference(case, hidden, weight, normalizer, tau)
    grads = torch.autograd.grad(wanted, (hidden, weight))
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 1e-6)):
        mine = case.hidden.to(dtype).requires_grad_()
        parts, head = case.loss(mine, case.weight.to(dtype), normalizer, tau)
        got = torch.autograd.grad(parts.loss, (mine, head))
        scale = max(1.0, float(wanted.detach()))
        assert abs(float((parts.loss - wanted).detach())) < close * scale
        for a, b in zip(got, grads, strict=True):
            assert float((a - b).abs().max()) < close * max(1.0, float(b.abs().max()))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_micro_batches_give_the_whole_steps_gradient(normalizer):
    case = Case(1)
    whole, head = case.loss(case.hidden, case.weight, normalizer, 100.0)
    wanted = torch.autograd.grad(whole.loss, head)[0]
    got, value = torch.zeros_like(wanted), 0.0
    for at in (slice(0, 1), slice(1, 7), slice(7, U)):
        parts, head = case.loss(case.hidden, case.weight, normalizer, 100.0, at)
        got += torch.autograd.grad(parts.loss, head)[0]
        value += float(parts.loss.detach())
    assert float((got - wanted).abs().max()) < 1e-12
    assert value == pytest.approx(float(whole.loss.detach()), rel=1e-12)
    nothing, _ = case.loss(case.hidden[:, :].requires_grad_(), case.weight, normalizer, 100.0,
                           slice(0, 0))  # fmt: skip
    torch.autograd.backward(nothing.loss)
    assert float(nothing.loss.detach()) == 0.0


NATS = st.floats(1e-4, 200.0)


@given(NATS, NATS, st.floats(0.5, 1000.0))
@settings(max_examples=200, deadline=None)
def test_it_is_a_divergence_and_its_limit_a_distance_of_nats(t, s, tau):
    of = [torch.tensor([-x], dtype=torch.float64) for x in (t, s)]
    d = float(binary_divergence(*of, tau))
    assert d >= -1e-9
    assert float(binary_divergence(of[0], of[0], tau)) == pytest.approx(0.0, abs=1e-9)
    if abs(math.log(t / s)) > 0.01 and max(t, s) < 20 * tau:
        assert d > 0
    assert float(binary_divergence(*of, 1e7)) == pytest.approx(
        t * math.log(t / s) - t + s, rel=1e-3, abs=1e-3
    )


def test_certainty_stays_finite_and_a_student_wrongly_sure_is_told():
    """p = 1 to fp32's rounding on either side, and likelihoods that underflow."""
    ids = torch.zeros(1, dtype=torch.int64)
    for sure in (3.0, 30.0, 300.0):
        mine = (torch.nn.functional.one_hot(ids, 5) * sure).requires_grad_()
        head = torch.nn.Identity()
        for nats in (0.0, 1e-7, 0.7, 80.0):
            matched = Matched(torch.zeros(1, dtype=torch.int64), torch.tensor([-nats]))
            parts = chunk_loss(
                mine,
                head,
                ids,
                matched,
                ids + 1,
                torch.ones(LABELS, dtype=torch.float64),
                tau=100.0,
            )
            gradient = torch.autograd.grad(parts.loss, mine)[0]
            assert torch.isfinite(parts.loss)
            assert torch.isfinite(gradient).all()
            assert float(gradient.abs().max()) < 1.01 * max(1.0, nats)
            if sure == 30.0 and nats == 0.7:
                assert float(parts.loss.detach()) > 1.0
    far = binary_divergence(torch.tensor([-1e5]), torch.tensor([-3e5]), 1.0)
    assert torch.isfinite(far).all()
    # exp(-16) of another token is lost in log p = 0, yet it is pushed up.
    lost = torch.tensor([[18.0, 0.0]]).requires_grad_()
    matched = Matched(torch.zeros(1, dtype=torch.int64), torch.tensor([-0.7]))
    parts = chunk_loss(lost, torch.nn.Identity(), ids, matched, ids + 1,
                       torch.ones(LABELS, dtype=torch.float64), tau=100.0)  # fmt: skip
    assert float(torch.autograd.grad(parts.loss, lost)[0][0, 1]) < -0.05


# Cache and rows -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(toks, tmp_path_factory):
    """A student and a teacher model (random), their samples of one corpus, and the cache."""
    mine, theirs = encode_both(EPISODES, toks, window=200)
    size = {"layers": 1, "hidden": 32, "heads": 2}
    student, teacher = (
        models.build(recipes.Student(window=w, **size), tok, seed)
        for w, tok, seed in zip((200, 512), toks, (3, 4), strict=True)
    )
    with torch.no_grad():
        teacher.get_output_embeddings().weight.mul_(10)
    matched = chunks.align(mine, theirs, *toks)
    key = likelihoods.Key(
        mine.hash, tokenizer.fingerprint(toks[0]), "t", models.weights_hash(teacher), theirs.hash,
        tokenizer.fingerprint(toks[1]), "fp32", "1" * 16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("cache") / "likelihoods"
    built = SimpleNamespace(
        toks=toks, mine=mine, theirs=theirs, student=student, teacher=teacher, chunks=matched,
        key=key, folder=folder,
    )  # fmt: skip
    build(built, folder)
    return built


def build(both, folder, **how):
    likelihoods.build(
        folder, both.teacher, both.theirs, both.chunks, both.key, pad=both.toks[1].pad_token_id,
        entries=len(both.toks[1]), row_tokens=700, **how,
    )  # fmt: skip
    return likelihoods.load(folder, both.key, both.mine, both.chunks)


@torch.no_grad()
def own_log_p(model, samples, s, entries=None):
    """log p and entropy of every taught token of a sequence read alone, by transformers, over the
    first ``entries`` of the embedding's rows."""
    ids = torch.from_numpy(samples.ids[samples.part(s)].astype(np.int64))
    model.set_attn_implementation("sdpa")
    log_p = model(input_ids=ids[None], use_cache=False).logits[0, :, :entries].log_softmax(-1)
    at = torch.from_numpy(np.flatnonzero(samples.kinds[samples.part(s)]))
    log_p = log_p[at - 1]
    return log_p.gather(-1, ids[at][:, None])[:, 0].double(), -(log_p.exp() * log_p).sum(-1)


def test_the_cache_holds_the_teachers_likelihood_of_every_chunk(both):
    cache = likelihoods.load(both.folder, both.key, both.mine, both.chunks)
    wanted = np.zeros(len(cache.log_p))
    for s in range(len(both.theirs.lengths)):
        log_p, entropy = own_log_p(both.teacher, both.theirs, s, len(both.toks[1]))
        taught = slice(both.theirs.taught[s], both.theirs.taught[s + 1])
        for c, x in zip(both.chunks.theirs[taught].tolist(), log_p.tolist(), strict=True):
            wanted[c] += x
        ours = cache.entropy[both.mine.taught[s] : both.mine.taught[s + 1]]
        assert np.allclose(ours, float(entropy.mean()), atol=2e-4)
    assert np.allclose(cache.log_p, wanted, atol=1e-3)
    files = list(both.folder.glob("shard-*.npz"))
    assert cache.log_p.dtype == np.float32
    assert (
        sum(f.stat().st_size for f in files) < 4 * len(wanted) + 4 * len(both.mine.lengths) + 2000
    )


def test_likelihoods_of_anything_else_are_refused(both):
    for field in likelihoods.Key.__struct_fields__:
        other = msgspec.structs.replace(both.key, **{field: "0" * 16})
        with pytest.raises(shards.CacheMismatch, match=f"another {field}"):
            likelihoods.load(both.folder, other, both.mine, both.chunks)


def test_a_killed_cache_goes_on(both, tmp_path):
    whole = build(both, tmp_path / "a", shard=20)
    (tmp_path / "a" / "manifest.json").unlink()
    (tmp_path / "a" / "shard-00001.npz").unlink()
    kept = (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns
    again = build(both, tmp_path / "a", shard=20)
    assert (tmp_path / "a" / "shard-00000.npz").stat().st_mtime_ns == kept
    for a, b in zip(whole, again, strict=True):
        assert np.array_equal(a, b)


def test_what_the_teacher_cannot_read_is_refused(both, tmp_path):
    small = models.build(recipes.Student(layers=1, hidden=32, heads=2, window=100), both.toks[1], 0)
    with pytest.raises(ConfigError, match="over the 100 positions"):
        likelihoods.build(
            tmp_path / "x", small, both.theirs, both.chunks, both.key,
            pad=both.toks[1].pad_token_id, entries=len(both.toks[1]),
        )  # fmt: skip


class Unit(NamedTuple):
    """A chunk of one reading of a sequence: its class, D, span and episode."""

    label: int
    d: float
    span: tuple[int, int]
    episode: int


def read_alone(both, cache, classes, s):
    """The supervised chunks of a sequence, from each token's own log p and the definitions."""
    part = both.mine.part(s)
    taught = both.mine.kinds[part] != Kind.CONTEXT
    labels = classes[both.mine.kinds[part]]
    span = np.cumsum(np.diff(labels, prepend=-1) != 0)[taught]
    chunk = cache.chunk[both.mine.taught[s] : both.mine.taught[s + 1]]
    log_q = own_log_p(both.student, both.mine, s)[0].numpy()
    units = []
    for c in np.unique(chunk):
        at = chunk == c
        p, q = (math.exp(nats / 100) for nats in (float(cache.log_p[c]), float(log_q[at].sum())))
        d = 100 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        label, run = int(labels[taught][at][0]), int(span[at][0])
        units.append(Unit(label, d, (s, run), int(both.mine.episode[s])))
    return [unit for unit in units if unit.label]


@pytest.mark.parametrize("format", ["span", "shared", "none"])
def test_rows_give_what_chunks_alone_give(both, format):
    """However sequences are packed or cut in micro-batches, one of them twice side by side: every
    normaliser's loss is that of plain sums over sequences read alone, counted in chunks."""
    cache = likelihoods.load(both.folder, both.key, both.mine, both.chunks)
    samples, classes = both.mine, tokenizer.class_of(format)
    signal = Signal(recipes.Objective(divergence="alm"), cache, None, "fp32", len(both.toks[0]))
    alone = [read_alone(both, cache, classes, s) for s in range(len(samples.lengths))]
    in_span = Counter(unit.span for units in alone for unit in units)
    in_episode = Counter(unit.episode for units in alone for unit in units)
    chosen = [0, 3, 3, 7, 12, 1, 20, 9]
    found = [unit for s in chosen for unit in alone[s]]
    models.check_isolation(both.student)
    body, head = models.body_and_head(both.student)
    for normalizer in NORMALIZERS:
        u = [
            {"span": 1 / in_span[f.span], "episode": 1 / in_episode[f.episode]}.get(normalizer, 1.0)
            for f in found
        ]
        of = [sum(x for x, f in zip(u, found, strict=True) if f.label == c) for c in (1, 2, 3)]
        z = of if normalizer in ("class", "span") else [sum(of)] * 3
        z = [1.0] * 3 if normalizer == "sum" else z
        wanted = sum(
            LAMBDAS[tokenizer.CLASSES[f.label - 1]] * x * f.d / z[f.label - 1]
            for x, f in zip(u, found, strict=True)
        )
        share = shares(signal.counted(samples), classes, normalizer, LAMBDAS)
        for packing in ([chosen], [[s] for s in chosen], [chosen[:3], chosen[3:]]):
            rows = [dataset.make_row(samples, x, classes, 1600, 0) for x in packing]
            units = [signal.units(row) for row in rows]
            counts, summed, _ = count(rows, units, share, Ranks())
            assert counts[1:4].tolist() == [sum(f.label == c for f in found) for c in (1, 2, 3)]
            weights = class_weights(summed, LAMBDAS, normalizer)
            value = 0.0
            for row, unit in zip(rows, units, strict=True):
                with torch.no_grad():
                    hidden = models.hidden_states(body, row.ids, row.positions, row.bounds)
                    parts = signal.loss(hidden[0, row.at], head, row, unit, weights, share)
                value += float(parts.loss)
            assert value == pytest.approx(wanted, rel=1e-5)

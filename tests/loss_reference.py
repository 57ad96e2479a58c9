"""A plain fp64 reference of the losses, position by position, and a random case to hold it to."""

from __future__ import annotations

import torch
from harness_distillation.losses import Live, Target
from harness_distillation.teacher_cache import distribution

S, H, V = 37, 8, 23
LAMBDAS = {"reason": 0.7, "act": 2.5, "format": 0.3}
ONES = {"reason": 1.0, "act": 1.0, "format": 1.0}


class Case:
    """Random hidden states, head, targets, labels 1..3 and a teacher: fp32 numbers in fp64."""

    def __init__(self, seed: int = 0, classes: int = 3) -> None:
        g = torch.Generator().manual_seed(seed)
        self.hidden = torch.randn(S, H, generator=g).double()
        self.head = torch.nn.Linear(H, V, bias=False).double()
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(V, H, generator=g))
        self.targets = torch.randint(0, V, (S,), generator=g)
        self.labels = torch.randint(1, classes + 1, (S,), generator=g)
        self.counts = torch.bincount(self.labels, minlength=4)
        self.teacher = (torch.randn(S, V, generator=g) * 3).double()

    def live(self) -> Live:
        return Live(self.teacher, torch.nn.Identity())

    def rounded(self, k: int, temperature: float = 1.0) -> Target:
        """The teacher as the cache keeps it: log-probabilities in fp16."""
        return distribution(self.teacher, self.targets, k, temperature).pick(torch.arange(S))

    def cached(self, k: int, temperature: float = 1.0) -> Target:
        log_p = (self.teacher / temperature).log_softmax(-1)
        top = log_p.topk(k, -1)
        rest = log_p.scatter(-1, top.indices, -torch.inf).logsumexp(-1)
        return Target(top.indices, top.values, rest)


BETA, ALPHA = 0.3, 0.1
KINDS = ["ce", "ce_soft", "forward_kl", "reverse_kl", "jsd", "skew_kl"]
NORMALIZERS = ["sum", "token", "class", "span", "episode"]
#: Two episodes, spans of several lengths: the first target of each.
SPANS = [0, 3, 4, 9, 12, 20, 21, 30]
EPISODES = [0, 20]


def units(case, lambdas):
    """u_t by the definitions of a span and an episode's mean, position by position."""
    names = ("reason", "act", "format")

    def group(t, starts):
        return max(i for i, first in enumerate(starts) if first <= t)

    span, episode = [], []
    for t in range(S):
        span.append(1 / sum(group(o, SPANS) == group(t, SPANS) for o in range(S)))
        same = [o for o in range(S) if group(o, EPISODES) == group(t, EPISODES)]
        weighed = sum(lambdas[names[int(case.labels[o]) - 1]] != 0 for o in same)
        episode.append(1 / max(weighed, 1))
    return {"span": span, "episode": episode}


def discrepancy(kind, p, q, target):
    """D of two distributions [V] by its textbook formula."""

    def kl(a, b):
        return (a * (torch.log(a) - torch.log(b))).sum()

    if kind == "ce":
        return -torch.log(q[target])
    if kind == "ce_soft":
        return -(p * torch.log(q)).sum()
    if kind == "forward_kl":
        return kl(p, q)
    if kind == "reverse_kl":
        return kl(q, p)
    if kind == "jsd":
        m = BETA * p + (1 - BETA) * q
        return BETA * kl(p, m) + (1 - BETA) * kl(q, m)
    return kl(p, ALPHA * p + (1 - ALPHA) * q)


def outcomes(case, logits, t, temperature, cached):
    """(p, q) at position t: over all tokens, or over a cache's top k and one for the rest."""
    q = torch.softmax(logits / temperature, 0)
    if cached is None:
        return torch.softmax(case.teacher[t] / temperature, 0), q
    ids, log_p = cached.ids[t], cached.logp[t].double()
    rest = torch.ones(len(q), dtype=torch.bool).index_fill(0, ids, False)
    p = torch.cat([log_p, cached.tail[t, None].double()]).exp()
    return p / p.sum(), torch.cat([q[ids], q[rest].sum()[None]])


def reference(
    case, hidden, weight, kind, lambdas, normalizer, temperature=1.0, cached=None
) -> torch.Tensor:
    """Position by position in fp64; over k + 1 outcomes where ``cached`` is a Target."""
    names = ("reason", "act", "format")
    n = {c: int((case.labels == i + 1).sum()) for i, c in enumerate(names)}
    u = units(case, lambdas).get(normalizer, [1.0] * S)
    z = {c: sum(u[t] for t in range(S) if names[case.labels[t] - 1] == c) for c in names}
    whole = sum(z[c] for c in names if lambdas[c])
    total = torch.zeros((), dtype=torch.float64)
    for t in range(S):
        c = names[int(case.labels[t]) - 1]
        divisor = {"sum": 1, "class": n[c], "span": z[c]}.get(normalizer, whole)
        p, q = outcomes(case, weight @ hidden[t], t, temperature, cached)
        d = discrepancy(kind, p, q, case.targets[t]) * temperature**2
        total = total + lambdas[c] * u[t] * d / divisor
    return total


def shared(case, normalizer, lambdas):
    """(u_t or None, their sums by class): what the trainer gives the loss."""
    u = units(case, lambdas).get(normalizer)
    if u is None:
        return None, case.counts
    u = torch.tensor(u, dtype=torch.float64)
    return u, torch.bincount(case.labels, weights=u, minlength=4)

"""Scoring of answers: equal on all recorded pairs, and what holds for any pair."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from harness_envs.hotpotqa import contains, exact_match, f1_score
from harness_envs.hotpotqa.metrics import normalize
from hypothesis import given
from hypothesis import strategies as st

ANSWERS = st.text(st.sampled_from("aAnthe yesno.,-'é 1")) | st.sampled_from(
    ("yes", "no", "noanswer", "The yes!", "", "the", "New York City")
)


@pytest.mark.data
def test_all_recorded_pairs_score_the_same(vectors: Path) -> None:
    with gzip.open(vectors / "hotpot_metrics.jsonl.gz", "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    assert len(pairs) == 1000
    for pair in pairs:
        said, gold = pair["prediction"], pair["gold"]
        assert (normalize(said), normalize(gold)) == (pair["norm_prediction"], pair["norm_gold"])
        assert exact_match(said, gold) == pair["em"]
        assert f1_score(said, gold) == (pair["f1"], pair["precision"], pair["recall"])


@given(ANSWERS, ANSWERS)
def test_what_holds_for_any_pair(one: str, other: str) -> None:
    overlap, back = f1_score(one, other), f1_score(other, one)
    assert overlap == (back.f1, back.recall, back.precision)
    assert all(0.0 <= value <= 1.0 for value in overlap)
    assert exact_match(one, other) == exact_match(other, one)
    assert exact_match(one, one)
    if exact_match(one, other):
        assert contains(one, other)
        assert overlap.f1 == (1.0 if normalize(one) else 0.0)
    elif overlap.f1 == 1.0:
        assert sorted(normalize(one).split()) == sorted(normalize(other).split())


@pytest.mark.parametrize(
    ("said", "gold", "em", "f1", "holds"),
    [
        ("The  Chief of Protocol!", "chief of protocol", True, 1.0, True),
        ("yes, both are", "yes", False, 0.0, True),
        ("no", "yes", False, 0.0, False),
        ("noanswer given", "noanswer", False, 0.0, True),
        ("", "the", True, 0.0, True),
        ("anything", "", False, 0.0, False),
        ("New York", "New York City", False, 0.8, False),
        ("born in New York City", "New York City", False, 0.75, True),
    ],
)
def test_single_answers(said: str, gold: str, em: bool, f1: float, holds: bool) -> None:
    assert exact_match(said, gold) is em
    assert f1_score(said, gold).f1 == pytest.approx(f1)
    assert contains(said, gold) is holds

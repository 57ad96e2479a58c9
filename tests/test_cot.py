"""CoT match: its definition by hand, its properties, and which traces are set against which."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from harness_agents import checkpoints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from harness.api import evaluate
from harness.cli import app
from harness.cot import Reference, chosen, fingerprint, match, overlap, reasoning, references
from harness.metrics import measure
from harness.planning import plan
from harness.references import by_task
from harness.types import Decision, Episode, Fault, Outcome, Step, Task


def episode(*thoughts: str, task="v/1", seed=0, attempt=0, kind="t", won=True, injected=(),
            outcome=Outcome.DONE):  # fmt: skip
    steps = tuple(
        Step("obs", Decision(t, "look", injected=i in injected)) for i, t in enumerate(thoughts)
    )
    fault = Fault("EnvError", "x") if outcome is Outcome.ERROR else None
    return Episode(
        Task("e", "v", task, seed), "a", "do", steps, "end", won, float(won), outcome, attempt,
        kind, error=fault,
    )  # fmt: skip


TEACHER = episode("the mug is on the desk", "take it")


@pytest.mark.parametrize(
    ("thoughts", "recall", "precision", "f1"),
    # The teacher's words: the 2, mug, is, on, desk, take, it: 8.
    [
        (("the the the the",), 2 / 8, 2 / 4, 4 / 12),
        (("THE DESK", "mug"), 3 / 8, 3 / 3, 6 / 11),
        (("take it", "the mug is on the desk"), 1.0, 1.0, 1.0),
        (("a b c",), 0.0, 0.0, 0.0),
        (("",), 0.0, None, 0.0),
    ],
)
def test_match_by_hand(thoughts, recall, precision, f1):
    found = match(episode(*thoughts), TEACHER)
    for ours, by_hand in zip(found, (recall, precision, f1), strict=True):
        assert ours == (None if by_hand is None else pytest.approx(by_hand, abs=1e-6))


def test_rambling_raises_recall_and_lowers_precision():
    short, long = episode("the mug"), episode("the mug", "is on a b c d e f g h the desk take it")
    assert match(long, TEACHER).recall > match(short, TEACHER).recall
    assert match(long, TEACHER).precision < match(short, TEACHER).precision


def test_without_a_reference_trace_there_is_no_match_never_zero():
    assert match(episode("x"), None) == match(episode("x"), episode("", "")) == (None, None, None)
    row = measure(episode("x"), Reference(episode("", ""), second=episode("y")))
    assert (row.cot_overlap, row.cot_f1, row.cot_floor, row.cot_ceiling) == (None,) * 4
    broken = measure(episode("x", outcome=Outcome.ERROR), Reference(TEACHER, TEACHER, TEACHER))
    assert (broken.cot_overlap, broken.cot_f1, broken.cot_floor, broken.cot_ceiling) == (None,) * 4


def test_injected_thoughts_count_neither_as_ours_nor_as_the_references():
    teacher = episode("alpha", "beta", injected=(1,))
    assert match(episode("alpha"), teacher) == (1.0, 1.0, 1.0)
    assert match(episode("x", "alpha", injected=(1,)), teacher).recall == 0.0


#: A busy machine draws slowly; how fast says nothing here.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
bags = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5)).map(Counter)


@unhurried
@given(bags, bags)
def test_match_is_bounded_and_exchanging_the_sides_exchanges_recall_and_precision(ours, theirs):
    found, swapped = overlap(ours, theirs), overlap(theirs, ours)
    assert (found.recall, found.precision) == (swapped.precision, swapped.recall)
    assert found.f1 == swapped.f1
    assert all(share is None or 0.0 <= share <= 1.0 for share in found)
    if found.recall and found.precision:
        mean = 2 * found.recall * found.precision / (found.recall + found.precision)
        assert found.f1 == pytest.approx(mean, abs=2e-6)


@unhurried
@given(bags)
def test_everything_matches_itself(words):
    assert overlap(words, words) == ((1.0, 1.0, 1.0) if words else (None, None, None))


@unhurried
@given(bags, bags, bags)
def test_more_words_never_lower_recall(ours, more, theirs):
    least, most = overlap(ours, theirs), overlap(ours + more, theirs)
    assert least.recall is None or most.recall >= least.recall


def test_the_reference_is_the_won_episode_of_the_lowest_seed_and_attempt():
    recorded = [
        episode("late", seed=1),
        episode("lost", attempt=0, won=False),
        episode("cut", attempt=1, outcome=Outcome.TRUNCATED),
        episode("this", attempt=2),
        episode("other", task="v/2", won=False),
        episode("elsewhere", task="v/9"),
    ]
    for order in (recorded, recorded[::-1]):
        found = chosen(order, ["v/1", "v/2"])
        assert {t: reasoning(e, None) for t, e in found.items()} == {"v/1": Counter(["this"])}


def test_the_second_sampling_is_of_another_seed_or_attempt_won_or_lost():
    first = episode("one")
    again = [
        episode("same draw"),
        episode("broke", attempt=1, outcome=Outcome.ERROR),
        episode("lost", attempt=2, won=False),
        episode("later", attempt=3),
    ]
    found = references(lambda: [first], lambda: again, ["v/1"], str)
    assert found["v/1"].second == again[2]
    assert references(lambda: [first], lambda: again[:2], ["v/1"], str)["v/1"].second is None


def test_the_floor_is_the_next_task_of_the_type_in_another_group():
    def group(task):
        return task.split("/")[0]

    tasks = ["f/1", "f/2", "g/1", "x/1", "h/1", "f/3", "y/1", "g/2"]
    kinds = {"x/1": "alone", "y/1": "silent"}
    recorded = [
        episode("" if t == "y/1" else t, task=t, kind=kinds.get(t, "t")) for t in reversed(tasks)
    ]
    found = references(lambda: recorded, lambda: recorded, tasks, group)
    others = {t: r.other.task.id if r.other else None for t, r in found.items()}
    assert others == {
        "f/1": "g/1", "f/2": "g/1", "g/1": "h/1", "x/1": None, "h/1": "f/3", "f/3": "g/2",
        "y/1": None, "g/2": "f/1",
    }  # fmt: skip
    assert list(found) == tasks
    one = references(lambda: recorded, lambda: (), tasks[:2], group)
    assert [r.other for r in one.values()] == [None, None]


def test_floor_and_ceiling_stand_beside_the_match():
    other, second = episode("the cat is on the mat"), episode("the mug is on it")
    row = measure(episode("the mug is on the desk"), Reference(TEACHER, other, second))
    assert row.cot_overlap == 6 / 8
    assert row.cot_floor == pytest.approx(4 / 6, abs=1e-6)
    assert row.cot_ceiling == pytest.approx(5 / 8)
    assert (row.cot_floor_f1, row.cot_ceiling_f1) == pytest.approx((8 / 12, 10 / 13), abs=1e-6)
    row = measure(episode("the mug"), Reference(TEACHER, other))  # its F1 is not its recall
    assert (row.cot_floor, row.cot_floor_f1) == pytest.approx((1 / 6, 2 / 8), abs=1e-6)


def test_a_match_is_of_the_pieces_that_thoughts_are_cut_into():
    """Letters of "a mug" and "a gum" are the same, their words are not."""
    said, wanted = episode("a mug"), episode("a gum")
    assert match(said, wanted).recall == match(said, wanted, None, str.split).recall == 1 / 2
    assert match(said, wanted, None, list).recall == 1
    row = measure(said, Reference(wanted, episode("a"), episode("mug", "a")), pieces=list)
    assert (row.cot_overlap, row.cot_floor, row.cot_ceiling) == (1, 1, pytest.approx(4 / 5))


@pytest.mark.models
def test_a_match_in_the_tokens_of_an_agent_is_told_beside_that_in_words(tmp_path):
    """As its tokenizer cuts a thought behind its label; what is recorded stays in words."""
    transformers = pytest.importorskip("transformers")
    played = evaluate("random", "alfworld", tasks="builtin-dev[:8]", max_steps=4, out=tmp_path,
                      reference="expert")  # fmt: skip
    run = evaluate("expert", "alfworld", tasks="builtin-dev[:8]", max_steps=4, out=tmp_path,
                   reference="expert", seeds=(1,))  # fmt: skip
    before = (run.path / "metrics.jsonl").read_bytes()
    result = CliRunner().invoke(app, ["score", str(run.path), "--tokenizer", "ours-tiny"])
    assert result.exit_code == 0, result.output
    assert (run.path / "metrics.jsonl").read_bytes() == before
    folder = checkpoints.shipped()["ours-tiny"]
    tok = transformers.AutoTokenizer.from_pretrained(folder)

    def tokens(e: Episode) -> Counter[int]:
        said = [s.decision.reasoning for s in e.steps]
        return Counter(i for t in said for i in tok.encode(f" {t}", add_special_tokens=False))

    wanted = by_task(run.meta, tmp_path, run.path)
    recalls = []
    for e in (e for e in run.episodes() if e.task.id in wanted):
        ours, theirs = tokens(e), tokens(wanted[e.task.id].episode)
        recalls.append((ours & theirs).total() / theirs.total())
    told = f"CoT match, in tokens of ours-tiny: overlap {100 * sum(recalls) / len(recalls):.1f}"
    assert told in result.stdout
    assert "CoT match, in words: overlap" in result.stdout
    for agent, why in (("random", "no language model"), ("nobody", "Unknown agent")):
        refused = CliRunner().invoke(app, ["score", str(played.path), "--tokenizer", agent])
        assert why in str(refused.exception)


def test_references_that_say_or_do_otherwise_have_another_fingerprint():
    (first, *rest), said = TEACHER.steps, fingerprint({"v/1": Reference(TEACHER, None)})
    for decision in (Decision("otherwise", "look"), Decision(first.decision.reasoning, "go")):
        steps = (msgspec.structs.replace(first, decision=decision), *rest)
        other = msgspec.structs.replace(TEACHER, steps=steps)
        assert fingerprint({"v/1": Reference(other, None)}) != said
    slower = msgspec.structs.replace(TEACHER, seconds=9.0)
    assert fingerprint({"v/1": Reference(slower, None)}) == said


def test_traces_to_learn_from_are_measured_against_nothing_unless_asked():
    def reference(**options):
        return plan("random", "alfworld", tasks="builtin-dev[:2]", **options).reference

    assert (reference(), reference(kind="collect")) == ("expert", None)
    assert reference(kind="collect", reference="oracle") == "oracle"

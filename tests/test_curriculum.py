"""What a curriculum orders by: C(tau) of the paper's Eq. 7, whether a teacher is cached or live."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from distill_traces import episode, recipe, record
from harness_distillation import cli, tokenizer, traces
from harness_distillation import recipe as recipes
from harness_distillation.curriculum import Sampler, difficulty
from harness_distillation.dataset import Samples, encode

from harness.errors import ConfigError, DataError
from harness.transcript import Kind
from harness.types import Task

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"


def encoded(*, per_step: bool) -> Samples:
    episodes = [episode(i) for i in range(25)]
    encoder = tokenizer.SegmentEncoder(tokenizer.train(episodes, HEADER, 400))
    return encode(episodes, encoder, HEADER, 512, 0, per_step=per_step)[0]


@pytest.fixture(scope="module")
def samples() -> Samples:
    return encoded(per_step=False)


def z(values: list[float]) -> np.ndarray:
    return (np.array(values) - np.mean(values)) / np.std(values)


@pytest.mark.parametrize("weights", [(0, 0, 1), (0.2, 0.5, 0.3), (1, 0, 0), (0, 1, 0)])
def test_difficulty_weighs_lengths_and_mean_entropy(samples, weights):
    """Sequence by sequence from the definition, with entropies that are known."""
    entropy = np.random.default_rng(0).gamma(2.0, 1.0, int(samples.taught[-1])).astype(np.float32)
    reasons, acts, means, place = [], [], [], 0
    for s in range(len(samples.lengths)):
        kinds = samples.kinds[samples.part(s)].tolist()
        reasons.append(kinds.count(Kind.REASON))
        acts.append(kinds.count(Kind.ACT))
        taught = sum(kind != Kind.CONTEXT for kind in kinds)
        means.append(float(np.mean(entropy[place : place + taught].astype(np.float64))))
        place += taught
    a, b, g = weights
    objective = recipes.Objective(alpha=a, beta=b, gamma=g)
    wanted = a * z(reasons) + b * z(acts) + g * z(means)
    assert np.allclose(difficulty(samples, objective, entropy), wanted, atol=1e-9)
    without = difficulty(samples, objective)
    assert np.allclose(without, a * z(reasons) + b * z(acts), atol=1e-9)
    assert np.allclose(without, wanted) == (g == 0)


def test_difficulty_within_environments_orders_no_environment_before_another(samples):
    """Each environment's sequences as if they were all, whatever the others are like."""
    entropy = np.random.default_rng(0).gamma(2.0, 1.0, int(samples.taught[-1])).astype(np.float32)
    group = np.arange(len(samples.lengths)) % 2
    entropy[np.repeat(group == 1, np.diff(samples.taught))] += 10
    within = recipes.Objective(curriculum_within="environment")
    found = difficulty(samples, within, entropy, group)
    for one in (0, 1):
        assert abs(found[group == one].mean()) < 1e-12
    pooled = difficulty(samples, recipes.Objective(), entropy, group)
    assert pooled[group == 1].mean() - pooled[group == 0].mean() > 0.5
    alone = difficulty(samples, within, entropy, np.zeros_like(group))
    assert np.array_equal(alone, difficulty(samples, recipes.Objective(), entropy))
    with pytest.raises(DataError, match="environments"):
        difficulty(samples, within, entropy)


def test_difficulty_of_episodes_is_that_of_all_their_parts(samples):
    """Cut or whole, an episode is as hard, and so is every sequence of it."""
    cut = encoded(per_step=True)
    assert len(cut.lengths) > len(samples.lengths) == len(set(cut.episode.tolist()))
    assert int(cut.taught[-1]) == int(samples.taught[-1])
    entropy = np.random.default_rng(0).gamma(2.0, 1.0, int(samples.taught[-1])).astype(np.float32)
    by_episode = recipes.Objective(curriculum_unit="episode")
    whole = difficulty(samples, recipes.Objective(), entropy)
    assert np.allclose(difficulty(samples, by_episode, entropy), whole, atol=1e-9)
    assert np.allclose(difficulty(cut, by_episode, entropy), whole[cut.episode], atol=1e-9)
    group = np.arange(len(samples.lengths)) % 2
    within = {"curriculum_within": "environment"}
    found = difficulty(
        cut, msgspec.structs.replace(by_episode, **within), entropy, group[cut.episode]
    )
    wanted = difficulty(samples, recipes.Objective(**within), entropy, group)
    assert np.allclose(found, wanted[cut.episode], atol=1e-9)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("run") / "episodes.jsonl", 40)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, run) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    out = folder / "teacher"
    args = [str(recipe(folder, steps=15)), "--data", str(run), "--out", str(out), "--quiet"]
    assert cli.main(args) == 0
    return out


def trained(
    folder: Path, run: Path, teacher: Path, signal: str, gamma: float, *more: str
) -> list[dict]:
    """The log of `sad` in the paper's order, weighed by entropy alone, or where ``gamma`` is 0 by
    the length of reasoning."""
    text = (
        f"[objective]\nname = 'sad'\ncurriculum = 'sorted'\nalpha = {float(gamma == 0)}\n"
        f"beta = 0.0\ngamma = {gamma}\n[teacher]\ncheckpoint = '{teacher}'\nsignal = '{signal}'\n"
        "min_mass = 0.3\ntop_k = 400\n"
    )
    path = recipe(folder, text, steps=4)
    path.write_text(path.read_text().replace("[optim]", "[optim]\nprecision = 'fp32'"))
    out = folder / f"{signal}-{gamma}"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet", *more]) == 0
    log = out / "training" / "log.jsonl"
    return [msgspec.json.decode(x) for x in log.read_bytes().splitlines()] if log.exists() else []


def test_a_live_teacher_orders_as_a_cached_one(tmp_path, run, teacher):
    cached, live = (trained(tmp_path, run, teacher, s, 1.0) for s in ("cache", "live"))
    for name in ("n_reason", "n_act", "tokens"):
        assert [x[name] for x in live] == [x[name] for x in cached]
    assert [x["loss"] for x in live] == pytest.approx([x["loss"] for x in cached], rel=1e-3)
    without = trained(tmp_path, run, teacher, "live", 0.0)
    assert [x["n_reason"] for x in without] != [x["n_reason"] for x in live]
    assert not (tmp_path / "live-0.0" / "training" / "cache").exists()


def test_a_live_teachers_entropies_are_computed_once(tmp_path, run, teacher):
    assert trained(tmp_path, run, teacher, "live", 1.0, "--stage", "cache") == []
    place = tmp_path / "live-1.0" / "training" / "cache"
    manifest = msgspec.json.decode((place / "manifest.json").read_bytes())
    assert manifest["key"]["top_k"] == 1
    shards = {p: p.stat().st_mtime_ns for p in place.glob("*.npz")}
    assert shards
    assert len(trained(tmp_path, run, teacher, "live", 1.0)) == 4
    assert {p: p.stat().st_mtime_ns for p in place.glob("*.npz")} == shards


def test_attempts_at_one_task_are_ordered_within_its_environment(tmp_path):
    """Episodes outnumber tasks then; what training read is what the definition reads."""
    run = tmp_path / "episodes.jsonl"
    lines = []
    for i in range(40):
        env = "alfworld" if i < 16 else "webshop"
        task = Task(env, "train", f"train/toy-{i // 2}/trial")
        one = msgspec.structs.replace(episode(i), task=task, attempt=i % 2)
        lines.append(msgspec.json.encode(one) + b"\n")
    run.write_bytes(b"".join(lines))
    objective = "[objective]\nname = 'sad_ce'\ncurriculum = 'sorted'\n"
    path = recipe(tmp_path, objective + "curriculum_within = 'environment'\n", steps=4)
    out = tmp_path / "out"
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--quiet"]) == 0
    log = (out / "training" / "log.jsonl").read_bytes().splitlines()
    found = [msgspec.json.decode(line)["n_reason"] for line in log]

    samples = Samples.load(out / "training" / "data" / "samples.npz")
    kept = traces.load([str(run)]).episodes
    learn, _ = traces.split_heldout(kept, 0.1, 0)
    chosen = np.flatnonzero(np.isin(samples.episode, learn))
    group = np.array([kept[i].task.env == "webshop" for i in samples.episode]).astype(int)
    reasons = [
        np.isin(samples.kinds[samples.part(s)], (Kind.REASON, Kind.REASON_FORMAT)).sum()
        for s in range(len(samples.lengths))
    ]
    wanted = {}
    for name, of in (("own", group), ("one", np.zeros_like(group))):
        sampler = Sampler(
            samples, chosen, recipes.load(str(path)).objective, 0, rows=2, row_tokens=1024, steps=4,
            group=of,
        )  # fmt: skip
        wanted[name] = [sum(reasons[s] for r in sampler.rows(n) for s in r) for n in range(4)]
    assert found == wanted["own"] != wanted["one"]


def test_rounds_of_play_have_no_curriculum(tmp_path):
    """Each has samples of its own, so that an order would begin anew with each."""
    text = """
[objective]
name = "gkd"
{}
[teacher]
checkpoint = "models/t"
signal = "live"
[on_policy]
env = "alfworld"
tasks = "builtin-dev"
"""
    told = r'(?s)begin anew every round.*Set \[objective\] curriculum = "random"'
    for order in ("pacing", "sorted", "reverse"):
        for gamma in ("", "gamma = 0.0"):
            given = f"curriculum = '{order}'\n{gamma}"
            with pytest.raises(ConfigError, match=told):
                recipes.load(str(recipe(tmp_path, text.format(given))))
    recipes.load(str(recipe(tmp_path, text.format("curriculum = 'random'"))))
    recipes.load(str(recipe(tmp_path, text.format(""))))


@pytest.mark.parametrize("schedule", ["sorted", "reverse", "pacing"])
def test_an_order_by_nothing_is_refused(tmp_path, schedule):
    """All weights 0, or only that of an entropy that cross-entropy with the text has not."""
    text = "[objective]\nname = '{}'\ncurriculum = '{}'\nalpha = 0.0\nbeta = 0.0\ngamma = {}\n"
    teacher = "[teacher]\ncheckpoint = 'models/t'\n"
    for name, gamma in (("sad", 0.0), ("sft", 1.0)):
        path = recipe(tmp_path, text.format(name, schedule, gamma) + teacher)
        with pytest.raises(ConfigError, match=f'"{schedule}" has nothing to order by'):
            recipes.load(str(path))
    recipes.load(str(recipe(tmp_path, text.format("sad", schedule, 1.0) + teacher)))
    recipes.load(str(recipe(tmp_path, text.format("sad", "random", 0.0) + teacher)))

"""On-policy distillation: who plays, what is learned from it, and that it goes on exactly."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from broken import break_episode
from distill_traces import episode, recipe, record
from harness_distillation import checkpoint, cli, models, tokenizer
from harness_distillation import recipe as recipes
from harness_distillation.dataset import encode
from harness_distillation.gkd import Mixture, round_tasks, teacher_share, with_round
from harness_distillation.recipe import OnPolicy

from harness.errors import ConfigError, DataError
from harness.runs import find_runs
from harness.transcript import Kind, Segment, render, render_decision
from harness.types import Completion, Decision, Step

pytestmark = pytest.mark.models
PLAY = OnPolicy(env="alfworld", tasks="builtin-dev", rounds=5, episodes=60)


def test_the_teacher_leads_less_and_less():
    shares = [teacher_share(PLAY, n) for n in range(5)]
    assert shares == pytest.approx([0.5, 0.375, 0.25, 0.125, 0.0])
    assert teacher_share(msgspec.structs.replace(PLAY, rounds=1), 0) == 0.5


def test_rounds_go_through_all_tasks_before_one_comes_again():
    rounds = [round_tasks(PLAY, n, seed=3) for n in range(4)]
    first = [t.id for r in rounds[:3] for t in r[0].tasks]
    assert len(set(first)) == 180
    every = {t.id for r in rounds for s in r for t in s.tasks}
    assert len(every) == 200
    assert round_tasks(PLAY, 1, seed=3)[0].hash == rounds[1][0].hash
    assert round_tasks(PLAY, 1, seed=4)[0].hash != rounds[1][0].hash


def test_a_round_has_all_its_episodes_however_few_tasks_there_are():
    few = msgspec.structs.replace(PLAY, tasks="builtin-dev[:7]", episodes=17)
    for number in range(5):
        sets = round_tasks(few, number, seed=3)
        assert len(sets[0].tasks) == 7
        assert sum(len(s.tasks) for s in sets) == 17
        assert all(len({t.id for t in s.tasks}) == len(s.tasks) for s in sets)
    # Where the sequence begins anew within a round a task may come twice.
    assert sum(len(s.tasks) for s in round_tasks(PLAY, 3, seed=3)) == 60


class Says:
    def __init__(self, word: str) -> None:
        self.word = word

    def act(self, instruction, history, observation):
        return Decision("", self.word)


def test_each_decision_is_drawn_from_its_own_seed():
    mixed = Mixture(Says("student"), Says("teacher"), 0.3)
    words = [mixed.act("", (), "", {"sampling_seed": s}).action for s in range(2000)]
    assert 0.26 < words.count("teacher") / 2000 < 0.34
    assert words == [mixed.act("", (), "", {"sampling_seed": s}).action for s in range(2000)]
    for share, word in ((0.0, "student"), (1.0, "teacher")):
        only = Mixture(Says("student"), Says("teacher"), share)
        assert {only.act("", (), "", {"sampling_seed": s}).action for s in range(50)} == {word}


@pytest.fixture(scope="module")
def encoder() -> tokenizer.SegmentEncoder:
    header = "Task: {instruction}\n"
    return tokenizer.SegmentEncoder(tokenizer.train([episode(i) for i in range(40)], header, 400))


def block(text: str, ids: tuple[int, ...]) -> tuple[list[Segment], Completion]:
    completion = Completion(text=text, ids=ids)
    step = Step("You see a mug 1.", Decision("x", "go", completion))
    return render("", [step])[1], completion


REPLY = "Reasoning: I need a mug é.\nAction: go to desk 1\n"


def test_canonical_ids_are_labelled_as_segments_are(encoder):
    segments = render_decision(Decision("", "x", Completion(text=REPLY)))
    ids = tuple(encoder.segments(segments).ids.tolist())
    found, completion = block(REPLY, (*ids, encoder.tokenizer.eos_token_id))
    canonical = encoder.segments(found)
    kept = encoder.as_sampled(found, completion, canonical)
    assert np.array_equal(kept.ids, canonical.ids)
    assert np.array_equal(kept.kinds, canonical.kinds)


def test_sampled_ids_are_kept_however_the_text_is_tokenised(encoder):
    """One byte a token: as far from the tokenizer's own cuts as can be."""
    vocab = encoder.tokenizer.get_vocab()
    alphabet = encoder.tokenizer.backend_tokenizer.pre_tokenizer
    letters = [c for piece, _ in alphabet.pre_tokenize_str(REPLY) for c in piece]
    ids = tuple(vocab[c] for c in letters)
    assert encoder._text(ids) == REPLY
    found, completion = block(REPLY, ids)
    canonical = encoder.segments(found)
    kept = encoder.as_sampled(found, completion, canonical)
    assert tuple(kept.ids[-len(ids) :].tolist()) == ids
    for kind in (Kind.REASON, Kind.ACT):
        said = encoder._text(kept.ids[kept.kinds == kind].tolist())
        assert said.strip() == "".join(s.text for s in found if s.kind is kind).strip()


def test_a_token_over_two_segments_is_of_its_first_sign():
    """Of a blank that ends a segment and a newline that opens the next, the newline decides."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, "ĠĊ", "ĠĊA", ":Ġ"])}
    model = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [("Ġ", "Ċ"), ("ĠĊ", "A"), (":", "Ġ")])
    )
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    model.decoder = tokenizers.decoders.ByteLevel()
    encoder = tokenizer.SegmentEncoder(PreTrainedTokenizerFast(tokenizer_object=model))
    text = "Reasoning: a mug \nAction: go up \n"
    found, completion = block(text, encoder.encode(text))
    kept = encoder.as_sampled(found, completion, encoder.segments(found))
    pieces = [encoder.tokenizer.decode([i]) for i in completion.ids]
    kinds = kept.kinds[-len(pieces) :].tolist()
    assert [(p, k) for p, k in zip(pieces, kinds, strict=True) if len(p) > 1] == [
        (": ", Kind.REASON_FORMAT), (" \nA", Kind.REASON_FORMAT),
        (": ", Kind.ACT_FORMAT), (" \n", Kind.ACT_FORMAT),
    ]  # fmt: skip
    of = {kind: "".join(p for p, k in zip(pieces, kinds, strict=True) if k == kind)
          for kind in (Kind.REASON, Kind.ACT)}  # fmt: skip
    assert of == {Kind.REASON: "a mug", Kind.ACT: "go up"}


def test_a_reply_cut_short_is_closed_and_one_with_more_is_retokenised(encoder):
    text = "Reasoning: I need a mug."
    ids = tuple(encoder.segments(render_decision(Decision("", None, Completion(text=text)))).ids)
    short = tuple(int(i) for i in ids[:-1])
    found, completion = block(text, short)
    canonical = encoder.segments(found)
    kept = encoder.as_sampled(found, completion, canonical)
    assert encoder._text(kept.ids.tolist()).endswith("mug.\n")
    assert kept.kinds[-1] == Kind.REASON_FORMAT
    more = msgspec.structs.replace(completion, ids=(*short, *encoder.encode(" more")))
    assert encoder.as_sampled(found, more, canonical) is canonical


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    data = record(folder / "run" / "episodes.jsonl", 60)
    out = folder / "teacher"
    path = recipe(folder, steps=8)
    assert cli.main([str(path), "--data", str(data), "--out", str(out), "--quiet"]) == 0
    return out


GKD = """
[teacher]
checkpoint = "{teacher}"
signal = "live"
[objective]
name = "gkd"
[on_policy]
env = "alfworld"
tasks = "builtin-train[:8]"
rounds = 2
episodes = 2
max_steps = 2
"""


def gkd(folder: Path, teacher: Path, *args: str, change: Mapping[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    path = recipe(folder, GKD.format(teacher=teacher), steps=4, student=f"start = '{teacher}'")
    text = path.read_text().replace('name = "tiny"', 'name = "tiny"\nmax_new_tokens = 10', 1)
    for before, after in (change or {}).items():
        text = text.replace(before, after)
    path.write_text(text)
    assert cli.main([str(path), "--out", str(folder / "out"), "--quiet", *args]) == 0
    return folder / "out"


def lines(out: Path) -> list[dict]:
    timing = {"seconds", "tokens_per_s", "mfu"}
    found = (out / "training" / "log.jsonl").read_bytes().splitlines()
    return [{k: v for k, v in msgspec.json.decode(x).items() if k not in timing} for x in found]


def test_on_policy_training_goes_on_exactly_where_it_stopped(tmp_path, teacher):
    whole = gkd(tmp_path / "whole", teacher)
    for steps in (1, 2, 3, 4):  # minutes are the command's, also where a round ends in between
        broken = gkd(tmp_path / "broken", teacher, "--max-minutes", "0")
        assert len(lines(broken)) == steps
        assert len(list((broken / "training" / "rounds").iterdir())) == (steps + 1) // 2
    assert gkd(tmp_path / "broken", teacher) == broken
    assert lines(broken) == lines(whole)
    assert [line["step"] for line in lines(whole)] == [1, 2, 3, 4]
    # The student starts as the teacher: at first it unlearns what both say of no token, no more.
    assert lines(whole)[0]["loss"] == pytest.approx(0.0, abs=0.05)
    a, b = (models.load(out).state_dict() for out in (whole, broken))
    assert all(torch.equal(a[k], b[k]) for k in a)
    runs = [r for f in sorted((whole / "training" / "rounds").iterdir()) for r in find_runs(f)]
    assert [r.meta.policy["teacher_share"] for r in runs] == [0.5, 0.0]
    assert [len(r.meta.task_set.tasks) for r in runs] == [2, 2]
    sides = runs[1].meta.policy
    assert sides["student"]["weights_sha256"] != sides["teacher"]["weights_sha256"]
    for out in (whole, broken):
        assert_notes_tell_all_rounds(out)


def test_a_tracker_is_sent_every_round(tmp_path, teacher):
    from test_trackers import scalars  # skips where trackers are not installed

    out = gkd(tmp_path / "told", teacher, "--tracker", "tensorboard")
    found = scalars(out / "training")
    for line in lines(out):
        assert found["loss", line["step"]] == pytest.approx(line["loss"], rel=1e-6)
    assert len({step for _, step in found}) == 4


def assert_notes_tell_all_rounds(out: Path) -> None:
    """As other students' do: N_r : N_a, supervised tokens, packages, and hashes of the runs."""
    notes = checkpoint.read_notes(out)
    runs = [r for f in sorted((out / "training" / "rounds").iterdir()) for r in find_runs(f)]
    samples, _ = encode(
        [e for run in runs for e in run.episodes()],
        tokenizer.SegmentEncoder(tokenizer.load(out)), "Task: {instruction}\n", 512, 10,
        sampled=True,
    )  # fmt: skip
    counts = np.bincount(samples.kinds, minlength=len(Kind))
    reason = int(counts[Kind.REASON] + counts[Kind.REASON_FORMAT])
    act = int(counts[Kind.ACT] + counts[Kind.ACT_FORMAT])
    assert notes["reason_to_act"] == (reason / act if act else None)
    assert notes["supervised"] == {"reason": reason, "act": act}
    files = [(r.path / "episodes.jsonl").read_bytes() for r in runs]
    assert notes["parents"]["runs"] == [hashlib.sha256(f).hexdigest() for f in files]
    assert {"teacher", "start"} < notes["parents"].keys()
    assert set(notes["packages"]) == {"torch", "transformers", "tokenizers"}
    first = checkpoint.read_notes(out / "training" / "start")
    assert "reason_to_act" not in first  # it has learned from no round yet
    assert [sum(one["tokens"].values()) > 0 for one in notes["rounds"]] == [True, True]


def test_rounds_are_noted_one_by_one_and_told_together(tmp_path, encoder):
    loaded, header = recipes.load("gkd-tiny"), "Task: {instruction}\n"
    files, samples = [], []
    for number in range(2):
        files.append(record(tmp_path / str(number) / "episodes.jsonl", 5, first=10 * number))
        episodes = [episode(10 * number + i) for i in range(5)]
        samples.append(encode(episodes, encoder, header, 512, 10)[0])
    notes = {"parents": {"teacher": "t"}}

    def told(number: int, last: Path | None) -> dict:
        return with_round(notes, loaded, last, number, [files[number]], samples[number])

    first = told(0, None)
    (tmp_path / "harness.json").write_bytes(msgspec.json.encode(first))
    both = told(1, tmp_path)
    (tmp_path / "harness.json").write_bytes(msgspec.json.encode(both))
    assert told(1, tmp_path) == both  # a round that goes on is told once
    kinds = np.concatenate([s.kinds for s in samples])
    reason = int(np.isin(kinds, (Kind.REASON, Kind.REASON_FORMAT)).sum())
    act = int(np.isin(kinds, (Kind.ACT, Kind.ACT_FORMAT)).sum())
    assert both["reason_to_act"] == pytest.approx(reason / act)
    assert both["reason_to_act"] != first["reason_to_act"]
    assert both["supervised"] == {"reason": reason, "act": act}
    assert both["parents"]["teacher"] == "t"
    assert len(both["parents"]["runs"]) == 2
    # Of a training that began before its rounds were noted nothing is said of a part of them.
    (tmp_path / "harness.json").write_text("{}")
    assert told(1, tmp_path) == notes


@pytest.mark.parametrize("stage", ["collect", "prepare", "cache"])
def test_a_stage_that_on_policy_training_has_not_is_told(tmp_path, teacher, stage, capfd):
    path = recipe(tmp_path, GKD.format(teacher=teacher), steps=4)
    assert cli.main([str(path), "--out", str(tmp_path / "out"), "--stage", stage]) == 0
    assert f"'gkd' has no stage '{stage}', it plays as it trains" in capfd.readouterr().err


def test_tasks_are_played_again_where_episodes_are_more(tmp_path, teacher):
    few = {"builtin-train[:8]": "builtin-train[:2]", "episodes = 2": "episodes = 5"}
    out = gkd(tmp_path / "few", teacher, "--max-minutes", "0", change=few)
    place = out / "training" / "rounds" / "000"
    played = [e for r in find_runs(place) for e in r.episodes()]
    assert len({e.key for e in played}) == 5
    assert len({e.task.id for e in played}) == 2
    first = played[0].task.id
    said = [[s.decision.completion.text for s in e.steps] for e in played if e.task.id == first]
    assert said[0] != said[1]
    # A round that was learned from is as it was, were it of fewer episodes.
    shutil.rmtree(find_runs(place)[-1].path)
    with pytest.raises(DataError, match="another set of samples"):
        gkd(tmp_path / "few", teacher, change=few)
    assert len(find_runs(place)) == 2


@pytest.mark.parametrize("header", ["Task: {instruction}\n", "My goal is this: {instruction}\n"])
def test_both_sides_play_under_the_header_that_is_trained_under(tmp_path, teacher, header):
    """First prompts are as long as what opens the samples of their episodes."""
    change = {"[data]\n": f"[data]\nheader = {msgspec.json.encode(header).decode()}\n"}
    out = gkd(tmp_path / "out", teacher, "--max-minutes", "0", change=change)
    encoder = tokenizer.SegmentEncoder(tokenizer.load(out / "training" / "start"))
    found = [e for r in find_runs(out / "training" / "rounds" / "000") for e in r.episodes()]
    assert found
    for e in found:
        blocks = render(header.replace("{instruction}", e.instruction), (), e.steps[0].observation)
        opening = encoder.segments([s for one in blocks for s in one]).ids
        assert e.steps[0].decision.completion.prompt_tokens == len(opening)


def test_episodes_that_broke_are_played_again_before_they_are_learned_from(tmp_path, teacher):
    whole = gkd(tmp_path / "whole", teacher, "--max-minutes", "0")
    out = gkd(tmp_path / "broken", teacher, "--max-minutes", "0")
    [run] = find_runs(out / "training" / "rounds" / "000")
    for place in ("checkpoints", "log.jsonl"):  # stopped before the first step
        (out / "training" / place).rename(tmp_path / place)
    break_episode(run.path)
    gkd(tmp_path / "broken", teacher, "--max-minutes", "0")
    [run] = find_runs(out / "training" / "rounds" / "000")
    assert (run.summary.n, run.summary.errors) == (2, 0)
    assert lines(out) == lines(whole)


def test_a_teacher_that_was_changed_meanwhile_is_refused(tmp_path, teacher):
    mine = shutil.copytree(teacher, tmp_path / "teacher", ignore=shutil.ignore_patterns("training"))
    gkd(tmp_path / "one", mine, "--max-minutes", "0")
    changed = models.load(mine)
    with torch.no_grad():
        next(changed.parameters()).add_(0.01)
    changed.save_pretrained(mine)
    with pytest.raises(DataError, match="comes from another teacher"):
        gkd(tmp_path / "one", mine)


def test_another_recipe_is_refused_before_anything_is_written(tmp_path, teacher):
    """By a checkpoint, and by the start of a training that has none yet."""
    training = gkd(tmp_path, teacher, "--max-minutes", "0") / "training"
    before = (training / "recipe.json").read_bytes()
    with pytest.raises(DataError, match="step-0000001 was trained with another recipe"):
        gkd(tmp_path, teacher, "--seed", "5")
    shutil.rmtree(training / "checkpoints")
    with pytest.raises(DataError, match="start was trained with another recipe"):
        gkd(tmp_path, teacher, "--seed", "5")
    assert (training / "recipe.json").read_bytes() == before


def test_what_does_not_go_together_is_refused(tmp_path, teacher):
    for before, after, message in (
        ('signal = "live"', 'signal = "cache"', 'signal = "live"'),
        ('name = "gkd"', 'name = "kd"', "go together"),
        ("rounds = 2", "rounds = 9", "rounds in 1..steps"),
        ('name = "gkd"', 'name = "gkd"\nobs_weight = 0.5', "no obs_weight, masks"),
        ('name = "gkd"', 'name = "gkd"\nmasks = "random_span"', "no obs_weight, masks"),
    ):
        path = recipe(tmp_path, GKD.format(teacher=teacher).replace(before, after), steps=4)
        with pytest.raises(ConfigError, match=message):
            recipes.load(str(path))
    for more in ({"samples": "step"}, {"paper_truncate": 64}):
        with pytest.raises(ConfigError, match="samples or paper_truncate"):
            recipes.load("gkd-tiny", {"data": more})
    loaded = recipes.load("gkd-tiny")
    assert (loaded.objective.divergence, loaded.teacher.signal) == ("jsd", "live")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[dev]\nenv = 'alfworld'\ntasks = 'builtin-train[6:9]'\n", r"out of \[dev\]"),
        ("[data]\nexclude = ['alfworld/builtin-train[7:9]']\n", r"out of \[data\] exclude"),
    ],
)
def test_what_is_measured_on_is_refused_before_it_is_played(tmp_path, teacher, more, message):
    path = recipe(tmp_path, GKD.format(teacher=teacher), steps=4)
    if more.startswith("[data]"):
        path.write_text(path.read_text().replace("[data]\n", more))
    else:
        path.write_text(path.read_text() + more)
    with pytest.raises(DataError, match=message):
        cli.main([str(path), "--out", str(tmp_path / "out"), "--quiet"])
    assert not (tmp_path / "out").exists()

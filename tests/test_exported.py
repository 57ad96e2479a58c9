"""Training data: every form says what was seen and said, and the way there and back loses none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from distill_traces import episode as toy
from harness_distillation import traces
from harness_distillation.imports.exported import SOURCE, read_exported
from harness_distillation.imports.run import import_files
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import harness
from harness import dataset, registry
from harness.cli import app
from harness.errors import ConfigError, DataError, HarnessError, TraceError
from harness.loop import tidy
from harness.recorder import Recorder
from harness.rows import COLUMNS, FORMS, HEADER, UNTOLD, rows, unfit
from harness.runs import complete, write_meta
from harness.transcript import join, messages, parse, render, render_decision, reply
from harness.types import Completion, Decision, Episode, Fault, Outcome, Step, Task

ENVS = ("alfworld", "hotpotqa", "webshop")
WHOLE = ("messages", "sharegpt", "spans")


def collected(env: str, out: Path, error_rate: float = 0.0):
    return harness.evaluate(
        "expert", env, tasks="builtin-train[:4]", kind="collect", out=out, error_rate=error_rate
    )


@pytest.fixture(scope="module", params=ENVS)
def clean(request, tmp_path_factory):
    """A run of one of the environments."""
    return collected(request.param, tmp_path_factory.mktemp("clean"))


@pytest.fixture(scope="module", params=ENVS)
def slipped(request, tmp_path_factory):
    """A run with slips put in."""
    run = collected(request.param, tmp_path_factory.mktemp("slips"), error_rate=0.3)
    assert any(s.decision.injected for e in run.episodes() for s in e.steps)
    return run


def untimed(episode: Episode) -> Episode:
    """An episode without what no row holds: times, tokens and measures."""
    steps = [
        msgspec.structs.replace(
            step, policy_seconds=0.0, env_seconds=0.0,
            decision=msgspec.structs.replace(step.decision, completion=None),
        )
        for step in episode.steps
    ]  # fmt: skip
    return msgspec.structs.replace(episode, steps=tuple(steps), seconds=0.0, measures={})


def expected(episode: Episode, form: str) -> Episode:
    """What comes back of an episode; a turn of a chat has lost its last newlines."""
    bare = untimed(episode)
    if form == "spans":
        return bare
    steps = []
    for step in bare.steps:
        turn = f"Observation: {step.observation}".rstrip("\n")
        seen = turn.removeprefix("Observation: ")
        steps.append(msgspec.structs.replace(step, observation=seen))
    return msgspec.structs.replace(bare, steps=tuple(steps))


def there_and_back(episodes, form: str, folder: Path, header: str = HEADER) -> list[Episode]:
    file = folder / "rows.jsonl"
    made = [row for e in episodes for row in rows(e, form, header, "a-run")]
    assert [list(row) for row in made] == [list(COLUMNS[form])] * len(made)
    file.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in made))
    back = [e for _, e in read_exported(file)]
    assert [row for e in back for row in rows(e, form, header, "a-run")] == made
    return back


# The way there and back -------------------------------------------------------------------


@pytest.mark.parametrize("form", WHOLE)
def test_recorded_episodes_come_back(clean, form, tmp_path):
    episodes = list(clean.episodes())
    assert there_and_back(episodes, form, tmp_path) == [expected(e, form) for e in episodes]


@pytest.mark.parametrize("form", ["sharegpt", "spans"])
def test_slips_come_back_as_slips(slipped, form, tmp_path):
    episodes = list(slipped.episodes())
    assert there_and_back(episodes, form, tmp_path) == [expected(e, form) for e in episodes]


@pytest.mark.models
@pytest.mark.parametrize("form", WHOLE)
def test_what_a_model_wrote_comes_back_as_it_wrote_it(small_model_s, form, tmp_path):
    episodes = list(small_model_s.episodes())
    back = there_and_back(episodes, form, tmp_path)
    assert [untimed(e) for e in back] == [expected(e, form) for e in episodes]
    for was, found in zip(episodes, back, strict=True):
        for a, b in zip(was.steps, found.steps, strict=True):
            assert a.decision.completion is not None
            assert join(render_decision(b.decision)) == join(render_decision(a.decision))


@pytest.fixture(scope="module")
def small_model_s(tmp_path_factory):
    pytest.importorskip("torch", reason="needs the extra 'models'")
    out = tmp_path_factory.mktemp("model")
    return harness.evaluate("ours-tiny", "alfworld", tasks="builtin-dev[:3]", out=out)


sign = st.sampled_from(
    [*"abc xyz:.\n☃𝄞", "Reasoning: ", "Action: ", "\nObservation: ", "\r", "\u2028"]
)
text = st.lists(sign, max_size=12).map("".join)
word = st.text(st.sampled_from("abc é☃𝄞:"), min_size=1, max_size=9).map(lambda t: f"w{t}".strip())
canonical = st.builds(Decision, st.one_of(st.just(""), word), st.one_of(st.none(), word)).filter(
    lambda d: parse(reply(d)) == d
)


@st.composite
def decisions(draw) -> Decision:
    """As a model wrote it, or as an agent without one gave it; sometimes put in."""
    if draw(st.booleans()):
        found = draw(canonical)
    else:
        said = Completion(draw(text), None, None, None, reread_tokens=None)
        found = tidy(parse(said.text, said))
    return msgspec.structs.replace(found, injected=draw(st.booleans()))


@st.composite
def played(draw) -> Episode:
    steps = st.builds(
        Step, text, decisions(), reward=st.sampled_from([0.0, 0.5]), invalid=st.booleans(),
        executed=st.one_of(st.none(), word), forced=st.booleans(),
    )  # fmt: skip
    outcome = draw(st.sampled_from([Outcome.DONE, Outcome.TRUNCATED, Outcome.UNTOLD]))
    return Episode(
        task=Task("alfworld", "train", "train/a-b-c-d-1/trial_1", draw(st.integers(0, 3))),
        agent="toy", instruction=draw(text), steps=tuple(draw(st.lists(steps, max_size=5))),
        final_observation=draw(st.one_of(st.none(), text)),
        success=outcome.scored and draw(st.booleans()),
        score=0.5 * outcome.scored, outcome=outcome,
        attempt=2, task_type="a type",
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    played(), st.sampled_from(WHOLE), st.sampled_from([HEADER, "Observation: x\n{instruction}\n"])
)
def test_any_episode_comes_back_or_is_left_out(tmp_path_factory, episode, form, header):
    why = unfit(episode, form, successes_only=False)
    if why is not None:
        injected = any(s.decision.injected for s in episode.steps)
        silent = any(not render_decision(s.decision) for s in episode.steps)
        assert not episode.steps or silent or (form == "messages" and injected)
        return
    (back,) = there_and_back([episode], form, tmp_path_factory.mktemp("rows"), header)
    assert untimed(back) == expected(episode, form)
    for was, found in zip(episode.steps, back.steps, strict=True):
        shown = [join(render_decision(s.decision)) for s in (was, found)]
        if form != "spans":
            shown = [s.rstrip("\n") for s in shown]
        assert shown[0] == shown[1]


# Forms ------------------------------------------------------------------------------------


def test_a_chat_is_what_a_server_s_model_is_shown(clean):
    for episode in clean.episodes():
        (row,) = rows(episode, "messages")
        head = HEADER.replace("{instruction}", episode.instruction)
        for k, step in enumerate(episode.steps):
            shown = render(head, episode.steps[:k], step.observation)
            assert row["messages"][: 2 * k + 1] == messages(shown[0], shown[1:])
            said = {"role": "assistant", "content": reply(step.decision).rstrip("\n")}
            assert row["messages"][2 * k + 1] == said
        assert row["messages"][0]["content"][: row["prompt_chars"]] == head
        assert len(row["messages"]) == 2 * len(episode.steps)


def test_slips_are_read_and_never_taught_in_every_form(slipped):
    for episode in slipped.episodes():
        own = [s.decision for s in episode.steps if not s.decision.injected]
        texts = [reply(d) for d in own]
        (chat,) = rows(episode, "sharegpt")
        turns = chat["conversations"]
        assert [f"{t['value']}\n" for t in turns if t["loss"]] == texts
        assert {t["from"] for t in turns if t["loss"]} == {"gpt"}
        assert sum(t["from"] == "gpt" for t in turns) == len(episode.steps)
        (told,) = rows(episode, "spans")
        cut = [(s["label"], told["text"][s["start"] : s["end"]]) for s in told["spans"]]
        assert [t.strip() for label, t in cut if label == "act"] == [d.action for d in own]
        thoughts = [t.strip() for label, t in cut if label == "reason"]
        assert thoughts == [d.reasoning for d in own if d.reasoning]
        assert "".join(t for label, t in cut if label not in (None, "context")) == "".join(texts)
        assert told["text"] == "".join(map(join, render(cut[0][1], episode.steps)))
        pairs = rows(episode, "prompt-completion")
        assert [row["completion"] for row in pairs] == texts
        for row in pairs:
            step = episode.steps[row["step"] - 1]
            assert told["text"].startswith(row["prompt"] + row["completion"])
            assert row["prompt"].endswith(f"Observation: {step.observation}\n")
            assert row["invalid"] is step.invalid
        marked = any(s.decision.injected for s in episode.steps)
        assert (unfit(episode, "messages", successes_only=False) is not None) is marked


def test_every_row_names_its_task_and_group(slipped):
    for episode in slipped.episodes():
        for form in FORMS:
            if unfit(episode, form, successes_only=False):
                continue
            for row in rows(episode, form, run="r"):
                cls = registry.env_class(episode.task.env)
                assert row["task"] == episode.task.id
                assert row["group"] == f"{cls.name}:{cls.group(episode.task.id)}"
                assert (row["run"], row["agent"]) == ("r", "expert")


def test_episodes_that_teach_nothing_are_left_out():
    good = toy(1)
    assert unfit(good, successes_only=True) is None
    fault = Fault("EnvError", "it broke")
    broken = msgspec.structs.replace(good, outcome=Outcome.ERROR, error=fault)
    lost = msgspec.structs.replace(good, success=False)
    assert unfit(broken, successes_only=False) == "faults"
    assert unfit(lost, successes_only=True) == "lost"
    untold = msgspec.structs.replace(lost, outcome=Outcome.UNTOLD)
    assert unfit(untold, successes_only=True) == UNTOLD
    assert unfit(untold, successes_only=False) is None
    assert unfit(lost, "spans", successes_only=False) is None
    silent = msgspec.structs.replace(good, steps=(Step("x", Decision("", None)), *good.steps))
    assert "without text" in unfit(silent, "sharegpt", successes_only=False)
    assert unfit(silent, "spans", successes_only=False) is None


# Folders ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return harness.evaluate(
        "random", "alfworld", tasks="builtin-dev[:8]", max_steps=8, out=tmp_path_factory.mktemp("r")
    )


@pytest.fixture(scope="module")
def winners(tmp_path_factory):
    return harness.evaluate(
        "expert", "alfworld", tasks="builtin-train[:12]", out=tmp_path_factory.mktemp("w")
    )


def test_a_folder_of_all_forms(run, winners, tmp_path):
    runner = CliRunner()
    to = tmp_path / "data"
    args = [a for form in FORMS for a in ("--as", form)]
    done = runner.invoke(
        app,
        ["export", str(run.path), str(winners.path), "--to", str(to), "--heldout", "0.3", *args],
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(to)
    held = {}
    for form in FORMS:
        found = {
            split: [
                json.loads(line)
                for line in (to / form / f"{split}.jsonl").read_bytes().splitlines()
            ]
            for split in ("train", "validation")
        }
        groups = {split: {row["group"] for row in found[split]} for split in found}
        assert groups["train"].isdisjoint(groups["validation"])
        held[form] = groups["validation"]
        n = sum(map(len, found.values()))
        told = sum(len(e.steps) for r in (run, winners) for e in r.episodes())
        assert n == (told if form == "prompt-completion" else 20)
        assert f"{len(found['train'])} train, {len(found['validation'])} validation" in done.stderr
    assert len(set(map(frozenset, held.values()))) == 1
    both = [e for r in (run, winners) for e in r.episodes()]
    kept, away = traces.split_heldout(both, 0.3, 0)
    assert {f"alfworld:{registry.env_class('alfworld').group(both[i].task.id)}" for i in away} == (
        held["spans"]
    )
    assert len(kept) + len(away) == 20
    card = (to / "README.md").read_text()
    for part in (run.meta.run_id, winners.meta.task_set_hash, '  path: "spans/train.jsonl"'):
        assert part in card
    assert str(tmp_path) not in card
    again = runner.invoke(app, ["export", str(run.path), "--to", str(to), "--as", "spans"])
    assert isinstance(again.exception, ConfigError)
    assert "exists" in str(again.exception)


@pytest.mark.datasets
def test_the_real_library_reads_it(run, winners, tmp_path):
    import datasets

    to = tmp_path / "data"
    dataset.write([run, winners], to, list(FORMS), heldout=0.3)
    assert datasets.get_dataset_config_names(str(to)) == list(FORMS)
    episodes = [e for r in (run, winners) for e in r.episodes()]
    for form in FORMS:
        found = datasets.load_dataset(str(to), form, cache_dir=str(tmp_path / "cache"))
        assert list(found) == ["train", "validation"]
        assert found["train"].column_names == list(COLUMNS[form])
        got = [row for split in found.values() for row in split]
        key = {"alfworld/random": run.meta.run_id, "alfworld/expert": winners.meta.run_id}
        ours = [row for e in episodes for row in rows(e, form, run=key[f"{e.task.env}/{e.agent}"])]
        order = lambda row: (row["run"], row["task"], row.get("step", 0))  # noqa: E731
        assert sorted(got, key=order) == sorted(ours, key=order)
    default = datasets.load_dataset(str(to), split="train", cache_dir=str(tmp_path / "cache"))
    assert "messages" in default.column_names
    file = to / "spans" / "train.jsonl"
    file.write_bytes(file.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(to), "spans", cache_dir=str(tmp_path / "other"))


def test_only_successes(run, winners, tmp_path):
    told = dataset.write([winners], tmp_path / "a", ["messages"], successes_only=True)
    won = winners.summary.successes
    assert told["messages"].rows == {"train": won}
    assert "Only episodes that were won." in (tmp_path / "a" / "README.md").read_text()
    assert run.summary.successes == 0
    with pytest.raises(DataError, match=r"No row of 'messages' for the split 'train'.*8 lost"):
        dataset.write([run], tmp_path / "b", ["messages"], successes_only=True)
    assert os.listdir(tmp_path) == ["a"]


def test_a_prompt_of_one_s_own(winners, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("You are at home.\nDo this: {instruction}\n")
    args = ["export", str(winners.path), "--as", "spans", "--prompt", str(prompt)]
    done = CliRunner().invoke(app, [*args, "--to", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    row = json.loads((tmp_path / "data" / "spans" / "train.jsonl").read_bytes().splitlines()[0])
    assert row["text"].startswith(f"You are at home.\nDo this: {row['instruction']}\nObservation:")
    prompt.write_text("Do it.\n")
    done = CliRunner().invoke(app, [*args, "--to", str(tmp_path / "more")])
    assert "must contain '{instruction}'" in str(done.exception)
    prompt.write_bytes("Zu tun: ä {instruction}\n".encode("latin-1"))
    done = CliRunner().invoke(app, [*args, "--to", str(tmp_path / "more")])
    assert "prompt.txt: not UTF-8" in str(done.exception)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--as", "message"], "Did you mean 'messages'"),
        (["--as", "spans", "--heldout", "1"], r"share in \[0, 1\)"),
        (["--as", "spans", "--heldout", "0.000001"], "split 'validation'"),
        (["--as", "spans", "--episodes"], "--episodes goes without --as"),
        (["--as", "spans", "--public"], "--public with --push"),
        (["--successes", "--heldout", "0.1"], "--successes, --heldout: only with --as"),
        (["--push", "a/b"], "--push: only with --as"),
    ],
)
def test_what_cannot_be_is_said(winners, tmp_path, args, message):
    done = CliRunner().invoke(
        app, ["export", str(winners.path), "--to", str(tmp_path / "d"), *args]
    )
    assert isinstance(done.exception, HarnessError)
    with pytest.raises(HarnessError, match=message):
        raise done.exception
    assert not list(tmp_path.iterdir())


def test_only_whole_runs_once_each(winners, tmp_path):
    with pytest.raises(ConfigError, match="named twice"):
        dataset.write([winners, harness.load(winners.path)], tmp_path / "d", ["spans"])
    copy = tmp_path / "copy"
    shutil.copytree(winners.path, copy)
    write_meta(copy, msgspec.structs.replace(winners.meta, status="running"))
    with pytest.raises(ConfigError, match="--resume"):
        dataset.write([harness.load(copy)], tmp_path / "d", ["spans"])


# Imports ----------------------------------------------------------------------------------


def test_an_imported_run_is_the_exported_one(winners, tmp_path):
    dataset.write([winners], tmp_path / "data", ["spans"], successes_only=True)
    file = tmp_path / "data" / "spans" / "train.jsonl"
    done = CliRunner().invoke(app, ["import", SOURCE, str(file), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "grammar exported/alfworld 1" in done.stderr
    assert "matched" not in done.stderr
    back = harness.load(done.stdout.strip().splitlines()[-1])
    assert (back.meta.agent.name, back.meta.kind) == ("expert", "import")
    assert [untimed(e) for e in back.episodes()] == [
        untimed(e) for e in winners.episodes() if e.success
    ]
    assert traces.load([str(back.path)]).hash == traces.load([str(winners.path)]).hash
    rows_ = {row.task_id: row for row in winners.metrics}
    for row in back.metrics:
        was = rows_[row.task_id]
        assert (row.n_steps, row.invalid_actions) == (was.n_steps, was.invalid_actions)
        assert row.reasoning_words == was.reasoning_words
    assert back.summary.success == 1.0
    done = CliRunner().invoke(app, ["verify", str(back.path)])
    assert "was imported, not played here" in str(done.exception)


def test_an_import_counts_as_lost_what_was_cut_short(tmp_path):
    run = harness.evaluate("random", "alfworld", tasks="builtin-train[:3]", out=tmp_path / "runs")
    dataset.write([run], tmp_path / "data", ["spans"])
    file = tmp_path / "data" / "spans" / "train.jsonl"
    assert {e.outcome for e in run.episodes()} == {Outcome.TRUNCATED}
    _, report = import_files(SOURCE, [file], None, out=tmp_path / "out")
    assert (report.won, report.lost, report.untold) == (0, 3, 0)


def test_rows_of_several_runs_and_environments(clean, winners, tmp_path):
    """Uneven numbers of attempts, two agents, two environments: each row is one episode."""
    env = clean.meta.task_set.env
    folder = tmp_path / "results"
    with Recorder(folder) as recorder:
        for episode in list(winners.episodes())[:5]:
            recorder.write(msgspec.structs.replace(episode, agent="other"))
    write_meta(folder, msgspec.structs.replace(winners.meta, episodes=5))
    complete(folder)
    runs = [clean, winners, harness.load(folder)]
    dataset.write(runs, tmp_path / "data", ["sharegpt"])
    file = tmp_path / "data" / "sharegpt" / "train.jsonl"
    if env != "alfworld":
        with pytest.raises(ConfigError, match=f"of alfworld, {env}, .*choose with --env"):
            import_files(SOURCE, [file], None, out=tmp_path / "out")
    run, report = import_files(SOURCE, [file], "alfworld", out=tmp_path / "out")
    n = 17 + 4 * (env == "alfworld")
    assert (report.n, run.meta.n_episodes, len(run.metrics)) == (n, n, n)
    assert run.meta.agent.name == SOURCE
    with pytest.raises(DataError, match=r"No episode of nowhere in the rows: only of"):
        import_files(SOURCE, [file], "nowhere", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="only --env and --agent"):
        import_files(SOURCE, [file], None, out=tmp_path / "out", all_won=True)


def edited(form: str, change) -> bytes:
    (row,) = rows(toy(3, steps=2), form)
    change(row)
    return msgspec.json.encode(row)


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("spans", lambda r: r["spans"].pop(3), r"spans\[3\]: \d+ to \d+, where the text goes on"),
        ("spans", lambda r: r["spans"].pop(), r"the spans end at \d+ of \d+"),
        ("spans", lambda r: r["steps"].pop(), "2 replies in its text, but 1 in 'steps'"),
        ("spans", lambda r: r["spans"][1].update(label="act"), "before anything was seen"),
        ("spans", lambda r: r.update(spans=[3]), r"spans\[0\]: not an object but int"),
        ("spans", lambda r: r.pop("task"), "missing required field `task`"),
        ("spans", lambda r: r.update(success=None), "outcome 'done', but no success or no score"),
        ("spans", lambda r: r.update(outcome="fine"), "Invalid enum value 'fine'"),
        ("sharegpt", lambda r: r["conversations"].pop(), "the last one has no reply"),
        ("sharegpt", lambda r: r["conversations"].reverse(), r"\[0\]: said by 'gpt', where what"),
        ("sharegpt", lambda r: r.update(prompt_chars=3), "no 'Observation:' where the prompt ends"),
        ("prompt-completion", lambda r: None, "single decisions and cannot be imported"),
    ],
)
def test_rows_that_do_not_hold_together_are_named(tmp_path, form, change, message):
    file = tmp_path / "rows.jsonl"
    whole = rows(toy(3, steps=2), form)
    bad = edited(form, change) if len(whole) == 1 else msgspec.json.encode(whole[0])
    file.write_bytes(b"\n" + bad + b"\n")
    with pytest.raises(TraceError, match=message) as error:
        import_files(SOURCE, [file], None, out=tmp_path / "out")
    assert f"{file}:2" in str(error.value)
    assert not (tmp_path / "out").exists()

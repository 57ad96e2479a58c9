"""`harness distill inspect`: the labels are checked, and the checks can fail."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")

from distill_traces import episode, recipe, record
from harness_distillation import cli, findings, inspect, overlay, paper_labels, tokenizer, traces
from harness_distillation import recipe as recipes
from harness_distillation.dataset import Samples
from harness_distillation.prepare import manifest_of
from harness_distillation.train import Corpus, train

from harness.errors import ConfigError, DataError
from harness.transcript import Kind, Segment
from harness.types import Decision, Episode, Step, Task

pytestmark = pytest.mark.models
HEADER = "Task: {instruction}\n"
EMPTY = findings.Lengths([], [], 0.0, 0.0, 0)
EPISODES = [episode(i, sampled=True) for i in range(60)]
HOSTILE = [
    "</div><script>document.title='pwned'</script>",
    "<img src=x onerror=alert(1)>",
    "\x1b[2J\x1b]0;pwned\x07",
    "<!-- & &lt; </style>",
]


@pytest.fixture(scope="module")
def tok():
    return tokenizer.train(EPISODES, HEADER, 400)


@pytest.fixture(scope="module")
def subject(tok):
    return inspect.of_episodes("toys", EPISODES, HEADER, tok)


def unsplit(episodes, vocab: int, lower: bool = False):
    """A BPE whose tokens may run over spaces and newlines; with ``lower`` it reads small letters
    only."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    model = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="?"))
    if lower:
        model.normalizer = tokenizers.normalizers.Lowercase()
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=False
    )
    model.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=["?"], show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    texts = ("".join(tokenizer.texts([e], HEADER)) for e in episodes)
    model.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="?")


def test_true_labels_pass(subject, tok):
    found = inspect.inspect(subject, {"own": tok}, n=20)
    assert [c.fine for c in found.checks] == [True] * 3
    assert found.checks[2].total > 100
    assert len(found.drawn) == 20
    assert sum(found.kinds.values()) == found.tokens
    k = found.kinds
    assert found.ratio == (k["reason"] + k["reason_format"]) / (k["act"] + k["act_format"])
    assert found.bare_ratio == k["reason"] / k["act"] != found.ratio


def changed(subject, kinds):
    samples = subject.samples
    return subject._replace(
        samples=Samples.make(samples.ids, kinds, samples.offsets, samples.episode)
    )


def test_shifted_labels_fail(subject, tok):
    shifted = changed(subject, np.roll(subject.samples.kinds, 1))
    found = inspect.inspect(shifted, {"own": tok})
    check = found.checks[2]
    assert not check.fine
    assert check.good < 0.2 * check.total
    assert re.search(r"sequence \d+: tokens spell '.*' \(\w+\), the span is '", check.first)
    without = inspect.inspect(shifted._replace(segments=None), {"own": tok})
    assert not without.checks[2].fine


def test_a_lost_label_fails(subject, tok):
    kinds = subject.samples.kinds.copy()
    kinds[np.flatnonzero(kinds == Kind.ACT)[:40]] = Kind.CONTEXT
    found = inspect.inspect(changed(subject, kinds), {"own": tok})
    assert not found.checks[2].fine


def test_a_taught_first_token_fails(subject, tok):
    """Nothing stands before it that could predict it."""
    kinds = subject.samples.kinds.copy()
    kinds[subject.samples.offsets[:-1]] = Kind.REASON
    found = inspect.inspect(changed(subject, kinds), {"own": tok})
    assert not found.checks[1].fine


def test_counts_that_do_not_add_up_fail(subject, tok):
    samples = subject.samples._replace(taught=subject.samples.taught + 1)
    found = inspect.inspect(subject._replace(samples=samples), {"own": tok})
    assert not found.checks[0].fine


def test_lengths_are_those_of_the_spans(subject, tok):
    encoder = tokenizer.SegmentEncoder(tok)
    for kind in (Kind.REASON, Kind.ACT):
        sizes = [len(encoder.encode(s.text)) for row in subject.segments for s in row
                 if s.kind is kind]  # fmt: skip
        found = inspect.lengths(subject.samples, kind)
        assert sum(found.counts) == len(sizes)
        assert found.most == max(sizes)
        assert found.mean == pytest.approx(np.mean(sizes))
        for count, low, high in zip(found.counts, found.edges[:-1], found.edges[1:], strict=True):
            assert count == sum(low <= n < high for n in sizes)
    nothing = inspect.lengths(changed(subject, subject.samples.kinds * 0).samples, Kind.ACT)
    assert (nothing.counts, nothing.most) == ([], 0)


def test_agreement_with_the_papers_recipe(tok):
    """A tokenizer that splits at spaces agrees; one whose tokens run over them does not."""
    texts = [[s for s in row] for row in inspect.of_episodes("x", EPISODES, HEADER, tok).segments]
    own = paper_labels.agreement("own", tok, texts)
    assert (own.same, own.straddling) == (1.0, 0.0)
    wide = paper_labels.agreement("wide", unsplit(EPISODES, 600), texts)
    assert wide.straddling > 0.02
    assert wide.same < 0.95


def test_agreement_on_a_text_counted_by_hand():
    """ "Action: go up" in letters and words: each word with the space before it."""
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {w: i for i, w in enumerate(["?", "Action:", "Ġgo", "Ġup", "Ċ", "see", "ĊAction:"])}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="?"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(r" ?[a-zA-Z:]+|\n"), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tok = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="?")
    text = [Segment(Kind.CONTEXT, "see\n"), Segment(Kind.ACT_FORMAT, "Action:"),
            Segment(Kind.ACT, " go up"), Segment(Kind.ACT_FORMAT, "\n")]  # fmt: skip
    found = paper_labels.agreement("words", tok, [text])
    assert (found.same, found.straddling, found.lost_act) == (1.0, 0.0, 0.5)


def test_a_tokenizer_without_exact_text_is_told(tok):
    """One that changes letters does not give the spans' text back."""
    piece = unsplit(EPISODES, 500, lower=True)
    found = inspect.inspect(inspect.of_episodes("x", EPISODES[:9], HEADER, piece), {"p": piece})
    assert not found.checks[2].fine
    assert "the span is" in found.checks[2].first


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_a_hostile_log_stays_text(tmp_path, capsys):
    steps = tuple(Step(t, Decision(t, t.replace("\n", " "))) for t in HOSTILE)
    first = msgspec.structs.replace(EPISODES[0], instruction=HOSTILE[0], steps=steps)
    run = tmp_path / "<title><b>x"
    run.mkdir()
    (run / "episodes.jsonl").write_bytes(msgspec.json.encode(first) + b"\n")
    page = tmp_path / "page.html"
    assert cli.main(["inspect", str(run), "--page", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    parsed = Tags()
    parsed.feed(text)
    assert parsed.tags <= {
        "html", "head", "meta", "title", "style", "body", "header", "main", "h1", "h2", "div",
        "span", "b", "ul", "li", "svg", "rect", "text",
    }  # fmt: skip
    assert not any(name.startswith("on") or name in ("src", "href") for name in parsed.attributes)
    assert text.count("<style>") == 2
    assert "default-src 'none'" in text
    assert "script-src" not in text
    for attack in HOSTILE:
        assert parsed.text.count(overlay.plain(attack)) >= 3
    assert "\x1b" not in text
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "pwned" in out


def test_the_page_shows_every_sample(tmp_path, subject, tok):
    found = inspect.inspect(subject, {"own": tok}, n=7)
    parsed = Tags()
    page = overlay.page(found)
    parsed.feed(page)
    assert len(re.findall(r"<h2 id=\"s\d+\">", page)) == 7
    for drawn in found.drawn:
        assert "".join(overlay.plain(cell.text) for cell in drawn.cells) in parsed.text
    assert page.count("<rect") == len(found.reason.counts) + len(found.act.counts)


def test_colours_follow_the_labels(subject, tok):
    drawn = inspect.inspect(subject, {"own": tok}, n=1).drawn[0].cells
    text = overlay.painted(drawn)
    at = 0
    for cell, span in zip(drawn, text.spans, strict=True):
        assert (span.start, span.end) == (at, at + len(overlay.plain(cell.text)))
        at = span.end
        expected = {Kind.REASON: "blue", Kind.ACT: "red", Kind.CONTEXT: "bright_black"}
        if cell.kind in expected:
            assert expected[cell.kind] in str(span.style)


def test_slips_are_grey(tok):
    slip = Step("seen", Decision("not mine", "blunder", injected=True))
    steps = (slip, *EPISODES[0].steps)
    one = inspect.of_episodes("x", [msgspec.structs.replace(EPISODES[0], steps=steps)], HEADER, tok)
    ((_, drawn),) = inspect.inspect(one, {"own": tok}).drawn
    grey = "".join(cell.text for cell in drawn if cell.kind == Kind.CONTEXT)
    assert "blunder" in grey
    assert "blunder" not in "".join(cell.text for cell in drawn if cell.kind == Kind.ACT)


def test_a_character_of_several_tokens_is_one_cell(tok):
    ids = tok.encode("☃ mug", add_special_tokens=False)
    assert len(tok.encode("☃", add_special_tokens=False)) > 1
    drawn = overlay.cells(tok, ids, [int(Kind.REASON)] * len(ids))
    assert drawn[0].text == "☃"
    assert "".join(cell.text for cell in drawn) == "☃ mug"


def test_a_run_and_a_student(tmp_path, capsys):
    run = record(tmp_path / "run" / "episodes.jsonl", 30).parent
    assert cli.main(["inspect", str(run), "--n", "5", "--show", "1"]) == 0
    told = capsys.readouterr().out
    assert re.findall(r"sample 1 of 5 drawn\S*", told) == ["sample 1 of 5 drawn"]
    assert "drawn and checked: alfworld 5 of 30" in told
    assert "N_r : N_a" in told
    out = tmp_path / "student"
    path = recipe(tmp_path, steps=1)
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--stage", "prepare"]) == 0
    data = out / "training" / "data"
    again = str(data / "tokenizer")
    assert cli.main(["inspect", str(out), "--tokenizer", again, "--show", "0"]) == 0
    told = capsys.readouterr().out
    assert told.count("like the paper's D.2") == 2
    assert cli.main(["inspect", str(out), "--sample", "7", "--sample", "3"]) == 0
    told = capsys.readouterr().out
    assert "sample 2 of 2 drawn" in told
    own, samples = tokenizer.load(again), Samples.load(data / "samples.npz")
    for s in (3, 7):
        line = own.decode(samples.ids[samples.part(s)].tolist()).splitlines()[0]
        assert line in told
    with pytest.raises(ConfigError, match=r"has samples 0\.\.\d+, not 99"):
        cli.main(["inspect", str(out), "--sample", "99"])
    assert cli.main(["inspect", str(run), "--tokenizer", again, "--show", "0"]) == 0

    samples = Samples.load(data / "samples.npz")
    broken = Samples.make(samples.ids, np.roll(samples.kinds, 1), samples.offsets, samples.episode)
    broken.save(data / "samples.npz")
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--show", "0"]) == 1
    told = capsys.readouterr()
    assert "FAIL" in told.out
    assert "a label's tokens spell its span's text: not so" in told.err


def test_taught_observations_are_a_class_of_their_own(tmp_path, capsys):
    """Drawn, counted, and checked against the targets; what replies spell is checked beside."""
    run = record(tmp_path / "run" / "episodes.jsonl", 20).parent
    out, page = tmp_path / "student", tmp_path / "page.html"
    path = recipe(tmp_path, "[objective]\nname = 'sft'\nobs_weight = 0.5\n", steps=1)
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--stage", "prepare"]) == 0
    assert cli.main(["inspect", str(out), "--show", "1", "--page", str(page)]) == 0
    subject, others = inspect.load(out, [], HEADER)
    found = inspect.inspect(subject, others, n=5)
    kinds = subject.samples.kinds
    assert found.kinds["observation"] == np.sum(kinds == tokenizer.OBSERVED) > 0
    assert sum(found.kinds.values()) == found.tokens
    assert [c.fine for c in found.checks] == [True] * 3
    assert f"observations {found.kinds['observation']}" in capsys.readouterr().out
    cells = [c for drawn in found.drawn for c in drawn.cells]
    seen = "".join(c.text for c in cells if c.kind == tokenizer.OBSERVED)
    assert "You see a" in seen
    assert "Reasoning:" not in seen
    assert '<span class="o">Observation: You see a' in page.read_text(encoding="utf-8")
    # A target that is not the observation's own token.
    wrong = kinds.copy()
    wrong[subject.samples.offsets[:-1]] = tokenizer.OBSERVED
    assert not inspect.inspect(changed(subject, wrong), others).checks[1].fine
    # An observation that reaches into a reply.
    wrong = kinds.copy()
    wrong[np.flatnonzero(kinds == Kind.ACT_FORMAT)] = tokenizer.OBSERVED
    assert not inspect.inspect(changed(subject, wrong), others).checks[2].fine


def test_random_spans_need_spell_nothing(tmp_path, capsys):
    run = record(tmp_path / "run" / "episodes.jsonl", 20).parent
    out = tmp_path / "student"
    path = recipe(tmp_path, "[objective]\nname = 'sft'\nmasks = 'random_span'\n", steps=1)
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--stage", "prepare"]) == 0
    assert cli.main(["inspect", str(out), "--show", "1"]) == 0
    told = capsys.readouterr().out
    assert "there is no text that they should spell" in told
    assert "FAIL" not in told
    subject, others = inspect.load(out, [], HEADER)
    assert len(inspect.inspect(subject, others).checks) == 2
    kinds = subject.samples.kinds.copy()
    kinds[subject.samples.offsets[:-1]] = Kind.REASON
    assert not inspect.inspect(changed(subject, kinds), others).checks[1].fine
    as_spans = inspect.inspect(subject._replace(masks="spans"), others)
    assert not as_spans.checks[2].fine
    (out / "training" / "recipe.json").unlink()
    with pytest.raises(DataError, match=r"no recipe\.json"):
        inspect.load(out, [], HEADER)


def test_replies_that_a_recipe_cuts_need_spell_nothing(tmp_path, capsys):
    """Under ``paper_truncate``; what stands before the cut is checked, and every whole sequence."""
    run = record(tmp_path / "run" / "episodes.jsonl", 60).parent
    path, out = recipe(tmp_path), tmp_path / "student"
    text = path.read_text().replace("vocab = 400", "vocab = 300")  # labels of several tokens
    path.write_text(text.replace("[data]", "[data]\npaper_truncate = 100"))
    args = [str(path), "--data", str(run), "--out", str(out), "--stage", "prepare", "--quiet"]
    assert cli.main(args) == 0
    assert cli.main(["inspect", str(out), "--n", "60"]) == 0
    subject, others = inspect.load(out, [], HEADER)
    assert not inspect.inspect(subject._replace(cut=None), others).checks[2].fine
    kinds = subject.samples.kinds.copy()
    kinds[np.flatnonzero(kinds == Kind.ACT)[0]] = Kind.REASON
    check = inspect.inspect(changed(subject, kinds), others).checks[2]
    assert not check.fine
    assert "(reason)" in check.first


@pytest.mark.parametrize("more", ["", "format = 'shared'\n"])
def test_shuffled_labels_are_shown_as_they_are_trained_on(tmp_path, capsys, more):
    """A training on what is shown takes the very steps that the student's own took."""
    run = record(tmp_path / "run" / "episodes.jsonl", 30).parent
    out = tmp_path / "student"
    text = f"[objective]\nname = 'label_shuffle'\ndivergence = 'ce'\n{more}"
    path = recipe(tmp_path, text, steps=2)
    args = [str(path), "--data", str(run), "--out", str(out), "--quiet", "--device", "cpu"]
    assert cli.main(args) == 0
    stored = Samples.load(out / "training" / "data" / "samples.npz")
    subject, others = inspect.load(out, [], HEADER)
    held = np.isin(stored.episode, manifest_of(out / "training" / "data").heldout)
    for s in range(len(stored.lengths)):
        as_stored = np.array_equal(
            subject.samples.kinds[stored.part(s)], stored.kinds[stored.part(s)]
        )
        assert as_stored == bool(held[s])
    assert 0 < held.sum() < len(held)

    loaded = recipes.load(str(path))
    corpus = Corpus(subject.samples, np.flatnonzero(~held), np.flatnonzero(held), stored.hash)
    train(loaded, "h", corpus, subject.tokenizer, tmp_path / "again", {}, quiet=True)

    def log(folder: Path) -> list[dict]:
        lines = map(msgspec.json.decode, (folder / "log.jsonl").read_bytes().splitlines())
        timing = ("seconds", "tokens_per_s", "mfu")
        return [{k: v for k, v in line.items() if k not in timing} for line in lines]

    assert log(tmp_path / "again") == log(out / "training")

    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--show", "1"]) == 0
    told = capsys.readouterr().out
    assert "labels are shuffled, reasoning and action, as in training" in told
    assert "FAIL" not in told
    found = inspect.inspect(subject, others)
    assert len(found.checks) == 2
    assert found.agreement == []
    for (_, cells), s in zip(found.drawn, range(len(stored.lengths)), strict=True):
        assert len(cells) == stored.lengths[s]
        assert [c.kind for c in cells] == subject.samples.kinds[stored.part(s)].tolist()


def of_three() -> list[Episode]:
    """Toys under the names of three environments, of which one has few."""
    found = []
    for i in range(250):
        env = "hotpotqa" if i < 12 else ("webshop", "alfworld")[i % 2]
        e = episode(i)
        found.append(msgspec.structs.replace(e, task=Task(env, "train", f"{e.task.id}-{env}")))
    return found


def test_a_hundred_samples_of_each_environment_are_drawn(tmp_path, capsys):
    episodes = of_three()
    run = tmp_path / "run"
    run.mkdir()
    (run / "episodes.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in episodes))
    page = tmp_path / "page.html"
    assert cli.main(["inspect", str(run), "--show", "1", "--page", str(page)]) == 0
    told = capsys.readouterr().out
    assert "drawn and checked: alfworld 100 of 119, hotpotqa 12 of 12, webshop 100 of 119" in told
    titles = re.findall(r"sample \d+ of \d+ drawn, \w+", told)
    assert titles == [
        "sample 1 of 212 drawn, alfworld", "sample 101 of 212 drawn, hotpotqa",
        "sample 113 of 212 drawn, webshop",
    ]  # fmt: skip
    text = page.read_text(encoding="utf-8")
    assert text.count("<h2 id=") == 212
    assert '<h2 id="s113">Sample 113, webshop</h2>' in text

    subject, others = inspect.load(run, [], HEADER)
    found = inspect.inspect(subject, others)
    # What is checked and compared are those that are drawn.
    assert found.checks[1].total == 212
    of = {name: [c for env, c in found.drawn if env == name] for name in found.chosen}
    assert {name: len(some) for name, some in of.items()} == {
        "alfworld": 100, "hotpotqa": 12, "webshop": 100,
    }  # fmt: skip
    whole = [inspect._tokens(subject.samples, s)[0] for s in range(250)]
    spelled = [subject.tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in whole]
    for name, some in of.items():
        own = {text for text, e in zip(spelled, episodes, strict=True) if e.task.env == name}
        assert {"".join(c.text for c in cells) for cells in some} <= own
    other = inspect.inspect(subject, others, seed=1)
    assert [d.cells for d in other.drawn] != [d.cells for d in found.drawn]
    few = inspect.inspect(subject, others, n=3)
    assert set(few.chosen.values()) == {(3, 119), (3, 12)}


def test_a_students_samples_know_their_environments(tmp_path, capsys):
    """Of several windows an episode; and samples prepared before environments were noted."""
    run = tmp_path / "run"
    run.mkdir()
    lines = [msgspec.json.encode(e) + b"\n" for e in of_three()[:60]]
    (run / "episodes.jsonl").write_bytes(b"".join(lines))
    out = tmp_path / "student"
    path = recipe(tmp_path, steps=1)
    path.write_text(path.read_text().replace("[data]", "[data]\nsamples = 'step'"))
    assert cli.main([str(path), "--data", str(run), "--out", str(out), "--stage", "prepare"]) == 0
    place = out / "training" / "data"
    prepared = manifest_of(place)
    assert sum(count for _, count in prepared.environments) == prepared.episodes == 60
    subject, others = inspect.load(out, [], HEADER)
    kept = traces.load([str(run)]).episodes
    assert subject.environments == [kept[i].task.env for i in subject.samples.episode]
    assert set(subject.environments) == {"alfworld", "hotpotqa", "webshop"}
    found = inspect.inspect(subject, others, n=10)
    assert set(found.chosen) == set(subject.environments)
    assert {some for some, _ in found.chosen.values()} == {10}

    manifest = msgspec.to_builtins(prepared)
    del manifest["environments"]
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--n", "5", "--show", "1"]) == 0
    told = capsys.readouterr().out
    every = len(subject.environments)
    assert f"drawn and checked: 5 of {every}, whatever their environment" in told
    assert re.findall(r"sample 1 of 5 drawn\S*", told) == ["sample 1 of 5 drawn"]
    manifest["tasks"] = [t for t in manifest["tasks"] if t[0] == "webshop"]
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    assert inspect.load(out, [], HEADER)[0].environments == ["webshop"] * every


def test_what_is_neither_is_refused(tmp_path):
    with pytest.raises(DataError, match="no recorded episodes"):
        cli.main(["inspect", str(tmp_path)])
    (tmp_path / "episodes.jsonl").write_bytes(b"")
    with pytest.raises(ConfigError, match="holds no played episode"):
        cli.main(["inspect", str(tmp_path)])
    record(Path(tmp_path) / "episodes.jsonl", 3)
    with pytest.raises(ConfigError, match="--n is at least 1"):
        cli.main(["inspect", str(tmp_path), "--n", "0"])


@pytest.mark.plots
def test_span_lengths_are_drawn_as_counted(tmp_path, subject, tok):
    found = inspect.inspect(subject, {"own": tok}, n=3)
    strip = overlay.figure(found)
    for panel, of in zip(strip.panels, (found.reason, found.act), strict=True):
        assert panel.bars.counts == tuple(of.counts)
        assert panel.bars.labels == tuple(overlay.labels(of))
    run = record(tmp_path / "run" / "episodes.jsonl", 8)
    figure = tmp_path / "spans.svg"
    assert cli.main(["inspect", str(run.parent), "--figure", str(figure)]) == 0
    text = figure.read_text(encoding="utf-8")
    assert ">spans</text>" in text
    assert "reasoning: mean" in text
    with pytest.raises(ConfigError, match="no span"):
        overlay.figure(found._replace(reason=EMPTY, act=EMPTY))

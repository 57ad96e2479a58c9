"""Recipes: the shipped ones, what they refuse, what their hashes say."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from distill_traces import recipe, record
from harness_distillation import recipe as recipes

from harness import registry
from harness.errors import ConfigError

pytestmark = pytest.mark.models


def shipped():
    return sorted((Path(recipes.__file__).parent / "recipes").glob("*.toml"))


#: Sets that results are reported on or tuned on, by environment.
EVALUATED = {
    "alfworld": {
        "builtin-dev",
        "builtin-valid",
        "seen-140",
        "unseen-134",
        "holdout-1000",
        "dev-200",
    },
    "webshop": {"builtin-dev", "builtin-valid", "small-500"},
    "hotpotqa": {"builtin-dev", "builtin-valid", "dev-context", "react-500"},
}


@pytest.mark.parametrize("path", shipped(), ids=lambda p: p.stem)
def test_shipped_recipes_load(path):
    found = recipes.load(path.stem)
    assert found.name == path.stem
    assert found.description
    assert found.objective.divergence is not None
    for collected in found.data.collect:
        kept_out = {f"{collected.env}/{name}" for name in EVALUATED[collected.env]}
        assert kept_out <= set(found.data.exclude)
        assert registry.task_set(collected.env, collected.tasks).name not in found.data.exclude


def test_shipped_recipes_are_all_different():
    loaded = [recipes.load(path.stem) for path in shipped()]
    assert len({r.description for r in loaded}) == len(loaded)
    told = [msgspec.structs.replace(r, name="", description="") for r in loaded]
    assert len({msgspec.json.encode(r) for r in told}) == len(loaded)


SIZES = ("120m", "340m", "760m", "opt-1.3b", "opt-2.7b", "opt-6.7b", "llama-7b")


@pytest.mark.parametrize("size", SIZES)
def test_every_student_of_tables_3_and_4_has_the_papers_settings(size):
    for suffix, steps in (("", 20_000), ("-webshop", 10_000), ("-hotpotqa", 10_000)):
        ours, token = (recipes.load(f"{arm}-{size}{suffix}") for arm in ("ours", "token"))
        assert (ours.objective.name, token.objective.name) == ("sad", "kd")
        for one in (ours, token):
            assert one.optim == ours.optim
            assert one.optim.steps == steps
            assert (one.optim.lr, one.optim.clip) == (2e-5, 1.0)
            assert one.optim.rows * one.optim.row_tokens == 64 * 512
            assert one.objective.curriculum_unit == "episode"
            # Rows of one window are some 85 % full, and whole steps so much smaller.
            assert one.optim.row_tokens >= 4 * one.student.window
            assert (one.student, one.data, one.teacher) == (ours.student, ours.data, ours.teacher)
            assert {c.env for c in one.data.collect} == {suffix.removeprefix("-") or "alfworld"}
            assert one.teacher.checkpoint.removeprefix("models/") in {p.stem for p in shipped()}


ARMS = {
    "sft-tiny", "seqkd-tiny", "sad-ce-tiny", "kd-all-tiny", "flat-curriculum-tiny",
    "class-random-tiny", "lambda-0.5-tiny", "lambda-2.5-tiny", "lambda-5-tiny",
    "table5-ours-tiny", "table5-only-reason-tiny", "table5-only-act-tiny",
    "table5-no-segmentation-tiny", "table5-random-span-tiny", "table5-label-shuffle-tiny",
}  # fmt: skip


#: Every number of the flat objective and of ours, written out: what a recipe's name, base or
#: default changes unseen is another experiment under the same name.
FLAT = {
    "name": "kd", "divergence": "forward_kl", "normalizer": "token", "curriculum": "random",
    "lambda_reason": 1.0, "lambda_act": 1.0, "lambda_format": 1.0, "obs_weight": 0.0,
    "format": "span", "masks": "spans", "temperature": 1.0, "jsd_beta": 0.5, "skew_alpha": 0.1,
    "alm_tau": 100.0, "curriculum_within": "all", "curriculum_unit": "sequence",
    "alpha": 1 / 3, "beta": 1 / 3, "gamma": 1 / 3,
    "pacing_start": 0.2, "pacing_end": 0.5, "contrastive": 0.0, "contrastive_beta": 1.0,
}  # fmt: skip
OURS = {**FLAT, "name": "sad", "normalizer": "class", "curriculum": "pacing"}
TEXT = {**FLAT, "divergence": "ce"}
SHARED = {**OURS, "format": "shared"}
OBJECTIVES = {
    "ours-tiny": OURS,
    "token-tiny": FLAT,
    "class-random-tiny": {**OURS, "curriculum": "random"},
    "flat-curriculum-tiny": {**FLAT, "curriculum": "pacing"},
    "lambda-0.5-tiny": {**FLAT, "lambda_act": 0.5},
    "lambda-2.5-tiny": {**FLAT, "lambda_act": 2.5},
    "lambda-5-tiny": {**FLAT, "lambda_act": 5.0},
    "kd-all-tiny": {**FLAT, "name": "kd_all", "obs_weight": 1.0},
    "gkd-tiny": {**FLAT, "name": "gkd", "divergence": "jsd"},
    "minillm-tiny": {**FLAT, "name": "minillm", "divergence": "reverse_kl"},
    "sft-tiny": {**TEXT, "name": "sft"},
    "seqkd-tiny": {**TEXT, "name": "seqkd"},
    "sad-ce-tiny": {**TEXT, "name": "sad_ce", "normalizer": "class"},
    "sft-smollm2": {**TEXT, "name": "sft"},
    "seqkd-smollm2": {**TEXT, "name": "seqkd"},
    "sad-ce-smollm2": {**TEXT, "name": "sad_ce", "normalizer": "class"},
    "table5-ours-tiny": SHARED,
    "table5-only-reason-tiny": {**SHARED, "name": "only_reason", "lambda_act": 0.0},
    "table5-only-act-tiny": {**SHARED, "name": "only_act", "lambda_reason": 0.0},
    "table5-random-span-tiny": {**SHARED, "name": "random_span", "masks": "random_span"},
    "table5-label-shuffle-tiny": {**SHARED, "name": "label_shuffle", "masks": "label_shuffle"},
    "table5-no-segmentation-tiny": {**FLAT, "format": "shared"},
    "student-tiny-start": {
        **TEXT, "name": "sft", "lambda_reason": 0.0, "lambda_act": 0.0, "obs_weight": 1.0,
    },
    "teacher-tiny-start": {**TEXT, "name": "sft", "obs_weight": 1.0},
    "teacher-tiny": {**TEXT, "name": "sft", "obs_weight": 0.1},
    **{f"teacher-{size}": {**TEXT, "name": "sft"} for size in ("1.5b", "llama-13b", "opt-13b")},
    **{f"{arm}-{size}{env}": {**objective, "curriculum_unit": "episode"}
       for arm, objective in (("ours", OURS), ("token", FLAT))
       for size in SIZES for env in ("", "-webshop", "-hotpotqa")},
}  # fmt: skip


@pytest.mark.parametrize("name", [path.stem for path in shipped()])
def test_a_shipped_recipes_objective_is_the_one_that_its_name_says(name):
    assert msgspec.to_builtins(recipes.load(name).objective) == OBJECTIVES[name]


@pytest.mark.parametrize("name", sorted(ARMS))
def test_arms_share_start_size_and_optimizer(name):
    one, ours = recipes.load(name), recipes.load("ours-tiny")
    assert (one.student, one.optim, one.seed, one.max_new_tokens) == (
        ours.student, ours.optim, ours.seed, ours.max_new_tokens
    )  # fmt: skip
    assert msgspec.structs.replace(one.data, collect=()) == msgspec.structs.replace(
        ours.data, collect=()
    )
    if name != "sft-tiny":
        assert one.data.collect == ours.data.collect


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optim]\nlearning_rate = 1", r"\[optim\].*Unknown key 'learning_rate'"),
        ("[optim]\nstep = 1", "Did you mean 'steps'"),
        ("[objektive]\nname = 'sft'", "Did you mean 'objective'"),
        ("[objective]\nname = 'kd'", r"Add \[teacher\] checkpoint"),
        ("[objective]\nname = 'sda'", r"\[objective\]: Unknown value of 'name' 'sda'.*'sad'"),
        ("[data]\nheader = 'Task'", "instruction"),
        ("[optim]\nrow_tokens = 100", "under the window"),
        ("[optim]\nmicro_rows = 4", "does not divide rows"),
        ("[student]\nstart_layers = [0]", "layers of a start"),
        ("base = 'ours-tiny'\n[student]\nhidden = 256", "has its sizes, so that hidden would"),
        ("[data]\npaper_truncate = 4096", "paper_truncate"),
        ("[objective]\ntemperature = 2.0", "cross-entropy with the text"),
        ("[objective]\nlambda_reason = 0\nlambda_act = 0\nlambda_format = 0", "not all 0"),
        ("[objective]\nlambda_reason = 0\nlambda_act = 0", 'not all 0.* format = "span"'),
        (
            "[objective]\nlambda_reason = 0\nlambda_act = 0\nformat = 'shared'\ncontrastive = 0.3",
            "prefers reasoning and actions",
        ),
        ("base = 'gkd-tiny'\n[objective]\ndivergence = 'ce'", "not its own text"),
        ("[objective]\njsd_beta = 1.0", "jsd_beta"),
        ("[objective]\nname = 'sft'\ndivergence = 'jsd'", r"Add \[teacher\]"),
        ("base = 3", "base is the name"),
        ("[tokenizer]\nstart = 'a'\nextend = 'b'", "give one of them"),
        ("base = 'gkd-tiny'\n[tokenizer]\nextend = 'a'", "words from traces"),
        ("x = [", "not valid TOML"),
        (
            "[[data.collect]]\nagent = 'expert'\nenv = 'alfworld'\nerrors_from = 'random'\n",
            "goes with error_rate above 0",
        ),
    ],
)
def test_bad_recipes_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        recipes.load(str(path))


def test_a_start_over_a_base_from_scratch_takes_its_sizes_away(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("base = 'student-tiny-start'\n[student]\nstart = 'models/x'\n")
    assert recipes.load(str(path)).student == recipes.Student(start="models/x", window=3072)
    with pytest.raises(ConfigError, match="so that hidden would change nothing"):
        recipes.load("student-tiny-start", {"student": {"start": "x"}}, {"student": {"hidden": 9}})


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="teacher-tiny"):
        recipes.load("teacher-tyni")


def resolved(**objective):
    raw = {"name": "x", "objective": objective, "teacher": {"checkpoint": "t"}}
    return recipes.resolve(recipes.decode(raw, "x")).objective


def test_objectives_imply_their_parts():
    def of(name):
        o = resolved(name=name)
        return o.divergence, o.normalizer, o.curriculum

    assert of("sft") == of("seqkd") == ("ce", "token", "random")
    assert of("kd") == of("kd_all") == ("forward_kl", "token", "random")
    assert of("sad") == ("forward_kl", "class", "pacing")
    assert of("sad_ce") == ("ce", "class", "random")


def test_ablations_differ_in_what_their_names_say():
    def differs(name, base="sad"):
        one, other = (msgspec.to_builtins(resolved(name=n)) for n in (name, base))
        return {k: v for k, v in one.items() if v != other[k] and k != "name"}

    assert differs("only_reason") == {"lambda_act": 0.0, "format": "shared"}
    assert differs("only_act") == {"lambda_reason": 0.0, "format": "shared"}
    assert differs("random_span") == {"masks": "random_span", "format": "shared"}
    assert differs("label_shuffle") == {"masks": "label_shuffle"}
    assert differs("kd_all", "kd") == {"obs_weight": 1.0}
    assert resolved(name="ours") == resolved(name="sad")
    assert resolved(name="token") == resolved(name="no_segmentation") == resolved(name="kd")


def test_a_resolved_objective_states_every_number():
    for name in ("sft", "kd_all", "sad", "only_act", "random_span"):
        values = msgspec.to_builtins(resolved(name=name))
        assert None not in values.values()
        assert resolved(**values) == resolved(name=name)
    assert resolved(name="only_act", lambda_reason=0.5, format="span").lambda_reason == 0.5
    with pytest.raises(ConfigError, match="not resolved"):
        recipes.lambdas(recipes.Objective())


#: Students and teachers trained before later keys existed: their checkpoints name these hashes.
NAMES_IN_USE = {
    "ours-tiny": "14c4c1ab89b350f9",
    "token-tiny": "8079905d25bf0b1c",
    "teacher-tiny": "5fc15c4bfeab01d0",
    "teacher-tiny-start": "dc829d24b6f9d2f3",
    "student-tiny-start": "0d0dae551b2f9663",
}


@pytest.mark.parametrize("name", NAMES_IN_USE)
def test_new_keys_rename_no_trained_model(name):
    assert recipes.recipe_hash(recipes.load(name)) == NAMES_IN_USE[name]


def test_every_key_that_decides_a_student_is_in_its_hash(tmp_path):
    base = recipes.load("ours-tiny")
    replace = msgspec.structs.replace
    hashes = {recipes.recipe_hash(base)}
    changes = {
        "student": {"start_layers": (0,)},
        "tokenizer": {"extend": "models/teacher-tiny"},
        "data": {"samples": "step", "paper_truncate": 512},
        "objective": {
            "obs_weight": 0.1, "masks": "random_span", "jsd_beta": 0.1, "skew_alpha": 0.2,
            "contrastive": 0.3, "contrastive_beta": 2.0, "divergence": "jsd", "lambda_act": 2.0,
            "curriculum_within": "environment", "curriculum_unit": "episode",
        },
        "optim": {"micro_rows": 2, "optimizer": "adamw"},
    }  # fmt: skip
    for table, keys in changes.items():
        for key, value in keys.items():
            part = replace(getattr(base, table), **{key: value})
            hashes.add(recipes.recipe_hash(replace(base, **{table: part})))
    for every in (100, 200):
        dev = recipes.Dev(env="alfworld", tasks="builtin-dev", every=every)
        hashes.add(recipes.recipe_hash(replace(base, dev=dev)))
    assert len(hashes) == 3 + sum(len(keys) for keys in changes.values())


def test_a_recipe_builds_on_another(tmp_path):
    (tmp_path / "own.toml").write_text(
        "base = 'ours-tiny'\ndescription = 'mine'\n[objective]\ncurriculum = 'random'\n"
    )
    (tmp_path / "next.toml").write_text("base = 'own.toml'\n[optim]\nsteps = 7\n")
    base, own, last = (
        recipes.load(x)
        for x in ("ours-tiny", *(str(tmp_path / f"{n}.toml") for n in ("own", "next")))
    )
    assert (own.name, own.description, last.name) == ("own", "mine", "next")
    assert (own.objective.name, own.objective.curriculum) == ("sad", "random")
    assert own.student == base.student
    assert own.data.collect == base.data.collect
    assert msgspec.structs.replace(last.optim, steps=base.optim.steps) == base.optim
    (tmp_path / "own.toml").write_text("base = 'next.toml'\n")
    with pytest.raises(ConfigError, match="each other's base"):
        recipes.load(str(tmp_path / "own.toml"))
    (tmp_path / "own.toml").write_text("base = 'ours-tyni'\n")
    with pytest.raises(ConfigError, match="ours-tiny"):
        recipes.load(str(tmp_path / "own.toml"))


def test_recipe_hash_is_about_the_student_only(tmp_path):
    one = recipes.load(str(recipe(tmp_path)))
    replace = msgspec.structs.replace
    moved = replace(one, data=replace(one.data, runs=(str(record(tmp_path / "e.jsonl", 1)),)))
    assert recipes.recipe_hash(moved) == recipes.recipe_hash(one)
    assert recipes.recipe_hash(replace(one, seed=1)) != recipes.recipe_hash(one)

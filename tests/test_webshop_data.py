"""WebShop's data: products, prices, goals and task sets against the recorded ones; bad files."""

from __future__ import annotations

import gzip
import json
import random
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gymnasium.utils.seeding import np_random
from harness_envs.webshop import WebShopEnv, files, nouns, tasksets
from harness_envs.webshop.catalogue import GOAL_SEED, Catalogue
from harness_envs.webshop.fetch import check
from harness_envs.webshop.goals import NO_CAP, SHUFFLE_SEED, Goals, Kind
from harness_envs.webshop.make_official import table
from harness_envs.webshop.shop import Shop, open_shop
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError, DataError, MissingDependency


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.fixture(scope="module")
def shop(data: Path, vectors: Path) -> Shop:
    return open_shop(str(data / "webshop"), str(vectors / "webshop_title_nouns.jsonl.gz"))


def product(**changes: Any) -> dict[str, Any]:
    """A product in the official form."""
    return {
        "asin": "B000000001",
        "name": "Red Lamp",
        "full_description": "A lamp.",
        "small_description": ["Bright"],
        "pricing": "$10.00",
        "customization_options": {"Color": [{"value": " Red/Blue "}, {"value": "Green"}]},
        "product_category": "Home › Lamps › Table Lamps",
        "category": "garden",
        "query": " Table Lamps ",
        "images": [],
        "average_rating": "",
        **changes,
    }


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "attributes": ["bright light"],
        "instruction": "Find me a lamp with bright light",
        "instruction_attributes": ["bright light"],
        **changes,
    }


def catalogue(*products: dict[str, Any], **attributes: Any) -> Catalogue:
    return Catalogue.from_records(
        products or (product(),),
        attributes or {"B000000001": facts()},
        nouns={"Red Lamp": ["lamp"]},
    )


# Against the recorded data ----------------------------------------------------------------


@pytest.mark.data
def test_prices_and_tags_equal_the_recorded_ones(shop: Shop, vectors: Path) -> None:
    recorded = json.loads((vectors / "webshop_prices.json").read_text(encoding="utf-8"))
    prices = shop.prices(GOAL_SEED)
    assert prices == {asin: row["price"] for asin, row in recorded.items()}
    for asin, row in recorded.items():
        found = shop.catalogue.by_asin[asin]
        assert (list(found.pricing), found.price_tag) == (row["pricing"], row["price_tag"])


@pytest.mark.data
def test_goals_equal_the_recorded_ones(shop: Shop, vectors: Path) -> None:
    counts = {"synthetic": 0, "human": 0}
    for row in rows(vectors / "webshop_goals.jsonl.gz"):
        goal = shop.goals(row["goal_set"], GOAL_SEED)[row["index"]]
        target = shop.catalogue.by_asin[row["asin"]]
        options = row["goal_options"]
        assert (goal.asin, goal.instruction) == (row["asin"], row["instruction_text"])
        assert list(goal.attributes) == row["attributes"]
        assert goal.price_upper == row["price_upper"]
        weights = shop.goals(row["goal_set"], GOAL_SEED).weights
        assert weights[row["index"]] == row["weight"]
        if isinstance(goal.options, dict):
            assert list(goal.options.items()) == list(options.items())
        else:
            assert list(goal.options) == options
        assert (target.query, target.category) == (row["query"], row["category"])
        assert (target.title, target.product_category) == (row["name"], row["product_category"])
        counts[row["goal_set"]] += 1
    assert counts == {"synthetic": 6910, "human": 13}
    for kind, count in counts.items():
        assert len(shop.goals(kind, GOAL_SEED)) == count


@pytest.mark.data
def test_goals_are_drawn_as_in_the_original(shop: Shop, vectors: Path) -> None:
    """Recorded resets without a task (after a session's ten letters), and lists cut short."""
    seen = {"random_reset": 0, "random_reset_human": 0, "limit_goals": 0}
    for row in rows(vectors / "webshop_extras.jsonl.gz"):
        if row["kind"] not in seen:
            continue
        seen[row["kind"]] += 1
        kind: Kind = "human" if row["kind"].endswith("human") else "synthetic"
        goals = shop.goals(kind, GOAL_SEED)
        if row["kind"] == "limit_goals":
            rng = random.Random(SHUFFLE_SEED)
            rng.shuffle(list(range(len(goals))))
            drawn: dict[int, None] = {}
            while len(drawn) < row["limit_goals"]:
                drawn[goals.drawn(rng.random())] = None
            assert [goals[i].instruction for i in drawn] == row["goal_texts"]
        else:
            rng = random.Random(row["seed"])
            assert "".join(rng.choices(string.ascii_lowercase, k=10)) == row["session"]
            assert goals.drawn(rng.random()) == row["goal_index"]
    assert seen == {"random_reset": 12, "random_reset_human": 12, "limit_goals": 2}


@pytest.mark.data
def test_a_bare_reset_draws_by_weight(data: Path, vectors: Path) -> None:
    nouns = str(vectors / "webshop_title_nouns.jsonl.gz")
    env = WebShopEnv(data=str(data / "webshop"), nouns=nouns)
    goals = env.shop.goals("synthetic", GOAL_SEED)
    for seed in range(20):
        _, info = env.reset(seed=seed)
        uniform = np_random(seed)[0].random()
        assert info["task_id"] == f"synthetic/{goals.drawn(uniform)}"
    mean = sum(goals.weights) / len(goals)
    expected = sum(w * w for w in goals.weights) / sum(goals.weights)
    drawn = [goals.weights[env.draw_task("synthetic", len(goals)) - 1] for _ in range(5000)]
    assert sum(drawn) / len(drawn) == pytest.approx(expected, rel=0.1)
    assert expected > 3 * mean


@pytest.mark.data
def test_documents_equal_the_indexed_ones(shop: Shop, vectors: Path) -> None:
    for row in rows(vectors / "webshop_doc_tokens.jsonl.gz"):
        assert shop.catalogue.by_asin[row["asin"]].document == row["contents"]


@pytest.mark.data
def test_committed_table_is_what_the_data_give(shop: Shop) -> None:
    written = "".join(
        f"{id_}\t{asin}\t{content}\n" for id_, (asin, content) in tasksets.official_goals().items()
    )
    assert written == table(shop)


@pytest.mark.data
def test_small_500_matches_its_data_and_another_seed_does_not(data: Path, vectors: Path) -> None:
    nouns_file = vectors / "webshop_title_nouns.jsonl.gz"
    found = tasksets.TASK_SETS["webshop/small-500"]()
    env = WebShopEnv(data=data / "webshop", nouns=nouns_file, **found.options)
    assert [env.content_hash(task.id) for task in found.tasks] == list(found.content)
    other = WebShopEnv(data=data / "webshop", nouns=nouns_file, goal_seed=1)
    assert other.content_hash("synthetic/0") != found.content[0]


def test_small_rest_shares_no_product_with_small_500() -> None:
    asked, rest = (
        {tasksets.group(task.id) for task in tasksets.TASK_SETS[f"webshop/{name}"]().tasks}
        for name in ("small-500", "small-rest")
    )
    assert len(asked) + len(rest) == 415
    assert not asked & rest


def test_groups_are_products() -> None:
    asin = tasksets.official_goals()["synthetic/0"][0]
    assert WebShopEnv.group("synthetic/0") == asin
    assert WebShopEnv.group("valid/B000000001-12") == "builtin/B000000001"
    for alone in ("synthetic/999999", "served/0", "served/7"):
        assert WebShopEnv.group(alone) == alone


def test_builtin_splits_share_no_product() -> None:
    shop = open_shop("builtin")
    groups = {
        split: {tasksets.group(id_) for id_ in shop.task_ids(split, GOAL_SEED)}
        for split in ("train", "dev", "valid")
    }
    assert not groups["train"] & groups["valid"]
    assert not groups["train"] & groups["dev"]
    assert not groups["dev"] & groups["valid"]


# One product, as the original reads it ----------------------------------------------------


def test_product_fields_follow_the_original() -> None:
    found = catalogue(product(small_description=["Bright", "Not indexed"])).products[0]
    assert found.options == {"color": ("red | blue", "green")}
    assert found.query == "table lamps"
    assert (found.pricing, found.price_tag) == ((10.0,), "$10.0")
    assert found.document == "red lamp a lamp. bright color: red | blue, green"


@pytest.mark.parametrize(
    ("raw", "pricing", "tag"),
    [
        ("", (100.0,), "$100.0"),
        (None, (100.0,), "$100.0"),
        ("$1,234.50", (1234.5,), "$1234.5"),
        ("$5 to $7.25", (5.0, 7.25), "$5.0 to $7.25"),
        ("$5.00$6.00$7.00", (5.0, 6.0), "$5.0 to $6.0"),
    ],
)
def test_pricing(raw: str | None, pricing: tuple[float, ...], tag: str) -> None:
    found = catalogue(product(pricing=raw)).products[0]
    assert (found.pricing, found.price_tag) == (pricing, tag)


def test_product_without_price_or_options_or_attributes() -> None:
    raw = product()
    del raw["pricing"], raw["customization_options"]
    found = Catalogue.from_records([raw], {}, nouns={"Red Lamp": []})
    only = found.products[0]
    assert (only.pricing, only.options, only.attributes) == ((100.0,), {}, ("DUMMY_ATTR",))
    assert len(Goals(found, "synthetic")) == 0


def test_skipped_products() -> None:
    again = product(name="Other Lamp")
    found = catalogue(product(), product(asin="nan"), product(asin="B0000000001"), again)
    assert [p.title for p in found.products] == ["Red Lamp"]


def test_human_goals_keep_no_stop_and_skip_those_without_attributes() -> None:
    written = [
        {"instruction": "a red lamp.", "instruction_attributes": ["x"], "instruction_options": []},
        {"instruction": "any lamp", "instruction_attributes": [], "instruction_options": ["red"]},
    ]
    found = Catalogue.from_records(
        [product()], {}, {"B000000001": written}, nouns={"Red Lamp": ["lamp"]}
    )
    goals = Goals(found, "human")
    assert len(goals) == 1
    assert goals[0].instruction.startswith("a red lamp, and price lower than ")


def test_goals_without_room_for_a_cap_have_none() -> None:
    goals = Goals(catalogue(product(pricing="$985")), "synthetic")
    assert {goal.price_upper for goal in goals} == {NO_CAP}
    assert "price" not in goals[0].instruction


def test_caps_are_the_larger_of_two_among_the_four_steps_above_the_price() -> None:
    at_ten = [Goals(catalogue(product(pricing="$10.00")), "synthetic", seed) for seed in range(40)]
    assert {goals[0].price_upper for goals in at_ten} == {30.0, 40.0, 50.0}


def test_prices_drawn_are_part_of_a_tasks_content() -> None:
    """Of two seeds that leave the goal as it is but not what another product costs."""
    shop = Shop(catalogue(product(pricing="$985"), product(asin="B000000002", pricing="$5 to $9")))
    one, other = (shop.goals("synthetic", seed)[0] for seed in (1, 2))
    assert one == other
    assert shop.content_hash(one, 1) != shop.content_hash(other, 2)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_a_goal_seed_is_all_that_decides_goals(seed: int) -> None:
    shop = catalogue(product(pricing="$5 to $900"))
    random.seed(seed)
    first = list(Goals(shop, "synthetic", seed))
    random.random()
    assert list(Goals(shop, "synthetic", seed)) == first
    for goal in first:
        assert goal.price_upper == NO_CAP or goal.price_upper > 5


# Bad records and files --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ...}, "name"),
        ({"name": None}, "name"),
        ({"asin": 7}, "asin"),
        ({"pricing": "free"}, "pricing"),
        ({"pricing": "$1.2.3"}, "pricing"),
        ({"small_description": [1]}, "small_description[0]"),
        ({"customization_options": "red"}, "customization_options"),
        ({"customization_options": {"Color": ["red"]}}, "customization_options.Color[0].value"),
        ({"customization_options": {"Color": "red"}}, "customization_options.Color"),
        ({"query": ...}, "query"),
    ],
)
def test_bad_field_is_named(changes: dict[str, Any], field: str) -> None:
    raw = {key: value for key, value in product(**changes).items() if value is not ...}
    with pytest.raises(DataError) as error:
        catalogue(raw)
    assert f"products[0]: field '{field}'" in str(error.value)


def test_bad_attributes_and_human_instructions_are_named() -> None:
    with pytest.raises(DataError, match=r"asin B000000001: field 'instruction_attributes'"):
        catalogue(product(), B000000001=facts(instruction_attributes=[]))
    with pytest.raises(DataError, match=r"number 0: field 'instruction_options' is missing"):
        Catalogue.from_records(
            [product()],
            {},
            {"B000000001": [{"instruction": "x", "instruction_attributes": ["x"]}]},
            nouns={"Red Lamp": []},
        )


def test_title_without_known_nouns_names_the_command() -> None:
    with pytest.raises(DataError, match=r"python -m harness_envs\.webshop\.nouns"):
        Catalogue.from_records([product()], {}, nouns={})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder of the official layout, with nouns."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = tmp_path / "webshop"
    place.mkdir()
    items = [product(), product(asin="B000000002", name="Blue Lamp")]
    text = json.dumps(items, indent=1)
    (place / "items_shuffle_2.json").write_text(text, encoding="utf-8")
    attributes = {item["asin"]: facts() for item in items}
    (place / "items_ins_v2_2.json").write_text(json.dumps(attributes), encoding="utf-8")
    with gzip.open(place / "items_shuffle_2.nouns.jsonl.gz", "wt", encoding="utf-8") as file:
        for item in items:
            file.write(json.dumps({"name": item["name"], "nouns": ["lamp"]}) + "\n")
    return place


def test_folder_plain_and_packed_is_one_catalogue(folder: Path) -> None:
    plain = files.load(folder)
    items = folder / "items_shuffle_2.json"
    with gzip.open(folder / "items_shuffle_2.json.gz", "wb") as file:
        file.write(items.read_bytes())
    items.unlink()
    assert files.load(folder).digest == plain.digest
    assert files.load(folder / "items_shuffle_2.json.gz").digest == plain.digest
    assert len(plain.products) == 2


def test_rules_and_goal_seed_decide_what_a_purchase_earns(folder: Path) -> None:
    items = folder / "items_shuffle_2.json"
    text = items.read_text(encoding="utf-8").replace(" Red/Blue ", "Rectangular")
    items.write_text(text.replace("$10.00", "$15 to $900"), encoding="utf-8")

    def bought(value: str, **options: Any) -> dict[str, Any]:
        env = WebShopEnv(data=folder, **options)
        index = next(
            i for i in range(4) if env.shop.goal(f"synthetic/{i}", 1).option_values == (value,)
        )
        env.reset(options={"task_id": f"synthetic/{index}"})
        for action in env.solution():
            info = env.step(action)[4]
        measures: dict[str, Any] = info["measures"]
        return measures

    assert bought("rectangular", rules="faithful")["r_option"] == 0.0
    assert bought("rectangular", rules="fixed")["r_option"] == 1.0
    assert all(bought("green", goal_seed=seed)["r_price"] for seed in range(8))


def test_nouns_are_also_found_in_the_cache(folder: Path) -> None:
    beside = folder / "items_shuffle_2.nouns.jsonl.gz"
    files.cache_folder().mkdir(parents=True)
    beside.rename(files.cache_folder() / beside.name)
    assert len(files.load(folder).products) == 2
    (files.cache_folder() / beside.name).unlink()
    with pytest.raises(DataError, match=r"webshop\.nouns"):
        files.load(folder)


def test_records_tell_file_line_and_field(folder: Path) -> None:
    items = folder / "items_shuffle_2.json"
    text = items.read_text(encoding="utf-8")
    items.write_text(text.replace('"name": "Blue Lamp"', '"name": 3'), encoding="utf-8")
    line = 1 + text[: text.index("{", text.index("Red Lamp"))].count("\n")
    second = 1 + text[: text.rindex(' {\n  "asin": "B000000002"') + 1].count("\n")
    with pytest.raises(DataError) as error:
        files.load(folder)
    assert f"{items}:{second}: record 1: field 'name' is a int, expected str" in str(error.value)
    assert line < second


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[: len(raw) // 3], r"the file ends inside it"),
        (lambda raw: raw.rstrip()[:-1], r"ends before the closing"),
        (lambda _: b"", r"not a JSON list"),
        (lambda _: b'{"a": 1}', r"not a JSON list"),
        (lambda _: b"[1]", r"is a int, expected an object"),
        (lambda raw: raw.decode().encode("utf-16"), r"is not UTF-8"),
        (lambda raw: raw.replace(b"A lamp.", "é".encode("latin-1")), r"is not UTF-8"),
        (lambda raw: raw.replace(b'"asin"', b"asin", 1), r":3: record 0: not valid JSON"),
        (lambda raw: raw.replace(b"},\n {", b"}\n {"), r":2\d: record 1: no comma before it"),
        (lambda raw: raw.replace(b"},\n {", b"},,\n {"), r"record 1: not valid JSON"),
        (lambda raw: raw.rstrip()[:-1] + b",]", r"record 2: not valid JSON"),
        (lambda raw: raw + b"\n[]", r":\d\d: text after the closing ']'"),
        (lambda raw: raw.replace(b"B000000002", b"b000000002"), r"record 1: .*'b000000002'"),
    ],
)
def test_damaged_product_files(folder: Path, damage: Any, message: str) -> None:
    items = folder / "items_shuffle_2.json"
    items.write_bytes(damage(items.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        files.load(folder)
    assert str(items) in str(error.value)


def test_byte_order_mark_is_read_over(folder: Path) -> None:
    items = folder / "items_shuffle_2.json"
    items.write_bytes(b"\xef\xbb\xbf" + items.read_bytes())
    assert len(files.load(folder).products) == 2


def test_cut_off_gzip(folder: Path) -> None:
    items = folder / "items_shuffle_2.json"
    packed = gzip.compress(items.read_bytes())
    items.unlink()
    (folder / "items_shuffle_2.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"cannot be read"):
        files.load(folder)


def test_damaged_attribute_and_noun_files(folder: Path) -> None:
    attributes = folder / "items_ins_v2_2.json"
    text = attributes.read_text(encoding="utf-8")
    for damaged, message in (
        (text[:50], r"items_ins_v2_2\.json:1: not valid JSON"),
        ("[]", "list"),
    ):
        attributes.write_text(damaged, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            files.load(folder)
    attributes.write_text(text, encoding="utf-8")
    with gzip.open(folder / "items_shuffle_2.nouns.jsonl.gz", "at", encoding="utf-8") as file:
        file.write("lamp\n")
    with pytest.raises(DataError, match=r"nouns\.jsonl\.gz:3: not a title"):
        files.load(folder)


def test_missing_and_ambiguous_files(folder: Path) -> None:
    with pytest.raises(DataError, match="neither a folder nor a file"):
        files.load(folder / "nowhere")
    (folder / "items_ins_v2_2.json").rename(folder / "x.json")
    with pytest.raises(DataError, match=r"items_ins_v2"):
        files.load(folder)
    (folder / "x.json").rename(folder / "items_ins_v2_2.json")
    (folder / "items_shuffle.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="several product files"):
        files.load(folder)
    assert len(files.load(folder / "items_shuffle_2.json").products) == 2


def test_official_needs_to_be_told_where(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    with pytest.raises(DataError, match="harness fetch webshop"):
        WebShopEnv(data="official").task_ids("synthetic")
    monkeypatch.setenv("WEBSHOP_DATA", str(folder))
    assert len(WebShopEnv(data="official").task_ids("synthetic")) == 4
    monkeypatch.delenv("WEBSHOP_DATA")
    monkeypatch.setenv("HARNESS_DATA", str(folder.parent))
    assert len(WebShopEnv(data="official").task_ids("synthetic")) == 4
    with pytest.raises(ConfigError, match="no human goals"):
        WebShopEnv(data="official").task_ids("human")


def test_relative_files_are_those_that_were_meant(
    monkeypatch: pytest.MonkeyPatch, folder: Path, tmp_path: Path
) -> None:
    keywords = {"data": "webshop", "nouns": "webshop/items_shuffle_2.nouns.jsonl.gz"}
    monkeypatch.chdir(tmp_path)
    one = WebShopEnv(**keywords)
    assert len(one.task_ids("synthetic")) == 4
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert len(one.task_ids("synthetic")) == 4
    with pytest.raises(DataError, match="neither a folder nor a file"):
        WebShopEnv(**keywords).task_ids("synthetic")


def test_official_tasks_on_builtin_data_are_refused_with_the_remedy() -> None:
    with pytest.raises(DataError, match="--data official"):
        WebShopEnv().reset(options={"task_id": "synthetic/0"})


# Nouns and fetching -----------------------------------------------------------------------


def test_nouns_command_works_or_names_the_extra(folder: Path) -> None:
    target = folder / "items_shuffle_2.nouns.jsonl.gz"
    before = target.read_bytes()
    if _spacy_is_missing():
        with pytest.raises(MissingDependency, match=r"distill-harness\[nouns\]"):
            nouns.write(folder)
        assert target.read_bytes() == before
    else:
        assert nouns.write(folder) == target
        assert files.read_nouns(target).keys() == {"Red Lamp", "Blue Lamp"}


def _spacy_is_missing() -> str:
    try:
        nouns.model()
    except MissingDependency as error:
        return str(error)
    return ""


def test_read_only_folders_are_left_alone(folder: Path) -> None:
    assert nouns.destination(folder / "items_shuffle_2.json").parent == folder
    folder.chmod(0o555)
    try:
        found = nouns.destination(folder / "items_shuffle_2.json")
    finally:
        folder.chmod(0o755)
    assert found.parent == files.cache_folder()


@pytest.mark.data
def test_nouns_written_equal_the_recorded_ones(data: Path, vectors: Path, tmp_path: Path) -> None:
    if missing := _spacy_is_missing():
        pytest.skip(missing)
    found = files.read_nouns(nouns.write(data / "webshop", tmp_path / "nouns.jsonl.gz"))
    assert found == files.read_nouns(vectors / "webshop_title_nouns.jsonl.gz")


def test_fetch_refuses_other_products(folder: Path) -> None:
    with pytest.raises(DataError, match="lacks 415 products"):
        check(folder / "items_shuffle_2.json")

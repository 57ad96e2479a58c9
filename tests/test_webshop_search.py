"""WebShop's search: terms and results against Lucene's, and the index against plain arithmetic."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness_envs.webshop.analysis import STOP_WORDS, terms, words
from harness_envs.webshop.catalogue import GOAL_SEED
from harness_envs.webshop.porter import stem
from harness_envs.webshop.search import Index, build, from_byte4, to_byte4
from harness_envs.webshop.shop import Shop, open_shop
from harness_envs.webshop.site import TooManyTerms
from hypothesis import given, settings
from hypothesis import strategies as st


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.fixture(scope="module")
def shop(data: Path, vectors: Path) -> Shop:
    return open_shop(str(data / "webshop"), str(vectors / "webshop_title_nouns.jsonl.gz"))


# Against Lucene ---------------------------------------------------------------------------


@pytest.mark.data
def test_terms_of_documents_and_queries_equal_lucenes(vectors: Path) -> None:
    for row in rows(vectors / "webshop_doc_tokens.jsonl.gz"):
        assert terms(row["contents"]) == row["tokens"], row["asin"]
    for row in rows(vectors / "webshop_search.jsonl.gz"):
        assert terms(row["query"]) == row["tokens"], row["query"]


@pytest.mark.data
def test_results_equal_lucenes(shop: Shop, vectors: Path) -> None:
    """All lists of 50 are equal, and scores up to the four places that the recorded ones have."""
    count = 0
    for row in rows(vectors / "webshop_search.jsonl.gz"):
        found = shop.engine.hits(row["query"], 50)
        ours, theirs = [asin for asin, _ in found], [asin for asin, _ in row["hits"]]
        assert ours == theirs, row["query"]
        count += 1
        for (_, ours_score), (_, score) in zip(found, row["hits"], strict=True):
            # Theirs are rounded to 4 places and, when equal, lowered by 1e-6 each.
            assert ours_score == pytest.approx(score, abs=1e-4)
    assert count == 355


# Terms ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The women's 5.5 oz", ["women", "5.5", "oz"]),
        ("johnny’s", ["johnni"]),
        ("a.b.c 1,234.5 x:y 10:30", ["a.b.c", "1,234.5", "x:y", "10", "30"]),
        ("2-pack 3/4 5x7", ["2", "pack", "3", "4", "5x7"]),
        ("❤❤ ❄️ 👨\u200d💼 ™", ["❤", "❤", "❄️", "👨\u200d💼", "™"]),
        ("锅巴 한국", ["锅", "巴", "한국"]),
        ("½ № ● _ ___", []),
        ("under_score_", ["under_score_"]),
        ("crème brûlée", ["crème", "brûlée"]),
        ("zero\u200bwidth", ["zero", "width"]),
        ("(ﾟ) カﾟ", ["カﾟ"]),
        ("y\u200db 1\u200d2", ["y\u200db", "1\u200d2"]),
        (
            "y\u02c2b \u02ff \ua720 \ua789 \u02c2",
            ["y\u02c2b", "\u02ff", "\ua720", "\ua789", "\u02c2"],
        ),
        (
            "\u055b\u0561 \u0561\u055c\u0562 \u055e",
            ["\u055b\u0561", "\u0561\u055c\u0562", "\u055e"],
        ),
        ("1\u037e2 y\u0387b 1\u066b2 y\u037eb", ["1\u037e2", "y\u0387b", "1\u066b2", "y", "b"]),
        ('ש"ס ש״ס ש׳ ש\' ש" ש"b', ['ש"ס', "ש״ס", "ש׳", "ש'", "ש", "ש", "b"]),
        ('ש\u05c1"ס', ['ש\u05c1"ס']),
        (
            "\U0001f3fd y\U0001f3fd \U0001f600\U0001f3fd",
            ["\U0001f3fd", "y\U0001f3fd", "\U0001f600\U0001f3fd"],
        ),
        ("\U0001f1e6 \U0001f1e6\U0001f1e7\U0001f1e8", ["\U0001f1e6\U0001f1e7"]),
        (
            "#\ufe0f\u20e3 *\u20e3 # #\ufe0f 1\ufe0f\u20e3",
            ["#\ufe0f\u20e3", "*\u20e3", "1\ufe0f\u20e3"],
        ),
        ("\U0001f130 y\U0001f170", ["\U0001f130", "y\U0001f170"]),
        ("ΑΣ İX", ["ασ", "ix"]),
        ("", []),
        (" \t\n", []),
    ],
)
def test_terms(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # South-East Asian scripts: no word of other letters, digits or ``_``
        ("กwomen> xกy 1ก2 _ก_", ["ก", "women", "x", "ก", "y", "1", "ก", "2", "ก"]),
        ("กก ข้า ကា\u19da", ["กก", "ข้า", "ကា\u19da"]),
        ("\u0e31 x\u0e31y _\u0e31 \u0301\u0e31", ["\u0e31", "x\u0e31y", "\u0e31", "\u0e31"]),
        # Radicals, squared katakana, old kana
        ("x\u2e80\u2f00 々x", ["x", "\u2e80", "\u2f00", "々x"]),
        ("x㌲y ㌲㋐カ", ["x", "㌲", "y", "㌲㋐カ"]),
        ("\U0001b001\U0001b150 \U0001f200x", ["\U0001b001", "\U0001b150", "\U0001f200", "x"]),
        # ``_`` joins katakana
        ("カ_10 カ_ _カ カx ___カ_x", ["カ_10", "カ_", "_カ", "カ", "x", "___カ_x"]),
        # Hebrew quotes
        ("x:ש' ש\"ש\"ש ש'x", ["x:ש", 'ש"ש', "ש", "ש'x"]),
        # Newer than Lucene's Unicode, or ideographs that are not Han
        ("x\u0870y 1\ua7c02 \u9ff0", ["x", "y", "1", "2"]),
        ("x\u1abfy \U00030000 \U00017000", ["x", "y"]),
        ("\U0001fb00 1\U0001fbf0", ["\U0001fb00", "1", "\U0001fbf0"]),
    ],
)
def test_terms_of_rare_characters(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u200d☕", ["\u200d☕"]),
        ("x\u200d☕", ["x\u200d", "☕"]),
        ("_\u200d\u200d☕", ["\u200d\u200d☕"]),
        *((f"❤️{end}", ["❤️"]) for end in "\ufe0f\u20e3\uff9e\u00ad\u0301\ufe0e"),
        ("❤\u0301️\u0301", ["❤\u0301️"]),
        ("☕\ufe0e", ["☕"]),
        ("❤️🏻 _🏻", ["❤️", "🏻", "🏻"]),
        ("❤️\u200d🔥 ❤️\u200d🏻 ❤️\u200dx", ["❤️\u200d🔥", "❤️\u200d🏻", "❤️", "x"]),
        ("ℹ️x aℹ\u200d☕", ["ℹ️x", "aℹ\u200d", "☕"]),
        ("ℹ\u200d☕x ℹ\u200dⓂx", ["ℹ\u200d☕", "x", "ℹ\u200dⓜx"]),
    ],
)
def test_terms_of_emoji(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"),
        ("ponies", "poni"),
        ("agreed", "agre"),
        ("plastered", "plaster"),
        ("hopping", "hop"),
        ("falling", "fall"),
        ("filing", "file"),
        ("sky", "sky"),
        ("possibly", "possibl"),
        ("analogies", "analog"),
        ("generalizations", "gener"),
        ("controlling", "control"),
        ("adjustable", "adjust"),
        ("electricity", "electr"),
        ("is", "is"),
        ("yyy", "yyi"),
    ],
)
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected


@given(st.text("ab 019_:.',;-[]é❤", max_size=40))
@settings(max_examples=300, deadline=None)
def test_ascii_text_has_the_words_of_any_text(text: str) -> None:
    """ASCII is read by a pattern of its own: beside another script the words are the same."""
    assert [w for w in words(f"{text} 锅") if w != "锅"] == [w for w in words(text) if w != "锅"]


@given(st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_has_terms(text: str) -> None:
    found, kept = words(text), terms(text)
    assert all(word in text for word in found)
    assert all(kept)
    assert len(kept) <= len(found)
    # Stop words go before words are stemmed: "one" is kept, as "on".
    if all(word.lower() in STOP_WORDS for word in found):
        assert not kept


def test_long_words_are_cut_and_cost_no_time() -> None:
    assert [len(word) for word in words("x" * 600)] == [255, 255, 90]
    assert words("_" * 100_000) == []
    assert len(words("a." * 50_000)) == 391
    for text in ("_é", "ⓜ\u200d", "😀\u200d", "_🏻", "#\u0301", "\u200d"):
        assert len(words(text * 20_000)) <= 20_000
    assert words("é" + "_" * 50_000) == ["é" + "_" * 254]


@pytest.mark.parametrize("letter", ["x", "é"])
def test_long_words_are_cut_where_lucene_cuts_them(letter: str) -> None:
    assert words(letter * 254 + "'s") == [letter * 254, "s"]
    assert words(letter * 255 + "'s") == [letter * 255, "s"]
    assert words(letter * 253 + "'s") == [letter * 253 + "'s"]
    assert words(f"{letter}." * 200) == [f"{letter}." * 127 + letter, f"{letter}." * 71 + letter]
    assert words("1," * 200 + letter) == ["1," * 127 + "1", "1," * 71 + "1", letter]


# The index --------------------------------------------------------------------------------


def test_lengths_as_one_byte() -> None:
    assert [from_byte4(to_byte4(n)) for n in (0, 1, 39, 40, 41, 100, 1000)] == [
        *(0, 1, 39, 40, 40, 96, 984)
    ]
    values = [from_byte4(byte) for byte in range(256)]
    assert values == sorted(set(values))
    assert [to_byte4(value) for value in values] == list(range(256))


def corpus(seed: int, size: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    vocabulary = [f"w{n}" for n in range(60)]
    weights = [1 / (n + 1) for n in range(60)]
    return [
        (f"B{n:09d}", " ".join(rng.choices(vocabulary, weights, k=rng.randint(0, 80))))
        for n in range(size)
    ]


def plain_scores(documents: list[tuple[str, str]], query: str) -> dict[str, float]:
    """BM25 as the formula is printed, with Anserini's k1 and b, in double precision."""
    counted = {asin: Counter(terms(text)) for asin, text in documents}
    average = sum(c.total() for c in counted.values()) / len(documents)
    scores: dict[str, float] = {}
    for term in terms(query):
        df = sum(term in c for c in counted.values())
        idf = math.log(1 + (len(documents) - df + 0.5) / (df + 0.5))
        for asin, c in counted.items():
            if c[term]:
                length = from_byte4(to_byte4(c.total()))
                norm = 0.9 * (1 - 0.4 + 0.4 * length / average)
                scores[asin] = scores.get(asin, 0.0) + idf * c[term] / (c[term] + norm)
    return scores


@pytest.mark.parametrize("k", [1, 7, 50])
def test_index_equals_the_formula(k: int) -> None:
    documents = corpus(k, 300)
    index = build(documents)
    rng = random.Random(k)
    for _ in range(40):
        query = " ".join(f"w{rng.randrange(70)}" for _ in range(rng.randint(1, 12)))
        expected = plain_scores(documents, query)
        found = index.hits(query, k)
        assert len(found) == min(k, len(expected))
        best = sorted(expected.values(), reverse=True)[:k]
        assert [score for _, score in found] == pytest.approx(best, rel=1e-5)
        for asin, score in found:
            assert score == pytest.approx(expected[asin], rel=1e-5)


def test_equal_scores_come_by_asin() -> None:
    index = build([(f"B{n:09d}", "red lamp") for n in range(30)])
    assert index.search("lamp", 12) == [f"B{n:09d}" for n in range(12)]


def test_saved_index_is_opened_and_gives_the_same(tmp_path: Path) -> None:
    documents = corpus(3, 200)
    memory, disk = build(documents), build(documents, tmp_path / "index")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]
    assert not list((tmp_path / "index").glob("part-*"))
    again = build(iter(()), tmp_path / "index")  # opened: nothing is read
    for query in ("w1 w2", "w5", "w59 w0 w0", "unknown"):
        assert memory.hits(query, 20) == disk.hits(query, 20) == again.hits(query, 20)


def test_large_shops_keep_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = open_shop("builtin")
    large = [Shop(small.catalogue, builtin=True, index_on_disk=1000) for _ in range(2)]
    for shop in large:
        assert shop.search("red shirt", 50) == small.search("red shirt", 50)
    (folder,) = (tmp_path / "distill-harness" / "webshop").iterdir()
    assert small.catalogue.digest in folder.name


def test_many_blocks_are_one_index() -> None:
    documents = corpus(4, 200)
    whole, parts = build(documents), build(documents, block=7)
    for name in ("offsets", "docs", "codes", "letters", "starts", "asins"):
        assert (getattr(whole, name) == getattr(parts, name)).all(), name


def test_huge_queries() -> None:
    index = build(corpus(5, 50))
    with pytest.raises(TooManyTerms):
        index.search(" ".join(f"x{n}" for n in range(10_000)), 50)
    assert index.search("w1 " * 10_000, 50)
    assert index.search("the of and", 50) == []
    assert index.search("\ud800 w1", 50)


def test_index_of_documents_without_words() -> None:
    index = build([("B000000001", ""), ("B000000002", "?!")])
    assert isinstance(index, Index)
    assert index.search("lamp", 50) == []


def test_builtin_products_are_found_by_their_titles() -> None:
    shop = open_shop("builtin")
    goals = shop.goals("synthetic", GOAL_SEED)
    for goal in [goals[n] for n in range(0, len(goals), 40)]:
        title = shop.catalogue.by_asin[goal.asin].title
        assert goal.asin in shop.search(title, 50)

"""Local pages: found by title, by redirect, by likeness; read from every kind of file."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness_envs.hotpotqa.corpus import INDEX_FILE, Corpus, ensure_index, fold, main, write_index
from harness_envs.hotpotqa.pages import read_pages
from harness_envs.hotpotqa.records import Page, Redirect
from harness_envs.hotpotqa.store import open_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DataError

PAGES = [
    Page("Javier Gullón", ("A Spanish screenwriter.", "Born in Madrid.")),
    Page("Diamond cut", ("A style of cutting stones.",), ("Cut of a diamond",)),
    Page("Diamond Cut", ("A song.",)),
    Page("The Fifth Estate (film)", ("A film of 2013.",)),
    Page("1996–97 season", ("A season.",)),
    Page("¡Calexico!", ("A place.",)),
    Page("東京", ("A city.",)),
    Page("C++", ("A language.",)),
    Page("Empty", ()),
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return Corpus.build(PAGES)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Javier Gullón", "Javier Gullón"),
        ("JAVIER  GULLON ", "Javier Gullón"),
        ("javier_gullón", "Javier Gullón"),
        ("diamond cut", "Diamond cut"),
        ("Diamond Cut", "Diamond Cut"),
        ("DIAMOND CUT", "Diamond cut"),
        ("cut of a diamond", "Diamond cut"),
        ("1996-97 Season", "1996–97 season"),
        ("東京", "東京"),
        ("c++", "C++"),
        ("C", None),
        ("The Fifth Estate", None),
        ("[Empty]", None),
        ("", None),
        ("\ud800", None),
    ],
)
def test_titles_are_found_as_wikipedia_finds_them(
    corpus: Corpus, asked: str, found: str | None
) -> None:
    page = corpus.find(asked)
    assert (page.title if page else None) == found


def test_a_page_comes_back_whole(corpus: Corpus) -> None:
    for page in PAGES:
        found = corpus.find(page.title)
        assert found is not None
        assert (found.title, found.paragraphs) == (page.title, page.paragraphs or ("",))
    assert list(corpus.titles()) == [page.title for page in PAGES]


def test_similar_titles_come_best_first(corpus: Corpus) -> None:
    assert corpus.similar("Fifth Estate")[0] == "The Fifth Estate (film)"
    assert corpus.similar("Xavier Gullon")[0] == "Javier Gullón"
    assert corpus.similar("Cutting a diamond")[:2] == ["Diamond Cut", "Diamond cut"]
    assert corpus.similar("[Diamond cut]") == []
    assert corpus.similar("") == corpus.similar("???") == corpus.similar("\ud800") == []
    many = Corpus.build(Page(f"River {n}", ("A river.",)) for n in range(30))
    assert len(many.similar("rivers")) == 5
    assert len(many.similar("rivers", 7)) == 7


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=12).filter(lambda t: fold(t)), min_size=1, unique_by=fold))
def test_every_title_finds_its_page_and_is_like_itself(titles: list[str]) -> None:
    try:
        "".join(titles).encode()
    except UnicodeEncodeError:
        titles = [title.encode("utf-8", "replace").decode() for title in titles]
    built = Corpus.build(Page(title, (f"About {n}.",)) for n, title in enumerate(titles))
    for number, title in enumerate(titles):
        page = built.find(title)
        assert page is not None
        assert fold(page.title) == fold(title)
        assert page.title == title or fold(titles[number]) == fold(page.title)
        near = built.similar(f"{title} qqzz")
        if any(len(word) > 1 for word in fold(title).split() if word.isascii() and word.isalnum()):
            assert near


def test_the_order_of_pages_does_not_decide_what_is_similar() -> None:
    pages = [Page(f"Station {a} {b}", ("x",)) for a in "abcdefgh" for b in "stuvwxyz"]
    one, other = Corpus.build(pages), Corpus.build(pages[::-1])
    for asked in ("Station a", "station c t", "Stations", "b z"):
        assert one.similar(asked) == other.similar(asked)
    assert one.fingerprint != other.fingerprint


def test_a_capital_of_the_first_letter_decides_between_titles() -> None:
    built = Corpus.build([Page("Diamond Cut", ("A song.",)), Page("Diamond cut", ("A style.",))])
    for asked, title in (("diamond cut", "Diamond cut"), ("DIAMOND CUT", "Diamond Cut")):
        page = built.find(asked)
        assert page is not None
        assert page.title == title


def test_other_names_of_a_page_are_another_corpus() -> None:
    assert (
        Corpus.build([Page("Nile", ("A river.",))]).fingerprint
        != Corpus.build([Page("Nile", ("A river.",), ("An-Nil",))]).fingerprint
    )


def test_redirects_lead_to_their_page_in_any_order() -> None:
    late = Page("John F. Kennedy", ("A president.",))
    built = Corpus.build([Redirect("JFK", late.title), late, Redirect("Nobody", "Absent")])
    page = built.find("jfk")
    assert page is not None
    assert page.title == "John F. Kennedy"
    assert built.find("Nobody") is None
    assert built.similar("The JFK") == ["John F. Kennedy"]


def test_an_index_in_a_folder_answers_like_one_in_memory(corpus: Corpus, tmp_path: Path) -> None:
    ensure_index(PAGES, tmp_path / "index")
    mapped = Corpus.open(tmp_path / "index")
    assert mapped.fingerprint == corpus.fingerprint
    for asked in ("diamond cut", "Fifth Estate", "nothing of it"):
        assert mapped.find(asked) == corpus.find(asked)
        assert mapped.similar(asked) == corpus.similar(asked)
    ensure_index(iter(()), tmp_path / "index")  # there already: nothing is read
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]


def test_chunks_make_no_difference(tmp_path: Path) -> None:
    pages = [Page(f"Lake {n} of {n * 7}", (f"Text {n}.",)) for n in range(50)]
    one = Corpus.build(pages)
    write_index(pages, tmp_path, chunk=7)
    other = Corpus.open(tmp_path)
    assert one.similar("lake 4 of") == other.similar("lake 4 of")
    assert [one.find(p.title) for p in pages] == [other.find(p.title) for p in pages]


def test_a_damaged_or_old_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an index"):
        Corpus.open(tmp_path)
    write_index(PAGES, tmp_path)
    about = json.loads((tmp_path / INDEX_FILE).read_text())
    (tmp_path / INDEX_FILE).write_text(json.dumps({**about, "format": 0}))
    with pytest.raises(DataError, match="format 0"):
        Corpus.open(tmp_path)
    (tmp_path / INDEX_FILE).write_text(json.dumps(about))
    (tmp_path / "keys.npy").write_bytes(b"x")
    with pytest.raises(DataError, match="not an index"):
        Corpus.open(tmp_path)
    with pytest.raises(DataError, match="at least one page"):
        Corpus.build([])
    with pytest.raises(DataError, match="no title"):
        Corpus.build([Page(" ", ("x",))])


# Files ---------------------------------------------------------------------------------------

RECORDS: list[dict[str, Any]] = [
    {"title": "One &amp; Two", "sentences": ["First.", " Second."]},
    {"title": "Three", "paragraphs": ["A.", "B. C."], "aliases": ["Tres"]},
    {"title": "Four", "text": "P one.\n\nP two."},
    {"title": "Five", "text": ["S one.", " S two."], "id": "7", "url": "x"},
    {"title": "Six", "text": [["Six"], ["S one.", " S two."], []]},
    {"title": "Uno", "redirect": "One &amp; Two"},
    {"context": [["Seven", ["Of a context."]], ["Three", ["Repeated."]]], "question": "q"},
]
EXPECTED = [
    Page("One & Two", ("First. Second.",)),
    Page("Three", ("A.", "B. C."), ("Tres",)),
    Page("Four", ("P one.", "P two.")),
    Page("Five", ("S one. S two.",)),
    Page("Six", ("Six", "S one. S two.")),
    Redirect("Uno", "One & Two"),
    Page("Seven", ("Of a context.",)),
]
LINES = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pages.jsonl", LINES),
        ("pages.json", json.dumps(RECORDS).encode()),
        ("pages.jsonl.gz", gzip.compress(LINES)),
        ("pages.jsonl.xz", lzma.compress(LINES)),
        ("pages.json.bz2", bz2.compress(json.dumps(RECORDS).encode())),
        ("enwiki/AA/wiki_00.bz2", bz2.compress(LINES)),
    ],
)
def test_pages_are_read_from_files(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if name.startswith("enwiki"):
        path = tmp_path / "enwiki"
    assert list(read_pages(path)) == EXPECTED
    found = open_corpus(str(path)).find("uno")
    assert found is not None
    assert found.paragraphs == ("First. Second.",)


def test_pages_are_read_from_the_dumps_archive(tmp_path: Path) -> None:
    path = tmp_path / "enwiki.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        member = tarfile.TarInfo("enwiki/AA/wiki_00.bz2")
        packed = bz2.compress(LINES)
        member.size = len(packed)
        archive.addfile(member, io.BytesIO(packed))
    assert list(read_pages(path)) == EXPECTED
    assert main([str(path), str(tmp_path / "index")]) == 0
    assert open_corpus(str(tmp_path / "index")).find("Six") is not None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"title": "A", "text": "x"}\n{"title": ""}\n', "record 2 has no 'title'"),
        (b'{"title": "A"}\n', r"record 1 \('A'\) has no 'sentences'"),
        (b"not json\n", r"record 1 is not a page(?s:.*)mend it, or leave it out"),
        (b'{"title": 3}\n', r"record 1 is not a page.*\$.title"),
        (b"\xff\xfe\n", "record 1 is not a page"),
    ],
)
def test_a_bad_record_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "pages.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        list(read_pages(path))


def test_what_holds_no_pages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="There is no corpus"):
        open_corpus(str(tmp_path / "absent"))
    (tmp_path / "pages.jsonl.gz").write_bytes(gzip.compress(LINES)[:-20])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_pages(tmp_path / "pages.jsonl.gz"))
    packed = bytearray(gzip.compress(LINES * 50))
    packed[30:60] = bytes(b ^ 0xFF for b in packed[30:60])
    (tmp_path / "pages.jsonl.gz").write_bytes(packed)
    with pytest.raises(DataError, match="cannot be read"):
        list(read_pages(tmp_path / "pages.jsonl.gz"))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no files of pages"):
        list(read_pages(tmp_path / "none"))
    assert main([str(tmp_path / "none"), str(tmp_path / "index")]) == 1
    assert "no files of pages" in capsys.readouterr().err
    assert not (tmp_path / "index").exists()


def test_many_pages_are_indexed_once_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name in ("one", "two"):  # the same content under two names is one index
        (tmp_path / f"{name}.jsonl").write_bytes(LINES)
        path = str(tmp_path / f"{name}.jsonl")
        assert open_corpus(path, in_memory=10).find("Six") is not None
    folder = tmp_path / "cache" / "hotpotqa"
    assert len(list(folder.glob("corpus-*"))) == 1
    (tmp_path / "one.jsonl").write_bytes(LINES + b'{"title": "New", "text": "x"}\n')
    os.utime(tmp_path / "one.jsonl", (1, 1))
    assert open_corpus(str(tmp_path / "one.jsonl"), in_memory=11).find("New") is not None
    assert len(list(folder.glob("corpus-*"))) == 2
    (tmp_path / "two.jsonl").write_bytes(LINES.replace(b"Six", b"Ten"))  # of the same size
    os.utime(tmp_path / "two.jsonl", (1, 1))
    assert open_corpus(str(tmp_path / "two.jsonl"), in_memory=11).find("Ten") is not None


@pytest.mark.data
def test_the_seventeen_thousand_pages(data: Path) -> None:
    built = open_corpus(str(data / "hotpotqa" / "wiki_paragraphs.jsonl.gz"))
    assert len(built) == 17_028
    assert built.fingerprint == "e282bcc75e114fd6"
    assert built.find("ernst & young") is not None
    assert built.similar("Scott Derickson")[0] == "Scott Derrickson"
    assert built.similar("big stone gap film")[0] == "Big Stone Gap (film)"

"""Questions from files: the official ones, ReAct's, our packed ones; task ids; fetching them."""

from __future__ import annotations

import gzip
import json
import lzma
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from harness_envs.hotpotqa.data import OFFICIAL, content_hash, group, is_builtin, open_data
from harness_envs.hotpotqa.fetch import FILES, fetch
from harness_envs.hotpotqa.records import Question

from harness.errors import ConfigError, DataError


def official(number: int, **fields: Any) -> dict[str, Any]:
    """A question as the official files have it."""
    return {
        "_id": f"{number:024x}",
        "question": f"Question {number}?",
        "answer": f"answer {number}",
        "type": "comparison" if number % 5 == 0 else "bridge",
        "level": "hard",
        "supporting_facts": [[f"Page &amp; {number}", 0], [f"Other {number}", 1]],
        "context": [
            [f"Page &amp; {number}", ["First.", " Second."]],
            [f"Other {number}", ["Third.", " Fourth."]],
            ["Everywhere", ["Fifth."]],
        ],
        **fields,
    }


def simplified(number: int) -> dict[str, Any]:
    return {key: official(number)[key] for key in ("question", "answer", "type")}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """Records as one JSON list or as lines, packed, as the name says."""
    plain = path.name.removesuffix(".gz").removesuffix(".xz")
    lines = "".join(json.dumps(r) + "\n" for r in records)
    raw = (json.dumps(records) if plain.endswith(".json") else lines).encode()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix, bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(raw))
    return path


def test_official_files_are_read_with_their_contexts(tmp_path: Path) -> None:
    write(tmp_path / "hotpot_dev_distractor_v1.json", [official(n) for n in range(3)])
    write(tmp_path / "hotpot_dev_fullwiki_v1.json", [official(n) for n in (2, 1, 0)])
    write(tmp_path / "hotpot_train_v1.1.json.xz", [official(9)])
    source = open_data(str(tmp_path))
    assert source.splits() == ["dev", "train"]
    tasks = source.tasks("dev")
    # Three are not the whole split: their places are not the official ones.
    assert list(tasks) == [f"dev/{n:024x}" for n in range(3)]
    question = tasks[f"dev/{1:024x}"]
    assert (question.id, question.answer, question.type) == (f"{1:024x}", "answer 1", "bridge")
    assert question.supporting == (("Page & 1", 0), ("Other 1", 1))
    corpus = source.corpus("dev")
    assert len(corpus) == 7
    page = corpus.find("page & 2")
    assert page is not None
    assert page.paragraphs == ("First. Second.",)
    assert len(source.corpus("train")) == 3


@pytest.mark.parametrize(
    "name", ["hotpot_dev_v1_simplified.json.gz", "hotpot_dev_fullwiki_v1.json"]
)
def test_a_complete_file_tells_the_official_order(name: str, tmp_path: Path) -> None:
    make = simplified if "simplified" in name else official
    write(tmp_path / name, [make(n) for n in range(OFFICIAL["dev"])])
    write(tmp_path / "dev_mine.jsonl.gz", [official(5, dev_index=5), official(3)])
    tasks = open_data(str(tmp_path)).tasks("dev")
    assert list(tasks) == [f"dev/{n}" for n in range(OFFICIAL["dev"])]
    # Both files' knowledge of a question comes together.
    assert tasks["dev/5"].id == f"{5:024x}"
    assert tasks["dev/3"].supporting == (("Page & 3", 0), ("Other 3", 1))
    assert tasks["dev/7"].question == "Question 7?"


def test_questions_without_contexts_have_no_pages(tmp_path: Path) -> None:
    write(tmp_path / "hotpot_dev_v1_simplified.json", [simplified(n) for n in range(3)])
    source = open_data(str(tmp_path))
    assert len(source.tasks("dev")) == 3
    with pytest.raises(DataError, match="without pages"):
        source.corpus("dev")


def test_where_the_order_is_unknown_ids_are_used(tmp_path: Path) -> None:
    records = [
        official(1, dev_index=70, hotpot_id=None),
        official(2, hotpot_id="5a" * 12),
        {**official(3), "_id": None},
    ]
    write(tmp_path / "dev_mine.jsonl", records)
    write(tmp_path / "train_mine.jsonl", [official(4, dev_index=3)])
    source = open_data(str(tmp_path))
    ids = list(source.tasks("dev"))
    assert ids[:2] == ["dev/70", f"dev/{'5a' * 12}"]
    assert len(ids[2].removeprefix("dev/")) == 24
    assert list(source.tasks("train")) == [f"train/{4:024x}"]
    one = open_data(str(tmp_path / "train_mine.jsonl"))
    assert (one.splits(), list(one.tasks("train"))) == (["train"], [f"train/{4:024x}"])


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({**official(1), "answer": ""}, rf"record 2 \({1:024x}\) has no 'answer'"),
        ({**official(1), "answer": None}, "record 2 .* has no 'answer'"),
        ({"_id": "5a", "question": "Why?"}, r"record 2 \(5a\) has no 'answer'"),
        ({"answer": "x"}, "record 2 has no 'question'"),
        ({**official(1), "answer": 7}, r"record 2 is not a question.*\$.answer"),
        ({**official(1), "supporting_facts": [["x"]]}, "record 2 is not a question"),
        ({**official(0), "answer": "other"}, "record 2 answers 'other' where"),
        ({**official(2), "question": "New?", "_id": official(0)["_id"]}, "record 2: a second"),
    ],
)
def test_a_bad_question_is_refused_with_file_and_record(
    record: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "dev_mine.jsonl", [official(0), record])
    with pytest.raises(DataError, match=says) as caught:
        open_data(str(tmp_path)).tasks("dev")
    assert str(path) in str(caught.value)


def test_records_that_disagree_are_told_by_their_files(tmp_path: Path) -> None:
    one = write(tmp_path / "dev_a.jsonl", [official(0)])
    other = write(tmp_path / "dev_b.jsonl", [{**official(0), "answer": "other"}])
    with pytest.raises(DataError, match=rf"{other}: record 1 .* in {one}, says 'answer 0'"):
        open_data(str(tmp_path)).tasks("dev")


def test_a_type_that_one_file_tells_is_not_made_up(tmp_path: Path) -> None:
    told = ("type", "supporting_facts")
    untyped = {key: value for key, value in official(0).items() if key not in told}
    write(tmp_path / "dev_a.jsonl", [untyped, {**official(1), "type": None}])
    write(tmp_path / "dev_b.jsonl", [official(0)])
    found = list(open_data(str(tmp_path)).tasks("dev").values())
    assert [question.type for question in found] == ["comparison", "bridge"]
    assert found[0].supporting == (("Page & 0", 0), ("Other 0", 1))


def test_question_and_answer_are_a_tasks_content() -> None:
    one = Question("5a", "dev", "Where?", "here")
    assert content_hash(one) == content_hash(Question("5b", "dev", "Where?", "here"))
    for other in (("Where?", "there"), ("Why?", "here")):
        assert content_hash(Question("5a", "dev", *other)) != content_hash(one)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    cut = write(tmp_path / "dev_cut.jsonl.gz", [official(n) for n in range(99)])
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"dev_cut.*cannot be read"):
        open_data(str(tmp_path)).tasks("dev")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "hotpot_dev_distractor_v1.json").write_text("{}")
    with pytest.raises(DataError, match="not a JSON list"):
        open_data(str(tmp_path / "other")).tasks("dev")


def test_places_and_splits_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="harness fetch hotpotqa"):
        open_data(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="holds no questions"):
        open_data(str(tmp_path))
    write(tmp_path / "dev.jsonl", [official(1)])
    with pytest.raises(ConfigError, match="Known: dev"):
        open_data(str(tmp_path)).tasks("train")


def test_ids_of_built_in_questions_are_no_official_ones() -> None:
    assert is_builtin("dev/b7")
    assert not any(map(is_builtin, ("dev/7", f"dev/{'b7' * 12}", "test/b7", "b7")))
    assert group("dev/7") == "dev/7"


@pytest.mark.data
def test_the_data_at_hand(data: Path) -> None:
    source = open_data(str(data / "hotpotqa"))
    dev, train = source.tasks("dev"), source.tasks("train")
    assert (len(dev), len(train)) == (7405, 996)
    assert list(dev)[:2] == ["dev/0", "dev/1"]
    assert sum(bool(question.supporting) for question in dev.values()) == 385
    react = json.loads((data / "hotpotqa" / "react_500.json").read_text())
    for question in react:
        found = dev[f"dev/{question['dev_index']}"]
        assert (found.question, found.answer) == (question["question"], question["answer"])
    assert len(source.corpus("dev")) == 17_028
    assert source.corpus("dev") is source.corpus("train")


# Fetching ------------------------------------------------------------------------------------


class Server:
    """Serves files from memory, whole or from an offset; stops after ``limit`` bytes if told."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.limit: int | None = None
        self.asked: list[tuple[str, str | None]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, span = self.path.rpartition("/")[2], self.headers["Range"]
                server.asked.append((name, span))
                start = int(span[6:-1]) if span else 0
                body = files.get(name, b"")[start:]
                self.send_response(404 if name not in files else 206 if span else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: server.limit])

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}/hotpot"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    def raw(number: int) -> bytes:
        small = [{"question": f"Q{n}", "answer": "a", "_id": str(n)} for n in range(number)]
        return json.dumps(small).encode()

    found = Server({name: raw(OFFICIAL[split]) for name, split in FILES.items()})
    yield found
    found.close()


def test_fetching_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.limit = 100_000
    with pytest.raises(DataError, match=r"goes on where it stopped|could not be downloaded"):
        fetch(tmp_path, site=server.address)
    assert not list(tmp_path.glob("*.json"))
    server.limit = None
    fetch(tmp_path, site=server.address)
    first = next(iter(FILES))
    assert server.asked[0] == (first, None)
    assert server.asked[1][0] == first
    assert str(server.asked[1][1]).startswith("bytes=65536-")  # whole blocks were kept
    tasks = open_data(str(tmp_path)).tasks("dev")
    assert list(tasks)[-1] == "dev/7404"
    count = len(server.asked)
    fetch(tmp_path, site=server.address)  # everything is there
    assert len(server.asked) == count


def test_fetching_without_a_connection_says_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(DataError, match="Without a connection: download that file elsewhere"):
            fetch(tmp_path, site=site)


def test_a_file_of_another_size_is_refused(server: Server, tmp_path: Path) -> None:
    write(tmp_path / "hotpot_dev_distractor_v1.json", [official(1)])
    with pytest.raises(DataError, match="holds 1 questions, the official dev split 7405"):
        fetch(tmp_path, site=server.address)

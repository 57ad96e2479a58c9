"""Where games come from: layouts, packed files, damage, task sets, the download."""

from __future__ import annotations

import gzip
import json
import lzma
import multiprocessing
import shutil
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from harness_envs.alfworld import ALFWorldEnv, builtin, make_splits
from harness_envs.alfworld.fetch import fetch
from harness_envs.alfworld.game import Game, content_hash, group, task_type, to_json
from harness_envs.alfworld.games import FolderGames, open_games
from harness_envs.alfworld.tasksets import TASK_SETS, held_out_folders, official_games
from msgspec.structs import replace

import harness
from harness.api import plan
from harness.errors import ConfigError, DataError
from harness.official import download
from harness.runs import write_meta
from harness.tasksets import TaskSet
from harness.types import Task
from harness.verify import verify

GRAMMAR = 'grammar :: """{"rhs": "Your task is to: UNKNOWN GOAL."}"""; "move {o} to {r}"'
OLD_GRAMMAR = GRAMMAR.replace("move {o} to {r}", "put {o} in/on {r}")


@pytest.fixture(scope="module")
def some() -> list[Game]:
    return [builtin.game(id_) for id_ in builtin.ids("valid_seen")[:4]]


def write_folder(root: Path, some: list[Game], grammar: str = GRAMMAR) -> Path:
    for game in some:
        path = root / "json_2.1.1" / game.id / "game.tw-pddl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(to_json(game, "(define)", grammar)))
    return root


def packed_lines(some: list[Game]) -> bytes:
    keys = ("id", "task", "walkthrough", "solvable", "pddl_problem", "task_type")
    rows = [{key: getattr(game, key) for key in keys} for game in some]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_packed(root: Path, some: list[Game], suffix: str) -> Path:
    root.mkdir()
    opener: Any = {"": open, ".gz": gzip.open, ".xz": lzma.open}[suffix]
    with opener(root / f"valid_seen.jsonl{suffix}", "wb") as file:
        file.write(packed_lines(some))
    return root


def write_archive(root: Path, some: list[Game], tmp_path: Path) -> Path:
    root.mkdir()
    # An archive of all splits, of which its name tells the one that is meant.
    other = msgspec.structs.replace(some[0], id=f"train/{some[0].id.partition('/')[2]}")
    layout = write_folder(tmp_path / "layout", [*some, other])
    with tarfile.open(root / "json_2.1.1-valid_seen.tar.xz", "w:xz") as archive:
        archive.add(layout / "json_2.1.1", "json_2.1.1")
    return root


def test_every_layout_gives_the_same_games(some: list[Game], tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", some)
    sources = [folder, folder / "json_2.1.1", write_archive(tmp_path / "b", some, tmp_path)]
    sources += [write_packed(tmp_path / f"c{s}", some, s) for s in ("", ".gz", ".xz")]
    for root in sources:
        source = FolderGames(root)
        assert source.splits() == ["valid_seen"], root
        assert source.ids("valid_seen") == sorted(game.id for game in some)
        assert [source.game(game.id) for game in some] == some
        assert source.content_hash(some[0].id) == content_hash(some[0])


def test_a_split_lists_the_games_that_the_original_plays(some: list[Game], tmp_path: Path) -> None:
    """As in the original neither movable receptacles, slices nor unsolvable games are played."""
    trial = some[0].id.rpartition("/")[2]
    others = [
        replace(some[0], id=f"valid_seen/{name}/{trial}")
        for name in (
            "pick_heat_then_place_in_recep-AppleSliced-None-Fridge-1",
            "pick_and_place_with_movable_recep-Mug-Pan-Shelf-1",
        )
    ]
    hopeless = replace(some[1], solvable=False)
    found = [some[0], hopeless, *some[2:], *others]
    played = sorted(game.id for game in (some[0], *some[2:]))
    roots = [write_folder(tmp_path / "a", found), write_archive(tmp_path / "b", found, tmp_path)]
    for root in [*roots, write_packed(tmp_path / "c", found, ".xz")]:
        source = FolderGames(root)
        assert source.ids("valid_seen") == played
        assert source.game(hopeless.id) == hopeless
    unmarked = packed_lines(some).replace(b'"solvable": true, ', b"")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "valid_seen.jsonl").write_bytes(unmarked)
    assert FolderGames(tmp_path / "d").ids("valid_seen") == sorted(game.id for game in some)


def test_the_grammar_is_detected_and_counts_in_the_hash(some: list[Game], tmp_path: Path) -> None:
    old = FolderGames(write_folder(tmp_path, some, OLD_GRAMMAR)).game(some[0].id)
    assert (old.grammar, some[0].grammar) == ("put", "move")
    assert old.pddl_problem == some[0].pddl_problem
    assert content_hash(old) != content_hash(some[0])


def test_one_game_is_opened_without_reading_the_others(some: list[Game], tmp_path: Path) -> None:
    root = write_folder(tmp_path / "a", some)
    for game in some[1:]:
        (root / "json_2.1.1" / game.id / "game.tw-pddl").write_text("damaged")
    assert FolderGames(root).game(some[0].id) == some[0]
    packed = tmp_path / "p"
    packed.mkdir()
    lines = packed_lines(some).replace(b'"task"', b'"tusk"').splitlines(keepends=True)
    lines[0] = packed_lines(some[:1])
    (packed / "valid_seen.jsonl").write_bytes(b"".join(lines))
    source = FolderGames(packed)
    assert source.game(some[0].id) == some[0]
    with pytest.raises(DataError, match=r"valid_seen\.jsonl:3: field 'task' is missing"):
        source.game(some[2].id)


def test_a_relative_folder_is_the_one_that_was_meant(
    some: list[Game], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place, games_there in (("a", some[:1]), ("b", some[1:])):
        (tmp_path / place).mkdir()
        write_packed(tmp_path / place / "games", games_there, "")
    monkeypatch.chdir(tmp_path / "a")
    one = ALFWorldEnv(data="games")
    assert list(one.task_ids("valid_seen")) == [some[0].id]
    monkeypatch.chdir(tmp_path / "b")
    assert list(one.task_ids("valid_seen")) == [some[0].id]
    found = sorted(game.id for game in some[1:])
    assert list(ALFWorldEnv(data="games").task_ids("valid_seen")) == found
    monkeypatch.setenv("ALFWORLD_DATA", "games")
    assert list(ALFWorldEnv(data="official").task_ids("valid_seen")) == found
    monkeypatch.chdir(tmp_path / "a")
    assert list(ALFWorldEnv(data="official").task_ids("valid_seen")) == [some[0].id]


def test_a_run_of_a_relative_folder_goes_on_from_any_other(
    some: list[Game], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_packed(tmp_path / "games", some, "")
    (tmp_path / "official").mkdir()
    tasks = [Task("alfworld", "valid_seen", game.id) for game in some]
    content = {game.id: content_hash(game) for game in some}
    mine = TaskSet.make("alfworld/mine", "alfworld", tasks, max_steps=40, content=content)
    monkeypatch.chdir(tmp_path)
    run = harness.evaluate("oracle", "alfworld", tasks=mine, env_options={"data": "games"})
    lines = (run.path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / "episodes.jsonl").write_bytes(b"".join(lines[:2]))
    write_meta(run.path, replace(run.meta, status="running"))
    path = run.path.absolute()
    monkeypatch.chdir(tmp_path / "games")
    again = harness.resume(path)
    assert again.summary.successes == len(some)
    assert [difference for _, difference in verify(again)] == [None] * len(some)
    monkeypatch.chdir(tmp_path)  # a word stays a word, whatever is called so here
    assert plan("oracle", "alfworld", tasks=mine, env_options={"data": "official"}).env_options == {
        "data": "official"
    }


def read_over_and_over(source: FolderGames, some: list[Game]) -> None:
    for number in range(1200):
        game = some[number % len(some)]
        assert source.game(game.id) == game


def test_a_folder_is_listed_once(some: list[Game], tmp_path: Path) -> None:
    source = FolderGames(write_folder(tmp_path, some))
    ids = list(source.ids("valid_seen"))
    shutil.rmtree(tmp_path / "json_2.1.1")
    assert source.ids("valid_seen") == ids


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_forked_processes_read_one_packed_file(some: list[Game], tmp_path: Path) -> None:
    source = FolderGames(write_packed(tmp_path / "p", some, ".xz"))
    source.ids("valid_seen")  # expanded before they part, as AsyncVectorEnv's workers find it
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=read_over_and_over, args=(source, some)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]


DAMAGE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no field": (lambda d: {k: v for k, v in d.items() if k != "walkthrough"}, "'walkthrough'"),
    "wrong type": (lambda d: {**d, "pddl_problem": 7}, "'pddl_problem' is a int"),
    "no task": (lambda d: {**d, "grammar": "x"}, "'grammar' has no"),
    "not an object": (lambda d: [d], "holds a list"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_games_name_file_field_and_remedy(
    kind: str, some: list[Game], tmp_path: Path
) -> None:
    change, words = DAMAGE[kind]
    path = write_folder(tmp_path, some[:1]) / "json_2.1.1" / some[0].id / "game.tw-pddl"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DataError) as caught:
        FolderGames(tmp_path).game(some[0].id)
    for part in (words, str(path), "harness fetch alfworld"):
        assert part in str(caught.value)


def test_absent_and_torn_data_say_what_to_do(some: list[Game], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not a folder"):
        FolderGames(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no games"):
        FolderGames(tmp_path)
    root = write_packed(tmp_path / "p", some, ".xz")
    file = root / "valid_seen.jsonl.xz"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"valid_seen\.jsonl\.xz: cannot be read"):
        FolderGames(root).ids("valid_seen")
    file = write_packed(tmp_path / "z", some, ".gz") / "valid_seen.jsonl.gz"
    packed = bytearray(file.read_bytes())
    packed[100:140] = bytes(b ^ 0xFF for b in packed[100:140])
    file.write_bytes(packed)
    with pytest.raises(DataError, match=r"valid_seen\.jsonl\.gz: cannot be read"):
        FolderGames(file.parent).ids("valid_seen")
    for line in (b"not json", b'{"id": "train/\xff-b-c-d-1/t"}'):
        (root / "train.jsonl").write_bytes(b'{"id": "train/a-b-c-d-1/t"}\n' + line + b"\n")
        with pytest.raises(DataError, match=r"train\.jsonl:2: not a packed game.*\n.*fetch"):
            FolderGames(root).ids("train")
    folder = FolderGames(write_folder(tmp_path / "f", some))
    with pytest.raises(ConfigError, match=r"Did you mean 'valid_seen'"):
        folder.ids("valid_sen")
    with pytest.raises(ConfigError, match=r"Unknown ALFWorld task"):
        folder.game("valid_seen/none/here")
    with pytest.raises(DataError, match=r"no split 'valid_unseen'"):
        folder.game("valid_unseen/none/here")


@pytest.mark.data
def test_the_real_data_are_the_official_games(data: Path) -> None:
    source = open_games(str(data / "alfworld"))
    archived = FolderGames(data / "alfworld")
    known = official_games()
    for split, number in (("valid_seen", 140), ("train", 3553)):
        ids = source.ids(split)
        assert len(ids) == number
        assert set(ids) == {id_ for id_ in known if id_.startswith(f"{split}/")}
        for id_ in ids[:: max(1, number // 100)]:
            assert source.content_hash(id_) == known[id_]
    assert "valid_seen" in archived.splits()


@pytest.mark.data
def test_the_archive_as_shipped_equals_the_packed_form(data: Path, tmp_path: Path) -> None:
    name = "json_2.1.1-valid_seen.tar.xz"
    (tmp_path / name).symlink_to(data / "alfworld" / name)
    shipped, packed = FolderGames(tmp_path), open_games(str(data / "alfworld"))
    assert shipped.ids("valid_seen") == packed.ids("valid_seen")
    for id_ in packed.ids("valid_seen"):
        assert shipped.game(id_) == packed.game(id_)


# Task sets -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sets() -> dict[str, TaskSet]:
    return {name.split("/")[1]: make() for name, make in TASK_SETS.items()}


def test_sets_have_their_sizes_and_one_protocol(sets: dict[str, TaskSet]) -> None:
    sizes = {name: len(found.tasks) for name, found in sets.items()}
    assert next(iter(sizes)) == "builtin-valid"
    assert sizes["builtin-valid"] == sizes["builtin-seen"] + sizes["builtin-unseen"] == 274
    assert sizes["builtin-dev"] >= 200
    assert sizes["builtin-train"] >= 2000
    assert (sizes["seen-140"], sizes["unseen-134"]) == (140, 134)
    assert (sizes["holdout-1000"], sizes["dev-200"], sizes["real-train"]) == (1000, 200, 2353)
    for name, found in sets.items():
        assert found.name == f"alfworld/{name}"
        assert found.protocol.max_steps == 40
        assert found.reference == "expert"
        assert len({task.id for task in found.tasks}) == len(found.tasks)
    assert len({found.hash for found in sets.values()}) == len(sets)


def test_the_beginning_of_an_official_set_holds_every_task_type(sets: dict[str, TaskSet]) -> None:
    for name in ("seen-140", "unseen-134", "dev-200"):
        assert len({task_type(task.id) for task in sets[name].tasks[:40]}) == 6


def test_whole_task_folders_are_held_out_by_type(sets: dict[str, TaskSet]) -> None:
    folders = {
        name: {group(task.id) for task in sets[name].tasks}
        for name in ("holdout-1000", "dev-200", "real-train")
    }
    assert not folders["holdout-1000"] & folders["dev-200"]
    assert not folders["real-train"] & (folders["holdout-1000"] | folders["dev-200"])
    assert sum(len(of) for of in folders.values()) == 1465
    train = Counter(task_type(id_) for id_ in official_games() if id_.startswith("train/"))
    for name in ("holdout-1000", "dev-200"):
        size = len(sets[name].tasks)
        types = Counter(task_type(task.id) for task in sets[name].tasks)
        for kind, number in train.items():
            assert abs(types[kind] - size * number / 3553) < 1, (name, kind)
    # Mixed: any slice of a hundred holds every type.
    assert len({task_type(task.id) for task in sets["holdout-1000"].tasks[:100]}) == 6


def test_the_committed_splits_are_what_the_script_draws() -> None:
    train = [id_ for id_ in official_games() if id_.startswith("train/")]
    drawn = make_splits.hold_out(train, make_splits.SIZES, make_splits.SEED)
    for name, folders in drawn.items():
        assert frozenset(folders) == held_out_folders(name)


def test_content_hashes_are_the_environments_own(sets: dict[str, TaskSet]) -> None:
    env = ALFWorldEnv()
    found = sets["builtin-valid"]
    for task, content in zip(found.tasks, found.content, strict=True):
        assert env.content_hash(task.id) == content


# The download ------------------------------------------------------------------------------------


class Release(BaseHTTPRequestHandler):
    """Serves one file, with ``ranged`` in ranges; ``torn``: the first answer stops halfway."""

    content = b""
    torn = False
    ranged = True
    ranges: list[str] = []

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        type(self).ranges.append(wanted)
        wanted = wanted if self.ranged else ""
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        torn, type(self).torn = self.torn, False
        self.wfile.write(body[: len(body) // 2] if torn else body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def release(some: list[Game], tmp_path: Path) -> Iterator[str]:
    layout = write_folder(tmp_path / "layout", some)
    archive = tmp_path / "release.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(layout.rglob("*")):
            packed.write(path, path.relative_to(layout))
        packed.writestr("padding", bytes(1 << 19))
        packed.writestr("json_2.1.1/../../evil/game.tw-pddl", "x")
    Release.content, Release.torn, Release.ranges = archive.read_bytes(), True, []
    Release.ranged = True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Release)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/release.zip"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_torn_download_goes_on_where_it_stopped(
    release: str, some: list[Game], tmp_path: Path
) -> None:
    target = tmp_path / "target"
    with pytest.raises(DataError, match=r"release\.zip"):
        fetch(target, address=release)
    have = (target / "release.zip.part").stat().st_size
    assert 0 < have < len(Release.content)
    # The second try unpacks what there is, then finds that these are not the official games.
    with pytest.raises(DataError, match=r"of 4027 official games 4027 are absent"):
        fetch(target, address=release)
    assert Release.ranges == ["", f"bytes={have}-"]
    assert FolderGames(target).game(some[0].id) == some[0]
    assert not (tmp_path / "evil").exists()


def test_a_server_without_ranges_starts_over(release: str, tmp_path: Path) -> None:
    Release.ranged = False
    with pytest.raises(DataError, match=r"release\.zip"):
        download(release, tmp_path / "release.zip")
    download(release, tmp_path / "release.zip")
    assert (tmp_path / "release.zip").read_bytes() == Release.content


def test_offline_the_address_and_the_remedy_are_named(tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/release.zip"
    with pytest.raises(DataError) as caught:
        fetch(tmp_path, address=address)
    for part in (address, str(tmp_path / "release.zip"), "run the command again"):
        assert part in str(caught.value)
    (tmp_path / "release.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"cannot be unpacked"):
        fetch(tmp_path, address=address)

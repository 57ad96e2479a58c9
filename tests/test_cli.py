"""The command as people type it: real processes, real folders."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.console import Progress

HARNESS = [sys.executable, "-m", "harness"]


def harness(*words: object, cwd: Path, fine: bool = True) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [*HARNESS, *map(str, words)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"}, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if fine:
        assert found.returncode == 0, found.stderr
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    cwd = tmp_path_factory.mktemp("work")
    for agent in ("oracle", "random"):
        harness("run", "-a", agent, "-e", "alfworld", "-t", "builtin-dev[:5]", cwd=cwd)
    return cwd


def test_run_ends_with_its_folder_on_stdout(folder):
    found = harness("run", "-a", "oracle", "-e", "alfworld", "-t", "builtin-dev[:2]", cwd=folder)
    last = found.stdout.splitlines()[-1]
    assert (folder / last / "run.json").exists()
    assert "100.0 %" in found.stdout
    assert "2/2 episodes" in found.stderr


def test_signs_that_the_terminal_lacks_are_spelt_out(tmp_path):
    (tmp_path / "b\u00f6t.toml").write_text('policy = "random"')
    words = ("run", "-a", "b\u00f6t.toml", "-e", "alfworld", "-t", "builtin-dev[:1]")
    for command in (words, ("leaderboard", "--markdown"), ("list", "runs")):
        found = subprocess.run(
            [*HARNESS, *command], cwd=tmp_path, capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii", "NO_COLOR": "1"},
        )  # fmt: skip
        assert found.returncode == 0, found.stderr
        assert rb"b\xf6t" in found.stdout


def test_a_closed_stderr_stops_nothing(tmp_path):
    command = f"{' '.join(HARNESS)} run -a random -e alfworld -t 'builtin-dev[:1]' -o r 2>&-"
    found = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = f"{' '.join(HARNESS)} leaderboard -o r >&-"
    assert subprocess.run(command, shell=True, cwd=tmp_path, env=plain).returncode == 0
    assert (tmp_path / found.stdout.splitlines()[-1] / "run.json").is_file()


def test_progress_counts_what_broke_apart_and_shows_labels_as_they_are(tmp_path, capsys):
    won, broke = (
        SimpleNamespace(success=w, error=e, steps=()) for w, e in ((True, None), (False, "env"))
    )
    with Progress("par\x1brot", {"won": 2, "lost": 2}) as progress:
        progress(won, 6)
        progress(broke, 6)
    told = capsys.readouterr().err
    assert "par\\x1brot: 6/6 episodes, 60 % won, 1 errors" in told
    assert "\x1b" not in told


def test_leaderboard_on_terminal_as_markdown_and_json(folder):
    words = ("leaderboard", "--tasks", "builtin-dev[0:5]")
    assert "oracle" in harness(*words, cwd=folder).stdout
    assert harness(*words, "--markdown", cwd=folder).stdout.startswith("### alfworld/builtin-dev")
    boards = json.loads(harness(*words, "--json", cwd=folder).stdout)
    assert [r["agent"] for r in boards[0]["rows"]] == ["oracle", "random"]


def test_dry_run_plays_nothing_and_prints_the_config(folder, tmp_path):
    planned = ("run", "-a", "expert", "-e", "alfworld", "--dry-run")
    found = harness(*planned, "--json", cwd=tmp_path)
    resolved = json.loads(found.stdout)
    assert resolved["task_set"]["name"] == "alfworld/builtin-valid"
    short = harness(*planned, cwd=tmp_path).stdout
    assert f"alfworld/builtin-valid, hash {resolved['task_set_hash']}" in short
    assert "274: 274 tasks x 1 seeds x 1 attempts" in short
    assert "ends at 3 replies without an action" in short
    assert len(short.splitlines()) < 10
    alone = harness(*planned[:-1], "--json", cwd=tmp_path, fine=False)
    assert (alone.returncode, "--json goes with --dry-run" in alone.stderr) == (2, True)
    assert not list(tmp_path.iterdir())
    assert "No earlier run of this agent" in found.stderr
    words = ("run", "-a", "oracle", "-e", "alfworld", "-t", "builtin-dev[:9]", "--dry-run")
    told = harness(*words, cwd=folder).stderr
    assert "9 episodes, nothing played. About 0.0 min, judged by results/alfworld/oracle" in told
    assert "points on (80 % power" in told
    assert "other rules of play" not in told
    told = harness(*words, "--max-steps", "7", cwd=folder).stderr
    assert re.search(r"judged by results/alfworld/oracle/\S+ \(\d at once, other rules of", told)


def test_lists(folder):
    assert "harness/ALFWorld-v0" in harness("list", "envs", cwd=folder).stdout
    agents = harness("list", "agents", cwd=folder).stdout
    assert "Any admissible action" in agents
    assert "ours-760m" not in agents
    assert "no run is named" in harness("list", "agents", "--all", cwd=folder).stdout
    assert not re.search(r"\b(replay|nearest)\b", agents)
    assert "ours-760m" in harness("list", "agents", "--all", cwd=folder).stdout
    assert "alfworld/seen-140" in harness("list", "tasks", cwd=folder).stdout
    assert "builtin-dev[0:5]" in harness("list", "runs", cwd=folder).stdout
    assert "No runs in nowhere" in harness("list", "runs", "--out", "nowhere", cwd=folder).stderr


def test_collect_marks_its_slips(tmp_path):
    found = harness(
        "collect", "-a", "expert", "-e", "alfworld", "-t", "builtin-train[:6]",
        "--error-rate", "0.3", "--attempts", "2", cwd=tmp_path,
    )  # fmt: skip
    lines = (tmp_path / found.stdout.splitlines()[-1] / "episodes.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert any('"injected":true' in line for line in lines)


def test_score_rebuilds_metrics(folder):
    run = next(folder.glob("results/alfworld/random/*/"))
    before = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").unlink()
    harness("score", run, cwd=folder)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_scored_run_tells_its_types_and_what_cot_match_is_read_by(folder):
    expert = harness("run", "-a", "expert", "-e", "alfworld", "-t", "builtin-dev[:12]", "--out",
                     "twelve", cwd=folder)  # fmt: skip
    run = expert.stdout.splitlines()[-1]
    found = harness("score", run, cwd=folder)
    assert found.stdout == expert.stdout
    assert "alfworld/builtin-dev[0:12] by task type" in found.stdout
    assert "overlap 100.0 %, precision 100.0 %, F1 100.0 % (n = 12)\n  by chance" in found.stdout
    notes = found.stdout.splitlines()[-5:-1]
    assert max(map(len, notes)) <= 100
    assert notes[-1].startswith("  of the reference's agent with itself: overlap ")
    second = harness("run", "-a", "expert", "-e", "alfworld", "-t", "builtin-dev[:12]", "--seeds",
                     "2", "--out", "twelve", cwd=folder).stdout.splitlines()[-1]  # fmt: skip
    harness("score", run, "--ceiling", second, cwd=folder)
    assert json.loads((folder / run / "run.json").read_text())["ceiling"] == second


def test_a_leaderboard_by_task_type(folder):
    words = ("leaderboard", "--out", "twelve", "--by-type")
    harness("run", "-a", "random", "-e", "alfworld", "-t", "builtin-dev[:12]", "--out", "twelve",
            cwd=folder)  # fmt: skip
    types = harness(*words, cwd=folder).stdout.split("by task type")[1]
    rows = [line for line in types.splitlines() if "random" in line]
    assert len(rows) >= 2
    assert max(map(len, rows)) <= 100
    wrong = harness(*words, "--json", cwd=folder, fine=False)
    assert (wrong.returncode, "for the terminal" in wrong.stderr) == (2, True)


def test_check_and_doctor(tmp_path):
    assert "FAIL" not in harness("check", "env", "alfworld", cwd=tmp_path).stdout
    assert "FAIL" not in harness("check", "agent", "random", cwd=tmp_path).stdout
    assert "starts on its built-in tasks" in harness("doctor", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("env", "action", "page", "possible"),
    [
        ("alfworld", "look", "You are in the middle of a room", "  inventory"),
        ("webshop", "search[soap]", "\nBack to Search\nPage 1", "  click[next >]"),
    ],
)
def test_a_person_can_play(tmp_path, env, action, page, possible):
    found = subprocess.run(
        [*HARNESS, "play", env], input=f"{action}\n?\n\n", capture_output=True, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert page in found.stdout
    assert possible in found.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("run --agent expert", "needs --env"),
        ("run --env alfworld", "needs --agent"),
        ("run -a expret -e alfworld", "Did you mean 'expert'"),
        ("run -a expert -e alfwrld", "Did you mean 'alfworld'"),
        ("run -a expert -e alfworld -t builtin-vlid", "builtin-valid"),
        ("run -a expert -e alfworld -t builtin-valid[900:]", "has 274 tasks"),
        ("run -a expert -e alfworld -t builtin-valid[-5:]", "[:20], [20:] or [20:40]"),
        ("run -a expert -e alfworld -t builtin-valid[::50]", "no negative numbers, no steps"),
        ("list tasks builtin-valid[5]", "[:20], [20:] or [20:40]"),
        ("run -a expert -e alfworld --option engine", "KEY=VALUE"),
        ("run -a expert -e alfworld --option engine=warp", "textworld"),
        ("run -a expert -e alfworld --option colour=red", "Unknown option of environment"),
        ("run -a expert -e alfworld --option aliases=maybe", "is true or false, not 'maybe'"),
        ("run -a expert -e hotpotqa --option aliases=1", "is true or false, not 1"),
        ("collect -a oracle -e alfworld --error-rate 0.1", "no --error-rate"),
        ("run -a expert -e alfworld -t seen-140", "harness fetch alfworld"),
        ("run -a expert -e alfworld -t seen-140 --data nowhere", "nowhere"),
        ("run -a expert -e alfworld --data official", "which of its tasks to play: alfworld/seen"),
        ("run -a expert -e webshop -t builtin-dev --data x", "of tasks that come with webshop"),
        ("run -a ours-760m -e alfworld", "harness distill ours-760m"),
        ("run -a random -a expert -e alfworld", "one --agent, not 2 (random, expert)"),
        ("run -a nope.toml -e alfworld", "There is no file 'nope.toml' here"),
        ("run -a ./nope -e alfworld", "There is no folder './nope' here"),
        ("run --resume nowhere", "not a run folder"),
        (
            "run --resume nowhere -a random -w 2 --dry-run",
            "--agent, --workers, --dry-run cannot go",
        ),
        ("collect --resume nowhere --error-rate 0.1", "--error-rate cannot go with --resume"),
        ("run -a random -e alfworld --retry-errors", "--retry-errors goes with --resume"),
        ("run -a random -e alfworld --workers 0", "--workers"),
        ("run -a random -e alfworld --workers -2", "--workers"),
        ("run -a random -e alfworld --step-seconds -1", "--step-seconds is a time above 0"),
        ("run -a random -e alfworld --episode-seconds nan", "--episode-seconds is a time above 0"),
        ("run -a expert -e alfworld --tsks x", "No such option"),
        ("run -a expert -e alfworld --decode admisible", "--decode is for agents that a language"),
        ("run -a teacher-tiny -e alfworld --temperature inf", "is 0 or more, and finite, not inf"),
        ("run -a teacher-tiny -e alfworld --temperature -1", "is 0 or more, and finite, not -1"),
        ("collect -a teacher-tiny -e alfworld --attempts 2", "plays greedily, so that all"),
        ("run -a teacher-tiny -e hotpotqa --decode admissible", "hotpotqa lists none"),
        (
            "run -a random -e webshop -t served-500 --option goal_seed=3",
            "A WebShop server draws its own prices",
        ),
        ("collect -a expert -e alfworld --errors-from nobody", "goes with --error-rate above 0"),
        ("play alfworld --seed -1", "--seed"),
        ("list runs foo", "takes no foo"),
        ("list agnts", "Did you mean 'agents'"),
        ("leaderboard --out nowhere", "harness run"),
        ("score nowhere", "not a run folder"),
        ("check env nothing", "Unknown environment"),
        ("check both x", "'env' or 'agent'"),
        ("frobnicate", "No such command"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_remedy(words, expected, tmp_path):
    found = harness(*words.split(), cwd=tmp_path, fine=False)
    assert found.returncode == 2, found.stderr
    assert expected in found.stderr, found.stderr
    assert "Traceback" not in found.stderr
    assert not list(tmp_path.rglob("run.json"))


def test_a_damaged_record_is_named(folder, tmp_path):
    run = next(folder.glob("results/alfworld/oracle/*/"))
    copy = tmp_path / "results" / "alfworld" / "oracle" / "run"
    copy.mkdir(parents=True)
    for file in run.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    lines = (copy / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "episodes.jsonl").write_bytes(lines[0] + b"garbage\n" + b"".join(lines[1:]))
    found = harness("score", copy, cwd=tmp_path, fine=False)
    assert (found.returncode, "episodes.jsonl was changed after" in found.stderr) == (2, True)
    found = harness("view", copy, cwd=tmp_path, fine=False)
    assert (found.returncode, "episodes.jsonl:2" in found.stderr) == (2, True)


def test_the_version(tmp_path):
    assert harness("--version", cwd=tmp_path).stdout.startswith("distill-harness 0.")


def test_help_names_every_command(tmp_path):
    text = harness("--help", cwd=tmp_path).stdout
    for command in ("run", "collect", "distill", "leaderboard", "list", "fetch", "check", "play"):
        assert command in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("leaderboard -e alfwrld", "Did you mean 'alfworld'"),
        ("leaderboard -t builtin-dve[0:5]", "Did you mean 'builtin-dev[0:5]'"),
        ("leaderboard -t builtin-dev[-5:]", "builtin-dev[:20], [20:] or [20:40]"),
        ("compare oracle oracle -t builtin-dev[:5]", "is on both sides"),
        ("view random --page .", "name of a file"),
        ("view random --page /proc/nowhere/x.html", "/proc/nowhere"),
        ("leaderboard --page /proc/x.html", "/proc"),
        ("leaderboard --json --markdown", "exclude each other"),
        ("compare oracle random --json --markdown", "exclude each other"),
        ("compare oracle random -t builtin-dev[:5] --margin -1", "between 0 and 100"),
        ("compare oracle random -t builtin-dev[:5] --margin nan", "between 0 and 100"),
        ("compare oracle", "needs two"),
        ("compare oracle rndom", "Did you mean 'random'"),
        ("compare oracle random -e alfwrld", "Did you mean 'alfworld'"),
        ("score results", "holds several runs; name one"),
        ("verify results", "holds several runs; name one"),
        ("restore results", "holds several runs; name one"),
        ("export results --to there", "holds several runs; name one"),
        ("view random --most -3", "--most"),
        ("view --serve --port 99999", "--port"),
        ("view oracle random oracle", "takes one run"),
        ("view --serve --out nowhere", "No results folder"),
    ],
)
def test_what_cannot_be_shown_is_said_and_is_no_traceback(folder, words, expected):
    found = harness(*words.split(), cwd=folder, fine=False)
    assert found.returncode == 2, found.stderr
    assert expected in found.stderr, found.stderr
    assert "Traceback" not in found.stderr


def test_a_place_that_cannot_be_written_is_no_traceback(folder):
    run = next(folder.glob("results/alfworld/oracle/*/"))
    found = harness("export", run, "--to", "/proc/foo", cwd=folder, fine=False)
    assert (found.returncode, "/proc/foo" in found.stderr) == (2, True)
    assert "Traceback" not in found.stderr


def test_commands_take_the_folder_they_stand_in(folder, tmp_path):
    run = next(folder.glob("results/alfworld/random/*/"))
    found = harness("export", ".", "--to", tmp_path, cwd=run)
    assert Path(found.stdout.strip()) == tmp_path / "alfworld" / "random" / run.name
    before = sorted(folder.rglob("run.json"))
    (run / "metrics.jsonl").unlink()
    harness("score", ".", cwd=run)
    harness("run", "--resume", ".", cwd=run)
    assert sorted(folder.rglob("run.json")) == before
    assert (run / "metrics.jsonl").exists()


def test_a_part_of_a_set_is_found_however_it_is_written(folder):
    for tasks in ("builtin-dev[:5]", "builtin-dev[0:5]", "alfworld/builtin-dev[:5]"):
        found = harness("compare", "oracle", "random", "-t", tasks, cwd=folder)
        assert "oracle is better" in found.stdout or "Tied" in found.stdout
        assert "oracle" in harness("leaderboard", "-t", tasks, cwd=folder).stdout
    run = next(folder.glob("results/alfworld/random/*/"))
    for words in (("-t", "builtin-valid"), ("-e", "webshop")):
        found = harness("view", run, *words, cwd=folder, fine=False)
        assert (found.returncode, "is a run on" in found.stderr) == (2, True)


def test_dry_run_counts_tasks_not_seeds(tmp_path):
    words = ("run", "-a", "expert", "-e", "alfworld", "-t", "builtin-dev[:40]", "--dry-run")
    once = harness(*words, cwd=tmp_path).stderr
    often = harness(*words, "--seeds", "5", cwd=tmp_path).stderr
    assert "200 episodes" in often
    size = [text.partition("from about ")[2].partition(" points")[0] for text in (once, often)]
    assert size[0] == size[1] == "22.1"


def test_compare_says_in_json_who_is_better(folder):
    words = ("compare", "oracle", "random", "-t", "builtin-dev[:5]", "--json")
    found = json.loads(harness(*words, cwd=folder).stdout)
    assert found[0]["verdict"] in ("a", "tied")
    assert {"worse", "clusters", "differing", "lost"} <= set(found[0])


def test_a_reference_that_is_scored_against_is_recorded(folder):
    run = next(folder.glob("results/alfworld/random/*/"))
    before = json.loads((run / "run.json").read_text())["reference"]
    harness("score", run, "--reference", "oracle", cwd=folder)
    assert json.loads((run / "run.json").read_text())["reference"] == "oracle"
    harness("score", run, "--reference", before, cwd=folder)
    assert json.loads((run / "run.json").read_text())["reference"] == before


def test_a_reference_that_is_not_there_is_told_before_anything_is_played(folder, tmp_path):
    words = ("run", "-a", "random", "-e", "alfworld", "-t", "builtin-dev[:2]", "--max-steps", "3")
    for reference, told in (
        ("nope", "Unknown reference 'nope'"),
        ("ours-760m", "cannot be played"),
    ):
        found = harness(*words, "--reference", reference, cwd=tmp_path, fine=False)
        assert (found.returncode, told in found.stderr) == (2, True), found.stderr
        assert "harness score RUN --reference" in found.stderr
    assert not list(tmp_path.rglob("run.json"))
    # One that went away between play and scoring: the remedy that is named is one.
    run = tmp_path / harness(*words, cwd=tmp_path).stdout.splitlines()[-1]
    meta = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**meta, "reference": "gone", "status": "running"}))
    (run / "metrics.jsonl").unlink()
    found = harness("run", "--resume", run, cwd=tmp_path, fine=False)
    assert (found.returncode, "harness score RUN --reference" in found.stderr) == (2, True)
    harness("score", run, "--reference", "expert", cwd=tmp_path)
    harness("run", "--resume", run, cwd=tmp_path)
    assert json.loads((run / "run.json").read_text())["status"] == "complete"


def heeds_interrupts():
    """A shell starts what it runs in the background deaf to Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_server_stops_with_a_word(folder):
    process = subprocess.Popen(
        [*HARNESS, "view", "random", "--serve"], cwd=folder, stderr=subprocess.PIPE, text=True,
        preexec_fn=heeds_interrupts,
    )  # fmt: skip
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "/run/alfworld/random/" in line
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=20)[1]
    assert (process.returncode, "no longer serving" in rest) == (0, True)
    assert "--resume" not in rest


@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path, ended):
    """By Ctrl-C, and by a scheduler."""
    process = subprocess.Popen(
        [*HARNESS, "run", "-a", "random", "-e", "alfworld", "-t", "builtin-dev[:24]",
         "--attempts", "100"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=heeds_interrupts,
    )  # fmt: skip
    assert process.stderr is not None
    assert "starting" in process.stderr.readline()
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("run.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    (run,) = (file.parent.relative_to(tmp_path) for file in tmp_path.rglob("run.json"))
    assert " running " in harness("list", "runs", cwd=tmp_path).stdout
    process.send_signal(ended)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + ended
    assert f"`harness run --resume {run}`" in rest
    assert " stopped " in harness("list", "runs", cwd=tmp_path).stdout
    found = harness("leaderboard", cwd=tmp_path, fine=False)
    assert f"1 stopped run:\n  harness run --resume {run}" in found.stderr
    found = harness("view", "random", cwd=tmp_path, fine=False)
    assert f"or look at it by its folder:\n  harness run --resume {run}" in found.stderr
    assert "is not complete: " in harness("view", run, cwd=tmp_path).stdout
    assert (
        "of 2400 episodes, of which short ones end first"
        in harness("score", run, cwd=tmp_path).stderr
    )


def test_a_run_that_scored_nothing_has_failed(tmp_path):
    """Of few tasks every one is tried; of many the run ends once the first ten broke."""
    (tmp_path / "absent.toml").write_text(
        'policy = "react"\n[options]\nbackend = "server"\n[options.server]\nmodel = "m"\n'
        'api = "chat"\nurl = "http://127.0.0.1:9/v1"\nretries = 0\n'
    )
    words = ("run", "-a", "absent.toml", "-e", "alfworld", "-w", "1", "-t")
    found = harness(*words, "builtin-dev[:1]", cwd=tmp_path, fine=False)
    assert (found.returncode, "1 episode broke and is not in" in found.stderr) == (1, True)
    run = found.stdout.splitlines()[-1]
    found = harness("run", "--resume", run, cwd=tmp_path)
    assert "Nothing is left to play." in found.stderr
    found = harness("run", "--resume", run, "--retry-errors", cwd=tmp_path, fine=False)
    assert found.returncode == 1
    found = harness(*words, "builtin-dev[:12]", cwd=tmp_path, fine=False)
    assert found.returncode == 2
    assert "The first 10 episodes all broke, so the run was stopped" in found.stderr
    runs = {file.parent for file in tmp_path.glob("results/alfworld/absent/*/run.json")}
    (stopped,) = runs - {tmp_path / run}
    assert f"harness run --resume {stopped.relative_to(tmp_path)} --retry-errors" in found.stderr
    assert len((stopped / "episodes.jsonl").read_text().splitlines()) == 10


def test_a_complete_run_whose_episodes_were_cut_is_not_left_as_finished(tmp_path):
    words = ("run", "-a", "random", "-e", "alfworld", "-t", "builtin-dev[:3]", "--max-steps", "2")
    run = harness(*words, cwd=tmp_path).stdout.splitlines()[-1]
    file = tmp_path / run / "episodes.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:2]))
    found = harness("run", "--resume", run, cwd=tmp_path, fine=False)
    assert "2 of 3 episodes are there" in found.stderr
    assert "was changed after it was recorded" in found.stderr
    assert "Nothing is left to play" not in found.stderr


def test_a_dry_run_says_what_would_be_refused(tmp_path):
    words = ("run", "-e", "alfworld", "--dry-run", "-a")
    found = harness(*words, "ours-760m", "-t", "seen-140", cwd=tmp_path)
    assert "would be refused: No weights for 'ours-760m'" in found.stderr
    assert "would be refused: 'valid_seen/" in found.stderr
    assert "refused" not in harness(*words, "expert", cwd=tmp_path).stderr


def test_runs_one_folder_down_are_pointed_at(folder):
    found = harness("leaderboard", "--out", ".", cwd=folder, fine=False)
    assert "There are runs in results: --out results" in found.stderr


def test_a_folder_of_several_runs_is_not_gone_on_with(folder):
    before = sorted(folder.rglob("episodes.jsonl"))
    found = harness("run", "--resume", "results", cwd=folder, fine=False)
    assert (found.returncode, "holds several runs; name one" in found.stderr) == (2, True)
    (run,) = folder.glob("results/alfworld/random/*/")
    assert f"{run.relative_to(folder)} (complete)" in found.stderr
    assert sorted(folder.rglob("episodes.jsonl")) == before
    harness("run", "--resume", run.parent.relative_to(folder), cwd=folder)

"""Every registered environment and agent against the shipped contract; a foreign one too."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import gymnasium
import pytest

import harness
from harness import registry, testing
from harness.errors import EnvError, unknown

ENVIRONMENTS = sorted(registry.names("envs"))
#: Agents that need nothing but the package.
AGENTS = ("random", "oracle", "expert", pytest.param("ours-tiny", marks=pytest.mark.models))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("number", range(len(testing.environment_checks("alfworld"))))
def test_environment(name, number):
    _, check = testing.environment_checks(name)[number]
    check()


@pytest.mark.data
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environment_on_official_data(name, data, vectors):
    keywords = {"data": str(data / name)}
    if name == "webshop":
        keywords["nouns"] = str(vectors / "webshop_title_nouns.jsonl.gz")
    for _, check in testing.environment_checks(name, **keywords):
        check()


@pytest.mark.parametrize("name", AGENTS)
def test_agent(name):
    for _, check in testing.agent_checks(name):
        check()


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_copy_goes_its_own_way(name):
    """As a search over actions needs it: no copy sees what another does, and each can win."""
    for index in (0, 7, 14):
        env = harness.make(name, reveal=True)
        _, info = env.reset(options={"index": index})
        solution = info["solution"]
        half = len(solution) // 2
        for action in solution[:half]:
            env.step(action)
        idle, twin = copy.deepcopy(env), copy.deepcopy(env)
        rest = [env.step(action)[:4] for action in solution[half:]]
        assert [step[2] for step in rest] == [False] * (len(rest) - 1) + [True]
        lost = idle.step("look" if name == "alfworld" else "search[of no use]")
        assert (lost[2], lost[4]["success"]) == (False, False)
        assert [twin.step(action)[:4] for action in solution[half:]] == rest
        if name != "webshop":  # whose shop is opened, not carried along
            carried = pickle.loads(pickle.dumps(idle))
            assert carried.step(solution[0])[:4] == idle.step(solution[0])[:4]
        # One made at the end begins the same task anew, by itself.
        late = copy.deepcopy(env)
        late.reset(options={"index": index})
        done = [late.step(action)[2] for action in solution]
        assert done == [False] * (len(solution) - 1) + [True]
        for one in (env, idle, twin, late):
            one.close()


PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "foreign-env"
version = "1.0"
[project.entry-points."harness.envs"]
echo = "foreign_env:EchoEnv"
[project.entry-points."harness.agents"]
parrot = "foreign_env:Parrot"
[project.entry-points."harness.metrics"]
shouting = "foreign_env:shouting"
"""

MODULE = """
import harness
from harness.errors import ConfigError

class EchoEnv(harness.Environment):
    max_steps = 4

    def task_ids(self, split):
        if split != "valid":
            raise ConfigError(f"no split {split}")
        return [f"valid/{word}" for word in ("apple", "pear", "plum")]

    def start(self, task_id):
        if task_id not in self.task_ids("valid"):
            raise ConfigError(f"no task {task_id}")
        self.word = task_id.split("/")[1]
        return f"Say {self.word}.", {"instruction": f"say {self.word}"}

    def play(self, action):
        won = action == self.word
        return "Right." if won else "No.", float(won), won, {"success": won, "score": float(won)}

class Parrot:
    def act(self, instruction, history, observation):
        word = instruction.split()[-1]
        return harness.Decision(f"I was told to say {word}.", word)

def shouting(episode, reference):
    return float(sum(s.decision.reasoning.isupper() for s in episode.steps))
"""

USE = """
import sys, gymnasium, harness
from harness import testing, registry
env = gymnasium.make("harness/Echo-v0")
assert env.spec.max_episode_steps == 4, env.spec
for label, check in testing.environment_checks("echo") + testing.agent_checks("parrot", "echo"):
    check()
run = harness.evaluate("parrot", "echo", out=sys.argv[1])
assert run.summary.success == 1.0, run.summary
assert run.metrics[0].extra == {"shouting": 0.0}
print("joined", run.meta.task_set.name)
"""


def test_a_foreign_package_joins_without_an_edit_here(tmp_path: Path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "foreign_env.py").write_text(MODULE)
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
           "--disable-pip-version-check", "--target", str(site), str(source)]  # fmt: skip
    subprocess.run(pip, check=True, capture_output=True)
    found = subprocess.run(
        [sys.executable, "-c", USE, str(tmp_path / "results")],
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == "joined echo/valid\n"


USE_README = """
import subprocess, sys, harness
for what in (("env", "echo"), ("agent", "parrot")):
    found = subprocess.run([sys.executable, "-m", "harness", "check", *what], capture_output=True)
    told = found.stdout.decode() + found.stderr.decode()
    print(found.returncode, *(line for line in told.splitlines() if not line.startswith("ok ")))
run = harness.evaluate("parrot", "echo", out=sys.argv[1])
print(run.summary.success, run.summary.score, run.summary.n)
"""


def test_the_example_of_the_readme_passes_its_own_check_and_scores(tmp_path: Path):
    text = (Path(__file__).parent.parent / "README.md").read_text()
    _, *blocks = text.partition("## Adding an environment or an agent")[2].split("```")
    module, entries = blocks[0].removeprefix("python\n"), blocks[2].removeprefix("toml\n")
    (tmp_path / "mine.py").write_text(module)
    installed(tmp_path, entries)
    found = subprocess.run(
        [sys.executable, "-c", USE_README, str(tmp_path / "results")],
        env=beside(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout == "0\n0\n1.0 100.0 2\n", found.stdout


NAMESAKES = """
[project.entry-points."harness.envs"]
maze-a = "maze_a:MazeEnv"
maze-b = "maze_b:MazeEnv"
maze-c = "maze_b:MazeEnv"
shop = "maze_a:WebShopEnv"
"""

MAZE = """
import harness

class MazeEnv(harness.Environment):
    max_steps = 3
    splits = ("valid",)

    def task_ids(self, split):
        return ["valid/1"]

    def start(self, task_id):
        return __name__, {"instruction": "out"}

    def play(self, action):
        return "wall", 0.0, False, {}

class WebShopEnv(MazeEnv):
    pass
"""

USE_NAMESAKES = """
import sys, gymnasium, harness
from harness import errors, registry, testing
for name in ("maze-a", "maze-b", "shop", "webshop"):
    made = harness.make(name)
    assert type(made.unwrapped) is registry.env_class(name), name
    assert gymnasium.make(registry.gym_id(name)).unwrapped.name == name
    print(registry.gym_id(name), type(made.unwrapped).__module__)
for name in ("maze-a", "maze-b", "shop"):
    for label, check in testing.environment_checks(name):
        check()
run = harness.evaluate("random", "maze-b", out=sys.argv[1])
assert [e.steps[0].observation for e in run.episodes()] == ["maze_b"]
try:
    harness.make("maze-c")
except errors.ConfigError as error:
    print(error)
"""


def test_environments_whose_classes_share_a_name_are_told_apart(tmp_path: Path):
    for module in ("maze_a", "maze_b"):
        (tmp_path / f"{module}.py").write_text(MAZE)
    installed(tmp_path, NAMESAKES)
    found = subprocess.run(
        [sys.executable, "-c", USE_NAMESAKES, str(tmp_path / "results")],
        env=beside(tmp_path), capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        "harness/Maze-v0 maze_a",
        "harness/Maze-maze-b-v0 maze_b",
        "harness/WebShop-shop-v0 maze_a",
        "harness/WebShop-v0 harness_envs.webshop.env",
        "'maze-b' and 'maze-c' are both maze_b:MazeEnv in harness.envs: one class has one name. "
        "Register a subclass as the second.",
    ]


BROKEN = """
[project.entry-points."harness.envs"]
gone = "mine:Gone"
mute = "mine"
[project.entry-points."harness.agents"]
absent = "nowhere.at_all:Policy"
bad = "mine:Bad"
unmade = "mine:Unmade"
[project.entry-points."harness.agent_configs"]
mine = "mine_configs"
"""

BROKEN_MODULE = """
class Bad:
    def act(self, instruction, history, observation):
        return "go"

class Unmade:
    def __init__(self):
        raise ValueError("no weights")
"""


CLOSING = """
class Closing:
    def act(self, instruction, history, observation):
        return "look"

    def close(self):
        with open("closed", "a") as file:
            file.write("x")
"""


@pytest.mark.parametrize(
    ("agent", "slips", "closed"),
    [("closing", "", "x"), ("expert", "closing", "x"), ("closing", "closing", "xx")],
)
def test_every_policy_of_a_run_is_closed_once(tmp_path: Path, agent: str, slips: str, closed: str):
    (tmp_path / "mine.py").write_text(CLOSING)
    installed(tmp_path, '[project.entry-points."harness.agents"]\nclosing = "mine:Closing"\n')
    words = ("--errors-from", slips, "--error-rate", "0.5") if slips else ()
    found = subprocess.run(
        [sys.executable, "-m", "harness", "collect", "--agent", agent, "--env", "alfworld",
         "--tasks", "builtin-dev[:2]", *words],
        env=beside(tmp_path), cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 1, found.stderr  # what it says is no decision: both episodes broke
    assert (tmp_path / "closed").read_text() == closed


CONSTRUCTORS = """
import harness

class Plain(harness.Policy):
    def act(self, instruction, history, observation):
        return harness.Decision("", "look")

class Loose(Plain):
    def __init__(self, depth=1, **options):
        self.options = {"depth": depth, **options}
"""

BUILD = """
from harness.config import AgentConfig
from harness.registry import build_policy
print(type(build_policy(AgentConfig("a", "plain"))).__name__)
print(build_policy(AgentConfig("a", "loose", options={"width": 2})).options)
try:
    build_policy(AgentConfig("a", "plain", options={"width": 2}))
except Exception as error:
    print(error)
"""


def test_policies_are_built_whatever_their_constructors_take(tmp_path: Path):
    (tmp_path / "mine.py").write_text(CONSTRUCTORS)
    points = 'plain = "mine:Plain"\nloose = "mine:Loose"\n'
    installed(tmp_path, f'[project.entry-points."harness.agents"]\n{points}')
    found = subprocess.run(
        [sys.executable, "-c", BUILD], env=beside(tmp_path), cwd=tmp_path, capture_output=True,
        text=True,
    )  # fmt: skip
    told = found.stdout.splitlines()
    assert told[:2] == ["Plain", "{'depth': 1, 'width': 2}"], found.stderr
    assert told[2] == "Agent 'a': Unknown option 'width'."


ALONE = """
import os, harness

class AloneEnv(harness.Environment):
    shareable, max_steps, splits = False, 4, ("valid",)
    def __init__(self, broken=False, **keywords):
        super().__init__(**keywords)
        if broken:
            raise ValueError("no engine")
    def task_ids(self, split):
        return [f"valid/{n}" for n in range(6)]
    def start(self, task_id):
        print("an engine greets")
        self.task = task_id
        return f"{os.getpid()}", {"instruction": "go"}
    def play(self, action):
        if self.task.endswith("3"):
            os._exit(7)
        return f"{os.getpid()}", 1.0, True, {"success": True}

class Goer:
    def act(self, instruction, history, observation):
        return harness.Decision("", "go")
"""
# No `if __name__ == "__main__"`: workers do not run the script again.
SCRIPT = """
import harness, mine
run = harness.evaluate(mine.Goer(), "alone", out="r", workers=3)
episodes = sorted(run.episodes(), key=lambda e: e.task.id)
print(len({e.steps[0].observation for e in episodes if e.steps}), run.summary.success)
print([e.error.message for e in episodes if e.error])
try:
    harness.evaluate(mine.Goer(), "alone", out="r2", env_options={"broken": True})
except harness.HarnessError as error:
    print(error)
"""


def test_an_environment_that_cannot_share_has_a_process_of_its_own(tmp_path: Path):
    (tmp_path / "mine.py").write_text(ALONE)
    (tmp_path / "script.py").write_text(SCRIPT)
    installed(tmp_path, '[project.entry-points."harness.envs"]\nalone = "mine:AloneEnv"\n')
    found = subprocess.run(
        [sys.executable, "script.py"], env=beside(tmp_path), cwd=tmp_path, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    told = found.stdout.splitlines()
    assert told, found.stderr
    processes, success = told[0].split()
    assert (int(processes) > 1, success) == (True, "1.0")
    assert told[1] == "['alone worker died (exit status 7)']"
    assert "ValueError: no engine" in told[2]


METRICS = """
import numpy as np

def steps(episode, reference):
    return np.float64(len(episode.steps))

def won(episode, reference):
    return episode.success

def odd(episode, reference):
    return float("nan")
"""
POINTS = 'steps = "mine:steps"\nwon = "mine:won"\nodd = "mine:odd"\n'


def test_a_metric_may_return_any_number_and_a_broken_one_costs_nothing(tmp_path: Path):
    def harness(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "harness", *words], env=beside(tmp_path), cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip

    (tmp_path / "mine.py").write_text(METRICS + '\ndef odd(e, r): return "high"\n')
    installed(tmp_path, f'[project.entry-points."harness.metrics"]\n{POINTS}')
    played = harness("run", "-a", "oracle", "-e", "alfworld", "-t", "builtin-dev[:2]")
    assert played.returncode == 2
    assert "metric 'odd' (mine:odd) fails on the episode" in played.stderr
    assert "a number or None is expected, not 'high'" in played.stderr
    (folder,) = (tmp_path / "results" / "alfworld" / "oracle").iterdir()
    assert "stopped" in harness("list", "runs").stdout
    (tmp_path / "mine.py").write_text(METRICS)
    assert harness("run", "--resume", str(folder)).returncode == 0
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [r["extra"] for r in rows] == [
        {"steps": r["n_steps"], "won": 1.0, "odd": None} for r in rows
    ]


def test_a_long_list_of_names_is_cut():
    told = unknown("task", "task-07", [f"task-{k:02}" for k in range(500)])
    assert "Did you mean 'task-07'" in told
    assert told.endswith(" more")
    assert len(told) < 1000
    assert unknown("task", "x", ["y" * 2000]).endswith("y")


def test_a_broken_package_is_named_and_hides_nothing_else(tmp_path: Path):
    (tmp_path / "mine.py").write_text(BROKEN_MODULE)
    installed(tmp_path, BROKEN)

    def harness(*words: str) -> tuple[int, str, str]:
        found = subprocess.run(
            [sys.executable, "-m", "harness", *words], env=beside(tmp_path), cwd=tmp_path,
            capture_output=True, text=True,
        )  # fmt: skip
        assert "Traceback" not in found.stderr, found.stderr
        return found.returncode, found.stdout, found.stderr

    gone = "'gone' (mine:Gone, registered in harness.envs by mine 1.0) cannot be loaded: Attribute"
    status, told, _ = harness("doctor")
    assert status == 1
    assert f"FAIL   entry point harness.envs: gone: Environment {gone}" in told
    for name in ("harness.envs: mute", "harness.agents: absent", "harness.agent_configs: mine"):
        assert f"FAIL   entry point {name}: " in told
    assert "environment 'alfworld': starts on its built-in tasks" in told
    assert "agents at hand: " in told
    status, told, beside_it = harness("list", "envs")
    assert (status, "alfworld" in told, gone in beside_it) == (0, True, True)
    status, told, beside_it = harness("list", "agents")
    assert (status, "oracle" in told, "absent" in beside_it) == (0, True, True)
    status, _, told = harness("run", "-a", "random", "-e", "gone")
    assert (status, gone in told) == (2, True)
    status, _, told = harness("run", "-a", "absent", "-e", "alfworld")
    assert (status, "cannot be loaded: ModuleNotFoundError" in told) == (2, True)
    status, told, beside_it = harness("check", "agent", "bad")
    assert (status, gone in beside_it) == (1, True)
    assert told.count("act returned str, not a ") == 6  # three checks, the third its own way
    assert told.count("FAIL") == 9
    status, told, _ = harness("check", "agent", "unmade")
    assert (status, told) == (1, "FAIL  it can be made: ValueError: no weights\n")


def installed(site: Path, entries: str) -> None:
    """A package's metadata as pip leaves them, with the entry points of a pyproject.toml."""
    info = site / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    groups = tomllib.loads(entries)["project"]["entry-points"]
    (info / "entry_points.txt").write_text("".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    ))  # fmt: skip


def beside(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *filter(None, sys.path)])}


def test_import_prints_nothing_and_loads_nothing_heavy():
    code = (
        "import sys, harness, harness.cli, harness_envs.alfworld;"
        "heavy = {'torch', 'transformers', 'textworld', 'alfworld', 'spacy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    found = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_harness_imports_none_of_the_other_packages_and_never_torch():
    code = (
        "import pkgutil, importlib, sys, harness;"
        "[importlib.import_module('harness.' + m.name) for m in pkgutil.iter_modules("
        "harness.__path__) if m.name != '__main__'];"
        "bad = [m for m in sys.modules if m.split('.')[0] in"
        " ('harness_envs', 'harness_agents', 'harness_distillation', 'torch')];"
        "assert not bad, bad"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_specs_are_pickled_whether_gymnasium_is_there_or_not(name):
    spec = gymnasium.spec(registry.gym_id(name))
    packed = pickle.dumps((spec, gymnasium.make(spec).spec))
    code = (
        "import pickle, sys; one, made = pickle.load(sys.stdin.buffer);"
        "print(one.make().spec == made, one.max_episode_steps)"
    )
    found = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True)
    assert found.stdout.decode().split() == ["True", str(spec.max_episode_steps)], found.stderr


def test_public_names_are_those_promised():
    import harness

    for name in harness.__all__:
        assert getattr(harness, name) is not None
    assert set(harness.__all__) <= set(dir(harness))
    assert harness.__version__ == version("distill-harness")


def test_what_an_environment_lacks_and_a_reward_that_is_no_score_are_named() -> None:
    class Bare(harness.Environment):
        pass

    class Rich(harness.Environment):
        scored = False

        def task_ids(self, split):
            return ["valid/1"]

        def start(self, task_id):
            return "go", {"instruction": "go"}

        def play(self, action):
            return "on", 5.0, True, {"score": 0.5} if self.scored else {}

    with pytest.raises(EnvError, match=r"Bare lacks the method task_ids\(split\)"):
        Bare().reset()
    env = Rich()
    env.reset()
    with pytest.raises(EnvError, match=r"reward 5\.0: a score is in \[0, 1\]"):
        env.step("go")
    env.scored = True
    assert env.step("go")[4]["score"] == 0.5

"""Every registered environment and agent against the shipped contract; a foreign one too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness import registry, testing

ENVIRONMENTS = sorted(registry.names("envs"))
#: Agents that need nothing but the package.
AGENTS = ("random", "oracle", "expert", pytest.param("ours-tiny", marks=pytest.mark.models))


@pytest.mark.parametrize("name", ENVIRONMENTS)
@pytest.mark.parametrize("number", range(len(testing.environment_checks("alfworld"))))
def test_environment(name, number):
    _, check = testing.environment_checks(name)[number]
    check()


@pytest.mark.parametrize("name", AGENTS)
def test_agent(name):
    for _, check in testing.agent_checks(name):
        check()


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


def test_public_names_are_those_promised():
    import harness

    for name in harness.__all__:
        assert getattr(harness, name) is not None
    assert set(harness.__all__) <= set(dir(harness))

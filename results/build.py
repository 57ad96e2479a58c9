"""Writes results/README.md from what stands beside it.

    python results/build.py

``reference/`` holds exported runs (``harness export RUN --to results/reference``), ``trial/`` campaigns
of ``harness reproduce``, ``measurements.md`` what is measured otherwise, with its commands. The paper's
tables come with ``harness_distillation``.
"""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import harness_distillation.paper
from harness_distillation.reproduce import cli, plan

from harness import leaderboard
from harness.runs import find_runs

HERE = Path(__file__).resolve().parent
TABLES = Path(harness_distillation.paper.__file__).parent

HEAD = """\
# Results

Runs are written here (`results/<env>/<agent>/<run id>/`). Below: reference runs kept with the
project, other measurements with the commands that give them, and the paper's numbers, which are
another experiment and stand apart. This page is written by `python results/build.py`.

Words: an episode *broke* by a fault of environment, model or code (it is in no mean), was *truncated* when its
steps were used up; a *loop* is a decision made before at the same observation; *chance* is the match with the
trace of another task, *ceiling* that of a second sampling of the reference's agent; *N_r : N_a* are the tokens of
reasoning and of action trained on, as a ratio; *effective n* is how many independent episodes would be worth as much.
`s/ep` is elapsed time with up to 32 episodes sharing a model on a busy machine: no speed.

*Overlap* is the share of the reference trace's words that the agent says too, *precision* the share of its own words
that are the reference's; *score* is 100 times the mean score; *of teacher* is success as a share of the teacher's.
*Holm* adjusts p for all comparisons made at once; *TOST* are the two tests by which agents are told to be equivalent.

Intervals are 95 % intervals: of one run Wilson's, for as many episodes as those of tasks that belong together (goals of
one product, trials of one room) are worth; of comparisons and of the trial over groups of tasks and training seeds.

## Reference runs

"""

NONE = """\
None yet: the figures below are measured, but their runs are not kept with the project.
"""

TRIAL = """\
## {title}, {name}

{done} of {planned} cells are done. Plan and results are in [trial/{name}](trial/{name}), the weights that students
start from in [trial/{starts}](trial/{starts}/models), of traces and the teacher's runs what it decided; students, their
training logs and their episodes are not kept. All below again from what is kept, without data: `harness reproduce
{grid} --report --out results/trial/{name}`. To go on with it: `harness fetch alfworld --to
DATA/alfworld`, `mkdir -p results/reproduce`, `cp -r results/trial/{name} results/reproduce/`, `HARNESS_DATA=DATA
{models}harness reproduce {grid} --jobs 2`; `--export
results/trial/{name}` brings it back here. (`harness view A B --task ID` needs episodes, so students trained again.)
ALFWorld is played for 25 steps here, for 40 in the reference runs above; words and tokens a step are the mean of each
episode's own, not pooled; CoT match is with the teacher.

"""

PAPER = """\
## The paper's numbers

Structured Agent Distillation, Tables 3 and 4: success in percent, one seed, no interval
([as data](../distill/harness_distillation/paper/README.md)).

| model | ALFWorld | WebShop | HotPotQA |
|:---|---:|---:|---:|
"""


def page(folder: Path = HERE) -> str:
    """The whole page."""
    runs = leaderboard.markdown(leaderboard.boards(find_runs(folder / "reference"))) or NONE
    measured = (folder / "measurements.md").read_text(encoding="utf-8")
    campaigns = [file.parent for file in sorted(folder.glob("trial/*/plan.json"))]
    trials = "".join(map(trial, sorted(campaigns, key=_beside)))
    return HEAD + runs + "\n" + trials + measured + "\n" + PAPER + paper_rows(TABLES)


def trial(folder: Path) -> str:
    """What a campaign of ``harness reproduce`` has come to."""
    found = plan.read(folder)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        cli.show_report(found, folder, markdown=True)
    given = [p.cell.given.removeprefix("models:") for p in found.cells if p.cell.given]
    given = [name for name in given if ":" not in name]
    kept = [folder, *sorted(folder.parent.iterdir())]
    starts = next(k for k in kept if all((k / "models" / name).is_dir() for name in given))
    grid = f"{found.grid.table} --scale {found.grid.scale}"
    head = TRIAL.format(
        title="Beside the trial" if _beside(folder) else "The trial",
        grid=f"results/trial/{found.grid.scale}.toml" if _beside(folder) else grid,
        starts=starts.name,
        models="" if starts == folder else f"HARNESS_MODELS=results/trial/{starts.name}/models ",
        name=found.grid.name,
        done=sum(plan.done(folder, p) is not None for p in found.cells), planned=len(found.cells),
    )  # fmt: skip
    return head + told.getvalue()


def _beside(folder: Path) -> bool:
    """Whether a campaign is of a grid that stands beside it, and of none that ships."""
    return (folder.parent / f"{folder.name.partition('-')[2]}.toml").is_file()


def paper_rows(folder: Path) -> str:
    """One line a model of Tables 3 and 4."""
    success: dict[str, dict[str, str]] = {}
    for name in ("table3.tsv", "table4.tsv"):
        with open(folder / name, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                success.setdefault(row["agent"], {})[row["env"]] = row["success"]
    return "".join(
        f"| `{agent}` | {by['alfworld']} | {by['webshop']} | {by['hotpotqa']} |\n"
        for agent, by in success.items()
    )


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(), encoding="utf-8")

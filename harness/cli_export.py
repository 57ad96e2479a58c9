"""The command ``export``: runs to publish, or as training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.console import say
from harness.errors import ConfigError


def export(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")],
    episodes: Annotated[
        bool, typer.Option("--episodes", help="With every step, as the environment showed it.")
    ] = False,
    decisions: Annotated[
        bool,
        typer.Option(
            "--decisions",
            help="With what the agent said and did, and none of the environment's texts: whoever "
            "has the data gets the episodes back with `harness restore`.",
        ),
    ] = False,
    forms: Annotated[
        list[str] | None,
        typer.Option(
            "--as",
            help="Training data: messages, prompt-completion, sharegpt or spans; repeatable.",
        ),
    ] = None,
    successes: Annotated[
        bool, typer.Option("--successes", help="With --as: only episodes that were won.")
    ] = False,
    heldout: Annotated[
        float | None,
        typer.Option("--heldout", help="With --as: share of task groups set apart (validation)."),
    ] = None,
    prompt: Annotated[
        Path | None,
        typer.Option("--prompt", help="With --as: text before each episode, with {instruction}."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="OWNER/NAME", help="With --as: to the Hugging Face Hub."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: for everyone (default: private).")
    ] = False,
) -> None:
    """Copy runs for publishing (description and metrics, without this machine's paths); with --as
    write them as training data, a folder that `datasets.load_dataset` reads."""
    from harness.runs import only_run

    runs = [only_run(path) for path in paths]
    if not forms:
        for_rows = {
            "--successes": successes, "--heldout": heldout, "--prompt": prompt,
            "--push": push, "--public": public,
        }  # fmt: skip
        if given := [name for name, value in for_rows.items() if value not in (None, False)]:
            raise ConfigError(f"{', '.join(given)}: only with --as FORM.")
        from harness.export import export as copy

        for run in runs:
            print(copy(run, to, episodes=episodes, without_words=decisions))
        return
    if episodes or decisions or (public and push is None):
        raise ConfigError(
            "--episodes goes without --as, like --decisions, and --public with --push."
        )
    from harness import dataset
    from harness.config import read_text
    from harness.hub import Upload
    from harness.rows import HEADER

    upload = Upload(push, public=public) if push is not None else None
    told = dataset.write(
        runs, to, forms,
        header=HEADER if prompt is None else read_text(prompt),
        successes_only=successes, heldout=heldout or 0.0,
    )  # fmt: skip
    for form, t in told.items():
        counts = ", ".join(f"{n} {split}" for split, n in t.rows.items())
        left = "".join(f"; left out: {n} {reason}" for reason, n in t.dropped.items())
        say(f"{form}: {counts} rows of {t.episodes.total()} episodes{left}")
    print(to)
    if upload is not None:
        print(upload.send(to))

"""Commands that make runs: train, demo, init, study; and doctor, of the machine."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from runcard.cli.app import EXIT_FOUND, AsJson, ConfigDir, app
from runcard.console import plain_console
from runcard.errors import UserError, check_config_choice
from runcard.interrupts import exit_code

PANEL = "Train"
HYDRAS = {"ignore_unknown_options": True}  # of a command whose arguments Hydra reads
TEMPLATES = Path(__file__).parents[1] / "experiment" / "templates"
PARTS = {"project": ["project"], "course": ["course"], "paper": ["project", "paper"]}  # folders of each template


def _complete(context: typer.Context, incomplete: str) -> list[str]:
    """Complete group=choice. bash takes = for a word of its own: there the choice alone is completed."""
    from runcard.config.help import GROUPS, OTHER_GROUPS
    from runcard.config.project import choices_of

    before, groups = list(context.params.get("overrides") or []), (*GROUPS, *OTHER_GROUPS)
    if before and before[-1] == "=":
        before.pop()
    if before and before[-1] in groups:
        return [choice for choice in choices_of(before[-1]) if choice.startswith(incomplete)]
    pairs = (f"{group}={choice}" for group in groups for choice in choices_of(group))
    return [pair for pair in pairs if pair.startswith(incomplete)] if incomplete else []


Overrides = Annotated[
    list[str] | None, typer.Argument(autocompletion=_complete, help="group=choice and key=value: train.epochs=20")
]


@app.command(rich_help_panel=PANEL, add_help_option=False, context_settings=HYDRAS)
def train(overrides: Overrides = None) -> None:
    """Train one config, or with -m a sweep of them: runcard train model=unet loss=dice. --help lists all keys."""
    from runcard.experiment.command import main as train_main

    sys.argv[1:] = overrides or []
    train_main()


@app.command(rich_help_panel=PANEL, context_settings=HYDRAS)
def demo(overrides: Overrides = None) -> None:
    """Train a U-Net on synthetic chest radiographs, as `runcard train model=unet loss=dice model.base=32` does."""
    train(["model=unet", "loss=dice", "model.base=32", "name=demo", *(overrides or [])])


@app.command(rich_help_panel=PANEL)
def init(
    folder: Annotated[Path, typer.Argument(help="the new project's folder", show_default=False)],
    template: Annotated[
        str, typer.Option(help="project; course: an assignment with the lab's fourteen arms; paper: a registered study")
    ] = "project",
) -> None:
    """Start a project of your own: conf/ and experiments/ beside Runcard's, a dataset to replace, a README."""
    check_config_choice("--template", template, PARTS)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and not empty. Name a new folder.")
    try:
        for part in PARTS[template]:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(TEMPLATES / part, folder, dirs_exist_ok=True, ignore=ignored)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}. Name another folder.") from None
    first = "runcard train experiment=first" if template == "project" else "# README.md has the steps"
    print(f"{folder}/ is ready:\n  cd {shlex.quote(str(folder))}\n  {first}")


@app.command(rich_help_panel=PANEL)
def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="whose data are looked for, as `runcard train` takes them: dataset=lungs dataset.root=…"),
    ] = None,
    as_json: AsJson = False,
    config_dir: ConfigDir = None,
) -> None:
    """Check this machine: torch, GPU, determinism, weights, data, disk, versions, extras. Exits with 1 at a problem."""
    from runcard.experiment.doctor import PROBLEM, examine

    checks = []
    for check in examine(overrides or [], config_dir):
        checks.append(asdict(check))
        if not as_json:
            print(f"{check.state:8} {check.name:12} {check.text}", flush=True)
    if as_json:
        print(json.dumps(checks, indent=1))
    if any(check["state"] == PROBLEM for check in checks):
        raise typer.Exit(EXIT_FOUND)


@app.command(rich_help_panel=PANEL)
def study(
    file: Annotated[Path, typer.Argument(help="experiments/lab4/study.yml", show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="seeds=0,1,2 questions=4b name=…, and what every run is given: scale=quick …"),
    ] = None,
    until_decided: Annotated[
        bool, typer.Option("--until-decided", help="add seeds until each question is decided, or the budget is spent")
    ] = False,
    budget: Annotated[int | None, typer.Option(help="seeds of each arm, at most: 10 or 20; none: 10")] = None,
    without: Annotated[
        str | None,
        typer.Option(help="a finding of the audit: run the arms again without its images, and say what it was worth"),
    ] = None,
    config_dir: ConfigDir = None,
) -> None:
    """Ask a study's questions: run what is missing of it, skip what is done, and write its report."""
    from runcard.compare import analysis
    from runcard.compare.report import terminal
    from runcard.compare.report.html import write_report
    from runcard.study.runner import run_study
    from runcard.study.without import run_without

    if budget is not None and not until_decided:
        raise UserError(f"--budget {budget}: is that of --until-decided. Give both, or name the seeds: seeds=0,1,2.")
    if without and until_decided:
        raise UserError("--without takes the seeds that each arm of the study has. Leave --until-decided out.")
    try:
        if without:
            done = run_without(file, arguments or [], without, config_dir)
        else:
            done = run_study(file, arguments or [], config_dir, (budget or 10) if until_decided else None)
    except KeyboardInterrupt as stop:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        sys.exit(exit_code(stop))
    found = analysis.of_study(done.folder)
    terminal.print_answers(plain_console(), found)
    print(write_report(found, done.folder))
    if done.missing:
        raise UserError("\n".join(["Not all runs are there; the same command runs these again:", *done.missing]))

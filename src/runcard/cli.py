"""Experiments on medical images whose conclusions hold."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from runcard import __version__
from runcard.console import counted, print_table
from runcard.errors import EXIT_USER_ERROR, UserError, check_config_choice, how_to_install, runs_below

if TYPE_CHECKING:
    from runcard.compare.analysis import Findings
    from runcard.compare.arms import Arm

EXIT_FOUND = 1  # errors in the data, other data than the run's, or runs that are not done
EXIT_INTERRUPTED = 130  # as a shell counts Ctrl-C
TEMPLATE = Path(__file__).parent / "experiment" / "template"  # of a project
DIFFERENCES = [0.005, 0.01, 0.02]  # of Dice or accuracy, that people ask about

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


def _version(asked: bool) -> None:
    if asked:
        print(f"runcard {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which version it is.")] = (
        False
    ),
) -> None:
    """Experiments on medical images whose conclusions hold."""


CONFIG_DIR = "a folder of further config files, as `runcard train` takes it"
BASELINE = "the name of an arm, as the table writes it: compare all others with it alone"
ON = "a folder that runcard evaluate wrote: compare the runs on its images"
TRUST = "a package whose objects the run's config may name, besides torch's and the like; may be said again"


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(context: typer.Context) -> None:
    """Train one config, or with -m a sweep of them: runcard train model=unet loss=dice. --help lists all keys."""
    from runcard.experiment.train import main as train_main

    sys.argv[1:] = context.args
    train_main()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def demo(context: typer.Context) -> None:
    """Train a U-Net on synthetic chest radiographs, as `runcard train model=unet loss=dice model.base=32` does."""
    context.args = ["model=unet", "loss=dice", "model.base=32", "name=demo", *context.args]
    train(context)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the new project's folder", show_default=False)],
) -> None:
    """Start a project of your own: conf/ and experiments/ beside Runcard's, a dataset to replace, a README."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is there already and not empty. Name a new folder.")
    try:
        shutil.copytree(TEMPLATE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}. Name another folder.") from None
    print(f"{folder}/ is ready:\n  cd {shlex.quote(str(folder))}\n  runcard train experiment=first")


@app.command()
def predict(
    runs_and_images: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... IMAGES...",
            help="runs, or folders of runs (several predict together); then images, folders, patterns, CSV tables",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder of the predictions", show_default=False)],
    values: Annotated[str | None, typer.Option(help="the grey value of each class in the masks: 0,255")] = None,
    probabilities: Annotated[bool, typer.Option(help="write the probabilities too, as .npz")] = False,
    overlay: Annotated[bool, typer.Option(help="write the images with the masks' outlines too")] = False,
    tta: Annotated[str | None, typer.Option(help="flips: average over the flips of the run's augmentation")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images in one forward pass")] = 16,
    trust: Annotated[list[str] | None, typer.Option(help=TRUST)] = None,
) -> None:
    """Predict images by one run, or by the mean of several: masks at the images' size, or a table of classes."""
    from runcard.inference.predict import Options, split_arguments
    from runcard.inference.predict import predict as predict_images

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if tta not in (None, "flips"):
        raise UserError(f"--tta must be flips, got {tta!r}")
    try:
        greys = [int(value) for value in values.split(",")] if values else []
    except ValueError:
        greys = [-1]
    if any(not 0 <= grey <= 255 for grey in greys):
        raise UserError(f"--values must be integers from 0 to 255, one for each class, got {values!r}")
    runs, images = split_arguments(runs_and_images)
    options = Options(greys, probabilities, overlay, tta == "flips", batch_size)
    try:
        outcome = predict_images(runs, images, output, options, trust or [], console)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    done = f", {outcome.skipped} were done before" if outcome.skipped else ""
    console.print(f"{counted(outcome.predicted, 'image')} predicted{done}: {output}/")
    if outcome.failed:
        raise UserError("\n".join([f"{counted(len(outcome.failed), 'image')} could not be read:", *outcome.failed]))


@app.command()
def evaluate(
    runs_and_overrides: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... [dataset=... dataset.root=...]",
            help="runs, or folders of runs; then labelled images, as `runcard train` takes them; none: the runs' own",
            show_default=False,
        ),
    ],
    split: Annotated[str | None, typer.Option(help="one part of the images only: train, val or test")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="a folder; none: outputs/evaluations/<the data's>")
    ] = None,
    trust: Annotated[list[str] | None, typer.Option(help=TRUST)] = None,
) -> None:
    """Measure runs on other labelled images: metrics with intervals, calibration, the change against their own."""
    from runcard.compare.report.evaluation_table import print_evaluation
    from runcard.inference.evaluate import evaluate_runs
    from runcard.runs.reader import find_runs

    if split is not None:
        check_config_choice("--split", split, ("train", "val", "test"))
    overrides = [each for each in runs_and_overrides if "=" in each and not Path(each).exists()]
    named = [each for each in runs_and_overrides if each not in overrides]
    if not named:
        raise UserError("no run is named: runcard evaluate outputs/<name>/<stamp> dataset=lungs dataset.root=…")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    found = find_runs(named)
    if not found.runs:
        raise UserError("\n".join(["There is no completed run to evaluate:", *found.left_out]))
    done = evaluate_runs(found.runs, overrides, split, output, trust or [], console)
    print_evaluation(console, found.runs, done.runs)
    for line in found.left_out:
        console.print(f"left out  {line}", style="yellow")
    console.print(f"\n{done.folder}/\ncompare the arms there  runcard compare {shlex.quote(str(done.folder))}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="a run folder, outputs/<name>/<stamp>", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="the file", show_default=False)],
    kind: Annotated[str, typer.Option("--format", help="onnx, pt2 or safetensors (weights alone)")] = "onnx",
    root: Annotated[Path | None, typer.Option(help="where the run's data lie now; none: where they lay")] = None,
    trust: Annotated[list[str] | None, typer.Option(help=TRUST)] = None,
) -> None:
    """Write a run as one file with its preprocessing, and check it on the validation images."""
    from runcard.inference.export import FORMATS, export_run

    check_config_choice("--format", kind, FORMATS)
    done = export_run(run, kind, output, root, trust or [])
    print(f"preprocessing  {done.graph}\nfile           {done.file}\n{output}")


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="a run folder, outputs/<name>/<stamp>", show_default=False)],
    images: Annotated[
        list[Path] | None, typer.Argument(help="images, or folders of them; none: the run's own", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="which of the run's own images: train, val or test")] = "val",
    method: Annotated[str, typer.Option(help="a class of pytorch_grad_cam, or any with a dotted name")] = "GradCAM",
    layer: Annotated[str | None, typer.Option(help="a layer's name; none: the last convolution")] = None,
    root: Annotated[Path | None, typer.Option(help="where the run's data lie now; none: where they lay")] = None,
    trust: Annotated[list[str] | None, typer.Option(help=TRUST)] = None,
) -> None:
    """Draw where a classifier looked, class by class, and probe whether it reads markers or borders."""
    from runcard.explain.explain import explain_run

    explain_run(run, images or [], split=split, method=method, layer=layer, root=root, trust=trust or [])


@app.command()
def audit(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="as `runcard train` takes them: dataset=lungs dataset.root=…"),
    ] = None,
    against: Annotated[Path | None, typer.Option(help="a run folder: are these its data?")] = None,
    output: Annotated[Path | None, typer.Option(help="a folder; none: outputs/audit/<the data's>")] = None,
    trust: Annotated[list[str] | None, typer.Option(help=TRUST)] = None,
    config_dir: Annotated[Path | None, typer.Option(help=CONFIG_DIR)] = None,
) -> None:
    """Look for what is wrong with data and augmentation, before anything is trained. Exits with 1 at an error."""
    from runcard.audit.command import audit_against, audit_config

    console = Console(soft_wrap=True, highlight=False, markup=False)
    if against:
        good = audit_against(against, overrides or [], console, trust or [], config_dir)
    else:
        good = audit_config(overrides or [], output, console, config_dir)
    if not good:
        raise typer.Exit(EXIT_FOUND)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(help="run folders, sweeps or patterns: outputs/lab*", show_default=False)
    ],
    metric: Annotated[str | None, typer.Option(help="what is compared; none: the monitored metric")] = None,
    threshold: Annotated[float | None, typer.Option(help="of the metric: who reaches it first?")] = None,
    margin: Annotated[float | None, typer.Option(help="differences smaller than this do not matter")] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    on: Annotated[Path | None, typer.Option(help=ON)] = None,
    details: Annotated[bool, typer.Option(help="print all measures and sentences of many arms")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say what runs support, and what not: arms, differences, verdicts. Runs that differ only by seed form an arm."""
    from runcard.compare.report import terminal

    findings = _find(runs, metric, margin, threshold, baseline, on)
    if as_json:
        print(json.dumps(terminal.as_json(findings), indent=1))
    else:
        terminal.print_findings(Console(soft_wrap=True, highlight=False, markup=False), findings, details)


@app.command()
def power(
    runs: Annotated[list[str], typer.Argument(help="run folders, sweeps or patterns", show_default=False)],
    difference: Annotated[list[float], typer.Option(help="that should be found; may be said again")] = DIFFERENCES,
    metric: Annotated[str | None, typer.Option(help="what is compared; none: the monitored metric")] = None,
) -> None:
    """Say how many seeds or images a difference would need, from how far these runs scatter (two seeds at least)."""
    from runcard.compare.analysis import monitored
    from runcard.compare.report.power_table import print_power

    if wrong := [d for d in difference if not 0 < d < math.inf]:
        raise UserError(f"--difference must be a number greater than 0, got {wrong[0]:g}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    arms, left_out = _arms(runs, metric)
    for line in left_out:
        console.print(f"left out  {line}", style="yellow")
    print_power(console, arms, metric or monitored(arms[0]), difference)


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="a study's folder; or runs, sweeps, patterns", show_default=False)],
    metric: Annotated[str | None, typer.Option(help="what is compared; none: the monitored metric")] = None,
    threshold: Annotated[float | None, typer.Option(help="of the metric: who reaches it first?")] = None,
    margin: Annotated[float | None, typer.Option(help="differences smaller than this do not matter")] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE)] = None,
    on: Annotated[Path | None, typer.Option(help=ON)] = None,
    output: Annotated[Path | None, typer.Option(help="a folder; none: the study's or sweep's")] = None,
    figures: Annotated[
        Path | None, typer.Option(help="a folder for every figure as SVG and PNG, and every table as CSV")
    ] = None,
    images: Annotated[bool, typer.Option(help="show images of the data; without, the report can be shared")] = True,
) -> None:
    """Write report.html, one file that opens offline: verdicts, curves, images, claims, methods."""
    from runcard.compare import analysis
    from runcard.compare.report.html import write_figures, write_report

    first = Path(runs[0])
    if len(runs) == 1 and (folder := _study_folder(first)):
        if on:
            raise UserError(f"--on: a study is answered on the images of its plan. Name its runs: {folder}/*")
        found = analysis.of_study(folder)
    else:
        is_sweep = len(runs) == 1 and first.is_dir() and not (first / "run.json").exists()
        folder = on or (first if is_sweep else Path("outputs/report"))
        found = _find(runs, metric, margin, threshold, baseline, on)
    print(write_report(found, output or folder, images))
    if figures:
        write_figures(found, figures, images)
        print(f"{figures}/")


@app.command()
def card(
    run: Annotated[Path, typer.Argument(help="a run folder, outputs/<name>/<stamp>", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the file; none: print the card")] = None,
) -> None:
    """Write the model card of a run in Markdown, with the CLAIM 2024 checklist, as far as its record knows."""
    from runcard.compare.report.model_card import model_card, to_markdown
    from runcard.fileio import write_text
    from runcard.runs.reader import read_run

    if not (run / "run.json").exists():
        fix = runs_below(run) or " Name a folder such as outputs/<name>/<stamp>."
        raise UserError(f"{run}: no run folder (one has a run.json).{fix}")
    completed, reason = read_run(run)
    if completed is None:
        raise UserError(f"{run}: {reason}")
    if output and output.exists():  # an author may have written into it
        raise UserError(f"{output}: is there already. Name another file.")
    text = to_markdown(model_card(completed))
    if output:
        write_text(output, text)
        print(output)
    else:
        print(text, end="")


@app.command()
def status(
    folders: Annotated[list[Path], typer.Argument(help="sweeps, studies or runs: outputs/losses", show_default=False)],
    watch: Annotated[bool, typer.Option(help="show it anew every few seconds until all have ended")] = False,
) -> None:
    """Say how far the runs of a sweep or a study are, wherever they run. Exits with 1 unless all are done."""
    from runcard.runs.sweep import LOOK_EVERY_SECONDS, count, runs_of, state_of, state_rows

    console = Console(soft_wrap=True, highlight=False, markup=False)
    while True:
        runs = [run for folder in folders for run in runs_of(folder)]
        if not runs:
            raise UserError(f"{folders[0]}: no run here or below, and no sweep that is to make one.")
        states = [state_of(run) for run in runs]
        if watch and console.is_terminal:
            console.clear()
        print_table(console, *state_rows(states))
        console.print(f"\n{count(states)}")
        if not watch or all(state.is_final for state in states):
            break
        time.sleep(LOOK_EVERY_SECONDS)
    if any(state.exit_code for state in states):
        raise typer.Exit(EXIT_FOUND)


@app.command()
def prune(
    folders: Annotated[list[Path], typer.Argument(help="runs, sweeps or studies: outputs/old", show_default=False)],
    keep: Annotated[str, typer.Option(help="best or last: these weights; record: neither, nor previews")] = "best",
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it nothing is")] = False,
) -> None:
    """Remove what completed runs can do without. What comparisons and reports read stays."""
    from runcard.runs.prune import REMOVED, find_prunable

    check_config_choice("--keep", keep, tuple(REMOVED))
    prunings, unfinished = find_prunable(folders, keep)
    rows = [[f"{p.num_bytes / 1e6:.1f} MB", " ".join(path.name for path in p.paths), str(p.folder)] for p in prunings]
    console = Console(soft_wrap=True, highlight=False, markup=False)
    print_table(console, ["size", "what", "run folder"], rows)
    for pruning in prunings if yes else ():
        pruning.apply()
    if unfinished:
        console.print(f"\n{counted(len(unfinished), 'run')} not completed: left as they are")
    done = "removed" if yes else "can go: the same command with --yes removes them"
    console.print(f"\n{sum(p.num_bytes for p in prunings) / 1e6:,.1f} MB of {counted(len(prunings), 'run')} {done}")


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="experiments/lab4/study.yml", show_default=False)],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="seeds=0,1,2 questions=4b name=…, and what every run is given: scale=quick …"),
    ] = None,
    config_dir: Annotated[Path | None, typer.Option(help=CONFIG_DIR)] = None,
) -> None:
    """Ask a study's questions: run what is missing of it, skip what is done, and write its report."""
    from runcard.compare import analysis
    from runcard.compare.report import terminal
    from runcard.compare.report.html import write_report
    from runcard.study.runner import run_study

    try:
        done = run_study(file, arguments or [], config_dir)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    found = analysis.of_study(done.folder)
    terminal.print_answers(Console(soft_wrap=True, highlight=False, markup=False), found)
    print(write_report(found, done.folder))
    if done.missing:
        raise UserError("\n".join(["Not all runs are there; the same command runs these again:", *done.missing]))


def _study_folder(named: Path) -> Path | None:
    """Return the folder of a study, named by that folder or by the file of its questions; else None."""
    if (named / "study.json").exists():
        return named
    if named.suffix != ".yml":
        return None
    from runcard.study.spec import read_study

    name = read_study(named).name
    folders = sorted(file.parent for file in Path("outputs").glob("*/study.json"))
    folders = [folder for folder in folders if f"{folder.name},".startswith(f"{name},")]
    if len(folders) == 1:
        return folders[0]
    found = f"has several folders: {', '.join(map(str, folders))}. Name one" if folders else "has not been run"
    raise UserError(f"{named}: this study {found}. (runcard study {named} … runs it.)")


def _find(
    runs: list[str],
    metric: str | None,
    margin: float | None,
    threshold: float | None,
    baseline: str | None,
    on: Path | None,
) -> Findings:
    """Return what the runs in these folders say about each other."""
    from runcard.compare import analysis

    for name, value in {"margin": margin, "threshold": threshold}.items():
        if value is not None and not (math.isfinite(value) and (value > 0 or name == "threshold")):
            raise UserError(f"--{name} must be a number{' greater than 0' if name == 'margin' else ''}, got {value:g}")
    arms, left_out = _arms(runs, metric, on)
    if baseline is not None:
        check_config_choice("--baseline", baseline, [arm.name for arm in arms])
    asked = analysis.ask_pairs(arms, metric, margin, threshold, baseline)
    options = {"metric": metric, "margin": margin, "threshold": threshold, "baseline": baseline}
    given = [f"--{name}={value}" for name, value in {**options, "on": on}.items() if value is not None]
    command = shlex.join(["runcard", "report", *runs, *given])
    return analysis.find(asked, arms, left_out=left_out, command=command, metric=metric)


def _arms(runs: list[str], metric: str | None, on: Path | None = None) -> tuple[list[Arm], list[str]]:
    """Return the arms that the runs in these folders form, and the runs left out, each with the reason.

    on: the folder of an evaluation, where the runs are compared instead of on their own images.
    """
    from runcard.compare import confounds, endpoints
    from runcard.runs.reader import evaluations_of, find_runs

    found = find_runs(runs)
    if on:
        found = evaluations_of(found, on)
    if not found.runs:
        raise UserError("\n".join(["There is no completed run to compare:", *found.left_out]))
    arms, again = confounds.group_arms(found.runs)
    if metric:
        endpoints.check_measured(arms[0].first, metric)
    return arms, [*found.left_out, *again]


def main() -> None:
    """Run the command; a user's mistake ends in a message and exit code 2."""
    sys.path.append(str(Path.cwd()))  # the user's own modules
    try:
        app()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except ModuleNotFoundError as error:
        print(how_to_install(error), file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except PermissionError as error:
        print(f"{error.filename}: permission denied.", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)


if __name__ == "__main__":
    main()

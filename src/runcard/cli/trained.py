"""Commands that use a trained run: predict, evaluate, unseal, export, explain, card, figures."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from runcard.cli.app import Root, Trust, app
from runcard.console import counted, plain_console
from runcard.errors import UserError, check_config_choice, runs_below
from runcard.interrupts import exit_code

PANEL = "Use a trained run"

RunFolder = Annotated[Path, typer.Argument(help="a run folder, outputs/<name>/<stamp>", show_default=False)]


@app.command(rich_help_panel=PANEL)
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
    trust: Trust = None,
) -> None:
    """Predict images by one run, or by the mean of several: masks at the images' size, or a table of classes."""
    from runcard.inference.predict import Options, split_arguments
    from runcard.inference.predict import predict as predict_images

    console = plain_console()
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
    except KeyboardInterrupt as stop:
        print("interrupted: the same command goes on from here.", file=sys.stderr)
        sys.exit(exit_code(stop))
    done = f", {outcome.skipped} were done before" if outcome.skipped else ""
    console.print(f"{counted(outcome.predicted, 'image')} predicted{done}: {output}/")
    if outcome.failed:
        raise UserError("\n".join([f"{counted(len(outcome.failed), 'image')} could not be read:", *outcome.failed]))


@app.command(rich_help_panel=PANEL)
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
    trust: Trust = None,
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
    console = plain_console()
    found = find_runs(named)
    if not found.runs:
        raise UserError("\n".join(["There is no completed run to evaluate:", *found.left_out]))
    folder, evaluated = evaluate_runs(found.runs, overrides, split, output, trust or [], console)
    print_evaluation(console, found.runs, evaluated)
    for line in found.left_out:
        console.print(f"left out  {line}", style="yellow")
    console.print(f"\n{folder}/\ncompare the arms there  runcard compare {shlex.quote(str(folder))}")


@app.command(rich_help_panel=PANEL)
def unseal(
    study: Annotated[Path, typer.Argument(help="a study's folder, or the file of its questions", show_default=False)],
    trust: Trust = None,
) -> None:
    """Evaluate a study's runs on their sealed test split, answer its questions there, and count the look."""
    from runcard.cli.conclusions import study_folder
    from runcard.compare.analysis import read_study_folder
    from runcard.compare.arms import Arm
    from runcard.compare.report.html import write_report
    from runcard.compare.report.terminal import print_findings
    from runcard.inference.unseal import unseal_runs
    from runcard.runs.looks import ordinal

    folder = study_folder(study)
    if folder is None:
        raise UserError(f"{study}: no study (its folder has a study.json). runcard study <file>.yml makes one.")
    found = read_study_folder(folder)
    if found.missing:
        raise UserError(
            "\n".join([f"{folder}: stays sealed while runs are missing; runcard study runs them:", *found.missing])
        )
    console = plain_console()
    evaluated, look = unseal_runs(folder, [run for arm in found.arms for run in arm.runs], trust or [], console)
    evaluations = iter(evaluated)  # in the order of the runs
    measured = [Arm(arm.name, tuple(next(evaluations) for _ in arm.runs), arm.failed) for arm in found.arms]
    command = shlex.join(["runcard", "unseal", str(study)])
    findings = replace(found, arms=measured, command=command).findings()
    print_findings(console, findings, details=False)
    console.print(f"\n{ordinal(look.look)} look at this test set of {counted(look.images, 'image')}")
    console.print(write_report(findings, Path(look.folder), with_images=False))


@app.command(rich_help_panel=PANEL)
def export(
    run: RunFolder,
    output: Annotated[Path, typer.Option("--output", "-o", help="the file", show_default=False)],
    kind: Annotated[str, typer.Option("--format", help="onnx, pt2 or safetensors (weights alone)")] = "onnx",
    root: Root = None,
    trust: Trust = None,
) -> None:
    """Write a run as one file with its preprocessing, and check it on the validation images."""
    from runcard.inference.export import FORMATS, export_run

    check_config_choice("--format", kind, FORMATS)
    graph, file = export_run(run, kind, output, root, trust or [])
    print(f"preprocessing  {graph}\nfile           {file}\n{output}")


@app.command(rich_help_panel=PANEL)
def explain(
    run: RunFolder,
    images: Annotated[
        list[Path] | None, typer.Argument(help="images, or folders of them; none: the run's own", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="which of the run's own images: train, val or test")] = "val",
    method: Annotated[str, typer.Option(help="a class of pytorch_grad_cam, or any with a dotted name")] = "GradCAM",
    layer: Annotated[str | None, typer.Option(help="a layer's name; none: the last convolution")] = None,
    root: Root = None,
    trust: Trust = None,
) -> None:
    """Draw where a classifier looked, class by class, and probe whether it reads markers or borders."""
    from runcard.explain.explain import explain_run

    explain_run(run, images or [], split=split, method=method, layer=layer, root=root, trust=trust or [])


@app.command(rich_help_panel=PANEL)
def card(
    run: RunFolder,
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


@app.command(rich_help_panel=PANEL)
def figures(run: RunFolder, root: Root = None, trust: Trust = None) -> None:
    """Draw the figures and previews that a lean record (record=lean) leaves out, from the best epoch's weights."""
    from runcard.experiment.restored import draw_figures

    draw_figures(run, root, trust or [], plain_console())
    print(f"{run / 'figures'}/\n{run / 'previews'}/")

"""What a finished training leaves: values per image for the last and the best weights, pictures, and a short table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from runcard.console import duration, print_table
from runcard.data.datamodule import Data
from runcard.errors import UserError, how_to_install
from runcard.experiment.predictions import PredictionFigures, only_warned_of
from runcard.experiment.setup import ExperimentSetup
from runcard.explain.cam_sheet import panel
from runcard.explain.explain import Classifier, explain
from runcard.explain.images import Pictures
from runcard.explain.shortcut_probe import Finding
from runcard.figures.charts import curves_figure
from runcard.fileio import sha256, write_figure
from runcard.loggers.run import RunLogger
from runcard.runs.folders import Row
from runcard.runs.writer import Record
from runcard.training.checkpoint import Checkpoint, load_weights
from runcard.training.evaluation import evaluate, rows_per_image
from runcard.training.types import Evaluation, State

RECORDED = ("metrics.csv", "per_image.csv", "split.json", ".hydra/config.yaml", ".hydra/overrides.yaml")
LOSS_TOLERANCE = 0.01  # relative, where arithmetic is not bit-exact: bfloat16 rounds to 0.4 %


def write_results(
    setup: ExperimentSetup,
    state: State,
    logger: RunLogger,
    figures: PredictionFigures,
    checkpoint: Checkpoint,
    record: Record,
    bit_exact: bool,
) -> dict[str, Any]:
    """Write per_image.csv, previews/, figures/ and the PR curve; returns the metadata that run.json ends with.

    A lean record has one figure, of predictions. The model holds the last weights when this begins and the best ones
    when it ends. bit_exact says whether evaluating the last weights again must reproduce the last row of metrics.csv to
    the last bit, or to rounding only.
    """
    folder, rows, name = record.folder, logger.rows, setup.monitor.name
    data = setup.data
    if state.best is None:
        raise UserError(f"metric.monitor: {name} was never a number, so there is no best epoch. Choose another one.")
    last = evaluate_splits(setup)
    check_reproduced(rows[-1], last["val"], bit_exact)
    if setup.is_lean:
        with only_warned_of("figures/predictions.png"):
            write_figure(folder / "figures" / "predictions.png", figures.predictions(last["val"]), palette=True)
    else:
        with only_warned_of("figures/curves.png"):
            write_figure(folder / "figures" / "curves.png", curves_figure(rows, name, positive_title(data)))
        outcomes, confusion = figures.write(folder, last["val"], "last epoch")
        if confusion:
            logger.figure("val/confusion", confusion, state.epoch)
        if data.positive is not None:
            logger.pr_curve(f"val/{data.classes[data.positive]}", outcomes.is_positive, outcomes.scores, state.epoch)
    load_weights(checkpoint.best, setup.model)
    best = evaluate_splits(setup)
    record.write_per_image([*per_image_rows(setup, "last", last), *per_image_rows(setup, "best", best)])
    findings: list[Finding] = []
    with only_warned_of("activation maps"):
        findings, maps = explain_validation(setup, logger.progress.console)
        if maps and not setup.is_lean:
            write_figure(folder / "figures" / "activation_maps.png", maps)
            logger.figure("val/activation_maps", maps, state.epoch)
    seconds = [row["seconds"] for row in rows]
    caching = record.content["features"]["seconds"] if setup.cache_features else 0.0
    return {
        "epochs": state.epoch,
        "stopped_early": state.epoch < setup.train.epochs,
        "seconds": {"total": sum(seconds), "per_epoch": sum(seconds) / len(seconds), "caching": caching},
        "last": {"epoch": state.epoch, "values": _values(last)},
        "best": {"epoch": state.best_epoch, "monitor": name, "value": state.best, "values": _values(best)},
        "best_sha256": sha256(checkpoint.best),  # by which a reader sees that the file is what it was
        "sha256": {name: sha256(folder / name) for name in RECORDED},
        "shortcut": [finding.to_json() for finding in findings],
    }


def check_reproduced(recorded: Row, again: Evaluation, bit_exact: bool) -> None:
    """Check that evaluating the last epoch's weights again gives the validation values that metrics.csv recorded.

    Where arithmetic is not bit-exact only the loss is compared, to LOSS_TOLERANCE: rounding can move a decision across
    its threshold, and with it a score, but hardly a mean loss. Raises UserError where they differ: what per_image.csv
    would say belongs to other data, or to another model, than what was trained and selected on.
    """
    names = again.values if bit_exact else ["loss"]
    differing = [
        f"val/{name} was {recorded[f'val/{name}']:.6g} and is now {again.values[name]:.6g}"
        for name in names
        if not same(recorded[f"val/{name}"], again.values[name], 0.0 if bit_exact else LOSS_TOLERANCE, 1e-4)
    ]
    if differing:
        raise UserError(
            f"The last epoch's weights, evaluated again, do not reproduce metrics.csv: {', '.join(differing)}.\n"
            "Either the validation images changed in memory (code that writes into the array it is given), or model, "
            "loss or metric give another result the second time (randomness in eval mode, a count that is not reset)."
        )


def same(one: float | None, other: float | None, tolerance: float, absolute: float = 1e-6) -> bool:
    """Whether two values are equal, or as near as the tolerance says; None, as JSON has it, is not a number."""
    a, b = (math.nan if value is None else value for value in (one, other))
    if not math.isfinite(a) or not math.isfinite(b):
        return not math.isfinite(a) and not math.isfinite(b)
    return a == b or bool(tolerance and math.isclose(a, b, rel_tol=tolerance, abs_tol=absolute))


def print_summary(console: Console, setup: ExperimentSetup, results: dict[str, Any], folder: Path) -> None:
    """Print what a person sees at the end: the values of the last and the best epoch, and where to look next."""
    last, best = results["last"], results["best"]
    best_column = f"best {best['monitor']} (epoch {best['epoch']})"
    columns = [positive_title(setup.data), f"last (epoch {last['epoch']})", best_column]
    cells = [
        [_with_unit(name, setup), f"{value:.4f}", f"{best['values'][name]:.4f}"]
        for name, value in last["values"].items()
    ]
    console.print()
    print_table(console, columns, cells)
    for finding in results["shortcut"]:
        if finding["alarm"]:
            console.print(f"\n{finding['sentence']}", style="bold red")
    value = last["values"].get(best["monitor"])  # None where training images choose the best epoch
    shown = "" if value is None else f", last {value:.4f} (epoch {last['epoch']})"
    took = f"after {duration(results['seconds']['total'])} of training"
    console.print(f"\n{best['monitor']}: best {best['value']:.4f} (epoch {best['epoch']}){shown}, {took}")
    console.print(f"run folder   {folder}")
    console.print("look at it   tensorboard --logdir outputs")


def _with_unit(name: str, setup: ExperimentSetup) -> str:
    """Format "val/hd95 (mm)", or "val/dice", which has no unit."""
    unit = setup.units.get(name.partition("/")[2])
    return f"{name} ({unit})" if unit else name


def positive_title(data: Data) -> str:
    """Name the class that sensitivity, precision and F1 are computed for."""
    return "" if data.positive is None else f"positive: {data.classes[data.positive]}"


def explain_validation(setup: ExperimentSetup, console: Console) -> tuple[list[Finding], Figure | None]:
    """Return what the shortcut probe finds in validation images, and their activation maps, where images have classes.

    The model has the best weights: those that `runcard explain` reads from the folder.
    """
    samples, val = setup.data.samples, setup.data.split["val"]
    num_images = min(setup.train.explain_images, len(val))
    if samples.has_masks or not num_images:
        return [], None
    chosen = [val[i] for i in np.linspace(0, len(val) - 1, num_images).round().astype(int)]
    ids, groups = ([names[i] for i in chosen] for names in (samples.ids, setup.data.groups))
    pictures = Pictures(samples.images[chosen], samples.targets[chosen], ids, groups)
    classifier = Classifier(setup.model, setup.data.normalization, setup.data.classes, setup.fabric.autocast)
    try:
        tiles, findings = explain(classifier, pictures)
    except (UserError, ModuleNotFoundError) as error:  # a model without convolutions: no reason to lose its training
        reason = how_to_install(error) if isinstance(error, ModuleNotFoundError) else error
        console.print(f"no activation maps: {reason}", style="yellow")
        return [], None
    return findings, panel(tiles, "activation maps: validation, best epoch")


def evaluate_splits(setup: ExperimentSetup) -> dict[str, Evaluation]:
    """Evaluate the model, as it is now, on validation, and on the test split where there is one that is not sealed."""
    loaders = {"val": setup.loaders.val} | ({"test": setup.loaders.test} if setup.loaders.test else {})
    return {split: evaluate(setup.network, setup.loss, setup.metrics, loader) for split, loader in loaders.items()}


def per_image_rows(setup: ExperimentSetup, weights: str, evaluations: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """Return the rows of per_image.csv that evaluations give; weights is last or best."""
    data, samples = setup.data, setup.data.samples
    return [
        row
        for split, each in evaluations.items()
        for row in rows_per_image(split, weights, each, samples.ids, data.groups, samples.targets, data.classes)
    ]


def _values(evaluations: dict[str, Evaluation]) -> dict[str, float]:
    return {f"{split}/{name}": value for split, e in evaluations.items() for name, value in e.values.items()}

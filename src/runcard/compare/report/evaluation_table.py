"""Runs on other images beside the same runs on their own, printed on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from runcard.compare import endpoints
from runcard.compare.arms import Arm
from runcard.compare.confounds import group_arms
from runcard.compare.contrasts import metric_measure
from runcard.compare.measures import Measure
from runcard.compare.report.tables import number
from runcard.compare.verdicts import format_difference, format_range
from runcard.console import counted, print_table
from runcard.errors import UserError
from runcard.runs.run import Run
from runcard.stats import mrmc
from runcard.stats.mrmc import MIN_UNITS


def print_evaluation(console: Console, trained: Sequence[Run], evaluated: Sequence[Run]) -> None:
    """Print each arm's primary metric as a sentence, then all metrics here and on its own images, and its calibration.

    The two sequences hold the same runs in the same order.
    """
    at_home = {here.folder: own for here, own in zip(evaluated, trained, strict=True)}
    arms, left_out = group_arms(evaluated)
    for arm in arms:
        own = Arm(arm.name, tuple(at_home[run.folder] for run in arm.runs))
        count = endpoints.Count.of(arm)
        patients = f" of {counted(count.patients, 'patient')}" if count.word == "patients" else ""
        runs, images = counted(len(arm.runs), "run"), counted(count.images, "image")
        measure, data = metric_measure(arm.first.monitored, arm.first), arm.first.metadata["evaluation"]["data"]
        answer = _mean(measure, arm, "last", " (95 % interval {} to {})")
        what = f"{measure.title} is {answer} after the last epoch: {runs}, {images}{patients} of {data}"
        console.print(f"\n{arm.name}: {what}", style="bold")
        columns = ["", "best epoch", "last epoch"]
        if not arm.first.metadata["evaluation"]["own_images"]:
            columns += [f"{ {'test': 'own test', 'val': 'own validation'}[own.first.split] } images, last", "change"]
        rows = [_row(name, arm, own)[: len(columns)] for name in endpoints.metrics(arm.first)]
        print_table(console, columns, rows)
        made = [run.metadata["evaluation"] for run in arm.runs]
        for key, name in {"ece": "expected calibration error", "brier": "Brier score"}.items():
            console.print(f"{name}  {', '.join(number(each['calibration'][key]) for each in made)}")
        for name in made[0]["at_image_size"] or {}:
            values = ", ".join(number(each["at_image_size"][name]) for each in made)
            console.print(f"{name} at the images' own size  {values}")
        if count.patients < MIN_UNITS:
            console.print(f"fewer than {MIN_UNITS} {count.word}: nothing here speaks of others", style="yellow")
        if count.word == "images" and endpoints.Count.of(own).word == "patients":
            unnamed = "patients are not named here, so that each image counts as one"
            names = "'dataset.split.group_regex=\"…\"', or a table's column patient, names them"
            console.print(f"{unnamed}: {names}", style="yellow")
    for line in left_out:
        console.print(f"left out  {line}", style="yellow")
    console.print(
        "\nIn brackets the 95 % interval. The weights of the best epoch are those that runcard predict uses, and "
        "calibration is theirs;\nthe last epoch's are compared, for no choice went into them."
    )


def _row(name: str, arm: Arm, own: Arm) -> list[str]:
    measure = metric_measure(name, arm.first)
    cells = [_mean(measure, *of) for of in ((arm, "best"), (arm, "last"), (own, "last"))]
    return [measure.title, *cells, _change(measure, arm, own)]


def _mean(measure: Measure, arm: Arm, checkpoint: str, interval: str = " [{}, {}]") -> str:
    try:
        effect = endpoints.of_arm(arm, measure.key, checkpoint)
    except UserError:  # of a single patient, or a class without images
        values = [endpoints.value(run, measure.key, checkpoint) for run in arm.runs]
        return number(sum(values) / len(values))
    low, high = measure.mean_interval(effect)
    shown = interval.format(number(low), number(high)) if low < high else ""  # none where all values are equal
    return f"{number(effect.estimate)}{shown}"


def _change(measure: Measure, arm: Arm, own: Arm) -> str:
    """Format what the metric is more here; – for folds, which have other images of their own each, and other units."""
    if endpoints.in_folds(own) or arm.first.units.get(measure.key) != own.first.units.get(measure.key):
        return "–"
    try:
        here, there = (endpoints.units([each], measure.key).values[0] for each in (arm, own))
    except UserError:
        return "–"
    effect = mrmc.change(here, there)
    difference = format_difference(measure, effect.estimate)
    return f"{difference} {format_range(measure, measure.difference_interval(effect))}"

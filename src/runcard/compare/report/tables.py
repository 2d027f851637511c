"""The tables of a comparison: the ranking of its arms, and the arms measure by measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from runcard.compare.analysis import Findings, best_title
from runcard.compare.arms import Arm
from runcard.compare.endpoints import Count
from runcard.compare.measures import Measure, Value
from runcard.compare.verdicts import format_difference, format_range
from runcard.compare.without import Cost
from runcard.console import counted

MAX_SEEDS = 10  # of an arm that are listed

Row = tuple[str, list[str]]  # of an arm: its name, and the cells of the ranking
TURNED = {"better": "worse", "worse": "better", "higher": "lower", "lower": "higher"}  # a verdict from the other side


def rank(findings: Findings) -> tuple[list[str], list[tuple[str, list[Row]]]]:
    """Return the columns of the ranking, and its groups: each a title, and its arms from the best to the worst.

    Arms are ordered by the first measure of their group at the last epoch. The verdict is the one against the arm that
    all are compared with; with all pairs compared, that against the best arm of the group. It is of the arm of its row.
    """
    groups: dict[str, list[Arm]] = {}
    for arm in sorted(findings.arms, key=lambda arm: any(run.smoke_test for run in arm.runs)):
        groups.setdefault(_title(arm), []).append(arm)
    by_title = {measure.title: measure for measure in findings.measures}
    measures = {title: by_title[next(iter(findings.values[arms[0].name]))] for title, arms in groups.items()}
    against = {answer.question.second for answer in findings.answers}
    fixed = against.pop() if len(against) == 1 else None
    first, *others = dict.fromkeys(measures.values())
    last = "last epoch" if others else f"{first.title}, last epoch"
    ranked = []
    for title, members in groups.items():
        measure = measures[title]
        arms = sorted(members, key=lambda arm: _place(findings, measure, arm))
        rows = [(arm.name, _cells(findings, measure, arm, fixed or arms[0].name)) for arm in arms]
        ranked.append((f"{title}: {measure.title}" if others else title, rows))
    return ["arm", "seeds", last, "best epoch", f"against {fixed or 'the first here'}"], ranked


def _title(arm: Arm) -> str:
    """Name the data that an arm was measured on, and whether its runs are smoke tests."""
    metadata, (of, images) = arm.first.metadata, (arm.first.split, arm.first.split_sizes[arm.first.split])
    data = f"{metadata['choices']['dataset']}, {counted(images, f'{of} image')}, data {metadata['data']['hash'][:6]}"
    if any(run.smoke_test for run in arm.runs):
        return f"smoke tests: {data}"
    are_trials = all("trial" in (run.metadata.get("search") or {}) for run in arm.runs)
    return f"trials of a search: {data}" if are_trials else data


def _place(findings: Findings, measure: Measure, arm: Arm) -> float:
    """Return what arms are sorted by: their mean, such that the best comes first and an arm without it last."""
    value = findings.values[arm.name].get(measure.title)
    mean = _mean(value) if value else math.nan
    return math.inf if math.isnan(mean) else -mean if measure.better == "max" else mean


def _mean(value: Value) -> float:
    known = [each for each in value.runs if math.isfinite(each)]
    return float(np.mean(known)) if known else math.nan


def _cells(findings: Findings, measure: Measure, arm: Arm, against: str) -> list[str]:
    value, best = findings.values[arm.name].get(measure.title), findings.best[arm.name]
    return [
        seeds(arm),
        cell(measure, value) if value else "–",
        number(_mean(best)),
        _verdict(findings, arm.name, against),
    ]


def _verdict(findings: Findings, name: str, against: str) -> str:
    """Return the word of the verdict on an arm against another, from its own side; a dash for itself."""
    words = {(each.question.first, each.question.second): each.verdict.word for each in findings.answers}
    turned = words.get((against, name), "–")
    return words.get((name, against), TURNED.get(turned, turned))


def tabulate_arms(findings: Findings, arms: Sequence[Arm]) -> list[tuple[str, Measure, list[Value | None]]]:
    """Tabulate the measures of arms: a title, the measure, and a value per arm, None where an arm has none."""
    rows: list[tuple[str, Measure, list[Value | None]]] = []
    for measure in findings.measures:
        rows.append((measure.title, measure, [findings.values[arm.name].get(measure.title) for arm in arms]))
        rows.append((f"{measure.title}, out of fold", measure, [_out_of_fold(findings, arm, measure) for arm in arms]))
        bests = [findings.best[arm.name] if arm.first.monitored == measure.key else None for arm in arms]
        rows.append((best_title(measure, arms), measure, bests))
    return [row for row in rows if any(row[2])]


def _out_of_fold(findings: Findings, arm: Arm, measure: Measure) -> Value | None:
    value = findings.out_of_fold[arm.name].get(measure.key)
    if value is None:
        return None
    return Value((), None, f"{number(value)} ({counted(Count.of(arm).images, 'image')})")


def tabulate_cost(cost: Cost) -> tuple[list[str], list[list[str]]]:
    """Tabulate what a finding was worth to each arm: the columns, and a row per arm."""
    columns = ["arm", "measure", "training images", "with it", "without", "difference", "95 % interval", "measured on"]
    columns += ["of these, also in training"] if any(each.of_twins for each in cost.arms) else []
    rows = []
    for each in cost.arms:
        before, after = [number(score) for score in each.scores] if each.scores else (each.note, "–")
        difference = interval = "–"
        if each.effect:
            difference = format_difference(each.measure, each.effect.estimate)
            interval = format_range(each.measure, each.measure.difference_interval(each.effect))
        trained = " → ".join(map(str, each.num_trained))
        same = f"{counted(each.num_images, 'same image')}, {counted(each.num_seeds, 'seed')}"
        cells = [each.arm, each.measure.title, trained, before, after, difference, interval, same]
        if each.of_twins:
            cells.append(f"{each.num_twins}: {' → '.join(map(number, each.of_twins))}")
        rows.append([*cells, *["–"] * (len(columns) - len(cells))])
    return columns, rows


def tabulate_shortcuts(arms: Sequence[Arm]) -> tuple[list[str], list[list[str]]]:
    """Tabulate what the shortcut probe found: the columns, and a row per arm and region with the means over its runs.

    There are no rows where no run has the probe's findings: of segmentation.
    """
    columns = ["arm", "region", "alarms", "accuracy", "painted over", "alone", "log-odds lost", "activation in it"]
    rows = []
    for arm in arms:
        by_region: dict[str, list[dict[str, Any]]] = {}
        for finding in chain.from_iterable(run.metadata.get("shortcut", ()) for run in arm.runs):
            by_region.setdefault(finding["region"], []).append(finding)
        for region, found in by_region.items():
            means = [
                number(float(np.mean([each[key] for each in found])))
                for key in ("accuracy", "accuracy_masked", "accuracy_alone")
            ]
            lost = round(float(np.mean([each["evidence_lost"] for each in found])), 2) + 0.0  # never −0
            heat, area = (_of_classes(found, key) for key in ("heat", "area"))
            alarms = f"{sum(each['alarm'] for each in found)} of {counted(len(found), 'run')}"
            rows.append(
                [arm.name, region, alarms, *means, f"{lost:.0%}".replace("-", "−"), f"{heat} ({area} of the image)"]
            )
    return columns, rows


def _of_classes(found: Sequence[dict[str, Any]], key: str) -> str:
    """Format the mean over findings and classes of a share; a dash where no class has one."""
    known = [share for each in found for share in each[key].values() if share is not None]
    return f"{np.mean(known):.1%}" if known else "–"


def cell(measure: Measure, value: Value) -> str:
    """Format "0.932 [0.921, 0.943]", or the runs' own values where there is no interval, and the note."""
    if value.mean is None:
        own = ", ".join(number(each) for each in value.runs if not math.isnan(each))
        return "; ".join(text for text in (own, value.note) if text) or "–"
    effect = value.mean
    bounds = measure.mean_interval(effect)
    shown = [number(math.exp(x) if measure.is_ratio else x) for x in (effect.estimate, *bounds)]
    interval = f" [{shown[1]}, {shown[2]}]" if bounds[0] < bounds[1] else ""  # none where all values are equal
    return f"{shown[0]}{interval}" + (f" {value.note}" if value.note else "")


def number(value: float) -> str:
    """Format a number with as many digits as its size needs: 0.932, 25.3, 246; a dash where it is NaN."""
    if math.isnan(value):
        return "–"
    digits = 4 if 0 < abs(value) < 0.01 else 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "−")


def seeds(arm: Arm) -> str:
    """Format "3 (0, 1, 2)", "100 (0, 1, …, 99)", or "1 (0) × 5 folds"."""
    folds = len({run.fold for run in arm.runs})
    shown = [str(seed) for seed in arm.seeds]
    if len(shown) > MAX_SEEDS:
        shown = [*shown[:2], "…", shown[-1]]
    seeds = f"{len(arm.seeds)} ({', '.join(shown)})"
    return f"{seeds} × {folds} folds" if folds > 1 else seeds

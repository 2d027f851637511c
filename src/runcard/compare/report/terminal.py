"""Findings on the terminal, and as JSON: the same numbers, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from runcard.compare.analysis import Findings, best_title, monitored
from runcard.compare.arms import Arm
from runcard.compare.contrasts import Answer
from runcard.compare.endpoints import Count
from runcard.compare.measures import Measure, Value, title
from runcard.compare.verdicts import format_difference, format_p, format_range
from runcard.console import print_table
from runcard.stats.mrmc import ALPHA, Effect

ARMS_ABREAST = 4  # columns of a table of arms; more arms go into the next table


def print_findings(console: Console, findings: Findings) -> None:
    """Print the arms measure by measure, then pair by pair the numbers and the verdict."""
    for start in range(0, len(findings.arms), ARMS_ABREAST):
        console.print()
        arms = findings.arms[start : start + ARMS_ABREAST]
        print_table(console, ["", *(arm.name for arm in arms)], _rows(findings, arms))
    console.print(
        "\nOf the last epoch, but where it says. In brackets the 95 % interval; without, the runs' own values."
    )
    if any(findings.out_of_fold.values()):
        console.print("Out of fold: all folds' images as one set, each measured by the run that was not trained on it.")
    if findings.answers:
        console.print()
        columns = ["", "first − second", "difference", "interval", "p (Holm)", "detectable", "verdict"]
        print_table(console, columns, [_pair(i + 1, answer) for i, answer in enumerate(findings.answers)])
    print_answers(console, findings)


def print_answers(console: Console, findings: Findings) -> None:
    """Print the verdicts with the outcome of their claims, the runs left out, and the remarks."""
    for i, answer in enumerate(findings.answers):
        claim = f" Claim: {answer.verdict.claim}." if answer.verdict.claim else ""
        console.print(f"\n{i + 1}. {answer.verdict.sentence}{claim}", style="bold")
        if answer.scope:
            console.print(f"   {answer.scope[:1].upper()}{answer.scope[1:]}.")
        if answer.factor:
            console.print(f"   They differ in {answer.factor}.")
        for confound in answer.confounds:
            console.print(f"   differs too: {confound}", style="yellow")
    console.print()
    for line in findings.left_out:
        console.print(f"left out  {line}", style="yellow")
    for line in findings.remarks:
        console.print(f"note  {line}", style="yellow")


def as_json(findings: Findings) -> dict[str, Any]:
    """Convert the findings to JSON types; NaN and infinite values of runs become null."""
    return {
        "arms": [_arm(findings, arm) for arm in findings.arms],
        "pairs": [_answer(answer) for answer in findings.answers],
        "left_out": list(findings.left_out),
        "remarks": list(findings.remarks),
    }


def tabulate_arms(findings: Findings, arms: Sequence[Arm]) -> list[tuple[str, Measure, list[Value | None]]]:
    """Tabulate the measures of arms: a title, the measure, and a value per arm, None where an arm has none."""
    rows: list[tuple[str, Measure, list[Value | None]]] = []
    for measure in findings.measures:
        rows.append((measure.title, measure, [findings.values[arm.name].get(measure.title) for arm in arms]))
        rows.append((f"{measure.title}, out of fold", measure, [_out_of_fold(findings, arm, measure) for arm in arms]))
        bests = [findings.best[arm.name] if monitored(arm) == measure.key else None for arm in arms]
        rows.append((best_title(measure, arms), measure, bests))
    return [row for row in rows if any(row[2])]


def _out_of_fold(findings: Findings, arm: Arm, measure: Measure) -> Value | None:
    value = findings.out_of_fold[arm.name].get(measure.key)
    if value is None:
        return None
    return Value((), None, f"{'–' if math.isnan(value) else number(value)} ({Count.of(arm).images} images)")


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
    """Format a number with as many digits as its size needs: 0.932, 25.3, 246."""
    digits = 4 if 0 < abs(value) < 0.01 else 3 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "−")


def _rows(findings: Findings, arms: tuple[Arm, ...]) -> list[list[str]]:
    rows = [["seeds", *(_seeds(arm) for arm in arms)]]
    rows += [["parameters", *(f"{arm.first.metadata['num_parameters']:,}" for arm in arms)]]
    for words, measure, values in tabulate_arms(findings, arms):
        rows.append([words, *(cell(measure, value) if value else "–" for value in values)])
    return rows


def _seeds(arm: Arm) -> str:
    folds = len({run.fold for run in arm.runs})
    seeds = f"{len(arm.seeds)} ({', '.join(str(seed) for seed in arm.seeds)})"
    return f"{seeds} × {folds} folds" if folds > 1 else seeds


def _pair(place: int, answer: Answer) -> list[str]:
    measure, alpha, effect = answer.measure, answer.alpha, answer.effect
    difference = interval = smallest = ""
    if effect:
        difference = f"{title(measure.title)} {format_difference(measure, effect.estimate)}"
        bounds = measure.difference_interval(effect, alpha)
        interval = f"{format_range(measure, bounds)} ({100 * (1 - alpha):.4g} %)"
        detectable = effect.detectable(alpha)
        possible = detectable <= measure.largest_difference
        smallest = format_difference(measure, detectable).lstrip("+") if possible else "none"
    names = f"{answer.question.first} − {answer.question.second}"
    p = "" if answer.p is None else format_p(answer.p)
    return [f"{place}.", names, difference, interval, p, smallest, answer.verdict.word]


def _arm(findings: Findings, arm: Arm) -> dict[str, Any]:
    pooled = findings.out_of_fold[arm.name]
    measured = {m.key: _value(m, v) for m in findings.measures if (v := findings.values[arm.name].get(m.title))}
    return {
        "name": arm.name,
        "runs": [
            {"folder": str(r.folder), "seed": r.seed, "fold": r.fold, "smoke_test": r.smoke_test} for r in arm.runs
        ],
        "num_parameters": arm.first.metadata["num_parameters"],
        "last": measured,
        "out_of_fold": dict(zip(pooled, _plain(list(pooled.values())), strict=True)),
        "best": {monitored(arm): {"runs": _plain(findings.best[arm.name].runs), "note": "chosen on these images"}},
    }


def _value(measure: Measure, value: Value) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": measure.title, "runs": _plain(value.runs), "note": value.note}
    return shown | ({"mean": _effect(measure, value.mean, measure.mean_interval(value.mean))} if value.mean else {})


def _answer(answer: Answer) -> dict[str, Any]:
    measure, alpha, effect = answer.measure, answer.alpha, answer.effect
    difference = _effect(measure, effect, measure.difference_interval(effect, alpha), alpha) if effect else None
    return {
        "question": answer.question.text,
        "first": answer.question.first,
        "second": answer.question.second,
        "measure": answer.measure.key,
        "difference": difference,
        "p_adjusted": answer.p,
        "verdict": answer.verdict.word,
        "sentence": answer.verdict.sentence,
        "claim": answer.verdict.claim,
        "scope": answer.scope,
        "factor": answer.factor,
        "confounds": list(answer.confounds),
        "not_comparable": list(answer.incomparable),
    }


def _effect(measure: Measure, effect: Effect, interval: tuple[float, float], alpha: float = ALPHA) -> dict[str, Any]:
    """Convert an effect to the scale in which it is reported: a ratio where arms are compared by ratio."""
    back = math.exp if measure.is_ratio else float
    return {
        "estimate": back(effect.estimate),
        "interval": [back(bound) for bound in interval],
        "level": 1 - alpha,
        "p": effect.p,
        "detectable": back(effect.detectable(alpha)),
        "is_ratio": measure.is_ratio,
    }


def _plain(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]

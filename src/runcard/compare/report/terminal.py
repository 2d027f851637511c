"""Findings on the terminal, and as JSON: the same numbers, for people and for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console

from runcard.compare.analysis import Findings
from runcard.compare.answers import Answer, Look
from runcard.compare.arms import Arm
from runcard.compare.disagreement import disagreement
from runcard.compare.measures import Measure
from runcard.compare.report.tables import cell, rank, seeds, tabulate_arms, tabulate_cost
from runcard.compare.verdicts import format_detectable, format_difference, format_p, format_range
from runcard.compare.without import Cost
from runcard.console import counted, duration, print_table
from runcard.stats.mrmc import ALPHA, Effect

ARMS_ABREAST = 4  # columns of a table of arms; more arms go into the next table
MAX_ARMS = 20  # of a group of the ranking; more only with details
MAX_LINES = 20  # of runs left out, and of remarks; more only with details
MAX_NAMED = 4  # arms that a remark names


def print_findings(console: Console, findings: Findings, details: bool = False) -> None:
    """Print the ranking, the arms measure by measure, then pair by pair the numbers and the verdict.

    Of more than ARMS_ABREAST arms, measures and sentences only with details; of more than MAX_ARMS, the first ones.
    """
    brief = len(findings.arms) > ARMS_ABREAST and not details
    hidden: set[str] = set()  # names of arms
    if len(findings.arms) > 2:
        columns, groups = rank(findings)
        for title_of_group, rows in groups:
            console.print(f"\n{title_of_group}", style="bold")
            last = MAX_ARMS if brief else len(rows)
            print_table(console, columns, [[name, *cells] for name, cells in rows[:last]])
            if rows[last:]:
                console.print(f"and {counted(len(rows[last:]), 'more arm')}: --details")
            hidden.update(name for name, _ in rows[last:])
    for start in range(0, 0 if brief else len(findings.arms), ARMS_ABREAST):
        console.print()
        arms = findings.arms[start : start + ARMS_ABREAST]
        print_table(console, ["", *(arm.name for arm in arms)], _rows(findings, arms))
    console.print("\nOf the last epoch, but where it says. In brackets the 95 % interval; without, each run's value.")
    if len(findings.arms) == 1:
        console.print("One config: nothing to compare it with. Name the runs of another one too.")
    if any(findings.out_of_fold.values()) and not brief:
        console.print("Out of fold: all folds' images as one set, each measured by the run that was not trained on it.")
    if findings.answers:
        console.print()
        columns = ["", "first − second", "difference", "interval", "p (Holm)", "detectable", "verdict"]
        asked = [(i, each) for i, each in enumerate(findings.answers, start=1) if each.question.first not in hidden]
        print_table(console, columns, [_pair(i, answer) for i, answer in asked])
    if brief:
        console.print("\nAll measures, and the verdicts as sentences: --details, or runcard report.\n")
        _print_remarks(console, _first_lines(findings.left_out), _first_lines(list(_shared(findings))))
    else:
        print_answers(console, findings)


def print_answers(console: Console, findings: Findings) -> None:
    """Print the verdicts with the outcome of their claims, what a finding was worth, the runs left out, and remarks.

    The images on which two arms disagree come with the first answer about their metric.
    """
    looked_at: set[tuple[str, str, str]] = set()  # two arms and a metric
    for i, answer in enumerate(findings.answers):
        claim = f" Claim: {answer.verdict.claim}." if answer.verdict.claim else ""
        console.print(f"\n{i + 1}. {answer.verdict.sentence}{claim}", style="bold")
        if answer.scope:
            console.print(f"   {answer.scope[:1].upper()}{answer.scope[1:]}.")
        if answer.factor:
            console.print(f"   They differ in {answer.factor}.")
        for confound in answer.confounds:
            console.print(f"   differs too: {confound}", style="yellow")
        if answer.paired:
            images = (answer.question.first, answer.question.second, answer.paired.measure.key)
            if images not in looked_at and (found := disagreement(answer)):
                console.print(f"   {found.sentence}")
            looked_at.add(images)
    console.print()
    if findings.cost:
        _print_cost(console, findings.cost)
    _print_remarks(console, findings.left_out, findings.remarks)


def _print_cost(console: Console, cost: Cost) -> None:
    """Print for each arm its score with and without a finding of the audit, and what became of each verdict."""
    console.print(f"What the finding {cost.finding} was worth", style="bold")
    print_table(console, *tabulate_cost(cost))
    console.print()
    print_table(console, ["question", "with it", "without"], [list(row) for row in cost.verdicts])
    console.print(f"\n{cost.sentence}")
    _print_remarks(console, (), cost.remarks)
    console.print()


def print_look(console: Console, found: Findings, num_seeds: int, which: str) -> None:
    """Print a line for each question: what is known of it after so many seeds, and whether it goes on."""
    runs = [run.metadata["seconds"] for arm in found.arms for run in arm.runs]
    cost = f"{counted(len(runs), 'run')}, {duration(sum(each['total'] + each['caching'] for each in runs))} of training"
    console.print(f"\nAfter {num_seeds} seeds of each arm that is asked for, {which}: {cost}", style="bold")
    rows = []
    for answer in found.answers:
        effect, measure = answer.effect, answer.measure
        last = answer.path[-1] if answer.path else None
        interval = format_range(measure, measure.difference_interval(effect, answer.alpha)) if effect and last else ""
        chance = last.chance if last and answer.is_open else None
        likely = "" if chance is None else f", {100 * chance:.0f} % likely to be decided"
        rows.append(
            [
                answer.question.key,
                f"{measure.title} {format_difference(measure, effect.estimate)}" if effect and last else "",
                interval,
                f"{answer.p:.2g}" if answer.p is not None else "",
                f"{last.num_seeds}" if last else "0",
                f"{answer.verdict.word}{likely}",
            ]
        )
    print_table(console, ["question", "difference", "interval over all looks", "p", "seeds", "verdict"], rows)


def _print_remarks(console: Console, left_out: Sequence[str], remarks: Sequence[object]) -> None:
    for line in left_out:
        console.print(f"left out  {line}", style="yellow")
    for remark in remarks:
        console.print(f"note  {remark}", style="yellow")


def _first_lines(lines: Sequence[str]) -> Sequence[str]:
    more = len(lines) - MAX_LINES
    return [*lines[:MAX_LINES], f"and {more:,} more: --details"] if more > 0 else lines


def _shared(findings: Findings) -> Iterator[str]:
    """Yield each remark once, with the arms that it is true of."""
    of_arms: dict[str, list[str]] = {}
    for remark in findings.remarks:
        of_arms.setdefault(remark.text, []).extend([remark.arm] if remark.arm else [])
    for text, arms in of_arms.items():
        which = f"all {len(arms)} arms" if len(arms) == len(findings.arms) else ", ".join(arms[:MAX_NAMED])
        if MAX_NAMED < len(arms) < len(findings.arms):
            which += f" and {counted(len(arms) - MAX_NAMED, 'more arm')}"
        yield f"{which}: {text}" if arms else text


def as_json(findings: Findings) -> dict[str, Any]:
    """Convert the findings to JSON types; NaN and infinite values of runs become null."""
    return {
        "arms": [_arm(findings, arm) for arm in findings.arms],
        "pairs": [_answer(answer) for answer in findings.answers],
        "left_out": list(findings.left_out),
        "remarks": list(map(str, findings.remarks)),
    }


def _rows(findings: Findings, arms: tuple[Arm, ...]) -> list[list[str]]:
    rows = [["seeds", *(seeds(arm) for arm in arms)]]
    rows += [["parameters", *(f"{arm.first.metadata['num_parameters']:,}" for arm in arms)]]
    for words, measure, values in tabulate_arms(findings, arms):
        rows.append([words, *(cell(measure, value) if value else "–" for value in values)])
    return rows


def _pair(place: int, answer: Answer) -> list[str]:
    measure, alpha, effect = answer.measure, answer.alpha, answer.effect
    difference = interval = smallest = ""
    if effect:
        difference = f"{measure.title} {format_difference(measure, effect.estimate)}"
        bounds = measure.difference_interval(effect, alpha)
        interval = f"{format_range(measure, bounds)} ({100 * (1 - alpha):.4g} %)"
        smallest = format_detectable(measure, effect, alpha)
    names = f"{answer.question.first} − {answer.question.second}"
    p = "" if answer.p is None else format_p(answer.p)
    return [f"{place}.", names, difference, interval, p, smallest, answer.verdict.word]


def _arm(findings: Findings, arm: Arm) -> dict[str, Any]:
    pooled = findings.out_of_fold[arm.name]
    which = "these" if arm.first.split == "val" else "the validation"
    best = {"runs": _plain(findings.best[arm.name].runs), "note": f"chosen on {which} images"}
    measured: dict[str, dict[str, Any]] = {}
    for measure in findings.measures:
        if value := findings.values[arm.name].get(measure.title):
            measured[measure.key] = {"title": measure.title, "runs": _plain(value.runs), "note": value.note}
            if value.mean:
                measured[measure.key]["mean"] = _effect(measure, value.mean, measure.mean_interval(value.mean))
    return {
        "name": arm.name,
        "runs": [
            {"folder": str(r.folder), "seed": r.seed, "fold": r.fold, "smoke_test": r.smoke_test} for r in arm.runs
        ],
        "num_parameters": arm.first.metadata["num_parameters"],
        "last": measured,
        "out_of_fold": dict(zip(pooled, _plain(list(pooled.values())), strict=True)),
        "best": {arm.first.monitored: best},
    }


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
        "asked": answer.asked or None,
        "looks": [_look(answer.measure, look) for look in answer.path],
        "scope": answer.scope,
        "factor": answer.factor,
        "confounds": list(map(str, answer.confounds)),
        "not_comparable": list(answer.incomparable),
        "images": _images(answer),
    }


def _images(answer: Answer) -> dict[str, Any] | None:
    """Convert the images on which two arms differ beyond seeds; null where the metric has no value per image."""
    found = disagreement(answer)
    if found is None:
        return None
    paired, differences = found.paired, found.differences
    return {
        "measure": paired.measure.key,
        "tested": len(found.p),
        "median_difference": found.median,
        "level": ALPHA,
        "sentence": found.finding,
        "beyond_seeds": [
            {
                "id": paired.ids[i],
                "first": float(paired.first[i]),
                "second": float(paired.second[i]),
                "difference": float(differences[i]),
                "p_adjusted": float(found.p[i]),
            }
            for i in found.standing_out
        ],
    }


def _look(measure: Measure, look: Look) -> dict[str, Any]:
    back = math.exp if measure.is_ratio else float
    return {
        "seeds": look.num_seeds,
        "estimate": back(look.effect.estimate) if look.effect else None,
        "interval": [back(bound) for bound in measure.clipped(look.interval)] if look.effect else None,
        "p_adjusted": look.p,
        "chance_to_decide": look.chance,
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

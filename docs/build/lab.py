"""The table of all claims of the lab report, with what its committed runs say of each."""

from __future__ import annotations

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from runcard.compare.analysis import of_study
from runcard.compare.answers import Answer
from runcard.compare.verdicts import format_difference, format_p, format_range

RUNS = Path(__file__).resolve().parents[2] / "experiments" / "lab4" / "runs.tar.xz"
COLUMNS = ["the report says", "compared", "measured", "p", "runs", "verdict"]


def claims() -> tuple[list[str], list[list[str]]]:
    """Return the columns, and a row for each question of the study; one-factor questions follow the one they settle."""
    with TemporaryDirectory() as folder, tarfile.open(RUNS) as runs:
        runs.extractall(folder, filter="data")
        (study,) = Path(folder).iterdir()
        findings = of_study(study)
    of_one_factor = {
        key: f"… {key.removeprefix(f'{each.question.key}_')} alone"
        for each in findings.answers
        for key in each.question.controlled_by
    }
    rows = []
    for each in findings.answers:
        question = each.question
        words = of_one_factor.get(question.key) or f'"{question.claim}"'
        seeds = " + ".join(str(len(arm.runs)) for arm in each.arms if arm)
        verdict = each.verdict.claim or each.verdict.word
        p = "" if each.p is None else format_p(each.p)
        rows.append([words, f"{question.first} − {question.second}", _measured(each), p, seeds, verdict])
    return COLUMNS, rows


def _measured(answer: Answer) -> str:
    """Format the difference with its interval, or what is compared in its place: "Dice −0.021 [−0.035 to −0.007]"."""
    if answer.effect is None:
        return f"{answer.measure.title}: {answer.contrast.note if answer.contrast else '–'}"
    bounds = format_range(answer.measure, answer.measure.difference_interval(answer.effect, answer.alpha))
    return f"{answer.measure.title} {format_difference(answer.measure, answer.effect.estimate)} [{bounds}]"

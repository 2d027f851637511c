"""The report: one HTML file that opens without a network, and its figures and tables as separate files.

Nothing is computed here. The page shows the findings, and files from the run folders they were read from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from runcard.compare import endpoints
from runcard.compare.analysis import Findings
from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.measures import Measure, Value
from runcard.compare.report import charts
from runcard.compare.report.model_card import model_card, templates
from runcard.compare.report.sections import sections
from runcard.compare.report.tables import cell, number, rank, tabulate_arms, tabulate_cost, tabulate_shortcuts
from runcard.compare.verdicts import format_ci, format_difference, format_effect, format_p
from runcard.console import counted
from runcard.fileio import atomic_write, csv_text, write_text
from runcard.runs.run import Run
from runcard.stats import mrmc

SIMULATION = Path(mrmc.__file__).with_name("simulation.json")  # written by benchmarks/inference.py
# For a verdict, and for the outcome of a claim: a sign beside the colour, and the colour's name in style.css.
MARKS = {
    "better": ("▲", "good"),
    "worse": ("▼", "bad"),
    "higher": ("↑", "plain"),
    "lower": ("↓", "plain"),
    "equivalent": ("=", "plain"),
    "supported": ("✓", "good"),
    "contradicted": ("✗", "bad"),
    "cannot tell": ("?", "open"),
    "open": ("…", "open"),
    "exploratory": ("?", "open"),
    "one seed": ("1", "open"),
    "no verdict": ("–", "open"),
    "not run": ("–", "open"),
    "not comparable": ("≠", "warn"),
    "confounded": ("!", "warn"),
    "smoke test": ("!", "warn"),
}


def write_report(findings: Findings, folder: Path, with_images: bool = True) -> Path:
    """Write report.html into folder, and return its path.

    Links to runs are relative to folder. Without images, the page has neither links nor names of images.
    """
    colours = _colours(findings)
    parts = sections(findings.answers, colours, with_images)
    drawn = dict.fromkeys(metric for section in parts for metric in section.metrics)
    runs = [run for arm in findings.arms for run in arm.runs]
    context = {
        "findings": findings,
        "sections": parts,
        "claims": _claims(findings.answers),
        "colours": colours,
        "data": _data(findings.arms),
        "ranking": dict(zip(("columns", "groups"), rank(findings), strict=True)) if len(findings.arms) > 2 else {},
        "rows": tabulate_arms(findings, findings.arms),
        "cost": dict(zip(("columns", "rows"), tabulate_cost(findings.cost), strict=True)) if findings.cost else {},
        "shortcuts": dict(zip(("columns", "rows"), tabulate_shortcuts(findings.arms), strict=True)),
        "places": {run.folder: i + 1 for i, run in enumerate(runs)},
        "folds": any(run.is_fold for run in runs),
        "smoke_tests": [arm.name for arm in findings.arms if any(run.smoke_test for run in arm.runs)],
        "cards": {arm.name: model_card(arm.first) for arm in findings.arms},
        "simulation": json.loads(SIMULATION.read_text(encoding="utf-8")),
        "with_images": with_images,  # without, the page is for others, who do not have the folders
        "tables": {metric: charts.curve_table(findings.arms, metric) for metric in drawn},
        "config": charts.PAGE_CONFIG,
        "library": charts.library(),
        "relative": lambda path: quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()),
    }
    write_text(folder / "report.html", _environment().get_template("report.html").render(context))
    return folder / "report.html"


def write_figures(findings: Findings, folder: Path, with_images: bool = True) -> None:
    """Write every figure of the report as SVG and PNG (images as JPEG) and every table as CSV, into folder."""
    contents: dict[str, bytes] = {}
    for section in sections(findings.answers, _colours(findings), with_images):
        tables = {metric: charts.curve_table(section.arms, metric) for metric in section.metrics}
        for chart in section.charts:
            contents[f"{section.key}-{chart.key}.png"] = charts.to_png(chart, tables)
            contents[f"{section.key}-{chart.key}.svg"] = charts.to_svg(chart, tables).encode()
        contents |= {f"{section.key}-curves-{metric}.csv": table.encode() for metric, table in tables.items()}
        contents |= {picture.name: picture.content for picture in section.pictures}
    columns, probed = tabulate_shortcuts(findings.arms)
    contents |= {"shortcuts.csv": csv_text(columns, probed).encode()} if probed else {}
    header = ["", *(arm.name for arm in findings.arms)]
    rows = [
        [words, *(summarize(measure, value) if value else "" for value in values)]
        for words, measure, values in tabulate_arms(findings, findings.arms)
    ]
    contents["arms.csv"] = csv_text(header, rows).encode()
    asked = [
        [a.question.text, a.question.first, a.question.second, evidence(a), a.verdict.word, a.verdict.claim, a.scope]
        for a in findings.answers
    ]
    header = ["question", "first", "second", "evidence", "verdict", "claim", "scope"]
    contents["verdicts.csv"] = csv_text(header, asked).encode()
    for name, content in contents.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(content)


def evidence(answer: Answer) -> str:
    """Format an answer's numbers in a line; its sentence where it has none that support a verdict."""
    if answer.contrast is None or answer.p is None or answer.verdict.word == "no verdict" or answer.is_constant:
        return answer.verdict.sentence
    return format_effect(answer, answer.p, answer.alpha)


def on_these_images(answer: Answer) -> str:
    """Format the interval for other seeds on these same images, which is less than what a verdict is about; or ""."""
    if answer.effect is None or (these := answer.effect.on_these_images) is None or answer.p is None:
        return ""
    text = format_ci(answer.measure, these.at_look(answer.effect.share), answer.alpha)
    return "" if text == format_ci(answer.measure, answer.effect, answer.alpha) else text


def summarize(measure: Measure, value: Value) -> str:
    """Format the mean of an arm with its interval and note; the note alone where there is none."""
    return cell(measure, value) if value.mean else value.note


def at(run: Run, checkpoint: str) -> str:
    """Format the monitored metric on the compared split at the last or best epoch: "test/dice 0.932 in epoch 60"."""
    value = number(endpoints.value(run, run.monitored, checkpoint))
    return f"{run.split}/{run.monitored} {value} in epoch {run.metadata[checkpoint]['epoch']}"


def _colours(findings: Findings) -> dict[str, str]:
    pairs = [(answer.question.first, answer.question.second) for answer in findings.answers if answer.arms]
    return charts.colours([arm.name for arm in findings.arms], pairs)


def _environment() -> jinja2.Environment:
    environment = templates(autoescape=True)
    environment.filters |= {
        "evidence": evidence,
        "number": number,
        "format_p": format_p,
        "at": at,
        "on_these_images": on_these_images,
        "counted": counted,
        "summarize": summarize,
    }
    environment.globals |= {"format_difference": format_difference, "format_ci": format_ci, "marks": MARKS, "zip": zip}
    return environment


def _claims(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Collect each claim about two arms once, with the answers that settle it; of a confounded one, its own too."""
    by_key = {answer.question.key: answer for answer in answers}
    settling = {key for answer in answers for key in answer.question.controlled_by}
    asked: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        if answer.question.claim and answer.question.key not in settling:
            pair = (answer.question.claim, answer.question.first, answer.question.second)
            asked.setdefault(pair, []).append(answer)
    return [
        {
            "text": claim,
            "arms": (first, second),
            "settling": [by_key[key] for a in group for key in a.question.controlled_by or (a.question.key,)],
            "as_compared": [a for a in group if a.question.controlled_by],
        }
        for (claim, first, second), group in asked.items()
    ]


def _data(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Describe what the arms were trained and measured on: each dataset with its split once."""
    found: dict[Any, dict[str, Any]] = {}
    for arm in arms:
        config, data = arm.first.metadata["config"], arm.first.metadata["data"]
        folds = len({run.fold for run in arm.runs})
        metadata = {
            "name": arm.first.metadata["choices"]["dataset"],
            "classes": config["derived"]["classes"],
            "size": config["derived"]["image_size_px"],
            "sizes": {part: size for part, size in arm.first.split_sizes.items() if size},
            "folds": folds,
            "split_hash": data["split_hash"][:8] if folds == 1 else "",  # each fold has its own
        }
        found.setdefault(json.dumps([metadata, data["hash"]]), metadata | {"arms": []})["arms"].append(arm.name)
    return list(found.values())

"""The committed report on the lab follows from the committed runs."""

from __future__ import annotations

import csv
import re
import tarfile
from collections import Counter
from html import unescape

import lab
import numpy as np
import pytest
from conftest import ROOT

from runcard.compare.analysis import of_study
from runcard.compare.report.tables import tabulate_shortcuts
from runcard.compare.verdicts import format_difference, format_p, format_range

LAB = ROOT / "experiments" / "lab4"
SEVEN = {  # the page's first table: of each row the questions whose numbers it gives, and the word of its last cell
    "1": (("4b_dice",), "contradicted"),
    "2": (("4b_faster",), "contradicted"),
    "3": (("4d_dice_faster", "4d_dice_dice"), "supported"),
    "4": (("4c_dice_later",), "cannot tell"),
    "5": (("4e_dice_slower_batchnorm",), "contradicted"),
    "6": (("2_bone_overfits",), "confounded"),
    "7": (("3_base64_accuracy",), "cannot tell"),
}
SAID = (  # further questions whose difference and interval stand in the text
    *("4b_low_dice_loss", "4d_bce_faster", "4d_dice_loss", "4d_bce_dice", "4d_bce_gap", "4d_gap"),
    *("2_bone_accuracy_weights", "2_skin_accuracy_weights", "2_bone_overfits_weights", "2_bone_time_freezing"),
)
CLAIMS = ("supported", "contradicted", "cannot tell", "open", "confounded")
BRIDGES = {  # of the table of 4E: its first cell, and the configs with Dice loss and with BCE
    "4C: base 8": ("task4c_dice", "task4c_bce"),
    "base 16": ("bridge.base16", "bridge.base16,loss=bce"),
    "base 16, augmentation": ("bridge.base16_augmentation", "bridge.base16_augmentation,loss=bce"),
    "base 16, batch norm": ("bridge.base16_batchnorm", "bridge.base16_batchnorm,loss=bce"),
    "4E: all three": ("task4e_dice", "task4e_bce"),
}
STUDY = "lab4,scale=laptop,train.accelerator=cpu"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    with tarfile.open(LAB / "runs.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / STUDY


@pytest.fixture(scope="module")
def findings(study):
    return of_study(study)


def plain(page: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))


def test_the_report_says_what_the_runs_say(findings):
    text = plain((LAB / "report.html").read_text(encoding="utf-8"))
    asked = [answer for answer in findings.answers if answer.contrast]
    assert len(asked) >= 7
    for answer in asked:
        assert " ".join(answer.verdict.sentence.split()) in text, answer.question.key


def test_every_sentence_says_at_what_scale(findings):
    scopes = [answer.scope for answer in findings.answers if answer.contrast]
    assert all("at scale=laptop only" in scope for scope in scopes)


def measured(answer) -> str:
    """Return the difference and its interval as the page writes them: "×1.97 [×1.11, ×3.48]"."""
    bounds = format_range(answer.measure, answer.measure.difference_interval(answer.effect, answer.alpha))
    return f"{format_difference(answer.measure, answer.effect.estimate)} [{bounds.replace(' to ', ', ')}]"


def test_the_page_on_the_lab_gives_the_numbers_of_its_runs(findings):
    page = (ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8")
    by_key = {answer.question.key: answer for answer in findings.answers}
    for number, (keys, word) in SEVEN.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| [{number}]("))
        for key in keys:
            answer = by_key[key]
            assert answer.verdict.claim == word
            assert word in line.split(" | ")[-1]
            assert measured(answer) in line, (key, measured(answer))
            assert f"{' + '.join(str(len(arm.runs)) for arm in answer.arms)} runs" in line
            if "p = " in line:
                assert f"p = {answer.p:.3f}" in line or f"p {format_p(answer.p)}" in line, key
    text = " ".join(page.split())
    for key in SAID:
        assert measured(by_key[key]) in text, (key, measured(by_key[key]))


def test_the_page_on_the_lab_counts_its_claims(findings):
    of_one_factor = {key for answer in findings.answers for key in answer.question.controlled_by}
    claims = Counter(a.verdict.claim for a in findings.answers if a.question.key not in of_one_factor)
    assert claims == {"supported": 4, "contradicted": 2, "cannot tell": 7, "open": 5, "confounded": 20}
    assert (sum(claims.values()), len(of_one_factor)) == (38, 42)
    page = " ".join((ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8").split())
    assert "Four claims are supported" in page
    assert "Two are contradicted, seven cannot be told, five are still open, and twenty compare networks" in page


def test_the_table_of_all_claims_has_a_row_for_each_question(findings):
    columns, rows = lab.claims()
    assert len(columns) == len(rows[0]) == 6
    assert len(rows) == len(findings.answers) == 80
    by_pair = {(row[1], row[2].partition(" [")[0]): row for row in rows}
    row = by_pair["4B Dice loss − 4A BCE", "Dice −0.021"]
    assert row[0].startswith('"we are directly aiming to have a higher dice coefficient')
    assert row[2:] == ["Dice −0.021 [−0.035 to −0.007]", "= 0.0021", "7 + 7", "contradicted"]
    assert {row[5] for row in rows} <= {*CLAIMS, "exploratory"}


def test_the_page_on_the_lab_gives_what_each_step_to_4e_gave(study):
    page = (ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8")
    for row, configs in BRIDGES.items():
        cells = []
        for config in configs:
            curves = [
                [float(epoch["val/dice"]) for epoch in csv.DictReader((run / "metrics.csv").open(encoding="utf-8"))]
                for run in study.glob(f"experiment=lab4.{config},seed=*")
            ]
            reached = [next(i for i, dice in enumerate(curve, 1) if dice >= 0.9) for curve in curves]
            cells.append(f"{np.mean([curve[-1] for curve in curves]):.3f} | {min(reached)} to {max(reached)}")
        assert f"| {row} | {cells[0]} | {cells[1]} |" in page


def test_the_page_on_the_lab_gives_what_the_shortcut_probe_found(findings):
    page = (ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8")
    rows = [row for row in tabulate_shortcuts(findings.arms)[1] if row[1] == "border" and not row[0].startswith("skin")]
    assert len(rows) == 6
    for arm, _, *cells, activation in rows:
        assert f"| {' | '.join([arm, *cells, activation.partition(' ')[0]])} |" in page, arm
    assert all(activation.endswith("(23.4% of the image)") for *_, activation in rows)


def test_the_page_on_the_lab_gives_the_means_of_task_2(findings):
    page = (ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8")
    for kind in ("pretrained", "scratch", "ImageNet", "random"):
        cells = []
        for data in ("bone", "skin"):
            runs = next(arm.runs for arm in findings.arms if arm.name == f"{data} {kind}")
            values = [
                [run.metadata["last"]["values"][f"val/{key}"] for run in runs] for key in ("accuracy", "log_loss")
            ]
            gaps = [run.curves["val/log_loss"][-1] - run.curves["train_eval/log_loss"][-1] for run in runs]
            cells.append("; ".join(f"{np.mean(each):.3f}" for each in (*values, gaps)))
        assert re.search(rf"\| `{kind}`.* \| {len(runs)} \| {cells[0]} \| {cells[1]} \| ", page), kind


def test_no_image_is_committed(findings):
    with tarfile.open(LAB / "runs.tar.xz") as archive:
        suffixes = {name.rpartition(".")[2] for name in archive.getnames() if "." in name.rpartition("/")[2]}
    assert not suffixes & {"png", "jpg", "ckpt", "pt", "safetensors"}
    assert "data:image" not in (LAB / "report.html").read_text(encoding="utf-8")

"""The committed report on the lab follows from the committed runs."""

from __future__ import annotations

import csv
import math
import re
import tarfile

import numpy as np
import pytest
from conftest import ROOT

from runcard.compare.analysis import of_study
from runcard.compare.report.tables import tabulate_shortcuts

LAB = ROOT / "experiments" / "lab4"
ROWS = {  # of the page's table: its first cell, and the verdict on the claim
    "4b_dice": ("Dice loss ends at a higher Dice", "contradicted"),
    "4b_faster": ("Dice loss gets there much faster", "contradicted"),
    "4c_dice_later": ("dropout slows Dice loss down", "cannot tell"),
    "4c_dice_loss": ("with dropout, Dice loss ends at a higher loss", "cannot tell"),
    "4c_bce_later": ("dropout makes BCE reach 0.9 slightly later", "open"),
    "4d_bce_faster": ("with base 32, BCE reaches 0.9 much faster", "open"),
    "4d_bce_dice": ("with base 32, BCE ends higher", "open"),
    "4d_dice_dice": ("with base 32, Dice loss ends higher", "open"),
    "4d_dice_faster": ("with base 32, Dice loss reaches 0.9 much faster", "open"),
    "3_base64_accuracy": ("base 64 is more often right than base 8", "open"),
    "3_base64_loss": ("base 64 ends at a lower loss", "open"),
    "2_bone_accuracy_weights": ("pretrained models are slightly more often right", "open"),
    "2_skin_accuracy_weights": ("the same of moles", "open"),
    "2_bone_overfits_weights": ("pretrained models are stronger against overtraining: by their weights", "open"),
    "2_bone_overfits_freezing": ("by freezing them", "open"),
    "2_bone_time_freezing": ("pretrained models train in a minute, others in 26", "open"),
    "4e_gap_bce_closes": ("4E with BCE closes the gap between training and validation loss", "confounded"),
    "4e_dice_dice": ("4E with Dice loss ends lower", "confounded"),
    "4e_bce_dice": ("4E with BCE ends lower", "confounded"),
    "4e_bce_slower": ("4E with BCE learns much slower", "confounded"),
    "4e_dice_fluctuates": ("4E with Dice loss fluctuates a lot", "confounded"),
    "4e_dice_slower_batchnorm": ("of these three, batch norm (Dice loss) makes it slower", "contradicted"),
    "4e_dice_slower_augmentation": ("of these three, augmentation (Dice loss) makes it slower", "open"),
}
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
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))


def test_the_report_says_what_the_runs_say(findings):
    text = plain((LAB / "report.html").read_text(encoding="utf-8"))
    asked = [answer for answer in findings.answers if answer.contrast]
    assert len(asked) >= 7
    for answer in asked:
        assert plain(answer.verdict.sentence) in text, answer.question.key


def test_every_sentence_says_at_what_scale(findings):
    scopes = [answer.scope for answer in findings.answers if answer.contrast]
    assert all("at scale=laptop only" in scope for scope in scopes)


def test_the_page_on_the_lab_gives_the_numbers_of_its_runs(findings):
    page = (ROOT / "docs" / "explanation" / "lab.md").read_text(encoding="utf-8")
    by_key = {answer.question.key: answer for answer in findings.answers}
    for key, (row, word) in ROWS.items():
        found, line = by_key[key], next(line for line in page.splitlines() if line.startswith(f"| {row} |"))
        estimate = found.effect.estimate
        difference = f"×{math.exp(estimate):.2f}" if found.measure.is_ratio else f"{estimate:+.3f}".replace("-", "−")
        assert found.verdict.claim == word
        assert word in line
        assert difference in line, key
        if "p = " in line:
            assert f"p = {found.p:.{3 if found.p < 0.1 else 2}f}" in line.replace("p = 1,", "p = 1.00,"), key


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
            cells.append(f"{np.mean([curve[-1] for curve in curves]):.3f}; {min(reached)} to {max(reached)}")
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
        assert f" | {cells[0]} | {cells[1]} | " in page, kind


def test_no_image_is_committed(findings):
    with tarfile.open(LAB / "runs.tar.xz") as archive:
        suffixes = {name.rpartition(".")[2] for name in archive.getnames() if "." in name.rpartition("/")[2]}
    assert not suffixes & {"png", "jpg", "ckpt", "pt", "safetensors"}
    assert "data:image" not in (LAB / "report.html").read_text(encoding="utf-8")

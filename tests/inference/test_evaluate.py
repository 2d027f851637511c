"""Trained runs on other images: the same numbers as training's on its own, refusals, and comparisons there."""

from __future__ import annotations

import csv
import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

import runcard.datasets.image_mask
from runcard.errors import UserError
from runcard.inference.predictor import load
from runcard.runs.reader import read_run

OTHER = ("dataset=phantom_chest", "dataset.num_images=8", "dataset.seed=5")  # another hospital
NAMED = "dataset.classes=[background,lung]"


@pytest.fixture
def evaluate(runcard_command):
    """Return a function that gives the command `runcard evaluate`."""
    return partial(runcard_command, "evaluate")


@pytest.fixture
def runs(trained_runs, tmp_path):
    """Copy the trained runs, into which evaluations write their log."""
    shutil.copytree(trained_runs, tmp_path / "runs")
    return Path("runs")


@pytest.fixture
def hospital(tmp_path):
    """Make a folder of six pairs of images and masks, of several sizes, of three patients."""
    rng = np.random.default_rng(0)
    for i in range(6):
        size = (50 + i, 64)
        for folder, pixels in {
            "Image": rng.integers(0, 255, size),
            "Mask": 255 * (rng.uniform(size=size) > 0.7),
        }.items():
            path = tmp_path / "hospital" / folder / f"p{i // 2}_{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return ("dataset=image_mask", "dataset.root=hospital", NAMED, "dataset.split.group_regex='^(p.)'")


def rows(folder: Path) -> list[dict[str, str]]:
    """Read per_image.csv."""
    with (folder / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["masks/seed0", "classes"])
def test_on_its_own_validation_images_a_run_has_its_own_values(evaluate, runs, name):
    code, out, errors = evaluate(runs / name, "-o", "own")
    assert (code, errors) == (0, "")
    folder = next(Path("own").iterdir())
    recorded = json.loads((runs / name / "run.json").read_text())
    measured = json.loads((folder / "run.json").read_text())
    for checkpoint in ("last", "best"):
        expected = {k.replace("val/", "test/"): v for k, v in recorded[checkpoint]["values"].items()}
        assert measured[checkpoint]["values"] == expected, "to the last bit"
    assert [{**row, "split": "val"} for row in rows(folder)] == rows(runs / name)
    assert "change" not in out
    assert not (runs / name / "evaluations.csv").exists(), "the training looked at these"


@pytest.mark.parametrize(
    ("loss", "key"), [("loss=bce", "loss.pos_weight"), ("loss=bce_dice", "loss.losses.bce.pos_weight")]
)
def test_a_loss_that_weighs_by_the_training_images_is_the_same_elsewhere(evaluate, train, loss, key):
    assert train(*TINY, "train.epochs=1", loss, f"{key}=balanced", "run_dir=balanced").returncode == 0
    run = Path("balanced")
    code, _, errors = evaluate(run, "-o", "own")
    assert (code, errors) == (0, "")
    recorded = json.loads((run / "run.json").read_text())
    measured = json.loads((next(Path("own").iterdir()) / "run.json").read_text())
    assert recorded["balanced_weights"]
    assert measured["last"]["values"]["test/loss"] == recorded["last"]["values"]["val/loss"]


def test_elsewhere_the_change_is_shown_and_the_look_is_logged(evaluate, runcard_command, runs, hospital):
    code, out, errors = evaluate(runs / "masks", *hospital)
    assert (code, errors) == (0, "")
    place = Path("outputs/evaluations/hospital")
    answer = r"this config: Dice is 0\.\d+ \(95 % interval [−.\d]+ to [.\d]+\) after the last epoch: 2 runs, 6 images"
    assert re.search(rf"^{answer} of 3 patients of hospital$", out, re.MULTILINE)
    assert "own validation images, last" in out
    assert "fewer than 6 patients" in out
    assert out.rstrip().endswith(f"runcard compare {place}")
    for seed in ("seed0", "seed1"):
        run, reason = read_run(place / seed)
        assert run is not None, reason
        assert run.split == "test"
        assert set(run.images().groups) == {"p0", "p1", "p2"}
        assert {f.name for f in (place / seed / "figures").iterdir()} == {
            "reliability.png",
            "thresholds.png",
            "worst.png",
        }
        assert [look["data"] for look in run.evaluations] == ["hospital"]
        predictor = load(runs / "masks" / seed)
        dice = []
        for file in sorted(Path("hospital/Image").iterdir()):
            mask, truth = predictor.predict(file).mask, np.asarray(Image.open(f"hospital/Mask/{file.name}")) > 0
            dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
        at_size = run.metadata["evaluation"]["at_image_size"]["dice"]
        assert at_size == pytest.approx(np.mean(dice), abs=1e-5), "as runcard predict and the files say"
    evaluate(runs / "masks", *hospital)
    evaluate(runs / "masks", *hospital, "-o", "elsewhere")
    assert len(read_run(runs / "masks" / "seed0")[0].evaluations) == 1, "the same values, so no second look"
    code, out, _ = runcard_command("compare", runs / "masks")
    assert code == 0
    assert "evaluated on hospital (1 time, last 20" in out


def test_pixels_that_nobody_labelled_count_nowhere(evaluate, runs, hospital):
    rng = np.random.default_rng(1)
    for file in Path("hospital/Mask").iterdir():
        mask = np.asarray(Image.open(file)) // 255
        Image.fromarray(np.where(rng.uniform(size=mask.shape) < 0.2, 255, mask).astype(np.uint8)).save(file)
    code, _, errors = evaluate(runs / "masks" / "seed0", *hospital, "dataset.ignore_value=255")
    assert (code, errors) == (0, "")
    run, _ = read_run(Path("outputs/evaluations/hospital/seed0"))
    predictor, dice = load(runs / "masks" / "seed0"), []
    for file in sorted(Path("hospital/Image").iterdir()):
        truth = np.asarray(Image.open(f"hospital/Mask/{file.name}"))
        mask, truth = (each[truth != 255] for each in (predictor.predict(file).mask, truth))
        dice.append(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))
    assert run.metadata["evaluation"]["at_image_size"]["dice"] == pytest.approx(np.mean(dice), abs=1e-5)


def test_arms_are_compared_on_an_evaluation(evaluate, runcard_command, runs, hospital):
    evaluate(runs / "masks", *hospital, "-o", "there")
    _, there, _ = runcard_command("compare", "there", "--json")
    code, on, _ = runcard_command("compare", runs, "--on", "there", "--json")
    assert code == 0
    there, on = json.loads(there), json.loads(on)
    assert on["arms"] == there["arms"]
    assert len(on["arms"][0]["runs"]) == 2
    assert any("classes: not evaluated in there" in line for line in on["left_out"])
    assert "holds no evaluation" in runcard_command("compare", runs, "--on", runs)[2]
    _, both, _ = runcard_command("compare", ".", "--json")
    folders = [run["folder"] for arm in json.loads(both)["arms"] for run in arm["runs"]]
    assert folders
    assert not any(folder.startswith("there") for folder in folders), "evaluations are no further runs"
    absolute = runcard_command("compare", runs.absolute(), "--on", Path("there").absolute(), "--json")[1]
    assert json.loads(absolute)["arms"][0]["last"] == there["arms"][0]["last"], "however the folders are named"
    code, _, _ = runcard_command("report", runs, "--on", "there")
    assert code == 0
    assert "first look at this test set (hospital" in Path("there/report.html").read_text()
    assert not (runs / "report.html").exists(), "the report on their own images stays what it is"


def test_a_look_that_cannot_be_logged_is_warned_of(evaluate, runs, hospital, monkeypatch):
    def refuse(*_: object) -> None:
        raise UserError("runs/masks/seed0/evaluations.csv: cannot be written: Permission denied.")

    monkeypatch.setattr("runcard.inference.evaluate.log_evaluation", refuse)
    code, out, _ = evaluate(runs / "masks" / "seed0", *hospital)
    assert code == 0
    assert "warning: this look is not logged: runs/masks/seed0/evaluations.csv: cannot be written" in out


def test_images_that_a_run_was_trained_on_are_refused(evaluate, runs):
    code, _, errors = evaluate(runs / "masks" / "seed0", "dataset=lung_ct")
    assert code == 2
    assert "was trained on" in errors
    assert "of these 109 images" in errors
    assert not Path("outputs").exists()


def test_own_images_are_known_by_their_bytes_not_by_their_names(evaluate, runs, tmp_path):
    val = json.loads((runs / "masks" / "seed0" / "split.json").read_text())["val"]
    data = Path(runcard.datasets.image_mask.__file__).parent / "lung_ct"
    for folder in ("Image", "Mask"):
        (tmp_path / "same" / folder).mkdir(parents=True)
        (tmp_path / "other" / folder).mkdir(parents=True)
        for i, member in enumerate(val[:8]):
            name = f"{Path(member['id']).stem}.png"
            shutil.copy(data / folder / name, tmp_path / "same" / folder / f"renamed_{i}.png")
            pixels = np.asarray(Image.open(data / folder / name))
            Image.fromarray(np.ascontiguousarray(pixels[:, ::-1])).save(tmp_path / "other" / folder / name)
    out = evaluate(runs / "masks", "dataset=lungs", "dataset.root=same")[1]
    assert "change" not in out
    assert "patients are not named here" in out
    assert not (runs / "masks" / "seed0" / "evaluations.csv").exists()
    out = evaluate(runs / "masks", "dataset=lungs", "dataset.root=other", "dataset.split.group_regex='^(patient.)'")[1]
    assert "change" in out
    assert "61 images" not in out
    assert "8 images of 1 patient" in out
    assert "Dice" in out
    assert "–  " not in out.split("Dice")[1].splitlines()[0][:20], "the value is shown, though without an interval"
    assert (runs / "masks" / "seed0" / "evaluations.csv").exists()


def test_classes_are_matched_by_name(evaluate, runs, tmp_path):
    rng = np.random.default_rng(0)
    classes = read_run(runs / "classes")[0].metadata["config"]["derived"]["classes"]
    for i in range(8):
        path = tmp_path / "ward" / classes[1 - i % 2] / f"{i}.png"  # the folders' order is not the run's
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(path)
    code, _, errors = evaluate(runs / "classes", "dataset=image_folder", "dataset.root=ward")
    assert (code, errors) == (0, "")
    for row in rows(Path("outputs/evaluations/ward/classes")):
        assert row["target"] in row["id"], "the id begins with the folder"
    (tmp_path / "ward" / classes[0]).rename(tmp_path / "ward" / "other")
    code, _, errors = evaluate(runs / "classes", "dataset=image_folder", "dataset.root=ward", "-o", "x")
    assert code == 2
    assert f"the data have the class other, but runs/classes predicts {', '.join(classes)}" in errors


def test_other_images_of_the_same_folder_name_have_a_folder_of_their_own(evaluate, runs, hospital, tmp_path):
    evaluate(runs / "masks", *hospital)
    shutil.copytree("hospital", "other/hospital")
    (tmp_path / "other/hospital/Image/p2_5.png").unlink()
    (tmp_path / "other/hospital/Mask/p2_5.png").unlink()
    other = [each.replace("root=", "root=other/") for each in hospital]
    for _ in range(2):
        code, _, errors = evaluate(runs / "masks", *other)
        assert (code, errors) == (0, "")
    first, second = sorted(Path("outputs/evaluations").iterdir())
    assert first.name == "hospital"
    assert re.fullmatch("hospital_[0-9a-f]{6}", second.name)
    assert sorted(path.name for path in second.iterdir()) == ["seed0", "seed1"]
    assert len(rows(first / "seed0")) == 12
    assert len(rows(second / "seed0")) == 10
    assert evaluate(runs / "masks", *hospital)[0] == 0, "known again"
    assert len(list(Path("outputs/evaluations").iterdir())) == 2


def test_mistakes(evaluate, runs, hospital, tmp_path):
    assert "no run is named" in evaluate("dataset=lung_ct")[2]
    assert "dataset.split.group_regex=^(p.)" in evaluate(runs / "masks", "dataset.split.group_regex=^(p.)")[2]
    classes = ",".join(read_run(runs / "classes")[0].metadata["config"]["derived"]["classes"])
    data = ("dataset=image_mask", "dataset.root=hospital", f"dataset.classes=[{classes}]")
    assert "predicts one class for each image" in evaluate(runs / "classes", *data)[2]
    assert "model.base: an evaluation takes dataset keys only" in evaluate(runs / "masks", "model.base=4")[2]
    assert (
        "dataset.image_size_px: images are prepared as the run's training did"
        in evaluate(runs / "masks", *hospital, "dataset.image_size_px=64")[2]
    )
    assert (
        "--split=test: the data have no folder of that part"
        in evaluate(runs / "masks", *hospital, "--split", "test")[2]
    )
    assert "cannot be evaluated together" in evaluate(runs / "masks" / "seed0", runs / "classes")[2]
    assert (
        "Where they mean the same: 'dataset.classes=[background,lung]'"
        in evaluate(runs / "masks", *(each for each in hospital if each != NAMED))[2]
    )
    (tmp_path / "hospital" / "Image" / "p9.png").write_bytes(b"no image")
    damaged = evaluate(runs / "masks", *hospital, "-o", "there")[2]
    assert "'audit.allow=[unpaired]'" in damaged
    hospital = (*hospital, "audit.allow=[unpaired]")
    assert evaluate(runs / "masks", *hospital, "-o", "there")[0] == 0
    (tmp_path / "hospital" / "Image" / "p0_0.png").unlink()
    (tmp_path / "hospital" / "Mask" / "p0_0.png").unlink()
    assert "holds this run on other images" in evaluate(runs / "masks", *hospital, "-o", "there")[2]

"""What could be lost or misread without a word: caches, further pages of a file, names that a spreadsheet computes."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import CLASSES, ONE_EPOCH
from folders import BONE, of_classes, write_run
from PIL import Image

from runcard.audit.cache import remember
from runcard.caching import open_cache
from runcard.experiment import finalize
from runcard.experiment.predictions import only_warned_of
from runcard.fileio import atomic_write, csv_text, read_csv, write_csv, write_text
from runcard.runs.folders import lost_files, read_metadata
from runcard.runs.reader import read_run
from runcard.runs.run import read_split

FORMULAS = ['=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''=1"]


@dataclass
class Found:
    """A detector's result whose fields may be missing in JSON."""

    pairs: tuple[int, ...] = ()
    missed: float = 0.0


@pytest.mark.parametrize(
    "content", ["{}", '{"pairs": [1]}', "[]", "null", "", "{", '{"a":' * 20_000, '{"pairs":[1],"missed":0.5,"x":1}']
)
def test_cache_file_that_says_less_than_was_found_is_made_again(tmp_path, content):
    made = []

    def compute():
        made.append(1)
        return Found((1, 2), 0.5)

    cache = open_cache("audit", str(tmp_path), 1.0)
    for _ in range(2):
        assert remember(cache, "found", Found, compute, 7) == Found((1, 2), 0.5)
    assert len(made) == 1, "kept"
    next(tmp_path.glob("*.json")).write_text(content)
    assert remember(cache, "found", Found, compute, 7) == Found((1, 2), 0.5)
    assert len(made) == 2


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("folder", ["Image", "Mask"])
def test_further_pages_of_a_file_are_warned_of(tmp_path, runcard_command, suffix, folder):
    data, rng = tmp_path / "data", np.random.default_rng(0)
    for i in range(8):
        mask = np.hypot(*(np.indices((40, 40)) - 20 - i)) < 9
        for name, pixels in (("Image", 120 * mask + rng.integers(0, 90, mask.shape)), ("Mask", 255 * mask)):
            (data / name).mkdir(exist_ok=True, parents=True)
            Image.fromarray(pixels.astype(np.uint8)).save(data / name / f"{i}.png")
    first = Image.open(data / folder / "3.png")
    (data / folder / "3.png").unlink()
    first.save(data / folder / f"3.{suffix}", save_all=True, append_images=[Image.new("L", first.size, 255)])
    runcard_command("audit", "dataset=image_mask", f"dataset.root={data}", "--output", tmp_path / "audit")
    findings = json.loads((tmp_path / "audit" / "audit.json").read_text())["findings"]
    (finding,) = (finding for finding in findings if finding["check"] == "several_pages")
    assert (finding["level"], len(finding["places"])) == ("warning", 1)
    assert finding["places"][0].rpartition("/")[2] == f"3.{suffix if folder == 'Image' else 'png'}"


@pytest.mark.parametrize("name", FORMULAS)
def test_no_text_is_a_formula_and_all_are_read_as_they_were(tmp_path, name):
    write_text(tmp_path / "x.csv", csv_text([name, "b"], [[name, -0.5], ["plain", "-1e-3"], ["it's", ""]]))
    with (tmp_path / "x.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell[:1] in "=+-@\t\r" and cell not in ("", "-0.5", "-1e-3")] == []
    assert read_csv(tmp_path / "x.csv") == [
        {name: name, "b": "-0.5"},
        {name: "plain", "b": "-1e-3"},
        {name: "it's", "b": ""},
    ]


def test_a_class_that_is_a_formula_is_compared_as_any_other(tmp_path):
    classes = (FORMULAS[0], "NFF")
    columns = of_classes([*classes] * 6, np.tile([0.4, 0.6], (12, 1)), classes)
    run = write_run(tmp_path / "run", images=columns, recorded=BONE)
    write_csv(run / "per_image.csv", read_csv(run / "per_image.csv"))
    text = (run / "per_image.csv").read_text()
    assert [start for start in ("\n=", ",=", ',"=') if start in text] == []
    found, why = read_run(run)
    assert found, why
    assert set(found.images().targets) == set(classes)


LONG = ["x" * 240, "x" * 244, "x" * 251, "é" * 125]


@pytest.mark.parametrize("name", LONG)
def test_file_with_a_long_name_is_written(tmp_path, name):
    with atomic_write(tmp_path / f"{name}.png") as temporary:
        temporary.write_bytes(b"x")
        assert temporary.suffix == ".png"
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]


def bones(folder: Path, names: list[str]) -> Path:
    """Write images of two classes; of some names, each in both classes."""
    rng = np.random.default_rng(0)
    for label, level in (("AFF", 40), ("NFF", 160)):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            name = f"{label[0]}{i}{names[i][2:]}" if i < len(names) else f"{label}{i}"
            pixels = level + rng.integers(0, 60, (40, 40))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{name}.png")
    return folder


OF_FILES = ("dataset=image_folder", "dataset.classes=[AFF,NFF]", "dataset.positive=AFF", "model=vgg16", "model.base=2")


def test_images_with_long_names_are_trained_on(run_config, tmp_path):
    folder = bones(tmp_path / "data", LONG)
    data = (*OF_FILES, f"dataset.root={folder}", "dataset.split.val_fraction=0.5", "loss=bce", *ONE_EPOCH)
    run = run_config("run", *data, "dataset.channels=3", "train.explain_images=0")
    assert read_metadata(run)["status"] == "completed"
    assert len(list((run / "previews").rglob("*.png"))) == len(read_split(run)["val"])


@pytest.mark.parametrize("fails", ["curves_figure", "explain_validation", "previews", "first_batch"])
def test_a_picture_that_fails_ends_no_run(run_config, tmp_path, monkeypatch, capsys, fails):
    def fail(*_, **__):
        raise OSError(36, "File name too long", "x.png")

    if fails == "previews":
        monkeypatch.setattr("runcard.experiment.predictions.preview", fail)
    elif fails == "first_batch":
        monkeypatch.setattr("runcard.experiment.session.first_batch", fail)
    else:
        monkeypatch.setattr(finalize, fails, fail)
    run = run_config("run", *CLASSES)
    assert (read_metadata(run)["status"], lost_files(run)) == ("completed", "")
    assert "warning: " in (shown := capsys.readouterr().out)
    assert "File name too long" in shown


@pytest.mark.parametrize("cause", [True, False])
def test_an_interrupt_that_a_library_turned_into_another_error_is_one(cause):
    interrupt = KeyboardInterrupt()
    error = ValueError("Invalid bounding box")
    error.__cause__, error.__context__ = (interrupt, None) if cause else (None, interrupt)
    with pytest.raises(KeyboardInterrupt), only_warned_of("figures/x.png"):
        raise error
    with only_warned_of("figures/x.png"):
        raise ValueError("no interrupt") from LookupError()

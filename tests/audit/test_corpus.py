"""Every fault of a folder is found by its name, all of them in one go, and clean data are left in peace."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from corpus import (
    CASES,
    CONFIGS,
    Case,
    audited,
    constant,
    leave_out_costly,
    on,
    photo,
    pixels,
    remove,
    save,
    several,
    to_format,
    truncate,
    write,
    write_clean,
)
from PIL import Image

from runcard.audit.checks import duplicates as of_copies
from runcard.audit.detectors.near_duplicates import NearDuplicates
from runcard.audit.findings import CHECKS, Finding

SHARED = ROOT.parent / "shared" / "data"
COSTLY = ("near_duplicates", "mask_misfit")  # detectors that take a second, asked only in cases that are about them
OF_CARDS = {  # checks of an augmentation or a model: test_lab_errors.py and test_augmentation_probe.py
    "augmentation_mask",
    "augmentation_values",
    "augmentation_random",
    "augmentation_loses_mask",
    "no_op_parameter",
    "validation_augmented",
    "ignored_model_key",
}
# In datasets/test_manifest.py, test_medical_files.py and faults/test_silent_losses.py.
ELSEWHERE = {"table", "mixed_spacing", "burned_in_text", "several_pages"}
REAL = [
    ("dataset=lungs", "dataset.folder=Lab3/X_ray"),
    ("dataset=image_folder", "dataset.folder=Lab2/Skin", "dataset.classes=[Mel,Nev]"),
    ("dataset=image_folder", "dataset.folder=Lab2/Bone"),
    ("dataset=lungs", "dataset.folder=lung_ct"),
]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    write_clean(root)
    return root


def errors_of(findings: list[Finding]) -> set[str]:
    return {finding.check for finding in findings if finding.level == "error"}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_folder_gives_its_findings(case: Case, clean, tmp_path, monkeypatch):
    expected = f"{case.errors} {case.others}"
    if not case.name.startswith("as it is") and not any(name in expected for name in COSTLY):
        leave_out_costly(monkeypatch)
    folder = tmp_path / "data"
    shutil.copytree(clean / case.clean, folder)
    case.damage(folder)
    findings = audited(folder, (*CONFIGS[case.clean], *case.overrides))
    assert errors_of(findings) == set(case.errors.split())
    assert set(case.others.split()) <= {f"{finding.check}:{finding.level}" for finding in findings}
    if case.is_fine:
        assert not findings
    if case.place:
        checks = {name.partition(":")[0] for name in expected.split()}
        places = [place for finding in findings if finding.check in checks for place in finding.places]
        assert any(case.place in place for place in places), places


def test_every_check_has_a_case():
    reported = {name.partition(":")[0] for case in CASES for name in f"{case.errors} {case.others}".split()}
    assert reported.isdisjoint(OF_CARDS)
    untested = set(CHECKS) - reported - OF_CARDS - ELSEWHERE
    assert not untested, f"corpus.py needs a Case for {untested}, or their test is named in OF_CARDS or ELSEWHERE"
    assert reported | OF_CARDS | ELSEWHERE <= set(CHECKS)
    assert len({case.name for case in CASES}) == len(CASES) >= 100


def test_the_level_that_a_check_names_is_the_one_it_has():
    levels = [(name, "error") for case in CASES for name in case.errors.split()]
    levels += [tuple(name.split(":")) for case in CASES for name in case.others.split()]
    for name, level in levels:
        assert level in CHECKS[name][0], name


def test_seven_faults_of_a_folder_are_told_in_one_go(clean, tmp_path, monkeypatch):
    leave_out_costly(monkeypatch)
    folder = tmp_path / "data"
    shutil.copytree(clean / "pairs", folder)
    several(
        on("Image/film_01.png", truncate),
        write("Image/film_02.png"),
        write("Mask/film_03.png", b"no image"),
        remove("Mask/film_04.png"),
        pixels("Mask/film_05.png", photo),
        pixels("Mask/film_06.png", np.transpose),
        pixels("Image/film_07.png", constant(0)),
    )(folder)
    errors = [finding for finding in audited(folder, CONFIGS["pairs"]) if finding.level == "error"]
    places = {finding.check: [re.split("[ ,]", place)[0] for place in finding.places] for finding in errors}
    assert places == {
        "truncated": ["Image/film_01.png"],
        "empty_file": ["Image/film_02.png"],
        "unreadable": ["Mask/film_03.png"],
        "unpaired": ["Image/film_04.png"],
        "mask_values": ["Mask/film_05.png"],
        "mask_size": ["Mask/film_06.png"],
        "constant_image": ["Image/film_07.png"],
    }


def test_where_copies_cannot_be_told_that_is_said(clean, tmp_path):
    folder, rng = tmp_path / "data", np.random.default_rng(0)
    film = np.asarray(Image.open(clean / "classes" / "AFF" / "film_00.png")).astype(int)
    for i in range(30):
        noisy = np.clip(film + rng.normal(0, 3, film.shape), 0, 255).astype(np.uint8)
        save(folder / ("AFF", "NFF")[i % 2] / f"film_{i:02}.png", noisy)
    (said,) = [f.what for f in audited(folder, CONFIGS["classes"]) if "test copies" in f.what]
    assert said.endswith(" were not found: the images are too similar")


def test_files_that_differ_by_patient_predict_no_class(tmp_path):
    """Of one patient's images all are JPEG or none: as images 30 against 30, as patients too few to say anything."""
    write_clean(tmp_path)
    folder = tmp_path / "classes"
    to_format("AFF/*", ".jpg")(folder)
    by_patient = (*CONFIGS["classes"], r"dataset.split.group_regex='((AFF|NFF)/film_\d)'")
    checks = {finding.check for finding in audited(folder, CONFIGS["classes"])}
    assert "class_shortcut" in checks
    assert "class_shortcut" not in {finding.check for finding in audited(folder, by_patient)}


def few_of_a_class(folder: Path, *overrides: str) -> list[str]:
    findings = audited(folder, (*CONFIGS["classes"], "dataset.split.kind=kfold", *overrides))
    return [f"{f.level}: {f.what}" for f in findings if f.check in ("few_images", "few_positives")]


def test_a_cross_validation_is_measured_on_all_of_its_folds(clean, tmp_path, monkeypatch):
    leave_out_costly(monkeypatch)
    folder = tmp_path / "data"
    shutil.copytree(clean / "classes", folder)
    remove("AFF/film_[234]*")(folder)  # ten are left, two in each fold
    assert few_of_a_class(folder) == []
    remove("AFF/film_1*")(folder)  # five
    assert few_of_a_class(folder) == ["warning: train has 4 images of AFF"]
    with_test = few_of_a_class(folder, "dataset.split.test_fraction=0.2", "dataset.split.num_folds=2")
    assert "warning: test has 1 image of AFF" in with_test
    assert "warning: val of all folds has 4 images of AFF" in with_test
    remove("AFF/film_0[468].png")(folder)  # two, one of which is in fold 0, say
    in_folds = [few_of_a_class(folder, f"dataset.split.fold={i}") for i in range(5)]
    nothing = "error: val has 0 images of AFF, so that nothing can be learnt or said of it"
    assert sum(nothing in said for said in in_folds) == 3
    assert sum("warning: val of all folds has 2 images of AFF" in said for said in in_folds) == 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the images are not here")
@pytest.mark.parametrize("overrides", REAL, ids=[row[1].rpartition("=")[2] for row in REAL])
def test_real_data_have_no_errors(overrides, monkeypatch):
    """Near duplicates are left out: they are never an error, and take the longest."""
    monkeypatch.setattr(of_copies, "find_near_duplicates", lambda *_: NearDuplicates([], 1, 0, 0))
    assert not errors_of(audited(SHARED, overrides))

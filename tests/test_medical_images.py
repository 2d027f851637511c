"""DICOM and NIfTI from folders to trained runs and predictions: splits by volume, distances in mm, masks as NIfTI."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ONE_EPOCH, build_setup, compose_config, read_data
from medical import (
    LPS,
    disc,
    greys,
    nibabel,
    write_dicom,
    write_dicom_pairs,
    write_enhanced_ct,
    write_frames,
    write_nifti,
    write_volume_pairs,
)
from PIL import Image
from torch import Tensor, nn

import runcard
from runcard.config.schema import parse_config
from runcard.data.image_io import read_image, read_mask
from runcard.errors import UserError
from runcard.training.evaluation import evaluate

SMALL = ("dataset=image_mask", "model.base=2", *ONE_EPOCH)
WINDOW = "dataset.window=[0,4095]"


@pytest.fixture
def dicoms(tmp_path: Path) -> Path:
    return write_dicom_pairs(tmp_path / "dicoms")


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    return write_volume_pairs(tmp_path / "volumes")


class Threshold(nn.Module):
    """A model whose prediction is the image itself: white is foreground."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([0.5 - images, images - 0.5], dim=1)


def test_distances_are_in_mm_of_the_file(tmp_path):
    """Images are the predictions: 3 rows of 0.8 mm and 8 columns of 0.5 mm from the masks, before they are resized.

    Both are two pixels high and, resized from 40 x 80 to 40 x 40 pixels, one wide. Of the two upper pixels of one and
    the two lower of the other the nearest are 2 rows apart, the others 3.
    """
    for i, spacing in enumerate([("0.8", "0.5"), ("1.6", "1.0")] * 2):
        predicted, truth = np.zeros((2, 40, 80), np.uint8)
        predicted[8:10, 16:18], truth[11:13, 24:26] = 255, 255
        write_dicom(tmp_path / "Image" / f"{i}.dcm", predicted, PixelSpacing=list(spacing))
        write_dicom(tmp_path / "Mask" / f"{i}.dcm", truth)
    small = ("dataset.image_size_px=40", "dataset.split.val_fraction=0.5", "audit.allow=[]")
    setup = build_setup(compose_config(*SMALL, *small, f"dataset.root={tmp_path}", "metric=masks_surface"))
    assert setup.units == {"hd95": "mm", "asd": "mm"}
    found = evaluate(Threshold(), setup.loss, setup.metrics, setup.loaders.val)
    near, far = math.hypot(1.6, 4.0), math.hypot(2.4, 4.0)
    for row, i in enumerate(found.indices):
        factor = 1 + i % 2
        assert found.per_image["hd95"][row].item() == pytest.approx(factor * (near + 0.95 * (far - near)))
        assert found.per_image["asd"][row].item() == pytest.approx(factor * (near + far) / 2)
    wrong = compose_config(
        *SMALL, *small, f"dataset.root={tmp_path}", "metric=masks_surface", "metric.scores.hd95.pixel_mm=0.5"
    )
    with pytest.raises(UserError, match=r"metric\.scores\.hd95\.pixel_mm must be null: the data have a pixel spacing"):
        build_setup(wrong)


def test_a_run_on_dicom_files_and_its_predictions(dicoms, run_config, runcard_command, tmp_path, capsys):
    folder = run_config("run", *SMALL, f"dataset.root={dicoms}", WINDOW, "metric=masks_surface")
    recorded = json.loads((folder / "run.json").read_text())
    assert recorded["status"] == "completed"
    assert recorded["units"] == {"hd95": "mm", "asd": "mm"}
    assert recorded["images"]["kinds"] == ["12-bit grey DICOM"]
    assert "val/hd95 (mm)" in capsys.readouterr().out
    assert runcard_command("predict", folder, dicoms / "Image", "-o", "out") == (0, "10 images predicted: out/\n", "")
    mask = read_mask(tmp_path / "out" / "3.dcm", 2)
    assert np.array_equal(mask, runcard.load(folder).predict(dicoms / "Image" / "3.dcm").mask)
    assert mask.shape == (40, 48)
    assert runcard_command("predict", folder, dicoms / "Image", "-o", "values", "--values", "0,255")[0] == 0
    assert np.array_equal(Image.open(tmp_path / "values" / "3.png"), 255 * mask)


def test_slices_of_a_volume_stay_in_one_split(volumes):
    config, _ = parse_config(
        compose_config(*SMALL, f"dataset.root={volumes}", WINDOW, "dataset.split.val_fraction=0.4")
    )
    data = read_data(config.dataset)
    assert data.samples.ids[:4] == ["p0:0", "p0:1", "p0:2", "p1:0"]
    assert len(data.samples.ids) == 3 + 4 + 5 + 3 + 4
    assert data.groups[:4] == ["p0", "p0", "p0", "p1"]
    assert {data.groups[i] for i in data.split["train"]}.isdisjoint({data.groups[i] for i in data.split["val"]})
    assert len(set(data.samples.digests)) == len(data.samples.ids)
    images, masks = data.samples.images[..., 0].astype(float), data.samples.targets.astype(bool)
    assert all(image[mask].mean() > image[~mask].mean() + 40 for image, mask in zip(images, masks, strict=True))
    np.testing.assert_allclose(data.samples.pixel_mm, [[0.7 * 40 / 32, 0.5 * 48 / 32]] * len(masks))


def test_frames_of_a_dicom_file_stay_in_one_split(tmp_path):
    for i in range(5):
        numbers = range(7 * i, 7 * i + 3)
        image = tmp_path / "Image" / f"p{i}.dcm"
        write_enhanced_ct(image, [greys(n) for n in numbers], heights_mm=[0, 2, 4])
        write_frames(tmp_path / "Mask" / f"p{i}.dcm", [disc(n).astype(np.uint8) for n in numbers])
    config, _ = parse_config(compose_config(*SMALL, f"dataset.root={tmp_path}", WINDOW))
    data = read_data(config.dataset)
    assert data.samples.ids[:4] == ["p0:0", "p0:1", "p0:2", "p1:0"]
    assert data.groups[:4] == ["p0", "p0", "p0", "p1"]
    assert {data.groups[i] for i in data.split["train"]}.isdisjoint({data.groups[i] for i in data.split["val"]})
    assert len(set(data.samples.digests)) == 15
    images, masks = data.samples.images[..., 0].astype(float), data.samples.targets.astype(bool)
    assert all(image[mask].mean() > image[~mask].mean() + 40 for image, mask in zip(images, masks, strict=True))
    np.testing.assert_allclose(data.samples.pixel_mm, [[0.8 * 40 / 32, 0.5 * 48 / 32]] * 15)


def test_volumes_are_predicted_as_volumes(volumes, run_config, runcard_command, tmp_path, capsys):
    folder = run_config("run", *SMALL, f"dataset.root={volumes}", WINDOW)
    capsys.readouterr()
    command = ("predict", folder, volumes / "images", "-o", "out", "--values", "0,7", "--batch-size", 4)
    assert runcard_command(*command)[:2] == (0, "19 images predicted: out/\n")
    predictor = runcard.load(folder)
    for name in ("p0", "p1"):  # stored in two orders
        path = volumes / "images" / f"{name}.nii.gz"
        image, mask = nibabel.load(path), nibabel.load(tmp_path / "out" / f"{name}.nii.gz")
        assert mask.shape == image.shape
        assert np.array_equal(mask.affine, image.affine)
        assert mask.get_data_dtype() == np.uint8
        for z in range(3):
            predicted = predictor.predict(read_image(path.with_name(f"{path.name}:{z}"))).mask
            assert np.array_equal(read_image(tmp_path / "out" / f"{name}.nii.gz:{z}"), 7 * predicted)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())["images"]
    assert record["p1:2"]["mask"] == "p1.nii.gz"
    first = (tmp_path / "out" / "p1.nii.gz").read_bytes()
    (tmp_path / "out" / "p1.nii.gz").unlink()
    assert runcard_command(*command)[:2] == (0, "4 images predicted, 15 were done before: out/\n")
    assert (tmp_path / "out" / "p1.nii.gz").read_bytes() == first
    (volumes / "images" / "p2.nii.gz").write_bytes(b"no volume")
    code, _, errors = runcard_command(*command)
    assert code == 2
    assert errors.splitlines()[0] == "1 image could not be read:"


def test_a_classifier_reads_volumes_too(tmp_path):
    for name in ("sick", "well"):
        for i in range(4):
            write_nifti(tmp_path / name / f"{i}.nii", [greys(i).astype(np.int16), greys(i + 1).astype(np.int16)])
    config, _ = parse_config(compose_config("dataset=image_folder", f"dataset.root={tmp_path}", WINDOW))
    data = read_data(config.dataset)
    assert data.samples.ids[:3] == ["sick/0.nii:0", "sick/0.nii:1", "sick/1.nii:0"]
    assert data.groups[:3] == ["sick/0.nii", "sick/0.nii", "sick/1.nii"]
    assert data.samples.labels == [0] * 8 + [1] * 8


def test_lps_is_how_the_volumes_here_are_stored():
    assert "".join(nibabel.aff2axcodes(LPS)) == "LPS"

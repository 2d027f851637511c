"""The table of what was found on disk: layout, classes per split, sizes, modes, depths, and what was left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from runcard.data.preprocessing import prepare
from runcard.data.source import Source
from runcard.data.splits import Split
from runcard.data.summary import summary_rows
from runcard.datasets.image_folder import ImageFolder
from runcard.datasets.image_mask import ImageMaskFolder
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

DATA = ROOT.parent / "shared" / "data"


def write(path: Path, size: tuple[int, int] = (12, 10), high: int = 200, dtype: type = np.uint8) -> None:
    """Saves a ramp from 0 to high, of width × height pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.linspace(0, high, size[0] * size[1]).astype(dtype).reshape(size[1], size[0])).save(path)


def rows(source: Source, split: Split) -> dict[str, str]:
    samples = prepare(source, image_size_px=8, channels=1)
    found = summary_rows(source, samples.originals, samples.labels, split)
    assert len(found) <= 12
    return dict(found)  # type: ignore[arg-type]


def test_patients_are_counted_where_something_names_them(tmp_path):
    for i in range(4):
        write(tmp_path / "Mel" / f"{i}.png")
        write(tmp_path / "Nev" / f"{i}.png")
    source = ImageFolder(str(tmp_path), None, ["Mel", "Nev"])
    samples = prepare(source, image_size_px=8, channels=1)
    split: Split = {"train": [0, 1, 2, 4, 5, 6], "val": [3, 7], "test": []}
    found = dict(summary_rows(source, samples.originals, samples.labels, split, ["a", "a", "b", "c"] * 2))
    assert (found["train"], found["val"]) == (
        "6 images of 2 patients: 3 Mel, 3 Nev",
        "2 images of 1 patient: 1 Mel, 1 Nev",
    )


def given(source: ImageFolder) -> Split:
    return {part: [i for i, p in enumerate(source.given_split or []) if p == part] for part in ("train", "val", "test")}


def test_class_folders(tmp_path):
    for i in range(4):
        write(tmp_path / "train" / "Mel" / f"{i}.png", size=(12, 10 + i))
    write(tmp_path / "train" / "Nevi" / "1.jpg")
    write(tmp_path / "val" / "Mel" / "1.bmp")
    write(tmp_path / "val" / "Nevi" / "1.png")
    for i in range(7):
        write(tmp_path / "val" / "Other" / f"{i}.png")
        write(tmp_path / f"loose{i}.png")
    source = ImageFolder(str(tmp_path), None, ["Mel", "Nev"])
    assert rows(source, given(source)) == {
        "data": str(tmp_path),
        "layout": "class folders in train/ and val/ (Nev in Nevi/)",
        "train": "5 images: 4 Mel, 1 Nev",
        "val": "2 images: 1 Mel, 1 Nev",
        "sizes": "12×10 (4), 12×11 (1), 12×12 (1) and 1 other; 12 to 12 pixels wide, 10 to 13 high",
        "images": "8-bit grey PNG (5), 8-bit grey JPEG (1), 8-bit grey BMP (1)",
        "left out": "loose0.png, loose1.png, loose2.png, loose3.png, loose4.png and 3 more",
    }


def test_pairs(tmp_path):
    for stem in "abc":
        write(tmp_path / "Image" / f"{stem}.png")
        (tmp_path / "Mask").mkdir(exist_ok=True)
        Image.fromarray(np.full((10, 12), 255, np.uint8)).save(tmp_path / "Mask" / f"{stem}.jpg")
    (tmp_path / "Old").mkdir()
    source = ImageMaskFolder(str(tmp_path), None, ["background", "lung"])
    assert rows(source, {"train": [0, 2], "val": [1], "test": []}) == {
        "data": str(tmp_path),
        "layout": "Image/ and Mask/",
        "train": "2 images",
        "val": "1 image",
        "sizes": "12×10 pixels",
        "images": "8-bit grey PNG",
        "masks": "8-bit grey JPEG; class indices, or nearest of 0 and 255",
        "left out": "Old/",
    }


def test_the_share_of_ignored_pixels_is_shown(tmp_path):
    (tmp_path / "Mask").mkdir()
    for stem, pixels in (("a", [0, 1, 1, 255]), ("b", [0])):
        write(tmp_path / "Image" / f"{stem}.png")
        Image.fromarray(np.resize(np.uint8(pixels), (10, 12))).save(tmp_path / "Mask" / f"{stem}.png")
    source = ImageMaskFolder(str(tmp_path), None, ["background", "lung"], ignore_value=255)
    shown = rows(source, {"train": [0], "val": [1], "test": []})
    assert shown["masks"] == "8-bit grey PNG; class indices"
    assert shown["ignored"] == "12.5% of the masks' pixels (dataset.ignore_value=255)"


WINDOWS = [
    ([0, 65535], "0 to 4095 in files deeper than 8 bits; window 0 to 65535, of which they use 6%: try "
                 "'dataset.window=[0,4095]'"),
    ([0, 4095], "0 to 4095 in files deeper than 8 bits; window 0 to 4095"),
    ([4000, 9000], "0 to 4095 in files deeper than 8 bits; window 4000 to 9000, of which they use 2%: try "
                   "'dataset.window=[0,4095]'"),
]  # fmt: skip


@pytest.mark.parametrize(("window", "words"), WINDOWS)
def test_values_of_deep_files_and_the_window(window, words, tmp_path):
    for name, high in (("A/1.png", 4095), ("B/1.png", 4050)):
        write(tmp_path / name, high=high, dtype=np.uint16)
    write(tmp_path / "B" / "2.png")
    found = rows(ImageFolder(str(tmp_path), None, None, window), {"train": [0], "val": [1, 2], "test": []})
    assert found["images"] == "16-bit grey PNG (2), 8-bit grey PNG (1)"
    assert found["values"] == words


def test_the_window_reaches_the_samples(tmp_path):
    for name in ("A/1.png", "B/1.png"):
        write(tmp_path / name, size=(8, 8), high=4095, dtype=np.uint16)
    source = ImageFolder(str(tmp_path), None, None, [0, 4095])
    assert (
        prepare(source, 8, 1).images[0].ravel().tolist()
        == np.rint(np.linspace(0, 4095, 64).astype(int) * (255 / 4095)).tolist()
    )


@pytest.mark.parametrize("phantom", [PhantomBone, PhantomChest])
def test_phantoms_have_no_table(phantom):
    source = phantom(2, 16)
    samples = prepare(source, 16, 1)
    assert summary_rows(source, samples.originals, samples.labels, {"train": [0], "val": [1], "test": []}) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not here")
def test_real_films():
    source = ImageFolder(str(DATA), "Lab2/Bone", ["Normal", "Osteoporosis"])
    found = rows(source, given(source))
    assert found["val"] == "68 images: 34 Normal, 34 Osteoporosis"
    assert found["sizes"].endswith("290 to 900 pixels wide, 707 to 900 high")
    assert found["images"] == "8-bit grey JPEG"

"""Data sets that a CSV table lists: columns, paths, splits and patients; every wrong row is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import compose_config, read_data
from PIL import Image

from runcard.config.schema import parse_config
from runcard.errors import UserError


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Return a function that writes a table beside 24 images and masks, and returns its path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "scans").mkdir(parents=True)
    for i in range(24):
        image = np.random.default_rng(i).integers(0, 255, (20, 24), np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "scans" / f"{i}.png")
        Image.fromarray(255 * (image > 128).astype(np.uint8)).save(tmp_path / "data" / "scans" / f"{i}_truth.png")

    def write(header: str, *rows: str) -> Path:
        (tmp_path / "data" / "table.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
        return tmp_path / "data" / "table.csv"

    return write


def read(choice: str, path: Path, *overrides: str):
    config, _ = parse_config(compose_config(f"dataset={choice}", f"dataset.csv={path}", *overrides))
    return read_data(config.dataset)


def test_labels_patients_and_splits(table):
    rows = [
        f"scans/{i}.png,{'sick' if i % 2 else 'healthy'},p{i // 4},{'Train' if i < 16 else 'test'},x" for i in range(24)
    ]
    data = read("manifest", table("image,label,patient,split,remark", *rows))
    assert data.classes == ["healthy", "sick"]
    assert data.samples.ids[0] == "scans/0.png"
    assert data.samples.labels[:4] == [0, 1, 0, 1]
    assert data.split["test"] == list(range(16, 24))
    assert data.groups[:5] == ["p0", "p0", "p0", "p0", "p1"]
    assert len(data.split["val"]) == 4, "validation is drawn from train, a whole patient"
    assert len({data.groups[i] for i in data.split["val"]}) == 1


def test_masks(table):
    rows = [f"scans/{i}.png,scans/{i}_truth.png" for i in range(24)]
    data = read("manifest_masks", table("\ufeffImage,MASK", *rows), "dataset.image_size_px=20")
    assert data.samples.has_masks
    assert set(np.unique(data.samples.targets)) == {0, 1}
    assert data.groups == data.samples.ids
    assert (len(data.split["train"]), len(data.split["val"])) == (19, 5)


def test_all_faults_of_a_table_are_reported_together(table):
    path = table(
        "image,label,split",
        *(f"scans/{i}.png,{'ab'[i % 2]},train" for i in range(12)),
        "scans/99.png,a,train",
        "scans/1.png,a,train",
        "scans/13.png,c,train",
        "scans/14.png,,train",
        "scans/15.png,a,sometimes",
    )
    with pytest.raises(UserError) as raised:
        read("manifest", path, "dataset.classes=[a,b]")
    lines = str(raised.value).splitlines()
    assert (
        lines[0]
        == f"{path}: line 14: names a file that does not exist: {path.parent / 'scans/99.png'}. Correct the row."
    )
    assert "line 15: names an image a second time: scans/1.png" in lines[1]
    assert "line 16: has the label 'c', not one of a, b" in lines[2]
    assert "line 17: has no label" in lines[3]
    assert "line 18: has the split 'sometimes', not one of train, val, test" in str(raised.value)
    assert "audit.allow=[table]" in lines[-1]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,lable", r"needs a column image and one of mask and label, has image, lable\. Did you mean 'label'\?"),
        ("image,mask,label", "needs a column image and one of mask and label"),
        ("file,label", "needs a column image"),
    ],
)
def test_columns(table, header, message):
    with pytest.raises(UserError, match=message):
        read("manifest", table(header, ",".join("a" * (header.count(",") + 1))))


@pytest.mark.parametrize(
    ("choice", "text", "message"),
    [
        ("manifest", "image,mask\nscans/1.png,scans/1_truth.png", "For masks take dataset=manifest_masks"),
        (
            "manifest",
            "image,label\nscans/1.png,scans/1_truth.png",
            r"names files, such as scans/1_truth\.png\. Call it",
        ),
        ("manifest_masks", "image,mask\nscans/1.png,sick", "names no files, but sick. Call it label, with dataset=man"),
        ("manifest_masks", "image,label\nscans/1.png,sick", "no label of .* background, foreground. It has sick.\n"),
        ("manifest", "image;label\nscans/1.png;sick", "its columns are separated by semicolons. Save it with commas"),
        ("manifest", "image\tlabel\nscans/1.png\tsick", "separated by tabs"),
        ("manifest", "image;label;spacing\nscans/1.png;sick;0,7", "separated by semicolons"),
    ],
)
def test_the_wrong_columns_or_signs_between_them(table, choice, text, message):
    with pytest.raises(UserError, match=message) as raised:
        read(choice, table(*text.split("\n")))
    assert len(str(raised.value).splitlines()) <= 2


def test_a_missing_or_broken_table(table, tmp_path):
    with pytest.raises(UserError, match=r"dataset\.csv=nowhere\.csv: cannot be read: No such file or directory\."):
        read("manifest", Path("nowhere.csv"))
    with pytest.raises(UserError, match=r"line 3 has 1 values, not 2"):
        read("manifest", table("image,label", "scans/1.png,a", "scans/2.png"))
    with pytest.raises(UserError, match=r"dataset\.classes.* must be the names of the mask's classes"):
        read("manifest", table("image,mask", "scans/1.png,scans/1_truth.png"))


def test_window_and_mask_values(table, tmp_path):
    deep = np.arange(400, dtype=np.uint16).reshape(20, 20)
    Image.fromarray(deep).save(tmp_path / "data" / "deep.png")
    Image.fromarray((7 * (deep > 200)).astype(np.uint8)).save(tmp_path / "data" / "sevens.png")
    small = ("dataset.image_size_px=20", "dataset.split.val_fraction=0.5")
    path = table("image,mask", "deep.png,sevens.png", "deep2.png,sevens.png")
    (tmp_path / "data" / "deep2.png").write_bytes((tmp_path / "data" / "deep.png").read_bytes())
    data = read("manifest_masks", path, "dataset.mask_values=[0,7]", "dataset.window=[0,399]", *small)
    assert data.samples.images.max() == 255
    np.testing.assert_array_equal(data.samples.targets[0], deep > 200)
    data = read("manifest_masks", path, "dataset.ignore_value=7", "dataset.window=[0,399]", *small)
    np.testing.assert_array_equal(data.samples.targets[0], 255 * (deep > 200))
    with pytest.raises(UserError, match=r"sevens\.png: not a mask"):
        read("manifest_masks", path, "dataset.window=[0,399]", *small)
    with pytest.raises(UserError, match=r"dataset\.mask_values must be null or a list of 2 different grey values"):
        read("manifest_masks", path, "dataset.mask_values=[7]", *small)


def test_spacing(table):
    spacings = ("0.7", "0.8 0.5", "0.8\\0.5")
    rows = [f"scans/{i}.png,scans/{i}_truth.png,{spacings[i % 3]}" for i in range(24)]
    small = "dataset.image_size_px=10"  # of 20 x 24 pixels
    data = read("manifest_masks", table("image,mask,spacing", *rows), small)
    np.testing.assert_allclose(data.samples.pixel_mm[:3], [[1.4, 1.68], [1.6, 1.2], [1.6, 1.2]])
    digests = data.samples.digests
    again = read("manifest_masks", table("image,mask,spacing", *rows), small).samples.digests
    rows[0] = rows[0].replace("0.7", "0.9")  # changes distances, so these are other data
    changed = read("manifest_masks", table("image,mask,spacing", *rows), small).samples.digests
    assert (again == digests, changed[0] != digests[0], changed[1:] == digests[1:]) == (True, True, True)
    rows[1] = "scans/1.png,scans/1_truth.png,"
    assert read("manifest_masks", table("image,mask,spacing", *rows), small).samples.pixel_mm is None
    rows[2] = "scans/2.png,scans/2_truth.png,0.7mm"
    with pytest.raises(UserError, match=r"line 4: has the spacing '0\.7mm', not one or two lengths in mm"):
        read("manifest_masks", table("image,mask,spacing", *rows), small)

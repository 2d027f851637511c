"""Folders on disk: what is read of them, in which order, and every fault named with its file and its rule."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, compose_config, read_data
from PIL import Image

from make_data import write_course
from runcard import IGNORED
from runcard.config.schema import DatasetConfig, SplitConfig, parse_section, to_plain
from runcard.data.datamodule import Data
from runcard.data.preprocessing import prepare
from runcard.data.splits import make_split
from runcard.datasets.image_folder import ImageFolder
from runcard.datasets.image_mask import ImageMaskFolder, LungCT
from runcard.errors import UserError

TWO = ("background", "lung")
AUTO = {"kind": "auto", "val_fraction": 0.2, "test_fraction": 0.0, "seed": 0, "group_regex": None}
AUTO |= {"num_folds": 5, "fold": 0}
HEIGHT, WIDTH = 10, 12


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Writes noise as an image file of this mode, and returns its RGB pixels before the change of mode."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return pixels


def mask(path: Path, values: Sequence[int] = (0, 255), size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Writes vertical stripes of the values as a grey file, and returns them."""
    stripes = np.resize(np.repeat(np.array(values, np.uint8), 3), (size[1], size[0]))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stripes).save(path)
    return stripes


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of three good pairs: a, b and c."""
    for stem in "abc":
        photo(tmp_path / "Image" / f"{stem}.png", "L")
        mask(tmp_path / "Mask" / f"{stem}.png")
    return tmp_path


@pytest.fixture
def bones(tmp_path: Path) -> Path:
    """A folder of two classes with two good images each."""
    for name in ("AFF/1", "AFF/2", "NFF/1", "NFF/2"):
        photo(tmp_path / f"{name}.png", "L")
    return tmp_path


def complaint(make: Callable[[], object]) -> str:
    """Returns what the UserError says that reading all of a folder ends in."""
    with pytest.raises(UserError) as caught:
        prepare(make(), image_size_px=16, channels=1)
    return str(caught.value).partition("\nruncard audit lists all faults")[0]


# Image/ and Mask/


def test_pairs_are_found_by_stem_in_natural_order(tmp_path):
    pixels = {}
    for stem, suffix in (("Im10", ".bmp"), ("Im2", ".png"), ("Im1", ".tif")):
        pixels[stem] = photo(tmp_path / "lungs" / "Image" / f"{stem}{suffix}")
        mask(tmp_path / "lungs" / "Mask" / f"{stem}.png", size=(WIDTH, HEIGHT))
    dataset = ImageMaskFolder(str(tmp_path), "lungs", TWO)
    assert dataset.ids == ["Im1", "Im2", "Im10"]
    assert [tuple(p.name for p in files) for files in dataset.files][2] == ("Im10.bmp", "Im10.png")
    for i, stem in enumerate(dataset.ids):
        image, target, name = dataset[i]
        assert name == stem
        assert np.array_equal(image, pixels[stem])
        assert target.shape == (HEIGHT, WIDTH)
        assert set(np.unique(target)) == {0, 1}
    assert dataset.given_split is None
    assert len(dataset) == 3


def test_root_may_be_the_folder_itself_or_a_home(pairs, monkeypatch):
    monkeypatch.setenv("HOME", str(pairs.parent))
    assert ImageMaskFolder(str(pairs), None, TWO).ids == ["a", "b", "c"]
    assert ImageMaskFolder(f"~/{pairs.name}", None, TWO).ids == ["a", "b", "c"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


# What is done to the folder of three good pairs -> the file that must be named, and words of the rule.
FAULTS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("unpaired image", lambda f: photo(f / "Image" / "d.png"), "Image/d.png", "no mask with this stem in Mask/"),
    ("unpaired mask", lambda f: mask(f / "Mask" / "d.png"), "Mask/d.png", "no image with this stem in Image/"),
    ("stem twice", lambda f: photo(f / "Image" / "b.bmp"), "Image", "several files share a stem.*: b"),
    ("zero bytes", lambda f: (f / "Image" / "b.png").write_bytes(b""), "Image/b.png", "the file is empty"),
    ("truncated image", lambda f: cut(f / "Image" / "b.png"), "Image/b.png", "damaged or truncated"),
    ("truncated mask", lambda f: cut(f / "Mask" / "b.png"), "Mask/b.png", "damaged or truncated"),
    ("text", lambda f: (f / "Image" / "b.png").write_text("<html>"), "Image/b.png", "not an image that can be read"),
    ("sizes", lambda f: mask(f / "Mask" / "b.png", size=(9, 8)), "Mask/b.png", "of one size, got 12×10 and 9×8 pixels"),
    ("photograph", lambda f: photo(f / "Mask" / "b.png"), "Mask/b.png", r"not a mask: .*0…1, or 0 and 255, but"),
    ("a third class", lambda f: mask(f / "Mask" / "b.png", (0, 1, 2)), "Mask/b.png", "has 3 values: 0, 1, 2"),
]


@pytest.mark.parametrize(("damage", "file", "rule"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_of_a_pair_names_its_file_and_the_rule(damage, file, rule, pairs):
    damage(pairs)
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    assert len(said.splitlines()) == 1, "only the faulty file is complained of"
    assert said.startswith(f"{pairs / file}: ")
    assert re.search(rule, said)


def test_all_faults_of_a_folder_of_pairs_come_together(pairs):
    photo(pairs / "Image" / "d.png")
    mask(pairs / "Mask" / "e.png")
    (pairs / "Image" / "a.png").write_bytes(b"")
    cut(pairs / "Mask" / "b.png")
    mask(pairs / "Mask" / "c.png", size=(3, 3))
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    named = {line.partition(": ")[0].removeprefix(f"{pairs}/") for line in said.splitlines()}
    assert named == {"Image/d.png", "Mask/e.png", "Image/a.png", "Mask/b.png", "Mask/c.png"}


def test_damaged_files_of_a_folder_come_together_in_order(pairs):
    (pairs / "Image" / "c.png").write_bytes(b"")
    cut(pairs / "Image" / "a.png")
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO)).splitlines()
    assert [line.partition(": ")[0] for line in said] == [str(pairs / "Image" / f"{s}.png") for s in "ac"]


def test_of_very_many_faults_the_first_twenty_are_shown(tmp_path):
    for i in range(25):
        photo(tmp_path / "Image" / f"{i}.png", "L")
        mask(tmp_path / "Mask" / f"{i}.png", size=(3, 3))
    said = complaint(lambda: ImageMaskFolder(str(tmp_path), None, TWO)).splitlines()
    assert len(said) == 21
    assert said[-1] == "… and 5 more."


@pytest.mark.parametrize("kind", ["Image", "Mask"])
def test_an_empty_or_missing_folder_of_pairs_is_named(kind, pairs):
    for path in (pairs / kind).iterdir():
        path.unlink()
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    assert said.startswith(f"{pairs / kind}: no images in this folder (.png, .jpg")
    (pairs / kind).rmdir()
    (pairs / "notes.txt").touch()
    left = "Mask" if kind == "Image" else "Image"
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    assert said == (
        f"{pairs}: no data here, or up to 4 folders below, that look like Image/1.png and Mask/1.png, "
        "or train/images/1.png and train/masks/1.png (a mask's folder may be masks, labels or annotations; "
        f"other names and places: dataset=manifest_masks, a table). There is: {left}/, notes.txt."
    )


def test_masks_of_three_grey_values_are_read_by_them(tmp_path):
    photo(tmp_path / "Image" / "a.png", "L")
    stripes = mask(tmp_path / "Mask" / "a.png", (0, 127, 255))
    three = ("background", "right", "left")
    said = complaint(lambda: ImageMaskFolder(str(tmp_path), None, three))
    assert said == (
        f"{tmp_path / 'Mask' / 'a.png'}: not a mask: it must hold class indices 0…2, but has 3 values: 0, 127, 255. "
        "Replace it or, if these are the classes: 'dataset.mask_values=[0,127,255]'"
    )
    dataset = ImageMaskFolder(str(tmp_path), None, three, mask_values=[0, 255, 127])
    assert np.array_equal(dataset[0][1], np.select([stripes == 0, stripes == 255], [0, 1], 2))
    assert dataset.on_disk.masks == "nearest of 0, 255, 127"


@pytest.mark.parametrize(
    ("masks", "config", "printed"),
    [
        (
            [(0, 1, 2)],
            [],
            "'dataset.classes=[background,class1,class2]' dataset.positive=null 'dataset.mask_values=[0,1,2]'",
        ),
        # one mask alone, of 0 and 2, would be read with mask_values=[0,2], and one is valid with two classes
        (
            [(0, 1), (0, 2), (0, 3), (0,)],
            [],
            "'dataset.classes=[background,class1,class2,class3]' dataset.positive=null 'dataset.mask_values=[0,1,2,3]'",
        ),
        (
            [(0, 127), (0, 255)],
            [],
            "'dataset.classes=[background,class1,class2]' dataset.positive=null 'dataset.mask_values=[0,127,255]'",
        ),
        ([(0, 1)], ["dataset.mask_values=[0,255]"], "'dataset.mask_values=[0,1]'"),
        (
            [(0, 1, 2, 255)],
            ["dataset.ignore_value=255"],
            "'dataset.classes=[background,class1,class2]' dataset.positive=null 'dataset.mask_values=[0,1,2]'",
        ),
        (
            [(0, 1, 2)],
            ["dataset.classes=[a,b,c]", "dataset.positive=c", "dataset.mask_values=[0,127,255]"],
            "'dataset.mask_values=[0,1,2]'",
        ),
    ],
)
def test_the_printed_overrides_read_the_masks(masks, config, printed, tmp_path):
    values = sorted({value for each in masks for value in each})
    drawn = []
    for i, each in enumerate(masks * 2):
        photo(tmp_path / "Image" / f"{i}.png", "L", (64, 64))
        drawn.append(np.searchsorted(values, mask(tmp_path / "Mask" / f"{i}.png", each, (64, 64))))
    given = ["dataset=image_mask", f"dataset.root={tmp_path}", "dataset.image_size_px=64", *config]

    def read(*overrides: str) -> Data:
        dataset = parse_section(DatasetConfig, to_plain(compose_config(*given, *overrides).dataset))
        return read_data(dataset)

    with pytest.raises(UserError, match="not a mask") as caught:
        read()
    lines = [line for line in str(caught.value).splitlines() if "not a mask" in line]
    assert {line.partition("Replace it or, if these are the classes: ")[2] for line in lines} == {printed}
    found = read(*shlex.split(printed)).samples.targets
    assert np.array_equal(np.where(found == IGNORED, len(values) - 1, found), drawn)


def test_a_photograph_among_masks_is_not_taken_for_classes(pairs):
    photo(pairs / "Mask" / "b.png", "L")
    assert complaint(lambda: ImageMaskFolder(str(pairs), None, TWO)).endswith(
        "Replace it; or is it an image, with the folders of images and masks exchanged?"
    )


@pytest.mark.parametrize("wrong", [[0], [0, 0], [0, "a"], [0, -1], "01", 7])
def test_mask_values_must_be_one_per_class(wrong, pairs):
    with pytest.raises(ValueError, match=r"^mask_values must be "):
        ImageMaskFolder(str(pairs), None, TWO, mask_values=wrong)


@pytest.mark.parametrize(("wrong", "mask_values"), [(1, None), (7, [0, 7]), (-1, None), ("a", None), (2.5, None)])
def test_ignore_value_must_be_no_class(wrong, mask_values, pairs):
    with pytest.raises(ValueError, match=r"^ignore_value must "):
        ImageMaskFolder(str(pairs), None, TWO, mask_values=mask_values, ignore_value=wrong)


@pytest.mark.parametrize("wrong", [[0], [5, 5], [9, 1], [0, "a"], [0, 1, 2], "01", 7, None, [0, float("inf")]])
def test_the_window_must_be_black_and_white(wrong, pairs):
    with pytest.raises(ValueError, match=r"^window must be two numbers, \[black, white\], black below white, got"):
        ImageMaskFolder(str(pairs), None, TWO, window=wrong)


# The lung CT slices in the package


def test_the_lung_ct_has_109_slices_of_two_patients():
    dataset = LungCT(TWO)
    assert len(dataset.ids) == len(set(dataset.ids)) == 109
    assert [sum(name.startswith(p) for name in dataset.ids) for p in ("patient1_", "patient2_")] == [48, 61]
    image, target, name = dataset[30]
    assert name == "patient1_slice30"
    assert image.ndim == 2
    assert image.shape == target.shape
    assert set(np.unique(target)) == {0, 1}


def test_the_lung_ct_is_split_by_patient():
    config = parse_section(SplitConfig, to_plain(compose_config("dataset=lung_ct").dataset.split))
    split, groups = make_split(LungCT(TWO).ids, None, None, config)
    sides = {part: {groups[i] for i in members} for part, members in split.items()}
    assert sorted(map(sorted, sides.values())) == [[], ["patient1"], ["patient2"]]
    assert len(split["train"]) + len(split["val"]) == 109


# One folder per class


def test_classes_are_the_folders_in_natural_order(tmp_path):
    for name in ("grade10/Im10", "grade10/Im2", "grade2/Im1", ".hidden/Im1"):
        photo(tmp_path / "bones" / f"{name}.png")
    dataset = ImageFolder(str(tmp_path), "bones", None)
    assert dataset.classes == ["grade2", "grade10"]
    assert dataset.ids == ["grade2/Im1.png", "grade10/Im2.png", "grade10/Im10.png"]
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 1, 1]
    assert dataset.given_split is None


def test_named_classes_give_the_order_and_the_choice(bones):
    photo(bones / "Other" / "1.png")
    dataset = ImageFolder(str(bones), None, ["NFF", "AFF"])
    assert dataset.classes == ["NFF", "AFF"]
    assert [dataset[i][1:] for i in range(len(dataset))] == [
        (0, "NFF/1.png"),
        (0, "NFF/2.png"),
        (1, "AFF/1.png"),
        (1, "AFF/2.png"),
    ]


@pytest.mark.parametrize("validation", ["validation", "val", "Validation"])
def test_given_folders_are_the_split(validation, tmp_path):
    for name in (
        "train/A/1",
        "train/B/1",
        "train/B/2",
        f"{validation}/A/1",
        f"{validation}/B/1",
        "test/A/7",
        "test/B/7",
    ):
        photo(tmp_path / f"{name}.png", "L")
    dataset = ImageFolder(str(tmp_path), None, None)
    assert dataset.classes == ["A", "B"]
    found = {dataset.ids[i]: (dataset.given_split[i], dataset[i][1]) for i in range(len(dataset))}
    assert found == {
        "train/A/1.png": ("train", 0),
        "train/B/1.png": ("train", 1),
        "train/B/2.png": ("train", 1),
        f"{validation}/A/1.png": ("val", 0),
        f"{validation}/B/1.png": ("val", 1),
        "test/A/7.png": ("test", 0),
        "test/B/7.png": ("test", 1),
    }


def emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


CLASS_FAULTS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("missing", lambda f: (f / "AFF").rename(f / "AF"), "", "no class folder 'AFF', found AF, NFF.*mean 'AF'"),
    (
        "two fit",
        lambda f: [(f / "AFF").rename(f / "AFF1"), photo(f / "AFF2/1.png")],
        "",
        "several .* 'AFF': AFF1, AFF2",
    ),
    ("empty", lambda f: emptied(f / "AFF"), "AFF", r"no images in this folder \(.png"),
    ("zero bytes", lambda f: (f / "AFF" / "1.png").write_bytes(b""), "AFF/1.png", "the file is empty"),
    ("truncated", lambda f: cut(f / "NFF" / "2.png"), "NFF/2.png", "damaged or truncated"),
    ("text", lambda f: (f / "NFF" / "2.png").write_text("hello"), "NFF/2.png", "not an image that can be read"),
]


@pytest.mark.parametrize(("damage", "file", "rule"), [f[1:] for f in CLASS_FAULTS], ids=[f[0] for f in CLASS_FAULTS])
def test_a_fault_of_a_class_folder_names_its_file_and_the_rule(damage, file, rule, bones):
    damage(bones)
    said = complaint(lambda: ImageFolder(str(bones), None, ["AFF", "NFF"]))
    assert len(said.splitlines()) == 1
    assert said.startswith(f"{bones / file}: ")
    assert re.search(rule, said)


def test_all_faults_of_class_folders_come_together(bones):
    (bones / "Empty").mkdir()
    (bones / "AFF" / "1.png").write_bytes(b"")
    said = complaint(lambda: ImageFolder(str(bones), None, ["AFF", "NFF", "Empty", "Lost", "Gone"]))
    assert len(said.splitlines()) == 4
    for words in (
        "AFF/1.png: the file is empty",
        "Empty: no images",
        "no class folder 'Lost'",
        "no class folder 'Gone'",
    ):
        assert words in said


def test_a_missing_train_folder_is_named(tmp_path):
    photo(tmp_path / "validation" / "A" / "1.png")
    assert "has validation but no train folder" in complaint(lambda: ImageFolder(str(tmp_path), None, None))


def test_two_folders_for_one_split_are_named(tmp_path):
    for part in ("train", "val", "validation"):
        photo(tmp_path / part / "A" / "1.png")
    said = complaint(lambda: ImageFolder(str(tmp_path), None, None))
    assert said == f"{tmp_path}: val/ and validation/ are both for val. Rename one of them."


def test_a_class_without_a_folder_among_the_validation_images_is_named(tmp_path):
    for name in ("train/A/1", "train/B/1", "validation/A/1"):
        photo(tmp_path / f"{name}.png")
    said = complaint(lambda: ImageFolder(str(tmp_path), None, None))
    assert said.startswith(f"{tmp_path / 'validation'}: no class folder 'B', found A.")


def test_a_class_finds_the_one_folder_that_contains_its_name(tmp_path):
    for name in ("train/Mel/1", "train/Nevi/1", "validation/mel/1", "validation/NEVI/1", "validation/Other/1"):
        photo(tmp_path / f"{name}.png")
    dataset = ImageFolder(str(tmp_path), None, ["Mel", "Nev"])
    assert [dataset[i][1:] for i in range(4)] == [
        (0, "train/Mel/1.png"),
        (1, "train/Nevi/1.png"),
        (0, "validation/mel/1.png"),
        (1, "validation/NEVI/1.png"),
    ]
    assert dataset.on_disk.layout == "class folders in train/ and validation/ (Nev in NEVI/)"
    assert dataset.on_disk.left_out == ["validation/Other/"]


def test_a_folder_of_the_class_name_goes_before_one_that_contains_it(tmp_path):
    for name in ("Abnormal", "Normal"):
        photo(tmp_path / name / "1.png")
    dataset = ImageFolder(str(tmp_path), None, ["normal", "abnormal"])
    assert dataset.ids == ["Normal/1.png", "Abnormal/1.png"]


def test_two_classes_on_one_folder_are_a_fault(tmp_path):
    photo(tmp_path / "Nevi" / "1.png")
    said = complaint(lambda: ImageFolder(str(tmp_path), None, ["Nev", "evi"]))
    assert (
        said
        == f"{tmp_path / 'Nevi'}: the classes 'Nev' and 'evi' both find this folder. Give each class one of its own."
    )


# Flat files


def flat(folder: Path, *names: str) -> Path:
    for name in names:
        photo(folder / name, "L")
    return folder


def test_the_class_of_a_flat_file_is_in_its_name(tmp_path):
    flat(tmp_path / "Train", "Mel_10.png", "Mel_2.png", "x_nev.bmp", "Nevmelt.png")
    flat(tmp_path / "test", "1_Mel.png", "1_Nev.png")
    dataset = ImageFolder(str(tmp_path), None, ["Mel", "Nev"])
    found = [(dataset.ids[i], dataset[i][1], dataset.given_split[i]) for i in range(len(dataset))]
    assert found == [
        ("Train/Mel_2.png", 0, "train"),
        ("Train/Mel_10.png", 0, "train"),
        ("Train/Nevmelt.png", 1, "train"),  # the letter case decides where it can
        ("Train/x_nev.bmp", 1, "train"),
        ("test/1_Mel.png", 0, "test"),
        ("test/1_Nev.png", 1, "test"),
    ]
    assert dataset.on_disk.layout == "flat files named by class in Train/ and test/"


def test_a_flat_file_of_no_class_or_of_two_is_a_fault(tmp_path):
    flat(tmp_path, "Mel_1.png", "Nev_1.png", "other.png", "Mel_Nev.png")
    said = complaint(lambda: ImageFolder(str(tmp_path), None, ["Mel", "Nev", "Bcc"])).splitlines()
    fix = "Rename or remove it, or change dataset.classes."
    assert said == [
        f"{tmp_path / 'Mel_Nev.png'}: its name contains several of the classes: Mel, Nev. {fix}",
        f"{tmp_path / 'other.png'}: its name contains none of Mel, Nev, Bcc. {fix}",
        f"{tmp_path}: no image is of the class 'Bcc'. Its name would contain that.",
    ]


def test_flat_files_need_named_classes(tmp_path):
    flat(tmp_path, "a.png", "b.png", "c.png")
    said = complaint(lambda: ImageFolder(str(tmp_path), None, None))
    assert said.startswith(
        f"dataset.classes: {tmp_path} holds flat files (a.png, b.png, …), so the classes must be named"
    )


def test_named_classes_decide_between_loose_images_and_class_folders(bones):
    flat(bones, "overview.png", "scan_left.png", "scan_right.png")
    in_folders = ImageFolder(str(bones), None, ["AFF", "NFF"])
    assert len(in_folders) == 4
    assert in_folders.on_disk.left_out == ["overview.png", "scan_left.png", "scan_right.png"]
    (bones / "overview.png").unlink()
    by_name = ImageFolder(str(bones), None, ["left", "right"])
    assert by_name.ids == ["scan_left.png", "scan_right.png"]
    assert by_name.on_disk.left_out == ["AFF/", "NFF/"]
    for undecided in (None, ["AFF", "left"], ["x", "y"]):
        said = complaint(lambda classes=undecided: ImageFolder(str(bones), None, classes))
        assert said.startswith(f"{bones}: holds both loose images (scan_left.png, …) and class folders (AFF, NFF).")


# From root and folder to the data


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of LAB.md 3, made of phantoms."""
    root = tmp_path_factory.mktemp("home") / "DL_course_data"
    write_course(root, 5)
    return root


TREE = [  # folder, classes, layout, images
    ("Lab1/Skin", ["Mel", "Nev"], "flat files named by class in train/ and test/", 14),
    ("Lab1/Bone", ["AFF", "NFF"], "flat files named by class in train/ and test/", 14),
    ("Lab1/X_ray", [f"C{k}" for k in range(1, 10)], "flat files named by class in train/ and test/", 63),
    ("Lab2/Skin", ["Mel", "Nev"], "class folders in train/ and validation/ (Nev in Nevi/)", 14),
    ("Lab2/Bone", ["AFF", "NFF"], "class folders in train/ and validation/", 14),
]


@pytest.mark.parametrize(("folder", "classes", "layout", "num_images"), TREE, ids=[row[0] for row in TREE])
def test_every_classification_layout_of_the_course_is_found_from_every_root(
    folder, classes, layout, num_images, course
):
    roots = [course, course.parent, course / folder.split("/")[0], course / folder]
    datasets = [ImageFolder(str(root), folder, classes) for root in roots]
    datasets.append(ImageFolder(str(course / folder.lower()).replace("DL", "dl"), folder.upper(), classes))
    for dataset in datasets:
        assert dataset.on_disk.location == course / folder
        assert dataset.on_disk.layout == layout
        assert dataset.on_disk.left_out == []
        assert dataset.ids == datasets[0].ids
        assert len(dataset) == num_images
        assert set(dataset.targets) == set(range(len(classes)))
        assert not dataset.faults


@pytest.mark.parametrize("folder", ["Lab3/X_ray", "Lab3/CT"])
def test_every_layout_of_pairs_of_the_course_is_found_from_every_root(folder, course):
    classes = TWO if folder == "Lab3/X_ray" else ("background", "left", "right")
    for root in (course, course.parent, course / "lab3", course / folder, course / folder.swapcase()):
        dataset = ImageMaskFolder(str(root), folder, classes)
        assert dataset.on_disk.location == course / folder
        assert dataset.on_disk.layout == "Image/ and Mask/"
        assert dataset.ids == [f"Im{i}" for i in range(1, 15)]
        assert set(np.unique(dataset[0][1])) == set(range(len(classes)))


def test_image_and_mask_may_have_any_letter_case_and_are_no_classes(tmp_path):
    for name in ("IMAGE/a.png", "mask/a.png"):
        photo(tmp_path / "lungs" / name, "1")
    assert ImageMaskFolder(str(tmp_path), None, TWO).on_disk.layout == "IMAGE/ and mask/"
    said = complaint(lambda: ImageFolder(str(tmp_path), None, None))
    assert said.startswith(f"{tmp_path}: no data here, or up to 4 folders below, that look like train/Mel/1.jpg")


def test_what_folder_does_not_decide_is_an_error(course):
    said = complaint(lambda: ImageFolder(str(course), None, ["AFF", "NFF"]))
    assert said == (
        f"{course}: holds several folders of data: Lab1/Bone, Lab1/Skin, Lab1/X_ray, Lab2/Bone, Lab2/Skin. "
        "Say which is meant: dataset.folder=Lab2/Skin"
    )
    said = complaint(lambda: ImageFolder(str(course), "Bone", ["AFF", "NFF"]))
    assert "fit dataset.folder=Bone: Lab1/Bone, Lab2/Bone. Say which" in said


def test_a_folder_that_is_not_there_is_never_replaced_by_another(course, tmp_path):
    """Lab3/Bone must not become Lab2/Bone because that ends alike."""
    said = complaint(lambda: ImageFolder(str(course), "Lab3/Bone", ["AFF", "NFF"]))
    assert said == (
        f"dataset.folder=Lab3/Bone: no such data in {course}, found Lab1/Bone, Lab1/Skin, Lab1/X_ray, Lab2/Bone, "
        "Lab2/Skin. Set dataset.folder to one of these. Did you mean 'Lab2/Bone'?"
    )


def test_a_root_that_is_not_there_is_told_with_what_is(bones):
    said = complaint(lambda: ImageFolder(str(bones / "AFG" / "x"), None, None))
    assert said == (
        f"{bones / 'AFG' / 'x'}: no such folder. dataset.root must be the folder of the data or one above it; {bones} "
        "holds AFF, NFF. Did you mean 'AFF'?"
    )


def test_a_stray_figure_above_the_data_does_not_hide_them(tmp_path):
    flat(tmp_path, "figure.png")
    for name in ("AFF/1", "NFF/1"):
        photo(tmp_path / "Lab2" / "Bone" / f"{name}.png")
    assert ImageFolder(str(tmp_path), "Lab2/Bone", None).classes == ["AFF", "NFF"]


# The images beside the checkout

DATA = ROOT.parent / "shared" / "data"
REAL = [
    ("Lab2/Bone", ["Normal", "Osteoporosis"], "class folders in train/ and validation/", (272, 68)),
    ("Lab2/Skin", ["Mel", "Nev"], "class folders in train/ and validation/ (Nev in Nevi/)", (160, 40)),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not here")
@pytest.mark.parametrize(("folder", "classes", "layout", "counts"), REAL)
def test_a_lab_config_finds_real_images_without_the_courses_tree(folder, classes, layout, counts):
    dataset = ImageFolder(str(DATA), folder, classes)
    assert dataset.on_disk.location == DATA / folder.split("/")[1]
    assert dataset.on_disk.layout == layout
    assert tuple(dataset.given_split.count(part) for part in ("train", "val")) == counts


@pytest.mark.skipif(not DATA.is_dir(), reason="the images are not here")
def test_the_lung_config_finds_real_films():
    dataset = ImageMaskFolder(str(DATA), "Lab3/X_ray", TWO)
    assert len(dataset) == 234
    assert set(np.unique(dataset[0][1])) == {0, 1}


def test_what_is_not_read_is_told_however_deep_or_strange(bones):
    photo(bones / "AFF" / "patient7" / "9.png")
    (bones / "AFF" / "8.webp").write_bytes(b"RIFF")
    (bones / "notes.txt").write_text("read me")
    left_out = ImageFolder(str(bones), None, ["AFF", "NFF"]).on_disk.left_out
    assert left_out == ["AFF/patient7/", "1 × .txt", "1 × .webp"]


def test_the_longest_class_in_a_name_counts(tmp_path):
    root = flat(tmp_path, "C1_3.jpg", "C12_3.jpg", "C2_1.jpg")
    dataset = ImageFolder(str(root), None, ["C1", "C2", "C12"])
    assert {path.name: target for (path,), target in zip(dataset.files, dataset.targets, strict=True)} == {
        "C1_3.jpg": 0,
        "C2_1.jpg": 1,
        "C12_3.jpg": 2,
    }


@pytest.mark.parametrize("names", [("Training", "valid"), ("training", "Validation")])
def test_other_names_of_the_splits(names, tmp_path):
    for name in names:
        photo(tmp_path / name / "A" / "1.png")
        photo(tmp_path / name / "B" / "1.png")
    assert ImageFolder(str(tmp_path), None, None).given_split == ["train"] * 2 + ["val"] * 2


def test_a_root_that_is_no_path_and_classes_that_are_none():
    with pytest.raises(ValueError, match="root must be the folder of the data or one above it, got null"):
        ImageFolder(None, None, None)
    with pytest.raises(UserError, match="2024: no such folder"):
        ImageFolder(2024, None, None)
    with pytest.raises(ValueError, match=r"classes must be a list of names, \[a,b\], got \[\]"):
        ImageFolder(".", None, [])


def test_a_file_name_that_cannot_be_written_down_is_told(bones):
    photo(bones / "AFF" / "1.png").tofile(os.fsencode(bones / "AFF") + b"/M\xe9lanome.png")
    with pytest.raises(UserError, match="holds signs that cannot be printed"):
        ImageFolder(str(bones), None, ["AFF", "NFF"])


@pytest.mark.parametrize("root", ["~nobody_of_this_name", "a" * 300])
def test_a_root_that_cannot_be_is_told(root):
    with pytest.raises(UserError, match=r"no such (user|folder)"):
        ImageFolder(root, None, None)


def test_links_to_themselves_and_pipes_are_no_folders(bones):
    (bones / "loop").symlink_to("loop")
    os.mkfifo(bones / "AFF" / "pipe")
    source = ImageFolder(str(bones), None, ["AFF", "NFF"])
    assert source.on_disk.left_out[-1] == "2 × a file without suffix"


@pytest.mark.parametrize("name", ["a\udcff", "a\nb"])
def test_a_folder_name_that_cannot_be_written_down_is_told(name, bones):
    (bones / name).mkdir()
    with pytest.raises(UserError, match="holds signs that cannot be printed") as caught:
        ImageFolder(str(bones), None, None)
    assert str(caught.value).isprintable()


def test_a_file_name_that_cannot_be_written_down_is_left_out_in_other_words(bones):
    (bones / "a\udcff.\udcff").touch()
    assert all(text.isprintable() for text in ImageFolder(str(bones), None, None).on_disk.left_out)


def test_a_window_that_shows_nothing_is_refused(tmp_path):
    for name in ("A", "B"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.linspace(0, 1, WIDTH * HEIGHT, dtype=np.float32).reshape(HEIGHT, WIDTH)).save(
            tmp_path / name / "1.tif"
        )
    with pytest.raises(UserError, match=r"all one grey under dataset.window=\[0, 65535\], its values are 0 to 1"):
        prepare(ImageFolder(str(tmp_path), None, None), 8, 1)


# Usual names, and splits of pairs


@pytest.mark.parametrize("names", [("images", "masks"), ("IMGS", "Labels"), ("img", "annotations")])
@pytest.mark.parametrize("suffix", ["", "_mask", "_seg"])
def test_pairs_under_their_usual_names(tmp_path, names, suffix):
    for stem in ("a", "b"):
        photo(tmp_path / names[0] / f"{stem}.png", "L")
        mask(tmp_path / names[1] / f"{stem}{suffix}.png")
    dataset = ImageMaskFolder(str(tmp_path), None, TWO)
    assert dataset.ids == ["a", "b"]
    assert dataset.faults == []
    assert dataset.files[0][1].name == f"a{suffix}.png"


def test_pairs_with_given_splits(tmp_path):
    for part, stems in (("train", "ab"), ("valid", "c"), ("test", "ad")):
        for stem in stems:
            photo(tmp_path / part / "images" / f"{stem}.png", "L")
            mask(tmp_path / part / "masks" / f"{stem}.png")
    dataset = ImageMaskFolder(str(tmp_path), None, TWO)
    assert dataset.ids == ["train/a", "train/b", "valid/c", "test/a", "test/d"]
    assert dataset.given_split == ["train", "train", "val", "test", "test"]
    assert (
        dataset.on_disk.layout
        == "train/images/ and train/masks/; valid/images/ and valid/masks/; test/images/ and test/masks/"
    )
    (tmp_path / "valid" / "masks").rename(tmp_path / "valid" / "other")
    dataset = ImageMaskFolder(str(tmp_path), None, TWO)
    assert [fault.check for fault in dataset.faults] == ["layout"]


def test_validation_is_drawn_from_train_where_the_folders_have_none(tmp_path):
    for part, number in (("train", 10), ("test", 4)):
        for i in range(number):
            photo(tmp_path / part / "AB"[i % 2] / f"{i}.png", "L")
    dataset = ImageFolder(str(tmp_path), None, None)
    given = parse_section(SplitConfig, AUTO, "dataset.split.")
    split, _ = make_split(dataset.ids, dataset.targets, dataset.given_split, given)
    assert [dataset.given_split[i] for i in split["test"]] == ["test"] * 4
    assert {dataset.given_split[i] for i in (*split["train"], *split["val"])} == {"train"}
    assert (len(split["train"]), len(split["val"])) == (8, 2)

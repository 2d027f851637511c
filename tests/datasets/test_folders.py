"""Folders on disk: what is read of them, in which order, and every fault named with its file and its rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import card
from PIL import Image

from runcard.data import prepare
from runcard.datasets.class_folders import ClassFolders
from runcard.datasets.image_mask import ImageMaskFolder, LungCT
from runcard.errors import UserError
from runcard.images import list_images, read_image, read_mask
from runcard.splits import make_split

TWO = ("background", "lung")
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
    return str(caught.value)


# Reading single files


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_an_image_of_any_8_bit_mode_is_grey_or_rgb(mode, tmp_path):
    path = tmp_path / ("x.jpg" if mode in ("CMYK", "YCbCr") else "x.png")
    pixels = photo(path, mode)
    image = read_image(path)
    assert image.dtype == np.uint8
    assert image.shape == ((HEIGHT, WIDTH) if mode in ("1", "L", "LA") else (HEIGHT, WIDTH, 3))
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(image, pixels)
    if mode in ("L", "LA"):
        assert np.array_equal(image, np.asarray(Image.fromarray(pixels).convert("L")))
    if mode == "1":
        assert set(np.unique(image)) == {0, 255}


@pytest.mark.parametrize(
    ("values", "num_classes", "expected"),
    [
        ((0, 255), 2, (0, 1)),
        ((0, 1), 2, (0, 1)),
        ((0,), 2, (0,)),
        ((255,), 2, (1,)),
        ((1,), 2, (1,)),
        ((0, 1, 2), 3, (0, 1, 2)),
        ((0, 2), 3, (0, 2)),
        ((0, 3, 1, 2), 4, (0, 3, 1, 2)),
    ],
)
def test_a_mask_becomes_class_indices(values, num_classes, expected, tmp_path):
    mask(tmp_path / "x.png", values)
    found = read_mask(tmp_path / "x.png", num_classes)
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask(tmp_path / "expected.png", expected))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA"])
def test_a_black_and_white_mask_may_have_any_mode(mode, tmp_path):
    stripes = mask(tmp_path / "x.png")
    Image.fromarray(stripes).convert(mode).save(tmp_path / "x.png")
    assert np.array_equal(read_mask(tmp_path / "x.png", 2), stripes // 255)


def test_a_palette_mask_is_read_by_index_not_by_colour(tmp_path):
    stripes = mask(tmp_path / "x.png", (0, 1, 2))
    image = Image.fromarray(stripes)
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    assert image.mode == "P"
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_mask(tmp_path / "x.png", 3), stripes)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_truncated_file_is_never_read(suffix, part, tmp_path):
    path = tmp_path / f"x.{suffix}"
    photo(path, size=(40, 40))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: .*Replace or remove it"):
        read_image(path)


@pytest.mark.parametrize(
    "name",
    [
        "grey.png",
        "grey.tif",
        "colour.png",
    ],
)
def test_a_16_bit_image_is_refused(name, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2**16, (HEIGHT, WIDTH, 3)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / name), pixels if name.startswith("colour") else pixels[..., 0])
    with pytest.raises(UserError, match=rf"{name}: .*8 bits per channel. Convert it to 8-bit first"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_an_image_of_more_than_a_byte_per_pixel_is_refused(dtype, tmp_path):
    Image.fromarray(np.ones((HEIGHT, WIDTH), dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x.tif: .*8 bits per channel"):
        read_image(tmp_path / "x.tif")


def test_files_are_listed_in_natural_order(tmp_path):
    for name in ("Im10.png", "Im2.PNG", "Im1.jpeg", ".hidden.png", "Thumbs.db", "notes.txt"):
        (tmp_path / name).touch()
    assert [p.name for p in list_images(tmp_path)] == ["Im1.jpeg", "Im2.PNG", "Im10.png"]


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


def jpeg_mask(folder: Path) -> None:
    (folder / "Mask" / "b.png").unlink()
    stripes = np.resize(np.repeat(np.array([0, 255], np.uint8), 5), (HEIGHT, WIDTH))
    Image.fromarray(stripes).save(folder / "Mask" / "b.jpg", quality=60)


# What is done to the folder of three good pairs -> the file that must be named, and words of the rule.
FAULTS: list[tuple[str, Callable[[Path], object], str, str]] = [
    ("unpaired image", lambda f: photo(f / "Image" / "d.png"), "Image/d.png", "no mask with this stem in .*Mask"),
    ("unpaired mask", lambda f: mask(f / "Mask" / "d.png"), "Mask/d.png", "no image with this stem in .*Image"),
    ("stem twice", lambda f: photo(f / "Image" / "b.bmp"), "Image", "several files share a stem.*: b"),
    ("zero bytes", lambda f: (f / "Image" / "b.png").write_bytes(b""), "Image/b.png", "the file is empty"),
    ("truncated image", lambda f: cut(f / "Image" / "b.png"), "Image/b.png", "damaged or truncated"),
    ("truncated mask", lambda f: cut(f / "Mask" / "b.png"), "Mask/b.png", "damaged or truncated"),
    ("text", lambda f: (f / "Image" / "b.png").write_text("<html>"), "Image/b.png", "not an image that can be read"),
    ("sizes", lambda f: mask(f / "Mask" / "b.png", size=(9, 8)), "Mask/b.png", "of one size, got 12×10 and 9×8 pixels"),
    ("photograph", lambda f: photo(f / "Mask" / "b.png"), "Mask/b.png", r"not a mask: .*0…1 or 0 and 255.*\d+ values:"),
    ("JPEG mask", jpeg_mask, "Mask/b.jpg", "not a mask: .*but has .* values"),
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
def test_a_missing_or_empty_folder_of_pairs_is_named(kind, pairs):
    for path in (pairs / kind).iterdir():
        path.unlink()
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    assert said.startswith(f"{pairs / kind}: no images in this folder (.png, .jpg")
    (pairs / kind).rmdir()
    said = complaint(lambda: ImageMaskFolder(str(pairs), None, TWO))
    assert said.startswith(f"{pairs / kind}: no such folder. dataset.root")


def test_both_missing_folders_are_named_at_once(tmp_path):
    said = complaint(lambda: ImageMaskFolder(str(tmp_path / "elsewhere"), None, TWO))
    assert {"Image", "Mask"} == {Path(line.partition(": ")[0]).name for line in said.splitlines()}


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
    split, groups = make_split(LungCT(TWO).ids, None, None, **card("dataset=lung_ct").dataset.split)
    sides = {part: {groups[i] for i in members} for part, members in split.items()}
    assert sorted(map(sorted, sides.values())) == [[], ["patient1"], ["patient2"]]
    assert len(split["train"]) + len(split["val"]) == 109


# One folder per class


def test_classes_are_the_folders_in_natural_order(tmp_path):
    for name in ("grade10/Im10", "grade10/Im2", "grade2/Im1", ".hidden/Im1"):
        photo(tmp_path / "bones" / f"{name}.png")
    dataset = ClassFolders(str(tmp_path), "bones", None)
    assert dataset.classes == ["grade2", "grade10"]
    assert dataset.ids == ["grade2/Im1.png", "grade10/Im2.png", "grade10/Im10.png"]
    assert [dataset[i][1] for i in range(len(dataset))] == [0, 1, 1]
    assert dataset.given_split is None


def test_named_classes_give_the_order_and_the_choice(bones):
    photo(bones / "Other" / "1.png")
    dataset = ClassFolders(str(bones), None, ["NFF", "AFF"])
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
    dataset = ClassFolders(str(tmp_path), None, None)
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
    ("empty", lambda f: emptied(f / "AFF"), "AFF", r"no images in this folder \(.png"),
    ("zero bytes", lambda f: (f / "AFF" / "1.png").write_bytes(b""), "AFF/1.png", "the file is empty"),
    ("truncated", lambda f: cut(f / "NFF" / "2.png"), "NFF/2.png", "damaged or truncated"),
    ("text", lambda f: (f / "NFF" / "2.png").write_text("hello"), "NFF/2.png", "not an image that can be read"),
]


@pytest.mark.parametrize(("damage", "file", "rule"), [f[1:] for f in CLASS_FAULTS], ids=[f[0] for f in CLASS_FAULTS])
def test_a_fault_of_a_class_folder_names_its_file_and_the_rule(damage, file, rule, bones):
    damage(bones)
    said = complaint(lambda: ClassFolders(str(bones), None, ["AFF", "NFF"]))
    assert len(said.splitlines()) == 1
    assert said.startswith(f"{bones / file}: ")
    assert re.search(rule, said)


def test_all_faults_of_class_folders_come_together(bones):
    (bones / "Empty").mkdir()
    (bones / "AFF" / "1.png").write_bytes(b"")
    said = complaint(lambda: ClassFolders(str(bones), None, ["AFF", "NFF", "Empty", "Lost", "Gone"]))
    assert len(said.splitlines()) == 4
    for words in (
        "AFF/1.png: the file is empty",
        "Empty: no images",
        "no class folder 'Lost'",
        "no class folder 'Gone'",
    ):
        assert words in said


def test_a_missing_root_and_a_missing_train_folder_are_named(tmp_path):
    said = complaint(lambda: ClassFolders(str(tmp_path / "nowhere"), "x", None))
    assert said.startswith(f"{tmp_path / 'nowhere' / 'x'}: no such folder. dataset.root")
    photo(tmp_path / "validation" / "A" / "1.png")
    assert "has validation but no train folder" in complaint(lambda: ClassFolders(str(tmp_path), None, None))


def test_a_class_without_a_folder_among_the_validation_images_is_named(tmp_path):
    for name in ("train/A/1", "train/B/1", "validation/A/1"):
        photo(tmp_path / f"{name}.png")
    said = complaint(lambda: ClassFolders(str(tmp_path), None, None))
    assert said.startswith(f"{tmp_path / 'validation'}: no class folder 'B', found A.")

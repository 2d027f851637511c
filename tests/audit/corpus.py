"""Broken and treacherous data folders: clean phantom films as files, each time with one thing done to them.

A case is a row of CASES: what is done to a copy of which clean folder, and what an audit must say of it. A folder may
be treacherous and yet fine: then nothing at all may be said.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from conftest import compose_config
from PIL import Image
from rich.console import Console

from runcard.audit.audit import Audit, audit_data
from runcard.audit.checks import duplicates as of_copies
from runcard.audit.checks import masks as of_masks
from runcard.audit.detectors.near_duplicates import NearDuplicates
from runcard.audit.findings import Finding, of_faults
from runcard.audit.profiles import inspect
from runcard.config.schema import DatasetConfig, parse_config
from runcard.data.datamodule import open_source
from runcard.data.source import Source
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest
from runcard.errors import DataError

WIDTH, HEIGHT = 64, 56  # not square, so that what is turned has another shape
NUM_FILMS = 50  # a fifth of them is a validation split that measures something
HOLDOUT = ("dataset=image_folder", "dataset.split.kind=holdout")
CONFIGS = {  # clean folder -> how a config reads it
    "pairs": ("dataset=lungs",),  # Image/film_00.png and Mask/film_00.png
    "classes": HOLDOUT,  # AFF/film_00.png and NFF/film_01.png
    "parts": ("dataset=image_folder",),  # train/AFF/film_00.png … validation/NFF/film_49.png
    "flat": (*HOLDOUT, "dataset.classes=[AFF,NFF]"),  # AFF_00.png and NFF_01.png
}
BY_PATIENT = r"dataset.split.group_regex='(patient\d+)'"
EXIF_ORIENTATION = 0x0112

Damage = Callable[[Path], object]


class Case(NamedTuple):
    """One folder and what is said of it."""

    name: str
    clean: str  # the folder that it is made from: a key of CONFIGS
    damage: Damage
    errors: str = ""  # checks, as text: exactly these are errors
    others: str = ""  # checks that give a warning or a note, as "outlier:warning": these and perhaps more
    place: str = ""  # part of a place that is named
    overrides: tuple[str, ...] = ()
    is_fine: bool = False  # nothing is said of it


def write_clean(root: Path) -> None:
    """Writes the four clean folders below root."""
    chests = PhantomChest(NUM_FILMS, WIDTH, difficulty=0.3)
    for i in range(NUM_FILMS):
        film, mask, _ = chests[i]
        rows = slice((WIDTH - HEIGHT) // 2, (WIDTH + HEIGHT) // 2)
        save(root / "pairs" / "Image" / f"film_{i:02}.png", film[rows])
        save(root / "pairs" / "Mask" / f"film_{i:02}.png", 255 * mask[rows])
    limbs = PhantomBone(4 * NUM_FILMS, WIDTH, seed=1)  # film 17 of seed 0 is reported as an outlier
    films = [[limbs[i][0][:HEIGHT] for i, t in enumerate(limbs.targets) if t == label] for label in (0, 1)]
    for i in range(NUM_FILMS):
        name, film = limbs.classes[i % 2], films[i % 2][i // 2]
        side = "train" if i < NUM_FILMS - 12 else "validation"
        save(root / "classes" / name / f"film_{i:02}.png", film)
        save(root / "parts" / side / name / f"film_{i:02}.png", film)
        save(root / "flat" / f"{name}_{i:02}.png", film)


def audited(root: Path, overrides: Iterable[str]) -> list[Finding]:
    """Returns what an audit of a folder says, by the config that the overrides give."""
    dataset = _dataset(tuple(overrides)).with_arguments(root=str(root))
    try:
        source = open_source(dataset)
    except DataError as fault:
        return list(of_faults([fault]))
    return audit_of(source, dataset).findings


def audit_of(source: Source, dataset: DatasetConfig) -> Audit:
    """Returns the audit of an open dataset."""
    return audit_data(source, dataset, *inspect(source, Console(file=StringIO())))


def leave_out_costly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silences the two detectors that take a second each, for tests that are not about them."""
    monkeypatch.setattr(of_copies, "find_near_duplicates", lambda *_: NearDuplicates([], 1, 0, 0))
    monkeypatch.setattr(of_masks, "mask_fit", lambda *_: None)


@cache
def _dataset(overrides: tuple[str, ...]) -> DatasetConfig:
    return parse_config(compose_config("dataset.root=.", *overrides))[0].dataset


# What is done to files


def save(path: Path, pixels: np.ndarray, **options: Any) -> None:
    """Writes pixels in the format of the path's suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def load(path: Path) -> np.ndarray:
    """Returns the pixels of a file."""
    return np.asarray(Image.open(path))


def on(pattern: str, change: Damage) -> Damage:
    """Returns what does the change to every file that a pattern finds; the pattern must find some."""

    def damage(folder: Path) -> None:
        paths = sorted(folder.glob(pattern))
        assert paths, pattern
        for path in paths:
            change(path)

    return damage


def pixels(pattern: str, change: Callable[[np.ndarray], np.ndarray], **options: Any) -> Damage:
    """Returns what changes the pixels of every file that a pattern finds, and keeps the format."""
    return on(pattern, lambda path: save(path, change(load(path)), **options))


def copy(source: str, target: str, change: Callable[[np.ndarray], np.ndarray] | None = None, **options: Any) -> Damage:
    """Returns what copies one file over another or to a new name: its bytes, or what change makes of its pixels."""

    def damage(folder: Path) -> None:
        if change is None and Path(source).suffix == Path(target).suffix:
            shutil.copyfile(folder / source, folder / target)
        else:
            film = load(folder / source)
            save(folder / target, film if change is None else change(film), **options)

    return damage


def several(*damages: Damage) -> Damage:
    """Returns what does one thing after the other."""
    return lambda folder: [damage(folder) for damage in damages]


def remove(pattern: str) -> Damage:
    """Returns what removes every file that a pattern finds."""
    return on(pattern, lambda path: path.unlink())


def rename(source: str, target: str) -> Damage:
    """Returns what moves a file or folder."""

    def damage(folder: Path) -> None:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        (folder / source).rename(folder / target)

    return damage


def renamed(pattern: str, old: str, new: str) -> Damage:
    """Returns what replaces a regular expression in the name of every file that a pattern finds."""
    return on(pattern, lambda path: path.rename(path.with_name(re.sub(old, new, path.name))))


def write(name: str, content: bytes = b"") -> Damage:
    """Returns what writes a file of these bytes."""
    return lambda folder: (folder / name).write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def link(target: str, name: str) -> Damage:
    """Returns what makes name a symbolic link to target, in place of what was there."""

    def damage(folder: Path) -> None:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(folder / target)

    return damage


def hard_link(target: str, name: str) -> Damage:
    """Returns what makes name another name of the file target."""
    return several(lambda folder: (folder / name).unlink(missing_ok=True), lambda f: os.link(f / target, f / name))


def to_format(pattern: str, suffix: str, **options: Any) -> Damage:
    """Returns what writes every file that a pattern finds in the format of another suffix, in its place."""

    def change(path: Path) -> None:
        save(path.with_suffix(suffix), load(path), **options)
        path.unlink()

    return on(pattern, change)


def in_format(pattern: str, name: str) -> Damage:
    """Returns what writes every file that a pattern finds in another format, under the same name."""
    return pixels(pattern, lambda film: film, format=name)


# What is done to pixels


def constant(grey: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what leaves an image with a single grey."""
    return lambda film: np.full_like(film, grey)


def sixteen_bit(film: np.ndarray) -> np.ndarray:
    """Returns the film over the whole range of 16 bits."""
    return film.astype(np.uint16) * 257


def photo(film: np.ndarray) -> np.ndarray:
    """Returns a grey picture of something else, at the film's size: a chequered slope."""
    y, x = np.indices(film.shape)
    return (40 + 2 * y + 60 * ((x // 6 + y // 6) % 2)).astype(np.uint8)


def half(film: np.ndarray) -> np.ndarray:
    """Returns the film at half the size, by area averaging."""
    return cv2.resize(film, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


def resized(film: np.ndarray) -> np.ndarray:
    """Returns the film made smaller and large again."""
    return cv2.resize(half(film), film.shape[::-1])


def bright(film: np.ndarray) -> np.ndarray:
    """Returns the film with its greys in the upper part of the range."""
    return (140 + 0.4 * film).astype(np.uint8)


def cropped(film: np.ndarray) -> np.ndarray:
    """Returns the film without a margin of 3 %, at its size."""
    y, x = (round(0.03 * side) for side in film.shape)
    return cv2.resize(film[y:-y, x:-x], film.shape[::-1])


def turned(film: np.ndarray) -> np.ndarray:
    """Returns the film turned by 5°."""
    middle = ((film.shape[1] - 1) / 2, (film.shape[0] - 1) / 2)
    matrix = cv2.getRotationMatrix2D(middle, 5, 1)
    return cv2.warpAffine(film, matrix, film.shape[::-1], borderMode=cv2.BORDER_REPLICATE)


def smoothed(mask: np.ndarray) -> np.ndarray:
    """Returns a mask with in-between greys along its edges."""
    return cv2.GaussianBlur(mask, (3, 3), 0.4)


def with_margin(mask: np.ndarray, grey: int = 128) -> np.ndarray:
    """Returns a mask whose margin has a grey of its own."""
    margin = np.ones(mask.shape, bool)
    margin[4:-4, 4:-4] = False
    return np.where(margin, grey, mask).astype(np.uint8)


def unlabelled_beside_indices(mask: np.ndarray) -> np.ndarray:
    """Returns a mask of class indices with a margin of 255."""
    return with_margin(mask // 255, 255)


def palette(mask: np.ndarray) -> Image.Image:
    """Returns a mask as class indices into a palette, red on black."""
    image = Image.fromarray((mask > 0).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    return image


# What is done to a whole folder


def shuffle_masks(order: Callable[[int], np.ndarray], which: slice = slice(None)) -> Damage:
    """Returns what gives films the masks of others, as zip does with another order of the names."""

    def damage(folder: Path) -> None:
        paths = sorted((folder / "Mask").iterdir())[which]
        masks = [path.read_bytes() for path in paths]
        for path, i in zip(paths, order(len(paths)), strict=True):
            path.write_bytes(masks[i])

    return damage


def name_patients(images_each: int) -> Damage:
    """Returns what names pairs after patients of so many films each."""

    def damage(folder: Path) -> None:
        for side in ("Image", "Mask"):
            for i, path in enumerate(sorted((folder / side).iterdir())):
                path.rename(path.with_name(f"patient{i // images_each}_{i:02}.png"))

    return damage


def copy_all(source: str, target: str) -> Damage:
    """Returns what puts copies of all that is in one folder into another, in place of what was there."""

    def damage(folder: Path) -> None:
        shutil.rmtree(folder / target)
        shutil.copytree(folder / source, folder / target)

    return damage


def remove_folder(*names: str) -> Damage:
    """Returns what removes folders and all in them."""
    return lambda folder: [shutil.rmtree(folder / name) for name in names]


def nothing(folder: Path) -> None:
    """Leaves a folder as it is."""


def move_into(*names: str) -> Damage:
    """Returns what puts all folders into another one, or a copy of them into several."""

    def damage(folder: Path) -> None:
        for source in [path for path in folder.iterdir() if path.is_dir()]:
            for name in names:
                shutil.copytree(source, folder / name / source.name)
            shutil.rmtree(source)

    return damage


def empty_held_out(folder: Path) -> None:
    """Empties the masks of the validation patients, by the split that the config gives."""
    dataset = _dataset(("dataset=lungs", BY_PATIENT)).with_arguments(root=str(folder))
    audit = audit_of(open_source(dataset), dataset)
    for profile in audit.data.of("val"):
        mask = profile.files[1]
        save(mask, 0 * load(mask))


def rotate_by_exif(path: Path) -> None:
    """Stores a film lying, with the tag that says how to stand it up."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6  # turned by 90° clockwise, it is upright
    save(path.with_suffix(".jpg"), np.rot90(load(path)), exif=exif, quality=95)
    path.unlink()


def give_alpha(path: Path) -> None:
    film = Image.open(path)
    film.putalpha(255)
    film.save(path)


def give_palette(path: Path) -> None:
    palette(load(path)).save(path)


def read_only(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)


def beside(folder: Path) -> None:
    """Puts beside the data what systems and people leave there."""
    film = next(folder.rglob("*.png"))
    for place in {folder, film.parent}:
        (place / ".DS_Store").write_bytes(b"\x00\x05")
        (place / "Thumbs.db").write_bytes(b"\x00\x05")
        (place / "notes.txt").write_text("film_03 was taken twice", encoding="utf-8")
        (place / f"._{film.name}").write_bytes(b"\x00\x05")


IMAGE, MASK = "Image/film_07.png", "Mask/film_07.png"
AFF = "AFF/film_08.png"
TRAINED, HELD = "train/AFF/film_08.png", "validation/AFF/film_48.png"

CASES = [
    # files that cannot be read
    Case("a truncated image", "pairs", on(IMAGE, truncate), "truncated", place=IMAGE),
    Case("a truncated mask", "pairs", on(MASK, truncate), "truncated", place=MASK),
    Case("a truncated JPEG", "classes", several(to_format(AFF, ".jpg"), on("AFF/*.jpg", truncate)), "truncated"),
    Case("an image of no bytes", "classes", write(AFF), "empty_file", place=AFF),
    Case("a mask of no bytes", "pairs", write(MASK), "empty_file", place=MASK),
    Case("a text named .png", "classes", write(AFF, b"no image"), "unreadable", place=AFF),
    Case("a GIF named .png", "classes", in_format(AFF, "GIF"), "unreadable", place=AFF),
    Case("a folder named .png", "classes", lambda f: (f / "AFF/x.png").mkdir(), "unreadable", place="x.png"),
    Case("a link that leads nowhere", "classes", link("gone.png", AFF), "unreadable", place=AFF),
    Case(
        "pixels that are not finite",
        "classes",
        several(remove(AFF), lambda f: save(f / "AFF/x.tif", np.full((HEIGHT, WIDTH), np.nan, np.float32))),
        "unreadable",
        place="x.tif",
    ),
    Case(
        "a PNG named .jpg", "classes", renamed(AFF, "png", "jpg"), "", "wrong_extension:warning", "film_08.jpg is PNG"
    ),
    Case("a JPEG named .png", "pairs", in_format(IMAGE, "JPEG"), "", "wrong_extension:warning", "film_07.png is JPEG"),
    # pairs
    Case("a mask is missing", "pairs", remove(MASK), "unpaired", place=IMAGE),
    Case("an image is missing", "pairs", remove(IMAGE), "unpaired", place=MASK),
    Case("masks named otherwise", "pairs", renamed("Mask/*", r"\.", "_of_lungs."), "unpaired", place=IMAGE),
    Case("two masks of one stem", "pairs", copy(MASK, "Mask/film_07.bmp"), "ambiguous_pair", place="Mask"),
    Case("two images of one stem", "pairs", copy(IMAGE, "Image/film_07.bmp"), "ambiguous_pair", place="Image"),
    Case("no image in Image/", "pairs", remove("Image/*"), "no_images", place="Image"),
    Case("no mask in Mask/", "pairs", remove("Mask/*"), "no_images", place="Mask"),
    # layouts
    Case("no Mask/", "pairs", remove_folder("Mask"), "layout"),
    Case("nothing at all", "pairs", remove_folder("Image", "Mask"), "layout"),
    Case("nothing at all, of classes", "flat", remove("*"), "layout"),
    Case(
        "several data sets",
        "pairs",
        move_into("a", "b"),
        "layout",
    ),
    Case("train/ and Training/", "parts", lambda f: shutil.copytree(f / "train", f / "Training"), "layout"),
    Case("validation/ without train/", "parts", remove_folder("train"), "layout"),
    Case("train/ without validation/", "parts", remove_folder("validation"), others="few_images:warning"),
    Case("loose images beside class folders", "classes", copy(AFF, "overview.png"), "layout"),
    Case("an empty class folder", "classes", remove("AFF/*"), "no_images few_positives", place="AFF"),
    Case(
        "a class without a folder",
        "classes",
        rename("AFF", "atypical"),
        "class_folders few_positives",
        overrides=("dataset.classes=[AFF,NFF]",),
    ),
    Case(
        "a class without a folder in validation/",
        "parts",
        remove_folder("validation/AFF"),
        "class_folders few_positives",
        place="validation",
    ),
    Case(
        "a class that two folders fit",
        "classes",
        nothing,
        "class_folders few_positives",
        overrides=("dataset.classes=[AFF,FF]",),
    ),
    Case("a name of no class", "flat", rename("AFF_08.png", "08.png"), "class_in_name", place="08.png"),
    Case(
        "a name of two classes", "flat", rename("AFF_08.png", "AFF_NFF_08.png"), "class_in_name", place="AFF_NFF_08.png"
    ),
    Case("no file of a class", "flat", remove("AFF_*"), "no_images few_positives"),
    # depths
    Case(
        "a window that shows nothing",
        "classes",
        pixels(AFF, lambda film: (film // 8).astype(np.uint16)),
        "window",
        place=AFF,
    ),
    Case("one image of 16 bits", "classes", pixels(AFF, sixteen_bit), "", "mixed_depths:warning", AFF),
    Case(
        "one image of 8 bits",
        "classes",
        several(pixels("*/*", sixteen_bit), pixels(AFF, lambda f: (f // 257).astype(np.uint8))),
        "",
        "mixed_depths:warning",
        AFF,
    ),
    # images
    Case("a black image", "pairs", pixels(IMAGE, constant(0)), "constant_image", place=IMAGE),
    Case("a white image", "classes", pixels(AFF, constant(255)), "constant_image", place=AFF),
    Case(
        "two black images of two classes",
        "classes",
        pixels("*FF/film_0[89].png", constant(0)),
        "constant_image",
        place=AFF,
    ),
    Case("an inverted film", "pairs", pixels(IMAGE, lambda film: 255 - film), "", "inverted:warning", IMAGE),
    Case(
        "five inverted films",
        "classes",
        pixels("*/film_1[0-4].png", lambda film: 255 - film),
        "",
        "inverted:warning",
        "AFF/film_10.png",
    ),
    Case("a photograph among films", "classes", pixels(AFF, photo), "", "outlier:warning", AFF),
    Case(
        "a film turned by 90°",
        "pairs",
        on("*/film_07.png", lambda path: save(path, np.rot90(load(path)))),
        "",
        "outlier:warning",
        IMAGE,
    ),
    # masks
    Case("an image over its mask", "pairs", copy(IMAGE, MASK), "mask_values", place=MASK),
    Case("images for masks", "pairs", copy_all("Image", "Mask"), "mask_values"),
    Case("a mask over its image", "pairs", copy(MASK, IMAGE), "mask_is_image", place=MASK),
    Case("masks over all images", "pairs", copy_all("Mask", "Image"), "mask_is_image", place=MASK),
    Case("a mask that is its image resized", "pairs", copy(IMAGE, MASK, resized), "mask_values", place=MASK),
    Case("a photograph for a mask", "pairs", pixels(MASK, photo), "mask_values", place=MASK),
    Case(
        "three values, two classes",
        "pairs",
        pixels(MASK, lambda mask: np.where(np.arange(WIDTH) < 32, mask // 2, mask)),
        "mask_values",
        place=MASK,
    ),
    Case(
        "class indices that the config does not name",
        "pairs",
        pixels(MASK, lambda mask: np.where(np.arange(WIDTH) < 32, mask // 255, mask // 127)),
        "mask_values",
        place=MASK,
    ),
    Case("a smaller mask", "pairs", pixels(MASK, lambda mask: mask[::2, ::2]), "mask_size", place=MASK),
    Case("a transposed mask", "pairs", pixels(MASK, np.transpose), "mask_size", place=MASK),
    Case("one mask for all", "pairs", shuffle_masks(lambda n: np.zeros(n, int)), "mask_repeated", place="film_00.png"),
    Case("one mask for two", "pairs", copy(MASK, "Mask/film_08.png"), "", "mask_repeated:warning", MASK),
    Case(
        "a mask of which nothing is labelled",
        "pairs",
        pixels(MASK, constant(128)),
        "mask_unlabelled",
        place=MASK,
        overrides=("dataset.ignore_value=128",),
    ),
    Case("class indices beside 255", "pairs", pixels("Mask/*", unlabelled_beside_indices), "mask_values", place=MASK),
    Case("all masks empty", "pairs", pixels("Mask/*", constant(0)), "mask_empty few_positives", place=MASK),
    Case(
        "half of the masks empty",
        "pairs",
        pixels("Mask/*[02468].png", constant(0)),
        "",
        "mask_empty:warning",
        "Mask/film_08.png",
    ),
    Case("two masks empty", "pairs", pixels("Mask/film_0[78].png", constant(0)), "", "mask_empty:note", MASK),
    Case("a full mask", "pairs", pixels(MASK, constant(255)), "", "mask_full:warning", MASK),
    Case("all masks full", "pairs", pixels("Mask/*", constant(255)), "mask_full", place=MASK),
    Case("smooth edges", "pairs", pixels("Mask/*", smoothed), "", "mask_soft:note", MASK),
    Case("masks as JPEG", "pairs", to_format("Mask/*", ".jpg", quality=80), "", "mask_soft:note", "Mask/film_07.jpg"),
    Case(
        "masks of 0 and 1 beside 0 and 255",
        "pairs",
        pixels("Mask/film_0*.png", lambda mask: mask // 255),
        "",
        "mask_encodings:warning",
        MASK,
    ),
    Case(
        "a class that no mask holds",
        "pairs",
        pixels("Mask/*", lambda mask: mask // 255),
        "few_positives",
        "mask_class_absent:warning",
        overrides=("dataset.classes=[background,lung,heart]", "dataset.positive=heart"),
    ),
    Case("masks of an unsorted listing", "pairs", shuffle_masks(np.random.default_rng(0).permutation), "mask_misfit"),
    Case("masks one place on", "pairs", shuffle_masks(lambda n: np.roll(np.arange(n), 1)), "mask_misfit"),
    Case("masks upside down", "pairs", pixels("Mask/*", np.flipud), "mask_misfit"),
    Case(
        "two masks exchanged",
        "pairs",
        shuffle_masks(lambda _: np.array([1, 0]), slice(7, 9)),
        "",
        "mask_misfit:warning",
        MASK,
    ),
    # labels
    Case("five to one", "classes", remove("AFF/film_[1234]*"), "", "imbalance:note"),
    Case(
        "twelve to one",
        "classes",
        several(remove("AFF/film_[1234]*"), remove("AFF/film_0[468]*")),
        "few_positives",
        "imbalance:warning",
    ),
    Case(
        "a name that says the other class",
        "classes",
        rename(AFF, "AFF/nff_08.png"),
        "",
        "label_against_name:warning",
        "nff_08.png",
    ),
    Case("one class as JPEG", "classes", to_format("AFF/*", ".jpg"), "", "class_shortcut:warning"),
    Case(
        "one class in colours",
        "classes",
        pixels("AFF/*", lambda f: np.dstack([f, f, f // 2])),
        "",
        "class_shortcut:warning",
    ),
    Case("one class of another size", "classes", pixels("AFF/*", lambda f: f[2:-2]), "", "class_shortcut:warning"),
    Case(
        "one class of 16 bits",
        "parts",
        pixels("*/AFF/*", sixteen_bit),
        "",
        "class_shortcut:warning mixed_depths:warning",
    ),
    # copies
    Case("a film twice", "parts", copy(TRAINED, "train/AFF/again.png"), "", "duplicates:warning", "again.png [AFF]"),
    Case(
        "a film of validation in training",
        "parts",
        copy(HELD, "train/AFF/again.png"),
        "duplicates_across",
        place="film_48.png [AFF]",
    ),
    Case(
        "the same pixels in another format",
        "parts",
        copy(HELD, "train/AFF/again.bmp"),
        "duplicates_across",
        place="film_48.png [AFF]",
    ),
    Case("validation is training", "parts", copy_all("train", "validation"), "duplicates_across"),
    Case(
        "a film in both classes", "classes", copy(AFF, "NFF/again.png"), "contradicting_labels", place="again.png [NFF]"
    ),
    Case(
        "a film with two masks",
        "pairs",
        several(copy(IMAGE, "Image/again.png"), copy("Mask/film_11.png", "Mask/again.png")),
        "contradicting_labels",
        place=IMAGE,
    ),
    Case(
        "a film again as JPEG",
        "parts",
        copy(HELD, "train/AFF/again.jpg", quality=60),
        "",
        "near_duplicates_across:warning",
    ),
    Case(
        "a film again, cropped",
        "parts",
        copy(HELD, "train/AFF/again.png", cropped),
        "",
        "near_duplicates_across:warning",
    ),
    Case(
        "a film again, turned", "parts", copy(HELD, "train/AFF/again.png", turned), "", "near_duplicates_across:warning"
    ),
    Case(
        "a film again, mirrored",
        "parts",
        copy(HELD, "train/AFF/again.png", np.fliplr),
        "",
        "near_duplicates_across:warning",
    ),
    Case(
        "a film again, on one side",
        "parts",
        copy(TRAINED, "train/AFF/again.jpg", quality=60),
        "",
        "near_duplicates:note",
    ),
    Case(
        "a film again, of the other class",
        "parts",
        copy(TRAINED, "train/NFF/again.jpg", quality=60),
        "",
        "near_duplicates_labels:warning",
    ),
    # split
    Case(
        "patients on both sides",
        "parts",
        renamed("*/*/*", r"film_\d(\d)", r"patient\1_\g<0>"),
        "group_on_both_sides",
        place="patient8 (train and val)",
        overrides=(BY_PATIENT,),
    ),
    Case("names of patients", "pairs", name_patients(5), "", "groups_unnamed:warning", "patient7"),
    Case("too few patients", "pairs", name_patients(5), "", "few_patients:warning", overrides=(BY_PATIENT,)),
    Case(
        "folds of five images, which a comparison unites",
        "pairs",
        nothing,
        overrides=("dataset.split.kind=kfold", "dataset.split.num_folds=10"),
        is_fine=True,
    ),
    Case("a pattern that fits no name", "pairs", nothing, "split", overrides=(BY_PATIENT,)),
    Case(
        "validation a link to training",
        "parts",
        link("train", "validation"),
        "validation_in_training duplicates_across",
    ),
    Case(
        "a file of validation a link",
        "parts",
        link(TRAINED, HELD),
        "validation_in_training duplicates_across",
        place=TRAINED,
    ),
    Case(
        "a file of validation a hard link",
        "parts",
        hard_link(TRAINED, HELD),
        "validation_in_training duplicates_across",
        place=TRAINED,
    ),
    Case(
        "three validation images",
        "parts",
        several(remove("validation/AFF/film_4[0246].png"), remove("validation/NFF/film_4[13579].png")),
        "",
        "few_images:warning few_positives:warning",
    ),
    Case("validation brighter than training", "parts", pixels("validation/*/*", bright), "", "split_differs:warning"),
    Case("validation of another size", "parts", pixels("validation/*/*", half), "", "split_differs:warning"),
    Case(
        "no foreground in validation",
        "pairs",
        several(name_patients(5), empty_held_out),
        "few_positives",
        overrides=(BY_PATIENT,),
    ),
    # treacherous, but fine
    Case("as it is: pairs", "pairs", nothing, is_fine=True),
    Case("as it is: class folders", "classes", nothing, is_fine=True),
    Case("as it is: train/ and validation/", "parts", nothing, is_fine=True),
    Case("as it is: flat files", "flat", nothing, is_fine=True),
    Case("hidden files and texts beside films", "classes", beside, is_fine=True),
    Case("hidden files and texts beside pairs", "pairs", beside, is_fine=True),
    Case(
        "names with spaces, accents and brackets", "pairs", renamed("*/film_0*", "film", "Größe [ü] 肺"), is_fine=True
    ),
    Case("uppercase suffixes", "pairs", renamed("Image/*", "png", "PNG"), is_fine=True),
    Case(
        "folders in another letter case",
        "pairs",
        several(rename("Image", "IMAGE"), rename("Mask", "mask")),
        is_fine=True,
    ),
    Case("data below the root", "parts", move_into("Lab2/Bone"), is_fine=True),
    Case("a folder that may only be read", "classes", read_only, is_fine=True),
    Case("images as JPEG, masks as PNG", "pairs", to_format("Image/*", ".jpg", quality=95), is_fine=True),
    Case("films turned by their EXIF tag", "pairs", on("Image/*", rotate_by_exif), is_fine=True),
    Case("films with alpha", "pairs", on("Image/*", give_alpha), is_fine=True),
    Case("all films of 16 bits", "classes", pixels("*/*", sixteen_bit), is_fine=True),
    Case("masks with a palette", "pairs", on("Mask/*", give_palette), is_fine=True),
    Case("masks of 0 and 1", "pairs", pixels("Mask/*", lambda mask: mask // 255), is_fine=True),
    Case(
        "a margin that nobody labelled",
        "pairs",
        pixels("Mask/*", with_margin),
        overrides=("dataset.ignore_value=128",),
        is_fine=True,
    ),
    Case(
        "class indices beside 255, which nobody labelled",
        "pairs",
        pixels("Mask/*", unlabelled_beside_indices),
        overrides=("dataset.ignore_value=255",),
        is_fine=True,
    ),
    Case("masks of 1 bit", "pairs", pixels("Mask/*", lambda mask: mask > 0), is_fine=True),
    Case("masks in RGB", "pairs", pixels("Mask/*", lambda mask: np.dstack([mask] * 3)), is_fine=True),
    Case("masks of 16 bits", "pairs", pixels("Mask/*", sixteen_bit), is_fine=True),
    Case(
        "films linked from elsewhere",
        "classes",
        several(rename("AFF", "../store"), link("../store", "AFF")),
        is_fine=True,
    ),
    Case(
        "a name that holds the class as part of a word", "classes", renamed("AFF/*", "film", "staffroom"), is_fine=True
    ),
]

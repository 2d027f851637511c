"""Segmentation data on disk: a folder Image/ and a folder Mask/ whose files share their stems."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from runcard.data.image_io import (
    FULL_WINDOW,
    NO_IMAGES,
    OnDisk,
    check_ignore_value,
    check_mask_values,
    check_window,
    list_images,
    meaning_of_masks,
    read_image_and_mask,
    without_suffix,
)
from runcard.data.source import Source
from runcard.datasets.layouts import (
    IMAGE_FOLDERS,
    find_data,
    image_and_mask,
    one_folder_per_split,
    slices_or_fault,
    split_folders,
    subfolders,
)
from runcard.errors import DataError, check_names

EXAMPLE = (
    "Image/1.png and Mask/1.png, or train/images/1.png and train/masks/1.png (a mask's folder may be masks, labels or "
    "annotations; other names and places: dataset=manifest_masks, a table)"
)
EXPECTED = "Name them image or images, and mask, masks, labels or annotations."
MASK_SUFFIXES = ("_mask", "_seg", "_label")  # of a mask's stem


class ImageMaskFolder(Source):
    """Pairs of Image/x.* and Mask/x.*, by file stem, in natural order; layouts.py says where below root they may lie.

    The two folders may have other usual names (images and labels, say), and lie in train, val and test folders, which
    are then the given split. Item i is (image, mask, id): image H×W or H×W×3 at the depth of its file, mask H×W uint8
    class indices, id the stem, after the split's folder where there is one. A NIfTI volume gives an item stem:z for
    each axial slice z, a DICOM file of several frames one for each frame, and is their group.
    window, mask_values and ignore_value: see image_io. A pair that differs in size, or an invalid mask, is reported
    when it is read; faults holds the errors of the folders.
    """

    def __init__(
        self,
        root: str,
        folder: str | None,
        classes: Sequence[str],
        window: Sequence[float] = FULL_WINDOW,
        mask_values: Sequence[int] | None = None,
        ignore_value: int | None = None,
    ) -> None:
        self.classes = check_names("classes", classes)
        self.mask_values = check_mask_values(mask_values, len(self.classes))
        self.ignore_value = check_ignore_value(ignore_value, len(self.classes), self.mask_values)
        limits = check_window(window)
        base = find_data(root, folder, _belonging, EXAMPLE)
        tops = one_folder_per_split(base) if image_and_mask(base) is None else {"": base}
        self.ids, self.files, self.groups, self.faults = [], [], [], []
        given, places, left_out = [], [], []
        for part, top in tops.items():
            pair = image_and_mask(top)
            if pair is None:
                self.faults.append(DataError("layout", top, "has no folder of images and one of masks", EXPECTED))
                continue
            pairs = _pairs(pair[0], pair[1], self.faults)
            for stem, paths in pairs.items():
                images = slices_or_fault(paths, self.faults)
                name = f"{top.name}/{stem}" if part else stem
                self.ids += [f"{name}{which}" for which in images]
                self.files += images.values()
                self.groups += [name] * len(images)
                given += [part] * len(images)
            places.append(" and ".join(f"{path.relative_to(base).as_posix()}/" for path in pair))
            left_out += [f"{p.relative_to(base).as_posix()}/" for p in subfolders(top) if p not in pair]
        if self.groups == self.ids:
            self.groups = None
        if "" not in tops:
            self.given_split = given
            left_out += [f"{path.name}/" for path in subfolders(base) if path not in tops.values()]
        masks = meaning_of_masks(len(self.classes), self.mask_values, self.ignore_value)
        self.on_disk = OnDisk(base, "; ".join(places), left_out, limits, masks, self.ignore_value)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, str]:
        pair = read_image_and_mask(self.files[i], len(self.classes), self.mask_values, self.ignore_value)
        return *pair, self.ids[i]


class LungCT(ImageMaskFolder):
    """The 109 CT slices of two patients that ship with the package (lung_ct/NOTICE.md); the patient is in the id."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(str(files("runcard.datasets") / "lung_ct"), None, classes)


def _belonging(directory: Path) -> list[Path] | None:
    """List the folders of directory that form its layout; None where it holds no pairs."""
    tops = [path for places in split_folders(directory).values() for path in places]
    if any(image_and_mask(top) for top in tops):
        return tops
    return image_and_mask(directory)


def _pairs(image_folder: Path, mask_folder: Path, faults: list[DataError]) -> dict[str, tuple[Path, Path]]:
    """Map each stem to its image and mask; append the folders' errors to faults. A mask may be x_mask or x_seg of x."""
    found = [_by_stem(path, faults) for path in (image_folder, mask_folder)]
    unsure = {stem for paths in found for stem in paths if len(paths[stem]) > 1}
    images, masks = ({stem: p for stem, (p, *_) in paths.items() if stem not in unsure} for paths in found)
    masks = {_stem_of_image(stem, images): path for stem, path in masks.items()}
    if all(found):
        for have, lack, there in ((images, masks, mask_folder), (masks, images, image_folder)):
            what, fix = f"no {_kind(there)} with this stem in {there.name}/", "Add, rename or remove one."
            faults += [DataError("unpaired", have[stem], what, fix) for stem in have if stem not in lack]
    return {stem: (images[stem], masks[stem]) for stem in images if stem in masks}


def _kind(folder: Path) -> str:
    return "image" if folder.name.casefold() in IMAGE_FOLDERS else "mask"


def _stem_of_image(stem: str, images: Collection[str]) -> str:
    """Return the stem of a mask's image: the same, or without a usual suffix where only that is an image's."""
    bare = next((stem.removesuffix(suffix) for suffix in MASK_SUFFIXES if stem.endswith(suffix)), stem)
    return bare if stem not in images and bare in images else stem


def _by_stem(folder: Path, faults: list[DataError]) -> dict[str, list[Path]]:
    """Group the images of folder by stem; append the folder's errors to faults."""
    paths = list_images(folder)
    if not paths:
        faults.append(DataError("no_images", folder, NO_IMAGES, "Is dataset.folder the one that is meant?"))
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(without_suffix(path.name), []).append(path)
    if twice := [stem for stem, several in by_stem.items() if len(several) > 1]:
        what, fix = "several files share a stem, so pairs are ambiguous", "Keep one file of each stem."
        faults.append(DataError("ambiguous_pair", folder, what, fix, f": {', '.join(twice)}"))
    return by_stem

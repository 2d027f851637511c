"""Segmentation data on disk: a folder Image/ and a folder Mask/ whose files share their stems."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from runcard.data.image_io import FULL_WINDOW, NO_IMAGES, OnDisk, check_window, list_images, read_image, read_mask
from runcard.datasets.layouts import find_data, image_and_mask, subfolders
from runcard.errors import DataError, check_integer, check_names


class ImageMaskFolder:
    """Pairs of Image/x.* and Mask/x.*, by file stem, in natural order; layouts.py says where below root they may lie.

    Item i is (image, mask, id): image H×W or H×W×3 at the depth of its file, mask H×W uint8 class indices, id the stem.
    window and mask_values: see image_io. A pair that differs in size, or an invalid mask, is reported when it is
    read; faults holds the errors of the folders.
    """

    given_split = None

    def __init__(
        self,
        root: str,
        folder: str | None,
        classes: Sequence[str],
        window: Sequence[float] = FULL_WINDOW,
        mask_values: Sequence[int] | None = None,
    ) -> None:
        self.classes = check_names("classes", classes)
        self.mask_values = _check_mask_values(mask_values, len(self.classes))
        limits = check_window(window)
        base = find_data(root, folder, image_and_mask, "Image/1.png and Mask/1.png")
        image_folder, mask_folder = pair = image_and_mask(base) or []
        self.faults: list[DataError] = []
        found = [_by_stem(path, self.faults) for path in pair]
        unsure = {stem for paths in found for stem in paths if len(paths[stem]) > 1}
        images, masks = ({stem: p for stem, (p, *_) in paths.items() if stem not in unsure} for paths in found)
        if all(found):
            for have, lack, there in ((images, masks, mask_folder), (masks, images, image_folder)):
                what, fix = f"no {there.name.lower()} with this stem in {there.name}/", "Add, rename or remove one."
                self.faults += [DataError("unpaired", have[stem], what, fix) for stem in have if stem not in lack]
        self.ids = [stem for stem in images if stem in masks]
        self.files = [(images[stem], masks[stem]) for stem in self.ids]
        self.on_disk = OnDisk(
            location=base,
            layout=f"{image_folder.name}/ and {mask_folder.name}/",
            left_out=[f"{path.name}/" for path in subfolders(base) if path not in pair],
            window=limits,
            masks=self._meaning(),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, str]:
        image_path, mask_path = self.files[i]
        image = read_image(image_path)
        mask = read_mask(mask_path, len(self.classes), self.mask_values)
        if image.shape[:2] != mask.shape:
            sizes = " and ".join(f"{a.shape[1]}×{a.shape[0]}" for a in (image, mask))
            what, fix = "image and mask must be of one size", "Export the mask again, at the image's own size."
            raise DataError("mask_size", mask_path, what, fix, f", got {sizes} pixels (width×height)")
        return image, mask, self.ids[i]

    def _meaning(self) -> str:
        if self.mask_values:
            return f"nearest of {', '.join(map(str, self.mask_values))}"
        return "class indices, or nearest of 0 and 255" if len(self.classes) == 2 else "class indices"


class LungCT(ImageMaskFolder):
    """The 109 CT slices of two patients that ship with the package (lung_ct/NOTICE.md); the patient is in the id."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(str(files("runcard.datasets") / "lung_ct"), None, classes)


def _check_mask_values(mask_values: object, num_classes: int) -> list[int] | None:
    """Return mask_values as a list. Raises ValueError where they are not one grey value per class."""
    if mask_values is None:
        return None
    values = list(mask_values) if isinstance(mask_values, Sequence) and not isinstance(mask_values, str) else []
    if len(values) != num_classes or len(set(values)) != num_classes:
        rule = f"null or a list of {num_classes} different grey values, one per class"
        raise ValueError(f"mask_values must be {rule}, got {mask_values!r}")
    return [check_integer("mask_values", value, minimum=0) for value in values]


def _by_stem(folder: Path, faults: list[DataError]) -> dict[str, list[Path]]:
    """Group the images of folder by stem; append the folder's errors to faults."""
    paths = list_images(folder)
    if not paths:
        faults.append(DataError("no_images", folder, NO_IMAGES, "Is dataset.folder the one that is meant?"))
    by_stem: dict[str, list[Path]] = {}
    for path in paths:
        by_stem.setdefault(path.stem, []).append(path)
    if twice := [stem for stem, several in by_stem.items() if len(several) > 1]:
        what, fix = "several files share a stem, so pairs are ambiguous", "Keep one file of each stem."
        faults.append(DataError("ambiguous_pair", folder, what, fix, f": {', '.join(twice)}"))
    return by_stem

"""Segmentation data on disk: a folder Image/ and a folder Mask/ whose files share their stems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from runcard.errors import UserError, check_names
from runcard.images import list_images, read_image, read_mask


class ImageMaskFolder:
    """Pairs <root>/<folder>/Image/x.* with <root>/<folder>/Mask/x.*, by file stem, in natural order.

    Item i is (image, mask, id): image H×W or H×W×3 uint8, mask H×W uint8 class indices, id the stem. A pair that
    differs in size, or a mask that is no mask, is told when it is read; faults holds what is wrong with the folders.
    """

    given_split = None

    def __init__(self, root: str, folder: str | None, classes: Sequence[str]) -> None:
        base = Path(root).expanduser() / (folder or "")
        self.faults: list[str] = []
        images, masks = (_by_stem(base / kind, self.faults) for kind in ("Image", "Mask"))
        if images and masks:
            for have, lack, kind in ((images, masks, "Mask"), (masks, images, "Image")):
                where = f"no {kind.lower()} with this stem in {base / kind}"
                self.faults += [f"{have[stem]}: {where}." for stem in have if stem not in lack]
        self.classes = check_names("classes", classes)
        self.ids = [stem for stem in images if stem in masks]
        self.files = [(images[stem], masks[stem]) for stem in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, str]:
        image_path, mask_path = self.files[i]
        image = read_image(image_path)
        mask = read_mask(mask_path, len(self.classes))
        if image.shape[:2] != mask.shape:
            sizes = " and ".join(f"{a.shape[1]}×{a.shape[0]}" for a in (image, mask))
            raise UserError(f"{mask_path}: image and mask must be of one size, got {sizes} pixels (width×height).")
        return image, mask, self.ids[i]


class LungCT(ImageMaskFolder):
    """The 109 CT slices of two patients that ship with the package (lung_ct/NOTICE.md); the patient is in the id."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(str(files("runcard.datasets") / "lung_ct"), None, classes)


def _by_stem(folder: Path, faults: list[str]) -> dict[str, Path]:
    """Returns the images of folder by stem; what is wrong with the folder is added to faults."""
    if not folder.is_dir():
        faults.append(f"{folder}: no such folder. dataset.root (with dataset.folder) must hold Image/ and Mask/.")
        return {}
    paths = list_images(folder)
    if not paths:
        faults.append(f"{folder}: no images in this folder (.png, .jpg, .bmp or .tif).")
    twice = [stem for stem, count in Counter(p.stem for p in paths).items() if count > 1]
    if twice:
        faults.append(f"{folder}: several files share a stem, so pairs are ambiguous: {', '.join(twice)}.")
    return {p.stem: p for p in paths}

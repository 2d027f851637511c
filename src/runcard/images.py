"""Reading images and masks from disk as they are meant to be seen, with errors that name the file.

Pillow decodes, and turns pictures upright by their EXIF tag. It cuts colours of 16 bits to 8 without a word, so OpenCV
reads those. Alpha is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from runcard.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I": "32-bit grey", "F": "float grey", "I;16": "16-bit grey", "I;16B": "16-bit grey"}
LOSSY_FORMATS = {"JPEG", "MPO"}  # MPO: a JPEG of some cameras
MODE_NAMES = {"1": "1-bit", "L": "8-bit grey", "LA": "8-bit grey with alpha", "P": "8-bit palette"} | DEEP_MODES
FULL_WINDOW = (0, 65535)  # of 16 bits
NEAR = 1 / 8  # of the smallest gap between a mask's values: a pixel this close to one of them is taken for it
MIN_SHARE_NEAR = 0.95  # of a mask's pixels; measured: masks saved as JPEG of quality 30 >= 0.97, photographs <= 0.80
MAX_SHARE_OF_OTHER_VALUE = 0.01  # of a mask's pixels: noise is spread, one value held by more is a class of its own


@dataclass(frozen=True)
class OnDisk:
    """How a dataset lies on disk, and how its files are read."""

    location: Path  # of the folder that holds the data
    layout: str  # in words
    left_out: list[str]  # folders (with a final slash) and images in location that are no part of the data
    window: tuple[float, float]  # of files deeper than 8 bits: the values shown as black and white
    masks: str | None = None  # in words, what the values of the mask files mean


def list_images(folder: Path) -> list[Path]:
    """Returns the image files directly in folder, in natural order (Im2 before Im10); hidden files are left out."""
    try:
        found = [path for path in folder.iterdir() if is_image(path.name)]
    except PermissionError:
        raise UserError(f"{folder}: this folder may not be read by you.") from None
    for path in found:
        if not path.name.isprintable():  # bytes of another encoding, say: nothing could be written about such a file
            raise UserError(f"{folder}: the file name {path.name!r} holds signs that cannot be printed. Rename it.")
    return natsorted(found, key=lambda path: path.name)


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def read_image(path: Path) -> np.ndarray:
    """Returns the image upright, H×W where the file is grey and H×W×3 (RGB) where it has colours.

    uint8, or of files deeper than 8 bits uint16, int32 or float32: see windowed.
    """
    image, deep_colour = _open(path)
    if deep_colour:
        return _read_deep_colour(path)
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path)
    return np.asarray(image.convert("L" if image.mode in GREY_MODES else "RGB"))


def windowed(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Returns pixels as uint8: window's two values become 0 and 255, linearly, and what lies outside is clipped."""
    black, white = window
    greys = np.clip((pixels.astype(np.float32) - black) * (255 / (white - black)), 0, 255)
    return np.asarray(np.rint(greys), np.uint8)


def check_window(window: object) -> tuple[float, float]:
    """Returns window as (black, white), or raises ValueError where it is not two numbers, the smaller first."""
    values = list(window) if isinstance(window, Sequence) and not isinstance(window, str) else []
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)]
    if len(values) != 2 or len(numbers) != 2 or not values[0] < values[1]:
        raise ValueError(f"window must be two numbers, [black, white], black below white, got {window!r}")
    return values[0], values[1]


def read_mask(path: Path, num_classes: int, mask_values: Sequence[int] | None = None) -> np.ndarray:
    """Returns the mask upright, as an H×W uint8 map of class indices.

    mask_values are the grey values of the classes in the file, and each pixel goes to the nearest. Without them the
    file holds class indices (never a JPEG: black may come back as 1) or, with two classes, 0 and 255 (0 and 65535 where
    it is deeper), each pixel to the nearest again. A palette counts by index. What is not clearly a mask (a
    photograph, more classes than the card names) is a UserError with the values found.
    """
    mask, lossy = _read_grey(path)
    values, counts = _histogram(mask)
    if mask_values is None and not lossy and set(values.tolist()) <= set(range(num_classes)):
        return mask.astype(np.uint8)
    white = 255 if values[-1] <= 255 else 65535
    levels = mask_values or ([0, white] if num_classes == 2 else None)
    if levels and _is_clear(values, counts, levels):
        return _nearest(mask, levels).astype(np.uint8)
    rule = f"class indices 0…{num_classes - 1}" + (" in a format that keeps them, not JPEG" if lossy else "")
    rule += f", or 0 and {white}" if num_classes == 2 else ""
    rule = f"values near {_listed(mask_values)}" if mask_values else rule
    commonest = np.sort(values[np.argsort(-counts, kind="stable")[:6]])
    found = f"{len(values)} values: {_listed(commonest)}" + (", …" if len(values) > 6 else "")
    exact = not lossy and len(values) == num_classes
    fitting = (values if exact else np.linspace(0, white, num_classes)).astype(int).tolist()
    fix = "Replace it, or say the grey value of each class in dataset.mask_values."
    if num_classes > 1 and _is_clear(values, counts, fitting):
        fix = f"Set dataset.mask_values=[{_listed(fitting, ',')}] if these are the classes."
    raise UserError(f"{path}: not a mask: it must hold {rule}, but has {found}. {fix}")


def describe(path: Path) -> str:
    """Returns depth, mode and format of a readable image file, from its header: "8-bit grey JPEG"."""
    with Image.open(path) as image:
        bits = 16 if _has_deep_colour(image) else 8
        return f"{MODE_NAMES.get(image.mode, f'{bits}-bit {image.mode}')} {image.format}"


def _read_grey(path: Path) -> tuple[np.ndarray, bool]:
    """Returns the H×W values of a file, the indices where it has a palette, and whether its format is a lossy one."""
    image, deep_colour = _open(path)
    if deep_colour:
        return cv2.cvtColor(_read_deep_colour(path), cv2.COLOR_RGB2GRAY), False
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path), False
    return np.asarray(image if image.mode in ("L", "P") else image.convert("L")), image.format in LOSSY_FORMATS


def _histogram(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values that occur, in ascending order, and how often they do."""
    if mask.dtype != np.uint8:
        return np.unique(mask, return_counts=True)
    counts = np.bincount(mask.ravel(), minlength=256)  # 10 times as fast as sorting
    values = np.flatnonzero(counts)
    return values, counts[values]


def _is_clear(values: np.ndarray, counts: np.ndarray, levels: Sequence[int]) -> bool:
    """Whether pixels of these values (in ascending order) and counts can only mean the levels."""
    nearest = _nearest(values, levels)
    near = np.abs(values - np.asarray(levels)[nearest]) <= NEAR * np.diff(np.sort(levels)).min()
    others = counts[~near]
    one_class_of_many_values = len(values) > 1 and len(set(nearest)) == 1  # a dark photograph, or indices of classes
    return (
        not one_class_of_many_values
        and others.sum() <= (1 - MIN_SHARE_NEAR) * counts.sum()
        and others.max(initial=0) <= MAX_SHARE_OF_OTHER_VALUE * counts.sum()
    )


def _nearest(pixels: np.ndarray, levels: Sequence[int]) -> np.ndarray:
    """Returns the index of the level nearest to each pixel."""
    order = np.argsort(levels)
    ascending = np.asarray(levels)[order]
    return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, pixels)]


def _listed(values: Sequence[float] | np.ndarray, comma: str = ", ") -> str:
    return comma.join(f"{value:g}" for value in values)


def _open(path: Path) -> tuple[ImageFile.ImageFile, bool]:
    """Returns the decoded picture, upright, and whether it has colours of 16 bits, which Pillow has cut to 8.

    A missing, empty, truncated or undecodable file is a UserError.
    """
    try:
        with path.open("rb") as file:  # of a name, Pillow 13 maps raw TIFFs to memory and then turns them wrongly
            image = Image.open(file)
            deep_colour = _has_deep_colour(image)
            image.load()
        ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        what = "the file is empty" if path.stat().st_size == 0 else "not an image that can be read"
        raise UserError(f"{path}: {what}. Replace or remove it.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read, damaged or truncated ({error}). Replace or remove it.") from None
    return image, deep_colour


def _has_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether a picture that is not yet decoded has several channels of 16 bits."""
    return image.mode not in DEEP_MODES and ";16" in str(image.tile)


def _read_deep_colour(path: Path) -> np.ndarray:
    """Returns colours of 16 bits as H×W×3 uint16, RGB, upright."""
    pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)  # OpenCV 5 reads TIFFs wrongly as RGB
    if pixels is None or pixels.dtype != np.uint16:  # a TIFF with an orientation of 5 to 8, or CMYK
        raise UserError(f"{path}: 16-bit colours that cannot be read so. Save it as an upright 16-bit RGB PNG.")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _deep_grey(image: Image.Image, path: Path) -> np.ndarray:
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise UserError(f"{path}: has pixels that are not finite numbers. Replace or remove it.")
    return pixels.astype(pixels.dtype.newbyteorder("="))

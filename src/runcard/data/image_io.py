"""Reading images and masks from disk as they are meant to be seen, with errors that name the file.

Pillow decodes, and turns pictures upright by their EXIF tag. It cuts colours of 16 bits to 8 without a word, so OpenCV
reads those. Alpha is dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from natsort import natsorted
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from runcard.errors import DataError, UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # whatever the suffix: others, such as PostScript, start programs or take long
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I": "32-bit grey", "F": "float grey", "I;16": "16-bit grey", "I;16B": "16-bit grey"}
LOSSY_FORMATS = {"JPEG", "MPO"}  # MPO: a JPEG of some cameras
MODE_NAMES = {"1": "1-bit", "L": "8-bit grey", "LA": "8-bit grey with alpha", "P": "8-bit palette"} | DEEP_MODES
FIX = "Replace or remove it."  # a file that cannot be read
NO_IMAGES = "no images in this folder (.png, .jpg, .bmp or .tif)"
FULL_WINDOW = (0, 65535)  # of 16 bits
LARGEST_IN_WINDOW = 1e30  # either way: far below the largest float32, so that no difference overflows
NEAR = 1 / 8  # of the smallest gap between a mask's values: a pixel this close to one of them is taken for it
MIN_SHARE_NEAR = 0.95  # of a mask's pixels; measured: masks saved as JPEG of quality 30 >= 0.97, photographs <= 0.80
MAX_SHARE_OF_OTHER_VALUE = 0.01  # of a mask's pixels: noise is spread, one value held by more is a class of its own


@dataclass(frozen=True)
class OnDisk:
    """How a dataset lies on disk, and how its files are read."""

    location: Path  # of the folder that holds the data
    layout: str  # as text
    left_out: list[str]  # folders (with a final slash) and images in location that are no part of the data
    window: tuple[float, float]  # of files deeper than 8 bits: the values shown as black and white
    masks: str | None = None  # as text, what the values of the mask files mean


def list_images(folder: Path) -> list[Path]:
    """Returns the image files directly in folder, in natural order (Im2 before Im10); hidden files are left out."""
    try:
        found = [path for path in folder.iterdir() if is_image(path.name)]
    except PermissionError:
        raise UserError(f"{folder}: this folder: permission denied.") from None
    for path in found:
        check_printable(path)
    return natsorted(found, key=lambda path: path.name)


def check_printable(path: Path) -> None:
    """Raises UserError for a name that holds bytes of another encoding, say: nothing could be written about it."""
    if not path.name.isprintable():
        raise UserError(f"{path.parent}: the name {path.name!r} holds signs that cannot be printed. Rename it.")


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def ignore_pillow_warnings() -> None:
    """Ignore, from now on, Pillow's warnings of damaged tags and of alpha, which nobody reads, and of large pictures.

    Those too large it refuses. To be called before threads read: warnings.catch_warnings is not for threads.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path) -> np.ndarray:
    """Returns the image upright, H×W where the file is grey and H×W×3 (RGB) where it has colours, or 16 bits and alpha.

    uint8, or of files deeper than 8 bits uint16, int32 or float32: see windowed.
    """
    image, deep_colour = _open(path)
    if deep_colour:
        return _read_deep_colour(path)
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path)
    return np.asarray(_grey_or_rgb(image))


def windowed(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Returns pixels as uint8: window's two values become 0 and 255, linearly, and what lies outside is clipped."""
    black, white = window
    inside = np.clip(pixels.astype(np.float32), black, white)
    return np.asarray(np.rint((inside - black) * (255 / (white - black))), np.uint8)


def check_window(window: object) -> tuple[float, float]:
    """Returns window as (black, white), or raises ValueError where it is not two numbers, the smaller first."""
    values = list(window) if isinstance(window, Sequence) and not isinstance(window, str) else []
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not -LARGEST_IN_WINDOW <= values[0] < values[1] <= LARGEST_IN_WINDOW:
        raise ValueError(f"window must be two numbers, [black, white], black below white, got {window!r}")
    return values[0], values[1]


def read_mask(path: Path, num_classes: int, mask_values: Sequence[int] | None = None) -> np.ndarray:
    """Returns the mask upright, as an H×W uint8 map of class indices.

    mask_values are the grey values of the classes in the file, and each pixel goes to the nearest. Without them the
    file holds class indices (never a JPEG: black may come back as 1) or, with two classes, 0 and 255 (0 and 65535 where
    it is deeper), each pixel to the nearest again. A palette counts by index. What is not clearly a mask (a
    photograph, more classes than the config names) is a UserError with the values found.
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
    raise DataError("mask_values", path, f"not a mask: it must hold {rule}", fix, f", but has {found}")


def grey_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the values of a mask file as they are, in ascending order, and how many pixels have each."""
    return _histogram(_read_grey(path)[0])


def describe(path: Path) -> str:
    """Returns depth, mode and format of a readable image file, from its header: "8-bit grey JPEG"."""
    with Image.open(path, formats=FORMATS) as image:
        bits = 16 if _has_deep_colour(image) else 8
        return f"{MODE_NAMES.get(image.mode, f'{bits}-bit {image.mode}')} {image.format}"


def _read_grey(path: Path) -> tuple[np.ndarray, bool]:
    """Returns the H×W values of a file, the indices where it has a palette, and whether its format is a lossy one."""
    image, deep_colour = _open(path)
    if deep_colour:
        return cv2.cvtColor(_read_deep_colour(path), cv2.COLOR_RGB2GRAY), False
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path), False
    grey = image if image.mode in ("L", "P") else _grey_or_rgb(image).convert("L")
    return np.asarray(grey), image.format in LOSSY_FORMATS


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


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """Returns a picture of 8 bits in mode L where it is grey, else in RGB, all that LAB can be converted to."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _open(path: Path) -> tuple[ImageFile.ImageFile, bool]:
    """Returns the decoded picture, upright, and whether it has colours of 16 bits, which Pillow has cut to 8.

    A missing, empty, truncated or undecodable file is a UserError.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError("unreadable", path, "not a file", "Rename or remove it.")
        with path.open("rb") as file:  # of a name, Pillow 13 maps raw TIFFs to memory and then turns them wrongly
            image = Image.open(file, formats=FORMATS)
            deep_colour = _has_deep_colour(image)
            image.load()
        if deep_colour:  # OpenCV makes room for whatever length a damaged PNG's chunk claims
            with Image.open(path, formats=FORMATS) as again:
                again.verify()
        ImageOps.exif_transpose(image, in_place=True)
    except FileNotFoundError:
        raise DataError("unreadable", path, "no such file", "Is it a link that leads nowhere?") from None
    except PermissionError:
        raise DataError("unreadable", path, "permission denied", "Change its permissions.") from None
    except UnidentifiedImageError:
        if path.stat().st_size == 0:
            raise DataError("empty_file", path, "the file is empty", FIX) from None
        raise DataError("unreadable", path, "not an image that can be read (PNG, JPEG, BMP or TIFF)", FIX) from None
    except Image.DecompressionBombError as error:
        raise DataError("unreadable", path, "too large, or damaged", FIX, f" ({error})") from None
    except (OSError, SyntaxError, ValueError) as error:
        check = "truncated" if "truncated" in str(error) else "unreadable"
        raise DataError(check, path, "cannot be read, damaged or truncated", FIX, f" ({error})") from None
    return image, deep_colour


def _has_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether a picture that is not yet decoded has several channels of 16 bits."""
    return image.mode not in DEEP_MODES and ";16" in str(image.tile)


def _read_deep_colour(path: Path) -> np.ndarray:
    """Returns colours of 16 bits as H×W×3 uint16, RGB, upright."""
    pixels = cv2.imread(str(path), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)  # OpenCV 5 reads TIFFs wrongly as RGB
    if pixels is None or pixels.dtype != np.uint16:  # a TIFF with an orientation of 5 to 8, or CMYK
        what, fix = "16-bit colours that cannot be read so", "Save it as an upright 16-bit RGB PNG."
        raise DataError("unreadable", path, what, fix)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _deep_grey(image: Image.Image, path: Path) -> np.ndarray:
    pixels = np.asarray(image)
    if not np.isfinite(pixels).all():
        raise DataError("unreadable", path, "has pixels that are not finite numbers", FIX)
    return pixels.astype(pixels.dtype.newbyteorder("="))

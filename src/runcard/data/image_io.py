"""Read images and masks from disk, upright, with errors that name the file.

Pillow decodes images and applies their EXIF orientation. It silently truncates 16-bit colours to 8 bits, so OpenCV
reads those. Alpha is dropped. DICOM and NIfTI are read in medical_io.py. The path of a slice of a volume, or of a frame
of a DICOM file, is that of its file with a number behind it, x.nii.gz:7: everything here takes it as an image's path.
"""

from __future__ import annotations

import logging
import re
import shlex
import threading
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from natsort import natsorted
from PIL import Image, ImageFile, ImageOps
from rich.filesize import decimal

from runcard import IGNORED
from runcard.data import medical_io
from runcard.data.medical_io import DICOM_SUFFIXES, FIX, MAX_DECODED_BYTES, NIFTI_SUFFIXES, Header, refused
from runcard.errors import DataError, UserError, check_integer
from runcard.fileio import hash_lines, short_name

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", *DICOM_SUFFIXES, *NIFTI_SUFFIXES)
SLICE = re.compile(r"(?P<file>.+\.(nii|nii\.gz|dcm|dicom)):(?P<z>\d+)", re.IGNORECASE | re.DOTALL)
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # for any suffix: others, such as PostScript, start programs or are slow
GREY_MODES = {"1", "L", "LA"}
DEEP_MODES = {"I": "32-bit grey", "F": "float grey", "I;16": "16-bit grey", "I;16B": "16-bit grey"}
BYTES_OF_MODES = {"I": 4, "F": 4, "I;16": 2, "I;16B": 2}  # of one value, where it has more than one
LOSSY_FORMATS = {"JPEG", "MPO"}  # MPO: the JPEG of some cameras
MODE_NAMES = {"1": "1-bit", "L": "8-bit grey", "LA": "8-bit grey with alpha", "P": "8-bit palette"} | DEEP_MODES
NO_IMAGES = "no images in this folder (.png, .jpg, .bmp, .tif, .dcm or .nii)"
ROWS_AT_ONCE = 1024
FULL_WINDOW = (0, 65535)  # of 16-bit values
LARGEST_IN_WINDOW = 1e30  # in magnitude: far below the largest float32, so that no difference overflows
NEAR = 1 / 8  # of the smallest gap between class values: pixels this close to one count as near
MIN_SHARE_NEAR = 0.95  # of a mask's pixels; measured: masks as JPEG of quality 30 >= 0.97, photographs <= 0.80
_last_mask = threading.local()  # the values of the mask that a thread read last: an audit asks for them next
MAX_SUGGESTED_CLASSES = 32  # a file of more values is taken for a photograph
MAX_SHARE_OF_OTHER_VALUE = 0.01  # of a mask's pixels: noise is spread, a more frequent value is a class


@dataclass(frozen=True)
class OnDisk:
    """The location and layout of a dataset on disk, and how its files are read."""

    location: Path  # of the data's folder
    layout: str  # as text
    left_out: list[str]  # folders (with a final slash) and images in location that are not part of the data
    window: tuple[float, float]  # for files deeper than 8 bits: the values mapped to black and white
    masks: str | None = None  # as text: the meaning of the mask files' values
    ignore_value: int | None = None  # in mask files, of pixels that nobody labelled


def list_images(folder: Path) -> list[Path]:
    """List the image files directly in folder, in natural order (Im2 before Im10), without hidden files."""
    try:
        found = [path for path in folder.iterdir() if is_image(path.name)]
    except PermissionError:
        raise UserError(f"{folder}: this folder: permission denied.") from None
    for path in found:
        check_printable(path)
    return natsorted(found, key=lambda path: path.name)


def check_printable(path: Path) -> None:
    """Raise UserError for an unprintable name (bytes of another encoding, say), which no message could contain."""
    if not path.name.isprintable():
        raise UserError(f"{path.parent}: the name {path.name!r} holds signs that cannot be printed. Rename it.")


def is_image(name: str) -> bool:
    """Whether a file of this name is read as an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def without_suffix(name: str) -> str:
    """Remove the suffix of an image file from a name that has one; .nii.gz is one suffix."""
    if not is_image(Path(name).name):
        return name
    return name[: -max(len(suffix) for suffix in SUFFIXES if name.lower().endswith(suffix))]


def preview_name(name: str) -> str:
    """Return the path of an image's preview below previews/, by the image's id or the id without its suffix.

    An id may have folders. Where a part of it is too long for a file name it is shortened, and where it would lead out
    of previews/ a hash takes its place.
    """
    parts = name.split("/")
    if {"", ".", ".."} & {*parts} or "\0" in name:
        return f"{hash_lines([name])[:32]}.png"
    return "/".join([*map(short_name, parts[:-1]), short_name(parts[-1], ".png")])


def slices(paths: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Map what tells the images in one item's files (an image, or it and its mask) apart to the paths of each.

    {"": paths}, but {":0": (x.nii:0, …), ":1": …} for the axial slices of NIfTI volumes and the frames of DICOM files.
    Raises DataError where image and mask have different numbers of slices, or slices that may be in different orders,
    and where a volume cannot be opened.
    """
    counts = [_num_slices(path) for path in paths]
    if not any(counts):
        return {"": tuple(paths)}
    if len(set(counts)) > 1:
        what, fix = "image and mask must have the same number of slices", "Export the mask again, from the image."
        raise DataError("mask_size", paths[-1], what, fix, f", got {' and '.join(str(count or 1) for count in counts)}")
    if len({is_dicom(path) for path in paths}) > 1:
        what = "the slices of a NIfTI volume and the frames of a DICOM file may be in different orders"
        raise DataError("mask_size", paths[-1], what, "Save image and mask in one format.")
    return {f":{z}": tuple(path.with_name(f"{path.name}:{z}") for path in paths) for z in range(counts[0] or 0)}


def is_slice(path: Path) -> bool:
    """Whether this is the path of a slice or frame in a file of several."""
    return SLICE.fullmatch(path.name) is not None


def file_of(path: Path) -> Path:
    """Return the file that an image lies in: that of a slice, or the path itself."""
    return _file_and_slice(path)[0]


def ignore_reader_warnings() -> None:
    """Ignore Pillow's warnings of damaged tags, alpha and large images, and those of medical files, from now on.

    Pillow still refuses too large ones. Call this before threads read: warnings.catch_warnings is not thread-safe.
    """
    warnings.filterwarnings("ignore", module=r"(PIL|pydicom|nibabel|highdicom)\.")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # it prints what it corrects in headers


def read_image(path: Path) -> np.ndarray:
    """Read an image upright: H×W if the file is grey, H×W×3 (RGB) if it has colours, or 16 bits and alpha.

    The type is uint8, or uint16, int32 or float32 for files deeper than 8 bits: see windowed.
    """
    file, z = _file_and_slice(path)
    if is_dicom(file):
        return medical_io.read_dicom(file, z)
    if is_nifti(file):
        return medical_io.read_nifti(file, z)
    image, deep_colour = _open(path)
    if deep_colour:
        return _read_deep_colour(path)
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path)
    return np.asarray(_grey_or_rgb(image))


def windowed(pixels: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Map pixels linearly to uint8: window's two values become 0 and 255, and values outside are clipped."""
    black, white = window
    shown = np.empty(pixels.shape, np.uint8)
    for start in range(0, len(pixels), ROWS_AT_ONCE):  # the floats of a whole image of the largest size take gigabytes
        rows = slice(start, start + ROWS_AT_ONCE)
        inside = np.clip(pixels[rows].astype(np.float32), black, white)
        shown[rows] = np.rint((inside - black) * (255 / (white - black)))
    return shown


def check_window(window: object) -> tuple[float, float]:
    """Return window as (black, white). Raise ValueError unless it is two numbers, the smaller first."""
    values = list(window) if isinstance(window, Sequence) and not isinstance(window, str) else []
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(values) != 2 or len(numbers) != 2 or not -LARGEST_IN_WINDOW <= values[0] < values[1] <= LARGEST_IN_WINDOW:
        raise ValueError(f"window must be two numbers, [black, white], black below white, got {window!r}")
    return values[0], values[1]


def check_ignore_value(ignore_value: object, num_classes: int, mask_values: Sequence[int] | None) -> int | None:
    """Return ignore_value. Raise ValueError unless it is null or a grey value that no class has."""
    if ignore_value is None:
        return None
    of_classes = mask_values or range(num_classes)
    if ignore_value in of_classes:
        raise ValueError(f"ignore_value must not be the value of a class, {_listed(of_classes)}, got {ignore_value!r}")
    return check_integer("ignore_value", ignore_value, minimum=0)


def check_mask_values(mask_values: object, num_classes: int) -> list[int] | None:
    """Return mask_values as a list. Raises ValueError where they are not one grey value per class."""
    if mask_values is None:
        return None
    values = list(mask_values) if isinstance(mask_values, Sequence) and not isinstance(mask_values, str) else []
    if len(values) != num_classes or len(set(values)) != num_classes:
        rule = f"null or a list of {num_classes} different grey values, one per class"
        raise ValueError(f"mask_values must be {rule}, got {mask_values!r}")
    return [check_integer("mask_values", value, minimum=0) for value in values]


def meaning_of_masks(num_classes: int, mask_values: Sequence[int] | None, ignore_value: int | None) -> str:
    """Say how read_mask reads the values of a mask file."""
    if mask_values:
        return f"nearest of {_listed(mask_values)}"
    return "class indices, or nearest of 0 and 255" if num_classes == 2 and ignore_value != 255 else "class indices"


def read_mask(
    path: Path, num_classes: int, mask_values: Sequence[int] | None = None, ignore_value: int | None = None
) -> np.ndarray:
    """Read a mask upright, as an H×W uint8 map of class indices; IGNORED where its value is ignore_value.

    mask_values are the grey values of the classes in the file; each pixel gets the nearest. Without them, the file must
    hold class indices (not as JPEG, which may return black as 1) or, with two classes, 0 and 255 (0 and 65535 if it is
    deeper), where each pixel gets the nearest too. Palettes are read as indices. Raises DataError with the values in
    the file if it is not clearly a mask (a photograph, more classes than the config names).
    """
    mask, lossy = _read_grey(path)
    values, counts = _histogram(mask)
    _last_mask.histogram = (path, values, counts)
    ignored = [] if ignore_value is None else [ignore_value]
    if mask_values is None and not lossy and set(values.tolist()) <= {*range(num_classes), *ignored}:
        classes = mask.astype(np.uint8)
        return np.where(mask == ignore_value, np.uint8(IGNORED), classes) if ignored else classes
    white = 255 if values[-1] <= 255 else 65535
    has_indices = not lossy and values.tolist() == [0, 1, white]  # then white is not class 1
    is_black_and_white = num_classes == 2 and white not in ignored and not has_indices
    levels = mask_values or ([0, white] if is_black_and_white else None)
    if levels and _is_clear(values, counts, [*levels, *ignored]):
        classes = np.array([*range(len(levels)), IGNORED], np.uint8)
        return np.asarray(classes[_nearest(mask, [*levels, *ignored])])
    rule = f"class indices 0…{num_classes - 1}" + (" in a format that keeps them, not JPEG" if lossy else "")
    rule += f", or 0 and {white}" if num_classes == 2 and white not in ignored else ""
    rule = f"values near {_listed(mask_values)}" if mask_values else rule
    rule += f", or {ignore_value} (dataset.ignore_value)" if ignored else ""
    commonest = np.sort(values[np.argsort(-counts, kind="stable")[:6]])
    found = f"{len(values)} values: {_listed(commonest)}" + (", …" if len(values) > 6 else "")
    of_classes = values[~np.isin(values, ignored)]
    exact = not lossy and len(of_classes) == num_classes
    fitting = (of_classes if exact else np.linspace(0, white, num_classes)).astype(int).tolist()
    fix = "Replace it, or say the grey value of each class in dataset.mask_values."
    if len(of_classes) > MAX_SUGGESTED_CLASSES:
        fix = "Replace it; or is it an image, with the folders of images and masks exchanged?"
    if num_classes > 1 and not {*fitting} & {*ignored} and _is_clear(values, counts, [*fitting, *ignored]):
        fix = mask_fix(fitting, num_classes)
    raise DataError("mask_values", path, f"not a mask: it must hold {rule}", fix, f", but has {found}")


def read_image_and_mask(
    paths: Sequence[Path], num_classes: int, mask_values: Sequence[int] | None, ignore_value: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Read an image and its mask; see read_mask. Raises DataError where they differ in size."""
    image_path, mask_path = paths
    image, mask = read_image(image_path), read_mask(mask_path, num_classes, mask_values, ignore_value)
    if image.shape[:2] != mask.shape:
        sizes = " and ".join(f"{a.shape[1]}×{a.shape[0]}" for a in (image, mask))
        what, fix = "image and mask must be of one size", "Export the mask again, at the image's own size."
        raise DataError("mask_size", mask_path, what, fix, f", got {sizes} pixels (width×height)")
    return image, mask


def mask_levels(path: Path) -> set[int]:
    """Return the values of a mask file; none where they are too many for classes, or may not be those that were drawn.

    The latter are those of lossy files, and numbers that are not whole or below 0.
    """
    try:
        mask, lossy = _read_grey(path)
    except DataError:
        return set()
    values = _histogram(mask)[0].tolist()
    if lossy or len(values) > MAX_SUGGESTED_CLASSES or any(value != int(value) or value < 0 for value in values):
        return set()
    return {int(value) for value in values}


def mask_fix(levels: Collection[int], num_classes: int) -> str:
    """Return how masks of these values can be read by another config."""
    fix = f"Replace it or, if these are the classes: {mask_overrides(levels, num_classes)}"
    white = max(levels)
    if white in (255, 65535) and len(levels) > 2 and {*levels} - {white} <= {*range(num_classes)}:  # 0, 1 and 255
        fix = f"If nobody labelled the pixels of {white}: dataset.ignore_value={white}. {fix}"
    return fix


def mask_overrides(levels: Collection[int], num_classes: int) -> str:
    """Return the overrides with which masks of these values are read, quoted for a shell.

    Where these are not as many as num_classes, the classes of the config, they get other names.
    """
    names = ["background", *(f"class{i}" for i in range(1, len(levels)))]
    other_classes = [f"dataset.classes=[{','.join(names)}]", "dataset.positive=null"]
    values = f"dataset.mask_values=[{','.join(map(str, sorted(levels)))}]"
    return shlex.join([*(other_classes if len(levels) != num_classes else []), values])


def grey_values(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of each value in a mask file; return values, in ascending order, and counts."""
    last, _last_mask.histogram = getattr(_last_mask, "histogram", None), None
    return last[1:] if last and last[0] == path else _histogram(_read_grey(path)[0])


def read_header(path: Path) -> Header:
    """Read what the header of a readable image file says."""
    file, z = _file_and_slice(path)
    if is_dicom(file):
        return medical_io.dicom_header(file, z)
    if is_nifti(file):
        return medical_io.nifti_header(file)
    with open_picture(path) as image:
        bits = 16 if _has_deep_colour(image) else 8
        kind = f"{MODE_NAMES.get(image.mode, f'{bits}-bit {image.mode}')} {image.format}"
        return Header(kind, num_pages=_num_pages(image))


def _num_pages(image: ImageFile.ImageFile) -> int:
    """Count the pages of a TIFF, or the frames of an animated PNG; the further images of an MPO are previews."""
    try:
        return 1 if image.format in LOSSY_FORMATS else int(getattr(image, "n_frames", 1))
    except (OSError, SyntaxError, ValueError, LookupError):  # a damaged page behind the first one
        return 1


def is_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a frame of one."""
    return file_of(path).name.lower().endswith(DICOM_SUFFIXES)


def is_nifti(path: Path) -> bool:
    """Whether this is a NIfTI file, or a slice of one."""
    return file_of(path).name.lower().endswith(NIFTI_SUFFIXES)


def _num_slices(path: Path) -> int | None:
    """Count the slices of a NIfTI volume, or the frames of a DICOM file; None for a single image."""
    if is_nifti(path):
        return medical_io.num_slices(path)
    return medical_io.num_frames(path) if is_dicom(path) else None


def _file_and_slice(path: Path) -> tuple[Path, int | None]:
    found = SLICE.fullmatch(path.name)
    return (path.with_name(found["file"]), int(found["z"])) if found else (path, None)


def _read_grey(path: Path) -> tuple[np.ndarray, bool]:
    """Read the H×W values of a file (indices if it has a palette), and whether its format is lossy."""
    file, z = _file_and_slice(path)
    if is_nifti(file):
        return medical_io.read_nifti(file, z), False
    if is_dicom(file):
        stored = medical_io.read_dicom(file, z, as_stored=True)
        return cv2.cvtColor(stored, cv2.COLOR_RGB2GRAY) if stored.ndim == 3 else stored, False
    image, deep_colour = _open(path)
    if deep_colour:
        return cv2.cvtColor(_read_deep_colour(path), cv2.COLOR_RGB2GRAY), False
    if image.mode in DEEP_MODES:
        return _deep_grey(image, path), False
    grey = image if image.mode in ("L", "P") else _grey_or_rgb(image).convert("L")
    return np.asarray(grey), image.format in LOSSY_FORMATS


def _histogram(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the values of a mask; return values, in ascending order, and counts."""
    if mask.dtype != np.uint8:
        return np.unique(mask, return_counts=True)
    counts = np.bincount(mask.ravel(), minlength=256)  # 10 times as fast as sorting
    values = np.flatnonzero(counts)
    return values, counts[values]


def _is_clear(values: np.ndarray, counts: np.ndarray, levels: Sequence[int]) -> bool:
    """Whether pixels with these values (in ascending order) and counts clearly encode the levels."""
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
    order = np.argsort(levels)
    ascending = np.asarray(levels)[order]
    return order[np.searchsorted((ascending[1:] + ascending[:-1]) / 2, pixels)]


def _listed(values: Sequence[float] | np.ndarray, comma: str = ", ") -> str:
    return comma.join(f"{value:g}" for value in values)


def _grey_or_rgb(image: Image.Image) -> Image.Image:
    """Convert an 8-bit image to mode L if it is grey, else to RGB, the only target of LAB."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    return image if image.mode == mode else image.convert(mode)


def open_picture(file: Path | BinaryIO) -> ImageFile.ImageFile:
    """Open an image file that anybody may have made; nothing is decoded yet. All of Runcard's pictures come from here.

    It is one of FORMATS, whatever it is called. Raises DecompressionBombError where it would take more memory than the
    largest 8-bit RGB image that Pillow decodes, and what Image.open raises.
    """
    image = Image.open(file, formats=FORMATS)
    depth = 2 if _has_deep_colour(image) else BYTES_OF_MODES.get(image.mode, 1)
    num_bytes = image.width * image.height * len(image.getbands()) * depth
    if num_bytes > MAX_DECODED_BYTES:
        size = f"{image.width}×{image.height} pixels take {decimal(num_bytes)}"
        raise Image.DecompressionBombError(f"{size}, the limit is {decimal(MAX_DECODED_BYTES)}")
    return image


def read_picture(path: Path) -> Image.Image | None:
    """Read a picture as RGB; None where it is missing, damaged or too large: no page or figure fails for it."""
    try:
        if not path.is_file():  # reading a pipe would block
            return None
        with open_picture(path) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # SyntaxError: of a broken chunk of a PNG
        return None


def _open(path: Path) -> tuple[ImageFile.ImageFile, bool]:
    """Decode an image, upright; return also whether it has 16-bit colours, which Pillow has truncated to 8 bits.

    Raises DataError for a missing, empty, truncated or undecodable file.
    """
    with refused(path):
        with path.open("rb") as file:  # given a path, Pillow 13 memory-maps raw TIFFs and rotates them wrongly
            image = open_picture(file)
            deep_colour = _has_deep_colour(image)
            image.load()
        if deep_colour:  # OpenCV allocates any length that a damaged PNG chunk claims
            with open_picture(path) as again:
                again.verify()
        ImageOps.exif_transpose(image, in_place=True)
        return image, deep_colour


def _has_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is not yet decoded has several 16-bit channels."""
    return image.mode not in DEEP_MODES and ";16" in str(image.tile)


def _read_deep_colour(path: Path) -> np.ndarray:
    """Read 16-bit colours as H×W×3 uint16, RGB, upright."""
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

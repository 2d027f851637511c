"""From a dataset to samples in memory: decoded once, resized, and how their pixels are normalised.

All of this serves every split alike; what is random comes later, in loaders.py.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import UnidentifiedImageError
from rich.console import Console
from rich.filesize import decimal

from runcard import IGNORED
from runcard.console import show_progress
from runcard.data.image_io import (
    MAX_SUGGESTED_CLASSES,
    ignore_reader_warnings,
    is_slice,
    mask_fix,
    mask_levels,
    read_header,
    windowed,
)
from runcard.data.medical_io import Spacing
from runcard.data.source import UNKNOWN, Original, Sample, Samples, Source
from runcard.errors import DataError, UserError, allow_hint
from runcard.fileio import digest, hash_lines

NORMALIZATIONS = {  # name -> mean and standard deviation per channel, of x / 255
    "unit": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
STRETCH, LETTERBOX = "stretch", "letterbox"  # dataset.resize
MEMORY_LIMIT_BYTES = 2 * 2**30  # images, or masks, that take more together lie in a memory-mapped file
MAX_FAULTS_SHOWN = 20


def prepare(
    source: Source,
    image_size_px: int,
    channels: int,
    allowed: Sequence[str] = (),
    look: Callable[[int, Sample], None] | None = None,
    resize: str = STRETCH,
    scratch: Path | None = None,
) -> Samples:
    """Decode and resize every sample to a square of image_size_px; all faults are one UserError.

    look is called with each sample as it is decoded, at the size of its file: from several threads. A sample whose
    fault is allowed, by the name of its check, is left out. Images are resized by area averaging (down) or linearly
    (up), masks by nearest neighbour; resize: see place. Grey becomes RGB by repetition, RGB grey by luminance. scratch
    is the folder for images that exceed MEMORY_LIMIT_BYTES; None: that of temporary files.
    """
    prepare_process()
    size = (len(source), image_size_px, image_size_px, channels)
    images, masks, lock = _allocate(size, scratch), np.empty(0, np.uint8), Lock()

    def load(i: int) -> tuple[int | None, str, Original] | DataError:
        nonlocal masks
        try:
            sample = read_sample(source, i)
            if look:
                look(i, sample)
        except DataError as fault:
            return fault
        images[i] = resize_image(with_channels(sample.image, channels), image_size_px, resize)
        if not isinstance(sample.target, np.ndarray):
            return sample.target, sample.digest, sample.original
        with lock:  # several threads read
            if not len(masks):  # the first one: only now is it known that there are masks
                masks = _allocate(size[:3], scratch)
        masks[i] = resize_mask(sample.target, image_size_px, resize)
        return None, sample.digest, sample.original

    with ThreadPoolExecutor() as pool:  # decoding and resizing release the GIL
        reading = pool.map(load, range(len(source)))
        loaded = list(show_progress(reading, "reading images", len(source), Console()))
    positions = [i for i, item in enumerate(loaded) if not isinstance(item, DataError)]
    faults = suggest_mask_values([*source.faults, *(item for item in loaded if isinstance(item, DataError))], source)
    _stop_at_faults(faults, allowed, is_any_left=bool(positions))
    targets, digests, originals = zip(*(item for item in loaded if not isinstance(item, DataError)), strict=True)
    ids = [source.ids[i] for i in positions]
    return Samples(
        read_only(_rows(images, positions)),
        read_only(_rows(masks, positions) if len(masks) else np.array(targets)),
        ids,
        list(digests),
        list(originals),
        positions,
        faults,
        _pixel_mm(originals, image_size_px, resize),
    )


def _stop_at_faults(faults: Sequence[DataError], allowed: Sequence[str], is_any_left: bool) -> None:
    """Raise UserError with the first faults that are not allowed, and where no image is left."""
    if forbidden := [fault for fault in faults if fault.check not in allowed]:
        more = [f"… and {len(forbidden) - MAX_FAULTS_SHOWN} more."] if len(forbidden) > MAX_FAULTS_SHOWN else []
        way = allow_hint(allowed, (fault.check for fault in forbidden)) if is_any_left else ""
        audit = f"runcard audit lists all faults, also those of the checks that follow. {way}".rstrip()
        raise UserError("\n".join([*map(str, forbidden[:MAX_FAULTS_SHOWN]), *more, audit]))
    if not is_any_left:
        raise UserError("There is no image left that could be read: see audit.allow.")


def prepare_process() -> None:
    """Silence the readers' warnings and OpenCV's own threads, in this process, before images are read or augmented.

    Those threads would compete with our pool and other runs, and not survive the fork of a worker.
    """
    ignore_reader_warnings()
    cv2.setNumThreads(0)


def _pixel_mm(originals: Sequence[Original], size_px: int, resize: str) -> np.ndarray | None:
    """Return the height and width in mm (N, 2) of a pixel after resizing; None where one image's spacing is unknown."""
    sizes = []
    for original in originals:
        if original.spacing_mm is None:
            return None
        inside = place(original.height_px, original.width_px, size_px, resize)
        rows_mm, columns_mm = original.spacing_mm
        sizes.append((rows_mm * original.height_px / inside.height, columns_mm * original.width_px / inside.width))
    return np.array(sizes)


def suggest_mask_values(faults: list[DataError], source: Source) -> list[DataError]:
    """Give the faults of mask values one fix: the overrides with which all masks of the source are read.

    One mask may lack a class, so the others are read for it, too.
    """
    wrong = {f.place for f in faults if f.check == "mask_values" and mask_levels(Path(f.place))}
    if not wrong:
        return faults
    with ThreadPoolExecutor() as pool:
        levels = set[int]().union(*pool.map(mask_levels, (paths[1] for paths in source.files if len(paths) > 1)))
    if source.on_disk:
        levels -= {source.on_disk.ignore_value}
    if not 1 < len(levels) <= MAX_SUGGESTED_CLASSES:
        return faults
    fix = mask_fix(levels, len(source.classes))
    return [DataError(f.check, f.place, f.what, fix, f.detail) if f.place in wrong else f for f in faults]


def read_sample(source: Source, i: int) -> Sample:
    """Return item i of source, windowed where it is deeper than 8 bits. Raises DataError for what is wrong with it."""
    image, target, _ = source[i]
    paths = source.files[i]
    _check_arrays(source, i, image, target)
    original = _original(image, target, paths, _given_spacing(source, i))
    if original.ignored == 1:
        what, fix = "no pixel is labelled, all have dataset.ignore_value", "Leave image and mask out."
        raise DataError("mask_unlabelled", paths[-1] if paths else source.ids[i], what, fix)
    made = [] if _are_whole(paths) else [image.tobytes(), np.asarray(target).tobytes()]
    if source.on_disk and original.deep_range:
        window, (low, high) = source.on_disk.window, original.deep_range
        image = windowed(image, window)
        if image.min() == image.max() and low < high:
            what, fix = (
                f"all one grey under dataset.window={list(window)}",
                "Set it to the values to be black and white.",
            )
            raise DataError("window", paths[0], what, fix, f", its values are {low:g} to {high:g}")
    target = read_only(target) if isinstance(target, np.ndarray) else target
    return Sample(read_only(image), target, _digest(source, i, made), original)


def _check_arrays(source: Source, i: int, image: np.ndarray, target: Any) -> None:
    """Raise UserError where an item of a dataset, of a user's own perhaps, is not what Source says it is."""
    wrong, num_classes, is_mask = "", len(source.classes), isinstance(target, np.ndarray)
    is_deep = source.on_disk is not None and image.dtype != np.uint8  # and gets windowed
    lowest = UNKNOWN if type(source).__module__.startswith("runcard.") else 0  # explain's images may have no label
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,)) or not (is_deep or image.dtype == np.uint8):
        wrong = f"the image is {image.dtype} of shape {image.shape}; it must be uint8, 0 to 255, H×W or H×W×3"
    elif not is_mask and not isinstance(target, (int, np.integer)):
        wrong = f"the target is a {type(target).__name__}; it must be a class, an int, or a mask, an H×W uint8 array"
    elif is_mask and (target.dtype != np.uint8 or target.shape != image.shape[:2]):
        wrong = f"the mask is {target.dtype} of shape {target.shape}; it must be uint8 of shape {image.shape[:2]}"
    elif not lowest <= (index := _largest(target) if is_mask else int(target)) < num_classes:
        wrong = f"the class index {index} is not one of 0 to {num_classes - 1} ({', '.join(source.classes)})"
    if wrong:
        raise UserError(f"{type(source).__name__}[{i}] ({source.ids[i]}): {wrong}. See docs/how-to/own-dataset.md.")


def _largest(mask: np.ndarray) -> int:
    return int(mask.max(initial=0, where=mask != IGNORED))


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view of array that cannot be written to: neither a drawing nor a transform can change the data."""
    view = array.view()
    view.flags.writeable = False
    return view


def left_out(source: Source, samples: Samples) -> dict[str, str | None]:
    """Return the ids of what was left out, each with a hash of its files; None where they cannot be read."""
    kept = set(samples.positions)
    return {source.ids[i]: digest_or_none(source, i) for i in range(len(source)) if i not in kept} | unpaired(source)


def unpaired(source: Source) -> dict[str, str | None]:
    """Return a hash of each image or mask that has no partner, by its path in the data's folder: these have no id."""
    found: dict[str, str | None] = {}
    for path in (Path(fault.place) for fault in source.faults if fault.check == "unpaired"):
        name = path.relative_to(source.on_disk.location) if source.on_disk else path
        try:
            found[name.as_posix()] = digest([path])
        except OSError:
            found[name.as_posix()] = None
    return found


def digest_or_none(source: Source, i: int) -> str | None:
    """Return a hash of item i's files, of its pixels where it has none; None where these cannot be read."""
    try:
        return _digest(source, i) if _are_whole(source.files[i]) else read_sample(source, i).digest
    except (OSError, DataError):
        return None


class Normalizer(NamedTuple):
    """The normalisation of uint8 pixels, x * scale + shift: each (C, 1, 1) or (1, 1, 1) float32."""

    scale: np.ndarray
    shift: np.ndarray

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Normalise images (…, H, W, C) uint8 to (…, C, H, W) float32."""
        normalised: np.ndarray = np.moveaxis(images, -1, -3) * self.scale + self.shift
        return normalised


def normalizer(name: str) -> Normalizer:
    """Build the normalisation with this name in NORMALIZATIONS."""
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in NORMALIZATIONS[name])
    return Normalizer(1 / (255 * std), -mean / std)


def _original(
    image: np.ndarray, target: np.ndarray | int, paths: Sequence[Path], spacing_mm: Spacing | None
) -> Original:
    height_px, width_px = image.shape[:2]
    deep_range = None if image.dtype == np.uint8 else (float(image.min()), float(image.max()))
    try:
        headers = [read_header(path) for path in paths]
    except UnidentifiedImageError:
        raise UserError(
            f"{', '.join(map(str, paths))}: not an image. What a dataset lists in files must be images and masks that "
            "Runcard reads. Leave files out otherwise: then the pixels identify the data."
        ) from None
    kinds, burned_in = [header.kind for header in headers], any(header.burned_in_text for header in headers)
    spacing_mm = spacing_mm or (headers[0].spacing_mm if headers else None)
    ignored = float(np.count_nonzero(target == IGNORED) / target.size) if isinstance(target, np.ndarray) else 0.0
    num_pages = max((header.num_pages for header in headers), default=1)
    return Original(width_px, height_px, deep_range, kinds, spacing_mm, burned_in, ignored, num_pages)


def _digest(source: Source, i: int, made: Sequence[bytes] = ()) -> str:
    """Hash item i's files, or the bytes made of it, and the spacing where the dataset rather than the file gives it."""
    hashed, spacing_mm = digest(source.files[i], made), _given_spacing(source, i)
    return hash_lines([hashed, str(spacing_mm)]) if spacing_mm else hashed


def _given_spacing(source: Source, i: int) -> Spacing | None:
    return source.spacings_mm[i] if source.spacings_mm else None


def _are_whole(paths: Sequence[Path]) -> bool:
    """Whether a sample has files that are its own: the bytes of a volume do not tell its slices apart."""
    return bool(paths) and not any(is_slice(path) for path in paths)


def _allocate(shape: tuple[int, ...], scratch: Path | None) -> np.ndarray:
    """Return an array of uint8: in memory, or above MEMORY_LIMIT_BYTES in a file of scratch without a name."""
    size = math.prod(shape)
    if size <= MEMORY_LIMIT_BYTES:
        return np.empty(shape, np.uint8)
    folder = Path(scratch or tempfile.gettempdir())
    if shutil.disk_usage(folder).free < size:  # else the process would be killed when it writes there
        raise UserError(f"{folder}: the decoded images take {decimal(size)}, more than is free there.")
    with tempfile.TemporaryFile(dir=folder) as file:  # removed by the system when the last reader is gone
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _rows(array: np.ndarray, positions: Sequence[int]) -> np.ndarray:
    """Return the rows of an array at ascending positions; they are moved to its front where some are left out."""
    if len(positions) < len(array):
        for row, position in enumerate(positions):
            array[row] = array[position]
    return array[: len(positions)]


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Return an image with 1 channel (H×W) or 3 (H×W×3): grey repeated, RGB by luminance."""
    if channels == 3 and image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if channels == 1 and image.ndim == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image


class Placement(NamedTuple):
    """The part of a square that an image fills; what lies around it is padding."""

    top: int
    left: int
    height: int
    width: int

    def pad(self, pixels: np.ndarray, size_px: int) -> np.ndarray:
        """Return pixels (height, width, …) in their place in a square of size_px, with zeros around them."""
        below, right = size_px - self.top - self.height, size_px - self.left - self.width
        return cv2.copyMakeBorder(pixels, self.top, below, self.left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))


def place(height: int, width: int, size_px: int, resize: str) -> Placement:
    """Return where an image of this size lies in a square of size_px.

    stretch fills the square. letterbox keeps the aspect ratio (sides rounded to whole pixels, at least one) and centres
    the image; an odd row or column of padding is at the bottom or right.
    """
    if resize == STRETCH:
        return Placement(0, 0, size_px, size_px)
    longest = max(height, width)
    inside = [max(1, (2 * side * size_px + longest) // (2 * longest)) for side in (height, width)]
    return Placement((size_px - inside[0]) // 2, (size_px - inside[1]) // 2, *inside)


def resize_image(image: np.ndarray, size_px: int, resize: str = STRETCH) -> np.ndarray:
    """Return a square of size_px (size_px, size_px, C): by area averaging where no side grows, else linearly.

    Padding is black; resize: see place.
    """
    height, width = image.shape[:2]
    inside = place(height, width, size_px, resize)
    if (height, width) != (inside.height, inside.width):
        smaller = inside.height <= height and inside.width <= width  # only then does OpenCV average areas
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        image = cv2.resize(image, (inside.width, inside.height), interpolation=how)
    return inside.pad(image, size_px).reshape(size_px, size_px, -1)


def resize_mask(mask: np.ndarray, size_px: int, resize: str = STRETCH) -> np.ndarray:
    """Return a square of size_px whose pixels are those of the mask (H, W) that lie nearest. Padding is class 0."""
    height, width = mask.shape
    inside = place(height, width, size_px, resize)
    if (height, width) != (inside.height, inside.width):
        mask = cv2.resize(mask, (inside.width, inside.height), interpolation=cv2.INTER_NEAREST_EXACT)
    return inside.pad(mask, size_px)


def restore_size(probs: np.ndarray, height: int, width: int, resize: str) -> np.ndarray:
    """Return probabilities (K, S, S) of a resized image at the size it had, (K, height, width): cropped, then linearly.

    Those of a whole image (K,) are returned as they are.
    """
    if probs.ndim == 1:
        return probs
    top, left, inner_height, inner_width = place(height, width, probs.shape[1], resize)
    inside = probs[:, top : top + inner_height, left : left + inner_width]
    if inside.shape[1:] == (height, width):
        return inside
    return np.stack([cv2.resize(each, (width, height), interpolation=cv2.INTER_LINEAR) for each in inside])

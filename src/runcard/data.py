"""From a dataset to samples in memory: decoded once, resized, and how their pixels are normalised.

All of this serves every split alike; what is random comes later, in loaders.py.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from runcard.errors import UserError, check_choice, check_integer
from runcard.images import OnDisk, describe, windowed

NORMALIZATIONS = {  # name -> mean and standard deviation per channel, of x / 255
    "unit": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
MEMORY_LIMIT_BYTES = 2 * 2**30  # decoded images above this size go to a memory-mapped temporary file
MAX_FAULTS_SHOWN = 20


class Source(Protocol):
    """What a dataset is: anything with these attributes and items (image, target, id). See datasets/.

    Images are H×W or H×W×3, uint8; of files deeper than that as they are, for on_disk says how to make them 8 bits.
    """

    ids: list[str]
    files: list[tuple[Path, ...]]
    classes: list[str]
    given_split: list[str] | None
    faults: Sequence[str]  # of the folder as a whole: told together with those of its files
    on_disk: OnDisk | None  # None: made, not read

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> tuple[np.ndarray, np.ndarray | int, str]: ...


class Original(NamedTuple):
    """What a sample was before it became uint8 and a square."""

    width_px: int
    height_px: int
    deep_range: tuple[float, float] | None  # smallest and largest value of an image deeper than 8 bits
    files: list[str]  # in words: "8-bit grey JPEG"


@dataclass(frozen=True)
class Samples:
    """A whole data set, decoded and resized, in memory."""

    images: np.ndarray  # (N, H, W, C) uint8
    targets: np.ndarray  # (N,) int64 classes, or (N, H, W) uint8 class maps
    ids: list[str]
    digests: list[str]  # a hash of the bytes of each sample's files (of its pixels where it has none)
    originals: list[Original]

    @property
    def has_masks(self) -> bool:
        """Whether targets are class maps rather than one class per image."""
        return self.targets.ndim == 3


def prepare(source: Source, image_size_px: int, channels: int) -> Samples:
    """Returns every sample decoded and resized to a square of image_size_px; all broken files in one UserError.

    Images deeper than 8 bits are windowed, see Source. Images are resized by area averaging (down) or linearly (up),
    masks by nearest neighbour. Grey becomes RGB by repetition, RGB becomes grey by luminance.
    """
    check_integer("image_size_px", image_size_px, minimum=1)
    check_choice("channels", str(channels), ("1", "3"))
    cv2.setNumThreads(0)  # the pool below is the parallelism, and OpenCV's threads would not survive a worker's fork
    size = (len(source), image_size_px, image_size_px, channels)
    images = _allocate(size)

    def load(i: int) -> tuple[np.ndarray | int, str, Original] | UserError:
        try:
            image, target, _ = source[i]
        except UserError as error:
            return error
        paths = source.files[i]
        content = [p.read_bytes() for p in paths] if paths else [image.tobytes(), np.asarray(target).tobytes()]
        digest = hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in content)).hexdigest()
        original = _original(image, paths)
        if source.on_disk and original.deep_range:
            image = windowed(image, source.on_disk.window)
            if image.min() == image.max() and original.deep_range[0] < original.deep_range[1]:
                low, high = original.deep_range
                return UserError(
                    f"{paths[0]}: its values, {low:g} to {high:g}, are all one grey under "
                    f"dataset.window={list(source.on_disk.window)}. Set it to the values to be black and white."
                )
        images[i] = _resize_image(_with_channels(image, channels), image_size_px)
        if isinstance(target, np.ndarray) and target.shape != size[1:3]:
            target = cv2.resize(target, (image_size_px,) * 2, interpolation=cv2.INTER_NEAREST_EXACT)
        return target, digest, original

    with ThreadPoolExecutor() as pool:  # decoding and resizing release the GIL
        loaded = list(pool.map(load, range(len(source))))
    faults = [*source.faults, *(str(item) for item in loaded if isinstance(item, UserError))]
    if faults:
        more = [f"… and {len(faults) - MAX_FAULTS_SHOWN} more."] if len(faults) > MAX_FAULTS_SHOWN else []
        raise UserError("\n".join(faults[:MAX_FAULTS_SHOWN] + more))
    targets, digests, originals = zip(*(item for item in loaded if not isinstance(item, UserError)), strict=True)
    return Samples(images, np.stack(targets), list(source.ids), list(digests), list(originals))


def normalizer(name: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, shift), each of shape (C, 1, 1) float32, so that x * scale + shift normalises uint8 pixels."""
    check_choice("normalization", name, NORMALIZATIONS)
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in NORMALIZATIONS[name])
    if len(mean) not in (1, channels):
        raise ValueError(f"normalization={name} is for {len(mean)} channels. Set dataset.channels={len(mean)}")
    return 1 / (255 * std), -mean / std


def _original(image: np.ndarray, paths: Sequence[Path]) -> Original:
    height_px, width_px = image.shape[:2]
    deep_range = None if image.dtype == np.uint8 else (float(image.min()), float(image.max()))
    return Original(width_px, height_px, deep_range, [describe(path) for path in paths])


def _allocate(shape: tuple[int, ...]) -> np.ndarray:
    if np.prod(shape) <= MEMORY_LIMIT_BYTES:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile() as file:  # removed by the system when the last reader is gone
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if channels == 3 and image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if channels == 1 and image.ndim == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image


def _resize_image(image: np.ndarray, size_px: int) -> np.ndarray:
    if image.shape[:2] != (size_px, size_px):
        smaller = size_px < max(image.shape[:2])
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return image.reshape(size_px, size_px, -1)

"""What a dataset must offer, and what becomes of it: samples in memory."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from runcard.data.image_io import OnDisk
from runcard.data.medical_io import Spacing
from runcard.errors import DataError

UNKNOWN = -1  # the class of an image without a label: none that a dataset for training may give


class Source(Protocol):
    """What a dataset is: anything with these attributes and items (image, target, id). See datasets/.

    Images are H×W or H×W×3, uint8; of files deeper than that as they are, for on_disk says how to make them 8 bits.
    A target is a class index, or an H×W uint8 map of these with runcard.IGNORED where nobody labelled the pixel. A
    subclass needs ids, classes and __getitem__; the rest has a default.
    """

    ids: list[str]  # unique, one per item
    classes: list[str]  # names in the order of their indices
    given_split: list[str] | None = None  # train, val or test of each item; None where the data have no split
    groups: list[str] | None = None  # the patient of each item; None where only dataset.split.group_regex may name it
    faults: Sequence[DataError] = ()  # of the folder as a whole: reported together with those of its files
    on_disk: OnDisk | None = None  # None: made, not read
    spacings_mm: Sequence[Spacing | None] | None = None  # of the pixels of each item; None: what its file says

    @cached_property
    def files(self) -> Sequence[tuple[Path, ...]]:
        """The files of each item, images that Runcard reads: the image, then the mask; empty where there are none."""
        return [()] * len(self)

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, i: int, /) -> tuple[np.ndarray, np.ndarray | int, str]: ...


def name_of(source: Source) -> str:
    """Name a dataset for people: by the folder of its files, or by its class where it is made, not read."""
    if source.on_disk is None:
        return type(source).__name__
    return Path(os.path.normpath(source.on_disk.location.absolute())).name  # resolve() would lose the names of links


class Original(NamedTuple):
    """What a sample was before it became uint8 and a square."""

    width_px: int
    height_px: int
    deep_range: tuple[float, float] | None  # smallest and largest value of an image deeper than 8 bits
    kinds: list[str]  # of its files: "8-bit grey JPEG"
    spacing_mm: Spacing | None = None  # None where neither the dataset nor the file knows it
    burned_in_text: bool = False  # its file says that there is text in the image
    ignored: float = 0.0  # share of the mask's pixels that are IGNORED
    num_pages: int = 1  # images in its file, or in that of its mask, of which only the first one is read


class Sample(NamedTuple):
    """One image as it is meant to be seen, at the size of its file."""

    image: np.ndarray  # H×W or H×W×3 uint8
    target: np.ndarray | int  # see Source
    digest: str  # a hash of the bytes of its files (of its pixels where it has none, or is a slice of one)
    original: Original


@dataclass(frozen=True)
class Samples:
    """A whole data set, decoded and resized, in read-only arrays: whoever changes pixels copies them.

    In memory; images, or masks, above preprocessing.MEMORY_LIMIT_BYTES lie in a file that is mapped into it.
    """

    images: np.ndarray  # (N, H, W, C) uint8
    targets: np.ndarray  # (N,) int64 classes, or (N, H, W) uint8 class maps
    ids: list[str]
    digests: list[str]
    originals: list[Original]
    positions: list[int]  # in the source: all, but for those left out because their faults are allowed
    faults: list[DataError]  # which are allowed: of folders, and of what was left out
    pixel_mm: np.ndarray | None  # (N, 2) float64: height and width of a pixel of images; None: not known of each image

    @property
    def has_masks(self) -> bool:
        """Whether targets are class maps rather than one class per image."""
        return self.targets.ndim == 3

    @property
    def has_ignored(self) -> bool:
        """Whether a mask, at the size of its file, has pixels that are IGNORED."""
        return any(original.ignored for original in self.originals)

    @property
    def labels(self) -> list[int] | None:
        """The class of each image; None with masks."""
        return None if self.has_masks else self.targets.tolist()

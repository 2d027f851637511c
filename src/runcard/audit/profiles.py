"""Inspect every sample: decode it once, at full size, and keep what the checks need, in a few kB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

from runcard import IGNORED
from runcard.audit.detectors.outliers import inverted_among_grey, is_extreme, is_inverted, polarity, usual
from runcard.audit.findings import Finding
from runcard.caching import Cache
from runcard.console import show_progress
from runcard.data.image_io import file_of, grey_values
from runcard.data.preprocessing import prepare_process, read_sample, resize_image, resize_mask, suggest_mask_values
from runcard.data.source import Original, Sample, Source
from runcard.errors import DataError

THUMB_PX = 64
MAX_CHROMA = 8  # grey levels: maximum difference of a channel from grey in a grey image stored as RGB


@dataclass(frozen=True)
class Profile:
    """The properties of one sample that the checks use."""

    id: str
    position: int  # in the source
    name: str  # its file, relative to the data's folder; the id of generated data
    files: tuple[Path, ...]  # the image, and its mask; empty for generated data
    digest: str  # of the bytes of its files
    inode: tuple[int, int] | None  # of the image's file; equal for links to one file
    pixel_hash: str  # of the image as decoded
    num_bytes: int  # of the image's file
    original: Original
    mean: float  # of the greys at full size, 0 to 255
    sd: float
    is_constant: bool  # of a single grey
    is_grey: bool  # of one channel, or of three that are equal up to MAX_CHROMA
    thumb: np.ndarray  # (64, 64) uint8 grey, for any aspect ratio
    target: int | None  # the class; None with a mask
    mask: Mask | None


@dataclass(frozen=True)
class Mask:
    """The properties of a mask that the checks use."""

    name: str  # see Profile
    thumb: np.ndarray  # (64, 64) uint8 class indices, 0 where nobody labelled
    pixel_hash: str  # of the class indices
    counts: tuple[int, ...]  # labelled pixels of each class
    values: tuple[int, ...]  # of these in the file, in ascending order
    soft: float  # share of pixels whose value is not the most frequent one of a class
    image_correlation: float  # correlation of image and mask, -1 to 1: 1 where the mask is its image

    @property
    def is_empty(self) -> bool:
        """Whether it is all background."""
        return not any(self.counts[1:])

    @property
    def is_full(self) -> bool:
        """Whether it has no background."""
        return self.counts[0] == 0


@dataclass(frozen=True)
class Inspected:
    """A data set as input of the checks: every readable sample, and the split."""

    profiles: Sequence[Profile]
    classes: Sequence[str]
    positive: str | None  # the positive class of the metrics
    has_masks: bool
    sides: Sequence[str]  # split of each profile: train, val or test; "" without a split
    groups: Sequence[str]  # group of each profile: its patient, or its own id
    is_grouped: bool  # whether patients are named, by dataset.split.group_regex or by the dataset
    split_kind: str  # given | holdout | kfold
    cache: Cache | None = None  # where results of costly detectors are kept; None: nowhere

    @cached_property
    def thumbs(self) -> np.ndarray:
        """The grey thumbs (N, 64, 64) uint8 of all images."""
        return np.array([profile.thumb for profile in self.profiles], np.uint8).reshape(-1, THUMB_PX, THUMB_PX)

    @cached_property
    def inverted(self) -> list[int]:
        """The positions of the grey images whose greys are inverted."""
        return inverted_among_grey(self.thumbs, np.array([profile.is_grey for profile in self.profiles], bool))

    def of(self, side: str) -> list[Profile]:
        """Return the profiles of one split."""
        return [profile for profile, other in zip(self.profiles, self.sides, strict=True) if other == side]

    def finding(
        self, check: str, level: str, what: str, fix: str, samples: Sequence[int], places: Sequence[str] | None = None
    ) -> Finding:
        """Build a finding about samples, given by position; places default to their files."""
        named = [self.profiles[i].name for i in samples] if places is None else places
        return Finding(check, level, what, fix, tuple(named), tuple(samples))


def inspect(source: Source, console: Console) -> tuple[dict[int, Profile], list[DataError]]:
    """Decode every sample of source; return the profiles of those that can be read, by position, and all faults."""
    prepare_process()

    def look(i: int) -> Profile | DataError:
        try:
            return profile_of(source, i, read_sample(source, i))
        except DataError as fault:
            return fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding, resizing and hashing release the GIL
        inspecting = pool.map(look, range(len(source)))
        seen = list(show_progress(inspecting, "audit", len(source), console))
    faults = [*source.faults, *(look for look in seen if isinstance(look, DataError))]
    return {look.position: look for look in seen if isinstance(look, Profile)}, suggest_mask_values(faults, source)


def profile_of(source: Source, i: int, sample: Sample) -> Profile:
    """Return what the checks need of sample i of source, decoded at the size of its file."""
    image, target, digest, original = sample
    files = source.files[i]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    mean, sd = (float(value[0, 0]) for value in cv2.meanStdDev(grey))
    num_bytes = file_of(files[0]).stat().st_size if files else image.nbytes
    return Profile(
        id=source.ids[i],
        position=i,
        name=file_name(source, i, 0),
        files=files,
        digest=digest,
        inode=inode_of(files),
        pixel_hash=_hash(str(image.shape).encode() + image.tobytes()),
        num_bytes=num_bytes,
        original=original,
        mean=mean,
        sd=sd,
        is_constant=bool(grey.min() == grey.max()),
        is_grey=is_grey(image, grey),
        thumb=resize_image(grey, THUMB_PX)[..., 0],
        target=None if isinstance(target, np.ndarray) else int(target),
        mask=_mask(source, i, grey, target) if isinstance(target, np.ndarray) else None,
    )


def inode_of(files: Sequence[Path]) -> tuple[int, int] | None:
    """Return what is equal for links to one file, the image's; None for generated data."""
    status = file_of(files[0]).stat() if files else None
    return (status.st_dev, status.st_ino) if status else None


def seen_in(profiles: Sequence[Profile]) -> dict[str, Any]:
    """Describe images, for later ones: see polarity (of the grey ones) and usual in detectors.outliers."""
    grey, thumbs = [p.thumb for p in profiles if p.is_grey], [p.thumb for p in profiles]
    return {"polarity": polarity(_stack(grey)), "usual": usual(_stack(thumbs))}


def differences(image: np.ndarray, seen: Mapping[str, Any]) -> Iterator[str]:
    """Yield "inverted" and "unusual" where an image (H, W) or (H, W, 3) uint8 is so relative to those of seen_in.

    seen may lack what older versions did not record.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    thumb = resize_image(grey, THUMB_PX)[..., 0]
    if seen.get("polarity") and is_grey(image, grey) and is_inverted(thumb, seen["polarity"]):
        yield "inverted"
    elif seen.get("usual") and is_extreme(thumb, seen["usual"]):
        yield "unusual"


def _stack(thumbs: Sequence[np.ndarray]) -> np.ndarray:
    return np.array(thumbs, np.uint8).reshape(-1, THUMB_PX, THUMB_PX)


def is_grey(image: np.ndarray, grey: np.ndarray) -> bool:
    """Whether image (H, W) or (H, W, 3) uint8 equals its grey (H, W), as in radiographs stored as RGB."""
    return image.ndim == 2 or cv2.norm(image, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), cv2.NORM_INF) <= MAX_CHROMA


def _mask(source: Source, i: int, grey: np.ndarray, mask: np.ndarray) -> Mask:
    files, num_classes = source.files[i], len(source.classes)
    counts = np.bincount(mask.ravel(), minlength=num_classes)[:num_classes]  # without what is IGNORED
    values, frequencies = grey_values(files[1]) if len(files) > 1 else (np.flatnonzero(counts), counts[counts > 0])
    if source.on_disk:
        of_class = values != source.on_disk.ignore_value
        values, frequencies = values[of_class], frequencies[of_class]
    drawn = mask * (mask != IGNORED)
    of_classes = np.sort(frequencies)[-np.count_nonzero(counts) :]  # a class's own value is its most frequent one
    return Mask(
        name=file_name(source, i, -1),
        thumb=resize_mask(drawn, THUMB_PX),
        pixel_hash=_hash(str(mask.shape).encode() + mask.tobytes()),
        counts=tuple(counts.tolist()),
        values=tuple(values.tolist()),
        soft=float(1 - of_classes.sum() / counts.sum()),
        image_correlation=_correlation(grey, drawn),
    )


def file_name(source: Source, i: int, which: int) -> str:
    """Return the name of a file of sample i, relative to the data's folder; the sample's id if it has no files."""
    if not source.files[i] or source.on_disk is None:
        return source.ids[i]
    path, location = source.files[i][which], source.on_disk.location
    return str(path.relative_to(location) if path.is_relative_to(location) else path)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Compute Pearson's correlation of two images (H, W); 0 if either is constant."""
    a, b = (array.astype(np.float32) - array.mean(dtype=np.float64) for array in (one, other))
    scale = float(np.sqrt(np.square(a).sum(dtype=np.float64) * np.square(b).sum(dtype=np.float64)))
    return float((a * b).sum(dtype=np.float64)) / scale if scale else 0.0


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()

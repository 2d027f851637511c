"""Read images from files and folders outside a run's data, preprocessed as the run's data were."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from natsort import natsorted
from rich.console import Console

from runcard.config.schema import DatasetConfig
from runcard.data.datamodule import open_source, read_samples
from runcard.data.image_io import FULL_WINDOW, NO_IMAGES, OnDisk, is_image, read_image, slices
from runcard.data.source import UNKNOWN, Source
from runcard.errors import UserError


class Pictures(NamedTuple):
    """Images preprocessed as for training, except for normalisation."""

    images: np.ndarray  # (N, H, W, C) uint8
    targets: np.ndarray  # (N,) int64 class indices, or UNKNOWN
    ids: list[str]
    groups: list[str]  # patients; the ids where none are known


def read_pictures(
    dataset: DatasetConfig, classes: Sequence[str], paths: Sequence[Path], console: Console, trust: Sequence[str]
) -> Pictures:
    """Return the images at paths, prepared as the dataset part of a run's config says.

    Classes are known for folders with the layout of the run's data; for other folders console prints the reason.
    """
    found = [read_samples(_source(dataset, classes, path, console, trust), dataset) for path in paths]
    images, targets = (np.concatenate(arrays) for arrays in ([s.images for s in found], [s.targets for s in found]))
    ids = [name for samples in found for name in samples.ids]
    return Pictures(images, targets, ids, ids)


def _source(
    dataset: DatasetConfig, classes: Sequence[str], path: Path, console: Console, trust: Sequence[str]
) -> Source:
    """Return the images of a file or folder: in the layout of the run's data, or else without classes."""
    if path.is_dir() and "root" in dataset.node:
        try:
            source = open_source(dataset.with_arguments(root=str(path), folder=None, classes=list(classes)), trust)
            reason = str(source.faults[0]) if source.faults else None
        except UserError as error:
            reason = str(error).partition("\n")[0]
        if reason is None:
            return source
        console.print(f"{path}: read without classes: {reason}")
    files = natsorted(p for p in path.rglob("*") if is_image(p.name)) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: {NO_IMAGES}.")
    return Unlabelled(files, classes, dataset.node.get("window", FULL_WINDOW))  # data that are made have no window


class Unlabelled(Source):
    """A dataset of unlabelled images; see data.source.Source."""

    def __init__(self, paths: Sequence[Path], classes: Sequence[str], window: tuple[float, float]) -> None:
        self.files = [images for path in paths for images in slices([path]).values()]
        self.ids = [str(path) for (path,) in self.files]
        self.classes = list(classes)
        self.on_disk = OnDisk(paths[0].parent, "single images", [], window)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int, str]:
        return read_image(self.files[i][0]), UNKNOWN, self.ids[i]

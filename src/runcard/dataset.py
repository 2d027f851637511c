"""The data set that a card names, opened: decoded, resized, split, and with what the card calls its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runcard.build import build, checked
from runcard.data import Samples, Source, normalizer, prepare
from runcard.errors import UserError, check_choice, check_integer
from runcard.splits import Split, make_split

OF_EVERY_DATASET = ("image_size_px", "channels", "positive", "split", "normalization")  # not its class's arguments


@dataclass(frozen=True)
class Data:
    """Everything that a run knows of its data."""

    source: Source
    samples: Samples
    normalization: tuple[np.ndarray, np.ndarray]  # scale and shift, see data.normalizer
    split: Split
    groups: list[str]
    classes: list[str]
    positive: int | None


def open_source(dataset: Mapping[str, Any]) -> Source:
    """Returns the source that the dataset part of a resolved card names."""
    source: Source = build("dataset", {key: value for key, value in dataset.items() if key not in OF_EVERY_DATASET})
    return source


def read_samples(source: Source, dataset: Mapping[str, Any]) -> Samples:
    """Returns a source's images at the size and with the channels that a resolved card says."""
    return checked("dataset.", lambda: prepare(source, dataset["image_size_px"], dataset["channels"]))


def read_data(dataset: Mapping[str, Any]) -> Data:
    """Returns the data of the dataset part of a resolved card. Raises UserError for all that is wrong with it."""
    for key in OF_EVERY_DATASET:
        if key not in dataset:
            raise UserError(f"dataset.{key}: this key is needed.")
    checked("dataset.", lambda: check_integer("image_size_px", dataset["image_size_px"], minimum=1))
    normalization = checked("dataset.", lambda: normalizer(dataset["normalization"], dataset["channels"]))
    source = open_source(dataset)
    classes, name = list(source.classes), dataset["positive"]
    positive = None if name is None else checked("dataset.", lambda: check_choice("positive", str(name), classes))
    samples = read_samples(source, dataset)
    labels = None if samples.has_masks else samples.targets.tolist()
    split, groups = checked("dataset.", lambda: make_split(samples.ids, labels, source.given_split, **dataset["split"]))
    position = None if positive is None else classes.index(positive)
    return Data(source, samples, normalization, split, groups, classes, position)

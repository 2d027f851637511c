"""The data set that a config names, opened: decoded, resized, split, and with what the config calls its classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runcard.config.instantiate import build, checked
from runcard.data.preprocessing import normalizer, prepare
from runcard.data.source import Samples, Source
from runcard.data.splits import Split, make_split
from runcard.errors import UserError, check_choice, check_integer

OF_EVERY_DATASET = ("image_size_px", "channels", "positive", "split", "normalization")  # not its class's arguments


@dataclass(frozen=True)
class Data:
    """Everything that a run knows of its data."""

    source: Source
    samples: Samples
    normalization: tuple[np.ndarray, np.ndarray]  # scale and shift, see data.preprocessing.normalizer
    split: Split
    groups: list[str]
    classes: list[str]
    positive: int | None


def open_source(dataset: Mapping[str, Any]) -> Source:
    """Returns the source that the dataset part of a resolved config names."""
    source: Source = build("dataset", {key: value for key, value in dataset.items() if key not in OF_EVERY_DATASET})
    return source


def read_samples(source: Source, dataset: Mapping[str, Any], allowed: Sequence[str] = ()) -> Samples:
    """Returns a source's images at the size and with the channels that a resolved config says; see preprocessing."""
    return checked("dataset.", lambda: prepare(source, dataset["image_size_px"], dataset["channels"], allowed))


def read_data(dataset: Mapping[str, Any], allowed: Sequence[str] = ()) -> Data:
    """Returns the data of the dataset part of a resolved config. Raises UserError for all that is wrong with it.

    allowed are the checks (audit.allow) whose faults leave an image out rather than stop.
    """
    normalization = check_dataset(dataset)
    source = open_source(dataset)
    classes, positive = list(source.classes), positive_class(dataset, source)
    samples = read_samples(source, dataset, allowed)
    given = source.given_split and [source.given_split[i] for i in samples.positions]
    split, groups = checked("dataset.", lambda: make_split(samples.ids, samples.labels, given, **dataset["split"]))
    position = None if positive is None else classes.index(positive)
    return Data(source, samples, normalization, split, groups, classes, position)


def check_dataset(dataset: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Checks, before any file is read, the keys that every dataset has; returns scale and shift (see normalizer).

    Raises UserError.
    """
    for key in OF_EVERY_DATASET:
        if key not in dataset:
            raise UserError(f"dataset.{key}: this key is needed.")
    checked("dataset.", lambda: check_integer("image_size_px", dataset["image_size_px"], minimum=1))
    checked("dataset.", lambda: check_choice("channels", str(dataset["channels"]), ("1", "3")))
    return checked("dataset.", lambda: normalizer(dataset["normalization"], dataset["channels"]))


def positive_class(dataset: Mapping[str, Any], source: Source) -> str | None:
    """Returns the name of the positive class, or None where the config has none. Raises UserError for a strange one."""
    name = dataset["positive"]
    return None if name is None else checked("dataset.", lambda: check_choice("positive", str(name), source.classes))

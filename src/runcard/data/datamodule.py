"""The data set that a config names, opened: decoded, resized, split, and with what the config calls its classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runcard import IGNORED
from runcard.config.instantiate import build
from runcard.config.schema import DatasetConfig
from runcard.data.preprocessing import Normalizer, normalizer, prepare
from runcard.data.source import Sample, Samples, Source
from runcard.data.splits import Split, make_split
from runcard.errors import UserError, check_config_choice

OF_SOURCE = ("ids", "classes", "files", "given_split", "groups", "faults", "on_disk", "spacings_mm")  # attributes


@dataclass(frozen=True)
class Data:
    """Everything that a run knows of its data."""

    source: Source
    samples: Samples
    normalization: Normalizer
    split: Split
    groups: list[str]
    classes: list[str]
    positive: int | None
    sealed: bool  # the test split is evaluated by `runcard unseal` alone

    @property
    def loaded(self) -> Split:
        """The split without what a run may not evaluate: its test images, where they are sealed."""
        return {**self.split, "test": []} if self.sealed else self.split


def open_source(dataset: DatasetConfig, trust: Sequence[str] = (), choice: str | None = None) -> Source:
    """Find the files of the dataset that a config names, in the file choice; nothing is decoded yet.

    Raises UserError.
    """
    source: Source = build("dataset", dataset.node, trust, choice)
    lacking = [name for name in OF_SOURCE if not hasattr(source, name)]
    if lacking:
        raise UserError(
            f"dataset._target_: {type(source).__name__} has no {', '.join(lacking)}. Derive it from "
            "runcard.data.source.Source, which has a default for all but ids and classes."
        )
    return source


def read_samples(
    source: Source,
    dataset: DatasetConfig,
    allowed: Sequence[str] = (),
    look: Callable[[int, Sample], None] | None = None,
    scratch: Path | None = None,
) -> Samples:
    """Decode a source's images at the size and with the channels that a config says; see preprocessing.prepare."""
    return prepare(source, dataset.image_size_px, dataset.channels, allowed, look, dataset.resize, scratch)


def own_split(source: Source, positions: Sequence[int]) -> tuple[list[str] | None, list[str] | None]:
    """Return the data's own split, and the patients, of the samples at these positions; None where it has none."""
    given = source.given_split and [source.given_split[i] for i in positions]
    return given, source.groups and [source.groups[i] for i in positions]


def make_data(source: Source, dataset: DatasetConfig, samples: Samples) -> Data:
    """Split the decoded images of an open source. Raises UserError for what is wrong with them."""
    classes, positive = list(source.classes), positive_class(dataset, source)
    if samples.has_masks and len(classes) > IGNORED:
        raise UserError(f"dataset.classes: masks can have {IGNORED} classes at most, got {len(classes)}.")
    given, patients = own_split(source, samples.positions)
    split, groups = make_split(samples.ids, samples.labels, given, dataset.split, patients)
    position = None if positive is None else classes.index(positive)
    normalization = normalizer(dataset.normalization)
    return Data(source, samples, normalization, split, groups, classes, position, dataset.split.seal)


def positive_class(dataset: DatasetConfig, source: Source) -> str | None:
    """Return the name of the positive class, None where the config has none. Raises UserError for an unknown one."""
    name = dataset.positive
    return None if name is None else check_config_choice("dataset.positive", name, source.classes)

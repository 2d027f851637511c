"""Checks of the augmentation on a few images of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from runcard.audit.cache import remember
from runcard.audit.detectors.augmentation_probe import MAX_APART_PX, Pair, Probe, probe
from runcard.audit.findings import Finding
from runcard.audit.profiles import Inspected
from runcard.caching import Cache
from runcard.config.instantiate import untrusted_targets
from runcard.config.schema import DatasetConfig
from runcard.data.preprocessing import read_sample, resize_image, resize_mask, with_channels
from runcard.data.source import Samples, Source

if TYPE_CHECKING:
    from runcard.data.loaders import Augment

NUM_SAMPLES = 4  # images that the augmentation is tried on
SURELY_APART_PX = 3  # less may come from asymmetric blur or coarse resampling
OFTEN = 0.05  # share of draws that may lose the foreground


def find(
    augment: Augment, node: Mapping[str, Any], samples: list[Pair], cache: Cache | None = None
) -> Iterator[Finding]:
    """Find faults of an augmentation on samples of the data; node is its part of the config."""
    if not samples:
        return
    images = np.stack([sample.image for sample in samples])
    drawn = [sample.mask for sample in samples if sample.mask is not None]
    masks = np.stack(drawn) if drawn else None
    if untrusted_targets(node, trust=()):
        cache = None  # the key of the cache does not contain the code of the user's own transforms
    found = remember(cache, "augmentation", Probe, lambda: probe(augment, images, masks), node, images, masks)
    if found.apart_px is not None and not found.moves_together:
        level = "error" if found.apart_px > SURELY_APART_PX else "warning"
        apart = f"in draw {found.worst_seed} they are {found.apart_px:.1f} px apart"
        what = f"image and mask are transformed differently: {apart}"
        fix = f"One draw must serve both (at most {MAX_APART_PX:g} px is rounding). Try augmentation=light."
        yield Finding("augmentation_mask", level, what, fix)
    for fault in found.faults:
        fix = "An augmented sample keeps shape, type and class indices: masks by nearest neighbour, images as uint8."
        yield Finding("augmentation_values", "error", fault, fix)
    if not found.repeatable:
        what = "the same seed gives a different draw, so that no run can be repeated or resumed"
        yield Finding("augmentation_random", "error", what, "Draw from the seed that it is called with, and no other.")
    if found.lost is not None and found.lost > OFTEN:
        what = f"{found.lost:.0%} of the draws leave nothing of the foreground"
        yield Finding("augmentation_loses_mask", "warning", what, "Narrow its shifts, crops and zooms.")
    if no_op := tuple(no_op_parameters(node, "augmentation")):
        what = "parameters without effect: a probability of 0, or a range from 0 to 0"
        yield Finding("no_op_parameter", "warning", what, "Raise them, or leave them out.", no_op)


def no_op_parameters(node: object, key: str) -> Iterator[str]:
    """Yield the dotted keys at or below a node of transforms that have no effect: p: 0, and ranges of [0, 0]."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from no_op_parameters(value, f"{key}.{name}")
    elif (key.endswith(".p") and node == 0) or node in ([0, 0], (0, 0)):
        yield key
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from no_op_parameters(value, f"{key}[{i}]")


def read_chosen(source: Source, data: Inspected, dataset: DatasetConfig) -> list[Pair]:
    """Decode a few samples as the model would get them."""
    size_px, resize = dataset.image_size_px, dataset.resize
    samples = []
    for i in _chosen(data):
        image, target, *_ = read_sample(source, data.profiles[i].position)
        mask = resize_mask(target, size_px, resize) if isinstance(target, np.ndarray) else None
        samples.append(Pair(resize_image(with_channels(image, dataset.channels), size_px, resize), mask))
    return samples


def take_chosen(samples: Samples, data: Inspected) -> list[Pair]:
    """Copy a few samples from those in memory, which are those of data, and those that take part in nothing."""
    row = {position: i for i, position in enumerate(samples.positions)}
    chosen = [row[data.profiles[i].position] for i in _chosen(data)]
    return [Pair(samples.images[i].copy(), samples.targets[i].copy() if samples.has_masks else None) for i in chosen]


def _chosen(data: Inspected) -> list[int]:
    """Choose a few samples across the data, with foreground if any has it."""
    shown = [i for i, p in enumerate(data.profiles) if not p.is_constant and (p.mask is None or not p.mask.is_empty)]
    return [shown[i] for i in np.unique(np.linspace(0, len(shown) - 1, min(NUM_SAMPLES, len(shown))).astype(int))]

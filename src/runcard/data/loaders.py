"""From samples to batches that are the same everywhere, whatever the number of workers.

Augmentation is random and can reach the training split only: only the training loader is ever given one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from runcard.config.schema import TrainConfig
from runcard.data.preprocessing import Normalizer
from runcard.data.source import Samples
from runcard.data.splits import Split
from runcard.seeding import derive

Augment = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, np.ndarray | None]]


class Batch(NamedTuple):
    """One item, or after collation one batch, of a loader."""

    images: torch.Tensor  # (N, C, H, W) float32
    targets: torch.Tensor  # (N,) or (N, H, W) int64
    indices: torch.Tensor  # (N,) positions in Samples
    pixel_size: torch.Tensor  # (N, 2) float64: height and width of a pixel in mm; 1 where the data have no spacing


class SampleDataset(Dataset[Batch]):
    """Samples as tensors. The key is (epoch, index): with persistent workers, an epoch kept here would go stale."""

    def __init__(self, samples: Samples, normalization: Normalizer, augment: Augment | None, seed: int) -> None:
        self.samples = samples
        self.normalization = normalization
        self.augment = augment
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        image, target = self.samples.images[index], self.samples.targets[index]
        if self.augment is not None:
            draw = derive(self.seed, "augmentation", epoch, self.samples.ids[index])
            mask = target.copy() if self.samples.has_masks else None
            image, mask = self.augment(image.copy(), mask, draw)  # copies: transforms may work in place
            target = target if mask is None else mask
        pixels = torch.from_numpy(self.normalization(image))
        target = torch.from_numpy(np.asarray(target, np.int64))
        return Batch(pixels, target, torch.tensor(index), pixel_size(self.samples, index))


def pixel_size(samples: Samples, index: int) -> torch.Tensor:
    """Return the height and width (2,) float64 of a sample's pixels in mm; 1 where the data have no spacing."""
    one = torch.ones(2, dtype=torch.float64)
    return one if samples.pixel_mm is None else torch.from_numpy(samples.pixel_mm[index])


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), shuffled anew for every epoch from the seed alone, or in order."""

    def __init__(self, indices: Sequence[int], seed: int, shuffle: bool, limit: int | None) -> None:
        self.indices = np.asarray(indices)
        self.seed = seed
        self.shuffle = shuffle
        self.num_images = min(len(indices), limit or len(indices))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentations that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self.indices
        if self.shuffle:
            order = np.random.default_rng(derive(self.seed, "order", self.epoch)).permutation(order)
        return ((self.epoch, int(i)) for i in order[: self.num_images])

    def __len__(self) -> int:
        return self.num_images


@dataclass(frozen=True)
class Loaders:
    """The loaders of one run. train_eval: unaugmented training images, as many as validation has."""

    train: DataLoader[Batch]
    train_eval: DataLoader[Batch]
    val: DataLoader[Batch]
    test: DataLoader[Batch] | None
    train_sampler: EpochSampler


def make_loaders(
    plain: Dataset[Batch], augmented: Dataset[Batch], split: Split, train: TrainConfig, seed: int, pin_memory: bool
) -> Loaders:
    """Return the loaders; only the training one sees augmented. Evaluation reads in order and drops nothing."""
    limit = train.limit_batches and train.limit_batches * train.batch_size

    def evaluation(indices: Sequence[int]) -> DataLoader[Batch]:
        sampler = EpochSampler(indices, seed, shuffle=False, limit=limit)
        return DataLoader(plain, train.batch_size, sampler=sampler, pin_memory=pin_memory, generator=_generator(seed))

    shuffled = np.random.default_rng(derive(seed, "train_eval")).permutation(split["train"])
    sampler = EpochSampler(split["train"], seed, shuffle=True, limit=limit)
    return Loaders(
        train=DataLoader(
            augmented,
            train.batch_size,
            sampler=sampler,
            num_workers=train.num_workers,
            persistent_workers=train.persistent_workers and train.num_workers > 0,
            worker_init_fn=_single_threaded,
            pin_memory=pin_memory,
            generator=_generator(seed),
        ),
        train_eval=evaluation(np.sort(shuffled[: len(split["val"])]).tolist()),
        val=evaluation(split["val"]),
        test=evaluation(split["test"]) if split["test"] else None,
        train_sampler=sampler,
    )


def _generator(seed: int) -> torch.Generator:
    """A loader's own generator; without one it would draw from the stream that dropout uses."""
    return torch.Generator().manual_seed(derive(seed, "loader"))


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(0)  # a worker is one core; OpenCV's own threads would compete with the others


def unaugmented(dataset: Dataset[Batch], samples: Samples, normalization: Normalizer, indices: Sequence[int]) -> bool:
    """Whether a loader's dataset gives these samples normalised and otherwise unchanged, bit for bit, in two epochs."""

    def as_it_is(batch: Batch, i: int) -> bool:
        pixels = normalization(samples.images[i])
        return np.array_equal(batch.images, pixels) and np.array_equal(batch.targets, samples.targets[i])

    return all(as_it_is(dataset[epoch, i], i) for epoch in (1, 2) for i in indices)

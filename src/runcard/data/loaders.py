"""From samples to batches that are the same everywhere, whatever the number of workers.

Augmentation is random and can reach the training split only: only the training loader is ever given one.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from runcard.config.schema import TrainConfig
from runcard.data.preprocessing import Normalizer
from runcard.data.seeding import derive
from runcard.data.source import Samples
from runcard.data.splits import Split

MAX_WORKERS = 8  # of train.num_workers=auto
NOTHING = np.empty(0, np.uint8)
Key = tuple[int, int]  # epoch, position in Samples
Share = tuple[int, int]  # which part, of how many
WHOLE = (0, 1)
T = TypeVar("T")
Augment = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, np.ndarray | None]]


class Batch(NamedTuple):
    """One batch. A dataset gives it as it is stored; a loader as the model takes it, on the run's device."""

    images: torch.Tensor  # (N, C, H, W) float32, channels_last; of SampleDataset (N, H, W, C) uint8
    targets: torch.Tensor  # (N,) or (N, H, W) int64; of SampleDataset masks are uint8
    indices: torch.Tensor  # (N,) positions in Samples
    pixel_size: torch.Tensor  # (N, 2) float64: height and width of a pixel in mm; 1 where the data have no spacing


class BatchDataset(Dataset[Batch]):
    """A dataset that gives whole batches, by keys that name the epoch: persistent workers would keep an old one."""

    samples: Samples
    normalization: Normalizer | None  # what a loader does to the images; None: nothing
    on_device: tuple[torch.Tensor, torch.Tensor] | None = None  # all images and targets, where a GPU keeps them

    @abstractmethod
    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        """Return the samples with these keys."""

    def __getitem__(self, key: Key) -> Batch:
        """Return a batch of one sample."""
        return self.__getitems__([key])

    def batch(self, images: torch.Tensor, targets: torch.Tensor, indices: Sequence[int]) -> Batch:
        """Return the batch of these samples, with the sizes of their pixels."""
        sizes = self.samples.pixel_mm
        of_batch = np.ones((len(indices), 2)) if sizes is None else sizes[indices]
        return Batch(images, targets, torch.tensor(indices, dtype=torch.int64), torch.from_numpy(of_batch))


class SampleDataset(BatchDataset):
    """Samples, augmented where augment is given."""

    normalization: Normalizer

    def __init__(self, samples: Samples, normalization: Normalizer, augment: Augment | None, seed: int) -> None:
        self.samples = samples
        self.normalization = normalization
        self.augment = augment
        self.seed = seed
        self._shared: list[torch.Tensor] = []  # all images and targets, in memory that other processes can map

    def __getstate__(self) -> dict[str, Any]:
        """Where workers are not forked, let all of them share one copy of the images."""
        if not self._shared:
            self._shared = [torch.tensor(a) for a in (self.samples.images, self.samples.targets)]
            for tensor in self._shared:
                tensor.share_memory_()  # type: ignore[no-untyped-call]
        return self.__dict__ | {"samples": replace(self.samples, images=NOTHING, targets=NOTHING)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        images, targets = (tensor.numpy() for tensor in state["_shared"])
        self.__dict__ = state | {"samples": replace(state["samples"], images=images, targets=targets)}

    def move(self, device: torch.device) -> None:
        """Keep a copy of all images and targets on a device, from which batches are taken."""
        samples = self.samples
        self.on_device = torch.tensor(samples.images, device=device), torch.tensor(samples.targets, device=device)

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        indices = [index for _, index in keys]
        if self.augment is not None and keys:
            pairs = [self._augmented(self.augment, *key) for key in keys]
            images, targets = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*pairs, strict=True))
        elif self.on_device:
            images, targets = (tensor[indices] for tensor in self.on_device)
        else:
            images, targets = (torch.from_numpy(a[indices]) for a in (self.samples.images, self.samples.targets))
        return self.batch(images, targets, indices)

    def _augmented(self, augment: Augment, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, target = self.samples.images[index], self.samples.targets[index]
        draw = derive(self.seed, "augmentation", epoch, self.samples.ids[index])
        mask = target.copy() if self.samples.has_masks else None
        image, mask = augment(image.copy(), mask, draw)  # copies: transforms may work in place
        return image, target if mask is None else mask


class EpochSampler(Sampler[Key]):
    """Yields (epoch, index), shuffled anew for every epoch from the seed alone."""

    def __init__(self, indices: Sequence[int], seed: int, limit: int | None) -> None:
        self.indices = np.asarray(indices)
        self.seed = seed
        self.num_images = min(len(indices), limit or len(indices))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and the augmentations that the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        order = np.random.default_rng(derive(self.seed, "order", self.epoch)).permutation(self.indices)
        return ((self.epoch, int(i)) for i in order[: self.num_images])

    def __len__(self) -> int:
        return self.num_images


class SharedBatches(Sampler[list[Key]]):
    """The same share of each batch of a sampler's keys. It may be empty in a batch with fewer keys than shares."""

    def __init__(self, sampler: Sampler[Key] | Sequence[Key], batch_size: int, share: Share) -> None:
        self.sampler, self.batch_size, self.share = sampler, batch_size, share

    def __iter__(self) -> Iterator[list[Key]]:
        keys = list(self.sampler)
        starts = range(0, len(keys), self.batch_size)
        return (list(part(keys[start : start + self.batch_size], self.share)) for start in starts)

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)  # type: ignore[arg-type]


def part(items: Sequence[T], share: Share) -> Sequence[T]:
    """Return one of the contiguous parts that items are divided into; the first parts are one longer where need be."""
    which, number = share
    size, longer = divmod(len(items), number)
    start = which * size + min(which, longer)
    return items[start : start + size + (which < longer)]


class BatchLoader(DataLoader[Batch]):
    """Batches on a device, as the model takes them. Images travel as uint8 and are normalised there.

    sampler gives the keys of the dataset, batch after batch; of each batch the loader gives one share.
    """

    dataset: BatchDataset
    batch_size: int

    def __init__(
        self,
        dataset: BatchDataset,
        batch_size: int,
        sampler: Sampler[Key] | Sequence[Key],
        device: torch.device,
        seed: int = 0,
        num_workers: int = 0,
        persistent_workers: bool = False,
        share: Share = WHOLE,
    ) -> None:
        batches: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler}
        super().__init__(
            dataset,
            **(batches if share == WHOLE else {"batch_sampler": SharedBatches(sampler, batch_size, share)}),
            collate_fn=_as_it_is,
            num_workers=num_workers,
            persistent_workers=persistent_workers and num_workers > 0,
            worker_init_fn=_single_threaded,
            pin_memory=device.type == "cuda" and not dataset.on_device,
            generator=_generator(seed),
        )
        self.device = device
        self.normalization = dataset.normalization and [torch.from_numpy(a).to(device) for a in dataset.normalization]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        return map(self.prepare, super().__iter__())

    def prepare(self, batch: Batch) -> Batch:
        """Return a batch of the dataset as the model takes it, on the device."""
        images = batch.images.to(self.device, non_blocking=True)
        if self.normalization:
            scale, shift = self.normalization
            images = images.movedim(-1, -3) * scale + shift
        targets = batch.targets.to(self.device, non_blocking=True).long()
        return batch._replace(images=to_device(images, self.device), targets=targets)


def to_device(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move images (N, C, H, W) to the device, in channels_last."""
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


@dataclass(frozen=True)
class Loaders:
    """The loaders of one run. train_eval: unaugmented training images, as many as validation has."""

    train: BatchLoader
    train_eval: BatchLoader
    val: BatchLoader
    test: BatchLoader | None
    train_sampler: EpochSampler


def make_loaders(
    plain: BatchDataset,
    augmented: BatchDataset,
    split: Split,
    train: TrainConfig,
    seed: int,
    device: torch.device,
    share: Share = WHOLE,
) -> Loaders:
    """Return the loaders; only the training one sees augmented. Evaluation reads in order and drops nothing.

    With a share, the training loader gives that of every batch, and the others that of their images.
    """
    limit = train.limit_batches and train.limit_batches * train.batch_size

    def evaluation(indices: Sequence[int]) -> BatchLoader:
        keys = [(0, i) for i in part(indices[:limit], share)]
        return BatchLoader(plain, train.batch_size, keys, device, seed)

    shuffled = np.random.default_rng(derive(seed, "train_eval")).permutation(split["train"])
    sampler = EpochSampler(split["train"], seed, limit)
    workers = 0 if augmented.on_device else num_workers(train.num_workers, device, augmented is not plain)
    return Loaders(
        train=BatchLoader(augmented, train.batch_size, sampler, device, seed, workers, train.persistent_workers, share),
        train_eval=evaluation(np.sort(shuffled[: len(split["val"])]).tolist()),
        val=evaluation(split["val"]),
        test=evaluation(split["test"]) if split["test"] else None,
        train_sampler=sampler,
    )


def num_workers(wish: int | str, device: torch.device, is_augmented: bool) -> int:
    """Return how many processes load training images; auto: some where images are augmented and a CUDA device trains.

    On a CPU they would take its cores from the training.
    """
    if isinstance(wish, int):
        return wish
    threads = torch.get_num_threads()  # which launchers divide among their runs
    return min(MAX_WORKERS, max(1, threads - 1)) if is_augmented and device.type == "cuda" else 0


def _as_it_is(batch: Any) -> Any:
    return batch


def _generator(seed: int) -> torch.Generator:
    """A loader's own generator; without one it would draw from the stream that dropout uses."""
    return torch.Generator().manual_seed(derive(seed, "loader"))


def _single_threaded(_: int) -> None:
    cv2.setNumThreads(0)  # a worker is one core; OpenCV's own threads would compete with the others


def unaugmented(loader: BatchLoader, samples: Samples, normalization: Normalizer, indices: Sequence[int]) -> bool:
    """Whether a loader gives these samples normalised and otherwise unchanged, bit for bit, in two epochs."""

    def as_it_is(batch: Batch, i: int) -> bool:
        pixels, target = normalization(samples.images[i]), samples.targets[i]
        return np.array_equal(batch.images[0].cpu(), pixels) and np.array_equal(batch.targets[0].cpu(), target)

    dataset = loader.dataset
    return all(as_it_is(loader.prepare(dataset[epoch, i]), i) for epoch in (1, 2) for i in indices)

"""From a dataset to batches: decode once, resize, split, then loaders that give the same batches everywhere.

Resizing and normalisation serve every split alike; augmentation is random and can reach the training split only,
because only the training loader is ever given one.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from runcard.errors import UserError, check_choice, check_integer
from runcard.seeding import derive
from runcard.settings import TrainSettings
from runcard.splits import Split

NORMALIZATIONS = {  # name -> mean and standard deviation per channel, of x / 255
    "unit": ((0.0,), (1.0,)),
    "symmetric": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
MEMORY_LIMIT_BYTES = 2 * 2**30  # decoded images above this size go to a memory-mapped temporary file
MAX_FAULTS_SHOWN = 20


class Source(Protocol):
    """What a dataset is: anything with these attributes and items (image, target, id). See datasets/."""

    ids: list[str]
    files: list[tuple[Path, ...]]
    classes: list[str]
    given_split: list[str] | None
    faults: Sequence[str]  # of the folder as a whole: told together with those of its files

    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> tuple[np.ndarray, np.ndarray | int, str]: ...


Augment = Callable[[np.ndarray, np.ndarray | None, int], tuple[np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class Samples:
    """A whole data set, decoded and resized, in memory."""

    images: np.ndarray  # (N, H, W, C) uint8
    targets: np.ndarray  # (N,) int64 classes, or (N, H, W) uint8 class maps
    ids: list[str]
    digests: list[str]  # a hash of the bytes of each sample's files (of its pixels where it has none)

    @property
    def has_masks(self) -> bool:
        """Whether targets are class maps rather than one class per image."""
        return self.targets.ndim == 3


class Batch(NamedTuple):
    """One item, or after collation one batch, of a loader."""

    images: torch.Tensor  # (N, C, H, W) float32
    targets: torch.Tensor  # (N,) or (N, H, W) int64
    indices: torch.Tensor  # (N,) positions in Samples


def prepare(source: Source, image_size_px: int, channels: int) -> Samples:
    """Returns every sample decoded and resized to a square of image_size_px; all broken files in one UserError.

    Images are resized by area averaging (down) or linearly (up), masks by nearest neighbour. Grey becomes RGB by
    repetition, RGB becomes grey by luminance.
    """
    check_integer("image_size_px", image_size_px, minimum=1)
    check_choice("channels", str(channels), ("1", "3"))
    cv2.setNumThreads(0)  # the pool below is the parallelism, and OpenCV's threads would not survive a worker's fork
    size = (len(source), image_size_px, image_size_px, channels)
    images = _allocate(size)

    def load(i: int) -> tuple[np.ndarray | int, str] | UserError:
        try:
            image, target, _ = source[i]
        except UserError as error:
            return error
        paths = source.files[i]
        content = [p.read_bytes() for p in paths] if paths else [image.tobytes(), np.asarray(target).tobytes()]
        digest = hashlib.sha256(b"".join(hashlib.sha256(c).digest() for c in content)).hexdigest()
        images[i] = _resize_image(_with_channels(image, channels), image_size_px)
        if isinstance(target, np.ndarray) and target.shape != size[1:3]:
            target = cv2.resize(target, (image_size_px,) * 2, interpolation=cv2.INTER_NEAREST_EXACT)
        return target, digest

    with ThreadPoolExecutor() as pool:  # decoding and resizing release the GIL
        loaded = list(pool.map(load, range(len(source))))
    faults = [*source.faults, *(str(item) for item in loaded if isinstance(item, UserError))]
    if faults:
        more = [f"… and {len(faults) - MAX_FAULTS_SHOWN} more."] if len(faults) > MAX_FAULTS_SHOWN else []
        raise UserError("\n".join(faults[:MAX_FAULTS_SHOWN] + more))
    targets, digests = zip(*(item for item in loaded if not isinstance(item, UserError)), strict=True)
    return Samples(images, np.stack(targets), list(source.ids), list(digests))


def normalizer(name: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (scale, shift), each of shape (C, 1, 1) float32, so that x * scale + shift normalises uint8 pixels."""
    check_choice("normalization", name, NORMALIZATIONS)
    mean, std = (np.array(v, np.float32).reshape(-1, 1, 1) for v in NORMALIZATIONS[name])
    if len(mean) not in (1, channels):
        raise ValueError(f"normalization={name} is for {len(mean)} channels. Set dataset.channels={len(mean)}")
    return 1 / (255 * std), -mean / std


class SampleDataset(Dataset[Batch]):
    """Samples as tensors. The key is (epoch, index): with persistent workers, an epoch kept here would go stale."""

    def __init__(
        self, samples: Samples, normalization: tuple[np.ndarray, np.ndarray], augment: Augment | None, seed: int
    ):
        self.samples = samples
        self.scale, self.shift = normalization
        self.augment = augment
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        image, target = self.samples.images[index], self.samples.targets[index]
        if self.augment is not None:
            draw = derive(self.seed, "augmentation", epoch, self.samples.ids[index])
            image, mask = self.augment(image, target if self.samples.has_masks else None, draw)
            target = target if mask is None else mask
        pixels = image.transpose(2, 0, 1) * self.scale + self.shift  # (C, H, W) float32
        return Batch(torch.from_numpy(pixels), torch.from_numpy(np.asarray(target, np.int64)), torch.tensor(index))


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), shuffled anew for every epoch from the seed alone, or in order."""

    def __init__(self, indices: Sequence[int], seed: int, shuffle: bool, limit: int | None) -> None:
        self.indices = np.asarray(indices)
        self.seed = seed
        self.shuffle = shuffle
        self.num_images = min(len(indices), limit or len(indices))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the augmentations that the next iteration gives."""
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
    samples: Samples,
    split: Split,
    normalization: tuple[np.ndarray, np.ndarray],
    augment: Augment | None,
    train: TrainSettings,
    seed: int,
    pin_memory: bool,
) -> Loaders:
    """Returns the loaders; only the training one augments. Evaluation reads in order and drops nothing."""
    limit = train.limit_batches and train.limit_batches * train.batch_size
    plain = SampleDataset(samples, normalization, None, seed)

    def evaluation(indices: Sequence[int]) -> DataLoader[Batch]:
        sampler = EpochSampler(indices, seed, shuffle=False, limit=limit)
        return DataLoader(plain, train.batch_size, sampler=sampler, pin_memory=pin_memory, generator=_generator(seed))

    shuffled = np.random.default_rng(derive(seed, "train_eval")).permutation(split["train"])
    sampler = EpochSampler(split["train"], seed, shuffle=True, limit=limit)
    return Loaders(
        train=DataLoader(
            SampleDataset(samples, normalization, augment, seed),
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

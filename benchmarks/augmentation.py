"""Measures augmentation on one core: ours, torchvision's transforms v2 and MONAI's dictionary transforms.

    .venv/bin/python benchmarks/augmentation.py [rounds]    # 3 by default

Each gives batches of 8 grey images of 256 px in float32, 0 to 1, with their masks, through a loader without worker
processes, from uint8 arrays in memory. Ours are the files of conf/augmentation. The others have the same transforms in
the same order, with the same ranges, probabilities and interpolation (bilinear, masks nearest), but:

- torchvision fills what an affine transform uncovers with 0, the others repeat the edge. It multiplies brightness, the
  others add to it. Its noise has one standard deviation, the middle of the range, and its blur a kernel of one size,
  7 px, where ours has 3 to 11 px.
- MONAI zooms each axis by itself, draws brightness and contrast independently where the others change both or neither,
  draws the noise's standard deviation from 0 on, and does not clip.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

SIZE_PX, NUM_IMAGES, BATCH = 256, 64, 8
DEGREES, SHIFT, ZOOM = {"light": 10, "strong": 20}, 0.1, {"light": 0.2, "strong": 0.3}
SECONDS = 4.0  # a measurement lasts at least so long, and ends with an epoch
CONFIGS = {"light": "affine, flip", "strong": "light, brightness and contrast, blur, noise"}
MEASURE = "--measure"
Epochs = Callable[[int], Iterable[tuple[Any, Any]]]  # number of an epoch -> its batches of images and masks


def main() -> None:
    """Print the table of benchmarks/README.md."""
    from rich.console import Console

    from runcard.console import print_table
    from runcard.runs.environment import hardware

    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    rates: dict[tuple[str, str], list[float]] = {(config, who): [] for config in CONFIGS for who in LIBRARIES}
    for _ in range(rounds):
        for config, who in rates:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
            command = [sys.executable, __file__, MEASURE, who, config]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{who}, {config}:\n{done.stderr}")
            rates[config, who].append(float(json.loads(done.stdout.splitlines()[-1])))
            print(f"{config}  {who}: {rates[config, who][-1]:.0f} images/s", flush=True)
    rows = []
    for (config, who), values in rates.items():
        ratio = statistics.median(map(float.__truediv__, rates[config, "Runcard"], values))
        spread = f"{min(values):.0f} to {max(values):.0f}"
        rows.append([f"{config}: {CONFIGS[config]}", who, f"{statistics.median(values):.0f}", spread, f"{ratio:.2f}"])
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{hardware()['cpu']}, one thread, {SIZE_PX} px, {rounds} rounds")
    print_table(console, ["augmentation", "by", "images/s", "range", "Runcard / this"], rows)


def measure(epochs: Epochs) -> float:
    """Return the images per second."""
    import torch

    torch.set_num_threads(1)
    sum(1 for _ in epochs(0))  # a warm-up
    number, started = 0, perf_counter()
    while perf_counter() - started < SECONDS:
        number += 1
        for images, masks in epochs(number):
            assert images.shape == (BATCH, 1, SIZE_PX, SIZE_PX), images.shape
            assert images.dtype == torch.float32
            assert masks.shape[-2:] == (SIZE_PX, SIZE_PX), masks.shape
    return number * NUM_IMAGES / (perf_counter() - started)


def setup(config: str) -> Any:
    """Build what a run with this augmentation trains with."""
    from epoch import built

    num_images = NUM_IMAGES * 5 // 4  # a fifth validates
    data = [f"dataset.num_images={num_images}", f"dataset.image_size_px={SIZE_PX}", f"train.batch_size={BATCH}"]
    return built([*data, f"augmentation={config}", "model.base=1", "train.accelerator=cpu"])


def pairs(config: str) -> list[tuple[Any, Any]]:
    """Return the training images (H, W) uint8 with their masks."""
    data = setup(config).data
    return [(data.samples.images[i, ..., 0].copy(), data.samples.targets[i].copy()) for i in data.split["train"]]


def runcard(config: str) -> Epochs:
    """Load batches as a run does."""
    loaders = setup(config).loaders

    def epoch(number: int) -> Iterable[tuple[Any, Any]]:
        loaders.train_sampler.set_epoch(number)
        return ((batch.images, batch.targets) for batch in loaders.train)

    return epoch


def torchvision(config: str) -> Epochs:
    """Load batches with torchvision's transforms of uint8 tensors."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    zoom = (1 - ZOOM[config], 1 + ZOOM[config])
    transforms = [v2.RandomAffine(DEGREES[config], (SHIFT, SHIFT), zoom, interpolation=v2.InterpolationMode.BILINEAR)]
    transforms += [v2.RandomHorizontalFlip(0.5)]
    if config == "strong":
        transforms += [v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], 0.5)]
        transforms += [v2.RandomApply([v2.GaussianBlur(7, (0.5, 1.5))], 0.2)]
        transforms += [v2.RandomApply([v2.GaussianNoise(sigma=0.03)], 0.2)]
    transforms += [v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64}, scale=True)]
    change = v2.Compose(transforms)
    tensors = [tuple(torch.tensor(array) for array in pair) for pair in pairs(config)]
    samples = [(tv_tensors.Image(image), tv_tensors.Mask(mask)) for image, mask in tensors]
    loader: DataLoader[Any] = DataLoader(Changed(samples, change), BATCH, shuffle=True)  # type: ignore[arg-type]
    return lambda _: loader


def monai(config: str) -> Epochs:
    """Load batches with MONAI's dictionary transforms."""
    from monai import transforms as mt
    from monai.data import DataLoader, Dataset

    both, grey = ("image", "mask"), ("image",)
    turn, zoom, shift = math.radians(DEGREES[config]), (ZOOM[config],) * 2, (SHIFT * SIZE_PX,) * 2
    interpolation = {"mode": ("bilinear", "nearest"), "padding_mode": "border"}
    transforms = [mt.ScaleIntensityRanged(grey, 0, 255, 0, 1)]
    transforms += [mt.RandAffined(both, None, 1.0, turn, None, shift, zoom, **interpolation)]
    transforms += [mt.RandFlipd(both, prob=0.5, spatial_axis=1)]
    if config == "strong":
        transforms += [mt.RandScaleIntensityd(grey, 0.2, prob=0.5), mt.RandShiftIntensityd(grey, 0.2, prob=0.5)]
        transforms += [mt.RandGaussianSmoothd(grey, (0.5, 1.5), (0.5, 1.5), prob=0.2)]
        transforms += [mt.RandGaussianNoised(grey, prob=0.2, std=0.05)]
    samples = [{"image": image[None], "mask": mask[None]} for image, mask in pairs(config)]
    loader = DataLoader(Dataset(samples, mt.Compose(transforms)), batch_size=BATCH, shuffle=True)
    return lambda _: ((batch["image"], batch["mask"]) for batch in loader)


class Changed:
    """A dataset of pairs that a transform changes."""

    def __init__(self, samples: list[tuple[Any, Any]], change: Callable[[Any, Any], Any]) -> None:
        self.samples, self.change = samples, change

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        return self.change(*self.samples[i])


LIBRARIES: dict[str, Callable[[str], Epochs]] = {
    "Runcard": runcard,
    "torchvision.transforms.v2": torchvision,
    "MONAI": monai,
}

if __name__ == "__main__":
    if MEASURE in sys.argv:
        who, config = sys.argv[-2:]
        print(json.dumps(measure(LIBRARIES[who](config))))
    else:
        main()

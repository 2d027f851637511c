"""Trained runs as one function from images to probabilities: preprocessing, forward passes, original size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from runcard.config.schema import DatasetConfig
from runcard.data.image_io import read_image, windowed
from runcard.data.preprocessing import normalizer, resize_image, restore_size, with_channels
from runcard.errors import UserError
from runcard.inference.prediction import Prediction, combine
from runcard.training.evaluation import predict
from runcard.training.restore import SavedRun, open_run

FLIPS = {  # the transforms that mirror an image -> the axis of (N, C, H, W)
    "albumentations.HorizontalFlip": 3,
    "albumentations.VerticalFlip": 2,
    "torchvision.transforms.v2.RandomHorizontalFlip": 3,
    "torchvision.transforms.v2.RandomVerticalFlip": 2,
}


class Predictor:
    """One run, or the mean of several that predict the same classes."""

    def __init__(self, runs: Sequence[SavedRun], flips: bool = False) -> None:
        """Prepare the runs. flips averages over the flips that each run was trained with (test-time augmentation).

        Raises UserError where the runs' classes differ, or flips is set for a run that was trained without any.
        """
        self.members = [_Member(run, flips) for run in runs]
        self.classes = self.members[0].classes
        self.trained_on, self.window = self.members[0].trained_on, self.members[0].window
        for member in self.members:
            if member.classes != self.classes:
                raise UserError(
                    f"{member.folder}: predicts {', '.join(member.classes)}, but {self.members[0].folder} predicts "
                    f"{', '.join(self.classes)}. Runs of one prediction share their classes and their order."
                )

    @property
    def model(self) -> nn.Module:
        """The network of the first run, in evaluation mode, with the best epoch's weights."""
        return self.members[0].model

    def predict(self, image: np.ndarray | str | Path) -> Prediction:
        """Predict one image: a file, or an array (H, W) or (H, W, 3) of the depth that files of the run's data have."""
        array = image if isinstance(image, np.ndarray) else read_image(Path(image))
        height, width = array.shape[:2]
        return self.predict_batch([self.prepare(array)], [(height, width)])[0]

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """Return the image as each run's training saw it: (H, W, C) uint8 squares."""
        return [member.prepare(image) for member in self.members]

    def predict_batch(self, prepared: Sequence[list[np.ndarray]], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return the prediction of each prepared image, at its own size (height, width)."""
        by_member = zip(self.members, zip(*prepared, strict=True), strict=True)
        outputs = [(member.probabilities(np.stack(images)), member.resize) for member, images in by_member]
        return [
            combine(self.classes, [restore_size(probs[i], *size, resize) for probs, resize in outputs])
            for i, size in enumerate(sizes)
        ]


class _Member:
    """One run of a Predictor."""

    def __init__(self, run: SavedRun, flips: bool) -> None:
        dataset: DatasetConfig = run.dataset(None)
        self.folder, self.model, self.autocast = run.folder, run.model, run.autocast
        self.trained_on: dict[str, Any] = run.record.get("images") or {}  # absent in runs of older versions
        self.classes: list[str] = run.config["derived"]["classes"]
        self.size_px, self.resize, self.channels = dataset.image_size_px, dataset.resize, dataset.channels
        self.window = run.window
        self.normalization = normalizer(dataset.normalization)
        axes = trained_flips(run.config["augmentation"]) if flips else []
        if flips and not axes:
            raise UserError(f"--tta flips: {run.folder} was trained without flips. Leave the option out.")
        self.flips = [combo for k in range(len(axes) + 1) for combo in combinations(axes, k)]  # () is the image itself

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return an image of a file as the training saw it: (size_px, size_px, C) uint8."""
        pixels = image if image.dtype == np.uint8 else windowed(image, self.window)
        return resize_image(with_channels(pixels, self.channels), self.size_px, self.resize)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (N, K, …) float32 of images (N, H, W, C) uint8, the mean over the flips."""
        batch = torch.from_numpy(self.normalization(images))
        views = predict(self.model, (batch.flip(flip) for flip in self.flips), self.autocast)
        flipped_back = [v.flip(flip) if v.ndim == 4 else v for v, flip in zip(views, self.flips, strict=True)]
        return torch.stack(flipped_back).mean(dim=0).cpu().numpy()


def load(*folders: str | Path, trust: Sequence[str] = (), flips: bool = False) -> Predictor:
    """Open trained runs for prediction; trust names packages whose objects their configs may name.

    Raises UserError where a folder holds no trained run.
    """
    return Predictor([open_run(Path(folder), trust) for folder in folders], flips)


def trained_flips(augmentation: dict[str, Any]) -> list[int]:
    """Return the axes of (N, C, H, W) along which a run's augmentation mirrors images."""
    transforms = augmentation.get("transforms") or {}
    nodes = [node for node in transforms.values() if isinstance(node, dict) and node.get("p", 0.5) > 0]
    return sorted({FLIPS[node["_target_"]] for node in nodes if node.get("_target_") in FLIPS})

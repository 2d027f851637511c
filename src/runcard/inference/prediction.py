"""What is predicted for one image, by whatever runs the networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Prediction:
    """What runs predict for one image, in the order of classes. With masks, H and W are those of the image."""

    classes: Sequence[str]
    probs: np.ndarray  # (K,) or (K, H, W) float32: the mean over the runs
    decision: np.ndarray  # () or (H, W) uint8: the index of the most probable class
    spread: np.ndarray | None  # (K,) or (K, H, W) float32: the standard deviation over the runs; None with one run
    disagreement: float  # share of the runs, or of runs × pixels, that prefer another class than the mean does

    @property
    def label(self) -> str:
        """The most probable class of an image. Raises ValueError where pixels have classes, not the image."""
        if self.decision.ndim:
            raise ValueError("label: these runs predict masks; see mask")
        return self.classes[int(self.decision)]

    @property
    def mask(self) -> np.ndarray:
        """The most probable class of each pixel, (H, W) uint8. Raises ValueError where classes are of whole images."""
        if not self.decision.ndim:
            raise ValueError("mask: these runs predict one class per image; see label")
        return self.decision


class ImagePredictor(Protocol):
    """Trained networks as a function of images: runs (predictor.py) or an exported file (onnx_file.py)."""

    classes: list[str]
    trained_on: dict[str, Any]  # the training images as run.json describes them; empty where it does not
    window: tuple[float, float]  # of images deeper than 8 bits: the values that become black and white

    def prepare(self, image: np.ndarray) -> list[np.ndarray]:
        """Return what each network sees of an image (H, W) or (H, W, 3) of any depth; called from threads."""

    def predict_batch(self, prepared: Sequence[list[np.ndarray]], sizes: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Return the prediction of each prepared image, at its own size (height, width)."""


def combine(classes: Sequence[str], outputs: Sequence[np.ndarray]) -> Prediction:
    """Combine the probabilities (K,) or (K, H, W) of each network for one image, at its size."""
    probs = np.stack(outputs)  # (R, K, …)
    if len(probs) == 1:
        return Prediction(classes, probs[0], _decide(probs[0]), None, 0.0)
    mean = probs.mean(axis=0)
    decision = _decide(mean)
    disagreement = float(np.mean([_decide(each) != decision for each in probs]))
    return Prediction(classes, mean, decision, probs.std(axis=0), disagreement)


def _decide(probs: np.ndarray) -> np.ndarray:
    """Return the index of the largest of probabilities (K, …), uint8, the first of equal ones."""
    if len(probs) == 2:  # many times as fast as argmax along the first axis
        return np.asarray(probs[1] > probs[0], np.uint8)
    return np.asarray(probs.argmax(axis=0), np.uint8)

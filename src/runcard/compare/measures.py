"""What is measured, and what an arm has of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runcard.stats.mrmc import ALPHA, Effect

TITLES = {"dice": "Dice", "iou": "IoU", "auroc": "AUROC", "f1": "F1", "bce": "BCE", "soft_dice_loss": "soft Dice loss"}
TITLES |= {"dice_pooled": "pooled Dice", "hd95": "Hausdorff 95", "asd": "average surface distance"}


@dataclass(frozen=True)
class Measure:
    """What is measured of a run or of its images, and how it is written."""

    key: str  # dice | epochs_to_threshold | …
    title: str  # "Dice" | "epochs to 0.9" | …
    better: str | None  # max | min; None where neither is (the gap)
    per_image: bool  # a value per image, or one per run
    is_ratio: bool = False  # a time: arms are compared on the log scale, and the difference is a ratio
    verbs: tuple[str, str] = ("is better than", "is worse than")  # of an arm that has better, or worse, values
    bounds: tuple[float, float] = (-math.inf, math.inf)  # the smallest and the largest value there can be

    def mean_interval(self, effect: Effect, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval of an arm's mean, within the bounds."""
        return _clipped(effect.interval(alpha), self.bounds)

    def difference_interval(self, effect: Effect, alpha: float = ALPHA) -> tuple[float, float]:
        """Return the interval of a difference of two means, within what two values in bounds can differ by."""
        return _clipped(effect.interval(alpha), (-self.largest_difference, self.largest_difference))

    @property
    def largest_difference(self) -> float:
        """Return by how much two values can differ; infinite where a bound is missing."""
        low, high = self.bounds
        return high - low


@dataclass(frozen=True)
class Value:
    """One measure of one arm."""

    runs: tuple[float, ...]  # in the order of arm.runs; NaN where a run has none (threshold never reached)
    mean: Effect | None  # the arm's mean with its interval, of logarithms where the measure is a ratio; None: see note
    note: str = ""  # "2 of 3 reached 0.9", "too short to say", ""


def _clipped(interval: tuple[float, float], bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = (min(max(end, bounds[0]), bounds[1]) for end in interval)
    return low, high


def title(metric: str) -> str:
    """Returns a metric's name as a sentence writes it."""
    return TITLES.get(metric, metric.replace("_", " "))

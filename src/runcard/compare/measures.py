"""Measures, and their values in an arm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from runcard.stats.mrmc import ALPHA, Effect

TITLES = {"dice": "Dice", "iou": "IoU", "auroc": "AUROC", "f1": "F1", "bce": "BCE", "soft_dice_loss": "soft Dice loss"}
TITLES |= {"dice_pooled": "pooled Dice", "hd95": "Hausdorff 95", "asd": "average surface distance"}


@dataclass(frozen=True)
class Measure:
    """A quantity measured per run or per image, and how it is written."""

    key: str  # dice | epochs_to_threshold | …
    title: str  # "Dice" | "epochs to 0.9" | …
    better: str | None  # max | min; None where neither is (the gap)
    per_image: bool  # a value per image, or one per run
    is_ratio: bool = False  # a time: arms are compared on the log scale, and the difference is a ratio
    verbs: tuple[str, str] = ("is better than", "is worse than")  # of an arm that has better, or worse, values
    bounds: tuple[float, float] = (-math.inf, math.inf)  # the smallest and the largest possible value

    def mean_interval(self, effect: Effect) -> tuple[float, float]:
        """Compute the interval of an arm's mean, clipped to the bounds."""
        return _clipped(effect.interval(), self.bounds)

    def difference_interval(self, effect: Effect, alpha: float = ALPHA) -> tuple[float, float]:
        """Compute the interval of a difference of two means, clipped to the largest possible difference."""
        return self.clipped(effect.interval(alpha))

    def clipped(self, interval: tuple[float, float]) -> tuple[float, float]:
        """Clip an interval of a difference to the largest possible one."""
        return _clipped(interval, (-self.largest_difference, self.largest_difference))

    @property
    def largest_difference(self) -> float:
        """The largest possible difference of two values; infinite where a bound is missing."""
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
    """Format a metric's name for a sentence."""
    return TITLES.get(metric, metric.replace("_", " "))

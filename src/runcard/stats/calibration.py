"""Whether probabilities mean what they say, and what another threshold would decide, counted in bins of probability.

Two classes are judged by the probability of the positive one, more of them by that of the predicted class (Guo et al.
2017, On calibration of modern neural networks).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
NUM_BINS = 100  # of probability, for thresholds
NUM_SHOWN = 10  # of probability, for the reliability diagram and ECE


@dataclass
class Calibration:
    """Counts of images, or of pixels where they have masks; add() them image by image."""

    num_classes: int
    positive: int  # of two classes the one whose probability is judged
    histograms: list[NDArray[np.int64]] = field(default_factory=list)  # of each image (2, NUM_BINS): wrong, right
    sums: Array = field(default_factory=lambda: np.zeros(NUM_BINS))  # of the probabilities in each bin
    squares: float = 0.0  # the sum of squared errors, for the Brier score

    def add(self, probs: NDArray[np.float32], truth: NDArray[np.integer]) -> None:
        """Count an image's probabilities (K, …) and its class () or those of its labelled pixels (…)."""
        flat, classes = probs.reshape(self.num_classes, -1), np.asarray(truth).reshape(-1)
        if self.num_classes == 2:
            score, hit = flat[self.positive], classes == self.positive
            self.squares += float(np.square(score - hit, dtype=np.float64).sum())
        else:
            score, hit = flat.max(axis=0), flat.argmax(axis=0) == classes
            at_truth = np.take_along_axis(flat, classes[None].astype(np.intp), axis=0)
            self.squares += float(np.square(flat, dtype=np.float64).sum() - 2 * at_truth.sum() + classes.size)
        bins = np.minimum((score * NUM_BINS).astype(np.intp), NUM_BINS - 1)
        self.histograms.append(np.bincount(bins + NUM_BINS * hit, minlength=2 * NUM_BINS).reshape(2, NUM_BINS))
        self.sums += np.bincount(bins, score, NUM_BINS)

    @property
    def brier(self) -> float:
        """Brier's score (1950), the mean squared error: of the positive class, or summed over three or more classes."""
        return self.squares / int(np.sum(self.histograms))

    @property
    def ece(self) -> float:
        """The expected calibration error: mean distance of probability and frequency over NUM_SHOWN equal bins."""
        counts, mean, frequency = self.reliability()
        return float(np.nansum(counts * np.abs(mean - frequency)) / counts.sum())

    def reliability(self) -> tuple[NDArray[np.int64], Array, Array]:
        """Return count, mean probability and observed frequency (NUM_SHOWN,) of each bin; NaN where it is empty."""
        wrong, right = np.sum(self.histograms, axis=0).reshape(2, NUM_SHOWN, -1).sum(axis=2)
        counts = wrong + right
        with np.errstate(invalid="ignore"):
            return counts, self.sums.reshape(NUM_SHOWN, -1).sum(axis=1) / counts, right / counts

    def dice_by_threshold(self) -> Array:
        """Return each image's Dice (I, NUM_BINS) of a two-class mask, where p >= k / NUM_BINS is called positive."""
        rows = np.stack(self.histograms)  # (I, 2, bins)
        false, true = np.cumsum(rows[:, :, ::-1], axis=2)[:, :, ::-1].swapaxes(0, 1)
        size = rows[:, 1].sum(axis=1, keepdims=True) + true + false  # of truth and prediction
        dice: Array = np.divide(2.0 * true, size, out=np.ones(true.shape), where=size > 0)  # both empty: 1
        return dice

    def rates_by_threshold(self) -> tuple[Array, Array]:
        """Return sensitivity and specificity (NUM_BINS,) where p >= k / NUM_BINS is called positive."""
        wrong, right = np.sum(self.histograms, axis=0)
        with np.errstate(invalid="ignore"):
            return np.cumsum(right[::-1])[::-1] / right.sum(), 1 - np.cumsum(wrong[::-1])[::-1] / wrong.sum()

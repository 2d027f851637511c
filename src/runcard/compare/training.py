"""How one run learned, from its metrics.csv. Each value is a method of Training, and its docstring is its definition.

What a run does not have is never made up: a threshold that was never reached has no epoch, and a curve that is too
short for a value, or has a hole where the value looks, raises NoValueError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runcard.compare.inference import Array
from runcard.compare.runs import Run

MIN_EPOCHS = 10  # of the last third of a curve, before it says anything about fluctuation or a trend


class NoValueError(ValueError):
    """A run has no such value; the message says why."""


@dataclass(frozen=True)
class Training:
    """One run's training, seen by one metric ("dice", or "loss") and by one threshold of it."""

    run: Run
    metric: str
    threshold: float

    def epochs_to_threshold(self) -> float:
        """Returns the first epoch at which val/<metric> is at or past the threshold; inf where none is.

        Past is above where larger values are better, else below. An epoch without a finite value leaves open whether
        the threshold was reached there: then there is no value, unless an earlier epoch had reached it.
        """
        name = f"val/{self.metric}"
        values = self._column(name)
        past = values >= self.threshold if self.run.better(self.metric) == "max" else values <= self.threshold
        first = int(past.argmax()) if past.any() else None
        self._finite(name, slice(first))
        return math.inf if first is None else first + 1

    def seconds_to_threshold(self) -> float:
        """Returns the seconds of all epochs up to and with the one that reaches the threshold; inf where none does.

        Training and evaluation both count. Making cached features does not: see caching.
        """
        num_epochs = self.epochs_to_threshold()
        return math.inf if math.isinf(num_epochs) else self._seconds(int(num_epochs))

    def stability(self) -> float:
        """Returns the standard deviation (n − 1) of the differences from epoch to epoch within the last third.

        Of val/<metric>. The last third is the last E // 3 of E epochs and needs at least 10, so 9 differences. A
        steady rise adds a constant to every difference, and nothing to their standard deviation.
        """
        return float(np.diff(self._last_third()).std(ddof=1))

    def rise(self) -> float:
        """Returns how much val/<metric> still rose over the last third: mean of its later half − of its earlier half.

        The last third as in stability; of an odd number of epochs the middle one is in neither half. Negative where the
        curve falls. Of a straight line it is half the way from the third's first epoch to its last.
        """
        values = self._last_third()
        half = len(values) // 2
        return float(values[-half:].mean() - values[:half].mean())

    def gap(self) -> float:
        """Returns val/<metric> − train_eval/<metric> in the last epoch, both in evaluation mode: overfitting.

        Negative where larger is better and the training images score higher; of a loss it is then positive.
        """
        return self._last(f"val/{self.metric}") - self._last(f"train_eval/{self.metric}")

    def lab_gap(self) -> float:
        """Returns val/loss − train/loss in the last epoch, the gap as the lab saw it.

        train/loss is the mean over the epoch while the weights moved, with dropout and augmentation on, so that it lies
        above what the same weights reach on the same images in evaluation mode.
        """
        return self._last("val/loss") - self._last("train/loss")

    def seconds(self) -> float:
        """Returns the seconds of all epochs, training and evaluation; caching apart."""
        return float(self.run.facts["seconds"]["total"])

    def seconds_per_epoch(self) -> float:
        """Returns the mean seconds of an epoch; caching apart."""
        return float(self.run.facts["seconds"]["per_epoch"])

    def seconds_to_best(self) -> float:
        """Returns the seconds of all epochs up to and with the best one, by the monitored value; caching apart."""
        return self._seconds(self.run.facts["best"]["epoch"])

    def caching(self) -> float:
        """Returns the seconds that making a frozen backbone's features took, in whichever run; 0 without them."""
        features = self.run.facts.get("features")
        return float(features["seconds_when_made"]) if features else 0.0

    def _seconds(self, num_epochs: int) -> float:
        return float(self._finite("seconds", slice(num_epochs)).sum())

    def _last_third(self) -> Array:
        num_epochs = len(self._column(f"val/{self.metric}")) // 3
        if num_epochs < MIN_EPOCHS:
            raise NoValueError("too short to say")
        return self._finite(f"val/{self.metric}", slice(-num_epochs, None))

    def _last(self, name: str) -> float:
        return float(self._finite(name, slice(-1, None))[0])

    def _column(self, name: str) -> Array:
        if name not in self.run.curves:
            raise NoValueError(f"no {name} in metrics.csv")
        return self.run.curves[name]

    def _finite(self, name: str, epochs: slice) -> Array:
        """Returns these epochs of a column of metrics.csv; raises NoValueError where one of them is NaN or infinite."""
        values = self._column(name)[epochs]
        holes = ~np.isfinite(values)
        if holes.any():
            epoch, value = (column[epochs][holes][0] for column in (self.run.curves["epoch"], self._column(name)))
            raise NoValueError(f"{name} is {'NaN' if np.isnan(value) else 'infinite'} in epoch {epoch:.0f}")
        return values

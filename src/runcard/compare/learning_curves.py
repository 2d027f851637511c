"""How arms learned: one value per run, so that what chance is counted over is runs, not epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runcard.compare.arms import Arm
from runcard.compare.measures import Measure, Value, title
from runcard.runs.run import Run
from runcard.stats.mrmc import Array, Effect, ranks_differ, welch

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

    def running_loss_gap(self) -> float:
        """Returns val/loss − train/loss in the last epoch, the gap as the lab saw it.

        train/loss is the mean over the epoch while the weights moved, with dropout and augmentation on, so that it lies
        above what the same weights reach on the same images in evaluation mode.
        """
        return self._last("val/loss") - self._last("train/loss")

    def seconds(self) -> float:
        """Returns the seconds of all epochs, training and evaluation; caching apart."""
        return float(self.run.metadata["seconds"]["total"])

    def seconds_per_epoch(self) -> float:
        """Returns the mean seconds of an epoch; caching apart."""
        return float(self.run.metadata["seconds"]["per_epoch"])

    def seconds_to_best(self) -> float:
        """Returns the seconds of all epochs up to and with the best one, by the monitored value; caching apart."""
        return self._seconds(self.run.metadata["best"]["epoch"])

    def caching(self) -> float:
        """Returns the seconds that making a frozen backbone's features took, in whichever run; 0 without them."""
        features = self.run.metadata.get("features")
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


MIN_RUNS = 3  # of an arm; fewer only describe


@dataclass(frozen=True)
class Dynamic:
    """How one of Training's values is written and compared."""

    title: str  # with the places {metric} and {threshold}
    of: Callable[[Training], float]
    better: str | None  # max | min; None where neither is
    is_ratio: bool = False  # compared on the log scale
    verbs: tuple[str, str] = ("is faster than", "is slower than")
    by_clock: bool = False  # comparable on the same hardware and precision only
    metric: str | None = None  # what it speaks of whatever the question's metric; loss only where the losses are alike


MEASURES = {
    "epochs_to_threshold": Dynamic("epochs to {metric} {threshold:g}", Training.epochs_to_threshold, "min", True),
    "seconds_to_threshold": Dynamic(
        "seconds to {metric} {threshold:g}", Training.seconds_to_threshold, "min", True, by_clock=True
    ),
    "stability": Dynamic(
        "fluctuation of {metric}", Training.stability, "min", verbs=("is steadier than", "fluctuates more than")
    ),
    "rise": Dynamic("rise of {metric} at the end", Training.rise, None),
    "gap": Dynamic("gap of {metric}, validation − training", Training.gap, None),
    "loss_gap": Dynamic("gap of {metric}, validation − training", Training.gap, None, metric="loss"),
    "running_loss_gap": Dynamic("gap of {metric} as the lab saw it", Training.running_loss_gap, None, metric="loss"),
    "seconds": Dynamic("seconds", Training.seconds, "min", True, by_clock=True),
    "seconds_per_epoch": Dynamic("seconds per epoch", Training.seconds_per_epoch, "min", True, by_clock=True),
    "seconds_to_best": Dynamic("seconds to the best epoch", Training.seconds_to_best, "min", True, by_clock=True),
    "caching": Dynamic("seconds of caching", Training.caching, "min", by_clock=True),  # 0 has no logarithm
}


@dataclass(frozen=True)
class RunContrast:
    """Two arms compared by a value that each run has once."""

    effect: Effect | None  # first − second, of logarithms for a ratio; None where only ranks were compared, or nothing
    p: float | None  # two-sided, not adjusted; None where nothing can be said
    first_lower: bool  # whether the first arm has the lower values
    note: str  # "5 of 5 and 2 of 5 reached 0.9": why only ranks were compared; or why nothing can be said; or ""


def measure(key: str, metric: str, threshold: float) -> Measure:
    """Returns how one of MEASURES is written, of a metric and a threshold."""
    dynamic = MEASURES[key]
    written = dynamic.title.format(metric=title(dynamic.metric or metric), threshold=threshold)
    return Measure(key, written, dynamic.better, per_image=False, is_ratio=dynamic.is_ratio, verbs=dynamic.verbs)


def value(key: str, arm: Arm, metric: str, threshold: float) -> Value:
    """Returns an arm's values of one of MEASURES and their mean with Student's interval, of logarithms for a ratio.

    There is no mean where a run has no value, since those that have one are a selection; nor of an arm that only
    describes: of fewer than three runs, or of folds.
    """
    values, note = _read(key, arm, metric, threshold)
    values[np.isinf(values)] = np.nan
    whole = not np.isnan(values).any() and not _only_describes(arm)
    return Value(tuple(values.tolist()), _mean(_scaled(key, values)) if whole else None, note)


def still_rising(arm: Arm, metric: str) -> float:
    """Returns by how much val/<metric> still rises within the last third of the epochs, on average over the runs.

    Twice Training.rise, as of a straight line; 0 where no run is long enough to say.
    """
    known = [rise for rise in value("rise", arm, metric, math.nan).runs if not math.isnan(rise)]
    return 2 * sum(known) / len(known) if known else 0.0


def compare(key: str, a: Arm, b: Arm, metric: str, threshold: float) -> RunContrast:
    """Returns the runs of a against those of b: Welch's t, on logarithms for a ratio.

    Ranks alone are compared where a run never reached the threshold ("never" ranks last), and where no two runs of an
    arm differ, as with few epochs happens: the t would be infinite. That the arms are comparable is for the caller to
    check: see confounds.incomparable, Dynamic.metric and Dynamic.by_clock.
    """
    if reason := _only_describes(a) or _only_describes(b):
        return RunContrast(None, None, False, reason)
    (x, x_note), (y, y_note) = (_read(key, arm, metric, threshold) for arm in (a, b))
    if np.isnan([*x, *y]).any():
        notes = [f"{arm.name}: {note}" for arm, note in ((a, x_note), (b, y_note)) if note]
        return RunContrast(None, None, False, "; ".join(notes))
    if np.isinf([*x, *y]).any():
        if len({len(run.curves["epoch"]) for run in a.runs + b.runs}) > 1:
            return RunContrast(None, None, False, f"not all reached {threshold:g}, nor are all equally long")
        counts = " and ".join(f"{np.isfinite(values).sum()} of {len(values)}" for values in (x, y))
        return _by_ranks(x, y, f"{counts} reached {threshold:g}")
    if np.ptp(x) == np.ptp(y) == 0:
        return _by_ranks(x, y, "no two runs of an arm differ")
    effect = welch(_scaled(key, x), _scaled(key, y))
    return RunContrast(effect, effect.p, effect.estimate < 0, "")


def _by_ranks(x: Array, y: Array, note: str) -> RunContrast:
    first_lower = (x[:, None] < y).sum() > (x[:, None] > y).sum()  # over all pairs of runs
    return RunContrast(None, ranks_differ(x, y), bool(first_lower), note)


def _read(key: str, arm: Arm, metric: str, threshold: float) -> tuple[Array, str]:
    """Returns a value per run, and a note on those that are inf (never reached the threshold) or NaN (have none)."""
    dynamic = MEASURES[key]
    values, unknown = [], {}
    for run in arm.runs:
        try:
            values.append(dynamic.of(Training(run, dynamic.metric or metric, threshold)))
        except NoValueError as reason:
            values.append(math.nan)
            unknown[f"seed {run.seed}" + (f", fold {run.fold}" if run.is_fold else "")] = str(reason)
    found = np.array(values, np.float64)
    notes = [f"{run}: {reason}" for run, reason in unknown.items()]
    if len(unknown) == len(values) and len(set(unknown.values())) == 1:
        notes = list(unknown.values())[:1]
    if np.isinf(found).any():
        notes.insert(0, f"{np.isfinite(found).sum() or 'none'} of {len(found)} reached {threshold:g}")
    return found, "; ".join(notes)


def _only_describes(arm: Arm) -> str:
    """Returns why values that a run has once say nothing beyond these very runs; empty where they do."""
    if arm.first.is_fold:
        return "folds share training images: described only"
    return f"fewer than {MIN_RUNS} runs: described only" if len(arm.runs) < MIN_RUNS else ""


def _scaled(key: str, values: Array) -> Array:
    return np.log(values) if MEASURES[key].is_ratio else values


def _mean(values: Array) -> Effect:
    """Returns the mean of (S,) values, S >= 2, as Student's t has it."""
    return Effect(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)

"""Learning dynamics of arms: one value per run, because runs are independent and epochs are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from runcard.compare.arms import Arm
from runcard.compare.measures import Measure, Value, title
from runcard.runs.run import Run
from runcard.stats import mrmc
from runcard.stats.mrmc import Array, Effect, ranks_differ, welch

MIN_EPOCHS = 10  # in the last third of a curve; with fewer, neither fluctuation nor trend is computed


class NoValueError(ValueError):
    """A run has no such value; the message gives the reason."""


@dataclass(frozen=True)
class Training:
    """One run's training, measured by one metric ("dice" or "loss") and one threshold of it."""

    run: Run
    metric: str
    threshold: float | None  # of the values that reach one

    def epochs_to_threshold(self) -> float:
        """Return the first evaluated epoch at which val/<metric> reaches the threshold; inf where none does.

        Reached means >= where larger values are better, else <=. An evaluation without a finite value may have
        reached it: raises NoValueError unless an earlier one did.
        """
        name = f"val/{self.metric}"
        epochs, values = self._column(name)
        assert self.threshold is not None
        past = values >= self.threshold if self.run.mode(self.metric) == "max" else values <= self.threshold
        first = int(past.argmax()) if past.any() else None
        self._finite(name, slice(first))
        return math.inf if first is None else float(epochs[first])

    def seconds_to_threshold(self) -> float:
        """Sum the seconds of all epochs up to and including the one that reaches the threshold; inf where none does.

        Training and evaluation both count. Computing cached features does not: see caching.
        """
        num_epochs = self.epochs_to_threshold()
        return math.inf if math.isinf(num_epochs) else self._seconds(int(num_epochs))

    def stability(self) -> float:
        """Compute the standard deviation (n − 1) of val/<metric>'s differences from epoch to epoch in the last third.

        The last third is the last E // 3 of E evaluated epochs and needs at least 10, so 9 differences. A steady rise
        adds a constant to every difference, and nothing to their standard deviation.
        """
        return float(np.diff(self._last_third()).std(ddof=1))

    def rise(self) -> float:
        """Compute the rise of val/<metric> over the last third: mean of its later half − mean of its earlier half.

        The last third is that of stability; the middle one of an odd number of epochs is in neither half. A falling
        curve gives a negative value. A straight line gives about half of its rise over the third.
        """
        values = self._last_third()
        half = len(values) // 2
        return float(values[-half:].mean() - values[:half].mean())

    def gap(self) -> float:
        """Compute val/<metric> − train_eval/<metric> in the last epoch, both in evaluation mode: overfitting.

        Better values on the training images make it negative where larger is better, and positive for a loss.
        """
        return self._last(f"val/{self.metric}") - self._last(f"train_eval/{self.metric}")

    def running_loss_gap(self) -> float:
        """Compute val/loss − train/loss in the last epoch, the gap that Keras's training history shows.

        train/loss is the mean over the epoch while the weights change, with dropout and augmentation. It is therefore
        above the loss of the final weights on the same images in evaluation mode.
        """
        return self._last("val/loss") - self._last("train/loss")

    def seconds(self) -> float:
        """Return the seconds of all epochs, training and evaluation, without caching."""
        return float(self.run.metadata["seconds"]["total"])

    def seconds_per_epoch(self) -> float:
        """Return the mean seconds of an epoch, without caching."""
        return float(self.run.metadata["seconds"]["per_epoch"])

    def seconds_to_best(self) -> float:
        """Sum the seconds of all epochs up to and including the best one by the monitored value, without caching."""
        return self._seconds(self.run.metadata["best"]["epoch"])

    def caching(self) -> float:
        """Return the seconds that computing a frozen backbone's features took, in whichever run; 0 without them."""
        features = self.run.metadata.get("features")
        return float(features["seconds_when_made"]) if features else 0.0

    def _seconds(self, num_epochs: int) -> float:
        return float(self._finite("seconds", slice(num_epochs)).sum())

    def _last_third(self) -> Array:
        num_epochs = len(self._column(f"val/{self.metric}")[0]) // 3
        if num_epochs < MIN_EPOCHS:
            raise NoValueError("too short to say")
        return self._finite(f"val/{self.metric}", slice(-num_epochs, None))

    def _last(self, name: str) -> float:
        return float(self._finite(name, slice(-1, None))[0])

    def _column(self, name: str) -> tuple[Array, Array]:
        """Return the epochs in which a column of metrics.csv has a value, and the values."""
        if name not in self.run.curves:
            raise NoValueError(f"no {name} in metrics.csv")
        known = known_epochs(self.run, name)
        return self.run.curves["epoch"][known], self.run.curves[name][known]

    def _finite(self, name: str, part: slice) -> Array:
        """Return this part of a column. Raises NoValueError where one of its values is NaN or infinite."""
        epochs, values = (each[part] for each in self._column(name))
        if len(holes := np.flatnonzero(~np.isfinite(values))):
            kind = "NaN" if np.isnan(values[holes[0]]) else "infinite"
            raise NoValueError(f"{name} is {kind} in epoch {epochs[holes[0]]:.0f}")
        return values


@dataclass(frozen=True)
class Band:
    """The runs of an arm in one column of metrics.csv, epoch by epoch of those that have a value."""

    epochs: Array  # (E,)
    runs: Array  # (E, S)
    mean: Array  # (E,)
    lowest: Array  # (E,) each the value of a run, which may be another in each epoch
    highest: Array  # (E,)


def band(arm: Arm, column: str) -> Band | None:
    """Return the band of a column of metrics.csv over the runs that have it; None where none has.

    It ends with the shortest of them: beyond it, the mean would be over fewer runs.
    """
    runs = [run for run in arm.runs if column in run.curves]
    if not runs:
        return None
    shortest = min((run.curves["epoch"] for run in runs), key=len)
    known = np.all([known_epochs(run, column)[: len(shortest)] for run in runs], axis=0)
    values = np.array([run.curves[column][: len(shortest)][known] for run in runs]).T
    return Band(shortest[known], values, values.mean(axis=1), values.min(axis=1), values.max(axis=1))


def known_epochs(run: Run, column: str) -> Array:
    """Return which epochs (E,) of a run have a value of a column of metrics.csv: of an evaluation, not all have."""
    is_evaluation = column.startswith(("val/", "train_eval/"))
    return run.evaluated if is_evaluation else np.ones(len(run.curves["epoch"]), bool)


MIN_RUNS = 3  # of an arm; with fewer its values are only described


@dataclass(frozen=True)
class Dynamic:
    """How one of Training's values is titled and compared."""

    title: str  # with the placeholders {metric} and {threshold}
    of: Callable[[Training], float]
    better: str | None  # max | min; None where neither is
    is_ratio: bool = False  # compared on the log scale
    verbs: tuple[str, str] = ("is faster than", "is slower than")
    by_clock: bool = False  # comparable on the same hardware and precision only
    metric: str | None = None  # overrides the question's metric; loss only where both arms have the same loss


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
    "running_loss_gap": Dynamic(
        "gap of {metric}, validation − running training", Training.running_loss_gap, None, metric="loss"
    ),
    "seconds": Dynamic("seconds", Training.seconds, "min", True, by_clock=True),
    "seconds_per_epoch": Dynamic("seconds per epoch", Training.seconds_per_epoch, "min", True, by_clock=True),
    "seconds_to_best": Dynamic("seconds to the best epoch", Training.seconds_to_best, "min", True, by_clock=True),
    "caching": Dynamic("seconds of caching", Training.caching, "min", by_clock=True),  # 0 has no logarithm
}


@dataclass(frozen=True)
class RunContrast:
    """Two arms compared by one value per run."""

    effect: Effect | None = None  # first − second, of logarithms for a ratio; None where only ranks were compared
    p: float | None = None  # two-sided, not adjusted; None where nothing can be said
    first_lower: bool = False  # whether the first arm has the lower values
    note: str = ""  # "5 of 5 and 2 of 5 reached 0.9": why only ranks were compared; or why nothing can be said; or ""


def measure(key: str, metric: str, threshold: float | None) -> Measure:
    """Describe one of MEASURES for a metric and a threshold."""
    dynamic = MEASURES[key]
    written = dynamic.title.format(metric=title(dynamic.metric or metric), threshold=threshold)
    return Measure(key, written, dynamic.better, per_image=False, is_ratio=dynamic.is_ratio, verbs=dynamic.verbs)


def value(key: str, arm: Arm, metric: str, threshold: float | None) -> Value:
    """Compute an arm's values of one of MEASURES and their mean with Student's interval, of logarithms for a ratio.

    There is no mean where a run has no value, because the runs with one are a selection; nor for an arm that is only
    described: one of fewer than three runs, or of folds.
    """
    values, note = _read(key, arm, metric, threshold)
    values[np.isinf(values)] = np.nan
    is_known = not np.isnan(values).any() and not _only_describes(arm)
    mean = mrmc.mean(_scaled(key, values)[None]) if is_known else None
    return Value(tuple(values.tolist()), mean, note)


def still_rising(arm: Arm, metric: str) -> float:
    """Estimate how much val/<metric> still rises within the last third of the epochs, as the mean over the runs.

    It is twice Training.rise, as for a straight line; 0 where no run is long enough.
    """
    known = [rise for rise in value("rise", arm, metric, None).runs if not math.isnan(rise)]
    return 2 * sum(known) / len(known) if known else 0.0


def compare(key: str, a: Arm, b: Arm, metric: str, threshold: float | None) -> RunContrast:
    """Compare the runs of a with those of b: Welch's t, on logarithms for a ratio.

    Only ranks are compared where a run never reached the threshold ("never" ranks last), and where no two runs of an
    arm differ, as happens with few epochs: t would be infinite. The caller checks that the arms are comparable: see
    confounds.incomparable, Dynamic.metric and Dynamic.by_clock.
    """
    if reason := _only_describes(a) or _only_describes(b):
        return RunContrast(note=reason)
    (x, x_note), (y, y_note) = (_read(key, arm, metric, threshold) for arm in (a, b))
    if np.isnan([*x, *y]).any():
        notes = [f"{arm.name}: {note}" for arm, note in ((a, x_note), (b, y_note)) if note]
        return RunContrast(note="; ".join(notes))
    if np.isinf([*x, *y]).any():
        if len({len(run.curves["epoch"]) for run in a.runs + b.runs}) > 1:
            return RunContrast(note=f"not all reached {threshold:g}, nor are all equally long")
        counts = " and ".join(f"{np.isfinite(values).sum()} of {len(values)}" for values in (x, y))
        return _by_ranks(x, y, f"{counts} reached {threshold:g}")
    if np.ptp(x) == np.ptp(y) == 0:
        return _by_ranks(x, y, "no two runs of an arm differ")
    effect = welch(_scaled(key, x), _scaled(key, y))
    return RunContrast(effect, effect.p, effect.estimate < 0)


def _by_ranks(x: Array, y: Array, note: str) -> RunContrast:
    first_lower = (x[:, None] < y).sum() > (x[:, None] > y).sum()  # over all pairs of runs
    return RunContrast(None, ranks_differ(x, y), bool(first_lower), note)


def _read(key: str, arm: Arm, metric: str, threshold: float | None) -> tuple[Array, str]:
    """Compute a value per run, and a note on those that are inf (never reached the threshold) or NaN (undefined)."""
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
    """Return why one value per run does not generalize beyond these runs; "" where it does."""
    if arm.first.is_fold:
        return "folds share training images: described only"
    return f"fewer than {MIN_RUNS} runs: described only" if len(arm.runs) < MIN_RUNS else ""


def _scaled(key: str, values: Array) -> Array:
    return np.log(values) if MEASURES[key].is_ratio else values

"""The values that arms are compared by: one per run and image or patient, in the same order in all arms."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np

from runcard.compare.arms import Arm
from runcard.errors import UserError, did_you_mean
from runcard.runs.run import PROBABILITY, Images, Run
from runcard.stats import mrmc
from runcard.stats.mrmc import Array, Effect, Mask

# Metrics that torchmetrics computes over all images, by class name: each image gets a pseudo-value.
ONE_CLASS: dict[str, Callable[[Any, Any], float]] = {  # of one class against the rest, wrapped in OneVsRest
    "BinaryAUROC": mrmc.auroc,
    "BinaryRecall": mrmc.sensitivity,
    "BinarySpecificity": mrmc.specificity,
    "BinaryF1Score": mrmc.f1,
}
THRESHOLDED = ("BinaryRecall", "BinarySpecificity", "BinaryF1Score")  # of decisions, not of probabilities
ALL_CLASSES: dict[str, Callable[[Any, Any], float]] = {
    **dict.fromkeys(("CohenKappa", "MulticlassCohenKappa"), mrmc.cohen_kappa),
    **dict.fromkeys(("JaccardIndex", "MulticlassJaccardIndex"), mrmc.mean_jaccard),
}
BOUNDS = dict.fromkeys((*ONE_CLASS, "JaccardIndex", "MulticlassJaccardIndex"), (0.0, 1.0))
BOUNDS |= dict.fromkeys(("CohenKappa", "MulticlassCohenKappa"), (-1.0, 1.0))
REPRODUCED = 1e-4  # largest difference of a value recomputed from per_image.csv from run.json's (float32)


@dataclass(frozen=True)
class Units:
    """A value per run and unit. Units are independent: patients where they are named, else images."""

    values: tuple[Array, ...]  # of each arm, (S, U)
    num_left_out: int  # images without a value in some run
    is_pseudo: bool = False  # whether they are pseudo-values of a metric that no single image has
    num_trials: int | None = None  # of a rate of right and wrong, such as accuracy: the units that it is a share of

    @property
    def count(self) -> int:
        """U, the number of patients or images that have a value."""
        return len(self.values[0][0])


@dataclass(frozen=True)
class Count:
    """The number of images measured, and of their patients, over all folds."""

    images: int
    patients: int  # as many as images where none are named

    @classmethod
    def of(cls, arm: Arm) -> Count:
        """Count the images and patients of an arm's compared split."""
        folds = {run.fold: run.images() for run in arm.runs}.values()
        members = {(name, group) for images in folds for name, group in zip(images.ids, images.groups, strict=True)}
        return cls(len(members), len({group for _, group in members}))

    @property
    def word(self) -> str:
        """The independent units: patients where they are named, else images."""
        return "images" if self.images == self.patients else "patients"


def metrics(run: Run) -> list[str]:
    """List the metrics that can be compared: those with a value, or a pseudo-value, per image."""
    images = run.images()
    direct = [name for name in images.values if not name.startswith(PROBABILITY)]
    return direct + [name for name in _statistics(run) if name not in direct and _is_reproduced(run, name)]


def is_measured(run: Run, metric: str) -> bool:
    """Whether a run has a value of the metric; outside metrics(run) it can only be described."""
    return f"{run.split}/{metric}" in run.metadata["last"]["values"]


def bounds(run: Run, metric: str) -> tuple[float, float]:
    """Return the smallest and the largest possible value of a metric; infinite where unknown."""
    low, high = run.metadata["bounds"].get(metric) or BOUNDS.get(_statistics(run).get(metric, ""), (None, None))
    return -math.inf if low is None else low, math.inf if high is None else high


def described(arms: Sequence[Arm], metric: str) -> str:
    """Format why a pooled metric is only described, and its mean and range over the runs of each arm."""
    texts = []
    for arm in arms:
        values = [value(run, metric) for run in arm.runs]
        texts.append(f"{arm.name} {np.mean(values):.3f} (runs {min(values):.3f} to {max(values):.3f})")
    return (
        "it counts all images together, without a value per image to compare by, so it is only described: "
        f"{'; '.join(texts)}. Compare by another metric (--metric): {', '.join(metrics(arms[0].first))}"
    )


def check_measured(run: Run, metric: str) -> None:
    """Raise UserError, naming the metrics that can be compared, where a run has no value of this one."""
    if metric not in metrics(run) and not is_measured(run, metric):
        raise _refusal(run, metric, "was not measured")


def _refusal(run: Run, metric: str, why: str) -> UserError:
    known = metrics(run)
    return UserError(
        f"metric: {metric} {why} in {run.folder}.{did_you_mean(metric, known)} There are {', '.join(known)}."
    )


def units(arms: Sequence[Arm], metric: str, checkpoint: str = "last", ids: Collection[str] | None = None) -> Units:
    """Collect the values of a metric in all arms, of the same images; with ids, of these images alone.

    An image without a value (NaN) in any run of any arm is left out of all, and counted. A metric without a value per
    image gives jackknife pseudo-values, leaving out one patient at a time.
    """
    read = [[_part(run.images(checkpoint), ids) for run in arm.runs] for arm in arms]
    first = read[0][0]
    if metric in first.values:
        stacked = [np.stack([images.values[metric] for images in arm]) for arm in read]
        kept = ~np.isnan(np.concatenate(stacked)).any(axis=0)
        groups = np.array(first.groups)[kept].tolist()
        if len(set(groups)) < 2:
            word = "images" if len(set(first.groups)) == len(first.ids) else "patients"
            raise UserError(f"metric: {metric} is a number in fewer than two {word} of {arms[0].first.folder}.")
        values = [mrmc.by_group(y[:, kept], groups) for y in stacked]
        is_binary = all(np.isin(y[:, kept], (0, 1)).all() for y in stacked)
        num_trials = values[0].shape[1] if is_binary else None
    else:
        if metric not in metrics(arms[0].first):
            raise _refusal(arms[0].first, metric, "counts all images together and has no value per image")
        num_trials = _num_trials(arms[0].first, metric, first)
        kept = np.ones(len(first.ids), bool)
        statistics = [
            [_statistic(run, metric, images) for run, images in zip(arm.runs, of_arm, strict=True)]
            for arm, of_arm in zip(arms, read, strict=True)
        ]
        values = [np.stack([mrmc.jackknife(*each) for each in arm]) for arm in statistics]
    return Units(tuple(values), int((~kept).sum()), metric not in first.values, num_trials)


def _part(images: Images, ids: Collection[str] | None) -> Images:
    """Return the values of these images alone; None: of all."""
    if ids is None:
        return images
    kept = np.isin(images.ids, sorted(ids))
    return Images(
        ids=tuple(np.array(images.ids)[kept].tolist()),
        groups=tuple(np.array(images.groups)[kept].tolist()),
        values={name: values[kept] for name, values in images.values.items()},
        targets=tuple(np.array(images.targets)[kept].tolist()) if images.targets else (),
    )


def _num_trials(run: Run, metric: str, images: Images) -> int | None:
    """Count the patients or images that sensitivity, or specificity, is a share of; None for other metrics.

    Of a mean over the classes, those of the class that has the fewest.
    """
    target = _statistics(run)[metric]
    if target not in ("BinaryRecall", "BinarySpecificity"):
        return None
    classes, positive = list(images.probs), run.config.get(f"metric.scores.{metric}.positive")
    groups, truth = np.array(images.groups), np.array(images.targets)
    asked = classes if positive is None else [classes[positive]]
    return min(len(np.unique(groups[(truth == name) == (target == "BinaryRecall")])) for name in asked)


def of_arm(arm: Arm, metric: str, checkpoint: str = "last") -> Effect:
    """Compute the arm's mean with its interval, on the scale of the metric."""
    if in_folds(arm):
        effect = _resampled(_means("fold", arm, metric, checkpoint), arm)
        of_seeds = _means("seed", arm, metric, checkpoint)
        return replace(effect, on_these_images=mrmc.mean(of_seeds[None])) if len(of_seeds) > 1 else effect
    return mrmc.mean(units([arm], metric, checkpoint).values[0])


def contrast(first: Arm, second: Arm, metric: str) -> tuple[Effect, Units | None]:
    """Compute first minus second arm in the last epoch, and the values that it is of; None of folds.

    They must be comparable: see confounds.incomparable.
    """
    if in_folds(first):  # all folds of a seed have its initial weights: how far seeds differ, folds do not show
        effect = _resampled(_means("fold", first, metric) - _means("fold", second, metric), first)
        a, b = (_means("seed", arm, metric) for arm in (first, second))
        return replace(effect, on_these_images=mrmc.welch(a, b)) if min(len(a), len(b)) > 1 else effect, None
    compared = units([first, second], metric)
    return mrmc.difference(*compared.values), compared


def identical(first: Arm, second: Arm) -> bool:
    """Whether runs of the same seed give the same values of all images in both arms: their difference has no effect."""
    pairs = [(first.by_key[key], second.by_key[key]) for key in first.by_key.keys() & second.by_key.keys()]
    return bool(pairs) and all(a.images().equals(b.images()) for a, b in pairs)


def in_folds(arm: Arm) -> bool:
    """Whether an arm has several folds, each measured on its own images: means are then over folds.

    Folds that are measured on one shared test split are readers of the same images, as seeds are.
    """
    return arm.first.split == "val" and len({run.fold for run in arm.runs}) > 1


def out_of_fold(arm: Arm) -> dict[str, float]:
    """Compute each metric over the images of all folds as one set, each by the network that was not trained on it.

    The mean over the seeds, in the last epoch; images without a value are left out. {} where the arm has no folds.
    """
    if not in_folds(arm):
        return {}
    pooled = [_pooled([run.images() for run in arm.runs if run.seed == seed]) for seed in arm.seeds]
    found = {}
    for metric in metrics(arm.first):
        if metric in pooled[0].values:
            values = [images.values[metric][~np.isnan(images.values[metric])] for images in pooled]
            of_seeds = [each.mean() if len(each) else math.nan for each in values]
        else:
            of_seeds = [_statistic(arm.first, metric, images)[0](np.ones(len(images.ids), bool)) for images in pooled]
        found[metric] = float(np.mean(of_seeds))
    return found


def _pooled(folds: Sequence[Images]) -> Images:
    return Images(
        ids=tuple(chain.from_iterable(each.ids for each in folds)),
        groups=tuple(chain.from_iterable(each.groups for each in folds)),
        values={name: np.concatenate([each.values[name] for each in folds]) for name in folds[0].values},
        targets=tuple(chain.from_iterable(each.targets for each in folds)),
    )


def of_images(arm: Arm, metric: str) -> Array | None:
    """Average a metric over an arm's runs, for each image (I,); None where it has no value per image."""
    read = [run.images().values for run in arm.runs]
    return np.mean([values[metric] for values in read], axis=0) if metric in read[0] else None


def value(run: Run, metric: str, checkpoint: str = "last") -> float:
    """Return the value that run.json records; NaN where it is undefined or was not measured."""
    recorded = run.metadata[checkpoint]["values"].get(f"{run.split}/{metric}")
    return math.nan if recorded is None else float(recorded)


def _means(of: Literal["fold", "seed"], arm: Arm, metric: str, checkpoint: str = "last") -> Array:
    """Average a metric over the runs of each fold, or of each seed. Raises UserError where one has no value."""
    values: dict[int, list[float]] = {}
    for run in arm.runs:
        values.setdefault(getattr(run, of), []).append(value(run, metric, checkpoint))
    means = {key: float(np.mean(values[key])) for key in sorted(values)}
    if holes := [key for key, mean in means.items() if math.isnan(mean)]:
        raise UserError(f"metric: {metric} is not a number in {of} {holes[0]} of {arm.first.folder.parent}.")
    return np.array(list(means.values()))


def _resampled(values: Array, arm: Arm) -> Effect:
    sizes = arm.first.split_sizes
    return mrmc.corrected_resampled_t(values, sizes[arm.first.split] / sizes["train"])


def _statistics(run: Run) -> dict[str, str]:
    """Map each metric that can be recomputed from per_image.csv to its torchmetrics class."""
    if not run.images().targets:
        return {}
    found = {}
    for known, suffix in ((ONE_CLASS, ".metric._target_"), (ALL_CLASSES, "._target_")):
        for key, target in run.config.items():
            name = key.removeprefix("metric.scores.").removesuffix(suffix)
            if key == f"metric.scores.{name}{suffix}" and (of := str(target).rpartition(".")[2]) in known:
                found[name] = of
    return found


def _is_reproduced(run: Run, metric: str) -> bool:
    """Whether per_image.csv gives the recorded value: an option (weights, average) may make it another metric."""
    statistic, groups = _statistic(run, metric, run.images())
    recorded, computed = value(run, metric), statistic(np.ones(len(groups), bool))
    return math.isnan(recorded) or math.isnan(computed) or abs(recorded - computed) <= REPRODUCED


def _statistic(run: Run, metric: str, images: Images) -> tuple[Callable[[Mask], float], tuple[str, ...]]:
    """Return the run's metric as a function of which of these images are kept (I,), and the images' groups."""
    target = _statistics(run)[metric]
    classes = list(images.probs)
    probs = np.stack(list(images.probs.values()), axis=1)
    truth = np.array([classes.index(name) for name in images.targets])
    positive = run.config.get(f"metric.scores.{metric}.positive")
    decided = probs.argmax(axis=1)

    def statistic(kept: Mask) -> float:
        if target in ALL_CLASSES:
            return ALL_CLASSES[target](truth[kept], decided[kept])
        of_classes = [
            ONE_CLASS[target](truth[kept] == k, decided[kept] == k if target in THRESHOLDED else probs[kept, k])
            for k in (range(len(classes)) if positive is None else [positive])
        ]
        return float(np.mean(of_classes))

    return statistic, images.groups

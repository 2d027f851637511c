"""Inference on the difference of two arms, with images crossed with runs and runs nested in arms.

The design of reader studies in medical imaging: seeds are the readers, images the cases (Obuchowski and Rockette 1995;
Gallas 2006). With y of shape (S, I), a value per seed and image:

    variance of the difference =   Σ_arms var(run means) / S             the runs
                                 + var(differences of arm means) / I     the images
                                 − Σ_arms residual mean square / (S·I)   what both of these count

and never below the larger of the first two; degrees of freedom by Satterthwaite (1946), never below the
fewest of any part. Interval and p come from the same t.

Mixing one to four degrees of freedom with many is liberal in the tail: where the few runs happen to agree, df jumps.
Therefore the same difference is also tested by Welch's t on the run means, for other seeds on these same images, and
the larger p and the wider interval count: a statement about other images is never more certain than the one about
these. Everything below takes float64 arrays without NaN and returns plain floats.

benchmarks/inference.py measures its error rates, at 0.05 and in the tail that Holm's adjustment uses, and writes
simulation.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from runcard.errors import UserError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
MIN_UNITS = 6  # patients or images; with fewer, an interval does not generalize to others
ALPHA = 0.05
POWER = 0.8
DECIMALS = 12  # of estimates and standard errors: what lies below is rounding, not scatter


@dataclass(frozen=True)
class Effect:
    """A mean or a difference of means, its standard error, and the degrees of freedom of its t."""

    estimate: float
    se: float
    df: float
    df_replication: float | None = None  # the df of a replication, as harmonic mean (see _effect); None: df
    on_these_images: Effect | None = None  # the same for other seeds on these images; None without several runs
    share: float = 1.0  # of several looks at more and more runs, this look's share of the level: see sequential.py

    def at_look(self, share: float) -> Effect:
        """Return the effect whose p and interval hold over all looks, of which this one has a share of the level."""
        return replace(self, share=share)

    @property
    def p(self) -> float:
        """Two-sided p of the hypothesis that the true value is 0: the larger of both tests."""
        return min(1.0, max(each._p for each in self._tests) / self.share)

    def interval(self, alpha: float = ALPHA) -> tuple[float, float]:
        """Compute the two-sided interval that covers the true value with probability 1 − alpha: the wider of both."""
        half = max(float(stats.t.isf(alpha * self.share / 2, each.df)) * each.se for each in self._tests)
        return self.estimate - half, self.estimate + half

    def detectable(self, alpha: float = ALPHA) -> float:
        """Compute the smallest difference that a replication would find with 80 % probability: (t₁₋α⸝₂ + t₀.₈)·SE."""
        return max(each._detectable(alpha * self.share) for each in self._tests)

    @property
    def _tests(self) -> tuple[Effect, ...]:
        return (self, self.on_these_images) if self.on_these_images else (self,)

    @property
    def _p(self) -> float:
        if self.se == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * stats.t.sf(abs(self.estimate) / self.se, self.df))

    def _detectable(self, alpha: float) -> float:
        df = self.df if self.df_replication is None else self.df_replication
        return float(stats.t.isf(alpha / 2, df) + stats.t.ppf(POWER, df)) * self.se


@dataclass(frozen=True)
class MeanSquares:
    """The mean squares of the values (S, I) of one arm."""

    num_runs: int
    runs: float  # variance of the run means
    residual: float  # residual mean square: what neither run nor image explains

    @classmethod
    def of(cls, y: Array) -> MeanSquares:
        """Compute the mean squares of y (S, I), S >= 2, I >= 2."""
        num_runs, num_images = y.shape
        residual = y - y.mean(axis=1, keepdims=True) - y.mean(axis=0, keepdims=True) + y.mean()
        freedom = (num_runs - 1) * (num_images - 1)
        return cls(num_runs, float(y.mean(axis=1).var(ddof=1)), float((residual**2).sum() / freedom))


def difference(a: Array, b: Array) -> Effect:
    """Compute the mean of a (S_a, I) minus that of b (S_b, I): the same I >= 2 images in the same order.

    With two or more runs in each arm it is about the methods. With one run in either it is about these networks: then
    only the images are random, and the test is Student's paired t.
    """
    return _measured(a.mean(axis=0) - b.mean(axis=0), (a, b))


def mean(y: Array) -> Effect:
    """Compute the mean of one arm (S, I), I >= 2; with one run it is about this network only."""
    return _measured(y.mean(axis=0), (y,))


def _measured(images: Array, arms: Sequence[Array]) -> Effect:
    squares = [MeanSquares.of(y) for y in arms] if min(len(y) for y in arms) >= 2 else []
    return crossed(float(images.mean()), float(images.var(ddof=1)), len(images), squares)


def crossed(estimate: float, var_images: float, num_images: int, arms: Sequence[MeanSquares]) -> Effect:
    """Compute the effect of arms over the same images from their mean squares and the variance of the images."""
    of_runs = [arm.runs / arm.num_runs for arm in arms]
    of_images = var_images / num_images
    overlap = [arm.residual / (arm.num_runs * num_images) for arm in arms]
    run_parts = [(part, arm.num_runs - 1) for part, arm in zip(of_runs, arms, strict=True)]
    parts = [(of_images, num_images - 1), *run_parts]
    parts += [(part, (arm.num_runs - 1) * (num_images - 1)) for part, arm in zip(overlap, arms, strict=True)]
    variance = max(sum(of_runs) + of_images - sum(overlap), sum(of_runs), of_images)
    effect = _effect(estimate, variance, parts)
    return replace(effect, on_these_images=_effect(estimate, sum(of_runs), run_parts)) if arms else effect


def change(a: Array, b: Array) -> Effect:
    """Compute the mean of a (S, I) minus that of b (S, J): the same runs in the same order, on two sets of images.

    The runs are paired, the images are not. With one run it is about this network only: Welch's t over the images.
    """
    estimate, num_runs = float(a.mean() - b.mean()), len(a)
    image_parts = [(float(y.mean(axis=0).var(ddof=1)) / y.shape[1], y.shape[1] - 1) for y in (a, b)]
    of_images = sum(part for part, _ in image_parts)
    if num_runs < 2:
        return _effect(estimate, of_images, image_parts)
    of_runs = float((a.mean(axis=1) - b.mean(axis=1)).var(ddof=1)) / num_runs
    overlap = [
        (MeanSquares.of(y).residual / y.size, (num_runs - 1) * (y.shape[1] - 1)) for y in (a, b)
    ]  # what both of these count
    variance = max(of_runs + of_images - sum(part for part, _ in overlap), of_runs, of_images)
    effect = _effect(estimate, variance, [(of_runs, num_runs - 1), *image_parts, *overlap])
    return replace(effect, on_these_images=_effect(estimate, of_runs, [(of_runs, num_runs - 1)]))


def _effect(estimate: float, variance: float, parts: Sequence[tuple[float, int]]) -> Effect:
    """Compute the effect whose variance is a sum or difference of parts, each a mean square with its own df f.

    Satterthwaite: df = variance² / Σ part²/f. A replication draws its parts anew, with E[part²] = part²·(f + 2)/f, and
    so has fewer df: for two arms of three runs, 3 where the true variances would give 4. They determine the power of
    its test: df_replication = E[variance²] / Σ E[part²]/f.
    """
    se = round(math.sqrt(variance), DECIMALS)
    if se == 0:
        return Effect(round(estimate, DECIMALS), 0.0, math.inf)
    spread = sum(part**2 / f for part, f in parts)
    spread_again = sum(part**2 * (f + 2) / f**2 for part, f in parts)
    fewest = min(f for _, f in parts)
    df, df_replication = variance**2 / spread, (variance**2 + 2 * spread) / spread_again
    return Effect(round(estimate, DECIMALS), se, max(df, fewest), max(df_replication, fewest))


def by_group(values: Array, groups: Sequence[str]) -> Array:
    """Average the images of each group, (S, I) -> (S, G): the unit is the patient, not the image.

    Groups are in the order of their names.
    """
    names, members = np.unique(groups, return_inverse=True)
    if len(names) == len(members):
        return np.take(values, np.argsort(members), axis=1)
    return np.stack([values[:, members == g].mean(axis=1) for g in range(len(names))], axis=1)


def jackknife(statistic: Callable[[Mask], float], groups: Sequence[str]) -> Array:
    """Compute pseudo-values (G,) of a statistic that no single image has, such as AUROC (Quenouille 1956, Tukey 1958).

    statistic takes a mask (I,) of the images to count. One group is left out at a time, in the order of their names:
    θ + (G − 1)·(mean of θ₋g − θ₋g). These are Tukey's, shifted so that their mean is θ, the value of all images.

    Raises UserError where the statistic is NaN with all groups, or without one of them: a class then has no image.
    """
    names, members = np.unique(groups, return_inverse=True)
    whole = statistic(np.ones(len(members), bool))
    without = np.array([statistic(members != g) for g in range(len(names))])
    if np.isnan(whole):
        raise UserError("A class has no image: the value does not exist. Compare accuracy or log_loss instead.")
    if np.isnan(without).any():
        raise UserError(
            "A class has only one image, or patient: the value has no interval. Compare accuracy or log_loss instead."
        )
    pseudo_values: Array = whole + (len(names) - 1) * (without.mean() - without)
    return pseudo_values


def auroc(truth: Mask, score: Array) -> float:
    """Compute the share of pairs of a true (I,) and another image that score (I,) ranks correctly, ties half.

    NaN where either kind is absent. Hanley and McNeil 1982; the rank sum of Mann and Whitney 1947.
    """
    num_true = int(truth.sum())
    pairs = num_true * (len(truth) - num_true)
    if pairs == 0:
        return math.nan
    return float((stats.rankdata(score)[truth].sum() - num_true * (num_true + 1) / 2) / pairs)


def sensitivity(truth: Mask, decided: Mask) -> float:
    """Compute the share of the true images (I,) that were decided true; NaN where either kind is absent."""
    return math.nan if truth.all() or not truth.any() else float(decided[truth].mean())


def specificity(truth: Mask, decided: Mask) -> float:
    """Compute the share of the other images (I,) that were not decided true; NaN where either kind is absent."""
    return sensitivity(~truth, ~decided)


def f1(truth: Mask, decided: Mask) -> float:
    """Compute 2·TP / (2·TP + FP + FN) of decisions (I,); NaN where truth is all one kind, as in OneVsRest."""
    if truth.all() or not truth.any():
        return math.nan
    return float(2 * (truth & decided).sum() / (truth.sum() + decided.sum()))


def cohen_kappa(truth: NDArray[np.intp], decided: NDArray[np.intp]) -> float:
    """Compute the agreement of class indices (I,) beyond chance; NaN where chance agreement is 1 (Cohen 1960)."""
    classes = np.union1d(truth, decided)
    agreed = float((truth == decided).mean())
    by_chance = float(sum((truth == k).mean() * (decided == k).mean() for k in classes))
    return (agreed - by_chance) / (1 - by_chance) if by_chance < 1 else math.nan


def mean_jaccard(truth: NDArray[np.intp], decided: NDArray[np.intp]) -> float:
    """Compute TP / (TP + FP + FN) of class indices (I,), the mean over the classes that occur (torchmetrics' macro)."""
    of_classes = [
        ((truth == k) & (decided == k)).sum() / ((truth == k) | (decided == k)).sum()
        for k in np.union1d(truth, decided)
    ]
    return float(np.mean(of_classes))


def corrected_resampled_t(differences: Array, test_over_train: float) -> Effect:
    """Compute the mean of the differences (K,) of K folds, K >= 2, which share training images.

    Variance (1/K + n_test/n_train)·var, K − 1 degrees of freedom (Nadeau and Bengio 2003, the corrected resampled t).
    """
    num_folds = len(differences)
    variance = (1 / num_folds + test_over_train) * float(differences.var(ddof=1))
    return _effect(float(differences.mean()), variance, [(variance, num_folds - 1)])


def welch(a: Array, b: Array) -> Effect:
    """Compute the difference of means of one value per run, a (S_a,) and b (S_b,), each S >= 2 (Welch 1947)."""
    parts = [(float(y.var(ddof=1)) / len(y), len(y) - 1) for y in (a, b)]
    return _effect(float(a.mean() - b.mean()), sum(part for part, _ in parts), parts)


def ranks_differ(a: Array, b: Array) -> float:
    """Test whether two samples differ, by ranks (Mann and Whitney 1947): return p. inf ranks last, ties share a rank.

    Exact up to nine runs in each: all assignments of the values to the arms are counted; above, 99,999 of them.
    """
    dealt = stats.PermutationMethod(n_resamples=99_999, rng=0)
    return float(stats.mannwhitneyu(a, b, method=dealt).pvalue)


def smallest_rank_p(num_a: int, num_b: int) -> float:
    """Compute the smallest two-sided p that ranks of so many runs can give: every run of one arm before the other's."""
    return 2 / math.comb(num_a + num_b, num_a)


def holm(ps: Sequence[float]) -> tuple[list[float], list[float]]:
    """Compute Holm's adjusted p (1979) for a family of tests, and the alpha at which each was tested.

    Tests after the first that is not rejected have the same alpha as that one, so that adjusted p < 0.05 exactly where
    the interval at that alpha excludes 0.
    """
    adjusted, alphas = [0.0] * len(ps), [ALPHA] * len(ps)
    highest, alpha = 0.0, ALPHA
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        left = len(ps) - rank
        alpha = ALPHA / left if highest < ALPHA else alpha
        highest = max(highest, min(1.0, left * ps[i]))
        adjusted[i], alphas[i] = highest, alpha
    return adjusted, alphas

"""The number of runs or images that a difference needs, from the variance components of the runs at hand.

Three or five runs estimate a variance poorly, so a plan is a range: the numbers that two sets of components need, one
at the 10 % and one at the 90 % quantile of what the mean squares leave open. A mean square of f degrees of freedom,
divided by its true value, is distributed as χ²_f / f; that of the runs of two arms has Satterthwaite's (1946) f.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from runcard.stats.mrmc import Array, Effect, MeanSquares, crossed

MAX_N = 1_000_000  # runs or images that a plan may ask for
MIN_QUANTILES = 2.8  # t₀.₉₇₅ + t₀.₈ is larger whatever the df: what is spared is the slow look-up of both
RANGE = (0.1, 0.9)  # the quantiles of the variances between which a plan is printed


@dataclass(frozen=True)
class VarianceComponents:
    """The variances of two arms' single values: what more runs or more images would average out."""

    runs: tuple[float, ...]  # of each arm from run to run, apart from its images; empty where an arm has one run
    images: float  # of the difference from image to image, as all runs of an arm share it
    residual: tuple[float, ...]  # of each arm: what neither explains

    @classmethod
    def of(cls, a: Array, b: Array, *, quantile: float | None = None) -> VarianceComponents:
        """Estimate the variances of a (S_a, I) against b (S_b, I); a negative estimate counts as 0.

        quantile: of what the runs and images leave open, in place of the estimate: at 0.9 the true variances are
        smaller with 90 % confidence. The residual mean square has so many degrees of freedom that it is not moved.

        With one run in either arm, runs and residual are empty, and images includes all variance, of these networks
        only. For one arm alone, of(y, y) stands for two arms like it whose difference varies from image to image only
        through their runs: the minimum for two methods.
        """
        num_images = a.shape[1]
        images = float((a.mean(axis=0) - b.mean(axis=0)).var(ddof=1)) * _factor(num_images - 1, quantile)
        if min(len(a), len(b)) < 2:
            return cls((), images, ())
        arms = [MeanSquares.of(y) for y in (a, b)]
        factor = _factor(pooled_df(arms[:1] if np.array_equal(a, b) else arms), quantile)
        return cls(
            runs=tuple(max(arm.runs * factor - arm.residual / num_images, 0.0) for arm in arms),
            images=max(images - sum(arm.residual / arm.num_runs for arm in arms), 0.0),
            residual=tuple(arm.residual for arm in arms),
        )

    def planned(self, num_runs: int, num_images: int) -> Effect:
        """Predict the effect of num_runs >= 2 runs in each arm and num_images >= 2 images: SE, df, estimate 0.

        Where runs is empty it is about these networks on other images, and num_runs is not used.
        """
        arms = [
            MeanSquares(num_runs, runs + residual / num_images, residual)
            for runs, residual in zip(self.runs, self.residual, strict=True)
        ]
        return crossed(0.0, self.images + sum(self.residual) / num_runs, num_images, arms)

    def runs_needed(self, d: float, num_images: int) -> int | None:
        """Find the number of runs in each arm with which num_images images detect a difference of d > 0.

        None where none suffices, because of the images, or where runs is empty. Exact up to 100, then to within 2 %.
        """
        return _smallest(lambda num: self.planned(num, num_images), d) if self.runs else None

    def images_needed(self, d: float, num_runs: int) -> int | None:
        """Find the number of images with which num_runs runs in each arm detect a difference of d > 0.

        None where none suffices, because of the runs. Exact up to 100, then to within 2 %.
        """
        return _smallest(lambda num: self.planned(num_runs, num), d)


def pooled_df(arms: Sequence[MeanSquares]) -> float:
    """Compute the degrees of freedom of the sum of the arms' variances of run means (Satterthwaite 1946)."""
    total, spread = sum(arm.runs for arm in arms), sum(arm.runs**2 / (arm.num_runs - 1) for arm in arms)
    return total**2 / spread if spread else float(sum(arm.num_runs - 1 for arm in arms))


def runs_cut(y: Array) -> bool:
    """Whether the run means of y (S, I) differ no more than the residuals alone let them: their own variance is 0."""
    arm = MeanSquares.of(y)
    return arm.runs <= arm.residual / int(y.shape[1])


def _factor(df: float, quantile: float | None) -> float:
    """Return what a mean square of df degrees of freedom is multiplied by at a quantile of its true value."""
    return 1.0 if quantile is None else float(df / stats.chi2.isf(quantile, df))


def _smallest(plan: Callable[[int], Effect], d: float) -> int | None:
    num = 2
    while num <= MAX_N:  # a linear search: more images can cost degrees of freedom, so bisection could miss it
        effect = plan(num)
        if effect.se * MIN_QUANTILES <= d and effect.detectable() <= d:
            return num
        num += max(1, num // 50)
    return None

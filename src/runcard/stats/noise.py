"""How far the mean of a run varies from run to run, and which differences of two arms that noise hides.

s is the standard deviation of the run means. On these images, with S seeds in each of two arms that scatter alike, the
smallest observed difference worth claiming is t₀.₉₇₅(2S − 2)·s·√(2/S): 2.27 s, 1.46 s and 0.94 s with 3, 5 and 10
seeds. A true difference is found four times in five where it is (t₀.₉₇₅ + t₀.₈)·s·√(2/S): 3.04 s, 2.02 s and 1.33 s.
For images like these σ²/I is added, where σ² is the variance of the difference of two arms from image to image. The
tests of `runcard compare` do not take for granted that both arms scatter alike, and find somewhat less.

The estimate of s is poor: S₀ runs leave open with 80 % confidence that it is s·√((S₀ − 1)/χ²₀.₂), which is 2.12, 1.56
and 1.29 times s with 3, 5 and 10 runs. benchmarks/noise.py measures how often that bound holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy import stats

from runcard.stats.mrmc import ALPHA, DECIMALS, Array, Effect, MeanSquares
from runcard.stats.power import VarianceComponents, pooled_df

MIN_RUNS = 3  # of an arm whose noise is measured
CONFIDENCE = 0.8  # that the noise lies below its bound
MAX_DRIVING = 2  # images that may make the noise of an arm by themselves


@dataclass(frozen=True)
class Noise:
    """The scatter of run means, and of the difference of two arms from image to image."""

    sd: float  # of the run means; of several arms the root mean square
    df: float  # degrees of freedom of sd²
    num_images: int
    images: float | None  # variance of the difference of two arms from image to image; None: one arm does not show it
    residual: float  # of single values: what neither run nor image explains

    @classmethod
    def of(cls, arms: Sequence[Array]) -> Noise:
        """Measure the noise of one or several arms (S, I) over the same I images, each S >= 3, I >= 2."""
        squares = [MeanSquares.of(y) for y in arms]
        images = [VarianceComponents.of(a, b).images for a, b in combinations(arms, 2)]
        return cls(
            sd=round(math.sqrt(np.mean([arm.runs for arm in squares])), DECIMALS),
            df=pooled_df(squares),
            num_images=arms[0].shape[1],
            images=float(np.mean(images)) if images else None,
            residual=float(np.mean([arm.residual for arm in squares])),
        )

    def bound(self, confidence: float = CONFIDENCE) -> Noise:
        """Return the same with the standard deviation that the true one does not exceed, with this confidence."""
        return replace(self, sd=self.sd * math.sqrt(self.df / stats.chi2.isf(confidence, self.df)))

    def on_these_images(self, num_runs: int) -> Effect:
        """Predict two arms of num_runs >= 2 runs on these same images: estimate 0, SE, df.

        The end of its interval is the smallest observed difference worth claiming; see also Effect.detectable.
        """
        return _alike(VarianceComponents((self.sd**2,) * 2, 0.0, (0.0, 0.0)).planned(num_runs, self.num_images))

    def on_others(self, num_runs: int, num_images: int) -> Effect:
        """Predict two arms of num_runs >= 2 runs on num_images others like these; from one arm the least that it is.

        More images also average out more of what neither run nor image explains.
        """
        runs = max(self.sd**2 - self.residual / self.num_images, 0.0)
        planned = VarianceComponents((runs,) * 2, self.images or 0.0, (self.residual,) * 2).planned
        return _alike(planned(num_runs, num_images))

    def floor(self, num_images: int) -> float:
        """Compute the smallest observed difference worth claiming with any number of runs, on others like these."""
        return float(stats.t.isf(ALPHA / 2, num_images - 1)) * math.sqrt((self.images or 0.0) / num_images)


def driving_images(y: Array) -> list[int]:
    """Find the one or two images that make the noise of y (S, I), S >= 2, I >= 4; [] where more of them do.

    They have more than half of the variance from run to run of all images, and without them the standard deviation of
    the run means is less than half. Such are rare failures: one image of one run near zero.
    """
    of_images = y.var(axis=0, ddof=1)
    largest = np.argsort(-of_images, kind="stable")
    for count in range(1, MAX_DRIVING + 1):
        without = np.delete(y, largest[:count], axis=1)
        is_most = of_images[largest[:count]].sum() > of_images.sum() / 2
        if is_most and without.mean(axis=1).std(ddof=1) < y.mean(axis=1).std(ddof=1) / 2:
            return sorted(largest[:count].tolist())
    return []


def noisier_arm(arms: Sequence[Array]) -> int | None:
    """Find the arm (S, I) whose run means scatter more than those of all others; None where none does.

    By F, of its variance against the mean variance of the others, at ALPHA over as many tests as there are arms.
    """
    squares = [MeanSquares.of(y) for y in arms]
    largest = max(range(len(arms)), key=lambda i: squares[i].runs)
    others = [arm for i, arm in enumerate(squares) if i != largest]
    usual = float(np.mean([arm.runs for arm in others])) if others else math.inf
    ratio = squares[largest].runs / usual if usual else math.inf
    p = stats.f.sf(ratio, squares[largest].num_runs - 1, pooled_df(others) if others else 1)
    return largest if p * len(arms) < ALPHA else None


def _alike(effect: Effect) -> Effect:
    """Return the effect of a t whose two arms are known to scatter alike: its df are those of the design."""
    here = effect.on_these_images
    return replace(effect, df_replication=None, on_these_images=here and replace(here, df_replication=None))

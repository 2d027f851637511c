"""Tests that may be repeated while seeds are added, and what seeds that have not been run could still decide.

A study looks at its runs after S in L = (S_1, …, S_k) seeds. The look after S seeds tests at α·w(S), w(S) = S / ΣL.
These levels sum to α, so that by the union bound all looks together err in at most α of the cases, whenever one stops.
benchmarks/adaptive.py measures it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from scipy import optimize, stats

from runcard.stats.mrmc import ALPHA, POWER, Array, Effect, difference
from runcard.stats.power import MAX_N, RANGE, VarianceComponents

LOOKS = {10: (3, 5, 7, 10), 20: (3, 5, 7, 10, 14, 20)}  # budget, in seeds of an arm -> the seeds after which it looks
MIN_SEEDS = 5  # before it is said that more seeds cannot decide
FUTILE = 0.1  # the chance to decide below which more seeds are not worth it


@dataclass(frozen=True)
class Forecast:
    """What the seeds that are left of the budget would do, if the variances are those of the runs at hand."""

    chance: float  # that the last look decides
    limit: Literal["images", "seeds"]  # what keeps it from deciding
    images: tuple[int, int] | None = None  # the fewest images that would decide at the margin, a range; None: no number


def share_of_level(num_seeds: int, looks: tuple[int, ...]) -> float:
    """Return w(S): the share of the level that the look after num_seeds has."""
    return num_seeds / sum(looks)


def detectable_sds(num_seeds: int, looks: tuple[int, ...], num_tests: int = 1) -> float:
    """Compute the difference that the look after num_seeds finds with 80 % probability, in SDs from run to run.

    Both arms have this SD; the images add nothing. num_tests: those of Holm's family, of which this is the hardest.
    """
    se, df = math.sqrt(2 / num_seeds), 2 * (num_seeds - 1)
    critical = float(stats.t.isf(ALPHA / num_tests * share_of_level(num_seeds, looks) / 2, df))
    return float(optimize.brentq(lambda d: stats.nct.sf(critical, df, d / se) - POWER, 0, 10 * critical * se))


def forecast(
    values: tuple[Array, Array], looks: tuple[int, ...], budget: int, margin: float | None, alpha: float = ALPHA
) -> Forecast:
    """Forecast what budget seeds in each arm would decide, from the values (S_a, I) and (S_b, I) of S < budget.

    alpha is the question's level over all looks, after Holm. Only the runs' part of the difference moves: d after F
    seeds is taken as normal about d with variance V·(1 − S/F), V that of the difference of the run means.
    """
    first, second = values
    now, components = difference(first, second), VarianceComponents.of(first, second)
    assert now.on_these_images is not None, "each arm needs two runs"
    num_images = first.shape[1]
    level = alpha * share_of_level(budget, looks)
    low, high = components.planned(budget, num_images).interval(level)
    done = min(len(first), len(second)) / budget
    of_runs = now.on_these_images.se**2
    chance = _chance(now.estimate, math.sqrt(of_runs * (1 - done)), (high - low) / 2, margin)
    floor = float(stats.t.isf(level / 2, num_images - 1)) * math.sqrt(components.images / num_images)
    if not (margin or 0.0) - floor < abs(now.estimate) < floor:
        return Forecast(chance, "seeds")
    if margin is None:
        return Forecast(chance, "images")
    df_images, df_runs = num_images - 1, now.on_these_images.df
    ends = []
    for quantile in RANGE:
        images, runs = (
            variance * df / float(stats.chi2.isf(quantile, df))
            for variance, df in ((components.images, df_images), (of_runs * done, df_runs))
        )
        ends.append(_images_needed(images, runs, margin, level))
    fewest, most = ends
    return Forecast(chance, "images", (fewest, most) if fewest and most else None)


def forecast_runs(
    now: Effect, num_seeds: int, looks: tuple[int, ...], budget: int, margin: float | None, alpha: float = ALPHA
) -> Forecast:
    """Forecast the same of arms that are compared by one value per run, whose effect after num_seeds is now."""
    done = num_seeds / budget
    df = now.df * (budget - 1) / (num_seeds - 1)
    half = float(stats.t.isf(alpha * share_of_level(budget, looks) / 2, df)) * now.se * math.sqrt(done)
    return Forecast(_chance(now.estimate, now.se * math.sqrt(1 - done), half, margin), "seeds")


def _chance(d: float, sd: float, half: float, margin: float | None) -> float:
    """Compute P(|d_F| > half or |d_F| < margin − half), d_F normal about d with this sd."""
    if (margin or 0.0) - half >= half:
        return 1.0
    if sd == 0:
        return float(abs(d) > half or abs(d) < (margin or 0.0) - half)
    at = stats.norm(d, sd)
    inside = max((margin or 0.0) - half, 0.0)
    return float(at.cdf(-half) + at.sf(half) + at.cdf(inside) - at.cdf(-inside))


def _images_needed(of_images: float, of_runs: float, margin: float, level: float) -> int | None:
    """Find the least N with (t₁₋level⸝₂(N − 1) + z₀.₈)²·(of_runs + of_images/N) ≤ margin²; None where none suffices."""
    z = float(stats.norm.ppf(POWER))
    num = 2
    while num <= MAX_N:
        if (float(stats.t.isf(level / 2, num - 1)) + z) ** 2 * (of_runs + of_images / num) <= margin**2:
            return num
        num += max(1, num // 20)
    return None

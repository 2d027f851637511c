"""Images on which two arms differ by more than their runs explain.

With y[arm, run, image], each run is first moved so that its median image agrees with the other runs. What is left of
the difference of two arms is how far an image departs from the median image: an arm that is better everywhere, or a
run that is good everywhere, makes no image stand out. The departure is tested image by image against its between-run
error, SE² = Σ_arms var(runs) / S, by Welch's t, and p is adjusted by Benjamini and Hochberg (1995).

Three runs say little about the variance of one image, but the images together say how variances scatter. So SE² is
moved towards what is usual, by the empirical Bayes method of Smyth (2004): SE² ~ s₀²·d₀/χ²(d₀), s₀² and d₀ from the
moments of log SE². Variances of Dice scatter otherwise than that, so half of d₀ is used. Values that are right or
wrong have no such error: there the runs that are right are counted, in both arms, and compared by Fisher's exact test.
benchmarks/disagreement.py measures false images and power, beside Welch's t as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from runcard.compare.answers import Answer
from runcard.compare.arms import Arm
from runcard.compare.contrasts import Paired
from runcard.compare.verdicts import format_difference, format_p
from runcard.console import counted_each
from runcard.errors import join_first
from runcard.stats.mrmc import ALPHA, DECIMALS, MIN_UNITS, Array

MIN_RUNS = 3  # of each arm: with two, an image stands out in up to 26 % of comparisons of equal arms
PRIOR_SHARE = 0.5  # of the degrees of freedom that the other images lend to one
LARGEST_DF = 1e6  # of the prior; beyond, all images have one variance
SMALLEST = 1e-5  # of the median variance: smaller ones would pull the logarithms' moments without bound
MAX_NAMED = 3  # images that a sentence names


@dataclass(frozen=True)
class Disagreement:
    """The images of two arms, with the p of each; see the module."""

    paired: Paired
    median: float | None  # the median image's difference, first − second; None of right-or-wrong values
    p: Array  # (I,) adjusted; empty where no image is tested
    note: str  # why none is tested, or none can stand out; "" where there is no obstacle

    @property
    def standing_out(self) -> list[int]:
        """The images beyond seeds, the most certain first; of equal p, the largest departure first."""
        departure = abs(self.differences - (self.median or 0))
        found = np.flatnonzero(self.p < ALPHA)
        return sorted(found.tolist(), key=lambda i: (self.p[i], -departure[i]))

    @property
    def differences(self) -> Array:
        """First − second of each image (I,), of the means over runs."""
        return self.paired.first - self.paired.second

    @property
    def finding(self) -> str:
        """How many images stand out and what from, as a sentence."""
        if not len(self.p):
            return f"Images are not tested one by one: {self.note}."
        measure, num_images, num_found = self.paired.measure, len(self.p), len(self.standing_out)
        adjusted = f"Benjamini–Hochberg at {100 * ALPHA:g} %"
        if self.median is not None:
            usual = f"the median image's difference in {measure.title} ({format_difference(measure, self.median)})"
            explained = f"departs from {usual} by more than runs of one arm differ ({adjusted})"
        else:
            explained = f"is right in more runs of one arm than chance explains (Fisher's exact test, {adjusted})"
        if num_found:
            stand, who = ("stands", "it") if num_found == 1 else ("stand", "each")
            return f"{num_found} of {num_images} images {stand} out: {who} {explained}."
        return f"No image stands out: none of {num_images} {explained}." + (f" {self.note}." if self.note else "")

    @property
    def sentence(self) -> str:
        """The finding, with the first of the images that stand out."""
        named = [
            f"{self.paired.ids[i]} {format_difference(self.paired.measure, self.differences[i])} "
            f"(p {format_p(self.p[i])})"
            for i in self.standing_out
        ]
        return f"{self.finding} {join_first(named, MAX_NAMED)}." if named else self.finding


def disagreement(answer: Answer) -> Disagreement | None:
    """Test the images of two arms; None where the metric has no value per image that both arms share."""
    paired, arms = answer.paired, answer.arms
    if paired is None:
        return None
    num_runs = [len(arm.runs) for arm in arms]
    if min(num_runs) < MIN_RUNS:
        few = f"{counted_each(num_runs, 'run')} cannot tell seeds from images (that takes {MIN_RUNS} each)"
        return Disagreement(paired, None, np.array([]), few)
    if len(paired.ids) < MIN_UNITS:
        return Disagreement(paired, None, np.array([]), f"that takes {MIN_UNITS} images")
    a, b = _values(paired, arms)
    if np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all():
        smallest = stats.fisher_exact(np.diag(num_runs)).pvalue
        few = f"With {num_runs[0]} and {num_runs[1]} runs, right or wrong, a single image cannot stand out"
        p = right_or_wrong(a, b)
        return Disagreement(paired, None, p, few if smallest > ALPHA / len(p) else "")
    departure, p = departures(a, b)
    median = float(np.median(paired.first - paired.second - departure))
    return Disagreement(paired, round(median, DECIMALS), p, "")


def _values(paired: Paired, arms: Sequence[Arm]) -> tuple[Array, Array]:
    """Stack the values (S, I) of both arms, of the images that have one in all runs."""
    kept = np.isin(arms[0].first.images().ids, paired.ids)
    a, b = (np.stack([run.images().values[paired.measure.key][kept] for run in arm.runs]) for arm in arms)
    return a, b


def aligned(a: Array, b: Array) -> tuple[Array, Array]:
    """Move each run of a (S_a, I) and b (S_b, I) such that its median image has the mean value of both arms."""
    middle = (a.mean(axis=0) + b.mean(axis=0)) / 2
    a, b = (y - np.median(y - middle, axis=1, keepdims=True) for y in (a, b))
    return a, b


def departures(a: Array, b: Array, prior_share: float = PRIOR_SHARE) -> tuple[Array, Array]:
    """Compute how far each image departs from the median image's difference, (I,), and its adjusted p, (I,).

    a (S_a, I), b (S_b, I): S >= 2. Where runs do not differ at all there is nothing to hold a departure against: p = 1.
    """
    a, b = aligned(a, b)
    departure = a.mean(axis=0) - b.mean(axis=0)
    parts = [y.var(axis=0, ddof=1) / len(y) for y in (a, b)]
    squared_error: Array = parts[0] + parts[1]
    if squared_error.max() < 10 ** (-2 * DECIMALS):
        return departure, np.ones(len(departure))
    usual = [part.mean() for part in parts]
    df = sum(usual) ** 2 / sum(part**2 / (len(y) - 1) for part, y in zip(usual, (a, b), strict=True))
    squared_error, df = moderated(squared_error, df, prior_share)
    p = 2 * stats.t.sf(abs(departure) / np.sqrt(squared_error), df)
    return departure, stats.false_discovery_control(p)


def moderated(variances: Array, df: float, prior_share: float = PRIOR_SHARE) -> tuple[Array, float]:
    """Move variances (I,) of df degrees of freedom each towards what is usual; return them and their new df.

    Smyth 2004, section 6.2: the logarithm of a variance has mean log s₀² + ψ(df/2) − log(df/2) − ψ(d₀/2) + log(d₀/2)
    and variance ψ'(df/2) + ψ'(d₀/2).
    """
    positive = variances[variances > 0]
    logs = np.log(np.maximum(positive, SMALLEST * np.median(positive)))
    logs += math.log(df / 2) - special.digamma(df / 2)
    excess = logs.var(ddof=1) - special.polygamma(1, df / 2) if len(logs) > 1 else 0.0
    if excess <= special.polygamma(1, LARGEST_DF / 2):
        return np.full_like(variances, variances.mean()), df * len(variances)
    half = optimize.brentq(lambda x: special.polygamma(1, x) - excess, 1e-6, LARGEST_DF / 2)
    usual = math.exp(logs.mean() + special.digamma(half) - math.log(half))
    prior_df = prior_share * 2 * half
    return (prior_df * usual + df * variances) / (prior_df + df), min(prior_df + df, df * len(variances))


def right_or_wrong(a: Array, b: Array) -> Array:
    """Compare the runs that are right (1) on each image, of a (S_a, I) and b (S_b, I), by Fisher: adjusted p (I,)."""
    counts, place = np.unique(np.stack([a.sum(axis=0), b.sum(axis=0)]), axis=1, return_inverse=True)
    exact = [stats.fisher_exact([[k, len(a) - k], [m, len(b) - m]]).pvalue for k, m in counts.T.astype(int)]
    adjusted: Array = stats.false_discovery_control(np.array(exact)[place.ravel()])
    return adjusted

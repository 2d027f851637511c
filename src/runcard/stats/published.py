"""What two rows of a published table support: two means of the same test images, without the values per image.

With the difference d of two means over n images and S seeds a row, standard deviations s₁ and s₂ over the images,
their correlation ρ from image to image and the standard deviation σ from run to run:

    Var(d) = (s₁² + s₂² − 2ρ·s₁s₂)/n + 2σ²/S      Dice
    Var(d) = (D − d²)/n + 2σ²/S                   accuracy; D: the share of images on which just one of the two is right

A table gives neither ρ nor D, seldom σ, and not always s. Each has a range, from the least to the most favourable
value: ρ from 0.5 to 0.95 and σ from 0.012 to 0.001; an unknown s from √(m(1 − m)), the largest that values in [0, 1] of
mean m can have, to 0.4(1 − m); D from min(m₁ + m₂, 2 − m₁ − m₂) to |d|. A claim is tested at both ends by Student's t
with n − 1 degrees of freedom, p times k − 1 where the row was picked from k. benchmarks/published.py measures how
often "holds" is false.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from scipy import optimize, stats

from runcard.stats.mrmc import ALPHA

METRICS = ("dice", "accuracy")
RHO = (0.5, 0.95)  # the least and the most favourable
RUN_SD = (0.012, 0.001)
MIN_IMAGE_SD = 0.4  # of Dice, as a share of 1 − mean

Range = tuple[float, float]  # the least favourable and the most favourable value


class Verdict(StrEnum):
    """What two rows support."""

    HOLDS = "holds"
    CANNOT = "cannot be concluded"
    DEPENDS = "depends"


@dataclass(frozen=True)
class Claim:
    """Two rows of a table: what it gives, and what is known beyond it. Means in [0, 1]."""

    metric: str  # of METRICS
    means: tuple[float, float]
    num_images: int
    num_seeds: int = 1  # of each row
    num_rows: int = 2  # that the better one was picked from
    image_sds: tuple[float, float] | None = None  # over the images, of Dice
    seed_sds: tuple[float, float] | None = None  # over the seeds, where num_seeds >= 2
    rho: float | None = None
    run_sd: float | None = None

    @property
    def difference(self) -> float:
        """The first mean minus the second."""
        return self.means[0] - self.means[1]

    @property
    def ranges(self) -> dict[str, Range]:
        """The assumptions that the claim's variance is made of; both ends are equal where one is known."""
        runs = {"run_sd": self._run_sd}
        if self.metric == "accuracy":
            return {"discordance": (min(sum(self.means), 2 - sum(self.means)), abs(self.difference)), **runs}
        rho = RHO if self.rho is None else (self.rho, self.rho)
        if self.image_sds:
            return {"rho": rho, **runs}
        largest = max(math.sqrt(m * (1 - m)) for m in self.means)
        return {"rho": rho, "image_sd": (largest, MIN_IMAGE_SD * (1 - max(self.means))), **runs}

    @property
    def _run_sd(self) -> Range:
        """The range of the sd from run to run.

        An sd of few seeds is itself uncertain: at worst one row's runs scatter alone, with S − 1 degrees of freedom.
        """
        if self.run_sd is not None:
            return self.run_sd, self.run_sd
        if self.seed_sds is None:
            return RUN_SD
        sd = math.hypot(*self.seed_sds) / math.sqrt(2)
        return sd * _critical(self.num_seeds - 1, self._level) / self.critical, sd

    @property
    def _level(self) -> float:
        return ALPHA / (self.num_rows - 1)

    @property
    def critical(self) -> float:
        """The number of standard errors that d must exceed."""
        return _critical(self.num_images - 1, self._level)

    @property
    def min_images(self) -> int:
        """The least number of images that one row must have right and the other wrong: an exact sign test's."""
        return math.floor(math.log2(2 / self._level)) + 1

    def se(self, assumed: Mapping[str, float]) -> float:
        """Compute the standard error of the difference under these assumptions."""
        if self.metric == "accuracy":
            images = max(assumed["discordance"] - self.difference**2, 0.0)
        else:
            a, b = self.image_sds or (assumed["image_sd"],) * 2
            images = max(a**2 + b**2 - 2 * assumed["rho"] * a * b, 0.0)
        return math.sqrt(images / self.num_images + 2 * assumed["run_sd"] ** 2 / self.num_seeds)


@dataclass(frozen=True)
class Case:
    """The test of a claim under one set of assumptions."""

    assumed: dict[str, float]
    se: float
    p: float  # two-sided, times k − 1 where the row was picked from k
    detectable: float  # the smallest difference that would be significant


@dataclass(frozen=True)
class Judgement:
    """The verdict on a claim, and its tests under the least and the most favourable assumptions."""

    verdict: Verdict
    worst: Case
    best: Case


def judge(claim: Claim) -> Judgement:
    """Test a claim under the least and the most favourable assumptions."""
    worst, best = (_case(claim, {name: ends[i] for name, ends in claim.ranges.items()}) for i in (0, 1))
    if best.p >= ALPHA or too_few_images(claim):
        return Judgement(Verdict.CANNOT, worst, best)
    return Judgement(Verdict.HOLDS if worst.p < ALPHA else Verdict.DEPENDS, worst, best)


def too_few_images(claim: Claim) -> bool:
    """Say whether the accuracies differ by fewer images than any test calls different (six, for two rows)."""
    return claim.metric == "accuracy" and round(claim.num_images * abs(claim.difference), 6) < claim.min_images


def needed(claim: Claim, others: int) -> dict[str, float]:
    """Find how far each assumption must be from its least favourable value for the claim to hold.

    others: 0, all other assumptions at their least favourable values; 1, at their most favourable ones. An assumption
    that cannot make the claim hold is left out, and so is one that need not change.
    """
    ranges = claim.ranges
    found = {}
    for name, (worst, best) in ranges.items():
        rest = {other: ends[others] for other, ends in ranges.items()}

        def excess(value: float, name: str = name, rest: dict[str, float] = rest) -> float:
            return claim.critical * claim.se({**rest, name: value}) - abs(claim.difference)

        if excess(worst) > 0 > excess(best):
            found[name] = float(optimize.brentq(excess, worst, best))
    return found


def _case(claim: Claim, assumed: dict[str, float]) -> Case:
    se = claim.se(assumed)
    if se == 0:
        p = float(claim.difference == 0)
    else:
        p = 2 * float(stats.t.sf(abs(claim.difference) / se, claim.num_images - 1))
    return Case(assumed, se, min(1.0, p * (claim.num_rows - 1)), claim.critical * se)


def _critical(df: float, level: float) -> float:
    return float(stats.t.isf(level / 2, df))

"""Measures how often an image is said to stand out that does not, and how many are found that do.

    make simulate

Two arms over the same images, drawn anew in each replicate. Of equal arms: the share of replicates in which any image
stands out (5 % is promised), also where one arm is better everywhere. Then PLANTED images get another value in the
first arm, half of them higher and half of them lower: the share of these that is found, and the mean share of others
among what is found (5 % is promised).

Beside ours: Welch's t of the same departures; Smyth's prior with all of its degrees of freedom; and Welch's t of the
differences as they are, without taking the median image's difference off. Prints a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from inference import IMAGE_SD, KINDS, MEAN, RESIDUAL_SD, share
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from runcard.compare.disagreement import aligned, departures, right_or_wrong
from runcard.console import print_table
from runcard.stats.mrmc import ALPHA, Array

SEED, REPLICATES = 0, 800  # a share of 5 % is known to within 1.5 %
RUN_SD = 0.006
PLANTED = 4  # images
BETTER = 0.03  # of the arm that is better everywhere
FAILING, FAILURE, FAILED = 0.15, 0.3, 0.3  # the share of images on which runs may fail, how often, to what share
PLANTED_SHIFT = 5 * RESIDUAL_SD  # on the normal scale; of right-or-wrong values, all runs of one arm alone are right


@dataclass(frozen=True)
class Setting:
    """What a row of the table is about."""

    values: str
    num_images: int
    num_runs: tuple[int, int]
    residual_sd: tuple[float, float] = (RESIDUAL_SD, RESIDUAL_SD)
    failing: bool = False

    @property
    def is_binary(self) -> bool:
        """Whether every value is 0 or 1."""
        return self.values == "right or wrong"

    @property
    def cells(self) -> list[str]:
        """The setting, as cells of its row."""
        scatter = " + ".join(f"{sd:g}" for sd in dict.fromkeys(self.residual_sd))
        values = f"{self.values}, runs fail" if self.failing else self.values
        return [values, str(self.num_images), " + ".join(map(str, self.num_runs)), scatter]


SETTINGS = (
    *(Setting("normal", 47, num_runs) for num_runs in ((3, 3), (5, 5))),
    *(Setting("like Dice", 47, num_runs) for num_runs in ((2, 2), (2, 5), (3, 3), (3, 5), (5, 5))),
    *(Setting("like Dice", 47, num_runs, (2 * RESIDUAL_SD, RESIDUAL_SD)) for num_runs in ((3, 3), (3, 5), (3, 10))),
    *(Setting("like Dice", num_images, (3, 3)) for num_images in (12, 200)),
    *(Setting("like Dice", 47, num_runs, failing=True) for num_runs in ((3, 3), (5, 5))),
    *(Setting("right or wrong", 47, num_runs) for num_runs in ((3, 3), (5, 5), (10, 10))),
)


def welch(a: Array, b: Array) -> Array:
    """Test the images by Welch's t: adjusted p (I,)."""
    moments = [part for y in (a, b) for part in (y.mean(axis=0), y.std(axis=0, ddof=1), len(y))]
    with np.errstate(divide="ignore", invalid="ignore"):  # of an image that all runs agree on
        p = stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue
    adjusted: Array = stats.false_discovery_control(np.nan_to_num(p, nan=1.0))
    return adjusted


METHODS: dict[str, Callable[[Array, Array], Array]] = {
    "ours": lambda a, b: departures(a, b)[1],
    "Welch": lambda a, b: welch(*aligned(a, b)),
    "whole prior": lambda a, b: departures(a, b, prior_share=1.0)[1],
    "not aligned": welch,
}
EVERYWHERE = ("ours", "not aligned")  # the methods that face an arm that is better everywhere


def main() -> None:
    """Print the table of benchmarks/README.md."""
    rng = np.random.default_rng(SEED)
    head = ["values", "images", "runs", "residual sd", *(f"false: {name}" for name in METHODS)]
    head += [f"better everywhere: {name}" for name in EVERYWHERE]
    head += [f"{what}: {name}" for what in ("found", "others") for name in METHODS]
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"percent of {REPLICATES} replicates; {PLANTED} images planted")
    print_table(console, head, [[*setting.cells, *simulated(rng, setting)] for setting in SETTINGS])


def simulated(rng: np.random.Generator, setting: Setting) -> list[str]:
    """Compute the cells of a row, in percent."""
    methods = {"ours": right_or_wrong, "Welch": welch} if setting.is_binary else METHODS
    equal, planted = hits(rng, setting, methods), hits(rng, setting, methods, num_planted=PLANTED)
    some = {} if setting.is_binary else {name: METHODS[name] for name in EVERYWHERE}
    everywhere = hits(rng, setting, some, better=BETTER)
    others = {name: each[:, PLANTED:].sum(axis=1) / each.sum(axis=1).clip(1) for name, each in planted.items()}
    columns = [equal[name].any(axis=1) if name in methods else None for name in METHODS]
    columns += [everywhere[name].any(axis=1) if name in some else None for name in EVERYWHERE]
    columns += [planted[name][:, :PLANTED] if name in methods else None for name in METHODS]
    columns += [others.get(name) for name in METHODS]
    return ["" if column is None else f"{100 * share(column):.1f}" for column in columns]


def hits(
    rng: np.random.Generator,
    setting: Setting,
    methods: Mapping[str, Callable[[Array, Array], Array]],
    better: float = 0.0,
    num_planted: int = 0,
) -> dict[str, NDArray[np.bool_]]:
    """Draw the arms, and say which images stand out (replicates, images) by each method."""
    arms = [drawn(rng, setting, better, num_planted) for _ in range(REPLICATES)]
    return {name: np.array([method(a, b) < ALPHA for a, b in arms]) for name, method in methods.items()}


def drawn(rng: np.random.Generator, setting: Setting, better: float, num_planted: int) -> tuple[Array, Array]:
    """Draw two arms (S, I) without differences of single images, but for the planted ones."""
    shared = rng.normal(0, IMAGE_SD, setting.num_images)
    fails = np.where(rng.random(setting.num_images) < FAILING, FAILURE, 0.0) * setting.failing
    arms = []
    for i, (num, sd) in enumerate(zip(setting.num_runs, setting.residual_sd, strict=True)):
        z = shared + rng.normal(0, RUN_SD, (num, 1)) + rng.normal(0, sd, (num, setting.num_images))
        if setting.is_binary:
            z[:, :num_planted] = (-1.0) ** (i + np.arange(num_planted))
        elif i == 0:
            z[:, :num_planted] += PLANTED_SHIFT * (-1.0) ** np.arange(num_planted)
        y = KINDS[setting.values](z, float(np.hypot(IMAGE_SD, sd)), MEAN) + better * (i == 0)
        arms.append(np.where(rng.random(y.shape) < fails, FAILED * y, y))
    return arms[0], arms[1]


if __name__ == "__main__":
    main()

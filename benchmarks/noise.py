"""Measures how often the bound of `runcard noise` and the ranges of `runcard power` hold, on data whose truth is known.

    make simulate

Values of 47 images as in benchmarks/inference.py: normal; like Dice, where 1 − Dice is log-normal; and like Dice with
two images on which one run in twenty fails, with a value near zero. The noise of these images is known from 300 more
runs on them, the numbers of seeds and images that a difference needs from 400 runs on 4000 images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from inference import ARM_IMAGE_SD, IMAGE_SD, KINDS, MEAN, RESIDUAL_SD, share
from rich.console import Console

from runcard.console import print_table
from runcard.stats.mrmc import ALPHA, Array, welch
from runcard.stats.noise import Noise, driving_images
from runcard.stats.power import RANGE, VarianceComponents

SEED = 0
IMAGES = 47
REPLICATES, PLANNED = 1000, 200  # a share of 80 % is known to within 2.5 %, that of a range to within 5.6 %
MORE_RUNS = 300  # on the same images: the truth
TRUE_RUNS, TRUE_IMAGES = 400, 4000  # the truth of plans
FAILURES = "rare failures"
HARD_IMAGES, FAILURE_RATE, FAILED = 2, 0.05, 0.05  # of IMAGES; of a run on a hard one; its value then
VALUES = (*list(KINDS)[:2], FAILURES)
DIFFERENCE = 0.012  # that the planned runs should find
POWER_REPLICATES = 4000


def main() -> None:
    """Print the tables of benchmarks/README.md."""
    rng = np.random.default_rng(SEED)
    console = Console(soft_wrap=True, highlight=False)
    settings: list[tuple[str, int, tuple[float, ...]]]
    settings = [(values, num, (sd,)) for values in VALUES for num in (3, 5, 10) for sd in (0.006, 0.012)]
    settings += [(FAILURES, num, (0.002,)) for num in (3, 5, 10)]
    settings += [("normal", num, (0.006, 0.006)) for num in (3, 5)] + [("normal", num, (0.0, 0.012)) for num in (3, 5)]
    print_table(console, ["values", "runs", "run sd", "bound holds", "warned"], [bounded(rng, *s) for s in settings])
    plans = [(values, num, sds) for values in VALUES for num in (3, 5) for sds in ((0.006, 0.006), (0.002, 0.01))]
    columns = ["values", "runs", "run sd", "seeds needed", "median range", "holds", "images needed", "median", "holds"]
    print_table(console, columns, [planned(rng, *plan) for plan in plans])
    rows = [powered(rng, num) for num in (3, 5, 10)]
    print_table(console, ["runs", "found, arms known to scatter alike", "found, Welch"], rows)


def bounded(rng: np.random.Generator, values: str, num_runs: int, run_sds: tuple[float, ...]) -> list[str]:
    """Return how often the bound of the noise holds, and how often images are said to drive it."""
    holds, warned = [], []
    for _ in range(REPLICATES):
        arms = drawn(rng, values, num_runs + MORE_RUNS, IMAGES, run_sds)
        true = np.sqrt(np.mean([y[num_runs:].mean(axis=1).var(ddof=1) for y in arms]))
        pilot = [y[:num_runs] for y in arms]
        holds.append(Noise.of(pilot).bound().sd >= true)
        warned.append(any(driving_images(y) for y in pilot))
    return [values, runs_of(num_runs, run_sds), sds_of(run_sds), f"{share(holds):.3f}", f"{share(warned):.3f}"]


def planned(rng: np.random.Generator, values: str, num_runs: int, run_sds: tuple[float, ...]) -> list[str]:
    """Return the true number of seeds and images that DIFFERENCE needs, and how often the printed range has it."""
    true = VarianceComponents.of(*drawn(rng, values, TRUE_RUNS, TRUE_IMAGES, run_sds))
    pilots = [drawn(rng, values, num_runs, IMAGES, run_sds) for _ in range(PLANNED)]
    ends = [[VarianceComponents.of(*pilot, quantile=quantile) for quantile in RANGE] for pilot in pilots]
    many = 2 * num_runs  # with these, images can suffice
    ways = [
        (true.runs_needed(DIFFERENCE, IMAGES), [[e.runs_needed(DIFFERENCE, IMAGES) for e in pair] for pair in ends]),
        (true.images_needed(DIFFERENCE, many), [[e.images_needed(DIFFERENCE, many) for e in pair] for pair in ends]),
    ]
    cells = [cell for number, ranges in ways for cell in held(number, ranges)]
    return [values, runs_of(num_runs, run_sds), sds_of(run_sds), *cells]


def held(true: int | None, ranges: Sequence[Sequence[int | None]]) -> list[str]:
    """Return the true number, the median ends of the ranges, and how many of them have it; None is more than any."""
    low, high = np.sort([[np.inf if n is None else n for n in pair] for pair in ranges], axis=1).T
    number = np.inf if true is None else true
    return [
        f"{number:g}",
        f"{np.median(low):g} to {np.median(high):g}",
        f"{share((low <= number) & (number <= high)):.3f}",
    ]


def powered(rng: np.random.Generator, num_runs: int) -> list[str]:
    """Return how often the difference said to be found four times in five is, by run means of known noise."""
    noise = Noise(1.0, np.inf, IMAGES, None, 0.0).on_these_images(num_runs)
    means = rng.normal(0, 1, (POWER_REPLICATES, 2, num_runs)) + np.array([[0.0], [noise.detectable()]])
    estimates = means[:, 1].mean(axis=1) - means[:, 0].mean(axis=1)
    se = np.sqrt(means.var(axis=2, ddof=1).sum(axis=1) / num_runs)
    alike = share(estimates / se > noise.interval()[1] / noise.se)
    return [str(num_runs), f"{alike:.3f}", f"{share([welch(a, b).p < ALPHA for a, b in means]):.3f}"]


def drawn(
    rng: np.random.Generator, values: str, num_runs: int, num_images: int, run_sds: tuple[float, ...]
) -> list[Array]:
    """Return arms (runs, images) over the same images, which differ only by chance."""
    shared = rng.normal(0, IMAGE_SD, num_images)
    hard = rng.permutation(num_images) < HARD_IMAGES * num_images / IMAGES
    kind = "like Dice" if values == FAILURES else values
    arms = []
    for sd in run_sds:
        z = shared + rng.normal(0, ARM_IMAGE_SD, num_images) + rng.normal(0, sd, (num_runs, 1))
        z += rng.normal(0, RESIDUAL_SD, (num_runs, num_images))
        y = KINDS[kind](z, float(np.hypot(np.hypot(IMAGE_SD, ARM_IMAGE_SD), np.hypot(sd, RESIDUAL_SD))), MEAN)
        if values == FAILURES:
            y = np.where(hard & (rng.random(y.shape) < FAILURE_RATE), FAILED, y)
        arms.append(y)
    return arms


def runs_of(num_runs: int, run_sds: tuple[float, ...]) -> str:
    """Format the number of runs of each arm: "3 + 3"."""
    return " + ".join([str(num_runs)] * len(run_sds))


def sds_of(run_sds: tuple[float, ...]) -> str:
    """Format the standard deviations of the arms: "0.006 and 0.006"."""
    return " and ".join(f"{sd:g}" for sd in run_sds)


if __name__ == "__main__":
    main()

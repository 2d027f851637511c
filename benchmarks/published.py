"""Measures how often `runcard check-claim` says "holds" of two arms that are equal, from their tables alone.

    python benchmarks/published.py

The rows of a table (means, sds, number of images and seeds) are made of values that are drawn as in inference.py:
1 − Dice is log-normal over images, arms × images, runs and what remains; an image is right where a latent normal value
passes a threshold. Beside it stands the paired t over the images of the first seed, which needs the values themselves.
The images' correlation of two runs is 0.83 as in inference.py, or 0.5, the least favourable that is assumed. "Six
rows": the best of five equal rows against the sixth.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from inference import ARM_IMAGE_SD, IMAGE_SD, KINDS, MEAN, RESIDUAL_SD
from rich.console import Console
from scipy import stats

from runcard.console import print_table
from runcard.stats.mrmc import ALPHA, Array
from runcard.stats.published import Claim, Verdict, judge

SEED = 0
REPLICATES = 2000  # a share of 5 % is known to within 1.0 %
NUM_IMAGES = 47
RUN_SDS = (0.006, 0.012)  # of Dice, or of accuracy
BEYOND = 0.03  # more than is assumed, of the tables in MORE
MORE = ("image sds", "accuracy")
SCATTER = {
    0.83: (IMAGE_SD, ARM_IMAGE_SD, RESIDUAL_SD),
    0.5: (0.03, 0.0, 0.03),
}  # by correlation: sds as in inference.py
TABLES = ("image sds", "no sds", "seed sds", "image sds, six rows", "accuracy")


def main() -> None:
    """Print the table of benchmarks/README.md."""
    rng = np.random.default_rng(SEED)
    rows = []
    for table in TABLES:
        for rho in SCATTER:
            for run_sd in (*RUN_SDS, BEYOND) if table in MORE else RUN_SDS:
                for num_seeds in (3,) if table == "seed sds" else (1, 3):
                    rows.append(line(rng, table, rho, run_sd, num_seeds))
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{NUM_IMAGES} images, {REPLICATES} replicates, seed {SEED}")
    print_table(console, ["table", "rho", "run sd", "seeds", *Verdict, "paired t, one seed"], rows)


def line(rng: np.random.Generator, table: str, rho: float, run_sd: float, num_seeds: int) -> list[str]:
    """Return a row of the printed table: the share of each verdict, and of the paired t below 0.05."""
    kind = "right or wrong" if table == "accuracy" else "like Dice"
    num_rows = 6 if "six rows" in table else 2
    arms = drawn(rng, kind, SCATTER[rho], run_sd, num_seeds, num_rows)
    verdicts: Counter[Verdict] = Counter()
    significant = 0
    for rows in arms:
        means = rows.mean(axis=(1, 2))
        best = 1 + int(means[1:].argmax())
        verdicts[judge(published(table, rows[[best, 0]], num_rows)).verdict] += 1
        difference = rows[best, 0] - rows[0, 0]
        significant += bool(difference.any()) and float(stats.ttest_1samp(difference, 0).pvalue) < ALPHA
    shares = [count / REPLICATES for count in (*(verdicts[verdict] for verdict in Verdict), significant)]
    return [table, f"{rho}", f"{run_sd}", f"{num_seeds}", *(f"{100 * share:.1f} %" for share in shares)]


def published(table: str, rows: Array, num_rows: int) -> Claim:
    """Return what a table gives of two rows (2, seeds, images)."""
    first, second = rows.mean(axis=(1, 2)).tolist()
    means = (min(max(first, 0.0), 1.0), min(max(second, 0.0), 1.0))
    a, b = rows.mean(axis=1).std(axis=1, ddof=1).tolist()  # of each image's mean over the seeds
    of_seeds = rows.mean(axis=2).std(axis=1, ddof=1).tolist() if rows.shape[1] > 1 else None
    metric = "accuracy" if table == "accuracy" else "dice"
    return Claim(
        metric,
        means,
        NUM_IMAGES,
        rows.shape[1],
        num_rows,
        image_sds=(a, b) if table.startswith("image sds") else None,
        seed_sds=(of_seeds[0], of_seeds[1]) if table == "seed sds" and of_seeds else None,
    )


def drawn(
    rng: np.random.Generator,
    kind: str,
    scatter: tuple[float, float, float],
    run_sd: float,
    num_seeds: int,
    num_rows: int,
) -> Array:
    """Return equal arms (replicates, rows, seeds, images)."""
    image, arm, residual = scatter
    if kind == "right or wrong":  # so that the share of right images has this sd from run to run
        run_sd *= math.hypot(*scatter) / float(stats.norm.pdf(stats.norm.ppf(MEAN)))
    z = rng.normal(0, image, (REPLICATES, 1, 1, NUM_IMAGES)) + rng.normal(0, arm, (REPLICATES, num_rows, 1, NUM_IMAGES))
    z = z + rng.normal(0, run_sd, (REPLICATES, num_rows, num_seeds, 1))
    z = z + rng.normal(0, residual, (REPLICATES, num_rows, num_seeds, NUM_IMAGES))
    return KINDS[kind](z, math.hypot(image, arm, run_sd, residual), MEAN)


if __name__ == "__main__":
    main()

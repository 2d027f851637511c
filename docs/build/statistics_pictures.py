"""Draw the pictures of docs/explanation/statistics.md, from drawn values and with the code of Runcard itself.

python docs/build/statistics_pictures.py      # writes docs/images/crossed_design.png and interval_width.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from runcard.stats.mrmc import Array, difference

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FOLDER = Path(__file__).resolve().parents[1] / "images"
IMAGE_SD, ARM_IMAGE_SD, RESIDUAL_SD, SEED_SD = 0.04, 0.01, 0.015, 0.012  # as benchmarks/inference.py has them
MEAN = 0.8  # of both arms
STUDIES = 400


def drawn(rng: np.random.Generator, num_seeds: int, num_images: int, seed_sd: float) -> list[Array]:
    """Draw the values (seeds, images) of two arms that do not differ."""
    images = MEAN + rng.normal(0, IMAGE_SD, num_images)
    arms = []
    for _ in range(2):
        of_arm = images + rng.normal(0, ARM_IMAGE_SD, num_images)
        seeds = rng.normal(0, seed_sd, (num_seeds, 1))
        arms.append(of_arm + seeds + rng.normal(0, RESIDUAL_SD, (num_seeds, num_images)))
    return arms


def crossed_design() -> None:
    """Show the values of two arms, seeds by images, with the means of the runs."""
    arms = drawn(np.random.default_rng(3), 5, 24, SEED_SD)
    figure, axes = plt.subplots(2, 2, figsize=(9, 3.6), width_ratios=[4, 1], sharey=True, layout="constrained")
    low, high = min(arm.min() for arm in arms), max(arm.max() for arm in arms)
    for (grid, means), arm, name in zip(axes, arms, "AB", strict=True):
        image = grid.imshow(arm, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        grid.set(ylabel=f"arm {name}: seed", yticks=range(len(arm)), xticks=[])
        means.plot(arm.mean(axis=1), range(len(arm)), "o", color="black")
        means.axvline(arm.mean(), color="black", linewidth=1)
        means.set(xlim=(0.77, 0.84))
    axes[1, 0].set_xlabel("the same 24 images in both arms")
    axes[1, 1].set_xlabel("mean of each run")
    figure.colorbar(image, ax=axes[:, 0], label="value of an image", location="left")
    figure.savefig(FOLDER / "crossed_design.png", dpi=110)


def interval_width() -> None:
    """Show how wide the interval of a difference is, by the number of seeds and of images."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, seed_sd in zip(axes, (SEED_SD, 0.003), strict=True):
        for num_images, style in ((12, "o:"), (47, "s--"), (200, "^-")):
            rng = np.random.default_rng(0)
            numbers = list(range(2, 11))
            widths = []
            for num_seeds in numbers:
                effects = [difference(*drawn(rng, num_seeds, num_images, seed_sd)) for _ in range(STUDIES)]
                widths.append(np.median([effect.interval()[1] - effect.estimate for effect in effects]))
            axis.plot(numbers, widths, style, label=f"{num_images} images")
        axis.set(title=f"sd from seed to seed {seed_sd}", xlabel="seeds of each arm", ylim=(0, 0.06))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("half of the 95 % interval")
    axes[1].legend()
    figure.savefig(FOLDER / "interval_width.png", dpi=110)


if __name__ == "__main__":
    crossed_design()
    interval_width()

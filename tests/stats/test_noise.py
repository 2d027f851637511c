"""The noise between runs: tables worked out by hand, and the images that make it alone."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runcard.stats.noise import Noise, driving_images, noisier_arm

THREE_RUNS = np.array([[1.0, 3], [2, 4], [6, 8]])  # run means 2, 3 and 7, of which the variance is 7; no residual
OTHER_ARM = np.array([[1.0, 1], [2, 2], [3, 3]])  # variance 1; from the first by 1 and 3, of which the variance is 2


def of_sd(sd: float, df: float = 2.0, images: float | None = None, residual: float = 0.0) -> Noise:
    return Noise(sd, df, 10, images, residual)


@pytest.mark.parametrize(
    ("num_runs", "worth_claiming", "detectable"), [(3, 2.27, 3.04), (5, 1.46, 2.02), (10, 0.94, 1.33)]
)
def test_differences_on_these_images_by_hand(num_runs: int, worth_claiming: float, detectable: float) -> None:
    """t(0.975) is 2.776, 2.306 and 2.101 with 4, 8 and 18 df; t(0.8) is 0.941, 0.889 and 0.862."""
    effect = of_sd(1.0).on_these_images(num_runs)
    assert effect.interval() == pytest.approx((-worth_claiming, worth_claiming), abs=0.005)
    assert effect.detectable() == pytest.approx(detectable, abs=0.005)


@pytest.mark.parametrize(("num_runs", "factor"), [(3, 2.12), (5, 1.56), (10, 1.29)])
def test_the_bound_by_hand(num_runs: int, factor: float) -> None:
    """χ²(0.2) is 0.446, 1.649 and 5.380 with 2, 4 and 9 df."""
    assert of_sd(0.01, num_runs - 1).bound().sd == pytest.approx(0.01 * factor, abs=5e-5)


def test_one_arm_by_hand() -> None:
    noise = Noise.of([THREE_RUNS])
    assert (noise.sd, noise.df, noise.num_images, noise.images) == (pytest.approx(math.sqrt(7)), 2, 2, None)
    assert noise.residual == pytest.approx(0)


def test_two_arms_by_hand() -> None:
    """Their variances 7 and 1 have the mean 4, with 8² / (7²/2 + 1²/2) = 2.56 df."""
    noise = Noise.of([THREE_RUNS, OTHER_ARM])
    assert (noise.sd, noise.df, noise.images) == pytest.approx((2, 2.56, 2))


def test_three_arms_vary_from_image_to_image_by_the_mean_of_their_pairs() -> None:
    """The pairs differ by (1, 3), (2, 6) and (1, 3): variances 2, 8 and 2."""
    assert Noise.of([THREE_RUNS, OTHER_ARM, OTHER_ARM - np.array([1, 3])]).images == pytest.approx(4)


def test_images_like_these_by_hand() -> None:
    """2·2²/3 + 20/10 = 4.667, with 4.667² / (2·1.333²/2 + 2²/9) = 9.8 df, of which t(0.975) is 2.235."""
    effect = of_sd(2.0, images=20.0).on_others(3, 10)
    assert effect.se == pytest.approx(math.sqrt(14 / 3))
    assert effect.df == pytest.approx(9.8)
    assert effect.interval()[1] == pytest.approx(2.235 * math.sqrt(14 / 3), rel=1e-3)


def test_more_images_average_out_the_residual_too() -> None:
    """Of the variance 4 on 10 images 20/10 is residual, of which 20/40 is left on 40: 2.5 in each arm."""
    effect = of_sd(2.0, images=0.0, residual=20.0).on_others(3, 40)
    assert effect.on_these_images is not None
    assert effect.on_these_images.se == pytest.approx(math.sqrt(2 * 2.5 / 3))


@pytest.mark.parametrize("num_runs", [2, 3, 5, 20])
@pytest.mark.parametrize("images", [0.0, 0.1, 1.0, 100.0])
def test_images_like_these_never_see_less_than_these(num_runs: int, images: float) -> None:
    noise = of_sd(1.0, images=images, residual=3.0)
    here, others = noise.on_these_images(num_runs), noise.on_others(num_runs, noise.num_images)
    assert others.interval()[1] >= here.interval()[1]
    assert others.detectable() >= here.detectable()


def test_what_no_number_of_seeds_sees() -> None:
    """t(0.975) of 9 df is 2.262."""
    noise = of_sd(0.01, images=20.0)
    assert noise.floor(10) == pytest.approx(2.262 * math.sqrt(2), rel=1e-3)
    assert noise.on_others(10_000, 10).interval()[1] == pytest.approx(noise.floor(10), rel=1e-3)
    assert noise.floor(10) < noise.on_others(20, 10).interval()[1]


def runs_with(failures: list[tuple[int, int]], num_images: int = 20) -> np.ndarray:
    """Three runs of which the values differ a little, with these (run, image) near zero."""
    y = 0.9 + np.random.default_rng(0).normal(0, 0.01, (3, num_images))
    for place in failures:
        y[place] = 0.05
    return y


@pytest.mark.parametrize(
    ("failures", "found"),
    [
        ([], []),
        ([(1, 7)], [7]),
        ([(1, 7), (1, 3)], [3, 7]),
        ([(1, image) for image in range(5)], []),
    ],
)
def test_images_that_make_the_noise_alone(failures: list[tuple[int, int]], found: list[int]) -> None:
    assert driving_images(runs_with(failures)) == found


def test_no_image_makes_noise_that_all_share() -> None:
    y = runs_with([(0, 4)]) + np.array([[0.0], [0.2], [0.5]])
    assert driving_images(y) == []


@pytest.mark.parametrize(("spread", "noisier"), [(6.0, None), (7.0, 1)])
def test_the_arm_that_scatters_more_by_hand(spread: float, noisier: int | None) -> None:
    """F(2, 2) above x has p 1/(1 + x), of either arm: with variances as 36 to 1 0.054, as 49 to 1 0.04."""
    runs = np.array([[-1.0], [0.0], [1.0]]) + np.zeros((3, 4))
    assert noisier_arm([runs, spread * runs]) == noisier
    assert noisier_arm([runs]) is None

"""Negatives and strangers: what was planted is found, and nothing in clean data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runcard.audit.detectors.outliers import (
    CELLS,
    DIRECTIONS,
    MIN_FOR_OUTLIERS,
    MIN_FOR_POLARITY,
    inverted,
    is_extreme,
    is_inverted,
    outliers,
    polarity,
    usual,
)
from runcard.audit.detectors.outliers import _edges as edges
from runcard.datasets.image_mask import LungCT
from runcard.datasets.synthetic.bone import PhantomBone

NUM_FILMS = 80


@pytest.fixture(scope="module")
def films() -> np.ndarray:
    """Returns films of femurs (80, 64, 64)."""
    dataset = PhantomBone(NUM_FILMS, 64)
    return np.stack([dataset[i][0] for i in range(NUM_FILMS)])


@pytest.fixture(scope="module")
def slices() -> np.ndarray:
    """Returns the shipped CT slices (109, 64, 64)."""
    dataset = LungCT(["background", "lung"])
    shown = [dataset[i][0] for i in range(len(dataset))]
    return np.stack([cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA) for image in shown])


def test_clean_data_hold_no_negatives_and_hardly_a_stranger(films, slices):
    assert inverted(films) == inverted(slices) == []
    assert outliers(films) == []
    assert set(outliers(slices)) <= set(range(40, 52))  # the highest of one patient, through the neck


@pytest.mark.parametrize("num", [1, 4, 24])
@pytest.mark.parametrize("contrast", [1, 0.4])
def test_negatives_are_found_whatever_their_contrast(films, num, contrast):
    which = np.random.default_rng(num).permutation(NUM_FILMS)[:num]
    copy = films.copy()
    copy[which] = contrast * (255 - films[which].astype(float)) + 20 * (contrast < 1)
    assert inverted(copy) == sorted(which)


def test_later_images_are_compared_with_the_majority_of_earlier_ones(films, slices):
    some_inverted = films[:40].copy()
    some_inverted[:8] = 255 - some_inverted[:8]
    of_another_patient = slices[48:]
    for earlier, later in (
        (films[:40], films[40:]),
        (some_inverted, films[40:]),
        (slices[:48], of_another_patient),
    ):
        weights = polarity(earlier)
        assert weights is not None
        assert not any(is_inverted(thumb, weights) for thumb in later)
        assert all(is_inverted(255 - thumb, weights) for thumb in later)
        assert not is_inverted(np.full((64, 64), 7, np.uint8), weights)
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64), np.uint8)
    assert polarity(noise) is None
    assert polarity(films[: MIN_FOR_POLARITY - 1]) is None


def test_later_images_of_an_extreme_look_are_found(films, slices):
    for earlier, later in ((films[:40], films[40:]), (slices[:40], slices[:40])):
        percentiles = usual(earlier)
        assert not any(is_extreme(thumb, percentiles) for thumb in later)
        noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
        nearly_black = (later[0] * 0.05).astype(np.uint8)
        assert all(is_extreme(thumb, percentiles) for thumb in (noise, nearly_black))
    assert usual(films[: MIN_FOR_OUTLIERS - 1]) is None


def test_where_half_are_negatives_or_nothing_is_shared_nobody_is_accused(films):
    half = np.where(np.arange(NUM_FILMS)[:, None, None] % 2, films, 255 - films)
    assert inverted(half) == []
    assert inverted(np.random.default_rng(0).integers(0, 256, films.shape, dtype=np.uint8)) == []


@pytest.mark.parametrize("num", [1, 4])
@pytest.mark.parametrize("kind", ["turned", "noise", "three quarters black", "of other data"])
def test_strangers_are_found(films, slices, kind, num):
    rng = np.random.default_rng(num)
    which = rng.permutation(NUM_FILMS)[:num]
    copy = films.copy()
    if kind == "turned":
        copy[which] = np.rot90(films[which], axes=(1, 2))
    elif kind == "noise":
        copy[which] = rng.integers(0, 256, copy[which].shape)
    elif kind == "three quarters black":
        copy[which, :, 16:] = 0
    else:
        copy[which] = slices[rng.permutation(len(slices))[:num]]
    assert outliers(copy) == sorted(which)


def test_images_of_one_grey_are_left_out_and_positions_kept(films):
    empty = np.full((3, 64, 64), 7, np.uint8)
    copy = np.concatenate([empty, films])
    copy[10] = 255 - copy[10]
    copy[20] = np.random.default_rng(0).integers(0, 256, (64, 64))
    assert inverted(copy) == [10]
    assert {20} <= set(outliers(copy)) <= {10, 20}  # a negative is a stranger too


def test_copies_of_one_image_are_neither(films):
    assert inverted(np.repeat(films[:1], 30, axis=0)) == []
    assert outliers(np.repeat(films[:1], 30, axis=0)) == []
    assert outliers(np.concatenate([np.repeat(films[:1], 300, axis=0), films])) == []


def test_too_few_images_to_say(films):
    for num in (0, 1, 2, MIN_FOR_POLARITY - 1):
        assert inverted(np.concatenate([films[:num], 255 - films[num : num + 1]])[:num]) == []
    few = films[:MIN_FOR_OUTLIERS].copy()
    few[3] = np.random.default_rng(0).integers(0, 256, (64, 64))
    for num in (0, 1, 2, MIN_FOR_OUTLIERS - 1):
        assert outliers(few[:num]) == []
    assert outliers(few) == [3]


def test_each_of_six_directions_of_edges_has_a_bin_of_its_own():
    rows, columns = np.mgrid[:64, :64]
    radians = 2 * np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS  # the middle of each bin
    ramps = [127 + np.cos(angle) * (columns - 32) + np.sin(angle) * (rows - 32) for angle in radians]
    by_cell = edges(np.round(ramps).astype(np.uint8)).reshape(DIRECTIONS, CELLS * CELLS, DIRECTIONS)
    assert by_cell.sum(axis=1).argmax(axis=1).tolist() == list(range(DIRECTIONS))

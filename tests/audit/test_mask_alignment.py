"""Do masks fit: right ones do, and wrong ones are found and distinguished, on phantoms and on CT slices."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from runcard.audit.detectors.mask_alignment import MIN_IMAGES, TURNS, mask_fit
from runcard.datasets.image_mask import LungCT
from runcard.datasets.synthetic.chest import PhantomChest

NUM_FILMS = 24


@pytest.fixture(scope="module")
def films() -> tuple[np.ndarray, np.ndarray]:
    """Returns films and masks (24, 64, 64)."""
    dataset = PhantomChest(NUM_FILMS, 64)
    images, masks, _ = zip(*(dataset[i] for i in range(NUM_FILMS)), strict=True)
    return np.stack(images), np.stack(masks)


def test_right_masks_fit(films):
    fit = mask_fit(*films)
    assert fit.fits
    assert fit.mean_rank > 0.99
    assert fit.agreement > 0.9
    assert not fit.shuffled
    assert fit.turned is None
    assert fit.suspects == ()


def test_slices_of_two_patients_some_with_empty_masks_fit():
    slices = LungCT(["background", "lung"])
    images, masks, _ = zip(*(slices[i] for i in range(0, len(slices), 2)), strict=True)
    small = [np.stack([cv2.resize(a, (64, 64), interpolation=cv2.INTER_AREA) for a in images])]
    small += [np.stack([cv2.resize(a, (64, 64), interpolation=cv2.INTER_NEAREST) for a in masks])]
    fit = mask_fit(*small)
    assert fit.num_images == sum(mask.any() for mask in small[1]) < len(images)
    assert fit.fits
    assert fit.suspects == ()


def test_shuffled_masks_fit_others_and_upside_down_ones_none(films):
    images, masks = films
    fit = mask_fit(images, masks[np.random.default_rng(0).permutation(NUM_FILMS)])
    assert fit.shuffled
    assert fit.paired_anew > 0.9 > fit.upside_down
    assert fit.suspects == ()  # all are wrong: no use in naming some


def test_masks_that_no_pairing_makes_fit_are_not_called_shuffled(films):
    rng = np.random.default_rng(0)
    masks = np.zeros((NUM_FILMS, 64, 64), np.uint8)
    for mask in masks:
        cv2.circle(mask, rng.integers(20, 44, 2).tolist(), int(rng.integers(8, 24)), 1, -1)
    fit = mask_fit(films[0], masks)
    assert not fit.fits
    assert not fit.shuffled
    assert fit.turned is None


def test_masks_all_mirrored_are_told(films):
    images, masks = films
    fit = mask_fit(images, masks[:, :, ::-1])
    assert fit.turned == "mirrored left to right"
    assert fit.suspects == ()


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("mirrored left to right", lambda mask: cv2.flip(mask, 1)),
        ("mirrored top to bottom", lambda mask: cv2.flip(mask, 0)),
        ("rotated by 180°", lambda mask: cv2.rotate(mask, cv2.ROTATE_180)),
        ("rotated by 90° clockwise", lambda mask: cv2.rotate(mask, cv2.ROTATE_90_CLOCKWISE)),
        ("rotated by 90° counterclockwise", lambda mask: cv2.rotate(mask, cv2.ROTATE_90_COUNTERCLOCKWISE)),
        ("transposed", cv2.transpose),
        ("transposed and rotated by 180°", lambda mask: cv2.rotate(cv2.transpose(mask), cv2.ROTATE_180)),
    ],
)
def test_each_turn_is_named_by_what_was_done_to_the_mask(name, turn):
    mask = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(TURNS[name](turn(mask)[None])[0], mask)


def test_single_wrong_masks_are_found_by_their_place_among_all_and_told_apart(films):
    images, right = films
    masks = right.copy()
    masks[[8, 22]] = right[[22, 8]]
    masks[14] = right[14, :, ::-1]
    masks[18] = np.roll(right[18], (-4, 8), axis=(0, 1))
    masks[:4] = 0
    found = {suspect.index: suspect for suspect in mask_fit(images, masks).suspects}
    assert sorted(found) == [8, 14, 18, 22]
    assert [(found[i].what, found[i].partner) for i in (8, 22)] == [("of another image", 22), ("of another image", 8)]
    assert found[14].what == "mirrored left to right"
    assert found[18].what == "moved 12% to the right and 6% up"


def test_the_same_data_give_the_same_answer(films):
    some = films[0][:12], films[1][:12]
    assert mask_fit(*some) == mask_fit(*some)


def test_too_few_different_masks_to_say(films):
    images, masks = films
    assert mask_fit(images[:0], masks[:0]) is None
    assert mask_fit(images[: MIN_IMAGES - 1], masks[: MIN_IMAGES - 1]) is None
    assert mask_fit(images, masks[np.arange(NUM_FILMS) % (MIN_IMAGES - 1)]) is None
    assert mask_fit(images, np.ones_like(masks)) is None
    assert mask_fit(images[:MIN_IMAGES], masks[:MIN_IMAGES]) is not None

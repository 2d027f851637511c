"""Near duplicates: copies are found whichever way up, strangers never, and what cannot be distinguished is said so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import ROOT

from runcard.audit.detectors.near_duplicates import NearDuplicates, find_near_duplicates
from runcard.audit.detectors.registration import Turn, about_middle, describe, descriptors, in_words
from runcard.data.image_io import read_image
from runcard.data.preprocessing import resize_image
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

KNEES = ROOT.parent / "shared" / "data" / "Bone"
# The same film twice, reported by eye; the fourth and the fifth have both classes, and so two labels.
TWICE = [("train/Normal/283", "validation/Normal/26"), ("train/Osteoporosis/55", "train/Osteoporosis/58")]
TWICE += [("train/Normal/86", "validation/Normal/36"), ("train/Normal/271n", "train/Osteoporosis/224")]
TWICE += [("train/Normal/256n", "train/Osteoporosis/257"), ("train/Normal/184n", "validation/Normal/154")]
# Alike, and other knees: also reported by eye.
ALIKE = ["train/Normal/57", "train/Osteoporosis/227", "train/Normal/234n", "validation/Osteoporosis/231"]
ALIKE += ["train/Osteoporosis/191", "train/Osteoporosis/197", "train/Normal/168n", "validation/Normal/59"]
ALIKE += ["train/Osteoporosis/248", "validation/Osteoporosis/322"]


def thumb(image: np.ndarray) -> np.ndarray:
    return resize_image(image, 64)[..., 0]


def moved(
    image: np.ndarray, degrees: float = 0, mirrored: bool = False, cut: float = 0, quality: int = 95
) -> np.ndarray:
    """Returns a copy of image: without `cut` of its length at each edge, mirrored, turned, saved as JPEG."""
    matrix = Turn(np.deg2rad(degrees), mirrored).matrix / (1 - 2 * cut)
    copy = cv2.warpAffine(image, about_middle(matrix, len(image)), image.shape)
    return cv2.imdecode(cv2.imencode(".jpg", copy, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


@pytest.fixture(scope="module")
def chests() -> list[np.ndarray]:
    phantoms = PhantomChest(30, 128)
    return [phantoms[i][0] for i in range(len(phantoms))]


COPIES = {
    "as it is": [{"quality": 60}, {"cut": 0.03}, {"cut": 0.06, "quality": 60}],
    "mirrored": [{"mirrored": True}],
    "rotated by 90°": [{"degrees": 90}, {"degrees": -90}],
    "rotated by 180°": [{"degrees": 180}],
    "rotated by 180°, mirrored": [{"degrees": 180, "mirrored": True}],
    "rotated by 5°": [{"degrees": 5}, {"degrees": -5, "quality": 30}],
    "rotated by 95°, mirrored": [{"degrees": 95, "mirrored": True, "cut": 0.03, "quality": 60}],
}


def test_every_copy_is_found_with_how_it_was_made_and_nothing_else_is(chests):
    made = [
        (how, moved(chests[k], **how_made))
        for k, (how, how_made) in enumerate((how, each) for how, several in COPIES.items() for each in several)
    ]
    found = find_near_duplicates(np.stack([thumb(image) for image in [*chests, *(copy for _, copy in made)]]))
    expected = [(k, len(chests) + k, how) for k, (how, _) in enumerate(made)]
    assert [(pair.first, pair.second, pair.how) for pair in found.pairs] == expected
    assert all(found.threshold <= pair.score <= 1 for pair in found.pairs)
    assert found.different < found.threshold
    assert found.missed < 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_different_images_give_no_pair_whatever_the_seed(chests, seed):
    assert find_near_duplicates(np.stack([thumb(image) for image in chests]), seed).pairs == []


def test_a_seed_gives_one_answer(chests):
    thumbs = np.stack([thumb(image) for image in chests[:3]])
    assert find_near_duplicates(thumbs, seed=1) == find_near_duplicates(thumbs, seed=1)


def test_a_film_taken_again_is_found_and_films_of_others_are_not():
    phantoms = PhantomBone(60, 128, near_duplicates=0.3)
    found = find_near_duplicates(np.stack([thumb(phantoms[i][0]) for i in range(len(phantoms))]))
    assert all(phantoms.sources[pair.first] == phantoms.sources[pair.second] for pair in found.pairs)
    again = {i for i, source in enumerate(phantoms.sources) if source != i}
    assert len(again) > 10
    assert len(again - {pair.second for pair in found.pairs}) <= 0.1 * len(again)


def test_many_equal_images_are_linked_one_after_the_other(chests):
    same = np.repeat(thumb(chests[0])[None], 1000, axis=0)
    pairs = find_near_duplicates(same).pairs
    assert [(pair.first, pair.second) for pair in pairs] == [(i, i + 1) for i in range(999)]
    assert {(pair.score, pair.how) for pair in pairs} == {(1.0, "as it is")}


def test_images_that_show_nothing_are_left_out(chests):
    flat = [np.full((64, 64), grey, np.uint8) for grey in (0, 0, 128)]
    corner = np.zeros((64, 64), np.uint8)
    corner[:4, :4] = 255  # outside the circle
    found = find_near_duplicates(np.stack([*flat, corner, thumb(chests[0]), corner, thumb(chests[0])]))
    assert [(pair.first, pair.second) for pair in found.pairs] == [(4, 6)]


def test_few_images_are_enough(chests):
    thumbs = np.stack([thumb(image) for image in [*chests[:5], moved(chests[0], 90, cut=0.03)]])
    assert find_near_duplicates(thumbs[:0]) == find_near_duplicates(thumbs[:1]) == NearDuplicates([], 1.0, 1.0, 0.0)
    for some in (thumbs[[0, 5]], thumbs):
        [pair] = find_near_duplicates(some).pairs
        assert (pair.first, pair.second, pair.how) == (0, len(some) - 1, "rotated by 90°")


def test_where_all_images_are_copies_it_says_that_they_cannot_be_told_apart(chests):
    rng = np.random.default_rng(0)
    copies = [moved(chests[0], rng.uniform(0, 360), cut=rng.uniform(0, 0.06)) for _ in range(40)]
    found = find_near_duplicates(np.stack([thumb(copy) for copy in copies]))
    assert found.missed > 0.5
    assert len(found.pairs) <= 3 * len(copies)


@pytest.mark.skipif(not KNEES.exists(), reason="needs the knee films beside the checkout")
def test_on_knee_films_the_same_film_is_found_and_similar_knees_are_not():
    names = [name for pair in TWICE for name in pair] + ALIKE
    found = find_near_duplicates(np.stack([thumb(read_image(KNEES / f"{name}.jpg")) for name in names]))
    assert [(names[pair.first], names[pair.second]) for pair in found.pairs] == TWICE


def test_descriptors_are_the_same_whichever_way_up(chests):
    thumbs = np.stack([thumb(image) for image in chests[:8]])
    upright = descriptors(describe(thumbs).rings)
    spread = upright.std(axis=0).mean()
    for turned in (np.rot90(thumbs, axes=(1, 2)), thumbs[:, :, ::-1], thumbs.transpose(0, 2, 1)):
        np.testing.assert_allclose(descriptors(describe(turned.copy()).rings), upright, atol=0.02 * spread)


@pytest.mark.parametrize(
    ("degrees", "mirrored", "words"),
    [
        (0, False, "as it is"),
        (1, False, "as it is"),
        (-89, False, "rotated by 90°"),
        (-5, False, "rotated by 5°"),
        (0, True, "mirrored"),
        (180, True, "rotated by 180°, mirrored"),
        (-40, True, "rotated by 40°, mirrored"),
    ],
)
def test_a_map_is_told_in_words(degrees, mirrored, words):
    assert in_words(about_middle(0.9 * Turn(np.deg2rad(degrees), mirrored).matrix, 64)) == words

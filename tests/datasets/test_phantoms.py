"""The phantoms: determined by seed and index, learnable only from structure, and each parameter does what it says."""

from functools import cache

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from runcard.datasets.synthetic.bone import AFF, NFF, PhantomBone
from runcard.datasets.synthetic.chest import PhantomChest

BOTH = pytest.mark.parametrize("phantom", [PhantomChest, PhantomBone])


def dice(preds, truth):
    return 2 * np.logical_and(preds, truth).sum() / (preds.sum() + truth.sum())


@cache
def chests():
    dataset = PhantomChest(200, 128)
    images, masks, _ = zip(*(dataset[i] for i in range(200)), strict=True)
    return np.array(images), np.array(masks)


@cache
def bones():
    dataset = PhantomBone(400, 128)
    images, targets, _ = zip(*(dataset[i] for i in range(400)), strict=True)
    return np.array(images), np.array(targets)


@BOTH
def test_an_item_is_an_image_a_target_and_its_id(phantom):
    dataset = phantom(12, 97)
    image, target, name = dataset[7]
    assert len(dataset) == len(dataset.ids) == len(dataset.files) == len(set(dataset.ids)) == 12
    assert name == dataset.ids[7]
    assert name.endswith("_0007")
    assert image.shape == (97, 97)
    assert image.dtype == np.uint8
    assert image.std() > 20
    if phantom is PhantomChest:
        assert target.shape == (97, 97)
        assert target.dtype == np.uint8
        assert set(np.unique(target)) == {0, 1}
        assert dataset.classes == ["background", "lung"]
    else:
        assert type(target) is int
        assert target in (AFF, NFF)
        assert [dataset.classes[AFF], dataset.classes[NFF]] == ["AFF", "NFF"]


@BOTH
def test_seed_and_index_alone_determine_an_image(phantom):
    first, again, longer = phantom(4, 64), phantom(4, 64), phantom(40, 64)
    for i in (3, 0):  # in another order
        assert np.array_equal(first[i][0], again[i][0])
        assert np.array_equal(first[i][0], longer[i][0])
        assert np.array_equal(first[i][1], longer[i][1])
    assert not np.array_equal(first[0][0], first[1][0])
    assert not np.array_equal(first[0][0], phantom(4, 64, seed=1)[0][0])


@BOTH
def test_another_size_shows_the_same_anatomy(phantom):
    small, large = phantom(8, 64), phantom(8, 192)
    for i in range(8):
        shrunk = cv2.resize(large[i][0], (64, 64), interpolation=cv2.INTER_AREA)
        assert np.corrcoef(shrunk.ravel(), small[i][0].ravel())[0, 1] > 0.9
        assert np.corrcoef(shrunk.ravel(), small[(i + 1) % 8][0].ravel())[0, 1] < 0.9
        if phantom is PhantomChest:
            mask = cv2.resize(large[i][1].astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA) >= 0.5
            assert dice(mask, small[i][1]) > 0.95


@BOTH
def test_difficulty_changes_the_image_and_keeps_the_body(phantom):
    easy, hard = phantom(12, 96, difficulty=0.0), phantom(12, 96, difficulty=1.0)

    def roughness(dataset):
        return np.mean([np.abs(np.diff(dataset[i][0].astype(float))).mean() for i in range(12)])

    assert roughness(hard) > 1.5 * roughness(easy)
    for i in range(12):
        assert np.corrcoef(easy[i][0].ravel(), hard[i][0].ravel())[0, 1] > 0.4


def test_lungs_have_a_plausible_area_in_two_parts():
    _, masks = chests()
    areas = masks.mean(axis=(1, 2))
    assert areas.min() > 0.1
    assert areas.max() < 0.45
    for mask in masks[:50]:
        parts = cv2.connectedComponentsWithStats(mask)[2][1:, cv2.CC_STAT_AREA]
        assert (parts > 0.2 * mask.sum()).sum() == 2


def test_sides_are_the_same_lungs_as_two_classes():
    plain, sides = PhantomChest(20, 96), PhantomChest(20, 96, sides=True)
    assert sides.classes == ["background", "right", "left"]
    for i in range(20):
        (image, mask, _), (same_image, sided, _) = plain[i], sides[i]
        assert np.array_equal(image, same_image)
        assert np.array_equal(mask, sided > 0)
        assert sided.dtype == np.uint8
        num_parts, parts = cv2.connectedComponents(mask)
        assert all(len(np.unique(sided[parts == part])) == 1 for part in range(num_parts)), "no lung is two classes"
        (_, right), (_, left) = (np.nonzero(sided == side) for side in (1, 2))
        assert right.mean() < left.mean(), "the patient's right is on the left of the film"
        assert min(len(right), len(left)) > 0.3 * mask.sum()


def test_difficulty_lowers_the_contrast_of_lungs():
    def contrast(dataset):
        return np.mean(
            [
                image[mask == 0].mean() - image[mask == 1].mean()
                for image, mask, _ in map(dataset.__getitem__, range(20))
            ]
        )

    assert contrast(PhantomChest(20, 64, difficulty=0.0)) > contrast(PhantomChest(20, 64, difficulty=1.0)) + 45


def test_neither_brightness_nor_the_average_lung_solves_the_chest():
    images, masks = chests()
    otsu = [cv2.threshold(image, 0, 1, cv2.THRESH_BINARY_INV + cv2.THRESH_OTSU)[1] for image in images]
    dark = np.mean([dice(preds, mask) for preds, mask in zip(otsu, masks, strict=True)])
    light = np.mean([dice(1 - preds, mask) for preds, mask in zip(otsu, masks, strict=True)])
    assert max(dark, light) < 0.6
    average = masks[:160].mean(axis=0) >= 0.5
    assert np.mean([dice(average, mask) for mask in masks[160:]]) < 0.8


def test_histograms_say_nothing_of_the_fracture():
    images, targets = bones()
    histograms = np.array([np.histogram(image, 32, (0, 256))[0] for image in images])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    assert cross_val_score(classifier, histograms, targets, cv=5).mean() == pytest.approx(0.5, abs=0.05)


def test_the_class_changes_only_the_fracture():
    atypical, normal = PhantomBone(6, 128, imbalance=1.0), PhantomBone(6, 128, imbalance=0.0)
    for i in range(6):
        change = np.abs(atypical[i][0].astype(int) - normal[i][0]) > 8
        assert 0.002 < change.mean() < 0.08


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_imbalance_is_the_share_of_aff(share):
    targets = np.array(PhantomBone(1000, 32, imbalance=share).targets)
    assert (targets == AFF).mean() == pytest.approx(share, abs=0.04)


def test_label_noise_flips_targets_and_leaves_images():
    clean, noisy = PhantomBone(1000, 32), PhantomBone(1000, 32, label_noise=0.2)
    assert noisy.true_targets == clean.targets
    assert np.not_equal(noisy.targets, clean.targets).mean() == pytest.approx(0.2, abs=0.04)
    flipped = np.flatnonzero(np.not_equal(noisy.targets, clean.targets))[0]
    assert np.array_equal(noisy[flipped][0], clean[flipped][0])
    assert noisy[flipped][1] == 1 - clean[flipped][1]


def test_near_duplicates_resemble_an_earlier_image():
    dataset, plain = PhantomBone(200, 64, near_duplicates=0.3), PhantomBone(200, 64)
    copies = [i for i, source in enumerate(dataset.sources) if source != i]
    assert len(copies) / 200 == pytest.approx(0.3, abs=0.1)
    assert plain.sources == list(range(200))
    assert len({dataset.sources[i] for i in copies}) > len(copies) / 2

    def likeness(i, j):
        pair = [cv2.GaussianBlur(dataset[k][0], (0, 0), 1.5).ravel() for k in (i, j)]
        return np.corrcoef(pair)[0, 1]

    for i in copies[:20]:
        source = dataset.sources[i]
        assert source < i
        assert dataset.targets[i] == dataset.targets[source]
        assert not np.array_equal(dataset[i][0], dataset[source][0])
    likenesses = [likeness(i, dataset.sources[i]) for i in copies[:20]]
    strangers = [likeness(i, i - 1) for i in copies[:20] if dataset.sources[i] != dataset.sources[i - 1]]
    assert min(likenesses) > 0.9
    assert np.mean(likenesses) > np.mean(strangers) + 0.1
    original = next(i for i in range(200) if i not in copies)
    assert np.array_equal(dataset[original][0], plain[original][0])


def marked(dataset):
    return np.array([(dataset[i][0] == 255).any() for i in range(len(dataset))])  # tissue stays below 255


def test_the_shortcut_marks_one_class():
    short, fair = PhantomBone(150, 128, shortcut=True), PhantomBone(150, 128)
    targets = np.array(fair.targets)
    assert marked(short)[targets == AFF].mean() > 0.85
    assert marked(short)[targets == NFF].mean() == 0
    assert marked(fair)[targets == AFF].mean() == pytest.approx(0.5, abs=0.2)
    assert marked(fair)[targets == NFF].mean() == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("phantom", "name", "value"),
    [
        (PhantomChest, "num_images", 0),
        (PhantomChest, "size_px", "big"),
        (PhantomChest, "difficulty", 1.5),
        (PhantomChest, "sides", "both"),
        (PhantomChest, "seed", -1),
        (PhantomBone, "num_images", 2.5),
        (PhantomBone, "size_px", 4),
        (PhantomBone, "difficulty", -0.1),
        (PhantomBone, "imbalance", 2),
        (PhantomBone, "label_noise", float("nan")),
        (PhantomBone, "near_duplicates", "many"),
        (PhantomBone, "shortcut", 1),
        (PhantomBone, "seed", None),
    ],
)
def test_a_wrong_knob_is_named(phantom, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        phantom(**{"num_images": 4, "size_px": 64, name: value})

"""The shortcut probe: markers are found, bone is not, and only a model that reads a region raises the alarm."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT

from runcard.data.image_io import read_image
from runcard.datasets.synthetic.bone import PhantomBone
from runcard.datasets.synthetic.rendering import Stream, stream
from runcard.explain.cam import activation_maps
from runcard.explain.regions import border, left_alone, markers, painted_over
from runcard.explain.shortcut_probe import Finding, log_odds, of_regions_alone, probe
from runcard.models.vgg16 import VGG16
from runcard.training.evaluation import probabilities

CLASSES = ["AFF", "NFF"]
KNEES = ROOT.parent / "shared" / "data" / "Bone"
# Told by eye: films with a letter on dark ground, and films without anything printed.
LETTERED = [f"train/Normal/{n}.jpg" for n in ("107", "133", "156", "176n", "196", "214n")]
LETTERED += ["train/Osteoporosis/206.jpg", "validation/Normal/166n.jpg"]
BARE = [f"train/Normal/{n}.jpg" for n in ("28n", "30nn", "35n", "69", "89")]
BARE += [f"train/Osteoporosis/{n}.jpg" for n in ("10", "126", "15", "254", "273", "3", "45", "66")]


def films(dataset: PhantomBone) -> np.ndarray:
    return np.stack([dataset[i][0] for i in range(len(dataset))])[..., None]


def test_the_border_is_a_sixteenth_of_each_side():
    frame = border(np.zeros((32, 64, 1), np.uint8))
    assert not frame[2:30, 4:60].any()
    assert frame.sum() == 32 * 64 - 28 * 56


@pytest.mark.parametrize("size_px", [64, 128, 224])
def test_printed_letters_are_found_and_nothing_else_is(size_px):
    """Of 400 films a size 95, 100 and 100 % of the letters are found, and no film without one is flagged."""
    dataset = PhantomBone(60, size_px)
    found = {True: [], False: []}
    for i, film in enumerate(films(dataset)):
        unprinted = dataset._image(i, dataset.true_targets[i], stream(dataset.seed, i, Stream.NOISE))
        letter = film[..., 0] != unprinted
        region = markers(film)
        found[bool(letter.any())].append(region[letter].mean() > 0.9 if letter.any() else region.any())
        assert region.mean() < 0.03
    assert len(found[True]) > 20
    assert np.mean(found[True]) >= 0.95
    assert np.mean(found[False]) <= 0.03


@pytest.mark.skipif(not KNEES.exists(), reason="needs the knee films beside the checkout")
@pytest.mark.parametrize("size_px", [128, 224])
def test_on_knee_films_letters_are_found_and_bone_is_not(size_px):
    def share(name: str) -> float:
        film = cv2.resize(read_image(KNEES / name), (size_px, size_px), interpolation=cv2.INTER_AREA)
        return float(markers(film.reshape(size_px, size_px, -1)).mean())

    assert all(0 < share(name) < 0.02 for name in LETTERED)
    assert not any(share(name) for name in BARE)


def test_a_letter_is_painted_over_without_an_edge_and_the_rest_is_kept():
    film = np.full((32, 32, 3), 40, np.uint8)
    film[4:10, 4:10] = 255
    region = np.zeros((32, 32), bool)
    region[3:11, 3:11] = True
    np.testing.assert_allclose(painted_over(film, region), 40, atol=2)
    gradient = np.tile(np.arange(0, 64, 2, dtype=np.uint8), (32, 1))[..., None]
    filled = painted_over(gradient, region)
    np.testing.assert_array_equal(filled[~region], gradient[~region])
    assert np.abs(filled.astype(int) - gradient).max() <= 6


def test_a_region_left_alone_lies_on_the_same_film_for_every_image():
    images = np.stack([np.full((4, 4, 1), value, np.uint8) for value in (10, 30)])
    regions = np.zeros((2, 4, 4), bool)
    images[0, 0, 0], regions[0, 0, 0] = 255, True
    alone = left_alone(images, regions, np.full((4, 4, 1), 20, np.uint8))
    assert alone[0, 0, 0] == 255
    alone[0, 0, 0] = 20
    np.testing.assert_array_equal(alone, 20)


def test_log_odds_are_of_the_true_class_against_all_others():
    probs = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1, 0, 0]], np.float32)
    odds = log_odds(probs, np.array([1, 2, 0]))
    np.testing.assert_allclose(odds[:2], np.log([0.25 / 0.75, 0.8 / 0.2]), rtol=1e-6)
    assert np.isfinite(odds[2])
    assert odds[2] > 60


@pytest.mark.parametrize(
    ("positive", "shares", "decisions"),
    [
        # Every film looks like class 1 to the model, the first two less so: these are class 0.
        ([0.90, 0.90, 0.99, 0.99], [0.5, 0.5], [0, 0, 1, 1]),
        # Regions that say nothing leave the majority.
        ([0.70, 0.70, 0.70, 0.70], [0.4, 0.6], [1, 1, 1, 1]),
        ([0.70, 0.71, 0.70, 0.71], [0.8, 0.2], [0, 0, 0, 0]),
    ],
)
def test_what_the_average_film_speaks_for_is_taken_away(positive, shares, decisions):
    probs = np.stack([1 - np.array(positive), positive], axis=1)
    assert of_regions_alone(probs, np.array(shares)).tolist() == decisions


def lettered(targets: np.ndarray, letters: np.ndarray) -> np.ndarray:
    """Returns films (N, 64, 64, 1): a bar in the middle that is brighter for class 1, and a white square on some."""
    images = np.full((len(targets), 64, 64, 1), 30, np.uint8)
    images[:, :, 28:36] = np.where(targets == 1, 140, 110)[:, None, None, None]
    images[letters, 6:12, 6:12] = 255
    return images


def reads_letters(images: np.ndarray) -> np.ndarray:
    seen = images[:, 6:12, 6:12, 0].mean(axis=(1, 2)) / 255
    return np.stack([0.1 + 0.8 * seen, 0.9 - 0.8 * seen], axis=1)


def reads_the_bar(images: np.ndarray) -> np.ndarray:
    seen = (images[:, 20:44, 28:36, 0].mean(axis=(1, 2)) - 110) / 30
    return np.stack([0.9 - 0.8 * seen, 0.1 + 0.8 * seen], axis=1)


def reads_both(images: np.ndarray) -> np.ndarray:
    odds = np.prod([p[:, 1] / p[:, 0] for p in (reads_letters(images), reads_the_bar(images))], axis=0)
    return np.stack([1 / (1 + odds), odds / (1 + odds)], axis=1)


def printed(targets: np.ndarray, images: np.ndarray, predict) -> Finding:
    heat = np.ones(images.shape[:3], np.float32)
    frame, letters = probe(images, targets, predict(images), heat, CLASSES, predict)
    assert (frame.region, letters.region) == ("border", "printed markers")
    assert not frame.alarm
    return letters


HALVES = np.arange(40) % 2


def test_images_of_one_patient_count_once():
    """Forty images of four patients are four cases: too few for an alarm, however many images each has."""
    images, heat = lettered(HALVES, HALVES == 0), np.ones((40, 64, 64), np.float32)
    patients = [f"p{target}{i // 20}" for i, target in enumerate(HALVES)]
    _, letters = probe(images, HALVES, reads_letters(images), heat, CLASSES, reads_letters, patients)
    assert (letters.num_images, letters.num_units, letters.num_losable) == (40, 4, 2)
    assert letters.p_alone == pytest.approx(0.5**4)
    assert letters.blind
    assert not letters.alarm


def test_a_model_that_reads_letters_raises_the_alarm():
    finding = printed(HALVES, lettered(HALVES, HALVES == 0), reads_letters)
    assert finding.alarm
    assert (finding.accuracy, finding.accuracy_masked, finding.accuracy_alone) == (1, 0.5, 1)
    assert (finding.majority_share, finding.num_showing, finding.num_losable) == (0.5, 20, 20)
    assert finding.p_alone == pytest.approx(0.5**40)
    assert finding.p_masked < 1e-4
    assert finding.sentence == (
        "shortcut: from the printed markers alone accuracy is 1.00 (always 'AFF': 0.50); with the printed markers "
        "painted over it is 0.50 instead of 1.00, and the truth's log-odds are "
        f"{finding.evidence_lost:.0%} lower. The model reads the printed markers."
    )


def test_a_model_that_reads_letters_too_is_found_though_it_is_right_without_them():
    finding = printed(HALVES, lettered(HALVES, HALVES == 0), reads_both)
    assert finding.accuracy_masked == 1
    assert finding.alarm


@pytest.mark.parametrize("letters", [HALVES == 0, np.arange(40) % 4 < 2])
def test_a_model_that_reads_the_anatomy_raises_none(letters):
    finding = printed(HALVES, lettered(HALVES, letters), reads_the_bar)
    assert not finding.alarm
    assert not finding.blind
    assert finding.evidence_lost == pytest.approx(0, abs=1e-6)
    assert finding.sentence.startswith("no shortcut seen: ")


def test_letters_that_go_with_no_class_are_no_shortcut():
    """The model follows them, and is wrong by them: nothing that validation would reward."""
    assert not printed(HALVES, lettered(HALVES, np.arange(40) % 4 < 2), reads_letters).alarm


def test_silence_is_not_innocence_with_few_images():
    few = HALVES[:8]
    finding = printed(few, lettered(few, few == 0), reads_letters)
    assert finding.blind
    assert not finding.alarm
    assert finding.sentence.startswith("too few images to say")
    assert "8 images, 4 with printed markers" in finding.sentence


def test_nine_of_ten_right_says_little_where_nine_of_ten_are_alike():
    rare = (np.arange(40) % 10 > 0).astype(int)
    assert printed(rare, lettered(rare, rare == 0), reads_letters).blind


def test_films_without_letters_say_so():
    finding = printed(HALVES, lettered(HALVES, HALVES > 1), reads_the_bar)
    assert finding.sentence == "no printed markers found on these 40 images."
    assert not finding.alarm


def in_three_classes(images: np.ndarray) -> np.ndarray:
    return np.pad(reads_the_bar(images), ((0, 0), (0, 1)))


def test_heat_and_area_are_shares_per_class():
    images = lettered(HALVES, HALVES == 0)
    maps = np.ones(images.shape[:3], np.float32)
    maps[HALVES == 1] = 0
    maps[0] = markers(images[0])
    _, finding = probe(images, HALVES, np.eye(3)[HALVES], maps, [*CLASSES, "neither"], in_three_classes)
    area = markers(images[0]).mean()
    assert finding.area == {"AFF": pytest.approx(area), "NFF": 0, "neither": None}
    assert finding.heat == {"AFF": pytest.approx((1 + 19 * area) / 20), "NFF": None, "neither": None}


def test_both_tests_and_a_size_are_needed():
    base = printed(HALVES, lettered(HALVES, HALVES == 0), reads_letters)
    assert not replace(base, accuracy_alone=0.6).alarm
    assert not replace(base, p_masked=0.02).alarm
    unused = replace(base, evidence_lost=0.1)
    assert not unused.alarm
    assert unused.sentence.startswith("not clear: ")
    assert base.to_json()["alarm"] is True


@pytest.mark.parametrize("shortcut", [True, False])
def test_a_trained_network_is_caught_where_markers_go_with_the_class(shortcut):
    """Measured over 8 seeds at 64 px and 3 at 128: each with an alarm, none without."""
    dataset = PhantomBone(260, 64, shortcut=shortcut, seed=2)
    images, targets = films(dataset), np.array(dataset.targets)
    inputs = torch.from_numpy(images.transpose(0, 3, 1, 2) / np.float32(255))
    torch.manual_seed(2)
    model = VGG16(1, 1, 64, base=8, head=[64], dropout=0.2, batchnorm=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(8):
        for rows in torch.randperm(200).split(8):
            logits = model(inputs[rows])[:, 0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(targets)[rows].float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()

    def predict(shown: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pixels = torch.from_numpy(shown.transpose(0, 3, 1, 2) / np.float32(255))
            return probabilities(model(pixels)).numpy()

    probs = predict(images[200:])
    maps = activation_maps(model, inputs[200:], torch.from_numpy(probs.argmax(axis=1)))
    frame, letters = probe(images[200:], targets[200:], probs, maps, dataset.classes, predict)
    assert letters.accuracy > 0.9
    assert not frame.alarm
    assert not letters.blind
    assert letters.alarm is shortcut, letters.sentence

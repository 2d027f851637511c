"""Colour images in round black apertures: the aperture makes none of them inverted, nor any two of them duplicates."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from corpus import CONFIGS, audited, leave_out_costly, save

from runcard.audit.detectors.near_duplicates import find_near_duplicates
from runcard.audit.detectors.outliers import inverted
from runcard.audit.detectors.registration import ROUND_PX, find_aperture, find_apertures
from runcard.audit.profiles import is_grey
from runcard.data.image_io import list_images, read_image
from runcard.data.preprocessing import resize_image
from runcard.datasets.synthetic.bone import PhantomBone

SKIN = ROOT.parent / "shared" / "data" / "Skin"
NUM_LESIONS, SIDE_PX = 100, 128
FEW, RARE = 8, 25  # one image in so many is in an aperture


def lesion(rng: np.random.Generator) -> np.ndarray:
    """Return skin with a brown lesion (128, 128, 3): of its own outline, network and shade."""
    waves = [
        cv2.resize(rng.standard_normal((knots, knots)), (SIDE_PX,) * 2, interpolation=cv2.INTER_CUBIC)
        for knots in (5, 12, 40)
    ]
    down, across = np.mgrid[:SIDE_PX, :SIDE_PX] / SIDE_PX - rng.uniform(0.42, 0.58, (2, 1, 1))
    stretch, size = rng.uniform(0.8, 1.25), rng.uniform(0.15, 0.3)
    inside = 1 / (1 + np.exp(-30 * (size - np.hypot(down * stretch, across / stretch) + 0.04 * waves[0])))
    shade = inside * (rng.uniform(50, 90) + 15 * waves[1]) + 4 * waves[2]
    skin = np.array([205, 165, 145]) + rng.normal(0, 8, 3)
    return np.clip(skin - shade[..., None] * [0.9, 1.1, 1.2], 0, 255).astype(np.uint8)


def in_aperture(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return image (H, W, 3) in a round aperture with a soft edge, in a surround that is nearly black, as JPEG."""
    height, width = image.shape[:2]
    side = min(height, width)
    centre = (np.array((height, width)) - 1) / 2 + side * rng.uniform(-0.02, 0.02, 2)
    from_centre = np.hypot(np.arange(height)[:, None] - centre[0], np.arange(width) - centre[1])
    edge = np.clip((side * rng.uniform(0.40, 0.48) - from_centre) / rng.uniform(1, 3) + 0.5, 0, 1)
    surround = rng.uniform(0, 20)
    seen = (surround + edge[..., None] * (image - surround)).astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_COLOR)


def cropped(image: np.ndarray) -> np.ndarray:
    """Return image without 3 % of its length at each edge, enlarged to its size again."""
    rows, columns = (round(0.03 * side) for side in image.shape[:2])
    return cv2.resize(image[rows:-rows, columns:-columns], image.shape[1::-1])


def compressed(image: np.ndarray) -> np.ndarray:
    """Return image saved as JPEG of quality 50."""
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)


COPIES = {"JPEG": compressed, "cropped": cropped, "turned": np.rot90, "mirrored": np.fliplr}


def thumbs_of(images: list[np.ndarray]) -> np.ndarray:
    """Return images (H, W, 3) as the audit sees them (N, 64, 64)."""
    return np.stack(
        [resize_image(cv2.cvtColor(np.ascontiguousarray(i), cv2.COLOR_RGB2GRAY), 64)[..., 0] for i in images]
    )


@pytest.fixture(scope="module")
def lesions() -> list[np.ndarray]:
    """Return lesions of which one in eight is in an aperture."""
    rng = np.random.default_rng(0)
    return [lesion(rng) if i % FEW else in_aperture(lesion(rng), rng) for i in range(NUM_LESIONS)]


def test_different_lesions_in_apertures_are_no_duplicates(lesions):
    assert find_near_duplicates(thumbs_of(lesions)).pairs == []


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_lesions_in_apertures_are_found(lesions, name):
    origins = range(0, NUM_LESIONS, FEW)
    found = find_near_duplicates(thumbs_of([*lesions, *(COPIES[name](lesions[i]) for i in origins)]))
    assert [pair[:2] for pair in found.pairs] == [(i, NUM_LESIONS + k) for k, i in enumerate(origins)]


def test_where_all_lesions_are_in_apertures_copies_are_found():
    rng = np.random.default_rng(1)
    lesions = [in_aperture(lesion(rng), rng) for _ in range(60)]
    found = find_near_duplicates(thumbs_of([*lesions, *(COPIES[name](lesions[i]) for i, name in enumerate(COPIES))]))
    assert [pair[:2] for pair in found.pairs] == [(i, 60 + i) for i in range(len(COPIES))]
    assert found.missed < 0.1


@pytest.mark.skipif(not SKIN.is_dir(), reason="needs the dermoscopy images beside the checkout")
def test_on_dermoscopy_images_an_aperture_adds_no_duplicates():
    rng = np.random.default_rng(0)
    images = [read_image(path) for path in list_images(SKIN / "train" / "Nevi")]
    covered = [image if i % FEW else in_aperture(image, rng) for i, image in enumerate(images)]
    known = {pair[:2] for pair in find_near_duplicates(thumbs_of(images)).pairs}
    origins = range(0, len(images), FEW)
    copies = [list(COPIES.values())[k % len(COPIES)](covered[i]) for k, i in enumerate(origins)]
    found = {pair[:2] for pair in find_near_duplicates(thumbs_of([*covered, *copies])).pairs}
    true = {(i, len(images) + k) for k, i in enumerate(origins)}
    assert true <= found <= true | known


def test_an_aperture_is_found_and_the_black_around_a_radiograph_is_none(lesions):
    apertures = find_apertures(thumbs_of(lesions))
    assert [i for i, aperture in enumerate(apertures) if not aperture.all()] == list(range(0, NUM_LESIONS, FEW))
    rng = np.random.default_rng(2)
    plain = lesion(rng)
    whole, covered = thumbs_of([plain, in_aperture(plain, rng)]).astype(int)
    inside = find_aperture(covered.astype(np.uint8), ROUND_PX) > 0
    assert np.abs(whole - covered)[inside].max() < 15  # nothing of the aperture's edge
    assert inside.mean() > 0.4
    femurs = PhantomBone(20, 64)
    assert find_apertures(np.stack([femurs[i][0] for i in range(len(femurs))])).all()
    box, triangle = np.zeros((2, 64, 64), np.uint8)
    box[10:50, 12:48] = 150
    cv2.fillConvexPoly(triangle, np.array([[8, 50], [32, 8], [56, 50]]), 150)
    dot = cv2.circle(np.zeros_like(box), (32, 32), 12, 150, -1)  # nothing would be left of most images to compare
    for shape in (box, triangle, dot, np.zeros_like(box)):
        assert find_aperture(shape, ROUND_PX).all()


def test_an_edge_that_no_other_image_has_is_none_in_common(lesions):
    thumbs = thumbs_of(lesions)
    first, second, third = range(0, 3 * FEW, FEW)
    assert find_apertures(thumbs[[first, second, 1, 2]]).all()
    assert not find_apertures(thumbs[[first, second, third, 1, 2]])[:3].all(axis=(1, 2)).any()


def test_colour_images_in_apertures_are_not_called_inverted(tmp_path, monkeypatch):
    leave_out_costly(monkeypatch)
    rng = np.random.default_rng(0)
    lesions = [lesion(rng) if i % RARE else in_aperture(lesion(rng), rng) for i in range(NUM_LESIONS)]
    assert inverted(thumbs_of(lesions))  # in grey they would be
    for i, image in enumerate(lesions):
        save(tmp_path / ("AFF", "NFF")[i % 2] / f"{i:03}.png", np.ascontiguousarray(image))
    assert "inverted" not in {finding.check for finding in audited(tmp_path, CONFIGS["classes"])}


def test_grey_images_stored_as_rgb_are_judged_among_themselves(lesions, tmp_path, monkeypatch):
    leave_out_costly(monkeypatch)
    femurs, rng = PhantomBone(40, 64), np.random.default_rng(0)
    for i in range(len(femurs)):
        grey = 255 - femurs[i][0] if i in (3, 10) else femurs[i][0]
        noisy = np.clip(grey[..., None] + rng.integers(-2, 3, (64, 64, 3)), 0, 255).astype(np.uint8)
        save(tmp_path / ("AFF", "NFF")[i % 2] / f"femur_{i:02}.png", noisy)
    for i, image in enumerate(lesions[:40]):
        save(tmp_path / ("AFF", "NFF")[i % 2] / f"lesion_{i:02}.png", np.ascontiguousarray(image))
    [finding] = [finding for finding in audited(tmp_path, CONFIGS["classes"]) if finding.check == "inverted"]
    assert sorted(Path(place).name for place in finding.places) == ["femur_03.png", "femur_10.png"]


@pytest.mark.parametrize(("chroma", "expected"), [(0, True), (5, True), (40, False)])
def test_an_rgb_image_is_grey_where_its_channels_agree(chroma, expected):
    image = np.full((32, 32, 3), 100, np.uint8)
    image[3, 4, 0] += chroma  # one pixel is enough
    assert is_grey(image, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) is expected
    assert is_grey(image[..., 1], image[..., 1])

"""Find near-duplicates: the same image after JPEG compression, cropping, rotation, flipping or a change of brightness.

Small chest radiographs all look alike, so no fixed distance separates copies from different images. The threshold is
calibrated on the data set itself, with copies made of its own images:

1. A descriptor that is invariant to rotations and flips is projected to the directions in which images vary most
   relative to copying (Fisher's linear discriminant; whitening by the images alone loses half of the crops by 6 %).
2. The candidates of an image are its nearest neighbours in this projection.
3. Each pair of candidates is registered and scored by the correlation of fine details: see registration.py.
   If images have round apertures, as from a dermatoscope, only the inside of both apertures is compared.
4. The threshold lies halfway between the scores of different images and those of the data set's own copies.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import cKDTree
from scipy.stats import norm

from runcard.audit.detectors.registration import (
    NO_FIT,
    Bytes,
    Floats,
    Indices,
    Layers,
    Turn,
    about_middle,
    compared,
    describe,
    descriptors,
    disc,
    find_apertures,
)

LEAST_SD = 2.0  # grey levels: images that vary less are not compared
DIMENSIONS = 32
RIDGE = 0.05  # of the mean variance of copying, added to every direction
NEIGHBOURS = 3  # candidates per image: they include 98 % of the hardest copies among 10,000 chest phantoms
NUM_LESSONS = 1024  # copies that fit the projection: with fewer, more are missed among many images
NUM_COPIES = 128  # further copies, which set the threshold
MAX_CROP, MAX_TURN_DEGREES, GAINS, QUALITIES = 0.06, 10.0, (0.7, 1.2), (60, 95)  # of these copies
LEAST_ALIKE = 0.05  # share of copies that may score below the level taken as that of copies
RANKS = (16, 32)  # neighbours of these ranks are different images: few images have so many copies
NUM_DIFFERENT = 400  # sampled pairs of such neighbours
FEW_DIFFERENT = 50
OF_FEW = (0.5, 0.2)  # mean and sd of atanh(score), as on chest radiographs, used with fewer pairs
HIGHEST = 0.999  # scores are clipped to it, so that atanh is finite
FALSE_PAIRS = 0.05  # expected number above `different` in a data set without copies


class Pair(NamedTuple):
    """Two positions, first < second; their score, at most 1; and the transform from first to second, as text."""

    first: int
    second: int
    score: float
    how: str


@dataclass(frozen=True)
class NearDuplicates:
    """The pairs, and how reliable they are on these data."""

    pairs: list[Pair]  # in ascending order
    threshold: float  # minimum score of a reported pair
    different: float  # score that no two different images are expected to reach
    missed: float  # share of calibration copies not found: near 1, duplicates cannot be distinguished


def find_near_duplicates(thumbs: Bytes, seed: int = 0) -> NearDuplicates:
    """Find near-duplicate pairs among thumbs (N, S, S), grey and square for any aspect ratio, S >= 48.

    An image is paired with its nearest copies only: k copies give at most 3·k pairs. Thumbs that are constant inside
    the inscribed circle are left out. seed draws the calibration copies; the same seed gives the same pairs.
    """
    pairs, kept = _identical(thumbs)
    if len(kept) < 2:
        return NearDuplicates(pairs, threshold=1.0, different=1.0, missed=0.0)
    images, rng = thumbs if len(kept) == len(thumbs) else thumbs[kept], np.random.default_rng(seed)
    apertures = find_apertures(images)
    seen = describe(images, apertures)
    taught, origins = (rng.integers(len(images), size=number) for number in (NUM_LESSONS, NUM_COPIES))
    lessons, copies = (_layers_of_copies(images[of], apertures[of], rng) for of in (taught, origins))
    features = descriptors(seen.rings)
    projection = _projection(features, descriptors(lessons.rings) - features[taught])
    points, copied = features @ projection, descriptors(copies.rings) @ projection
    tree = cKDTree(points)

    candidates = _pairs(tree.query(points, NEIGHBOURS + 1)[1])  # the first is itself
    scores, hows = compared(seen, candidates[0], seen, candidates[1])
    reached, _ = compared(seen, origins, copies, np.arange(NUM_COPIES))
    different = _highest_of_different(seen, points, tree, len(scores), rng)
    usual = np.quantile(_atanh(reached), LEAST_ALIKE)
    threshold = math.tanh(max(different, (different + usual) / 2))
    near = tree.query(copied, NEIGHBOURS)[1] == origins[:, None]
    missed = float(1 - (near.any(axis=1) & (reached >= threshold)).mean())
    reported = zip(*kept[candidates].tolist(), scores.tolist(), hows, strict=True)
    pairs += [Pair(*pair) for pair in reported if pair[2] >= threshold]
    return NearDuplicates(sorted(pairs), threshold, math.tanh(different), missed)


def _identical(thumbs: Bytes) -> tuple[list[Pair], Indices]:
    """Pair each thumb with its previous identical one; also return the positions of distinct, non-constant thumbs."""
    latest: dict[bytes, int] = {}
    pairs, kept = [], []
    for i, thumb in enumerate(thumbs):
        if cv2.meanStdDev(thumb, mask=disc(len(thumb)))[1].item() < LEAST_SD:
            continue
        content = hashlib.blake2b(thumb.tobytes(), digest_size=16).digest()
        if content in latest:
            pairs.append(Pair(latest[content], i, 1.0, "as it is"))
        else:
            kept.append(i)
        latest[content] = i
    return pairs, np.array(kept, np.intp)


def _layers_of_copies(images: Bytes, apertures: Bytes, rng: np.random.Generator) -> Layers:
    """Copy each of images (N, S, S) in apertures (N, S, S), and describe the copies for comparison."""
    copies = [_copy(image, aperture, rng) for image, aperture in zip(images, apertures, strict=True)]
    return describe(*(np.stack(each) for each in zip(*copies, strict=True)))


def _copy(image: Bytes, aperture: Bytes, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """Make a random copy of image (S, S) and its aperture: cropped, rotated, maybe mirrored, rescaled in grey, as JPEG.

    The aperture (S, S) moves with the image. Pixels from beyond the image lie outside it.
    """
    size = len(image)
    before, behind = rng.uniform(0, MAX_CROP, (2, 2))  # shares cut away: left and top, right and bottom
    degrees = rng.uniform(-MAX_TURN_DEGREES, MAX_TURN_DEGREES) + 90 * rng.integers(4)
    turn = Turn(math.radians(degrees), mirrored=bool(rng.integers(2)))
    move = about_middle(turn.matrix / (1 - before - behind), size, shift=size * (behind - before) / 2)
    gain = rng.uniform(*GAINS)
    moved = np.clip(gain * cv2.warpAffine(image, move, (size, size)), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", moved, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(*QUALITIES))])[1]
    copy = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE), np.uint8)
    if aperture.all():
        return copy, aperture
    return copy, np.asarray(cv2.warpAffine(aperture, move, (size, size), flags=cv2.INTER_NEAREST), np.uint8)


def _projection(features: Floats, changes: Floats) -> Floats:
    """Compute (D, dimensions): directions in which features (N, D) vary most relative to changes (M, D) by copying."""
    within = changes.T @ changes / len(changes)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within), dtype=np.float32)
    dimensions = min(DIMENSIONS, len(features) - 1)
    largest = (len(within) - dimensions, len(within) - 1)
    return np.asarray(eigh(np.cov(features.T), within, subset_by_index=largest)[1], np.float32)


def _pairs(neighbours: Indices) -> Indices:
    """List each pair of neighbours (N, k) once, as (2, M), the smaller position first; N stands for no neighbour."""
    own = np.broadcast_to(np.arange(len(neighbours))[:, None], neighbours.shape)
    real = (neighbours < len(neighbours)) & (neighbours != own)
    return np.unique(np.sort([own[real], neighbours[real]], axis=0), axis=1)


def _highest_of_different(
    seen: Layers, points: Floats, tree: cKDTree, num_candidates: int, rng: np.random.Generator
) -> float:
    """Estimate the atanh(score) that no two different images are expected to reach among num_candidates pairs.

    It is taken as normal (Fisher 1921), with the median and the upper spread of neighbours beyond the nearest ones,
    which true copies among them hardly change.
    """
    low, high = min(RANKS[0], len(points) // 2), min(RANKS[1], len(points))
    some = rng.integers(len(points), size=NUM_DIFFERENT)
    ranks = rng.integers(low, high, NUM_DIFFERENT)
    others = tree.query(points[some], high)[1][np.arange(NUM_DIFFERENT), ranks]
    first, second = np.unique(np.sort([some, others], axis=0), axis=1)
    scores, _ = compared(seen, first, seen, second)
    values = _atanh(scores[scores > NO_FIT])
    middle, sd = OF_FEW
    if len(values) >= FEW_DIFFERENT:
        middle, upper = np.quantile(values, (0.5, norm.cdf(1)))
        sd = upper - middle
    return float(min(middle + sd * norm.isf(FALSE_PAIRS / num_candidates), math.atanh(HIGHEST)))


def _atanh(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply Fisher's transform to correlations, which equalises their spread; finite at 1 too."""
    return np.asarray(np.arctanh(np.clip(scores, -HIGHEST, HIGHEST)))

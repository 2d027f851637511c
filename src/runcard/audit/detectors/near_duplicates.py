"""Near duplicates: the same image again after JPEG, a crop, a turn, a mirroring or another brightness.

Chest radiographs all look alike when small, so no fixed distance separates copies from different images. What does is
measured on the
data set itself, with copies made of its own images:

1. A descriptor that turns and mirroring leave alone, projected to where different images differ most against what
   copying changes (Fisher's linear discriminant; whitening by the images alone loses half of the crops by 6 %).
2. Candidates are the few nearest in it.
3. Each candidate is laid onto the other, and scored by how alike their fine details are: see registration.py.
   Of images in round apertures, as a dermatoscope gives them, only what is inside both of a pair's is compared.
4. The threshold lies halfway between what different images do not reach and what the data set's own copies do.
"""

from __future__ import annotations

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
    Looks,
    Turn,
    about_middle,
    compared,
    descriptors,
    disc,
    find_apertures,
    looks,
)

LEAST_SD = 2.0  # grey levels: an image that varies less shows nothing to compare
DIMENSIONS = 32
RIDGE = 0.05  # of the mean variance that copying adds to a descriptor, put on every direction
NEIGHBOURS = 3  # candidates of each image: of 10,000 chest phantoms 98 % of the hardest copies are among them
NUM_LESSONS = 1024  # copies to learn the projection from: fewer miss more among many images
NUM_COPIES = 128  # others, to set the threshold by
MAX_CROP, MAX_TURN_DEGREES, GAINS, QUALITIES = 0.06, 10.0, (0.7, 1.2), (60, 95)  # of these copies
LEAST_ALIKE = 0.05  # share of them that may score less than copies are said to
RANKS = (16, 32)  # neighbours from the one up to the other are different images: few have so many copies
NUM_DIFFERENT = 400  # pairs of such neighbours
FEW_DIFFERENT = 50
OF_FEW = (0.5, 0.2)  # mean and sd of atanh(score) of different images where these are few: as on chest films
HIGHEST = 0.999  # the highest score that is distinguished from the ones above
FALSE_PAIRS = 0.05  # expected above the score of different images in a data set without copies


class Pair(NamedTuple):
    """Two positions, first < second; how alike they are, at most 1; and how first is moved to give second."""

    first: int
    second: int
    score: float
    how: str


@dataclass(frozen=True)
class NearDuplicates:
    """The pairs, and how far they can be trusted on these data."""

    pairs: list[Pair]  # in ascending order
    threshold: float  # the score from which a pair is reported
    different: float  # the score that no two different images are expected to reach
    missed: float  # share of the data set's own copies not found: near 1, duplicates cannot be distinguished


def find_near_duplicates(thumbs: Bytes, seed: int = 0) -> NearDuplicates:
    """Returns the pairs among thumbs (N, S, S), grey and square whatever the aspect ratio was; S at least 48.

    An image is paired with its few nearest copies only: k copies give at most 3·k pairs. Thumbs that show nothing
    inside their circle are left out. seed draws the copies that calibrate; the same seed gives the same pairs.
    """
    pairs, kept = _identical(thumbs)
    if len(kept) < 2:
        return NearDuplicates(pairs, threshold=1.0, different=1.0, missed=0.0)
    images, rng = thumbs[kept], np.random.default_rng(seed)
    apertures = find_apertures(images)
    seen = looks(images, apertures)
    taught, origins = (rng.integers(len(images), size=number) for number in (NUM_LESSONS, NUM_COPIES))
    lessons, copies = (_looks_of_copies(images[of], apertures[of], rng) for of in (taught, origins))
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
    """Returns a pair for each thumb that was there before, and the positions of one of each that shows something."""
    latest: dict[bytes, int] = {}
    pairs, kept = [], []
    for i, thumb in enumerate(thumbs):
        if cv2.meanStdDev(thumb, mask=disc(len(thumb)))[1].item() < LEAST_SD:
            continue
        content = thumb.tobytes()
        if content in latest:
            pairs.append(Pair(latest[content], i, 1.0, "as it is"))
        else:
            kept.append(i)
        latest[content] = i
    return pairs, np.array(kept, np.intp)


def _looks_of_copies(images: Bytes, apertures: Bytes, rng: np.random.Generator) -> Looks:
    """Return what is compared of a copy of each of images (N, S, S) in apertures (N, S, S)."""
    copies = [_copy(image, aperture, rng) for image, aperture in zip(images, apertures, strict=True)]
    return looks(*(np.stack(each) for each in zip(*copies, strict=True)))


def _copy(image: Bytes, aperture: Bytes, rng: np.random.Generator) -> tuple[Bytes, Bytes]:
    """Return a copy of image (S, S): cropped, mirrored or not, turned, brighter or darker, and as JPEG; its aperture.

    The aperture (S, S) moves with the image. What comes into sight from beyond the image is not inside it.
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
    """Returns (D, dimensions): where features (N, D) vary most for what copying changes of them (M, D)."""
    within = changes.T @ changes / len(changes)
    within += RIDGE * np.trace(within) / len(within) * np.eye(len(within), dtype=np.float32)
    dimensions = min(DIMENSIONS, len(features) - 1)
    largest = (len(within) - dimensions, len(within) - 1)
    return np.asarray(eigh(np.cov(features.T), within, subset_by_index=largest)[1], np.float32)


def _pairs(neighbours: Indices) -> Indices:
    """Returns (2, M), each pair of neighbours (N, k) once, the smaller position first; N stands for no neighbour."""
    own = np.broadcast_to(np.arange(len(neighbours))[:, None], neighbours.shape)
    real = (neighbours < len(neighbours)) & (neighbours != own)
    return np.unique(np.sort([own[real], neighbours[real]], axis=0), axis=1)


def _highest_of_different(
    seen: Looks, points: Floats, tree: cKDTree, num_candidates: int, rng: np.random.Generator
) -> float:
    """Returns the atanh(score) that no two different images are expected to reach, among so many candidates.

    It is taken as normal (Fisher 1921), with the median and the upper spread that neighbours beyond the nearest have:
    true copies among them hardly move these.
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
    """Returns Fisher's transform of correlations, in which they are spread alike; finite at 1 too."""
    return np.asarray(np.arctanh(np.clip(scores, -HIGHEST, HIGHEST)))

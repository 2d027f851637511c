"""Detect inverted images and outliers.

Each image is compared with what the others have in common. It is left out itself (leave-one-out, in closed form),
because it would bias its own score.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

COARSE_PX = 8  # side of the averaged images, which show only where an image is bright
MAX_ROUNDS = 10

MIN_FOR_POLARITY = 10  # images: fewer are not tested
AGAINST = -0.3  # inverted images score below it; typical images score about 1, inverted ones −1
MIN_AGREEING = 0.9  # share of images that must score beyond ±0.3; otherwise there is no common polarity
MAX_INVERTED = 0.4  # share of images: near one half, it is undecidable which are inverted

MIN_FOR_OUTLIERS = 20
MAX_ODD = 0.1  # share of images: with more outliers, the data are of several kinds
UNUSUAL = 3.75  # deviations above the median distance: exceeded by 5 in 1000 images of clean sets
EXTREME = 6.0  # deviations of brightness, contrast, roughness or entropy from the median
PERCENTILES = (0.16, 0.5, 0.84)  # one standard deviation of a normal distribution around the median
CELLS = 4  # per side; in each, edges are counted by direction
DIRECTIONS = 6
STATISTICS_WEIGHT = 0.15  # of a deviation; patterns and edges have length 1
LEAST_SPREAD = 0.02  # of logarithms and shares, so that tiny differences among nearly equal images do not count
TINY = 1e-9


def inverted(thumbs: np.ndarray) -> list[int]:
    """Find the thumbs (N, H, W) uint8 with inverted greys, such as MONOCHROME1 read as MONOCHROME2.

    A linear score is fitted that is 1 for each image and −1 for its negative (ridge regression without intercept, on
    standardised 8×8 greys). Images that score below 0 are inverted and the score is fitted again, until no sign
    changes. This separates up to 40 % of inverted images, at any contrast and brightness. Constant images are left out.
    The result is empty if images have no common polarity.
    """
    shown, _, scores = _polarity_scores(thumbs)
    return [int(i) for i in shown[scores < AGAINST]]


def polarity(thumbs: np.ndarray) -> list[float] | None:
    """Fit the score of inverted() to thumbs (N, H, W) uint8, for images that come later; None without a polarity."""
    _, patterns, scores = _polarity_scores(thumbs)
    if not len(scores):
        return None
    upright = patterns * np.sign(scores)[:, None]
    weights: list[float] = (_shrunk_inverse(upright.T @ upright) @ upright.sum(axis=0)).round(4).tolist()
    return weights


def is_inverted(thumb: np.ndarray, weights: Sequence[float]) -> bool:
    """Whether a thumb (H, W) uint8 is inverted relative to those that polarity() has seen."""
    return bool(_patterns(thumb[None])[0] @ np.asarray(weights) < AGAINST)


def inverted_among_grey(thumbs: np.ndarray, is_grey: NDArray[np.bool_]) -> list[int]:
    """Find the inverted images among the grey ones of thumbs (N, H, W), compared with these only; is_grey is (N,).

    Only greyscale images such as radiographs are stored inverted. Colour images that differ in what is bright (skin in
    a black aperture, and skin that fills the image) have no polarity.
    """
    positions = np.flatnonzero(is_grey)
    return [int(i) for i in positions[inverted(thumbs[positions])]]


def _polarity_scores(thumbs: np.ndarray) -> tuple[NDArray[np.intp], Array, Array]:
    """Return the positions, patterns and scores (see inverted) of thumbs; none without a common polarity."""
    shown, nothing = _varied(thumbs), (np.zeros(0, np.intp), np.zeros((0, COARSE_PX**2)), np.zeros(0))
    if len(shown) < MIN_FOR_POLARITY:
        return nothing
    patterns = _patterns(thumbs[shown])
    signs = np.ones(len(shown))
    for _ in range(MAX_ROUNDS):
        scores = signs * _scores_without_itself(patterns * signs[:, None])
        turned = np.where(scores < 0, -1.0, 1.0)
        if (turned == signs).all():
            break
        signs = turned
    scores *= np.sign(np.median(scores)) or 1
    agree = (np.abs(scores) > -AGAINST).mean() >= MIN_AGREEING
    return (shown, patterns, scores) if agree and (scores < AGAINST).mean() <= MAX_INVERTED else nothing


def _scores_without_itself(patterns: Array) -> Array:
    """Compute (N,): the leave-one-out predictions of ridge regression of 1 on patterns (N, D), without intercept."""
    inverse = _shrunk_inverse(patterns.T @ patterns)
    fitted = patterns @ (inverse @ patterns.sum(axis=0))
    leverage = ((patterns @ inverse) * patterns).sum(axis=1)
    scores: Array = (fitted - leverage) / (1 - leverage)
    return scores


def outliers(thumbs: np.ndarray) -> list[int]:
    """Find the thumbs (N, H, W) uint8 that are unlike the others: other content, rotated, noise, nearly black.

    An image is described by its coarse greys, the directions of its edges in 4×4 cells (histograms of oriented
    gradients, Dalal and Triggs 2005) and four statistics. Its distance is the Mahalanobis distance from the bulk (see
    _unusual), with a shrunk covariance. An outlier has a log distance far above the median, in units of the upper
    spread, or a statistic far from its median. Constant images are left out. The result is empty if more than a tenth
    are outliers.
    """
    shown = _varied(thumbs)
    if len(shown) < MIN_FOR_OUTLIERS:
        return []
    few = thumbs[shown]
    statistics = _deviations(_statistics(few))
    features = np.concatenate([_patterns(few), _edges(few), STATISTICS_WEIGHT * np.clip(statistics, -8, 8)], axis=1)
    unusual = _unusual(features)
    odd = unusual | (np.abs(statistics) > EXTREME).any(axis=1)
    return [int(i) for i in shown[odd]] if odd.mean() <= MAX_ODD else []


def usual(thumbs: np.ndarray) -> list[list[float]] | None:
    """Compute percentiles (3, 4) of the statistics of thumbs (N, H, W) uint8, for later images; None of few thumbs."""
    shown = _varied(thumbs)
    if len(shown) < MIN_FOR_OUTLIERS:
        return None
    percentiles: list[list[float]] = np.quantile(_statistics(thumbs[shown]), PERCENTILES, axis=0).round(4).tolist()
    return percentiles


def is_extreme(thumb: np.ndarray, percentiles: Sequence[Sequence[float]]) -> bool:
    """Whether a statistic of a thumb (H, W) uint8 is as far from what usual() has seen as only an outlier's is."""
    deviations = _in_spreads(_statistics(thumb[None]), np.asarray(percentiles))
    return bool((np.abs(deviations) > EXTREME).any())


def _unusual(features: Array) -> NDArray[np.bool_]:
    """Find (N,) bool: which of features (N, D) lie far from the bulk.

    The bulk is first estimated without the farthest tenth (concentration steps, Rousseeuw and Van Driessen 1999), so
    that a group of outliers does not shape it. Then all but the outliers are included: rare images are not outliers.
    """
    members = np.ones(len(features), bool)
    for _ in range(MAX_ROUNDS):
        distances = _distances(features, members)
        nearest = distances <= np.quantile(distances, 1 - MAX_ODD)
        if (nearest == members).all():
            break
        members = nearest
    for _ in range(2):
        members = _deviations(np.log(distances)) < UNUSUAL
        distances = _distances(features, members)
    return np.asarray(_deviations(np.log(distances)) > UNUSUAL)


def _distances(features: Array, members: NDArray[np.bool_]) -> Array:
    """Compute (N,) squared Mahalanobis distances from the members; a member's own is from the other members."""
    num = members.sum()
    centred = features - features[members].mean(axis=0)
    inverse = _shrunk_inverse(centred[members].T @ centred[members])
    leverage = ((centred @ inverse) * centred).sum(axis=1)
    return np.asarray(num * np.where(members, leverage / (1 - leverage), leverage) + TINY)


def _shrunk_inverse(gram: Array) -> Array:
    """Invert gram (D, D) with its mean eigenvalue added to all, so that it is invertible with few images."""
    return np.asarray(np.linalg.inv(gram + (np.trace(gram) / len(gram) + TINY) * np.eye(len(gram))))


def _deviations(values: Array) -> Array:
    """Express values (N, …) as deviations from the median, in units of the spread on the same side of it.

    The spread is the distance from the median to the 16th or 84th percentile (one standard deviation of a normal
    distribution), and at least LEAST_SPREAD.
    """
    return _in_spreads(values, np.quantile(values, PERCENTILES, axis=0))


def _in_spreads(values: Array, percentiles: Array) -> Array:
    """Express values (N, …) as deviations from the middle of three percentiles (3, …); see _deviations."""
    low, middle, high = percentiles
    spread = np.where(values > middle, high - middle, middle - low)
    return np.asarray((values - middle) / np.maximum(spread, LEAST_SPREAD))


def _varied(thumbs: np.ndarray) -> NDArray[np.intp]:
    """Return the positions of the images that are not constant."""
    return np.flatnonzero(np.ptp(thumbs, axis=(1, 2)) > 0)


def _patterns(thumbs: np.ndarray) -> Array:
    """Compute (N, 64): the greys averaged to 8×8, scaled to mean 0 and length 1."""
    small = [cv2.resize(thumb, (COARSE_PX, COARSE_PX), interpolation=cv2.INTER_AREA) for thumb in thumbs]
    greys = np.stack(small).reshape(len(thumbs), -1).astype(np.float64)
    return _unit(greys - greys.mean(axis=1, keepdims=True))


def _edges(thumbs: np.ndarray) -> Array:
    """Compute (N, 96), of length 1: the root of the edge strength in each of 4×4 cells and six directions."""
    rows, columns = (np.arange(side) * CELLS // side for side in thumbs.shape[1:])
    cells = (rows[:, None] * CELLS + columns) * DIRECTIONS
    histograms = []
    for thumb in thumbs:
        smooth = cv2.GaussianBlur(thumb.astype(np.float32), (0, 0), 0.8)
        across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        direction = np.floor(np.arctan2(down, across) / (2 * np.pi) * DIRECTIONS).astype(np.intp) % DIRECTIONS
        strength = np.hypot(across, down).ravel()
        histograms.append(np.bincount((cells + direction).ravel(), strength, CELLS * CELLS * DIRECTIONS))
    return _unit(np.sqrt(histograms))


def _statistics(thumbs: np.ndarray) -> Array:
    """Compute (N, 4): mean (0 to 1), log contrast, roughness (log of mean step / contrast), entropy of 16 greys."""
    described = []
    for thumb in map(np.float64, thumbs):
        contrast = thumb.std() + 0.5
        steps = np.abs(np.diff(thumb, axis=0)).mean() + np.abs(np.diff(thumb, axis=1)).mean() + 0.5
        shares = np.bincount(thumb.astype(np.intp).ravel() // 16, minlength=16) / thumb.size
        entropy = -(shares * np.log(shares + TINY)).sum()
        described.append((thumb.mean() / 255, np.log(contrast), np.log(steps / contrast), entropy))
    return np.array(described)


def _unit(rows: Array) -> Array:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY))

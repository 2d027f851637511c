"""Test whether each mask fits its own image better than other images' masks do.

The appearance of foreground is learnt from the data: gradient-boosted trees (Friedman 2001) predict the share of
foreground of a pixel from the greys around it, for images that they were not trained on. The agreement of a mask with
an image is the correlation of its pixels with that prediction, from −1 to 1.

The features do not contain the position of a pixel. So trees trained on shuffled masks still learn more of the truth
than of the fault, and their predictions agree better with the right masks than with those that they were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Array = NDArray[np.float32]

GRID = 32  # side of the compared maps; features are computed at twice that
MIN_IMAGES = 8  # with different masks: fewer are not tested
FOLDS = 3
TRAINING_IMAGES = 300  # per fold at most, and pixels: more change little
TRAINING_PIXELS = 15_000
CHUNK = 500  # images whose features are in memory at a time
MAX_REFERENCES = 512  # masks among which an image's own is ranked
MAX_PAIRED = 1000  # images in the search for swaps

FITS = 3.0  # standard errors of the mean rank above chance
MIN_FOR_ERROR = 20  # images, before a whole data set is called wrong
# By how much the agreement of another pairing must exceed that of the given pairs, and that of the best pairing with
# masks upside down. Shuffled radiographs gain at least 0.1 in both, masks drawn at random at most 0.06 in the second.
ABOVE_OWN, ABOVE_UPSIDE_DOWN = 0.05, 0.1
SOME, MOSTLY = 0.1, 0.9  # shares of images that some turn must improve to be tested, and one turn to be reported
# Minimum gain in agreement of a better mask, in units of 1 − the median agreement. On clean chest radiographs, 1 % gain
# 0.4 with another image's mask, nothing with a turned mask, and 0.7 with a moved one.
GAIN_OF_PAIRING, GAIN_OF_TURN, GAIN_OF_SHIFT = 0.4, 0.25, 1.0
LEAST_LACKING = 0.02
REACH = 6  # pixels of the grid: shifts up to 3/16 of the side are searched
SCALES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4)  # sigmas of the Gaussian blurs, as shares of the side

# Rotations and flips of a mask, and the functions that undo them (on arrays whose last axes are rows and columns).
TURNS: dict[str, Callable[[Array], Array]] = {
    "mirrored left to right": lambda mask: mask[..., ::-1],
    "mirrored top to bottom": lambda mask: mask[..., ::-1, :],
    "rotated by 180°": lambda mask: mask[..., ::-1, ::-1],
    "rotated by 90° clockwise": lambda mask: np.rot90(mask, 1, (-2, -1)),
    "rotated by 90° counterclockwise": lambda mask: np.rot90(mask, -1, (-2, -1)),
    "transposed": lambda mask: mask.swapaxes(-2, -1),
    "transposed and rotated by 180°": lambda mask: mask.swapaxes(-2, -1)[..., ::-1, ::-1],
}


@dataclass(frozen=True)
class Misfit:
    """A mask that would fit better if paired, turned or shifted differently."""

    index: int
    what: str  # "of another image", or how the mask is turned or moved
    partner: int | None = None  # the image whose mask would fit this one


@dataclass(frozen=True)
class Fit:
    """How well the masks of a data set fit their images."""

    num_images: int  # with non-constant image and mask
    mean_rank: float  # mean share of other images' masks that fit an image worse than its own: 0.5 by chance
    z: float  # standard errors of mean_rank above chance
    agreement: float  # median of masks with their own images
    paired_anew: float | None  # the same in the best pairing; None if masks fit or are turned
    upside_down: float | None  # the same with masks upside down: what unrelated masks of such shapes reach
    turned: str | None  # how nearly all masks are turned; None if they are not
    suspects: tuple[Misfit, ...]  # single masks; none if the whole set is wrong

    @property
    def fits(self) -> bool:
        """Whether masks on the whole fit their own images better than other images."""
        return self.z >= FITS

    @property
    def shuffled(self) -> bool:
        """Whether the masks clearly belong to other images: they fit their own by chance, and others well."""
        if self.paired_anew is None or self.upside_down is None or self.num_images < MIN_FOR_ERROR:
            return False
        return self.paired_anew >= max(self.agreement + ABOVE_OWN, self.upside_down + ABOVE_UPSIDE_DOWN)


def mask_fit(thumbs: np.ndarray, masks: np.ndarray) -> Fit | None:
    """Measure how masks (N, 64, 64) of class indices fit images thumbs (N, 64, 64) uint8; None with too few images.

    Every class above 0 is foreground. Constant masks and constant images are left out.
    """
    if len(masks) < MIN_IMAGES:
        return None
    areas = np.empty((len(masks), GRID, GRID), np.float32)
    for i, mask in enumerate(masks):
        areas[i] = _small((mask > 0).astype(np.float32))
    shown = np.flatnonzero((np.ptp(areas, axis=(1, 2)) > 0) & (np.ptp(thumbs, axis=(1, 2)) > 0))
    images = thumbs
    if len(shown) < len(thumbs):
        images, areas = thumbs[shown], areas[shown]
    if len({hash(area.tobytes()) for area in areas}) < MIN_IMAGES:
        return None
    predicted = _predict(images, areas)
    own = _agreement(predicted, areas)
    rank = float(_ranks(predicted, areas, own).mean())
    z = (rank - 0.5) * math.sqrt(12 * len(shown))
    turned = _all_turned(images, areas, predicted)
    paired_anew = None if turned or z >= FITS else _paired_anew(images, areas)
    upside_down = None if turned or z >= FITS else _paired_anew(images, areas[:, ::-1])
    suspects = () if turned or z < FITS else tuple(_suspects(images, areas, predicted, shown))
    return Fit(len(shown), rank, z, float(np.median(own)), paired_anew, upside_down, turned, suspects)


def _predict(images: np.ndarray, areas: Array, by_place: bool = False) -> Array:
    """Predict the share of foreground (N, 32, 32) by cross-validation: no image is predicted by trees trained on it.

    by_place adds a pixel's position, and the frequency of foreground there, to the features.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor  # half a second, and the result is mostly kept

    rng = np.random.default_rng(0)
    fold = rng.permutation(len(images)) % FOLDS
    place = _place(areas) if by_place else None
    predicted = np.empty_like(areas)
    for k in range(FOLDS):
        train = rng.permutation(np.flatnonzero(fold != k))[:TRAINING_IMAGES]
        features, targets = _features(images[train], place), areas[train].ravel()
        pixels = rng.permutation(len(targets))[:TRAINING_PIXELS]
        trees = HistGradientBoostingRegressor(
            max_iter=40, learning_rate=0.2, max_leaf_nodes=15, early_stopping=False, random_state=0
        ).fit(features[pixels], targets[pixels])
        for chunk in _chunks(np.flatnonzero(fold == k)):
            predicted[chunk] = trees.predict(_features(images[chunk], place)).reshape(-1, GRID, GRID)
    return predicted


def _features(images: np.ndarray, place: Array | None) -> Array:
    """Compute features (N·32·32, F): those of _described, and place (32, 32, P) if given."""
    described = np.stack([_described(image) for image in images])
    if place is not None:
        described = np.concatenate([described, np.broadcast_to(place, (len(images), *place.shape))], axis=-1)
    return described.reshape(-1, described.shape[-1])


def _described(image: np.ndarray) -> Array:
    """Compute (32, 32, 9) of one standardised image: grey, its blurs, edge strength and its blur, local deviation."""
    grey = cv2.resize(image, (2 * GRID, 2 * GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    grey = (grey - grey.mean()) / max(float(grey.std()), 1.0)
    around = [_blur(grey, scale) for scale in SCALES]
    edge = np.hypot(cv2.Sobel(around[0], cv2.CV_32F, 1, 0), cv2.Sobel(around[0], cv2.CV_32F, 0, 1))
    spread = np.sqrt(np.maximum(_blur(grey**2, 1 / 16) - _blur(grey, 1 / 16) ** 2, 0))
    return np.stack([_small(layer) for layer in (grey, *around, edge, _blur(edge, 1 / 16), spread)], axis=-1)


def _place(areas: Array) -> Array:
    """Compute (32, 32, 3): how often a pixel is foreground, its column and its row."""
    rows, columns = np.mgrid[:GRID, :GRID].astype(np.float32) / GRID
    return np.stack([_blur(areas.mean(axis=0), 1 / GRID), columns, rows], axis=-1)


def _blur(layer: Array, scale: float) -> Array:
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), scale * len(layer)))


def _small(layer: Array) -> Array:
    return np.asarray(cv2.resize(layer, (GRID, GRID), interpolation=cv2.INTER_AREA))


def _chunks(which: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    return (which[start : start + CHUNK] for start in range(0, len(which), CHUNK))


def _standardised(maps: Array) -> Array:
    """Scale maps to (N, 32·32) with mean 0 and length 1, so that products are correlations."""
    rows = maps.reshape(len(maps), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6))


def _agreement(predicted: Array, areas: Array) -> Array:
    """Compute (N,): the correlation of each prediction with its own mask."""
    agreement = np.empty(len(areas), np.float32)
    for chunk in _chunks(np.arange(len(areas))):
        agreement[chunk] = (_standardised(predicted[chunk]) * _standardised(areas[chunk])).sum(axis=1)
    return agreement


def _ranks(predicted: Array, areas: Array, own: Array) -> Array:
    """Compute (N,): the share of up to 512 other masks that agree less than an image's own. Ties count half."""
    references = _spread_out(len(areas), MAX_REFERENCES)
    masks, ranks = _standardised(areas[references]).T, np.empty(len(areas))
    for chunk in _chunks(np.arange(len(areas))):
        others = _standardised(predicted[chunk]) @ masks - own[chunk, None]
        itself = np.isin(chunk, references)
        ties = (np.abs(others) <= 1e-5).sum(axis=1) - itself
        ranks[chunk] = ((others < -1e-5).sum(axis=1) + ties / 2) / (len(references) - itself)
    return np.asarray(ranks)


def _spread_out(num: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, num - 1, min(num, most)).astype(np.intp))


def _paired_anew(images: np.ndarray, areas: Array) -> float:
    """Compute the median agreement of the best pairing of masks and images, by trees trained on a first best pairing.

    If masks were shuffled, the first pairing is right often enough to improve the trees trained on it.
    """
    few = _spread_out(len(images), MAX_REFERENCES)
    images, areas = images[few], areas[few]
    masks = _standardised(areas)
    _, best = linear_sum_assignment(-_standardised(_predict(images, areas)) @ masks.T)
    agreements = _standardised(_predict(images, areas[best])) @ masks.T
    return float(np.median(agreements[linear_sum_assignment(-agreements)]))


def _all_turned(images: np.ndarray, areas: Array, predicted: Array) -> str | None:
    """Find the turn that nearly all masks have relative to their images, or None.

    Trees trained on turned masks predict poorly, so trees are trained anew for each correction.
    """
    few = _spread_out(len(images), TRAINING_IMAGES)
    images, areas, predicted = images[few], areas[few], predicted[few]
    own = _agreement(predicted, areas)
    doubtful = any((_agreement(predicted, right(areas)) > own).mean() > SOME for right in TURNS.values())
    if len(few) < MIN_FOR_ERROR or not doubtful:
        return None
    fixed = {name: _agreement(_predict(images, right(areas)), right(areas)) for name, right in TURNS.items()}
    best = max(fixed, key=lambda name: float(np.median(fixed[name])))
    return best if (fixed[best] > own).mean() >= MOSTLY else None


def _suspects(images: np.ndarray, areas: Array, without_place: Array, index: NDArray[np.intp]) -> Iterator[Misfit]:
    """Find single masks that a swap, turn or shift would improve; index (N,) are the images' positions.

    If nearly all masks are right, the position of a pixel helps to predict. The mean of the predictions with and
    without positions is better than either.
    """
    predicted = _predict(images, areas, by_place=True)
    predicted += without_place
    predicted *= np.float32(0.5)
    own = _agreement(predicted, areas)
    unit = max(LEAST_LACKING, 1 - float(np.median(own)))
    swaps = _swaps(predicted, areas, own, GAIN_OF_PAIRING * unit)
    turned = {name: _agreement(predicted, right(areas)) - own for name, right in TURNS.items()}
    for i, position in enumerate(index.tolist()):
        if i in swaps:
            yield Misfit(position, "of another image", int(index[swaps[i]]))
            continue
        where, found = _moved(predicted[i], areas[i])
        gains = {name: float(gain[i]) for name, gain in turned.items() if gain[i] > GAIN_OF_TURN * unit}
        if found - own[i] > GAIN_OF_SHIFT * unit:
            gains[where] = found - float(own[i])
        if gains:
            yield Misfit(position, max(gains, key=lambda what: gains[what]))


def _swaps(predicted: Array, areas: Array, own: Array, cost: float) -> dict[int, int]:
    """Map image -> image whose mask it should have, in the best pairing in which every change gains over cost.

    Swaps are cycles of two or more masks. In large data only the images whose own masks rank lowest are paired.
    """
    lowest = np.argsort(_ranks(predicted, areas, own), kind="stable")[:MAX_PAIRED]
    gains = _standardised(predicted[lowest]) @ _standardised(areas[lowest]).T - own[lowest][:, None]
    offers = np.where(gains > cost, gains, -len(gains))
    np.fill_diagonal(offers, 0)
    pairs = zip(*linear_sum_assignment(-offers), strict=True)
    return {int(lowest[i]): int(lowest[j]) for i, j in pairs if i != j}


def _moved(predicted: Array, area: Array) -> tuple[str, float]:
    """Find how a mask (32, 32) is moved relative to the prediction, as text, and its agreement after correction."""
    padded = cv2.copyMakeBorder(predicted, REACH, REACH, REACH, REACH, cv2.BORDER_REPLICATE)
    agreements = cv2.matchTemplate(padded, area, cv2.TM_CCOEFF_NORMED)
    _, best, _, (column, row) = cv2.minMaxLoc(agreements)
    right, down = (REACH - column) / GRID, (REACH - row) / GRID
    across = f"{abs(right):.0%} to the {'right' if right > 0 else 'left'}" if right else ""
    along = f"{abs(down):.0%} {'down' if down > 0 else 'up'}" if down else ""
    return "moved " + " and ".join(part for part in (across, along) if part), float(best)

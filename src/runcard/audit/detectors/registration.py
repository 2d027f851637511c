"""Measure the similarity of two small grey images under rotation, mirroring, slight cropping and stretching.

The rotation is the one at which their rings correlate best. Starting from it, one image is registered to the other by
the affine map that maximises their correlation (ECC: Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008). Both steps use
details at equal local contrast, so that neither a vignette nor a bright bone dominates. If images have a black surround
(a dermatoscope's aperture), only the inside of both apertures is compared, because all share the aperture's edge.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Indices = NDArray[np.intp]

NUM_RINGS, NUM_ANGLES = 16, 64
NUM_FREQUENCIES, NUM_PHASES, RINGS_APART = 10, 6, (1, 2, 4)  # of the Fourier descriptors along the rings
COARSE_PX = 48  # side of the images on which registration starts
COARSE, FINE = (1.0, 4.0), (0.7, 1.5)  # bands: sds in pixels of two Gaussians, whose difference is the detail
COARSE_STEPS, FINE_STEPS = 20, 6  # of ECC, at most
LEAST_GAIN = 1e-4  # of correlation in a step: a smaller one ends the search
MAX_STRETCH = 1.5  # in any direction: rotating an oblong image shears its square thumb
LEAST_OVERLAP = 0.6  # of the smaller of the two apertures, inside the inscribed circle
BLACK = 32  # grey levels: maximum in the surround of an aperture
ROUND_PX = 0.34  # RMS distance of an aperture's outline from an ellipse: 0.22 to 0.33; bodies on CT 0.4 to 1.1
CUT_PX = 0.8  # the same if other images have round apertures: a copy's may be cut and turned
MAX_ASPECT = 2.0  # of this ellipse: a round aperture in an oblong image is elliptical in its thumb
MIN_OUTLINE = 16  # pixels that an ellipse is fitted to
APERTURE_EDGE_PX = 2  # excluded at the edge of an aperture, which may be soft
MIN_APERTURE = 0.2  # as a share of the image
MIN_APERTURES = 3  # images with a round aperture; with fewer, apertures are ignored
FILL_RADIUS_PX = 3  # of the neighbourhood that fills a pixel outside the aperture
NO_FIT = -1.0  # score of two images that cannot be registered
CHUNK = 2048  # images that are described, or pairs whose rotations are searched, at once
STRAIGHT_DEGREES = 1.5  # rotations this close to a multiple of 90° are reported as it


class Layers(NamedTuple):
    """What is compared of N images: stacks of N arrays."""

    coarse: Bytes  # (N, 48, 48) large details, 128 where there are none
    fine: Bytes  # (N, S, S) small details, likewise
    rings: Floats  # (N, rings, angles) around the centre: mean 0, sd 1
    aperture: Bytes  # (N, S, S) 1 inside the aperture, 0 outside; 1 everywhere in images without one


class Turn(NamedTuple):
    """A transform of an image: mirrored or not (left and right exchanged), then rotated clockwise."""

    radians: float
    mirrored: bool

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The (2, 2) matrix that transforms points (x, y), y pointing down."""
        c, s = math.cos(self.radians), math.sin(self.radians)
        return np.array([[c, -s], [s, c]]) * ([-1, 1] if self.mirrored else [1, 1])


def describe(thumbs: Bytes, apertures: Bytes | None = None) -> Layers:
    """Describe thumbs (N, S, S), N >= 1, inside their apertures (N, S, S) for comparison; None means everywhere."""
    size = thumbs.shape[-1]
    apertures = np.ones_like(thumbs) if apertures is None else apertures
    radii = np.linspace(1.5, size / 2 - 1.5, NUM_RINGS)[:, None]
    angles = 2 * np.pi * np.arange(NUM_ANGLES) / NUM_ANGLES
    x, y = (((size - 1) / 2 + radii * way).astype(np.float32) for way in (np.cos(angles), np.sin(angles)))
    coarse = np.empty((len(thumbs), COARSE_PX, COARSE_PX), np.uint8)
    fine, rings = np.empty_like(thumbs), np.empty((len(thumbs), NUM_RINGS, NUM_ANGLES), np.float32)
    for i, (thumb, aperture) in enumerate(zip(thumbs, apertures, strict=True)):
        filled = _filled(thumb, aperture)
        small = cv2.resize(filled, (COARSE_PX,) * 2, interpolation=cv2.INTER_AREA)
        coarse[i] = _band(np.asarray(small, np.uint8), COARSE, _coarse(aperture))
        fine[i] = _band(filled, FINE, aperture)
        grey = cv2.remap(_blurred(filled.astype(np.float32), 1.0), x, y, cv2.INTER_LINEAR)
        rings[i] = (grey - grey.mean()) / (grey.std() + 1e-6)
    return Layers(coarse, fine, rings, apertures)


def find_apertures(thumbs: Bytes) -> Bytes:
    """Find the apertures (N, S, S) of thumbs (N, S, S), N >= 1; 1 everywhere if fewer than MIN_APERTURES have one."""
    num_round = sum(not find_aperture(thumb, ROUND_PX).all() for thumb in thumbs)
    if num_round < MIN_APERTURES:
        return np.broadcast_to(np.uint8(1), thumbs.shape)  # takes no memory
    return np.stack([find_aperture(thumb, CUT_PX) for thumb in thumbs])


def find_aperture(thumb: Bytes, roughness_px: float) -> Bytes:
    """Find the round aperture of thumb (S, S), as (S, S) with 1 well inside it; 1 everywhere without one.

    Its black surround includes all four corners. The part of its outline inside the image deviates from an ellipse by
    roughness_px at most (RMS).
    """
    corners = (np.array([0, 0, -1, -1]), np.array([0, -1, 0, -1]))
    everywhere = np.ones_like(thumb)
    if thumb[corners].max() > BLACK:
        return everywhere
    num_labels, labels = cv2.connectedComponents((thumb <= BLACK).astype(np.uint8), connectivity=4)
    is_inside = np.ones(num_labels, np.uint8)
    is_inside[labels[corners]] = 0
    inside = is_inside[labels]
    if not inside.any():
        return everywhere
    hull = cv2.convexHull(cv2.findNonZero(inside))  # a black lesion at the aperture's edge is inside
    outline = cv2.polylines(np.zeros_like(thumb), [hull], isClosed=True, color=1)[1:-1, 1:-1]
    if not _is_elliptical(np.argwhere(outline).astype(np.float32), roughness_px):
        return everywhere
    whole = cv2.fillConvexPoly(np.zeros_like(thumb), hull, 1)
    aperture = np.asarray(cv2.erode(whole, np.ones((2 * APERTURE_EDGE_PX + 1,) * 2, np.uint8)), np.uint8)
    return aperture if aperture.mean() >= MIN_APERTURE else everywhere


def _is_elliptical(points: Floats, roughness_px: float) -> bool:
    """Whether points (N, 2) in pixels lie on an ellipse that is not too long (Fitzgibbon et al., IEEE TPAMI 1999)."""
    if len(points) < MIN_OUTLINE:
        return False
    centre, axes, degrees = cv2.fitEllipseDirect(points)
    if not 0 < max(axes) <= MAX_ASPECT * min(axes):  # a line gives nan axes
        return False
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    radii = np.linalg.norm((points - centre) @ [[c, -s], [s, c]] / np.divide(axes, 2), axis=1)
    return bool(np.sqrt(np.mean((radii - 1) ** 2)) * min(axes) / 2 <= roughness_px)


def _filled(thumb: Bytes, aperture: Bytes) -> Bytes:
    """Inpaint the surround of the aperture (S, S) in thumb (S, S)."""
    return thumb if aperture.all() else np.asarray(cv2.inpaint(thumb, 1 - aperture, FILL_RADIUS_PX, cv2.INPAINT_TELEA))


def _coarse(aperture: Bytes) -> Bytes:
    """Resize the aperture (S, S) to the size (48, 48) of the coarse details."""
    return np.asarray(cv2.resize(aperture, (COARSE_PX,) * 2, interpolation=cv2.INTER_NEAREST), np.uint8)


def descriptors(rings: Floats) -> Floats:
    """Compute descriptors (N, D) of rings (N, R, A) that are invariant to rotation and mirroring.

    A rotation adds the same phase to a frequency in every ring, and mirroring negates all phases. So the means, the
    magnitudes and the cosines of phase differences are invariant. Square roots weaken dominant frequencies.
    """
    return np.concatenate([_described(rings[start : start + CHUNK]) for start in range(0, len(rings), CHUNK)])


def _described(rings: Floats) -> Floats:
    waves = np.fft.rfft(rings, axis=2)[:, :, :NUM_FREQUENCIES] / NUM_ANGLES
    magnitudes = np.sqrt(np.abs(waves[:, :, 1:]))
    low = waves[:, :, 1 : NUM_PHASES + 1]
    products = [low[:, :-apart] * low[:, apart:].conj() for apart in RINGS_APART]
    cosines = [product.real / np.sqrt(np.abs(product) + 1e-6) for product in products]
    parts = (waves[:, :, 0].real, magnitudes, *cosines)
    return np.concatenate([part.reshape(len(rings), -1) for part in parts], axis=1).astype(np.float32)


def compared(one: Layers, i: Indices, other: Layers, j: Indices) -> tuple[NDArray[np.float64], list[str]]:
    """Register each pair one[i], other[j]; return the scores, and the transforms from first to second as text.

    The score is the correlation of fine details where both overlap, in [-1, 1].
    """
    scores, hows = np.full(len(i), NO_FIT), [""] * len(i)
    for k, turn in enumerate(_turns(one.rings, i, other.rings, j)):
        a, b = (Layers(*(stack[place] for stack in of)) for of, place in ((one, i[k]), (other, j[k])))
        move = _registered(a, b, turn)
        if move is not None:
            scores[k], hows[k] = _score(a, b, move), in_words(move)
    return scores, hows


def about_middle(matrix: NDArray[np.float64], size: int, shift: NDArray[np.float64] | float = 0.0) -> Floats:
    """Build the (2, 3) map of points that adds shift (x, y), then applies matrix (2, 2) about an image's centre."""
    middle = np.full(2, (size - 1) / 2)
    return np.column_stack([matrix, middle + matrix @ (shift - middle)]).astype(np.float32)


@cache
def disc(size: int) -> Bytes:
    """Draw (size, size), 1 well inside the inscribed circle, which stays visible under any rotation."""
    ways = np.arange(size) - (size - 1) / 2
    return (ways**2 + ways[:, None] ** 2 < (0.46 * size) ** 2).astype(np.uint8)


def in_words(move: Floats) -> str:
    """Format a (2, 3) map of points: "as it is", "mirrored", "rotated by 90°" or "rotated by 5°, mirrored"."""
    mirrored = bool(np.linalg.det(move[:, :2]) < 0)
    turned = move[:, :2] * ([-1, 1] if mirrored else [1, 1])
    degrees = abs(math.degrees(math.atan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])))
    quarters = 90 * round(degrees / 90)
    shown = quarters if abs(degrees - quarters) < STRAIGHT_DEGREES else round(degrees)
    words = [f"rotated by {shown}°" if shown else "", "mirrored" if mirrored else ""]
    return ", ".join(filter(None, words)) or "as it is"


def _band(image: Bytes, band: tuple[float, float], aperture: Bytes) -> Bytes:
    """Compute the details of image (S, S) between two scales, divided by their local sd; 128 is none, 40 one sd.

    Outside the aperture (S, S) there are none.
    """
    narrow, wide = band
    grey = image.astype(np.float32)
    detail = _blurred(grey, narrow) - _blurred(grey, wide)
    sd = np.sqrt(_blurred(detail * detail, 1.5 * wide)) + 1  # one grey level, so that noise stays small
    return np.asarray(np.clip(128 + 40 * aperture * detail / sd, 0, 255), np.uint8)


def _blurred(image: Floats, sd: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sd), np.float32)


def _turns(one: Floats, i: Indices, other: Floats, j: Indices) -> Iterator[Turn]:
    """Find for each pair the turn at which one's rings correlate best with other's."""
    radii = np.arange(1, NUM_RINGS + 1, dtype=np.float32)[:, None]  # rings are weighted by length
    for start in range(0, len(i), CHUNK):
        pairs = slice(start, start + CHUNK)
        a, b = np.fft.rfft(one[i[pairs]] * radii, axis=2), np.fft.rfft(other[j[pairs]], axis=2)
        turned, mirrored = (np.fft.irfft((w * b).sum(axis=1), n=NUM_ANGLES, axis=1) for w in (a.conj(), a))
        for straight, reverse in zip(turned, mirrored, strict=True):
            if straight.max() >= reverse.max():
                yield Turn(_peak(straight), mirrored=False)
            else:  # exchanging left and right maps an angle to π minus it
                yield Turn(_peak(reverse) - math.pi, mirrored=True)


def _peak(curve: NDArray[np.float64]) -> float:
    """Find the angle in radians of the maximum of a periodic curve, by a parabola through three of its values."""
    top = int(curve.argmax())
    before, at, after = curve[top - 1], curve[top], curve[(top + 1) % len(curve)]
    bend = before - 2 * at + after
    return float(2 * np.pi / len(curve) * (top + ((before - after) / (2 * bend) if bend else 0.0)))


def _registered(one: Layers, other: Layers, turn: Turn) -> Floats | None:
    """Find the (2, 3) map from points of one image to those of other; None if registration fails."""
    size = len(one.fine)
    try:
        start = about_middle(turn.matrix, COARSE_PX)
        move = _ecc(one.coarse, other.coarse, _coarse(other.aperture), start, COARSE_STEPS, blur_px=5)
        middle = np.full(2, 0.5) - move[:, :2] @ np.full(2, 0.5)  # pixels are areas: their corners, not centres, scale
        move[:, 2] = (move[:, 2] + middle) * (size / COARSE_PX) - middle
        move = _ecc(one.fine, other.fine, other.aperture, move, FINE_STEPS, blur_px=3)
    except cv2.error:  # from ECC: no overlap, or a singular step
        return None
    largest, smallest = np.linalg.svd(move[:, :2], compute_uv=False)
    return move if largest <= MAX_STRETCH and smallest >= 1 / MAX_STRETCH else None


def _ecc(one: Bytes, other: Bytes, aperture: Bytes, move: Floats, steps: int, blur_px: int) -> Floats:
    ending = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, LEAST_GAIN)
    found = cv2.findTransformECC(one, other, move, cv2.MOTION_AFFINE, ending, aperture * disc(len(one)), blur_px)[1]
    return np.asarray(found, np.float32)


def _score(one: Layers, other: Layers, move: Floats) -> float:
    """Correlate the fine details of one image with those of other, after mapping other back onto one.

    Only pixels inside both apertures and the inscribed circle count.
    """
    shape, flags = one.fine.shape, cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other.fine, move, shape, flags=cv2.INTER_CUBIC | flags)
    circle = disc(len(one.fine))
    inside = cv2.warpAffine(other.aperture, move, shape, flags=cv2.INTER_NEAREST | flags) * one.aperture * circle > 0
    if inside.sum() < LEAST_OVERLAP * min((of.aperture * circle).sum() for of in (one, other)):
        return NO_FIT
    a, b = (of[inside] - of[inside].mean(dtype=np.float32) for of in (one.fine, moved))
    return float(a @ b / (math.sqrt(float(a @ a) * float(b @ b)) + 1e-6))

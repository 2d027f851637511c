"""How alike two small grey images are, whichever way up, mirrored or not, and a little cropped or stretched.

The turn is where their rings correlate best; from there one is laid onto the other by an affine map that maximises
their correlation (ECC: Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008). Both see details at equal contrast
everywhere, so that neither a vignette nor a bright bone decides. Of images in a black surround (a dermatoscope's
aperture) only what lies inside both apertures is compared: the edge of the aperture itself is in all of them.
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
NUM_FREQUENCIES, NUM_PHASES, RINGS_APART = 10, 6, (1, 2, 4)  # of the waves around a ring that describe an image
COARSE_PX = 48  # of the images on which the map is first sought
COARSE, FINE = (1.0, 4.0), (0.7, 1.5)  # bands: sd in pixels of the two Gaussians whose difference is kept
COARSE_STEPS, FINE_STEPS = 20, 6  # of ECC, at the most
LEAST_GAIN = 1e-4  # in correlation, of a step: less ends the search
MAX_STRETCH = 1.5  # along any direction: a turn of an oblong image is a shear of its square thumb
LEAST_OVERLAP = 0.6  # of the smaller of the two apertures, inside the inscribed circle
BLACK = 32  # grey levels: the surround of an aperture is at most this bright
ROUND_PX = 0.34  # RMS distance of an aperture's outline from an ellipse: 0.22 to 0.33; bodies on CT 0.4 to 1.1
CUT_PX = 0.8  # the same where others of the set are round: a copy's may be cut by its frame, and turned
MAX_ASPECT = 2.0  # of this ellipse: a round aperture in an oblong image
MIN_OUTLINE = 16  # pixels to fit an ellipse to
APERTURE_EDGE_PX = 2  # left out at the edge of an aperture, which may be soft
MIN_APERTURE = 0.2  # share of the image that remains
MIN_APERTURES = 3  # images of a set with a round one: fewer share no edge
FILL_RADIUS_PX = 3  # of the neighbourhood that a pixel outside the aperture is filled from
NO_FIT = -1.0  # the score of two images that cannot be laid onto each other
CHUNK = 2048  # pairs whose turns are sought at once
STRAIGHT_DEGREES = 1.5  # a turn this close to a quarter turn is reported as one


class Looks(NamedTuple):
    """What is compared of N images: each a stack of N."""

    coarse: Bytes  # (N, 48, 48) large details, 128 where there is none
    fine: Bytes  # (N, S, S) the same of small details
    rings: Floats  # (N, rings, angles) around the middle: mean 0, sd 1
    aperture: Bytes  # (N, S, S) 1 inside the aperture, 0 outside; 1 everywhere in images without one


class Turn(NamedTuple):
    """How an image is moved: mirrored or not (left and right exchanged), then turned clockwise."""

    radians: float
    mirrored: bool

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The (2, 2) matrix that moves points (x, y), y pointing down."""
        c, s = math.cos(self.radians), math.sin(self.radians)
        return np.array([[c, -s], [s, c]]) * ([-1, 1] if self.mirrored else [1, 1])


def looks(thumbs: Bytes, apertures: Bytes | None = None) -> Looks:
    """Returns what is compared of thumbs (N, S, S), N >= 1, of each inside its aperture (N, S, S); None: everywhere."""
    size = thumbs.shape[-1]
    apertures = np.ones_like(thumbs) if apertures is None else apertures
    thumbs = np.stack([_filled(*each) for each in zip(thumbs, apertures, strict=True)])
    small = [cv2.resize(t, (COARSE_PX,) * 2, interpolation=cv2.INTER_AREA) for t in thumbs]
    coarse = [_band(t, COARSE, _coarse(aperture)) for t, aperture in zip(small, apertures, strict=True)]
    fine = [_band(t, FINE, aperture) for t, aperture in zip(thumbs, apertures, strict=True)]
    radii = np.linspace(1.5, size / 2 - 1.5, NUM_RINGS)[:, None]
    angles = 2 * np.pi * np.arange(NUM_ANGLES) / NUM_ANGLES
    x, y = (((size - 1) / 2 + radii * way).astype(np.float32) for way in (np.cos(angles), np.sin(angles)))
    greys = [cv2.remap(_blurred(t.astype(np.float32), 1.0), x, y, cv2.INTER_LINEAR) for t in thumbs]
    rings = np.array([(grey - grey.mean()) / (grey.std() + 1e-6) for grey in greys], np.float32)
    return Looks(np.stack(coarse), np.stack(fine), rings, apertures)


def find_apertures(thumbs: Bytes) -> Bytes:
    """Return the apertures (N, S, S) of thumbs (N, S, S), N >= 1; 1 everywhere where hardly any image has one."""
    num_round = sum(not find_aperture(thumb, ROUND_PX).all() for thumb in thumbs)
    if num_round < MIN_APERTURES:
        return np.ones_like(thumbs)
    return np.stack([find_aperture(thumb, CUT_PX) for thumb in thumbs])


def find_aperture(thumb: Bytes, roughness_px: float) -> Bytes:
    """Return (S, S), 1 well inside the round aperture that thumb (S, S) was seen through; 1 everywhere without one.

    Black surrounds it from all four corners, and what of its outline lies inside the image is part of an ellipse, from
    which it is roughness_px away at most (RMS).
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
    hull = cv2.convexHull(cv2.findNonZero(inside))  # a black lesion at the aperture's edge is part of it
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
    if not 0 < max(axes) <= MAX_ASPECT * min(axes):  # a line has no ellipse, and nan axes
        return False
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    radii = np.linalg.norm((points - centre) @ [[c, -s], [s, c]] / np.divide(axes, 2), axis=1)
    return bool(np.sqrt(np.mean((radii - 1) ** 2)) * min(axes) / 2 <= roughness_px)


def _filled(thumb: Bytes, aperture: Bytes) -> Bytes:
    """Return thumb (S, S) with what is inside the aperture (S, S) continued smoothly into its surround."""
    return thumb if aperture.all() else np.asarray(cv2.inpaint(thumb, 1 - aperture, FILL_RADIUS_PX, cv2.INPAINT_TELEA))


def _coarse(aperture: Bytes) -> Bytes:
    """Return the aperture (S, S) at the size (48, 48) of the coarse details."""
    return np.asarray(cv2.resize(aperture, (COARSE_PX,) * 2, interpolation=cv2.INTER_NEAREST), np.uint8)


def descriptors(rings: Floats) -> Floats:
    """Returns (N, D) of rings (N, R, A): their means, and what a turn or a mirroring leaves alone of their waves.

    A turn adds the same phase to a wave in every ring, a mirroring reverses all phases: magnitudes stay as they are,
    and so do the cosines of differences between rings. Roots are taken, so that no strong wave drowns the others.
    """
    waves = np.fft.rfft(rings, axis=2)[:, :, :NUM_FREQUENCIES] / NUM_ANGLES
    magnitudes = np.sqrt(np.abs(waves[:, :, 1:]))
    low = waves[:, :, 1 : NUM_PHASES + 1]
    products = [low[:, :-apart] * low[:, apart:].conj() for apart in RINGS_APART]
    cosines = [product.real / np.sqrt(np.abs(product) + 1e-6) for product in products]
    parts = (waves[:, :, 0].real, magnitudes, *cosines)
    return np.concatenate([part.reshape(len(rings), -1) for part in parts], axis=1).astype(np.float32)


def compared(one: Looks, i: Indices, other: Looks, j: Indices) -> tuple[NDArray[np.float64], list[str]]:
    """Returns for each pair one[i], other[j] its score, and as text how the first is moved to give the second.

    The score is the correlation of their fine details where they overlap, in [-1, 1].
    """
    scores, hows = np.full(len(i), NO_FIT), [""] * len(i)
    for k, turn in enumerate(_turns(one.rings, i, other.rings, j)):
        a, b = (Looks(*(stack[place] for stack in of)) for of, place in ((one, i[k]), (other, j[k])))
        move = _registered(a, b, turn)
        if move is not None:
            scores[k], hows[k] = _score(a, b, move), in_words(move)
    return scores, hows


def about_middle(matrix: NDArray[np.float64], size: int, shift: NDArray[np.float64] | float = 0.0) -> Floats:
    """Returns the (2, 3) map of points that adds shift (x, y), then applies matrix (2, 2) about an image's middle."""
    middle = np.full(2, (size - 1) / 2)
    return np.column_stack([matrix, middle + matrix @ (shift - middle)]).astype(np.float32)


@cache
def disc(size: int) -> Bytes:
    """Returns (size, size), 1 well inside the inscribed circle: what stays in sight however an image is turned."""
    ways = np.arange(size) - (size - 1) / 2
    return (ways**2 + ways[:, None] ** 2 < (0.46 * size) ** 2).astype(np.uint8)


def in_words(move: Floats) -> str:
    """Returns "as it is", "mirrored", "turned by 90°" or "turned by 5°, mirrored" for a (2, 3) map of points."""
    mirrored = bool(np.linalg.det(move[:, :2]) < 0)
    turned = move[:, :2] * ([-1, 1] if mirrored else [1, 1])
    degrees = abs(math.degrees(math.atan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1])))
    quarters = 90 * round(degrees / 90)
    shown = quarters if abs(degrees - quarters) < STRAIGHT_DEGREES else round(degrees)
    words = [f"turned by {shown}°"] * (shown > 0) + ["mirrored"] * mirrored
    return ", ".join(words) or "as it is"


def _band(image: Bytes, band: tuple[float, float], aperture: Bytes) -> Bytes:
    """Returns the details of image (S, S) between two scales, divided by their sd around; 128 is none, 40 one sd.

    Outside the aperture (S, S) there are none.
    """
    narrow, wide = band
    grey = image.astype(np.float32)
    detail = _blurred(grey, narrow) - _blurred(grey, wide)
    sd = np.sqrt(_blurred(detail * detail, 1.5 * wide)) + 1  # a grey level: what varies less is noise, and stays small
    return np.asarray(np.clip(128 + 40 * aperture * detail / sd, 0, 255), np.uint8)


def _blurred(image: Floats, sd: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sd), np.float32)


def _turns(one: Floats, i: Indices, other: Floats, j: Indices) -> Iterator[Turn]:
    """Yields for each pair the turn of one's rings that is most like other's, by correlation around the circle."""
    radii = np.arange(1, NUM_RINGS + 1, dtype=np.float32)[:, None]  # a ring counts by its length
    for start in range(0, len(i), CHUNK):
        pairs = slice(start, start + CHUNK)
        a, b = np.fft.rfft(one[i[pairs]] * radii, axis=2), np.fft.rfft(other[j[pairs]], axis=2)
        turned, mirrored = (np.fft.irfft((w * b).sum(axis=1), n=NUM_ANGLES, axis=1) for w in (a.conj(), a))
        for straight, reverse in zip(turned, mirrored, strict=True):
            if straight.max() >= reverse.max():
                yield Turn(_peak(straight), mirrored=False)
            else:  # left and right exchanged is the angle taken from half a turn
                yield Turn(_peak(reverse) - math.pi, mirrored=True)


def _peak(curve: NDArray[np.float64]) -> float:
    """Returns the angle in radians at which a periodic curve is largest, by a parabola through three of its values."""
    top = int(curve.argmax())
    before, at, after = curve[top - 1], curve[top], curve[(top + 1) % len(curve)]
    bend = before - 2 * at + after
    return float(2 * np.pi / len(curve) * (top + ((before - after) / (2 * bend) if bend else 0.0)))


def _registered(one: Looks, other: Looks, turn: Turn) -> Floats | None:
    """Returns the (2, 3) map from points of one to those of other, both single; None where they do not fit."""
    size = len(one.fine)
    try:
        start = about_middle(turn.matrix, COARSE_PX)
        move = _ecc(one.coarse, other.coarse, _coarse(other.aperture), start, COARSE_STEPS, blur_px=5)
        middle = np.full(2, 0.5) - move[:, :2] @ np.full(2, 0.5)  # pixels are areas: their corners, not middles, scale
        move[:, 2] = (move[:, 2] + middle) * (size / COARSE_PX) - middle
        move = _ecc(one.fine, other.fine, other.aperture, move, FINE_STEPS, blur_px=3)
    except cv2.error:  # of ECC: no overlap, or a step that does not exist
        return None
    largest, smallest = np.linalg.svd(move[:, :2], compute_uv=False)
    return move if largest <= MAX_STRETCH and smallest >= 1 / MAX_STRETCH else None


def _ecc(one: Bytes, other: Bytes, aperture: Bytes, move: Floats, steps: int, blur_px: int) -> Floats:
    ending = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, LEAST_GAIN)
    found = cv2.findTransformECC(one, other, move, cv2.MOTION_AFFINE, ending, aperture * disc(len(one)), blur_px)[1]
    return np.asarray(found, np.float32)


def _score(one: Looks, other: Looks, move: Floats) -> float:
    """Returns the correlation of one's fine details with other's, moved back onto them; both single.

    It is taken inside both apertures, and inside the circle that both images fill.
    """
    shape, flags = one.fine.shape, cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(other.fine, move, shape, flags=cv2.INTER_CUBIC | flags)
    circle = disc(len(one.fine))
    inside = cv2.warpAffine(other.aperture, move, shape, flags=cv2.INTER_NEAREST | flags) * one.aperture * circle > 0
    if inside.sum() < LEAST_OVERLAP * min((of.aperture * circle).sum() for of in (one, other)):
        return NO_FIT
    a, b = (of[inside] - of[inside].mean(dtype=np.float32) for of in (one.fine, moved))
    return float(a @ b / (math.sqrt(float(a @ a) * float(b @ b)) + 1e-6))

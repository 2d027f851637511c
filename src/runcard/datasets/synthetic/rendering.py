"""Rendering shared by the phantoms: seeded streams, drawing in unit coordinates, and radiographs from densities.

A length of 1 is the image's side, (0, 0) its top left corner, (1, 1) its bottom right: the same anatomy can be drawn at
any size. A layer is a float32 array (size, size): the amount of something in each pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Layer = NDArray[np.float32]
Points = NDArray[np.float64]  # (N, 2) or lines of these (…, N, 2), x to the right and y down

GLYPHS: dict[str, list[list[tuple[float, float]]]] = {  # strokes in a box of height 1
    "R": [[(0, 1), (0, 0), (0.45, 0), (0.62, 0.13), (0.62, 0.37), (0.45, 0.5), (0, 0.5)], [(0.3, 0.5), (0.65, 1)]],
    "L": [[(0, 0), (0, 1), (0.6, 1)]],
}
MAX_IMAGES, MAX_SIZE_PX = 1_000_000, 16_384
SUBPIXEL_BITS = 8
BRIGHTEST_TISSUE = 240  # of 255: only a printed marker is brighter


class Stream(IntEnum):
    """The purpose of a random stream. Separate streams keep one parameter from changing the rest of the image."""

    ANATOMY = 0
    FINDING = 1
    EXPOSURE = 2
    NOISE = 3
    MARKER = 4
    LABEL = 5
    LABEL_NOISE = 6
    SOURCE = 7
    RETAKE = 8


def stream(seed: int, index: int, purpose: Stream) -> np.random.Generator:
    """Create the generator of one purpose in one image, independent of the other images."""
    return np.random.default_rng(np.random.SeedSequence((seed, index, int(purpose))))


def between(low: float, high: float, share: float) -> float:
    """Interpolate linearly: the value at share (0 to 1) of the way from low to high."""
    return low + (high - low) * share


@lru_cache
def _spline(num_points: int, closed: bool) -> NDArray[np.float64]:
    """Compute the weights (M, num_points) of any such points in samples of the cubic spline through them."""
    knots = np.arange(num_points + closed)
    unit = np.eye(num_points)[knots % num_points]
    spline = CubicSpline(knots, unit, bc_type="periodic" if closed else "natural")
    weights: NDArray[np.float64] = spline(np.linspace(0, knots[-1], 8 * int(knots[-1]) + 1))
    return weights


def smooth(points: Points, closed: bool = False) -> Points:
    """Interpolate a smooth curve (…, M, 2) through the points (…, N, 2)."""
    return _spline(points.shape[-2], closed) @ points


def ribbon(line: Points, width: float | NDArray[np.float64]) -> Points:
    """Outline a line (…, M, 2) as a polygon (…, 2 M, 2) of this width, one number or one for each point."""
    along = np.gradient(line, axis=-2)
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1) / np.linalg.norm(along, axis=-1, keepdims=True)
    half = normal * np.reshape(width, (-1, 1)) / 2
    return np.concatenate([line + half, (line - half)[..., ::-1, :]], axis=-2)


def blob(rng: np.random.Generator, center: Points, radii: Points, ragged: float) -> Points:
    """Sample a closed outline around center whose radii vary by ± ragged (a fraction of them)."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    radius = 1 + ragged * rng.uniform(-1, 1, 8)
    return smooth(center + radii * np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None], closed=True)


def pose(center: Points, degrees: float, scale: float) -> Points:
    """Build the map (2, 3) from a body's own coordinates to the image's; its origin falls on center."""
    radians = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    return np.concatenate([turn, center[:, None]], axis=1)


@dataclass(frozen=True)
class Canvas:
    """A square image of size_px on which a body's polygons are drawn through its pose (2, 3)."""

    size_px: int
    pose: Points

    def fill(self, *polygons: Points, soft: float = 0.0) -> Layer:
        """Draw a layer, 1 inside any polygon and 0 outside, blurred by soft (a length on the image)."""
        fine = 2 * self.size_px  # cv2 widens each polygon by half a pixel: smaller pixels reduce that
        drawn = np.zeros((fine, fine), np.uint8)
        for polygon in polygons:
            pixels = (polygon @ self.pose[:, :2].T + self.pose[:, 2]) * fine - 0.5
            cv2.fillPoly(drawn, [subpixels(pixels)], 255, cv2.LINE_AA, shift=SUBPIXEL_BITS)
        layer = cv2.resize(drawn, (self.size_px, self.size_px), interpolation=cv2.INTER_AREA)
        return blur(np.float32(1 / 255) * layer, soft)


def subpixels(pixels: Points) -> NDArray[np.int32]:
    """Convert points to the fixed-point numbers that cv2 draws with."""
    fixed: NDArray[np.int32] = np.round(pixels * 2**SUBPIXEL_BITS).astype(np.int32)
    return fixed


def blur(layer: Layer, length: float) -> Layer:
    """Blur the layer with a Gaussian whose sigma is a length on the image."""
    sigma = length * len(layer)
    return np.asarray(cv2.GaussianBlur(layer, (0, 0), sigma), np.float32) if sigma > 0.2 else layer


def clouds(rng: np.random.Generator, size_px: int, cells: int) -> Layer:
    """Sample smooth standard normal noise of cells x cells knots: the same clouds at every size."""
    knots = rng.standard_normal((cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(knots, (size_px, size_px), interpolation=cv2.INTER_CUBIC), np.float32)


def collimation(rng: np.random.Generator, size_px: int) -> Layer:
    """Sample the exposed area (1 inside): a slightly rotated rectangle, its edges mostly outside the image."""
    edges = np.where(rng.random(4) < 0.3, rng.uniform(0.0, 0.07, 4), -0.2)  # left, top, right, bottom
    edges[3] += 0.08 * (edges[3] > 0) * rng.random()
    left, top, right, bottom = edges - 0.5
    corners = np.array([(left, top), (-right, top), (-right, -bottom), (left, -bottom)])
    return Canvas(size_px, pose(np.array([0.5, 0.5]), rng.normal(0, 1.2), 1.0)).fill(corners, soft=0.003)


def develop(
    density: Layer, exposure: np.random.Generator, noise: np.random.Generator, grain: float
) -> NDArray[np.uint8]:
    """Render the image (uint8): exposure, a slope across it, collimation, lens blur and noise of sd grain (0 to 1)."""
    size_px = len(density)
    density = density.astype(np.float64)  # float32 powers differ between processors: here and there by a grey level
    image = 1 - np.exp(-exposure.uniform(0.95, 1.7) * np.maximum(density, 0))
    image = image ** exposure.uniform(0.85, 1.25)
    ramp = np.linspace(-1, 1, size_px, dtype=np.float32)
    across, down = exposure.uniform(-0.1, 0.1, 2).astype(np.float32)
    image = image * (1 + across * ramp[None, :] + down * ramp[:, None]) + exposure.uniform(0.0, 0.08)
    image = blur(image.astype(np.float32) * collimation(exposure, size_px), exposure.uniform(0.001, 0.004))
    image += grain * noise.standard_normal(image.shape, dtype=np.float32)
    return np.clip(255 * image, 0, BRIGHTEST_TISSUE).astype(np.uint8)


def print_marker(image: NDArray[np.uint8], rng: np.random.Generator, height: float) -> None:
    """Print a white R near the upper left corner of the image, or an L near the upper right one, in place."""
    letter = "RL"[rng.integers(2)]
    size_px = len(image)
    x, y = rng.uniform(0.04, 0.1, 2)
    left = x if letter == "R" else 1 - x - 0.65 * height
    corner: Points = np.array([left, y])
    strokes = [subpixels((np.array(stroke) * height + corner) * size_px) for stroke in GLYPHS[letter]]
    cv2.polylines(image, strokes, False, 255, max(1, round(height * size_px / 6)), cv2.LINE_AA, shift=SUBPIXEL_BITS)

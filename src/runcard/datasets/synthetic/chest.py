"""Procedural frontal chest radiographs with exact lung masks, in any number.

The difficulty is in the context, as in real radiographs: air beside the body, the stomach's bubble and the black border
are as dark as lung; ribs and opacities inside the lung are as bright as the tissue around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runcard.data.source import Source
from runcard.datasets.synthetic.rendering import (
    MAX_IMAGES,
    MAX_SIZE_PX,
    Canvas,
    Layer,
    Points,
    Stream,
    between,
    blob,
    blur,
    clouds,
    develop,
    pose,
    print_marker,
    ribbon,
    smooth,
    stream,
)
from runcard.errors import check_flag, check_integer, check_number

# One lung in its own frame: u from the midline (0) to the ribcage (1), v from the apex (0) to the base (1).
WALL_U = [0.27, 0.24, 0.28, 0.23, 0.26, 0.44, 0.66, 0.84, 0.95, 1.0, 0.98]
WALL_V = [0.92, 0.7, 0.46, 0.24, 0.06, 0.0, 0.08, 0.27, 0.52, 0.78, 1.0]
WALL = np.column_stack([WALL_U, WALL_V])
DOME = np.array([(0.98, 1.0), (0.86, 0.88), (0.64, 0.8), (0.44, 0.82), (0.27, 0.92)])
# The heart from the left diaphragm up; lengths relative to the image's side, +x to the body's left.
HEART_X = [-0.085, -0.095, -0.06, 0.08, 0.18, 0.21, 0.15, 0.075, 0.0, -0.05]
HEART_Y = [-0.2, -0.1, 0.0, 0.04, 0.01, -0.09, -0.23, -0.35, -0.39, -0.31]
HEART = np.column_stack([HEART_X, HEART_Y])
# The rest in the body's frame: the origin in the middle of the chest, lengths and directions as for the heart.
HALF_BODY_X = [0.1, 0.1, 0.17, 0.36, 0.5, 0.6, 0.62, 0.5, 0.46, 0.45, 0.45]
HALF_BODY_Y = [-0.8, -0.46, -0.41, -0.37, -0.28, -0.1, 0.12, 0.08, 0.16, 0.35, 0.9]
HALF_BODY = np.column_stack([HALF_BODY_X, HALF_BODY_Y])
CLAVICLE = np.array([(0.04, -0.22), (0.14, -0.25), (0.27, -0.31), (0.43, -0.31)])
HUMERUS = np.array([(0.45, -0.32), (0.52, -0.31), (0.56, -0.24), (0.62, 0.0), (0.55, 0.02), (0.48, -0.23)])
VERTEBRAE = [ribbon(np.array([(0.0, y), (0.0, y + 0.044)]), 0.076) for y in np.linspace(-0.72, 0.68, 24)]
SCAPULA = np.array([(0.34, -0.3), (0.46, -0.26), (0.44, -0.1), (0.39, 0.08), (0.35, -0.08)])


@dataclass(frozen=True)
class Chest:
    """The outlines of one chest, in its own frame; the canvas places it on the image."""

    half_width: float
    top: float
    base: Points  # (2,): where the right and the left lung end
    lungs: tuple[Points, Points]  # right, left: at -x and +x
    heart: Points
    vessels: Points  # the great vessels above the heart, along the spine
    abdomen: Points
    bubble: Points


def mirrored(points: Points, side: int) -> Points:
    """Place the points on the body's left (side 1: unchanged) or right (side -1)."""
    across: Points = np.array([side, 1.0])
    return points * across


def sample_chest(rng: np.random.Generator, spread: float) -> Chest:
    """Sample a chest that departs from the average one in proportion to spread (1 is a usual population)."""

    def jitter(points: Points, sd: float) -> Points:
        return np.asarray(points + spread * sd * np.clip(rng.standard_normal(points.shape), -2, 2))

    half_width = 0.38 + 0.04 * spread * rng.uniform(-1, 1)
    top = -0.34 + 0.04 * spread * rng.uniform(-1, 1)
    base = np.array([0.27, 0.30]) + 0.05 * spread * (rng.uniform(-1, 1) + 0.5 * rng.uniform(-1, 1, 2))
    lungs, domes = [], []
    for side, bottom in zip((-1, 1), base, strict=True):
        size = np.array([half_width * (1 + 0.06 * spread * rng.uniform(-1, 1)), bottom - top])
        dome = jitter(DOME, 0.015) + np.outer([0, 1, 1.4, 1, 0], [0, 0.05 * spread * rng.uniform(-1, 1)])
        wall = jitter(WALL, 0.018)
        wall[0], wall[-1] = dome[-1], dome[0]
        lungs.append(mirrored(np.concatenate([smooth(wall), smooth(dome)]) * size + [0, top], side))
        domes.append(mirrored(smooth(dome) * size + [0, top], side))
    heart_size = 1 + spread * rng.uniform(-0.18, 0.25, 2)
    heart = smooth(jitter(HEART, 0.008) * heart_size + [0.01, base[1]], closed=True)
    arch = 0.06 + 0.03 * rng.random()
    vessels = np.array([(-0.05, -0.8), (-0.055, -0.2), (-0.07, 0.1), (0.06, 0.1), (0.05, -0.05), (arch, -0.1)])
    vessels = np.concatenate([vessels, [(arch, -0.15), (0.05, -0.2), (0.05, -0.8)]])
    floor = np.array([(0.7, base[1] + 0.3), (0.7, 1.2), (-0.7, 1.2), (-0.7, base[0] + 0.3)])
    abdomen = np.concatenate([domes[0], domes[1][::-1], floor])
    spot = np.array([rng.uniform(0.12, 0.24), base[1] + rng.uniform(-0.01, 0.03)])
    bubble = blob(rng, spot, rng.uniform([0.04, 0.02], [0.11, 0.06]), 0.2)
    return Chest(half_width, top, base, (lungs[0], lungs[1]), heart, jitter(vessels, 0.006), abdomen, bubble)


def ribs(chest: Chest, rng: np.random.Generator) -> tuple[Points, Points]:
    """Sample 20 rib polygons behind (from the spine out and down) and 20 in front (from the wall in and down)."""
    order = np.arange(10)
    slope = rng.uniform(0.06, 0.16)
    y = chest.top - 0.02 + (chest.base.mean() - chest.top) / rng.uniform(7.5, 9.5) * order
    reach = chest.half_width * np.minimum(1.03, 0.62 + 0.16 * order)
    behind = [(0 * reach + 0.05, y), (0.4 * reach, y - 0.02), (0.8 * reach, y + 0.3 * slope), (reach, y + slope)]
    front = [(reach, y + slope), (0.85 * reach, y + 1.7 * slope), (0.45 * reach, y + 2.2 * slope)]
    return ribbon(smooth(both_sides(behind)), 0.021), ribbon(smooth(both_sides(front)), 0.026)


def both_sides(knots: list[tuple[Points, Points]]) -> Points:
    """Build lines (2 N, knots, 2) from the x (N) and y (N) of each knot: on the body's left, and mirrored."""
    left = np.moveaxis(np.array(knots), -1, 0)
    return np.concatenate([left, mirrored(left, -1)])


def vessel_trees(chest: Chest, rng: np.random.Generator) -> Points:
    """Sample the vessels of both lungs as 20 polygons that taper from the hila outward."""
    angle = rng.uniform(-1.4, 1.5, 20)
    bend = angle + rng.normal(0, 0.5, 20)
    reach = rng.uniform(0.05, 0.12, (20, 1))
    hilum = np.tile([0.27 * chest.half_width, rng.uniform(-0.05, 0.0)], (20, 1))
    middle = hilum + reach * np.column_stack([np.cos(angle), np.sin(angle)])
    end = middle + reach * np.column_stack([np.cos(bend), np.sin(bend)])
    lines = smooth(np.stack([hilum, middle, end], axis=1))
    lines[10:] = mirrored(lines[10:], -1)
    return ribbon(lines, np.linspace(0.014, 0.003, lines.shape[1]))


def hila(chest: Chest) -> list[Points]:
    """Outline the roots of the lungs, two upright lines beside the heart."""
    x = 0.25 * chest.half_width
    return [ribbon(np.array([(side * x, -0.08), (side * 1.1 * x, 0.04)]), 0.05) for side in (-1, 1)]


def tissue(canvas: Canvas, chest: Chest, rng: np.random.Generator, bone: float) -> Layer:
    """Draw the density of everything but the lungs' air; bone is the ribs' share of it."""
    outline = np.concatenate([HALF_BODY, mirrored(HALF_BODY, -1)[::-1]])
    wide = max(1.0, (chest.half_width + 0.06) / 0.45)
    body = canvas.fill(outline * [wide, 1], soft=0.012)
    behind, front = ribs(chest, rng)
    blades = [mirrored(SCAPULA + rng.normal(0, 0.012, SCAPULA.shape), side) for side in (-1, 1)]
    collars = [mirrored(CLAVICLE + rng.normal(0, 0.012, CLAVICLE.shape), side) for side in (-1, 1)]
    arms = [mirrored(smooth(HUMERUS, closed=True), side) for side in (-1, 1)]
    depth = np.linspace(0, 0.25, canvas.size_px, dtype=np.float32)[:, None]  # the trunk thickens downwards
    density = body * (0.3 * body + 0.45 * blur(body, 0.07) + depth + 0.05 * clouds(rng, canvas.size_px, 5))
    density += 0.12 * canvas.fill(*[smooth(blade, closed=True) for blade in blades], soft=0.006)
    density += 0.25 * canvas.fill(*arms, soft=0.006)
    density += 0.22 * canvas.fill(*[ribbon(smooth(collar), 0.028) for collar in collars], soft=0.003)
    density += bone * (canvas.fill(*behind, soft=0.002) + 0.6 * canvas.fill(*front, soft=0.004)) * body
    density += 0.12 * canvas.fill(*VERTEBRAE, soft=0.003) + 0.2 * canvas.fill(chest.vessels, soft=0.01)
    density += 0.28 * canvas.fill(chest.heart, soft=0.008)
    density += 0.3 * canvas.fill(chest.abdomen, soft=0.005) * body
    density -= 0.45 * canvas.fill(chest.bubble, soft=0.005) * (rng.random() < 0.6)
    density -= 0.16 * canvas.fill(ribbon(np.array([(0.0, -0.6), (0.005, -0.14)]), 0.032), soft=0.005)
    return density


def opacities(canvas: Canvas, chest: Chest, rng: np.random.Generator) -> Layer:
    """Draw how far disease fills the lung, 0 to 1: up to four ragged patches, none in half of the chests."""
    filled = np.zeros((canvas.size_px, canvas.size_px), np.float32)
    ill = rng.random() < 0.5
    for _ in range(4):
        side = 1 if rng.random() < 0.5 else -1
        place = np.array([rng.uniform(0.3, 0.95) * side * chest.half_width, rng.uniform(chest.top, chest.base.min())])
        patch = blob(rng, place, rng.uniform(0.03, 0.13, 2), 0.4)
        strength = rng.uniform(0.4, 1.2) * (ill and rng.random() < 0.6)
        filled += strength * canvas.fill(patch, soft=0.02) * (0.8 + 0.3 * clouds(rng, canvas.size_px, 24))
    return np.clip(filled, 0, 0.95)


class PhantomChest(Source):
    """Chest radiographs of size size_px with the lungs as targets (1 = lung, heart and diaphragm left out).

    Image i depends on seed and i alone. difficulty (0 to 1) lowers the lungs' contrast and raises noise, ribs,
    opacities and the variety of shapes, each in the same places. With sides, the same pixels are two classes: 1 is the
    patient's right lung, on the left of the image, and 2 the left one. Raises ValueError, naming the argument, for a
    wrong value.
    """

    def __init__(
        self, num_images: int, size_px: int, difficulty: float = 0.5, sides: bool = False, seed: int = 0
    ) -> None:
        check_integer("num_images", num_images, 1, MAX_IMAGES)
        self.size_px = check_integer("size_px", size_px, 16, MAX_SIZE_PX)
        self.difficulty = check_number("difficulty", difficulty, 0, 1)
        self.seed = check_integer("seed", seed, 0)
        self.ids = [f"chest_{i:04d}" for i in range(num_images)]
        self.sides = check_flag("sides", sides)
        self.classes = ["background", "right", "left"] if sides else ["background", "lung"]

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
        anatomy = stream(self.seed, index, Stream.ANATOMY)
        spread = between(0.5, 1.5, self.difficulty)
        chest = sample_chest(anatomy, spread)
        center = np.array([0.5, 0.5]) + spread * np.clip(anatomy.normal(0, 0.035, 2), -0.07, 0.07)
        scale = 1.0 + 0.11 * spread * anatomy.uniform(-1, 1)
        canvas = Canvas(self.size_px, pose(center, spread * anatomy.normal(0, 2.5), scale))
        lungs = canvas.fill(*chest.lungs) * (1 - canvas.fill(chest.heart, chest.vessels))

        density = tissue(canvas, chest, anatomy, bone=between(0.06, 0.2, self.difficulty))
        air = blur(lungs, 0.005) * (1 + 0.06 * clouds(anatomy, self.size_px, 6))
        vessels = canvas.fill(*vessel_trees(chest, anatomy), soft=0.004) + canvas.fill(*hila(chest), soft=0.02)
        filled = opacities(canvas, chest, stream(self.seed, index, Stream.FINDING))
        air *= (1 - 0.16 * vessels) * (1 - self.difficulty * filled)
        density -= between(0.66, 0.48, self.difficulty) * air
        image = develop(
            density,
            stream(self.seed, index, Stream.EXPOSURE),
            stream(self.seed, index, Stream.NOISE),
            grain=between(0.005, 0.045, self.difficulty),
        )
        print_marker(image, stream(self.seed, index, Stream.MARKER), height=0.05)
        mask = (lungs >= 0.5).astype(np.uint8)
        if self.sides:
            mask[canvas.fill(chest.lungs[1]) >= 0.5] *= 2
        return image, mask, self.ids[index]

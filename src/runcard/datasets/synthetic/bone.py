"""Procedural radiographs of a broken femur: atypical (AFF) or normal (NFF) fracture, with common data faults.

Atypical: a short smooth transverse line from the lateral cortex, which is thickened there (a beak). Normal: a longer
jagged oblique line through both cortices, with a branch and a loose chip. Brightness does not predict the class.
"""

from __future__ import annotations

import cv2
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
    clouds,
    develop,
    pose,
    print_marker,
    ribbon,
    smooth,
    stream,
)
from runcard.errors import check_flag, check_integer, check_number

AFF, NFF = 0, 1
SHORTCUT_COVERAGE = 0.95  # share of the AFF images that carry the marker


def shaft_axis(rng: np.random.Generator, spread: float) -> Points:
    """Sample the bowed middle line of the shaft (17, 2) in its own frame: y from -1 to 1, the lateral side at +x."""
    y = np.linspace(-1, 1, 17)
    return np.stack([spread * (rng.uniform(0.0, 0.1) * (1 - y**2) + rng.uniform(-0.04, 0.04) * y**3), y], axis=1)


def flare(y: NDArray[np.float64], amount: float) -> NDArray[np.float64]:
    """Compute the shaft's width at y, relative to that in the middle: it widens towards the joints."""
    return 1 + amount * np.abs(y) ** 2.5


def limb(canvas: Canvas, axis: Points, half_width: float, rng: np.random.Generator) -> tuple[Layer, Layer]:
    """Draw the density of the unbroken thigh, and the layer of its bone (1 inside)."""
    y = np.linspace(-1, 1, 9)
    sides = [rng.uniform(0.24, 0.4) * (1 + rng.normal(0, 0.04, 9)) for _ in range(2)]
    skin = np.concatenate([smooth(np.stack([sides[0], y], axis=1)), smooth(np.stack([-sides[1], y], axis=1))[::-1]])
    shape = flare(axis[:, 1], rng.uniform(0.2, 0.9))
    bone = canvas.fill(ribbon(axis, 2 * half_width * shape), soft=0.003)
    cortex = rng.uniform(0.3, 0.42)
    marrow = canvas.fill(ribbon(axis, 2 * half_width * (shape - cortex * (1.15 - 0.5 * axis[:, 1] ** 2))), soft=0.008)
    density = 0.2 * canvas.fill(skin, soft=0.008) + 0.2 * canvas.fill(skin * [0.86, 1], soft=0.03)
    density *= 1 + 0.12 * clouds(rng, canvas.size_px, 6) + 0.04 * clouds(rng, canvas.size_px, 24)
    density += 0.62 * bone - 0.34 * marrow * (1 + 0.12 * clouds(rng, canvas.size_px, 40))
    return density, bone


def atypical_lines(half_width: float, rng: np.random.Generator) -> tuple[list[Points], Points]:
    """Sample the crack as lines, and the outline of the beak, around the height of the fracture (y = 0)."""
    reach = rng.uniform(1.2, 2.1) * half_width
    x = np.linspace(1.15 * half_width, 1.15 * half_width - reach, 4)
    line = np.stack([x, (x - half_width) * rng.uniform(-0.12, 0.12) + rng.normal(0, 0.003, 4)], axis=1)
    beak = blob(rng, np.array([1.02 * half_width, 0.0]), rng.uniform([0.02, 0.05], [0.035, 0.08]), 0.15)
    return [smooth(line)], beak


def normal_lines(half_width: float, rng: np.random.Generator) -> tuple[list[Points], Points]:
    """Sample the crack and its branch as lines, and the outline of a loose chip, around the fracture's height."""
    slope = rng.choice([-1, 1]) * np.tan(np.deg2rad(rng.uniform(32, 60)))
    x = np.linspace(-1.15, 1.15, 10) * half_width
    spiral = 0.35 * half_width * np.sin(np.linspace(-np.pi, np.pi, 10)) * rng.uniform(-1, 1)
    line = np.stack([x + rng.normal(0, 0.006, 10), x * slope + spiral + rng.normal(0, 0.012, 10)], axis=1)
    side = rng.choice([-1, 1])
    start = line[rng.integers(3, 7)]
    end = np.array([1.1 * side * half_width, start[1] - side * slope * rng.uniform(0.2, 0.9) * half_width])
    branch = np.linspace(start, end, 5) + rng.normal(0, 0.006, (5, 2))
    place = np.array([rng.choice([-1, 1]) * rng.uniform(0.95, 1.25) * half_width, rng.uniform(-0.1, 0.1)])
    return [line, branch], blob(rng, place, rng.uniform([0.02, 0.05], [0.035, 0.08]), 0.4)


def fracture(
    canvas: Canvas, label: int, site: Points, half_width: float, rng: np.random.Generator
) -> tuple[Layer, Layer]:
    """Draw the layers of the gap and of the extra bone. The gap's area has one range, but its width is limited."""
    lines, growth = (atypical_lines if label == AFF else normal_lines)(half_width, rng)
    length = sum(np.linalg.norm(np.diff(line, axis=0), axis=1).sum() for line in lines)
    width = np.clip(rng.uniform(0.004, 0.0065) / length, 0.01, 0.024)
    gap = canvas.fill(*[ribbon(line + site, width) for line in lines], soft=0.002)
    return gap, canvas.fill(growth + site, soft=0.006)


def retake(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Simulate a second exposure of the radiograph: moved by at most 2 % of its side, at most 8 % darker."""
    x, y = rng.uniform(-0.02, 0.02, 2) * len(image)
    darker = image * rng.uniform(0.92, 1.0)
    moved = cv2.warpAffine(darker, np.array([[1, 0, x], [0, 1, y]]), image.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved).astype(np.uint8)


class PhantomBone(Source):
    """Radiographs of size size_px with the kind of fracture as target: 0 = AFF, 1 = NFF.

    difficulty       0 to 1: fainter lines and beaks, more noise, more variety of shape
    imbalance        probability that an image is AFF
    label_noise      probability that a target is flipped; true_targets keeps the truth
    near_duplicates  probability that an image repeats an earlier one, slightly moved and darker, with other noise
    shortcut         prints a marker on nearly all AFF images and on no NFF image; otherwise on half of both

    Image i depends on seed and i alone (a near-duplicate also on its source, see sources). Raises ValueError,
    naming the argument, for a wrong value.
    """

    def __init__(
        self,
        num_images: int,
        size_px: int,
        difficulty: float = 0.5,
        imbalance: float = 0.5,
        label_noise: float = 0.0,
        near_duplicates: float = 0.0,
        shortcut: bool = False,
        seed: int = 0,
    ) -> None:
        check_integer("num_images", num_images, 1, MAX_IMAGES)
        self.size_px = check_integer("size_px", size_px, 16, MAX_SIZE_PX)
        self.difficulty = check_number("difficulty", difficulty, 0, 1)
        check_number("imbalance", imbalance, 0, 1)
        check_number("label_noise", label_noise, 0, 1)
        check_number("near_duplicates", near_duplicates, 0, 1)
        self.shortcut = check_flag("shortcut", shortcut)
        self.seed = check_integer("seed", seed, 0)
        self.ids = [f"bone_{i:04d}" for i in range(num_images)]
        self.classes = ["AFF", "NFF"]
        self.sources: list[int] = []  # whose anatomy image i shows: i itself, or the image that it repeats
        for i in range(num_images):
            rng = stream(self.seed, i, Stream.SOURCE)
            repeats = rng.random() < near_duplicates and i > 0
            self.sources.append(self.sources[rng.integers(i)] if repeats else i)
        is_atypical = [stream(self.seed, i, Stream.LABEL).random() < imbalance for i in self.sources]
        self.true_targets = [AFF if atypical else NFF for atypical in is_atypical]
        is_flipped = [stream(self.seed, i, Stream.LABEL_NOISE).random() < label_noise for i in range(num_images)]
        self.targets = [1 - t if flipped else t for t, flipped in zip(self.true_targets, is_flipped, strict=True)]

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int, str]:
        source = self.sources[index]
        image = self._image(source, self.true_targets[index], stream(self.seed, index, Stream.NOISE))
        if source != index:
            image = retake(image, stream(self.seed, index, Stream.RETAKE))
        marker = stream(self.seed, source, Stream.MARKER)
        coverage = SHORTCUT_COVERAGE * (self.true_targets[index] == AFF) if self.shortcut else 0.5
        if marker.random() < coverage:
            print_marker(image, marker, height=0.09)
        return image, self.targets[index], self.ids[index]

    def _image(self, source: int, label: int, noise: np.random.Generator) -> NDArray[np.uint8]:
        anatomy = stream(self.seed, source, Stream.ANATOMY)
        spread = between(0.5, 1.5, self.difficulty)
        axis = shaft_axis(anatomy, spread)
        half_width = 0.115 * (1 + 0.16 * spread * anatomy.uniform(-1, 1))
        center = np.array([0.5, 0.5]) + spread * anatomy.uniform(-0.06, 0.06, 2)
        stand = pose(center, spread * anatomy.uniform(-16, 16), 1.0)
        stand[:, 0] *= anatomy.choice([-1, 1])  # a right or a left leg
        canvas = Canvas(self.size_px, stand)
        height = anatomy.uniform(-0.25, 0.25)
        site = np.array([np.interp(height, axis[:, 1], axis[:, 0]), height])
        density, bone = limb(canvas, axis, half_width, anatomy)

        gap, growth = fracture(canvas, label, site, half_width, stream(self.seed, source, Stream.FINDING))
        density += between(0.5, 0.3, self.difficulty) * growth * (1 - 0.7 * bone)
        density -= between(0.95, 0.65, self.difficulty) * gap * np.maximum(bone, growth) * density
        exposure = stream(self.seed, source, Stream.EXPOSURE)
        return develop(density, exposure, noise, grain=between(0.005, 0.05, self.difficulty))

"""Detect regions of a radiograph outside the anatomy, from its pixels alone, and remove them."""

from __future__ import annotations

import cv2
import numpy as np

BORDER = 1 / 16  # thickness of the frame, as a share of the side
# A printed marker, as shares of the image's side or of full brightness:
LARGEST_MARKER, SMALLEST_MARKER = 0.2, 1 / 64
LONGEST_TO_SHORTEST = 4  # sides of its bounding box; cortices and collimation edges are longer
LEAST_FILLED = 0.25  # of its bounding box
BRIGHTEST = 0.62  # minimum of its brightest tenth
STANDS_OUT = 0.3  # minimum of its median minus the upper quartile along each side of its box
# Thresholds above the local background at which components are searched. A letter that touches the anatomy at a low
# threshold separates from it at a high one, which fainter letters do not reach.
LEVELS = (0.3, 0.45, 0.6)


def border(image: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: the outer frame of the image (H, W, C)."""
    height, width = image.shape[:2]
    rows, columns = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    frame = np.ones((height, width), bool)
    frame[rows:-rows, columns:-columns] = False
    return frame


def markers(image: np.ndarray) -> np.ndarray:
    """Find printed markers in the image (H, W, C) uint8, as (H, W) bool of their bounding boxes.

    A marker is a bright, small and compact component with darkness along each of its four sides (a piece of bone
    continues along one). Letters as dim as tissue, or over bright bone, are missed. Tuned on phantoms and knee
    radiographs.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]
    side = min(grey.shape)
    above = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, _square(LARGEST_MARKER * side))
    pixel = max(2, round(side / 64))  # the width of closed gaps and of rims
    found = np.zeros(grey.shape, bool)
    for level in LEVELS:
        bright = (above >= 255 * level).astype(np.uint8)
        joined = cv2.morphologyEx(bright, cv2.MORPH_CLOSE, _square(pixel + 1))
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(joined)
        for label, (left, top, width, height, area) in enumerate(boxes[1:].tolist(), start=1):
            shortest, longest = sorted((width, height))
            small = SMALLEST_MARKER * side <= shortest and longest <= LARGEST_MARKER * side
            compact = longest <= LONGEST_TO_SHORTEST * shortest and area >= LEAST_FILLED * width * height
            if not small or not compact:
                continue
            inside = grey[labels == label]
            rows, columns = slice(max(0, top - 1), top + height + 1), slice(max(0, left - 1), left + width + 1)
            around = max(np.percentile(rim, 75) for rim in _rims(grey, rows, columns, pixel) if rim.size)
            if np.percentile(inside, 90) >= 255 * BRIGHTEST and np.median(inside) - around >= 255 * STANDS_OUT:
                found[rows, columns] = True
    return found


REGIONS = {"border": border, "printed markers": markers}


def painted_over(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Inpaint region (H, W) bool of the image (H, W, C) uint8 from its surroundings (Telea 2004).

    A constant colour would leave an edge, which a model can use as well as the region itself.
    """
    filled = cv2.inpaint(image, region.astype(np.uint8), inpaintRadius=3, flags=cv2.INPAINT_TELEA)
    return np.asarray(filled).reshape(image.shape)


def left_alone(images: np.ndarray, regions: np.ndarray, average: np.ndarray) -> np.ndarray:
    """Replace all but the regions (N, H, W) of images (N, H, W, C) uint8 by average (H, W, C).

    Unlike a constant grey, the average resembles the images that the model was trained on, and it is the same for all.
    """
    return np.where(regions[..., None], images, average)


def _square(side: float) -> np.ndarray:
    return np.ones((max(1, round(side)),) * 2, np.uint8)


def _rims(grey: np.ndarray, rows: slice, columns: slice, width: int) -> list[np.ndarray]:
    """Cut the strips along the four sides of a box from grey (H, W); those outside the image are empty."""
    before = [slice(max(0, s.start - width), s.start) for s in (rows, columns)]
    behind = [slice(s.stop, s.stop + width) for s in (rows, columns)]
    return [grey[before[0], columns], grey[behind[0], columns], grey[rows, before[1]], grey[rows, behind[1]]]

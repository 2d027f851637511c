"""Colours laid over images. Input arrays are not modified.

Green is agreement, red is false positive and blue is missed. What nobody labelled is hatched.
"""

from __future__ import annotations

import cv2
import numpy as np

from runcard import IGNORED

GREEN, RED, BLUE = np.array([[60, 200, 90], [230, 60, 50], [70, 120, 255]], np.float32)
CONTOURS = [(255, 210, 0), (0, 200, 255), (255, 90, 220), (255, 140, 40)]  # of classes 1, 2, 3, 4, and again
OVERLAY_OPACITY = 0.45
HATCH, HATCH_PX = 170, 6  # grey of the lines where nobody labelled the pixels, and their distance along a row


def to_rgb(image: np.ndarray) -> np.ndarray:
    """Convert an image with one or three channels to (H, W, 3)."""
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def scale_to_fit(image: np.ndarray, size_px: int) -> np.ndarray:
    """Scale the image (H, W, C) uint8 to RGB whose longer side is size_px."""
    scale = size_px / max(image.shape[:2])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(to_rgb(image), (width, height), interpolation=interpolation)


def agreement(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Overlay the image (H, W, C) uint8 with truth and prediction, class maps, in the three colours."""
    shown, ignored = to_rgb(image).astype(np.float32), truth == IGNORED
    truth, prediction = (np.where(ignored, 0, classes) for classes in (truth, prediction))
    correct = (truth == prediction) & (truth > 0)
    for where, colour in (
        (correct, GREEN),
        ((prediction > 0) & ~correct, RED),
        ((truth > 0) & (prediction == 0), BLUE),
    ):
        shown[where] = (1 - OVERLAY_OPACITY) * shown[where] + OVERLAY_OPACITY * colour
    return hatched(shown.round().astype(np.uint8), ignored)


def hatched(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Draw diagonal lines over the part of image (H, W, 3) uint8 where where (H, W) is true, on a copy."""
    shown, (rows, columns) = image.copy(), np.nonzero(where)
    on_line = (rows + columns) % HATCH_PX == 0
    shown[rows[on_line], columns[on_line]] = HATCH
    return shown


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draw the contour of every class of mask, each in its colour, on an RGB copy of image (H, W, C) uint8.

    What is IGNORED is hatched.
    """
    # A copy: OpenCV draws into the array it is given, which may be the dataset's own memory.
    shown, mask = hatched(to_rgb(image), mask == IGNORED), np.where(mask == IGNORED, 0, mask)
    for value in range(1, int(mask.max()) + 1):
        contours, _ = cv2.findContours((mask == value).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(shown, contours, -1, CONTOURS[(value - 1) % len(CONTOURS)], 1)
    return shown

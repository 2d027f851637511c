"""What happens to copies of an image on their way through the world, as functions on uint8 images (H, W) or (H, W, 3).

Each returns a new image of the same type. Detectors are measured on copies made so at the images' full resolution.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def jpeg(image: Picture, quality: int) -> Picture:
    """Returns the image saved as a JPEG of quality (1 to 100) and read again."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)


def crop(image: Picture, share: float) -> Picture:
    """Returns the image without `share` of its length at each of its four edges, enlarged to its size again."""
    height, width = image.shape[:2]
    top, left = round(share * height), round(share * width)
    return resize(image[top : height - top, left : width - left], (width, height))


def rotate(image: Picture, degrees: float) -> Picture:
    """Returns the image turned anticlockwise about its middle, with black where nothing was."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def quarter_turns(image: Picture, number: int) -> Picture:
    """Returns the image turned anticlockwise by number × 90°."""
    return np.ascontiguousarray(np.rot90(image, number))


def flip(image: Picture) -> Picture:
    """Returns the image with left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


def brighten(image: Picture, gain: float) -> Picture:
    """Returns the image with every value times gain, cut at 255."""
    return np.asarray(np.clip(np.rint(image * np.float32(gain)), 0, 255), np.uint8)


def resize(image: Picture, size: tuple[int, int]) -> Picture:
    """Returns the image at size (width, height): averaged over areas where it shrinks, interpolated where it grows."""
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)

"""What happens to copies of an image on their way through the world, as functions on uint8 images (H, W) or (H, W, 3).

Each returns a new image of the same type. Detectors are measured on copies made so at the images' full resolution.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

APERTURE_RADII = (0.40, 0.50)  # of the shorter side
APERTURE_SHIFTS = (-0.03, 0.03)  # of its centre from the image's, down and across, of the shorter side
APERTURE_EDGES_PX = (0.5, 6.0)  # sd of the Gaussian that softens its edge
APERTURE_GREYS = (0, 24)  # of what surrounds it


def jpeg(image: Picture, quality: int) -> Picture:
    """Return the image saved as a JPEG of quality (1 to 100) and read again."""
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), np.uint8)


def crop(image: Picture, share: float) -> Picture:
    """Return the image without `share` of its length at each of its four edges, enlarged to its size again."""
    height, width = image.shape[:2]
    top, left = round(share * height), round(share * width)
    return resize(image[top : height - top, left : width - left], (width, height))


def rotate(image: Picture, degrees: float) -> Picture:
    """Return the image turned anticlockwise about its middle, with black where nothing was."""
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR), np.uint8)


def quarter_turns(image: Picture, number: int) -> Picture:
    """Return the image turned anticlockwise by number × 90°."""
    return np.ascontiguousarray(np.rot90(image, number))


def flip(image: Picture) -> Picture:
    """Return the image with left and right exchanged."""
    return np.ascontiguousarray(image[:, ::-1])


def brighten(image: Picture, gain: float) -> Picture:
    """Return the image with every value times gain, cut at 255."""
    return np.asarray(np.clip(np.rint(image * np.float32(gain)), 0, 255), np.uint8)


def through_aperture(image: Picture, rng: np.random.Generator) -> Picture:
    """Return a colour image (H, W, 3) as a dermatoscope with a round aperture shows it, saved at quality 75.

    The aperture's radius and centre, the softness of its edge and how dark its surround is are drawn.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    radius = side * rng.uniform(*APERTURE_RADII)
    row, column = (np.array((height, width)) - 1) / 2 + side * rng.uniform(*APERTURE_SHIFTS, 2)
    from_centre = np.hypot(np.arange(height)[:, None] - row, np.arange(width) - column)
    inside = cv2.GaussianBlur((from_centre < radius).astype(np.float32), (0, 0), rng.uniform(*APERTURE_EDGES_PX))
    surround = float(rng.uniform(*APERTURE_GREYS))
    seen = np.rint(surround + inside[..., None] * (image - np.float32(surround)))
    return jpeg(np.asarray(seen, np.uint8), 75)


def resize(image: Picture, size: tuple[int, int]) -> Picture:
    """Return the image at size (width, height): averaged over areas where it shrinks, interpolated where it grows."""
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)

"""A dataset of your own: bright circles on noise. Replace the drawing by reading your files."""

import numpy as np

from runcard.data.source import Source


class Circles(Source):
    """Images (H, W) uint8 with masks (H, W) of class indices."""

    def __init__(self, num_images: int) -> None:
        self.classes = ["background", "circle"]
        self.ids = [f"circle{i}" for i in range(num_images)]

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, str]:
        rng = np.random.default_rng(i)
        (y, x), radius = rng.integers(20, 44, 2), rng.integers(6, 16)
        mask = np.hypot(*(np.indices((64, 64)) - [[[y]], [[x]]])) < radius
        image = rng.integers(0, 120, (64, 64)) + 100 * mask
        return image.astype(np.uint8), mask.astype(np.uint8), self.ids[i]

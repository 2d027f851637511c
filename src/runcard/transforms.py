"""Random changes of a training image and its mask, by the transforms that the config names (albumentations 2.0.8)."""

from __future__ import annotations

from collections.abc import Mapping

import albumentations
import numpy as np


class AlbumentationsTransform:
    """Applies named transforms in order, one draw for image and mask alike.

    Called with an image (H, W, C) uint8, its mask (H, W) uint8 or None, and a seed: the same seed gives the same draw
    in any process. Masks are resampled by nearest neighbour, so they keep their class indices.
    """

    def __init__(self, transforms: Mapping[str, albumentations.BasicTransform]) -> None:
        if not isinstance(transforms, Mapping):
            raise ValueError(f"transforms must be transforms by name, got {transforms!r}")
        for name, transform in transforms.items():
            if not isinstance(transform, albumentations.BasicTransform):
                raise ValueError(
                    f"transforms.{name} must be an albumentations transform, got {transform!r}. "
                    f"~augmentation.transforms.{name} leaves it out"
                )
        self.compose = albumentations.Compose(list(transforms.values()))

    @property
    def is_identity(self) -> bool:
        """Whether every image comes out as it went in."""
        return not self.compose.transforms

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the changed image and mask."""
        if self.is_identity:
            return image, mask
        self.compose.set_random_seed(seed)
        if mask is None:
            return self.compose(image=image)["image"], None
        changed = self.compose(image=image, mask=mask)
        return changed["image"], changed["mask"]

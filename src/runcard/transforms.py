"""Random changes of a training image and its mask, by transforms of a library that the config names.

Called with an image (H, W, C) uint8, its mask (H, W) uint8 or None, and a seed: the same seed gives the same draw in
any process, and one draw serves both. Masks are resampled by nearest neighbour: they keep their class indices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class AlbumentationsTransform:
    """Apply albumentations transforms, by name and in order."""

    def __init__(self, transforms: Mapping[str, Any]) -> None:
        self.compose = None
        if transforms != {}:
            import albumentations  # half a second: only who names a transform waits for it

            _check_transforms(transforms, albumentations.BasicTransform, "albumentations")
            self.compose = albumentations.Compose(list(transforms.values()))

    @property
    def is_identity(self) -> bool:
        """Whether every image comes out as it went in."""
        return self.compose is None

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the changed image and mask."""
        if self.compose is None:
            return image, mask
        self.compose.set_random_seed(seed)
        if mask is None:
            return self.compose(image=image)["image"], None
        changed = self.compose(image=image, mask=mask)
        return changed["image"], changed["mask"]


class TorchvisionTransform:
    """Apply torchvision.transforms.v2 transforms, by name and in order; torch's generator is left as it was."""

    def __init__(self, transforms: Mapping[str, Any]) -> None:
        from torchvision.transforms import v2

        _check_transforms(transforms, v2.Transform, "torchvision.transforms.v2")
        self.compose = v2.Compose(list(transforms.values())) if transforms else None

    @property
    def is_identity(self) -> bool:
        """Whether every image comes out as it went in."""
        return self.compose is None

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the changed image and mask."""
        import torch
        from torchvision import tv_tensors

        if self.compose is None:
            return image, mask
        sample = [tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))]
        sample += [] if mask is None else [tv_tensors.Mask(torch.from_numpy(mask))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed = self.compose(*sample)
        pixels = changed if mask is None else changed[0]
        return pixels.permute(1, 2, 0).numpy(), None if mask is None else changed[1].numpy()


def _check_transforms(transforms: object, kind: type, library: str) -> None:
    if not isinstance(transforms, Mapping):
        raise ValueError(f"transforms must be transforms by name, got {transforms!r}")
    for name, transform in transforms.items():
        if not isinstance(transform, kind):
            raise ValueError(
                f"transforms.{name} must be a transform of {library}, got {transform!r}. "
                f"~augmentation.transforms.{name} leaves it out"
            )

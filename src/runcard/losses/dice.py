"""Soft Dice loss (Milletari, Navab and Ahmadi 2016, V-Net, https://arxiv.org/abs/1606.04797)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runcard.errors import check_choice, check_number

POOLINGS = ("image", "batch")


class DiceLoss(nn.Module):
    """Logits (N, C, ...) and targets (N, ...) int64 class indices -> scalar.

        loss = 1 - (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth)

    p is the sigmoid of a single channel, or the softmax of K channels; t is the 0/1 mask of the class. With K
    channels the loss is the mean over the foreground classes 1 .. K-1. Sums are in float32. (Milletari et al. square
    p and t in the denominator; the plain sums here are the more common form.)

    pooling: "image" sums over each image and takes the mean over images, so every image counts the same; "batch" sums
    over the whole batch at once, so large masks count more and the loss depends on which images share a batch:
    accumulated batches are not one large batch, and evaluation, which is per image, treats each image as a batch.
    smooth: pixels, >= 0. It reduces the loss of small masks.

    Both differ between implementations (smooth 0, 1e-6, 1e-4, 0.1 or 1; per image or per batch). Dice losses can be
    compared only where these two are equal.

    Empty masks (sum(t) = 0): with smooth > 0 the loss is sum(p) / (sum(p) + smooth), which falls to 0 as p does. With
    smooth = 0 it is 1 for any prediction, without a gradient, and 0 where p is exactly 0 too. It is always finite.

    Pixels whose target is ignore_index are left out of the sums. An image without others has the loss 0.
    """

    ignore_index: int | None = None  # set by training.evaluation.leave_out_ignored

    def __init__(self, pooling: str = "image", smooth: float = 1.0) -> None:
        super().__init__()
        self.pooling = check_choice("pooling", pooling, POOLINGS)
        self.smooth = check_number("smooth", smooth, 0)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, C, ...), targets (N, ...) int64 -> scalar."""
        if logits.shape[2:] != targets.shape[1:]:  # the product below would broadcast silently
            raise ValueError(f"targets must have the logits' size {[*logits.shape[2:]]}, got {[*targets.shape[1:]]}")
        logits = logits.float()
        probs = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)[:, 1:]
        probs = probs.reshape(*probs.shape[:2], -1)  # (N, foreground classes, pixels)
        classes = torch.arange(1, probs.shape[1] + 1, device=logits.device).view(-1, 1)
        targets = targets.reshape(len(targets), 1, -1)
        truth = (targets == classes).float()
        if self.ignore_index is not None:
            probs = probs * (targets != self.ignore_index)
        over = (2,) if self.pooling == "image" else (0, 2)
        overlap = 2 * (probs * truth).sum(over) + self.smooth
        total = probs.sum(over) + truth.sum(over) + self.smooth
        nothing = (total == 0).float()  # 0/0 becomes 1/1, and its gradient stays finite
        return (1 - (overlap + nothing) / (total + nothing)).mean()

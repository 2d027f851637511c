"""From losses of pixels to the loss of a batch."""

from __future__ import annotations

from torch import Tensor


def mean_of_labelled(losses: Tensor, labelled: Tensor) -> Tensor:
    """Average losses (N, ...) over the pixels where labelled (N, ...) is true, and then over images -> scalar.

    The mean is first of each image, so that a batch is the mean of its images however many pixels of each are labelled.
    An image without a labelled pixel counts as 0.
    """
    losses, labelled = losses.flatten(1), labelled.flatten(1)
    sums = losses.where(labelled, 0).sum(dim=1)
    return (sums / labelled.sum(dim=1).clamp_min(1)).mean()

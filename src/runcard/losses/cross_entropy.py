"""Cross-entropy over K logits, for labels and for masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from runcard.errors import check_number
from runcard.losses.reduction import mean_of_labelled


class CrossEntropy(nn.Module):
    """Logits (N, K, ...) and targets (N, ...) int64 class indices -> scalar, the mean over pixels and images.

        loss = mean( w[t] * -log softmax(z)[t] ),  in float32

    weights: one number >= 0 per class, in index order; None for ones; "balanced" for the number of training targets
    over K times that of the class, which weigh sets: all classes then weigh the same in sum.

    The mean is over pixels and images, whatever their weights: torch.nn.functional.cross_entropy divides by the sum of
    the weights instead, which cancels the weight of a single labelled image, as in validation. An empty mask is an
    ordinary target of class 0. Pixels whose target is ignore_index are left out: the mean is over the others of each
    image, then over images.

    Without weights it equals torch's. It avoids NLLLoss, which CUDA refuses on masks in deterministic mode.
    Raises ValueError where the number of logits is one or is not the number of weights.
    """

    ignore_index: int | None = None  # set by training.evaluation.leave_out_ignored
    weights: Tensor | None

    def __init__(self, weights: Sequence[float] | str | None = None) -> None:
        super().__init__()
        self.balanced = weights == "balanced"
        given = None if self.balanced else weights
        if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
            raise ValueError(f"weights must be a list of numbers, one per class, balanced or null, got {weights!r}")
        values = None if given is None else torch.tensor([check_number("weights", w, 0) for w in given])
        self.register_buffer("weights", values, persistent=False)  # the config holds them, a checkpoint need not

    def weigh(self, class_weights: Sequence[float]) -> None:
        """Set the weights."""
        self.weights = torch.tensor(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, K, ...), targets (N, ...) int64 -> scalar."""
        num_classes = logits.shape[1]
        assert not self.balanced or self.weights is not None, "weigh was not called"
        if num_classes < 2:
            raise ValueError("logits must have a channel per class for cross-entropy, got 1 channel")
        if self.weights is not None and len(self.weights) != num_classes:
            raise ValueError(f"weights must have one number per class, {num_classes}, got {len(self.weights)}")
        # A comparison rather than a gather: its backward is a product, not a scatter. Same memory as the softmax's.
        classes = torch.arange(num_classes, device=logits.device).view(-1, *[1] * (targets.dim() - 1))
        is_target = targets.unsqueeze(1) == classes  # (N, K, ...)
        losses = -(logits.float().log_softmax(dim=1) * is_target).sum(dim=1)  # (N, ...)
        if self.ignore_index is None:
            return losses.mean() if self.weights is None else (self.weights[targets] * losses).mean()
        labelled = targets != self.ignore_index
        if self.weights is not None:
            losses = self.weights[targets.where(labelled, 0)] * losses
        return mean_of_labelled(losses, labelled)

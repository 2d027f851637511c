"""Binary cross-entropy of one logit channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runcard.errors import check_number
from runcard.losses.reduction import mean_of_labelled


class BCE(nn.Module):
    """Logits (N, 1, ...) and targets (N, ...) int64 of 0 and 1 -> scalar, the mean over pixels and images.

        loss = mean( -w t log s(z) - (1 - t) log(1 - s(z)) ),  s the sigmoid, in float32

    pos_weight: the weight w of class 1, >= 0; None for 1; "balanced" for the number of training targets of class 0
    over that of class 1, which weigh sets: both classes then weigh the same in sum.

    An empty mask is an ordinary target: its loss falls to 0 as the logits fall. Pixels whose target is ignore_index are
    left out: the mean is over the others of each image, then over images. Raises ValueError unless the logits have one
    channel.
    """

    ignore_index: int | None = None  # set by training.evaluation.leave_out_ignored
    pos_weight: Tensor | None

    def __init__(self, pos_weight: float | str | None = None) -> None:
        super().__init__()
        self.balanced = pos_weight == "balanced"
        if isinstance(pos_weight, str) and not self.balanced:
            raise ValueError(f"pos_weight must be a number, balanced or null, got {pos_weight!r}")
        given = pos_weight is not None and not self.balanced
        value = torch.tensor(check_number("pos_weight", pos_weight, 0)) if given else None
        self.register_buffer("pos_weight", value, persistent=False)  # the config holds it, a checkpoint need not

    def weigh(self, class_weights: Sequence[float]) -> None:
        """Set pos_weight to the weight of class 1 over that of class 0."""
        self.pos_weight = torch.tensor(class_weights[1] / class_weights[0])

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, 1, ...), targets (N, ...) int64 -> scalar."""
        if logits.shape[1] != 1:
            raise ValueError(f"logits must have one channel for binary cross-entropy, got {logits.shape[1]}")
        assert not self.balanced or self.pos_weight is not None, "weigh was not called"
        logits, truth = logits[:, 0].float(), targets.float()
        if self.ignore_index is None:
            return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.pos_weight)
        losses = F.binary_cross_entropy_with_logits(logits, truth, pos_weight=self.pos_weight, reduction="none")
        return mean_of_labelled(losses, targets != self.ignore_index)

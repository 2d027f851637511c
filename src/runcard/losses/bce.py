"""Binary cross-entropy of one logit channel."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class BCE(nn.Module):
    """Logits (N, 1, ...) and targets (N, ...) int64 of 0 and 1 -> scalar, the mean over pixels and images.

        loss = mean( -t log s(z) - (1 - t) log(1 - s(z)) ),  s the sigmoid, in float32

    An empty mask is an ordinary target: its loss falls to 0 as the logits fall. Raises ValueError unless the
    logits have one channel.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, 1, ...), targets (N, ...) int64 -> scalar."""
        if logits.shape[1] != 1:
            raise ValueError(f"logits must have one channel for binary cross-entropy, got {logits.shape[1]}")
        return F.binary_cross_entropy_with_logits(logits[:, 0].float(), targets.float())

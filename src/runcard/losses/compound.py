"""A weighted sum of losses, such as BCE + Dice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from runcard.errors import check_number


class CompoundLoss(nn.Module):
    """Logits (N, C, ...) and targets (N, ...) int64 -> scalar: sum over names of weights[name] * losses[name].

    Raises ValueError where the names of losses and weights differ, and where no weight is above zero. Each loss
    handles empty masks, and pixels to be ignored, in its own way.
    """

    def __init__(self, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not losses or set(losses) != set(weights):
            raise ValueError(f"weights must name the losses {sorted(losses)}, got {sorted(weights)}")
        self.losses = nn.ModuleDict(dict(losses))
        self.weights = {name: check_number(f"weights.{name}", weights[name], 0) for name in losses}
        if not any(self.weights.values()):
            raise ValueError(f"weights must have one above 0, got {self.weights}")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, C, ...), targets (N, ...) int64 -> scalar."""
        return torch.stack([self.weights[name] * loss(logits, targets) for name, loss in self.losses.items()]).sum()

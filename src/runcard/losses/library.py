"""An adapter for losses of other libraries, whose targets are not class indices."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from runcard.errors import check_choice

TARGETS = ("float", "one_hot", "channel")


class LibraryLoss(nn.Module):
    """Logits (N, C, ...) and targets (N, ...) int64 class indices -> scalar, by a loss that takes other targets.

    targets: "float" gives (N, 1, ...) float32 of 0 and 1, as torch.nn.BCEWithLogitsLoss expects with one logit;
    "one_hot" gives (N, C, ...) float32; "channel" gives (N, 1, ...) int64, as MONAI's losses expect with to_onehot_y.
    A loss that takes class indices needs no adapter.
    """

    def __init__(self, loss: nn.Module, targets: str) -> None:
        super().__init__()
        self.loss = loss
        self.targets = check_choice("targets", targets, TARGETS)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss: logits (N, C, ...), targets (N, ...) int64 -> scalar."""
        if self.targets == "one_hot":
            adapted = F.one_hot(targets, logits.shape[1]).movedim(-1, 1).float()
        else:
            adapted = targets.unsqueeze(1)
            adapted = adapted.float() if self.targets == "float" else adapted
        value: Tensor = self.loss(logits.float(), adapted)
        return value

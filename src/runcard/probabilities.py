"""Logits to probabilities: the one place where sigmoid and softmax are applied to a model's output."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor) -> Tensor:
    """Returns class probabilities (N, K, …) float32, K >= 2, for logits (N, C, …) of any float type.

    One channel means sigmoid and two classes, [1 − p, p]; K channels mean softmax.
    """
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)  # sigmoid(-x), not 1 - p: exact near 0

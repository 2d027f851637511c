"""Log loss of probabilities, of labels or masks: a scale on which runs with different losses can be compared."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

SMALLEST_PROBABILITY = 1e-7  # as Keras clips; a pixel that is certain and wrong costs 16.1, not infinity


class LogLoss(Metric):
    """Per image: the mean over pixels of -log p[target], (N,) float32; for two classes the binary cross-entropy.

    update takes probabilities (N, K, ...) and targets (N, ...) int64. Probabilities are clamped at 1e-7 from below,
    so the value is finite. An empty mask is an ordinary target of class 0. Pixels whose target is ignore_index are left
    out; without others the value is 0.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    per_image = True
    bounds = (0.0, None)  # None: no bound
    ignore_index: int | None = None  # set by training.evaluation.leave_out_ignored
    # A MetricCollection shares one state between metrics whose states have equal names and, after the first batch,
    # equal values. The name is unique, so that equal values by coincidence cannot join it to another metric.
    log_losses: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("log_losses", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K, ...), targets (N, ...) int64."""
        if self.ignore_index is None:
            self.log_losses.append(_log_losses(probs, targets).mean(dim=1))
        else:
            labelled = targets != self.ignore_index
            losses = _log_losses(probs, targets.where(labelled, 0)) * labelled.flatten(1)
            self.log_losses.append(losses.sum(dim=1) / labelled.flatten(1).sum(dim=1).clamp_min(1))

    def compute(self) -> Tensor:
        """Compute one value per image, (N,)."""
        return dim_zero_cat(self.log_losses)


def _log_losses(probs: Tensor, targets: Tensor) -> Tensor:
    """Compute the log loss of each pixel, (N, pixels)."""
    of_target = probs.gather(1, targets.unsqueeze(1)).flatten(1)
    return -torch.log(of_target.clamp_min(SMALLEST_PROBABILITY))

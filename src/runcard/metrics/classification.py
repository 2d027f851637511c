"""Scores of predicted labels: right or wrong per image, and torchmetrics' binary metrics of one class.

Every metric here receives probabilities (N, K) with K >= 2 and targets (N,) int64, never logits. The predicted class
is the most probable one. A metric that computes a vector (N,) is per image; a scalar is a value of the whole dataset.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import BinaryNegativePredictiveValue, BinarySpecificity
from torchmetrics.utilities import dim_zero_cat

from runcard.errors import check_integer


class PerImageAccuracy(Metric):
    """Per image: 1 where the most probable class is the target, else 0. Its mean is the accuracy."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    per_image = True
    bounds = (0.0, 1.0)
    correct: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("correct", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K), targets (N,) int64."""
        self.correct.append((probs.argmax(dim=1) == targets).float())

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), 0 or 1."""
        return dim_zero_cat(self.correct)


RATES = (BinarySpecificity, BinaryNegativePredictiveValue)  # of which torchmetrics does not say which way is better


class OneVsRest(Metric):
    """A binary torchmetrics metric (BinaryAUROC, BinaryRecall, ...) of one class against the rest, a scalar.

    positive: the index of the class, or None for the mean over all classes, each in turn against the rest.

    A metric that thresholds at torchmetrics' default of 0.5 receives decisions: whether the class is the most
    probable one. So it agrees with accuracy, also at ties and with three classes, where the most probable class may be
    below 0.5. A metric with a threshold of its own, or with none (AUROC), receives the probability of the class.

    NaN where the targets lack the class, or contain no other: torchmetrics returns 0 there, which would look like a
    failure. With positive=None the mean is then NaN too: a mean over fewer classes is another quantity.

    Raises ValueError, in update, where positive is not below K.
    """

    is_differentiable = False
    full_state_update = False
    # All data is kept until compute. A MetricCollection shares this state among all OneVsRest metrics.
    probs: list[Tensor]
    targets: list[Tensor]

    def __init__(self, metric: Metric, positive: int | None) -> None:
        super().__init__()
        if not isinstance(metric, Metric):
            raise ValueError(f"metric must be a torchmetrics metric, got {metric!r}")
        self.metric = metric
        self.metric.sync_on_compute = False  # it receives what this metric gathered from all ranks
        self.positive = None if positive is None else check_integer("positive", positive, 0)
        self.add_state("probs", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """The value of the wrapped metric, or True of one of RATES."""
        return True if isinstance(self.metric, RATES) else self.metric.higher_is_better

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K), targets (N,) int64."""
        if self.positive is not None and self.positive >= probs.shape[1]:
            raise ValueError(f"positive must be below the number of classes, {probs.shape[1]}, got {self.positive}")
        self.probs.append(probs)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Compute a scalar: of the positive class, or the mean over the classes."""
        probs, targets = dim_zero_cat(self.probs), dim_zero_cat(self.targets)
        classes = range(probs.shape[1]) if self.positive is None else [self.positive]
        return torch.stack([self._against_rest(probs, targets, index) for index in classes]).mean()

    def _against_rest(self, probs: Tensor, targets: Tensor, index: int) -> Tensor:
        truth = targets == index
        if truth.all() or not truth.any():
            return torch.tensor(torch.nan, device=probs.device)
        decides = getattr(self.metric, "threshold", None) == 0.5
        scores = (probs.argmax(dim=1) == index).long() if decides else probs[:, index]
        self.metric.reset()
        self.metric.update(scores, truth.long())
        value: Tensor = self.metric.compute()
        return value

"""Scores of predicted masks: Dice (Dice 1945), Jaccard's IoU, sensitivity, specificity, precision, pixel accuracy.

Every metric here receives probabilities (N, K, H, W) with K >= 2 and targets (N, H, W) int64, never logits:
torchmetrics applies a sigmoid only when a value lies outside [0, 1], which is silently wrong for small logits. The
predicted class is the most probable one. A metric that computes a vector (N,) is per image, and its mean is the value
reported; a scalar is a value of the whole dataset. The attribute per_image distinguishes them, because torchmetrics
turns the vector (1,) of a single image into a scalar. A metric that computes a dict of vectors names its keys in the
attribute columns.

Per image each ratio is computed for every foreground class 1 .. K-1 and then averaged over these. 0/0 is 1. So Dice is
1 where truth and prediction are both empty, and 0 where only one of them is.

Pixels whose target is ignore_index are left out. It is None, unless training.evaluation.leave_out_ignored sets it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from runcard.errors import check_integer, check_names


class _Counts(Metric):
    """Pixel counts of each image by true and predicted class. A MetricCollection shares this one state.

    torchmetrics' own samplewise counts (MulticlassStatScores) agree, at twelve times the cost: an argmax along a
    strided axis and a one-hot map per class, about a fifth of a small U-Net's forward pass.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    per_image = True
    bounds = (0.0, 1.0)
    ignore_index: int | None = None
    confusion: list[Tensor]  # (N, K, K) int64 each: true class, predicted class

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = check_integer("num_classes", num_classes, 2)
        self.add_state("confusion", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K, H, W), targets (N, H, W) int64."""
        num_images, num_rows = len(targets), self.num_classes
        if self.ignore_index is not None:  # they are counted in a row of their own, which is left out
            targets, num_rows = targets.where(targets != self.ignore_index, num_rows), num_rows + 1
        num_cells = num_rows * self.num_classes
        cells = (targets * self.num_classes + probs.max(dim=1).indices).flatten(1)
        cells = cells + num_cells * torch.arange(num_images, device=cells.device).unsqueeze(1)
        counts = torch.bincount(cells.flatten(), minlength=num_images * num_cells)
        self.confusion.append(counts.view(num_images, num_rows, self.num_classes)[:, : self.num_classes])

    def counts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return true positives, false positives, true negatives and false negatives, each (N, K) int64."""
        confusion = dim_zero_cat(self.confusion)
        tp = confusion.diagonal(dim1=1, dim2=2)
        fp, fn = confusion.sum(dim=1) - tp, confusion.sum(dim=2) - tp
        return tp, fp, confusion.sum(dim=(1, 2)).unsqueeze(1) - tp - fp - fn, fn


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Compute numerator / denominator in float32, where 0/0 is 1."""
    nothing = denominator == 0
    return (numerator + nothing).float() / (denominator + nothing)


def foreground(scores: Tensor) -> Tensor:
    """Average scores (..., K) over the classes 1 .. K-1."""
    return scores[..., 1:].mean(dim=-1)


def dice(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """Compute 2 tp / (2 tp + fp + fn) of counts of any shape."""
    return ratio(2 * tp, 2 * tp + fp + fn)


class Dice(_Counts):
    """Per image: 2 tp / (2 tp + fp + fn), foreground mean; 1 where both masks are empty, 0 where one is."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        return foreground(dice(tp, fp, fn))


class DiceOfClasses(_Counts):
    """Per image: Dice of every foreground class, each in its own column, dice_<name of the class>.

    classes: the names of all classes in index order, the background first. With two of them there is no column: it
    would repeat Dice.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        names = check_names("classes", classes)
        super().__init__(num_classes=len(names))
        self.columns = [f"dice_{name}" for name in names[1:]] if len(names) > 2 else []

    def compute(self) -> dict[str, Tensor]:
        """Compute for every column one value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        of_classes = dice(tp, fp, fn)
        return {column: of_classes[:, k] for k, column in enumerate(self.columns, start=1)}


class PooledDice(_Counts):
    """One value: Dice of the counts summed over all images, foreground mean. Large masks count more than in Dice."""

    per_image = False

    def compute(self) -> Tensor:
        """Compute a scalar in [0, 1]; 1 where neither truth nor prediction has any foreground."""
        tp, fp, _, fn = (count.sum(dim=0) for count in self.counts())
        return foreground(dice(tp, fp, fn))


class IoU(_Counts):
    """Per image: tp / (tp + fp + fn), foreground mean; 1 where both masks are empty, 0 where one is."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        return foreground(ratio(tp, tp + fp + fn))


class Sensitivity(_Counts):
    """Per image: tp / (tp + fn), also called recall, foreground mean. An empty mask gives 1: nothing was missed."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        tp, _, _, fn = self.counts()
        return foreground(ratio(tp, tp + fn))


class Specificity(_Counts):
    """Per image: tn / (tn + fp), foreground mean. A mask that fills the image gives 1: it allows no false positive."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        _, fp, tn, _ = self.counts()
        return foreground(ratio(tn, tn + fp))


class Precision(_Counts):
    """Per image: tp / (tp + fp), foreground mean. An empty prediction gives 1: it has no false positive."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        tp, fp, _, _ = self.counts()
        return foreground(ratio(tp, tp + fp))


class PixelAccuracy(_Counts):
    """Per image: the fraction of pixels with the right class, background included. High for any small mask."""

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        tp, _, _, fn = self.counts()
        return ratio(tp.sum(dim=-1), (tp + fn).sum(dim=-1))


class SoftDice(Metric):
    """Per image: 1 - 2 sum(p t) / (sum(p) + sum(t)) of the probabilities, unsmoothed, foreground mean.

    Like LogLoss, a scale on which runs with different losses can be compared. An empty mask gives 1, and 0 where every
    probability is exactly 0 too.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    per_image = True
    bounds = (0.0, 1.0)
    ignore_index: int | None = None
    soft_dice_losses: list[Tensor]  # a unique name, see runcard.metrics.log_loss

    def __init__(self) -> None:
        super().__init__()
        self.add_state("soft_dice_losses", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (N, K, H, W), targets (N, H, W) int64."""
        probs, targets = probs.flatten(2), targets.flatten(1).unsqueeze(1)  # (N, K, pixels), (N, 1, pixels)
        if self.ignore_index is not None:
            probs = probs * (targets != self.ignore_index)
        classes = torch.arange(probs.shape[1], device=probs.device).view(-1, 1)
        truth = targets == classes
        overlap = (probs * truth).sum(dim=2)
        total = probs.sum(dim=2) + truth.sum(dim=2)
        self.soft_dice_losses.append(1 - foreground(ratio(2 * overlap, total)))

    def compute(self) -> Tensor:
        """Compute one value per image, (N,), in [0, 1]."""
        return dim_zero_cat(self.soft_dice_losses)

"""Scores of predicted masks: Dice (Dice 1945), Jaccard's IoU, sensitivity, specificity, precision, pixel accuracy.

Every metric here receives probabilities (N, K, H, W) with K >= 2 and targets (N, H, W) int64, never logits:
torchmetrics applies a sigmoid only when a value lies outside [0, 1], which is silently wrong for small logits. The
predicted class is the most probable one. A metric that computes a vector (N,) is per image, and its mean is the value
reported; a scalar is a value of the whole data set. The attribute per_image says which: of a single image torchmetrics
makes a scalar, of (1,), too. A metric that computes a dict of such names its keys in the attribute columns.

Per image each ratio is taken for every foreground class 1 .. K-1, and then the mean over these. 0/0 is 1: nothing was
there to be found, and nothing was wrongly found. So an empty mask predicted empty has Dice 1, and with one side alone
empty Dice is 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from runcard.errors import check_integer, check_names


class _Counts(Metric):
    """Counts the pixels of each image by true and predicted class. A MetricCollection shares this one state.

    torchmetrics' own samplewise counts (MulticlassStatScores) agree, at twelve times the cost: an argmax along a
    strided axis and a one-hot map per class, about a fifth of a small U-Net's forward pass.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    per_image = True
    bounds = (0.0, 1.0)
    confusion: list[Tensor]  # (N, K, K) int64 each: true class, predicted class

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = check_integer("num_classes", num_classes, 2)
        self.add_state("confusion", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Probabilities (N, K, H, W), targets (N, H, W) int64."""
        num_images, num_cells = len(targets), self.num_classes**2
        cells = (targets * self.num_classes + probs.max(dim=1).indices).flatten(1)
        cells = cells + num_cells * torch.arange(num_images, device=cells.device).unsqueeze(1)
        counts = torch.bincount(cells.flatten(), minlength=num_images * num_cells)
        self.confusion.append(counts.view(num_images, self.num_classes, self.num_classes))

    def counts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """True positives, false positives, true negatives, false negatives, each (N, K) int64."""
        confusion = dim_zero_cat(self.confusion)
        tp = confusion.diagonal(dim1=1, dim2=2)
        fp, fn = confusion.sum(dim=1) - tp, confusion.sum(dim=2) - tp
        return tp, fp, confusion.sum(dim=(1, 2)).unsqueeze(1) - tp - fp - fn, fn


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator in float32, where 0/0 is 1."""
    nothing = denominator == 0
    return (numerator + nothing).float() / (denominator + nothing)


def foreground(scores: Tensor) -> Tensor:
    """The mean over the classes 1 .. K-1 of scores (..., K)."""
    return scores[..., 1:].mean(dim=-1)


def dice(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """2 tp / (2 tp + fp + fn) of counts of any shape."""
    return ratio(2 * tp, 2 * tp + fp + fn)


class Dice(_Counts):
    """Per image: 2 tp / (2 tp + fp + fn), foreground mean. Both sides empty 1, one side empty 0."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        return foreground(dice(tp, fp, fn))


class DiceOfClasses(_Counts):
    """Per image: Dice of every foreground class apart, each in a column of its own, dice_<name of the class>.

    classes: the names of all classes in index order, the background first. With two of them there is no column: it
    would repeat Dice.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        names = check_names("classes", classes)
        super().__init__(num_classes=len(names))
        self.columns = [f"dice_{name}" for name in names[1:]] if len(names) > 2 else []

    def compute(self) -> dict[str, Tensor]:
        """For every column one value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        of_classes = dice(tp, fp, fn)
        return {column: of_classes[:, k] for k, column in enumerate(self.columns, start=1)}


class PooledDice(_Counts):
    """One value: Dice of the counts summed over all images, foreground mean. Large masks count more than in Dice."""

    per_image = False

    def compute(self) -> Tensor:
        """A scalar in [0, 1]; 1 where neither side has any foreground."""
        tp, fp, _, fn = (count.sum(dim=0) for count in self.counts())
        return foreground(dice(tp, fp, fn))


class IoU(_Counts):
    """Per image: tp / (tp + fp + fn), foreground mean. Both sides empty 1, one side empty 0."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        tp, fp, _, fn = self.counts()
        return foreground(ratio(tp, tp + fp + fn))


class Sensitivity(_Counts):
    """Per image: tp / (tp + fn), also called recall, foreground mean. An empty mask gives 1: nothing was missed."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        tp, _, _, fn = self.counts()
        return foreground(ratio(tp, tp + fn))


class Specificity(_Counts):
    """Per image: tn / (tn + fp), foreground mean. A mask that fills the image gives 1: no room for a false find."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        _, fp, tn, _ = self.counts()
        return foreground(ratio(tn, tn + fp))


class Precision(_Counts):
    """Per image: tp / (tp + fp), foreground mean. An empty prediction gives 1: nothing was wrongly found."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        tp, fp, _, _ = self.counts()
        return foreground(ratio(tp, tp + fp))


class PixelAccuracy(_Counts):
    """Per image: the fraction of pixels with the right class, background included. High for any small mask."""

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        tp, _, _, fn = self.counts()
        return ratio(tp.sum(dim=-1), (tp + fn).sum(dim=-1))


class SoftDice(Metric):
    """Per image: 1 - 2 sum(p t) / (sum(p) + sum(t)) of the probabilities, unsmoothed, foreground mean.

    With LogLoss the scale in which runs with different losses are compared. An empty mask gives 1, and 0 where every
    probability is exactly 0 too.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    per_image = True
    bounds = (0.0, 1.0)
    soft_dice_losses: list[Tensor]  # a name of its own, see runcard.metrics.log_loss

    def __init__(self) -> None:
        super().__init__()
        self.add_state("soft_dice_losses", default=[], dist_reduce_fx="cat")

    def update(self, probs: Tensor, targets: Tensor) -> None:
        """Probabilities (N, K, H, W), targets (N, H, W) int64."""
        probs = probs.flatten(2)  # (N, K, pixels)
        classes = torch.arange(probs.shape[1], device=probs.device).view(-1, 1)
        truth = targets.flatten(1).unsqueeze(1) == classes
        overlap = (probs * truth).sum(dim=2)
        total = probs.sum(dim=2) + truth.sum(dim=2)
        self.soft_dice_losses.append(1 - foreground(ratio(2 * overlap, total)))

    def compute(self) -> Tensor:
        """One value per image, (N,), in [0, 1]."""
        return dim_zero_cat(self.soft_dice_losses)

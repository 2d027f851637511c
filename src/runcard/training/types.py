"""The inputs and outputs of the training loop: protocols and small records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class Logger(Protocol):
    """The receiver of the loop's reports, after every optimizer step and every epoch. See loggers/."""

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Report one optimizer step: its place in the epoch, its images and its loss."""

    def epoch(self, row: dict[str, Any], val: Evaluation | None, is_best: bool) -> None:
        """Report one finished epoch: its row of metrics.csv and the evaluation of validation.

        Where the epoch is not evaluated, val and its values in the row are None: see train.eval_every.
        """


class Saver(Protocol):
    """What saves the training after an epoch: a Checkpoint."""

    def save(self, state: State) -> None:
        """Save model, optimizer, scheduler and state."""


class Loss(Protocol):
    """(logits (N, C, …), int64 targets (N,) or (N, H, W)) -> scalar, the mean over images. See losses/."""

    def __call__(self, logits: Tensor, targets: Tensor, /) -> Tensor:
        """Compute the loss."""


@runtime_checkable
class BalancedLoss(Protocol):
    """A loss that can weigh classes by their frequency in the training targets."""

    balanced: bool  # whether its config asks for that

    def weigh(self, class_weights: Sequence[float]) -> None:
        """Set the weight of each class: of all training targets over K times those of the class."""


@runtime_checkable
class Ignoring(Protocol):
    """A loss or metric that leaves out the pixels whose target is ignore_index; None: there are none."""

    ignore_index: int | None


@dataclass(frozen=True)
class Schedule:
    """A learning-rate scheduler, its interval (step or epoch), and the column of metrics.csv that it watches."""

    rule: LRScheduler
    every: str  # step | epoch
    monitor: str | None


@dataclass(frozen=True)
class Monitor:
    """The column of metrics.csv that selects the best epoch."""

    name: str
    mode: str  # max | min

    def is_improvement(self, value: float, best: float | None) -> bool:
        """Whether value is strictly better than best, so that the first of equal epochs is kept; never for NaN."""
        return not math.isnan(value) and (best is None or (value > best if self.mode == "max" else value < best))


@dataclass(frozen=True)
class Evaluation:
    """Metric values of a whole split, and of its single images in the order of indices."""

    values: dict[str, float]
    per_image: dict[str, Tensor]  # name -> (N,)
    indices: list[int]  # N positions in Samples
    probs: Tensor | None  # (N, K) for classification; None for masks, which would be large


@dataclass
class State:
    """The progress of a training. A step is an optimizer update; an epoch counts when it is finished."""

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv

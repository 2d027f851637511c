"""What the loop is given and gives back: protocols and small records, without behaviour of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler


class Logger(Protocol):
    """What the loop reports to, after every optimizer step and every epoch. See loggers/."""

    def step(self, epoch: int, step: int, num_images: int, loss: float) -> None:
        """Report one optimizer step: its place in the epoch, its images and its loss."""

    def epoch(self, row: dict[str, Any], val: Evaluation, is_best: bool) -> None:
        """Report one finished epoch: its row of metrics.csv and the evaluation of validation."""


class Loss(Protocol):
    """(logits (N, C, …), int64 targets (N,) or (N, H, W)) -> scalar, the mean over images. See losses/."""

    def __call__(self, logits: Tensor, targets: Tensor, /) -> Tensor:
        """Returns the loss."""


@dataclass(frozen=True)
class Schedule:
    """A learning-rate rule and when it moves: after every step or epoch, watching a value of metrics.csv or none."""

    rule: LRScheduler
    every: str  # step | epoch
    monitor: str | None


@dataclass(frozen=True)
class Monitor:
    """The value of metrics.csv that chooses the best epoch."""

    name: str
    mode: str  # max | min

    def better(self, value: float, best: float | None) -> bool:
        """Whether value beats best: strictly, so that the first of equal epochs stays; NaN never does."""
        return not math.isnan(value) and (best is None or (value > best if self.mode == "max" else value < best))


@dataclass(frozen=True)
class Evaluation:
    """Values over a whole split, and the values of its single images, in the order of indices."""

    values: dict[str, float]
    per_image: dict[str, Tensor]  # name -> (N,)
    indices: list[int]  # N positions in Samples
    probs: Tensor | None  # (N, K) where images have classes; not kept for masks, which would be large


@dataclass
class State:
    """How far a training has come. A step is an optimizer update; epochs are counted when they are over."""

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0

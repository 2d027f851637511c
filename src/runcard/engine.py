"""The single training loop, and the single evaluation.

fit() takes finished objects and reads top to bottom. What it leaves out lives elsewhere: building things (parts.py),
file formats (checkpoint.py), logs and pictures (tracking.py). Classification and segmentation go through the same
lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric, MetricCollection

from runcard.checkpoint import Checkpoint, State
from runcard.errors import UserError
from runcard.loaders import Batch, Loaders
from runcard.probabilities import probabilities
from runcard.seeding import seed_epoch
from runcard.settings import TrainSettings
from runcard.tracking import Tracker

OUT_OF_MEMORY = "train.batch_size: too large for the GPU's memory. Lower it, and raise train.accumulate_steps instead."


class Loss(Protocol):
    """(logits (N, C, …), int64 targets (N,) or (N, H, W)) -> scalar, the mean over images. See losses/."""

    logits_for_two_classes: int
    max_classes: int | None

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


def fit(
    fabric: Fabric,
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    schedule: Schedule,
    loaders: Loaders,
    metrics: MetricCollection,
    monitor: Monitor,
    train: TrainSettings,
    seed: int,
    state: State,
    checkpoint: Checkpoint,
    tracker: Tracker,
) -> State:
    """Trains from state until train.epochs or early stopping, and returns the final state."""
    while state.epoch < train.epochs and not _stopped_early(state, train):
        epoch, started = state.epoch + 1, perf_counter()
        seed_epoch(seed, epoch)
        loaders.train_sampler.set_epoch(epoch)
        model.train()
        loss_sum, norm_sum, steps, lr = 0.0, 0.0, 0, optimizer.param_groups[0]["lr"]
        for micro_batches in _groups(loaders.train, train.accumulate_steps):
            num_images = sum(len(batch.targets) for batch in micro_batches)
            step_loss = torch.zeros((), device=fabric.device)
            for batch in micro_batches:
                images, targets = _to_device(batch, fabric)
                share = len(targets) / num_images  # so that accumulated gradients equal those of one large batch
                micro_loss = loss(model(images), targets) * share
                fabric.backward(micro_loss)
                step_loss += micro_loss.detach()
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            grad_norm = nn.utils.get_total_norm(grads)
            if train.clip_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(model.parameters(), train.clip_grad_norm, grad_norm)
            loss_value, norm_value = torch.stack([step_loss, grad_norm]).tolist()  # the step's one CPU-GPU sync point
            if not math.isfinite(loss_value + norm_value):  # before the step: a NaN never reaches the optimizer
                raise UserError(_not_finite(loss_value, norm_value, epoch, state.step + 1))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if schedule.every == "step":
                schedule.rule.step()
            state.step += 1
            steps += 1
            loss_sum += loss_value * num_images
            norm_sum += norm_value
            tracker.step(epoch, steps, num_images, loss_value)
        trained = perf_counter() - started

        train_eval = evaluate(fabric, model, loss, metrics, loaders.train_eval)
        val = evaluate(fabric, model, loss, metrics, loaders.val)
        num_images = len(loaders.train_sampler)
        row = {"epoch": epoch, "step": state.step, "lr": lr, "train/loss": loss_sum / num_images}
        row |= {f"train_eval/{name}": value for name, value in train_eval.values.items()}
        row |= {f"val/{name}": value for name, value in val.values.items()}
        row |= {"grad_norm": norm_sum / steps, "seconds": perf_counter() - started}
        row |= {"images_per_second": num_images / trained}
        if schedule.every == "epoch":
            schedule.rule.step(*([row[schedule.monitor]] if schedule.monitor else []))
        state.epoch = epoch
        if monitor.better(row[monitor.name], state.best):
            state.best, state.best_epoch = row[monitor.name], epoch
        tracker.epoch(row, val, is_best=state.best_epoch == epoch)
        checkpoint.save(state)
    return state


@torch.inference_mode()
def predict(fabric: Fabric, model: nn.Module, loader: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yields each batch with its logits (N, C, …) and targets on the device, in evaluation mode, without gradients."""
    model.eval()
    for batch in loader:
        images, targets = _to_device(batch, fabric)
        yield batch, model(images), targets


@torch.inference_mode()
def evaluate(
    fabric: Fabric, model: nn.Module, loss: Loss, metrics: MetricCollection, loader: Iterable[Batch]
) -> Evaluation:
    """Returns the loss and every metric over all images of loader.

    The loss is taken per image and then averaged, so it does not depend on the batch size. A metric with the attribute
    per_image computes a vector (N,), and its mean is the value; any other computes a scalar of the whole set. One that
    fills several columns computes a dict of these.
    """
    metrics.reset()
    losses: list[Tensor] = []
    indices: list[int] = []
    kept: list[Tensor] = []
    for batch, logits, targets in predict(fabric, model, loader):
        probs = probabilities(logits)
        losses += [loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(targets))]
        metrics.update(probs, targets)
        indices += batch.indices.tolist()
        if targets.ndim == 1:
            kept.append(probs.cpu())
    computed = {"loss": torch.stack(losses)} | metrics.compute()
    of_images = {"loss"} | {name for name, metric in columns(metrics).items() if getattr(metric, "per_image", False)}
    per_image = {name: computed[name].float().cpu().reshape(-1) for name in computed if name in of_images}
    values = {name: value.float().mean().item() for name, value in computed.items()}
    return Evaluation(values, per_image, indices, torch.cat(kept) if kept else None)


def columns(metrics: MetricCollection) -> dict[str, Metric]:
    """Returns which metric fills each column: those that its attribute columns names, or the one of its own name."""
    filled: dict[str, Metric] = {}
    for name, metric in metrics.items():
        for column in getattr(metric, "columns", [name]):
            if column in ("loss", *filled):
                raise UserError(f"metric.scores.{name}: the column {column} is taken. Rename the score or the class.")
            filled[column] = metric
    return filled


def _to_device(batch: Batch, fabric: Fabric) -> tuple[Tensor, Tensor]:
    images = batch.images.to(fabric.device, memory_format=torch.channels_last, non_blocking=True)
    return images, batch.targets.to(fabric.device, non_blocking=True)


def _groups(loader: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yields lists of up to size batches: the micro-batches of one step."""
    batches = iter(loader)
    while group := list(islice(batches, size)):
        yield group


def _stopped_early(state: State, train: TrainSettings) -> bool:
    return train.early_stopping is not None and state.epoch - state.best_epoch >= train.early_stopping


def _not_finite(loss: float, grad_norm: float, epoch: int, step: int) -> str:
    what = f"grad_norm is {grad_norm}" if math.isfinite(loss) else f"train/loss is {loss}"
    return (
        f"{what} at epoch {epoch}, step {step}: training has diverged, and the step was not taken.\n"
        "Try a lower optimizer.lr, train.clip_grad_norm=1 or train.precision=32."
    )

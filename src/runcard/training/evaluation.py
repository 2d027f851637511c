"""The only evaluation: probabilities from logits, and values per image, without augmentation or dropped images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from runcard.data.loaders import Batch
from runcard.errors import UserError
from runcard.training.types import Evaluation, Loss

OUT_OF_MEMORY = "train.batch_size: too large for the GPU's memory. Lower it, and raise train.accumulate_steps instead."


@torch.inference_mode()
def predict(fabric: Fabric, model: nn.Module, loader: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Yield each batch with its logits (N, C, …) and targets on the device, in evaluation mode, without gradients."""
    model.eval()
    for batch in loader:
        images, targets = to_device(batch, fabric)
        yield batch, model(images), targets


@torch.inference_mode()
def evaluate(
    fabric: Fabric, model: nn.Module, loss: Loss, metrics: MetricCollection, loader: Iterable[Batch]
) -> Evaluation:
    """Compute the loss and every metric over all images of loader.

    The loss is computed per image and then averaged, so it does not depend on the batch size. A metric with the
    attribute per_image computes a vector (N,), and its mean is the value; any other computes a scalar of the whole set.
    A metric that fills several columns computes a dict of these.
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
    """Map each column to its metric: the columns in the metric's attribute columns, or the one of its own name."""
    filled: dict[str, Metric] = {}
    for name, metric in metrics.items():
        for column in getattr(metric, "columns", [name]):
            if column in ("loss", *filled):
                raise UserError(f"metric.scores.{name}: the column {column} is taken. Rename the score or the class.")
            filled[column] = metric
    return filled


def to_device(batch: Batch, fabric: Fabric) -> tuple[Tensor, Tensor]:
    """Move images, in channels_last, and targets to the device."""
    images = batch.images.to(fabric.device, memory_format=torch.channels_last, non_blocking=True)
    return images, batch.targets.to(fabric.device, non_blocking=True)


def probabilities(logits: Tensor) -> Tensor:
    """Compute class probabilities (N, K, …) float32, K >= 2, of logits (N, C, …) of any float type.

    One channel gives two classes by sigmoid, [1 − p, p]; K channels give K classes by softmax.
    """
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)  # sigmoid(-x), not 1 - p: exact near 0

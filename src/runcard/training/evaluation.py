"""Evaluation: the one forward pass outside training, probabilities, and values per image without dropped images."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torchmetrics import Metric, MetricCollection

from runcard import IGNORED
from runcard.data.loaders import Batch, to_device
from runcard.data.source import Samples
from runcard.errors import UserError
from runcard.runs.run import PROBABILITY
from runcard.training.ranks import ALONE, Ranks
from runcard.training.types import Evaluation, Ignoring, Loss

NOT_VECTORIZED: WeakSet[Loss] = WeakSet()  # the losses that torch.func.vmap has refused
Autocast = Callable[[], AbstractContextManager[Any]]  # makes a context with the precision of a run


@torch.inference_mode()
def infer(model: nn.Module, images: Tensor, autocast: Autocast = nullcontext) -> Tensor:
    """Compute the model's output for one batch of normalised images (N, C, H, W), on its device, in evaluation mode.

    autocast gives the precision; a model that Fabric has set up brings its own.
    """
    model.eval()
    images = to_device(images, next(model.parameters(), images).device)
    with autocast():
        output: Tensor = model(images)
    return output


def predict(model: nn.Module, batches: Iterable[Tensor], autocast: Autocast = nullcontext) -> Iterator[Tensor]:
    """Yield the probabilities (N, K, …) float32 of each batch of images; see infer and probabilities."""
    for images in batches:
        yield probabilities(infer(model, images, autocast))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    loss: Loss,
    metrics: MetricCollection,
    loader: Iterable[Batch],
    autocast: Autocast = nullcontext,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Compute the loss and every metric over all images of loader.

    The loss is computed per image and then averaged, so it does not depend on the batch size. A metric with the
    attribute per_image computes a vector (N,), and its mean is the value; any other computes a scalar of the whole set.
    A metric that fills several columns computes a dict of these. One that measures lengths has the attribute
    pixel_size, which is set to that of each batch; see Batch. Of several ranks each has a loader of its own images, and
    all return the evaluation of all images, in the order of ranks: torchmetrics joins the states of metrics.
    """
    metrics.reset()
    of_lengths = [metric for metric in metrics.modules() if hasattr(metric, "pixel_size")]
    losses: list[Tensor] = []
    indices: list[int] = []
    kept: list[Tensor] = []
    for batch in loader:
        logits = infer(model, batch.images, autocast)
        targets = batch.targets
        probs = probabilities(logits)
        losses.append(losses_of_images(loss, logits, targets, vectorized=logits.is_cuda))
        for metric in of_lengths:
            metric.pixel_size = batch.pixel_size
        metrics.update(probs, targets)
        indices += batch.indices.tolist()
        if targets.ndim == 1:
            kept.append(probs.cpu())
    if ranks.size > 1:
        parts = ranks.gather(([of_batch.cpu() for of_batch in losses], indices, kept))
        losses, indices, kept = ([each for part in column for each in part] for column in zip(*parts, strict=True))
    of_images = {"loss"} | {name for name, metric in columns(metrics).items() if getattr(metric, "per_image", False)}
    computed = {"loss": torch.cat(losses)} | _computed(metrics, of_images)
    per_image = {name: computed[name].float().cpu().reshape(-1) for name in computed if name in of_images}
    values = {name: value.float().mean().item() for name, value in computed.items()}
    return Evaluation(values, per_image, indices, torch.cat(kept) if kept else None)


def _computed(metrics: MetricCollection, of_images: Collection[str]) -> dict[str, Tensor]:
    """Compute the metrics. Raises UserError for other columns than they announce, or more than one value in one."""
    computed: dict[str, Tensor] = metrics.compute()
    announced = columns(metrics)
    if unknown := computed.keys() - announced.keys():
        raise UserError(
            f"metric.scores: a metric computes {', '.join(sorted(unknown))}, which it does not announce. Its attribute "
            "columns must list their names: docs/how-to/own-metric.md."
        )
    for name, value in computed.items():
        if name not in of_images and value.numel() != 1:
            raise UserError(
                f"metric.scores: {name}: {type(announced[name]).__name__} computes {value.numel()} values, a column "
                "holds one. Let it average them, or give each a column of its own: docs/how-to/own-metric.md."
            )
    return computed


def losses_of_images(loss: Loss, logits: Tensor, targets: Tensor, vectorized: bool) -> Tensor:
    """Compute the loss (N,) of each image of a batch; vectorized: in one call, where torch.func.vmap can.

    It cannot where the loss looks at values (if targets.any()) or draws random numbers. On a GPU one call saves the
    launches of N; on a CPU it is no faster, and of large images slower.
    """
    if vectorized and loss not in NOT_VECTORIZED:
        try:
            of_images: Tensor = vmap(lambda *image: loss(*(each.unsqueeze(0) for each in image)))(logits, targets)
            return of_images
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            NOT_VECTORIZED.add(loss)
    return torch.stack([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(targets))])


def rows_per_image(
    split: str,
    checkpoint: str,
    evaluation: Evaluation,
    ids: Sequence[str],
    groups: Sequence[str],
    targets: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Return a row of per_image.csv for each image: what it is, its values; with classes the target and probabilities.

    ids, groups and targets are those of all samples.
    """
    rows = []
    for row, i in enumerate(evaluation.indices):
        values: dict[str, Any] = {"split": split, "checkpoint": checkpoint, "id": ids[i], "group": groups[i]}
        values |= {name: of_images[row].item() for name, of_images in evaluation.per_image.items()}
        if evaluation.probs is not None:
            values["target"] = classes[int(targets[i])]
            values |= {f"{PROBABILITY}{of}": p for of, p in zip(classes, evaluation.probs[row].tolist(), strict=True)}
        rows.append(values)
    return rows


def columns(metrics: MetricCollection) -> dict[str, Metric]:
    """Map each column to its metric: the columns in the metric's attribute columns, or the one of its own name."""
    filled: dict[str, Metric] = {}
    for name, metric in metrics.items():
        for column in getattr(metric, "columns", [name]):
            if column in ("loss", *filled):
                raise UserError(f"metric.scores.{name}: the column {column} is taken. Rename the score or the class.")
            filled[column] = metric
    return filled


def check_units(metrics: MetricCollection, samples: Samples) -> dict[str, str]:
    """Return the unit, mm or px, of each column that holds lengths.

    Raises UserError where a metric is given pixel_mm and the data have a spacing of their own.
    """
    of_lengths = {name: metric for name, metric in columns(metrics).items() if hasattr(metric, "pixel_mm")}
    given = [name for name, metric in of_lengths.items() if metric.pixel_mm is not None]
    if given and samples.pixel_mm is not None:
        keys = " and ".join(f"metric.scores.{name}.pixel_mm" for name in given)
        raise UserError(f"{keys} must be null: the data have a pixel spacing of their own.")
    return {name: "mm" if name in given or samples.pixel_mm is not None else "px" for name in of_lengths}


def leave_out_ignored(loss: nn.Module, metrics: MetricCollection, samples: Samples) -> None:
    """Make loss and metrics leave out the pixels that are IGNORED, where samples have such.

    Those that can, ours and many of other libraries, have an attribute ignore_index: None, which becomes IGNORED here,
    or IGNORED. Raises UserError where one cannot.
    """
    if not samples.has_ignored:
        return
    parts = _parts(loss, "loss") | {f"metric.scores.{name}": metric for name, metric in metrics.items()}
    cannot = []
    for key, part in parts.items():
        if isinstance(part, Ignoring) and part.ignore_index is None:
            part.ignore_index = IGNORED
        if not isinstance(part, Ignoring) or part.ignore_index != IGNORED:
            cannot.append(key)
    if cannot:
        raise UserError(
            f"{', '.join(cannot)}: cannot leave out the pixels that nobody labelled in the masks.\n"
            "Use loss=bce, cross_entropy, dice or bce_dice and the scores of metric=masks, or those of a library that "
            f"have an argument ignore_index: {IGNORED}, as torch.nn.CrossEntropyLoss has."
        )


def _parts(loss: nn.Module, key: str) -> dict[str, nn.Module]:
    """Map the dotted key of a loss to it or, where it has no ignore_index but losses within it, those of these."""
    within = {} if isinstance(loss, Ignoring) else dict(loss.named_children())
    found = {k: part for name, child in within.items() for k, part in _parts(child, f"{key}.{name}").items()}
    return found or {key: loss}


def probabilities(logits: Tensor) -> Tensor:
    """Compute class probabilities (N, K, …) float32, K >= 2, of logits (N, C, …) of any float type.

    One channel gives two classes by sigmoid, [1 − p, p]; K channels give K classes by softmax.
    """
    logits = logits.float()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    return torch.cat([torch.sigmoid(-logits), torch.sigmoid(logits)], dim=1)  # sigmoid(-x), not 1 - p: exact near 0

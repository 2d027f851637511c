"""Whether the parts of a config fit each other: keys, shapes, and what the best epoch and the scheduler go by."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchmetrics import MetricCollection

from runcard.config.schema import TrainConfig
from runcard.data.loaders import Loaders
from runcard.data.splits import Split
from runcard.errors import UserError, check_config_choice, first_line
from runcard.training.evaluation import columns, infer
from runcard.training.memory import is_out_of_memory, limited_layers
from runcard.training.types import Loss, Monitor, Schedule


def check_output(
    network: nn.Module,
    loss: Loss,
    loaders: Loaders,
    has_masks: bool,
    classes: Sequence[str],
    out_channels: int,
    choices: dict[str, str],
) -> None:
    """Run one batch through model and loss, and compare the output's real shape with what dataset and loss need."""
    model, dataset = (f"{group}={choices.get(group)}" for group in ("model", "dataset"))
    batch = next(iter(loaders.val))
    try:
        with limited_layers(network):
            logits: Any = infer(network, batch.images)
    except RuntimeError as error:  # a convolution's own words for a wrong number of channels or a wrong size
        if is_out_of_memory(error):
            raise
        shape = tuple(batch.images.shape[1:])
        raise UserError(f"{model} cannot take images {shape} (C, H, W) of {dataset}: {first_line(error)}.") from error
    if not isinstance(logits, torch.Tensor):
        keys = list(logits) if isinstance(logits, Mapping) else []
        kind = f"a dict with the keys {', '.join(map(str, keys))}" if keys else f"the type {type(logits).__name__}"
        logit = f"return model(images)[{keys[0]!r}]" if keys else "return the logits"
        raise UserError(
            f"{model} gives {kind}, not a tensor of logits (N, C, …). Wrap it in a module of your own whose forward "
            f"says: {logit}. docs/how-to/pretrained.md shows one."
        )
    targets = batch.targets.to(logits.device)
    expected = (len(targets), out_channels, *targets.shape[1:])
    if tuple(logits.shape) == expected:
        try:
            loss(logits, targets)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(_loss_refuses(error, logits, classes, has_masks, choices)) from error
        return
    if logits.ndim != len(expected):
        has = "masks" if has_masks else "one class per image"
        gives = "one label per image" if logits.ndim == 2 else "a map of labels"
        fitting = "model=unet or dataset=image_folder" if has_masks else "model=vgg16 or dataset=lungs"
        raise UserError(f"{model} gives {gives}; {dataset} has {has}. Try {fitting}.")
    raise UserError(
        f"{model} gives an output of shape {tuple(logits.shape)}, but {dataset} with loss={choices.get('loss')} needs "
        f"{expected}. Does conf/model/{choices.get('model')}.yaml pass ${{derived.out_channels}} on under the name "
        "that the model's own library uses?"
    )


def _loss_refuses(
    error: Exception, logits: torch.Tensor, classes: Sequence[str], has_masks: bool, choices: dict[str, str]
) -> str:
    """Return what to do where a loss cannot take the first batch."""
    loss, said = f"loss={choices.get('loss')}", first_line(error)
    if isinstance(error, ValueError) and " must " in said and not said.startswith("logits"):
        return f"loss.{said}."  # an argument of the loss, by its name
    if len(classes) > 2:
        fitting = "loss=cross_entropy or loss=dice" if has_masks else "loss=cross_entropy"
        return f"{loss} cannot take {len(classes)} classes ({', '.join(classes)}), a logit each: {said}. Try {fitting}."
    return (
        f"{loss} cannot take logits {tuple(logits.shape)} with class indices as targets: {said}.\n"
        "Does its YAML say how many logits it wants for two classes (two_class_logits: 1 or 2)? A loss that wants "
        "float or one-hot targets goes into runcard.losses.library.LibraryLoss."
    )


def check_monitors(schedule: Schedule, monitor: str, metrics: MetricCollection) -> Monitor:
    """Return the Monitor of the best epoch; what it and the scheduler go by must be columns of metrics.csv.

    Which way is better is the metric's own to say: nobody can choose the worst epoch by a forgotten key.
    """
    known = [
        "train/loss",
        *(f"{part}/{name}" for part in ("val", "train_eval") for name in ("loss", *columns(metrics))),
    ]
    check_config_choice("metric.monitor", monitor, known)
    for name in columns(metrics):
        metric_mode(name, metrics)  # raises for one that does not say
    watched, rule = schedule.monitor, type(schedule.rule).__name__
    watches = "metrics" in inspect.signature(schedule.rule.step).parameters
    if watches != (watched is not None):
        must = "name a value of metrics.csv, such as val/loss" if watches else "be null"
        raise UserError(f"scheduler.monitor must {must}, with {rule}, got {watched}.")
    if watched is not None:
        check_config_choice("scheduler.monitor", watched, known)
        mode = getattr(schedule.rule, "mode", None)
        if schedule.every == "step":
            raise UserError(f"scheduler.every must be epoch with {rule}: {watched} appears once an epoch.")
        if mode is not None and mode != (way := metric_mode(watched.partition("/")[2], metrics)):
            raise UserError(f"scheduler.rule.mode={mode}: {watched} gets better the other way. Use mode={way}.")
    return Monitor(monitor, metric_mode(monitor.partition("/")[2], metrics))


def metric_mode(name: str, metrics: MetricCollection) -> str:
    """Return max where larger values of the loss or of a metric's column are better, else min. Raises UserError."""
    if name == "loss":
        return "min"
    metric = columns(metrics)[name]
    if not isinstance(metric.higher_is_better, bool):
        raise UserError(
            f"metric.scores: {name}: {type(metric).__name__} must say which way is better, by its attribute "
            "higher_is_better: True or False."
        )
    return "max" if metric.higher_is_better else "min"


def check_shares(train: TrainConfig, split: Split, size: int) -> None:
    """Check that each of several ranks gets images of a whole batch, and of validation."""
    images = min(len(split["val"]), (train.limit_batches or len(split["val"])) * train.batch_size)
    for what, number in (("train.batch_size", train.batch_size), ("dataset.split: validation", images)):
        if number < size:
            raise UserError(f"{what} has {number} image(s), fewer than train.devices={size}: each device needs one.")

"""The composition root: from a card to finished objects. The only reader of cfg.

Everything that can be wrong with a card or its data is found here, before a run folder is touched.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from runcard.data import Loaders, Samples, make_loaders, normalizer, prepare
from runcard.engine import Loss, Monitor, Schedule, predict
from runcard.errors import UserError, check_choice, check_flag, check_integer, nearest
from runcard.record import flatten
from runcard.seeding import forked
from runcard.settings import TrainSettings
from runcard.splits import Split, make_split

T = TypeVar("T")
OF_EVERY_DATASET = (
    "image_size_px",
    "channels",
    "positive",
    "split",
    "normalization",
)  # keys that no dataset's class is given
TOP_LEVEL = (
    *("dataset", "model", "loss", "augmentation", "optimizer", "scheduler", "metric"),
    *("seed", "name", "run_dir", "overwrite", "train", "derived"),
)
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class Data:
    """A decoded and split data set, and what the card calls its classes."""

    samples: Samples
    split: Split
    groups: list[str]
    classes: list[str]
    positive: int | None


@dataclass(frozen=True)
class Parts:
    """Everything one run needs, built and checked."""

    train: TrainSettings
    seed: int
    overwrite: bool
    fabric: Fabric
    precision: str  # resolved: 32-true | bf16-mixed
    data: Data
    loaders: Loaders
    model: nn.Module  # its parameters are network's
    network: nn.Module  # the model as Fabric runs it, in the chosen precision
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    metrics: MetricCollection
    monitor: Monitor
    config: dict[str, Any]  # resolved
    card: str  # the config as composed, YAML, from which it can be run again
    total_matters: bool  # whether the scheduler depends on the total number of steps

    @property
    def num_parameters(self) -> int:
        """Returns the number of parameters, frozen ones too."""
        return sum(p.numel() for p in self.model.parameters())


def compose(cfg: DictConfig, choices: dict[str, str]) -> Parts:
    """Returns the parts of a card; choices names the file chosen per config group, for messages.

    Raises UserError for a person's mistake. Fills in cfg.derived.
    """
    try:
        return _compose(cfg, choices)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere, say
        raise UserError(f"{getattr(error, 'full_key', None) or 'the card'}: {str(error).splitlines()[0]}") from None


def _compose(cfg: DictConfig, choices: dict[str, str]) -> Parts:
    card = OmegaConf.to_yaml(cfg)
    _check_keys("", cfg, TOP_LEVEL)
    missing = [key for key, value in flatten(_plain(cfg, resolve=False)).items() if value == "???"]
    for key in (key for key in missing if not key.startswith("derived.")):
        raise UserError(f"{key}: this key has no default and must be given: {key}=…")
    _check_keys("train.", cfg.train, [field.name for field in fields(TrainSettings)])
    train = _checked("train.", lambda: TrainSettings(**cfg.train))
    seed = _checked("", lambda: check_integer("seed", cfg.seed, minimum=0))
    overwrite = _checked("", lambda: check_flag("overwrite", cfg.overwrite))
    fabric, precision = _fabric(train)
    loss = _build("loss", cfg.loss).to(fabric.device)
    augment = _build("augmentation", cfg.augmentation)
    data = _data(cfg.dataset)
    normalization = _checked("dataset.", lambda: normalizer(cfg.dataset.normalization, cfg.dataset.channels))
    pin_memory = fabric.device.type == "cuda"
    loaders = make_loaders(data.samples, data.split, normalization, augment, train, seed, pin_memory)
    _derive(cfg, data, loss, len(loaders.train), choices)

    with forked(seed, "weights"):
        model = _build("model", cfg.model)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    network = fabric.setup_module(model)
    _check_output(fabric, network, loaders, data, cfg.derived.out_channels, choices)
    optimizer = _build("optimizer", cfg.optimizer)(model.parameters())
    schedule = Schedule(_build("scheduler", cfg.scheduler.rule)(optimizer), cfg.scheduler.every, cfg.scheduler.monitor)
    metrics = MetricCollection({name: _build("metric", score) for name, score in cfg.metric.scores.items()})
    monitor = Monitor(cfg.metric.monitor, cfg.metric.mode)
    _check_monitors(schedule, monitor, list(cfg.metric.scores))
    return Parts(
        train=train,
        seed=seed,
        overwrite=overwrite,
        fabric=fabric,
        precision=precision,
        data=data,
        loaders=loaders,
        model=model,
        network=network,
        loss=loss,
        optimizer=optimizer,
        schedule=schedule,
        metrics=metrics.to(fabric.device),
        monitor=monitor,
        config=_plain(cfg),
        card=card,
        total_matters="derived.steps" in OmegaConf.to_yaml(cfg.scheduler),
    )


def _check_keys(prefix: str, node: DictConfig, known: Sequence[str]) -> None:
    """Refuses keys, added with +key=value or removed with ~key, that nothing reads or that are needed."""
    found = list(map(str, node)) if isinstance(node, DictConfig) else []
    for key in set(found) ^ set(known):
        rule = "nothing reads this key" if key in found else "this key is needed"
        raise UserError(f"{prefix}{key}: {rule}.{nearest(key, known) if key in found else ''}")


def _fabric(train: TrainSettings) -> tuple[Fabric, str]:
    """Returns Fabric on the chosen device, and the resolved precision."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if train.accelerator == "gpu" and not gpu:
        raise UserError("train.accelerator=gpu: no GPU was found on this machine. Use train.accelerator=auto or cpu.")
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(train.deterministic)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run's first lines name device and precision
    precision = PRECISIONS.get(str(train.precision)) or PRECISIONS["bf16" if _has_bf16(train) else "32"]
    return Fabric(accelerator=train.accelerator, devices=1, precision=precision), precision  # type: ignore[arg-type]


def _has_bf16(train: TrainSettings) -> bool:
    """Whether the device computes in bfloat16 itself; emulation is slower than float32."""
    if train.accelerator != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _data(dataset: DictConfig) -> Data:
    """Returns the data set that the card names: decoded, resized and split."""
    own = {key: value for key, value in _plain(dataset).items() if key not in OF_EVERY_DATASET}
    source = _build("dataset", own)
    samples = _checked("dataset.", lambda: prepare(source, dataset.image_size_px, dataset.channels))
    labels = None if samples.has_masks else samples.targets.tolist()
    split, groups = _checked("dataset.", lambda: make_split(samples.ids, labels, source.given_split, **dataset.split))
    classes, name = list(source.classes), dataset.positive
    if name is not None:
        _checked("dataset.", lambda: check_choice("positive", name, classes))
    return Data(samples, split, groups, classes, None if name is None else classes.index(name))


def _derive(cfg: DictConfig, data: Data, loss: Loss, num_batches: int, choices: dict[str, str]) -> None:
    """Fills cfg.derived: what the model and the scheduler must know of the dataset and the loss."""
    num_classes = len(data.classes)
    if num_classes < 2:
        raise UserError(f"dataset.classes: at least two classes are needed, got {data.classes}.")
    if loss.max_classes is not None and num_classes > loss.max_classes:
        raise UserError(
            f"loss={choices.get('loss')} is for {loss.max_classes} classes; dataset={choices.get('dataset')} has "
            f"{num_classes}: {', '.join(data.classes)}. Try loss=cross_entropy"
            + (" or loss=dice." if data.samples.has_masks else ".")
        )
    cfg.derived.in_channels = cfg.dataset.channels
    cfg.derived.out_channels = loss.logits_for_two_classes if num_classes == 2 else num_classes
    cfg.derived.num_classes = num_classes
    cfg.derived.positive = data.positive
    cfg.derived.image_size_px = cfg.dataset.image_size_px
    cfg.derived.steps = cfg.train.epochs * math.ceil(num_batches / cfg.train.accumulate_steps)


def _check_output(
    fabric: Fabric, network: nn.Module, loaders: Loaders, data: Data, out_channels: int, choices: dict[str, str]
) -> None:
    """Runs one batch and compares the output's real shape with what dataset and loss need."""
    _, logits, targets = next(iter(predict(fabric, network, loaders.val)))
    expected = (len(targets), out_channels, *targets.shape[1:])
    if tuple(logits.shape) == expected:
        return
    model, dataset = (f"{group}={choices.get(group)}" for group in ("model", "dataset"))
    if logits.ndim != len(expected):
        has = "masks" if data.samples.has_masks else "one class per image"
        gives = "one label per image" if logits.ndim == 2 else "a map of labels"
        fitting = "model=unet or dataset=class_folders" if data.samples.has_masks else "model=vgg16 or dataset=lungs"
        raise UserError(f"{model} gives {gives}; {dataset} has {has}. Try {fitting}.")
    raise UserError(
        f"{model} gives an output of shape {tuple(logits.shape)}, but {dataset} with loss={choices.get('loss')} needs "
        f"{expected}. Does conf/model/{choices.get('model')}.yaml pass ${{derived.out_channels}} on under the name "
        "that the model's own library uses?"
    )


def _check_monitors(schedule: Schedule, monitor: Monitor, metrics: Sequence[str]) -> None:
    """Checks that what the scheduler and the best epoch go by are columns of metrics.csv."""
    _checked("metric.", lambda: check_choice("mode", monitor.mode, ("max", "min")))
    _checked("scheduler.", lambda: check_choice("every", schedule.every, ("step", "epoch")))
    columns = ["train/loss", *(f"{part}/{name}" for part in ("val", "train_eval") for name in ("loss", *metrics))]
    for group, name in (("metric.", monitor.name), ("scheduler.", schedule.monitor or "val/loss")):
        _checked(group, lambda name=name: check_choice("monitor", name, columns))  # type: ignore[misc]


def _build(group: str, node: DictConfig | dict[str, Any]) -> Any:
    """Instantiates what a config node names; a ValueError of its constructor becomes a UserError with dotted key."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if isinstance(cause, ValueError):
            raise UserError(f"{group}.{cause}") from None
        if isinstance(cause, TypeError) and "argument" in str(cause):  # unknown or missing in a library's signature
            raise UserError(f"{group}: {cause}. See conf/{group}/.") from None
        raise


def _checked(prefix: str, check: Callable[[], T]) -> T:
    """Returns check(); its ValueError, which names a key, becomes a UserError with the key's full dotted name."""
    try:
        return check()
    except ValueError as error:
        raise UserError(f"{prefix}{error}") from None


def _plain(node: DictConfig, resolve: bool = True) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=resolve)  # type: ignore[return-value]

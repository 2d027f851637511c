"""The composition root: from a card to finished objects. The only reader of cfg.

Everything that can be wrong with a card or its data is found here, before a run folder is touched.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning_fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim import Optimizer
from torchmetrics import MetricCollection

from runcard.build import build, build_with, checked
from runcard.checkpoint import Checkpoint, State
from runcard.checks import check_keys, check_monitors, check_output
from runcard.data import Loaders, Samples, make_loaders, normalizer, prepare
from runcard.engine import Loss, Monitor, Schedule, fit
from runcard.errors import UserError, check_choice, check_flag, check_integer
from runcard.facts import flatten
from runcard.seeding import forked
from runcard.settings import TrainSettings
from runcard.splits import Split, make_split
from runcard.tracking import Tracker

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
SPLIT_KEYS = ("kind", "val_fraction", "test_fraction", "seed", "group_regex", "fold")
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

    def fit(self, state: State, checkpoint: Checkpoint, tracker: Tracker) -> State:
        """Trains these parts from state on; see engine.fit."""
        return fit(
            fabric=self.fabric,
            model=self.network,
            loss=self.loss,
            optimizer=self.optimizer,
            schedule=self.schedule,
            loaders=self.loaders,
            metrics=self.metrics,
            monitor=self.monitor,
            train=self.train,
            seed=self.seed,
            state=state,
            checkpoint=checkpoint,
            tracker=tracker,
        )


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
    check_keys("", cfg, TOP_LEVEL)
    missing = [key for key, value in flatten(_plain(cfg, resolve=False)).items() if value == "???"]
    for key in (key for key in missing if not key.startswith("derived.")):
        raise UserError(f"{key}: this key has no default and must be given: {key}=…")
    check_keys("train.", cfg.train, [field.name for field in fields(TrainSettings)])
    check_keys("dataset.split.", cfg.dataset.split, SPLIT_KEYS)
    check_keys("scheduler.", cfg.scheduler, ("every", "monitor", "rule"))
    check_keys("metric.", cfg.metric, ("monitor", "scores"))
    for key in cfg.derived:
        if not OmegaConf.is_missing(cfg.derived, key):
            raise UserError(f"derived.{key}: filled in from dataset and loss; nobody types it.")
    train = checked("train.", lambda: TrainSettings(**cfg.train))
    seed = checked("", lambda: check_integer("seed", cfg.seed, minimum=0))
    overwrite = checked("", lambda: check_flag("overwrite", cfg.overwrite))
    fabric, precision = _fabric(train)
    loss = build("loss", cfg.loss).to(fabric.device)
    augment = build("augmentation", cfg.augmentation)
    data = _data(cfg.dataset)
    normalization = checked("dataset.", lambda: normalizer(cfg.dataset.normalization, cfg.dataset.channels))
    pin_memory = fabric.device.type == "cuda"
    loaders = make_loaders(data.samples, data.split, normalization, augment, train, seed, pin_memory)
    _derive(cfg, data, loss, len(loaders.train), choices)

    with forked(seed, "weights"):
        model = build("model", cfg.model)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    network = fabric.setup_module(model)
    check_output(fabric, network, loss, loaders, data.samples.has_masks, cfg.derived.out_channels, choices)
    optimizer = build_with("optimizer", cfg.optimizer, model.parameters())
    rule = build_with("scheduler", cfg.scheduler.rule, optimizer)
    schedule = Schedule(rule, cfg.scheduler.every, cfg.scheduler.monitor)
    metrics = MetricCollection({name: build("metric", score) for name, score in cfg.metric.scores.items()})
    monitor = check_monitors(schedule, cfg.metric.monitor, metrics)
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


def _fabric(train: TrainSettings) -> tuple[Fabric, str]:
    """Returns Fabric on the chosen device, and the resolved precision."""
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    if train.accelerator == "gpu" and not gpu:
        raise UserError("train.accelerator=gpu: no GPU was found on this machine. Use train.accelerator=auto or cpu.")
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
    checked("dataset.", lambda: check_integer("image_size_px", dataset.image_size_px, minimum=1))
    own = {key: value for key, value in _plain(dataset).items() if key not in OF_EVERY_DATASET}
    source = build("dataset", own)
    samples = checked("dataset.", lambda: prepare(source, dataset.image_size_px, dataset.channels))
    labels = None if samples.has_masks else samples.targets.tolist()
    split, groups = checked("dataset.", lambda: make_split(samples.ids, labels, source.given_split, **dataset.split))
    classes, name = list(source.classes), dataset.positive
    if name is None:
        return Data(samples, split, groups, classes, None)
    positive = checked("dataset.", lambda: check_choice("positive", str(name), classes))
    return Data(samples, split, groups, classes, classes.index(positive))


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


def _plain(node: DictConfig, resolve: bool = True) -> dict[str, Any]:
    return OmegaConf.to_container(node, resolve=resolve)  # type: ignore[return-value]
